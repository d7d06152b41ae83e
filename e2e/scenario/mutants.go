package scenario

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/blessd/blessd/e2e/seed"
)

// Kill is what became of a mutant.
type Kill struct {
	Mutant seed.Mutant
	Caught bool
	// Why it was not, or by what it was.
	Why     string
	Seconds float64
}

// String is one line for a person.
func (k *Kill) String() string {
	word := "caught"
	if !k.Caught {
		word = "LIVES "
	}
	return fmt.Sprintf("%s  %-24s %-32s %5.1f s  %s", word, k.Mutant.Name, k.Mutant.Scenario, k.Seconds, k.Why)
}

// skipped says that a scenario could not run here, so that its mutants show nothing.
const skipped = "SKIPPED, nothing is shown: "

// Mutants runs the scenario of each mutant, first with the correct program, which has
// to pass: else that a mutant fails proves nothing. o.Binary is a seeded blessd.
func Mutants(ctx context.Context, mutants []seed.Mutant, o Options, each func(*Kill)) {
	healthy := map[string]*Result{}
	for _, m := range mutants {
		if ctx.Err() != nil {
			return
		}
		each(kill(ctx, m, o, healthy))
	}
}

func kill(ctx context.Context, m seed.Mutant, o Options, healthy map[string]*Result) *Kill {
	k := &Kill{Mutant: m}
	s, ok := Find(m.Scenario)
	if !ok {
		k.Why = "there is no such scenario"
		return k
	}
	h := healthy[s.Name]
	if h == nil {
		h = Run(ctx, s, o)
		healthy[s.Name] = h
	}
	switch h.Outcome {
	case Pass:
	case Skip:
		k.Why = skipped + strings.Join(h.Why, "; ")
		return k
	case Fail:
		k.Why = "the scenario fails without it, too: " + strings.Join(h.Why, "; ")
		return k
	}
	o.Env = append(slices.Clip(o.Env), "BLESSD_MUTANT="+m.Name)
	o.Patience, o.Limit = 5*time.Second, time.Minute
	if m.Hangs {
		o.Limit = 20 * time.Second
	}
	began := time.Now()
	r := Run(ctx, s, o)
	k.Seconds = time.Since(began).Seconds()
	why := strings.Join(r.Why, "; ")
	switch {
	case ctx.Err() != nil:
		k.Why = "interrupted"
	case r.Outcome != Fail:
		k.Why = "the scenario passes"
	case r.reached != m.Name:
		k.Why = "the scenario fails, and the mutant was not reached: " + why
	case !strings.Contains(why, m.Verdict):
		k.Why = fmt.Sprintf("the scenario fails, and does not say %q: %s", m.Verdict, why)
	default:
		k.Caught = true
		for _, w := range r.Why {
			if strings.Contains(w, m.Verdict) {
				k.Why, _, _ = strings.Cut(w, "\n")
				break
			}
		}
	}
	return k
}

// Skipped tells whether the mutant's scenario could not run here.
func (k *Kill) Skipped() bool { return strings.HasPrefix(k.Why, skipped) }

// reached returns the mutant that a blessd of this scenario says was reached.
func (e *Env) reached() string {
	for _, b := range e.blessds {
		if _, rest, ok := strings.Cut(b.Log(), "seeded: mutant "); ok {
			name, _, _ := strings.Cut(rest, " is reached")
			return name
		}
	}
	return ""
}

// Find returns the scenario of that name.
func Find(name string) (Scenario, bool) {
	for _, s := range All() {
		if s.Name == name {
			return s, true
		}
	}
	return Scenario{}, false
}
