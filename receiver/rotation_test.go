package receiver

import (
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/blessd/blessd/delivery"
)

const rotatedKey = "EXAMPLEKEYrotated01234"

// rotating is an endpoint of SendClean's whose key is about to change, and the
// endpoint that it becomes.
func rotating() (before, after Endpoint) {
	before, after = tes(), tes()
	after.Keys = []Key{{Value: rotatedKey}, {Value: testKey}}
	return before, after
}

// signedBy is the n-th delivery to that endpoint, signed with the key.
func signedBy(t testing.TB, key Secret, n int) sample {
	t.Helper()
	before, _ := rotating()
	return sample{endpoint: before, body: fmt.Sprintf(`sarvtes_events=[{"_id":"%d"}]`, n)}
}

// begin hands a request to the receiver beside and returns where its answer comes.
func (b *bench) begin(t testing.TB, s sample, key Secret) <-chan *httptest.ResponseRecorder {
	t.Helper()
	q, answer := s.request(t, key), make(chan *httptest.ResponseRecorder, 1)
	go func() { answer <- b.do(q) }()
	return answer
}

func (b *bench) parkedNow() int {
	b.rotations.mu.Lock()
	defer b.rotations.mu.Unlock()
	return b.rotations.parked.n
}

// announce announces a rotation of the rotating endpoint.
func (b *bench) announce(t testing.TB) {
	t.Helper()
	if err := b.AnnounceRotation(tes().Name, MaxRotation); err != nil {
		t.Fatal(err)
	}
}

// sums fails unless the metrics of the endpoint say that.
func (b *bench) sums(t testing.TB, blessed, refused, parkedBlessed, parkedRefused float64) {
	t.Helper()
	e := tes()
	got := []float64{
		b.counted(t, "blessed", e.Provider, e.Name), b.counted(t, "rejected", e.Provider, e.Name, string(keyRotation)),
		testutil.ToFloat64(b.metrics.parked.WithLabelValues(e.Provider, e.Name, "blessed")),
		testutil.ToFloat64(b.metrics.parked.WithLabelValues(e.Provider, e.Name, "refused")),
		testutil.ToFloat64(b.metrics.parkedNow.WithLabelValues(e.Provider, e.Name)), float64(b.budget.held.Load()), float64(b.parkedNow()),
	}
	if want := []float64{blessed, refused, parkedBlessed, parkedRefused, 0, 0, 0}; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("blessed, refused, parked and blessed, parked and refused, parked, bytes held, places taken: got %v, want %v", got, want)
	}
}

// A delivery that the new key signed waits for it and goes in when it comes; old keys
// go on meanwhile.
func TestParkedUntilTheKeyComes(t *testing.T) {
	before, after := rotating()
	b := newBench(t, Limits{ParkTimeout: time.Minute}, before)
	k := &kept{}
	b.KeepUnverified(k)
	b.announce(t)
	var answers []<-chan *httptest.ResponseRecorder
	for n := range 5 {
		answers = append(answers, b.begin(t, signedBy(t, rotatedKey, n), rotatedKey))
	}
	eventually(t, "all are parked", func() bool { return b.parkedNow() == 5 })
	expect(t, b.do(signedBy(t, testKey, 9).request(t, testKey)), "sendclean", "")
	// A reload that does not bring the key changes nothing.
	if err := b.SetEndpoints([]Endpoint{before, mailgunEndpoint()}); err != nil {
		t.Fatal(err)
	}
	b.now = func() time.Time { return now.Add(time.Hour) }
	if err := b.SetEndpoints([]Endpoint{after}); err != nil {
		t.Fatal(err)
	}
	for _, a := range answers {
		expect(t, <-a, "sendclean", "")
	}
	got := b.store.deliveries()
	if len(got) != 6 || len(k.deliveries) != 0 {
		t.Fatalf("%d stored and %d kept, want 6 and none", len(got), len(k.deliveries))
	}
	for _, d := range got[1:] {
		if !d.Received.Equal(now) || d.Verified.Key != (Key{Value: rotatedKey}).Fingerprint() || d.Verified.Method != delivery.BySignature {
			t.Errorf("stored %+v, want it received at first and verified by the new key", d)
		}
	}
	b.sums(t, 6, 0, 5, 0)
	if c := b.EndRotation(before.Name)(t.Context()); c != (RotationCounts{Parked: 5, Blessed: 5}) {
		t.Errorf("counted %+v", c)
	}
}

// One for which no key comes in time is refused as if blessd were overloaded, and
// held until the key is here.
func TestParkedInVain(t *testing.T) {
	before, after := rotating()
	b := newBench(t, Limits{ParkTimeout: time.Millisecond}, before)
	k := &kept{}
	b.KeepUnverified(k)
	b.announce(t)
	expect(t, b.do(signedBy(t, rotatedKey, 1).request(t, rotatedKey)), "sendclean", keyRotation)
	if len(k.deliveries) != 1 || k.held != 1 || k.reasons[0] != KeyRotation {
		t.Fatalf("held %d of %d, for %q", k.held, len(k.deliveries), k.reasons)
	}
	d := reencoded(t, k.deliveries[0])
	redeem := func(want reason) {
		t.Helper()
		if why, err := b.Redeem(t.Context(), d); why != string(want) || err != nil {
			t.Errorf("redeemed: got %q, %v, want %q", why, err, want)
		}
	}
	redeem(keyRotation)
	if c := b.EndRotation(before.Name)(t.Context()); c != (RotationCounts{Parked: 1, Refused: 1, Held: 1}) {
		t.Errorf("counted %+v", c)
	}
	redeem(badSignature)
	if err := b.SetEndpoints([]Endpoint{after}); err != nil {
		t.Fatal(err)
	}
	redeem("")
	b.sums(t, 0, 1, 0, 1)
}

// An announcement changes nothing for what no key could prove, nothing for other
// endpoints, and nothing once it is over.
func TestRotationLetsNobodyIn(t *testing.T) {
	before, _ := rotating()
	other := before
	other.Name, other.URL = "other", testURL+"other"
	b := newBench(t, Limits{ParkTimeout: time.Minute}, before, other, mailgunEndpoint(), Endpoint{Name: "ru", Provider: "enkod", NoAuth: true})
	b.announce(t)
	good := signedBy(t, testKey, 1)
	expect(t, b.do(good.request(t, testKey)), "sendclean", "")
	unsigned, double, spoilt := good.request(t, testKey), good.request(t, testKey), good.request(t, testKey)
	unsigned.Header.Del("X-SendCleanTES-Signature")
	double.Header.Set("X-SarvTES-Signature", "x")
	spoilt.ContentLength = 1 << 40
	expect(t, b.do(unsigned), "sendclean", missingSignature)
	expect(t, b.do(double), "sendclean", badSignature)
	expect(t, b.do(spoilt), "sendclean", tooLarge)
	foreign := sample{endpoint: other, body: good.body}
	expect(t, b.do(foreign.request(t, rotatedKey)), "sendclean", badSignature)
	if n := b.parkedNow(); n != 0 {
		t.Errorf("%d are parked", n)
	}
	b.EndRotation(before.Name)
	expect(t, b.do(good.request(t, rotatedKey)), "sendclean", badSignature)
	if err := b.AnnounceRotation(before.Name, 0); err != nil { // which is over at once
		t.Fatal(err)
	}
	expect(t, b.do(good.request(t, rotatedKey)), "sendclean", badSignature)
	if n := len(b.store.deliveries()); n != 1 {
		t.Errorf("%d are stored, want 1", n)
	}
	for _, name := range []string{"nobody", "ru", ""} {
		if err := b.AnnounceRotation(name, time.Second); err == nil {
			t.Errorf("a rotation is announced for %q", name)
		}
	}
}

// slowBody arrives when it is told to.
type slowBody struct {
	reading, arrive chan struct{}
	io.Reader
}

func (s *slowBody) Read(b []byte) (int, error) {
	select {
	case <-s.reading:
	default:
		close(s.reading)
	}
	<-s.arrive
	return s.Reader.Read(b)
}

func (*slowBody) Close() error { return nil }

// A delivery that began to arrive before the new key was here, and is whole after the
// announcement has ended, is verified by the keys of then.
func TestKeyComesWithTheBody(t *testing.T) {
	before, after := rotating()
	b := newBench(t, Limits{}, before)
	b.announce(t)
	q := signedBy(t, rotatedKey, 1).request(t, rotatedKey)
	body := &slowBody{make(chan struct{}), make(chan struct{}), q.Body}
	q.Body = body
	answer := make(chan *httptest.ResponseRecorder, 1)
	go func() { answer <- b.do(q) }()
	<-body.reading
	if err := b.SetEndpoints([]Endpoint{after}); err != nil {
		t.Fatal(err)
	}
	b.EndRotation(before.Name)
	close(body.arrive)
	expect(t, <-answer, "sendclean", "")
}

// What an announcement has strangers hold is bounded in number and bytes; what finds
// no place is answered at once.
func TestParkingIsBounded(t *testing.T) {
	for name, limits := range map[string]Limits{
		"number": {ParkTimeout: time.Minute, MaxParked: 3},
		"bytes":  {ParkTimeout: time.Minute, MaxParkedBytes: int64(3 * len("sarvtes_events=%5B%7B%22_id%22%3A%220%22%7D%5D"))},
	} {
		t.Run(name, func(t *testing.T) {
			before, after := rotating()
			b := newBench(t, limits, before)
			k := &kept{}
			b.KeepUnverified(k)
			b.announce(t)
			var answers []<-chan *httptest.ResponseRecorder
			size := int64(len(signedBy(t, rotatedKey, 0).body))
			if name == "bytes" {
				b.limits.MaxParkedBytes = 3 * size
			}
			for n := range 3 {
				answers = append(answers, b.begin(t, signedBy(t, rotatedKey, n), rotatedKey))
			}
			eventually(t, "three are parked", func() bool { return b.parkedNow() == 3 })
			if held := b.budget.held.Load(); held != 3*size {
				t.Errorf("%d bytes are counted as in flight, want %d", held, 3*size)
			}
			for n := range 2 {
				expect(t, b.do(signedBy(t, "stranger", 10+n).request(t, "stranger")), "sendclean", keyRotation)
			}
			if err := b.SetEndpoints([]Endpoint{after}); err != nil {
				t.Fatal(err)
			}
			for _, a := range answers {
				expect(t, <-a, "sendclean", "")
			}
			b.sums(t, 3, 2, 3, 0)
			if c := b.RotationCounts(before.Name); c != (RotationCounts{Parked: 3, Blessed: 3, Refused: 2, Held: 2}) {
				t.Errorf("counted %+v", c)
			}
		})
	}
}

// The end of the announcement and a stop of blessd end the waiting, and what waited
// is held.
func TestParkingEnds(t *testing.T) {
	for name, end := range map[string]func(*bench){
		"by the end of the announcement": func(b *bench) { b.EndRotation(tes().Name) },
		"by a stop":                      func(b *bench) { b.SetDraining(true) },
		"by the endpoint's leaving":      func(b *bench) { _ = b.SetEndpoints([]Endpoint{mailgunEndpoint()}) },
	} {
		t.Run(name, func(t *testing.T) {
			before, _ := rotating()
			b := newBench(t, Limits{ParkTimeout: time.Minute}, before)
			k := &kept{}
			b.KeepUnverified(k)
			b.announce(t)
			answer := b.begin(t, signedBy(t, rotatedKey, 1), rotatedKey)
			eventually(t, "it is parked", func() bool { return b.parkedNow() == 1 })
			end(b)
			expect(t, <-answer, "sendclean", keyRotation)
			if len(k.deliveries) != 1 || k.held != 1 {
				t.Errorf("held %d of %d", k.held, len(k.deliveries))
			}
			b.sums(t, 0, 1, 0, 1)
		})
	}
}

// A sender that hangs up is not waited for, and what it sent is held. The time that a
// request may take to arrive does not run while it is parked.
func TestWireParked(t *testing.T) {
	before, after := rotating()
	b := newBench(t, Limits{ParkTimeout: time.Minute, ReadTimeout: 100 * time.Millisecond}, before)
	k := &kept{}
	b.KeepUnverified(k)
	addr := serve(t, b)
	b.announce(t)
	send := func(n int) io.ReadWriteCloser {
		q := signedBy(t, rotatedKey, n).request(t, rotatedKey)
		body, err := io.ReadAll(q.Body)
		if err != nil {
			t.Fatal(err)
		}
		c := dial(t, addr)
		lines := []string{fmt.Sprintf("Content-Length: %d", len(body))}
		for name := range q.Header {
			lines = append(lines, name+": "+q.Header.Get(name))
		}
		if _, err := io.WriteString(c, head("POST", Path(before.Name, ""), lines...)+string(body)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	gone, patient := send(1), send(2)
	eventually(t, "both are parked", func() bool { return b.parkedNow() == 2 })
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the one that is gone is held", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.held == 1 && b.parkedNow() == 1
	})
	waitAMoment(300 * time.Millisecond) // more than the whole request may take to arrive
	if err := b.SetEndpoints([]Endpoint{after}); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, len("HTTP/1.1 200"))
	if _, err := io.ReadFull(patient, answer); err != nil || string(answer) != "HTTP/1.1 200" {
		t.Errorf("the other got %q, %v", answer, err)
	}
	eventually(t, "the bytes are given back", func() bool { return b.budget.held.Load() == 0 })
	b.sums(t, 1, 1, 1, 1)
}

// Keys change all the time while a rotation is announced, and senders of both keys and
// strangers send: each is counted once, every delivery of the provider's is stored or
// held, and no stranger's is stored.
func TestRotationWhileServing(t *testing.T) {
	before, after := rotating()
	b := newBench(t, Limits{ParkTimeout: 5 * time.Millisecond, MaxParked: 4}, before)
	k := &kept{}
	b.KeepUnverified(k)
	var senders sync.WaitGroup
	const each = 150
	for worker, key := range []Secret{testKey, rotatedKey, rotatedKey, "stranger", "stranger"} {
		senders.Go(func() {
			for n := range each {
				b.do(signedBy(t, key, 1000*(worker+1)+n).request(t, key))
			}
		})
	}
	done := make(chan struct{})
	go func() { senders.Wait(); close(done) }()
	for n := 0; ; n++ {
		select {
		case <-done:
		default:
			b.announce(t)
			if err := b.SetEndpoints([]Endpoint{[]Endpoint{before, after}[n%2]}); err != nil {
				t.Fatal(err)
			}
			if n%7 == 0 {
				b.EndRotation(before.Name)
			}
			waitAMoment(time.Millisecond)
			continue
		}
		break
	}
	stored, kept := b.store.deliveries(), k.deliveries
	strangers := func(ds []*delivery.Delivery) (n int) {
		for _, d := range ds {
			if strings.Contains(string(d.Body), `"_id":"4`) || strings.Contains(string(d.Body), `"_id":"5`) {
				n++
			}
		}
		return n
	}
	if len(stored)+len(kept) != 5*each || len(stored) < each {
		t.Errorf("%d stored and %d kept of %d", len(stored), len(kept), 5*each)
	}
	if n, m := strangers(stored), strangers(kept); n != 0 || m != 2*each {
		t.Errorf("of the strangers' %d are stored and %d kept, want none and %d", n, m, 2*each)
	}
	e := tes()
	requests := b.counted(t, "requests", e.Provider, e.Name, "200") + b.counted(t, "requests", e.Provider, e.Name, "401") + b.counted(t, "requests", e.Provider, e.Name, "503")
	blessed := b.counted(t, "blessed", e.Provider, e.Name)
	refused := b.counted(t, "rejected", e.Provider, e.Name, string(keyRotation)) + b.counted(t, "rejected", e.Provider, e.Name, string(badSignature))
	if requests != 5*each || blessed+refused != requests || int(blessed) != len(stored) {
		t.Errorf("%v requests, %v blessed, %v refused, %d stored", requests, blessed, refused, len(stored))
	}
	if now := testutil.ToFloat64(b.metrics.parkedNow.WithLabelValues(e.Provider, e.Name)); now != 0 || b.parkedNow() != 0 || b.budget.held.Load() != 0 {
		t.Errorf("%v parked, %d places and %d bytes taken", now, b.parkedNow(), b.budget.held.Load())
	}
}
