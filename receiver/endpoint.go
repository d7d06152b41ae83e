package receiver

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
)

// Secret is a key, token or password. However it is printed or marshalled, what
// appears is "[redacted]"; string(s) is the way to the value.
type Secret string

const redacted = "[redacted]"

// String returns "[redacted]".
func (Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (Secret) GoString() string { return redacted }

// Format writes "[redacted]" for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText returns "[redacted]". Loggers and encoders of every kind use it.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalJSON returns "[redacted]" as a JSON string.
func (Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// Key is a secret with what may be said about it.
type Key struct {
	Value Secret
	// Sample marks a key that blessd made up itself: what it verifies is a test.
	Sample bool
	// Source says where the key is from, for messages: a path.
	Source string
}

// Fingerprint returns 8 hex digits of the value's SHA-256.
func (k Key) Fingerprint() string {
	sum := sha256.Sum256([]byte(k.Value))
	return hex.EncodeToString(sum[:4])
}

// SignatureMode says what a signature that does not match means.
type SignatureMode string

// The modes. The zero value is the provider's default: enforce, but report for
// SendClean and Sarv behind a token or password.
const (
	// SignatureEnforce refuses what no key has signed.
	SignatureEnforce SignatureMode = "enforce"
	// SignatureReport accepts it on the strength of the token or password, and
	// counts what the signature was.
	SignatureReport SignatureMode = "report"
)

// Endpoint is one webhook that a provider was given.
type Endpoint struct {
	// Name is the path's and the labels' word for it: ^[a-z0-9_-]{1,32}$, and not
	// "unmatched".
	Name     string
	Provider string
	// Keys are the signature keys; any of them verifies.
	Keys []Key
	// ParentKeys are the keys of a Mailgun primary account, whose sub-accounts'
	// events carry a second signature.
	ParentKeys []Key
	// Tokens are the last segment of the path; with any, one of them is required.
	// Each is ^[A-Za-z0-9_-]{16,128}$.
	Tokens []Key
	// BasicAuth are "user:password"; with any, one of them is required.
	BasicAuth []Key
	// NoAuth takes enKod's and Vision6's events from anybody who finds the URL.
	NoAuth    bool
	Signature SignatureMode
	// Variants are the ways of signing that are accepted from SendClean and Sarv,
	// from Variants(). Empty is the best evidenced one: fields-base64, and for a
	// body that is no form urlbody-base64 and body-base64.
	Variants []string
	// URL is what was registered at the provider, up to and including the name. The
	// token that matched is appended unless URLIsComplete.
	URL string
	// URLIsComplete says that URL is to be taken as it is.
	URLIsComplete bool
	// MaxAge is how old a Mailgun signature may be, 12 h by default: retries run for
	// 8 h and may carry the first signature.
	MaxAge time.Duration
	// MaxAhead is how far in the future it may lie, 10 min by default.
	MaxAhead time.Duration
}

const (
	defaultMaxAge   = 12 * time.Hour
	defaultMaxAhead = 10 * time.Minute
)

// endpoint is an Endpoint ready for use.
type endpoint struct {
	Endpoint
	provider *provider
	// tokenDigests has the digests of Tokens first and random ones behind, as many
	// as every other endpoint.
	tokenDigests [][sha256.Size]byte
	basicDigests [][sha256.Size]byte
	digest       func(string) [sha256.Size]byte
	// report is true when the signature is looked at but not enforced.
	report bool
	// awaiting is true when no key of the provider's own is there yet.
	awaiting bool
	seen     *tokenTable
	metrics  *endpointMetrics
	warnings map[reason]*allowance
	slow     *allowance
	// reports bounds the log lines about each result of a signature that is only
	// reported.
	reports map[string]*allowance
	log     *zap.Logger
}

// compile checks all endpoints and makes their routes and metric series.
func (r *Receiver) compile(es []Endpoint) (*routes, error) {
	var problems []error
	names := map[string]bool{}
	slots := 1
	for i := range es {
		for _, err := range es[i].problems() {
			problems = append(problems, fmt.Errorf("endpoint %q: %w", es[i].Name, err))
		}
		if names[es[i].Name] {
			problems = append(problems, fmt.Errorf("endpoint %q: the name is taken by another endpoint", es[i].Name))
		}
		names[es[i].Name] = true
		slots = max(slots, len(es[i].Tokens))
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	t := &routes{byName: make(map[string]*endpoint, len(es)), digest: r.digest}
	for _, e := range append([]Endpoint{{Name: unmatched, Provider: unmatched}}, es...) {
		c := r.compileOne(e, slots)
		if e.Name == unmatched {
			t.unmatched = c
		} else {
			t.byName[e.Name] = c
		}
	}
	return t, nil
}

// unmatched is the label of requests that belong to no endpoint.
const unmatched = "unmatched"

func (r *Receiver) compileOne(e Endpoint, slots int) *endpoint {
	e.Keys, e.ParentKeys = slices.Clone(e.Keys), slices.Clone(e.ParentKeys)
	e.Tokens, e.BasicAuth, e.Variants = slices.Clone(e.Tokens), slices.Clone(e.BasicAuth), slices.Clone(e.Variants)
	setDefault(&e.MaxAge, defaultMaxAge)
	setDefault(&e.MaxAhead, defaultMaxAhead)
	c := &endpoint{Endpoint: e, provider: findProvider(e.Provider), digest: r.digest, seen: r.seen}
	for _, k := range e.Tokens {
		c.tokenDigests = append(c.tokenDigests, r.digest(string(k.Value)))
	}
	for len(c.tokenDigests) < slots {
		var decoy [sha256.Size]byte
		_, _ = rand.Read(decoy[:]) // never fails
		c.tokenDigests = append(c.tokenDigests, decoy)
	}
	for _, k := range e.BasicAuth {
		c.basicDigests = append(c.basicDigests, r.digest(string(k.Value)))
	}
	if c.provider != nil && c.provider.verify != nil {
		c.report = c.provider.reports && e.Signature != SignatureEnforce && e.guarded()
		c.awaiting = !c.report && !slices.ContainsFunc(slices.Concat(e.Keys, e.ParentKeys), func(k Key) bool { return !k.Sample })
	}
	c.metrics = r.metrics.endpoint(c)
	c.log, c.reports = r.log, make(map[string]*allowance)
	for _, result := range append(Variants(), reportNone, reportMissing, reportAmbiguous) {
		c.reports[result] = newAllowance()
	}
	c.slow = newAllowance()
	c.warnings = make(map[reason]*allowance, len(refusals))
	for i := range refusals {
		c.warnings[refusals[i].reason] = newAllowance()
	}
	return c
}

// guarded says whether a token or password keeps strangers out.
func (e *Endpoint) guarded() bool { return len(e.Tokens) > 0 || len(e.BasicAuth) > 0 }

// problems returns everything that is wrong with e.
func (e *Endpoint) problems() (errs []error) {
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	switch {
	case !isName(e.Name):
		bad("the name must have 1 to %d of a-z, 0-9, _ and -", maxNameLength)
	case e.Name == unmatched:
		bad("the name is reserved for requests that match no endpoint")
	}
	for _, kind := range []struct {
		what string
		keys []Key
	}{{"key", e.Keys}, {"parent key", e.ParentKeys}, {"token", e.Tokens}, {"basic auth", e.BasicAuth}} {
		for _, k := range kind.keys {
			if strings.TrimSpace(string(k.Value)) == "" {
				bad("%s %sis empty: it would let anybody in", kind.what, k.from())
			}
		}
	}
	for _, k := range e.Tokens {
		if k.Value != "" && !isToken(string(k.Value)) {
			bad("token %sis not usable: it must have %d to %d of A-Z, a-z, 0-9, _ and -; make one with: openssl rand -hex 16", k.from(), minTokenLength, maxTokenLength)
		}
	}
	for _, k := range e.BasicAuth {
		if user, password, ok := strings.Cut(string(k.Value), ":"); k.Value != "" && (!ok || user == "" || password == "") {
			bad("basic auth %sis not of the form user:password", k.from())
		}
	}
	if e.MaxAge < 0 || e.MaxAhead < 0 {
		bad("max_age and the time ahead cannot be negative")
	}
	p := findProvider(e.Provider)
	if p == nil {
		bad("provider %q is not one of %s", e.Provider, strings.Join(Providers(), ", "))
		return errs
	}
	return append(errs, e.providerProblems(p)...)
}

// providerProblems returns what does not go with the provider.
func (e *Endpoint) providerProblems(p *provider) (errs []error) {
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf(format, a...)) }
	if p.verify == nil {
		if len(e.Keys) > 0 {
			bad("%s signs nothing, so a key protects nothing: use a token", p.name)
		}
		switch {
		case e.NoAuth && e.guarded():
			bad("auth: none contradicts the token or password that is there")
		case !e.NoAuth && !e.guarded():
			bad("%s signs nothing, so anybody could post events: configure a token (openssl rand -hex 16) or a password, or spell out auth: none", p.name)
		}
	} else if e.NoAuth {
		bad("auth: none is not for %s, which signs its requests", p.name)
	}
	if len(e.ParentKeys) > 0 && !p.parents {
		bad("%s has no parent keys", p.name)
	}
	switch e.Signature {
	case "", SignatureEnforce:
	case SignatureReport:
		if !p.reports {
			bad("signature: report is not for %s", p.name)
		} else if !e.guarded() {
			bad("signature: report needs a token (openssl rand -hex 16) or a password, or anybody could post events")
		}
	default:
		bad("signature: %q is neither %s nor %s", string(e.Signature), SignatureEnforce, SignatureReport)
	}
	if len(e.Variants) > 0 && !p.variants {
		bad("%s has one way of signing, variants are not for it", p.name)
	}
	for _, name := range e.Variants {
		if !slices.Contains(Variants(), name) {
			bad("variant %q is not one of %s", name, strings.Join(Variants(), ", "))
		}
	}
	if p.signsURL && (len(e.Keys) > 0 || e.URL != "") {
		// The URL can hold a token: it is not in the message.
		if u, err := url.Parse(e.URL); err != nil || u.Scheme == "" || u.Host == "" {
			bad("%s signs over the URL that it was given, and url is not a complete one: set public_url or url", p.name)
		}
	}
	return errs
}

// from is the key's source for a message, with a blank behind.
func (k Key) from() string {
	if k.Source == "" {
		return ""
	}
	return "in " + k.Source + " "
}

// keySources names where the endpoint's keys are from.
func (e *endpoint) keySources() []string {
	var names []string
	for _, k := range slices.Concat(e.Keys, e.ParentKeys) {
		if k.Source != "" {
			names = append(names, k.Source)
		}
	}
	return names
}

// registeredURL is the URL as the provider has it.
func (e *endpoint) registeredURL(token *Key) string {
	if e.URLIsComplete || token == nil {
		return e.URL
	}
	return e.URL + "/" + string(token.Value)
}

// isEmpty says whether the post is the provider trying the URL.
func (e *endpoint) isEmpty(p *post) bool {
	if len(p.body) == 0 && len(p.header["Content-Length"]) > 0 {
		return true
	}
	return e.provider.isEmpty != nil && e.provider.isEmpty(p)
}

// prove decides whether the post is from who it says.
func (e *endpoint) prove(p *post) verdict {
	gate, ok := e.gate(p)
	if !ok {
		return verdict{reason: badCredentials}
	}
	v := e.proveBehind(gate, p)
	v.gate = gate
	return v
}

// proveBehind decides about a post that the token and the password let through.
func (e *endpoint) proveBehind(gate delivery.Verification, p *post) verdict {
	switch {
	case e.provider.verify == nil:
		return verdict{verified: gate}
	case e.awaiting && len(e.Keys)+len(e.ParentKeys) == 0:
		return verdict{reason: awaitingKey}
	}
	v := e.provider.verify(e, p, gate)
	if e.awaiting && (v.reason == badSignature || v.reason == missingSignature) {
		// Only keys that blessd made up are there. The provider cannot know them:
		// what it sends now is kept for it to send again.
		return verdict{reason: awaitingKey}
	}
	return v
}

// gate checks the password and says what the token and it prove.
func (e *endpoint) gate(p *post) (delivery.Verification, bool) {
	proof := delivery.Verification{Method: delivery.ByNothing}
	if len(e.BasicAuth) > 0 {
		k := e.basicAuth(p.header["Authorization"])
		if k == nil {
			return proof, false
		}
		proof = delivery.Verification{Method: delivery.ByBasicAuth, Key: k.Fingerprint(), Sample: k.Sample}
	}
	if p.token != nil {
		proof = delivery.Verification{Method: delivery.ByToken, Key: p.token.Fingerprint(), Sample: p.token.Sample}
	}
	return proof, true
}

// basicAuth returns the password that the headers have, or nil.
func (e *endpoint) basicAuth(headers []string) *Key {
	var credentials string
	if len(headers) == 1 {
		if scheme, value, ok := strings.Cut(headers[0], " "); ok && strings.EqualFold(scheme, "Basic") {
			if b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(value)); err == nil {
				credentials = string(b)
			}
		}
	}
	got := e.digest(credentials)
	hit := -1
	for i := range e.basicDigests {
		hit = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(e.basicDigests[i][:], got[:]), i, hit)
	}
	if hit < 0 {
		return nil
	}
	return &e.BasicAuth[hit]
}
