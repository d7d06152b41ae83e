package relay

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/normalize"
	"github.com/blessd/blessd/sink"
)

// carrier is what Relay and Direct have in common: it makes messages of
// deliveries, publishes them, and keeps what no stream will take.
type carrier struct {
	sink        *sink.Sink
	oversizeDir string
	lateAfter   time.Duration
	log         *zap.Logger
	metrics     *metrics
	watch       func(Settled) // if not nil
	// normalize.Each and normalize.Element, but in tests
	each      func(*delivery.Delivery) iter.Seq[normalize.Result]
	element   func(d *delivery.Delivery, element, equal int) iter.Seq[normalize.Result]
	files     sync.Mutex // for the oversize directory
	replaying sync.Mutex // held by Replay
}

// recall asks the stream for the newest event of each endpoint that had none since
// the start, so that a restart does not hide a silence. It is no more than that:
// when NATS does not answer, the time stays unknown.
func (c *carrier) recall(ctx context.Context) {
	for _, e := range c.metrics.silent() {
		t, err := c.sink.LastReceived(ctx, e.Provider, e.Name)
		if err != nil {
			c.log.Debug("newest event not read back", zap.Error(err))
			return
		}
		if !t.IsZero() {
			c.metrics.receivedAt(e, t)
		}
	}
}

// items normalizes d and hands on what comes out. A panic of the normalizer costs
// this delivery its place among the events and nothing else: the whole body goes
// to quarantine, from where it can be replayed once the fault is mended.
func (c *carrier) items(d *delivery.Delivery, index uint64, send func(*item) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			c.log.Error("normalizer panicked: the delivery goes to quarantine", zap.Uint64("record", index),
				zap.String("provider", d.Provider), zap.String("endpoint", d.Endpoint), zap.String("panic", fmt.Sprintf("%.256v", p)), zap.Stack("stack"))
			err = send(c.rejected(wholeDelivery(d, index, ReasonPanic), index))
		}
	}()
	for result := range c.each(d) {
		if err := send(c.toItem(d, result, index)); err != nil {
			return err
		}
	}
	return nil
}

// toItem makes the message of one result. A result that no message can be made
// of goes to quarantine like one that the server refuses.
func (c *carrier) toItem(d *delivery.Delivery, result normalize.Result, index uint64) *item {
	if result.Reject != nil {
		j := result.Reject
		c.metrics.received(d.Provider, d.Endpoint, unreadable)
		return c.quarantineItem(&sink.Quarantined{
			Provider: d.Provider, Endpoint: d.Endpoint, ID: j.ID, Reason: string(j.Reason), ContentType: j.ContentType,
			Received: d.Received, Record: index, Element: result.Element, Occurrence: result.Occurrence, Raw: j.Raw,
			Test: d.Verified.Sample, Traceparent: d.Get("Traceparent"),
		})
	}
	e := result.Event
	c.metrics.event(e, c.lateAfter)
	it := &item{record: index, id: e.ID, provider: e.Provider, endpoint: e.Endpoint, typ: string(e.Type), result: result, trace: d.Get("Traceparent")}
	msg, err := c.sink.EventMessage(e, it.trace)
	if err != nil {
		return c.giveUp(it, ReasonRefused, err)
	}
	it.msg = msg
	return it
}

// rejected is quarantineItem for what never became a normalized result.
func (c *carrier) rejected(q *sink.Quarantined, index uint64) *item {
	c.metrics.received(q.Provider, q.Endpoint, unreadable)
	it := c.quarantineItem(q)
	it.record = index
	return it
}

func (c *carrier) quarantineItem(q *sink.Quarantined) *item {
	it := &item{record: q.Record, id: q.ID, provider: q.Provider, endpoint: q.Endpoint, quarantine: q}
	msg, err := c.sink.QuarantineMessage(*q)
	if err != nil {
		it.spill = err
		return it
	}
	it.msg = msg
	return it
}

// giveUp turns an event that no stream will ever take as an event into its
// quarantined form.
func (c *carrier) giveUp(it *item, reason string, cause error) *item {
	e := it.result.Event
	q := &sink.Quarantined{
		Provider: e.Provider, Endpoint: e.Endpoint, ID: e.ID, Reason: reason, Received: e.Received.Time, Record: it.record,
		Element: it.result.Element, Occurrence: it.result.Occurrence, ContentType: "application/json", Raw: e.RawBytes(),
		Test: e.Test, Traceparent: it.trace,
	}
	c.log.Error("event cannot be published: it goes to quarantine", zap.Uint64("record", it.record), zap.String("provider", q.Provider),
		zap.String("endpoint", q.Endpoint), zap.String("event_id", q.ID), zap.String("reason", reason), zap.Error(cause))
	return c.quarantineItem(q)
}

func (c *carrier) publish(it *item) {
	if it.spill != nil {
		it.future = newSettled(nil, it.spill)
		return
	}
	future, err := c.sink.Publish(it.msg)
	if err != nil {
		future = newSettled(nil, err)
	}
	it.future = future
}

// count counts what was acknowledged.
func (c *carrier) count(it *item, ack *jetstream.PubAck) {
	switch {
	case it.quarantine != nil:
		c.metrics.quarantined(it)
		c.notify(it, OutcomeQuarantined)
	case ack.Duplicate && !it.resent:
		c.metrics.duplicate(it)
		c.notify(it, OutcomeDuplicate)
	default: // a duplicate of our own first try is the event itself
		c.metrics.published(it)
		c.notify(it, OutcomePublished)
	}
}

// keep writes what no stream takes to a file.
func (c *carrier) keep(it *item, cause error) error {
	c.files.Lock()
	defer c.files.Unlock()
	file, err := writeOversize(c.oversizeDir, it.quarantine)
	if err != nil {
		return err
	}
	c.log.Error("quarantine stream cannot take a delivery: it is kept as a file", zap.String("file", file), zap.Uint64("record", it.record),
		zap.String("provider", it.provider), zap.String("endpoint", it.endpoint), zap.Int("bytes", len(it.quarantine.Raw)), zap.Error(cause))
	c.metrics.oversize.Inc()
	c.metrics.quarantined(it)
	c.notify(it, OutcomeQuarantined)
	return nil
}
