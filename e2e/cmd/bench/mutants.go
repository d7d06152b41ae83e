package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"regexp"
	"time"

	"github.com/blessd/blessd/e2e/scenario"
	"github.com/blessd/blessd/e2e/seed"
)

// mutants shows that the scenarios can fail.
func mutants(ctx context.Context, args []string) int {
	f := flag.NewFlagSet("bench mutants", flag.ContinueOnError)
	only := f.String("run", "", "only the mutants whose names match this `regexp`")
	tier := f.Int("tier", 1, "0 for those that are caught quickly, 1 for all")
	binary := f.String("binary", "", "the `path` of a seeded blessd (default: built from this source)")
	all := f.Bool("list", false, "list the mutants and what has to catch them, and run nothing")
	verbose := f.Bool("v", false, "say what happens")
	if err := f.Parse(args); err != nil {
		return 2
	}
	match, err := regexp.Compile(*only)
	if err != nil || f.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "bench mutants: -run takes a regular expression, and there are no arguments")
		return 2
	}
	var chosen []seed.Mutant
	for _, m := range seed.Mutants {
		if m.Tier <= *tier && match.MatchString(m.Name) {
			chosen = append(chosen, m)
		}
	}
	if *all {
		for _, m := range chosen {
			fmt.Printf("T%d  %-24s %-32s %-32s %s\n", m.Tier, m.Name, m.Scenario, m.Verdict, m.What)
		}
		return 0
	}
	if len(chosen) == 0 {
		fmt.Fprintln(os.Stderr, "bench mutants: no mutant has such a name; see bench mutants -list")
		return 2
	}
	o := scenario.Options{Binary: *binary}
	if *verbose {
		o.Log = os.Stderr
	}
	if o.Binary == "" {
		dir, err := os.MkdirTemp("", "blessd-seeded-")
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench mutants:", err)
			return 2
		}
		defer func() { _ = os.RemoveAll(dir) }() // in the temporary directory
		if o.Binary, err = scenario.BuildSeeded(ctx, dir); err != nil {
			fmt.Fprintln(os.Stderr, "bench mutants:", err)
			return 2
		}
	}
	began, caught, skipped, live := time.Now(), 0, 0, 0
	scenario.Mutants(ctx, chosen, o, func(k *scenario.Kill) {
		fmt.Println(k)
		switch {
		case k.Caught:
			caught++
		case k.Skipped():
			skipped++
		default:
			live++
		}
	})
	fmt.Printf("%d mutants: %d caught, %d live, %d skipped in %.0f s\n", len(chosen), caught, live, skipped, time.Since(began).Seconds())
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "bench mutants: interrupted")
		return 1
	}
	if live > 0 {
		return 1
	}
	return 0
}
