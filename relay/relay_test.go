package relay

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/journal"
	"github.com/blessd/blessd/normalize"
	"github.com/blessd/blessd/sink"
)

// rig is a journal, an embedded NATS server, and relays between them, one after
// the other.
type rig struct {
	t               testing.TB
	dir             string
	journal         *journal.Journal
	embedded        *sink.Embedded
	conn            *nats.Conn
	js              jetstream.JetStream
	window          time.Duration // duplicate window; 100 ms shows that it is not what prevents doubles
	cursorInterval  time.Duration
	quarantineBytes int64
}

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{
		t: t, dir: t.TempDir(), window: 100 * time.Millisecond, quarantineBytes: 64 << 20,
		cursorInterval: time.Hour,
	} // the tests say when
	var err error
	r.journal, err = journal.Open(journal.Options{Dir: filepath.Join(r.dir, "journal"), Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.journal.Close(); err != nil {
			t.Error(err)
		}
	})
	r.embedded, err = sink.StartEmbedded(sink.EmbeddedOptions{StoreDir: filepath.Join(r.dir, "nats"), Listen: "127.0.0.1:0", Prefix: "mail", MaxStore: 1 << 30, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.embedded.Shutdown(context.Background()) }) // some tests have done it before
	r.conn, err = r.embedded.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.conn.Close)
	if r.js, err = jetstream.New(r.conn); err != nil {
		t.Fatal(err)
	}
	return r
}

// relay returns a new relay on the rig's journal and streams, as after a restart.
func (r *rig) relay() (*Relay, *prometheus.Registry) {
	r.t.Helper()
	reg := prometheus.NewPedanticRegistry()
	s, err := sink.New(r.conn, sink.Options{
		Prefix: "mail", CETypePrefix: "blessd", Manage: true, PublishTimeout: time.Second,
		Events:     sink.StreamConfig{Name: "MAIL_EVENTS", MaxBytes: 256 << 20, DuplicateWindow: r.window, Replicas: 1},
		Quarantine: sink.StreamConfig{Name: "MAIL_QUARANTINE", MaxBytes: r.quarantineBytes, DuplicateWindow: r.window, Replicas: 1, Refuse: true},
		Log:        zap.NewNop(), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	relay, err := New(Options{
		Journal: r.journal, Sink: s, Sync: r.embedded.Sync, OversizeDir: filepath.Join(r.dir, "oversize"), LateAfter: time.Hour, Registry: reg,
		CursorInterval: r.cursorInterval,
		Window:         64,
	})
	if err != nil {
		r.t.Fatal(err)
	}
	relay.SetEndpoints([]Endpoint{{"enkod", "ru"}})
	return relay, reg
}

// drain runs a relay until the journal is published and the cursor moved.
func (r *rig) drain(relay *Relay) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	relay.Stop(ctx)
	if err := relay.Run(context.Background()); err != nil {
		r.t.Fatal(err)
	}
	if ctx.Err() != nil {
		r.t.Fatalf("not drained in 30 s: %+v", relay.Status())
	}
}

// crash runs a relay until it has settled a record, and then drops it without
// the cursor: that is what a kill leaves behind.
func (r *rig) crash(relay *Relay, settled uint64) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- relay.run(ctx) }()
	r.wait("the relay to settle", func() bool { return testutil.ToFloat64(relay.metrics.settled) >= float64(settled) })
	cancel()
	<-done
}

func (r *rig) wait(what string, condition func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("waited 30 s for %s", what)
		}
	}
}

func (r *rig) put(d *delivery.Delivery) {
	r.t.Helper()
	if err := r.journal.Append(context.Background(), delivery.Encode(d)); err != nil {
		r.t.Fatal(err)
	}
}

// sent is an enKod delivery of one event, whose message is called name.
func sent(name string) *delivery.Delivery {
	return enkod(fmt.Sprintf(`{"event":"message sent","message_id":1,"message_uid":%q,"to":"user@example.com"}`, name))
}

func enkod(body string) *delivery.Delivery {
	return &delivery.Delivery{
		Provider: "enkod", Endpoint: "ru", Received: time.Date(2026, 11, 21, 17, 0, 0, 0, time.UTC), Method: "POST",
		ContentType: "application/json", Body: []byte(body), Verified: delivery.Verification{Method: delivery.ByToken},
	}
}

// messages returns everything in a stream, in order.
func (r *rig) messages(stream string) []*jetstream.RawStreamMsg {
	r.t.Helper()
	ctx := context.Background()
	s, err := r.js.Stream(ctx, stream)
	if err != nil {
		r.t.Fatal(err)
	}
	var ms []*jetstream.RawStreamMsg
	state := s.CachedInfo().State
	for seq := state.FirstSeq; seq <= state.LastSeq && seq > 0; seq++ {
		m, err := s.GetMsg(ctx, seq)
		if err != nil {
			r.t.Fatal(err)
		}
		ms = append(ms, m)
	}
	return ms
}

// names returns the message uid of every stored event, in order.
func (r *rig) names() []string {
	r.t.Helper()
	var names []string
	for _, m := range r.messages("MAIL_EVENTS") {
		e, err := event.Decode(m.Data)
		if err != nil {
			r.t.Fatal(err)
		}
		names = append(names, e.Message.ID)
	}
	return names
}

func (r *rig) putMany(from, to int) (names []string) {
	r.t.Helper()
	for i := from; i < to; i++ {
		names = append(names, fmt.Sprintf("m%03d", i))
		r.put(sent(names[len(names)-1]))
	}
	return names
}

// conserved checks what operators rely on: received = published + duplicate +
// quarantined + abandoned + pending.
func conserved(t *testing.T, reg *prometheus.Registry) (total map[string]float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	total = map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			total[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	in := total["blessd_events_received_total"]
	out := total["blessd_events_published_total"] + total["blessd_events_duplicate_total"] + total["blessd_events_quarantined_total"] +
		total["blessd_events_abandoned_total"] + total["blessd_publish_pending"]
	if in != out {
		t.Errorf("received %v, published + duplicate + quarantined + abandoned + pending %v", in, out)
	}
	return total
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: got %s, want %s", what, g, w)
	}
}

func TestRelayInOrder(t *testing.T) {
	r := newRig(t)
	want := r.putMany(0, 200)
	relay, reg := r.relay()
	r.drain(relay)
	equal(t, "events", r.names(), want)
	total := conserved(t, reg)
	equal(t, "published", total["blessd_events_published_total"], 200)
	equal(t, "cursor", r.journal.Cursor().Index, 200)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
}

// What a restart must not hide: for how long an endpoint has been silent. What is
// replayed is no sign of life.
func TestLastReceived(t *testing.T) {
	r := newRig(t)
	at := func(reg *prometheus.Registry) (s float64) {
		return conserved(t, reg)["blessd_event_last_received_timestamp_seconds"]
	}
	r.put(sent("a"))
	late := sent("b")
	late.Received = late.Received.Add(time.Hour)
	r.put(late)
	r.put(sent("c")) // of an hour before
	relay, reg := r.relay()
	equal(t, "before the first", at(reg), 0)
	r.drain(relay)
	equal(t, "newest", at(reg), float64(late.Received.Unix()))

	last := sent("d")
	last.Received = late.Received.Add(time.Hour)
	r.put(last)
	relay, _ = r.relay()
	r.drain(relay)
	relay, reg = r.relay()
	r.drain(relay)
	equal(t, "after a restart", at(reg), float64(last.Received.Unix()))
}

func TestBounceClasses(t *testing.T) {
	r := newRig(t)
	for i, class := range []event.BounceClass{event.BounceHard, event.BounceSoft, event.BounceSoft, ""} {
		r.put(sent(fmt.Sprint("m", i, ":", class)))
	}
	r.put(sent("delivered"))
	relay, reg := r.relay()
	relay.each = func(d *delivery.Delivery) iter.Seq[normalize.Result] {
		return func(yield func(normalize.Result) bool) {
			for result := range normalize.Each(d) {
				if _, class, found := strings.Cut(result.Event.Message.ID, ":"); found {
					result.Event.Type, result.Event.Bounce = event.EmailBounced, &event.Bounce{Class: event.BounceClass(class)}
				}
				if !yield(result) {
					return
				}
			}
		}
	}
	r.drain(relay)
	want := `
# HELP blessd_events_bounced_total Events of type email.bounced that NATS has acknowledged, by the class of the bounce.
# TYPE blessd_events_bounced_total counter
blessd_events_bounced_total{class="hard",endpoint="ru",provider="enkod"} 1
blessd_events_bounced_total{class="soft",endpoint="ru",provider="enkod"} 2
blessd_events_bounced_total{class="unknown",endpoint="ru",provider="enkod"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "blessd_events_bounced_total"); err != nil {
		t.Error(err)
	}
}

func TestNoDoublesAfterCrash(t *testing.T) {
	r := newRig(t)
	want := r.putMany(0, 50)
	relay, _ := r.relay()
	r.drain(relay)

	// Crashes, each after more was published than the cursor knows. The windows
	// have long passed when the next relay starts.
	for n := 50; n < 200; n += 50 {
		want = append(want, r.putMany(n, n+50)...)
		relay, _ = r.relay()
		r.crash(relay, uint64(n+25))
		time.Sleep(2 * r.window)
	}
	relay, reg := r.relay()
	r.drain(relay)
	equal(t, "events", r.names(), want)
	total := conserved(t, reg)
	if total["blessd_events_duplicate_total"] == 0 {
		t.Error("no duplicate was found: the crashes left nothing to skip, and this test shows nothing")
	}
}

// TestSecondCrashWhileSkipping has a record of which half was published before a
// first crash, and the other half before a second one: the position noted for it
// must be the one of before the first.
func TestSecondCrashWhileSkipping(t *testing.T) {
	r := newRig(t)
	var body []string
	for i := range 10 {
		body = append(body, fmt.Sprintf(`{"event":"message sent","message_uid":"b%d","to":"u@example.com"}`, i))
	}
	r.put(sent("first"))
	r.put(enkod("[" + strings.Join(body, ",") + "]"))
	release := make(chan struct{})
	defer close(release)
	for _, n := range []int{3, 6} {
		relay, _ := r.relay()
		reached := make(chan struct{})
		relay.each = func(d *delivery.Delivery) iter.Seq[normalize.Result] {
			return func(yield func(normalize.Result) bool) {
				i := 0
				for result := range normalize.Each(d) {
					if i++; i > n {
						close(reached)
						<-release
						return
					}
					if !yield(result) {
						return
					}
				}
			}
		}
		ctx, crash := context.WithCancel(context.Background())
		defer crash()
		go relay.run(ctx)
		<-reached
		crash()
		r.wait("what was sent to be stored", func() bool { return len(r.messages("MAIL_EVENTS")) == 1+n })
		// What a cursor behind the first record would have said.
		if err := relay.writeCursor(context.Background(), mark{index: 1, at: relay.started[len(relay.started)-1].at}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * r.window)
	}
	relay, _ := r.relay()
	r.drain(relay)
	equal(t, "events", r.names(), "[first b0 b1 b2 b3 b4 b5 b6 b7 b8 b9]")
}

func TestNATSAway(t *testing.T) {
	r := newRig(t)
	relay, reg := r.relay()
	done := make(chan error, 1)
	go func() { done <- relay.Run(context.Background()) }()
	want := r.putMany(0, 50)
	for n := 50; n < 200; n += 50 {
		restarted := make(chan error, 1)
		go func() { restarted <- r.embedded.Restart(context.Background()) }()
		want = append(want, r.putMany(n, n+50)...)
		if err := <-restarted; err != nil {
			t.Fatal(err)
		}
	}
	r.wait("everything to be settled", func() bool { return relay.Status().Settled == 200 })
	relay.Stop(context.Background())
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	stored := map[string]int{}
	for _, name := range r.names() {
		stored[name]++
	}
	for _, name := range want {
		if stored[name] != 1 {
			t.Errorf("%s is stored %d times, want once", name, stored[name])
		}
	}
	conserved(t, reg)
}

func TestWhatNoStreamTakes(t *testing.T) {
	r := newRig(t)
	huge := strings.Repeat("x", 9<<20) // over max_payload, as an event and in quarantine
	r.put(sent("before"))
	r.put(enkod(`{"event":"message sent","message_uid":"huge","name":"` + huge + `"}`))
	r.put(enkod(`{"event":`)) // authentic and cut short
	r.put(sent("after"))
	relay, reg := r.relay()
	r.drain(relay)
	equal(t, "events", r.names(), "[before after]")
	quarantined := r.messages("MAIL_QUARANTINE")
	if len(quarantined) != 1 {
		t.Fatalf("%d messages in quarantine, want 1", len(quarantined))
	}
	q := quarantined[0]
	equal(t, "quarantined body", string(q.Data), `{"event":`)
	equal(t, "quarantine reason", q.Header.Get("Blessd-Reason"), "unreadable_body")
	equal(t, "quarantine record", q.Header.Get("Blessd-Record"), 3)
	files, err := filepath.Glob(filepath.Join(r.dir, "oversize", strings.Repeat("?", 64)))
	if err != nil || len(files) != 1 {
		t.Fatalf("oversize files %v %v, want one", files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil || !strings.Contains(string(b), huge) {
		t.Errorf("the oversize file has %d bytes and not the body (%v)", len(b), err)
	}
	total := conserved(t, reg)
	equal(t, "quarantined", total["blessd_events_quarantined_total"], 2)
	equal(t, "cursor", r.journal.Cursor().Index, 4)
}

// TestOversizeMeta has equal bytes of two deliveries: one file, two descriptions.
func TestOversizeMeta(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "oversize")
	for _, id := range []string{strings.Repeat("a", 32), strings.Repeat("b", 32), strings.Repeat("a", 32)} {
		if _, err := writeOversize(dir, &sink.Quarantined{Provider: "enkod", Endpoint: "ru", ID: id, Raw: []byte("equal")}); err != nil {
			t.Fatal(err)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "files", len(files), 3)
}

func TestEraseOversize(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "oversize")
	for id, raw := range map[string]string{"a": "about me", "b": "about me", "c": "about you"} {
		if _, err := writeOversize(dir, &sink.Quarantined{Provider: "enkod", Endpoint: "ru", ID: id, Raw: []byte(raw)}); err != nil {
			t.Fatal(err)
		}
	}
	about := func(b []byte) bool { return strings.Contains(string(b), "me") }
	for _, c := range []struct {
		dryRun               bool
		seen, matched, files int
	}{{true, 3, 2, 5}, {false, 3, 2, 2}, {false, 1, 0, 2}} {
		seen, matched, err := EraseOversize(dir, about, c.dryRun)
		if err != nil || seen != c.seen || matched != c.matched {
			t.Errorf("dry run %v: %d of %d, %v; want %d of %d", c.dryRun, matched, seen, err, c.matched, c.seen)
		}
		if files, err := os.ReadDir(dir); err != nil || len(files) != c.files {
			t.Errorf("dry run %v: %d files are left, want %d", c.dryRun, len(files), c.files)
		}
	}
	if seen, matched, err := EraseOversize(filepath.Join(dir, "none"), about, false); seen+matched != 0 || err != nil {
		t.Errorf("without a directory: %d of %d, %v", matched, seen, err)
	}
}

func TestQuarantineFull(t *testing.T) {
	r := newRig(t)
	r.quarantineBytes = 64 << 10
	for i := range 20 {
		r.put(enkod(fmt.Sprintf(`{"n":%d,%s`, i, strings.Repeat(" ", 10<<10))))
	}
	r.put(sent("after"))
	relay, reg := r.relay()
	r.drain(relay)
	equal(t, "events", r.names(), "[after]")
	files, err := filepath.Glob(filepath.Join(r.dir, "oversize", strings.Repeat("?", 64)))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.messages("MAIL_QUARANTINE")); n == 0 || n+len(files) != 20 {
		t.Errorf("%d in quarantine and %d files, want 20 together and some of both", n, len(files))
	}
	equal(t, "quarantined", conserved(t, reg)["blessd_events_quarantined_total"], 20)
}

func TestUnreadableRecords(t *testing.T) {
	r := newRig(t)
	good := delivery.Encode(sent("good"))
	damaged := append([]byte(nil), good...)
	damaged[len(damaged)-3] ^= 1
	newer := append([]byte(nil), good...)
	newer[0] = 99
	for _, b := range [][]byte{damaged, newer, good} {
		if err := r.journal.Append(context.Background(), b); err != nil {
			t.Fatal(err)
		}
	}
	relay, reg := r.relay()
	r.drain(relay)
	equal(t, "events", r.names(), "[good]")
	var reasons []string
	for _, m := range r.messages("MAIL_QUARANTINE") {
		reasons = append(reasons, m.Header.Get("Blessd-Reason"))
	}
	equal(t, "reasons", reasons, "[damaged_record newer_version]")
	conserved(t, reg)
}

func TestNormalizerPanic(t *testing.T) {
	r := newRig(t)
	r.put(sent("poison"))
	r.put(sent("after"))
	relay, reg := r.relay()
	relay.each = func(d *delivery.Delivery) iter.Seq[normalize.Result] {
		if strings.Contains(string(d.Body), "poison") {
			panic("index out of range")
		}
		return normalize.Each(d)
	}
	r.drain(relay)
	equal(t, "events", r.names(), "[after]")
	q := r.messages("MAIL_QUARANTINE")
	if len(q) != 1 || q[0].Header.Get("Blessd-Reason") != ReasonPanic || !strings.Contains(string(q[0].Data), "poison") {
		t.Errorf("quarantine has %d messages, want the one body with reason %s", len(q), ReasonPanic)
	}
	conserved(t, reg)
}

// TestLag has a server that syncs later than it acknowledges: the cursor waits.
func TestLag(t *testing.T) {
	r := newRig(t)
	r.putMany(0, 5)
	relay, _ := r.relay()
	relay.Lag = time.Hour
	r.drain(relay)
	equal(t, "events", len(r.names()), 5)
	equal(t, "cursor", r.journal.Cursor().Index, 0)
	relay, _ = r.relay()
	r.drain(relay)
	equal(t, "events after the restart", len(r.names()), 5)
	equal(t, "cursor after the restart", r.journal.Cursor().Index, 5)
}

func TestPosition(t *testing.T) {
	want := position{{seq: 7, created: time.Unix(1, 2).UTC()}, {seq: 9, created: time.Unix(3, 4).UTC()}}
	got, err := parsePosition(want.bytes())
	if err != nil || got != want {
		t.Errorf("got %v %v, want %v", got, err, want)
	}
	for _, bad := range [][]byte{{2}, {1, 2, 3}, append(want.bytes(), 0)} {
		if _, err := parsePosition(bad); err == nil {
			t.Errorf("parsePosition(%v) succeeded", bad)
		}
	}
	if p, err := parsePosition(nil); err != nil || p != (position{}) {
		t.Errorf("a new journal: %v %v, want the zero position", p, err)
	}
}

// TestLostAcks has messages whose PubAcks never came though the stream has them,
// and an outage that outlasted the duplicate window.
func TestLostAcks(t *testing.T) {
	r := newRig(t)
	relay, reg := r.relay()
	ctx := context.Background()
	if err := relay.begin(ctx); err != nil {
		t.Fatal(err)
	}
	want := r.putMany(0, 10)
	for index := uint64(1); index <= 10; index++ {
		if err := relay.relayRecord(ctx, index); err != nil {
			t.Fatal(err)
		}
	}
	relay.pending.each(func(it *item) {
		if it.end {
			return
		}
		<-it.future.Ok()
		it.future = newSettled(nil, jetstream.ErrAsyncPublishTimeout)
	})
	time.Sleep(2 * r.window)
	for relay.pending.len() > 0 {
		if err := relay.settleHead(ctx); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "events", r.names(), want)
	equal(t, "published", conserved(t, reg)["blessd_events_published_total"], 10)
}

// TestStopBeforeNATS stops a relay that has never reached its streams.
func TestStopBeforeNATS(t *testing.T) {
	r := newRig(t)
	r.putMany(0, 3)
	relay, _ := r.relay()
	r.embedded.Shutdown(context.Background())
	done := make(chan error, 1)
	go func() { done <- relay.Run(context.Background()) }()
	r.wait("the relay to wait", func() bool { return relay.Status().State == "waiting" })
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	relay.Stop(ctx)
	if err := <-done; err != nil {
		t.Error(err)
	}
	equal(t, "cursor", r.journal.Cursor().Index, 0)
}

func TestRefused(t *testing.T) {
	api := func(status int) error { return &jetstream.APIError{Code: status, ErrorCode: 1} }
	for _, tt := range []struct {
		err   error
		tries int
		final bool
	}{
		{nats.ErrMaxPayload, 0, true},
		{api(400), maxTries - 1, false},
		{api(400), maxTries, true},
		{api(429), 100, false}, // three blessd may drain into one stream at once
		{api(409), 100, false},
		{api(500), 100, false},
		{jetstream.ErrAsyncPublishTimeout, 100, false},
	} {
		if _, final := (&item{tries: tt.tries}).refused(tt.err); final != tt.final {
			t.Errorf("%v after %d tries: final %v, want %v", tt.err, tt.tries, final, tt.final)
		}
	}
}
