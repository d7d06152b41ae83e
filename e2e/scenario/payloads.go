package scenario

import (
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

var payloadScenarios = []Scenario{
	{
		Name: "duplicates", Faults: []string{"F22"}, Tier: 0,
		Proves: "A delivery that comes twice, fifty times at once, in another order, in part, or again after a restart or a kill is blessed each time and stored once.",
		Run:    duplicates,
	},
	{
		Name: "duplicates-late", Faults: []string{"F22"}, Tier: 0,
		Proves: "A delivery that comes again after the duplicate window is stored again at most, under the id that it had.",
		Run:    duplicatesLate,
	},
	{
		Name: "equal-events", Faults: []string{"F23"}, Tier: 0,
		Proves: "Two events of one request that look alike are two events, and stay two when the request is repeated.",
		Run:    equalEvents,
	},
	{
		Name: "too-large", Faults: []string{"F24"}, Tier: 0,
		Proves: "An event that is too large for NATS goes to quarantine, or where not even that takes it to a file, whole, and the rest of its batch is published.",
		Run:    tooLarge,
	},
	{
		Name: "replay-killed", Faults: []string{"F13", "F24"}, Tier: 1,
		Proves: "What went to quarantine because it was too large is replayed once NATS takes it, whenever blessd is killed meanwhile: nothing is lost or doubled, nothing stays, and a delivery that comes again then is known.",
		Run:    func(e *Env) { replayKilled(e, "") },
	},
	{
		Name: "replay-killed-late", Faults: []string{"F13", "F24"}, Tier: 1,
		Proves: "The same holds when the duplicate window has passed between one replay and the next.",
		Run:    func(e *Env) { replayKilled(e, ", duplicate_window: 100ms") },
	},
	{
		Name: "poison", Faults: []string{"F26"}, Tier: 0,
		Proves: "An authentic body that cannot be understood is blessed and kept whole in quarantine, the elements around it are published, and nothing that follows is held up.",
		Run:    poison,
	},
	{
		Name: "unknown-events", Faults: []string{"F27"}, Tier: 0,
		Proves: "An event of a kind that nobody knows is published as other.unknown with its raw bytes, and no part of it gets into a subject.",
		Run:    unknownEvents,
	},
}

// duplicates is of three elements and more, so that a part of a batch is a batch.
func duplicates(e *Env) {
	b := e.Blessd(Config{})
	post := func(what string, d *Delivery) {
		if r := b.Post(d); !r.Blessed() {
			e.Errorf("%s: %d %v", what, r.Status, r.Err)
		}
	}
	for range e.Times(1) {
		var sent []*Delivery
		for _, p := range []string{"sendclean", "sarv", "mailgun", "vision6"} {
			for range 5 {
				d := e.Delivery(p)
				sent = append(sent, d)
				var wg sync.WaitGroup
				for range 10 { // all at once, so that none is the first
					wg.Go(func() { post("at once", d) })
				}
				wg.Wait()
			}
		}
		many := e.Delivery("sendclean")
		for range 50 {
			post("fifty times", many)
		}
		uid := e.ledger.NewUID()
		elements := sendcleanEvents(uid, PerBatch)
		post("whole", e.SendClean("sendclean", uid, elements...))
		post("in part", e.SendClean("sendclean", uid, elements[:3]...))
		post("the other part", e.SendClean("sendclean", uid, elements[3:]...))
		slices.Reverse(elements)
		post("in another order", e.SendClean("sendclean", uid, elements...))

		uid = e.ledger.NewUID()
		elements = sendcleanEvents(uid, PerBatch)
		post("a part first", e.SendClean("sarv", uid, elements[:4]...))
		post("all of it", e.SendClean("sarv", uid, elements...))

		b.Stop()
		b.Start()
		for _, d := range sent {
			post("after a restart", d)
		}
		b.Kill()
		b.Start()
		for _, d := range sent {
			post("after a kill", d)
		}
		sent = append(sent, many)
		for i := range sent { // the last ones first, two at a time
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() { post("interleaved", sent[len(sent)-1-i]) })
			}
			wg.Wait()
		}
	}
	e.Rules.NothingRefused = true
}

func duplicatesLate(e *Env) {
	b := e.Blessd(Config{Stream: "max_bytes: 1GiB, duplicate_window: 1s"})
	var sent []*Delivery
	for i := range 20 {
		d := e.Delivery([]string{"sendclean", "sarv", "mailgun", "vision6"}[i%4])
		sent = append(sent, d)
	}
	for range e.Times(2) {
		for _, d := range sent {
			if r := b.Post(d); !r.Blessed() {
				e.Errorf("%d %v", r.Status, r.Err)
			}
		}
		pause(e.ctx, 1500*time.Millisecond) // longer than the window
	}
	e.Rules.NothingRefused, e.Rules.Doubles = true, true
}

func equalEvents(e *Env) {
	b := e.Blessd(Config{})
	for range e.Times(5) {
		uid := e.ledger.NewUID()
		elements := sendcleanEvents(uid, PerBatch)
		open := elements[4]
		elements = append(elements, open, open)
		d := e.SendClean("sendclean", uid, elements...)
		for range 3 {
			if r := b.Post(d); !r.Blessed() {
				e.Errorf("%d %v", r.Status, r.Err)
			}
		}
	}
	e.Rules.NothingRefused = true
}

// tooLarge has a server that takes 1 MB, and elements around that.
func tooLarge(e *Env) {
	n := e.NATSLater("max_payload: 1MB")
	// The later of two settings is the one that counts.
	n.Start()
	b := e.Blessd(Config{NATS: n.URL()})
	const limit = 1 << 20
	times := e.Times(1)
	for range times {
		for _, size := range []int{limit / 2, limit - 700, limit + 100_000, 3 * limit} {
			uid := e.ledger.NewUID()
			elements := sendcleanEvents(uid, PerBatch)
			elements[3] = `{"pad":"` + strings.Repeat("x", size-len(elements[3])) + `",` + elements[3][1:]
			if r := b.Post(e.SendClean("sendclean", uid, elements...)); !r.Blessed() {
				e.Errorf("with an element of %d bytes: %d %v", size, r.Status, r.Err)
			}
			if r := b.Post(e.Delivery("mailgun")); !r.Blessed() {
				e.Errorf("after an element of %d bytes: %d %v", size, r.Status, r.Err)
			}
		}
	}
	b.WaitMetric(float64(3*times), "blessd_events_quarantined_total", "reason", "too_large")
	if files, err := filepath.Glob(filepath.Join(b.DataDir(), "oversize", "*.json")); err != nil || len(files) != 2*times {
		e.Errorf("%d files in oversize/, want %d (%v)", len(files), 2*times, err)
	}
	e.Rules.NothingRefused, e.Rules.MaxEvent = true, limit-1000
}

// replayKilled has a server that takes 64 KB, and elements which even the quarantine
// stream does not take or only just, and then one that takes 8 MB. blessd is killed in
// every replay but the last. With a window of its own it passes between the replays.
func replayKilled(e *Env, window string) {
	e.Seeded()
	const (
		limit = 64 << 10
		each  = 12 // deliveries with such an element
	)
	n := e.natsWithPayload(limit)
	b := e.BlessdLater(Config{NATS: n.URL(), Stream: "max_bytes: 1GiB" + window})
	set := knobs(quickCursor, "foreign-sync-lag=100ms")
	// stuck is how much is in the quarantine stream and how much in files.
	stuck := func() (inStream, inFiles int) {
		return int(e.Stream(n.JetStream(), ledger.Quarantine).State.Msgs), len(e.files(b.DataDir(), "oversize/*.json"))
	}
	replay := func(args ...string) (r replayed) {
		text := b.run(append([]string{"replay", "-o", "json"}, args...)...)
		at := strings.Index(text, `{"done"`) // after how far it was
		if at < 0 || json.Unmarshal([]byte(text[at:]), &r) != nil {
			e.Fatalf("blessd replay says %q", text)
		}
		return r
	}
	points := []string{"replay.before-publish:3", "replay.after-ack:1", "replay.before-remove:4", "", ""}
	for i := range e.Times(1) {
		b.Again(set)
		var sent []*Delivery
		for k := range each {
			uid := e.ledger.NewUID()
			elements := sendcleanEvents(uid, PerBatch)
			large, size := &elements[k%PerBatch], limit-700
			if k%2 == 1 {
				size = 2 * limit
			}
			*large = `{"pad":"` + strings.Repeat("x", size-len(*large)) + `",` + (*large)[1:]
			if k%5 == 4 { // equal ones are told apart by their places
				elements = append(elements, *large, *large)
			}
			d := e.SendClean("sendclean", uid, elements...)
			b.Bless(d)
			sent = append(sent, d)
		}
		b.Settled()
		inStream, inFiles := stuck()
		if inStream == 0 || inFiles == 0 {
			e.Fatalf("%d are in the quarantine stream and %d in files, want some of both", inStream, inFiles)
		}
		e.Logf("round %d: %d are in the quarantine stream and %d in files", i+1, inStream, inFiles)
		unchanged := func(after string) {
			if s, f := stuck(); s != inStream || f != inFiles {
				e.Errorf("after %s %d are in the quarantine stream and %d in files, there were %d and %d", after, s, f, inStream, inFiles)
			}
		}
		if r := replay(); r.Quarantine.Understood > 0 {
			e.Errorf("%d have left the quarantine for a server that takes none of it", r.Quarantine.Understood)
		}
		unchanged("a replay for a server that takes none of it")
		b.Kill()
		n.Stop()
		n.setPayload(8 << 20)
		n.Start()
		b.Again(set)
		b.Settled()
		if r := replay("--dry-run"); r.Quarantine.Understood != inStream+inFiles {
			e.Errorf("a dry run understands %d of %d", r.Quarantine.Understood, inStream+inFiles)
		}
		unchanged("a dry run")
		for _, point := range points {
			b.Kill()
			if point == "" {
				b.Again(set)
			} else {
				b.Again(set, failpoint(point+":kill"))
			}
			b.Settled()
			e.killInReplay(b, point)
			if window != "" {
				pause(e.ctx, time.Second) // far more than the window
			}
			s, f := stuck()
			e.Logf("killed at %q: %d are in the quarantine stream and %d in files", point, s, f)
		}
		b.Again(set)
		b.Settled()
		replay()
		if s, f := stuck(); s+f > 0 {
			e.Errorf("%d are in the quarantine stream and %d in files after the last replay", s, f)
		}
		if window == "" {
			before := e.Stream(n.JetStream(), ledger.Events).State.Msgs
			for _, d := range sent[:each/2] { // the others would be mended if they were lost
				b.Bless(d)
			}
			b.Settled()
			if now := e.Stream(n.JetStream(), ledger.Events).State.Msgs; now != before {
				e.Errorf("DUP: deliveries that came again after the replay made %d events, want none", now-before)
			}
		}
		// What is still in the journal would be tried, and too large, again.
		e.Wait("the cursor to pass everything", func() bool { s, ok := b.state(); return ok && s.Journal.First == s.Journal.Next })
		b.Kill()
		n.Stop()
		n.setPayload(limit)
		n.Start()
	}
	b.Again(set)
	b.Settled()
	e.Rules.NothingRefused = true
}

// replayed is what blessd says of a replay.
type replayed struct {
	Quarantine struct{ Chosen, Understood int }
}

// killInReplay replays and has blessd killed meanwhile: by a failpoint, or without one
// at some moment.
func (e *Env) killInReplay(b *Blessd, point string) {
	p := b.command("replay")
	if point == "" {
		e.Moment(300 * time.Millisecond)
		b.Kill()
		e.Wait("the end of blessd replay", p.Exited)
		return
	}
	e.Wait("blessd to be killed in its replay", func() bool { return b.Exited() || p.Exited() })
	e.Wait("the end of blessd replay", p.Exited)
	if err := p.Exit(); err == nil {
		e.Errorf("blessd was not killed at %s: the replay came to its end\n%s", point, p.Log())
		b.Kill()
		return
	}
	b.AtPoint()
}

// poison has bodies with each of which something is wrong. All of them are signed, or
// come with the token.
func poison(e *Env) {
	b := e.Blessd(Config{})
	raw := func(provider, contentType, format string) *Delivery {
		uid := e.ledger.NewUID()
		d := e.Plain(provider, uid, strings.ReplaceAll(format, "UID", uid), 0)
		d.ContentType = contentType
		return d
	}
	deep := func(n int) string {
		return `{"event":"open","_id":"UID","msg":` + strings.Repeat("[", n) + strings.Repeat("]", n) + "}"
	}
	// Elements that stand between two good ones.
	strange := []string{
		`"UID"`, `["UID"]`, deep(100), deep(5000),
		`{"_id":"UID","event":"open","event":"spam"}`,
		`{"_id":"UID","_id":"UID-2","event":"send","ts":1465890656000}`,
		`{"_id":"UID","event":"send","ts":1465890656000,"msg":null}`,
		`{"_id":"UID","event":"send","ts":0}`,
		`{"_id":"UID","event":"send","ts":"soon"}`,
		`{"_id":"UID","event":"click","ts":1465890656000,"msg":{"clicks":"none"}}`,
		`{"_id":"UID","event":"hard_bounce","ts":9223372036854775808,"msg":[]}`,
		`{"_id":"UID","event":"send","ts":1465890656000,"smtp_name":"` + strings.Repeat("é\u202e", 100) + `"}`,
	}
	for range e.Times(1) {
		var all []*Delivery
		for _, element := range strange {
			uid := e.ledger.NewUID()
			good := sendcleanEvents(uid, PerBatch)
			all = append(all, e.SendClean("sendclean", uid, slices.Concat(good[:3], []string{strings.ReplaceAll(element, "UID", uid)}, good[3:])...))
		}
		for _, provider := range []string{"enkod", "vision6"} {
			for _, body := range []string{
				"UID is no JSON", `[{"event":"UID"`, `{"event":"UID"} x`, `{"event":UID}`, `{'event':'UID'}`, "\"UID\"", "[\"UID\"]",
				"\x00UID\xff\xfe", `{"event":"UID","x":NaN}`, `[{"event":"UID"},]`, deep(200), strings.Repeat("UID ", 20_000),
			} {
				all = append(all, raw(provider, "application/json", body))
			}
		}
		uid := e.ledger.NewUID()
		cut := e.SendClean("sarv", uid, sendcleanEvents(uid, PerBatch)...)
		value, err := url.ParseQuery(string(cut.Body))
		if err != nil {
			e.Fatalf("%v", err)
		}
		half := value.Get("sarvtes_events")
		half = half[:len(half)-1]
		cut.Body = []byte(url.Values{"sarvtes_events": {half}}.Encode())
		cut.sign(half)
		all = append(all, cut)
		uid = e.ledger.NewUID()
		all = append(all, e.SendClean("sendclean", uid, sendcleanEvents(uid, 5000)...))
		for i, d := range all {
			if r := b.Post(d); !r.Blessed() {
				e.Errorf("%s %d, %.80q: %d %v", d.Provider, i, d.Body, r.Status, r.Err)
			}
			if r := b.Post(e.Delivery(Providers()[i%5])); !r.Blessed() {
				e.Errorf("after %s %d: %d %v", d.Provider, i, r.Status, r.Err)
			}
		}
	}
	e.Rules.NothingRefused = true
}

func unknownEvents(e *Env) {
	b := e.Blessd(Config{})
	names := []string{
		`"dropped"`, `""`, `null`, `42`, `true`, `{}`, `[]`, `"*"`, `">"`, `"a.b"`, `"a b"`, `"$JS.API.STREAM.DELETE.MAIL_EVENTS"`,
		"\"\\r\\nNats-Msg-Id: x\"", `"` + strings.Repeat("x", 5000) + `"`, `"\u0441lick"`, `"hard-bounce"`, `"\u0000"`,
	}
	for range e.Times(1) {
		for _, name := range names {
			uid := e.ledger.NewUID()
			for _, d := range []*Delivery{
				e.SendClean("sendclean", uid+"", fmt.Sprintf(`{"_id":"m-%s","x_unique_id":"%s","ts":1465890656000,"event":%s,"msg":{}}`, uid, uid, name), sendcleanEvents(uid, 1)[0]),
				e.named("mailgun", `{"event":NAME,"id":"UID","timestamp":1773132301.5,"recipient":"lena@example.com"}`, name),
				e.named("enkod", `{"event":NAME,"message_uid":"UID","to":"lena@example.com"}`, name),
				e.named("vision6", `[{"object":NAME,"event":"created","uid":"UID"},{"object":"contact","event":NAME,"contact_id":1,"uid":"UID"}]`, name),
			} {
				if r := b.Post(d); !r.Blessed() {
					e.Errorf("%s with the event %.40s: %d %v", d.Provider, name, r.Status, r.Err)
				}
			}
		}
	}
	e.Rules.NothingRefused = true
}

// named makes a delivery of a body in which NAME and UID are replaced.
func (e *Env) named(provider, body, name string) *Delivery {
	uid := e.ledger.NewUID()
	body = strings.ReplaceAll(strings.ReplaceAll(body, "NAME", name), "UID", uid)
	if provider == "mailgun" {
		return e.Mailgun(uid, body)
	}
	return e.Plain(provider, uid, body, 1)
}
