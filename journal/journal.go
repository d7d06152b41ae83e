// Package journal is the durable log between accepting a request and publishing
// what is in it: values are appended, read back in order by their index, and
// deleted from the front by moving a cursor. It knows nothing of HTTP, providers
// or NATS, and does not look into the values it keeps.
//
// What it promises:
//
//   - When Append returns nil the value is on stable storage: the write-ahead log
//     that holds it was synced. Concurrent appends share syncs.
//   - A record is readable only after its own sync, so whoever reads never sees
//     what a power cut can still take back.
//   - Indexes start at 1, have no gaps and are never used twice, not even after
//     everything was consumed: the next index and the cursor are keys of their
//     own, written in the same batch as the records that they count.
//   - The first sync or write that fails, fails the journal for good. What was in
//     flight is not acknowledged, nothing is retried, and [Journal.Failed] tells
//     the program to exit: after a failed fsync nobody knows what is on disk, and
//     only the recovery of a fresh start finds out. A full disk is no failure: the
//     write waits for space.
//
// It is kept in github.com/cockroachdb/pebble, one goroutine writing.
package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// The errors that a caller can tell apart with errors.Is.
var (
	// ErrFull: there is no room, by MaxBytes or by MinFree; the text says which.
	// The value was not stored. Appends work again as soon as there is room.
	ErrFull = errors.New("journal is full")
	// ErrFailed: a write or sync failed; nothing is accepted until the program is
	// started again. A value whose append failed may be stored all the same.
	ErrFailed = errors.New("journal has failed")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("journal is closed")
	// ErrNotFound: the record was consumed, is not yet synced, or does not exist.
	ErrNotFound = errors.New("no such record")
	// ErrCorrupt is wrapped by Open's errors when files are not what was written.
	// Salvage can help.
	ErrCorrupt = errors.New("journal is damaged")
	// ErrDamaged: this record should be there and is not readable as it was
	// written. Others are not affected: the caller goes on with the next index.
	ErrDamaged = errors.New("record is damaged")
)

const (
	// defaultMinFree leaves pebble room to finish what it has begun, and the rest
	// of the machine to breathe.
	defaultMinFree = 256 << 20
	// maxBatch bounds one commit: what is queued beyond it goes into the next.
	maxBatch = 4 << 20
	// defaultMaxQueued bounds the memory that appends hold while the disk stalls,
	// since an append that gave up leaves its value in the queue.
	defaultMaxQueued = 64 << 20
	// maxValue is far above any request body and far below what a batch can hold.
	maxValue = 256 << 20
	// maxMark bounds the mark of a cursor.
	maxMark = 64 << 10
	// flushAfter is how many deleted bytes may still occupy the disk before they
	// are made to go: pebble frees them when it flushes the deletion.
	flushAfter = 64 << 20
	// spaceInterval is the least time between two looks at the free disk space.
	spaceInterval = 250 * time.Millisecond
	// defaultCloseTimeout bounds each of the two things that Close waits for.
	defaultCloseTimeout = 4 * time.Second
)

// Options says where the journal is and how large it may grow.
type Options struct {
	// Dir is created with mode 0700 if it is missing; an existing one gets that mode.
	Dir string
	// MaxBytes bounds the values between the cursor and the end. 0 = no limit.
	MaxBytes int64
	// MinFree is how much disk space is left free: below it appends are refused.
	// 0 = 256 MiB, negative = no check.
	MinFree int64
	// FS is for tests; nil = the disk.
	FS vfs.FS
	// Log may be nil.
	Log *zap.Logger
	// Registerer takes the metrics; nil = none.
	Registerer prometheus.Registerer
}

// Record is one value as it was appended.
type Record struct {
	Index    uint64
	Appended time.Time
	Value    []byte
}

// Cursor says up to where records are done with.
type Cursor struct {
	// Index is the last record that is done with; 0 = none.
	Index uint64
	// Mark is kept with it, for the owner of the cursor.
	Mark []byte
}

// Journal is an open journal. Its methods may be called concurrently.
type Journal struct {
	dir      string
	maxBytes uint64 // 0 = no limit
	db       *pebble.DB
	log      *zap.Logger
	metrics  *metrics
	space    *space
	// These two are constants, but for tests.
	maxQueued    int
	closeTimeout time.Duration

	opening   atomic.Bool
	failed    chan struct{} // closed by fail
	abandoned chan struct{} // closed when Close returns: nobody may wait any longer
	stopped   chan struct{} // closed when the committer has ended
	wake      chan struct{} // capacity 1: something is queued or Close was called
	notify    chan struct{} // capacity 1: something new is readable

	// cursorMu lets one SetCursor run at a time. It is taken before mu.
	cursorMu sync.Mutex
	// readMu is held for reading while pebble reads, for writing to close it.
	readMu   sync.RWMutex
	readable bool

	mu sync.Mutex
	// Everything below is guarded by mu, which is never held while calling into
	// pebble in a way that can touch the disk.
	end      position // of the last record that was queued
	synced   position // of the last record that is durable and readable
	cursor   position
	mark     []byte
	queue    []*group
	queued   int           // bytes of the groups that were not yet completed
	room     chan struct{} // closed and replaced when queued goes down
	advanced chan struct{} // closed and replaced when synced goes up
	refused  uint64        // smallest value refused for MaxBytes since there was room, 0 = none
	garbage  uint64        // bytes deleted since the last flush that SetCursor asked for
	closing  bool
	err      error
}

// position is a place between two records: after index, where values of count
// bytes in all were ever appended.
type position struct{ index, count uint64 }

// group is what is committed together: one batch, one sync.
type group struct {
	batch   *pebble.Batch
	bytes   int
	records int
	end     position // after its last record
	// cursor is not nil when the group moves the cursor.
	cursor *position
	mark   []byte

	done chan struct{} // closed after err was set
	err  error
}

// Open opens the journal in o.Dir, or creates it, and starts one goroutine, which
// ends with Close. It does not read the records.
//
// When it returns an error after the disk failed in the middle of it, the
// directory stays locked until the process ends.
func Open(o Options) (*Journal, error) {
	j, fs, err := newJournal(o)
	if err != nil {
		return nil, err
	}
	j.space = newSpace(fs, o.Dir, o.MinFree)
	if err := checkLogs(fs, o.Dir, j.log); err != nil {
		return nil, fmt.Errorf("opening the journal in %s: %w", o.Dir, err)
	}
	if err := j.openPebble(fs); err != nil {
		if pebble.IsCorruptionError(err) {
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return nil, fmt.Errorf("opening the journal in %s: %w", o.Dir, err)
	}
	if err := j.load(); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the journal in %s: %w", o.Dir, err), j.closePebble())
	}
	m, err := newMetrics(j, o.Registerer)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening the journal: %w", err), j.closePebble())
	}
	j.metrics = m
	j.readable = true
	j.opening.Store(false)
	go j.commit()
	if j.synced.index > j.cursor.index {
		j.notify <- struct{}{}
	}
	return j, nil
}

// newJournal returns a journal that is not open, its directory made ready.
func newJournal(o Options) (*Journal, vfs.FS, error) {
	log := o.Log
	if log == nil {
		log = zap.NewNop()
	}
	fs := o.FS
	if fs == nil {
		fs = vfs.Default
	}
	if o.MaxBytes < 0 {
		return nil, nil, fmt.Errorf("opening the journal: MaxBytes %d is negative", o.MaxBytes)
	}
	if err := prepareDir(fs, o.Dir); err != nil {
		return nil, nil, fmt.Errorf("opening the journal: %w", err)
	}
	return &Journal{
		dir:       o.Dir,
		maxBytes:  uint64(o.MaxBytes),
		log:       log,
		failed:    make(chan struct{}),
		abandoned: make(chan struct{}),
		stopped:   make(chan struct{}),
		wake:      make(chan struct{}, 1),
		notify:    make(chan struct{}, 1),
		room:      make(chan struct{}),
		advanced:  make(chan struct{}),

		maxQueued:    defaultMaxQueued,
		closeTimeout: defaultCloseTimeout,
	}, fs, nil
}

// prepareDir makes the directory, private to us, and makes its name durable: a
// synced file is of no use in a directory that a power cut takes away.
func prepareDir(fs vfs.FS, dir string) error {
	if fs == vfs.Default {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return fmt.Errorf("finding the directory: %w", err)
		}
		dir = abs
	}
	// The parents of whatever is made have to be synced. The last one always is,
	// an earlier start may have been cut short just here.
	sync := []string{fs.PathDir(dir)}
	for d := sync[0]; ; d = fs.PathDir(d) {
		if _, err := fs.Stat(d); err == nil || d == fs.PathDir(d) {
			break
		}
		sync = append(sync, fs.PathDir(d))
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making the directory: %w", err)
	}
	if fs == vfs.Default {
		if err := os.Chmod(dir, 0o700); err != nil {
			return fmt.Errorf("making the directory private: %w", err)
		}
	}
	for _, d := range sync {
		if err := syncDirectory(fs, d); err != nil {
			return err
		}
	}
	return nil
}

func syncDirectory(fs vfs.FS, dir string) error {
	f, err := fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("opening a directory: %w", err)
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("syncing a directory: %w", err)
	}
	return nil
}

// openPebble runs pebble.Open in a goroutine of its own, because a fatal error of
// pebble parks the goroutine that has it (see park).
func (j *Journal) openPebble(fs vfs.FS) error {
	j.opening.Store(true)
	opened := make(chan error, 1)
	var db *pebble.DB
	go func() {
		var err error
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("pebble panicked: %v", p)
			}
			opened <- err
		}()
		db, err = pebble.Open(j.dir, pebbleOptions(j, fs))
	}()
	select {
	case err := <-opened:
		j.db = db
		return err
	case <-j.failed:
		return j.Err()
	}
}

// Append stores value, which it does not keep, and returns nil when it is on
// stable storage. ErrFull and ErrClosed mean that it was not stored, unless the
// error of ErrClosed says that its fate is unknown. After ErrFailed and after
// ctx.Err() it may be stored or not: the record may still turn up.
func (j *Journal) Append(ctx context.Context, value []byte) error {
	reason, err := j.append(ctx, value)
	if err != nil && reason != "" {
		j.metrics.appendErrors.WithLabelValues(reason).Inc()
	}
	return err
}

func (j *Journal) append(ctx context.Context, value []byte) (reason string, err error) {
	if len(value) > maxValue {
		return "", fmt.Errorf("appending to the journal: a value of %d bytes is above %d", len(value), maxValue)
	}
	if free, short := j.space.short(); short {
		return reasonNoSpace, fmt.Errorf("%w: %d bytes of the disk are free, the last %d are not used", ErrFull, free, j.space.min)
	}
	g, reason, err := j.enqueue(ctx, value)
	if err != nil {
		return reason, err
	}
	return j.await(ctx, g)
}

// enqueue puts value into a group and gives it its index, waiting for room in the
// queue while the disk is behind.
func (j *Journal) enqueue(ctx context.Context, value []byte) (*group, string, error) {
	size := uint64(len(value))
	for {
		if err := ctx.Err(); err != nil {
			return nil, reasonTimeout, fmt.Errorf("appending to the journal: %w", err)
		}
		j.mu.Lock()
		if j.err != nil {
			err := j.err
			j.mu.Unlock()
			return nil, reasonFailed, err
		}
		if j.closing {
			j.mu.Unlock()
			return nil, reasonClosed, ErrClosed
		}
		if used := j.end.count - j.cursor.count; j.maxBytes > 0 && used+size > j.maxBytes {
			if size <= j.maxBytes && (j.refused == 0 || size < j.refused) {
				j.refused = size
			}
			j.mu.Unlock()
			return nil, reasonFull, fmt.Errorf("%w: %d bytes do not fit, %d of %d are in use", ErrFull, size, used, j.maxBytes)
		}
		if j.queued == 0 || j.queued+len(value) <= j.maxQueued {
			break
		}
		room := j.room
		j.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
		case <-j.failed:
		case <-j.abandoned:
		}
	}
	g := j.openGroup(len(value))
	j.end = position{j.end.index + 1, j.end.count + size}
	putRecord(g.batch, j.end, time.Now(), value)
	g.end = j.end
	g.records++
	g.bytes += len(value)
	j.queued += len(value)
	j.mu.Unlock()
	j.wakeUp()
	return g, "", nil
}

// openGroup returns the last group of the queue, or a new one if size more bytes
// would make it too large. The caller holds mu.
func (j *Journal) openGroup(size int) *group {
	if n := len(j.queue); n > 0 {
		if g := j.queue[n-1]; g.bytes+size <= maxBatch {
			return g
		}
	}
	g := &group{batch: j.db.NewBatch(), done: make(chan struct{})}
	j.queue = append(j.queue, g)
	return g
}

// await waits until g is durable.
func (j *Journal) await(ctx context.Context, g *group) (reason string, err error) {
	select {
	case <-g.done:
	case <-ctx.Done():
		err = ctx.Err()
		reason = reasonTimeout
	case <-j.failed:
		reason = reasonFailed
		err = j.Err()
	case <-j.abandoned:
		reason = reasonClosed
		err = ErrClosed
	}
	// Several of them can be ready: what is durable is durable.
	select {
	case <-g.done:
		if g.err != nil {
			return reasonFailed, g.err
		}
		return "", nil
	default:
		return reason, fmt.Errorf("waiting for the sync, the record may be stored or not: %w", err)
	}
}

// Read returns a record. See ErrNotFound and ErrDamaged; any other error is about
// the disk or the journal, and reading again may work.
func (j *Journal) Read(index uint64) (Record, error) {
	j.mu.Lock()
	cursor, synced := j.cursor.index, j.synced.index
	j.mu.Unlock()
	if index <= cursor || index > synced {
		return Record{}, fmt.Errorf("reading record %d: %w", index, ErrNotFound)
	}
	r, _, err := j.read(index, true)
	if err == nil {
		return r, nil
	}
	if errors.Is(err, ErrDamaged) {
		j.mu.Lock()
		cursor = j.cursor.index
		j.mu.Unlock()
		if index <= cursor { // it was deleted meanwhile
			err = ErrNotFound
		}
	}
	return Record{}, fmt.Errorf("reading record %d: %w", index, err)
}

// read gets one record from pebble. The count is the one kept with the record.
func (j *Journal) read(index uint64, withValue bool) (r Record, count uint64, err error) {
	j.readMu.RLock()
	defer j.readMu.RUnlock()
	if !j.readable {
		return Record{}, 0, ErrClosed
	}
	return readRecord(j.db, index, withValue)
}

// Wait returns when the record is readable, or was. It ends early with an error
// that wraps ctx.Err(), ErrFailed or ErrClosed.
func (j *Journal) Wait(ctx context.Context, index uint64) error {
	for {
		j.mu.Lock()
		synced, advanced, closing, err := j.synced.index, j.advanced, j.closing, j.err
		j.mu.Unlock()
		switch {
		case index <= synced:
			return nil
		case err != nil:
			return err
		case closing:
			return ErrClosed
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return fmt.Errorf("waiting for record %d: %w", index, ctx.Err())
		case <-j.failed:
		}
	}
}

// Notify returns a channel that holds at most one element: something new has
// become readable since it was last received from. For one receiver.
func (j *Journal) Notify() <-chan struct{} { return j.notify }

// Bounds returns the first readable index and the one after the last.
func (j *Journal) Bounds() (first, next uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.cursor.index + 1, j.synced.index + 1
}

// Cursor returns the cursor as it is on stable storage.
func (j *Journal) Cursor() Cursor {
	j.mu.Lock()
	defer j.mu.Unlock()
	return Cursor{Index: j.cursor.index, Mark: append([]byte(nil), j.mark...)}
}

// SetCursor moves the cursor forward and deletes the records up to it, both in
// one synced batch; the same index with another mark only stores the mark. It is
// not subject to the limits, since it makes room. After ErrFailed the cursor is
// where it was or where it should go.
func (j *Journal) SetCursor(c Cursor) error {
	if len(c.Mark) > maxMark {
		return fmt.Errorf("moving the cursor: a mark of %d bytes is above %d", len(c.Mark), maxMark)
	}
	j.cursorMu.Lock()
	defer j.cursorMu.Unlock()
	j.mu.Lock()
	from, synced := j.cursor, j.synced
	j.mu.Unlock()
	switch {
	case c.Index < from.index:
		return fmt.Errorf("moving the cursor: it is at %d and does not go back to %d", from.index, c.Index)
	case c.Index > synced.index:
		return fmt.Errorf("moving the cursor: %d is beyond the last record, %d", c.Index, synced.index)
	}
	to, err := j.positionAt(c.Index, from, synced)
	if err != nil {
		return fmt.Errorf("moving the cursor to %d: %w", c.Index, err)
	}

	j.mu.Lock()
	if j.err != nil || j.closing {
		err := j.err
		j.mu.Unlock()
		if err == nil {
			err = ErrClosed
		}
		return err
	}
	g := j.openGroup(0)
	if to.index > from.index {
		if err := g.batch.DeleteRange(recordKey(from.index+1), recordKey(to.index+1), nil); err != nil {
			j.mu.Unlock()
			return fmt.Errorf("moving the cursor to %d: %w", c.Index, err)
		}
	}
	if err := putCursor(g.batch, to, c.Mark); err != nil {
		j.mu.Unlock()
		return fmt.Errorf("moving the cursor to %d: %w", c.Index, err)
	}
	g.cursor, g.mark = &to, append([]byte(nil), c.Mark...)
	j.mu.Unlock()
	j.wakeUp()

	_, err = j.await(context.Background(), g)
	return err
}

// positionAt finds the count that belongs to index: in the record itself, or, if
// that is damaged, from the first good one after it.
func (j *Journal) positionAt(index uint64, from, synced position) (position, error) {
	if index == from.index {
		return from, nil
	}
	for k := index; k < synced.index; k++ {
		r, count, err := j.read(k, k > index)
		switch {
		case errors.Is(err, ErrDamaged):
			continue
		case err != nil:
			return position{}, err
		}
		count -= uint64(len(r.Value)) // 0 for the record itself
		if count < from.count || count > synced.count {
			continue
		}
		return position{index, count}, nil
	}
	return position{index, synced.count}, nil
}

// Full reports whether appends are refused: by MaxBytes, which is also so when
// the last value did not fit and nothing was consumed since, or by MinFree.
func (j *Journal) Full() bool {
	if _, short := j.space.short(); short {
		return true
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.maxBytes > 0 && j.end.count-j.cursor.count+max(j.refused, 1) > j.maxBytes
}

// Failed returns a channel that is closed when the journal has failed for good.
// The program should then exit, Close or no Close: the next start recovers.
func (j *Journal) Failed() <-chan struct{} { return j.failed }

// Err returns why the journal has failed, wrapping ErrFailed, or nil.
func (j *Journal) Err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.err
}

// fail fails the journal for good. Only the first call counts. It may be called
// from within pebble, so it must not call into it.
func (j *Journal) fail(cause error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.err != nil {
		return
	}
	j.err = fmt.Errorf("%w: %w", ErrFailed, cause)
	close(j.failed)
}

// Close refuses new appends, waits for those that are queued to be synced, and
// closes the files. If that takes more than a few seconds (a full or hanging
// disk), it returns an error and leaves the files to the end of the process:
// what was acknowledged is safe either way, and appends still waiting get an
// error that says that their fate is unknown. A failed journal is not touched
// any more. A second Close returns ErrClosed.
func (j *Journal) Close() error {
	j.mu.Lock()
	if j.closing {
		j.mu.Unlock()
		return ErrClosed
	}
	j.closing = true
	close(j.advanced) // ends every Wait; nothing closes it again, see complete
	j.mu.Unlock()
	defer close(j.abandoned)
	j.wakeUp()

	timeout := time.NewTimer(j.closeTimeout)
	defer timeout.Stop()
	select {
	case <-j.stopped:
	case <-j.failed:
	case <-timeout.C:
		return fmt.Errorf("closing the journal: the disk did not take what is queued within %s", j.closeTimeout)
	}
	if err := j.closePebble(); err != nil {
		return fmt.Errorf("closing the journal: %w", err)
	}
	return nil
}

// closePebble closes pebble, unless that has failed: it would then wait for ever
// for goroutines that are parked.
func (j *Journal) closePebble() error {
	if err := j.Err(); err != nil {
		return err
	}
	closed := make(chan error, 1)
	go func() {
		j.readMu.Lock()
		j.readable = false
		j.readMu.Unlock()
		closed <- j.db.Close()
	}()
	timeout := time.NewTimer(j.closeTimeout)
	defer timeout.Stop()
	select {
	case err := <-closed:
		return err
	case <-j.failed:
		return j.Err()
	case <-timeout.C:
		return fmt.Errorf("the disk did not finish within %s", j.closeTimeout)
	}
}

func (j *Journal) wakeUp() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}
