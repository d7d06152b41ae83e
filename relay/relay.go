// Package relay carries deliveries from the journal through normalize into the
// sink and moves the journal's cursor over what NATS has safe. It knows nothing
// of HTTP and keeps nothing of its own on disk but what no stream would take.
// [Direct] does the same without a journal, for one delivery at a time while its
// sender waits.
//
// What Relay promises:
//
//   - Every record is published or quarantined before the cursor passes it, in
//     journal order except around a publish that had to be retried.
//   - Nothing in a payload can stall it. What is wrong with one message for good
//     sends that message to quarantine; what the quarantine stream cannot take
//     is written to a file and synced; then the relay goes on.
//   - What is wrong with NATS is retried for ever.
//   - No doubles after a crash or an outage, however long: before anything is
//     published again, the stream is read from the position that was noted
//     before it was first sent, and what is there already is skipped.
package relay

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/journal"
	"github.com/blessd/blessd/normalize"
	"github.com/blessd/blessd/sink"
)

// Options is what a Relay needs. Zero values of the numbers mean the defaults.
type Options struct {
	Journal *journal.Journal
	Sink    *sink.Sink
	// Sync puts what NATS has acknowledged on stable storage. Nil means that an
	// acknowledgement says so already, which is true of a replicated stream.
	Sync func(context.Context) error
	// Lag is for streams without replicas on a server that acknowledges before it
	// syncs and that cannot be told to: the cursor stays this long behind the
	// acknowledgements. It does not apply when both streams turn out to have
	// replicas.
	Lag time.Duration
	// AcceptReset takes back the alarm of a stream that went backwards, before Run
	// or by the time that Run begins.
	AcceptReset bool
	// OversizeDir takes what even the quarantine stream refuses.
	OversizeDir string
	// CursorInterval and CursorBytes say how often the cursor is written:
	// whichever comes first. Defaults: 10 s, 64 MiB.
	CursorInterval time.Duration
	CursorBytes    int64
	// Window is how many messages may await their PubAck, WindowBytes how many
	// bytes of them. Defaults: 4096, 64 MiB.
	Window      int
	WindowBytes int
	// LateAfter is the streams' duplicate window: an event whose own time is
	// further back is counted as late, since a repetition of it may no longer
	// be suppressed. 0 counts none.
	LateAfter time.Duration
	// Watch is told what became of each event and each quarantined body; nil for
	// nobody. The relay waits for it, so it must be quick and wait for nothing.
	Watch    func(Settled)
	Log      *zap.Logger
	Registry prometheus.Registerer
}

// Relay is created by New and run once by Run.
type Relay struct {
	Options
	carrier

	next uint64 // the journal index to read next
	done uint64 // every record up to it is settled
	high position
	// expected is where the streams stood before they were found to be others.
	expected position
	rewound  [2]bool // a PubAck showed that the stream had lost its end
	alarms   [2]alarm
	lag      time.Duration // Lag, unless the streams have replicas
	started  []start       // the records that are read and not settled, oldest first
	pending  queue
	seen     *seen    // what the streams already held when the relay started
	scanned  position // from where on seen was read
	moving   chan error
	marks    []mark
	unsaved  int64 // bytes settled since the last cursor
	stop     chan struct{}
	stopCtx  atomic.Pointer[context.Context]
	state    atomic.Pointer[Status]
}

// Status is what the relay is doing, for people.
type Status struct {
	// State is starting, running, waiting (for NATS) or stopped.
	State string `json:"state"`
	// Error is why it waits.
	Error string `json:"error,omitempty"`
	// Settled is the last journal record that is published or quarantined.
	Settled uint64 `json:"settled"`
	// Pending is the number of messages that await their PubAck.
	Pending int `json:"pending"`
	// StreamWentBackwards has the streams that held less than had been published
	// into them, until that is accepted.
	StreamWentBackwards []Regress `json:"stream_went_backwards,omitempty"`
}

// start is where the streams stood when a record's first message was sent.
type start struct {
	index uint64
	at    position
}

// mark is a cursor that may be written once it is old enough.
type mark struct {
	index uint64
	at    position
	taken time.Time
}

// New returns a relay that has read nothing yet.
func New(o Options) (*Relay, error) {
	if o.Journal == nil || o.Sink == nil || o.OversizeDir == "" {
		return nil, errors.New("relay: journal, sink and oversize directory are needed")
	}
	if o.CursorInterval <= 0 {
		o.CursorInterval = 10 * time.Second
	}
	if o.CursorBytes <= 0 {
		o.CursorBytes = 64 << 20
	}
	if o.Window <= 0 {
		o.Window = 4096
	}
	if o.WindowBytes <= 0 {
		o.WindowBytes = 64 << 20
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	m, err := newMetrics(o.Registry)
	if err != nil {
		return nil, err
	}
	r := &Relay{
		Options: o,
		carrier: carrier{
			sink: o.Sink, oversizeDir: o.OversizeDir, lateAfter: o.LateAfter, log: o.Log, metrics: m, watch: o.Watch,
			each: normalize.Each, element: normalize.Element,
		},
		stop: make(chan struct{}),
	}
	r.state.Store(&Status{State: "starting"})
	return r, nil
}

// Status tells what the relay is doing. It may be called at any time.
func (r *Relay) Status() Status { return *r.state.Load() }

// settleTime is how long the relay leaves a stream alone that it found gone or
// changed.
const settleTime = time.Second

// errStopped ends waiting when Stop's time is over.
var errStopped = errors.New("relay is stopping")

// Run relays until Stop is called or ctx is done. It returns nil then, and an
// error when the journal has failed and nothing more can be read or moved.
// Whatever Run leaves unpublished is still in the journal.
func (r *Relay) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // a stop that runs out of time ends the waiting too
		select {
		case <-r.stop:
			select {
			case <-(*r.stopCtx.Load()).Done():
				cancel()
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
	}()
	err := r.run(ctx)
	if ctx.Err() != nil || errors.Is(err, errStopped) {
		err = nil
	}
	if last := r.lastCursor(); err == nil {
		err = last
	}
	r.report("stopped", err)
	return err
}

// Stop makes Run publish what is still in the journal and return; when ctx is
// done before, Run returns at once. Stop does not wait for it.
func (r *Relay) Stop(ctx context.Context) {
	if r.stopCtx.CompareAndSwap(nil, &ctx) {
		close(r.stop)
	}
}

func (r *Relay) run(ctx context.Context) error {
	for {
		err := r.round(ctx)
		if !errors.Is(err, errBackwards) {
			return err
		}
		r.Log.Warn("beginning again at the journal's cursor", zap.Error(err))
		r.forget()
		// Who is deleting a stream may not have finished: a nats-server that gets it
		// created again meanwhile can remove the files of the new one.
		select {
		case <-time.After(settleTime):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// round relays until it is stopped or a stream turns out to be another.
func (r *Relay) round(ctx context.Context) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	tick := time.NewTicker(r.CursorInterval)
	defer tick.Stop()
	stop := r.stop
	stopping := false
	for {
		if err := r.settleReady(ctx); err != nil {
			return err
		}
		// Under steady load the wait at the end of this loop is never reached.
		select {
		case <-tick.C:
			r.moveCursor(ctx)
		case err := <-r.moving:
			if err := r.moved(err); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		_, end := r.Journal.Bounds()
		if r.next < end && r.pending.has(r.Window, r.WindowBytes) {
			if err := r.relayRecord(ctx, r.next); err != nil {
				return err
			}
			r.next++
			if r.unsaved >= r.CursorBytes {
				r.moveCursor(ctx)
			}
			continue
		}
		if stopping && r.pending.len() == 0 && r.next >= end {
			return nil
		}
		r.report("running", nil)
		var acked <-chan *jetstream.PubAck
		var failed <-chan error
		if it := r.pending.head(); it != nil {
			acked, failed = it.future.Ok(), it.future.Err()
		}
		select {
		case ack := <-acked:
			if err := r.acknowledged(ack); err != nil {
				return err
			}
		case err := <-failed:
			if err := r.mend(ctx, err); err != nil {
				return err
			}
		case <-r.Journal.Notify():
		case <-r.Journal.Failed():
			return fmt.Errorf("read the journal: %w", r.Journal.Err())
		case <-tick.C:
			r.moveCursor(ctx)
		case err := <-r.moving:
			if err := r.moved(err); err != nil {
				return err
			}
		case <-stop:
			stop, stopping = nil, true
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin finds out where to go on: the cursor says what is published and safe,
// the streams say what else is there.
func (r *Relay) begin(ctx context.Context) error {
	cursor := r.Journal.Cursor()
	remembered, err := parseMemory(cursor.Mark)
	if err != nil {
		return fmt.Errorf("read the journal's cursor: %w", err)
	}
	r.show(remembered.alarms) // NATS may be away for long
	r.next, r.done = cursor.Index+1, cursor.Index
	_, end := r.Journal.Bounds()
	known := remembered.at
	compare := cursor.Mark != nil
	if r.expected != (position{}) { // this relay knows more
		known, compare = r.expected, true
	}
	var found [2]alarm
	doubts := 0
	err = r.untilNATS(ctx, func() error {
		if err := r.Sink.Ensure(ctx); err != nil {
			if _, ok := errors.AsType[*sink.Mismatch](err); !ok {
				return err
			}
			// Somebody else's stream: it is theirs to change.
			r.Log.Warn("stream differs from the configuration", zap.Error(err))
		}
		r.seen = newSeen(end)
		r.scanned, found, r.lag = remembered.at, [2]alarm{}, 0
		var now position
		for i, stream := range r.streams() {
			s, err := r.Sink.State(ctx, stream)
			if err != nil {
				return err
			}
			if compare && known[i].ahead(s) || r.rewound[i] {
				if !r.rewound[i] && doubts < maxDoubts && s.Replicas > 1 && s.Created.Equal(known[i].created) {
					doubts++
					return fmt.Errorf("%w: %s", errBehind, stream)
				}
				r.scanned[i].seq = 0
				found[i] = alarm{since: time.Now().UTC(), expected: known[i].seq, found: s.LastSeq}
			}
			r.scanned[i].created = s.Created
			now[i] = place{seq: s.LastSeq, created: s.Created}
			if s.Replicas < 2 {
				r.lag = r.Lag
			}
			if r.next < end { // else there is nothing that could be there twice
				if err := r.Sink.IDs(ctx, stream, r.scanned[i].seq, r.seen.add); err != nil {
					return err
				}
			}
		}
		r.high = now
		return nil
	})
	if err != nil {
		return err
	}
	if err := r.raise(cursor.Index, remembered.alarms, found); err != nil {
		return err
	}
	r.rewound = [2]bool{}
	r.recall(ctx)
	r.Log.Info("relay starts", zap.Uint64("record", r.next), zap.Uint64("journal_end", end), zap.Int("already_in_stream", r.seen.len()))
	return nil
}

func (r *Relay) streams() [2]string {
	return [2]string{r.Sink.EventsStream(), r.Sink.QuarantineStream()}
}

// relayRecord publishes one record. It returns an error only when the relay has
// to end; what is wrong with the record is settled within.
func (r *Relay) relayRecord(ctx context.Context, index uint64) error {
	d, broken, err := r.read(index)
	if err != nil {
		return err
	}
	r.started = append(r.started, start{index: index, at: r.positionBefore(index)})
	send := func(it *item) error { return r.send(ctx, it) }
	if broken != nil {
		err = send(r.rejected(broken, index))
	} else {
		err = r.items(d, index, send)
	}
	if err != nil {
		return err
	}
	r.pending.push(&item{end: true, record: index})
	return nil
}

// positionBefore returns a position that the streams had reached before anything
// of that record was sent. For a record that an earlier run may have sent, in
// part or whole, that is where this run began to look for it.
func (r *Relay) positionBefore(index uint64) position {
	if index < r.seen.until {
		return r.scanned
	}
	return r.high
}

// read returns the record's delivery, or what to quarantine in its place. An
// error means that the journal, and not just this record, cannot be read.
func (r *Relay) read(index uint64) (*delivery.Delivery, *sink.Quarantined, error) {
	record, err := r.Journal.Read(index)
	switch {
	case errors.Is(err, journal.ErrDamaged):
	case err != nil:
		return nil, nil, fmt.Errorf("read journal record %d: %w", index, err)
	default:
		r.unsaved += int64(len(record.Value))
		var d *delivery.Delivery
		if d, err = delivery.Decode(record.Value); err == nil {
			return d, nil, nil
		}
	}
	reason := ReasonDamaged
	if errors.Is(err, delivery.ErrVersion) {
		reason = ReasonVersion
	}
	r.Log.Error("journal record cannot be read: it goes to quarantine", zap.Uint64("record", index), zap.Error(err))
	return nil, &sink.Quarantined{
		Provider: Unknown, Endpoint: Unknown, Reason: reason, Record: index, Element: -1,
		ID:       event.NewID(Unknown, Unknown, []string{"record", fmt.Sprint(index), record.Appended.String()}, 0),
		Received: record.Appended, ContentType: "application/octet-stream", Raw: record.Value,
	}, nil
}

// send publishes it, waiting for room in the window, unless the stream has it.
func (r *Relay) send(ctx context.Context, it *item) error {
	r.metrics.pending.Inc()
	if r.seen.has(it.id, it.record) {
		r.metrics.duplicate(it)
		r.notify(it, OutcomeDuplicate)
		return nil
	}
	for !r.pending.has(r.Window, r.WindowBytes) {
		if err := r.settleHead(ctx); err != nil {
			r.metrics.abandoned(it)
			return err
		}
	}
	it.sentAt = r.high
	r.publish(it)
	r.pending.push(it)
	return nil
}

// settleReady settles what is acknowledged already, without waiting.
func (r *Relay) settleReady(ctx context.Context) error {
	for {
		r.ended()
		it := r.pending.head()
		if it == nil {
			return nil
		}
		select {
		case ack := <-it.future.Ok():
			if err := r.acknowledged(ack); err != nil {
				return err
			}
		case err := <-it.future.Err():
			if err := r.mend(ctx, err); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// settleHead waits for the oldest message.
func (r *Relay) settleHead(ctx context.Context) error {
	r.ended()
	it := r.pending.head()
	if it == nil {
		return nil
	}
	select {
	case ack := <-it.future.Ok():
		if err := r.acknowledged(ack); err != nil {
			return err
		}
		return nil
	case err := <-it.future.Err():
		return r.mend(ctx, err)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ended takes the ends of records off the head of the queue: all before them is
// settled.
func (r *Relay) ended() {
	for it := r.pending.front(); it != nil && it.end; it = r.pending.front() {
		r.done = it.record
		r.started = r.started[1:]
		r.pending.pop()
		r.seen.passed(r.done)
	}
	r.metrics.settled.Set(float64(r.done))
}

// acknowledged settles the head of the queue.
func (r *Relay) acknowledged(ack *jetstream.PubAck) error {
	it := r.pending.head()
	for i, stream := range r.streams() {
		if ack.Stream != stream {
			continue
		}
		if !ack.Duplicate && ack.Sequence <= it.sentAt[i].seq {
			// What was stored later than that cannot come before it, unless the stream
			// lost its end in between and grows again.
			r.rewound[i] = true
			return fmt.Errorf("%w: %s stored a message at sequence %d after it had %d", errBackwards, stream, ack.Sequence, it.sentAt[i].seq)
		}
		r.high[i].seq = max(r.high[i].seq, ack.Sequence)
	}
	r.count(it, ack)
	r.pending.pop()
	r.ended()
	return nil
}

// mend deals with a publish that failed at the head of the queue.
func (r *Relay) mend(ctx context.Context, cause error) error {
	it := r.pending.head()
	if it.hopeless(cause) {
		return r.spill(ctx, it, cause)
	}
	if reason, final := it.refused(cause); final {
		*it = *r.giveUp(it, finalReason(reason), cause).replaces(it)
		r.publish(it)
		return nil
	}
	return r.retry(ctx, cause)
}

// spill writes what no stream takes to a file.
func (r *Relay) spill(ctx context.Context, it *item, cause error) error {
	if err := r.retrying(ctx, "write the oversize file", func() error { return r.keep(it, cause) }); err != nil {
		return err
	}
	r.pending.pop()
	r.ended()
	return nil
}

// retry waits until NATS takes the head of the queue and then sends again what
// else is unacknowledged, in order. What the streams hold already is not sent:
// an outage may have outlasted the duplicate window.
func (r *Relay) retry(ctx context.Context, cause error) error {
	r.Log.Warn("publish failed: trying again until it works", zap.Error(cause), zap.Int("pending", r.pending.len()))
	err := r.untilNATS(ctx, func() error {
		if err := r.compare(ctx, r.high); err != nil {
			return err
		}
		stored := newSeen(0)
		from := r.pending.head().sentAt
		for i, stream := range r.streams() {
			if err := r.Sink.IDs(ctx, stream, from[i].seq, stored.add); err != nil {
				return err
			}
		}
		for probe := true; ; {
			it := r.pending.head()
			if it == nil {
				return nil
			}
			if stored.holds(it.id) {
				it.resent = true
				it.future = newSettled(&jetstream.PubAck{}, nil)
			}
			select {
			case ack := <-it.future.Ok():
				if err := r.acknowledged(ack); err != nil {
					return err
				}
				continue
			default:
			}
			if !probe {
				r.resendAll(stored)
				return nil
			}
			// One message finds out whether NATS takes messages again.
			it.resent = true
			r.publish(it)
			select {
			case ack := <-it.future.Ok():
				if err := r.acknowledged(ack); err != nil {
					return err
				}
				probe = false
			case err := <-it.future.Err():
				it.tries++
				if _, final := it.refused(err); !final && !it.hopeless(err) {
					return err
				}
				it.future = newSettled(nil, err) // mend settles it for good
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	if err == nil {
		r.Log.Info("publishing again")
	}
	return err
}

// resendAll sends everything that is neither acknowledged nor stored.
func (r *Relay) resendAll(stored *seen) {
	r.pending.each(func(it *item) {
		if it.end {
			return
		}
		it.resent = true
		if stored.holds(it.id) {
			it.future = newSettled(&jetstream.PubAck{}, nil)
			return
		}
		select {
		case ack := <-it.future.Ok():
			it.future = newSettled(ack, nil)
		default:
			r.publish(it)
		}
	})
}

// untilNATS repeats try until it succeeds, and tells meanwhile why it waits.
func (r *Relay) untilNATS(ctx context.Context, try func() error) error {
	return r.retrying(ctx, "wait for NATS", try)
}

func (r *Relay) retrying(ctx context.Context, what string, try func() error) error {
	wait := 50 * time.Millisecond
	for n := 0; ; n++ {
		err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if errors.Is(err, errBackwards) {
			return err
		}
		r.report("waiting", err)
		if n%16 == 0 && !errors.Is(err, errBehind) {
			r.Log.Warn("cannot go on yet", zap.String("doing", what), zap.Int("tries", n+1), zap.Error(err))
		}
		select {
		case <-time.After(wait/2 + rand.N(wait)):
		case <-ctx.Done():
			return ctx.Err()
		case <-r.Journal.Failed():
			return fmt.Errorf("%s: %w", what, r.Journal.Err())
		}
		wait = min(2*wait, 2*time.Second)
	}
}

func (r *Relay) report(state string, err error) {
	s := Status{State: state, Settled: r.done, Pending: r.pending.len(), StreamWentBackwards: r.state.Load().StreamWentBackwards}
	if err != nil {
		s.Error = err.Error()
	}
	r.state.Store(&s)
}
