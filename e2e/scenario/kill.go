package scenario

import "time"

var killScenarios = []Scenario{
	{
		Name: "kill-blessd", Faults: []string{"F12"}, Tier: 0,
		Proves: "blessd may be killed at any moment: what it blessed is in the stream, once and unchanged.",
		Run:    killBlessd(Config{}),
	},
	{
		Name: "stream-kill-blessd", Faults: []string{"F12"}, Tier: 0,
		Proves: "The same holds without a journal, when the answer waits for the stream.",
		Run:    killBlessd(Config{Acknowledge: "stream"}),
	},
}

// killBlessd kills blessd, with the NATS server in it, under load.
func killBlessd(c Config) func(*Env) {
	return func(e *Env) {
		b := e.Blessd(c)
		load := e.Load(b, Load{Retry: true})
		for range e.Times(10) {
			load.MoreBlessed(50)
			e.Moment(500 * time.Millisecond)
			b.Kill()
			b.Start()
		}
		load.MoreBlessed(50)
	}
}
