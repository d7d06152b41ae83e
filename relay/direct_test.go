package relay

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/normalize"
)

// direct returns a Direct on the rig's streams, which it makes.
func (r *rig) direct(window int) (*Direct, *prometheus.Registry) {
	r.t.Helper()
	relay, _ := r.relay() // for its sink
	reg := prometheus.NewPedanticRegistry()
	d, err := NewDirect(DirectOptions{Sink: relay.Sink, Sync: r.embedded.Sync, OversizeDir: filepath.Join(r.dir, "oversize"), Window: window, LateAfter: time.Hour, Registry: reg})
	if err != nil {
		r.t.Fatal(err)
	}
	d.SetEndpoints([]Endpoint{{"enkod", "ru"}})
	if err := d.Ready(); err == nil {
		r.t.Error("ready before the streams were looked up")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := d.Run(ctx); err != nil {
			r.t.Error(err)
		}
	}()
	r.t.Cleanup(func() { cancel(); <-done })
	r.wait("the streams", func() bool { return d.Ready() == nil })
	return d, reg
}

func offer(d *Direct, dl *delivery.Delivery, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return d.Put(ctx, dl)
}

func batch(name string, n int) *delivery.Delivery {
	var body []string
	for i := range n {
		body = append(body, fmt.Sprintf(`{"event":"message sent","message_uid":"%s-%d","to":"u@example.com"}`, name, i))
	}
	return enkod("[" + strings.Join(body, ",") + "]")
}

// TestDirect has more senders and larger batches than fit the window. Whatever
// was acknowledged is stored when Put returns.
func TestDirect(t *testing.T) {
	r := newRig(t)
	r.window = time.Minute
	d, reg := r.direct(8)
	var wg sync.WaitGroup
	for s := range 8 {
		wg.Go(func() {
			for n := range 5 {
				if err := offer(d, batch(fmt.Sprintf("b%d-%d", s, n), 20), 30*time.Second); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	stored := map[string]bool{}
	for _, name := range r.names() {
		stored[name] = true
	}
	equal(t, "events", len(stored), 8*5*20)
	// The provider repeats itself.
	if err := offer(d, batch("b0-0", 20), 30*time.Second); err != nil {
		t.Error(err)
	}
	total := conserved(t, reg)
	equal(t, "published", total["blessd_events_published_total"], 800)
	equal(t, "duplicate", total["blessd_events_duplicate_total"], 20)
	equal(t, "pending", total["blessd_publish_pending"], 0)
	equal(t, "slots", len(d.slots), 0)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
}

func TestDirectWhatNoStreamTakes(t *testing.T) {
	r := newRig(t)
	d, reg := r.direct(8)
	d.each = func(dl *delivery.Delivery) iter.Seq[normalize.Result] {
		if strings.Contains(string(dl.Body), "poison") {
			panic("index out of range")
		}
		return normalize.Each(dl)
	}
	huge := strings.Repeat("x", 9<<20) // over max_payload, as an event and in quarantine
	for _, dl := range []*delivery.Delivery{
		sent("before"),
		enkod(`{"event":"message sent","message_uid":"huge","name":"` + huge + `"}`),
		enkod(`{"event":`),
		sent("poison"),
		sent("after"),
	} {
		if err := offer(d, dl, 10*time.Second); err != nil {
			t.Errorf("%.60s: %v", dl.Body, err)
		}
	}
	equal(t, "events", r.names(), "[before after]")
	var reasons []string
	for _, m := range r.messages("MAIL_QUARANTINE") {
		reasons = append(reasons, m.Header.Get("Blessd-Reason"))
	}
	equal(t, "quarantined", reasons, "[unreadable_body normalizer_panic]")
	files, err := filepath.Glob(filepath.Join(r.dir, "oversize", strings.Repeat("?", 64)))
	if err != nil || len(files) != 1 {
		t.Errorf("oversize files %v %v, want one", files, err)
	}
	equal(t, "quarantined", conserved(t, reg)["blessd_events_quarantined_total"], 3)
	equal(t, "slots", len(d.slots), 0)

	// What is quarantined whole has the same id when it comes again.
	first, again := wholeDelivery(sent("poison"), 0, ReasonPanic), sent("poison")
	again.Received = again.Received.Add(time.Hour)
	equal(t, "id of a repetition", wholeDelivery(again, 0, ReasonPanic).ID, first.ID)
}

// TestDirectRefuses has NATS without a stream, and with one that is full: no
// delivery is acknowledged, and afterwards it goes on by itself.
func TestDirectRefuses(t *testing.T) {
	r := newRig(t)
	r.window = time.Minute
	d, reg := r.direct(8)
	ctx := context.Background()

	s, err := r.js.Stream(ctx, "MAIL_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	c := s.CachedInfo().Config
	full := c
	full.Discard, full.MaxBytes = jetstream.DiscardNew, 2048
	if _, err := r.js.UpdateStream(ctx, full); err != nil {
		t.Fatal(err)
	}
	if err := offer(d, batch("full", 20), 10*time.Second); !errors.Is(err, ErrFull) {
		t.Errorf("into a full stream: %v, want %v", err, ErrFull)
	}
	r.wait("it to be unready while the stream is full", func() bool { return d.Ready() != nil })
	r.wait("what was on its way", func() bool { return len(d.slots) == 0 })
	total := conserved(t, reg)
	if total["blessd_events_abandoned_total"] == 0 {
		t.Error("nothing was counted as abandoned")
	}
	if _, err := r.js.UpdateStream(ctx, c); err != nil {
		t.Fatal(err)
	}
	if err := offer(d, batch("full", 20), 10*time.Second); err != nil {
		t.Errorf("after there was room: %v", err)
	}
	equal(t, "events", len(r.names()), 20)
	r.wait("it to be ready after a success", func() bool { return d.Ready() == nil })

	if err := r.js.DeleteStream(ctx, "MAIL_EVENTS"); err != nil {
		t.Fatal(err)
	}
	// Run makes the stream again, and the delivery that noticed gets through.
	if err := offer(d, sent("again"), 20*time.Second); err != nil {
		t.Errorf("after the stream was deleted: %v", err)
	}
	equal(t, "events", r.names(), "[again]")

	r.conn.Close()
	begin := time.Now()
	if err := offer(d, sent("late"), 300*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 5*time.Second {
		t.Errorf("without NATS: %v after %v, want the deadline", err, time.Since(begin))
	}
	if err := d.Ready(); err == nil {
		t.Error("ready without NATS")
	}
	r.wait("what was on its way", func() bool { return len(d.slots) == 0 })
	conserved(t, reg)
}
