package main

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/blessd/blessd/receiver"
	"github.com/blessd/blessd/relay"
)

// reloadable are the settings that a reload puts into force. All others are read
// by what runs already, and need a restart.
var reloadable = []string{"endpoints", "public_url"}

// inForce is what a reload replaces, as a whole.
type inForce struct {
	cfg       *Config // its endpoints and public_url only; the rest is daemon.cfg
	endpoints []receiver.Endpoint
}

// reloading is the daemon's part that reloads. Its mutex is held by the reload that
// runs; readers of inForce need none.
type reloading struct {
	// configOK and keysOK say whether what was read last could be used. They are
	// apart because mended keys do not mend a configuration that was refused.
	configOK, keysOK bool
	// seen is the state of the key files from before they were read last.
	seen    string
	metrics reloadMetrics
}

// reloadMetrics say what is in force.
type reloadMetrics struct {
	keys             *prometheus.GaugeVec
	loaded, loadedAt prometheus.Gauge
	hash             prometheus.Gauge
}

func newReloadMetrics() reloadMetrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	return reloadMetrics{
		keys: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "blessd_endpoint_keys", Help: "Keys by which an endpoint's deliveries may be verified; kind \"none\" is 1 where nothing is asked for.",
		}, []string{"provider", "endpoint", "kind"}),
		loaded:   gauge("blessd_config_last_reload_successful", "1 when the configuration and the key files that were read last are in force."),
		loadedAt: gauge("blessd_config_last_reload_success_timestamp_seconds", "When what is in force was read."),
		hash:     gauge("blessd_config_hash", "Hash of the configuration file in force, to see whether two instances run the same; 0 without one."),
	}
}

func (m *reloadMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.keys, m.loaded, m.loadedAt, m.hash}
}

// setKeys makes the series of the endpoints, and ends those of endpoints that are
// gone: a key that verifies nothing is not to be counted.
func (m *reloadMetrics) setKeys(before, now []receiver.Endpoint) {
	for _, e := range now {
		set := func(kind string, n int) { m.keys.WithLabelValues(e.Provider, e.Name, kind).Set(float64(n)) }
		keys, tokens := sampleKeys(e.Keys), sampleKeys(e.Tokens)
		set("signature", len(e.Keys)-keys)
		set("sample", keys+tokens)
		set("parent", len(e.ParentKeys))
		set("token", len(e.Tokens)-tokens)
		set("basic_auth", len(e.BasicAuth))
		none := 0
		if e.NoAuth {
			none = 1
		}
		set("none", none)
	}
	for _, e := range before {
		if !slices.ContainsFunc(now, func(n receiver.Endpoint) bool { return n.Provider == e.Provider && n.Name == e.Name }) {
			m.keys.DeletePartialMatch(prometheus.Labels{"provider": e.Provider, "endpoint": e.Name})
		}
	}
}

// sampleKeys counts the keys that blessd made up.
func sampleKeys(keys []receiver.Key) (n int) {
	for _, k := range keys {
		if k.Sample {
			n++
		}
	}
	return n
}

// reloaded says what came of a reload.
type reloaded struct {
	// refused has what is wrong, and then nothing has changed.
	refused problems
	// restart names the settings that differ from those that run.
	restart   []string
	endpoints int
}

// String is the answer to who asked for the reload.
func (r reloaded) String() string {
	if len(r.refused) > 0 {
		return "not reloaded, what was in force stays in force:\n" + r.refused.Error()
	}
	text := "reloaded: " + count(r.endpoints, "endpoint")
	if len(r.restart) > 0 {
		text += "\nchanged, but not before a restart: " + strings.Join(r.restart, ", ")
	}
	return text
}

// Reload reads the configuration file, the flags and the environment again, and
// every key file, and puts all of it into force at once, or nothing of it.
func (d *daemon) Reload(trigger string) reloaded {
	d.reloadMu.Lock()
	defer d.reloadMu.Unlock()
	return d.reload(trigger, func() (reloaded, error) {
		next, err := d.cfg.again()
		if err != nil {
			d.reloads.configOK = false
			return reloaded{}, err
		}
		r, err := d.apply(next)
		d.reloads.configOK = err == nil
		d.reloads.keysOK = d.reloads.keysOK || err == nil
		return r, err
	})
}

// reloadKeys reads the key files again, for the configuration that is in force: a
// key that is there at last does not wait for a configuration that somebody has
// half edited.
func (d *daemon) reloadKeys() reloaded {
	d.reloadMu.Lock()
	defer d.reloadMu.Unlock()
	return d.reload("key files", func() (reloaded, error) {
		same := *d.inForce.Load().cfg
		d.reloads.seen = same.keyState() // whatever comes of it, it is not tried again before a change
		r, err := d.apply(&same)
		d.reloads.keysOK = err == nil
		return r, err
	})
}

// reload runs one of the two and tells everybody what came of it.
func (d *daemon) reload(trigger string, read func() (reloaded, error)) reloaded {
	r, err := reloaded{}, errors.New("blessd is stopping")
	if !d.draining.Load() {
		d.notifyReloading()
		r, err = read()
		d.notify(sd.SdNotifyReady)
	}
	if err != nil {
		var is bool
		if r.refused, is = errors.AsType[problems](err); !is {
			r.refused = problems{{What: err.Error()}}
		}
	}
	m := &d.reloads.metrics
	m.loaded.Set(0)
	if d.reloads.configOK && d.reloads.keysOK {
		m.loaded.Set(1)
	}
	shown := *d.config.Load()
	if shown.InForce = d.reloads.configOK && d.reloads.keysOK; len(r.refused) == 0 {
		shown.Loaded = time.Now().UTC().Truncate(time.Second)
	}
	d.config.Store(&shown)
	log := d.log.With(zap.String("trigger", trigger))
	if len(r.refused) > 0 {
		log.Error("not reloaded: what was in force stays in force", zap.Strings("problems", r.refused.heads()))
		return r
	}
	m.loadedAt.Set(float64(time.Now().UnixMilli()) / 1e3)
	log.Info("reloaded", zap.Int("endpoints", r.endpoints))
	if len(r.restart) > 0 {
		log.Warn("settings have changed that need a restart", zap.Strings("settings", r.restart))
	}
	return r
}

// apply validates next as a whole and puts it into force. On an error nothing has
// changed. Requests that are being handled end by what they began with.
func (d *daemon) apply(next *Config) (reloaded, error) {
	r := reloaded{restart: needRestart(d.cfg, next)}
	next.DataDir = d.cfg.DataDir // where the keys are that blessd keeps
	seen := next.keyState()
	endpoints, err := next.receiverEndpoints(d.hooks.Addr().String())
	found := next.otherFiles(nil)
	if err != nil {
		ps, is := errors.AsType[problems](err)
		if !is {
			return r, err
		}
		found = append(ps, found...)
	}
	if len(found) > 0 {
		return r, found
	}
	if err := d.setEndpoints(endpoints); err != nil {
		return r, err
	}
	d.setSeries(seriesOf(endpoints))
	before := d.inForce.Swap(&inForce{next, endpoints})
	d.polls.set(next)
	d.reloads.metrics.setKeys(before.endpoints, endpoints)
	d.reloads.metrics.hash.Set(next.hash())
	d.reloads.seen = seen
	for _, w := range slices.Concat(next.warnings, next.keyWarnings) {
		d.log.Warn("configuration needs a look", zap.String("problem", w.head()), zap.String("mend", w.Mend))
	}
	r.endpoints = len(endpoints)
	return r, nil
}

// setSeries makes the metric series of endpoints exist, at zero.
func (d *daemon) setSeries(series []relay.Endpoint) {
	if d.direct != nil {
		d.direct.SetEndpoints(series)
		return
	}
	d.relay.SetEndpoints(series)
}

// seriesOf names what events come from.
func seriesOf(endpoints []receiver.Endpoint) []relay.Endpoint {
	series := make([]relay.Endpoint, len(endpoints))
	for i, e := range endpoints {
		series[i] = relay.Endpoint{Provider: e.Provider, Name: e.Name}
	}
	return series
}

// needRestart names the settings in which next differs from what runs, but for
// those that a reload puts into force.
func needRestart(running, next *Config) (paths []string) {
	var walk func(a, b reflect.Value, prefix string)
	walk = func(a, b reflect.Value, prefix string) {
		for i, f := range reflect.VisibleFields(a.Type()) {
			name := f.Tag.Get("yaml")
			path := prefix + name
			switch {
			case name == "" || slices.Contains(reloadable, path):
			case f.Type.Kind() == reflect.Struct:
				walk(a.Field(i), b.Field(i), path+".")
			case !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()):
				paths = append(paths, path)
			}
		}
	}
	walk(reflect.ValueOf(*running), reflect.ValueOf(*next), "")
	return paths
}

// answerReload is POST /-/reload.
func answerReload(reload func(trigger string) reloaded) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		r := reload("admin listener")
		code := http.StatusOK
		if len(r.refused) > 0 {
			code = http.StatusInternalServerError
		}
		answer(w, code, fmt.Sprint(r))
	}
}
