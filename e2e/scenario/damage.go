package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nats.go/jetstream"

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
		Proves: "A bit that flips in the journal's log is found and reported: no event is changed, and what can be read is salvaged, in front of it and behind it.",
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

// journalBitFlip flips bits of a log that nobody has read again since. Where blessd
// does not start its operator lets it salvage what can be read, and what cannot is
// reported in the quarantine, one by one.
func journalBitFlip(e *Env) {
	n := e.NATS()
	b := e.Blessd(Config{NATS: n.URL()})
	salvaged, gone, times := 0, 0, e.Times(4)
	damaged := map[string]bool{} // ids: they are published again when the quarantine has them no more
	for range times {
		b.Blessings(5)
		e.Wait("the journal to be published", func() bool { return b.Metric("blessd_publish_pending") == 0 && b.settled() })
		n.Kill()
		t := b.logTail(60)
		b.Kill()
		end := t.ends[len(t.ends)-1]
		at := t.begin + rand.Int64N(end-t.begin)
		if err := flip(t.file, at); err != nil {
			e.Fatalf("%v", err)
		}
		n.Start()
		b.StartOnly()
		e.Wait("blessd to start, or not to", func() bool { return b.Exited() || strings.Contains(b.Process.Log(), "relay starts") })
		if b.Exited() {
			b.ends.Store(true)
			salvaged++
			if !strings.Contains(b.Process.Log(), "blessd salvage") {
				e.Fatalf("blessd does not start, and does not say what to do:\n%s", tail(b.Process.Log(), 1500))
			}
			p := e.StartProcess(nil, nil, e.o.Binary, "salvage", "-c", b.ConfigFile(), "--yes")
			if err := p.Exit(); err != nil {
				e.Fatalf("salvage ended with %v:\n%s", err, p.Log())
			}
			b.StartOnly()
		}
		b.Listening()
		b.Blessings(5)
		e.Wait("what is in the journal to be published", func() bool { return b.Metric("blessd_publish_pending") == 0 && b.settled() })
		all, missing := e.stored(n.URL()), 0
		for i, d := range t.deliveries {
			switch all[d.UID] {
			case d.Events:
			case 0:
				missing++
			default:
				e.Errorf("request %d of the tail: %d of %d events are there", i+1, all[d.UID], d.Events)
			}
		}
		before := len(damaged)
		e.takeDamaged(n, damaged)
		reported := len(damaged) - before
		gone += missing
		e.Logf("%d of %d requests are gone, %d reported as damaged", missing, len(t.deliveries), reported)
		const most = 3 // of a flip in one chunk
		switch said := strings.Contains(b.Process.Log(), "not whole"); {
		case said && end-at <= 32<<10: // it looks like a write that was cut short, and what follows it went with it
			if gone := whole(t, all); gone < at {
				e.Errorf("after a flip at %d a request is gone that ends at %d", at, gone)
			}
		case missing > most || missing != reported:
			e.Errorf("after a flip at %d of %d, %d requests are gone, and %d were reported", at, end, missing, reported)
		}
	}
	e.Figuref("%d flips, %d journals salvaged, %d of %d requests unreadable", times, salvaged, gone, 60*times)
}

// whole returns where the first request of the tail ends that is not stored, beyond
// the last when all are.
func whole(t *logTail, stored map[string]int) int64 {
	for i, d := range t.deliveries {
		if stored[d.UID] < d.Events {
			return t.ends[i]
		}
	}
	return t.ends[len(t.ends)-1] + 1
}

// takeDamaged removes from the quarantine what says that a record cannot be read,
// which nobody sent, and adds the ids.
func (e *Env) takeDamaged(n *NATS, ids map[string]bool) {
	s, err := n.JetStream().Stream(e.ctx, ledger.Quarantine)
	if err != nil {
		e.Fatalf("%v", err)
	}
	for seq := s.CachedInfo().State.FirstSeq; seq <= s.CachedInfo().State.LastSeq; seq++ {
		m, err := s.GetMsg(e.ctx, seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		if err != nil {
			e.Fatalf("%v", err)
		}
		if m.Header.Get("Blessd-Reason") == "damaged_record" {
			if err := s.DeleteMsg(e.ctx, seq); err != nil {
				e.Fatalf("%v", err)
			}
			ids[m.Header.Get("Nats-Msg-Id")] = true
		}
	}
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

// natsBitFlip lets the cursor pass everything first: the stream alone has it then, and
// what a flip costs is lost.
func natsBitFlip(e *Env) {
	alarms := 0
	b := e.Blessd(Config{})
	for i := range e.Times(2) {
		for k := range 300 {
			b.PostUnheard(e.Delivery(Providers()[k%len(Providers())]))
		}
		b.WaitMetric(0, "blessd_journal_records")
		stream := e.Stream(e.JetStream(b.NATSURL()), ledger.Events)
		if stream == nil {
			e.Fatalf("there is no stream")
		}
		before := stream.State.LastSeq
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
		e.Wait("the relay to start", func() bool { return strings.Contains(b.Process.Log(), "relay starts") })
		now := e.Stream(e.JetStream(b.NATSURL()), ledger.Events)
		if now == nil {
			e.Fatalf("there is no stream after a flip")
		}
		alarm := b.Metric("blessd_stream_went_backwards") == 1
		e.Logf("the stream ends with %d and has %d; alarm: %t", now.State.LastSeq, now.State.Msgs, alarm)
		if now.State.LastSeq < before && !alarm {
			e.Errorf("the stream ended with %d, ends with %d after a flip, and there is no alarm", before, now.State.LastSeq)
		}
		if alarm {
			alarms++
			b.Stop()
			b.Start("--accept-stream-reset") // so that the next one is an alarm of its own
		}
	}
	b.Blessings(5) // what was blessed before is there or not, as the flips left it
	e.Figuref("%d flips, %d alarms", e.Times(2), alarms)
}
