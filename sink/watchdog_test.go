package sink_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

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

// A sync of the server's that fails, and no sync of blessd's, is final all the
// same: Sync fails from then on and the server is not replaced.
func TestServerFailsToSync(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	failed := make(chan error, 8)
	e := startEmbedded(t, func(o *sink.EmbeddedOptions) {
		o.StoreDir, o.OnDiskError = dir, func(err error) { failed <- err }
		o.ConfigFile = conf(t, "jetstream { sync_interval: 50ms }")
	})
	nc := connect(t, e)
	s := newSink(t, nc, defaults())
	ctx := testContext(t)
	if err := s.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	if err := e.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	// The server syncs its index, too, which blessd does not, and a pipe cannot be.
	indexes, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", "MAIL_EVENTS", "msgs"))
	if err != nil || len(indexes) != 1 {
		t.Fatalf("no directory of blocks: %q, %v", indexes, err)
	}
	index := filepath.Join(indexes[0], "index.db")
	if err := unix.Mkfifo(index, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(index) }) // a server that stops would wait for a reader
	select {
	case err = <-failed:
	case <-ctx.Done():
		t.Fatal("nobody heard of the server's failed sync")
	}
	if !errors.Is(err, sink.ErrSync) || !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v, want %v with its cause", err, sink.ErrSync)
	}
	if got := e.Sync(ctx); !errors.Is(got, sink.ErrSync) {
		t.Errorf("Sync returned %v, want %v", got, sink.ErrSync)
	}
	if got := e.Restart(ctx); !errors.Is(got, sink.ErrSync) {
		t.Errorf("Restart returned %v, want %v", got, sink.ErrSync)
	}
	w, err := sink.NewWatchdog(e, s, sink.WatchdogOptions{Log: zap.NewNop(), Registerer: prometheus.NewRegistry(), MinFree: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(index); err != nil {
		t.Fatal(err)
	}
	sink.StopServer(t, e)
	sink.Look(ctx, w)
	if got := w.State(); got != (sink.WatchdogState{}) {
		t.Errorf("the watchdog went on: %+v", got)
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
