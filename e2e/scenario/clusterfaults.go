package scenario

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

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
	{
		Name: "cluster-partition", Faults: []string{"F18"}, Tier: 1,
		Proves: "The network may part the leader of the stream from the other two, with a blessd that stays with it, or all three from each other, and come back with what it held or without: no provider notices.",
		Run:    clusterPartition,
	},
	{
		Name: "cluster-peer-removed", Faults: []string{"F18"}, Tier: 1,
		Proves: "Members of the stream's group, its leader, too, may be removed from it, so that a fourth server takes their place: no provider notices.",
		Run:    clusterPeerRemoved,
	},
}

// twoOnCluster is what docs/operating.md describes: three servers and two blessd.
func (e *Env) twoOnCluster() (*Cluster, [2]*Blessd) {
	c := e.Cluster()
	return c, e.twoOn(c, c.URL(), c.URL())
}

// twoOn starts two blessd, each on a URL of its own.
func (e *Env) twoOn(c *Cluster, one, other string) [2]*Blessd {
	js := e.JetStream(c.URL())
	quarantine := "max_bytes: 16MiB"
	first := e.Blessd(Config{NATS: one, Stream: "replicas: 3, max_bytes: 8GiB", Quarantine: quarantine})
	e.Wait("the streams", func() bool {
		return c.Stream(js, ledger.Events) != nil && c.Stream(js, ledger.Quarantine) != nil
	})
	return [2]*Blessd{first, e.Blessd(Config{NATS: other, Stream: "max_bytes: 8GiB", Quarantine: quarantine})}
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

// clusterPartition parts the leader from the others until another leads, and then all
// from each other until none does. The servers' connections break, or what they send
// arrives when the network is back, by turns.
func clusterPartition(e *Env) {
	c := e.ClusterOnLines()
	// Each on one server, so that there is always one with the majority.
	two := e.twoOn(c, c.Servers[0].URL(), c.Servers[1].URL())
	js := e.JetStream(c.URL())
	load := e.LoadAll(two[:], Load{Senders: 8, Pause: 200 * time.Millisecond})
	load.MoreBlessed(200)
	var longest, slowest time.Duration
	// A nats-server (2.15.2) that comes back with entries that the others do not have can
	// take two minutes under load: what would end it is a snapshot of the leader, which
	// writes none while it is asked to catch somebody up.
	whole := func(condition func() bool) {
		began := time.Now()
		e.waitAtMost(4*e.o.Limit, "the cluster to be whole", condition)
		slowest = max(slowest, time.Since(began))
	}
	times, withLeader := min(e.Times(2), 50), 0
	for n := range times {
		cut := (*Line).Shut
		if n%2 == 1 {
			cut = (*Line).Hold
		}
		part := func(on bool, servers ...int) {
			for _, i := range servers {
				for _, line := range c.Routes(i) {
					cut(line, on)
				}
			}
		}
		hit := -1
		e.Wait("a leader", func() bool { hit = c.Leader(js); return hit >= 0 })
		e.note("the leader is parted from the others")
		part(true, hit)
		began := time.Now()
		load.MoreBlessed(50)
		if hit < len(two) {
			withLeader++
		}
		majority := (hit + 1) % len(two)
		there := c.Servers[majority].JetStream()
		e.Wait("another leader", func() bool { now := c.Leader(there); return now >= 0 && now != hit })
		settled := two[majority].Metric("blessd_relay_settled_record")
		e.Wait("events after that", func() bool { return two[majority].Metric("blessd_relay_settled_record") > settled+50 })
		longest = max(longest, time.Since(began))
		part(false, hit)
		e.note("the leader that was is back")
		// It may still answer as if it led.
		whole(func() bool { return c.Leader(js) != hit && c.Whole(js) })

		e.note("all are parted from each other")
		part(true, 0, 1, 2)
		load.MoreBlessed(50)
		for _, n := range c.Servers {
			e.Wait("no leader", func() bool { return c.Leader(n.JetStream()) < 0 })
		}
		load.MoreBlessed(50)
		part(false, 0, 1, 2)
		e.note("all are together again")
		whole(func() bool { return c.Whole(js) })
	}
	e.Figuref("%d leaders parted, %d of them with a blessd; %.1f s at most until another took events, %.1f s until the cluster was whole again", times, withLeader, longest.Seconds(), slowest.Seconds())
	e.clusterEnds(load, two)
	for i, b := range two {
		// A server that was parted may tell of less than the others have. blessd then begins
		// again at its cursor, without an alarm, and counts what is there once more.
		if n := strings.Count(b.Log(), "beginning again at the journal's cursor"); n > 0 {
			e.Rules.Again = true
			e.Figuref("blessd %d began again %d times", i+1, n)
		}
	}
}

// clusterPeerRemoved removes the leader and a follower by turns, while a fourth server
// is there to take the place.
func clusterPeerRemoved(e *Env) {
	c, two := e.twoOnCluster()
	js := e.JetStream(c.URL())
	load := e.LoadAll(two[:], Load{Senders: 8, Pause: 200 * time.Millisecond})
	load.MoreBlessed(200)
	e.Wait("the cluster to be whole", func() bool { return c.Whole(js) })

	// Of three alone nobody could take the place: the server refuses, and changes nothing.
	first := c.Group(js)
	e.Wait("a removal to be refused", func() bool {
		answer := e.removePeer(js, first[0])
		if answer.Success {
			e.Fatalf("%s was removed though there is no other server", first[0])
		}
		return answer.Error.Code == peerRemapFailed
	})
	load.MoreBlessed(50)
	c.Join()

	var longest time.Duration
	times := min(e.Times(4), 100)
	for n := range times {
		// The leader comes first.
		peer := c.Group(js)[n%2]
		e.note("the server " + peer + " is removed from the group")
		began := time.Now()
		e.Wait("the removal", func() bool {
			return e.removePeer(js, peer).Success || !slices.Contains(c.Group(js), peer) // the answer may be lost
		})
		load.MoreBlessed(50)
		e.Wait("another in its place", func() bool { return c.Whole(js) && !slices.Contains(c.Group(js), peer) })
		longest = max(longest, time.Since(began))
		for _, b := range two {
			settled := b.Metric("blessd_relay_settled_record")
			e.Wait("events after that", func() bool { return b.Metric("blessd_relay_settled_record") > settled+50 })
		}
	}
	e.Figuref("%d members removed; %.1f s at most until another was current; with three servers alone it is refused", times, longest.Seconds())
	e.clusterEnds(load, two)
}

// peerRemapFailed is the server's code for a member that cannot be replaced.
const peerRemapFailed = 10075

// removal is what the server answers to the removal of a member.
type removal struct {
	Success bool `json:"success"`
	Error   struct {
		Code int `json:"err_code"`
	} `json:"error"`
}

// removePeer asks the cluster to remove a server from the group of the events stream.
func (e *Env) removePeer(js jetstream.JetStream, peer string) (answer removal) {
	m, err := js.Conn().Request("$JS.API.STREAM.PEER.REMOVE."+ledger.Events, fmt.Appendf(nil, `{"peer":%q}`, peer), 10*time.Second)
	if err != nil {
		return answer // a cluster that is choosing its leader
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		e.Fatalf("the answer %q: %v", m.Data, err)
	}
	return answer
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
