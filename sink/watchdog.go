package sink

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// The reasons for which a Watchdog restarts the embedded server.
const (
	RestartDiskFull = "disk_full" // a write found no space
	RestartStuck    = "stuck"     // messages are not acknowledged, and nobody knows why
)

// WatchdogOptions say when a Watchdog acts. Zero values of the durations and of
// MinFree mean the defaults.
type WatchdogOptions struct {
	// Interval is how often it looks. Default 1 s.
	Interval time.Duration
	// Patience is how long publishing may fail, without one success, before a
	// server that finds itself healthy is restarted all the same. Default 30 s.
	Patience time.Duration
	// MinFree is how much of the disk must be free before a restart: with less the
	// server would soon be where it was. Default 64 MiB.
	MinFree int64
	// Backoff is the least time between two restarts. It doubles with each that
	// does not help for as long, up to MaxBackoff, unless what was missing was space:
	// once there is, nothing speaks against the next one. Defaults: 10 s, 10 min.
	Backoff, MaxBackoff time.Duration
	// Log and Registerer are required.
	Log        *zap.Logger
	Registerer prometheus.Registerer
}

// Watchdog restarts an embedded server whose streams have stopped for good. That
// is what a full disk does to them: after one write that failed, a stream
// acknowledges nothing any more, not even when there is space again. It goes by
// the publishes of a Sink and not by the server's own opinion alone: a message
// that is published again and again is the best probe there is.
//
// What was acknowledged is not touched by a restart, and what was not, the
// publisher sends again. After an error of the disk, which is final, it does
// nothing any more: see ErrSync.
type Watchdog struct {
	e        *Embedded
	sink     *Sink
	o        WatchdogOptions
	restarts *prometheus.CounterVec
	stuck    prometheus.Gauge

	restarted time.Time // the last restart
	backoff   time.Duration
	waiting   bool // for space, and that was said

	mu    sync.Mutex
	state WatchdogState
}

// WatchdogState is what a Watchdog sees, for people.
type WatchdogState struct {
	// Stuck is why the server is believed to store nothing; empty when it is not.
	Stuck string `json:"stuck,omitempty"`
	// Restarts counts those that the Watchdog has made.
	Restarts int `json:"restarts"`
}

// NewWatchdog returns a Watchdog of e, which s publishes to.
func NewWatchdog(e *Embedded, s *Sink, o WatchdogOptions) (*Watchdog, error) {
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{{&o.Interval, time.Second}, {&o.Patience, 30 * time.Second}, {&o.Backoff, 10 * time.Second}, {&o.MaxBackoff, 10 * time.Minute}} {
		if *d.value <= 0 {
			*d.value = d.fallback
		}
	}
	if o.MinFree <= 0 {
		o.MinFree = 64 << 20
	}
	w := &Watchdog{
		e: e, sink: s, o: o, backoff: o.Backoff,
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "blessd_embedded_restarts_total", Help: "Restarts of the embedded server because it stored nothing any more, by reason.",
		}, []string{"reason"}),
		stuck: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "blessd_embedded_stuck", Help: "1 while the embedded server stores nothing, as after a full disk.",
		}),
	}
	for _, reason := range []string{RestartDiskFull, RestartStuck} {
		w.restarts.WithLabelValues(reason)
	}
	if err := errors.Join(o.Registerer.Register(w.restarts), o.Registerer.Register(w.stuck)); err != nil {
		return nil, fmt.Errorf("register the watchdog's metrics: %w", err)
	}
	return w, nil
}

// State tells what the Watchdog sees. It may be called at any time.
func (w *Watchdog) State() WatchdogState {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state
}

// Run watches until ctx is done.
func (w *Watchdog) Run(ctx context.Context) {
	tick := time.NewTicker(w.o.Interval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			w.look(ctx)
		case <-ctx.Done():
			return
		}
	}
}

func (w *Watchdog) look(ctx context.Context) {
	if w.e.disk.failed() != nil {
		return // a restart would hide it: the program has to end
	}
	cause := w.diagnose()
	if cause == nil {
		w.well()
		return
	}
	free, err := freeBytes(w.e.storeDir)
	if err != nil {
		cause = errors.Join(cause, err)
		free = w.o.MinFree // a restart may tell more
	}
	w.say(cause, free)
	if free < w.o.MinFree {
		if !w.waiting {
			w.waiting = true
			w.o.Log.Error("embedded NATS is restarted when there is space on the disk", zap.Int64("free_bytes", free), zap.Int64("needed_bytes", w.o.MinFree))
		}
		return
	}
	if w.due(time.Now()) {
		w.restart(ctx, cause)
	}
}

// due returns whether the server may be restarted already, and if so how long the
// next restart has to wait.
func (w *Watchdog) due(now time.Time) bool {
	if w.waiting { // the disk was full again, for which the last restart is not to blame
		return now.Sub(w.restarted) >= w.o.Backoff
	}
	if now.Sub(w.restarted) < w.backoff {
		return false
	}
	if !w.restarted.IsZero() {
		w.backoff = min(2*w.backoff, w.o.MaxBackoff)
	}
	return true
}

// minUnanswered is how many publishes in a row must be without an answer. One may
// be lost with its connection.
const minUnanswered = 3

// diagnose returns why the server is believed to store nothing any more, or nil.
func (w *Watchdog) diagnose() error {
	if w.e.server() == nil {
		return errors.New("embedded nats server is not running: its restart has failed")
	}
	p := w.sink.Publishing()
	if p.Unanswered < minUnanswered {
		return nil
	}
	if err := w.e.Healthz(); err != nil {
		return err
	}
	if p.Failed.Sub(p.Since) >= w.o.Patience {
		return fmt.Errorf("nothing was acknowledged for %s", p.Failed.Sub(p.Since).Round(time.Second))
	}
	return nil
}

// say reports a server that is stuck, once.
func (w *Watchdog) say(cause error, free int64) {
	w.mu.Lock()
	was := w.state.Stuck
	w.state.Stuck = cause.Error()
	w.mu.Unlock()
	if was == "" {
		w.stuck.Set(1)
		w.o.Log.Error("embedded NATS stores nothing any more", zap.Error(cause), zap.Int64("free_bytes", free))
	}
}

// well notes that there is nothing to complain of: what was stuck is believed to
// be cured by an acknowledgement alone.
func (w *Watchdog) well() {
	p := w.sink.Publishing()
	if p.Acknowledged.Before(w.restarted) || p.Failures > 0 {
		return
	}
	w.waiting = false
	if time.Since(w.restarted) >= w.backoff {
		w.backoff = w.o.Backoff
	}
	w.mu.Lock()
	was := w.state.Stuck
	w.state.Stuck = ""
	w.mu.Unlock()
	if was != "" {
		w.stuck.Set(0)
		w.o.Log.Info("embedded NATS stores messages again")
	}
}

func (w *Watchdog) restart(ctx context.Context, cause error) {
	reason := RestartStuck
	if w.waiting || strings.Contains(cause.Error(), "no space left") {
		reason = RestartDiskFull
	}
	w.waiting = false
	w.o.Log.Warn("restarting embedded NATS", zap.String("reason", reason))
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	err := w.e.Restart(ctx)
	w.restarted = time.Now()
	w.restarts.WithLabelValues(reason).Inc()
	w.sink.m.streak.forget()
	w.mu.Lock()
	w.state.Restarts++
	w.mu.Unlock()
	if err != nil {
		w.o.Log.Error("embedded NATS could not be restarted: trying again later", zap.Error(err), zap.Duration("after", w.backoff))
		return
	}
	w.o.Log.Info("embedded NATS was restarted")
}

// freeBytes is the room that is left for us on the disk that dir is on.
func freeBytes(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("free space of the nats data directory: %w", err)
	}
	return int64(s.Bavail) * int64(s.Bsize), nil //nolint:unconvert // its type differs between platforms
}
