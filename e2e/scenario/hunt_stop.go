package scenario

import (
	"sync"
)

var huntStoppingScenarios = []Scenario{
	{
		Name: "hunt-stop-answers", Tier: 1,
		Proves: "A stop waits for the answers to what is stored.",
		Run:    huntStopAnswers,
	},
	{
		Name: "hunt-stop-busy", Tier: 1,
		Proves: "A stop under load ends well: what was blessed is stored, what is stored was blessed.",
		Run:    huntStopBusy,
	},
}

// huntStopAnswers stops blessd while every answer takes longer than the rest of the stop.
func huntStopAnswers(e *Env) {
	e.Seeded()
	const senders = 16
	b := e.Blessd(Config{Env: []string{failpoint("receiver.before-answer:*:sleep=2500ms")}})
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() { b.Post(e.Delivery("sendclean")) })
	}
	e.Wait("all of it to be stored", func() bool { return b.Metric("blessd_webhook_blessed_total") >= senders })
	b.Stop()
	wg.Wait()
	e.Rules.OnlyAcked = true
	b.Again()
	b.Bless(e.Delivery("sendclean"))
	b.Settled()
}

func huntStopBusy(e *Env) {
	b := e.Blessd(Config{})
	load := e.Load(b, Load{Senders: 32, Providers: []string{"sendclean", "mailgun", "enkod"}})
	for range 2 {
		load.MoreBlessed(200)
		b.Stop()
		b.Start()
	}
	load.MoreBlessed(50)
	load.Stop()
	e.Rules.OnlyAcked = true
	b.Settled()
}
