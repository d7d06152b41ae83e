package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/blessd/blessd/event"
)

// arrivals says what has arrived of endpoints whose provider cannot be asked whether
// the webhook is registered. It reads the stream of events, and connects when it is
// first asked.
type arrivals struct {
	running *overrides
	nc      *nats.Conn
	stream  jetstream.Stream
	prefix  string
	err     error
}

// arrivalTime bounds what is asked of NATS for one endpoint.
const arrivalTime = 10 * time.Second

// of says for people what has arrived of the endpoint, tests apart. Of each type it
// looks at the first and the last event: tests come first, before a webhook is saved,
// or last, when somebody has just pressed the button.
func (a *arrivals) of(ctx context.Context, m *managed) string {
	ctx, cancel := context.WithTimeout(ctx, arrivalTime)
	defer cancel()
	a.connect(ctx)
	if a.err != nil {
		return "what has arrived is not known: " + a.err.Error()
	}
	tests := map[event.Type]bool{}
	var lastTest, lastReal time.Time
	for _, typ := range event.Types() {
		subject := a.prefix + m.Provider + "." + m.Name + "." + string(typ)
		for _, get := range []func() (*jetstream.RawStreamMsg, error){
			func() (*jetstream.RawStreamMsg, error) {
				return a.stream.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(subject))
			},
			func() (*jetstream.RawStreamMsg, error) { return a.stream.GetLastMsgForSubject(ctx, subject) },
		} {
			msg, err := get()
			if errors.Is(err, jetstream.ErrMsgNotFound) {
				break
			}
			if err != nil {
				return "what has arrived is not known: NATS does not say"
			}
			e, err := event.Decode(msg.Data)
			if err != nil {
				continue // another program's
			}
			if e.Test {
				tests[typ] = true
				lastTest = latest(lastTest, e.Received.Time)
			} else {
				lastReal = latest(lastReal, e.Received.Time)
			}
		}
	}
	said := "nothing arrived yet"
	switch {
	case m.Provider == "enkod" && len(tests) > 0:
		said = fmt.Sprintf("test arrived %s, %d of %d kinds", lastTest.UTC().Format(time.RFC3339), len(tests), len(enkodTests))
		if missing := missingTests(tests); len(missing) > 0 && len(missing) <= 3 {
			said += fmt.Sprintf(" (not %s)", missing)
		}
	case len(tests) > 0:
		said = "test arrived " + lastTest.UTC().Format(time.RFC3339)
	}
	if !lastReal.IsZero() {
		real := "events arrive, the last " + lastReal.UTC().Format(time.RFC3339)
		if len(tests) > 0 {
			return said + "; " + real
		}
		return real
	}
	return said
}

// enkodTests are the kinds of which enKod posts a sample before it saves a webhook.
var enkodTests = []event.Type{
	event.EmailSent, event.EmailBounced, event.EmailOpened, event.EmailClicked, event.EmailComplained,
	event.ContactSubscribed, event.ContactUnsubscribed, event.ContactCreated,
}

func missingTests(tests map[event.Type]bool) []event.Type {
	return slices.DeleteFunc(slices.Clone(enkodTests), func(t event.Type) bool { return tests[t] })
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// connect finds the stream of the running blessd, once.
func (a *arrivals) connect(ctx context.Context) {
	if a.nc != nil || a.err != nil {
		return
	}
	nc, name, err := dialEvents(natsFlags{running: *a.running})
	if err != nil {
		a.err = err
		return
	}
	a.nc = nc
	js, err := jetstream.New(nc)
	if err == nil {
		a.stream, err = js.Stream(ctx, name)
	}
	if err != nil {
		a.err = fmt.Errorf("the stream %s cannot be read", name)
		return
	}
	a.prefix = eventsPrefix(a.stream.CachedInfo().Config.Subjects)
}

func (a *arrivals) close() {
	if a.nc != nil {
		a.nc.Close()
	}
}
