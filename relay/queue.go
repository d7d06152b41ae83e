package relay

import (
	"encoding/hex"
	"errors"
	"net/http"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/blessd/blessd/normalize"
	"github.com/blessd/blessd/sink"
)

// item is one message on its way, or the end of a record.
type item struct {
	end                         bool
	record                      uint64
	id, provider, endpoint, typ string
	trace                       string // the W3C trace context, "" for none
	msg                         *nats.Msg
	size                        int // in bytes, as the window counts it
	future                      jetstream.PubAckFuture
	sentAt                      position
	resent                      bool              // sent more than once by this relay
	tries                       int               // how often it was sent alone, after a failure
	result                      normalize.Result  // for an event, in case that it cannot be published
	quarantine                  *sink.Quarantined // for what goes to quarantine
	spill                       error             // why no quarantine message could be made of it
}

// replaces gives an item that takes another's place in the queue its position.
func (it *item) replaces(was *item) *item {
	it.sentAt, it.record, it.size = was.sentAt, was.record, was.size
	return it
}

// maxTries is how often a message is sent alone to a server that answers that the
// message is wrong, for a reason that is not known to be final. After that it is.
const maxTries = 10

// blamesMessage tells whether the server's answer is about the message, by its
// status: 4xx, but for those that speak of the moment.
func blamesMessage(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	if !ok || api.Code < 400 || api.Code > 499 {
		return false
	}
	return api.Code != http.StatusRequestTimeout && api.Code != http.StatusConflict && api.Code != http.StatusTooManyRequests
}

// refused tells whether err, which publishing it ended with, is final, and why.
func (it *item) refused(err error) (reason string, final bool) {
	reason, final = sink.Classify(err)
	return reason, final || reason == sink.ReasonOther && it.tries >= maxTries && blamesMessage(err)
}

// hopeless tells whether err means that no stream will take it: a quarantined
// element that is refused for good, or for which the quarantine stream has no
// room. Its bytes must not stall the rest.
func (it *item) hopeless(err error) bool {
	reason, final := it.refused(err)
	return it.quarantine != nil && (final || it.spill != nil || reason == sink.ReasonStreamFull)
}

// queue holds the items that await their PubAck, in order.
type queue struct {
	items    []*item
	messages int
	bytes    int
}

func (q *queue) push(it *item) {
	q.items = append(q.items, it)
	if !it.end {
		it.size = size(it.msg)
		q.messages++
		q.bytes += it.size
	}
}

func (q *queue) pop() {
	it := q.items[0]
	q.items[0] = nil
	q.items = q.items[1:]
	if !it.end {
		q.messages--
		q.bytes -= it.size
	}
}

// front returns the oldest item of any kind, or nil.
func (q *queue) front() *item {
	if len(q.items) == 0 {
		return nil
	}
	return q.items[0]
}

// head returns the oldest message, or nil. Ends of records do not stay at the
// front: whoever pops a message takes the ends behind it too.
func (q *queue) head() *item {
	if it := q.front(); it != nil && !it.end {
		return it
	}
	return nil
}

func (q *queue) each(f func(*item)) {
	for _, it := range q.items {
		f(it)
	}
}

func (q *queue) len() int { return q.messages }

// has tells whether another message may be sent.
func (q *queue) has(messages, bytes int) bool {
	return q.messages < messages && q.bytes < bytes
}

// seen is the set of ids that a stream already holds. It matters for the records
// that were in the journal when it was made, and is let go after them.
type seen struct {
	ids   map[[16]byte]struct{}
	until uint64 // the first record that it does not matter for
}

func newSeen(until uint64) *seen {
	return &seen{ids: make(map[[16]byte]struct{}), until: until}
}

func (s *seen) add(id string, _ uint64) {
	if k, ok := idKey(id); ok {
		s.ids[k] = struct{}{}
	}
}

func (s *seen) len() int { return len(s.ids) }

func (s *seen) holds(id string) bool {
	k, ok := idKey(id)
	if !ok {
		return false
	}
	_, held := s.ids[k]
	return held
}

func (s *seen) has(id string, record uint64) bool {
	return record < s.until && s.holds(id)
}

func (s *seen) passed(record uint64) {
	if record+1 >= s.until {
		s.ids = nil
	}
}

// idKey is an id in half the memory. Ids are 32 hexadecimal digits; whatever
// else is in a stream is not ours.
func idKey(id string) (k [16]byte, ok bool) {
	if len(id) != 32 {
		return k, false
	}
	_, err := hex.Decode(k[:], []byte(id))
	return k, err == nil
}

// settled is a future whose end is known.
type settled struct {
	ok  chan *jetstream.PubAck
	err chan error
}

func newSettled(ack *jetstream.PubAck, err error) jetstream.PubAckFuture {
	s := settled{ok: make(chan *jetstream.PubAck, 1), err: make(chan error, 1)}
	if err != nil {
		s.err <- err
	} else {
		s.ok <- ack
	}
	return s
}

func (s settled) Ok() <-chan *jetstream.PubAck { return s.ok }
func (s settled) Err() <-chan error            { return s.err }
func (settled) Msg() *nats.Msg                 { return nil }

// size is what the window counts for a message: its body, and a guess for the
// subject and the headers.
func size(m *nats.Msg) int {
	if m == nil {
		return 0
	}
	return len(m.Data) + 512
}
