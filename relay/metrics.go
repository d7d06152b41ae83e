package relay

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/normalize"
	"github.com/blessd/blessd/sink"
)

// The reasons for quarantine that arise here, beside those of normalize.
const (
	ReasonDamaged  = "damaged_record"   // the journal's copy is not what was written
	ReasonPanic    = "normalizer_panic" // a fault of blessd
	ReasonRefused  = "refused"          // no message can be made of it, or the server refuses it for good
	ReasonTooLarge = "too_large"        // over the server's max_payload
	ReasonVersion  = "newer_version"    // the record was written by a newer blessd
)

// Reasons returns every reason for quarantine, sorted.
func Reasons() []string {
	rs := []string{ReasonDamaged, ReasonPanic, ReasonRefused, ReasonTooLarge, ReasonVersion}
	for _, r := range normalize.Reasons() {
		rs = append(rs, string(r))
	}
	slices.Sort(rs)
	return rs
}

// finalReason names why an event can never be published.
func finalReason(classified string) string {
	if classified == sink.ReasonTooLarge {
		return ReasonTooLarge
	}
	return ReasonRefused
}

const (
	// Unknown stands for the provider and endpoint of a record that cannot
	// be read.
	Unknown = "unknown"
	// unreadable is the type under which a rejected element is counted as
	// received, so that received = published + duplicate + quarantined + abandoned +
	// pending.
	unreadable = "unreadable"
)

// Endpoint names what events come from, for metrics that exist before the first.
type Endpoint struct{ Provider, Name string }

type metrics struct {
	receivedTotal    *prometheus.CounterVec
	publishedTotal   *prometheus.CounterVec
	bouncedTotal     *prometheus.CounterVec
	duplicateTotal   *prometheus.CounterVec
	quarantinedTotal *prometheus.CounterVec
	abandonedTotal   *prometheus.CounterVec
	lateTotal        *prometheus.CounterVec
	lag              *prometheus.HistogramVec
	lastReceived     *prometheus.GaugeVec
	newest           newest
	pending          prometheus.Gauge
	settled          prometheus.Gauge
	cursor           prometheus.Gauge
	cursorErrors     prometheus.Counter
	oversize         prometheus.Counter
	backwards        prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &metrics{
		newest:           newest{of: map[Endpoint]time.Time{}},
		receivedTotal:    counter("blessd_events_received_total", "Results of normalizing, before publishing; type \"unreadable\" is what could not be understood.", "provider", "endpoint", "type"),
		publishedTotal:   counter("blessd_events_published_total", "Events that NATS has acknowledged.", "provider", "endpoint", "type"),
		bouncedTotal:     counter("blessd_events_bounced_total", "Events of type email.bounced that NATS has acknowledged, by the class of the bounce.", "provider", "endpoint", "class"),
		duplicateTotal:   counter("blessd_events_duplicate_total", "Events that the stream held already.", "provider", "endpoint"),
		quarantinedTotal: counter("blessd_events_quarantined_total", "Bodies, elements and events that went to quarantine.", "provider", "endpoint", "reason"),
		abandonedTotal:   counter("blessd_events_abandoned_total", "Events that were not published at this attempt, and that the provider or the journal brings again.", "provider", "endpoint"),
		lateTotal:        counter("blessd_events_late_total", "Events older than the duplicate window when they were received.", "provider", "endpoint"),
		lag: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "blessd_event_lag_seconds", Help: "Time from the event, by the provider's clock, to its receipt.",
			Buckets:                         []float64{1, 5, 15, 60, 300, 900, 3600, 21600, 86400},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"provider", "endpoint"}),
		lastReceived: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "blessd_event_last_received_timestamp_seconds", Help: "When the newest event had been received that was normalized, or that the stream held at the start; 0 before the first.",
		}, []string{"provider", "endpoint"}),
		pending:      gauge("blessd_publish_pending", "Normalized events that await their acknowledgement by NATS."),
		settled:      gauge("blessd_relay_settled_record", "Journal record up to which everything is published or quarantined."),
		cursor:       gauge("blessd_relay_cursor_timestamp_seconds", "When the journal's cursor was last moved; 0 before the first time since the start."),
		cursorErrors: prometheus.NewCounter(prometheus.CounterOpts{Name: "blessd_relay_cursor_errors_total", Help: "Times that the cursor could not be moved because a sync failed."}),
		oversize:     prometheus.NewCounter(prometheus.CounterOpts{Name: "blessd_relay_oversize_files_total", Help: "Deliveries written to the oversize directory because the quarantine stream could not take them."}),
		backwards:    gauge("blessd_stream_went_backwards", "1 when a stream held less than had been published into it, until that is accepted."),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.receivedTotal, m.publishedTotal, m.bouncedTotal, m.duplicateTotal, m.quarantinedTotal, m.abandonedTotal, m.lateTotal, m.lag,
		m.lastReceived, m.pending, m.settled, m.cursor, m.cursorErrors, m.oversize, m.backwards,
	} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register the relay's metrics: %w", err)
		}
	}
	return m, nil
}

// SetEndpoints makes every series of these endpoints exist, at zero.
func (c *carrier) SetEndpoints(endpoints []Endpoint) {
	m := c.metrics
	for _, e := range endpoints {
		for _, t := range event.Types() {
			m.receivedTotal.WithLabelValues(e.Provider, e.Name, string(t))
			m.publishedTotal.WithLabelValues(e.Provider, e.Name, string(t))
		}
		m.receivedTotal.WithLabelValues(e.Provider, e.Name, unreadable)
		for _, reason := range Reasons() {
			m.quarantinedTotal.WithLabelValues(e.Provider, e.Name, reason)
		}
		for _, class := range bounceClasses {
			m.bouncedTotal.WithLabelValues(e.Provider, e.Name, string(class))
		}
		m.duplicateTotal.WithLabelValues(e.Provider, e.Name)
		m.abandonedTotal.WithLabelValues(e.Provider, e.Name)
		m.lateTotal.WithLabelValues(e.Provider, e.Name)
		m.lag.WithLabelValues(e.Provider, e.Name)
		m.lastReceived.WithLabelValues(e.Provider, e.Name)
		m.newest.know(e)
	}
	// Records that cannot be read belong to nobody.
	m.receivedTotal.WithLabelValues(Unknown, Unknown, unreadable)
	for _, reason := range []string{ReasonDamaged, ReasonVersion} {
		m.quarantinedTotal.WithLabelValues(Unknown, Unknown, reason)
	}
}

func (m *metrics) received(provider, endpoint, typ string) {
	m.receivedTotal.WithLabelValues(provider, endpoint, typ).Inc()
}

// event counts a normalized event.
func (m *metrics) event(e *event.Event, lateAfter time.Duration) {
	m.received(e.Provider, e.Endpoint, string(e.Type))
	m.receivedAt(Endpoint{e.Provider, e.Endpoint}, e.Received.Time)
	if e.TimeSource != event.TimeFromProvider {
		return
	}
	age := max(0, e.Received.Sub(e.Time.Time))
	m.lag.WithLabelValues(e.Provider, e.Endpoint).Observe(age.Seconds())
	if lateAfter > 0 && age > lateAfter {
		m.lateTotal.WithLabelValues(e.Provider, e.Endpoint).Inc()
	}
}

// bounceClasses are the values of the label "class".
var bounceClasses = []event.BounceClass{event.BounceHard, event.BounceSoft, event.BounceUnknown}

// newest is when the newest event of each endpoint was received.
type newest struct {
	mu sync.Mutex
	of map[Endpoint]time.Time
}

// know begins with an endpoint of which no event has been seen.
func (n *newest) know(e Endpoint) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, known := n.of[e]; !known {
		n.of[e] = time.Time{}
	}
}

// receivedAt notes that an event of e was received. What is replayed is older than
// what came since, and says nothing.
func (m *metrics) receivedAt(e Endpoint, t time.Time) {
	m.newest.mu.Lock()
	defer m.newest.mu.Unlock()
	if !t.After(m.newest.of[e]) {
		return
	}
	m.newest.of[e] = t
	m.lastReceived.WithLabelValues(e.Provider, e.Name).Set(float64(t.UnixMilli()) / 1e3)
}

// silent returns the endpoints of which no event is known.
func (m *metrics) silent() []Endpoint {
	m.newest.mu.Lock()
	defer m.newest.mu.Unlock()
	var es []Endpoint
	for e, t := range m.newest.of {
		if t.IsZero() {
			es = append(es, e)
		}
	}
	return es
}

func (m *metrics) published(it *item) {
	m.publishedTotal.WithLabelValues(it.provider, it.endpoint, it.typ).Inc()
	if e := it.result.Event; e != nil && e.Type == event.EmailBounced {
		class := event.BounceUnknown
		if e.Bounce != nil && slices.Contains(bounceClasses, e.Bounce.Class) {
			class = e.Bounce.Class
		}
		m.bouncedTotal.WithLabelValues(it.provider, it.endpoint, string(class)).Inc()
	}
	m.pending.Dec()
}

func (m *metrics) duplicate(it *item) {
	m.duplicateTotal.WithLabelValues(it.provider, it.endpoint).Inc()
	m.pending.Dec()
}

func (m *metrics) quarantined(it *item) {
	m.quarantinedTotal.WithLabelValues(it.provider, it.endpoint, it.quarantine.Reason).Inc()
	m.pending.Dec()
}

func (m *metrics) abandoned(it *item) {
	m.abandonedTotal.WithLabelValues(it.provider, it.endpoint).Inc()
	m.pending.Dec()
}

// wholeDelivery is what goes to quarantine when a delivery's body as a whole
// could not be dealt with.
func wholeDelivery(d *delivery.Delivery, index uint64, reason string) *sink.Quarantined {
	identity := []string{"body", fmt.Sprint(index), d.Received.String()}
	if index == 0 { // without a journal it is the body that tells it from others
		sum := sha256.Sum256(d.Body)
		identity = []string{"body", hex.EncodeToString(sum[:])}
	}
	return &sink.Quarantined{
		Provider: d.Provider, Endpoint: d.Endpoint, Reason: reason, ContentType: d.ContentType, Received: d.Received,
		Record: index, Element: -1, Raw: d.Body, Test: d.Verified.Sample, Traceparent: d.Get("Traceparent"),
		ID: event.NewID(d.Provider, d.Endpoint, identity, 0),
	}
}
