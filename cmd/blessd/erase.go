package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

func newEraseCommand() *cobra.Command {
	var (
		o       eraseRequest
		running overrides
		admin   adminFlags
		format  string
		yes     bool
		file    string
	)
	cmd := &cobra.Command{
		Use:   "erase [ADDRESS]",
		Short: "Erase what is stored about one person",
		Long: `Erases every event, quarantined body, oversize body and refused delivery that has
an e-mail address or a phone number in it, wherever in it that is. Without --yes
it only counts them. What is erased cannot be had back: the server overwrites it
on disk.

A running blessd does the work. It first waits until what is in the journal is
safe in NATS, since an event that is erased before would be published again
after a crash; what the journal itself held of it is deleted from the disk by and
by. Consumers, backups and the providers have copies of their own.

--file keeps the address out of the shell's history and the process list.

Exit status: 0 when it came to its end, 1 when it did not, or no blessd answers;
2 when the command line is wrong.`,
		Example: `  blessd erase user@example.com          # what is there
  blessd erase user@example.com --yes    # erase it
  blessd erase --file - --yes < address`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "text" && format != "json" {
				return badFormat(format)
			}
			switch {
			case len(args) == 1 && file == "":
				o.Address = args[0]
			case len(args) == 0 && file != "":
				address, err := readAddress(file, cmd.InOrStdin())
				if err != nil {
					return err
				}
				o.Address = address
			default:
				return fmt.Errorf("%w: give either an address or --file", errUsage)
			}
			if _, err := parsePerson(o.Address); err != nil {
				return fmt.Errorf("%w: what is given is %w", errUsage, err)
			}
			o.DryRun = !yes
			return erase(cmd.Context(), &running, admin, &o, format, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&yes, "yes", false, "erase; without it nothing is changed")
	fs.StringVar(&file, "file", "", "read the address from this `file`, - for standard input")
	addFormatFlag(cmd, &format)
	addFindFlags(cmd, &running)
	admin.bind(cmd)
	return cmd
}

func readAddress(file string, stdin io.Reader) (string, error) {
	if file == "-" {
		b, err := io.ReadAll(io.LimitReader(stdin, maxReplayRequest))
		if err != nil {
			return "", fmt.Errorf("read the address: %w", err)
		}
		return strings.TrimSpace(string(b)), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read the address: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// erase has the running blessd erase, and shows what it says.
func erase(ctx context.Context, running *overrides, admin adminFlags, o *eraseRequest, format string, out, talk io.Writer) error {
	answer, err := admin.post(ctx, running, "/-/erase", o)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return showLines[eraseLine](ctx, answer.Body, format, out, talk)
}

func (l *eraseLine) ended() (last bool, why string) { return l.Done, l.Error }

func (l *eraseLine) progress(talk io.Writer) {
	switch n := len(l.Places); {
	case n > 0:
		p := l.Places[n-1]
		fmt.Fprintf(talk, "%s: %d looked at, %d found\n", p.Name, p.Seen, p.Matched)
	case l.Waiting > 0:
		fmt.Fprintf(talk, "waiting for %d requests in the journal to be safe in NATS\n", l.Waiting)
	}
}

// show writes the summary for people.
func (l *eraseLine) show(out io.Writer) error {
	did := "erased"
	if l.DryRun {
		did = "found; --yes erases them"
	}
	t := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, p := range l.Places {
		fmt.Fprintf(t, "%s\t%d of %d\t%s\n", p.Name, p.Matched, p.Seen, did)
	}
	return t.Flush()
}
