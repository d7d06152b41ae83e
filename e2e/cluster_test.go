package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// cluster is three NATS servers, each in a process of its own, with the
// configuration that docs/operating.md names.
type cluster struct {
	t       *testing.T
	files   [3]string
	servers [3]*process
	url     string
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t}
	page, err := os.ReadFile(filepath.Join("..", "docs", "operating.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## More than one blessd\n")
	_, conf, _ := strings.Cut(section, "```conf\n")
	conf, _, ok := strings.Cut(conf, "```")
	if !ok {
		t.Fatal("docs/operating.md has no configuration of a cluster")
	}
	var urls []string
	var clients, routes [3]int
	for i := range 3 {
		clients[i], routes[i] = freePort(t), freePort(t)
		urls = append(urls, natsURL(clients[i]))
	}
	c.url = strings.Join(urls, ",")
	dir := t.TempDir()
	for i := range 3 {
		text := conf
		for old, now := range map[string]string{
			"server_name: n1": fmt.Sprintf("server_name: n%d", i+1),
			"0.0.0.0:4222":    fmt.Sprintf("127.0.0.1:%d", clients[i]),
			"0.0.0.0:6222":    fmt.Sprintf("127.0.0.1:%d", routes[i]),
			"nats://n1:6222":  natsURL(routes[0]),
			"nats://n2:6222":  natsURL(routes[1]),
			"nats://n3:6222":  natsURL(routes[2]),
			"/var/lib/nats":   filepath.Join(dir, fmt.Sprintf("n%d", i+1)),
		} {
			if !strings.Contains(text, old) {
				t.Fatalf("the configuration in docs/operating.md has no %q", old)
			}
			text = strings.ReplaceAll(text, old, now)
		}
		c.files[i] = filepath.Join(dir, fmt.Sprintf("n%d.conf", i+1))
		write(t, c.files[i], text)
		c.start(i)
	}
	return c
}

func (c *cluster) start(i int) {
	c.t.Helper()
	self, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	c.servers[i] = start(c.t, []string{natsChild + "_CONF=" + c.files[i]}, self)
}

// TestCluster has two blessd in front of three NATS servers with replicated
// streams, as docs/operating.md describes it, and kills the one that leads the
// events stream: no provider notices.
func TestCluster(t *testing.T) {
	nats1 := "  url: %s\n  stream: {replicas: 3, max_bytes: 256MiB}\n  quarantine: {max_bytes: 16MiB}"
	// The second finds the streams made, and goes by the replicas that they have.
	nats2 := strings.Replace(nats1, "replicas: 3, ", "", 1)
	if testing.Short() {
		t.Skip("starts five processes; skipped with -short")
	}
	c := startCluster(t)
	nc, err := nats.Connect(c.url, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stream := func(name string) *jetstream.StreamInfo {
		s, err := js.Stream(ctx, name)
		if err != nil {
			return nil // not yet, or nobody leads
		}
		return s.CachedInfo()
	}
	events := func() *jetstream.StreamInfo { return stream("MAIL_EVENTS") }
	leader := func() int {
		info := events()
		if info == nil || info.Cluster == nil {
			return -1
		}
		return strings.Index("n1n2n3", info.Cluster.Leader) / 2
	}

	var rigs [2]*rig
	rigs[0] = newRig(t, fmt.Sprintf(nats1, c.url))
	rigs[0].start()
	wait(t, "the streams", func() bool { return events() != nil && stream("MAIL_QUARANTINE") != nil })
	rigs[1] = newRig(t, fmt.Sprintf(nats2, c.url))
	rigs[1].start()
	l := newLedger()
	for _, r := range rigs {
		r.pause = 30 * time.Millisecond // reading it all back takes its time, too
	}
	wg1, wg2 := rigs[0].load(ctx, 4, l), rigs[1].load(ctx, 4, l)
	wait(t, "events in the stream", func() bool {
		info := events()
		return info != nil && info.State.Msgs > 500
	})

	var killed int
	wait(t, "a leader", func() bool { killed = leader(); return killed >= 0 })
	_ = c.servers[killed].end(syscall.SIGKILL) // "signal: killed" is what we want
	before := l.count()
	wait(t, "blessings without a leader", func() bool { return l.count() > before+200 })
	wait(t, "another leader", func() bool { now := leader(); return now >= 0 && now != killed })
	stored := events().State.Msgs
	wait(t, "events after the loss of the leader", func() bool {
		info := events()
		return info != nil && info.State.Msgs > stored+500
	})
	c.start(killed)
	cancel()
	wg1.Wait()
	wg2.Wait()
	// A consumer that is made before could be put on the server that is not back.
	reading := context.Background()
	wait(t, "the lost server to be back", func() bool {
		s, err := js.Stream(reading, "MAIL_EVENTS")
		if err != nil {
			return false
		}
		current := 0
		for _, peer := range s.CachedInfo().Cluster.Replicas {
			if peer.Current && !peer.Offline {
				current++
			}
		}
		return current == 2
	})
	l.verdict(t, c.url)
	if l.refused+l.unknown > 0 {
		t.Errorf("%d requests refused and %d unanswered while the stream had no leader, want none", l.refused, l.unknown)
	}
	// With replicas an acknowledgement is enough to let go of a request; without,
	// this would take four minutes.
	for i, r := range rigs {
		wait(t, fmt.Sprintf("journal %d to be empty", i+1), func() bool {
			_, metrics := r.get("/metrics")
			return strings.Contains(metrics, "\nblessd_journal_records 0\n")
		})
		if _, metrics := r.get("/metrics"); !strings.Contains(metrics, "\nblessd_stream_went_backwards 0\n") {
			t.Errorf("blessd %d says that a stream went backwards", i+1)
		}
	}
}
