package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/normalize"
	"github.com/blessd/blessd/receiver"
)

// demoTime bounds the whole demonstration.
const demoTime = 30 * time.Second

func newDemoCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show it all at work: every event kind of every provider, then end",
		Long: `Starts blessd as ` + "`blessd serve`" + ` does without a configuration, but on free ports
and in a temporary directory. Posts one signed sample of every event kind of all
providers to it, over HTTP, and shows the canonical events as they arrive from
NATS. Two forgeries go first, which must not arrive. Nothing leaves this machine
and nothing stays on it.

Exit status: 0 when exactly the expected events arrived within 30 s, else 1.`,
		Example: `  blessd demo`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), demoTime)
			defer cancel()
			return demo(ctx, cmd.OutOrStdout())
		},
	}
}

// demo runs the demonstration and removes what it made.
func demo(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "blessd-demo-")
	if err != nil {
		return fmt.Errorf("make a directory for the demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	o := overrides{Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", NATSListen: "127.0.0.1:0", DataDir: dir}
	cfg, err := o.load(func(string) (string, bool) { return "", false })
	if err != nil {
		return fmt.Errorf("the configuration of the demo: %w", err)
	}
	// As an operator would put the real key there: from then on a forged signature
	// is refused. Until then the provider is asked to come again.
	if err := os.MkdirAll(cfg.keyDir("mailgun"), 0o700); err != nil {
		return fmt.Errorf("make a directory for a key: %w", err)
	}
	if err := writeFile(filepath.Join(cfg.keyDir("mailgun"), providerKeyFile), []byte(rand.Text()+"\n")); err != nil {
		return fmt.Errorf("write a key: %w", err)
	}
	d := newDaemon(cfg, zap.NewNop())
	if err := d.Start(ctx); err != nil {
		return fmt.Errorf("start blessd: %w", err)
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
		defer cancel()
		err = errors.Join(err, d.Stop(stopping))
	}()
	return runDemo(ctx, d, out)
}

// demonstration is the state of a running demo.
type demonstration struct {
	ctx      context.Context
	out      io.Writer
	coloured bool
	hooks    []hook
	client   *http.Client
	js       jetstream.JetStream
	tail     *tailer
	sent     int
	blessed  int
	refused  int
	arrived  map[string]int // by provider
}

func runDemo(ctx context.Context, d *daemon, out io.Writer) error {
	start := time.Now()
	nc, err := nats.Connect(d.Addresses().NATS, nats.Name("blessd demo"))
	if err != nil {
		return fmt.Errorf("connect to NATS as a consumer: %w", err)
	}
	defer nc.Close()
	x := &demonstration{ctx: ctx, out: out, coloured: colours(out), client: client(), arrived: make(map[string]int)}
	defer x.client.CloseIdleConnections()
	if x.js, err = jetstream.New(nc); err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}
	// Everything from the start, so that an event that should not be there shows.
	if x.tail, err = openTail(ctx, x.js, d.sink.EventsStream(), tailFilter{}, tailRange{follow: true, wait: demoTime}); err != nil {
		return err
	}
	defer x.tail.stop()
	for _, e := range d.inForce.Load().endpoints {
		x.hooks = append(x.hooks, hookOf(e, d.Addresses().Hooks))
	}
	x.say("blessd takes the webhooks of e-mail providers, keeps each on disk before it answers,")
	x.say("and publishes them as events of one shape to NATS. It runs now, as `blessd serve` does,")
	x.say("at http://%s with NATS inside at %s.", d.Addresses().Hooks, d.Addresses().NATS)

	if err := x.forge(); err != nil {
		return err
	}
	for _, p := range receiver.Providers() {
		if err := x.provider(p); err != nil {
			return err
		}
	}
	return x.sum(d, time.Since(start))
}

func (x *demonstration) say(format string, a ...any) { fmt.Fprintf(x.out, format+"\n", a...) }

// title begins a part.
func (x *demonstration) title(name, text string) {
	x.say("\n%s  %s", paint(name, bold, x.coloured), text)
}

// forge sends what a stranger could. It goes first: events of one connection keep
// their order, so that what should not arrive would arrive before all else.
func (x *demonstration) forge() error {
	x.title("a stranger", "tries a wrong URL and a forged signature")
	for _, c := range []struct {
		provider, what string
		spoil          func(hook) hook
		want           int
	}{
		{"sendclean", "wrong token", hook.withWrongToken, http.StatusNotFound},
		{"mailgun", "forged signature", hook.withWrongKey, http.StatusUnauthorized},
	} {
		h, err := pickHook(x.hooks, c.provider, "")
		if err != nil {
			return err
		}
		all, err := samples(c.provider)
		if err != nil {
			return err
		}
		h = c.spoil(h)
		signed, err := h.prepare(all[0], true)
		if err != nil {
			return err
		}
		r, err := h.deliver(x.ctx, x.client, signed)
		if err != nil {
			return err
		}
		if r.status != c.want {
			return fmt.Errorf("%s with a %s: answered %d, want %d", c.provider, c.what, r.status, c.want)
		}
		x.refused++
		x.say("  %-17s POST %-22s  %s  refused, not published", c.what, h.path(), paint(fmt.Sprint(r.status), yellow, x.coloured))
	}
	return nil
}

// provider sends one of everything that a provider sends and shows what arrives.
func (x *demonstration) provider(name string) error {
	h, err := pickHook(x.hooks, name, "")
	if err != nil {
		return err
	}
	all, err := samples(name)
	if err != nil {
		return err
	}
	var want []arrival
	for _, s := range all {
		signed, err := h.prepare(s, true)
		if err != nil {
			return err
		}
		types, err := expected(h, signed)
		if err != nil {
			return fmt.Errorf("%s %s: %w", name, s.event, err)
		}
		for _, t := range types {
			want = append(want, arrival{s.event, t})
		}
		r, err := h.deliver(x.ctx, x.client, signed)
		if err != nil {
			return err
		}
		x.sent++
		if !r.blessed(name) {
			return fmt.Errorf("%s %s: answered %d %.100q", name, s.event, r.status, r.body)
		}
		x.blessed++
	}
	x.title(name, fmt.Sprintf("posted %d requests, each answered 200 %q", len(all), receiver.Acknowledgement(name)))
	return x.receive(h, want)
}

// arrival is an event that must come out, and the sample that went in.
type arrival struct {
	sample string
	typ    event.Type
}

// expected says which events the request must become.
func expected(h hook, signed receiver.Signed) ([]event.Type, error) {
	var types []event.Type
	for r := range normalize.Each(&delivery.Delivery{
		Provider: h.provider, Endpoint: h.endpoint, Received: time.Now(), Method: http.MethodPost,
		ContentType: signed.ContentType, Body: signed.Body,
	}) {
		if r.Event == nil {
			return nil, errors.New("the sample cannot be understood")
		}
		types = append(types, r.Event.Type)
	}
	if len(types) == 0 {
		return nil, errors.New("the sample holds no event")
	}
	return types, nil
}

// receive shows the next events from NATS, which must be these. They come in the
// order in which they were sent unless NATS was slow and one was published again.
func (x *demonstration) receive(h hook, want []arrival) error {
	width := 0
	for _, w := range want {
		width = max(width, len(w.sample))
	}
	for total := len(want); len(want) > 0; {
		m, err := x.tail.next(x.ctx)
		if err != nil {
			return fmt.Errorf("%s: %d of %d events arrived: %w", h.provider, total-len(want), total, err)
		}
		e, err := event.Decode(m.Data())
		if err != nil {
			return fmt.Errorf("subject %s: %w", m.Subject(), err)
		}
		i := slices.IndexFunc(want, func(w arrival) bool { return w.typ == e.Type })
		if e.Provider != h.provider || e.Endpoint != h.endpoint || i < 0 {
			return fmt.Errorf("%s of %s at %s arrived, which nobody sent", e.Type, e.Provider, e.Endpoint)
		}
		x.arrived[h.provider]++
		x.say("  %s  %s", paint(fmt.Sprintf("%-*s", width, want[i].sample), dim, x.coloured), x.line(e, 108-width))
		want = slices.Delete(want, i, i+1)
	}
	return nil
}

// line is the event's summary without what is the same in every line here, in
// about so many columns.
func (x *demonstration) line(e *event.Event, columns int) string {
	_, s, _ := strings.Cut(e.Summary(), string(e.Type))
	s = strings.TrimSpace(strings.TrimSuffix(s, "(test)"))
	padding := strings.Repeat(" ", max(0, 20-len(e.Type)))
	if r := []rune(s); len(r) > columns-22 {
		s = string(r[:columns-23]) + "\u2026"
	}
	return paint(string(e.Type), colourOf(e.Type), x.coloured) + padding + "  " + s
}

// sum compares what is stored with what was sent.
func (x *demonstration) sum(d *daemon, took time.Duration) error {
	stored := make(map[string]uint64)
	for _, name := range []string{d.sink.EventsStream(), d.sink.QuarantineStream()} {
		state, err := d.sink.State(x.ctx, name)
		if err != nil {
			return err
		}
		stored[name] = state.Msgs
	}
	total, by := 0, make([]string, 0, len(x.arrived))
	for _, p := range receiver.Providers() {
		total += x.arrived[p]
		by = append(by, fmt.Sprintf("%s %d", p, x.arrived[p]))
	}
	if got := stored[d.sink.EventsStream()]; got != uint64(total) {
		return fmt.Errorf("%d events are stored, want the %d that arrived", got, total)
	}
	if got := stored[d.sink.QuarantineStream()]; got != 0 {
		return fmt.Errorf("%d bodies are in quarantine, want none", got)
	}
	x.title("all arrived", fmt.Sprintf("in %.1f s", took.Seconds()))
	x.say("  requests  %d sent, %d blessed, %d refused", x.sent+x.refused, x.blessed, x.refused)
	x.say("  events    %d read from NATS: %s", total, strings.Join(by, ", "))
	x.say("  next      `%[1]s serve` prints the URLs to give to your providers; `%[1]s tail` shows what comes", self())
	return nil
}
