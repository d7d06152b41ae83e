//go:build seeded

package seeded

import (
	"errors"
	"fmt"
	"iter"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The environment that a seeded build looks at, once.
const (
	// MutantEnv names the one bug that is switched on; empty is the correct program.
	MutantEnv = "BLESSD_MUTANT"
	// FailpointEnv is NAME[:PASSAGE[:ACTION]]. PASSAGE is when to act: a number, 1 by
	// default, a number and + for that time and every later one, or * for every time.
	// ACTION is kill (the default), linger (kill, 50 ms later), stop (SIGSTOP),
	// sleep=DURATION or error.
	FailpointEnv = "BLESSD_FAILPOINT"
	// KnobsEnv is NAME=DURATION[,NAME=DURATION...]: intervals that a scenario does not
	// want to wait for.
	KnobsEnv = "BLESSD_KNOBS"
)

// lingerTime is what whoever does not wait for the disk has to give itself away.
const lingerTime = 50 * time.Millisecond

var (
	mutant    = os.Getenv(MutantEnv)
	failpoint = parseFailpoint(os.Getenv(FailpointEnv))
	knobs     = parseKnobs(os.Getenv(KnobsEnv))
	reached   sync.Once
)

// Mutant reports whether the bug of that name is switched on, and says so on stderr
// when it is reached for the first time: a scenario that fails without that has
// proven nothing.
func Mutant(name string) bool {
	if name != mutant {
		return false
	}
	reached.Do(func() { say("mutant %s is reached", name) })
	return true
}

type point struct {
	name   string
	at     int64
	later  bool // and at every later passage
	action string
	sleep  time.Duration
	passed atomic.Int64
}

// ErrFailpoint is what a failpoint with the action error returns.
var ErrFailpoint = errors.New("failpoint")

// Point is a place at which the process may be made to end or to wait.
func Point(name string) { _ = Failing(name) }

// Armed reports whether the next passage of the point will do something.
func Armed(name string) bool {
	return failpoint.name == name && failpoint.acts(failpoint.passed.Load()+1)
}

// Failing is Point where an error can be returned.
func Failing(name string) error {
	p := failpoint
	if p.name != name {
		return nil
	}
	n := p.passed.Add(1)
	if !p.acts(n) {
		return nil
	}
	if n == p.at {
		say("failpoint %s: %s at passage %d", name, p.action, n)
	}
	switch p.action {
	case "linger":
		time.Sleep(lingerTime)
		end(syscall.SIGKILL)
	case "kill":
		end(syscall.SIGKILL)
	case "stop":
		end(syscall.SIGSTOP)
	case "sleep":
		time.Sleep(p.sleep)
	case "error":
		return fmt.Errorf("%w %s", ErrFailpoint, name)
	}
	return nil
}

func (p *point) acts(n int64) bool { return n == p.at || p.later && n > p.at }

// end sends this process a signal. SIGKILL comes before the next instruction, or
// nearly: nothing goes on meanwhile here.
func end(sig syscall.Signal) {
	_ = syscall.Kill(os.Getpid(), sig) // it cannot fail for the own process
	if sig == syscall.SIGKILL {
		select {}
	}
}

// Duration is normal, or what the environment says in its place.
func Duration(name string, normal time.Duration) time.Duration {
	if d, ok := knobs[name]; ok {
		return d
	}
	return normal
}

func parseFailpoint(s string) *point {
	p := &point{at: 1, action: "kill"}
	if s == "" {
		return p
	}
	name, rest, _ := strings.Cut(s, ":")
	at, action, _ := strings.Cut(rest, ":")
	p.name = name
	switch {
	case at == "*":
		p.later = true
	case at != "":
		at, p.later = strings.CutSuffix(at, "+")
		n, err := strconv.ParseInt(at, 10, 64)
		if err != nil || n < 1 {
			refuse("%s: the passage is %q, want a number from 1 on, perhaps with a +, or *", FailpointEnv, at)
		}
		p.at = n
	}
	switch {
	case action == "":
	case strings.HasPrefix(action, "sleep="):
		d, err := time.ParseDuration(strings.TrimPrefix(action, "sleep="))
		if err != nil {
			refuse("%s: %v", FailpointEnv, err)
		}
		p.action, p.sleep = "sleep", d
	case slices.Contains([]string{"kill", "linger", "stop", "error"}, action):
		p.action = action
	default:
		refuse("%s: the action is %q, want kill, linger, stop, sleep=DURATION or error", FailpointEnv, action)
	}
	return p
}

func parseKnobs(s string) map[string]time.Duration {
	set := map[string]time.Duration{}
	for pair := range strings.SplitSeq(s, ",") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		d, err := time.ParseDuration(value)
		if err != nil {
			refuse("%s: %s: %v", KnobsEnv, name, err)
		}
		set[name] = d
	}
	return set
}

func say(format string, a ...any) { fmt.Fprintf(os.Stderr, "seeded: "+format+"\n", a...) }

// refuse ends a program that was not told what its scenario believes to have told.
func refuse(format string, a ...any) {
	say(format, a...)
	os.Exit(2)
}

// What follows is what some of the bugs need beside an if: the code of somebody who
// meant well.

var (
	pooledMu sync.Mutex
	pooled   = map[reflect.Type]any{}
)

// Pooled returns the one T there is, as it was left.
func Pooled[T any]() *T {
	pooledMu.Lock()
	defer pooledMu.Unlock()
	t := reflect.TypeFor[T]()
	if pooled[t] == nil {
		pooled[t] = new(T)
	}
	return pooled[t].(*T)
}

// Reversed returns the sequence backwards when on is true.
func Reversed[T any](on bool, in iter.Seq[T]) iter.Seq[T] {
	if !on {
		return in
	}
	all := slices.Collect(in)
	slices.Reverse(all)
	return slices.Values(all)
}

var (
	setMu sync.Mutex
	sets  = map[string]map[string]bool{}
)

// Remember replaces the set of that name.
func Remember(set string, members ...string) {
	setMu.Lock()
	defer setMu.Unlock()
	sets[set] = map[string]bool{}
	for _, m := range members {
		sets[set][m] = true
	}
}

// Recall reports whether the member is in the set.
func Recall(set, member string) bool {
	setMu.Lock()
	defer setMu.Unlock()
	return sets[set][member]
}

// Begin puts the member into the set, and returns false when it is there already.
func Begin(set, member string) bool {
	setMu.Lock()
	defer setMu.Unlock()
	if sets[set] == nil {
		sets[set] = map[string]bool{}
	}
	was := sets[set][member]
	sets[set][member] = true
	return !was
}

// End takes the member out of the set.
func End(set, member string) {
	setMu.Lock()
	defer setMu.Unlock()
	delete(sets[set], member)
}
