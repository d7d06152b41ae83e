package scenario

import (
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

var clusterfaultScenarios = []Scenario{
	{
		Name: "cluster-leader-killed-often", Faults: []string{"F17"}, Tier: 1,
		Proves: "The leader of the stream may be killed time and again, and its loss noticed or not, under two blessd: no provider notices.",
		Run:    clusterFaults(func(_ *Env, n *NATS) { n.Kill() }, (*NATS).Start),
	},
	{
		Name: "cluster-leader-frozen", Faults: []string{"F18"}, Tier: 1,
		Proves: "The leader of the stream may stand still until another leads, and come back believing that it still does.",
		Run:    clusterFaults(func(_ *Env, n *NATS) { n.Freeze() }, func(n *NATS) { n.Thaw() }),
	},
	{
		Name: "cluster-rolling-restart", Faults: []string{"F18"}, Tier: 1,
		Proves: "The servers of a cluster may be stopped and started one after the other: no provider notices.",
		Run:    clusterRollingRestart,
	},
}

// twoOnCluster is what docs/operating.md describes: three servers and two blessd.
func (e *Env) twoOnCluster() (*Cluster, [2]*Blessd) {
	c := e.Cluster()
	js := e.JetStream(c.URL())
	quarantine := "max_bytes: 16MiB"
	first := e.Blessd(Config{NATS: c.URL(), Stream: "replicas: 3, max_bytes: 8GiB", Quarantine: quarantine})
	e.Wait("the streams", func() bool {
		return c.Stream(js, ledger.Events) != nil && c.Stream(js, ledger.Quarantine) != nil
	})
	return c, [2]*Blessd{first, e.Blessd(Config{NATS: c.URL(), Stream: "max_bytes: 8GiB", Quarantine: quarantine})}
}

// clusterFaults does something to the leader, three times with each scale, and undoes
// it when another leads and takes events.
func clusterFaults(harm func(*Env, *NATS), mend func(*NATS)) func(*Env) {
	return func(e *Env) {
		c, two := e.twoOnCluster()
		js := e.JetStream(c.URL())
		load := e.LoadAll(two[:], Load{Senders: 8, Pause: 50 * time.Millisecond})
		load.MoreBlessed(200)
		var longest time.Duration
		times := min(e.Times(3), 100)
		for range times {
			hit := -1
			e.Wait("a leader", func() bool { hit = c.Leader(js); return hit >= 0 })
			harm(e, c.Servers[hit])
			began := time.Now()
			load.MoreBlessed(50)
			e.Wait("another leader", func() bool { now := c.Leader(js); return now >= 0 && now != hit })
			settled := two[0].Metric("blessd_relay_settled_record")
			e.Wait("events after that", func() bool { return two[0].Metric("blessd_relay_settled_record") > settled+50 })
			longest = max(longest, time.Since(began))
			mend(c.Servers[hit])
			e.Wait("the cluster to be whole", func() bool { return c.Whole(js) })
		}
		e.Figuref("%d leaders lost; %.1f s at most until another took events", times, longest.Seconds())
		e.clusterEnds(load, two)
	}
}

func clusterRollingRestart(e *Env) {
	c, two := e.twoOnCluster()
	js := e.JetStream(c.URL())
	load := e.LoadAll(two[:], Load{Senders: 8, Pause: 50 * time.Millisecond})
	load.MoreBlessed(200)
	for range min(e.Times(1), 20) {
		for _, n := range c.Servers {
			n.Stop()
			load.MoreBlessed(50)
			n.Start()
			e.Wait("the cluster to be whole", func() bool { return c.Whole(js) })
		}
	}
	e.clusterEnds(load, two)
}

// clusterEnds asks for what has to hold after each of them.
func (e *Env) clusterEnds(load *Traffic, two [2]*Blessd) {
	load.MoreBlessed(100)
	load.Stop()
	e.Rules.NothingRefused = true
	for _, b := range two {
		b.WaitMetric(0, "blessd_journal_records")
		if b.Metric("blessd_stream_went_backwards") != 0 {
			e.Errorf("blessd says that a stream went backwards")
		}
	}
}
