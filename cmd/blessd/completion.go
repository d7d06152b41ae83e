package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/blessd/blessd/receiver"
	"github.com/blessd/blessd/relay"
)

// everyCommand calls f with root and with every command below it.
func everyCommand(root *cobra.Command, f func(*cobra.Command)) {
	f(root)
	for _, c := range root.Commands() {
		everyCommand(c, f)
	}
}

// addCompletion makes the command that writes completion scripts, and says for the
// flags of all commands what may follow them. A flag means the same wherever it is.
func addCompletion(root *cobra.Command) {
	root.InitDefaultCompletionCmd()
	everyCommand(root, func(c *cobra.Command) {
		switch c.CommandPath() {
		case "blessd completion":
			c.Short = "Write the completion script of a shell"
			c.Example = "  source <(blessd completion bash)\n  blessd completion fish > ~/.config/fish/completions/blessd.fish"
			// Without this it shows its help for a shell that it does not know, and all
			// seems well.
			c.Args, c.RunE = cobra.NoArgs, func(c *cobra.Command, _ []string) error { return c.Help() }
		case "blessd completion bash":
			c.Example = "  source <(blessd completion bash)\n  blessd completion bash > /etc/bash_completion.d/blessd"
			c.RunE = writeScript(root.GenBashCompletionV2)
		case "blessd completion zsh":
			c.Example = "  source <(blessd completion zsh)\n  blessd completion zsh > \"${fpath[1]}/_blessd\""
			c.RunE = writeScript(func(w io.Writer, described bool) error {
				if described {
					return root.GenZshCompletion(w)
				}
				return root.GenZshCompletionNoDesc(w)
			})
		case "blessd completion fish":
			c.Example = "  blessd completion fish | source\n  blessd completion fish > ~/.config/fish/completions/blessd.fish"
			c.RunE = writeScript(root.GenFishCompletion)
		case "blessd completion powershell":
			c.Example = "  blessd completion powershell | Out-String | Invoke-Expression"
			c.RunE = writeScript(func(w io.Writer, described bool) error {
				if described {
					return root.GenPowerShellCompletionWithDesc(w)
				}
				return root.GenPowerShellCompletion(w)
			})
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if complete := flagCompletion(f.Name); complete != nil {
				// The command may have said so itself, and better.
				if _, said := c.GetFlagCompletionFunc(f.Name); !said {
					_ = c.RegisterFlagCompletionFunc(f.Name, complete) // it fails for a flag that does not exist
				}
			}
		})
		switch {
		case c.ValidArgsFunction != nil:
		case strings.Contains(c.Use, "ENDPOINT"):
			c.ValidArgsFunction = completeEndpoints
		default:
			c.ValidArgsFunction = cobra.NoFileCompletions // nothing that takes a file takes it as an argument
		}
	})
}

// writeScript writes to where the command's output goes when it runs; cobra's own
// commands settle that when they are made.
func writeScript(generate func(w io.Writer, described bool) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, _ []string) error {
		bare, err := c.Flags().GetBool("no-descriptions")
		if err != nil {
			return err
		}
		return generate(c.OutOrStdout(), !bare)
	}
}

// flagCompletion is what may follow a flag, or nil for anything.
func flagCompletion(name string) cobra.CompletionFunc {
	words := func(words ...string) cobra.CompletionFunc {
		return cobra.FixedCompletions(slices.Compact(slices.Sorted(slices.Values(words))), cobra.ShellCompDirectiveNoFileComp)
	}
	switch name {
	case "config":
		return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt
		}
	case "data-dir":
		return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		}
	case "endpoint":
		return completeEndpoints
	case "output":
		return words("text", "json")
	case "provider":
		return words(receiver.Providers()...)
	case "reason":
		return words(append(relay.Reasons(), receiver.Reasons()...)...)
	case "type":
		return words(typeWords()...)
	case "key-file", "admin-auth-file", "creds", "nkey", "file":
		return nil // any file
	}
	return cobra.NoFileCompletions
}

// completeEndpoints reads the names from the configuration, as far as the line has
// been typed.
func completeEndpoints(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	var o overrides
	for flag, into := range map[string]*string{"config": &o.Config, "data-dir": &o.DataDir} {
		if f := c.Flag(flag); f != nil {
			*into = f.Value.String()
		}
	}
	cfg, err := o.load(os.LookupEnv)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []string
	for _, e := range cfg.Endpoints {
		names = append(names, e.Name+"\t"+e.Provider)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// newTopics returns the pages of `blessd help` that are about no command.
func newTopics() []*cobra.Command {
	var o overrides
	var variables strings.Builder
	variables.WriteString("  BLESSD_CONFIG         the configuration file, as -c\n")
	for _, v := range o.list() {
		fmt.Fprintf(&variables, "  %-21s %s, as --%s\n", v.variable, v.path, v.flag)
	}
	return []*cobra.Command{
		{
			Use:   "exit-status",
			Short: "What the exit status of every command means",
			Long: `Every command ends with one of these:

  0  all went well: also when a tail or a serve was interrupted
  1  something failed, and stderr says what and what to do about it
  2  the command line is wrong, and nothing was done

What a command means by "failed" is in its own help: check fails when serve
would not start, status when no delivery is accepted, send when an answer is not
what it should be. What is asked for goes to stdout, all else to stderr.`,
			Example: `  blessd status >/dev/null || echo "blessd accepts nothing"
  blessd check -c blessd.yaml && systemctl reload blessd`,
		},
		{
			Use:   "environment",
			Short: "The environment variables that blessd reads",
			Long: "A flag counts more than its variable, and that more than the file:\n\n" + variables.String() + `
${NAME} in the configuration file is the value of any variable. What systemd
passes for sockets, readiness and its watchdog is understood.

NO_COLOR, with any value, and TERM=dumb turn colours off. There are none where
the output is not a terminal.`,
			Example: `  NO_COLOR=1 blessd tail
  BLESSD_CONFIG=/etc/blessd/blessd.yaml blessd status`,
		},
	}
}

// isTopic tells whether c is a page of help and no command.
func isTopic(c *cobra.Command) bool { return !c.Runnable() && !c.HasSubCommands() }
