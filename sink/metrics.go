package sink

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are those that concern NATS. What becomes of single events is counted
// by the relay.
type metrics struct {
	duration prometheus.Histogram
	errors   *prometheus.CounterVec

	messages, bytes, limit, first, limitAge, refuses *prometheus.GaugeVec
	consumers                                        *consumers

	// started is when each message that waits for its acknowledgement was sent.
	started sync.Map // *nats.Msg to time.Time
	streak  streak
}

func newMetrics(nc *nats.Conn, o Options) (*metrics, error) {
	gauge := func(name, help string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"stream"})
		for _, s := range []string{o.Events.Name, o.Quarantine.Name} {
			v.WithLabelValues(s)
		}
		return v
	}
	m := &metrics{
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                            "blessd_publish_duration_seconds",
			Help:                            "Time from sending a message to JetStream to its acknowledgement.",
			Buckets:                         []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "blessd_publish_errors_total",
			Help: "Publishes that were not acknowledged, by reason. Each is tried again unless it can never succeed.",
		}, []string{"reason"}),
		messages: gauge("blessd_stream_messages", "Messages stored in the stream."),
		bytes:    gauge("blessd_stream_bytes", "Bytes stored in the stream."),
		limit:    gauge("blessd_stream_limit_bytes", "Most bytes the stream keeps; -1 means no limit, 0 not yet known."),
		first:    gauge("blessd_stream_first_timestamp_seconds", "When the oldest message of the stream was stored; 0 for an empty stream."),
		limitAge: gauge("blessd_stream_limit_age_seconds", "Age at which the stream's messages expire; -1 means never, 0 not yet known."),
		refuses:  gauge("blessd_stream_refuses_when_full", "1 when the full stream takes nothing more, 0 when its oldest messages go."),

		consumers: newConsumers(),
	}
	for _, r := range reasons {
		m.errors.WithLabelValues(r)
	}
	var errs []error
	own := []prometheus.Collector{m.duration, m.errors, m.messages, m.bytes, m.limit, m.first, m.limitAge, m.refuses, &connection{nc: nc, mode: o.Mode}}
	for _, c := range append(own, m.consumers.collectors()...) {
		errs = append(errs, o.Registerer.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) sent(msg *nats.Msg) { m.started.Store(msg, time.Now()) }

func (m *metrics) acked(msg *nats.Msg) {
	m.streak.acked()
	if t, ok := m.started.LoadAndDelete(msg); ok {
		m.duration.Observe(time.Since(t.(time.Time)).Seconds())
	}
}

func (m *metrics) failed(msg *nats.Msg, err error) {
	m.started.Delete(msg)
	m.refused(err)
}

// refused counts a publish that was not acknowledged.
func (m *metrics) refused(err error) {
	reason, final := Classify(err)
	m.errors.WithLabelValues(reason).Inc()
	if !final {
		m.streak.failed(reason)
	}
}

// Refresh reads the states of the streams and of the events stream's durable
// consumers into the metrics. The caller runs it on a
// timer. After an error the metrics of that stream keep their last values.
func (s *Sink) Refresh(ctx context.Context) error {
	var errs []error
	for _, name := range []string{s.o.Events.Name, s.o.Quarantine.Name} {
		v, err := s.State(ctx, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.m.messages.WithLabelValues(name).Set(float64(v.Msgs))
		s.m.bytes.WithLabelValues(name).Set(float64(v.Bytes))
		s.m.limit.WithLabelValues(name).Set(float64(v.Limit))
		var first float64
		if !v.FirstTime.IsZero() {
			first = float64(v.FirstTime.UnixNano()) / 1e9
		}
		s.m.first.WithLabelValues(name).Set(first)
		age := -1.0
		if v.MaxAge > 0 {
			age = v.MaxAge.Seconds()
		}
		s.m.limitAge.WithLabelValues(name).Set(age)
		refuses := 0.0
		if v.Refuses {
			refuses = 1
		}
		s.m.refuses.WithLabelValues(name).Set(refuses)
	}
	if len(errs) == 0 {
		errs = append(errs, s.refreshConsumers(ctx))
	}
	return errors.Join(errs...)
}

// connection collects what the connection knows of itself when asked, since its
// server may change at any time.
type connection struct {
	nc   *nats.Conn
	mode string
}

var (
	descConnected  = prometheus.NewDesc("blessd_nats_connected", "Whether the connection to NATS is up.", nil, nil)
	descReconnects = prometheus.NewDesc("blessd_nats_reconnects_total", "Times that the connection to NATS was made again.", nil, nil)
	descInfo       = prometheus.NewDesc("blessd_nats_info", "How NATS runs and which version; the version is empty before the first connection.", []string{"mode", "server_version"}, nil)
)

// Describe implements prometheus.Collector.
func (c *connection) Describe(ch chan<- *prometheus.Desc) {
	ch <- descConnected
	ch <- descReconnects
	ch <- descInfo
}

// Collect implements prometheus.Collector.
func (c *connection) Collect(ch chan<- prometheus.Metric) {
	var up float64
	if c.nc.IsConnected() {
		up = 1
	}
	ch <- prometheus.MustNewConstMetric(descConnected, prometheus.GaugeValue, up)
	ch <- prometheus.MustNewConstMetric(descReconnects, prometheus.CounterValue, float64(c.nc.Stats().Reconnects))
	ch <- prometheus.MustNewConstMetric(descInfo, prometheus.GaugeValue, 1, c.mode, c.nc.ConnectedServerVersion())
}
