package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/blessd/blessd/sink"
)

// errBackwards says that a stream is not what this relay has published into: it
// lost its end, or another was made in its place. The relay then begins again at
// the journal's cursor, as after a start.
var errBackwards = errors.New("stream went backwards")

// errBehind says that a replicated stream seems to have gone backwards: perhaps
// its new leader has not caught up.
var errBehind = errors.New("stream is behind what it has acknowledged")

// maxDoubts is how often errBehind is not yet believed. The waits between the
// tries grow to two seconds.
const maxDoubts = 6

// ahead tells whether p cannot be a position in the stream whose state is s.
func (p place) ahead(s sink.State) bool {
	return s.LastSeq < p.seq || !s.Created.Equal(p.created)
}

// alarm is what is remembered of a stream that went backwards until somebody says
// that it was seen.
type alarm struct {
	since           time.Time // zero for none
	expected, found uint64
}

// Regress is a stream that went backwards: events that were stored in it are gone.
type Regress struct {
	Stream string `json:"stream"`
	// Noticed is when.
	Noticed time.Time `json:"noticed"`
	// Expected is the last sequence that had been acknowledged, Found what the
	// stream, or the one in its place, had instead.
	Expected uint64 `json:"expected_sequence"`
	Found    uint64 `json:"found_sequence"`
}

// memory is what the journal keeps with the cursor: where the streams stood, and
// what nobody has accepted yet. Both are written at once, so that no crash can
// forget the one and not the other.
type memory struct {
	at     position
	alarms [2]alarm
}

// alarmVersion is the version of a memory with alarms. Without any it has that of
// a position.
const alarmVersion = 2

func (m memory) bytes() []byte {
	b := m.at.bytes()
	if m.alarms == [2]alarm{} {
		return b
	}
	b[0] = alarmVersion
	for _, a := range m.alarms {
		since := int64(0)
		if !a.since.IsZero() {
			since = a.since.UnixNano()
		}
		b = binary.BigEndian.AppendUint64(b, uint64(since))
		b = binary.BigEndian.AppendUint64(b, a.expected)
		b = binary.BigEndian.AppendUint64(b, a.found)
	}
	return b
}

func parseMemory(b []byte) (m memory, err error) {
	alarms := len(b) - len(m.at.bytes())
	if len(b) == 0 || b[0] != alarmVersion || alarms != len(m.alarms)*24 {
		m.at, err = parsePosition(b)
		return m, err
	}
	rest := b[len(b)-alarms:]
	if m.at, err = parsePosition(append([]byte{positionVersion}, b[1:len(b)-alarms]...)); err != nil {
		return m, err
	}
	for i := range m.alarms {
		if since := int64(binary.BigEndian.Uint64(rest)); since != 0 {
			m.alarms[i] = alarm{time.Unix(0, since).UTC(), binary.BigEndian.Uint64(rest[8:]), binary.BigEndian.Uint64(rest[16:])}
		}
		rest = rest[24:]
	}
	return m, nil
}

// compare returns errBackwards when the streams are not those that stood at high,
// and another error when they cannot be asked.
func (r *Relay) compare(ctx context.Context, high position) error {
	for i, stream := range r.streams() {
		s, err := r.Sink.State(ctx, stream)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("%w: %s is gone", errBackwards, stream)
		}
		if err != nil {
			return err
		}
		if high[i].ahead(s) {
			return fmt.Errorf("%w: %s", errBackwards, stream)
		}
	}
	return nil
}

// forget drops everything that is on its way. It is all in the journal.
func (r *Relay) forget() {
	if r.moving != nil {
		// It moves the cursor before the streams changed, or not at all. A sync that
		// failed for good fails again.
		if err := <-r.moving; err != nil {
			r.Log.Debug("cursor not moved", zap.Error(err))
		}
		r.moving = nil
	}
	r.pending.each(func(it *item) {
		if !it.end {
			r.metrics.abandoned(it)
		}
	})
	r.pending, r.started, r.marks, r.unsaved = queue{}, nil, nil, 0
	r.expected = r.high
}

// raise notes that streams went backwards, and keeps that with the cursor, or
// takes back what was noted when it is accepted. remembered is what the journal
// has, found what was found now.
func (r *Relay) raise(index uint64, remembered, found [2]alarm) error {
	next := remembered
	for i, stream := range r.streams() {
		if a := found[i]; !a.since.IsZero() {
			next[i] = a
			if was := remembered[i]; !was.since.IsZero() {
				next[i].since = was.since
			}
			r.Log.Error("stream went backwards: events that were stored in it are gone; what the journal still has is published again",
				zap.String("stream", stream), zap.Uint64("last_sequence", a.found), zap.Uint64("last_sequence_expected", a.expected))
		}
		if r.AcceptReset && !next[i].since.IsZero() {
			r.Log.Warn("that the stream went backwards is accepted", zap.String("stream", stream), zap.Time("noticed", next[i].since))
			next[i] = alarm{}
		}
	}
	r.AcceptReset = false // what happens from now on nobody has seen
	r.show(next)
	if found == [2]alarm{} && next == remembered {
		return nil
	}
	return r.setCursor(index, r.scanned)
}

// show puts the alarms into the metric and the status.
func (r *Relay) show(alarms [2]alarm) {
	r.alarms = alarms
	var regress []Regress
	for i, stream := range r.streams() {
		if a := alarms[i]; !a.since.IsZero() {
			regress = append(regress, Regress{Stream: stream, Noticed: a.since, Expected: a.expected, Found: a.found})
		}
	}
	r.metrics.backwards.Set(min(1, float64(len(regress))))
	s := *r.state.Load()
	s.StreamWentBackwards = regress
	r.state.Store(&s)
}
