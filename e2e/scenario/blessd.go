package scenario

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

// Config is how a blessd is configured. The zero Config has a journal, the embedded
// server, and the endpoints of [Endpoints].
type Config struct {
	// NATS is the URL of servers; empty is the embedded one.
	NATS string
	// Acknowledge is "journal", the default, or "stream".
	Acknowledge string
	// Stream and Quarantine are what is in these sections of the configuration, like
	// "max_bytes: 1MiB, when_full: refuse". By default the stream has room for all that
	// the largest scale sends.
	Stream, Quarantine string
	// Journal likewise, by default "max_bytes: 1GiB".
	Journal string
	// Embedded likewise, beside listen.
	Embedded string
	// More is further settings, in YAML, at the top level.
	More string
	// Env is more environment of this blessd, like BLESSD_FAILPOINT=name.
	Env []string
	// Flags follow "serve -c FILE".
	Flags []string
	// Wrap is a command that becomes blessd, like prlimit --nofile=64.
	Wrap []string
	// Files are its descriptors from 3 on.
	Files []*os.File
	// Dir is where its configuration and data are. Empty makes a directory.
	Dir string
}

// Blessd is the program under test.
type Blessd struct {
	*Process
	env    *Env
	config Config
	dir    string
	lives  int
	killed bool
	// where is nil while it is down.
	where atomic.Pointer[addresses]
	log   strings.Builder // of the lives before
}

// addresses is what blessd writes about itself.
type addresses struct{ Hooks, Admin, NATS string }

// Blessd starts one, and waits until it listens.
func (e *Env) Blessd(c Config) *Blessd {
	b := e.BlessdLater(c)
	b.Start()
	return b
}

// BlessdLater prepares what Blessd starts.
func (e *Env) BlessdLater(c Config) *Blessd {
	b := &Blessd{env: e, config: c, dir: c.Dir}
	if b.dir == "" {
		b.dir = filepath.Join(e.dir, fmt.Sprintf("blessd-%d", len(e.blessds)+1))
	}
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		e.Fatalf("%v", err)
	}
	e.blessds = append(e.blessds, b)
	for _, p := range Endpoints {
		e.WriteFile(b.SecretFile(p.Provider), p.secret)
	}
	b.Configure(c)
	return b
}

// Configure writes the configuration file anew.
func (b *Blessd) Configure(c Config) {
	b.config = c
	or := func(s, otherwise string) string {
		if s == "" {
			return otherwise
		}
		return s
	}
	var y strings.Builder
	fmt.Fprintf(&y, "listen: 127.0.0.1:0\npublic_url: %s\nadmin: {listen: \"127.0.0.1:0\"}\ndata_dir: %s\n", publicURL, b.DataDir())
	fmt.Fprintf(&y, "acknowledge: %s\nendpoints:\n", or(c.Acknowledge, "journal"))
	for _, p := range Endpoints {
		fmt.Fprintf(&y, "  - {name: %s, provider: %s, %s: [%s]%s}\n", p.Name, p.Provider, p.secretKind(), b.SecretFile(p.Provider), p.settings)
	}
	fmt.Fprintf(&y, "nats:\n")
	if c.NATS != "" {
		fmt.Fprintf(&y, "  url: %s\n", c.NATS)
	} else {
		fmt.Fprintf(&y, "  embedded: {listen: \"127.0.0.1:0\"%s}\n", prefixed(c.Embedded))
	}
	fmt.Fprintf(&y, "  stream: {%s}\n  quarantine: {%s}\n", or(c.Stream, "max_bytes: 8GiB"), or(c.Quarantine, "max_bytes: 128MiB"))
	if c.Acknowledge != "stream" {
		fmt.Fprintf(&y, "journal: {%s}\n", or(c.Journal, "max_bytes: 1GiB"))
	}
	fmt.Fprintf(&y, "log: {format: json}\n%s\n", c.More)
	b.env.WriteFile(b.ConfigFile(), y.String())
}

func prefixed(s string) string {
	if s == "" {
		return ""
	}
	return ", " + s
}

// ConfigFile is its configuration.
func (b *Blessd) ConfigFile() string { return filepath.Join(b.dir, "blessd.yaml") }

// DataDir is its data directory.
func (b *Blessd) DataDir() string { return filepath.Join(b.dir, "data") }

// SecretFile is the key or token of an endpoint.
func (b *Blessd) SecretFile(provider string) string {
	return filepath.Join(b.dir, provider+".secret")
}

// Start starts it, again after Kill or Stop, with flags beside those configured, and
// waits until it listens.
func (b *Blessd) Start(flags ...string) {
	b.StartOnly(flags...)
	b.Listening()
}

// StartOnly starts it and does not wait.
func (b *Blessd) StartOnly(flags ...string) {
	if b.Process != nil {
		b.log.WriteString(b.Process.Log())
	}
	_ = os.Remove(filepath.Join(b.DataDir(), "addresses.json")) // not there at the first start
	command := append([]string{}, b.config.Wrap...)
	command = append(command, b.env.o.Binary, "serve", "-c", b.ConfigFile())
	command = append(append(command, b.config.Flags...), flags...)
	b.lives++
	env := append(append([]string{}, b.env.o.Env...), b.config.Env...)
	b.Process = b.env.StartProcess(env, b.config.Files, command[0], command[1:]...)
	b.name = "blessd"
}

// Listening waits until it says where it listens.
func (b *Blessd) Listening() {
	var a addresses
	b.env.Wait("blessd to listen", func() bool {
		if b.Exited() {
			b.ends.Store(true)
			b.env.Fatalf("blessd has ended with %v instead of listening:\n%s", b.err, tail(b.Process.Log(), 2000))
		}
		text, err := os.ReadFile(filepath.Join(b.DataDir(), "addresses.json"))
		return err == nil && json.Unmarshal(text, &a) == nil && a.Hooks != ""
	})
	b.where.Store(&a)
}

// Log is what it wrote in all of its lives.
func (b *Blessd) Log() string {
	if b.Process == nil {
		return ""
	}
	return b.log.String() + b.Process.Log()
}

// Kill ends it by SIGKILL. From then on the ledger alone decides.
func (b *Blessd) Kill() {
	b.where.Store(nil)
	b.killed = true
	b.env.note("SIGKILL to blessd")
	b.Process.Kill()
}

// Died waits until it has ended by itself, as at a failpoint.
func (b *Blessd) Died() {
	_ = b.Exit() // however it ended
	b.where.Store(nil)
	b.killed = true
	b.env.note("blessd died")
}

// stopLimit is how long a stop may take, whatever is in flight.
const stopLimit = 5 * time.Second

// Stop ends it by SIGTERM: it must end in time, and with status 0.
func (b *Blessd) Stop() { b.StopDuring(func() {}) }

// StopDuring is Stop, and something that happens while it stops.
func (b *Blessd) StopDuring(meanwhile func()) {
	b.ends.Store(true)
	b.env.note("SIGTERM to blessd")
	began := time.Now()
	b.Signal(syscall.SIGTERM)
	meanwhile()
	err := b.Exit()
	took := time.Since(began)
	b.where.Store(nil)
	b.env.Logf("blessd stopped in %.2f s", took.Seconds())
	if err != nil {
		b.env.Errorf("blessd ended with %v, want status 0\n%s", err, tail(b.Process.Log(), 2000))
	}
	if took > stopLimit {
		b.env.Errorf("the stop took %v, want %v at most", took, stopLimit)
	}
}

// Up tells whether it listens.
func (b *Blessd) Up() bool { return b.where.Load() != nil }

// Ask asks the admin listener; status is 0 when there is no answer.
func (b *Blessd) Ask(method, path string) (status int, body string) {
	a := b.where.Load()
	if a == nil {
		return 0, "blessd is down"
	}
	q, err := http.NewRequestWithContext(b.env.ctx, method, "http://"+a.Admin+path, http.NoBody)
	if err != nil {
		b.env.Fatalf("%v", err)
	}
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, string(text)
}

// Get is Ask with GET.
func (b *Blessd) Get(path string) (status int, body string) { return b.Ask(http.MethodGet, path) }

// Ready waits until it says that it can bless.
func (b *Blessd) Ready() {
	b.env.Wait("blessd to be ready", func() bool { status, _ := b.Get("/-/ready"); return status == http.StatusOK })
}

// NotReady fails when it says that it can bless.
func (b *Blessd) NotReady(when string) {
	if status, body := b.Get("/-/ready"); status != http.StatusServiceUnavailable {
		b.env.Errorf("%s: ready says %d %s, want 503", when, status, body)
	}
}

// Metrics are what it counts; empty when it does not answer.
func (b *Blessd) Metrics() ledger.Metrics {
	_, text := b.Get("/metrics")
	return ledger.ParseMetrics(text)
}

// Metric is one of them, summed over the labels that are not given as pairs of name
// and value.
func (b *Blessd) Metric(name string, labels ...string) float64 {
	return b.Metrics().Sum(name, labels...)
}

// WaitMetric waits until a metric has a value.
func (b *Blessd) WaitMetric(want float64, name string, labels ...string) {
	b.env.Wait(fmt.Sprintf("%s %v to be %v", name, labels, want), func() bool {
		m := b.Metrics()
		return m.Has(name) && m.Sum(name, labels...) == want
	})
}

// WaitLog waits until its log has a text.
func (b *Blessd) WaitLog(text string) {
	b.env.Wait(fmt.Sprintf("the log to say %q", text), func() bool { return strings.Contains(b.Log(), text) })
}

// NATSURL is where its events can be read.
func (b *Blessd) NATSURL() string {
	if b.config.NATS != "" {
		return b.config.NATS
	}
	if a := b.where.Load(); a != nil {
		return a.NATS
	}
	return ""
}

func (e *Env) note(text string) {
	if err := e.ledger.Note(text); err != nil {
		e.Errorf("%v", err)
	}
}
