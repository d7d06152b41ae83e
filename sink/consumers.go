package sink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
)

// maxConsumers bounds the durable consumers that have series of their own. Their
// names are not ours, so there must be a bound.
const maxConsumers = 50

// consumers are the metrics of who reads the events: whoever falls behind for too
// long loses what expires.
type consumers struct {
	pending, ackPending *prometheus.GaugeVec
	more                prometheus.Gauge

	mu    sync.Mutex
	shown map[string]bool // the consumers that have series
}

func newConsumers() *consumers {
	labels := []string{"stream", "consumer"}
	return &consumers{
		pending:    prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "blessd_consumer_pending_messages", Help: "Messages that a durable consumer has not been handed yet."}, labels),
		ackPending: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "blessd_consumer_ack_pending_messages", Help: "Messages that a durable consumer was handed and has not acknowledged."}, labels),
		more:       prometheus.NewGauge(prometheus.GaugeOpts{Name: "blessd_consumers_without_series", Help: fmt.Sprintf("Durable consumers beyond the first %d by name, which have no series of their own.", maxConsumers)}),
	}
}

func (c *consumers) collectors() []prometheus.Collector {
	return []prometheus.Collector{c.pending, c.ackPending, c.more}
}

// refreshConsumers reads the events stream's durable consumers into the metrics.
// Series of consumers that are gone go too.
func (s *Sink) refreshConsumers(ctx context.Context) error {
	stream, err := s.js.Stream(ctx, s.o.Events.Name)
	if err != nil {
		return fmt.Errorf("list consumers of stream %s: %w", s.o.Events.Name, err)
	}
	list := stream.ListConsumers(ctx)
	var durable []*jetstream.ConsumerInfo
	for info := range list.Info() {
		if info.Config.Durable != "" {
			durable = append(durable, info)
		}
	}
	if err := list.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		return fmt.Errorf("list consumers of stream %s: %w", s.o.Events.Name, err)
	}
	slices.SortFunc(durable, func(a, b *jetstream.ConsumerInfo) int { return strings.Compare(a.Name, b.Name) })
	c := s.m.consumers
	c.mu.Lock()
	defer c.mu.Unlock()
	c.more.Set(float64(max(0, len(durable)-maxConsumers)))
	durable = durable[:min(len(durable), maxConsumers)]
	now := make(map[string]bool, len(durable))
	for _, info := range durable {
		now[info.Name] = true
	}
	for name := range c.shown {
		if !now[name] {
			c.pending.DeleteLabelValues(s.o.Events.Name, name)
			c.ackPending.DeleteLabelValues(s.o.Events.Name, name)
		}
	}
	c.shown = now
	for _, info := range durable {
		c.pending.WithLabelValues(info.Stream, info.Name).Set(float64(info.NumPending))
		c.ackPending.WithLabelValues(info.Stream, info.Name).Set(float64(info.NumAckPending))
	}
	return nil
}
