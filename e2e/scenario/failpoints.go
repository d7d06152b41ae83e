package scenario

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/blessd/blessd/e2e/ledger"
	"github.com/blessd/blessd/e2e/seed"
)

// apart are the failpoints that an ordinary load does not pass.
var apart = []string{
	"journal.sync", "keys.before-rename", "oversize.before-meta", "oversize.before-rename",
	"replay.before-publish", "replay.after-ack", "replay.before-remove",
}

// failpointScenarios has one for each failpoint.
func failpointScenarios() (all []Scenario) {
	for _, p := range seed.Failpoints {
		if slices.Contains(apart, p.Name) {
			continue
		}
		all = append(all, Scenario{
			Name: failpointScenario(p.Name), Faults: []string{"F13"}, Tier: 1,
			Proves: "blessd may be killed at the point " + p.Name + ": " + lowerFirst(p.What),
			Run:    func(e *Env) { killAt(e, p.Name, Config{}) },
		})
	}
	return append(
		all,
		Scenario{
			Name: "failpoint-stream", Faults: []string{"F13"}, Tier: 1,
			Proves: "Without a journal blessd may be killed before it has published what it is about to answer.",
			Run:    func(e *Env) { killAt(e, "relay.before-publish", Config{Acknowledge: "stream"}) },
		},
		Scenario{
			Name: "failpoint-oversize", Faults: []string{"F13"}, Tier: 1,
			Proves: "blessd may be killed while it writes the files of what no stream takes.",
			Run: func(e *Env) {
				for _, point := range []string{"oversize.before-rename", "oversize.before-meta"} {
					killAtFile(e, point)
				}
			},
		},
		Scenario{
			Name: "failpoint-keys", Faults: []string{"F13"}, Tier: 1,
			Proves: "blessd may be killed while it generates the keys of its first start, and the next start has all of them.",
			Run:    killAtKeys,
		},
	)
}

func failpointScenario(point string) string {
	return "failpoint-" + strings.ReplaceAll(point, ".", "-")
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }

// killAt has blessd killed at a failpoint under load, early and late, and starts it
// again. It lingers there for a moment, in which whoever has not waited for it gives
// an answer.
func killAt(e *Env, point string, c Config) {
	e.Seeded()
	e.Rules.Statuses = []int{http.StatusUnauthorized}
	set := knobs(quickCursor)
	b := e.BlessdLater(c)
	for i := range e.Times(2) {
		passage := 1 + 25*(i%6)
		if point == "journal.rotate" || strings.HasPrefix(point, "unverified.") || strings.Contains(point, "cursor") {
			passage = 1 + i%4 // there are few
		}
		b.config.Env = []string{set, failpoint(fmt.Sprintf("%s:%d:linger", point, passage))}
		b.startToDie()
		load := e.mixed(b, i)
		if point == "unverified.after-redeem" {
			e.Wait("refusals", func() bool { return b.Exited() || load.Refused() > 8 })
			b.giveLateKey(i)
		}
		b.AtPoint()
		load.Stop()
		b.Again(set)
		more := e.mixed(b, i)
		more.MoreBlessed(20)
		more.Stop()
		b.Settled()
		b.Kill()
	}
	b.Again(set)
	b.Settled()
}

// startToDie starts it and waits until it listens, or has ended.
func (b *Blessd) startToDie() {
	b.StartOnly()
	b.ends.Store(true)
	var a addresses
	b.env.Wait("blessd to listen, or to end", func() bool {
		text, err := os.ReadFile(filepath.Join(b.DataDir(), "addresses.json"))
		return b.Exited() || err == nil && json.Unmarshal(text, &a) == nil && a.Hooks != ""
	})
	b.killed = true
	if a.Hooks != "" {
		b.where.Store(&a)
	}
}

// mixed is a load in which everything happens: events, what cannot be understood, and
// what no key verifies yet.
func (e *Env) mixed(b *Blessd, round int) *Traffic {
	var n atomic.Int64
	return e.Load(b, Load{Senders: 8, Make: func(provider string) *Delivery {
		switch n.Add(1) % 8 {
		case 3:
			uid := e.ledger.NewUID()
			return e.Plain("vision6", uid, "["+strings.Repeat(" ", int(n.Load()%100))+quoted("no event "+uid)+`,{"cut`, 1)
		case 6:
			return e.SignedBy(laterKey(round))
		}
		return e.Delivery(provider)
	}})
}

func laterKey(round int) string { return fmt.Sprintf("EXAMPLE-late-key-%d-0123456789", round) }

// giveLateKey puts the key among those that blessd keeps.
func (b *Blessd) giveLateKey(round int) {
	dir := filepath.Join(b.DataDir(), "keys", "acme")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		b.env.Fatalf("%v", err)
	}
	b.env.Replace(filepath.Join(dir, "late.key"), laterKey(round))
}

// killAtFile has blessd killed while it writes a file for what the quarantine stream
// has no room for.
func killAtFile(e *Env, point string) {
	e.Seeded()
	b := e.BlessdLater(Config{Quarantine: "max_bytes: 64KiB", Env: []string{failpoint(point + ":2:kill")}})
	b.startToDie()
	var blessed []string
	send := func() {
		uid := e.ledger.NewUID()
		if r := b.send(e.Plain("vision6", uid, "not JSON "+uid+strings.Repeat(".", 6000), 1)); r.Blessed() {
			blessed = append(blessed, uid)
		}
	}
	for n := 0; !b.Exited() && n < 1000; n++ {
		send()
	}
	b.AtPoint()
	b.Again()
	for range 5 {
		send()
	}
	b.Settled()
	e.everyBody(b, blessed)
	b.Kill()
}

// everyBody checks that each blessed body is in the quarantine stream or in a file,
// and returns how many are in the stream.
func (e *Env) everyBody(b *Blessd, blessed []string) (inStream int) {
	have := map[string]bool{}
	e.each(b.NATSURL(), func(m *ledger.Message) { have[ledger.UID.FindString(string(m.Data))] = true })
	inStream = len(have)
	for _, meta := range e.files(b.DataDir(), "oversize/*.json") {
		sum, _, _ := strings.Cut(filepath.Base(meta), ".")
		have[ledger.UID.FindString(e.fileText(filepath.Join(filepath.Dir(meta), sum)))] = true
	}
	lost := 0
	for _, uid := range blessed {
		if !have[uid] {
			lost++
		}
	}
	e.Logf("%d bodies: %d in the quarantine stream, %d in files", len(blessed), inStream, len(have)-inStream)
	if lost > 0 {
		e.Errorf("%d LOST: neither in the quarantine stream nor in a file", lost)
	}
	return inStream
}

// killAtKeys kills the first start, without a configuration, at each key that it
// generates in turn, and lets the last one finish.
func killAtKeys(e *Env) {
	e.Seeded()
	data := filepath.Join(e.Dir(), "first")
	start := func(env ...string) *Process {
		return e.StartProcess(append(slices.Clone(e.o.Env), env...), nil, e.o.Binary, "serve", "--data-dir", data,
			"--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0")
	}
	addresses := filepath.Join(data, "addresses.json")
	for killed := range 100 {
		p := start(failpoint("keys.before-rename:1:kill"))
		e.Wait("blessd to end or to listen", func() bool {
			_, err := os.Stat(addresses)
			return p.Exited() || err == nil
		})
		done := !p.Exited()
		p.Kill()
		if done {
			e.Fatalf("the failpoint was never passed")
		}
		if !strings.Contains(p.Log(), "seeded: failpoint") {
			e.Fatalf("blessd did not end at its failpoint\n%s", tail(p.Log(), 2000))
		}
		if killed == 2 {
			break
		}
	}
	p := start()
	e.Wait("blessd to end or to listen", func() bool {
		_, err := os.Stat(addresses)
		return p.Exited() || err == nil
	})
	if p.Exited() {
		e.Fatalf("after the kills blessd does not start\n%s", tail(p.Log(), 2000))
	}
	files := e.files(data, "keys/*/*")
	if len(files) < 5 {
		e.Errorf("%d keys and tokens were generated, want one for each provider at least", len(files))
	}
	for _, file := range files {
		if text := strings.TrimSpace(e.fileText(file)); len(text) < 16 {
			e.Errorf("%s holds %d characters", file, len(text))
		}
	}
	p.Kill()
}
