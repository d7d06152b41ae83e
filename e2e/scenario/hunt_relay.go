package scenario

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

var huntRelayScenarios = []Scenario{
	{
		Name: "hunt-nats-away-kill", Tier: 1,
		Proves: "blessd may be killed while NATS is away: what it blessed meanwhile arrives when both are back.",
		Run:    huntNatsAwayKill,
	},
	{
		Name: "hunt-stream-fills-kill", Tier: 1,
		Proves: "A stream that refuses when it is full refuses, and blessd may be killed then: nothing that was blessed is lost.",
		Run:    huntStreamFillsKill,
	},
	{
		Name: "hunt-restart-late", Tier: 1,
		Proves: "After a kill between the acknowledgement and the cursor nothing is doubled, though the duplicate window has passed.",
		Run:    huntRestartLate,
	},
	{
		Name: "hunt-reconnect-late", Tier: 1,
		Proves: "After a connection that lost the acknowledgements nothing is doubled, though the duplicate window has passed.",
		Run:    huntReconnectLate,
	},
	{
		Name: "hunt-stream-replaced", Tier: 1,
		Proves: "A stream that holds less than was published into it raises the alarm, and blessing goes on.",
		Run:    huntStreamReplaced,
	},
	{
		Name: "hunt-endpoint-removed", Tier: 1,
		Proves: "What was blessed for an endpoint that a reload has removed is published all the same.",
		Run:    huntEndpointRemoved,
	},
}

func huntNatsAwayKill(e *Env) {
	e.Seeded()
	n := e.NATS()
	set := knobs(quickCursor, noLag)
	b := e.Blessd(Config{NATS: n.URL(), Env: []string{set}})
	for range 5 {
		b.Bless(e.Delivery("sendclean"))
	}
	b.Settled()
	n.Kill()
	for range 20 {
		b.Bless(e.Delivery("sendclean"))
	}
	e.Wait("the relay to wait for NATS", func() bool {
		s, ok := b.state()
		return ok && (s.Relay.State == "waiting" || s.Relay.Settled+1 >= s.Journal.Next)
	})
	b.Kill()
	n.Start()
	b.Again(set)
	b.Bless(e.Delivery("sendclean"))
	b.Settled()
}

// huntStreamFillsKill has the stream fill up, and kills blessd as soon as it has noticed.
// The relay is made slow and its cursor quick: there is often one on its way after the
// first message that is refused. How often is chance, hence the rounds.
func huntStreamFillsKill(e *Env) {
	e.Seeded()
	const room, each = 16 << 10, 30
	n := e.NATS()
	quick := knobs("cursor-interval=1ms", noLag)
	b := e.BlessdLater(Config{
		NATS: n.URL(), Stream: fmt.Sprintf("max_bytes: %d, when_full: refuse", room),
		Env: []string{quick, failpoint("relay.before-publish:*:sleep=5ms")},
	})
	for round := range e.Times(16) {
		b.Start()
		for range each {
			b.Bless(e.Delivery("mailgun"))
		}
		e.Wait("the stream to be full", func() bool {
			s, ok := b.state()
			// One that is never full lets the oldest go instead.
			return ok && (strings.Contains(s.Relay.Error, "maximum bytes exceeded") || s.Relay.State == "running" && s.Relay.Settled+1 >= s.Journal.Next)
		})
		b.Kill()
		e.Resize(n.JetStream(), ledger.Events, int64(room*(round+2)))
	}
	e.Resize(n.JetStream(), ledger.Events, 1<<30)
	b.Again(quick)
	b.Bless(e.Delivery("sendclean"))
	b.Settled()
}

func huntRestartLate(e *Env) {
	e.Seeded()
	const window = "duplicate_window: 100ms, max_bytes: 1GiB"
	b := e.Blessd(Config{Stream: window, Env: []string{failpoint("relay.after-ack:40:kill")}})
	load := e.Load(b, Load{Senders: 4})
	b.AtPoint()
	load.Stop()
	time.Sleep(time.Second) // the window passes by the clock of the server, which is down
	b.Again()
	b.Bless(e.Delivery("sendclean"))
	b.Settled()
}

func huntReconnectLate(e *Env) {
	n := e.NATS()
	line := e.Line(n.URL())
	b := e.Blessd(Config{NATS: line.URL(), Stream: "duplicate_window: 100ms, max_bytes: 1GiB"})
	for range 5 {
		b.Bless(e.Delivery("sendclean"))
	}
	b.Settled()
	stored := func() uint64 { return e.Stream(n.JetStream(), ledger.Events).State.Msgs }
	before := stored()
	line.Deaf(true)
	for range 5 {
		b.Bless(e.Delivery("sendclean"))
	}
	e.Wait("everything to be stored, unknown to blessd", func() bool { return stored() >= before+5*PerBatch })
	time.Sleep(time.Second) // the window passes by the server's clock
	line.Cut()
	line.Deaf(false)
	b.Bless(e.Delivery("sendclean"))
	b.Settled()
}

func huntStreamReplaced(e *Env) {
	e.Seeded()
	n := e.NATS()
	set := knobs(quickCursor, noLag)
	b := e.Blessd(Config{NATS: n.URL(), Env: []string{set}})
	for range 10 {
		if r := b.send(e.Delivery("sendclean")); !r.Blessed() { // what is deleted below is not in the ledger
			e.Fatalf("not blessed: %d %q %v", r.Status, r.Body, r.Err)
		}
	}
	b.Settled()
	e.Wait("the cursor to move", func() bool { s, ok := b.state(); return ok && s.Journal.First == s.Journal.Next })
	b.Stop()
	if err := n.JetStream().DeleteStream(e.ctx, ledger.Events); err != nil {
		e.Fatalf("%v", err)
	}
	b.Again(set)
	b.Bless(e.Delivery("sendclean"))
	b.Settled()
	if got := b.Metric("blessd_stream_went_backwards"); got != 1 {
		e.Errorf("no alarm: the stream was deleted and made again, and blessd_stream_went_backwards is %v", got)
	}
}

func huntEndpointRemoved(e *Env) {
	n := e.NATSLater()
	b := e.Blessd(Config{NATS: n.URL()})
	for range 5 {
		b.Bless(e.Delivery("sendclean"))
		b.Bless(e.Delivery("mailgun"))
	}
	b.RemoveEndpoint("eu")
	if code, text := b.Ask(http.MethodPost, "/-/reload"); code != http.StatusOK {
		e.Fatalf("reload: %d %s", code, text)
	}
	if r := b.sendAs(unmatched, e.Delivery("mailgun")); r.Status != http.StatusNotFound {
		e.Fatalf("the endpoint that was removed answers %d", r.Status)
	}
	b.Bless(e.Delivery("sendclean"))
	n.Start()
	b.Settled()
}
