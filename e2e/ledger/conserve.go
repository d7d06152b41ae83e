package ledger

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Metrics are the counters and gauges of /metrics, summed over the labels that are
// not asked for.
type Metrics []sample

type sample struct {
	name   string
	labels map[string]string
	value  float64
}

// ParseMetrics reads the text format as Prometheus' client library writes it.
func ParseMetrics(text string) Metrics {
	var all Metrics
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		if l == "" || l[0] == '#' {
			continue
		}
		end := strings.LastIndexByte(l, ' ')
		value, err := strconv.ParseFloat(l[end+1:], 64)
		if err != nil {
			continue
		}
		name, rest, _ := strings.Cut(l[:end], "{")
		labels := map[string]string{}
		for pair := range strings.SplitSeq(strings.TrimSuffix(rest, "}"), ",") {
			if k, v, ok := strings.Cut(pair, "="); ok {
				labels[k] = strings.Trim(v, `"`)
			}
		}
		all = append(all, sample{name, labels, value})
	}
	return all
}

// Sum adds up a metric where its labels have the given values, as pairs of both.
func (m Metrics) Sum(name string, labels ...string) float64 {
	total := 0.0
samples:
	for _, s := range m {
		if s.name != name {
			continue
		}
		for i := 0; i < len(labels); i += 2 {
			if s.labels[labels[i]] != labels[i+1] {
				continue samples
			}
		}
		total += s.value
	}
	return total
}

// Has tells whether there is such a series.
func (m Metrics) Has(name string) bool {
	return slices.ContainsFunc(m, func(s sample) bool { return s.name == name })
}

// books are the ledger's figures for one endpoint.
type books struct {
	codes      map[int]int
	acked      int
	unanswered int
	events     int // of the attempts that were blessed
	perhaps    int // events of the attempts that may have been stored, though not blessed
}

// Conserve compares the metrics of blessd with the ledger, to the unit. They are to be
// of all the processes that answered, and each must have lived all the time. Attempts
// without an answer make it a range instead of a number.
func (b *Book) Conserve(m Metrics, r Rules) ([]string, error) {
	by := map[string]*books{}
	for _, uid := range b.order {
		d := b.deliveries[uid]
		k := by[d.endpoint]
		if k == nil {
			k = &books{codes: map[int]int{}}
			by[d.endpoint] = k
		}
		for _, a := range d.attempts {
			events := 0
			if a.body < len(d.bodies) {
				body, err := b.body(d.bodies[a.body])
				if err != nil {
					return nil, err
				}
				events = len(Expect(d.provider, d.contentType, body))
			}
			switch a.state {
			case Acked:
				k.acked++
				k.events += events
			case Unknown:
				k.unanswered++
				k.perhaps += events
			case Refused:
				if a.status == 503 || slices.Contains(r.Redeemed, a.status) {
					k.perhaps += events
				}
			}
			if a.state != Unknown {
				k.codes[a.status]++
			}
		}
	}
	for u, n := range r.Unbooked {
		k := by[u.Endpoint]
		if k == nil {
			k = &books{codes: map[int]int{}}
			by[u.Endpoint] = k
		}
		if u.Status == 0 {
			k.unanswered += n
			k.perhaps += n * u.Events
			continue
		}
		k.codes[u.Status] += n
		if u.Status == 200 {
			k.acked += n
			k.events += n * u.Events
		}
	}
	var all []string
	between := func(what string, got float64, low, high int) {
		switch {
		case got >= float64(low) && got <= float64(high):
		case low == high:
			all = append(all, fmt.Sprintf("%s: the metrics say %v, the ledger %d", what, got, low))
		default:
			all = append(all, fmt.Sprintf("%s: the metrics say %v, the ledger %d to %d", what, got, low, high))
		}
	}
	for _, endpoint := range slices.Sorted(maps.Keys(by)) {
		k := by[endpoint]
		on := []string{"endpoint", endpoint}
		for _, code := range codes(m, endpoint, k) {
			low := k.codes[code]
			between(fmt.Sprintf("%s: requests answered %d", endpoint, code), m.Sum("blessd_webhook_requests_total", append(on, "code", strconv.Itoa(code))...), low, low+k.unanswered)
		}
		total := 0
		for _, n := range k.codes {
			total += n
		}
		between(endpoint+": requests", m.Sum("blessd_webhook_requests_total", on...), total, total+k.unanswered)
		between(endpoint+": blessed", m.Sum("blessd_webhook_blessed_total", on...), k.acked, k.acked+k.unanswered)
		between(endpoint+": rejected", m.Sum("blessd_webhook_rejected_total", on...), total-k.acked, total-k.acked+k.unanswered)

		received := m.Sum("blessd_events_received_total", on...)
		settled := m.Sum("blessd_events_published_total", on...) + m.Sum("blessd_events_duplicate_total", on...) + m.Sum("blessd_events_quarantined_total", on...)
		abandoned := m.Sum("blessd_events_abandoned_total", on...)
		if r.Again {
			continue
		}
		if received != settled+abandoned {
			all = append(all, fmt.Sprintf("%s: %v events were received, %v published, duplicate or quarantined, %v abandoned", endpoint, received, settled, abandoned))
		}
		between(endpoint+": events published, duplicate or quarantined", settled, k.events, k.events+k.perhaps)
	}
	return all, nil
}

// codes returns every status that the metrics or the ledger know of an endpoint.
func codes(m Metrics, endpoint string, k *books) []int {
	known := maps.Clone(k.codes)
	for _, s := range m {
		if s.name == "blessd_webhook_requests_total" && s.labels["endpoint"] == endpoint {
			if code, err := strconv.Atoi(s.labels["code"]); err == nil {
				known[code] += 0
			}
		}
	}
	return slices.Sorted(maps.Keys(known))
}
