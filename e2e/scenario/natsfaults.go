package scenario

var natsScenarios = []Scenario{
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
}
