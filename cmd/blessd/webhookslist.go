package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/goccy/go-json"
	"github.com/spf13/cobra"

	"github.com/blessd/blessd/manage"
)

func newWebhooksListCommand() *cobra.Command {
	var f webhooksFlags
	cmd := &cobra.Command{
		Use:   "list [ENDPOINT...]",
		Short: "List the webhooks that are registered at the providers",
		Long: `Lists what the providers have registered: the webhooks of the endpoints, and
those of others in the same accounts. For Mailgun that is all sixteen names that its
documents know, those of the old webhooks included. Vision6 documents no call that
lists, and enKod has no API: for these, and for endpoints without manage:, it says
which deliveries have arrived instead.`,
		Example: `  blessd webhooks list -c blessd.yaml
  blessd webhooks list acme eu
  blessd webhooks list -o json | jq -r 'select(.state == "not ours") | .url'`,
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := f.check(); err != nil {
				return err
			}
			all, err := loadWebhooks(&f.overrides, names)
			if err != nil {
				return err
			}
			// A webhook of another endpoint is not foreign.
			everybody, err := loadWebhooks(&f.overrides, nil)
			if err != nil {
				return err
			}
			var rows []webhookRow
			var failed []error
			arrived := arrivals{running: &f.overrides}
			defer arrived.close()
			listed := map[string]bool{}
			for _, m := range all {
				if m.account != "" && listed[m.account] {
					continue
				}
				listed[m.account] = true
				found, err := listWebhooks(cmd.Context(), m, all, everybody, &arrived)
				rows = append(rows, found...)
				if err != nil {
					failed = append(failed, advised(err))
				}
			}
			if err := writeRows(cmd.OutOrStdout(), f.format, rows); err != nil {
				return err
			}
			return errors.Join(failed...)
		},
	}
	f.bind(cmd)
	return cmd
}

// The states of a webhook.
const (
	stateRegistered = "registered"
	stateMissing    = "missing"
	stateOther      = "not ours"
	stateNone       = "none"    // a name of Mailgun's without a URL
	stateUnknown    = "unknown" // it cannot be asked
	stateByHand     = "by hand"
)

// webhookRow is one line of the list.
type webhookRow struct {
	// Endpoint is whose it is, empty for a webhook that is not blessd's.
	Endpoint string `json:"endpoint,omitempty"`
	Provider string `json:"provider"`
	// ID is the provider's: a number, or at Mailgun the name.
	ID          string     `json:"id,omitempty"`
	URL         string     `json:"url,omitempty"` // without what is secret in it
	Events      []string   `json:"events,omitempty"`
	Description string     `json:"description,omitempty"`
	StoreLog    *bool      `json:"store_log,omitempty"`
	Created     *time.Time `json:"created,omitempty"`
	State       string     `json:"state"`
	// Key is known or missing, for webhooks that sign with a key of their own.
	Key  string `json:"key,omitempty"`
	Note string `json:"note,omitempty"`
}

// listWebhooks returns what is registered in the account of m. The rows of chosen
// endpoints are marked, and those of others that are blessd's too.
func listWebhooks(ctx context.Context, m *managed, chosen, everybody []*managed, arrived *arrivals) ([]webhookRow, error) {
	owner := func(url string) *managed {
		for _, e := range everybody {
			if e.Provider == m.Provider && e.owns(url) {
				return e
			}
		}
		return nil
	}
	var rows []webhookRow
	row := func(r webhookRow, url string) {
		r.Provider, r.URL, r.State = m.Provider, publicPart(url), stateOther
		if e := owner(url); e != nil {
			r.Endpoint, r.State = e.Name, stateRegistered
		} else {
			r.Key = ""
		}
		rows = append(rows, r)
	}
	switch api := m.api.(type) {
	case *manage.SendClean:
		list, err := api.List(ctx)
		if err != nil {
			return nil, err
		}
		for _, w := range list {
			r := webhookRow{ID: w.ID, Events: w.Events, Description: w.Description, StoreLog: &w.StoreLog, Key: "missing"}
			if !w.Created.IsZero() {
				r.Created = &w.Created
			}
			if e := owner(w.URL); e != nil && e.hasKey(w.Key) {
				r.Key = "known"
			} else {
				r.Note = "`blessd webhooks apply` stores its key"
			}
			if owner(w.URL) == nil {
				r.Note = ""
			}
			row(r, w.URL)
		}
	case *manage.Mailgun:
		list, err := api.List(ctx)
		if err != nil {
			return nil, err
		}
		names := manage.MailgunNames()
		for name := range list {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			note := ""
			if !slices.Contains(manage.MailgunEvents(), name) {
				note = "old"
			}
			if len(list[name]) == 0 {
				rows = append(rows, webhookRow{Provider: m.Provider, ID: name, State: stateNone, Note: note})
			}
			for _, u := range list[name] {
				row(webhookRow{ID: name, Events: []string{name}, Note: note}, u)
			}
		}
	case *manage.Vision6:
		rows = append(rows, webhookRow{
			Endpoint: m.Name, Provider: m.Provider, URL: publicPart(m.url), State: stateUnknown,
			Note: "no documented call lists webhooks; " + arrived.of(ctx, m),
		})
	default:
		rows = append(rows, webhookRow{Endpoint: m.Name, Provider: m.Provider, URL: publicPart(m.url), State: stateByHand, Note: arrived.of(ctx, m)})
	}
	for _, e := range chosen {
		if e.account == m.account && e.config != nil && !slices.ContainsFunc(rows, func(r webhookRow) bool { return r.Endpoint == e.Name }) {
			rows = append(rows, webhookRow{Endpoint: e.Name, Provider: e.Provider, URL: publicPart(e.url), State: stateMissing, Note: "`blessd webhooks apply` registers it"})
		}
	}
	return rows, nil
}

// writeRows writes the list.
func writeRows(out io.Writer, format string, rows []webhookRow) error {
	if format == "json" {
		return writeLines(out, rows)
	}
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ENDPOINT\tPROVIDER\tSTATE\tID\tURL\tEVENTS\tKEY\tNOTE")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", dash(r.Endpoint), r.Provider, r.State, dash(r.ID), dash(r.URL), dash(strings.Join(r.Events, ",")), dash(r.Key), r.Note)
	}
	return flushTrimmed(t, &b, out)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// writeLines writes each value as a line of JSON.
func writeLines[T any](out io.Writer, values []T) error {
	for _, v := range values {
		b, err := json.MarshalWithOption(v, json.DisableHTMLEscape())
		if err != nil {
			return fmt.Errorf("encode the answer: %w", err)
		}
		if _, err := out.Write(append(b, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// flushTrimmed writes a table without blanks at the ends of its lines.
func flushTrimmed(t *tabwriter.Writer, b *bytes.Buffer, out io.Writer) error {
	if err := t.Flush(); err != nil {
		return err
	}
	for line := range strings.Lines(harmless(b.String())) {
		if _, err := io.WriteString(out, strings.TrimRight(line, " \n")+"\n"); err != nil {
			return err
		}
	}
	return nil
}

// harmless returns text with what a terminal would obey replaced: parts of it are a
// provider's words.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

func newWebhooksInfoCommand() *cobra.Command {
	var f webhooksFlags
	cmd := &cobra.Command{
		Use:   "info ENDPOINT",
		Short: "Show all that a provider knows about an endpoint's webhooks",
		Long: `Shows what the provider knows about each webhook with the endpoint's URL: for
SendClean and Sarv also how many events it has sent and when a delivery last
succeeded. Mailgun knows nothing beyond what list shows; Vision6 and enKod cannot
be asked.`,
		Example: `  blessd webhooks info acme
  blessd webhooks info acme -o json | jq .total_events`,
		Args: oneEndpoint,
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := f.check(); err != nil {
				return err
			}
			m, err := loadWebhook(&f.overrides, names[0])
			if err != nil {
				return err
			}
			if m.api == nil {
				return m.byHandError()
			}
			api, ok := m.sendClean()
			if !ok {
				return fmt.Errorf("%s says no more about a webhook than `blessd webhooks list` shows", m.Provider)
			}
			list, err := api.List(cmd.Context())
			if err != nil {
				return advised(err)
			}
			var found []webhookInfo
			for _, w := range list {
				if !m.owns(w.URL) {
					continue
				}
				if w, err = api.Info(cmd.Context(), w.ID); err != nil {
					return advised(err)
				}
				found = append(found, infoOf(m, w))
			}
			if len(found) == 0 {
				return fmt.Errorf("%s has no webhook with the URL of %s: `blessd webhooks apply %s` registers it", m.Provider, m.Name, m.Name)
			}
			if f.format == "json" {
				return writeLines(cmd.OutOrStdout(), found)
			}
			return writeInfos(cmd.OutOrStdout(), found)
		},
	}
	f.bind(cmd)
	return cmd
}

// webhookInfo is all that is known about one webhook.
type webhookInfo struct {
	Endpoint    string     `json:"endpoint"`
	Provider    string     `json:"provider"`
	ID          string     `json:"id"`
	URL         string     `json:"url"`
	Events      []string   `json:"events"`
	Description string     `json:"description"`
	StoreLog    bool       `json:"store_log"`
	Key         string     `json:"key"` // known or missing
	Created     *time.Time `json:"created,omitempty"`
	// LastSuccess is absent when no delivery has succeeded yet.
	LastSuccess *time.Time `json:"last_success,omitempty"`
	// TotalEvents is absent when the provider does not say.
	TotalEvents *int64 `json:"total_events,omitempty"`
}

func infoOf(m *managed, w manage.Webhook) webhookInfo {
	when := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		return &t
	}
	i := webhookInfo{
		Endpoint: m.Name, Provider: m.Provider, ID: w.ID, URL: publicPart(w.URL), Events: w.Events, Description: w.Description,
		StoreLog: w.StoreLog, Key: "missing", Created: when(w.Created), LastSuccess: when(w.LastSuccess), TotalEvents: w.TotalEvents,
	}
	if m.hasKey(w.Key) {
		i.Key = "known"
	}
	return i
}

func writeInfos(out io.Writer, infos []webhookInfo) error {
	var b bytes.Buffer
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	when := func(t *time.Time, none string) string {
		if t == nil {
			return none
		}
		return t.Format(time.RFC3339)
	}
	for n, i := range infos {
		if n > 0 {
			fmt.Fprintln(t)
		}
		total := "not said"
		if i.TotalEvents != nil {
			total = fmt.Sprint(*i.TotalEvents)
		}
		for _, line := range [][2]string{
			{"endpoint", i.Endpoint},
			{"provider", i.Provider},
			{"id", i.ID},
			{"URL", i.URL},
			{"events", strings.Join(i.Events, ", ")},
			{"description", dash(i.Description)},
			{"store_log", enabledWord(i.StoreLog)},
			{"key", i.Key},
			{"created", when(i.Created, "not said")},
			{"last success", when(i.LastSuccess, "never")},
			{"events sent", total},
		} {
			fmt.Fprintf(t, "%s\t%s\n", line[0], line[1])
		}
	}
	return flushTrimmed(t, &b, out)
}

func enabledWord(b bool) string {
	if b {
		return "enabled"
	}
	return "disabled"
}

// oneEndpoint is for commands about one endpoint.
func oneEndpoint(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("it takes the name of one endpoint, and got %d", len(args))
	}
	return nil
}

// byHandError is for an endpoint without access to an API.
func (m *managed) byHandError() error {
	if p := settingsOf(m.Provider); p >= 0 && providerSettings[p].manage != nil {
		return fmt.Errorf("the endpoint %s has no manage: in the configuration, which says how to reach the API of %s", m.Name, m.Provider)
	}
	return fmt.Errorf("%s has no API to manage webhooks with: `blessd webhooks add %s` says what to enter by hand", m.Provider, m.Name)
}
