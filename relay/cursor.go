package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/blessd/blessd/journal"
	"github.com/blessd/blessd/sink"
)

// place is a position in one stream. The creation time tells a stream from
// another of the same name that was made in its place.
type place struct {
	seq     uint64
	created time.Time
}

// position is where both streams stand: events, quarantine.
type position [2]place

const positionVersion = 1

// bytes returns the form in which the journal keeps a position.
func (p position) bytes() []byte {
	b := []byte{positionVersion}
	for _, s := range p {
		b = binary.BigEndian.AppendUint64(b, s.seq)
		b = binary.BigEndian.AppendUint64(b, uint64(s.created.UnixNano()))
	}
	return b
}

func parsePosition(b []byte) (p position, err error) {
	if len(b) == 0 { // the journal is new
		return p, nil
	}
	if b[0] != positionVersion || len(b) != 1+len(p)*16 {
		return p, fmt.Errorf("cursor of an unknown version (%d, %d bytes): was it written by a newer blessd?", b[0], len(b))
	}
	b = b[1:]
	for i := range p {
		p[i].seq = binary.BigEndian.Uint64(b)
		p[i].created = time.Unix(0, int64(binary.BigEndian.Uint64(b[8:]))).UTC()
		b = b[16:]
	}
	return p, nil
}

// settledMark is the cursor that the present state allows: all up to done is
// acknowledged, and whatever comes after it was sent when the streams stood at
// its position or later.
func (r *Relay) settledMark() mark {
	m := mark{index: r.done, at: r.positionBefore(r.done + 1), taken: time.Now()}
	if len(r.started) > 0 {
		m.at = r.started[0].at
	}
	return m
}

// moveCursor looks whether the streams are still those that were published into,
// and moves the cursor over what is settled. That takes its time, so it is done
// beside the publishing; moved hears of the end.
func (r *Relay) moveCursor(ctx context.Context) {
	if r.moving != nil {
		return
	}
	m, due := r.dueMark()
	if due {
		r.unsaved = 0
	}
	moving, high := make(chan error, 1), r.high
	r.moving = moving
	go func() {
		// What is gone from a stream is still in the journal, until the cursor moves.
		if err := r.compare(ctx, high); err != nil {
			if !errors.Is(err, errBackwards) {
				err = fmt.Errorf("%w: %w", errUnknown, err)
			}
			moving <- err
			return
		}
		if due {
			moving <- r.writeCursor(ctx, m)
			return
		}
		moving <- nil
	}()
}

// errUnknown says that the streams could not be asked.
var errUnknown = errors.New("state of the streams is not known")

// dueMark returns the newest mark that is old enough to be safe.
func (r *Relay) dueMark() (mark, bool) {
	now := r.settledMark()
	if r.lag <= 0 {
		return now, now.index > r.Journal.Cursor().Index
	}
	if n := len(r.marks); n == 0 || r.marks[n-1].index < now.index {
		r.marks = append(r.marks, now)
	}
	due, ok := mark{}, false
	for len(r.marks) > 0 && now.taken.Sub(r.marks[0].taken) >= r.lag {
		due, ok = r.marks[0], true
		r.marks = r.marks[1:]
	}
	return due, ok && due.index > r.Journal.Cursor().Index
}

func (r *Relay) writeCursor(ctx context.Context, m mark) error {
	if r.Sync != nil {
		if err := r.Sync(ctx); err != nil {
			return fmt.Errorf("sync the streams: %w", err)
		}
	}
	return r.setCursor(m.index, m.at)
}

func (r *Relay) setCursor(index uint64, at position) error {
	if err := r.Journal.SetCursor(journal.Cursor{Index: index, Mark: memory{at, r.alarms}.bytes()}); err != nil {
		return fmt.Errorf("write the cursor: %w", err)
	}
	r.metrics.cursor.Set(float64(time.Now().UnixNano()) / 1e9)
	return nil
}

// moved notes how moveCursor ended. A failure moves nothing: the records stay,
// and the next try covers them, unless it is one that only a new start cures. The
// error is that one, or errBackwards.
func (r *Relay) moved(err error) error {
	r.moving = nil
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errBackwards):
		return err
	case errors.Is(err, errUnknown), errors.Is(err, context.Canceled):
		r.Log.Debug("cursor not moved: records stay in the journal", zap.Error(err))
		return nil
	}
	r.metrics.cursorErrors.Inc()
	if errors.Is(err, sink.ErrSync) {
		return err
	}
	r.Log.Error("cursor not moved: records stay in the journal", zap.Error(err))
	return nil
}

// lastCursor moves the cursor once more when the relay ends, so that the next
// start has little to compare. It may as well not move.
func (r *Relay) lastCursor() error {
	if r.seen == nil {
		return nil // the streams were never reached: nothing has changed
	}
	if r.moving != nil {
		err := r.moved(<-r.moving)
		if errors.Is(err, errBackwards) {
			return nil // the next start finds the same
		}
		if err != nil {
			return err
		}
	}
	r.ended()
	m, ok := r.dueMark()
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := r.compare(ctx, r.high); err != nil {
		r.Log.Warn("cursor not moved at the end: records stay in the journal", zap.Error(err))
		return nil
	}
	ctx, cancel = context.WithTimeout(context.Background(), 4*time.Second)
	defer cancel()
	return r.writeCursor(ctx, m)
}
