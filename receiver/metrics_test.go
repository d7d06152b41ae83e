package receiver

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
)

func TestMetricsLint(t *testing.T) {
	var es []Endpoint
	for _, s := range samples() {
		es = append(es, s.endpoint)
	}
	b := newBench(t, Limits{}, es...)
	problems, err := testutil.GatherAndLint(b.reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func gather(t testing.TB, b *bench) map[string][]*dto.Metric {
	t.Helper()
	families, err := b.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]*dto.Metric{}
	for _, f := range families {
		all[f.GetName()] = f.GetMetric()
	}
	return all
}

func label(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// TestSeriesExistAtZero: no request makes a series that was not there before.
func TestSeriesExistAtZero(t *testing.T) {
	report := tes()
	report.Name, report.Tokens = "reports", []Key{{Value: testToken}}
	b := newBench(t, Limits{}, mailgunEndpoint(), report)
	count := func() (n int) {
		for _, ms := range gather(t, b) {
			n += len(ms)
		}
		return n
	}
	before := count()
	all := gather(t, b)
	var reasons []string
	for _, m := range all["blessd_webhook_rejected_total"] {
		if label(m, "endpoint") == "eu" {
			reasons = append(reasons, label(m, "reason"))
		}
		if m.GetCounter().GetValue() != 0 {
			t.Errorf("%v is not zero", m)
		}
	}
	slices.Sort(reasons)
	// A path that is nobody's is never an endpoint's.
	want := slices.DeleteFunc(Reasons(), func(s string) bool { return s == string(notFound) })
	if !slices.Equal(reasons, want) {
		t.Errorf("reasons %v, want %v", reasons, want)
	}
	if n := len(all["blessd_webhook_signature_reports_total"]); n != len(variants)+3 {
		t.Errorf("%d series of reports, want %d", n, len(variants)+3)
	}
	mixed(t, b, 300, []Endpoint{mailgunEndpoint(), report})
	if after := count(); after != before {
		t.Errorf("%d series, were %d", after, before)
	}
	h := all["blessd_webhook_request_duration_seconds"][0].GetHistogram()
	if h.GetSchema() == 0 && len(h.GetPositiveSpan()) == 0 || len(h.GetBucket()) != 13 {
		t.Errorf("the durations have no native histogram beside the buckets: %v", h)
	}
	for _, m := range all["blessd_webhook_request_size_bytes"] {
		if bs := m.GetHistogram().GetBucket(); len(bs) != 8 || bs[0].GetUpperBound() != 256 || bs[7].GetUpperBound() != 256<<14 {
			t.Errorf("buckets of the sizes: %v", bs)
		}
	}
}

// A slow request can be found in the log from its point in a graph, and a strange
// one leaves no such trace.
func TestExemplars(t *testing.T) {
	b := newBench(t, Limits{}, mailgunEndpoint())
	answer := func(trace string, took time.Duration, o outcome) (labels string) {
		b.metrics.duration.Reset()
		e := b.routes.Load().byName["eu"]
		e.metrics = b.metrics.endpoint(e)
		b.answer(&exchange{
			w: httptest.NewRecorder(), q: httptest.NewRequest("POST", "/hooks/eu", nil), endpoint: e, trace: trace, start: time.Now().Add(-took),
		}, o)
		for _, m := range gather(t, b)["blessd_webhook_request_duration_seconds"] {
			for _, bucket := range m.GetHistogram().GetBucket() {
				for _, pair := range bucket.GetExemplar().GetLabel() {
					labels += pair.GetName() + "=" + pair.GetValue()
				}
			}
		}
		return labels
	}
	trace := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	if got, want := answer(trace, 0, blessed), "trace_id=4bf92f3577b34da6a3ce929d0e0e4736"; got != want {
		t.Errorf("traced: got exemplar %q, want %q", got, want)
	}
	got := answer("", time.Second, blessed)
	id, found := strings.CutPrefix(got, "request_id=")
	if !found || len(id) != 16 {
		t.Errorf("slow: got exemplar %q, want a request_id", got)
	}
	if want := `"msg":"request answered slowly","provider":"mailgun","endpoint":"eu","request_id":"` + id + `"`; !strings.Contains(b.logs.String(), want) {
		t.Errorf("no log line has %s", want)
	}
	if got := answer(trace, time.Second, refused(badSignature)); got != "" {
		t.Errorf("refused: got exemplar %q, want none", got)
	}
}

// mixed sends n requests of all kinds, good and bad, from several goroutines.
func mixed(t testing.TB, b *bench, n int, es []Endpoint) {
	t.Helper()
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(worker)))
			for i := range n {
				e := es[rnd.IntN(len(es))]
				token := ""
				if len(e.Tokens) > 0 {
					token = testToken
				}
				s := sample{endpoint: e, token: token}
				key := Secret(testKey)
				if rnd.IntN(3) == 0 {
					key = "wrong"
				}
				s.body = fmt.Sprintf(`{"id":"%d-%d"}`, worker, i)
				if e.URL != "" {
					s.body = "sarvtes_events=" + s.body
				}
				q := s.request(t, key)
				switch rnd.IntN(12) {
				case 0:
					q.Method = "PUT"
				case 1:
					q.Method = "GET"
				case 2:
					q.URL.Path = "/hooks/nobody"
				case 3:
					q.URL.Path += "/xxxxxxxxxxxxxxxxxxx"
				case 4:
					q.Header.Set("Content-Encoding", "gzip")
				case 5:
					q.Body, q.ContentLength = http.NoBody, 0
				case 6:
					q.Body, q.ContentLength = http.NoBody, 0
					q.Header.Set("Content-Length", "0")
				case 7:
					q.ContentLength = 1 << 40
				}
				b.ServeHTTP(httptest.NewRecorder(), q)
			}
		})
	}
	wg.Wait()
}

func TestConservation(t *testing.T) {
	var es []Endpoint
	for _, s := range samples() {
		es = append(es, s.endpoint)
	}
	b := newBench(t, Limits{}, es...)
	mixed(t, b, 500, es)
	requests, answered := map[string]float64{}, map[string]float64{}
	var total, blessed, validations, ok float64
	for name, ms := range gather(t, b) {
		for _, m := range ms {
			id, v := label(m, "provider")+"/"+label(m, "endpoint"), m.GetCounter().GetValue()
			switch name {
			case "blessd_webhook_requests_total":
				requests[id] += v
				total += v
				if label(m, "code") == "200" {
					ok += v
				}
			case "blessd_webhook_blessed_total":
				answered[id] += v
				blessed += v
			case "blessd_webhook_validations_total":
				validations += v
			case "blessd_webhook_rejected_total":
				answered[id] += v
			}
		}
	}
	for id, n := range requests {
		if answered[id] != n {
			t.Errorf("%s: %v requests, %v blessed or rejected", id, n, answered[id])
		}
	}
	if total != 2000 || ok != blessed {
		t.Errorf("%v requests, want 2000; %v answered with 200, %v blessed", total, ok, blessed)
	}
	if stored := float64(len(b.store.deliveries())); stored != blessed-validations || stored == 0 || validations == 0 {
		t.Errorf("%v stored, %v blessed, %v validations", stored, blessed, validations)
	}
	if held := b.budget.held.Load(); held != 0 {
		t.Errorf("%d bytes are still held", held)
	}
	if n := testutil.ToFloat64(b.metrics.inFlight); n != 0 {
		t.Errorf("%v requests are in flight", n)
	}
}

func TestSwapWhileServing(t *testing.T) {
	var es []Endpoint
	for _, s := range samples() {
		es = append(es, s.endpoint)
	}
	b := newBench(t, Limits{}, es...)
	stop, swapped := make(chan struct{}), make(chan error)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				swapped <- nil
				return
			default:
				if err := b.SetEndpoints(es[:len(es)-i%3]); err != nil {
					swapped <- err
					return
				}
			}
		}
	}()
	mixed(t, b, 100, es)
	close(stop)
	if err := <-swapped; err != nil {
		t.Error(err)
	}
}

// TestStatusContract is the promise to every provider, for every reason there is.
func TestStatusContract(t *testing.T) {
	want := map[reason]int{
		awaitingKey: 503, badCredentials: 401, badSignature: 401, badToken: 404, forgerySuspected: 401, inFlight: 503, journalFull: 503, keyRotation: 503,
		lengthRequired: 411, malformed: 400, methodNotAllowed: 405, missingSignature: 401, notFound: 404, stale: 401, storeFailed: 503,
		timeout: 408, tooLarge: 413, unsupportedEncoding: 415,
	}
	if len(want) != len(refusals) {
		t.Errorf("%d reasons, want %d", len(refusals), len(want))
	}
	for _, f := range refusals {
		if f.status != want[f.reason] {
			t.Errorf("%s is answered with %d, want %d", f.reason, f.status, want[f.reason])
		}
		if f.status >= 300 && f.status < 400 || f.status < 300 || slices.Contains([]int{403, 406, 410}, f.status) {
			t.Errorf("%s: %d stops some providers for good", f.reason, f.status)
		}
		if f.hint == "" {
			t.Errorf("%s has no hint", f.reason)
		}
		b := newBench(t, Limits{}, mailgunEndpoint())
		x := &exchange{w: httptest.NewRecorder(), q: httptest.NewRequest("POST", "/hooks/eu", nil), endpoint: b.routes.Load().byName["eu"]}
		if f.reason == notFound {
			x.endpoint = b.routes.Load().unmatched
		}
		b.answer(x, refused(f.reason))
		w := x.w.(*httptest.ResponseRecorder)
		expect(t, w, "mailgun", f.reason)
		if got := w.Header().Get("Content-Length"); got != fmt.Sprint(w.Body.Len()) {
			t.Errorf("%s: Content-Length %s, %d bytes", f.reason, got, w.Body.Len())
		}
		if got := w.Header().Get("Connection") == "close"; got != f.close {
			t.Errorf("%s closes: %t, want %t", f.reason, got, f.close)
		}
		if strings.Contains(strings.ToLower(w.Body.String()), "bless") {
			t.Errorf("%s: %q", f.reason, w.Body)
		}
	}
}
