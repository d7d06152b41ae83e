package receiver

import (
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Plain is what a provider wants to say.
type Plain struct {
	Provider string
	// URL is the webhook's whole URL as it was registered, token included.
	URL string
	Key Secret
	Now time.Time
	// Body is, for SendClean and Sarv, the form; for Mailgun the event-data, or with
	// a form's content type the legacy form without timestamp, token and signature;
	// for the others the body.
	Body        []byte
	ContentType string
	// Token is Mailgun's; empty is a random one.
	Token string
}

// Signed is what it sends.
type Signed struct {
	ContentType string
	// Header has the signature where it travels in a header.
	Header http.Header
	Body   []byte
}

// Sign plays the provider, for samples and tests: it returns the request that the
// provider would send.
func Sign(p Plain) (Signed, error) {
	of := findProvider(p.Provider)
	if of == nil {
		return Signed{}, fmt.Errorf("provider %q is not known", p.Provider)
	}
	if of.verify != nil && p.Key == "" {
		return Signed{}, errors.New("the key is empty")
	}
	s, err := of.sign(p)
	if err != nil {
		return Signed{}, fmt.Errorf("request of %s: %w", p.Provider, err)
	}
	return s, nil
}

// signNothing is for providers that sign nothing.
func signNothing(p Plain) (Signed, error) {
	if p.ContentType == "" {
		p.ContentType = "application/json"
	}
	return Signed{ContentType: p.ContentType, Header: http.Header{}, Body: p.Body}, nil
}
