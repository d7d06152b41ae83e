package scenario

import (
	"fmt"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

var powercutScenarios = []Scenario{
	{
		Name: "power-cut", Faults: []string{"F14"}, Tier: 0,
		Proves: "When the power goes away, at any moment or just after the journal let go of what NATS has, everything that was blessed is there afterwards.",
		Run:    powerCuts(Config{Stream: "max_bytes: 4GiB"}, 2),
	},
	{
		Name: "power-cut-stream", Faults: []string{"F14"}, Tier: 1,
		Proves: "The same holds without a journal: the embedded server syncs every event before the blessing.",
		Run:    powerCuts(Config{Acknowledge: "stream", Stream: "max_bytes: 4GiB"}, 1),
	},
	{
		Name: "power-cut-nats", Faults: []string{"F14"}, Tier: 1,
		Proves: "When the power of a NATS server without replicas goes away, what it had acknowledged and not synced is still in the journal and is published again: no provider notices, and nothing is lost or doubled.",
		Run:    powerCutNATS,
	},
}

// powerCuts has the whole of blessd's data on a disk of its own and goes on, after
// each cut, with what that disk had. Every second cut comes right after the cursor
// has moved: from then on NATS alone has what it has passed.
func powerCuts(c Config, cuts int) func(*Env) {
	return func(e *Env) {
		const most = 60 // all that was blessed stays, and is copied each time
		cuts := min(e.Times(cuts), most)
		b := e.BlessdLater(c)
		d := e.disk(1<<30+int64(cuts)<<26, b.DataDir())
		b.Start()
		load := e.Load(b, Load{Retry: true, Pause: 25 * time.Millisecond})
		for i := range cuts {
			load.MoreBlessed(100)
			if i%2 == 1 && c.Acknowledge != "stream" {
				const cursor = "blessd_relay_cursor_timestamp_seconds"
				before := b.Metric(cursor)
				e.Wait("the cursor to move", func() bool { return b.Metric(cursor) != before })
			} else {
				e.Moment(2 * time.Second)
			}
			b.Freeze()
			image := d.cut()
			b.Kill()
			d.replace(image)
			b.Start()
			if c.Acknowledge != "stream" {
				e.Logf("cut %d: %d blessed so far; %.0f requests found in the journal", i+1, load.Blessed(), b.Metric("blessd_journal_records"))
			}
		}
		load.MoreBlessed(100)
		e.Figuref("%d cuts", cuts)
	}
}

// powerCutNATS has the store of a NATS server on a disk of its own. The server syncs
// every two seconds in place of its default of two minutes, and blessd waits for two
// of these intervals, as it does by default. Each cut comes when the cursor has moved:
// what it has passed is in the server alone.
func powerCutNATS(e *Env) {
	const (
		most      = 60 // all that was blessed stays, and is copied each time
		interval  = 2 * time.Second
		backwards = "blessd_stream_went_backwards"
	)
	e.Seeded()
	cuts := min(e.Times(3), most)
	n := e.prepareNATS(fmt.Sprintf("sync_interval: %q\n  max_file_store: 8GiB", interval), nil)
	d := e.disk(1<<30+int64(cuts)<<26, n.dir)
	n.Start()
	b := e.Blessd(Config{NATS: n.URL(), Stream: "max_bytes: 4GiB", Env: []string{knobs(quickCursor, fmt.Sprintf("foreign-sync-lag=%v", 2*interval))}})
	b.Settled()
	d.flush() // what describes a stream is never synced by the server, but half a minute old in all that follows
	load := e.Load(b, Load{Pause: 25 * time.Millisecond})
	lost := uint64(0)
	for i := range cuts {
		load.MoreBlessed(100)
		before, _ := b.state() // the metric changes with the alarm, too
		e.Wait("the cursor to move", func() bool { s, ok := b.state(); return ok && s.Journal.First > max(before.Journal.First, 1) })
		e.Moment(interval)
		had := e.Stream(e.JetStream(n.URL()), ledger.Events).State.LastSeq
		n.Freeze()
		image := d.cut()
		n.Kill()
		d.replace(image)
		n.Start()
		s := e.Stream(e.JetStream(n.URL()), ledger.Events)
		if s == nil {
			e.Fatalf("after cut %d the server has no stream %s\n%s", i+1, ledger.Events, tail(n.Log(), 2000))
		}
		has := s.State.LastSeq // and blessd may be publishing again already
		e.Logf("cut %d: %d blessed so far; NATS had %d events and has %d", i+1, load.Blessed(), had, has)
		lost += max(had, has) - has
		load.MoreBlessed(100)
	}
	load.Stop()
	b.Settled()
	alarm := b.Metric(backwards)
	if lost == 0 && alarm == 0 {
		e.Errorf("NATS lost nothing in %d cuts: this run shows nothing", cuts)
	}
	e.Figuref("%d cuts, some %d events lost by NATS and published again, %s %v", cuts, lost, backwards, alarm)
	e.Rules.NothingRefused, e.Rules.Again = true, true
}
