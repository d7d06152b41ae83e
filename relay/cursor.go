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

// moveCursor begins to move the cursor over what is settled. The syncs take
// their time, so they run beside the publishing; moved hears of the end.
func (r *Relay) moveCursor(ctx context.Context) {
	if r.moving != nil {
		return
	}
	m, ok := r.dueMark()
	if !ok {
		return
	}
	r.unsaved = 0
	moving := make(chan error, 1)
	r.moving = moving
	go func() { moving <- r.writeCursor(ctx, m) }()
}

// dueMark returns the newest mark that is old enough to be safe.
func (r *Relay) dueMark() (mark, bool) {
	now := r.settledMark()
	if r.Lag <= 0 {
		return now, now.index > r.Journal.Cursor().Index
	}
	if n := len(r.marks); n == 0 || r.marks[n-1].index < now.index {
		r.marks = append(r.marks, now)
	}
	due, ok := mark{}, false
	for len(r.marks) > 0 && now.taken.Sub(r.marks[0].taken) >= r.Lag {
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
	if err := r.Journal.SetCursor(journal.Cursor{Index: m.index, Mark: m.at.bytes()}); err != nil {
		return fmt.Errorf("write the cursor: %w", err)
	}
	r.metrics.cursor.Set(float64(time.Now().UnixNano()) / 1e9)
	return nil
}

// moved notes how moveCursor ended. A failure moves nothing: the records stay,
// and the next try covers them, unless it is one that only a new start cures.
func (r *Relay) moved(err error) error {
	r.moving = nil
	if err == nil {
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
// start has little to compare.
func (r *Relay) lastCursor() error {
	if r.seen == nil {
		return nil // the streams were never reached: nothing has changed
	}
	if r.moving != nil {
		if err := r.moved(<-r.moving); err != nil {
			return err
		}
	}
	r.ended()
	m, ok := r.dueMark()
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return r.writeCursor(ctx, m)
}
