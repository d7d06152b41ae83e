package relay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/normalize"
	"github.com/blessd/blessd/sink"
)

// stored returns what is left in a stream, in order.
func (r *rig) stored(stream string) (ms []*jetstream.RawStreamMsg) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := r.js.Stream(ctx, stream)
	if err != nil {
		r.t.Fatal(err)
	}
	state := s.CachedInfo().State
	for seq := state.FirstSeq; uint64(len(ms)) < state.Msgs; seq++ {
		m, err := s.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(">"))
		if err != nil {
			r.t.Fatal(err)
		}
		seq = m.Sequence
		ms = append(ms, m)
	}
	return ms
}

// replay replays with a new relay, as it is today.
func (r *rig) replay(o ReplayOptions) (ReplaySummary, *prometheus.Registry) {
	r.t.Helper()
	relay, reg := r.relay()
	sum, err := relay.Replay(r.t.Context(), o)
	if err != nil {
		r.t.Fatal(err)
	}
	return sum, reg
}

// relayed relays everything with a normalizer that is wrong.
func (r *rig) relayed(wrong func(*delivery.Delivery) iter.Seq[normalize.Result]) {
	r.t.Helper()
	relay, _ := r.relay()
	relay.each = wrong
	r.drain(relay)
}

// pastTheWindow waits until the server has forgotten the ids of now.
func (r *rig) pastTheWindow() {
	start := time.Now()
	r.wait("the duplicate window to pass", func() bool { return time.Since(start) > 3*r.window })
}

func reject(d *delivery.Delivery, element, occurrence int, raw []byte) normalize.Result {
	sum := sha256.Sum256(raw)
	contentType := "application/json"
	if element < 0 {
		contentType = d.ContentType
	}
	return normalize.Result{Element: element, Occurrence: occurrence, Reject: &normalize.Reject{
		Reason: normalize.ReasonTooComplex, Raw: raw, ContentType: contentType,
		ID: event.NewID(d.Provider, d.Endpoint, []string{"reject", hex.EncodeToString(sum[:])}, occurrence),
	}}
}

// The normalizers that are wrong.
var wrongs = map[string]func(*delivery.Delivery) iter.Seq[normalize.Result]{
	"whole bodies": func(d *delivery.Delivery) iter.Seq[normalize.Result] {
		return func(yield func(normalize.Result) bool) { yield(reject(d, -1, 0, d.Body)) }
	},
	"every element": func(d *delivery.Delivery) iter.Seq[normalize.Result] {
		return func(yield func(normalize.Result) bool) {
			equal := map[string]int{}
			last := -1
			for result := range normalize.Each(d) {
				if result.Reject != nil || result.Element == last {
					continue
				}
				last = result.Element
				raw := result.Event.RawBytes()
				if !yield(reject(d, last, equal[string(raw)], raw)) {
					return
				}
				equal[string(raw)]++
			}
		}
	},
	"panic after the first event": func(d *delivery.Delivery) iter.Seq[normalize.Result] {
		return func(yield func(normalize.Result) bool) {
			for result := range normalize.Each(d) {
				if !yield(result) {
					return
				}
				panic("wrong")
			}
		}
	},
}

// deliveries are of every provider: batches, forms, equal elements and elements of
// several events, events without a time of their own, a test, a trace.
func deliveries() []*delivery.Delivery {
	received := time.Date(2026, 11, 21, 17, 22, 17, 123456789, time.UTC)
	var ds []*delivery.Delivery
	add := func(provider, contentType, body string) *delivery.Delivery {
		received = received.Add(time.Second + time.Nanosecond)
		d := &delivery.Delivery{Provider: provider, Endpoint: "ru", Received: received, Method: "POST", ContentType: contentType, Body: []byte(body)}
		ds = append(ds, d)
		return d
	}
	open := `{"event":"open","_id":"A.1","x_unique_id":"u","ts":1465890656000,"msg":{"opens":[{"openTs":1465890656000,"openIp":"192.0.2.1"},{"openTs":1465890656000,"openIp":"192.0.2.1"},{"openTs":1465890657000}]}}`
	add("sendclean", "application/json", "["+open+`,{"event":"send","_id":"A.1","ts":1465890656000},`+open+`,{"event":"send","_id":"A.2"}]`)
	add("sarv", "application/x-www-form-urlencoded", "sarvtes_events=%5B%7B%22event%22%3A%22send%22%2C%22_id%22%3A%22A.1%22%7D%5D").
		Verified = delivery.Verification{Method: delivery.BySignature, Sample: true}
	click := `{"event":"message clicked","message_uid":"u","to":"t","click_url":"https://example.com/"}`
	add("enkod", "application/json", "["+strings.Join([]string{click, click, click}, ",")+"]").
		Header = []delivery.Field{{Name: "Traceparent", Value: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}
	// Equal bytes are one body to the quarantine, so these are other ones.
	add("enkod", "application/json", strings.Replace(click, `"u"`, `"v"`, 1))
	add("vision6", "application/json", `[{"object":"contact","event":"created","list_id":1,"contact_id":2,"timestamp":1465890656},{"object":"list","event":"updated","list_id":1}]`)
	add("mailgun", "application/json", `{"signature":{},"event-data":{"event":"opened","id":"i","timestamp":1521233195.375624}}`)
	add("mailgun", "application/x-www-form-urlencoded", "event=clicked&timestamp=1465890656&token=t&signature=s&recipient=user%40example.com&url=%22x%22&bad=%FF\n")
	boundary := "--b\r\nContent-Disposition: form-data; name=\"event\"\r\n\r\ndropped\r\n--b\r\nContent-Disposition: form-data; name=\"timestamp\"\r\n\r\n1465890656\r\n--b--\r\n"
	add("mailgun", "multipart/form-data; boundary=b", boundary)
	return ds
}

// published is an event as consumers see it.
func published(m *jetstream.RawStreamMsg) string {
	return fmt.Sprintf("%s %v %s", m.Subject, m.Header, m.Data)
}

// expected are the events that a right normalizer makes, by id.
func (r *rig) expected(ds []*delivery.Delivery) map[string]string {
	r.t.Helper()
	relay, _ := r.relay()
	want := map[string]string{}
	for _, d := range ds {
		for result := range normalize.Each(d) {
			m, err := relay.Sink.EventMessage(result.Event, d.Get("Traceparent"))
			if err != nil {
				r.t.Fatal(err)
			}
			want[result.Event.ID] = fmt.Sprintf("%s %v %s", m.Subject, m.Header, m.Data)
		}
	}
	return want
}

// compare wants exactly these events, each once.
func (r *rig) compare(want map[string]string) {
	r.t.Helper()
	got := map[string]string{}
	for _, m := range r.stored("MAIL_EVENTS") {
		m.Header.Del("Nats-Expected-Stream")
		id := m.Header.Get("Nats-Msg-Id")
		if got[id] != "" {
			r.t.Errorf("%s is there twice", id)
		}
		got[id] = published(m)
	}
	for id, text := range want {
		if got[id] != text {
			r.t.Errorf("event %s:\ngot  %s\nwant %s", id, got[id], text)
		}
	}
	for id, text := range got {
		if want[id] == "" {
			r.t.Errorf("an event that nobody sent: %s", text)
		}
	}
}

// What a wrong normalizer did not understand is what it would have been, once the
// normalizer is right.
func TestReplay(t *testing.T) {
	for name, wrong := range wrongs {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			ds := deliveries()
			for _, d := range ds {
				r.put(d)
			}
			r.relayed(wrong)
			want := r.expected(ds)
			before := r.stored("MAIL_QUARANTINE")
			r.pastTheWindow()

			// Still wrong: it stays.
			relay, _ := r.relay()
			relay.each = wrongs["whole bodies"]
			relay.element = func(d *delivery.Delivery, element, equal int) iter.Seq[normalize.Result] {
				return func(yield func(normalize.Result) bool) { yield(reject(d, element, equal, d.Body)) }
			}
			sum, err := relay.Replay(t.Context(), ReplayOptions{})
			if err != nil || sum.Chosen != len(before) || sum.Stayed["too_complex"] != len(before) || sum.Understood != 0 {
				t.Fatalf("still wrong: %+v, %v", sum, err)
			}

			// A dry run says what would come of it and changes nothing.
			events := len(r.stored("MAIL_EVENTS"))
			dry, _ := r.replay(ReplayOptions{DryRun: true})
			if len(r.stored("MAIL_EVENTS")) != events || len(r.stored("MAIL_QUARANTINE")) != len(before) {
				t.Fatal("a dry run has changed something")
			}

			sum, reg := r.replay(ReplayOptions{})
			equal(t, "the dry run's summary", dry, sum)
			equal(t, "understood", sum.Understood, len(before))
			equal(t, "left", len(r.stored("MAIL_QUARANTINE")), 0)
			r.compare(want)
			n := 0
			for _, k := range sum.Events {
				n += k
			}
			equal(t, "events", n, len(want)-events)
			total := conserved(t, reg)
			equal(t, "published", total["blessd_events_published_total"], n)
			equal(t, "duplicates", total["blessd_events_duplicate_total"], sum.AlreadyPublished)

			sum, _ = r.replay(ReplayOptions{})
			equal(t, "a second replay", sum, ReplaySummary{Phase: "done", Events: map[string]int{}, Stayed: map[string]int{}})
		})
	}
}

// However it ends, it may be repeated: what was published is not published twice, be
// the duplicate window over or not.
func TestReplayInterrupted(t *testing.T) {
	r := newRig(t)
	ds := deliveries()
	for _, d := range ds {
		r.put(d)
	}
	r.relayed(wrongs["every element"])
	before := len(r.stored("MAIL_QUARANTINE"))
	want := r.expected(ds)

	relay, _ := r.relay()
	broken := errors.New("broken")
	relay.Sync = func(context.Context) error { return broken } // all is published, and nothing is safe
	if _, err := relay.Replay(t.Context(), ReplayOptions{}); !errors.Is(err, broken) {
		t.Fatalf("got %v, want the error of the sync", err)
	}
	r.compare(want)
	equal(t, "left", len(r.stored("MAIL_QUARANTINE")), before)
	r.pastTheWindow()

	relay, _ = r.relay()
	ctx, stop := context.WithCancel(t.Context())
	if _, err := relay.Replay(ctx, ReplayOptions{Progress: func(s ReplaySummary) {
		if s.Understood == 2 {
			stop()
		}
	}}); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want that it was stopped", err)
	}
	equal(t, "left", len(r.stored("MAIL_QUARANTINE")), before-2)
	r.pastTheWindow()
	sum, _ := r.replay(ReplayOptions{})
	equal(t, "understood", sum.Understood, before-2)
	equal(t, "new events", sum.Events, map[string]int{})
	r.compare(want)
	equal(t, "left", len(r.stored("MAIL_QUARANTINE")), 0)
}

// What is understood but for an element leaves that element behind.
func TestReplaySplits(t *testing.T) {
	r := newRig(t)
	r.put(enkod(`[{"event":"message sent","message_uid":"a","to":"u"},1,{"event":"message sent","message_uid":"b","to":"u"},1]`))
	r.put(enkod(`[1,2]`))
	r.put(enkod(`[]`))
	r.put(enkod(`no JSON`))
	r.relayed(wrongs["whole bodies"])
	dry, _ := r.replay(ReplayOptions{DryRun: true})
	sum, reg := r.replay(ReplayOptions{})
	equal(t, "summary", sum, ReplaySummary{
		Phase: "done", Chosen: 4, Done: 4, Understood: 2, Events: map[string]int{"email.sent": 2}, Elements: 2,
		Stayed: map[string]int{"unreadable_element": 1, "unreadable_body": 1},
	})
	equal(t, "the dry run's", dry, sum)
	conserved(t, reg)
	equal(t, "events", r.names(), "[a b]")
	var left []string
	for _, m := range r.stored("MAIL_QUARANTINE") {
		q, err := sink.ParseQuarantined(m.Header, m.Data)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, fmt.Sprint(q.Element, " ", q.Occurrence, " ", q.Reason, " ", string(q.Raw)))
	}
	equal(t, "left", left, []string{"-1 0 too_complex [1,2]", "-1 0 too_complex no JSON", "1 0 unreadable_element 1", "3 1 unreadable_element 1"})
}

func TestReplayChooses(t *testing.T) {
	r := newRig(t)
	ds := deliveries()
	for _, d := range ds {
		r.put(d)
	}
	r.relayed(wrongs["whole bodies"])
	type chosen struct {
		provider, endpoint, reason string
		received                   time.Time
	}
	var all []chosen
	sum, _ := r.replay(ReplayOptions{Choose: func(provider, endpoint, reason string, received time.Time) bool {
		all = append(all, chosen{provider, endpoint, reason, received})
		return provider == "vision6"
	}})
	equal(t, "chosen", sum.Chosen, 1)
	equal(t, "understood", sum.Understood, 1)
	equal(t, "left", len(r.stored("MAIL_QUARANTINE")), len(ds)-1)
	for i, d := range ds {
		equal(t, "asked for", all[i], chosen{d.Provider, d.Endpoint, "too_complex", d.Received})
	}
}

// A file of the oversize directory is what the quarantine had no room for.
func TestReplayOversize(t *testing.T) {
	r := newRig(t)
	ds := deliveries()
	for _, d := range ds {
		r.put(d)
	}
	r.quarantineBytes = 1 << 10 // room for one or two
	r.relayed(wrongs["whole bodies"])
	dir := filepath.Join(r.dir, "oversize")
	files := func() int {
		names, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return len(names)
	}
	if files() < 2*len(ds)-4 {
		t.Fatalf("%d files for %d deliveries: this test shows nothing", files(), len(ds))
	}
	// What a replay left that was killed between two removals.
	for _, name := range []string{"0123.4567.json", "89ab"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	before := files()
	inStream := len(r.stored("MAIL_QUARANTINE"))
	if sum, _ := r.replay(ReplayOptions{DryRun: true, Oversize: true}); sum.Understood != len(ds) || sum.Foreign != 1 || files() != before {
		t.Fatalf("dry run: %+v, and %d files of %d", sum, files(), before)
	}
	sum, _ := r.replay(ReplayOptions{})
	equal(t, "understood without the files", sum.Understood, inStream)
	sum, _ = r.replay(ReplayOptions{Oversize: true})
	equal(t, "understood", sum.Understood, len(ds)-inStream)
	equal(t, "files", files(), 2)
	r.compare(r.expected(ds))
}

// Records that could not be decoded, and single events that the stream refused.
func TestReplayOtherReasons(t *testing.T) {
	r := newRig(t)
	relay, _ := r.relay()
	if err := relay.Sink.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	put := func(q sink.Quarantined) {
		t.Helper()
		m, err := relay.Sink.QuarantineMessage(q)
		if err != nil {
			t.Fatal(err)
		}
		f, err := relay.Sink.Publish(m)
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-f.Ok():
		case err := <-f.Err():
			t.Fatal(err)
		}
	}
	ds := deliveries()
	record := func(reason string, raw []byte) sink.Quarantined {
		return sink.Quarantined{
			Provider: Unknown, Endpoint: Unknown, Reason: reason, Element: -1, Received: ds[0].Received, ContentType: "application/octet-stream",
			ID: event.NewID(Unknown, Unknown, []string{reason, string(raw)}, 0), Raw: raw,
		}
	}
	put(record(ReasonVersion, delivery.Encode(ds[1]))) // readable today
	newer := delivery.Encode(ds[2])
	newer[0]++
	put(record(ReasonVersion, newer))
	put(record(ReasonDamaged, []byte("damaged")))
	want := r.expected(ds[1:2])

	// Of the element's three events, twice in the request, one was refused.
	var results []normalize.Result
	for result := range normalize.Each(ds[0]) {
		results = append(results, result)
	}
	for _, i := range []int{1, 5, 6} {
		e := results[i].Event
		put(sink.Quarantined{
			Provider: e.Provider, Endpoint: e.Endpoint, ID: e.ID, Reason: ReasonTooLarge, Received: ds[0].Received, Element: results[i].Element,
			Occurrence: results[i].Occurrence, ContentType: "application/json", Raw: e.RawBytes(),
		})
	}
	all := r.expected(ds[:1])
	for _, i := range []int{1, 5, 6} {
		want[results[i].Event.ID] = all[results[i].Event.ID]
	}
	// One that is too large today as well.
	large := enkod(`{"event":"message open","message_uid":"` + strings.Repeat("x", 5<<20) + `","to":"u"}`)
	for result := range normalize.Each(large) {
		put(sink.Quarantined{
			Provider: "enkod", Endpoint: "ru", ID: result.Event.ID, Reason: ReasonTooLarge, Received: large.Received, ContentType: "application/json", Raw: large.Body,
		})
	}
	dry, _ := r.replay(ReplayOptions{DryRun: true})
	sum, reg := r.replay(ReplayOptions{})
	equal(t, "the dry run's", dry, sum)
	equal(t, "understood", sum.Understood, 4)
	equal(t, "stayed", sum.Stayed, map[string]int{ReasonVersion: 1, ReasonDamaged: 1, ReasonTooLarge: 1})
	equal(t, "left", len(r.stored("MAIL_QUARANTINE")), 3)
	conserved(t, reg)
	r.compare(want)
}

// A replay and the relay are in nobody's way.
func TestReplayBesideTheRelay(t *testing.T) {
	r := newRig(t)
	r.window = time.Minute
	var want []string
	for i := range 300 {
		want = append(want, fmt.Sprintf("q%03d", i))
		r.put(sent(want[i]))
	}
	r.relayed(wrongs["whole bodies"])
	relay, reg := r.relay()
	done := make(chan error, 1)
	go func() { done <- relay.Run(context.Background()) }()
	more := r.putMany(0, 300)
	started := make(chan struct{})
	first := true
	replayed := make(chan error, 1)
	go func() {
		_, err := relay.Replay(t.Context(), ReplayOptions{Progress: func(ReplaySummary) {
			if first {
				first = false
				close(started)
			}
		}})
		replayed <- err
	}()
	<-started
	if _, err := relay.Replay(t.Context(), ReplayOptions{}); err != nil && !errors.Is(err, ErrReplaying) {
		t.Errorf("a second one: %v", err)
	}
	more = append(more, r.putMany(300, 600)...)
	if err := <-replayed; err != nil {
		t.Fatal(err)
	}
	r.wait("everything to be settled", func() bool { return relay.Status().Settled == 900 })
	relay.Stop(context.Background())
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got := r.names()
	slices.Sort(got)
	all := append(want, more...)
	slices.Sort(all)
	equal(t, "events", got, all)
	conserved(t, reg)

	// On a server that syncs later the deletion waits for it.
	r.put(sent("late"))
	r.relayed(wrongs["whole bodies"])
	relay, _ = r.relay()
	relay.Sync, relay.Lag = nil, 10*time.Millisecond
	phases := map[string]bool{}
	if sum, err := relay.Replay(t.Context(), ReplayOptions{Progress: func(s ReplaySummary) { phases[s.Phase] = true }}); err != nil || sum.Understood != 1 {
		t.Errorf("got %+v, %v", sum, err)
	}
	for _, phase := range []string{"reading", "comparing", "publishing", "waiting", "done"} {
		if !phases[phase] {
			t.Errorf("there was no phase %s", phase)
		}
	}
}
