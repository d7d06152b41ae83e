package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/goccy/go-json"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/blessd/blessd/journal"
)

func newSalvageCommand() *cobra.Command {
	var (
		o      overrides
		format string
		yes    bool
	)
	cmd := &cobra.Command{
		Use:   "salvage",
		Short: "Make a damaged journal usable again",
		Long: `Makes a journal usable again with which blessd does not start because a log in it
is damaged. What can be read is put back in its place, in front of the damage and
behind it; what cannot is counted, and reported one by one when blessd runs
(blessd_events_quarantined_total, reason damaged_record). The damaged log is kept
beside it, as a file that ends in .damaged.

Without --yes it looks and changes nothing. blessd must not run. A disk that has
damaged one file may do it again: copy the data directory to another first.

Exit status: 0 when the journal is whole or was made so, 1 when it was not, 2 when
the command line is wrong.`,
		Example: `  blessd salvage -c /etc/blessd/blessd.yaml
  blessd salvage -c /etc/blessd/blessd.yaml --yes`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return badFormat(format)
			}
			return salvage(&o, !yes, format, cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "make it usable; without it nothing is changed")
	addFormatFlag(cmd, &format)
	addFindFlags(cmd, &o)
	return cmd
}

func salvage(o *overrides, dryRun bool, format string, out io.Writer) (err error) {
	cfg, err := o.load(os.LookupEnv)
	if err != nil {
		return fmt.Errorf("the configuration cannot be used:\n%w", err)
	}
	dir := filepath.Join(cfg.DataDir, "journal")
	if there, err := exists(dir); err != nil || !there {
		return errors.Join(err, fmt.Errorf("there is no journal in %s", cfg.DataDir))
	}
	d := newDaemon(cfg, zap.NewNop())
	if err := d.openDataDir(context.Background()); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Stop(context.Background())) }()
	s, err := journal.Salvage(journal.Options{Dir: dir}, dryRun)
	if err != nil {
		return err
	}
	if format == "json" {
		b, err := json.Marshal(struct {
			DryRun bool `json:"dry_run"`
			journal.Salvaged
		}{dryRun, s})
		if err != nil {
			return fmt.Errorf("encode the result: %w", err)
		}
		_, err = fmt.Fprintf(out, "%s\n", b)
		return err
	}
	for _, damage := range s.Damage {
		fmt.Fprintf(out, "%s  damaged at byte %d of %d\n", filepath.Join(dir, damage.File), damage.Whole, damage.Size)
	}
	switch {
	case len(s.Damage) == 0:
		fmt.Fprintln(out, "no log is damaged; when blessd does not start all the same, its message says which file it is")
	case dryRun:
		fmt.Fprintf(out, "%s behind the damage can be read; --yes puts them back\n", count(s.Recovered, "request"))
	default:
		fmt.Fprintf(out, "%s put back, %d missing; the journal can be used again\n", count(s.Recovered, "request"), s.Missing)
	}
	return nil
}
