// Command blessd receives the webhooks of e-mail providers, keeps them on disk
// before it answers, and publishes them as canonical events to NATS JetStream.
//
// Each subcommand has a file of its own: serve runs the daemon, check validates
// a configuration, send plays a provider, tail shows events, status how the daemon
// is, replay mends what was quarantined, webhooks registers at the providers, demo
// shows all of it at once. config.go is the reference of the configuration file,
// daemon.go the wiring.
//
// Exit status: 0 when all went well, 1 when something failed, 2 when the command
// line was wrong. What is asked for goes to stdout, everything else to stderr.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the program at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:]))
}

// errUsage is wrapped by errors about the command line itself.
var errUsage = errors.New("wrong usage")

// run executes the command line and returns the exit status.
func run(ctx context.Context, args []string) int {
	root := newRootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		fmt.Fprintf(root.ErrOrStderr(), "blessd: %v\n", err)
		return 2
	default:
		fmt.Fprintf(root.ErrOrStderr(), "blessd: %v\n", err)
		return 1
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "blessd",
		Short: "Receives e-mail providers' webhooks and publishes them as events to NATS",
		Long: `blessd receives the webhooks of SendClean, Sarv, Mailgun, enKod and Vision6,
keeps each request on disk before it acknowledges it, and publishes it as
canonical events to NATS JetStream.`,
		Example: `  blessd serve                      # no configuration needed
  blessd send sendclean hard_bounce # what a provider would send
  blessd tail                       # what came out`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       currentVersion().String(),
		Args:          unknownSubcommand,
		RunE: func(c *cobra.Command, _ []string) error {
			return c.Help()
		},
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		// A command that does not exist has no flags: it is the mistake.
		if c.HasSubCommands() {
			if err := unknownSubcommand(c, c.Flags().Args()); err != nil {
				return fmt.Errorf("%w: %w (see `%s --help`)", errUsage, err, c.CommandPath())
			}
		}
		return fmt.Errorf("%w: %s (see `%s --help`)", errUsage, flagMistake(c, err), c.CommandPath())
	})
	root.SetVersionTemplate("{{.Version}}")
	root.AddCommand(
		newServeCommand(), newCheckCommand(), newHealthCommand(), newSendCommand(), newTailCommand(), newStatusCommand(),
		newReplayCommand(), newEraseCommand(), newSalvageCommand(),
		newDemoCommand(), newSchemaCommand(), newVersionCommand(),
		newWebhooksCommand(),
	)
	root.AddCommand(newTopics()...)
	addCompletion(root)
	argsAreUsage(root)
	return root
}

// argsAreUsage makes too many or unknown arguments usage errors as well.
func argsAreUsage(c *cobra.Command) {
	if args := c.Args; args != nil {
		c.Args = func(c *cobra.Command, a []string) error {
			if err := args(c, a); err != nil {
				return fmt.Errorf("%w: %w (see `%s --help`)", errUsage, err, c.CommandPath())
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		argsAreUsage(sub)
	}
}

// unknownSubcommand is for a command that has subcommands and does nothing itself.
func unknownSubcommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	c.SuggestionsMinimumDistance = 2
	mistake := fmt.Sprintf("no command %q", args[0])
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		best := closest(args[0], near)
		if best == "" {
			best = near[0]
		}
		mistake += fmt.Sprintf("; did you mean %q?", best)
	}
	return errors.New(mistake)
}
