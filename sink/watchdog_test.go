package sink_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/blessd/blessd/sink"
)

// A server that has gone is started again, but not while the disk has no room,
// and not before the back-off is over when that did not help. The rest, a full
// disk, is e2e's.
func TestWatchdog(t *testing.T) {
	e := startEmbedded(t, nil)
	nc := connect(t, e)
	s := newSink(t, nc, defaults())
	ctx := testContext(t)
	if err := s.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	publish := func() error {
		f, err := s.Publish(&nats.Msg{Subject: "mail.events.enkod.ru.email.sent", Data: []byte("{}")})
		if err != nil {
			return err
		}
		select {
		case <-f.Ok():
			return nil
		case err := <-f.Err():
			return err
		}
	}
	if err := publish(); err != nil {
		t.Fatal(err)
	}
	watch := func(o sink.WatchdogOptions) (w *sink.Watchdog, stop func()) {
		t.Helper()
		reg := prometheus.NewRegistry()
		o.Interval, o.Log, o.Registerer = 5*time.Millisecond, zap.NewNop(), reg
		w, err := sink.NewWatchdog(e, s, o)
		if err != nil {
			t.Fatal(err)
		}
		if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
			t.Errorf("metrics: %v %v", problems, err)
		}
		running, cancel := context.WithCancel(ctx)
		done := make(chan struct{})
		go func() { defer close(done); w.Run(running) }()
		return w, func() { cancel(); <-done }
	}

	sink.StopServer(t, e)
	w, stop := watch(sink.WatchdogOptions{MinFree: 1 << 60})
	until(t, "the watchdog sees that no server runs", func() bool { return w.State().Stuck != "" })
	stop()
	if n := w.State().Restarts; n != 0 {
		t.Errorf("%d restarts with too little space, want none", n)
	}

	w, stop = watch(sink.WatchdogOptions{MinFree: 1, Backoff: time.Hour})
	until(t, "messages are stored again", func() bool { return publish() == nil })
	until(t, "the watchdog is content", func() bool { return w.State().Stuck == "" })
	if got, want := w.State(), (sink.WatchdogState{Restarts: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	sink.StopServer(t, e)
	until(t, "the watchdog sees that no server runs", func() bool { return w.State().Stuck != "" })
	stop()
	if n := w.State().Restarts; n != 1 {
		t.Errorf("%d restarts within the back-off, want 1", n)
	}
}

// Publishing tells failures in a row from those before a success.
func TestPublishing(t *testing.T) {
	e := startEmbedded(t, nil)
	nc := connect(t, e)
	s := newSink(t, nc, defaults())
	m := &nats.Msg{Subject: "mail.events.enkod.ru.email.sent", Data: []byte("{}")}
	for range 2 {
		f, err := s.Publish(m)
		if err != nil {
			t.Fatal(err)
		}
		<-f.Err()
	}
	until(t, "both failures are noted", func() bool { return s.Publishing().Failures == 2 })
	p := s.Publishing()
	if p.Failures != 2 || p.Unanswered != 2 || p.Reason != sink.ReasonNoStream || p.Failed.Before(p.Since) || !p.Acknowledged.IsZero() {
		t.Errorf("without a stream: %+v, want two unanswered failures for %s", p, sink.ReasonNoStream)
	}
	if err := s.Ensure(testContext(t)); err != nil {
		t.Fatal(err)
	}
	f, err := s.Publish(m)
	if err != nil {
		t.Fatal(err)
	}
	<-f.Ok()
	until(t, "the success is noted", func() bool { p := s.Publishing(); return p.Failures == 0 && !p.Acknowledged.IsZero() })
	sink.StopServer(t, e)
	until(t, "the connection is gone", func() bool { return !s.Connected() })
	if _, err := s.Publish(m); err == nil {
		t.Error("published without a server")
	}
	if p := s.Publishing(); p.Failures != 1 || p.Unanswered != 0 || p.Reason != sink.ReasonDisconnected {
		t.Errorf("without a server: %+v, want one failure for %s", p, sink.ReasonDisconnected)
	}
}
