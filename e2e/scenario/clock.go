package scenario

import "github.com/blessd/blessd/e2e/ledger"

var clockScenarios = []Scenario{
	{
		Name: "clock-steps", Faults: []string{"F21"}, Tier: 1,
		Proves: "The clock may jump: nothing is lost, and time-outs do not go by it.",
		Run: func(e *Env) {
			e.Skipf("the clock of one process cannot be stepped: Go programs do not load libfaketime, a time namespace has no clock of the day, and a " +
				"step of the machine's would disturb everybody on it; the tests of receiver (Mailgun's max_age) and relay cover what reads the clock")
		},
	},
	{
		Name: "batch-again", Faults: []string{"F25"}, Tier: 1,
		Proves: "A batch that comes again after a lost answer, whole, in part or with its events in another order, is recognised event by event: no atomic batches are used, which would be refused as a whole.",
		Run:    batchAgain,
	},
}

func batchAgain(e *Env) {
	n := e.NATS()
	b := e.Blessd(Config{NATS: n.URL()})
	for range e.Times(20) {
		uid := e.ledger.NewUID()
		all := sendcleanEvents(uid, PerBatch)
		part := all[2:5]
		turned := make([]string, 0, len(all))
		for i := range all {
			turned = append(turned, all[len(all)-1-i])
		}
		for _, elements := range [][]string{part, all, all, turned} {
			if r := b.Post(e.SendClean("sendclean", uid, elements...)); !r.Blessed() {
				e.Fatalf("a batch was answered %d %s %v", r.Status, r.Body, r.Err)
			}
		}
	}
	e.Wait("the journal to be published", func() bool { return b.settled() })
	if i := e.Stream(n.JetStream(), ledger.Events); i == nil || i.Config.AllowAtomicPublish {
		e.Errorf("the stream is %+v, want one without atomic batches", i)
	}
	e.Rules.NothingRefused = true
	e.Rules.Again = true
}
