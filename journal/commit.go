package journal

import (
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// commit writes the groups one after the other, each with one sync, until Close
// was called and nothing is queued. While one is being synced the next fills up:
// that is what makes appends share syncs.
//
// It is the only goroutine that writes to pebble, so the order of the indexes is
// the order of the write-ahead log, and a crash leaves a prefix.
func (j *Journal) commit() {
	defer func() {
		// pebble panics on errors of its log writer. It then holds locks that
		// nobody releases, so nothing may call into it any more: see park.
		if p := recover(); p != nil {
			j.fail(fmt.Errorf("pebble panicked: %v", p))
		}
	}()
	for {
		g := j.take()
		if g == nil {
			close(j.stopped)
			return
		}
		start := time.Now()
		if err := j.write(g); err != nil {
			j.fail(err)
		}
		j.metrics.sync.Observe(time.Since(start).Seconds())
		if !j.complete(g) {
			return
		}
		if j.flushIsDue() {
			if _, err := j.db.AsyncFlush(); err != nil {
				j.fail(fmt.Errorf("flushing: %w", err))
				return
			}
		}
	}
}

// take waits for the next group. It returns nil when there will be none.
func (j *Journal) take() *group {
	for {
		j.mu.Lock()
		if len(j.queue) > 0 {
			g := j.queue[0]
			j.queue[0] = nil
			j.queue = j.queue[1:]
			j.mu.Unlock()
			return g
		}
		closing := j.closing
		j.mu.Unlock()
		if closing {
			return nil
		}
		<-j.wake
	}
}

// write commits a group and returns after the sync.
func (j *Journal) write(g *group) error {
	if g.records > 0 {
		if err := putEnd(g.batch, g.end); err != nil {
			return fmt.Errorf("committing: %w", err)
		}
	}
	// Not g.batch.Commit's nil alone makes it durable: after a fatal error pebble
	// calls Logger.Fatalf and would return nil if that returned. See complete.
	if err := g.batch.Commit(pebble.Sync); err != nil {
		return fmt.Errorf("committing: %w", err)
	}
	return g.batch.Close()
}

// complete makes a synced group visible and wakes whoever waits for it. It
// reports false when the journal has failed, then nothing becomes visible.
func (j *Journal) complete(g *group) bool {
	j.mu.Lock()
	g.err = j.err
	if g.err == nil {
		if g.records > 0 {
			j.synced = g.end
			if !j.closing {
				close(j.advanced)
				j.advanced = make(chan struct{})
			}
		}
		if g.cursor != nil {
			if freed := g.cursor.count - j.cursor.count; freed > 0 {
				j.garbage += freed
				j.refused = 0
			}
			j.cursor, j.mark = *g.cursor, g.mark
		}
	}
	j.queued -= g.bytes
	close(j.room)
	j.room = make(chan struct{})
	j.mu.Unlock()

	close(g.done)
	if g.err != nil {
		return false
	}
	if g.records > 0 {
		select {
		case j.notify <- struct{}{}:
		default:
		}
	}
	return true
}

// flushIsDue reports whether so much was deleted that pebble should be made to
// give the space back. By itself it would do so with the next 16 MiB of appends,
// which may be days away.
func (j *Journal) flushIsDue() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.garbage < flushAfter {
		return false
	}
	j.garbage = 0
	return true
}
