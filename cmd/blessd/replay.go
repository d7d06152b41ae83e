package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-json"
	"github.com/spf13/cobra"

	"github.com/blessd/blessd/receiver"
	"github.com/blessd/blessd/relay"
)

func newReplayCommand() *cobra.Command {
	var (
		o                    replayRequest
		running              overrides
		admin                adminFlags
		since, until, format string
		oversize             bool
	)
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Put what was quarantined through today's normalizer",
		Long: `Puts what is in quarantine, and in the oversize directory, through the
normalizer of the running blessd once more. What it understands now is published
under the ids that it would have had at first, and leaves the quarantine. What
it still does not understand stays. Events that are in the stream already are
not published again, so it may be interrupted and repeated.

With --unverified it is the deliveries that were refused because no key verified
them: those that a key verifies now are accepted, with the time at which they
came. That happens by itself when the keys change.

Try --dry-run first: it says what would come of it and changes nothing. A
running blessd does the work; this command finds it through its data directory.
How far it is goes to stderr, what came of it to stdout.

Exit status: 0 when it came to its end, also when something stays; 1 when it did
not, or no blessd answers; 2 when the command line is wrong.`,
		Example: `  blessd replay --dry-run
  blessd replay --provider enkod --reason unreadable_element
  blessd replay --since 2026-11-20T00:00:00Z --until 2026-11-21T00:00:00Z
  blessd replay --unverified --endpoint eu
  blessd replay -o json -c /etc/blessd/blessd.yaml | jq .quarantine.events`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return badFormat(format)
			}
			if err := o.check(); err != nil {
				return err
			}
			if o.Unverified && cmd.Flags().Changed("oversize") {
				return fmt.Errorf("%w: --oversize is about the quarantine, and --unverified is not", errUsage)
			}
			now := time.Now()
			for _, bound := range []struct {
				flag, value string
				into        **time.Time
			}{{"since", since, &o.Since}, {"until", until, &o.Until}} {
				if bound.value == "" {
					continue
				}
				t, err := parseMoment(bound.flag, bound.value, now)
				if err != nil {
					return err
				}
				*bound.into = &t
			}
			if o.Since != nil && o.Until != nil && !o.Since.Before(*o.Until) {
				return fmt.Errorf("%w: --until is not after --since", errUsage)
			}
			o.QuarantineOnly = !oversize
			return replay(cmd.Context(), &running, admin, &o, format, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&o.DryRun, "dry-run", false, "say what would come of it and change nothing")
	fs.BoolVar(&o.Unverified, "unverified", false, "deliveries that no key verified, instead of the quarantine")
	fs.BoolVar(&oversize, "oversize", true, "include the files of the oversize directory")
	fs.StringSliceVar(&o.Endpoints, "endpoint", nil, "only this endpoint; repeatable")
	fs.StringSliceVar(&o.Providers, "provider", nil, "only this provider; repeatable")
	fs.StringSliceVar(&o.Reasons, "reason", nil, "only what was quarantined, or refused, for this reason; repeatable")
	fs.StringVar(&since, "since", "", "only what was received since: 1h, 7d, or a time as RFC 3339")
	fs.StringVar(&until, "until", "", "only what was received before: 1h, 7d, or a time as RFC 3339")
	addFormatFlag(cmd, &format)
	addFindFlags(cmd, &running)
	admin.bind(cmd)
	return cmd
}

// check refuses words that nothing can have.
func (q *replayRequest) check() error {
	// A record that could not be read is filed under no provider's name.
	providers := slices.DeleteFunc(slices.Clone(q.Providers), func(p string) bool { return p == relay.Unknown })
	if _, err := newTailFilter(nil, providers, q.Endpoints); err != nil {
		return err
	}
	reasons := relay.Reasons()
	if q.Unverified {
		reasons = receiver.Reasons()
	}
	for _, r := range q.Reasons {
		if !slices.Contains(reasons, r) {
			return fmt.Errorf("%w: no reason %q%s", errUsage, r, didYouMean(r, reasons))
		}
	}
	return nil
}

// replay has the running blessd replay, and shows what it says.
func replay(ctx context.Context, running *overrides, admin adminFlags, o *replayRequest, format string, out, talk io.Writer) error {
	answer, err := admin.post(ctx, running, "/-/replay", o)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	return showLines[replayLine](ctx, answer.Body, format, out, talk)
}

// progressLine is a line of an answer of the admin listener about work that takes long.
type progressLine[T any] interface {
	*T
	// ended says whether it is the last one, and why the work ended early.
	ended() (last bool, why string)
	progress(talk io.Writer)
	show(out io.Writer) error
}

// errNotBlessd says that the admin listener's answer is of another kind.
var errNotBlessd = errors.New("what answers at the admin listener is not this version of blessd")

// showLines shows the lines of an answer: how far it is on talk, what came of it on out.
func showLines[T any, L progressLine[T]](ctx context.Context, answer io.Reader, format string, out, talk io.Writer) error {
	in := bufio.NewReader(answer)
	for {
		b, err := in.ReadBytes('\n')
		if err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted: what was done is done, and the same command does the rest")
			}
			return fmt.Errorf("blessd broke off: what was done is done, and the same command does the rest: %w", err)
		}
		line := L(new(T))
		if err := json.Unmarshal(b, line); err != nil {
			return errNotBlessd
		}
		last, why := line.ended()
		switch {
		case !last:
			line.progress(talk)
			continue
		case format == "json":
			_, err = out.Write(b)
		default:
			err = line.show(out)
		}
		if err == nil && why != "" {
			err = errors.New(why)
		}
		return err
	}
}

func (l *replayLine) ended() (last bool, why string) { return l.Done, l.Error }

func (l *replayLine) progress(talk io.Writer) {
	switch {
	case l.Quarantine != nil:
		q := l.Quarantine
		fmt.Fprintf(talk, "%s: %d chosen, %d done, %d understood\n", q.Phase, q.Chosen, q.Done, q.Understood)
	case l.Unverified != nil:
		u := l.Unverified
		fmt.Fprintf(talk, "verifying: %d of %d done, %d redeemed\n", u.Done, u.Chosen, u.Redeemed)
	}
}

// show writes the summary for people.
func (l *replayLine) show(out io.Writer) error {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	row := func(what string, n int, means string) { fmt.Fprintf(t, "%s\t%d\t%s\n", what, n, means) }
	counts := func(m map[string]int) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			row("  "+k, m[k], "")
		}
	}
	total := func(m map[string]int) (n int) {
		for _, k := range m {
			n += k
		}
		return n
	}
	did := func(done, would string) string {
		if l.DryRun {
			return would
		}
		return done
	}
	if l.DryRun {
		fmt.Fprintln(t, "dry run: nothing is changed")
	}
	if q := l.Quarantine; q != nil {
		row("chosen", q.Chosen, "bodies and elements")
		row("understood", q.Understood, did("out of the quarantine", "would leave the quarantine"))
		row("events", total(q.Events), did("published", "would be published"))
		counts(q.Events)
		if q.AlreadyPublished > 0 {
			row("already there", q.AlreadyPublished, "events that the stream had")
		}
		if q.Elements > 0 {
			row("elements", q.Elements, did("quarantined alone, their bodies are understood", "would be quarantined alone"))
		}
		row("stayed", total(q.Stayed), "by the reason of today")
		counts(q.Stayed)
		if q.Foreign > 0 {
			row("foreign", q.Foreign, "messages that blessd has not written")
		}
	}
	if u := l.Unverified; u != nil {
		row("chosen", u.Chosen, "deliveries")
		row("redeemed", u.Redeemed, did("accepted", "would be accepted"))
		row("stayed", total(u.Stayed), "by the reason of today")
		counts(u.Stayed)
		if u.Damaged > 0 {
			row("damaged", u.Damaged, "files that cannot be read")
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(b.String()) {
		if _, err := io.WriteString(out, strings.TrimRight(line, " \n")+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// adminFlags say how to reach the admin listener of a running blessd where its
// configuration does not.
type adminFlags struct {
	url, authFile string
}

func (f *adminFlags) bind(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.url, "admin-url", "", "`URL` of the admin listener (default: that of the running blessd)")
	cmd.Flags().StringVar(&f.authFile, "admin-auth-file", "", "`file` with user:password for the admin listener")
}

// post sends in as JSON to the admin listener. The answer's status is 200.
func (f *adminFlags) post(ctx context.Context, running *overrides, path string, in any) (*http.Response, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("encode the request: %w", err)
	}
	return f.ask(ctx, running, http.MethodPost, path, body)
}

// get reads from the admin listener. The answer's status is 200.
func (f *adminFlags) get(ctx context.Context, running *overrides, path string) (*http.Response, error) {
	return f.ask(ctx, running, http.MethodGet, path, nil)
}

func (f *adminFlags) ask(ctx context.Context, running *overrides, method, path string, body []byte) (*http.Response, error) {
	base := f.url
	if base == "" {
		_, a, err := findRunning(running)
		if err != nil {
			return nil, err
		}
		base = "http://" + reachable(a.Admin)
	} else if u, err := url.Parse(base); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, fmt.Errorf("%w: --admin-url must be a URL like https://127.0.0.1:8081, without a password", errUsage)
	}
	q, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(base, "/")+path, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("reach the admin listener: %w", err)
	}
	if body != nil {
		q.Header.Set("Content-Type", "application/json")
	}
	if f.authFile != "" {
		b, err := os.ReadFile(f.authFile)
		if err != nil {
			return nil, fmt.Errorf("read the password for the admin listener: %w", err)
		}
		user, password, ok := strings.Cut(strings.TrimSpace(string(b)), ":")
		if !ok {
			return nil, fmt.Errorf("%s is not of the form user:password", f.authFile)
		}
		q.SetBasicAuth(user, password)
	}
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op
		}
		return nil, fmt.Errorf("blessd does not answer at %s: is it running? `blessd serve` starts it: %w", base, err)
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 512)) // what of it arrived
	why := strings.TrimSpace(strings.ToValidUTF8(string(text), ""))
	switch answer.StatusCode {
	case http.StatusUnauthorized:
		why = "it wants a password: give --admin-auth-file"
	case http.StatusNotFound:
		why = "it does not serve " + path + ": an older blessd, or one whose admin listener is off loopback without a password"
	}
	return nil, fmt.Errorf("the admin listener at %s: %s", base, why)
}
