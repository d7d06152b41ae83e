package scenario

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

var killScenarios = []Scenario{
	{
		Name: "kill-blessd", Faults: []string{"F12"}, Tier: 0,
		Proves: "blessd may be killed at any moment: what it blessed is in the stream, once and unchanged.",
		Run:    func(e *Env) { killBlessd(e, Config{}) },
	},
	{
		Name: "kill-blessd-and-nats", Faults: []string{"F3", "F12"}, Tier: 1,
		Proves: "blessd and a NATS server of its own may be killed in turn and together, and nothing is lost or doubled.",
		Run:    killBoth,
	},
	{
		Name: "stream-kill-blessd", Faults: []string{"F12"}, Tier: 0,
		Proves: "Without a journal too what was blessed survives a kill: the answer waited for the stream.",
		Run: func(e *Env) {
			b := killBlessd(e, Config{Acknowledge: "stream"})
			if _, err := os.Stat(filepath.Join(b.DataDir(), "journal")); err == nil {
				e.Errorf("there is a journal")
			}
			if status, body := b.Get("/-/status"); status != http.StatusOK || strings.Contains(body, `"journal": {`) {
				e.Errorf("status %d mentions a journal that there is not:\n%s", status, body)
			}
		},
	},
}

// killBlessd kills blessd, with the NATS server in it, under load. That alone proves
// little about a disk, since the page cache survives.
func killBlessd(e *Env, c Config) *Blessd {
	b := e.Blessd(c)
	load := e.Load(b, Load{Retry: true})
	for range e.Times(10) {
		load.MoreBlessed(30)
		e.Moment(500 * time.Millisecond)
		b.Kill()
		b.Start()
	}
	load.MoreBlessed(30)
	return b
}

func killBoth(e *Env) {
	n := e.NATS()
	b := e.Blessd(Config{NATS: n.URL()})
	load := e.Load(b, Load{Retry: true})
	for i := range e.Times(6) {
		load.MoreBlessed(50)
		e.Moment(300 * time.Millisecond)
		switch i % 3 {
		case 0:
			n.Kill()
			b.Kill()
			b.Start()
			load.MoreBlessed(50) // without NATS
			n.Start()
		case 1:
			b.Kill()
			n.Kill()
			n.Start()
			b.Start()
		default:
			b.Kill()
			b.Start()
		}
	}
	load.MoreBlessed(50)
}
