package relay

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// alarmed checks the metric and the status.
func alarmed(t *testing.T, relay *Relay, want int) {
	t.Helper()
	equal(t, "alarm", testutil.ToFloat64(relay.metrics.backwards), min(want, 1))
	equal(t, "streams in the status", len(relay.Status().StreamWentBackwards), want)
}

// TestStreamWentBackwards deletes the stream between two runs. The alarm stays
// until it is accepted.
func TestStreamWentBackwards(t *testing.T) {
	r := newRig(t)
	r.putMany(0, 10)
	relay, _ := r.relay()
	r.drain(relay)
	alarmed(t, relay, 0)
	if err := r.js.DeleteStream(context.Background(), "MAIL_EVENTS"); err != nil {
		t.Fatal(err)
	}
	want := r.putMany(10, 20)
	relay, _ = r.relay()
	r.drain(relay)
	equal(t, "events", r.names(), want) // the journal still had these
	alarmed(t, relay, 1)
	first := relay.Status().StreamWentBackwards[0]
	equal(t, "stream", first.Stream, "MAIL_EVENTS")
	equal(t, "sequences", []uint64{first.Expected, first.Found}, "[10 0]")

	// Nothing is wrong any more, and nobody has said that it was seen.
	want = append(want, r.putMany(20, 30)...)
	relay, _ = r.relay()
	r.drain(relay)
	alarmed(t, relay, 1)
	if again := relay.Status().StreamWentBackwards[0]; again != first {
		t.Errorf("after a restart: %+v, want %+v", again, first)
	}

	for _, accept := range []bool{true, false} {
		relay, _ = r.relay()
		relay.AcceptReset = accept
		r.drain(relay)
		alarmed(t, relay, 0)
	}
	equal(t, "events", r.names(), want)
	equal(t, "cursor", r.journal.Cursor().Index, 30)
}

// TestAcceptAtOnce accepts a reset at the start that finds it.
func TestAcceptAtOnce(t *testing.T) {
	r := newRig(t)
	r.putMany(0, 10)
	relay, _ := r.relay()
	r.drain(relay)
	if err := r.js.DeleteStream(context.Background(), "MAIL_EVENTS"); err != nil {
		t.Fatal(err)
	}
	relay, _ = r.relay()
	relay.AcceptReset = true
	r.drain(relay)
	alarmed(t, relay, 0)
	relay, _ = r.relay() // nothing was published since, and still it is known
	r.drain(relay)
	alarmed(t, relay, 0)
}

// TestStreamGoneWhileRunning deletes the stream under a relay that is at work.
// What the journal still has is published again, and what comes later too.
func TestStreamGoneWhileRunning(t *testing.T) {
	r := newRig(t)
	r.putMany(0, 5)
	relay, _ := r.relay()
	r.drain(relay)
	want := r.putMany(5, 10)
	relay, reg := r.relay()
	done := make(chan error, 1)
	go func() { done <- relay.Run(context.Background()) }()
	r.wait("the first to be settled", func() bool { return relay.Status().Settled == 10 })
	if err := r.js.DeleteStream(context.Background(), "MAIL_EVENTS"); err != nil {
		t.Fatal(err)
	}
	want = append(want, r.putMany(10, 15)...)
	r.wait("everything to be settled", func() bool { return relay.Status().Settled == 15 })
	alarmed(t, relay, 1)
	relay.Stop(context.Background())
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	equal(t, "events", r.names(), want)
	conserved(t, reg)
	equal(t, "cursor", r.journal.Cursor().Index, 15)
	relay, _ = r.relay()
	r.drain(relay)
	alarmed(t, relay, 1)
	equal(t, "events after a restart", r.names(), want)
}

// TestStreamReplacedWhileIdle puts another stream in the place of the first while
// there is nothing to publish: the cursor must not move over what is gone.
func TestStreamReplacedWhileIdle(t *testing.T) {
	r := newRig(t)
	want := r.putMany(0, 10)
	first, _ := r.relay()
	done := make(chan error, 1)
	go func() { done <- first.Run(context.Background()) }()
	r.wait("all to be settled", func() bool { return first.Status().Settled == 10 })
	ctx := context.Background()
	s, err := r.js.Stream(ctx, "MAIL_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.js.DeleteStream(ctx, "MAIL_EVENTS"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.js.CreateStream(ctx, s.CachedInfo().Config); err != nil {
		t.Fatal(err)
	}
	first.Stop(ctx)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	equal(t, "cursor", r.journal.Cursor().Index, 0)

	relay, reg := r.relay()
	relay.CursorInterval = 20 * time.Millisecond
	done = make(chan error, 1)
	go func() { done <- relay.Run(ctx) }()
	r.wait("the cursor to move", func() bool { return r.journal.Cursor().Index == 10 })
	equal(t, "events", r.names(), want)
	if err := r.js.DeleteStream(ctx, "MAIL_EVENTS"); err != nil {
		t.Fatal(err)
	}
	r.wait("the alarm", func() bool { return testutil.ToFloat64(relay.metrics.backwards) == 1 })
	want = r.putMany(10, 12)
	r.wait("the rest to be settled", func() bool { return relay.Status().Settled == 12 })
	equal(t, "events", r.names(), want)
	relay.Stop(ctx)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	conserved(t, reg)
}

func TestMemory(t *testing.T) {
	at := position{{seq: 7, created: time.Unix(1, 2).UTC()}, {seq: 9, created: time.Unix(3, 4).UTC()}}
	for _, want := range []memory{
		{at: at},
		{at: at, alarms: [2]alarm{{}, {since: time.Unix(5, 6).UTC(), expected: 11, found: 3}}},
	} {
		got, err := parseMemory(want.bytes())
		if err != nil || got != want {
			t.Errorf("got %+v %v, want %+v", got, err, want)
		}
	}
	for _, bad := range [][]byte{{2}, {3}, append(memory{at: at, alarms: [2]alarm{{since: time.Unix(5, 6)}}}.bytes(), 0)} {
		if _, err := parseMemory(bad); err == nil {
			t.Errorf("parseMemory(%v) succeeded", bad)
		}
	}
}

// TestRegrown has a stream that lost its end while nobody looked and grows again:
// what it acknowledges lies below what it had acknowledged before.
func TestRegrown(t *testing.T) {
	r := newRig(t)
	r.putMany(0, 3)
	relay, reg := r.relay()
	ctx := context.Background()
	if err := relay.begin(ctx); err != nil {
		t.Fatal(err)
	}
	relay.high[0].seq = 100 // as if it had acknowledged so much
	if err := relay.relayRecord(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := relay.settleHead(ctx); !errors.Is(err, errBackwards) {
		t.Fatalf("got %v, want %v", err, errBackwards)
	}
	relay.forget()
	if err := relay.begin(ctx); err != nil {
		t.Fatal(err)
	}
	alarmed(t, relay, 1)
	for index := uint64(1); index <= 3; index++ {
		if err := relay.relayRecord(ctx, index); err != nil {
			t.Fatal(err)
		}
	}
	for relay.pending.len() > 0 {
		if err := relay.settleHead(ctx); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "events", r.names(), "[m000 m001 m002]")
	conserved(t, reg)
}
