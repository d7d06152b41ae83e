package sink_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/sink"
)

// testContext ends long before the test binary's own time is up.
func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// until polls cond; it fails the test after ten seconds.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func defaults() sink.Options {
	return sink.Options{
		Prefix:         "mail",
		CETypePrefix:   "blessd",
		Events:         sink.StreamConfig{Name: "MAIL_EVENTS", MaxAge: 720 * time.Hour, MaxBytes: 1 << 30, DuplicateWindow: 10 * time.Minute},
		Quarantine:     sink.StreamConfig{Name: "MAIL_QUARANTINE", MaxAge: 2160 * time.Hour, MaxBytes: 256 << 20, DuplicateWindow: 10 * time.Minute},
		PublishTimeout: 3 * time.Second,
	}
}

// newSink returns a sink on nc with its own registry, streams not yet ensured.
func newSink(t testing.TB, nc *nats.Conn, o sink.Options) *sink.Sink {
	t.Helper()
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	s, err := sink.New(nc, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func startEmbedded(t testing.TB, change func(*sink.EmbeddedOptions)) *sink.Embedded {
	t.Helper()
	o := sink.EmbeddedOptions{StoreDir: t.TempDir(), Listen: "127.0.0.1:0", Prefix: "mail", MaxStore: 4 << 30, Log: zap.NewNop()}
	if change != nil {
		change(&o)
	}
	e, err := sink.StartEmbedded(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Shutdown(context.Background()) }) // some tests have done it before
	return e
}

func connect(t testing.TB, e *sink.Embedded) *nats.Conn {
	t.Helper()
	nc, err := e.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// someEvent is the n-th of a series of different events.
func someEvent(n int) *event.Event {
	at := time.Date(2016, 6, 14, 7, 50, 56, 0, time.UTC)
	e := &event.Event{
		ID:         event.NewID("sendclean", "acme", []string{fmt.Sprint(n)}, 0),
		Type:       event.EmailBounced,
		Time:       event.NewTime(at),
		TimeSource: event.TimeFromProvider,
		Received:   event.NewTime(at.Add(time.Second)),
		Provider:   "sendclean",
		Endpoint:   "acme",
		Recipient:  "user@example.com",
	}
	e.SetRaw([]byte(fmt.Sprintf(`{"n": %d}`, n)))
	return e
}

func message(t testing.TB, s *sink.Sink, n int) *nats.Msg {
	t.Helper()
	m, err := s.EventMessage(someEvent(n), "")
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// publish publishes m and returns the outcome.
func publish(t testing.TB, s *sink.Sink, m *nats.Msg) (seq uint64, duplicate bool, err error) {
	t.Helper()
	f, err := s.Publish(m)
	if err != nil {
		return 0, false, err
	}
	select {
	case a := <-f.Ok():
		return a.Sequence, a.Duplicate, nil
	case err := <-f.Err():
		return 0, false, err
	case <-time.After(20 * time.Second):
		t.Fatal("neither acknowledged nor refused within 20 s")
		return 0, false, nil
	}
}

func mustPublish(t testing.TB, s *sink.Sink, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if _, _, err := publish(t, s, message(t, s, n)); err != nil {
			t.Fatalf("publish event %d: %v", n, err)
		}
	}
}
