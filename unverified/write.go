package unverified

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
)

const (
	// queueBytes bounds the bodies of one endpoint that wait for the disk. One
	// always may, whatever its size.
	queueBytes = 4 << 20
	// queueLen bounds their number.
	queueLen = 1024
	// warnEvery bounds the lines in the log: strangers cause them.
	warnEvery = 10 * time.Second
	// newFile begins the name of a file that is being written.
	newFile = ".new-"
)

// Keep takes d, which was refused for that reason, and returns at once. It drops d,
// and counts it, when too much waits for the disk. The caller touches d no more.
func (s *Store) Keep(d *delivery.Delivery, reason string) {
	if !s.queue.push(&waiting{d: d, reason: reason, written: make(chan struct{})}) {
		s.metrics.dropped.WithLabelValues(d.Provider, d.Endpoint).Inc()
	}
}

// Hold is Keep for what nobody may send again: it waits until d is written, or ctx
// ends, and says whether it was. However many wait, d is not dropped for that: the
// caller bounds them. The reason must be among Options.Held for d to have room of its
// own. After an error the caller still has d to itself.
func (s *Store) Hold(ctx context.Context, d *delivery.Delivery, reason string) error {
	w := &waiting{d: d, reason: reason, held: true, written: make(chan struct{})}
	if !s.queue.push(w) {
		return errors.New("the store of unverified deliveries is closed")
	}
	select {
	case <-w.written:
		return w.err
	case <-ctx.Done():
	}
	if s.queue.withdraw(w) {
		s.metrics.dropped.WithLabelValues(d.Provider, d.Endpoint).Inc()
		return fmt.Errorf("wait for the disk: %w", ctx.Err())
	}
	<-w.written // it is being written, or has been
	return w.err
}

// queue holds what waits for the disk. Endpoints take turns, so that one which is
// flooded delays the others by one file at a time.
type queue struct {
	mu      sync.Mutex
	more    *sync.Cond
	lines   map[Endpoint]*line
	turns   []Endpoint // those with a line that is not empty, next first
	writing *waiting
	closed  bool
}

type line struct {
	items []*waiting
	bytes int
}

type waiting struct {
	d      *delivery.Delivery
	reason string
	held   bool // somebody waits for it
	// written is closed when it is kept or given up; err says why, and is read after.
	written chan struct{}
	err     error
}

func (q *queue) init() {
	q.more = sync.NewCond(&q.mu)
	q.lines = map[Endpoint]*line{}
}

func (q *queue) push(w *waiting) bool {
	e := Endpoint{w.d.Provider, w.d.Endpoint}
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[e]
	if l == nil {
		l = &line{}
		q.lines[e] = l
	}
	if q.closed || !w.held && len(l.items) > 0 && (l.bytes+len(w.d.Body) > queueBytes || len(l.items) >= queueLen) {
		return false
	}
	if len(l.items) == 0 {
		q.turns = append(q.turns, e)
	}
	l.items = append(l.items, w)
	l.bytes += len(w.d.Body)
	q.more.Signal()
	return true
}

// pop waits for the next one, and returns nil when the queue is closed and empty.
func (q *queue) pop() *waiting {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.writing = nil
	for len(q.turns) == 0 && !q.closed {
		q.more.Wait()
	}
	if len(q.turns) == 0 {
		return nil
	}
	e := q.turns[0]
	q.turns = q.turns[1:]
	l := q.lines[e]
	w := l.items[0]
	l.items[0] = nil
	l.items = l.items[1:]
	l.bytes -= len(w.d.Body)
	if len(l.items) > 0 {
		q.turns = append(q.turns, e)
	} else {
		delete(q.lines, e)
	}
	q.writing = w
	return w
}

// withdraw takes w out of the queue, and says whether it was still there.
func (q *queue) withdraw(w *waiting) bool {
	e := Endpoint{w.d.Provider, w.d.Endpoint}
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lines[e]
	if l == nil {
		return false
	}
	i := slices.Index(l.items, w)
	if i < 0 {
		return false
	}
	l.items = slices.Delete(l.items, i, i+1)
	l.bytes -= len(w.d.Body)
	if len(l.items) == 0 {
		delete(q.lines, e)
		q.turns = slices.DeleteFunc(q.turns, func(t Endpoint) bool { return t == e })
	}
	close(w.written) // somebody may flush
	return true
}

func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.more.Broadcast()
}

// last returns what has to be written for everything to be written that is in the
// queue now.
func (q *queue) last() []*waiting {
	q.mu.Lock()
	defer q.mu.Unlock()
	var ws []*waiting
	if q.writing != nil {
		ws = append(ws, q.writing)
	}
	for _, e := range q.turns {
		ws = append(ws, q.lines[e].items[len(q.lines[e].items)-1])
	}
	return ws
}

// write is the goroutine that owns the disk.
func (s *Store) write() {
	defer close(s.done)
	for w := s.queue.pop(); w != nil; w = s.queue.pop() {
		if w.err = s.keep(w.d, w.reason); w.err != nil {
			s.metrics.dropped.WithLabelValues(w.d.Provider, w.d.Endpoint).Inc()
			if s.warn.Allow() {
				s.o.Log.Warn("unverified delivery not kept", zap.String("provider", w.d.Provider), zap.String("endpoint", w.d.Endpoint),
					zap.Int("bytes", len(w.d.Body)), zap.Error(w.err))
			}
		}
		close(w.written)
	}
}

// keep puts d on its endpoint's shelf.
func (s *Store) keep(d *delivery.Delivery, reason string) error {
	e := Endpoint{d.Provider, d.Endpoint}
	r := &record{received: d.Received.UnixNano(), reason: reason, digest: digest(d)}
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.shelves[e]
	if sh == nil {
		return errors.New("the endpoint has left the configuration")
	}
	if same := sh.byDigest[r.digest]; same != nil {
		if s.holds(same.reason) && !s.isFinal(reason) {
			return nil // until it is tried, which may be with a key that is not here yet
		}
		return s.mark(e, sh, same, reason)
	}
	b := delivery.Encode(d)
	r.size = onDisk(int64(len(b)))
	room := s.share
	if s.holds(reason) {
		room = s.o.MaxBytes
	}
	if r.size > room {
		return fmt.Errorf("it is larger than the %d bytes that there are for such", room)
	}
	if s.holds(reason) {
		s.makeHeldRoom(r.size)
	} else {
		s.makeRoom(e, sh, r.size)
	}
	if err := writeFile(filepath.Join(s.o.Dir, e.dir()), r.file(), b); err != nil {
		return err
	}
	sh.add(r, s.holds(reason))
	s.metrics.show(e, sh, s.share)
	return nil
}

// holds says whether a delivery that is kept for this reason has room outside its
// endpoint's share.
func (s *Store) holds(reason string) bool { return slices.Contains(s.o.Held, reason) }

func (s *Store) isFinal(reason string) bool { return slices.Contains(s.o.Final, reason) }

// makeRoom removes the oldest until size more bytes fit into the share.
func (s *Store) makeRoom(e Endpoint, sh *shelf, size int64) {
	for sh.bytes > 0 && sh.bytes+size > s.share {
		s.evict(e, sh, false)
	}
}

// makeHeldRoom removes the oldest of those held, of the endpoint that has most of
// them, until size more bytes fit in.
func (s *Store) makeHeldRoom(size int64) {
	for {
		var sum int64
		var most Endpoint
		for _, e := range s.sorted() {
			sum += s.shelves[e].held
			if sh := s.shelves[most]; sh == nil || s.shelves[e].held > sh.held {
				most = e
			}
		}
		if sum == 0 || sum+size <= s.o.MaxBytes {
			return
		}
		s.evict(most, s.shelves[most], true)
		s.metrics.show(most, s.shelves[most], s.share)
	}
}

// evict removes the oldest that is held, or the oldest that is not. There must be
// one.
func (s *Store) evict(e Endpoint, sh *shelf, held bool) {
	i := slices.IndexFunc(sh.records, func(r *record) bool { return s.holds(r.reason) == held })
	s.remove(e, sh, sh.records[i])
	s.metrics.evicted.WithLabelValues(e.Provider, e.Name).Inc()
}

// remove takes r off its shelf and off the disk.
func (s *Store) remove(e Endpoint, sh *shelf, r *record) {
	if !sh.drop(r, s.holds(r.reason)) {
		return
	}
	s.metrics.show(e, sh, s.share)
	err := os.Remove(filepath.Join(s.o.Dir, e.dir(), r.file()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && s.warn.Allow() {
		s.o.Log.Warn("file of an unverified delivery not removed", zap.Error(err))
	}
}

// mark gives r another reason, if that says more: what is suspect once is never
// redeemed, and what is held has room of its own until it was tried.
func (s *Store) mark(e Endpoint, sh *shelf, r *record, reason string) error {
	was, is := s.holds(r.reason), s.holds(reason)
	if reason == r.reason || s.isFinal(r.reason) || !s.isFinal(reason) && was == is {
		return nil
	}
	dir := filepath.Join(s.o.Dir, e.dir())
	marked := *r
	marked.reason = reason
	if err := os.Rename(filepath.Join(dir, r.file()), filepath.Join(dir, marked.file())); err != nil {
		return fmt.Errorf("mark an unverified delivery: %w", err)
	}
	sh.count(r, was, -1)
	r.reason = reason
	sh.count(r, is, 1)
	if is {
		s.makeHeldRoom(0)
	} else {
		s.makeRoom(e, sh, 0)
	}
	s.metrics.show(e, sh, s.share)
	return nil
}

// writeFile writes a file whole or not at all, as far as a process can be killed.
func writeFile(dir, name string, b []byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of an endpoint: %w", err)
	}
	f, err := os.CreateTemp(dir, newFile) // makes mode 0600
	if err != nil {
		return fmt.Errorf("create a file: %w", err)
	}
	_, err = f.Write(b)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		return fmt.Errorf("write a file: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}
