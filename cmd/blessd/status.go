package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/goccy/go-json"
	"github.com/spf13/cobra"
)

func newStatusCommand() *cobra.Command {
	var (
		running overrides
		admin   adminFlags
		format  string
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how the running blessd is",
		Long: `Shows how the running blessd is: what needs a look and what to do about it; for
each endpoint the URL to register, whether the provider has tried it and what
came last; what was refused and why; the journal, NATS, and what is kept of
refused deliveries. The status page on the admin listener shows the same, and
the events as they are published.

With -o json it is what the admin listener answers at /-/status, on one line.
Tokens are masked in both.

Exit status: 0 when blessd accepts deliveries, 1 when it does not or does not
answer, 2 when the command line is wrong.`,
		Example: `  blessd status
  blessd status -c /etc/blessd/blessd.yaml
  blessd status -o json | jq -r '.attention[] | .level + ": " + .what'
  blessd status -o json | jq '.endpoints[] | {name, accepted, refused}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return badFormat(format)
			}
			return showStatus(cmd.Context(), &running, admin, format, cmd.OutOrStdout())
		},
	}
	addFormatFlag(cmd, &format)
	addFindFlags(cmd, &running)
	admin.bind(cmd)
	return cmd
}

const (
	// statusTime is how long blessd may take: it asks NATS for two seconds at most.
	statusTime = 15 * time.Second
	// maxStatus bounds the answer.
	maxStatus = 16 << 20
)

// errNotReady is what `blessd status` ends with when the status was shown.
var errNotReady = errors.New("blessd does not accept deliveries")

func showStatus(ctx context.Context, running *overrides, admin adminFlags, format string, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, statusTime)
	defer cancel()
	answer, err := admin.get(ctx, running, "/-/status")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(io.LimitReader(answer.Body, maxStatus))
	if err != nil {
		return fmt.Errorf("read the status: %w", err)
	}
	var s status
	if err := json.Unmarshal(b, &s); err != nil || s.Version == "" {
		return errors.New("what answers at the admin listener is not blessd")
	}
	if format == "json" {
		b, err = json.MarshalWithOption(s, json.DisableHTMLEscape())
		if err == nil {
			_, err = out.Write(append(b, '\n'))
		}
	} else {
		_, err = io.WriteString(out, s.text(colours(out)))
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if !s.Ready {
		return fmt.Errorf("%w: %s", errNotReady, s.NotReady)
	}
	return nil
}

// text is the status for people.
func (s *status) text(coloured bool) string {
	var b strings.Builder
	state, colour := "ready", green
	if !s.Ready {
		state, colour = "not ready: "+s.NotReady, red
	}
	fmt.Fprintf(&b, "blessd %s   %s   up %s, data in %s\n", s.Version, paint(onTerminal(state), colour, coloured), span(s.Now.Sub(s.Started)), onTerminal(s.DataDir))
	for _, a := range s.Attention {
		colour := map[string]string{"error": red, "warning": yellow}[a.Level]
		fmt.Fprintf(&b, "\n%s  %s\n", paint(a.Level, colour, coloured), onTerminal(a.What))
		if a.Mend != "" {
			fmt.Fprintf(&b, "  %s\n", onTerminal(a.Mend))
		}
	}
	s.textEndpoints(&b)
	s.textRefused(&b, coloured)
	b.WriteString("\n")
	s.textPipeline(&b)
	return b.String()
}

func (s *status) textEndpoints(b *strings.Builder) {
	b.WriteString("\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ENDPOINT\tPROVIDER\tVERIFIED BY\tURL CHECK\tLAST DELIVERY\tACCEPTED\tREFUSED\tURL")
	for _, e := range s.Endpoints {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%s\n", e.Name, e.Provider, onTerminal(e.Verified), s.ago(e.LastValidation), s.ago(e.LastAccepted), e.Accepted, e.Refused, onTerminal(e.URL))
	}
	if u := s.Unmatched; u.Refused > 0 {
		fmt.Fprintf(t, "(none)\t\t\t\t\t0\t%d\tpaths that no endpoint has\n", u.Refused)
	}
	_ = t.Flush() // a strings.Builder takes everything
}

// textRefused shows the last refusal of each endpoint.
func (s *status) textRefused(b *strings.Builder, coloured bool) {
	head := "\nlast refused:\n"
	show := func(name string, requests []requestStatus) {
		for _, r := range requests {
			if r.Outcome != "refused" {
				continue
			}
			fmt.Fprintf(b, "%s  %s  %s  %d %s\n    %s\n", head, r.At.Format(time.DateTime), name, r.Status, paint(r.Reason, red, coloured), onTerminal(r.Hint))
			if len(r.KeySources) > 0 {
				fmt.Fprintf(b, "    keys: %s\n", onTerminal(strings.Join(r.KeySources, ", ")))
			}
			head = ""
			return
		}
	}
	for _, e := range s.Endpoints {
		show(e.Name, e.Requests)
	}
	show("(none)", s.Unmatched.Requests)
}

func (s *status) textPipeline(b *strings.Builder) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	if j := s.Journal; j != nil {
		limit, oldest := "no limit", "nothing waits"
		if j.LimitBytes > 0 {
			limit = "of " + size(j.LimitBytes)
		}
		if j.Oldest != nil {
			oldest = "the oldest " + s.ago(j.Oldest)
		}
		fmt.Fprintf(t, "journal\t%s unpublished, %d not yet safe in NATS, %s %s, %s\n", count(int(j.Unpublished), "request"), j.Records, size(j.Bytes), limit, oldest)
	} else {
		fmt.Fprintf(t, "journal\tnone: answers wait for NATS\n")
	}
	relay := s.Relay.State
	if s.Relay.Error != "" {
		relay += ": " + s.Relay.Error
	}
	fmt.Fprintf(t, "relay\t%s, %s unacknowledged\n", onTerminal(relay), count(s.Relay.Pending, "message"))
	kind, state := "external", "connected"
	if s.NATS.Embedded {
		kind = "embedded"
	}
	if !s.NATS.Connected {
		state = "not connected"
	}
	fmt.Fprintf(t, "NATS\t%s %s, %s, %s\n", kind, onTerminal(s.NATS.ServerVersion), state, onTerminal(s.NATS.URL))
	for _, st := range s.NATS.Streams {
		if st.Error != "" {
			fmt.Fprintf(t, "  %s\t%s\n", onTerminal(st.Name), onTerminal(st.Error))
			continue
		}
		limit := ""
		if st.LimitBytes > 0 {
			limit = " of " + size(uint64(st.LimitBytes))
		}
		first := ""
		if st.First != nil {
			first = ", the oldest " + s.ago(st.First)
		}
		fmt.Fprintf(t, "  %s\t%s, %s%s%s\n", onTerminal(st.Name), count(int(st.Messages), "message"), size(st.Bytes), limit, first)
	}
	if u := s.Unverified; u != nil {
		fmt.Fprintf(t, "refused and kept\t%d, %s of %s\n", u.Records, size(uint64(u.Bytes)), size(uint64(u.LimitBytes)))
	} else {
		fmt.Fprintf(t, "refused and kept\tnothing is kept: unverified.max_bytes is 0\n")
	}
	file := s.Config.File
	if file == "" {
		file = "none"
	}
	if !s.Config.InForce {
		file += "; what was read last cannot be used"
	}
	fmt.Fprintf(t, "configuration\t%s, read %s\n", onTerminal(file), s.ago(&s.Config.Loaded))
	_ = t.Flush() // a strings.Builder takes everything
}

// ago says how long before the status something was.
func (s *status) ago(t *time.Time) string {
	if t == nil {
		return "never"
	}
	return span(s.Now.Sub(*t)) + " ago"
}

// span writes a time for people, in one unit.
func span(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", max(0, int(d.Seconds())))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// size writes a number of bytes for people.
func size(n uint64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), ""
	for _, unit = range []string{"KiB", "MiB", "GiB", "TiB"} {
		if f /= 1024; f < 1024 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

// onTerminal takes out of s what a terminal would obey.
func onTerminal(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
