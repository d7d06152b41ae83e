// Bench breaks a running blessd in many ways, counts what is left, and makes the
// table of docs/guarantees.md of it. See e2e/README.md.
//
//	bench list
//	bench run [-tier 0|1|2] [-run REGEXP] [-binary PATH] [-scale X] [-o FILE.json]
//	bench mutants [-tier 0|1] [-run REGEXP] [-list]
//	bench table FILE.json...
//	bench verdict [-nats URL] LEDGER
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"

	"github.com/blessd/blessd/e2e/scenario"
)

// commands in the order of the help text. Each returns the exit status: 0 when all is
// well, 1 when the bench found something, 2 when it could not be asked.
var commands = []struct {
	name, help string
	run        func(ctx context.Context, args []string) int
}{
	{"list", "the scenarios, with their faults and what each proves", list},
	{"run", "run scenarios; -h for the flags", run},
	{"mutants", "run the scenarios against seeded bugs, each of which has to be caught; -h for the flags", mutants},
	{"table", "a Markdown table of the results in FILE.json...", table},
	{"verdict", "judge again by a ledger alone; -h for the flags", verdict},
}

func main() {
	scenario.Child()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := command(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func command(ctx context.Context, args []string) int {
	if len(args) > 0 {
		for _, c := range commands {
			if c.name == args[0] {
				return c.run(ctx, args[1:])
			}
		}
	}
	fmt.Fprintln(os.Stderr, "bench breaks a running blessd and counts what is left.")
	for _, c := range commands {
		fmt.Fprintf(os.Stderr, "  bench %-9s %s\n", c.name, c.help)
	}
	if len(args) > 0 && slices.Contains([]string{"help", "-h", "--help"}, args[0]) {
		return 0
	}
	return 2
}
