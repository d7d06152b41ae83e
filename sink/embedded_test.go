package sink_test

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/blessd/blessd/sink"
)

// One connection publishes through restarts; what was acknowledged is there.
func TestRestart(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	e := startEmbedded(t, nil)
	nc := connect(t, e)
	s := newSink(t, nc, defaults())
	if err := s.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	url := e.ClientURL()
	stranger, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()

	done := make(chan error, 1)
	stop := make(chan struct{})
	const window = 5
	go func() { // every event is published until it is acknowledged
		n := 0
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			for begun := n; n < begun+window; {
				m, err := s.EventMessage(someEvent(n), "")
				if err != nil {
					done <- err
					return
				}
				f, err := s.Publish(m)
				if err == nil {
					select {
					case <-f.Ok():
						n++
						continue
					case err = <-f.Err():
					}
				}
				if _, final := sink.Classify(err); final || ctx.Err() != nil {
					done <- fmt.Errorf("event %d: %w", n, err)
					return
				}
				time.Sleep(time.Millisecond)
			}
		}
	}()
	grows := func() {
		t.Helper()
		var first uint64
		until(t, "more events are stored", func() bool {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			v, err := s.State(ctx, "MAIL_EVENTS")
			if err != nil {
				return false
			}
			if first == 0 {
				first = v.LastSeq
			}
			return v.LastSeq > first
		})
	}
	for range 3 {
		grows()
		if err := e.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		if err := e.Healthz(); err != nil {
			t.Error(err)
		}
	}
	grows()
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := e.ClientURL(); got != url {
		t.Errorf("after the restart clients connect to %s, before it was %s", got, url)
	}
	next := 0
	if err := s.IDs(ctx, "MAIL_EVENTS", 0, func(id string, _ uint64) {
		if id != someEvent(next).ID {
			t.Errorf("event %d is not next", next)
		}
		next++
	}); err != nil {
		t.Fatal(err)
	}
	if next == 0 || next%window != 0 {
		t.Errorf("%d events are stored, want a multiple of %d", next, window)
	}
	until(t, "a stranger can create a consumer again", func() bool {
		js, err := jetstream.New(stranger)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err = js.CreateConsumer(ctx, "MAIL_EVENTS", jetstream.ConsumerConfig{})
		return err == nil
	})
	if err := e.Sync(ctx); err != nil {
		t.Error(err)
	}
}

func TestStoreDir(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "nats")
	e := startEmbedded(t, func(o *sink.EmbeddedOptions) { o.StoreDir = dir })
	i, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := i.Mode().Perm(); got != 0o700 {
		t.Errorf("mode: got %o, want 700", got)
	}
	second := sink.EmbeddedOptions{StoreDir: dir, Listen: "127.0.0.1:0", Prefix: "mail", Log: zap.NewNop()}
	if two, err := sink.StartEmbedded(second); err == nil {
		two.Shutdown(context.Background())
		t.Error("two servers opened one directory")
	} else if !strings.Contains(err.Error(), "in use by another process") || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %q, want an error that says what is in use", err)
	}
	e.Shutdown(context.Background())
	e.Shutdown(context.Background()) // does no harm
	two, err := sink.StartEmbedded(second)
	if err != nil {
		t.Fatal(err)
	}
	two.Shutdown(context.Background())
	if err := two.Healthz(); err == nil {
		t.Error("a stopped server is healthy")
	}
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*sink.EmbeddedOptions){
		"port in use":          func(o *sink.EmbeddedOptions) { o.Listen = taken.Addr().String() },
		"no port":              func(o *sink.EmbeddedOptions) { o.Listen = "127.0.0.1" },
		"bad port":             func(o *sink.EmbeddedOptions) { o.Listen = "127.0.0.1:99999" },
		"directory is a file":  func(o *sink.EmbeddedOptions) { o.StoreDir = file },
		"bad prefix":           func(o *sink.EmbeddedOptions) { o.Prefix = `x" injected: "` },
		"no configuration":     func(o *sink.EmbeddedOptions) { o.ConfigFile = file + ".conf" },
		"broken configuration": func(o *sink.EmbeddedOptions) { o.ConfigFile = conf(t, "accounts { A: ") },
		"unknown setting":      func(o *sink.EmbeddedOptions) { o.ConfigFile = conf(t, "no_such_setting: 1") },
		"token":                func(o *sink.EmbeddedOptions) { o.ConfigFile = conf(t, "authorization { token: s3cret }") },
		"our user": func(o *sink.EmbeddedOptions) {
			o.ConfigFile = conf(t, "authorization { users: [{user: blessd, password: s3cret}] }")
		},
	} {
		dir := t.TempDir()
		o := sink.EmbeddedOptions{StoreDir: dir, Listen: "127.0.0.1:0", Prefix: "mail", Log: zap.NewNop()}
		change(&o)
		e, err := sink.StartEmbedded(o)
		if err == nil {
			e.Shutdown(context.Background())
			t.Errorf("%s: started", what)
			continue
		}
		if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error holds a password: %v", what, err)
		}
		// Nothing is left locked.
		o = sink.EmbeddedOptions{StoreDir: dir, Listen: "127.0.0.1:0", Prefix: "mail", Log: zap.NewNop()}
		if e, err = sink.StartEmbedded(o); err != nil {
			t.Errorf("after %s: %v", what, err)
			continue
		}
		e.Shutdown(context.Background())
	}
}

func conf(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats-server.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestConfigFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, c := range []struct {
		what, conf string
		reader     string // credentials of a user who may read, "" when strangers may
		excluded   []string
	}{
		{"no users", "server_name: x\nmax_payload: 1MB\nwrite_deadline: \"5s\"", "", nil},
		{"one user", `authorization { user: a, password: p }`, "a:p@", []string{"", "b:p@"}},
		{"list of users", `authorization { users: [{user: a, password: p}] }`, "a:p@", []string{""}},
		{
			"our account",
			`accounts { BLESSD: { jetstream: enabled, users: [{user: a, password: p}] }, SYS: { users: [{user: s, password: p}] } }
			 system_account: SYS`, "a:p@",
			[]string{""},
		},
		{
			"an import from our account",
			`accounts { BLESSD: { jetstream: enabled, exports: [{stream: "mail.events.>"}] }
			            APP: { users: [{user: a, password: p}], imports: [{stream: {account: BLESSD, subject: "mail.events.>"}}] } }`, "a:p@",
			[]string{""},
		},
		{"store_dir and listen", "listen: \"127.0.0.1:-1\"\njetstream { store_dir: " + fmt.Sprintf("%q", filepath.Join(dir, "own")) + " }", "", nil},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			ctx := testContext(t)
			e := startEmbedded(t, func(o *sink.EmbeddedOptions) { o.ConfigFile = conf(t, c.conf) })
			nc := connect(t, e)
			if got := nc.MaxPayload(); got != 8<<20 {
				t.Errorf("max_payload: got %d, want %d", got, 8<<20)
			}
			s := newSink(t, nc, defaults())
			if err := s.Ensure(ctx); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				r, err := nats.Connect(strings.Replace(e.ClientURL(), "://", "://"+c.reader, 1))
				if err != nil {
					t.Fatal(err)
				}
				sub, err := r.SubscribeSync("mail.events.>")
				if err != nil {
					t.Fatal(err)
				}
				if err := r.Flush(); err != nil {
					t.Fatal(err)
				}
				until(t, "an event is stored", func() bool { _, _, err := publish(t, s, message(t, s, 0)); return err == nil })
				if _, err := sub.NextMsg(5 * time.Second); err != nil {
					t.Error(err)
				}
				r.Close()
				for _, who := range c.excluded {
					if r, err := nats.Connect(strings.Replace(e.ClientURL(), "://", "://"+who, 1)); err == nil {
						r.Close()
						t.Errorf("%q got in", who)
					}
				}
				if err := e.Sync(ctx); err != nil {
					t.Error(err)
				}
				if err := e.Restart(ctx); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func TestLogHoldsNoPassword(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	e := startEmbedded(t, func(o *sink.EmbeddedOptions) {
		o.Log = zap.New(core)
		o.ConfigFile = conf(t, "debug: true\ntrace: true\nlogtime: false\nauthorization { users: [{user: a, password: s3cret}] }")
	})
	nc := connect(t, e)
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if c, err := nats.Connect(e.ClientURL(), nats.UserInfo("a", "wr0ng")); err == nil {
		c.Close()
		t.Fatal("a wrong password got in")
	}
	e.Shutdown(context.Background())
	if logs.Len() < 5 {
		t.Fatalf("only %d lines were logged", logs.Len())
	}
	seen := false
	for _, l := range logs.All() {
		text := l.Message + fmt.Sprint(l.ContextMap())
		for _, secret := range []string{sink.Password(e), "s3cret", "wr0ng"} {
			if strings.Contains(text, secret) {
				t.Errorf("logged: %s", text)
			}
		}
		seen = seen || l.LoggerName == "server" && strings.Contains(text, "authentication error")
	}
	if !seen {
		t.Error("the server's refusal was not logged")
	}
}

func TestOpenListenerIsWarnedAbout(t *testing.T) {
	t.Parallel()
	for listen, want := range map[string]int{"127.0.0.1:0": 0, "0.0.0.0:0": 1} {
		core, logs := observer.New(zapcore.WarnLevel)
		startEmbedded(t, func(o *sink.EmbeddedOptions) { o.Log, o.Listen = zap.New(core), listen })
		if got := logs.FilterMessage("everybody who can reach the NATS listener can read all events").Len(); got != want {
			t.Errorf("%s: got %d warnings, want %d", listen, got, want)
		}
	}
}

func TestSync(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	dir := t.TempDir()
	e := startEmbedded(t, func(o *sink.EmbeddedOptions) { o.StoreDir = dir })
	if err := e.Sync(ctx); err != nil { // nothing is there: an unknown layout
		t.Fatal(err)
	}
	s := newSink(t, connect(t, e), defaults())
	if err := s.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	if err := e.Sync(ctx); err != nil {
		t.Fatal(err)
	}
	blocks := func() (n int) {
		if err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(d.Name(), ".blk") {
				n++
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for n := range 20 { // enough for several block files
		m := message(t, s, n)
		m.Data = make([]byte, 1<<20)
		if _, _, err := publish(t, s, m); err != nil {
			t.Fatal(err)
		}
		if err := e.Sync(ctx); err != nil {
			t.Fatal(err)
		}
	}
	if n := blocks(); n < 3 {
		t.Errorf("there are %d block files, want several: is this still the server's layout?", n)
	}
	canceled, cancel := context.WithCancel(ctx)
	cancel()
	mustPublish(t, s, 100, 101)
	if err := e.Sync(canceled); err == nil {
		t.Error("a canceled Sync claims to have synced")
	}
	if err := e.Sync(ctx); err != nil {
		t.Errorf("a canceled Sync is no failure of the disk: %v", err)
	}
}
