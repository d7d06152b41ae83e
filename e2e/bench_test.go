// Package e2e runs the bench's scenarios of tier 0 as tests. See README.md.
package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/blessd/blessd/e2e/scenario"
)

func TestMain(m *testing.M) {
	scenario.Child()
	if file := os.Getenv(skippedEnv); file != "" {
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// skippedEnv names a file for what could not run here: a test that passes prints
// nothing, and a skip must be seen.
const skippedEnv = "BENCH_SKIPPED"

// skipped adds a line to that file.
func skipped(t *testing.T, line fmt.Stringer) {
	file := os.Getenv(skippedEnv)
	if file == "" {
		return
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := fmt.Fprintln(f, line); err != nil {
		t.Fatal(err)
	}
}

// TestTier0 breaks blessd in every way that has time with each commit. Scenarios wait
// more than they compute, so as many run at a time as there are cores.
func TestTier0(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for some minutes; skipped with -short")
	}
	t.Parallel()
	binary, err := scenario.Build(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scenario.All() {
		if s.Tier > 0 {
			continue
		}
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			r := scenario.Run(context.WithoutCancel(t.Context()), s, scenario.Options{Binary: binary, Log: lines{t}})
			switch r.Outcome {
			case scenario.Fail:
				t.Errorf("%v", r)
			case scenario.Skip:
				skipped(t, r)
				t.Skipf("%v", r)
			case scenario.Pass:
				t.Logf("%v", r)
			}
		})
	}
}

// TestREADME keeps the table of faults true: it names every scenario under each of its
// faults, and no other.
func TestREADME(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	documented, real := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(string(text)) {
		fault, names, ok := strings.Cut(strings.TrimPrefix(line, "| "), " ")
		if !ok || !strings.HasPrefix(line, "| F") {
			continue
		}
		for i, name := range strings.Split(names, "`") {
			if i%2 == 1 && name == strings.ToLower(name) {
				documented[fault+" "+name] = true
			}
		}
	}
	for _, s := range scenario.All() {
		for _, f := range s.Faults {
			real[f+" "+s.Name] = true
		}
	}
	for x := range real {
		if !documented[x] {
			t.Errorf("README.md does not name the scenario %q", x)
		}
	}
	for x := range documented {
		if !real[x] {
			t.Errorf("README.md names %q, which is not in the registry", x)
		}
	}
}

// lines is the log of a test as a writer.
type lines struct{ t *testing.T }

func (l lines) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSuffix(string(p), "\n"))
	return len(p), nil
}

// TestRegistry keeps the table of scenarios in order.
func TestRegistry(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range scenario.All() {
		if seen[s.Name] || s.Name == "" || strings.Trim(s.Name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Errorf("scenario name %q: want lower case with dashes, and once", s.Name)
		}
		seen[s.Name] = true
		if s.Tier < 0 || s.Tier > 2 || s.Run == nil || !strings.HasSuffix(s.Proves, ".") || strings.Contains(s.Proves, "|") {
			t.Errorf("%s: want a tier of 0 to 2, a function, and one sentence for a table, got %q", s.Name, s.Proves)
		}
		for _, f := range s.Faults {
			var n int
			if _, err := fmt.Sscanf(f, "F%d", &n); err != nil || n < 1 || n > 38 || f != fmt.Sprintf("F%d", n) {
				t.Errorf("%s: there is no fault %q", s.Name, f)
			}
		}
	}
}
