package scenario

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
	"github.com/blessd/blessd/e2e/seed"
)

// huntScenarios are short. Each puts blessd into the one situation in which a
// certain kind of bug shows; they are what has to catch the mutants of package seed.
var huntScenarios = slices.Concat(huntWireScenarios, huntStrangerScenarios, huntEventScenarios, huntRefusalScenarios, huntRelayScenarios, huntStoppingScenarios, failpointScenarios(), huntTimingScenarios)

// Seeded makes the scenario use a blessd with failpoints. Nothing is switched on in it
// unless the environment says so.
func (e *Env) Seeded() { e.useSeeded(seed.Binary, seed.Tag, seed.Build) }

// useSeeded has the scenario use a program with that build tag, which is built when it
// is the first to want it.
func (e *Env) useSeeded(name, tag string, build func(ctx context.Context, module, dir string) (string, error)) {
	if hasTag(e.o.Binary, tag) {
		return
	}
	seededMu.Lock()
	defer seededMu.Unlock()
	dir := filepath.Join(filepath.Dir(e.o.Binary), "seeded")
	binary := filepath.Join(dir, name)
	if _, err := os.Stat(binary); err != nil {
		root, err := module(e.ctx)
		if err == nil {
			binary, err = build(e.ctx, root, dir)
		}
		if errors.Is(err, seed.ErrToolchain) {
			e.Skipf("%v", err)
		}
		if err != nil {
			e.Fatalf("%v", err)
		}
	}
	e.o.Binary = binary
}

// BuildSeeded builds a blessd with all bugs and failpoints of package seed, none of
// which is switched on, into a directory and returns its path.
func BuildSeeded(ctx context.Context, dir string) (string, error) {
	root, err := module(ctx)
	if err != nil {
		return "", err
	}
	return seed.Build(ctx, root, dir)
}

var seededMu sync.Mutex // for building it once

func hasTag(binary, tag string) bool {
	info, err := buildinfo.ReadFile(binary)
	return err == nil && slices.ContainsFunc(info.Settings, func(s debug.BuildSetting) bool {
		return s.Key == "-tags" && slices.Contains(strings.Split(s.Value, ","), tag)
	})
}

// failpoint is the environment for one; see package seeded.
func failpoint(s string) string { return "BLESSD_FAILPOINT=" + s }

// knobs is the environment for shorter intervals.
func knobs(s ...string) string { return "BLESSD_KNOBS=" + strings.Join(s, ",") }

const (
	// quickCursor makes the cursor move often.
	quickCursor = "cursor-interval=20ms"
	// noLag lets it move with the acknowledgements of a server that is not ours.
	noLag = "foreign-sync-lag=0s"
)

// AtPoint waits until a failpoint has ended blessd.
func (b *Blessd) AtPoint() {
	b.Died()
	if !strings.Contains(b.Process.Log(), "seeded: failpoint ") {
		b.env.Fatalf("blessd has ended with %v, and not at its failpoint\n%s", b.err, tail(b.Process.Log(), 2000))
	}
}

// Again starts it once more, with that environment.
func (b *Blessd) Again(env ...string) {
	b.config.Env = env
	b.Start()
}

// AddEndpoint adds a line to the endpoints of its configuration.
func (b *Blessd) AddEndpoint(line string) {
	text, err := os.ReadFile(b.ConfigFile())
	if err != nil {
		b.env.Fatalf("%v", err)
	}
	b.env.WriteFile(b.ConfigFile(), strings.Replace(string(text), "endpoints:\n", "endpoints:\n  - "+line+"\n", 1))
}

// RemoveEndpoint takes the lines out again that begin with that.
func (b *Blessd) RemoveEndpoint(name string) {
	text, err := os.ReadFile(b.ConfigFile())
	if err != nil {
		b.env.Fatalf("%v", err)
	}
	lines := slices.DeleteFunc(strings.Split(string(text), "\n"), func(l string) bool { return strings.HasPrefix(l, "  - {name: "+name+",") })
	b.env.WriteFile(b.ConfigFile(), strings.Join(lines, "\n"))
}

// state is what a scenario wants to know of the status.
type state struct {
	Journal struct{ First, Next uint64 }
	Relay   struct {
		State, Error string
		Settled      uint64
		Pending      int
	}
}

func (b *Blessd) state() (s state, ok bool) {
	code, text := b.Get("/-/status")
	return s, code == http.StatusOK && json.Unmarshal([]byte(text), &s) == nil
}

// Settled waits until blessd has nothing left to do. What is missing in the streams
// then is lost, and need not be waited for.
func (b *Blessd) Settled() {
	b.env.Wait("the relay to settle everything", func() bool {
		s, ok := b.state()
		return ok && s.Relay.Pending == 0 && (b.config.Acknowledge == "stream" || s.Relay.State == "running" && s.Relay.Settled+1 >= s.Journal.Next)
	})
	b.env.o.Patience = min(b.env.o.Patience, time.Second)
}

// Bless posts what has to be blessed for the scenario to make sense.
func (b *Blessd) Bless(d *Delivery) {
	if r := b.Post(d); !r.Blessed() {
		b.env.Fatalf("a delivery to %s was not blessed: %d %q %v", d.Name, r.Status, r.Body, r.Err)
	}
}

// unmatched is what the metrics call paths that are no endpoint's.
const unmatched = "unmatched"

// send posts behind the ledger's back.
func (b *Blessd) send(d *Delivery) *Reply { return b.sendAs(d.Name, d) }

// sendAs is send where the metrics have another name for the endpoint.
func (b *Blessd) sendAs(endpoint string, d *Delivery) *Reply {
	r := b.env.exchange("http://"+b.where.Load().Hooks, d)
	if r.Err == nil {
		b.env.unbooked(ledger.Unbooked{Endpoint: endpoint, Status: r.Status, Events: d.Events}, 1)
	}
	return r
}

// unbooked enters answers to requests that are not in the ledger, so that the metrics
// can be held against it all the same.
func (e *Env) unbooked(u ledger.Unbooked, n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.Rules.Unbooked == nil {
		e.Rules.Unbooked = map[ledger.Unbooked]int{}
	}
	e.Rules.Unbooked[u] += n
}

// run runs another command of blessd to its end, and returns what it wrote.
func (b *Blessd) run(args ...string) string {
	p := b.command(args...)
	if err := p.Exit(); err != nil {
		b.env.Fatalf("blessd %s: %v\n%s", strings.Join(args, " "), err, p.Log())
	}
	return p.Log()
}

// command starts another command of blessd.
func (b *Blessd) command(args ...string) *Process {
	p := b.env.StartProcess(b.env.o.Env, nil, b.env.o.Binary, append(args, "-c", b.ConfigFile())...)
	p.name = "blessd " + args[0]
	p.ends.Store(true)
	return p
}

// each reads a stream from its beginning.
func (e *Env) each(url string, yield func(*ledger.Message)) {
	r, err := ledger.NewReader(url)
	if err != nil {
		e.Fatalf("%v", err)
	}
	defer r.Close()
	if err := r.Read(e.ctx, func(m *ledger.Message) error { yield(m); return nil }); err != nil {
		e.Fatalf("%v", err)
	}
}

// fileText reads a file of the scenario.
func (e *Env) fileText(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		e.Fatalf("%v", err)
	}
	return string(b)
}

// files returns what matches a pattern in a directory.
func (e *Env) files(dir, pattern string) []string {
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		e.Fatalf("%v", err)
	}
	return files
}

// formValue is the field with the events in a form of SendClean's.
func (e *Env) formValue(body string) string {
	form, err := url.ParseQuery(body)
	if err != nil {
		e.Fatalf("%v", err)
	}
	return form.Get("sarvtes_events")
}

// natsWithPayload starts a server that takes messages of at most that size.
func (e *Env) natsWithPayload(most int) *NATS {
	n := e.NATSLater()
	n.setPayload(most)
	n.Start()
	return n
}

var payloadLine = regexp.MustCompile(`(?m)^max_payload: .*$`)

// setPayload changes the size of a message that it takes from its next start on.
func (n *NATS) setPayload(most int) {
	text := n.env.fileText(n.file)
	n.env.WriteFile(n.file, payloadLine.ReplaceAllString(text, fmt.Sprintf("max_payload: %d", most)))
}

// quoted is s as a JSON string.
func quoted(s string) string { return fmt.Sprintf("%q", s) }
