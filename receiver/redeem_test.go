package receiver

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/blessd/blessd/delivery"
)

// kept is an Unverified in memory.
type kept struct {
	mu         sync.Mutex
	deliveries []*delivery.Delivery
	reasons    []string
	held       int
}

func (k *kept) Keep(d *delivery.Delivery, reason string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.deliveries = append(k.deliveries, d)
	k.reasons = append(k.reasons, reason)
}

func (k *kept) Hold(_ context.Context, d *delivery.Delivery, reason string) error {
	k.Keep(d, reason)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held++
	return nil
}

// reencoded is d as it comes back from the disk.
func reencoded(t *testing.T, d *delivery.Delivery) *delivery.Delivery {
	t.Helper()
	d, err := delivery.Decode(delivery.Encode(d))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// What a provider sends before its key is there is redeemed by the key, as if it had
// been there: with the time of receipt, and verified the same way.
func TestRedeemedByALateKey(t *testing.T) {
	eachProvider(t, func(t *testing.T, s sample) {
		if !s.signs {
			return // nothing but its token proves it
		}
		for name, change := range map[string]func(*Endpoint){
			"without a token": func(*Endpoint) {},
			"with a token":    func(e *Endpoint) { e.Tokens, e.Signature = []Key{{Value: testToken}}, SignatureEnforce },
			"with a password": func(e *Endpoint) { e.BasicAuth, e.Signature = []Key{{Value: "user:password"}}, SignatureEnforce },
		} {
			t.Run(name, func(t *testing.T) {
				s := s
				change(&s.endpoint)
				if len(s.endpoint.Tokens) > 0 {
					s.token = testToken
				}
				if s.endpoint.Provider == "mailgun" {
					s.endpoint.Signature = ""
				}
				old := s.endpoint
				old.Keys = []Key{{Value: "the key before this one"}}
				b := newBench(t, Limits{}, old)
				k := &kept{}
				b.KeepUnverified(k)
				q := s.request(t, testKey)
				q.URL.RawQuery = "x=1"
				if len(s.endpoint.BasicAuth) > 0 {
					q.SetBasicAuth("user", "password")
				}
				expect(t, b.do(q), s.endpoint.Provider, badSignature)
				if len(k.deliveries) != 1 || k.reasons[0] != string(badSignature) {
					t.Fatalf("kept %d, for %q", len(k.deliveries), k.reasons)
				}
				d := reencoded(t, k.deliveries[0])

				if why, err := b.Redeem(t.Context(), d); why != string(badSignature) || err != nil {
					t.Errorf("by the old key: got %q, %v", why, err)
				}
				b.now = func() time.Time { return now.Add(1000 * time.Hour) } // the key comes late
				if err := b.SetEndpoints([]Endpoint{s.endpoint}); err != nil {
					t.Fatal(err)
				}
				want := delivery.Verification{Method: delivery.BySignature, Key: Key{Value: testKey}.Fingerprint()}
				if v, why := b.Verify(d); v != want || why != "" {
					t.Errorf("verify: got %+v, %q", v, why)
				}
				if n := len(b.store.deliveries()); n != 0 {
					t.Fatalf("verifying has stored %d", n)
				}
				if why, err := b.Redeem(t.Context(), d); why != "" || err != nil {
					t.Fatalf("by the new key: got %q, %v", why, err)
				}
				got := b.store.deliveries()
				if len(got) != 1 || !got[0].Received.Equal(now) || got[0].Verified != want || got[0].Query != "x=1" || string(got[0].Body) != string(d.Body) {
					t.Errorf("stored %+v", got)
				}
			})
		}
	})
}

// What no key could make genuine is not kept.
func TestWhatIsKept(t *testing.T) {
	guarded := mailgunEndpoint()
	guarded.Name, guarded.Tokens, guarded.BasicAuth = "guarded", []Key{{Value: testToken}}, []Key{{Value: "user:password"}}
	waits := Endpoint{Name: "waits", Provider: "mailgun"}
	b := newBench(t, Limits{}, mailgunEndpoint(), guarded, waits)
	k := &kept{}
	b.KeepUnverified(k)
	good := mailgunBody(at(0), "tok", `{"id":"1"}`)
	for _, c := range []struct {
		path, body string
		want       reason
		kept       bool
	}{
		{"/hooks/eu", strings.Replace(good, "tok", "tik", 1), badSignature, true},
		{"/hooks/eu", `{"event-data":{}}`, missingSignature, true},
		{"/hooks/eu", mailgunBody(at(-13*time.Hour), "old", `{}`), stale, true},
		{"/hooks/waits", good, awaitingKey, true},
		{"/hooks/eu", good, "", false},
		{"/hooks/eu", mailgunBody(at(0), "tok", `{"id":"forged"}`), forgerySuspected, true},
		{"/hooks/guarded", good, badToken, false},
		{"/hooks/guarded/" + testToken, good, badCredentials, false},
		{"/hooks/nobody", good, notFound, false},
	} {
		before := len(k.reasons)
		q := postJSON(c.body)
		q.URL.Path = c.path
		expect(t, b.do(q), "mailgun", c.want)
		if got := len(k.reasons) > before; got != c.kept {
			t.Errorf("%s: kept is %v, want %v", c.want, got, c.kept)
		}
	}
}

// Of two deliveries under one Mailgun signature the second is a forgery, when they
// are redeemed no less than when they come.
func TestRedeemingForgeries(t *testing.T) {
	waits := Endpoint{Name: "eu", Provider: "mailgun"}
	b := newBench(t, Limits{}, waits)
	k := &kept{}
	b.KeepUnverified(k)
	for _, body := range []string{`{"id":"1"}`, `{"id":"forged"}`, `{"id":"1"}`} {
		expect(t, b.do(postJSON(mailgunBody(at(0), "tok", body))), "mailgun", awaitingKey)
	}
	if err := b.SetEndpoints([]Endpoint{mailgunEndpoint()}); err != nil {
		t.Fatal(err)
	}
	if _, why := b.Verify(k.deliveries[1]); why != "" {
		t.Errorf("verifying binds the token: %q", why)
	}
	if _, why := b.Verify(k.deliveries[0]); why != "" {
		t.Errorf("verifying binds the token: %q", why)
	}
	b.store.put = func(context.Context) error { return fmt.Errorf("%w: 1 MB", ErrFull) }
	if why, err := b.Redeem(t.Context(), k.deliveries[1]); why != "" || !errors.Is(err, ErrFull) {
		t.Errorf("with a full store: got %q, %v", why, err)
	}
	b.store.put = nil // what was not stored has bound nobody
	for i, want := range []string{"", ForgerySuspected, ""} {
		if why, err := b.Redeem(t.Context(), k.deliveries[i]); why != want || err != nil {
			t.Errorf("delivery %d: got %q, %v, want %q", i, why, err, want)
		}
	}
	expect(t, b.do(postJSON(mailgunBody(at(0), "tok", `{"id":"forged"}`))), "mailgun", forgerySuspected)
}

// The endpoint of today decides: one that has left, changed its provider or its
// token redeems nothing, and one that no longer enforces signatures does.
func TestRedeemedByTodaysEndpoint(t *testing.T) {
	var s sample
	for _, s = range samples() {
		if s.endpoint.Provider == "sendclean" {
			break
		}
	}
	s.token, s.endpoint.Tokens, s.endpoint.Signature = testToken, []Key{{Value: testToken}}, SignatureEnforce
	b := newBench(t, Limits{}, s.endpoint)
	k := &kept{}
	b.KeepUnverified(k)
	expect(t, b.do(s.request(t, "nobody's key")), "sendclean", badSignature)
	other := s.endpoint
	other.Tokens = []Key{{Value: testToken + "2"}}
	password := s.endpoint
	password.Tokens, password.BasicAuth = nil, []Key{{Value: "user:password"}}
	sarv := s.endpoint
	sarv.Provider = "sarv"
	reported := s.endpoint
	reported.Signature, reported.Tokens = SignatureReport, []Key{other.Tokens[0], s.endpoint.Tokens[0]}
	stale := s.endpoint
	stale.Keys = []Key{{Value: "nobody's key"}}
	for _, c := range []struct {
		name string
		es   []Endpoint
		want reason
	}{
		{"none", nil, notFound},
		{"another provider", []Endpoint{sarv}, notFound},
		{"another token", []Endpoint{other}, badToken},
		{"a password", []Endpoint{password}, badCredentials},
		{"reported", []Endpoint{reported}, ""},
		{"its key", []Endpoint{stale}, ""},
	} {
		if err := b.SetEndpoints(c.es); err != nil {
			t.Fatal(err)
		}
		if why, err := b.Redeem(t.Context(), reencoded(t, k.deliveries[0])); why != string(c.want) || err != nil {
			t.Errorf("%s: got %q, %v, want %q", c.name, why, err, c.want)
		}
	}
	got := b.store.deliveries()
	if len(got) != 2 || got[0].Verified.Method != delivery.ByToken || got[1].Verified.Method != delivery.BySignature {
		t.Fatalf("stored %+v", got)
	}
	if n := b.counted(t, "reports", "sendclean", "acme", reportNone); n != 1 {
		t.Errorf("%v reports, want 1", n)
	}
}
