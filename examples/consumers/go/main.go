// Command consumer keeps a suppression list: it prints one line for every
// address that must not be written to again, because it bounced for good,
// complained or unsubscribed. It is written to be copied, and knows blessd only
// through NATS and package event.
//
//	go run ./examples/consumers/go              # the embedded NATS server of blessd on this machine
//	go run ./examples/consumers/go -nats nats://user:password@n1:4222 -bind
//
// What makes it safe to copy:
//
//   - It is a durable pull consumer: the server remembers how far it came, so
//     that what arrives while it is away is not missed.
//   - It acknowledges an event after handling it, and asks for it again when
//     handling fails. An event is therefore handled at least once.
//   - It remembers ids, so that an event that comes twice is handled once. The
//     ids are kept in memory here, which is enough because suppressing an address
//     twice does no harm. Where twice does harm, write the id in the transaction
//     of the handling, under a unique key.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/blessd/blessd/event"
)

func main() {
	url := flag.String("nats", cmp.Or(os.Getenv("NATS_URL"), nats.DefaultURL), "NATS `server`; NATS_URL sets the default")
	var o options
	flag.StringVar(&o.stream, "stream", "MAIL_EVENTS", "`name` of blessd's stream of events")
	flag.StringVar(&o.prefix, "prefix", "mail", "blessd's subject_prefix")
	flag.StringVar(&o.durable, "durable", "suppressions", "`name` of this consumer; two programs with one name share the events")
	flag.BoolVar(&o.bind, "bind", false, "use the consumer that is there and make none, for users who may not")
	flag.IntVar(&o.max, "max", 0, "end after `N` events; 0 goes on until a signal")
	flag.BoolVar(&o.tests, "tests", false, "act on test events too")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := connectAndRun(ctx, *url, o); err != nil {
		fmt.Fprintln(os.Stderr, "consumer:", err)
		os.Exit(1)
	}
}

func connectAndRun(ctx context.Context, url string, o options) error {
	closed := make(chan struct{})
	nc, err := nats.Connect(url, nats.Name("suppressions"), nats.MaxReconnects(-1),
		nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	if err != nil {
		return fmt.Errorf("connect to %s: %w", url, err)
	}
	// Drain sends what is still to be sent, the last acknowledgements above all.
	defer func() {
		if err := nc.Drain(); err != nil {
			fmt.Fprintln(os.Stderr, "consumer: drain:", err)
		}
		<-closed
	}()
	return run(ctx, nc, o, suppressor{w: os.Stdout, tests: o.tests}.handle)
}

type options struct {
	stream, prefix, durable string
	max                     int
	bind, tests             bool
}

// run hands events to handle until ctx is cancelled or o.max events were handled.
func run(ctx context.Context, nc *nats.Conn, o options, handle func(*event.Event) error) error {
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}
	consumer, err := durable(ctx, js, o)
	if err != nil {
		return fmt.Errorf("consumer %s on stream %s: %w", o.durable, o.stream, err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(100))
	if err != nil {
		return fmt.Errorf("read from consumer %s: %w", o.durable, err)
	}
	defer messages.Stop()

	seen := newRecent(100_000)
	for n := 0; o.max == 0 || n < o.max; {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, jetstream.ErrNoHeartbeat):
			continue // the server is away; the client reconnects by itself
		case err != nil:
			return fmt.Errorf("next event: %w", err)
		}
		e, err := event.Decode(msg.Data())
		if err != nil {
			// It will never be readable, so it is not to come again.
			if err := msg.TermWithReason("not a canonical event"); err != nil {
				return fmt.Errorf("give up on a message: %w", err)
			}
			continue
		}
		if !seen.has(e.ID) {
			if err := handle(e); err != nil {
				fmt.Fprintf(os.Stderr, "consumer: event %s comes again: %v\n", e.ID, err)
				if err := msg.NakWithDelay(retryDelay(msg)); err != nil {
					return fmt.Errorf("ask for event %s again: %w", e.ID, err)
				}
				continue
			}
			seen.add(e.ID)
			n++
		}
		if err := msg.Ack(); err != nil {
			return fmt.Errorf("acknowledge event %s: %w", e.ID, err)
		}
	}
	return nil
}

// durable returns the consumer of that name, and makes it or changes it to what is
// needed unless o.bind says that it is there.
func durable(ctx context.Context, js jetstream.JetStream, o options) (jetstream.Consumer, error) {
	if o.bind {
		return js.Consumer(ctx, o.stream, o.durable)
	}
	// A subject is mail.events.<provider>.<endpoint>.<family>.<verb>. Asking for
	// what is needed and no more is the server's work, not ours.
	return js.CreateOrUpdateConsumer(ctx, o.stream, jetstream.ConsumerConfig{
		Durable:     o.durable,
		Description: "addresses that must not be written to again",
		FilterSubjects: []string{
			o.prefix + ".events.*.*.email.bounced",
			o.prefix + ".events.*.*.email.complained",
			o.prefix + ".events.*.*.*.unsubscribed", // email.unsubscribed and contact.unsubscribed
		},
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       30 * time.Second, // unacknowledged for so long: delivered again
		MaxAckPending: 256,
	})
}

// retryDelay doubles from 100 ms to about a minute with the number of deliveries.
func retryDelay(msg jetstream.Msg) time.Duration {
	m, err := msg.Metadata()
	if err != nil {
		return time.Second
	}
	return 100 * time.Millisecond << min(m.NumDelivered-1, 9)
}

// suppressor writes the suppression list.
type suppressor struct {
	w     io.Writer
	tests bool
}

// handle writes a line when e means that someone must not be written to again.
func (s suppressor) handle(e *event.Event) error {
	if e.Test && !s.tests {
		return nil
	}
	why, ok := reason(e)
	if !ok {
		return nil
	}
	// Addresses and texts come from strangers: quoted, they cannot end the line.
	_, err := fmt.Fprintf(s.w, "suppress %s: %s (%s at %s, event %s)\n", who(e), why, e.Provider, e.Time, e.ID)
	return err
}

// reason says why e suppresses its recipient, if it does.
func reason(e *event.Event) (string, bool) {
	switch e.Type {
	case event.EmailBounced:
		// A soft bounce may pass, and an unknown one may be soft.
		if e.Bounce == nil || e.Bounce.Class != event.BounceHard {
			return "", false
		}
		return "hard bounce " + strconv.Quote(e.Bounce.Description), true
	case event.EmailComplained:
		return "complaint", true
	case event.EmailUnsubscribed, event.ContactUnsubscribed:
		return "unsubscribed", true
	}
	return "", false // a type that a newer blessd sends
}

// who names the recipient by the best that the provider sends. SendClean and Sarv
// send no address: the sender finds it by the X-Unique-Id header it had set.
func who(e *event.Event) string {
	switch {
	case e.Recipient != "":
		return "address " + strconv.Quote(e.Recipient)
	case e.Contact != nil && e.Contact.Email != "":
		return "address " + strconv.Quote(e.Contact.Email)
	case e.Contact != nil:
		return "contact " + strconv.Quote(e.Contact.ID)
	case e.Message != nil && e.Message.CorrelationID != "":
		return "recipient of the message with correlation id " + strconv.Quote(e.Message.CorrelationID)
	case e.Message != nil:
		return "recipient of message " + strconv.Quote(e.Message.ID)
	}
	return "nobody known"
}

// recent is a set that forgets the oldest id when it is full.
type recent struct {
	set  map[string]struct{}
	ring []string
	next int
}

func newRecent(size int) *recent {
	return &recent{set: make(map[string]struct{}, size), ring: make([]string, size)}
}

func (r *recent) has(id string) bool {
	_, ok := r.set[id]
	return ok
}

func (r *recent) add(id string) {
	delete(r.set, r.ring[r.next])
	r.set[id] = struct{}{}
	r.ring[r.next] = id
	r.next = (r.next + 1) % len(r.ring)
}
