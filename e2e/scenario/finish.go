package scenario

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

// finish stops the traffic, waits until blessd has done what it can, and has the
// ledger judge.
func (e *Env) finish(r *Result) {
	for _, t := range e.traffic {
		t.Stop()
	}
	for _, b := range e.blessds {
		if b.Process != nil && b.Exited() && !b.ends.Load() {
			e.Errorf("blessd has ended with %v though nobody ended it:\n%s", b.err, tail(b.Process.Log(), 2000))
			b.where.Store(nil)
			b.killed = true
		}
	}
	if acked, refused, unknown := e.ledger.Counts(); acked+refused+unknown == 0 {
		return // a scenario without deliveries
	}
	v, conserved := e.Judge()
	if v == nil {
		return
	}
	r.Verdict, r.Conserved = *v, conserved && !e.Rules.Again
}

// Judge waits until everything that is owed is in the streams, or nothing comes any
// more, and enters what is wrong by the rules. The scenario may go on afterwards.
func (e *Env) Judge() (v *ledger.Verdict, conserved bool) {
	url := e.readable()
	conserved = e.conserves()
	if err := e.ledger.Flush(); err != nil {
		e.Errorf("%v", err)
		return nil, false
	}
	book, err := ledger.Open(e.LedgerFile())
	if err != nil {
		e.Errorf("%v", err)
		return nil, false
	}
	defer func() { _ = book.Close() }() // it was only read
	began := time.Now()
	differences := e.settle(book, url, conserved)
	e.Logf("settled in %.1f s", time.Since(began).Seconds())
	began = time.Now()
	// The reader gives up a server that sends nothing; how long all of it takes depends
	// on how much there is, a million events for the longest scenarios.
	ctx, cancel := context.WithTimeout(e.ctx, max(e.o.Limit, time.Hour))
	defer cancel()
	// Whatever was seen while waiting, this is what counts: a fresh connection, from
	// the first message.
	v, err = ledger.JudgeStreams(ctx, book, url, e.Rules, e.oversize()...)
	if err != nil {
		e.Errorf("read the streams: %v\n%s", err, e.logs())
		return nil, false
	}
	e.Logf("judged in %.1f s", time.Since(began).Seconds())
	for _, d := range v.Details {
		e.Logf("%s", d)
	}
	for _, p := range v.Problems(e.Rules) {
		e.Errorf("%s", p)
	}
	for _, d := range differences {
		e.Errorf("not conserved: %s", d)
	}
	return v, conserved
}

// readable returns where the streams are. An embedded server is not there while its
// blessd is down.
func (e *Env) readable() string {
	if e.streams != "" {
		return e.streams
	}
	b := e.blessds[len(e.blessds)-1]
	if !b.Up() {
		b.Start()
	}
	return b.NATSURL()
}

// conserves tells whether the metrics have counted everything: every blessd has
// lived from the first delivery to now.
func (e *Env) conserves() bool {
	for _, b := range e.blessds {
		if b.lives != 1 || b.killed || !b.Up() {
			return false
		}
	}
	return true
}

// settle waits until nothing is missing and the metrics agree, as long as there is
// progress. It returns what the metrics and the ledger do not agree on.
func (e *Env) settle(book *ledger.Book, url string, conserved bool) (differences []string) {
	judge, err := ledger.NewJudge(book, e.Rules)
	if err != nil {
		e.Errorf("%v", err)
		return nil
	}
	reader, err := ledger.NewReader(url)
	if err != nil {
		e.Errorf("%v", err)
		return nil
	}
	defer func() { reader.Close() }()
	taken := map[string]bool{} // files of the oversize directories
	progress := time.Now()
	count := func(m *ledger.Message) error {
		progress = time.Now()
		return judge.See(m)
	}
	for ; time.Since(progress) < e.o.Patience; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(e.ctx, e.o.Patience)
		err := reader.Read(ctx, count)
		cancel()
		if errors.Is(err, ledger.ErrAnotherStream) {
			reader.Close()
			if reader, err = ledger.NewReader(url); err != nil {
				e.Errorf("%v", err)
				return nil
			}
			if judge, err = ledger.NewJudge(book, e.Rules); err != nil {
				e.Errorf("%v", err)
				return nil
			}
			clear(taken)
			continue
		}
		if e.ctx.Err() != nil {
			e.Fatalf("interrupted")
		}
		if err != nil {
			continue // a server that is away
		}
		for _, dir := range e.oversize() {
			if err := ledger.ReadOversize(dir, once(taken, judge.See)); err != nil {
				continue // it is being written
			}
		}
		if judge.Missing() > 0 {
			continue
		}
		if !conserved {
			return nil
		}
		var all ledger.Metrics
		for _, b := range e.blessds {
			all = append(all, b.Metrics()...)
		}
		if differences, err = book.Conserve(all, e.Rules); err != nil {
			e.Errorf("%v", err)
			return nil
		}
		if len(differences) == 0 {
			return nil
		}
	}
	return differences
}

// oversize are the directories for what not even the quarantine takes.
func (e *Env) oversize() []string {
	var all []string
	for _, b := range e.blessds {
		all = append(all, filepath.Join(b.DataDir(), "oversize"))
	}
	return all
}

// once yields each file only the first time.
func once(taken map[string]bool, yield func(*ledger.Message) error) func(*ledger.Message) error {
	return func(m *ledger.Message) error {
		if taken[m.Subject] {
			return nil
		}
		taken[m.Subject] = true
		return yield(m)
	}
}
