package scenario

import (
	"net/http"
	"os"
	"strings"
	"time"
)

var huntRefusalScenarios = []Scenario{
	{
		Name: "hunt-journal-fills", Tier: 1,
		Proves: "When NATS is away for so long that the journal is full, what it cannot take is refused with 503 and Retry-After, blessd is not ready, and what it took arrives.",
		Run:    huntJournalFills,
	},
	{
		Name: "hunt-same-in-flight", Tier: 1,
		Proves: "A delivery that comes again while the first copy is being stored is not blessed before one of them is durable.",
		Run:    huntSameInFlight,
	},
	{
		Name: "hunt-sync-fails", Tier: 1,
		Proves: "After the first sync that fails nothing is blessed any more, and blessd ends.",
		Run:    huntSyncFails,
	},
	{
		Name: "hunt-reload-bad", Tier: 1,
		Proves: "A configuration that cannot be used, or that names a key that is not there, changes nothing.",
		Run:    huntReloadBad,
	},
	{
		Name: "hunt-restart-index", Tier: 1,
		Proves: "After everything was consumed and a restart the journal goes on counting where it was.",
		Run:    huntRestartIndex,
	},
}

func huntJournalFills(e *Env) {
	e.Seeded()
	n := e.NATSLater()
	b := e.Blessd(Config{NATS: n.URL(), Journal: "max_bytes: 1MiB", Env: []string{knobs(quickCursor, noLag)}})
	b.Ready()
	pad := strings.Repeat("x", 8<<10)
	refused := 0
	for range 400 {
		uid := e.ledger.NewUID()
		r := b.Post(e.SendClean("sendclean", uid, strings.Replace(sendcleanEvents(uid, 1)[0], `{`, `{"pad":"`+pad+`",`, 1)))
		if r.Blessed() {
			continue
		}
		if refused++; r.Status == http.StatusServiceUnavailable && r.Header.Get("Retry-After") == "" {
			e.Errorf("503 without Retry-After")
		}
		if refused == 10 {
			break
		}
	}
	if refused == 0 {
		e.Errorf("never full: 400 requests of 9 KiB were answered with the blessing, and the journal may hold 1 MiB")
	} else {
		b.NotReady("ready when full")
	}
	n.Start()
	b.Settled()
	b.Ready()
	b.Bless(e.Delivery("sendclean"))
	b.Settled()
}

func huntSameInFlight(e *Env) {
	e.Seeded()
	b := e.Blessd(Config{Env: []string{failpoint("journal.before-write:1:sleep=1h")}})
	d := e.Delivery("sendclean")
	first := make(chan *Reply, 1)
	second := make(chan *Reply, 1)
	go func() { first <- b.Post(d) }()
	b.WaitLog("seeded: failpoint journal.before-write")
	go func() { second <- b.Post(d) }()
	// Nothing is durable, so nothing may be said. A correct blessd says nothing for as
	// long as it may wait for its disk, which is 4 s, and then 503.
	var r *Reply
	select {
	case r = <-second:
	case r = <-first:
	case <-time.After(e.o.Limit):
		e.Fatalf("a request was never answered")
	}
	if r.Blessed() {
		e.Logf("blessed while nothing was written")
	}
	b.Kill()
	b.Again()
	b.Bless(e.Delivery("sendclean"))
	b.Settled()
}

func huntSyncFails(e *Env) {
	e.Seeded()
	b := e.Blessd(Config{Env: []string{failpoint("journal.sync:20+:error")}})
	load := e.Load(b, Load{Senders: 4})
	b.WaitLog("seeded: failpoint journal.sync")
	// The answers to what was durable before are perhaps still on their way.
	before := load.Blessed()
	e.Wait("blessd to end, or to go on blessing", func() bool { return b.Exited() || load.Blessed() > before+50 })
	if n := load.Blessed() - before; !b.Exited() {
		e.Errorf("blessed after a failed sync: %d requests", n)
	}
	b.Kill()
	load.Stop()
	b.Again()
	b.Bless(e.Delivery("sendclean"))
	b.Settled()
}

func huntReloadBad(e *Env) {
	b := e.Blessd(Config{})
	b.Bless(e.Delivery("sendclean"))
	good := e.fileText(b.ConfigFile())
	for _, bad := range []string{
		strings.Replace(good, b.SecretFile("mailgun"), b.SecretFile("nobody"), 1),
		strings.Replace(good, "provider: mailgun", "provider: mailgum", 1),
		good + "\nno: such setting\n",
		"endpoints: [",
	} {
		e.Replace(b.ConfigFile(), bad)
		if code, text := b.Ask(http.MethodPost, "/-/reload"); code != http.StatusInternalServerError {
			e.Errorf("a reload of a bad configuration was answered %d %s", code, text)
		}
		for _, p := range Providers() {
			if r := b.Post(e.Delivery(p)); !r.Blessed() {
				e.Errorf("refused after a bad reload: %s heard %d %q", p, r.Status, r.Body)
			}
		}
	}
	if err := os.Remove(b.SecretFile("mailgun")); err != nil {
		e.Fatalf("%v", err)
	}
	e.Replace(b.ConfigFile(), good)
	if code, _ := b.Ask(http.MethodPost, "/-/reload"); code != http.StatusInternalServerError {
		e.Errorf("a reload without a key file was answered %d", code)
	}
	if r := b.Post(e.Delivery("mailgun")); !r.Blessed() {
		e.Errorf("refused after a bad reload: %d %q", r.Status, r.Body)
	}
	b.Settled()
	e.Rules.NothingRefused = true
}

func huntRestartIndex(e *Env) {
	e.Seeded()
	b := e.Blessd(Config{Env: []string{knobs(quickCursor)}})
	next := func() uint64 {
		var n uint64
		e.Wait("the journal to be empty", func() bool {
			s, ok := b.state()
			n = s.Journal.Next
			return ok && s.Journal.First == n
		})
		return n
	}
	before := uint64(1)
	for range 3 {
		for range 5 {
			b.Bless(e.Delivery("sendclean"))
		}
		b.Settled()
		now := next()
		if now != before+5 {
			e.Errorf("journal index used twice: the next one is %d, want %d", now, before+5)
		}
		before = now
		b.Stop()
		b.Again(knobs(quickCursor))
		if now := next(); now != before {
			e.Errorf("journal index used twice: after a restart the next one is %d, was %d", now, before)
			before = now
		}
	}
}
