package e2e

import (
	"context"
	"testing"

	"github.com/blessd/blessd/e2e/scenario"
	"github.com/blessd/blessd/e2e/seed"
)

// TestMutants shows that the scenarios can fail: each bug of package seed that is
// caught quickly is caught by the scenario that it names, and by its verdict.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for some minutes; skipped with -short")
	}
	t.Parallel()
	binary, err := scenario.BuildSeeded(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	var quick []seed.Mutant
	for _, m := range seed.Mutants {
		if m.Tier == 0 {
			quick = append(quick, m)
		}
	}
	o := scenario.Options{Binary: binary, Log: lines{t}}
	scenario.Mutants(context.WithoutCancel(t.Context()), quick, o, func(k *scenario.Kill) {
		switch {
		case k.Caught:
			t.Log(k)
		case k.Skipped():
			skipped(t, k)
			t.Logf("SKIPPED: %v", k)
		default:
			t.Error(k)
		}
	})
}

// TestMutantsAreCaughtBySomething shows that every mutant names a scenario that there
// is, without running it.
func TestMutantsAreCaughtBySomething(t *testing.T) {
	for _, m := range seed.Mutants {
		if _, ok := scenario.Find(m.Scenario); !ok && m.Tier == 0 {
			t.Errorf("mutant %s is to be caught by the scenario %q, which there is not", m.Name, m.Scenario)
		}
	}
}
