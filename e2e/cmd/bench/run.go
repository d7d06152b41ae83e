package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
	"github.com/blessd/blessd/e2e/scenario"
)

// report is what "run -o" writes and "table" reads.
type report struct {
	Began   time.Time          `json:"began"`
	Tier    int                `json:"tier"`
	Scale   float64            `json:"scale"`
	Commit  string             `json:"commit"`
	Machine string             `json:"machine"`
	Results []*scenario.Result `json:"results"`
}

func list(context.Context, []string) int {
	for _, s := range scenario.All() {
		fmt.Printf("T%d  %-28s %-12s %s\n", s.Tier, s.Name, strings.Join(s.Faults, " "), s.Proves)
	}
	return 0
}

// scales are how much more is done in each tier.
var scales = []float64{1, 10, 100}

func run(ctx context.Context, args []string) int {
	f := flag.NewFlagSet("bench run", flag.ContinueOnError)
	tier := f.Int("tier", 0, "run the scenarios of this tier and those below: 0, 1 or 2")
	only := f.String("run", "", "run the scenarios whose names match this `regexp`, of whatever tier")
	binary := f.String("binary", "", "the `path` of the blessd to test (default: built from this source)")
	scale := f.Float64("scale", 0, "multiply cycles and durations by this (default 1, 10 or 100 by tier)")
	out := f.String("o", "", "write the results to this `file`, as JSON")
	keep := f.String("keep", "", "keep the ledgers and logs of scenarios that fail in this `directory`")
	verbose := f.Bool("v", false, "say what happens")
	if err := f.Parse(args); err != nil {
		return 2
	}
	if *tier < 0 || *tier >= len(scales) || f.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "bench run: -tier is 0, 1 or 2, and there are no arguments")
		return 2
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench run: -run:", err)
		return 2
	}
	if *scale == 0 {
		*scale = scales[*tier]
	}
	var chosen []scenario.Scenario
	for _, s := range scenario.All() {
		if *only == "" && s.Tier <= *tier || *only != "" && match.MatchString(s.Name) {
			chosen = append(chosen, s)
		}
	}
	if len(chosen) == 0 {
		fmt.Fprintln(os.Stderr, "bench run: no scenario has such a name; see bench list")
		return 2
	}
	o := scenario.Options{Binary: *binary, Scale: *scale, Keep: *keep}
	if *verbose {
		o.Log = os.Stderr
	}
	if o.Binary == "" {
		dir, err := os.MkdirTemp("", "blessd-bench-")
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench run:", err)
			return 2
		}
		defer func() { _ = os.RemoveAll(dir) }() // in the temporary directory
		if o.Binary, err = scenario.Build(ctx, dir); err != nil {
			fmt.Fprintln(os.Stderr, "bench run:", err)
			return 2
		}
	}
	r := &report{Began: time.Now(), Tier: *tier, Scale: *scale, Commit: scenario.Commit(ctx), Machine: machine()}
	for _, s := range chosen {
		if ctx.Err() != nil {
			break
		}
		result := scenario.Run(ctx, s, o)
		r.Results = append(r.Results, result)
		fmt.Println(result)
	}
	failed := summarize(os.Stdout, r)
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "bench run: interrupted")
		failed = true
	}
	if *out != "" {
		if err := writeReport(*out, r); err != nil {
			fmt.Fprintln(os.Stderr, "bench run:", err)
			return 2
		}
	}
	if failed {
		return 1
	}
	return 0
}

func summarize(w io.Writer, r *report) (failed bool) {
	count := map[scenario.Outcome]int{}
	var total ledger.Verdict
	var longest time.Duration
	for _, x := range r.Results {
		count[x.Outcome]++
		total.Events += x.Events
		total.Lost += x.Lost
		total.Ghosts += x.Ghosts
		total.Changed += x.Changed
		total.Duplicates += x.Duplicates
		longest = max(longest, x.LongestRefusal)
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped in %.0f s: %d events blessed, lost %d, ghosts %d, changed %d, duplicates %d, longest refusal %.1f s\n",
		count[scenario.Pass], count[scenario.Fail], count[scenario.Skip], time.Since(r.Began).Seconds(),
		total.Events, total.Lost, total.Ghosts, total.Changed, total.Duplicates, longest.Seconds())
	for _, x := range r.Results {
		if x.Outcome != scenario.Pass {
			fmt.Fprintf(w, "  %s %s: %s\n", x.Outcome, x.Scenario, x.Short())
		}
	}
	return count[scenario.Fail] > 0
}

func machine() string {
	return fmt.Sprintf("%s/%s, %d cores", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
}

func writeReport(file string, r *report) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if err := os.WriteFile(file, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}

// table prints the newest result of each scenario.
func table(_ context.Context, args []string) int {
	if len(args) == 0 {
		fmt.Fprintln(os.Stderr, "bench table: name the files that bench run -o wrote")
		return 2
	}
	type row struct {
		*scenario.Result
		commit string
	}
	newest := map[string]row{}
	for _, file := range args {
		text, err := os.ReadFile(file)
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench table:", err)
			return 2
		}
		var r report
		if err := json.Unmarshal(text, &r); err != nil {
			fmt.Fprintf(os.Stderr, "bench table: %s is not what bench run -o writes: %v\n", file, err)
			return 2
		}
		for _, x := range r.Results {
			if old, ok := newest[x.Scenario]; !ok || x.Began.After(old.Began) {
				newest[x.Scenario] = row{x, r.Commit}
			}
		}
	}
	rows := make([]row, 0, len(newest))
	for _, s := range scenario.All() {
		if x, ok := newest[s.Name]; ok {
			rows = append(rows, x)
			delete(newest, s.Name)
		}
	}
	for _, x := range newest { // of a scenario that is no more
		rows = append(rows, x)
	}
	fmt.Println("| scenario | faults | it proves | result | events | lost | ghosts | changed | duplicates | refused | longest refusal | metrics equal the ledger | measured | date | commit |")
	fmt.Println("| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | --- | --- | --- |")
	for _, x := range rows {
		result := string(x.Outcome)
		if x.Outcome != scenario.Pass {
			result += ": " + strings.ReplaceAll(x.Short(), "|", "\\|")
		}
		conserved := "by the ledger alone"
		if x.Conserved {
			conserved = "yes"
		}
		fmt.Printf("| `%s` | %s | %s | %s | %d | %d | %d | %d | %d | %d | %.1f s | %s | %s | %s | %s |\n",
			x.Scenario, strings.Join(x.Faults, " "), x.Proves, result, x.Events, x.Lost, x.Ghosts, x.Changed, x.Duplicates,
			x.Refused, x.LongestRefusal.Seconds(), conserved, strings.ReplaceAll(strings.Join(x.Figures, "; "), "|", "\\|"), x.Began.Format("2006-01-02"), x.commit)
	}
	return 0
}

// verdict judges by a ledger and the streams, and nothing else.
func verdict(ctx context.Context, args []string) int {
	f := flag.NewFlagSet("bench verdict", flag.ContinueOnError)
	url := f.String("nats", "nats://127.0.0.1:4222", "the `URL` of the server with the streams")
	oversize := f.String("oversize", "", "the `directory` oversize of blessd's data, if it is here")
	only := f.Bool("only-acked", false, "nothing may be stored that was not acknowledged, as after SIGTERM")
	// The file may come first, which the package flag does not know.
	if i := slices.IndexFunc(args, func(a string) bool { return !strings.HasPrefix(a, "-") }); i == 0 {
		args = append(args[1:], args[0])
	}
	if err := f.Parse(args); err != nil {
		return 2
	}
	if f.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "bench verdict: name one ledger")
		return 2
	}
	rules := ledger.Rules{OnlyAcked: *only}
	book, err := ledger.Open(f.Arg(0))
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench verdict:", err)
		return 2
	}
	defer func() { _ = book.Close() }() // it was only read
	var dirs []string
	if *oversize != "" {
		dirs = append(dirs, *oversize)
	}
	v, err := ledger.JudgeStreams(ctx, book, *url, rules, dirs...)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench verdict:", err)
		return 2
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		fmt.Fprintln(os.Stderr, "bench verdict:", err)
		return 2
	}
	problems := v.Problems(rules)
	for _, p := range problems {
		fmt.Println("WRONG:", p)
	}
	if len(problems) > 0 {
		return 1
	}
	return 0
}
