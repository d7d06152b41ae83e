package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/blessd/blessd/manage"
	"github.com/blessd/blessd/receiver"
)

func newWebhooksPlanCommand() *cobra.Command {
	var f webhooksFlags
	var former string
	cmd := &cobra.Command{
		Use:   "plan [ENDPOINT...]",
		Short: "Show how the webhooks differ from the configuration",
		Long: `Shows what apply would do: which webhooks are to be added (+), changed (~) and
deleted (-), what is as it should be (=), what could not be determined (?) and what
needs a person (!). It changes nothing.`,
		Example: `  blessd webhooks plan -c blessd.yaml
  blessd webhooks plan acme -o json`,
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := f.check(); err != nil {
				return err
			}
			all, err := loadWebhooks(&f.overrides, names)
			if err == nil {
				err = alsoFormer(all, former)
			}
			if err != nil {
				return err
			}
			plans, err := planWebhooks(cmd.Context(), all)
			return errors.Join(writePlans(cmd.OutOrStdout(), f.format, plans), err)
		},
	}
	f.bind(cmd)
	addFormerFlag(cmd, &former)
	return cmd
}

func addFormerFlag(cmd *cobra.Command, former *string) {
	cmd.Flags().StringVar(former, "former-public-url", "", "the public_url before it was changed: webhooks with it are ours too, and move to the new one")
}

// alsoFormer makes URLs with a former public_url the endpoints' own.
func alsoFormer(all []*managed, former string) error {
	if former == "" {
		return nil
	}
	u, err := url.Parse(former)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%w: --former-public-url must be what public_url was, like https://hooks.example.com", errUsage)
	}
	for _, m := range all {
		if m.URLIsComplete {
			continue // its url does not come from public_url
		}
		base := strings.TrimRight(former, "/")
		if len(m.Tokens) == 0 {
			m.own = append(m.own, base+receiver.Path(m.Name, ""))
		}
		for _, token := range m.Tokens {
			m.own = append(m.own, base+receiver.Path(m.Name, string(token.Value)))
		}
		m.desired.Own = m.own
	}
	return nil
}

// webhookPlan is what is to be done for one endpoint.
type webhookPlan struct {
	Endpoint string `json:"endpoint"`
	Provider string `json:"provider"`
	URL      string `json:"url"` // to be registered, without what is secret in it
	*manage.Plan
	// Keys are the ids of webhooks whose key is not here yet.
	Keys []string `json:"keys"`
	// ByHand says why a person has to do it, if one has to.
	ByHand string `json:"by_hand,omitempty"`
	// Error says why there is no plan.
	Error string `json:"error,omitempty"`

	of *managed
}

// planWebhooks asks the providers. The error has those that did not answer.
func planWebhooks(ctx context.Context, all []*managed) ([]webhookPlan, error) {
	var plans []webhookPlan
	var failed []error
	for _, m := range all {
		p := webhookPlan{Endpoint: m.Name, Provider: m.Provider, URL: publicPart(m.url), Plan: &manage.Plan{}, Keys: []string{}, of: m}
		if m.api == nil {
			p.ByHand = fmt.Sprintf("`%s webhooks add %s` says what to enter", self(), m.Name)
			plans = append(plans, p)
			continue
		}
		plan, err := m.api.Plan(ctx, m.desired)
		if err == nil {
			p.Plan = plan
			p.Keys, err = m.missingKeys(ctx)
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", m.Name, advised(err)))
			p.Error = err.Error()
		}
		if doubt := reachDoubt(m.url); doubt != "" && p.Error == "" {
			p.Unknown = append(p.Unknown, doubt)
		}
		plans = append(plans, p)
	}
	return plans, errors.Join(failed...)
}

// reachDoubt says why a provider may not reach a URL, or not safely, or is empty.
func reachDoubt(webhook string) string {
	u, err := url.Parse(webhook)
	if err != nil {
		return ""
	}
	ip, err := netip.ParseAddr(u.Hostname())
	switch {
	case u.Hostname() == "localhost" || err == nil && (ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified()):
		return "whether the provider reaches " + publicPart(webhook) + ", an address of this machine or network: public_url is what the outside knows"
	case u.Scheme == "http":
		return "who reads the URL on the way, and with it the endpoint's token: it is without TLS"
	}
	return ""
}

// missingKeys returns the ids of the endpoint's webhooks whose key is not here.
func (m *managed) missingKeys(ctx context.Context) ([]string, error) {
	ids := []string{}
	api, ok := m.sendClean()
	if !ok {
		return ids, nil
	}
	list, err := api.List(ctx)
	for _, w := range list {
		if m.owns(w.URL) && w.Key != "" && !m.hasKey(w.Key) {
			ids = append(ids, w.ID)
		}
	}
	return ids, err
}

// toDo counts what apply would do.
func (p webhookPlan) toDo() int { return len(p.Steps) + len(p.Keys) }

// writePlans writes plans for people or machines.
func writePlans(out io.Writer, format string, plans []webhookPlan) error {
	if format == "json" {
		for i := range plans {
			// Lists are never null: whoever reads them need not ask.
			p := plans[i].Plan
			p.Steps, p.Same, p.Unknown, p.Blocked = listOf(p.Steps), listOf(p.Same), listOf(p.Unknown), listOf(p.Blocked)
		}
		return writeLines(out, plans)
	}
	var b strings.Builder
	for _, p := range plans {
		p.text(&b)
	}
	_, err := io.WriteString(out, harmless(b.String()))
	return err
}

// listOf is list, and an empty one for none.
func listOf[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// marks are how a plan shows its actions.
var marks = map[manage.Action]string{manage.Add: "+", manage.Edit: "~", manage.Delete: "-"}

func (p webhookPlan) text(b *strings.Builder) {
	fmt.Fprintf(b, "%s  %s  %s\n", p.Endpoint, p.Provider, p.URL)
	for _, s := range p.Steps {
		fmt.Fprintf(b, "  %s %s: %s\n", marks[s.Action], stepName(s), strings.Join(s.Changes, "; "))
	}
	for _, id := range p.Keys {
		fmt.Fprintf(b, "  + key of %s: to be stored here\n", id)
	}
	for _, id := range p.Same {
		fmt.Fprintf(b, "  = %s\n", id)
	}
	for _, u := range p.Unknown {
		fmt.Fprintf(b, "  ? %s\n", u)
	}
	for _, u := range p.Blocked {
		fmt.Fprintf(b, "  ! %s\n", u)
	}
	switch {
	case p.ByHand != "":
		fmt.Fprintf(b, "  by hand: %s\n", p.ByHand)
	case p.Error != "":
		fmt.Fprintf(b, "  ! no plan: the provider could not be asked\n")
	case p.toDo()+len(p.Blocked) == 0:
		fmt.Fprintf(b, "  nothing to do\n")
	}
	if p.Others > 0 {
		fmt.Fprintf(b, "  %s of others, not touched\n", count(p.Others, "webhook"))
	}
}

// stepName is what a step is about.
func stepName(s manage.Step) string {
	if s.Target == "" {
		return "webhook"
	}
	return s.Target
}

func newWebhooksApplyCommand() *cobra.Command {
	var f webhooksFlags
	var yes, noCheck bool
	var former string
	cmd := &cobra.Command{
		Use:   "apply [ENDPOINT...]",
		Short: "Make the webhooks as the configuration says",
		Long: `Shows the plan and makes it so. It may be repeated: what is as it should be is
not touched. Before it deletes anything it asks, and without a terminal it wants
--yes. Before it registers a URL it checks that blessd answers there with the
blessing, since SendClean and Sarv call it at that moment.

The keys that SendClean and Sarv make are stored in <data_dir>/keys/<endpoint>/,
and a running blessd takes them up by itself. Afterwards it asks the providers again
and says what still differs.`,
		Example: `  blessd webhooks apply -c blessd.yaml
  blessd webhooks apply acme eu --yes
  blessd webhooks apply --former-public-url https://old.example.com
  blessd webhooks apply -o json`,
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := f.check(); err != nil {
				return err
			}
			all, err := loadWebhooks(&f.overrides, names)
			if err == nil {
				err = alsoFormer(all, former)
			}
			if err != nil {
				return err
			}
			x := applier{check: !noCheck, yes: yes, in: cmd.InOrStdin(), talk: cmd.ErrOrStderr(), out: cmd.OutOrStdout(), format: f.format}
			return x.apply(cmd.Context(), all)
		},
	}
	f.bind(cmd)
	addFormerFlag(cmd, &former)
	cmd.Flags().BoolVar(&yes, "yes", false, "delete without asking")
	addNoCheckFlag(cmd, &noCheck)
	return cmd
}

func addNoCheckFlag(cmd *cobra.Command, noCheck *bool) {
	cmd.Flags().BoolVar(noCheck, "no-check", false, "do not check first that blessd answers at the URL, when this machine cannot reach its public address")
}

// applier makes plans so.
type applier struct {
	check, yes bool
	in         io.Reader
	talk, out  io.Writer
	format     string
}

// outcome is what came of one step.
type outcome struct {
	Endpoint string        `json:"endpoint"`
	Provider string        `json:"provider"`
	Action   manage.Action `json:"action"` // add, edit, delete, or key
	Target   string        `json:"target,omitempty"`
	OK       bool          `json:"ok"`
	Result   string        `json:"result"` // or the error
}

// keyAction is the storing of a key here.
const keyAction = manage.Action("key")

func (x *applier) apply(ctx context.Context, all []*managed) error {
	plans, err := planWebhooks(ctx, all)
	failed := []error{err}
	if x.format != "json" {
		if err := writePlans(x.out, "text", plans); err != nil {
			return err
		}
	}
	deletions := 0
	for _, p := range plans {
		for _, s := range p.Steps {
			if s.Loses() {
				deletions++
			}
		}
		for _, b := range p.Blocked {
			failed = append(failed, fmt.Errorf("%s: %s", p.Endpoint, b))
		}
	}
	agreed, err := x.ask(fmt.Sprintf("delete %s?", count(deletions, "webhook")), deletions)
	if err != nil {
		return errors.Join(append(failed, err)...)
	}
	for _, p := range plans {
		if p.toDo() == 0 {
			continue
		}
		if err := x.make(ctx, p, agreed); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// ask asks a person whether to go on. Where there is nobody to ask, --yes must have
// been given.
func (x *applier) ask(question string, deletions int) (bool, error) {
	if deletions == 0 || x.yes {
		return true, nil
	}
	if f, ok := x.in.(*os.File); ok && !isTerminal(f) {
		return false, fmt.Errorf("it would %s: nothing was done; agree with --yes", strings.TrimSuffix(question, "?"))
	}
	fmt.Fprintf(x.talk, "%s Type yes to agree, anything else leaves them: ", question)
	line, err := bufio.NewReader(x.in).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read the answer: %w", err)
	}
	return strings.EqualFold(strings.TrimSpace(line), "yes"), nil
}

// make makes one endpoint's plan so.
func (x *applier) make(ctx context.Context, p webhookPlan, agreed bool) error {
	m := p.of
	if x.check && slices.ContainsFunc(p.Steps, func(s manage.Step) bool { return !s.Loses() }) {
		if err := m.checkURL(ctx); err != nil {
			return fmt.Errorf("%s: nothing was registered: %w", m.Name, err)
		}
	}
	// First, so that what a webhook that is deleted has sent is still verified.
	if len(p.Keys) > 0 {
		if err := x.storeKeys(ctx, m); err != nil {
			return err
		}
	}
	var failed []error
	for _, s := range p.Steps {
		if s.Loses() && (!agreed || len(failed) > 0) {
			fmt.Fprintf(x.talk, "%s: %s is left as it is\n", m.Name, stepName(s))
			continue
		}
		done, err := m.api.Do(ctx, m.desired, s)
		if err == nil && s.Action == manage.Delete {
			err = m.retireKeys(s.Target, time.Now())
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %s %s: %w", m.Name, s.Action, stepName(s), advised(err)))
		}
		if err := x.report(m, s.Action, s.Target, done, err); err != nil {
			return err
		}
	}
	return errors.Join(append(failed, x.storeKeys(ctx, m), x.verify(ctx, m, agreed, len(failed) > 0))...)
}

// storeKeys keeps the keys of the endpoint's webhooks and says so.
func (x *applier) storeKeys(ctx context.Context, m *managed) error {
	stored, hidden, err := m.storeKeys(ctx)
	for _, id := range stored {
		if err := x.report(m, keyAction, id, "stored", nil); err != nil {
			return err
		}
	}
	for _, id := range hidden {
		fmt.Fprintf(x.talk, "%s: %s does not show the key of webhook %s: copy it from its pages into a file of key_files\n", m.Name, m.Provider, id)
	}
	if err != nil {
		return fmt.Errorf("%s: the webhook is registered, and its key is not here yet, so that deliveries wait: %w; run `%s webhooks apply %s` again", m.Name, advised(err), self(), m.Name)
	}
	return nil
}

// verify asks the provider again and says what still differs.
func (x *applier) verify(ctx context.Context, m *managed, agreed, failed bool) error {
	if _, ok := m.api.(*manage.Vision6); ok || failed {
		return nil // it cannot be asked, or it was said
	}
	plan, err := m.api.Plan(ctx, m.desired)
	if err != nil {
		return fmt.Errorf("%s: whether all is as it should be now is not known: %w", m.Name, advised(err))
	}
	for _, s := range plan.Steps {
		if !s.Loses() || agreed {
			return fmt.Errorf("%s: %s accepted the change, and still differs: %s %s: %s", m.Name, m.Provider, s.Action, stepName(s), strings.Join(s.Changes, "; "))
		}
	}
	return nil
}

// report says what came of one step.
func (x *applier) report(m *managed, action manage.Action, target, done string, err error) error {
	o := outcome{Endpoint: m.Name, Provider: m.Provider, Action: action, Target: target, OK: err == nil, Result: done}
	if err != nil {
		o.Result = err.Error()
	}
	if x.format == "json" {
		return writeLines(x.out, []outcome{o})
	}
	name := target
	if name == "" {
		name = "webhook"
	}
	if err != nil {
		done = "FAILED"
	}
	what := string(action)
	if action == keyAction {
		what = "key of"
	}
	_, err = fmt.Fprintf(x.out, "%s: %s %s: %s\n", m.Name, what, name, done)
	return err
}

// keyGrace is how long the key of a deleted webhook still counts: what the provider
// tries again was signed with it.
const keyGrace = 24 * time.Hour

// retireKeys lets the keys of a deleted webhook end.
func (m *managed) retireKeys(webhook string, now time.Time) error {
	if _, ok := m.sendClean(); !ok {
		return nil
	}
	keys, err := m.cfg.managedKeys(m.Name)
	if err != nil {
		return fmt.Errorf("let its key end: %w", err)
	}
	for _, k := range keys {
		if k.webhook == webhook {
			if _, err := m.cfg.retireManagedKey(k, now.Add(keyGrace)); err != nil {
				return err
			}
		}
	}
	return nil
}
