// Package manage speaks the providers' own APIs for managing webhooks: which are
// registered, registering, changing and removing them, and new keys. Plan and
// apply stand on top: the configuration says which webhooks should exist, a Plan
// says what differs, and applying it makes it so.
//
// Each provider has a file. What its documents do not say is not guessed: a call
// that is not documented does not exist here, and an answer that is not as
// documented is an error and changes nothing.
//
// The package knows nothing of receiving: no endpoint, no journal, no NATS. It
// reads no file and no environment but the proxy settings that every HTTP client
// follows, and it starts nothing that outlives a call.
package manage

import (
	"fmt"
	"net/http"
	"time"
)

// Secret is an API token, an owner's id or a webhook's key. However it is printed
// or marshalled, what appears is a placeholder; string(s) is the secret itself.
type Secret string

const redacted = "<secret>"

// String implements fmt.Stringer.
func (Secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return redacted }

// Format implements fmt.Formatter, so that no verb shows the secret.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON implements json.Marshaler.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// Webhook is one registration, as SendClean and Sarv have it.
type Webhook struct {
	// ID is the provider's, 21 decimal digits in its examples: more than any
	// integer of Go holds.
	ID string
	// URL is where it delivers to. Its token is a secret.
	URL string
	// Events are what it delivers, in the provider's words and order.
	Events []string
	// Description is what a person wrote about it.
	Description string
	// StoreLog is true when the provider keeps a log of its calls.
	StoreLog bool
	// Key is what the provider signs with. Empty when the provider did not show it.
	Key Secret
	// Created is when it was registered, to the second; zero when it is not said.
	Created time.Time
	// LastSuccess is when a delivery last succeeded, to the second; zero when none
	// has. Info alone knows it.
	LastSuccess time.Time
	// TotalEvents is how many events the provider says it has sent. Nil when it does
	// not say; Info alone knows it.
	TotalEvents *int64
}

// Options are what all clients share. The zero value is right for production.
type Options struct {
	// Transport carries the requests; nil is one with the system's certificates.
	Transport http.RoundTripper
	// Timeout bounds one attempt, the reading of the answer included. A provider
	// calls the webhook's URL before it answers to its registration, so that a short
	// one does no good. Default 60 s.
	Timeout time.Duration
	// UserAgent is sent with every request. Default blessd.
	UserAgent string
	// PlainHTTP allows a base URL without TLS, over which the credentials travel
	// readable to everybody on the way.
	PlainHTTP bool
}
