package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/blessd/blessd/manage"
)

// What manage.reconcile may say. Empty is off.
const (
	reconcileOff    = "off"
	reconcileReport = "report"
	reconcileRepair = "repair"
)

const (
	// leastPoll is the shortest manage.poll. A poll makes some calls, of which
	// SendClean allows 60 a minute (second-hand).
	leastPoll = minute
	// pollTime bounds one poll, the pauses that a provider asks for included.
	pollTime = 5 * time.Minute
)

// States of a webhook at its provider.
const (
	hookUnknown = "unknown" // nobody could say yet, or nobody is to
	hookPresent = "present" // as the configuration wants it
	hookGone    = "gone"    // not registered
	hookChanged = "changed" // registered, and not as it should be
)

// pollStatus is what /-/status says of an endpoint that is polled.
type pollStatus struct {
	// State is unknown, present, gone or changed.
	State string `json:"state"`
	// Differences say what is not as it should be.
	Differences []string `json:"differences,omitempty"`
	// Repaired is when it was last put back.
	Repaired *time.Time `json:"repaired,omitempty"`
	// Polled is when the provider last answered.
	Polled *time.Time `json:"polled,omitempty"`
	// Error is why the last poll failed.
	Error string `json:"error,omitempty"`
	// Events and LastSuccess are the provider's own count of what it delivered, and
	// when it last could.
	Events      *int64     `json:"events,omitempty"`
	LastSuccess *time.Time `json:"last_success,omitempty"`
}

// polls asks the providers what they have, of the endpoints that say so. What a
// provider has delivered beside what has arrived shows what was lost on the way,
// which nothing here could know.
type polls struct {
	d       *daemon
	metrics pollMetrics
	runs    sync.WaitGroup

	mu      sync.Mutex
	stopped bool
	byName  map[string]*poller
}

// poller is one endpoint.
type poller struct {
	provider, name string
	every          Duration
	reconcile      string
	stop           context.CancelFunc

	turn sync.Mutex // held by the poll that runs
	// totals are the counts of the endpoint's webhooks at the last poll, by id.
	totals map[string]int64

	mu     sync.Mutex
	status pollStatus
}

// pollMetrics has the provider's numbers.
type pollMetrics struct {
	polls, repairs                 *prometheus.CounterVec
	present, lastPoll, lastSuccess *prometheus.GaugeVec
	events                         eventsCollector
}

func newPolls(d *daemon) *polls {
	labels := []string{"provider", "endpoint"}
	counter := func(name, help string, more ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append(slices.Clone(labels), more...))
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
	}
	return &polls{d: d, byName: map[string]*poller{}, metrics: pollMetrics{
		polls:       counter("blessd_provider_webhook_polls_total", "Times that the provider was asked about the endpoint's webhook, by whether it answered.", "result"),
		repairs:     counter("blessd_provider_webhook_repairs_total", "Times that the endpoint's webhook was gone or changed at the provider and was put back."),
		present:     gauge("blessd_provider_webhook_present", "1 when the endpoint's webhook is at the provider as the configuration wants it, 0 when it is gone or changed, -1 when that is not known."),
		lastPoll:    gauge("blessd_provider_webhook_last_poll_timestamp_seconds", "When the provider last answered what it has; 0 when it has not."),
		lastSuccess: gauge("blessd_provider_webhook_last_success_timestamp_seconds", "When a delivery of the provider last succeeded, as the provider says; 0 when none has or it was not asked yet."),
		events: eventsCollector{
			desc:   prometheus.NewDesc("blessd_provider_webhook_events_total", "Events of the endpoint's webhooks that the provider says it has delivered. It is there when the provider has said so.", labels, nil),
			counts: map[[2]string]float64{},
		},
	}}
}

// eventsCollector is a counter that is the provider's: it begins where the provider
// is, since a zero before would look like a reset.
type eventsCollector struct {
	desc   *prometheus.Desc
	mu     sync.Mutex
	counts map[[2]string]float64 // by provider and endpoint
}

// Describe implements prometheus.Collector.
func (c *eventsCollector) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc }

// Collect implements prometheus.Collector.
func (c *eventsCollector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, n := range c.counts {
		ch <- prometheus.MustNewConstMetric(c.desc, prometheus.CounterValue, n, key[0], key[1])
	}
}

// add counts n more, which is what makes the series on the first call.
func (c *eventsCollector) add(provider, endpoint string, n int64) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := [2]string{provider, endpoint}
	c.counts[key] += float64(n)
	return int64(c.counts[key])
}

func (c *eventsCollector) forget(provider, endpoint string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.counts, [2]string{provider, endpoint})
}

func (m *pollMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.polls, m.repairs, m.present, m.lastPoll, m.lastSuccess, &m.events}
}

// create makes the series of an endpoint that is polled. Those that it can not have
// are not made.
func (m *pollMetrics) create(p *poller) {
	for _, result := range []string{"ok", "error"} {
		m.polls.WithLabelValues(p.provider, p.name, result)
	}
	m.lastPoll.WithLabelValues(p.provider, p.name)
	if countsDeliveries(p.provider) {
		m.lastSuccess.WithLabelValues(p.provider, p.name)
	}
	if p.reconcile != reconcileOff {
		m.present.WithLabelValues(p.provider, p.name).Set(-1)
		m.repairs.WithLabelValues(p.provider, p.name)
	}
}

// forget ends the series of an endpoint that is polled no more.
func (m *pollMetrics) forget(p *poller) {
	labels := prometheus.Labels{"provider": p.provider, "endpoint": p.name}
	m.polls.DeletePartialMatch(labels)
	m.repairs.DeletePartialMatch(labels)
	for _, v := range []*prometheus.GaugeVec{m.present, m.lastPoll, m.lastSuccess} {
		v.DeletePartialMatch(labels)
	}
	m.events.forget(p.provider, p.name)
}

// countsDeliveries tells whether the provider's API says how much it has delivered.
func countsDeliveries(provider string) bool { return provider == "sendclean" || provider == "sarv" }

// startPolling begins with the endpoints in force. It comes last: a provider may
// call the URL of a webhook that is put back.
func (d *daemon) startPolling(context.Context) error {
	d.onStop("polls of the providers", func(context.Context) error {
		d.polls.end()
		return nil
	})
	d.polls.set(d.inForce.Load().cfg)
	return nil
}

// set polls the endpoints of cfg from now on. Those that are polled the same way
// already go on.
func (ps *polls) set(cfg *Config) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.stopped {
		return
	}
	next := map[string]*poller{}
	for _, e := range cfg.Endpoints {
		if e.Manage == nil || e.Manage.Poll == 0 {
			continue
		}
		p := &poller{provider: e.Provider, name: e.Name, every: e.Manage.Poll, reconcile: e.Manage.Reconcile, status: pollStatus{State: hookUnknown}}
		if p.reconcile == "" {
			p.reconcile = reconcileOff
		}
		if was := ps.byName[e.Name]; was != nil && was.provider == p.provider && was.every == p.every && was.reconcile == p.reconcile {
			p = was
		}
		next[e.Name] = p
	}
	for name, p := range ps.byName {
		if next[name] != p {
			p.stop()
			ps.metrics.forget(p)
		}
	}
	for name, p := range next {
		if ps.byName[name] != p {
			ps.metrics.create(p)
			ctx, cancel := context.WithCancel(context.Background())
			p.stop = cancel
			ps.runs.Go(func() { ps.run(ctx, p) })
		}
	}
	ps.byName = next
}

// end stops all polls and waits for them.
func (ps *polls) end() {
	ps.mu.Lock()
	ps.stopped = true
	for _, p := range ps.byName {
		p.stop()
	}
	ps.mu.Unlock()
	ps.runs.Wait()
}

// run polls one endpoint, now and again.
func (ps *polls) run(ctx context.Context, p *poller) {
	tick := time.NewTicker(time.Duration(p.every))
	defer tick.Stop()
	for {
		ps.poll(ctx, p)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// statusOf is what is known of an endpoint's webhook, or nil when it is not polled.
func (ps *polls) statusOf(name string) *pollStatus {
	ps.mu.Lock()
	p := ps.byName[name]
	ps.mu.Unlock()
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.status
	return &s
}

// poll asks once, with the configuration and the credentials of now.
func (ps *polls) poll(ctx context.Context, p *poller) {
	p.turn.Lock()
	defer p.turn.Unlock()
	ctx, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	p.mu.Lock()
	next := p.status
	p.mu.Unlock()
	before := next.State
	grown, repaired, err := ps.ask(ctx, p, &next)
	ps.mu.Lock() // so that its series do not end meanwhile
	defer ps.mu.Unlock()
	if ps.stopped || ps.byName[p.name] != p {
		return
	}
	now := time.Now().UTC().Truncate(time.Second)
	log := ps.d.log.With(zap.String("provider", p.provider), zap.String("endpoint", p.name))
	m := &ps.metrics
	if grown != nil {
		total := m.events.add(p.provider, p.name, *grown)
		next.Events = &total
	}
	if next.LastSuccess != nil {
		m.lastSuccess.WithLabelValues(p.provider, p.name).Set(float64(next.LastSuccess.Unix()))
	}
	if err != nil {
		m.polls.WithLabelValues(p.provider, p.name, "error").Inc()
		if next.Error == "" { // it is said once
			log.Warn("provider could not be asked about the webhook", zap.Error(err))
		}
		next.Error = advised(err).Error()
	} else {
		m.polls.WithLabelValues(p.provider, p.name, "ok").Inc()
		m.lastPoll.WithLabelValues(p.provider, p.name).SetToCurrentTime()
		next.Error, next.Polled = "", &now
	}
	if next.State != before && (next.State == hookGone || next.State == hookChanged) || len(repaired) > 0 {
		log.Warn("webhook at the provider was not as it should be", zap.String("state", next.State),
			zap.Strings("differences", next.Differences), zap.Strings("repaired", repaired))
	}
	if len(repaired) > 0 {
		m.repairs.WithLabelValues(p.provider, p.name).Inc()
		next.Repaired = &now
	}
	if p.reconcile != reconcileOff {
		m.present.WithLabelValues(p.provider, p.name).Set(map[string]float64{hookPresent: 1, hookGone: 0, hookChanged: 0, hookUnknown: -1}[next.State])
	}
	p.mu.Lock()
	p.status = next
	p.mu.Unlock()
}

// ask asks the provider, and puts back what is to be. It returns by how much the
// provider's count has grown, nil when it does not say, and what was put back, also
// after an error.
func (ps *polls) ask(ctx context.Context, p *poller, next *pollStatus) (grown *int64, repaired []string, err error) {
	now := ps.d.inForce.Load()
	i := slices.IndexFunc(now.cfg.Endpoints, func(e EndpointConfig) bool { return e.Name == p.name })
	if i < 0 || now.cfg.Endpoints[i].Manage == nil {
		return nil, nil, errors.New("the endpoint has left the configuration")
	}
	m, err := newManaged(now.cfg, i, now.endpoints[i])
	if err != nil {
		return nil, nil, err
	}
	var own []manage.Webhook
	if api, counts := m.sendClean(); counts {
		if own, grown, err = p.count(ctx, m, api, next); err != nil {
			return nil, nil, err
		}
	}
	if p.reconcile == reconcileOff {
		return grown, nil, nil
	}
	// What follows is the webhook itself, not what it delivered.
	if v, ok := m.api.(*manage.Vision6); ok {
		// To ask is to register: what was missing is there again.
		missing, err := v.Ensure(ctx, m.desired)
		if err == nil {
			next.State, next.Differences = hookPresent, nil
		}
		return nil, missing, err
	}
	if repaired, err = p.compare(ctx, m, next); err != nil {
		return grown, repaired, err
	}
	keys, err := p.compareKeys(ctx, m, own, next)
	return grown, append(repaired, keys...), err
}

// count reads how much the provider has delivered, and returns the endpoint's
// webhooks.
func (p *poller) count(ctx context.Context, m *managed, api *manage.SendClean, next *pollStatus) (own []manage.Webhook, grown *int64, err error) {
	list, err := api.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	totals := map[string]int64{}
	said := false
	for _, w := range list {
		if !m.owns(w.URL) {
			continue
		}
		own = append(own, w)
		info, err := api.Info(ctx, w.ID)
		if err != nil {
			return nil, nil, err
		}
		if info.TotalEvents != nil {
			totals[w.ID], said = *info.TotalEvents, true
		}
		if at := info.LastSuccess; !at.IsZero() && (next.LastSuccess == nil || at.After(*next.LastSuccess)) {
			next.LastSuccess = &at
		}
	}
	if said {
		n := p.grown(totals)
		grown = &n
	}
	return own, grown, nil
}

// grown is by how much the provider's counts have grown since the last poll; at the
// first one all of it. A webhook that is new has delivered all of its events since,
// and one that is gone takes none of its away, so that the sum only grows.
func (p *poller) grown(totals map[string]int64) (n int64) {
	for id, now := range totals {
		was, known := p.totals[id]
		if known && now < was { // the provider began anew
			was = 0
		}
		n += now - was
	}
	p.totals = totals
	return n
}

// compare looks whether the webhook is as the configuration wants it, and makes it so
// where nothing can be lost by that.
func (p *poller) compare(ctx context.Context, m *managed, next *pollStatus) (repaired []string, err error) {
	plan, err := m.api.Plan(ctx, m.desired)
	if err != nil {
		return nil, err
	}
	next.State, next.Differences = hookPresent, nil
	adds := 0
	for _, step := range plan.Steps {
		what := strings.Join(append([]string{strings.TrimSpace(string(step.Action) + " " + step.Target)}, step.Changes...), ": ")
		if p.reconcile == reconcileRepair && !step.Loses() {
			_, failed := m.api.Do(ctx, m.desired, step)
			if failed == nil {
				repaired = append(repaired, what)
				continue
			}
			err = errors.Join(err, failed) // the others may be possible
		}
		if step.Action == manage.Add {
			adds++
		}
		next.State, next.Differences = hookChanged, append(next.Differences, what)
	}
	next.Differences = append(next.Differences, plan.Blocked...)
	if len(plan.Blocked) > 0 {
		next.State = hookChanged
	}
	if adds > 0 && len(plan.Same) == 0 && adds == len(next.Differences) {
		next.State = hookGone
	}
	return repaired, err
}

// compareKeys looks whether the keys with which the webhooks sign are here, and
// fetches those that are not. own are the webhooks as they were listed before.
func (p *poller) compareKeys(ctx context.Context, m *managed, own []manage.Webhook, next *pollStatus) (repaired []string, err error) {
	if p.reconcile == reconcileRepair {
		stored, _, err := m.storeKeys(ctx)
		for _, id := range stored {
			repaired = append(repaired, "the key of webhook "+id+" was not here")
		}
		return repaired, err
	}
	for _, w := range own {
		if w.Key != "" && !m.hasKey(w.Key) {
			next.State = hookChanged
			next.Differences = append(next.Differences, fmt.Sprintf("webhook %s signs with a key that is not here: `blessd webhooks rotate-key %s --no-reset` fetches it", w.ID, p.name))
		}
	}
	return nil, nil
}
