package unverified

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	records, held              *prometheus.GaugeVec
	bytes, limit               *prometheus.GaugeVec
	dropped, evicted, redeemed *prometheus.CounterVec

	mu   sync.Mutex
	kept map[Endpoint]Kept
}

// Kept is what is kept of one endpoint.
type Kept struct {
	Endpoint
	Records int
	// Bytes are what they take on disk, Limit the endpoint's share.
	Bytes, Limit int64
}

// Kept says what is kept, sorted by endpoint. It does not wait for the disk.
func (s *Store) Kept() []Kept {
	s.metrics.mu.Lock()
	defer s.metrics.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.metrics.kept), func(a, b Kept) int {
		return cmp.Or(cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Name, b.Name))
	})
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	labels := []string{"provider", "endpoint"}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		kept:     map[Endpoint]Kept{},
		records:  gauge("blessd_unverified_records", "Refused deliveries that are kept for a key that comes late."),
		held:     gauge("blessd_unverified_held_records", "Those of them that came while a rotation of the key was announced and were not tried since: they take no part of the endpoint's share."),
		bytes:    gauge("blessd_unverified_bytes", "Bytes that those take on disk that are not held."),
		limit:    gauge("blessd_unverified_limit_bytes", "The endpoint's share of the bytes that they may take."),
		dropped:  counter("blessd_unverified_dropped_total", "Refused deliveries that were not kept, because the disk was too slow, full or failing, or they were too large."),
		evicted:  counter("blessd_unverified_evicted_total", "Kept deliveries that made room for newer ones of their endpoint."),
		redeemed: counter("blessd_unverified_redeemed_total", "Kept deliveries that a key verified later and that were accepted then."),
	}
	for _, c := range []prometheus.Collector{m.records, m.held, m.bytes, m.limit, m.dropped, m.evicted, m.redeemed} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("metrics of the unverified deliveries: %w", err)
		}
	}
	return m, nil
}

// create makes the series of e, at zero.
func (m *metrics) create(e Endpoint) {
	for _, v := range []*prometheus.GaugeVec{m.records, m.held, m.bytes, m.limit} {
		v.WithLabelValues(e.Provider, e.Name)
	}
	for _, v := range []*prometheus.CounterVec{m.dropped, m.evicted, m.redeemed} {
		v.WithLabelValues(e.Provider, e.Name)
	}
}

// forget drops the gauges of an endpoint that has left. Its counters stay.
func (m *metrics) forget(e Endpoint) {
	for _, v := range []*prometheus.GaugeVec{m.records, m.held, m.bytes, m.limit} {
		v.DeleteLabelValues(e.Provider, e.Name)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.kept, e)
}

func (m *metrics) show(e Endpoint, sh *shelf, share int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept[e] = Kept{Endpoint: e, Records: len(sh.records), Bytes: sh.bytes, Limit: share}
	m.limit.WithLabelValues(e.Provider, e.Name).Set(float64(share))
	m.records.WithLabelValues(e.Provider, e.Name).Set(float64(len(sh.records)))
	m.held.WithLabelValues(e.Provider, e.Name).Set(float64(sh.heldN))
	m.bytes.WithLabelValues(e.Provider, e.Name).Set(float64(sh.bytes))
}
