package scenario

import (
	"net/http"
	"path/filepath"
	"strconv"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
	"github.com/blessd/blessd/e2e/seed"
)

var clockScenarios = []Scenario{
	{
		Name: "clock-steps", Faults: []string{"F21"}, Tier: 1,
		Proves: "The clock of the machine may jump by hours and years, and back: only Mailgun's signatures go by it. Nothing else is refused, and nothing is lost or doubled.",
		Run:    func(e *Env) { clockSteps(e, Config{NATS: e.NATS().URL()}) },
	},
	{
		Name: "clock-steps-embedded", Faults: []string{"F21"}, Tier: 1,
		Proves: "The same holds with the embedded server, whose clock it is, too, as long as events are to stay for ever.",
		Run:    func(e *Env) { clockSteps(e, Config{Stream: "max_bytes: 8GiB, max_age: 0s"}) },
	},
	{
		Name: "clock-wrong-at-start", Faults: []string{"F12", "F19", "F21"}, Tier: 1,
		Proves: "blessd may be killed and stopped while the clock is wrong, or steps: the stop is in time, and the next start has everything, whatever it takes the time to be.",
		Run:    clockWrongAtStart,
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
}

const hour, year = time.Hour, 365 * 24 * time.Hour

// clockSteps steps the clock under load, away and back.
func clockSteps(e *Env, c Config) {
	clock := e.stepClock()
	c.Env = clock.env()
	b := e.Blessd(c)
	e.Rules.Statuses = []int{http.StatusUnauthorized}
	load := e.Load(b, Load{Providers: []string{"sendclean", "sarv", "enkod", "vision6"}})
	load.MoreBlessed(100)
	same := e.Delivery("sendclean")
	for range e.Times(1) {
		for _, wrong := range []time.Duration{hour, -hour, 10 * year, -10 * year} {
			clock.step(b, wrong)
			load.MoreBlessed(100)
			if c.NATS != "" { // whose clock is right, and with it the duplicate window
				b.Bless(same)
			}
			signed := e.Delivery("mailgun")
			// Mailgun's signatures are good for 12 hours, and not before their time.
			if r := b.Post(signed); r.Blessed() != (wrong == hour) {
				e.Errorf("with a clock that is wrong by %v a signature of Mailgun was answered %d %q", wrong, r.Status, r.Body)
			}
			clock.step(b, 0)
			load.MoreBlessed(100)
			b.Bless(signed)
		}
	}
	load.Stop()
	if n := load.Refused() + load.Unanswered(); n != 0 {
		e.Errorf("%d requests were not blessed that have nothing to do with the clock", n)
	}
}

// clockWrongAtStart ends and starts blessd while the clock is wrong.
func clockWrongAtStart(e *Env) {
	clock := e.stepClock()
	b := e.Blessd(Config{Stream: "max_bytes: 8GiB, max_age: 0s", Env: clock.env()})
	load := e.Load(b, Load{Providers: []string{"sendclean", "sarv", "enkod", "vision6"}})
	for range e.Times(1) {
		for _, wrong := range []time.Duration{hour, 10 * year, -hour, -10 * year, 0} {
			load.MoreBlessed(100)
			clock.step(b, wrong)
			load.MoreBlessed(100)
			b.Kill()
			b.Start()
			load.MoreBlessed(100)
			b.StopDuring(func() { clock.set(-wrong) })
			b.Start()
			b.Ready()
		}
	}
	load.MoreBlessed(100)
}

// A stepClock is the clock of the day of whatever has its environment.
type stepClock struct {
	e    *Env
	file string
}

// stepClock makes the scenario use a blessd with such a clock. It is right at first.
func (e *Env) stepClock() *stepClock {
	e.useSeeded(seed.ClockBinary, seed.ClockTag, seed.BuildClock)
	return &stepClock{e, filepath.Join(e.dir, "clock")}
}

func (c *stepClock) env() []string { return []string{"BLESSD_CLOCK=" + c.file} }

// set makes the clock wrong by so much, within some milliseconds.
func (c *stepClock) set(wrong time.Duration) {
	c.e.note("the clock is wrong by " + wrong.String())
	c.e.Replace(c.file, strconv.Itoa(int(wrong/time.Second)))
}

// step is set, and waits until blessd has noticed: its answers tell its time.
func (c *stepClock) step(b *Blessd, wrong time.Duration) {
	c.set(wrong)
	c.e.Wait("the clock to step by "+wrong.String(), func() bool {
		q, err := http.NewRequestWithContext(c.e.ctx, http.MethodGet, "http://"+b.where.Load().Admin+"/-/healthy", http.NoBody)
		if err != nil {
			c.e.Fatalf("%v", err)
		}
		answer, err := client.Do(q)
		if err != nil {
			c.e.Fatalf("%v", err)
		}
		_ = answer.Body.Close() // nothing in it is of interest
		date, err := http.ParseTime(answer.Header.Get("Date"))
		off := time.Until(date) - wrong
		return err == nil && off.Abs() < time.Minute
	})
}
