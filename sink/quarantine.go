package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Quarantine is the quarantine stream, for reading and emptying it.
type Quarantine struct {
	sink   *Sink
	stream jetstream.Stream
}

// ErrGone is wrapped by Get's errors when the message has been removed or expired.
var ErrGone = errors.New("no longer in quarantine")

// Quarantine returns the quarantine stream.
func (s *Sink) Quarantine(ctx context.Context) (*Quarantine, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	st, err := s.js.Stream(ctx, s.o.Quarantine.Name)
	if err != nil {
		return nil, fmt.Errorf("look up stream %s: %w", s.o.Quarantine.Name, err)
	}
	return &Quarantine{sink: s, stream: st}, nil
}

// Each calls yield with every message above after, in order, up to the last one that
// there was when it began. What is no message of blessd's is passed with an error in
// place of its contents. An error of yield ends it and is returned as it is.
func (q *Quarantine) Each(ctx context.Context, after uint64, yield func(seq uint64, m Quarantined, unreadable error) error) error {
	return q.sink.read(ctx, q.sink.o.Quarantine.Name, after, false, func(m jetstream.Msg, seq uint64) error {
		parsed, err := ParseQuarantined(m.Headers(), m.Data())
		return yield(seq, parsed, err)
	})
}

// Get returns one message. The error wraps ErrGone when there is none.
func (q *Quarantine) Get(ctx context.Context, seq uint64) (Quarantined, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	m, err := q.stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Quarantined{}, fmt.Errorf("message %d: %w", seq, ErrGone)
	}
	if err != nil {
		return Quarantined{}, fmt.Errorf("read message %d of the quarantine: %w", seq, err)
	}
	return ParseQuarantined(m.Header, m.Data)
}

// Delete removes one message for good. That there is none is no error.
func (q *Quarantine) Delete(ctx context.Context, seq uint64) error {
	return deleteMsg(ctx, q.stream, seq, q.stream.DeleteMsg)
}

// deleteMsg removes a message of st by one of its two ways to do that. That there
// is none is no error.
func deleteMsg(ctx context.Context, st jetstream.Stream, seq uint64, del func(context.Context, uint64) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := del(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		// The client hands on the text alone of why not.
		if _, get := st.GetMsg(ctx, seq); errors.Is(get, jetstream.ErrMsgNotFound) {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("delete message %d of stream %s: %w", seq, st.CachedInfo().Config.Name, err)
	}
	return nil
}

// EventIDs calls yield with the id of every event that was stored at or after since,
// by the server's clock.
func (s *Sink) EventIDs(ctx context.Context, since time.Time, yield func(id string)) error {
	first, err := s.sequenceAt(ctx, since)
	if err != nil {
		return err
	}
	return s.IDs(ctx, s.o.Events.Name, first-1, func(id string, _ uint64) { yield(id) })
}

// sequenceAt returns a sequence of the events stream, at least 1, before which
// everything was stored before t.
func (s *Sink) sequenceAt(ctx context.Context, t time.Time) (uint64, error) {
	state, err := s.State(ctx, s.o.Events.Name)
	if err != nil {
		return 0, err
	}
	st, err := s.js.Stream(ctx, s.o.Events.Name)
	if err != nil {
		return 0, fmt.Errorf("look up stream %s: %w", s.o.Events.Name, err)
	}
	low, high := max(1, state.FirstSeq), state.LastSeq+1
	for low < high {
		middle := low + (high-low)/2
		ask, cancel := context.WithTimeout(ctx, requestTimeout)
		m, err := st.GetMsg(ask, middle, jetstream.WithGetMsgSubject(">")) // or the next there is
		cancel()
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			high = middle
		case err != nil:
			return 0, fmt.Errorf("find the events since %s: %w", t.Format(time.RFC3339), err)
		case m.Time.Before(t):
			low = m.Sequence + 1
		default:
			high = middle
		}
	}
	return low, nil
}

// Fits says whether the server, as far as is known, takes a message of m's size.
func (s *Sink) Fits(m *nats.Msg) bool {
	limit := s.nc.MaxPayload()
	return limit <= 0 || int64(m.Size()-len(m.Subject)) <= limit
}
