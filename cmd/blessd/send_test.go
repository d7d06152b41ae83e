package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/normalize"
	"github.com/blessd/blessd/receiver"
)

// testHook is an endpoint of a provider with a key and a token, at url.
func testEndpoint(provider, url string) receiver.Endpoint {
	e := receiver.Endpoint{
		Name: "acme", Provider: provider, URL: url + "/hooks/acme",
		Tokens:    []receiver.Key{{Value: "0123456789abcdefghijklmnop"}},
		BasicAuth: []receiver.Key{{Value: "user:pass word"}},
	}
	if signs(provider) {
		e.Keys = []receiver.Key{{Value: "the key"}}
	}
	if provider == "sendclean" || provider == "sarv" {
		e.Signature = receiver.SignatureEnforce
	}
	return e
}

// events normalizes a request that arrived at that time.
func events(t *testing.T, h hook, r receiver.Signed, at time.Time) []*event.Event {
	t.Helper()
	var all []*event.Event
	for result := range normalize.Each(&delivery.Delivery{
		Provider: h.provider, Endpoint: h.endpoint, Received: at, Method: http.MethodPost,
		ContentType: r.ContentType, Body: r.Body,
	}) {
		if result.Event == nil {
			t.Fatalf("%s is rejected: %s", result.Reject.Raw, result.Reject.Reason)
		}
		all = append(all, result.Event)
	}
	return all
}

func everySample(t *testing.T, check func(t *testing.T, h hook, s sample)) {
	for _, provider := range receiver.Providers() {
		all, err := samples(provider)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range all {
			t.Run(provider+"/"+s.event, func(t *testing.T) {
				check(t, hookOf(testEndpoint(provider, "https://hooks.example.com"), "127.0.0.1:1"), s)
			})
		}
	}
}

func TestFreshSamplesAreNewEventsOfNow(t *testing.T) {
	now := time.Date(2026, 11, 21, 17, 22, 17, 123_000_000, time.UTC)
	everySample(t, func(t *testing.T, h hook, s sample) {
		stored, err := h.request(s, now)
		if err != nil {
			t.Fatal(err)
		}
		want := events(t, h, stored, now)
		if len(want) != 1 {
			t.Fatalf("the sample is %d events, want 1", len(want))
		}
		ids := map[string]bool{want[0].ID: true}
		for i := range 3 {
			f, err := newFreshness(now)
			if err != nil {
				t.Fatal(err)
			}
			renewed, err := s.fresh(f)
			if err != nil {
				t.Fatal(err)
			}
			request, err := h.request(renewed, now)
			if err != nil {
				t.Fatal(err)
			}
			// Where nothing identifies an event but its arrival, it is that.
			got := events(t, h, request, now.Add(time.Duration(i+1)*time.Millisecond))
			if len(got) != 1 || got[0].Type != want[0].Type || got[0].TimeSource != want[0].TimeSource {
				t.Fatalf("a fresh sample became %+v, the stored one %+v", got, want[0])
			}
			if ids[got[0].ID] {
				t.Error("a fresh sample has the id of an earlier one")
			}
			ids[got[0].ID] = true
			if ago := now.Sub(got[0].Time.Time); ago > time.Second || ago < -time.Second {
				t.Errorf("it happened at %s, want %s", got[0].Time, now)
			}
		}
	})
}

func TestRewrite(t *testing.T) {
	const text = `{ "ts" : 1, "b":[{"ts":2.5e3},"ts",null,true,{}], "x":{"ts":"\u0441 \"q\""},"ts2":"\/" } `
	var seen []string
	got, err := rewrite([]byte(text), func(pointer, old string) string {
		seen = append(seen, pointer+"="+old)
		if pointer == "/b/0/ts" {
			return "7"
		}
		return old
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Replace(text, "2.5e3", "7", 1); string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	want := []string{"/ts=1", "/b/0/ts=2.5e3", "/b/1=\"ts\"", `/x/ts="\u0441 \"q\""`, `/ts2="\/"`}
	if !slices.Equal(seen, want) {
		t.Errorf("saw  %q\nwant %q", seen, want)
	}
	for _, broken := range []string{`{"a":1`, `{"a" 1}`, `[1,]`, `{"a":01}`} {
		if got, err := rewrite([]byte(broken), func(_, old string) string { return old }); err == nil {
			t.Errorf("%s became %s", broken, got)
		}
	}
}

// storeFunc is a receiver.Store.
type storeFunc func(*delivery.Delivery)

func (f storeFunc) Put(_ context.Context, d *delivery.Delivery) error { f(d); return nil }

// The receiver is the judge of whether a request is the provider's.
func TestRequestsAreTheProviders(t *testing.T) {
	for _, provider := range receiver.Providers() {
		t.Run(provider, func(t *testing.T) {
			stored := 0
			r, err := receiver.New(storeFunc(func(*delivery.Delivery) { stored++ }), receiver.Limits{}, prometheus.NewRegistry(), zap.NewNop())
			if err != nil {
				t.Fatal(err)
			}
			server := httptest.NewServer(r)
			defer server.Close()
			e := testEndpoint(provider, "https://hooks.example.com")
			if err := r.SetEndpoints([]receiver.Endpoint{e}); err != nil {
				t.Fatal(err)
			}
			h := hookOf(e, strings.TrimPrefix(server.URL, "http://"))
			all, err := samples(provider)
			if err != nil {
				t.Fatal(err)
			}
			post := func(h hook, s sample) reply {
				t.Helper()
				request, err := h.prepare(s, true)
				if err != nil {
					t.Fatal(err)
				}
				got, err := h.deliver(t.Context(), client(), request)
				if err != nil {
					t.Fatal(err)
				}
				return got
			}
			for _, s := range all {
				if got := post(h, s); !got.blessed(provider) {
					t.Errorf("%s: answered %d %q", s.event, got.status, got.body)
				}
			}
			spoilt, err := h.spoil()
			if err != nil {
				t.Fatal(err)
			}
			for _, bad := range []hook{spoilt, h.withWrongToken()} {
				got := post(bad, all[0])
				if got.status != http.StatusUnauthorized && got.status != http.StatusNotFound {
					t.Errorf("spoilt: answered %d %q", got.status, got.body)
				}
				if ok, _ := judge(bad, true, got); !ok {
					t.Errorf("spoilt: %d is not what is expected", got.status)
				}
			}
			if stored != len(all) {
				t.Errorf("%d stored, want %d", stored, len(all))
			}
		})
	}
}

func TestNothingToSpoil(t *testing.T) {
	h := hook{provider: "enkod", endpoint: "ru", post: "http://127.0.0.1:1/hooks/ru"}
	if _, err := h.spoil(); err == nil {
		t.Error("an endpoint without any secret was spoilt")
	}
}

// The command is run by a shell in which curl is a function that prints its words.
func TestCurl(t *testing.T) {
	h := hook{post: "http://127.0.0.1:1/hooks/it's/$HOME"}
	body := "{\"a\":\"it's $HOME `id` \\\\ \u0441 !!\"}\n\t'';\n#"
	command := h.curl(receiver.Signed{Header: http.Header{"X-Sign": {"a'b"}, "Content-Type": {"application/json"}}, Body: []byte(body)})
	sh := exec.Command("/bin/sh", "-c", "curl() { printf '%s\\0' \"$@\"; }\n"+command)
	got, err := sh.Output()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"-sS", "-i", h.post, "-H", "Content-Type: application/json", "-H", "X-Sign: a'b", "--data-raw", body, ""}
	if words := strings.Split(string(got), "\x00"); !slices.Equal(words, want) {
		t.Errorf("got  %q\nwant %q", words, want)
	}
}

func TestJudge(t *testing.T) {
	const ack = "God bless you, Sarv"
	for _, c := range []struct {
		name string
		h    hook
		bad  bool
		r    reply
		want bool
	}{
		{"acknowledged", hook{}, false, reply{status: 200, body: ack}, true},
		{"another body", hook{}, false, reply{status: 200, body: ack + "\n"}, false},
		{"another success", hook{}, false, reply{status: 201, body: ack}, false},
		{"refused", hook{}, false, reply{status: 401}, false},
		{"not there", hook{}, false, reply{status: 404}, false},
		{"full", hook{}, false, reply{status: 503}, false},
		{"a forgery is blessed", hook{}, true, reply{status: 200, body: ack}, false},
		{"a forgery is reported", hook{reported: true}, true, reply{status: 200, body: ack}, true},
		{"a forgery is refused", hook{}, true, reply{status: 401}, true},
		{"a wrong token", hook{}, true, reply{status: 404}, true},
		{"a forgery at a full journal", hook{}, true, reply{status: 503}, false},
		{"a forgery before there is a key", hook{awaiting: true}, true, reply{status: 503}, true},
	} {
		c.h.provider = "sarv"
		got, note := judge(c.h, c.bad, c.r)
		if got != c.want {
			t.Errorf("%s: %t (%s), want %t", c.name, got, note, c.want)
		}
		if !c.bad && !got && note == "" {
			t.Errorf("%s: nothing says what is wrong", c.name)
		}
	}
}

func TestUnmarked(t *testing.T) {
	for _, c := range []struct {
		name string
		h    hook
		bad  bool
		want string // a part, or nothing
	}{
		{"sample key", hook{key: "k", sample: true}, false, ""},
		{"real key", hook{key: "k"}, false, "real key"},
		{"real key, forged", hook{key: "k"}, true, ""},
		{"forged and reported", hook{key: "k", token: "t", sample: true, reported: true}, true, "only reported"},
		{"sample token", hook{token: "t", sample: true}, false, ""},
		{"real token", hook{token: "t"}, false, "real token"},
		{"wrong token", hook{token: "t"}, true, ""},
		{"open", hook{}, false, "no sample token"},
	} {
		if got := c.h.unmarked(c.bad); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// Many requests are a line per failure and a summary.
func TestSendMany(t *testing.T) {
	const ack = "God bless you, Sarv"
	server := func(handle func(n int, w http.ResponseWriter)) string {
		n := 0
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { n++; handle(n, w) }))
		t.Cleanup(s.Close)
		return s.URL + "/hooks/acme/0123456789abcdefghijklmnop"
	}
	key := write(t, t.TempDir(), "key", "the key")
	one := func(n int, w http.ResponseWriter) {
		if n%5 == 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = w.Write([]byte(ack))
	}
	var out bytes.Buffer
	status, talk := blessd(t.Context(), &out, "send", "sarv", "open", "--count", "10", "--url", server(one), "--key-file", key)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if status != 1 || len(lines) != 3 || !strings.Contains(talk, "2 of 10 requests") {
		t.Fatalf("status %d, %s:\n%s", status, talk, out.String())
	}
	if !strings.Contains(lines[0], "  503 in ") || !strings.HasPrefix(lines[2], "sent 10, acknowledged 8, refused 2 (503: 2), in ") || !strings.Contains(lines[2], "/s, p50 ") {
		t.Errorf("got %q", lines)
	}

	out.Reset()
	if status, talk = blessd(t.Context(), &out, "send", "sarv", "open", "--count", "10", "-o", "json", "--url", server(one), "--key-file", key); status != 1 {
		t.Errorf("status %d: %s", status, talk)
	}
	lines = strings.Split(strings.TrimSpace(out.String()), "\n")
	var all tally
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &all); err != nil || len(lines) != 3 || all.Sent != 10 || all.Acknowledged != 8 || all.Refused[503] != 2 {
		t.Errorf("%v: %s", err, out.String())
	}

	// A signal ends it with what is known, and with no advice.
	ctx, interrupt := context.WithCancel(t.Context())
	out.Reset()
	status, talk = blessd(ctx, &out, "send", "sarv", "open", "--count", "10", "--key-file", key, "--url", server(func(n int, w http.ResponseWriter) {
		if n == 3 {
			interrupt()
			<-ctx.Done()
		}
		_, _ = w.Write([]byte(ack))
	}))
	if status != 1 || !strings.Contains(talk, "interrupted after ") || strings.Contains(talk, "is blessd running") || !strings.HasPrefix(out.String(), "sent ") {
		t.Errorf("status %d, %s: %s", status, talk, out.String())
	}
}

func TestTally(t *testing.T) {
	start := time.Now()
	all := tally{Refused: make(map[int]int), start: start}
	for i := range 100 {
		all.add(reply{status: 200, took: time.Duration(100-i) * time.Millisecond}, true, true)
	}
	all.add(reply{status: 401, took: time.Second}, false, false)
	all.add(reply{status: 200, took: time.Second}, false, false)
	all.finish(start.Add(2 * time.Second))
	if got, want := all.String(), "sent 102, acknowledged 100, refused 2 (200: 1, 401: 1), in 2.0 s, 51/s, p50 51.0 ms, p99 1000.0 ms"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestURLHook(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		o     sendOptions
		usage bool // a usage error
		fails bool
	}{
		{o: sendOptions{provider: "mailgun", url: "http://127.0.0.1:1/hooks/eu", keyFile: key}},
		{o: sendOptions{provider: "mailgun", url: "http://[::1]:1/hooks/eu", keyFile: key}},
		{o: sendOptions{provider: "enkod", url: "http://localhost:1/hooks/ru/0123456789abcdef"}},
		{o: sendOptions{provider: "mailgun", url: "https://hooks.example.com/hooks/eu", keyFile: key, yes: true}},
		{o: sendOptions{provider: "mailgun", url: "https://hooks.example.com/hooks/eu", keyFile: key}, usage: true},
		{o: sendOptions{provider: "mailgun", url: "https://127.0.0.1.example.com/hooks/eu", keyFile: key}, usage: true},
		{o: sendOptions{provider: "mailgun", url: "http://127.0.0.1@192.0.2.1/hooks/eu", keyFile: key}, usage: true},
		{o: sendOptions{provider: "mailgun", url: "http://127.0.0.1:1/hooks/eu"}, usage: true},
		{o: sendOptions{provider: "mailgun", url: "127.0.0.1:1/hooks/eu", keyFile: key}, usage: true},
		{o: sendOptions{provider: "mailgun", url: "http://127.0.0.1:1/hooks/eu", keyFile: empty}, fails: true},
		{o: sendOptions{provider: "mailgun", url: "http://127.0.0.1:1/hooks/eu", keyFile: key + "x"}, fails: true},
	} {
		h, err := c.o.urlHook()
		if (err != nil) != (c.usage || c.fails) || errors.Is(err, errUsage) != c.usage {
			t.Errorf("%s with key %q: %v", c.o.url, c.o.keyFile, err)
		}
		if err == nil && c.o.keyFile != "" && h.key != "secret" {
			t.Errorf("%s: the key is not the file's", c.o.url)
		}
	}
}

// The token is in the URL, and Go's HTTP errors quote URLs.
func TestTokensAreNotShown(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	address := server.URL
	server.Close() // nobody answers there any more
	const token = "0123456789abcdefghijklmnop"
	h := hookOf(testEndpoint("enkod", address), strings.TrimPrefix(address, "http://"))
	_, err := h.deliver(t.Context(), client(), receiver.Signed{Header: http.Header{}})
	if err == nil {
		t.Fatal("a closed port answered")
	}
	var out bytes.Buffer
	for _, format := range []string{"text", "json"} {
		o := sendOptions{format: format}
		if err := o.report(&out, h, sample{provider: "enkod", event: "x"}, reply{status: 200}, true, "", 5); err != nil {
			t.Fatal(err)
		}
	}
	for _, text := range []string{err.Error(), out.String(), h.shown(), h.path()} {
		if strings.Contains(text, token) || !strings.Contains(text, "/hooks/acme/\u2026") {
			t.Errorf("shown: %s", text)
		}
	}
}

func TestSampleBodies(t *testing.T) {
	everySample(t, func(t *testing.T, h hook, s sample) {
		r, err := h.prepare(s, true)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case h.provider == "sendclean" || h.provider == "sarv":
			form, err := url.ParseQuery(string(r.Body))
			if err != nil {
				t.Fatal(err)
			}
			var batch []map[string]any
			if err := json.Unmarshal([]byte(form.Get("sarvtes_events")), &batch); err != nil || len(batch) != 1 || len(form) != 1 {
				t.Errorf("%v: %s", err, r.Body)
			}
		case s.contentType == formType:
			form, err := url.ParseQuery(string(r.Body))
			if err != nil || form.Get("signature") == "" || form.Get("event") == "" {
				t.Errorf("%v: %s", err, r.Body)
			}
		default:
			if !json.Valid(r.Body) || bytes.ContainsAny(r.Body, "\n") {
				t.Errorf("not JSON on one line: %s", r.Body)
			}
		}
	})
}
