package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

var damageScenarios = []Scenario{
	{
		Name: "torn-tail", Faults: []string{"F15"}, Tier: 1,
		Proves: "When the end of the journal's log is cut off or garbled, every request before it is there, none of it is made up, and the log says what happened.",
		Run:    tornTail,
	},
	{
		Name: "bit-flip-journal", Faults: []string{"F16"}, Tier: 1,
		Proves: "A bit that flips in the journal's log is found and reported: no event is changed, and what is whole before it is published.",
		Run:    journalBitFlip,
	},
	{
		Name: "bit-flip-nats", Faults: []string{"F16"}, Tier: 1,
		Proves: "A bit that flips in the embedded server's files never yields a changed event; when it costs the end of the stream blessd says so, and goes on blessing.",
		Run:    natsBitFlip,
	},
}

// PostUnheard posts a delivery as if the answer never arrived. It is for what is
// about to be destroyed: the sender of a write that a power cut tears apart was not
// answered either. What it says to the ledger is that nothing is known.
func (b *Blessd) PostUnheard(d *Delivery) {
	e := b.env
	attempt, err := e.ledger.Sent(ledger.Sent{UID: d.UID, Provider: d.Provider, Endpoint: d.Name, ContentType: d.ContentType, Events: d.Events, Body: d.Body})
	if err != nil {
		e.Fatalf("%v", err)
	}
	if r := e.exchange("http://"+b.where.Load().Hooks, d); !r.Blessed() {
		e.Fatalf("a delivery was answered with %d %s %v", r.Status, r.Body, r.Err)
	}
	if err := e.ledger.Answered(ledger.Answer{UID: d.UID, Attempt: attempt, Error: "the answer is not heard"}); err != nil {
		e.Fatalf("%v", err)
	}
}

// Blessings posts one delivery after the other, each of which has to be blessed.
func (b *Blessd) Blessings(n int) {
	for i := range n {
		if r := b.Post(b.env.Delivery(Providers()[i%len(Providers())])); !r.Blessed() {
			b.env.Fatalf("a delivery was answered with %d %s %v", r.Status, r.Body, r.Err)
		}
	}
}

// stored returns how many messages the streams have of each delivery.
func (e *Env) stored(url string) map[string]int {
	r, err := ledger.NewReader(url)
	if err != nil {
		e.Fatalf("%v", err)
	}
	defer r.Close()
	ctx, cancel := context.WithTimeout(e.ctx, e.o.Limit)
	defer cancel()
	all := map[string]int{}
	if err := r.Read(ctx, func(m *ledger.Message) error {
		if uid := ledger.UID.Find(m.Data); uid != nil {
			all[string(uid)]++
		}
		return nil
	}); err != nil {
		e.Fatalf("read the streams: %v", err)
	}
	return all
}

// tail is what was posted last, and where each request ends in the journal's log.
type logTail struct {
	file       string
	begin      int64
	deliveries []*Delivery
	ends       []int64
}

// logTail posts n deliveries one after the other, unheard.
func (b *Blessd) logTail(n int) *logTail {
	t := &logTail{file: b.newestLog()}
	size := func() int64 {
		i, err := os.Stat(t.file)
		if err != nil {
			b.env.Fatalf("%v", err)
		}
		return i.Size()
	}
	t.begin = size()
	for i := range n {
		d := b.env.Delivery(Providers()[i%len(Providers())])
		b.PostUnheard(d)
		t.deliveries, t.ends = append(t.deliveries, d), append(t.ends, size())
	}
	return t
}

// judge checks that the deliveries that end at or before a place of the log are
// there whole, and that no other is there at all, or with some the others too.
func (t *logTail) judge(e *Env, url string, whole int64, none bool) {
	want := 0
	e.Wait("what is whole in the journal to be published", func() bool {
		all := e.stored(url)
		for want = 0; want < len(t.ends) && t.ends[want] <= whole; want++ {
			if all[t.deliveries[want].UID] < t.deliveries[want].Events {
				return false
			}
		}
		return true
	})
	all := e.stored(url)
	for i, d := range t.deliveries {
		switch got := all[d.UID]; {
		case got == d.Events && (i < want || !none), got == 0 && i >= want:
		default:
			e.Errorf("request %d of the log's tail: %d of %d events are there; the first %d requests are whole", i+1, got, d.Events, want)
		}
	}
	e.Logf("%d of %d requests of the tail are whole", want, len(t.ends))
}

// tornTail has NATS away, so that everything is in the journal, and damages the end
// of its log once blessd has been killed.
func tornTail(e *Env) {
	const notWhole = "ends in a write that is not whole"
	n := e.NATS()
	b := e.Blessd(Config{NATS: n.URL()})
	b.Blessings(5)
	e.Wait("the streams", func() bool { return e.Stream(n.JetStream(), ledger.Events) != nil })
	for i := range e.Times(4) {
		n.Kill()
		b.Blessings(5)
		t := b.logTail(10)
		b.Kill()
		end := t.ends[len(t.ends)-1]
		const most, header = 4096, 19
		cut := end - 1 - rand.Int64N(min(most, end-t.begin)-1)
		// In the header of a write the damage looks like the end of the log.
		for _, begin := range append([]int64{t.begin}, t.ends...) {
			if cut >= begin && cut < begin+header {
				cut = begin + header
			}
		}
		cut = min(cut, end-1)
		reported := strings.Count(b.Log(), notWhole)
		if err := tear(t.file, cut, i%2 == 0); err != nil {
			e.Fatalf("%v", err)
		}
		b.Start()
		if strings.Count(b.Log(), notWhole) == reported {
			e.Errorf("the log does not say that the journal %q", notWhole)
		}
		n.Start()
		b.Blessings(5)
		t.judge(e, n.URL(), cut, true)
	}
	e.Figuref("%d torn logs", e.Times(4))
}

// tear cuts a file off, or garbles it, from a place on.
func tear(file string, at int64, off bool) error {
	if off {
		return os.Truncate(file, at)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	i, err := f.Stat()
	if err == nil {
		b := make([]byte, i.Size()-at)
		for k := range b {
			b[k] = byte(rand.Uint32())
		}
		_, err = f.WriteAt(b, at)
	}
	return errors.Join(err, f.Close())
}

// flip turns one bit of a file over.
func flip(file string, at int64) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], at)
	if err == nil {
		b[0] ^= 1 << rand.N(8)
		_, err = f.WriteAt(b[:], at)
	}
	return errors.Join(err, f.Close())
}

// journalBitFlip flips bits of a log that blessd has not seen again since: of
// several blocks, since whoever reads the last one cannot tell damage from an end
// that was never written.
func journalBitFlip(e *Env) {
	n := e.NATS()
	b := e.Blessd(Config{NATS: n.URL()})
	refused := 0
	for range e.Times(4) {
		b.Blessings(5)
		e.Wait("the journal to be published", func() bool {
			return b.Metric("blessd_publish_pending") == 0 && b.Metric("blessd_events_published_total") > 0 && b.settled()
		})
		n.Kill()
		t := b.logTail(60)
		b.Kill()
		at := t.begin + rand.Int64N(t.ends[len(t.ends)-1]-t.begin)
		if err := flip(t.file, at); err != nil {
			e.Fatalf("%v", err)
		}
		n.Start()
		b.StartOnly()
		e.Wait("blessd to start, or not to", func() bool { return b.Exited() || strings.Contains(b.Process.Log(), "relay starts") })
		wasRefused := b.Exited()
		if wasRefused {
			b.ends.Store(true)
			refused++
			// The error says what an operator can do, who is heard here.
			_, advice, _ := strings.Cut(b.Process.Log(), "`truncate ")
			advice, _, ok := strings.Cut(advice, "`")
			if !ok {
				e.Fatalf("blessd does not start, and does not say what to do:\n%s", tail(b.Process.Log(), 1500))
			}
			if out, err := exec.Command("truncate", strings.Fields(advice)...).CombinedOutput(); err != nil {
				e.Fatalf("truncate %s: %v %s", advice, err, out)
			}
			e.Logf("truncate %s", advice)
			b.StartOnly()
		}
		b.Listening()
		b.Blessings(5)
		t.judge(e, n.URL(), at, false)
		all, missing := e.stored(n.URL()), 0
		for _, d := range t.deliveries {
			if all[d.UID] == 0 {
				missing++
			}
		}
		e.Logf("%d of %d requests are gone", missing, len(t.deliveries))
		said := b.Process.Log()
		if missing > 0 && !wasRefused && !strings.Contains(said, "not whole") && !strings.Contains(said, "damage") {
			e.Errorf("%d of %d requests are gone from the journal, and the log does not say so:\n%s", missing, len(t.deliveries), tail(said, 2000))
		}
	}
	b.Blessings(5)
	e.Figuref("%d flips, at %d of which blessd refused to start", e.Times(4), refused)
}

// settled tells whether the relay is through with the journal.
func (b *Blessd) settled() bool {
	_, text := b.Get("/-/status")
	var s struct {
		Journal struct{ Next uint64 }
		Relay   struct{ Settled uint64 }
	}
	return json.Unmarshal([]byte(text), &s) == nil && s.Relay.Settled+1 == s.Journal.Next
}

// natsBitFlip lets the cursor pass everything first: the stream alone has it then.
func natsBitFlip(e *Env) {
	alarms := 0
	b := e.Blessd(Config{})
	for i := range e.Times(2) {
		for k := range 300 {
			b.PostUnheard(e.Delivery(Providers()[k%len(Providers())]))
		}
		b.WaitMetric(0, "blessd_journal_records")
		b.Kill()
		blocks, err := filepath.Glob(filepath.Join(b.DataDir(), "nats", "jetstream", "*", "streams", ledger.Events, "msgs", "*.blk"))
		if err != nil || len(blocks) == 0 {
			e.Fatalf("the embedded server has no blocks: %v", err)
		}
		slices.Sort(blocks)
		block := blocks[len(blocks)-1]
		info, err := os.Stat(block)
		if err != nil {
			e.Fatalf("%v", err)
		}
		if err := flip(block, rand.Int64N(info.Size())); err != nil {
			e.Fatalf("%v", err)
		}
		if i%2 == 0 { // with its index the server does not read the blocks when it starts
			if err := os.Remove(filepath.Join(filepath.Dir(block), "index.db")); err != nil && !errors.Is(err, fs.ErrNotExist) {
				e.Fatalf("%v", err)
			}
		}
		b.Start()
		b.WaitLog("relay starts")
		now := e.Stream(e.JetStream(b.NATSURL()), ledger.Events)
		alarm := b.Metric("blessd_stream_went_backwards") == 1
		e.Logf("the stream ends with %d and has %d; alarm: %t", now.State.LastSeq, now.State.Msgs, alarm)
		if alarm {
			alarms++
		}
		b.Blessings(5)
		e.Moment(10 * time.Millisecond)
	}
	e.Figuref("%d flips, %d alarms", e.Times(2), alarms)
}
