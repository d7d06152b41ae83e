package relay

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/normalize"
	"github.com/blessd/blessd/sink"
)

// ErrFull is wrapped by Direct.Put when the stream is full and refuses.
var ErrFull = errors.New("stream is full")

const (
	// failureMemory is how long a failed publish counts against readiness when
	// nothing was published since: somebody has to try again.
	failureMemory = 10 * time.Second
	// Between these, the waits before a failed publish is tried again grow.
	firstBackoff, lastBackoff = 25 * time.Millisecond, 500 * time.Millisecond
)

// DirectOptions is what a Direct needs. Zero values of the numbers mean the
// defaults.
type DirectOptions struct {
	Sink *sink.Sink
	// Sync puts on stable storage what the streams need besides their messages,
	// once they were made. Nil means that nothing is to be done.
	Sync func(context.Context) error
	// OversizeDir takes what even the quarantine stream refuses.
	OversizeDir string
	// Window is how many messages may await their PubAck. Default 4096; less for
	// a server that syncs each, see sink.Options.MaxPending.
	Window int
	// LateAfter and Watch are as in Options. Watch may be called concurrently.
	LateAfter time.Duration
	Watch     func(Settled)
	Log       *zap.Logger
	Registry  prometheus.Registerer
}

// Direct publishes deliveries without a journal. When Put has returned nil, NATS
// has acknowledged every event of the delivery, or what could not be published
// is in quarantine, or in a file that was synced. How durable that is, is up to
// the server.
//
// After any other result some of the events may be stored. The provider sends
// all of them again under the same ids, and the stream's duplicate window keeps
// out what is there.
type Direct struct {
	carrier
	o       DirectOptions
	slots   chan struct{} // one for each message that awaits its PubAck
	missing chan struct{} // capacity 1: NATS had no stream for a message
	ready   atomic.Pointer[string]
	late    atomic.Pointer[time.Time] // when a Put last ran out of time
}

// NewDirect returns a Direct that has talked to nobody yet.
func NewDirect(o DirectOptions) (*Direct, error) {
	if o.Sink == nil || o.OversizeDir == "" {
		return nil, errors.New("relay: sink and oversize directory are needed")
	}
	if o.Window <= 0 {
		o.Window = 4096
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	m, err := newMetrics(o.Registry)
	if err != nil {
		return nil, err
	}
	d := &Direct{
		carrier: carrier{
			sink: o.Sink, oversizeDir: o.OversizeDir, lateAfter: o.LateAfter, log: o.Log, metrics: m, watch: o.Watch,
			each: normalize.Each, element: normalize.Element,
		},
		o:       o,
		slots:   make(chan struct{}, o.Window),
		missing: make(chan struct{}, 1),
	}
	d.notReady("the streams were not looked up yet")
	return d, nil
}

func (d *Direct) notReady(why string) { d.ready.Store(&why) }

// Ready says why deliveries would be refused, or nil: NATS cannot be reached, or
// what was published last has failed, a moment ago.
func (d *Direct) Ready() error {
	if !d.sink.Connected() {
		return errors.New("NATS is not connected")
	}
	if why := *d.ready.Load(); why != "" {
		return errors.New(why)
	}
	p := d.sink.Publishing()
	if p.Failures > 0 && time.Since(p.Failed) < failureMemory {
		return fmt.Errorf("publishing to NATS fails: %s", p.Reason)
	}
	// A sender is refused before the sink gives its messages up.
	if late := d.late.Load(); late != nil && late.After(p.Acknowledged) && time.Since(*late) < failureMemory {
		return errors.New("NATS does not acknowledge in time")
	}
	return nil
}

// Status tells how publishing goes, in the words of Relay's. It may be called at
// any time.
func (d *Direct) Status() Status {
	s := Status{State: "running", Pending: len(d.slots)}
	if err := d.Ready(); err != nil {
		s.State, s.Error = "waiting", err.Error()
	}
	return s
}

// Run makes sure that the streams exist, now and whenever NATS turns out to have
// none, until ctx is done. Put works without it as long as they do. An error means
// that the disk failed to sync them, and only a new start helps.
func (d *Direct) Run(ctx context.Context) error {
	wait := 50 * time.Millisecond
	for {
		err := d.ensure(ctx)
		if errors.Is(err, sink.ErrSync) {
			return err
		}
		var missing <-chan struct{}
		pause := time.Second
		if err == nil {
			d.notReady("")
			d.recall(ctx)
			missing = d.missing
			wait = 50 * time.Millisecond
		} else {
			if ctx.Err() == nil && d.sink.Connected() {
				d.log.Warn("streams cannot be used yet", zap.Error(err))
			}
			d.notReady(err.Error())
			pause = wait
			wait = min(2*wait, 2*time.Second)
		}
		select { // not more often than that
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		if missing == nil {
			continue
		}
		select {
		case <-missing:
		case <-ctx.Done():
			return nil
		}
	}
}

func (d *Direct) ensure(ctx context.Context) error {
	if err := d.sink.Ensure(ctx); err != nil {
		if _, ok := errors.AsType[*sink.Mismatch](err); !ok {
			return err
		}
		// Somebody else's stream: it is theirs to change.
		d.log.Warn("stream differs from the configuration", zap.Error(err))
	}
	if d.o.Sync == nil {
		return nil
	}
	return d.o.Sync(ctx)
}

// Put publishes everything that is in dl and returns nil when NATS has all of it.
// It tries until ctx is done, unless the stream is full: that is ErrFull.
func (d *Direct) Put(ctx context.Context, dl *delivery.Delivery) error {
	p := &put{Direct: d, wait: firstBackoff}
	err := d.items(dl, 0, func(it *item) error { return p.send(ctx, it) })
	for err == nil && p.pending.len() > 0 {
		err = p.settle(ctx)
	}
	if err != nil {
		p.abandon()
		return fmt.Errorf("publish to NATS: %w", err)
	}
	return nil
}

// put is one delivery on its way.
type put struct {
	*Direct
	pending queue
	wait    time.Duration // before the next try, after a failure
	cause   error         // the last failure
}

// send publishes it, settling others while it waits for a slot: these may be the
// slots.
func (p *put) send(ctx context.Context, it *item) error {
	p.metrics.pending.Inc()
	for {
		var acked <-chan *jetstream.PubAck
		var failed <-chan error
		if head := p.pending.head(); head != nil {
			acked, failed = head.future.Ok(), head.future.Err()
		}
		select {
		case p.slots <- struct{}{}:
			p.publish(it)
			p.pending.push(it)
			return nil
		case ack := <-acked:
			p.acknowledged(ack)
		case err := <-failed:
			if err := p.mend(ctx, err); err != nil {
				p.metrics.abandoned(it)
				return err
			}
		case <-ctx.Done():
			p.metrics.abandoned(it)
			return p.tooLate(ctx)
		}
	}
}

// settle waits for the oldest message.
func (p *put) settle(ctx context.Context) error {
	it := p.pending.head()
	select {
	case ack := <-it.future.Ok():
		p.acknowledged(ack)
		return nil
	case err := <-it.future.Err():
		return p.mend(ctx, err)
	case <-ctx.Done():
		return p.tooLate(ctx)
	}
}

// tooLate is the error of a time that has run out, with what it was spent on.
func (p *put) tooLate(ctx context.Context) error {
	now := time.Now()
	p.late.Store(&now)
	if p.cause != nil {
		return fmt.Errorf("%w (%w)", ctx.Err(), p.cause)
	}
	return ctx.Err()
}

func (p *put) acknowledged(ack *jetstream.PubAck) {
	p.count(p.pending.head(), ack)
	p.settled()
}

// settled takes the head of the queue away.
func (p *put) settled() {
	p.pending.pop()
	<-p.slots
}

// mend deals with a publish that failed at the head of the queue.
func (p *put) mend(ctx context.Context, cause error) error {
	it := p.pending.head()
	if it.hopeless(cause) {
		if err := p.keep(it, cause); err != nil {
			it.future = newSettled(nil, cause)
			return err
		}
		p.settled()
		return nil
	}
	reason, final := it.refused(cause)
	if final {
		*it = *p.giveUp(it, finalReason(reason), cause).replaces(it)
		p.publish(it)
		return nil
	}
	it.future = newSettled(nil, cause)
	if reason == sink.ReasonStreamFull {
		return fmt.Errorf("%w: %w", ErrFull, cause)
	}
	if reason == sink.ReasonNoStream {
		select {
		case p.missing <- struct{}{}:
		default: // it is known
		}
	}
	p.cause = cause
	return p.retry(ctx)
}

// retry sends again, after a while, what has failed for now.
func (p *put) retry(ctx context.Context) error {
	select {
	case <-time.After(p.wait):
	case <-ctx.Done():
		return p.tooLate(ctx)
	}
	p.wait = min(2*p.wait, lastBackoff)
	p.pending.each(func(it *item) {
		select {
		case err := <-it.future.Err():
			if _, final := it.refused(err); final || it.hopeless(err) {
				it.future = newSettled(nil, err) // mend settles it for good
				return
			}
			it.tries++
			it.resent = true
			p.publish(it)
		default:
		}
	})
	return nil
}

// abandon leaves the rest of a delivery that is refused. What is on its way has
// its slot until its fate is known, which is PublishTimeout at most.
func (p *put) abandon() {
	go p.pending.each(func(it *item) {
		select {
		case ack := <-it.future.Ok():
			p.count(it, ack)
		case err := <-it.future.Err():
			p.log.Debug("publish of a refused delivery failed", zap.Error(err))
			p.metrics.abandoned(it)
		}
		<-p.slots
	})
}
