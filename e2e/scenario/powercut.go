package scenario

import "time"

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
