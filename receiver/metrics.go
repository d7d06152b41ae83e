package receiver

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics is what the receiver counts. For every provider and endpoint, requests
// are the sum of blessed and rejected; validations are among the blessed.
type metrics struct {
	requests    *prometheus.CounterVec
	blessed     *prometheus.CounterVec
	validations *prometheus.CounterVec
	rejected    *prometheus.CounterVec
	reports     *prometheus.CounterVec
	duration    *prometheus.HistogramVec
	size        *prometheus.HistogramVec
	inFlight    prometheus.Gauge
	announced   *prometheus.GaugeVec
	parkedNow   *prometheus.GaugeVec
	parked      *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"provider", "endpoint"})
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"provider", "endpoint"}, labels...))
	}
	histogram := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: buckets,
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"provider", "endpoint"})
	}
	m := &metrics{
		requests: counter("blessd_webhook_requests_total",
			"Requests on the public listener, by the status they were answered with.", "code"),
		blessed: counter("blessd_webhook_blessed_total",
			"Requests answered with 200 and the provider's acknowledgement, validations included."),
		validations: counter("blessd_webhook_validations_total",
			"Requests with which a provider tried the URL: they have no events and are not stored."),
		rejected: counter("blessd_webhook_rejected_total",
			"Requests that were not blessed, by reason.", "reason"),
		reports: counter("blessd_webhook_signature_reports_total",
			"Deliveries accepted without enforcing their signature, by the variant of signing that matched it.", "variant"),
		duration: histogram("blessd_webhook_request_duration_seconds",
			"Time from the end of a request's headers to its answer.",
			[]float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}),
		size: histogram("blessd_webhook_request_size_bytes",
			"Size of the bodies that arrived whole.",
			prometheus.ExponentialBuckets(256, 4, 8)),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "blessd_webhook_requests_in_flight",
			Help: "Requests that are being handled.",
		}),
		announced: gauge("blessd_webhook_rotation_announced",
			"1 while a change of the endpoint's key is announced."),
		parkedNow: gauge("blessd_webhook_parked",
			"Deliveries that wait for the key of an announced rotation, or for their answer after that."),
		parked: counter("blessd_webhook_parked_total",
			"Deliveries that have waited for the key of an announced rotation, by whether they were blessed or refused.", "outcome"),
	}
	for _, c := range []prometheus.Collector{m.requests, m.blessed, m.validations, m.rejected, m.reports, m.duration, m.size, m.inFlight, m.announced, m.parkedNow, m.parked} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of the receiver: %w", err)
		}
	}
	return m, nil
}

// endpointMetrics is one endpoint's part, every series of it in existence.
type endpointMetrics struct {
	codes       map[int]prometheus.Counter
	rejected    map[reason]prometheus.Counter
	reports     map[string]prometheus.Counter
	blessed     prometheus.Counter
	validations prometheus.Counter
	duration    prometheus.Observer
	size        prometheus.Observer
	// What follows is nil where nothing is signed.
	announced, parkedNow         prometheus.Gauge
	parkedBlessed, parkedRefused prometheus.Counter
}

// Values of the label "variant" beside the names of the variants.
const (
	reportAmbiguous = "ambiguous" // more than one signature
	reportMissing   = "missing"   // no signature
	reportNone      = "none"      // no key and variant made it
)

// endpoint creates every series that e can have, at zero. The unmatched endpoint can
// only ever answer 404.
func (m *metrics) endpoint(e *endpoint) *endpointMetrics {
	l := []string{e.Provider, e.Name}
	p := &endpointMetrics{
		codes:    map[int]prometheus.Counter{},
		rejected: map[reason]prometheus.Counter{},
		reports:  map[string]prometheus.Counter{},
		duration: m.duration.WithLabelValues(l...),
		size:     m.size.WithLabelValues(l...),
	}
	for _, f := range refusals {
		if (e.provider == nil) != (f.reason == notFound) {
			continue
		}
		p.rejected[f.reason] = m.rejected.WithLabelValues(append(l, string(f.reason))...)
		p.codes[f.status] = m.requests.WithLabelValues(append(l, strconv.Itoa(f.status))...)
	}
	p.blessed = m.blessed.WithLabelValues(l...)
	p.validations = m.validations.WithLabelValues(l...)
	if e.provider != nil {
		p.codes[http.StatusOK] = m.requests.WithLabelValues(append(l, strconv.Itoa(http.StatusOK))...)
	}
	if e.provider != nil && e.provider.verify != nil {
		p.announced = m.announced.WithLabelValues(l...)
		p.parkedNow = m.parkedNow.WithLabelValues(l...)
		p.parkedBlessed = m.parked.WithLabelValues(append(l, "blessed")...)
		p.parkedRefused = m.parked.WithLabelValues(append(l, "refused")...)
	}
	if e.report {
		for _, v := range append(Variants(), reportAmbiguous, reportMissing, reportNone) {
			p.reports[v] = m.reports.WithLabelValues(append(l, v)...)
		}
	}
	return p
}

// slow is from when on a request gets an exemplar without a trace of its own, and a
// log line with the same request_id.
const slow = 500 * time.Millisecond

// exemplar leads from a point in a graph to the request: by the trace that it came
// with, or to the log line of one that took long. Nil is none.
func (x *exchange) exemplar(o outcome, took time.Duration) prometheus.Labels {
	switch {
	case o.reason != "": // by strangers, perhaps
		return nil
	case x.trace != "":
		return prometheus.Labels{"trace_id": x.trace[3:35]}
	case took >= slow:
		return prometheus.Labels{"request_id": x.requestID()}
	}
	return nil
}

// requestID names the request in the log. It is made up: providers send none.
func (x *exchange) requestID() string {
	if x.id == "" {
		x.id = fmt.Sprintf("%016x", rand.Uint64())
	}
	return x.id
}

// count enters one finished request.
func (p *endpointMetrics) count(x *exchange, o outcome, status int, took time.Duration) {
	p.codes[status].Inc()
	switch {
	case o.reason != "":
		p.rejected[o.reason].Inc()
	case o.probe:
		p.validations.Inc()
		p.blessed.Inc()
	default:
		p.blessed.Inc()
	}
	if x.parked {
		p.parkedNow.Dec()
		if o.reason == "" {
			p.parkedBlessed.Inc()
		} else {
			p.parkedRefused.Inc()
		}
	}
	if x.read {
		p.size.Observe(float64(len(x.body)))
	}
	if h, ok := p.duration.(prometheus.ExemplarObserver); ok {
		h.ObserveWithExemplar(took.Seconds(), x.exemplar(o, took))
	} else {
		p.duration.Observe(took.Seconds())
	}
}
