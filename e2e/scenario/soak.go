package scenario

import (
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

var soakScenarios = []Scenario{
	{
		Name: "soak", Faults: []string{"F38"}, Tier: 1,
		Proves: "Under load with a fault every minute nothing is lost, and what blessd takes of the machine does not grow.",
		Run:    soak,
	},
}

// usage is what blessd takes at one moment.
type usage struct {
	at                       time.Time
	memory, goroutines, open float64
}

// soak runs for 90 s by scale, half an hour each night. Faults come each minute, or
// more often when there is less time.
func soak(e *Env) {
	lasts := e.For(90 * time.Second)
	every := min(time.Minute, lasts/15)
	n := e.NATS()
	b := e.Blessd(Config{NATS: n.URL(), Stream: "max_bytes: 32GiB, when_full: refuse", Journal: "max_bytes: 8GiB"})
	load := e.Load(b, Load{Rate: 100, Retry: true})
	load.MoreBlessed(100)
	faults := []struct {
		name string
		do   func()
	}{
		{"blessd is killed", func() { b.Kill(); b.Start() }},
		{"blessd is stopped", func() { b.Stop(); b.Start() }},
		{"blessd reloads", func() { b.Signal(syscall.SIGHUP) }},
		{"NATS is killed", func() { n.Kill(); e.Moment(2 * time.Second); n.Start() }},
		{"NATS stands still", func() { n.Freeze(); e.Moment(6 * time.Second); n.Thaw() }},
		{"NATS is stopped", func() { n.Stop(); n.Start() }},
		{"the stream is full", func() {
			was := e.Stream(n.JetStream(), ledger.Events)
			if was == nil {
				return
			}
			e.Resize(n.JetStream(), ledger.Events, int64(was.State.Bytes))
			e.Moment(2 * time.Second)
			e.Resize(n.JetStream(), ledger.Events, was.Config.MaxBytes)
		}},
	}
	count := make([]int, len(faults))
	var seen []usage
	next := time.Now().Add(every)
	for end := time.Now().Add(lasts); time.Now().Before(end) && !e.Failed() && e.ctx.Err() == nil; {
		pause(e.ctx, every/4)
		if m := b.Metrics(); m.Has("go_goroutines") {
			seen = append(seen, usage{time.Now(), m.Sum("process_resident_memory_bytes") / (1 << 20), m.Sum("go_goroutines"), m.Sum("process_open_fds")})
		}
		if time.Now().Before(next) {
			continue
		}
		next = time.Now().Add(every)
		i := rand.N(len(faults))
		count[i]++
		e.Logf("%s", faults[i].name)
		faults[i].do()
		load.MoreBlessed(10)
	}
	for i, f := range faults {
		if count[i] > 0 {
			e.Logf("%d times: %s", count[i], f.name)
		}
	}
	if len(seen) < 8 {
		return // the scenario was interrupted, or something is wrong already
	}
	quarter := len(seen) / 4
	first, last := seen[:quarter], seen[len(seen)-quarter:]
	median := func(all []usage, of func(usage) float64) float64 {
		var values []float64
		for _, u := range all {
			values = append(values, of(u))
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	for _, what := range []struct {
		name string
		of   func(usage) float64
	}{
		{"MiB of memory", func(u usage) float64 { return u.memory }},
		{"goroutines", func(u usage) float64 { return u.goroutines }},
		{"open files", func(u usage) float64 { return u.open }},
	} {
		was, is := median(first, what.of), median(last, what.of)
		e.Figuref("%s: %.0f in the first quarter of %v, %.0f in the last", what.name, was, lasts, is)
		const slack = 50 // connections come and go with how busy the machine is
		if is > 2*was+slack {
			e.Errorf("blessd has %.0f %s in the last quarter, and had %.0f in the first", is, what.name, was)
		}
	}
	total := 0
	for _, c := range count {
		total += c
	}
	e.Figuref("%d faults, %d requests", total, load.Blessed())
}
