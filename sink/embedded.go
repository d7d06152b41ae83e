package sink

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sys/unix"
)

const (
	// maxPayload lets every body that the receiver accepts through. The server
	// warns of more.
	maxPayload = 8 << 20
	// startTimeout is how long the server may take to recover its streams.
	startTimeout = 5 * time.Minute
	// syncInterval is how often the server syncs what it does not need for an
	// acknowledgement; see Embedded.Sync for the rest.
	syncInterval = 10 * time.Second

	// blessdAccount holds the streams, and blessdUser is blessd itself.
	blessdAccount = "BLESSD"
	blessdUser    = "blessd"
	// globalAccount is the server's account for users without one.
	globalAccount = "$G"
)

// EmbeddedOptions say how to run the embedded server.
type EmbeddedOptions struct {
	// StoreDir is where JetStream keeps its data. It is created with mode 0700
	// and locked, since the server does not lock it.
	StoreDir string
	// Listen is host:port for clients. Port 0 takes a free one.
	Listen string
	// ConfigFile is an ordinary nats-server.conf. Optional.
	//
	// Without one, and with one that names no users, clients need no credentials
	// and may read only; see the package comment. When the file names users, it
	// alone says who may do what, and nobody gets in without credentials. The
	// streams are then in the file's account BLESSD, in which blessd is one more
	// user; in the server's only account, if the file has no accounts; else in an
	// account BLESSD that blessd adds and that none of the file's users can see.
	// A file with an operator, an auth callout or verify_and_map is refused:
	// blessd could not log in to such a server, which must run by itself.
	//
	// Where the file sets a listener or store_dir, it wins; max_payload is at
	// least 8 MiB.
	ConfigFile string
	// Prefix is the first token of every subject, as in Options.
	Prefix string
	// MaxStore is how many bytes all streams together may keep. Zero leaves it
	// to the server, which takes most of the disk.
	MaxStore int64
	// SyncAlways syncs every message before it is acknowledged.
	SyncAlways bool
	// OnDiskError is called when the server could not write or sync a file, unless
	// for want of space, with the error that Sync returns from then on. It must not
	// wait. Optional.
	OnDiskError func(error)
	// Log is required.
	Log *zap.Logger
}

// Embedded is a NATS server in this process.
type Embedded struct {
	o        EmbeddedOptions
	log      *zap.Logger
	password string
	inbox    string
	account  string
	storeDir string
	lock     *os.File
	disk     *disk
	gate     *gate

	mu   sync.Mutex
	srv  *server.Server
	addr string // host:port that clients got at the first start
}

// StartEmbedded starts a server and waits until it takes connections and has its
// streams. Its goroutines end with Shutdown.
func StartEmbedded(o EmbeddedOptions) (*Embedded, error) {
	if err := checkToken("subject prefix", o.Prefix); err != nil {
		return nil, err
	}
	e := &Embedded{o: o, log: o.Log, password: rand.Text() + rand.Text(), inbox: "_BLESSD." + rand.Text()}
	opts, strangers, err := e.options()
	if err != nil {
		return nil, err
	}
	e.storeDir = opts.StoreDir
	if e.lock, err = lockDir(e.storeDir); err != nil {
		return nil, err
	}
	ok := false
	defer func() {
		if !ok {
			stop, cancel := context.WithTimeout(context.Background(), startTimeout)
			defer cancel()
			if err := e.Shutdown(stop); err != nil {
				e.log.Error("embedded nats server", zap.Error(err))
			}
		}
	}()
	if e.disk, err = openDisk(filepath.Join(e.storeDir, server.JetStreamStoreDir), e.account); err != nil {
		return nil, err
	}
	if err := e.disk.uncache(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if err := e.start(ctx, opts); err != nil {
		return nil, err
	}
	if strangers {
		nc, err := e.Connect(nats.Name("blessd consumer gate"))
		if err != nil {
			return nil, err
		}
		if e.gate, err = openGate(nc, e.log); err != nil {
			nc.Close()
			return nil, err
		}
		if host, _, err := net.SplitHostPort(e.addr); err == nil && !isLoopback(host) {
			e.log.Warn("everybody who can reach the NATS listener can read all events", zap.String("listen", e.addr))
		}
	}
	ok = true
	return e, nil
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// options returns the server's options, made anew for each start since the
// server changes them, and whether clients without credentials are let in. It
// sets e.account.
func (e *Embedded) options() (_ *server.Options, strangers bool, err error) {
	opts := &server.Options{}
	if e.o.ConfigFile != "" {
		if err := e.readConfig(opts); err != nil {
			return nil, false, fmt.Errorf("nats configuration %s: %w", e.o.ConfigFile, err)
		}
	}
	opts.NoSigs, opts.NoLog = true, true
	opts.JetStream = true
	if opts.StoreDir == "" {
		opts.StoreDir = e.o.StoreDir
	}
	if opts.JetStreamMaxStore == 0 {
		opts.JetStreamMaxStore = e.o.MaxStore
	}
	if opts.MaxPayload < maxPayload {
		opts.MaxPayload = maxPayload
	}
	if e.o.SyncAlways {
		opts.SyncAlways = true
	}
	if opts.SyncInterval == 0 {
		opts.SyncInterval = syncInterval
	}
	if err := e.listener(opts); err != nil {
		return nil, false, err
	}
	strangers, err = e.users(opts)
	if err != nil && e.o.ConfigFile != "" {
		err = fmt.Errorf("nats configuration %s: %w", e.o.ConfigFile, err)
	}
	return opts, strangers, err
}

func (e *Embedded) readConfig(opts *server.Options) error {
	err := opts.ProcessConfigFile(e.o.ConfigFile)
	// The server returns mere warnings as an error, too.
	var c interface {
		Errors() []error
		Warnings() []error
	}
	if !errors.As(err, &c) {
		return err
	}
	if len(c.Errors()) > 0 {
		return errors.Join(c.Errors()...)
	}
	for _, w := range c.Warnings() {
		e.log.Warn("nats configuration", zap.String("file", e.o.ConfigFile), zap.Error(w))
	}
	return nil
}

// listener fills in what the file leaves open, and after the first start the
// port that clients know.
func (e *Embedded) listener(opts *server.Options) error {
	host, port, err := net.SplitHostPort(e.o.Listen)
	if err != nil {
		return fmt.Errorf("nats listen address %q: %w", e.o.Listen, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return fmt.Errorf("nats listen address %q: the port must be a number up to 65535", e.o.Listen)
	}
	if opts.Host == "" {
		opts.Host = host
	}
	if opts.Port == 0 {
		if opts.Port = int(n); n == 0 {
			opts.Port = server.RANDOM_PORT
		}
	}
	if e.addr != "" && opts.Port == server.RANDOM_PORT {
		_, port, err := net.SplitHostPort(e.addr)
		if err != nil {
			return err
		}
		if opts.Port, err = strconv.Atoi(port); err != nil {
			return err
		}
	}
	return nil
}

// users adds blessd's own user, and unless the file says who may log in, the
// accounts of builtin.
func (e *Embedded) users(opts *server.Options) (strangers bool, err error) {
	if len(opts.TrustedOperators) > 0 || len(opts.TrustedKeys) > 0 || opts.AccountResolver != nil {
		return false, errors.New("an operator or resolver leaves no room for blessd's own user: run this server by itself and set nats.url and nats.creds_file")
	}
	if opts.AuthCallout != nil {
		return false, errors.New("auth_callout leaves no room for blessd's own user: run this server by itself and set nats.url")
	}
	if opts.TLSMap {
		return false, errors.New("verify_and_map leaves no room for blessd's own user: run this server by itself and set nats.url")
	}
	if opts.Authorization != "" {
		return false, errors.New("authorization by token leaves no room for blessd's own user: name users instead")
	}
	own, err := builtin(e.o.Prefix, e.password)
	if err != nil {
		return false, err
	}
	named := len(opts.Users)+len(opts.Nkeys) > 0 || opts.Username != "" || len(opts.Accounts) > 0
	if !named {
		opts.Accounts, opts.Users, opts.NoAuthUser = own.Accounts, own.Users, own.NoAuthUser
		e.account = blessdAccount
		return true, nil
	}
	if opts.Username != "" {
		// The server takes either one user or a list.
		opts.Users = append(opts.Users, &server.User{Username: opts.Username, Password: opts.Password})
		opts.Username, opts.Password = "", ""
	}
	for _, u := range opts.Users {
		if u.Username == blessdUser {
			return false, fmt.Errorf("the user name %q is blessd's own", blessdUser)
		}
	}
	me := &server.User{Username: blessdUser, Password: e.password, AllowedConnectionTypes: map[string]struct{}{"IN_PROCESS": {}}}
	e.account = globalAccount
	if len(opts.Accounts) > 0 {
		e.account = blessdAccount
		for _, a := range opts.Accounts {
			if a.Name == blessdAccount {
				me.Account = a
			}
		}
		if me.Account == nil {
			opts.Accounts = append(opts.Accounts, own.Accounts...)
			for _, u := range own.Users {
				if u.Username == blessdUser {
					me = u
				}
			}
			e.log.Warn("no user of the NATS configuration file can read events: it has no account BLESSD", zap.String("file", e.o.ConfigFile))
		}
	}
	opts.Users = append(opts.Users, me)
	return false, nil
}

// readAPI is what of the JetStream API strangers may use, and whether one request
// has several answers. Missing on purpose: whatever creates, changes or deletes a
// stream or a message; snapshots, which deliver anywhere; everything about
// servers, leaders and peers; pausing and resetting consumers. Creating a
// consumer goes through the gate.
var readAPI = []struct {
	subject string
	stream  bool
}{
	{"$JS.ACK.>", true}, // "+NXT" is answered with messages
	{"$JS.API.CONSUMER.DELETE.*.*", false},
	{"$JS.API.CONSUMER.INFO.*.*", false},
	{"$JS.API.CONSUMER.LIST.*", false},
	{"$JS.API.CONSUMER.MSG.NEXT.*.*", true},
	{"$JS.API.CONSUMER.NAMES.*", false},
	{"$JS.API.INFO", false},
	{"$JS.API.STREAM.INFO.*", false},
	{"$JS.API.STREAM.LIST", false},
	{"$JS.API.STREAM.MSG.GET.*", false},
	{"$JS.API.STREAM.NAMES", false},
	{"$JS.FC.>", false},
}

// gatedAPI is what of the JetStream API strangers reach through the gate.
var gatedAPI = []string{"CONSUMER.CREATE.>", "CONSUMER.DURABLE.CREATE.*.*"}

// builtin returns options with the two accounts and two users that blessd makes
// up: see the package comment.
func builtin(prefix, password string) (*server.Options, error) {
	var exports, imports strings.Builder
	service := func(subject, local string, stream bool) {
		kind := "singleton"
		if stream {
			kind = "stream"
		}
		fmt.Fprintf(&exports, "{service: %q, response_type: %s, accounts: [CONSUMERS]}\n", subject, kind)
		fmt.Fprintf(&imports, "{service: {account: BLESSD, subject: %q}, to: %q}\n", subject, local)
	}
	// Push consumers deliver in BLESSD, hence the inboxes.
	for _, subject := range []string{prefix + ".>", inboxPrefix + ">"} {
		fmt.Fprintf(&exports, "{stream: %q, accounts: [CONSUMERS]}\n", subject)
		fmt.Fprintf(&imports, "{stream: {account: BLESSD, subject: %q}}\n", subject)
	}
	for _, a := range readAPI {
		service(a.subject, a.subject, a.stream)
	}
	for _, a := range gatedAPI {
		service(gateSubject+a, "$JS.API."+a, false)
	}
	conf := fmt.Sprintf(`
		accounts {
			BLESSD {
				jetstream: enabled
				users: [{user: %q, password: %q, allowed_connection_types: ["IN_PROCESS"]}]
				exports: [%s]
			}
			CONSUMERS {
				users: [{user: consumer, password: %q, permissions: {
					subscribe: {allow: [%q, %q]}
					publish: {allow: ["$JS.API.>", "$JS.ACK.>", "$JS.FC.>"]}
				}}]
				imports: [%s]
			}
		}
		no_auth_user: consumer
	`, blessdUser, password, exports.String(), rand.Text(), prefix+".>", inboxPrefix+">", imports.String())
	o := &server.Options{}
	if err := o.ProcessConfigString(conf); err != nil {
		return nil, fmt.Errorf("built-in accounts: %w", err)
	}
	return o, nil
}

// start runs a server with opts until it is ready. It holds no lock on the
// server's own start, so that ctx can end it.
func (e *Embedded) start(ctx context.Context, opts *server.Options) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	srv, err := server.NewServer(opts)
	if err != nil {
		return fmt.Errorf("embedded nats server: %w", err)
	}
	l := newServerLog(e.log, e.diskFailed)
	srv.SetLoggerV2(l, false, false, false)
	srv.Start()
	stop := func(err error) error {
		srv.Shutdown()
		srv.WaitForShutdown()
		return fmt.Errorf("embedded nats server: %w", err)
	}
	for {
		select {
		case msg := <-l.fatal:
			return stop(errors.New(msg))
		case <-ctx.Done():
			return stop(fmt.Errorf("not ready: %w", ctx.Err()))
		default:
		}
		if srv.ReadyForConnections(100 * time.Millisecond) {
			break
		}
	}
	if !srv.JetStreamEnabled() {
		return stop(errors.New("jetstream is not enabled"))
	}
	e.srv, e.addr = srv, srv.Addr().String()
	return nil
}

// server returns the running server.
func (e *Embedded) server() *server.Server {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.srv
}

// InProcessConn implements nats.InProcessConnProvider with whichever server runs
// now. That is why a connection survives Restart.
func (e *Embedded) InProcessConn() (net.Conn, error) {
	srv := e.server()
	if srv == nil {
		return nil, nats.ErrNoServers
	}
	return srv.InProcessConn()
}

// Connect returns a connection within the process as the user blessd, which may
// do everything in the account of the streams. It reconnects by itself after
// Restart and buffers nothing meanwhile.
func (e *Embedded) Connect(opts ...nats.Option) (*nats.Conn, error) {
	nc, err := nats.Connect("", append(append([]nats.Option{
		nats.Name("blessd"),
		nats.InProcessServer(e),
		nats.UserInfo(blessdUser, e.password),
		// Nobody else may listen where blessd's answers arrive.
		nats.CustomInboxPrefix(e.inbox),
		nats.IgnoreDiscoveredServers(),
		nats.IgnoreAuthErrorAbort(),
		nats.MaxReconnects(-1),
		nats.ReconnectBufSize(-1),
		nats.ReconnectWait(50 * time.Millisecond),
		nats.ReconnectJitter(0, 0),
	}, logging(e.log, nil)...), opts...)...)
	if err != nil {
		return nil, fmt.Errorf("connect to the embedded nats server: %w", err)
	}
	return nc, nil
}

// ClientURL is where clients outside the process connect.
func (e *Embedded) ClientURL() string {
	if srv := e.server(); srv != nil {
		return srv.ClientURL()
	}
	return ""
}

// Version is the server's version.
func (e *Embedded) Version() string { return server.VERSION }

// Healthz returns nil when the server and all its streams work. A stream that a
// full disk has stopped for good says so here; Restart cures it.
func (e *Embedded) Healthz() error {
	srv := e.server()
	if srv == nil {
		return errors.New("embedded nats server is not running")
	}
	h := srv.Healthz(nil)
	if h.StatusCode == 200 || h.Status == "ok" {
		return nil
	}
	return fmt.Errorf("embedded nats server is %s: %s", h.Status, h.Error)
}

// Storage returns how many bytes the streams take and how many they may take.
// Both are 0 while no server runs.
func (e *Embedded) Storage() (used, limit int64) {
	srv := e.server()
	if srv == nil {
		return 0, 0
	}
	info, err := srv.Jsz(&server.JSzOptions{})
	if err != nil {
		return 0, 0 // it is shutting down
	}
	return int64(info.Store), info.Config.MaxStore
}

// Sync returns nil when every message that was acknowledged before the call is on
// stable storage. The server itself only writes it before it acknowledges. An
// error that wraps ErrSync is final: the kernel reports a failed write once and
// then forgets it. Any other may be gone at the next call.
func (e *Embedded) Sync(ctx context.Context) error { return e.disk.sync(ctx) }

// diskFailed notes that the server could not write or sync a file.
func (e *Embedded) diskFailed(err error) {
	err = e.disk.fail(fmt.Errorf("%w: the server reports: %w", ErrSync, err))
	if e.o.OnDiskError != nil {
		e.o.OnDiskError(err)
	}
}

// Restart replaces the server by a new one on the same data and the same port.
// Connections of Connect stay and reconnect. After an error no server runs, and
// Restart may be called again. After ErrSync it does nothing: the new server would
// serve what is in memory alone.
func (e *Embedded) Restart(ctx context.Context) error {
	if err := e.disk.failed(); err != nil {
		return err
	}
	if err := e.stop(ctx); err != nil {
		return err
	}
	opts, _, err := e.options()
	if err != nil {
		return err
	}
	return e.start(ctx, opts)
}

// stop shuts the server down, if there is one.
func (e *Embedded) stop(ctx context.Context) error {
	e.mu.Lock()
	srv := e.srv
	e.mu.Unlock()
	if srv == nil {
		return nil
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Shutdown()
		srv.WaitForShutdown()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		// A second server must not open the directory while this one writes to it.
		return fmt.Errorf("embedded nats server does not stop: %w", ctx.Err())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.srv = nil
	return nil
}

// Shutdown stops the server and frees its directory. Connections should be
// drained before. The Embedded is of no use afterwards. When ctx ends before the
// server has, which a dead disk can cause, the directory stays locked.
func (e *Embedded) Shutdown(ctx context.Context) error {
	if e.gate != nil {
		e.gate.close()
	}
	if err := e.stop(ctx); err != nil {
		return err
	}
	if e.disk != nil {
		e.disk.close()
	}
	if e.lock != nil {
		e.lock.Close() // which unlocks it
	}
	return nil
}

// lockDir makes dir, for its owner only, and locks it for this process.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("nats data directory: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("nats data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "blessd.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("nats data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("nats data directory %s is in use by another process", dir)
		}
		return nil, fmt.Errorf("lock nats data directory %s: %w", dir, err)
	}
	return f, nil
}

// serverLog hands the server's log lines to zap. Fatalf, which ends the process
// in the server's own loggers, here means that the start has failed.
//
// It is also how blessd hears of a disk error that the server has met, above all
// when it synced a file: a stream that has such an error says so here, before
// anything else goes by it. Healthz tells only once something was published after
// it, and as text, and there is no callback.
type serverLog struct {
	log        *zap.Logger
	fatal      chan string
	diskFailed func(error)
}

// newServerLog samples, since strangers can cause lines: of each level the first
// 50 in 10 seconds and then each hundredth.
func newServerLog(log *zap.Logger, diskFailed func(error)) *serverLog {
	sampled := log.Named("server").WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, 10*time.Second, 50, 100)
	}))
	return &serverLog{log: sampled, fatal: make(chan string, 1), diskFailed: diskFailed}
}

func (l *serverLog) write(at zapcore.Level, format string, v []any) {
	if c := l.log.Check(at, "nats server"); c != nil {
		c.Write(zap.String("text", fmt.Sprintf(format, v...)))
	}
}

// Noticef implements server.Logger. The server's notices are a banner and its
// progress: whoever runs blessd did not start a NATS server.
func (l *serverLog) Noticef(format string, v ...any) { l.write(zap.DebugLevel, format, v) }

// Warnf implements server.Logger.
func (l *serverLog) Warnf(format string, v ...any) {
	level := zap.WarnLevel
	if strings.HasPrefix(format, "Plaintext passwords") {
		level = zap.DebugLevel // ours is random, in memory alone, and works in process only
	}
	l.write(level, format, v)
}

// Errorf implements server.Logger.
func (l *serverLog) Errorf(format string, v ...any) {
	l.write(zap.ErrorLevel, format, v)
	if err := diskError(format, v); err != nil {
		l.diskFailed(err)
	}
}

// diskError returns the error of the disk that a line of the server's log tells
// of, or nil. A shortage is none, nor a missing permission: what found no space, no
// file descriptor or no memory was not written and not acknowledged, and the
// Watchdog sees to it.
func diskError(format string, v []any) error {
	// "Critical write error: %v" of a store, "critical write error: %v" of a stream.
	if !strings.HasSuffix(format, "ritical write error: %v") || len(v) == 0 {
		return nil
	}
	err, ok := v[len(v)-1].(error)
	if !ok {
		return nil
	}
	errno, ok := errors.AsType[syscall.Errno](err)
	if !ok { // not the disk's
		return nil
	}
	switch errno {
	case unix.ENOSPC, unix.EDQUOT, unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EACCES, unix.EPERM:
		return nil
	}
	return err
}

// Debugf implements server.Logger.
func (l *serverLog) Debugf(format string, v ...any) { l.write(zap.DebugLevel, format, v) }

// Tracef implements server.Logger.
func (l *serverLog) Tracef(format string, v ...any) { l.write(zap.DebugLevel, format, v) }

// Fatalf implements server.Logger.
func (l *serverLog) Fatalf(format string, v ...any) {
	l.write(zap.ErrorLevel, format, v)
	select {
	case l.fatal <- fmt.Sprintf(format, v...):
	default:
	}
}
