package receiver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/blessd/blessd/delivery"
)

// store keeps deliveries in memory, or does what put says.
type store struct {
	mu  sync.Mutex
	got []*delivery.Delivery
	put func(ctx context.Context) error
}

func (s *store) Put(ctx context.Context, d *delivery.Delivery) error {
	if s.put != nil {
		if err := s.put(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, d)
	return nil
}

func (s *store) deliveries() []*delivery.Delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// syncBuffer is what the logger of a test writes to.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

type bench struct {
	*Receiver
	store *store
	reg   *prometheus.Registry
	logs  *syncBuffer
}

// now is the time that the receivers of the tests live in.
var now = time.Date(2026, 11, 21, 17, 22, 17, 123e6, time.FixedZone("east", 3600))

func newBench(t testing.TB, limits Limits, es ...Endpoint) *bench {
	t.Helper()
	b := &bench{store: &store{}, reg: prometheus.NewRegistry(), logs: &syncBuffer{}}
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(b.logs), zap.DebugLevel))
	r, err := New(b.store, limits, b.reg, log)
	if err != nil {
		t.Fatal(err)
	}
	r.now = func() time.Time { return now }
	if err := r.SetEndpoints(es); err != nil {
		t.Fatal(err)
	}
	b.Receiver = r
	return b
}

func (b *bench) do(q *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	b.ServeHTTP(w, q)
	return w
}

// counted returns blessd_webhook_<name> with exactly these label values.
func (b *bench) counted(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	vec := map[string]*prometheus.CounterVec{
		"requests": b.metrics.requests, "blessed": b.metrics.blessed, "validations": b.metrics.validations,
		"rejected": b.metrics.rejected, "reports": b.metrics.reports,
	}[name]
	return testutil.ToFloat64(vec.WithLabelValues(labels...))
}

// expect fails unless the answer is the one and only that the outcome may have.
func expect(t testing.TB, w *httptest.ResponseRecorder, provider string, why reason) {
	t.Helper()
	if why == "" {
		if w.Code != 200 || w.Body.String() != Acknowledgement(provider) {
			t.Fatalf("got %d %q, want 200 %q", w.Code, w.Body, Acknowledgement(provider))
		}
		return
	}
	want := outcome{reason: why}.refusal()
	if w.Code != want.status {
		t.Fatalf("got %d %q, want %d (%s)", w.Code, w.Body, want.status, why)
	}
	if strings.Contains(w.Body.String(), "God") {
		t.Fatalf("a refusal blesses: %q", w.Body)
	}
	if retry := w.Header().Get("Retry-After"); (retry == "5") != (w.Code == 503) {
		t.Fatalf("%d has Retry-After %q", w.Code, retry)
	}
}

const (
	testKey   = "EXAMPLEKEY0123456789ab"
	testToken = "0123456789abcdefABCDEF_-"
	testURL   = "https://hooks.example.com/hooks/"
)

// request is what provider would send to path, signed with key for url.
func request(t testing.TB, provider, path, url string, key Secret, body string) *http.Request {
	t.Helper()
	s, err := Sign(Plain{Provider: provider, URL: url, Key: key, Now: now, Body: []byte(body)})
	if err != nil {
		t.Fatal(err)
	}
	return toRequest(s, path)
}

// toRequest makes the request of a signed body.
func toRequest(s Signed, path string) *http.Request {
	q := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(s.Body))
	maps.Copy(q.Header, s.Header)
	if s.ContentType != "" {
		q.Header.Set("Content-Type", s.ContentType)
	}
	return q
}

// sample is an endpoint of a provider and a body that it sends.
type sample struct {
	endpoint Endpoint
	body     string
	token    string // in the path
	signs    bool
}

const formBody = "sarvtes_events=%5B%7B%22event%22%3A%22send%22%2C%22_id%22%3A%22A.1%22%7D%5D"

func samples() []sample {
	return []sample{
		{Endpoint{Name: "ru", Provider: "enkod", Tokens: []Key{{Value: testToken}}}, `{"event":"message sent"}`, testToken, false},
		{Endpoint{Name: "eu", Provider: "mailgun", Keys: []Key{{Value: testKey}}}, `{"event":"opened","id":"1"}`, "", true},
		{Endpoint{Name: "in", Provider: "sarv", Keys: []Key{{Value: testKey}}, URL: testURL + "in"}, formBody, "", true},
		{Endpoint{Name: "acme", Provider: "sendclean", Keys: []Key{{Value: testKey}}, URL: testURL + "acme"}, formBody, "", true},
		{Endpoint{Name: "v6", Provider: "vision6", Tokens: []Key{{Value: testToken}}}, `[{"event":"created"}]`, testToken, false},
	}
}

func (s sample) path() string { return Path(s.endpoint.Name, s.token) }

func (s sample) url() string { return "https://hooks.example.com" + s.path() }

func (s sample) request(t testing.TB, key Secret) *http.Request {
	return request(t, s.endpoint.Provider, s.path(), s.url(), key, s.body)
}

func eachProvider(t *testing.T, f func(t *testing.T, s sample)) {
	for _, s := range samples() {
		t.Run(s.endpoint.Provider, func(t *testing.T) { f(t, s) })
	}
}

func TestSamplesCoverTheTable(t *testing.T) {
	var names []string
	for _, s := range samples() {
		names = append(names, s.endpoint.Provider)
	}
	if want := Providers(); !slices.Equal(names, want) {
		t.Errorf("samples for %v, want %v", names, want)
	}
}

func TestTablesAreSorted(t *testing.T) {
	for name, list := range map[string][]string{"providers": Providers(), "variants": Variants(), "reasons": Reasons(), "headers": tesHeaders} {
		if !slices.IsSorted(list) || len(slices.Compact(slices.Clone(list))) != len(list) {
			t.Errorf("%s are not sorted: %v", name, list)
		}
	}
}

func TestAcknowledgements(t *testing.T) {
	want := map[string]string{
		"sendclean": "God bless you, SendClean", "sarv": "God bless you, Sarv",
		"mailgun": "God bless you", "enkod": "God bless you", "vision6": "God bless you", "other": "",
	}
	for name, text := range want {
		if got := Acknowledgement(name); got != text {
			t.Errorf("%s hears %q, want %q", name, got, text)
		}
	}
}

func TestAccepted(t *testing.T) {
	eachProvider(t, func(t *testing.T, s sample) {
		b := newBench(t, Limits{}, s.endpoint)
		q := s.request(t, testKey)
		q.URL.RawQuery = "x=1"
		q.Header.Set("User-Agent", "provider/1.0")
		q.Header.Set("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		q.Header.Set("Cookie", "not=kept")
		body, err := io.ReadAll(q.Body)
		if err != nil {
			t.Fatal(err)
		}
		q.Body = io.NopCloser(bytes.NewReader(body))
		w := b.do(q)
		expect(t, w, s.endpoint.Provider, "")
		for name, want := range map[string]string{
			"Content-Type": "text/plain; charset=utf-8", "Content-Length": fmt.Sprint(w.Body.Len()), "Retry-After": "", "Connection": "",
		} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		got := b.store.deliveries()
		if len(got) != 1 {
			t.Fatalf("%d deliveries are stored, want 1", len(got))
		}
		d := got[0]
		if d.Provider != s.endpoint.Provider || d.Endpoint != s.endpoint.Name || d.Method != "POST" || d.Query != "x=1" ||
			d.ContentType != q.Header.Get("Content-Type") || !bytes.Equal(d.Body, body) {
			t.Errorf("stored %+v", d)
		}
		if !d.Received.Equal(now) || d.Received.Location() != time.UTC {
			t.Errorf("received %v, want %v in UTC", d.Received, now)
		}
		want := delivery.Verification{Method: delivery.BySignature, Key: Key{Value: testKey}.Fingerprint()}
		if !s.signs {
			want = delivery.Verification{Method: delivery.ByToken, Key: Key{Value: testToken}.Fingerprint()}
		}
		if d.Verified != want {
			t.Errorf("verified %+v, want %+v", d.Verified, want)
		}
		if d.Get("User-Agent") != "provider/1.0" || d.Get("Traceparent") == "" || d.Get("Cookie") != "" {
			t.Errorf("headers %v", d.Header)
		}
		for name := range q.Header {
			if strings.HasSuffix(name, "tes-Signature") && len(d.Header) != 3 {
				t.Errorf("the signature is not among %v", d.Header)
			}
		}
	})
}

// TestRefused is what no provider's endpoint may accept.
func TestRefused(t *testing.T) {
	type attack struct {
		name   string
		signed bool // only for providers that sign
		change func(t *testing.T, s sample, q *http.Request) *http.Request
		want   reason
	}
	reread := func(q *http.Request, f func([]byte) []byte) *http.Request {
		b, _ := io.ReadAll(q.Body)
		n := httptest.NewRequest(q.Method, q.URL.String(), bytes.NewReader(f(b)))
		n.Header = q.Header
		return n
	}
	attacks := []attack{
		{"no signature", true, func(_ *testing.T, s sample, _ *http.Request) *http.Request {
			return httptest.NewRequest("POST", s.path(), strings.NewReader(s.body))
		}, missingSignature},
		{"wrong key", true, func(t *testing.T, s sample, _ *http.Request) *http.Request {
			return s.request(t, testKey+"x")
		}, badSignature},
		{"flipped bit in the signed part", true, func(_ *testing.T, _ sample, q *http.Request) *http.Request {
			return reread(q, func(b []byte) []byte {
				// In mailgun's the token, elsewhere the events.
				i := bytes.Index(b, []byte(`"token":"`))
				if i < 0 {
					i = bytes.Index(b, []byte("A.1"))
				} else {
					i += len(`"token":"`)
				}
				b[i] ^= 1
				return b
			})
		}, badSignature},
		{"another endpoint's request", true, func(t *testing.T, s sample, _ *http.Request) *http.Request {
			return request(t, s.endpoint.Provider, s.path(), testURL+"other", testKey+"of-the-other", s.body)
		}, badSignature},
		{"token in the path of an endpoint without", true, func(_ *testing.T, s sample, q *http.Request) *http.Request {
			q.URL.Path = Path(s.endpoint.Name, testToken)
			return q
		}, badToken},
		{"no token", false, func(_ *testing.T, s sample, q *http.Request) *http.Request {
			q.URL.Path = Path(s.endpoint.Name, "")
			return q
		}, badToken},
		{"wrong token", false, func(_ *testing.T, s sample, q *http.Request) *http.Request {
			q.URL.Path = Path(s.endpoint.Name, testToken+"x")
			return q
		}, badToken},
		{"half a token", false, func(_ *testing.T, s sample, q *http.Request) *http.Request {
			q.URL.Path = Path(s.endpoint.Name, testToken[:16])
			return q
		}, badToken},
	}
	eachProvider(t, func(t *testing.T, s sample) {
		for _, a := range attacks {
			if a.signed != s.signs {
				continue
			}
			t.Run(a.name, func(t *testing.T) {
				b := newBench(t, Limits{}, s.endpoint)
				expect(t, b.do(a.change(t, s, s.request(t, testKey))), s.endpoint.Provider, a.want)
				if n := len(b.store.deliveries()); n != 0 {
					t.Errorf("%d deliveries are stored", n)
				}
				if got := b.counted(t, "rejected", s.endpoint.Provider, s.endpoint.Name, string(a.want)); got != 1 {
					t.Errorf("%s is counted %v times, want 1", a.want, got)
				}
			})
		}
	})
}

func TestPreviousKey(t *testing.T) {
	eachProvider(t, func(t *testing.T, s sample) {
		keys := []Key{{Value: "the-new-key-which-is-first"}, {Value: testKey}}
		if s.signs {
			s.endpoint.Keys = keys
		} else {
			s.endpoint.Tokens = append([]Key{{Value: "the-new-token-which-is-first"}}, s.endpoint.Tokens...)
		}
		b := newBench(t, Limits{}, s.endpoint)
		expect(t, b.do(s.request(t, testKey)), s.endpoint.Provider, "")
		if s.signs {
			s.endpoint.Keys = keys[:1]
		} else {
			s.endpoint.Tokens = s.endpoint.Tokens[:1]
		}
		if err := b.SetEndpoints([]Endpoint{s.endpoint}); err != nil {
			t.Fatal(err)
		}
		if w := b.do(s.request(t, testKey)); w.Code != 401 && w.Code != 404 {
			t.Errorf("a key that was taken away is answered with %d", w.Code)
		}
	})
}

func TestProbes(t *testing.T) {
	eachProvider(t, func(t *testing.T, s sample) {
		if s.signs {
			s.endpoint.Keys = nil // no key is needed for it
		}
		b := newBench(t, Limits{}, s.endpoint)
		expect(t, b.do(httptest.NewRequest("GET", s.path(), nil)), s.endpoint.Provider, "")
		w := b.do(httptest.NewRequest("HEAD", s.path(), nil))
		if w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Length") != fmt.Sprint(len(Acknowledgement(s.endpoint.Provider))) {
			t.Errorf("HEAD: %d %q %v", w.Code, w.Body, w.Header())
		}
		q := httptest.NewRequest("POST", s.path(), nil)
		q.Header.Set("Content-Length", "0")
		expect(t, b.do(q), s.endpoint.Provider, "")
		if n := len(b.store.deliveries()); n != 0 {
			t.Errorf("%d deliveries are stored", n)
		}
		if got := b.counted(t, "validations", s.endpoint.Provider, s.endpoint.Name); got != 3 {
			t.Errorf("%v validations, want 3", got)
		}
		if got := b.counted(t, "blessed", s.endpoint.Provider, s.endpoint.Name); got != 3 {
			t.Errorf("%v blessed, want 3", got)
		}
	})
}

func TestMethods(t *testing.T) {
	eachProvider(t, func(t *testing.T, s sample) {
		b := newBench(t, Limits{}, s.endpoint)
		for _, m := range []string{"PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "OPTIONS", "post", "BREW"} {
			q := httptest.NewRequest("POST", s.path(), strings.NewReader(s.body))
			q.Method = m
			w := b.do(q)
			expect(t, w, s.endpoint.Provider, methodNotAllowed)
			if got := w.Header().Get("Allow"); got != "GET, HEAD, POST" {
				t.Errorf("%s: Allow is %q", m, got)
			}
			for _, path := range []string{"/hooks/nobody", Path(s.endpoint.Name, "wrong-token-of-16-and-more")} {
				q = httptest.NewRequest("POST", path, nil)
				q.Method = m
				w = b.do(q)
				if w.Code != 404 || w.Header().Get("Allow") != "" {
					t.Errorf("%s %s: %d, Allow %q: tells a stranger what exists", m, path, w.Code, w.Header().Get("Allow"))
				}
			}
		}
	})
}

func TestUnknownEndpointLooksLikeWrongToken(t *testing.T) {
	s := samples()[0]
	b := newBench(t, Limits{}, s.endpoint)
	answer := func(method, path string) string {
		w := b.do(httptest.NewRequest(method, path, nil))
		return fmt.Sprint(w.Code, w.Header(), w.Body)
	}
	for _, m := range []string{"GET", "HEAD", "POST", "PUT"} {
		unknown := answer(m, "/hooks/nobody/"+testToken)
		wrong := answer(m, Path(s.endpoint.Name, "x"+testToken))
		none := answer(m, Path(s.endpoint.Name, ""))
		if unknown != wrong || wrong != none {
			t.Errorf("%s can be told apart:\n%s\n%s\n%s", m, unknown, wrong, none)
		}
	}
	if got := b.counted(t, "rejected", unmatched, unmatched, string(notFound)); got != 4 {
		t.Errorf("%v not found, want 4", got)
	}
	if got := b.counted(t, "rejected", "enkod", s.endpoint.Name, string(badToken)); got != 8 {
		t.Errorf("%v bad tokens, want 8", got)
	}
}

func TestEqualWorkForEveryEndpoint(t *testing.T) {
	b := newBench(t, Limits{},
		Endpoint{Name: "three", Provider: "enkod", Tokens: []Key{{Value: testToken}, {Value: testToken + "2"}, {Value: testToken + "3"}}},
		Endpoint{Name: "one", Provider: "enkod", Tokens: []Key{{Value: testToken}}},
		Endpoint{Name: "none", Provider: "mailgun"})
	r := b.routes.Load()
	for _, e := range []*endpoint{r.unmatched, r.byName["three"], r.byName["one"], r.byName["none"]} {
		if len(e.tokenDigests) != 3 {
			t.Errorf("%s compares %d digests, want 3", e.Name, len(e.tokenDigests))
		}
	}
}

func TestPaths(t *testing.T) {
	b := newBench(t, Limits{}, Endpoint{Name: "acme", Provider: "mailgun", Tokens: []Key{{Value: testToken}}}, Endpoint{Name: "bare", Provider: "mailgun"})
	for _, path := range []string{Path("acme", testToken), Path("bare", ""), Path("bare", "") + "?x=/../"} {
		if w := b.do(httptest.NewRequest("GET", path, nil)); w.Code != 200 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	for _, path := range []string{
		"/", "/hooks", "/hooks/", "//hooks/bare", "/hooks//bare", "/hooks/bare/", "/hooks/bare//", "/hooks/./bare", "/hooks/x/../bare",
		"/hooks/bare/..", "/hooks/bar%65", "/hooks%2fbare", "/%68ooks/bare", "/hooks/bare%00", "/hooks/bare%2f", "/hooks/bare%20", "/hooks/Bare", "/HOOKS/bare",
		"/hooks/bare%0d%0a", "/hooks/acme/" + testToken + "/", "/hooks/acme/" + testToken + "/x", "/hooks/acme/%30" + testToken[1:],
		"/hooks/acme/..%2f..%2f", "/hooks/acme/" + strings.Repeat("x", 5000), "/hooks/" + strings.Repeat("x", 33), "/metrics", "/hooks/unmatched",
	} {
		w := b.do(httptest.NewRequest("GET", path, nil))
		if w.Code != 404 || w.Header().Get("Location") != "" {
			t.Errorf("%s: %d, Location %q", path, w.Code, w.Header().Get("Location"))
		}
	}
}

func TestStoreFails(t *testing.T) {
	cases := []struct {
		name string
		put  func(context.Context) error
		want reason
	}{
		{"full", func(context.Context) error { return fmt.Errorf("journal: %w", ErrFull) }, journalFull},
		{"broken", func(context.Context) error { return errors.New("disk on fire") }, storeFailed},
		{"slow", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }, storeFailed},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			eachProvider(t, func(t *testing.T, s sample) {
				b := newBench(t, Limits{PutTimeout: 20 * time.Millisecond}, s.endpoint)
				b.store.put = c.put
				expect(t, b.do(s.request(t, testKey)), s.endpoint.Provider, c.want)
				b.store.put = nil
				expect(t, b.do(s.request(t, testKey)), s.endpoint.Provider, "")
				if held := b.budget.held.Load(); held != 0 {
					t.Errorf("%d bytes are still held", held)
				}
			})
		})
	}
}

func TestSenderHangsUpWhileStoring(t *testing.T) {
	s := samples()[1]
	b := newBench(t, Limits{}, s.endpoint)
	ctx, cancel := context.WithCancel(t.Context())
	b.store.put = func(put context.Context) error { cancel(); return put.Err() }
	expect(t, b.do(s.request(t, testKey).WithContext(ctx)), s.endpoint.Provider, "")
}

// TestNoSecrets runs every provider with secrets that occur nowhere else, through
// every way of being refused, and looks for them in everything that came out.
func TestNoSecrets(t *testing.T) {
	const canaryKey, canaryToken, canaryPassword = "canary-key-qzxvkw", "canary-token-wvzxqkjy", "canary-password-yqzk"
	eachProvider(t, func(t *testing.T, s sample) {
		e := s.endpoint
		e.Tokens = []Key{{Value: canaryToken, Source: "/etc/blessd/token"}}
		e.BasicAuth = []Key{{Value: "canary-user:" + canaryPassword}}
		if s.signs {
			e.Keys = []Key{{Value: canaryKey, Source: "/etc/blessd/key"}}
			e.Signature = SignatureEnforce
		}
		b := newBench(t, Limits{}, e)
		s.token = canaryToken
		var out strings.Builder
		send := func(q *http.Request) {
			w := b.do(q)
			fmt.Fprintln(&out, w.Code, w.Header(), w.Body)
		}
		good := func() *http.Request {
			q := s.request(t, canaryKey)
			q.SetBasicAuth("canary-user", canaryPassword)
			return q
		}
		send(good())
		send(s.request(t, canaryKey))
		q := s.request(t, canaryKey+"x")
		q.SetBasicAuth("canary-user", canaryPassword)
		send(q)
		q = good()
		q.SetBasicAuth("canary-user", canaryPassword+"x")
		send(q)
		q = good()
		q.URL.Path += "x"
		send(q)
		q = good()
		q.Method = "PUT"
		send(q)
		b.store.put = func(context.Context) error { return errors.New("full") }
		send(good())
		want := 2 // the one with the wrong key too, where there is no key
		if s.signs {
			want = 1
		}
		if got := len(b.store.deliveries()); got != want {
			t.Fatalf("%d deliveries, want %d:\n%s", got, want, out.String())
		}
		bad := e
		bad.Tokens = []Key{{Value: canaryToken + "/"}}
		bad.BasicAuth = []Key{{Value: canaryPassword}}
		bad.URL = ":" + canaryToken
		bad.ParentKeys = []Key{{Value: canaryKey}}
		err := b.SetEndpoints([]Endpoint{bad, bad})
		fmt.Fprintln(&out, err)
		fmt.Fprintf(&out, "%v %+v %#v\n", e, e, e)
		families, gatherErr := b.reg.Gather()
		if err == nil || gatherErr != nil {
			t.Fatal(err, gatherErr)
		}
		for _, f := range families {
			fmt.Fprintln(&out, f)
		}
		out.WriteString(b.logs.String())
		for _, needle := range []string{"canary", "qzxvkw", "wvzxqkjy", "yqzk", "Y2FuYXJ5", "63616e617279"} {
			if i := strings.Index(out.String(), needle); i >= 0 {
				t.Errorf("%q came out: ...%s...", needle, out.String()[max(0, i-200):min(out.Len(), i+100)])
			}
		}
		for _, want := range []string{"/etc/blessd/", "bad_credentials", "request refused", "request answered"} {
			if !strings.Contains(out.String(), want) && (s.signs || want != "/etc/blessd/") {
				t.Errorf("%q did not come out", want)
			}
		}
	})
}

func TestWarningsAreBounded(t *testing.T) {
	b := newBench(t, Limits{}, samples()[1].endpoint)
	for range 500 {
		b.do(httptest.NewRequest("GET", "/hooks/nobody", nil))
	}
	// A flood of one reason leaves room for another.
	b.do(samples()[1].request(t, "wrong"))
	if n := strings.Count(b.logs.String(), `"reason":"not_found","code":404,"hint"`); n < 1 || n > 20 {
		t.Errorf("%d warnings of 500 strangers, want a few", n)
	}
	if n := strings.Count(b.logs.String(), `"msg":"request refused","provider":"mailgun","endpoint":"eu","reason":"bad_signature"`); n != 1 {
		t.Errorf("%d warnings of the bad signature, want 1", n)
	}
	for line := range strings.Lines(b.logs.String()) {
		if strings.Contains(line, "remote") && !strings.Contains(line, `"level":"debug"`) {
			t.Errorf("an address is not at debug: %s", line)
		}
	}
}

func TestDraining(t *testing.T) {
	s := samples()[1]
	b := newBench(t, Limits{}, s.endpoint)
	b.SetDraining(true)
	w := b.do(s.request(t, testKey))
	expect(t, w, s.endpoint.Provider, "")
	if got := w.Header().Get("Connection"); got != "close" {
		t.Errorf("Connection is %q while draining", got)
	}
	b.SetDraining(false)
	if got := b.do(s.request(t, testKey)).Header().Get("Connection"); got != "" {
		t.Errorf("Connection is %q after draining", got)
	}
}

func TestTraceparent(t *testing.T) {
	const valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	cases := map[string]bool{
		valid: true, "01" + valid[2:] + "-more": true, "01" + valid[2:]: true,
		valid + "-more": false, "ff" + valid[2:]: false, strings.ToUpper(valid): false, valid[:54]: false, "": false,
		"00-00000000000000000000000000000000-b7ad6b7169203331-01": false, "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01": false,
		"01" + valid[2:] + "more": false, "01" + valid[2:] + "-m re": false, "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01": false,
	}
	for v, want := range cases {
		if got := traceparent(http.Header{"Traceparent": {v}}); (got == v && got != "") != want {
			t.Errorf("%q gives %q", v, got)
		}
	}
	if got := traceparent(http.Header{"Traceparent": {valid, valid}}); got != "" {
		t.Errorf("two headers give %q", got)
	}
}

func TestNewRefuses(t *testing.T) {
	reg := prometheus.NewRegistry()
	for _, l := range []Limits{{MaxBody: -1}, {MaxBody: 10, MaxInFlight: 5}, {PutTimeout: -1}} {
		if _, err := New(&store{}, l, prometheus.NewRegistry(), zap.NewNop()); err == nil {
			t.Errorf("%+v is taken", l)
		}
	}
	if _, err := New(nil, Limits{}, reg, zap.NewNop()); err == nil {
		t.Error("no store is taken")
	}
	if _, err := New(&store{}, Limits{}, reg, zap.NewNop()); err != nil {
		t.Fatal(err)
	}
	if _, err := New(&store{}, Limits{}, reg, zap.NewNop()); err == nil {
		t.Error("metrics can be registered twice")
	}
}
