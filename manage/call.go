package manage

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"mime"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/time/rate"
)

const (
	defaultTimeout = 60 * time.Second
	// maxAnswer is more than any account's webhooks take.
	maxAnswer = 4 << 20
	// maxTries bounds a call that may be repeated.
	maxTries = 4
	// firstPause is the pause before the second try. It doubles with each.
	firstPause = time.Second
	// longestPause is how long a provider may ask to be left alone without the call
	// being given up.
	longestPause = 2 * time.Minute
	// maxMessage is how much of a provider's words is kept.
	maxMessage = 200
)

// caller makes the HTTP calls of one provider's client.
type caller struct {
	provider string
	base     *url.URL
	client   *http.Client
	agent    string
	limit    *rate.Limiter
	// secrets never appear in an error.
	secrets []string
}

// newCaller returns the caller for the API at base.
func newCaller(provider, base string, o Options, limit *rate.Limiter, secrets ...Secret) (*caller, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return nil, fmt.Errorf("the address of the API of %s is no http or https URL", provider)
	case u.User != nil || u.Fragment != "":
		return nil, fmt.Errorf("the address of the API of %s has a user, a password or a # part in it", provider)
	case u.Scheme == "http" && !o.PlainHTTP:
		return nil, fmt.Errorf("the API of %s at %s would be called without TLS, and everybody on the way could read the credentials: use https, or allow it with plain_http", provider, u.Host)
	}
	c := &caller{provider: provider, base: u, agent: o.UserAgent, limit: limit}
	for _, s := range secrets {
		if s == "" {
			return nil, fmt.Errorf("the credentials for the API of %s are not complete", provider)
		}
		for _, form := range []string{string(s), url.QueryEscape(string(s)), url.PathEscape(string(s)), base64.StdEncoding.EncodeToString([]byte(s))} {
			if !slices.Contains(c.secrets, form) {
				c.secrets = append(c.secrets, form)
			}
		}
	}
	if c.agent == "" {
		c.agent = "blessd"
	}
	timeout := o.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	transport := o.Transport
	if transport == nil {
		transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout:    15 * time.Second,
			TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2:      true,
			MaxIdleConnsPerHost:    1,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		}
	}
	c.client = &http.Client{
		Transport: transport,
		Timeout:   timeout,
		// A redirect would take the credentials to another place.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

// request is one call.
type request struct {
	call        string // for errors
	method      string
	url         string
	contentType string
	body        []byte
	header      http.Header
	// changes is true when the call is to change something at the provider.
	changes bool
	// repeatable is true when calling twice does the same as calling once.
	repeatable bool
	// secrets never appear in an error, beside those of the client.
	secrets []string
}

// reply is an answer that arrived whole. Its status may be anything but 429.
type reply struct {
	status    int
	mediaType string
	body      []byte
}

// do sends the request until an answer arrives that settles it. After 429 any call
// is tried again, since it was not executed; after faults of the provider or the
// way to it only one that is repeatable.
func (c *caller) do(ctx context.Context, q request) (*reply, error) {
	for try := 1; ; try++ {
		if err := c.limit.Wait(ctx); err != nil {
			return nil, c.fail(q, &Error{Kind: ErrUnavailable, Message: "no time is left to wait for the next call"})
		}
		r, err := c.attempt(ctx, q)
		if err == nil {
			return r, nil
		}
		failure, _ := errors.AsType[*Error](err)
		again := errors.Is(err, ErrRateLimited) || q.repeatable && errors.Is(err, ErrUnavailable)
		if !again || try == maxTries || failure.RetryAfter > longestPause || ctx.Err() != nil {
			return nil, err
		}
		pause := firstPause << (try - 1)
		pause += rand.N(pause / 2)
		if failure.RetryAfter > 0 {
			pause = failure.RetryAfter
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < pause {
			return nil, err
		}
		wait := time.NewTimer(pause)
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return nil, err
		}
	}
}

// attempt sends the request once.
func (c *caller) attempt(ctx context.Context, q request) (*reply, error) {
	h, err := http.NewRequestWithContext(ctx, q.method, q.url, bytes.NewReader(q.body))
	if err != nil {
		return nil, c.fail(q, &Error{Kind: ErrRefused, Message: "the request cannot be made"})
	}
	maps.Copy(h.Header, q.header)
	if q.contentType != "" {
		h.Header.Set("Content-Type", q.contentType)
	}
	h.Header.Set("Accept", "application/json")
	h.Header.Set("User-Agent", c.agent)
	answer, err := c.client.Do(h)
	if err != nil {
		return nil, c.unreachable(ctx, q, 0, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	// A status that settles the matter does so however its body breaks off.
	switch {
	case answer.StatusCode == http.StatusTooManyRequests:
		pause := retryAfter(answer.Header, time.Now())
		if pause == 0 {
			pause = retrySeconds(body)
		}
		return nil, c.fail(q, &Error{Kind: ErrRateLimited, Status: answer.StatusCode, RetryAfter: pause, Message: ErrRateLimited.Error()})
	case answer.StatusCode >= 500:
		return nil, c.fail(q, &Error{
			Kind: ErrUnavailable, Status: answer.StatusCode, RetryAfter: retryAfter(answer.Header, time.Now()),
			Message: "the provider has a fault of its own", Uncertain: q.changes,
		})
	case answer.StatusCode >= 300 && answer.StatusCode < 400:
		where := "another place"
		if u, err := answer.Location(); err == nil && !c.holdsSecret(answer.Header.Get("Location"), q.secrets) {
			where = u.Scheme + "://" + u.Host
		}
		return nil, c.fail(q, &Error{
			Kind: ErrOdd, Status: answer.StatusCode, Uncertain: q.changes,
			Message: "a redirect to " + c.clean(where, q.secrets) + ", which is not followed, since the credentials would go there too",
		})
	case err != nil:
		return nil, c.unreachable(ctx, q, answer.StatusCode, err)
	case len(body) > maxAnswer:
		return nil, c.odd(q, answer.StatusCode, fmt.Sprintf("an answer of more than %d bytes", maxAnswer))
	}
	mediaType, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	return &reply{status: answer.StatusCode, mediaType: mediaType, body: body}, nil
}

// unreachable is for a call without a whole answer.
func (c *caller) unreachable(ctx context.Context, q request, status int, err error) error {
	e := &Error{Kind: ErrUnavailable, Status: status, Uncertain: q.changes}
	// Nothing was sent when there was nobody to send it to.
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		e.Uncertain = false
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	var certificate *tls.CertificateVerificationError
	timeout, isTimeout := errors.AsType[net.Error](err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		e.Message = "interrupted"
	case isTimeout && timeout.Timeout() || ctx.Err() != nil:
		e.Message = fmt.Sprintf("no answer from %s in time", c.base.Host)
	case errors.As(err, &certificate):
		e.Message, e.Uncertain = fmt.Sprintf("the certificate of %s cannot be trusted: %v", c.base.Host, certificate.Err), false
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		e.Message = c.base.Host + " broke off"
	default:
		e.Message = fmt.Sprintf("%s cannot be reached: %v", c.base.Host, err)
	}
	e.Message = c.clean(e.Message, q.secrets)
	return c.fail(q, e)
}

// fail completes an error.
func (c *caller) fail(q request, e *Error) error {
	e.Provider, e.Call = c.provider, q.call
	return e
}

// odd is for an answer that says nothing that could be relied on.
func (c *caller) odd(q request, status int, what string) error {
	return c.fail(q, &Error{Kind: ErrOdd, Status: status, Message: what, Uncertain: q.changes})
}

// notJSON describes a body that is none. What may hold a key is not shown.
func (c *caller) notJSON(q request, r *reply) error {
	text := strings.TrimSpace(string(r.body))
	switch {
	case text == "":
		return c.odd(q, r.status, "an empty answer")
	case text[0] == '{' || text[0] == '[':
		return c.odd(q, r.status, fmt.Sprintf("%d bytes that begin like JSON and are none: broken off, or not as documented", len(r.body)))
	case text[0] == '<':
		return c.odd(q, r.status, fmt.Sprintf("a page (%s) instead of JSON: is the address of the API right?", shown(r.mediaType)))
	}
	return c.odd(q, r.status, "not JSON: "+strconv.Quote(c.clean(text, q.secrets)))
}

func shown(mediaType string) string {
	if mediaType == "" || len(mediaType) > 40 {
		return "of no known type"
	}
	return mediaType
}

// token is what may be a key, a token or an id: long, and with a digit in it.
var token = regexp.MustCompile(`[A-Za-z0-9_+-]*[0-9][A-Za-z0-9_+-]*`)

// clean makes a provider's words fit to be shown: one line, not too long, without
// secrets and without what looks like one.
func (c *caller) clean(s string, secrets []string) string {
	for _, secret := range slices.Concat(c.secrets, secrets) {
		if secret != "" {
			s = strings.ReplaceAll(s, secret, "...")
		}
	}
	s = token.ReplaceAllStringFunc(s, func(word string) string {
		if len(word) >= 16 {
			return "..."
		}
		return word
	})
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool { return r == ' ' || !unicode.IsPrint(r) }), " ")
	if len(s) > maxMessage {
		s = strings.ToValidUTF8(s[:maxMessage], "") + "..."
	}
	return s
}

// holdsSecret tells whether s has a secret in it, of which a part could show.
func (c *caller) holdsSecret(s string, secrets []string) bool {
	return slices.ContainsFunc(slices.Concat(c.secrets, secrets), func(secret string) bool { return secret != "" && strings.Contains(s, secret) })
}

// secretParts are the parts of a webhook's URL that may be its secret.
func secretParts(webhook string) []string {
	u, err := url.Parse(webhook)
	if err != nil {
		return []string{webhook}
	}
	var parts []string
	if password, ok := u.User.Password(); ok && password != "" {
		parts = append(parts, password)
	}
	if u.RawQuery != "" {
		parts = append(parts, u.RawQuery)
	}
	// A token stands behind /hooks/<endpoint>/.
	if segments := strings.Split(u.EscapedPath(), "/"); len(segments) > 3 {
		for _, s := range segments[3:] {
			if len(s) >= 8 {
				parts = append(parts, s)
			}
		}
	}
	return parts
}

// retryAfter reads the header Retry-After: seconds or a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(h.Get("Retry-After"))
	if n, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(value); err == nil && t.After(now) {
		return t.Sub(now).Round(time.Second)
	}
	return 0
}

// retrySeconds reads what Mailgun answers to too many calls.
func retrySeconds(body []byte) time.Duration {
	var v struct {
		Seconds number `json:"retry-seconds"`
	}
	if decode(body, &v) != nil || !v.Seconds.given || v.Seconds.value < 0 || v.Seconds.value > int64(24*time.Hour/time.Second) {
		return 0
	}
	return time.Duration(v.Seconds.value) * time.Second
}
