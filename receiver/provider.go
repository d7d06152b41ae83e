package receiver

import (
	"net/http"
	"slices"
	"time"

	"github.com/blessd/blessd/delivery"
)

// provider is how one provider proves itself and what it wants to hear.
type provider struct {
	name            string
	acknowledgement string
	// headers are the request headers that its signature travels in. They are kept
	// with the delivery.
	headers []string
	// reports is true when the signature may be looked at without being enforced,
	// because a token or password keeps strangers out.
	reports bool
	// parents is true when a second kind of key exists.
	parents bool
	// variants is true when the way of signing can be chosen from Variants.
	variants bool
	// signsURL is true when the signature covers the URL that was registered.
	signsURL bool
	// isEmpty recognises a body that has no events in it by design: the provider is
	// trying the URL. Nil where only an empty body is one.
	isEmpty func(*post) bool
	// verify looks at the signature of a post that has passed the endpoint's token
	// and password, of which gate is the proof. Nil for a provider that signs
	// nothing.
	verify func(e *endpoint, p *post, gate delivery.Verification) verdict
	// sign makes the request that the provider would send.
	sign func(Plain) (Signed, error)
}

// providers is all of them, sorted by name.
var providers = []provider{
	enkod,
	mailgun,
	sarv,
	sendclean,
	vision6,
}

// Providers returns the names of all providers, sorted.
func Providers() []string {
	names := make([]string, len(providers))
	for i := range providers {
		names[i] = providers[i].name
	}
	return names
}

// Acknowledgement returns what provider hears with a 200, or "" for a provider that
// is not known.
func Acknowledgement(provider string) string {
	if p := findProvider(provider); p != nil {
		return p.acknowledgement
	}
	return ""
}

func findProvider(name string) *provider {
	i := slices.IndexFunc(providers, func(p provider) bool { return p.name == name })
	if i < 0 {
		return nil
	}
	return &providers[i]
}

// post is a request whose body has arrived whole.
type post struct {
	header http.Header
	body   []byte
	token  *Key
	now    time.Time
	// parsed is the body as a form, once somebody has asked.
	parsed *form
}

// form returns the body as a form. It is taken apart once.
func (p *post) form() *form {
	if p.parsed == nil {
		p.parsed = parseForm(p.header.Get("Content-Type"), p.body)
	}
	return p.parsed
}

// verdict is what became of a proof: verified, or the reason why not.
type verdict struct {
	verified delivery.Verification
	reason   reason
	hint     string
	// gate is what the token and the password proved, also when the rest failed.
	gate delivery.Verification
	// report is what a signature that is not enforced was, for the metric.
	report string
	// settle is called with whether the delivery was stored, if not nil.
	settle func(stored bool)
}
