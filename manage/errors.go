package manage

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// What a caller distinguishes, with errors.Is.
var (
	// ErrCredentials: the provider does not know the credentials, or they are not
	// allowed to do that.
	ErrCredentials = errors.New("the provider refuses the credentials")
	// ErrRefused: the provider understood the call and said no. Nothing was changed.
	ErrRefused = errors.New("the provider refuses")
	// ErrNotFound: there is no such webhook, domain or call.
	ErrNotFound = errors.New("the provider does not find it")
	// ErrExists: the webhook is registered already.
	ErrExists = errors.New("it is there already")
	// ErrFull: all places for URLs are taken by others.
	ErrFull = errors.New("there is no place left")
	// ErrRateLimited: too many calls. Nothing was changed.
	ErrRateLimited = errors.New("too many calls")
	// ErrUnavailable: the provider cannot be reached, takes too long, or has a fault
	// of its own.
	ErrUnavailable = errors.New("the provider does not answer")
	// ErrOdd: the answer is not as the provider documents it, so that nothing can be
	// concluded from it.
	ErrOdd = errors.New("the answer is not as documented")
)

// Error is a call to a provider that failed. It holds no secret: what the provider
// wrote is shortened and cleared of credentials, keys and tokens.
type Error struct {
	Provider string
	// Call is what was called, like settings/listWebhook.
	Call string
	// Kind is one of the Err values of this package.
	Kind error
	// Status is the HTTP status, 0 when there was no answer.
	Status int
	// Name is the provider's own name for the error, like AuthenticationError or 351.
	Name string
	// Message is what went wrong: in the provider's words, where it said.
	Message string
	// Uncertain is true when the call was to change something and it is not known
	// whether it did.
	Uncertain bool
	// RetryAfter is how long the provider asks to be left alone, 0 when it does not.
	RetryAfter time.Duration
}

func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s: ", e.Provider, e.Call)
	if e.Name != "" {
		b.WriteString(e.Name + ": ")
	}
	if e.Message != "" {
		b.WriteString(e.Message)
	} else {
		b.WriteString(e.Kind.Error())
	}
	if e.Status != 0 && e.Status != 200 {
		fmt.Fprintf(&b, " (HTTP status %d)", e.Status)
	}
	if e.RetryAfter > 0 {
		fmt.Fprintf(&b, "; it asks for a pause of %s", e.RetryAfter)
	}
	if e.Uncertain {
		b.WriteString("; whether it was done all the same is not known")
	}
	return b.String()
}

// Unwrap makes errors.Is find the Kind.
func (e *Error) Unwrap() error { return e.Kind }

// Uncertain tells whether err is a change of which it is not known whether it was
// made.
func Uncertain(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Uncertain
}

// Advice says what a person can do about err, or "".
func Advice(err error) string {
	switch {
	case errors.Is(err, ErrCredentials):
		return "check the files with the credentials, and that they belong to this account and region"
	case errors.Is(err, ErrRateLimited):
		return "wait, and try again"
	case errors.Is(err, ErrFull):
		return "remove one of the others at the provider, and try again"
	case Uncertain(err):
		return "see with `blessd webhooks list` what is there before you try again"
	case errors.Is(err, ErrUnavailable):
		return "try again later; if it stays, check the address of the API in manage"
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrOdd):
		return "check the address of the API in manage; nothing was changed"
	}
	return ""
}
