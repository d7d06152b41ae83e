package scenario

import (
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/blessd/blessd/e2e/ledger"
)

// refusalLimit is how long a refusal may take: 4 s for the store, and some for a
// machine that does other things as well.
const refusalLimit = 6 * time.Second

var natsScenarios = []Scenario{
	{
		Name: "nats-down-at-start", Faults: []string{"F1"}, Tier: 0,
		Proves: "blessd starts and blesses without NATS, and publishes everything when NATS comes.",
		Run: func(e *Env) {
			n := e.NATSLater()
			b := e.Blessd(Config{NATS: n.URL()})
			b.Ready()
			load := e.Load(b, Load{})
			load.MoreBlessed(300)
			if status, _ := b.Get("/-/healthy"); status != http.StatusOK {
				e.Errorf("healthy says %d without NATS, want 200", status)
			}
			n.Start()
			load.MoreBlessed(100)
			e.Rules.NothingRefused = true
		},
	},
	{
		Name: "nats-killed", Faults: []string{"F3"}, Tier: 0,
		Proves: "NATS may be killed under load: no provider notices, and nothing is lost or doubled.",
		Run: func(e *Env) {
			n := e.NATS()
			b := e.Blessd(Config{NATS: n.URL()})
			load := e.Load(b, Load{})
			for range e.Times(3) {
				load.MoreBlessed(200)
				n.Kill()
				load.MoreBlessed(200)
				n.Start()
			}
			load.MoreBlessed(200)
			e.Rules.NothingRefused = true
		},
	},
	{
		Name: "nats-frozen", Faults: []string{"F4"}, Tier: 0,
		Proves: "NATS may stand still for longer than a publish waits: no provider notices, and nothing is doubled when it goes on.",
		Run: func(e *Env) {
			n := e.NATS()
			b := e.Blessd(Config{NATS: n.URL()})
			load := e.Load(b, Load{Pause: 50 * time.Millisecond})
			for range e.Times(1) {
				load.MoreBlessed(200)
				n.Freeze()
				load.MoreBlessed(200)
				before := b.Metric("blessd_publish_errors_total")
				e.Wait("a publish to be given up", func() bool { return b.Metric("blessd_publish_errors_total") > before })
				n.Thaw()
			}
			load.MoreBlessed(200)
			e.Rules.NothingRefused = true
		},
	},
	{
		Name: "nats-slow", Faults: []string{"F6"}, Tier: 0,
		Proves: "A line to NATS with a latency of up to 500 ms is no provider's business: answers do not wait for it.",
		Run: func(e *Env) {
			n := e.NATS()
			line := e.Line(n.URL())
			b := e.Blessd(Config{NATS: line.URL()})
			load := e.Load(b, Load{Pause: 20 * time.Millisecond})
			line.Latency(50 * time.Millisecond)
			load.MoreBlessed(500 * e.Times(1))
			load.Stop()
			const latency = 500 * time.Millisecond
			line.Latency(latency)
			a := &answers{}
			load = e.Load(b, Load{Pause: 20 * time.Millisecond, Seen: a.see})
			load.MoreBlessed(500 * e.Times(1))
			line.Latency(0)
			load.Stop()
			slices.Sort(a.blessed)
			if median := a.blessed[len(a.blessed)/2]; median >= latency/2 {
				e.Errorf("half of the answers took %v and more, with a latency of %v to NATS: they seem to wait for it", median, latency)
			}
			e.Rules.NothingRefused = true
		},
	},
	{
		Name: "stop-without-nats", Faults: []string{"F4", "F19"}, Tier: 0,
		Proves: "blessd stops in time though NATS does not answer: what it could not publish waits in the journal.",
		Run: func(e *Env) {
			n := e.NATS()
			b := e.Blessd(Config{NATS: n.URL()})
			load := e.Load(b, Load{})
			load.MoreBlessed(200)
			n.Freeze()
			load.MoreBlessed(200)
			load.Stop()
			b.Stop()
			n.Thaw()
			b.Start()
			e.Rules.OnlyAcked, e.Rules.NothingRefused = true, true
		},
	},
	{
		Name: "nats-full", Faults: []string{"F7"}, Tier: 0,
		Proves: "A full stream that refuses is no provider's business: events wait in the journal, and none is lost.",
		Run: func(e *Env) {
			n := e.NATS()
			b := e.Blessd(Config{NATS: n.URL(), Stream: "max_bytes: 1MiB, when_full: refuse"})
			load := e.Load(b, Load{Senders: 8, Pause: 5 * time.Millisecond})
			for i := range e.Times(3) {
				e.Wait("the stream to be full", func() bool { return e.Full(n.JetStream(), ledger.Events) })
				load.MoreBlessed(200)
				e.Resize(n.JetStream(), ledger.Events, int64(i+2)<<20)
			}
			load.Stop()
			e.Resize(n.JetStream(), ledger.Events, 1<<30)
			e.Rules.NothingRefused = true
		},
	},
	{
		Name: "nats-others-stream", Faults: []string{"F8"}, Tier: 0,
		Proves: "A stream that somebody made with smaller limits is left as it is, and blessd says what differs.",
		Run:    othersStream,
	},
	{
		Name: "nats-store-full", Faults: []string{"F9"}, Tier: 0,
		Proves: "A NATS server whose storage limit is reached makes events wait in the journal, and everything arrives when there is room, without a restart.",
		Run:    storeFull,
	},
	{
		Name: "stream-reset", Faults: []string{"F16"}, Tier: 0,
		Proves: "A stream that was deleted under blessd raises an alarm that stays until it is accepted; the journal is published again, and blessing goes on.",
		Run:    streamReset,
	},
	{
		Name: "stream-nats-away", Faults: []string{"F1", "F4"}, Tier: 0,
		Proves: "Without a journal a NATS that stands still or is gone means 503 within the deadline and not ready, and never a blessing.",
		Run:    streamNATSAway,
	},
	{
		Name: "stream-nats-killed", Faults: []string{"F3"}, Tier: 0,
		Proves: "Without a journal a killed NATS means refusals, and nothing that was blessed is lost or doubled.",
		Run: func(e *Env) {
			n := e.NATS()
			b := e.Blessd(Config{NATS: n.URL(), Acknowledge: "stream"})
			load := e.Load(b, Load{Retry: true})
			for range e.Times(3) {
				load.MoreBlessed(200)
				n.Kill()
				load.MoreRefused(10)
				n.Start()
			}
			load.MoreBlessed(200)
		},
	},
	{
		Name: "stream-nats-buffer", Faults: []string{"F5"}, Tier: 0,
		Proves: "What was refused while NATS was away is in no buffer: it does not turn up in the stream afterwards.",
		Run: func(e *Env) {
			n := e.NATS()
			b := e.Blessd(Config{NATS: n.URL(), Acknowledge: "stream"})
			b.Ready()
			if r := b.Post(e.Delivery("sendclean")); !r.Blessed() {
				e.Errorf("refused with NATS there: %d %v", r.Status, r.Err)
			}
			n.Stop()
			b.WaitMetric(0, "blessd_nats_connected")
			refused(e, b, "without NATS", 50)
			n.Start()
			b.Ready()
			load := e.Load(b, Load{})
			load.MoreBlessed(50) // whatever is in a buffer comes first
			e.Rules.OnlyAcked = true
		},
	},
	{
		Name: "stream-nats-slow", Faults: []string{"F6"}, Tier: 0,
		Proves: "Without a journal answers wait for a slow NATS, and when it takes longer than the deadline they are refusals.",
		Run:    streamNATSSlow,
	},
	{
		Name: "stream-nats-full", Faults: []string{"F7"}, Tier: 0,
		Proves: "Without a journal a full stream means refusals until there is room.",
		Run: func(e *Env) {
			n := e.NATS()
			b := e.Blessd(Config{NATS: n.URL(), Acknowledge: "stream", Stream: "max_bytes: 256KiB, when_full: refuse"})
			b.Ready()
			load := e.Load(b, Load{Senders: 4, Providers: []string{"sendclean"}, Pause: 5 * time.Millisecond})
			load.MoreRefused(20)
			blessed := load.Blessed()
			load.MoreRefused(80)
			if more := load.Blessed() - blessed; more > 4 {
				e.Errorf("%d blessings while the stream was full", more)
			}
			e.Resize(n.JetStream(), ledger.Events, 1<<30)
			load.MoreBlessed(50)
		},
	},
}

// othersStream has a stream that somebody made with limits of their own.
func othersStream(e *Env) {
	n := e.NATS()
	js := n.JetStream()
	theirs := jetstream.StreamConfig{Name: ledger.Events, Subjects: []string{"mail.events.>"}, MaxMsgs: 1_000_000, Discard: jetstream.DiscardOld, Duplicates: 10 * time.Minute}
	if _, err := js.CreateStream(e.Context(), theirs); err != nil {
		e.Fatalf("%v", err)
	}
	b := e.Blessd(Config{NATS: n.URL(), Stream: "max_bytes: 8GiB, when_full: refuse"})
	load := e.Load(b, Load{})
	load.MoreBlessed(100)
	b.WaitLog("it keeps only 1000000 messages")
	b.WaitLog("when full it removes the oldest messages and does not do what was configured")
	if c := e.Stream(js, ledger.Events).Config; c.MaxMsgs != theirs.MaxMsgs || c.Discard != theirs.Discard || c.MaxBytes > 0 {
		e.Errorf("blessd changed a stream that is not its own: %+v", c)
	}
	e.Rules.NothingRefused = true
}

func storeFull(e *Env) {
	// The streams reserve nothing, so that it is the server's limit that is reached.
	n := e.NATSWithin("max_file_store: 3MB")
	js := n.JetStream()
	for name, subject := range map[string]string{ledger.Events: "mail.events.>", ledger.Quarantine: "mail.quarantine.>", "OTHER": "other"} {
		if _, err := js.CreateStream(e.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}, Discard: jetstream.DiscardNew, Duplicates: 10 * time.Minute, MaxBytes: -1}); err != nil {
			e.Fatalf("%v", err)
		}
	}
	for range 20 {
		if _, err := js.Publish(e.Context(), "other", make([]byte, 100_000)); err != nil {
			e.Fatalf("%v", err)
		}
	}
	b := e.Blessd(Config{NATS: n.URL(), Stream: "max_bytes: 8GiB, when_full: refuse"})
	load := e.Load(b, Load{Senders: 4, Pause: 10 * time.Millisecond})
	e.Wait("the server's storage to be full", func() bool { return b.Metric("blessd_publish_errors_total") > 0 })
	load.MoreBlessed(100)
	load.Stop()
	b.Ready() // NATS' troubles are not the providers'
	if err := js.DeleteStream(e.Context(), "OTHER"); err != nil {
		e.Fatalf("%v", err)
	}
	e.Rules.NothingRefused = true
}

func streamReset(e *Env) {
	n := e.NATS()
	b := e.Blessd(Config{NATS: n.URL()})
	load := e.Load(b, Load{Senders: 4})
	load.MoreBlessed(100)
	b.WaitMetric(0, "blessd_stream_went_backwards")
	e.Wait("events in the stream", func() bool {
		i := e.Stream(n.JetStream(), ledger.Events)
		return i != nil && i.State.Msgs > 100
	})
	if err := n.JetStream().DeleteStream(e.Context(), ledger.Events); err != nil {
		e.Fatalf("%v", err)
	}
	b.WaitMetric(1, "blessd_stream_went_backwards")
	load.MoreBlessed(100)
	load.Stop()
	// The cursor waits four minutes for a server that syncs late: the journal had
	// everything, and so the stream has it again.
	e.Rules.NothingRefused, e.Rules.Again = true, true
	e.Judge()

	b.Stop()
	b.Start()
	b.Ready()
	b.WaitMetric(1, "blessd_stream_went_backwards")
	if _, status := b.Get("/-/status"); !strings.Contains(status, `"stream_went_backwards": [`) {
		e.Errorf("status does not say that the stream went backwards:\n%s", status)
	}
	b.Stop()
	b.Start("--accept-stream-reset")
	b.WaitMetric(0, "blessd_stream_went_backwards")
	b.WaitLog("is accepted")
	b.Stop()
	b.Start()
	e.Wait("the relay to begin", func() bool { return strings.Contains(b.Process.Log(), "relay starts") })
	b.WaitMetric(0, "blessd_stream_went_backwards")
}

// refused posts n deliveries at once: each must be refused, in time, and asked again.
func refused(e *Env, b *Blessd, when string, n int) {
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			r := b.Post(e.Delivery("sendclean"))
			if r.Status != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" {
				e.Errorf("%s: answered %d, Retry-After %q, %v; want 503 with a time", when, r.Status, r.Header.Get("Retry-After"), r.Err)
			}
			if r.Took > refusalLimit {
				e.Errorf("%s: refused after %v, want at most %v", when, r.Took, refusalLimit)
			}
		})
	}
	wg.Wait()
}

func streamNATSAway(e *Env) {
	n := e.NATS()
	b := e.Blessd(Config{NATS: n.URL(), Acknowledge: "stream"})
	b.Ready()
	blessed := func(when string) {
		if r := b.Post(e.Delivery("sendclean")); !r.Blessed() {
			e.Errorf("%s: refused with %d after %v", when, r.Status, r.Took)
		}
	}
	blessed("with NATS there")
	n.Freeze()
	refused(e, b, "with NATS frozen", 5)
	b.NotReady("with NATS frozen")
	n.Thaw()
	b.Ready()
	blessed("with NATS back from the cold")
	n.Kill()
	refused(e, b, "with NATS killed", 5)
	b.NotReady("with NATS killed")
	n.Start()
	b.Ready()
	blessed("with NATS started again")
}

func streamNATSSlow(e *Env) {
	n := e.NATS()
	line := e.Line(n.URL())
	b := e.Blessd(Config{NATS: line.URL(), Acknowledge: "stream"})
	b.Ready()
	line.Latency(500 * time.Millisecond)
	if r := b.Post(e.Delivery("sendclean")); !r.Blessed() || r.Took < 500*time.Millisecond {
		e.Errorf("with a latency of 500 ms: blessed %t after %v, want true after that time", r.Blessed(), r.Took)
	}
	line.Latency(8 * time.Second)
	if r := b.Post(e.Delivery("sendclean")); r.Blessed() || r.Took > refusalLimit {
		e.Errorf("with a latency of 8 s: blessed %t after %v, want a refusal within %v", r.Blessed(), r.Took, refusalLimit)
	}
	line.Latency(0)
	// What is still in the line comes first.
	e.Wait("a blessing", func() bool { return b.Post(e.Delivery("sendclean")).Blessed() })
}
