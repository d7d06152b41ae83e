package scenario

import (
	"fmt"
	"strings"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

var awayScenarios = []Scenario{
	{
		Name: "nats-away-10m", Faults: []string{"F3"}, Tier: 0,
		Proves: "NATS may be away for longer than the duplicate window, under load: nothing is refused, and the journal is published afterwards much faster than it grows, in order and without doubles.",
		Run:    natsAway,
	},
	{
		Name: "journal-full", Faults: []string{"F1", "F3"}, Tier: 1,
		Proves: "When NATS is away until the journal is full, deliveries are refused with 503, and everything goes on when NATS is back.",
		Run:    journalFull,
	},
}

// natsAway has the server that has the streams away for 10 s with each commit, and
// for the ten minutes of its name each night. Deliveries carry seven events or one.
func natsAway(e *Env) {
	const eventsPerSecond, perDelivery = 1000, (3*PerBatch + 2) / 5.
	away := 10 * time.Second
	if e.o.Scale > 1 {
		away = 10 * time.Minute
	}
	n := e.NATS()
	b := e.Blessd(Config{NATS: n.URL(), Stream: "max_bytes: 4GiB, duplicate_window: 5s", Journal: "max_bytes: 4GiB"})
	load := e.Load(b, Load{Rate: eventsPerSecond / perDelivery})
	load.MoreBlessed(200)
	n.Kill()
	gone := time.Now()
	before := load.Blessed()
	pause(e.ctx, away)
	got, sent := float64(load.Blessed()-before), away.Seconds()*eventsPerSecond/perDelivery
	if got == 0 || e.o.Scale > 1 && got < .8*sent {
		e.Fatalf("%.0f of about %.0f deliveries were blessed while NATS was away", got, sent)
	}
	backlog := b.Metric("blessd_journal_records")
	n.Start()
	back := time.Now()
	settled := b.Metric("blessd_relay_settled_record")
	taken := load.Blessed()
	e.Wait("the backlog to be published", func() bool { return b.Metric("blessd_relay_settled_record") >= settled+backlog })
	took := time.Since(back).Seconds()
	published := b.Metric("blessd_relay_settled_record") - settled
	inflow := float64(load.Blessed()-taken) / took
	load.MoreBlessed(200)
	load.Stop()
	e.Figuref("NATS away for %.0f s at %.0f events/s; %.0f requests waited, and were published in %.1f s, %.1f times as fast as others came (%.1f requests/s)",
		back.Sub(gone).Seconds(), float64(eventsPerSecond), backlog, took, published/took/max(inflow, 1), inflow)
	if e.o.Scale > 1 && published/took < 3*inflow {
		e.Errorf("the backlog was published %.1f times as fast as others came, want several times", published/took/inflow)
	}
	e.Rules.NothingRefused = true
	e.Wait("the journal to be published", func() bool { return b.settled() })
	e.receivedInOrder()
}

// receivedInOrder fails when the events stream has requests in another order than that in
// which blessd took them. Neighbours may have changed places by as long as a request
// takes from its receipt to the journal.
func (e *Env) receivedInOrder() {
	const tolerance = 5 * time.Second
	r, err := ledger.NewReader(e.streams)
	if err != nil {
		e.Fatalf("%v", err)
	}
	defer r.Close()
	var newest time.Time
	behind, total := 0, 0
	if err := r.Read(e.ctx, func(m *ledger.Message) error {
		if m.Stream != ledger.Events {
			return nil
		}
		total++
		_, text, _ := strings.Cut(string(m.Data), `"received":"`)
		text, _, _ = strings.Cut(text, `"`)
		received, err := time.Parse(time.RFC3339, text)
		switch {
		case err != nil:
			return fmt.Errorf("event %d: %w", m.Seq, err)
		case received.After(newest):
			newest = received
		case newest.Sub(received) > tolerance:
			behind++
		}
		return nil
	}); err != nil {
		e.Fatalf("read the streams: %v", err)
	}
	if behind > 0 {
		e.Errorf("%d of %d events come more than %v after others that were received later", behind, total, tolerance)
	}
}

// journalFull has a cluster, whose acknowledgement is enough for the journal to let
// go of a request.
func journalFull(e *Env) {
	c := e.Cluster()
	js := e.JetStream(c.URL())
	b := e.Blessd(Config{NATS: c.URL(), Stream: "replicas: 3, max_bytes: 8GiB", Quarantine: "max_bytes: 16MiB", Journal: "max_bytes: 2MiB"})
	e.Wait("the streams", func() bool { return c.Whole(js) && c.Stream(js, ledger.Quarantine) != nil })
	load := e.Load(b, Load{Retry: true, Pause: 20 * time.Millisecond})
	for range e.Times(2) {
		load.MoreBlessed(200)
		for _, n := range c.Servers {
			n.Kill()
		}
		load.MoreRefused(50)
		b.NotReady("with a full journal")
		for _, n := range c.Servers {
			n.Start()
		}
		b.Ready()
		load.MoreBlessed(200)
		e.Wait("the cluster to be whole", func() bool { return c.Whole(js) })
	}
}
