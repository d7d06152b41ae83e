package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/sink"
)

// broker is the NATS server that blessd embeds, with blessd's streams in it. The
// consumer under test connects to it as any program on the machine would.
type broker struct {
	*testing.T
	url  string
	sink *sink.Sink
}

func startBroker(t *testing.T) *broker {
	t.Helper()
	server, err := sink.StartEmbedded(sink.EmbeddedOptions{
		StoreDir: t.TempDir(), Listen: "127.0.0.1:0", Prefix: "mail", MaxStore: 64 << 20, Log: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	nc, err := server.Connect()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	stream := func(name string) sink.StreamConfig {
		return sink.StreamConfig{Name: name, MaxBytes: 16 << 20, DuplicateWindow: time.Minute}
	}
	s, err := sink.New(nc, sink.Options{
		Prefix: "mail", CETypePrefix: "blessd", Events: stream("MAIL_EVENTS"), Quarantine: stream("MAIL_QUARANTINE"),
		Manage: true, Log: zap.NewNop(), Registerer: prometheus.NewRegistry(),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Ensure(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &broker{T: t, url: server.ClientURL(), sink: s}
}

// publish stores e as blessd does; change may alter the message first.
func (b *broker) publish(e *event.Event, change func(*nats.Msg)) {
	b.Helper()
	msg, err := b.sink.EventMessage(e, "")
	if err != nil {
		b.Fatal(err)
	}
	if change != nil {
		change(msg)
	}
	future, err := b.sink.Publish(msg)
	if err != nil {
		b.Fatal(err)
	}
	select {
	case <-future.Ok():
	case err := <-future.Err():
		b.Fatal(err)
	case <-time.After(10 * time.Second):
		b.Fatal("no acknowledgement within 10 s")
	}
}

func (b *broker) connect() *nats.Conn {
	b.Helper()
	nc, err := nats.Connect(b.url)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	return nc
}

func (b *broker) context() context.Context {
	ctx, cancel := context.WithTimeout(b.Context(), 30*time.Second)
	b.Cleanup(cancel)
	return ctx
}

// waitNoPulls waits until the server has noticed that the durable's reader is gone:
// an event that is handed to a reader who has just left comes again, but only
// after AckWait.
func (b *broker) waitNoPulls(durable string) {
	b.Helper()
	js, err := jetstream.New(b.connect())
	if err != nil {
		b.Fatal(err)
	}
	for ctx := b.context(); ; time.Sleep(10 * time.Millisecond) {
		c, err := js.Consumer(ctx, "MAIL_EVENTS", durable)
		if err != nil {
			b.Fatal(err)
		}
		if c.CachedInfo().NumWaiting == 0 {
			return
		}
	}
}

// again removes the id that the stream suppresses doubles by, which is what a
// redelivery after the duplicate window looks like.
func again(m *nats.Msg) { m.Header.Del(nats.MsgIdHdr) }

var (
	at         = event.NewTime(time.Date(2026, 11, 21, 17, 22, 17, 0, time.UTC))
	hardBounce = &event.Event{
		ID: event.NewID("mailgun", "eu", []string{"hard"}, 0), Type: event.EmailBounced, Time: at, TimeSource: event.TimeFromProvider,
		Received: at, Provider: "mailgun", Endpoint: "eu", Recipient: "user@example.com",
		Bounce: &event.Bounce{Class: event.BounceHard, Code: 550, Description: "no such \"user\"\nsuppress all"},
	}
	softBounce = &event.Event{
		ID: event.NewID("mailgun", "eu", []string{"soft"}, 0), Type: event.EmailBounced, Time: at, TimeSource: event.TimeFromProvider,
		Received: at, Provider: "mailgun", Endpoint: "eu", Recipient: "full@example.com", Bounce: &event.Bounce{Class: event.BounceSoft},
	}
	open = &event.Event{
		ID: event.NewID("mailgun", "eu", []string{"open"}, 0), Type: event.EmailOpened, Time: at, TimeSource: event.TimeFromProvider,
		Received: at, Provider: "mailgun", Endpoint: "eu", Recipient: "reader@example.com",
	}
	testComplaint = &event.Event{
		ID: event.NewID("enkod", "ru", []string{"test"}, 0), Type: event.EmailComplained, Time: at, TimeSource: event.TimeFromReceipt,
		Received: at, Provider: "enkod", Endpoint: "ru", Recipient: "sample@example.com", Test: true,
	}
	complaint = &event.Event{
		ID: event.NewID("sendclean", "acme", []string{"spam"}, 0), Type: event.EmailComplained, Time: at, TimeSource: event.TimeFromProvider,
		Received: at, Provider: "sendclean", Endpoint: "acme", Message: &event.Message{ID: "m1", CorrelationID: "order-17"},
	}
	unsubscribed = &event.Event{
		ID: event.NewID("vision6", "v6", []string{"gone"}, 0), Type: event.ContactUnsubscribed, Time: at, TimeSource: event.TimeFromProvider,
		Received: at, Provider: "vision6", Endpoint: "v6", Contact: &event.Contact{ID: "142"}, Lists: []event.List{{ID: "1791"}},
	}
)

func line(text string, e *event.Event) string {
	return fmt.Sprintf("suppress %s (%s at 2026-11-21T17:22:17.000Z, event %s)\n", text, e.Provider, e.ID)
}

func TestSuppressions(t *testing.T) {
	b := startBroker(t)
	b.publish(open, nil)
	b.publish(hardBounce, nil)
	b.publish(hardBounce, again)
	b.publish(softBounce, func(m *nats.Msg) { m.Data = []byte(`{"no":"event"}`); again(m) })
	b.publish(softBounce, nil)
	b.publish(testComplaint, nil)
	b.publish(complaint, nil)
	b.publish(unsubscribed, nil)

	o := options{stream: "MAIL_EVENTS", prefix: "mail", durable: "suppressions", max: 5}
	var out bytes.Buffer
	nc := b.connect()
	if err := run(b.context(), nc, o, suppressor{w: &out}.handle); err != nil {
		t.Fatal(err)
	}
	want := line(`address "user@example.com": hard bounce "no such \"user\"\nsuppress all"`, hardBounce) +
		line(`recipient of the message with correlation id "order-17": complaint`, complaint) +
		line(`contact "142": unsubscribed`, unsubscribed)
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
	nc.Close() // the acknowledgements are sent before that
	b.waitNoPulls("suppressions")

	// Another run goes on where this one ended.
	late := *hardBounce
	late.ID, late.Recipient = event.NewID("mailgun", "eu", []string{"late"}, 0), "late@example.com"
	b.publish(&late, nil)
	out.Reset()
	o.max = 1
	if err := run(b.context(), b.connect(), o, suppressor{w: &out}.handle); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); !strings.Contains(got, "late@example.com") || strings.Count(got, "\n") != 1 {
		t.Errorf("the second run printed\n%swant the line of late@example.com alone", got)
	}
}

func TestTestEventsOnRequest(t *testing.T) {
	b := startBroker(t)
	b.publish(testComplaint, nil)
	var out bytes.Buffer
	o := options{stream: "MAIL_EVENTS", prefix: "mail", durable: "d", max: 1}
	if err := run(b.context(), b.connect(), o, suppressor{w: &out, tests: true}.handle); err != nil {
		t.Fatal(err)
	}
	if want := line(`address "sample@example.com": complaint`, testComplaint); out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// An event whose handling fails comes again, and is acknowledged when it succeeds.
func TestFailureComesAgain(t *testing.T) {
	b := startBroker(t)
	b.publish(hardBounce, nil)
	b.publish(complaint, nil)
	var handled []string
	failures := 2
	handle := func(e *event.Event) error {
		handled = append(handled, e.ID)
		if e.ID == hardBounce.ID && failures > 0 {
			failures--
			return errors.New("the database is away")
		}
		return nil
	}
	nc := b.connect()
	ctx := b.context()
	if err := run(ctx, nc, options{stream: "MAIL_EVENTS", prefix: "mail", durable: "d", max: 2}, handle); err != nil {
		t.Fatal(err)
	}
	slices.Sort(handled)
	want := []string{hardBounce.ID, hardBounce.ID, hardBounce.ID, complaint.ID}
	slices.Sort(want)
	if !slices.Equal(handled, want) {
		t.Errorf("handled %q, want %q", handled, want)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := js.Consumer(ctx, "MAIL_EVENTS", "d")
	if err != nil {
		t.Fatal(err)
	}
	for {
		info, err := consumer.Info(ctx)
		if err != nil {
			t.Fatalf("the events were not acknowledged: %v", err)
		}
		if info.NumAckPending == 0 && info.NumPending == 0 {
			break
		}
	}
}

func TestEndsOnSignal(t *testing.T) {
	b := startBroker(t)
	b.publish(hardBounce, nil)
	ctx, cancel := context.WithCancel(b.context())
	handle := func(*event.Event) error { cancel(); return nil } // what a signal does
	if err := run(ctx, b.connect(), options{stream: "MAIL_EVENTS", prefix: "mail", durable: "d"}, handle); err != nil {
		t.Errorf("got %v, want no error", err)
	}
}

func TestMissingStream(t *testing.T) {
	b := startBroker(t)
	err := run(b.context(), b.connect(), options{stream: "OTHER", prefix: "mail", durable: "d"}, nil)
	if err == nil || !strings.Contains(err.Error(), "OTHER") {
		t.Errorf("got %v, want an error that names the stream", err)
	}
}

func TestRecentForgetsTheOldest(t *testing.T) {
	r := newRecent(2)
	for _, id := range []string{"a", "b", "c"} {
		if r.has(id) {
			t.Errorf("%q is there before it was added", id)
		}
		r.add(id)
	}
	for id, want := range map[string]bool{"a": false, "b": true, "c": true} {
		if got := r.has(id); got != want {
			t.Errorf("has(%q): got %t, want %t", id, got, want)
		}
	}
}
