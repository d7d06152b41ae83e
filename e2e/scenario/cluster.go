package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/blessd/blessd/e2e/ledger"
)

var clusterScenarios = []Scenario{
	{
		Name: "cluster-leader-killed", Faults: []string{"F17"}, Tier: 0,
		Proves: "Two blessd in front of a cluster of three, as docs/operating.md describes it: the leader of the stream is killed, and no provider notices.",
		Run:    leaderKilled,
	},
}

// Cluster is three NATS servers, and who joins them, each in a process of its own, with the configuration that
// docs/operating.md names.
type Cluster struct {
	env     *Env
	Servers []*NATS
	conf    string // of docs/operating.md
	url     string
	peers   []string        // where the routes of the first three go
	routes  []map[int]*Line // from each to each of the others; nil without lines
}

// Cluster starts one of three.
func (e *Env) Cluster() *Cluster { return e.cluster(false) }

// ClusterOnLines starts one of three whose servers reach one another over lines alone,
// and whose clients stay with the servers that they name.
func (e *Env) ClusterOnLines() *Cluster { return e.cluster(true) }

func (e *Env) cluster(onLines bool) *Cluster {
	root, err := module(e.ctx)
	if err != nil {
		e.Fatalf("%v", err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "operating.md"))
	if err != nil {
		e.Fatalf("%v", err)
	}
	_, section, _ := strings.Cut(string(page), "\n## More than one blessd\n")
	_, conf, _ := strings.Cut(section, "```conf\n")
	conf, _, ok := strings.Cut(conf, "```")
	if !ok {
		e.Fatalf("docs/operating.md has no configuration of a cluster")
	}
	c := &Cluster{env: e, conf: conf}
	var clients, routes [3]int
	var urls []string
	for i := range 3 {
		clients[i], routes[i] = e.FreePort(), e.FreePort()
		urls = append(urls, fmt.Sprintf("nats://127.0.0.1:%d", clients[i]))
		c.peers = append(c.peers, fmt.Sprintf("nats://127.0.0.1:%d", routes[i]))
	}
	c.url = strings.Join(urls, ",")
	e.streams = c.url
	for i := range 3 {
		to := "routes: [" + strings.Join(c.peers, ", ") + "]"
		if onLines {
			to = c.linesFrom(i)
		}
		c.add(clients[i], routes[i], to)
	}
	return c
}

// Join starts another server, which the three learn of when it connects to them.
func (c *Cluster) Join() {
	c.add(c.env.FreePort(), c.env.FreePort(), "routes: ["+strings.Join(c.peers, ", ")+"]")
}

// add starts a server on two ports, one for clients and one for routes.
func (c *Cluster) add(client, route int, routes string) {
	name := fmt.Sprintf("n%d", len(c.Servers)+1)
	text := c.conf
	for old, now := range map[string]string{
		"server_name: n1": "server_name: " + name,
		"0.0.0.0:4222":    fmt.Sprintf("127.0.0.1:%d", client),
		"0.0.0.0:6222":    fmt.Sprintf("127.0.0.1:%d", route),
		"/var/lib/nats":   filepath.Join(c.env.dir, name),
		"routes: [nats://n1:6222, nats://n2:6222, nats://n3:6222]": routes,
	} {
		if !strings.Contains(text, old) {
			c.env.Fatalf("the configuration in docs/operating.md has no %q", old)
		}
		text = strings.ReplaceAll(text, old, now)
	}
	n := c.env.natsWith(filepath.Join(c.env.dir, name+".conf"), text, fmt.Sprintf("nats://127.0.0.1:%d", client))
	c.Servers = append(c.Servers, n)
	n.Start()
}

// linesFrom makes the lines from a server to each of the others, and returns what its
// configuration has to say of them.
func (c *Cluster) linesFrom(i int) string {
	lines := map[int]*Line{}
	var routes []string
	for j, peer := range c.peers {
		if j != i {
			lines[j] = c.env.Line(peer)
			routes = append(routes, lines[j].URL())
		}
	}
	c.routes = append(c.routes, lines)
	// Servers tell each other, and their clients, where the others are: not where one
	// could go around the lines.
	return "routes: [" + strings.Join(routes, ", ") + "]\n  no_advertise: true\n  advertise: \"127.0.0.1:1\" # nobody"
}

// URL is that of the three.
func (c *Cluster) URL() string { return c.url }

// Stream is the state of a stream, nil while there is none, or nobody leads it.
func (c *Cluster) Stream(js jetstream.JetStream, name string) *jetstream.StreamInfo {
	s, err := js.Stream(c.env.ctx, name)
	if err != nil {
		return nil
	}
	return s.CachedInfo()
}

// Leader is the index of the server that leads the events stream, -1 while none does.
func (c *Cluster) Leader(js jetstream.JetStream) int {
	i := c.Stream(js, ledger.Events)
	if i == nil || i.Cluster == nil || i.Cluster.Leader == "" {
		return -1
	}
	return index(i.Cluster.Leader)
}

// Routes are the lines between one server and the others, either way.
func (c *Cluster) Routes(of int) []*Line {
	var all []*Line
	for from, lines := range c.routes {
		for to, line := range lines {
			if from == of || to == of {
				all = append(all, line)
			}
		}
	}
	return all
}

// Group is the names of the servers that have the events stream, the leader first.
// It waits until there is one.
func (c *Cluster) Group(js jetstream.JetStream) []string {
	var group []string
	c.env.Wait("a leader", func() bool {
		i := c.Stream(js, ledger.Events)
		if i == nil || i.Cluster == nil || i.Cluster.Leader == "" {
			return false
		}
		group = []string{i.Cluster.Leader}
		for _, peer := range i.Cluster.Replicas {
			group = append(group, peer.Name)
		}
		return true
	})
	return group
}

// index is that of the server of a name, as "n1".
func index(name string) int { return int(name[1] - '1') }

// Whole tells whether all three replicas have everything.
func (c *Cluster) Whole(js jetstream.JetStream) bool {
	i := c.Stream(js, ledger.Events)
	if i == nil || i.Cluster == nil {
		return false
	}
	current := 0
	for _, peer := range i.Cluster.Replicas {
		if peer.Current && !peer.Offline {
			current++
		}
	}
	return current == 2
}

func leaderKilled(e *Env) {
	c := e.Cluster()
	js := e.JetStream(c.URL())
	first := e.Blessd(Config{NATS: c.URL(), Stream: "replicas: 3, max_bytes: 8GiB", Quarantine: "max_bytes: 16MiB"})
	e.Wait("the streams", func() bool {
		return c.Stream(js, ledger.Events) != nil && c.Stream(js, ledger.Quarantine) != nil
	})
	// The second finds the streams made, and goes by the replicas that they have.
	second := e.Blessd(Config{NATS: c.URL(), Stream: "max_bytes: 8GiB", Quarantine: "max_bytes: 16MiB"})
	load := e.LoadAll([]*Blessd{first, second}, Load{Senders: 8, Pause: 30 * time.Millisecond})
	stored := func() uint64 {
		if i := c.Stream(js, ledger.Events); i != nil {
			return i.State.Msgs
		}
		return 0
	}
	e.Wait("events in the stream", func() bool { return stored() > 500 })
	for range e.Times(1) {
		var killed int
		e.Wait("a leader", func() bool { killed = c.Leader(js); return killed >= 0 })
		c.Servers[killed].Kill()
		load.MoreBlessed(200)
		e.Wait("another leader", func() bool { now := c.Leader(js); return now >= 0 && now != killed })
		before := stored()
		e.Wait("events after the loss of the leader", func() bool { return stored() > before+500 })
		c.Servers[killed].Start()
		// A consumer that is made before could be put on the server that is not back.
		e.Wait("the lost server to be back", func() bool { return c.Whole(js) })
	}
	load.Stop()
	e.Rules.NothingRefused = true
	e.Judge()
	// With replicas an acknowledgement is enough to let go of a request; without, this
	// would take four minutes.
	for _, b := range []*Blessd{first, second} {
		b.WaitMetric(0, "blessd_journal_records")
		b.WaitMetric(0, "blessd_stream_went_backwards")
	}
}
