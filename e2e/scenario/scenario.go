// Package scenario breaks a running blessd from outside, in as many ways as there
// are scenarios, and has the ledger judge what is left. Like the ledger it shares no
// code with blessd: it signs, sends and counts by means of its own.
//
// A scenario is a function that reads like the sentence that it proves. Its [Env]
// starts what it needs, and stops all of it, and asks for the verdict at the end.
package scenario

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

// Scenario is one way of breaking blessd.
type Scenario struct {
	// Name is lower case with dashes, and unique.
	Name string
	// Faults are numbers of the fault matrix, "F1" to "F38", see e2e/README.md.
	Faults []string
	// Tier is where it belongs: 0 with each commit, 1 each night, 2 before a release.
	Tier int
	// Proves is one sentence, which the table of guarantees repeats.
	Proves string
	Run    func(*Env)
}

// Options say how scenarios are run.
type Options struct {
	// Binary is the blessd under test.
	Binary string
	// Env is more environment for every blessd, as NAME=value.
	Env []string
	// Scale multiplies cycles and durations. 0 means 1.
	Scale float64
	// Limit is how long a condition is waited for. 0 means two minutes.
	Limit time.Duration
	// Patience is how long nothing may arrive in the streams before what is missing
	// there is taken for lost. 0 means 45 seconds.
	Patience time.Duration
	// Log gets what the scenarios have to say. nil is nowhere.
	Log io.Writer
	// Keep is a directory for the ledgers and logs of scenarios that fail. Empty keeps
	// nothing.
	Keep string
}

// Outcome is what came of a scenario.
type Outcome string

// The outcomes.
const (
	Pass Outcome = "pass"
	Fail Outcome = "fail"
	Skip Outcome = "skip" // could not run here: nothing is shown
)

// Result is what came of a scenario, and a line of the table.
type Result struct {
	Scenario string   `json:"scenario"`
	Faults   []string `json:"faults"`
	Tier     int      `json:"tier"`
	Proves   string   `json:"proves"`
	Outcome  Outcome  `json:"outcome"`
	// Why says what is wrong, or why it was skipped.
	Why []string `json:"why,omitempty"`
	// Conserved is whether the metrics were held against the ledger: not when a
	// blessd was killed or restarted, since its counters end with it.
	Conserved bool `json:"conserved"`
	// Figures are what was measured, each a phrase: they are reported, not judged.
	Figures []string `json:"figures,omitempty"`
	ledger.Verdict
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	// reached is the mutant that blessd says was reached.
	reached string
}

// String is one line for a person.
func (r *Result) String() string {
	s := fmt.Sprintf("%-4s  %-28s %6.1f s  %7d events  %5d refused  %3d unanswered  lost %d ghost %d changed %d dup %d",
		r.Outcome, r.Scenario, r.Seconds, r.Events, r.Refused, r.Unanswered, r.Lost, r.Ghosts, r.Changed, r.Duplicates)
	if r.Outcome == Skip {
		s = fmt.Sprintf("%-4s  %-28s SKIPPED, nothing is shown:", r.Outcome, r.Scenario)
	}
	if len(r.Why) > 0 {
		s += "  " + r.Short()
	}
	if len(r.Figures) > 0 {
		s += "  [" + strings.Join(r.Figures, "; ") + "]"
	}
	return s
}

// Short is Why on one line, without the logs.
func (r *Result) Short() string {
	var all []string
	for _, w := range r.Why {
		first, _, _ := strings.Cut(w, "\n")
		all = append(all, first)
	}
	return strings.Join(all, "; ")
}

// Run runs one scenario to its end and leaves nothing behind.
func Run(ctx context.Context, s Scenario, o Options) *Result {
	r := &Result{Scenario: s.Name, Faults: s.Faults, Tier: s.Tier, Proves: s.Proves, Outcome: Pass, Began: time.Now()}
	e, err := newEnv(ctx, s.Name, o)
	if err != nil {
		r.Outcome, r.Why = Fail, []string{err.Error()}
		return r
	}
	done := make(chan struct{})
	go func() { // a goroutine of its own, which Fatalf and Skipf end
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				e.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		s.Run(e)
		e.finish(r)
	}()
	<-done
	e.close()
	r.reached = e.reached()
	switch {
	case len(e.problems) > 0:
		r.Outcome, r.Why = Fail, e.problems
	case e.skipped != "":
		r.Outcome, r.Why = Skip, []string{e.skipped}
	}
	if err := e.remove(r.Outcome == Fail); err != nil {
		r.Outcome, r.Why = Fail, append(r.Why, err.Error())
	}
	r.Figures, r.Seconds = e.figures, time.Since(r.Began).Seconds()
	return r
}

// Env is what a scenario works with. Fatalf, Skipf, and whatever may call them, are
// for the goroutine of the scenario alone.
type Env struct {
	// Rules are what the verdict goes by. A scenario changes them.
	Rules ledger.Rules

	o      Options
	name   string
	ctx    context.Context
	cancel context.CancelFunc
	dir    string
	ledger *ledger.Ledger

	mu       sync.Mutex
	problems []string
	figures  []string
	skipped  string
	cleanups []func()

	blessds []*Blessd
	traffic []*Traffic
	streams string // where NATS is, if not in a blessd
}

func newEnv(ctx context.Context, name string, o Options) (*Env, error) {
	if o.Scale == 0 {
		o.Scale = 1
	}
	if o.Limit == 0 {
		o.Limit = 2 * time.Minute
	}
	if o.Patience == 0 {
		o.Patience = 45 * time.Second
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	dir, err := os.MkdirTemp("", "blessd-bench-")
	if err != nil {
		return nil, fmt.Errorf("a directory for the scenario: %w", err)
	}
	e := &Env{o: o, name: name, dir: dir}
	e.ctx, e.cancel = context.WithCancel(ctx)
	if e.ledger, err = ledger.Create(e.LedgerFile()); err != nil {
		return nil, err
	}
	return e, nil
}

// Errorf notes that something is wrong, and goes on.
func (e *Env) Errorf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	e.mu.Lock()
	defer e.mu.Unlock()
	const most = 30 // one fault of blessd can show a thousand times
	if len(e.problems) < most {
		e.problems = append(e.problems, text)
		fmt.Fprintf(e.o.Log, "%s: WRONG: %s\n", e.name, text)
	}
}

// Fatalf notes that something is wrong, and ends the scenario.
func (e *Env) Fatalf(format string, args ...any) {
	e.Errorf(format, args...)
	runtime.Goexit()
}

// Skipf ends the scenario because it cannot run here.
func (e *Env) Skipf(format string, args ...any) {
	e.mu.Lock()
	e.skipped = fmt.Sprintf(format, args...)
	e.mu.Unlock()
	runtime.Goexit()
}

// Logf says something to who watches.
func (e *Env) Logf(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	fmt.Fprintf(e.o.Log, "%s: %s\n", e.name, fmt.Sprintf(format, args...))
}

// Figuref notes a figure for the table of results, in a few words.
func (e *Env) Figuref(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	e.Logf("%s", text)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.figures = append(e.figures, text)
}

// Failed tells whether something is wrong already.
func (e *Env) Failed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.problems) > 0
}

// Cleanup runs f when the scenario is over, the last one first.
func (e *Env) Cleanup(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cleanups = append(e.cleanups, f)
}

// Context ends with the scenario.
func (e *Env) Context() context.Context { return e.ctx }

// Dir is a directory of this scenario alone.
func (e *Env) Dir() string { return e.dir }

// LedgerFile is where the ledger is.
func (e *Env) LedgerFile() string { return filepath.Join(e.dir, "ledger.jsonl") }

// Times is a number of cycles, scaled: at least one.
func (e *Env) Times(n int) int { return max(1, int(float64(n)*e.o.Scale+.5)) }

// For is a duration, scaled.
func (e *Env) For(d time.Duration) time.Duration { return time.Duration(float64(d) * e.o.Scale) }

// Wait polls until the condition holds, and ends the scenario when it never does.
func (e *Env) Wait(what string, condition func() bool) { e.waitAtMost(e.o.Limit, what, condition) }

// waitAtMost is Wait with a limit of its own.
func (e *Env) waitAtMost(limit time.Duration, what string, condition func() bool) {
	for deadline := time.Now().Add(limit); !condition(); time.Sleep(10 * time.Millisecond) {
		if e.ctx.Err() != nil {
			e.Fatalf("interrupted while waiting for %s", what)
		}
		if time.Now().After(deadline) {
			e.Fatalf("waited %v for %s\n%s", limit, what, e.logs())
		}
	}
}

// WriteFile writes a file that only its owner may read.
func (e *Env) WriteFile(file, text string) {
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		e.Fatalf("%v", err)
	}
}

// Replace puts a file in place by rename, as it should be done.
func (e *Env) Replace(file, text string) {
	e.WriteFile(file+".tmp", text)
	if err := os.Rename(file+".tmp", file); err != nil {
		e.Fatalf("%v", err)
	}
}

// logs are the last lines of each blessd.
func (e *Env) logs() string {
	var all strings.Builder
	for i, b := range e.blessds {
		fmt.Fprintf(&all, "the end of the log of blessd %d:\n%s\n", i+1, tail(b.Log(), 2000))
	}
	return all.String()
}

func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return "... " + s[len(s)-n:]
}

// close ends what still runs, the last one first.
func (e *Env) close() {
	e.cancel()
	for {
		e.mu.Lock()
		n := len(e.cleanups)
		if n == 0 {
			e.mu.Unlock()
			break
		}
		f := e.cleanups[n-1]
		e.cleanups = e.cleanups[:n-1]
		e.mu.Unlock()
		f()
	}
	if err := e.ledger.Close(); err != nil {
		e.Errorf("%v", err)
	}
}

// remove deletes the scenario's directory, and keeps its books when it failed.
func (e *Env) remove(failed bool) error {
	if failed && e.o.Keep != "" {
		to := filepath.Join(e.o.Keep, e.name)
		if err := os.MkdirAll(to, 0o700); err != nil {
			return fmt.Errorf("keep the ledger: %w", err)
		}
		text, err := os.ReadFile(e.LedgerFile())
		if err != nil {
			return fmt.Errorf("keep the ledger: %w", err)
		}
		if err := os.WriteFile(filepath.Join(to, "ledger.jsonl"), text, 0o600); err != nil {
			return fmt.Errorf("keep the ledger: %w", err)
		}
		for i, b := range e.blessds {
			if err := os.WriteFile(filepath.Join(to, fmt.Sprintf("blessd-%d.log", i+1)), []byte(b.Log()), 0o600); err != nil {
				return fmt.Errorf("keep the log: %w", err)
			}
		}
	}
	if err := os.RemoveAll(e.dir); err != nil {
		return fmt.Errorf("remove what the scenario left: %w", err)
	}
	return nil
}
