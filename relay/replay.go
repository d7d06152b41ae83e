package relay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/normalize"
	"github.com/blessd/blessd/sink"
)

// ReplayWindow is how many messages of a replay may await their PubAck, beside those
// of Options.Window: the Sink must have room for both.
const ReplayWindow = 64

const (
	// replayIDs is how many events are looked for in the stream at a time: some 60 MB.
	replayIDs = 1 << 20
	// replayGroup is how many bodies are published before they are deleted. In between
	// the stream is synced.
	replayGroup = 512
	// replaySlack is more than the clocks of blessd and of NATS differ.
	replaySlack = time.Hour
	// replayEqual bounds the search for one event among equal ones.
	replayEqual = 64
)

// ReplayOptions say what to replay.
type ReplayOptions struct {
	// Choose says which of what is quarantined is put through the normalizer again.
	// Nil is all of it.
	Choose func(provider, endpoint, reason string, received time.Time) bool
	// Oversize includes the files of the oversize directory.
	Oversize bool
	// DryRun changes nothing.
	DryRun bool
	// Progress, if not nil, is told how far it is, often. It must not keep the maps.
	Progress func(ReplaySummary)
}

// ReplaySummary says what became of what was chosen.
type ReplaySummary struct {
	// Phase is reading, comparing, publishing, waiting or done.
	Phase string `json:"phase"`
	// Chosen is how many messages and files were chosen so far, Done how many of them
	// are dealt with.
	Chosen int `json:"chosen"`
	Done   int `json:"done"`
	// Understood have left the quarantine, or with a dry run would.
	Understood int `json:"understood"`
	// Events are those that came of it, by type, and AlreadyPublished those that the
	// stream held before.
	Events           map[string]int `json:"events"`
	AlreadyPublished int            `json:"already_published"`
	// Elements of bodies that are otherwise understood are quarantined alone.
	Elements int `json:"elements"`
	// Stayed are those that stay in quarantine, by the reason of today.
	Stayed map[string]int `json:"stayed"`
	// Foreign are messages and files that blessd has not written. They stay.
	Foreign int `json:"foreign,omitempty"`
}

// ErrReplaying is returned by Replay while another one runs.
var ErrReplaying = errors.New("another replay is running")

// errBatch ends the reading of a batch that is large enough.
var errBatch = errors.New("the batch is full")

// held is what a message or a file is known by until its turn.
type held struct {
	seq  uint64 // of the quarantine stream, or
	file string // the metadata in the oversize directory
}

// body is one of them on its way out.
type body struct {
	held
	stays string // why, if it does
}

// posted is a message of a body that awaits its PubAck.
type posted struct {
	of       *body
	future   jetstream.PubAckFuture
	again    bool // into quarantine: an element
	accepted func(*jetstream.PubAck)
}

// replay is one run of Replay.
type replay struct {
	*carrier
	o ReplayOptions
	// sync and lag are as in Options.
	sync       func(context.Context) error
	lag        time.Duration
	sum        ReplaySummary
	quarantine *sink.Quarantine
	batch      []held
	// ids are those of the batch's events; true is in the stream.
	ids     map[[16]byte]bool
	oldest  time.Time // receipt in the batch
	pending []posted
}

// Replay puts what was quarantined through the normalizer of today. What is
// understood now is published under the ids that it would have had at first, unless
// the stream has it already, and then leaves the quarantine: after every PubAck, and
// after what they acknowledge is on stable storage. What is still not understood
// stays. It may run beside Run, one at a time.
//
// An interrupted replay loses nothing and may simply be repeated. After an error the
// summary has what was done until then.
func (r *Relay) Replay(ctx context.Context, o ReplayOptions) (ReplaySummary, error) {
	lag := r.Lag
	if r.Sync == nil && lag > 0 {
		// It does not apply when both streams have replicas, as for the cursor.
		replicated := true
		for _, stream := range r.streams() {
			s, err := r.Sink.State(ctx, stream)
			if err != nil {
				return ReplaySummary{}, err
			}
			replicated = replicated && s.Replicas > 1
		}
		if replicated {
			lag = 0
		}
	}
	return r.replay(ctx, o, r.Sync, lag)
}

// Replay is [Relay.Replay] without a journal.
func (d *Direct) Replay(ctx context.Context, o ReplayOptions) (ReplaySummary, error) {
	return d.replay(ctx, o, d.o.Sync, 0)
}

func (c *carrier) replay(ctx context.Context, o ReplayOptions, sync func(context.Context) error, lag time.Duration) (ReplaySummary, error) {
	p := &replay{carrier: c, o: o, sync: sync, lag: lag, sum: ReplaySummary{Events: map[string]int{}, Stayed: map[string]int{}}}
	if !c.replaying.TryLock() {
		return p.sum, ErrReplaying
	}
	defer c.replaying.Unlock()
	err := p.run(ctx)
	if err == nil {
		p.tell("done")
	}
	return p.sum, err
}

func (p *replay) tell(phase string) {
	p.sum.Phase = phase
	if p.o.Progress != nil {
		p.o.Progress(p.sum)
	}
}

func (p *replay) run(ctx context.Context) (err error) {
	if p.quarantine, err = p.sink.Quarantine(ctx); err != nil {
		return err
	}
	state, err := p.sink.State(ctx, p.sink.QuarantineStream())
	if err != nil {
		return err
	}
	for after, more := uint64(0), true; more; {
		p.batch, p.ids, p.oldest = nil, map[[16]byte]bool{}, time.Time{}
		err := p.quarantine.Each(ctx, after, func(seq uint64, q sink.Quarantined, foreign error) error {
			if seq > state.LastSeq {
				return nil // it came, or was put back, after the beginning
			}
			after = seq
			if foreign != nil {
				p.sum.Foreign++
				return nil
			}
			return p.consider(held{seq: seq}, q)
		})
		more = errors.Is(err, errBatch)
		if err != nil && !more {
			return err
		}
		if !more && p.o.Oversize {
			if err := p.considerFiles(ctx); err != nil {
				return err
			}
		}
		if err := p.finish(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *replay) considerFiles(ctx context.Context) error {
	files, err := oversizeFiles(p.oversizeDir)
	if err != nil {
		return err
	}
	for _, file := range files {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		q, err := readOversize(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a person has moved it away
		}
		if err != nil {
			p.log.Error("oversize file cannot be replayed", zap.Error(err))
			p.sum.Foreign++
			continue
		}
		if err := p.consider(held{file: file}, q); err != nil && !errors.Is(err, errBatch) {
			return err
		}
	}
	return nil
}

// consider takes q into the batch if it was chosen and is understood now.
func (p *replay) consider(h held, q sink.Quarantined) error {
	if p.o.Choose != nil && !p.o.Choose(q.Provider, q.Endpoint, q.Reason, q.Received) {
		return nil
	}
	p.sum.Chosen++
	events, results := 0, 0
	rejected, err := p.results(q, func(_ *delivery.Delivery, r normalize.Result) error {
		results++
		if r.Event != nil {
			events++
			if k, ok := idKey(r.Event.ID); ok {
				p.ids[k] = false
			}
		}
		return nil
	})
	switch {
	case err != nil:
		p.log.Error("quarantined body cannot be replayed", zap.String("provider", q.Provider), zap.String("endpoint", q.Endpoint), zap.Error(err))
		p.stay(ReasonPanic)
	case rejected != "" && (events == 0 || q.Element >= 0):
		p.stay(rejected)
	default:
		p.batch = append(p.batch, h)
		if p.oldest.IsZero() || q.Received.Before(p.oldest) {
			p.oldest = q.Received
		}
	}
	p.tell("reading")
	if len(p.ids) >= replayIDs {
		return errBatch
	}
	return nil
}

func (p *replay) stay(reason string) {
	p.sum.Stayed[reason]++
	p.sum.Done++
}

// results yields what the normalizer of today makes of q, and returns why something
// of it was rejected. A panic of the normalizer is an error.
func (p *replay) results(q sink.Quarantined, yield func(*delivery.Delivery, normalize.Result) error) (rejected string, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("%w: %.256v", errPanic, v)
		}
	}()
	d := &delivery.Delivery{
		Provider: q.Provider, Endpoint: q.Endpoint, Received: q.Received, Method: "POST", ContentType: q.ContentType, Body: q.Raw,
		Verified: delivery.Verification{Sample: q.Test},
	}
	if q.Traceparent != "" {
		d.Header = []delivery.Field{{Name: "Traceparent", Value: q.Traceparent}}
	}
	var all iter.Seq[normalize.Result]
	switch {
	case q.Reason == ReasonDamaged || q.Reason == ReasonVersion: // the whole record
		if d, err = delivery.Decode(q.Raw); err != nil {
			return q.Reason, nil //nolint:nilerr // that is what the reason says
		}
		all = p.each(d)
	case q.Element < 0:
		all = p.each(d)
	case q.Reason == ReasonTooLarge || q.Reason == ReasonRefused: // one event
		all = p.event(d, q)
	default:
		all = p.element(d, q.Element, q.Occurrence)
	}
	for r := range all {
		if r.Reject != nil {
			rejected = string(r.Reject.Reason)
		}
		if err := yield(d, r); err != nil {
			return rejected, err
		}
	}
	return rejected, nil
}

// errPanic is wrapped by the error for a panic of the normalizer.
var errPanic = errors.New("normalizer panicked")

// event yields the one event of an element that the stream had refused. Its
// occurrence is its own and not the element's. Should the normalizer of today
// identify it otherwise, all events of the element are yielded.
func (p *replay) event(d *delivery.Delivery, q sink.Quarantined) iter.Seq[normalize.Result] {
	for equal := q.Occurrence; equal >= max(0, q.Occurrence-replayEqual); equal-- {
		for r := range p.element(d, q.Element, equal) {
			if r.Event != nil && r.Event.ID == q.ID {
				return func(yield func(normalize.Result) bool) { yield(r) }
			}
		}
	}
	return p.element(d, q.Element, q.Occurrence)
}

// finish publishes the batch and lets it out of the quarantine.
func (p *replay) finish(ctx context.Context) error {
	if len(p.ids) > 0 {
		p.tell("comparing")
		// An event cannot have been published before it was received.
		err := p.sink.EventIDs(ctx, p.oldest.Add(-replaySlack), func(id string) {
			if k, ok := idKey(id); ok {
				if _, ours := p.ids[k]; ours {
					p.ids[k] = true
				}
			}
		})
		if err != nil {
			return err
		}
	}
	size := replayGroup
	if p.sync == nil && p.lag > 0 {
		size = max(1, len(p.batch)) // the wait for the server's own sync is long
	}
	for len(p.batch) > 0 {
		n := min(size, len(p.batch))
		if err := p.group(ctx, p.batch[:n]); err != nil {
			return err
		}
		p.batch = p.batch[n:]
	}
	return nil
}

func (p *replay) group(ctx context.Context, hs []held) error {
	var bodies []*body
	for _, h := range hs {
		b := &body{held: h}
		if err := p.publishBody(ctx, b); err != nil {
			return err
		}
		bodies = append(bodies, b)
		p.tell("publishing")
	}
	if err := p.await(ctx, 0); err != nil {
		return err
	}
	if err := p.safe(ctx); err != nil {
		return err
	}
	for _, b := range bodies {
		if b.stays != "" {
			p.stay(b.stays)
			continue
		}
		if err := p.remove(ctx, b.held); err != nil {
			return err
		}
		p.sum.Understood++
		p.sum.Done++
		p.tell("publishing")
	}
	return nil
}

// load reads what was considered again; it is gone when another hand was quicker.
func (p *replay) load(ctx context.Context, h held) (q sink.Quarantined, gone bool, err error) {
	if h.file != "" {
		q, err = readOversize(h.file)
		gone = errors.Is(err, fs.ErrNotExist)
	} else {
		q, err = p.quarantine.Get(ctx, h.seq)
		gone = errors.Is(err, sink.ErrGone)
	}
	if gone {
		err = nil
	}
	return q, gone, err
}

// publishBody publishes what comes of b, and what of it must stay alone.
func (p *replay) publishBody(ctx context.Context, b *body) error {
	q, gone, err := p.load(ctx, b.held)
	if err != nil || gone {
		return err
	}
	_, err = p.results(q, func(d *delivery.Delivery, r normalize.Result) error {
		if r.Event != nil {
			return p.publishEvent(ctx, b, d, r.Event)
		}
		return p.putBack(ctx, b, q, r)
	})
	if errors.Is(err, errPanic) {
		b.stays = ReasonPanic
		return nil
	}
	return err
}

func (p *replay) publishEvent(ctx context.Context, b *body, d *delivery.Delivery, e *event.Event) error {
	k, _ := idKey(e.ID)
	if p.ids[k] {
		p.sum.AlreadyPublished++
		if !p.o.DryRun {
			p.metrics.received(e.Provider, e.Endpoint, string(e.Type))
			p.metrics.duplicateTotal.WithLabelValues(e.Provider, e.Endpoint).Inc()
		}
		return nil
	}
	m, err := p.sink.EventMessage(e, d.Get("Traceparent"))
	if err != nil {
		p.log.Error("event cannot be published: its body stays in quarantine", zap.String("provider", e.Provider), zap.String("endpoint", e.Endpoint), zap.Error(err))
		b.stays = ReasonRefused
		return nil
	}
	if p.o.DryRun {
		if !p.sink.Fits(m) {
			b.stays = ReasonTooLarge
			return nil
		}
		p.ids[k] = true
		p.sum.Events[string(e.Type)]++
		return nil
	}
	return p.post(ctx, m, posted{of: b, accepted: func(ack *jetstream.PubAck) {
		p.ids[k] = true
		p.metrics.received(e.Provider, e.Endpoint, string(e.Type))
		if ack.Duplicate {
			p.sum.AlreadyPublished++
			p.metrics.duplicateTotal.WithLabelValues(e.Provider, e.Endpoint).Inc()
			return
		}
		p.sum.Events[string(e.Type)]++
		p.metrics.publishedTotal.WithLabelValues(e.Provider, e.Endpoint, string(e.Type)).Inc()
		p.notify(&item{provider: e.Provider, endpoint: e.Endpoint, id: e.ID, typ: string(e.Type), msg: m}, OutcomePublished)
	}})
}

// putBack quarantines an element alone, when the rest of its body is understood.
func (p *replay) putBack(ctx context.Context, b *body, was sink.Quarantined, r normalize.Result) error {
	if p.o.DryRun {
		p.sum.Elements++
		return nil
	}
	q := was
	q.ID, q.Reason, q.ContentType, q.Raw = r.Reject.ID, string(r.Reject.Reason), r.Reject.ContentType, r.Reject.Raw
	q.Element, q.Occurrence = r.Element, r.Occurrence
	m, err := p.sink.QuarantineMessage(q)
	if err != nil {
		p.log.Error("element cannot be quarantined: its body stays", zap.String("provider", q.Provider), zap.String("endpoint", q.Endpoint), zap.Error(err))
		b.stays = ReasonRefused
		return nil
	}
	return p.post(ctx, m, posted{of: b, again: true, accepted: func(*jetstream.PubAck) {
		p.sum.Elements++
		p.metrics.received(q.Provider, q.Endpoint, unreadable)
		p.metrics.quarantinedTotal.WithLabelValues(q.Provider, q.Endpoint, q.Reason).Inc()
	}})
}

// post publishes m and waits for room in the window.
func (p *replay) post(ctx context.Context, m *nats.Msg, w posted) error {
	future, err := p.sink.Publish(m)
	if err != nil {
		future = newSettled(nil, err)
	}
	w.future = future
	p.pending = append(p.pending, w)
	return p.await(ctx, ReplayWindow-1)
}

// await settles the oldest until at most n messages are pending. A message that can
// never be stored makes its body stay; any other failure ends the replay.
func (p *replay) await(ctx context.Context, n int) error {
	for len(p.pending) > n {
		w := p.pending[0]
		p.pending = p.pending[1:]
		select {
		case ack := <-w.future.Ok():
			w.accepted(ack)
		case err := <-w.future.Err():
			reason, final := sink.Classify(err)
			switch {
			case final:
				w.of.stays = finalReason(reason)
			case w.again && reason == sink.ReasonStreamFull:
				w.of.stays = ReasonStreamFull
			default:
				return fmt.Errorf("publish: %w", err)
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// ReasonStreamFull is why a body stays whose elements the quarantine has no room for.
const ReasonStreamFull = "stream_full"

// safe returns when what was acknowledged is on stable storage.
func (p *replay) safe(ctx context.Context) error {
	switch {
	case p.o.DryRun:
	case p.sync != nil:
		if err := p.sync(ctx); err != nil {
			return fmt.Errorf("sync the streams: %w", err)
		}
	case p.lag > 0:
		p.tell("waiting")
		timer := time.NewTimer(p.lag)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return ctx.Err()
}

func (p *replay) remove(ctx context.Context, h held) error {
	switch {
	case p.o.DryRun:
		return nil
	case h.file != "":
		p.files.Lock()
		defer p.files.Unlock()
		return removeOversize(h.file)
	}
	return p.quarantine.Delete(ctx, h.seq)
}
