package scenario

import (
	"os"
	"path/filepath"
	"time"
)

var diskfullScenarios = []Scenario{
	{
		Name: "disk-full-journal", Faults: []string{"F10"}, Tier: 1,
		Proves: "When the journal's disk is full, deliveries are refused with 503 until there is space, and nothing is lost.",
		Run:    journalDiskFull,
	},
	{
		Name: "disk-full-nats", Faults: []string{"F10"}, Tier: 1,
		Proves: "When the disk of the embedded server is full no provider notices; the server is restarted when there is space, and gets everything.",
		Run:    natsDiskFull,
	},
}

const (
	stuck    = "blessd_embedded_stuck"
	restarts = "blessd_embedded_restarts_total"
)

// journalDiskFull has the streams elsewhere: in a server of their own.
func journalDiskFull(e *Env) {
	n := e.NATS()
	b := e.BlessdLater(Config{NATS: n.URL()})
	if err := os.MkdirAll(b.DataDir(), 0o700); err != nil {
		e.Fatalf("%v", err)
	}
	at := filepath.Join(b.DataDir(), "journal")
	e.disk(512<<20, at)
	b.Start()
	load := e.Load(b, Load{Senders: 32, Retry: true})
	for range e.Times(2) {
		load.MoreBlessed(200)
		e.Moment(500 * time.Millisecond)
		filler := filepath.Join(at, "filler")
		e.Fill(filler)
		load.MoreRefused(50)
		b.NotReady("with a full disk")
		e.remove1(filler)
		load.MoreBlessed(200)
		b.Ready()
	}
}

// natsDiskFull has the streams alone on a disk.
func natsDiskFull(e *Env) {
	b := e.BlessdLater(Config{})
	if err := os.MkdirAll(b.DataDir(), 0o700); err != nil {
		e.Fatalf("%v", err)
	}
	at := filepath.Join(b.DataDir(), "nats")
	e.disk(512<<20+int64(e.Times(1))<<28, at) // what was published stays on it
	b.Start()
	load := e.Load(b, Load{Pause: 5 * time.Millisecond})
	for n := range e.Times(1) {
		load.MoreBlessed(200)
		filler := filepath.Join(at, "filler")
		e.Fill(filler)
		b.WaitMetric(1, stuck)
		load.MoreBlessed(200)
		b.Ready()
		e.remove1(filler)
		b.WaitMetric(float64(n+1), restarts)
		b.WaitMetric(0, stuck)
		load.MoreBlessed(200)
	}
	e.Rules.NothingRefused = true
}
