package scenario

import (
	"sync"
	"sync/atomic"
	"time"
)

var handoverScenarios = []Scenario{
	{
		Name: "rolling-restart", Faults: []string{"F19", "F20"}, Tier: 1,
		Proves: "blessd may be restarted again and again under load on a socket that systemd holds: no connection is refused and no request breaks.",
		Run:    rollingRestart,
	},
}

func rollingRestart(e *Env) {
	b := e.BlessdLater(Config{})
	m := e.manager("hooks")
	m.start(b)
	m.told(`^READY=1$`)
	base := "http://" + m.sockets[0].Addr().String()
	var wg sync.WaitGroup
	var blessed atomic.Int64
	done := make(chan struct{})
	stop := sync.OnceFunc(func() { close(done); wg.Wait() })
	e.Cleanup(stop)
	for s := range 8 {
		wg.Go(func() {
			for n := s; ; n++ {
				select {
				case <-done:
					return
				case <-e.ctx.Done():
					return
				default:
				}
				if r := e.PostTo(base, e.Delivery(Providers()[n%len(Providers())])); r.Blessed() {
					blessed.Add(1)
				} else {
					e.Errorf("a delivery was answered %d %v", r.Status, r.Err)
				}
				pause(e.ctx, 5*time.Millisecond)
			}
		})
	}
	more := func() {
		want := blessed.Load() + 100
		e.Wait("blessings", func() bool { return blessed.Load() >= want || e.Failed() })
	}
	restarts := min(e.Times(5), 500)
	for range restarts {
		more()
		e.Moment(200 * time.Millisecond)
		b.StopDuring(func() { m.told(`^STOPPING=1$`) })
		m.start(b)
		m.told(`^READY=1$`)
	}
	more()
	stop()
	b.Listening()
	e.Figuref("%d restarts, %d requests", restarts, blessed.Load())
	e.Rules.NothingRefused, e.Rules.OnlyAcked = true, true
}
