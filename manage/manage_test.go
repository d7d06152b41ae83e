package manage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/blessd/blessd/manage"
	"github.com/blessd/blessd/manage/manageapi"
)

// The canaries: secrets that occur nowhere else. None may show.
const (
	owner   = "CANARY0owner0id"
	token   = "CANARY/token+with=signs"
	apiKey  = "CANARYapikey0123456789"
	hookURL = "https://hooks.example.com/hooks/acme/CANARYurltoken"
)

// within carries requests to a handler without a network, so that time can be
// synctest's.
type within struct{ http.Handler }

func (h within) RoundTrip(q *http.Request) (*http.Response, error) {
	rec := httptest.NewRecorder()
	done := make(chan error, 1)
	go func() {
		defer func() {
			if recover() != nil {
				done <- io.EOF // the connection was closed
			}
		}()
		if q.Body == nil {
			q.Body = http.NoBody
		}
		h.ServeHTTP(rec, q)
		done <- nil
	}()
	select {
	case err := <-done:
		if err != nil || q.Context().Err() != nil {
			return nil, errors.Join(err, q.Context().Err())
		}
		answer := rec.Result()
		answer.Request = q
		return answer, nil
	case <-q.Context().Done():
		return nil, q.Context().Err()
	}
}

// blesses is a blessd that blesses everything.
func blesses(brand string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "God bless you, "+brand) })
}

// noCanary fails if any secret shows in the text.
func noCanary(t *testing.T, text string) {
	t.Helper()
	if strings.Contains(text, "CANARY") {
		t.Errorf("a secret shows: %s", text)
	}
}

// wantKind fails unless err is of that kind, and checks that it is fit to be shown.
func wantKind(t *testing.T, err, kind error) *manage.Error {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("got error %v, want one of kind %q", err, kind)
	}
	noCanary(t, err.Error())
	noCanary(t, fmt.Sprintf("%+v", err))
	if strings.ContainsAny(err.Error(), "\r\n") || len(err.Error()) > 600 {
		t.Errorf("not fit for one line: %q", err)
	}
	e, ok := errors.AsType[*manage.Error](err)
	if !ok {
		t.Fatalf("got error %T, want *manage.Error", err)
	}
	return e
}

// client is the part of every client that these tests share: a call that only
// reads, and one that changes something and must not be made twice.
type client struct {
	name         string
	server       http.Handler
	misbehave    func(...manageapi.Fault)
	calls        func() []manageapi.Call
	wrong        func() []string
	read, change func(context.Context) error
	// changes is the call that changes something. It may be made again when
	// repeatable.
	changes    string
	repeatable bool
}

// changed counts the calls that were to change something.
func (c *client) changed() (n int) {
	for _, call := range c.calls() {
		if strings.HasPrefix(call.Name, c.changes) {
			n++
		}
	}
	return n
}

// clients returns each client with its server, fresh.
func clients(t *testing.T) []client {
	t.Helper()
	var all []client
	for provider, brand := range map[string]string{"sendclean": "SendClean", "sarv": "Sarv"} {
		s := manageapi.NewSendClean(provider, owner, token, &http.Client{Transport: within{blesses(brand)}})
		c := newSendClean(t, provider, s)
		all = append(all, client{
			name: provider, server: s, misbehave: s.Misbehave, calls: s.Calls, wrong: s.Wrong,
			read: func(ctx context.Context) error { _, err := c.List(ctx); return err },
			change: func(ctx context.Context) error {
				return c.Add(ctx, manage.Webhook{URL: hookURL, Events: []string{"open"}})
			},
			changes: "settings/addWebhook",
		})
	}
	m := manageapi.NewMailgun("mg.example.com", apiKey)
	mc := newMailgun(t, m)
	all = append(all, client{
		name: "mailgun", server: m, misbehave: m.Misbehave, calls: m.Calls, wrong: m.Wrong,
		read:    func(ctx context.Context) error { _, err := mc.List(ctx); return err },
		change:  func(ctx context.Context) error { _, err := mc.AddURL(ctx, "clicked", hookURL); return err },
		changes: "POST",
	})
	v := manageapi.NewVision6(apiKey)
	vc := newVision6(t, v)
	add := func(ctx context.Context) error {
		_, err := vc.Add(ctx, manage.Subscription{Pair: manage.Pair{Object: "contact", Event: "created"}, URL: hookURL})
		if errors.Is(err, manage.ErrExists) {
			err = nil
		}
		return err
	}
	return append(all, client{
		name: "vision6", server: v, misbehave: v.Misbehave, calls: v.Calls, wrong: v.Wrong,
		read: add, change: add, changes: "addWebhook", repeatable: true,
	})
}

// Faults of the provider and the way to it, for every client.
func TestFaults(t *testing.T) {
	for _, tc := range []struct {
		name      string
		fault     manageapi.Fault
		kind      error
		uncertain bool // of a change
		again     bool // a call that reads is made again
	}{
		{"500", manageapi.Fault{Status: 500, Body: "oops"}, manage.ErrUnavailable, true, true},
		{"503 with Retry-After", manageapi.Fault{Status: 503, Header: http.Header{"Retry-After": {"7"}}}, manage.ErrUnavailable, true, true},
		{"hangs", manageapi.Fault{Hang: true}, manage.ErrUnavailable, true, true},
		{"drops", manageapi.Fault{Drop: true}, manage.ErrUnavailable, true, true},
		{"executed, then 502", manageapi.Fault{Executed: true, Status: 502}, manage.ErrUnavailable, true, true},
		{"HTML", manageapi.Fault{Header: http.Header{"Content-Type": {"text/html"}}, Body: "<!doctype html><title>Welcome</title>"}, manage.ErrOdd, true, false},
		{"empty", manageapi.Fault{}, manage.ErrOdd, true, false},
		{"cut", manageapi.Fault{Cut: 9}, manage.ErrOdd, true, false},
		{"single quotes", manageapi.Fault{Body: `{'status': 'success', 'key': 'CANARY'}`}, manage.ErrOdd, true, false},
		{"an array", manageapi.Fault{Body: `["CANARY"]`}, manage.ErrOdd, true, false},
		{"a number", manageapi.Fault{Body: `42`}, manage.ErrOdd, true, false},
		{"null", manageapi.Fault{Body: `null`}, manage.ErrOdd, true, false},
		{"redirect", manageapi.Fault{Status: 302, Header: http.Header{"Location": {"https://evil.example.com/?" + token}}}, manage.ErrOdd, true, false},
		{"redirect that keeps the method", manageapi.Fault{Status: 308, Header: http.Header{"Location": {"/elsewhere"}}}, manage.ErrOdd, true, false},
		{"too large", manageapi.Fault{Body: `{"status":"success","message":"` + strings.Repeat("x", 5<<20) + `"}`}, manage.ErrOdd, true, false},
		{"echo", manageapi.Fault{Body: "you said: ", Echo: true}, manage.ErrOdd, true, false},
		{"404 with an echo", manageapi.Fault{Status: 404, Echo: true}, nil, false, false},
		{"401 with an echo", manageapi.Fault{Status: 401, Body: "no: ", Echo: true}, nil, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for i := range clients(t) {
				synctest.Test(t, func(t *testing.T) {
					c := clients(t)[i]
					c.misbehave(tc.fault)
					err := c.read(t.Context())
					switch {
					case tc.again && err != nil:
						t.Errorf("%s: a call that reads is not made again: %v", c.name, err)
					case tc.again && len(c.calls()) != 2:
						t.Errorf("%s: %d calls, want 2", c.name, len(c.calls()))
					case !tc.again && err == nil:
						t.Errorf("%s: no error", c.name)
					case !tc.again && tc.kind != nil:
						if e := wantKind(t, err, tc.kind); e.Uncertain && !c.repeatable {
							t.Errorf("%s: a call that reads is uncertain: %v", c.name, err)
						}
					case !tc.again:
						noCanary(t, err.Error())
					}
				})
				synctest.Test(t, func(t *testing.T) {
					c := clients(t)[i]
					if c.repeatable {
						return
					}
					fault := tc.fault
					fault.Call = c.changes
					c.misbehave(fault)
					err := c.change(t.Context())
					if err == nil {
						t.Fatalf("%s: no error", c.name)
					}
					noCanary(t, err.Error())
					if tc.kind != nil {
						if e := wantKind(t, err, tc.kind); e.Uncertain != tc.uncertain {
							t.Errorf("%s: uncertain is %t: %v", c.name, e.Uncertain, err)
						}
					}
					if n := c.changed(); n != 1 {
						t.Errorf("%s: a change that cannot be repeated was called %d times", c.name, n)
					}
				})
			}
		})
	}
}

// Too many calls: every call waits and is made again, for as long as the provider
// asks.
func TestRateLimit(t *testing.T) {
	for i := range clients(t) {
		synctest.Test(t, func(t *testing.T) {
			c := clients(t)[i]
			c.misbehave(
				manageapi.Fault{Status: 429, Header: http.Header{"Retry-After": {"90"}}},
				manageapi.Fault{Status: 429},
			)
			start := time.Now()
			if err := c.change(t.Context()); err != nil {
				t.Fatalf("%s: %v", c.name, err)
			}
			if wrong := c.wrong(); len(wrong) > 0 {
				t.Errorf("%s: not as documented: %q", c.name, wrong)
			}
			if took := time.Since(start); took < 91*time.Second || took > 2*time.Minute {
				t.Errorf("%s: took %s, want the 90 s that it asked for and a pause", c.name, took)
			}
		})
		synctest.Test(t, func(t *testing.T) {
			c := clients(t)[i]
			c.misbehave(manageapi.Fault{Status: 429, Body: `{"retry-seconds":3600}`})
			e := wantKind(t, c.read(t.Context()), manage.ErrRateLimited)
			if e.RetryAfter != time.Hour {
				t.Errorf("%s: pause of %s, want the hour that it asked for", c.name, e.RetryAfter)
			}
		})
		synctest.Test(t, func(t *testing.T) {
			c := clients(t)[i]
			for range 10 {
				c.misbehave(manageapi.Fault{Status: 429})
			}
			wantKind(t, c.read(t.Context()), manage.ErrRateLimited)
			if n := len(c.calls()); n != 4 {
				t.Errorf("%s: %d tries, want 4", c.name, n)
			}
		})
	}
}

// Whoever gives up is obeyed at once.
func TestInterrupted(t *testing.T) {
	for i := range clients(t) {
		synctest.Test(t, func(t *testing.T) {
			c := clients(t)[i]
			c.misbehave(manageapi.Fault{Hang: true})
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				time.Sleep(time.Second)
				cancel()
			}()
			wantKind(t, c.read(ctx), manage.ErrUnavailable)
			if n := len(c.calls()); n != 1 {
				t.Errorf("%s: %d calls after the end", c.name, n)
			}
		})
	}
}

// Over a real network: nobody there, and a certificate that nobody vouches for.
func TestUnreachable(t *testing.T) {
	s := httptest.NewUnstartedServer(manageapi.NewSendClean("sendclean", owner, token, nil))
	s.Config.ErrorLog = quiet()
	s.StartTLS()
	defer s.Close()
	c, err := manage.NewSendClean(manage.SendCleanConfig{Provider: "sendclean", BaseURL: s.URL + "/v1.0", OwnerID: owner, Token: token}, manage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Add(t.Context(), manage.Webhook{URL: hookURL, Events: []string{"open"}})
	if e := wantKind(t, err, manage.ErrUnavailable); e.Uncertain || !strings.Contains(e.Message, "certificate") {
		t.Errorf("got %v, want what is wrong with the certificate and nothing uncertain", err)
	}
	s.Close()
	err = c.Add(t.Context(), manage.Webhook{URL: hookURL, Events: []string{"open"}})
	if e := wantKind(t, err, manage.ErrUnavailable); e.Uncertain {
		t.Errorf("uncertain, with nobody there: %v", err)
	}
}

func TestSecretNeverShows(t *testing.T) {
	const s = manage.Secret("CANARY")
	for _, format := range []string{"%s", "%v", "%+v", "%#v", "%q", "%x", "%d"} {
		noCanary(t, fmt.Sprintf(format, s))
		noCanary(t, fmt.Sprintf(format, struct{ Key manage.Secret }{s}))
	}
	noCanary(t, fmt.Sprint(manage.Webhook{Key: s}))
	text, err := s.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	noCanary(t, string(text))
}
