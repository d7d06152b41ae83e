package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/goccy/go-json"
	"github.com/goccy/go-json/jsontext"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/receiver"
)

// tailFilter chooses events by their subject, so that the server does the work.
// An empty list is everything.
type tailFilter struct {
	types, providers, endpoints []string
}

// newTailFilter checks what was asked for. A type is written whole, or as its
// family or its verb alone.
func newTailFilter(types, providers, endpoints []string) (tailFilter, error) {
	f := tailFilter{endpoints: slices.Compact(slices.Sorted(slices.Values(endpoints)))}
	for _, word := range types {
		found := false
		for _, t := range event.Types() {
			if word == string(t) || word == t.Family() || word == t.Verb() {
				f.types, found = append(f.types, string(t)), true
			}
		}
		if !found {
			return f, fmt.Errorf("%w: no event type is or has %q%s", errUsage, word, didYouMean(word, typeWords()))
		}
	}
	f.types = slices.Compact(slices.Sorted(slices.Values(f.types)))
	for _, p := range providers {
		if !slices.Contains(receiver.Providers(), p) {
			return f, fmt.Errorf("%w: no provider %q%s", errUsage, p, didYouMean(p, receiver.Providers()))
		}
	}
	f.providers = slices.Compact(slices.Sorted(slices.Values(providers)))
	for _, e := range endpoints {
		if e == "" || strings.Trim(e, "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
			return f, fmt.Errorf("%w: %q is no name of an endpoint", errUsage, e)
		}
	}
	return f, nil
}

// typeWords is every word that --type takes.
func typeWords() []string {
	var words []string
	for _, t := range event.Types() {
		words = append(words, string(t), t.Family(), t.Verb())
	}
	return words
}

// subjects returns subjects that do not overlap, as JetStream requires, or nil
// for everything. The prefix ends in "events.".
func (f tailFilter) subjects(prefix string) []string {
	if len(f.types)+len(f.providers)+len(f.endpoints) == 0 {
		return nil
	}
	or := func(words []string, all string) []string {
		if len(words) == 0 {
			return []string{all}
		}
		return words
	}
	var subjects []string
	for _, p := range or(f.providers, "*") {
		for _, e := range or(f.endpoints, "*") {
			for _, t := range or(f.types, "*.*") {
				subjects = append(subjects, prefix+p+"."+e+"."+t)
			}
		}
	}
	return subjects
}

// tailRange says which of the stored events to show and when to end.
type tailRange struct {
	since  time.Time // zero: not asked for
	last   int       // 0: not asked for
	follow bool
	// wait is how long the stream may not be there yet: a blessd that has just
	// been started makes it when it has found NATS.
	wait time.Duration
}

// tailer reads the events stream as any consumer does, without a mark left
// behind on the server.
type tailer struct {
	messages jetstream.MessagesContext
	skip     uint64 // stored events before those that were asked for
	left     uint64 // events to go, when it does not follow
	follow   bool
	subjects []string // what it watches
}

// watching says what is shown, for people.
func (t *tailer) watching() string {
	const most = 3
	if more := len(t.subjects) - most; more > 0 {
		return strings.Join(t.subjects[:most], ", ") + fmt.Sprintf(" and %d more", more)
	}
	return strings.Join(t.subjects, ", ")
}

// openTail starts reading. It needs no more rights than the embedded server's
// consumer has.
func openTail(ctx context.Context, js jetstream.JetStream, stream string, f tailFilter, r tailRange) (*tailer, error) {
	s, err := findStream(ctx, js, stream, r.wait)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	prefix := eventsPrefix(s.CachedInfo().Config.Subjects)
	subjects := f.subjects(prefix)
	c := jetstream.OrderedConsumerConfig{FilterSubjects: subjects, DeliverPolicy: jetstream.DeliverAllPolicy}
	switch {
	case r.last > 0:
		first, err := startOfLast(ctx, s, subjects, uint64(r.last))
		if err != nil {
			return nil, err
		}
		c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, first
	case !r.since.IsZero():
		c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &r.since
	case r.follow:
		c.DeliverPolicy = jetstream.DeliverNewPolicy
	}
	consumer, err := s.OrderedConsumer(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("read the stream %s: %w", stream, err)
	}
	t := &tailer{follow: r.follow, left: consumer.CachedInfo().NumPending, subjects: subjects}
	if len(subjects) == 0 {
		t.subjects = []string{prefix + ">"}
	}
	if last := uint64(r.last); last > 0 && t.left > last {
		t.skip = t.left - last
	}
	if t.messages, err = consumer.Messages(); err != nil {
		return nil, fmt.Errorf("read the stream %s: %w", stream, err)
	}
	return t, nil
}

func findStream(ctx context.Context, js jetstream.JetStream, name string, wait time.Duration) (jetstream.Stream, error) {
	deadline := time.Now().Add(wait)
	for {
		s, err := js.Stream(ctx, name)
		switch {
		case err == nil:
			return s, nil
		case !errors.Is(err, jetstream.ErrStreamNotFound):
			return nil, fmt.Errorf("look for the stream %s: %w", name, err)
		case time.Now().After(deadline):
			return nil, fmt.Errorf("this NATS server has no stream %s: is it blessd's, or has the stream another name (--stream)", name)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// eventsPrefix finds how subjects begin in a stream that takes "mail.events.>",
// whatever its prefix.
func eventsPrefix(subjects []string) string {
	for _, s := range subjects {
		if prefix, ok := strings.CutSuffix(s, ">"); ok && strings.HasSuffix(prefix, ".events.") {
			return prefix
		}
	}
	return "*.events."
}

// startOfLast returns a sequence from which at least n events match, or the
// first of the stream. It asks the server to count, in windows that double, so
// that the last ten of ten million are found without reading them.
func startOfLast(ctx context.Context, s jetstream.Stream, subjects []string, n uint64) (uint64, error) {
	state := s.CachedInfo().State
	for window := n; ; window *= 2 {
		first := max(state.FirstSeq, 1)
		if state.LastSeq > window && state.LastSeq-window+1 > first {
			first = state.LastSeq - window + 1
		}
		c, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
			FilterSubjects: subjects, DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: first,
			InactiveThreshold: 5 * time.Second,
		})
		if err != nil {
			return 0, fmt.Errorf("count the stored events: %w", err)
		}
		info := c.CachedInfo()
		// It would go by itself; an error means only that it stays for 5 s.
		_ = s.DeleteConsumer(ctx, info.Name)
		if info.NumPending >= n || first <= max(state.FirstSeq, 1) {
			return first, nil
		}
	}
}

// next returns the next event that was asked for, or io.EOF after the last one
// that was stored when the tail does not follow.
func (t *tailer) next(ctx context.Context) (jetstream.Msg, error) {
	for {
		if !t.follow && t.left == 0 {
			return nil, io.EOF
		}
		m, err := t.messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return nil, fmt.Errorf("read the stream: %w", err)
		}
		// What expires while it is read never arrives: the server's count is
		// the truth, ours bounds it where new events come faster than we read.
		if meta, err := m.Metadata(); err == nil && meta.NumPending < t.left {
			t.left = min(t.left-1, meta.NumPending)
		} else if t.left > 0 {
			t.left--
		}
		if t.skip > 0 {
			t.skip--
			continue
		}
		return m, nil
	}
}

func (t *tailer) stop() { t.messages.Stop() }

// storedEvent is one line of `tail -o json`, a contract with scripts.
type storedEvent struct {
	Subject string         `json:"subject"`
	Headers map[string]any `json:"headers"` // a string, or an array where a header repeats
}

// jsonLine returns the message as one JSON object on one line. The event is
// copied byte for byte unless it spans lines: then blanks between its values go.
func jsonLine(m jetstream.Msg) ([]byte, error) {
	data := jsontext.Value(m.Data())
	if !data.IsValid(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true)) || data.Kind() != '{' {
		return nil, errors.New("its data is no JSON object")
	}
	if strings.ContainsAny(string(data), "\r\n") {
		data = data.Clone()
		if err := data.Compact(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true), jsontext.PreserveRawStrings(true)); err != nil {
			return nil, fmt.Errorf("its data cannot be put on one line: %w", err)
		}
	}
	e := storedEvent{Subject: m.Subject(), Headers: make(map[string]any)}
	for name, values := range m.Headers() {
		if len(values) == 1 {
			e.Headers[name] = values[0]
		} else {
			e.Headers[name] = values
		}
	}
	head, err := json.MarshalWithOption(e, json.DisableHTMLEscape())
	if err != nil {
		return nil, fmt.Errorf("encode its headers: %w", err)
	}
	line := append(head[:len(head)-1], `,"data":`...)
	line = append(line, data...)
	return append(line, "}\n"...), nil
}

// parseSince reads how far back to go: a duration like 1h or 7d, or a time.
func parseSince(s string, now time.Time) (time.Time, error) { return parseMoment("since", s, now) }

// parseMoment is parseSince for the flag of that name.
func parseMoment(flag, s string, now time.Time) (time.Time, error) {
	var ago Duration
	if err := ago.UnmarshalText([]byte(s)); err == nil {
		return now.Add(-time.Duration(ago)), nil
	}
	for _, layout := range []string{time.RFC3339, time.DateTime, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%w: --%s %q is neither a duration like 1h or 7d nor a time like 2026-11-21T17:00:00Z", errUsage, flag, s)
}

func newTailCommand() *cobra.Command {
	var (
		n                           natsFlags
		types, providers, endpoints []string
		since, format               string
		last                        int
		noFollow                    bool
	)
	cmd := &cobra.Command{
		Use:   "tail",
		Short: "Show the events as they arrive from NATS",
		Long: `Shows canonical events as they arrive from NATS, one line each, until it is
interrupted. --since and --last show stored events first; --no-follow ends after
what is stored.

It reads the stream as any consumer does and needs no credentials on the
embedded server. It finds the server of a running blessd through its data
directory; --server or --context names any other.

With -o json each line is an object with the subject, the headers (a string
each, or an array where a header repeats) and the event itself as data.

Exit status: 0 at the end or when interrupted, 1 when the stream cannot be read,
2 when the command line is wrong.`,
		Example: `  blessd tail
  blessd tail --type bounced --since 1h
  blessd tail --provider mailgun --type email.opened --type email.clicked
  blessd tail -o json --last 100 --no-follow | jq -r .data.recipient
  blessd tail --server nats://nats.example.net:4222 --creds consumer.creds`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, pair := range [][2]string{
				{"since", "last"},
				{"server", "context"},
				{"server", "config"},
				{"server", "data-dir"},
				{"context", "config"},
				{"context", "data-dir"},
				{"creds", "nkey"},
			} {
				if err := exclusive(cmd, pair[0], pair[1]); err != nil {
					return err
				}
			}
			if format != "text" && format != "json" {
				return badFormat(format)
			}
			f, err := newTailFilter(types, providers, endpoints)
			if err != nil {
				return err
			}
			r := tailRange{last: last, follow: !noFollow, wait: 3 * time.Second}
			if since != "" {
				if r.since, err = parseSince(since, time.Now()); err != nil {
					return err
				}
			}
			if cmd.Flags().Changed("last") && last < 1 {
				return fmt.Errorf("%w: --last %d is less than 1", errUsage, last)
			}
			return tail(cmd.Context(), n, f, r, format, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	fs := cmd.Flags()
	fs.StringSliceVar(&types, "type", nil, "only this type (email.bounced), family (email) or verb (bounced); repeatable")
	fs.StringSliceVar(&providers, "provider", nil, "only this provider; repeatable")
	fs.StringSliceVar(&endpoints, "endpoint", nil, "only this endpoint; repeatable")
	fs.StringVar(&since, "since", "", "first show what was stored since: 1h, 7d, or a time as RFC 3339")
	fs.IntVar(&last, "last", 0, "first show the last `N` stored events that match")
	fs.BoolVar(&noFollow, "no-follow", false, "end after what is stored; without --since or --last that is everything")
	addFormatFlag(cmd, &format)
	addFindFlags(cmd, &n.running)
	fs.StringVar(&n.server, "server", "", "`URL` of a NATS server, instead of the running blessd's")
	fs.StringVar(&n.context, "context", "", "context of the nats command line tool")
	fs.StringVar(&n.credsFile, "creds", "", "credentials `file` for NATS")
	fs.StringVar(&n.nkeyFile, "nkey", "", "nkey seed `file` for NATS")
	fs.StringVar(&n.stream, "stream", "", "name of the events stream (default MAIL_EVENTS, or the configuration's)")
	return cmd
}

// tail prints events until the end, or until ctx is done, which is no error.
func tail(ctx context.Context, n natsFlags, f tailFilter, r tailRange, format string, out, talk io.Writer) error {
	nc, stream, err := dialEvents(n)
	if err != nil {
		return err
	}
	defer nc.Close()
	talk = &lockedWriter{w: talk}
	defer watchConnection(nc, talk)()
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("use JetStream: %w", err)
	}
	t, err := openTail(ctx, js, stream, f, r)
	if ctx.Err() != nil {
		return nil // interrupted
	}
	if err != nil {
		return err
	}
	defer t.stop()
	if r.follow {
		fmt.Fprintf(talk, "watching %s at %s (Ctrl-C ends)\n", t.watching(), nc.ConnectedUrlRedacted())
	}
	coloured := colours(out)
	for {
		m, err := t.next(ctx)
		switch {
		case errors.Is(err, io.EOF), ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		}
		var line []byte
		if format == "json" {
			line, err = jsonLine(m)
		} else {
			var e *event.Event
			if e, err = event.Decode(m.Data()); err == nil {
				line = []byte(eventLine(e, coloured) + "\n")
			}
		}
		if err != nil {
			// On a server that is not ours anybody may publish: the rest goes on.
			fmt.Fprintf(talk, "blessd: skipped a message on %s: %v\n", m.Subject(), err)
			continue
		}
		if _, err := out.Write(line); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
}

// watchConnection tells when the connection is lost and when it is back, which a
// tail without events does not show. The function that it returns ends it.
func watchConnection(nc *nats.Conn, talk io.Writer) (stop func()) {
	changes := nc.StatusChanged(nats.RECONNECTING, nats.CONNECTED)
	ended, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case status := <-changes:
				switch status {
				case nats.RECONNECTING:
					fmt.Fprintln(talk, "blessd: the connection to NATS is lost, waiting for it")
				case nats.CONNECTED:
					fmt.Fprintln(talk, "blessd: connected to NATS again")
				}
			case <-ended:
				return
			}
		}
	}()
	return func() {
		close(ended)
		<-done
		nc.RemoveStatusListener(changes)
	}
}

// lockedWriter lets two goroutines write lines.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}
