package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/collectors/version"
	"go.uber.org/zap"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"

	"github.com/blessd/blessd/journal"
	"github.com/blessd/blessd/receiver"
	"github.com/blessd/blessd/relay"
	"github.com/blessd/blessd/sink"
)

const (
	// flushTime is how long a stop goes on publishing what is in the journal.
	// What is left stays there. With slow answers before it is less, but never less
	// than leastFlushTime.
	flushTime      = 3 * time.Second
	leastFlushTime = 300 * time.Millisecond
	// ensureTime is how long making the embedded server's streams may take.
	ensureTime = 30 * time.Second
	// cursorTime is how long a stop waits for the cursor after that.
	cursorTime = 6 * time.Second
	// refreshInterval is how often what the metrics say of the streams is read.
	refreshInterval = 10 * time.Second
	// foreignSyncInterval is the sync_interval that a nats-server has unless it is
	// configured otherwise. A single-replica stream on a server that is not ours
	// acknowledges before it syncs, and cannot be asked.
	foreignSyncInterval = 2 * time.Minute
	// alwaysWindow is how many messages are sent ahead of their acknowledgements
	// to an embedded server that syncs each of them: the last one must still be
	// acknowledged in time.
	alwaysWindow = 256
	// mostParked is how many deliveries may wait for the key of an announced rotation.
	// Each holds a connection.
	mostParked = 1024
	// relayWindow is how many otherwise: the relay's default.
	relayWindow = 4096
)

// daemon is the whole program: what serve runs and tests start. It is wired in
// one place, in the order in which a request travels, backwards: whoever is
// handed something finds it running.
type daemon struct {
	cfg      *Config
	log      *zap.Logger
	registry *prometheus.Registry
	started  time.Time
	// acceptReset takes back the alarm of a stream that went backwards.
	acceptReset bool

	inForce   atomic.Pointer[inForce] // endpoints, as the last reload left them
	journal   *journal.Journal        // nil with acknowledge: stream
	embedded  *sink.Embedded          // nil when NATS is somebody else's
	conn      *nats.Conn
	sink      *sink.Sink
	watchdog  *sink.Watchdog // of the embedded server
	relay     *relay.Relay   // nil with acknowledge: stream
	direct    *relay.Direct  // nil with acknowledge: journal
	redeemer  *redeemer      // nil when nothing unverified is kept
	receiver  *receiver.Receiver
	hooks     net.Listener
	adminAddr net.Listener
	public    *publicServer
	admin     *admin

	addresses addresses
	reloadMu  sync.Mutex // held by the reload that runs; guards reloads
	reloads   reloading
	sockets   map[string]net.Listener // from systemd, by name
	draining  atomic.Bool
	stopBegan time.Time
	replays   *replays
	announced announcements
	polls     *polls
	recent    *recentRequests // for the status page, as feed
	feed      *feed
	config    atomic.Pointer[configStatus]
	fatal     chan error // the first thing that ends the program
	closers   []closer
}

// closer undoes one step of Start. Steps are undone last to first.
type closer struct {
	name string
	stop func(context.Context) error
}

// newDaemon returns a daemon that has started nothing.
func newDaemon(cfg *Config, log *zap.Logger) *daemon {
	d := &daemon{
		cfg: cfg, log: log, registry: prometheus.NewRegistry(), fatal: make(chan error, 8),
		reloads: reloading{configOK: true, keysOK: true, metrics: newReloadMetrics()},
		replays: newReplays(), announced: announcements{byName: map[string]*announcement{}, lasts: receiver.MaxRotation},
		recent: newRecentRequests(), feed: newFeed(log.Named("admin"), time.Now()),
	}
	d.polls = newPolls(d)
	return d
}

// Start starts everything and returns when the daemon can bless. On an error
// everything that was started is stopped again.
func (d *daemon) Start(ctx context.Context) error {
	d.started = time.Now()
	for _, step := range []func(context.Context) error{
		d.openDataDir, d.listen, d.openJournal, d.openNATS, d.openSink, d.startRelay, d.openUnverified, d.startReceiver,
		d.registerMetrics, d.announce, d.startWatching, d.startAdmin, d.startPolling,
	} {
		if err := step(ctx); err != nil {
			return errors.Join(err, d.Stop(ctx))
		}
	}
	return nil
}

// Stop ends the daemon in the order that loses nothing: not ready, no new
// requests, answers to those in flight, what is in the journal to NATS as far as
// time allows, the cursor, NATS, the journal.
func (d *daemon) Stop(ctx context.Context) error {
	if !d.draining.Swap(true) {
		d.stopBegan = time.Now()
	}
	d.replays.stop()
	d.announced.stop()
	var errs []error
	for len(d.closers) > 0 {
		c := d.closers[len(d.closers)-1]
		d.closers = d.closers[:len(d.closers)-1]
		if err := c.stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", c.name, err))
		}
	}
	return errors.Join(errs...)
}

// Failed delivers what the daemon cannot go on after. The program stops then and
// leaves it to its supervisor to start it again.
func (d *daemon) Failed() <-chan error { return d.fatal }

// Addresses says where the daemon listens, once it has started.
func (d *daemon) Addresses() addresses { return d.addresses }

func (d *daemon) onStop(name string, stop func(context.Context) error) {
	d.closers = append(d.closers, closer{name, stop})
}

func (d *daemon) fail(err error) {
	select {
	case d.fatal <- err:
	default: // one reason to end is enough
	}
}

// openDataDir makes the data directory and keeps every other blessd out of it.
func (d *daemon) openDataDir(context.Context) error {
	if err := d.cfg.createDataDir(); err != nil {
		return dataDirAdvice(err)
	}
	lock, err := os.OpenFile(filepath.Join(d.cfg.DataDir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return dataDirAdvice(fmt.Errorf("lock the data directory: %w", err))
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = lock.Close() // nothing was written
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("data directory %s is in use by another blessd: stop it, or choose another with --data-dir", d.cfg.DataDir)
		}
		return fmt.Errorf("lock the data directory: %w", err)
	}
	d.onStop("data directory lock", func(context.Context) error { return lock.Close() })
	if err := d.cfg.prepare(); err != nil {
		return err
	}
	for name, size := range d.cfg.chosen {
		d.log.Info("size chosen from the free disk space of the first start", zap.String("setting", name), zap.Stringer("size", size))
	}
	for _, p := range d.cfg.diskProblems(freeBytes) {
		d.log.Warn("disk may be too small", zap.String("problem", p.head()), zap.String("mend", p.Mend))
	}
	return nil
}

// listen takes the ports and reads the keys before anything is started: most
// mistakes show here. Connections wait in the kernel until the servers run.
func (d *daemon) listen(context.Context) error {
	take := func(what, flag, socket, address string) (l net.Listener, err error) {
		if l = d.sockets[socket]; l != nil {
			d.log.Info("socket from systemd is used in place of a setting", zap.String("socket", socket),
				zap.Stringer("address", l.Addr()), zap.String("setting", what), zap.String("unused", address))
		} else if l, err = net.Listen("tcp", address); err != nil {
			return nil, portAdvice(fmt.Errorf("%s: %w", what, err), flag, what)
		}
		d.onStop(what, func(context.Context) error { return closed(l.Close()) })
		return l, nil
	}
	var err error
	if d.hooks, err = take("listen", "listen", hooksSocket, d.cfg.Listen); err != nil {
		return err
	}
	if d.adminAddr, err = take("admin.listen", "admin-listen", adminSocket, d.cfg.Admin.Listen); err != nil {
		return err
	}
	d.reloads.seen = d.cfg.keyState() // before they are read: a change from now on is noticed
	endpoints, err := d.cfg.receiverEndpoints(d.hooks.Addr().String())
	if err != nil {
		return err
	}
	d.inForce.Store(&inForce{d.cfg, endpoints})
	for _, w := range d.cfg.keyWarnings {
		d.log.Warn("keys need a look", zap.String("problem", w.head()), zap.String("mend", w.Mend))
	}
	return nil
}

// maxConnections is how many connections the public listener holds at once: half of
// the file descriptors that the process may have, and no more than memory is good
// for. More wait in the kernel.
func maxConnections() int {
	const most = 10_000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > 2*most {
		return most
	}
	return max(1, int(limit.Cur/2))
}

// closed forgives a listener that its server, or its owner, closed before.
func closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (d *daemon) openJournal(context.Context) error {
	dir := filepath.Join(d.cfg.DataDir, "journal")
	if d.cfg.acknowledgesStream() {
		return d.nothingIn(dir)
	}
	j, err := journal.Open(journal.Options{
		Dir: dir, MaxBytes: int64(d.cfg.Journal.MaxBytes),
		Log: d.log.Named("journal"), Registerer: d.registry,
	})
	if errors.Is(err, journal.ErrCorrupt) {
		return fmt.Errorf("%w\n`blessd salvage` says what can be saved", err)
	}
	if err != nil {
		return err
	}
	d.journal = j
	d.onStop("journal", func(context.Context) error { return j.Close() })
	go func() {
		<-j.Failed() // closed by a failure only
		d.fail(fmt.Errorf("journal: %w", j.Err()))
	}()
	return nil
}

// nothingIn makes sure that a journal of earlier starts holds nothing that was
// blessed and that nobody would publish any more.
func (d *daemon) nothingIn(dir string) error {
	there, err := exists(dir)
	if err != nil || !there {
		return err
	}
	j, err := journal.Open(journal.Options{Dir: dir, MinFree: -1, Log: d.log.Named("journal")})
	if err != nil {
		return err
	}
	first, next := j.Bounds()
	if err := j.Close(); err != nil {
		return err
	}
	if next > first {
		return fmt.Errorf("the journal still holds %s that were blessed and are not safe in NATS: start with acknowledge: journal until blessd_journal_records is 0, then with acknowledge: stream",
			count(int(next-first), "request"))
	}
	return nil
}

func (d *daemon) openNATS(context.Context) error {
	n := d.cfg.NATS
	log := d.log.Named("nats")
	if !d.cfg.externalNATS() {
		e, err := sink.StartEmbedded(sink.EmbeddedOptions{
			StoreDir: filepath.Join(d.cfg.DataDir, "nats"), Listen: n.Embedded.Listen, ConfigFile: n.Embedded.ConfigFile,
			Prefix: n.SubjectPrefix, MaxStore: int64(n.Stream.MaxBytes) + int64(n.Quarantine.MaxBytes) + 1<<30,
			SyncAlways: d.cfg.acknowledgesStream(), OnDiskError: func(err error) { d.fail(fmt.Errorf("embedded NATS: %w", err)) }, Log: log,
		})
		if err != nil {
			return portAdvice(err, "nats-listen", "nats.embedded.listen")
		}
		d.embedded = e
		d.onStop("embedded NATS", func(ctx context.Context) error { return e.Shutdown(ctx) })
	}
	conn, err := d.connect(log)
	if err != nil {
		return err
	}
	d.conn = conn
	d.onStop("NATS connection", func(context.Context) error { conn.Close(); return nil })
	return nil
}

func (d *daemon) connect(log *zap.Logger) (*nats.Conn, error) {
	n := d.cfg.NATS
	onClosed := func(err error) {
		if !d.draining.Load() {
			d.fail(fmt.Errorf("NATS connection closed for good: %w", err))
		}
	}
	if d.embedded != nil {
		return d.embedded.Connect(nats.ClosedHandler(func(c *nats.Conn) { onClosed(c.LastError()) }))
	}
	return sink.Dial(sink.ExternalOptions{
		URL: n.URL, Context: n.Context, CredsFile: n.CredsFile, NKeyFile: n.NKeyFile,
		TLS:  sink.TLSFiles{CAFile: n.TLS.CAFile, CertFile: n.TLS.CertFile, KeyFile: n.TLS.KeyFile},
		Name: natsName(), Log: log, OnClosed: onClosed,
	})
}

func (d *daemon) openSink(ctx context.Context) error {
	n := d.cfg.NATS
	mode := "embedded"
	if d.embedded == nil {
		mode = "external"
	}
	s, err := sink.New(d.conn, sink.Options{
		Prefix: n.SubjectPrefix, CETypePrefix: n.CETypePrefix, Manage: d.embedded != nil,
		Events: sink.StreamConfig{
			Name: n.Stream.Name, MaxAge: time.Duration(n.Stream.MaxAge), MaxBytes: int64(n.Stream.MaxBytes),
			DuplicateWindow: time.Duration(n.Stream.DuplicateWindow), Replicas: n.Stream.Replicas, Refuse: n.Stream.WhenFull == "refuse",
		},
		Quarantine: sink.StreamConfig{
			Name: n.Quarantine.Name, MaxAge: time.Duration(n.Quarantine.MaxAge), MaxBytes: int64(n.Quarantine.MaxBytes),
			DuplicateWindow: time.Duration(n.Stream.DuplicateWindow), Replicas: n.Stream.Replicas, Refuse: true,
		},
		MaxPending: cmp.Or(d.window(), relayWindow) + relay.ReplayWindow, Mode: mode, Version: currentVersion().Version,
		Log: d.log.Named("sink"), Registerer: d.registry,
	})
	if err != nil {
		return err
	}
	d.sink = s
	if d.embedded != nil {
		// The server is ours and runs: what is wrong now will not mend itself.
		ensure, cancel := context.WithTimeout(ctx, ensureTime)
		defer cancel()
		if err := s.Ensure(ensure); err != nil {
			return fmt.Errorf("the embedded NATS server does not take the configured streams: %w", err)
		}
	}
	running, cancel := context.WithCancel(context.Background())
	go d.refresh(running)
	d.onStop("stream metrics", func(context.Context) error { cancel(); return nil })
	if d.embedded == nil {
		return nil
	}
	w, err := sink.NewWatchdog(d.embedded, s, sink.WatchdogOptions{Log: d.log.Named("nats"), Registerer: d.registry})
	if err != nil {
		return err
	}
	d.watchdog = w
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(running)
	}()
	d.onStop("watchdog of the embedded NATS", func(ctx context.Context) error {
		cancel()
		select {
		case <-done:
			return nil
		case <-ctx.Done(): // a dead disk holds up a restart
			return ctx.Err()
		}
	})
	return nil
}

// window is how many messages may await their acknowledgement; 0 for the default.
func (d *daemon) window() int {
	if d.embedded != nil && d.cfg.acknowledgesStream() {
		return alwaysWindow
	}
	return 0
}

// startRelay starts what brings deliveries from the journal, or straight from the
// receiver, to NATS.
func (d *daemon) startRelay(context.Context) error {
	series := seriesOf(d.inForce.Load().endpoints)
	oversize := filepath.Join(d.cfg.DataDir, oversizeDir)
	lateAfter := time.Duration(d.cfg.NATS.Stream.DuplicateWindow)
	running, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	if d.cfg.acknowledgesStream() {
		o := relay.DirectOptions{
			Sink: d.sink, OversizeDir: oversize, Window: d.window(), LateAfter: lateAfter, Watch: d.feed.add,
			Log: d.log.Named("relay"), Registry: d.registry,
		}
		if d.embedded != nil {
			o.Sync = d.embedded.Sync
		}
		direct, err := relay.NewDirect(o)
		if err != nil {
			cancel()
			return err
		}
		d.direct = direct
		direct.SetEndpoints(series)
		go func() {
			defer close(done)
			if err := direct.Run(running); err != nil {
				d.fail(fmt.Errorf("relay: %w", err))
			}
		}()
		d.onStop("relay", func(context.Context) error {
			cancel()
			<-done
			return nil
		})
		return nil
	}
	o := relay.Options{
		Journal: d.journal, Sink: d.sink, OversizeDir: oversize, LateAfter: lateAfter, Watch: d.feed.add, Log: d.log.Named("relay"), Registry: d.registry,
		AcceptReset: d.acceptReset,
	}
	if d.embedded != nil {
		o.Sync = d.embedded.Sync
	} else {
		o.Lag = 2 * foreignSyncInterval // where the streams have no replicas
	}
	r, err := relay.New(o)
	if err != nil {
		cancel()
		return err
	}
	d.relay = r
	r.SetEndpoints(series)
	go func() {
		defer close(done)
		if err := r.Run(running); err != nil {
			d.fail(fmt.Errorf("relay: %w", err))
		}
	}()
	d.onStop("relay", func(ctx context.Context) error {
		flush := max(leastFlushTime, min(flushTime, answerTime-time.Since(d.stopBegan)))
		ctx, cancelFlush := context.WithTimeout(ctx, flush)
		defer cancelFlush()
		r.Stop(ctx)
		defer cancel()
		select {
		case <-done:
			return nil
		case <-time.After(flushTime + cursorTime):
			// A full or dead disk holds up its last cursor. The next start compares
			// with the stream instead.
			return errors.New("it does not end")
		}
	})
	return nil
}

// refresh keeps what the metrics say of the streams up to date.
func (d *daemon) refresh(ctx context.Context) {
	tick := time.NewTicker(refreshInterval)
	defer tick.Stop()
	for {
		if err := d.sink.Refresh(ctx); err != nil {
			d.log.Debug("stream metrics not refreshed", zap.Error(err))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (d *daemon) startReceiver(context.Context) error {
	var store receiver.Store = journalStore{d.journal}
	if d.direct != nil {
		store = streamStore{d.direct}
	}
	r, err := receiver.New(store, receiver.Limits{
		MaxBody: int64(d.cfg.Limits.MaxBody), MaxInFlight: int64(d.cfg.Limits.MaxInFlightBytes),
		MaxParked: min(mostParked, max(1, maxConnections()/4)),
	}, d.registry, d.log.Named("receiver"))
	if err != nil {
		return err
	}
	d.receiver = r
	r.Watch(d.recent.add)
	if d.redeemer != nil {
		r.KeepUnverified(d.redeemer.store)
		d.redeemer.start(r)
	}
	if err := d.setEndpoints(d.inForce.Load().endpoints); err != nil {
		return err
	}
	d.public = &publicServer{
		// Whoever can reach the listener can open connections. They must not use up the
		// file descriptors that the journal and NATS need.
		server: r.Server(), listener: netutil.LimitListener(d.hooks, maxConnections()), socket: d.hooks,
		passed:      d.sockets[hooksSocket] != nil,
		connections: newConnections(), served: make(chan struct{}),
	}
	d.public.server.ConnState = d.public.connections.track
	d.serve("public listener", d.public.serve)
	d.onStop("public listener", func(ctx context.Context) error {
		r.SetDraining(true) // every answer closes its connection
		return d.public.stop(ctx, d.stopBegan)
	})
	return nil
}

func (d *daemon) startAdmin(context.Context) error {
	a, err := newAdmin(d.adminAddr, d.cfg.Admin.WebConfigFile, d.registry, d.Ready, d.describe, d.Reload, d.log.Named("admin"))
	if err != nil {
		return err
	}
	d.admin = a
	a.operate("POST /-/replay", d.serveReplay)
	a.operate("POST /-/erase", d.serveErase)
	a.operate("POST /-/rotation", d.serveRotation)
	d.servePage(a)
	d.onStop("replay", d.replays.ended)
	d.serve("admin listener", func() error { return a.serve(d.adminAddr) })
	// It answers "not ready" until the rest has stopped: its place among the
	// closers is before everything that it reports on.
	d.closers = append([]closer{{"admin listener", func(context.Context) error { return closed(a.server.Close()) }}}, d.closers...)
	return nil
}

// serve runs a server beside and ends the program when it ends unasked.
func (d *daemon) serve(name string, run func() error) {
	go func() {
		if err := run(); err != nil && !errors.Is(err, http.ErrServerClosed) && !d.draining.Load() {
			d.fail(fmt.Errorf("%s: %w", name, err))
		}
	}()
}

// Ready says why blessd cannot bless, or nil. With a journal NATS has no part in
// it: the journal takes requests without it.
func (d *daemon) Ready() error {
	switch {
	case d.draining.Load():
		return errors.New("shutting down")
	case d.direct != nil:
		return d.direct.Ready()
	case d.journal.Err() != nil:
		return fmt.Errorf("journal: %w", d.journal.Err())
	case d.journal.Full():
		return errors.New("journal is full")
	}
	return nil
}

// announce registers what is known last and tells the other commands where we are.
func (d *daemon) announce(context.Context) error {
	d.addresses = addresses{Hooks: d.hooks.Addr().String(), Admin: d.adminAddr.Addr().String(), PublicURL: d.cfg.publicURL(d.hooks.Addr().String())}
	if d.embedded != nil {
		d.addresses.NATS = d.embedded.ClientURL()
	} else {
		d.addresses.NATS = d.cfg.NATS.URL
	}
	return d.addresses.write(d.cfg.DataDir)
}

func (d *daemon) registerMetrics(context.Context) error {
	m := &d.reloads.metrics
	m.setKeys(nil, d.inForce.Load().endpoints)
	m.loaded.Set(1)
	m.loadedAt.Set(float64(d.started.Unix()))
	m.hash.Set(d.cfg.hash())
	d.config.Store(&configStatus{File: d.cfg.source.file, Loaded: d.started.UTC().Truncate(time.Second), InForce: true})
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	all := append(
		slices.Concat(m.collectors(), d.polls.metrics.collectors()), version.NewCollector("blessd"),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("blessd_ready", "1 while deliveries can be blessed: what /-/ready answers.", d.readyValue),
		gauge("blessd_data_dir_free_bytes", "Free bytes of the disk that the data directory is on; the journal leaves 256 MiB alone.", d.freeValue),
	)
	if e := d.embedded; e != nil {
		all = append(
			all,
			gauge("blessd_storage_used_bytes", "Bytes that the embedded server's streams take.", func() float64 { used, _ := e.Storage(); return float64(used) }),
			gauge("blessd_storage_limit_bytes", "Most bytes that the embedded server's streams may take.", func() float64 { _, limit := e.Storage(); return float64(limit) }),
		)
	}
	for _, c := range all {
		if err := d.registry.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}

func (d *daemon) readyValue() float64 {
	if d.Ready() != nil {
		return 0
	}
	return 1
}

// freeValue is what is left for us on the data directory's disk; NaN when the file
// system does not tell.
func (d *daemon) freeValue() float64 {
	free, err := freeBytes(d.cfg.DataDir)
	if err != nil {
		return math.NaN()
	}
	return float64(free)
}

// natsName is how blessd shows up among a NATS server's connections.
func natsName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return "blessd/" + currentVersion().Version + "@" + host
}
