package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/blessd/blessd/manage"
)

// webhookChange is what the flags of add and edit say instead of the configuration.
type webhookChange struct {
	events      []string
	description string
	storeLog    bool
}

func (c *webhookChange) bind(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&c.events, "events", nil, "events to subscribe to, in the provider's words")
	cmd.Flags().StringVar(&c.description, "description", "", "description (SendClean, Sarv)")
	cmd.Flags().BoolVar(&c.storeLog, "store-log", false, "have the provider keep a log of its calls (SendClean, Sarv)")
}

// over puts what was given over what the configuration says.
func (c *webhookChange) over(cmd *cobra.Command, m *managed) error {
	given := cmd.Flags().Changed
	if _, ok := m.sendClean(); !ok && (given("description") || given("store-log")) {
		return fmt.Errorf("%w: %s has neither --description nor --store-log", errUsage, m.Provider)
	}
	if given("events") {
		known := providerSettings[settingsOf(m.Provider)].events
		for _, e := range c.events {
			if !slices.Contains(known, e) {
				return fmt.Errorf("%w: %s has no event %q%s (its events are %s)", errUsage, m.Provider, e, didYouMean(e, known), strings.Join(known, ", "))
			}
		}
		m.desired.Events = c.events
	}
	if given("description") {
		m.desired.Description = &c.description
	}
	if given("store-log") {
		m.desired.StoreLog = &c.storeLog
	}
	return nil
}

func newWebhooksAddCommand() *cobra.Command {
	var f webhooksFlags
	var c webhookChange
	var noCheck bool
	cmd := &cobra.Command{
		Use:   "add ENDPOINT",
		Short: "Register an endpoint's URL, or say how to do it by hand",
		Long: `Registers the endpoint's URL at its provider, as apply does, and changes nothing
that is there. What the flags say goes over the configuration, and plan shows it as
a difference from then on.

For enKod, and for an endpoint without manage:, it prints what to enter where. That
includes the whole URL: its token is a secret.`,
		Example: `  blessd webhooks add acme
  blessd webhooks add acme --events open,click --description trial
  blessd webhooks add ru     # enKod: what to enter by hand`,
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
				return m.writeByHand(cmd.OutOrStdout(), f.format)
			}
			if err := c.over(cmd, m); err != nil {
				return err
			}
			plans, err := planWebhooks(cmd.Context(), []*managed{m})
			if err != nil {
				return err
			}
			p := plans[0]
			p.Steps = slices.DeleteFunc(p.Steps, func(s manage.Step) bool { return s.Action != manage.Add })
			if len(p.Steps) == 0 {
				if len(p.Blocked) > 0 {
					return errors.New(strings.Join(p.Blocked, "; "))
				}
				return fmt.Errorf("the URL of %s is registered at %s already: `%s webhooks plan %s` says whether it is as it should be", m.Name, m.Provider, self(), m.Name)
			}
			x := applier{check: !noCheck, talk: cmd.ErrOrStderr(), out: cmd.OutOrStdout(), format: f.format}
			return x.makeAlone(cmd.Context(), p)
		},
	}
	f.bind(cmd)
	c.bind(cmd)
	addNoCheckFlag(cmd, &noCheck)
	return cmd
}

// makeAlone is make without a look at what else differs.
func (x *applier) makeAlone(ctx context.Context, p webhookPlan) error {
	m := p.of
	if x.check {
		if err := m.checkURL(ctx); err != nil {
			return fmt.Errorf("%s: nothing was registered: %w", m.Name, err)
		}
	}
	var failed []error
	for _, s := range p.Steps {
		done, err := m.api.Do(ctx, m.desired, s)
		if err != nil {
			failed = append(failed, fmt.Errorf("%s %s: %w", s.Action, stepName(s), advised(err)))
		}
		if err := x.report(m, s.Action, s.Target, done, err); err != nil {
			return err
		}
	}
	return errors.Join(append(failed, x.storeKeys(ctx, m))...)
}

// byHandGuide is what a person needs to register a webhook.
type byHandGuide struct {
	Endpoint string   `json:"endpoint"`
	Provider string   `json:"provider"`
	URL      string   `json:"url"` // whole: its token is a secret
	Steps    []string `json:"steps"`
}

// writeByHand writes what a person has to enter where.
func (m *managed) writeByHand(out io.Writer, format string) error {
	g := byHandGuide{Endpoint: m.Name, Provider: m.Provider, URL: m.url, Steps: manage.ByHand(m.Provider)}
	if format == "json" {
		return writeLines(out, []byHandGuide{g})
	}
	var b strings.Builder
	fmt.Fprintf(&b, "The URL of %s, whose token is a secret:\n  %s\n", m.Name, g.URL)
	for i, s := range g.Steps {
		fmt.Fprintf(&b, "%d. %s\n", i+1, s)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func newWebhooksEditCommand() *cobra.Command {
	var f webhooksFlags
	var c webhookChange
	var id string
	cmd := &cobra.Command{
		Use:   "edit ENDPOINT",
		Short: "Change an endpoint's webhook at SendClean or Sarv",
		Long: `Changes what the flags say about the endpoint's webhook and leaves the rest. Only
webhooks with the endpoint's URL can be changed; where there are several, --id says
which. Mailgun's and Vision6's have nothing to change: add and delete.

What differs from the configuration afterwards is what apply would change back.`,
		Example: `  blessd webhooks edit acme --events open,click,spam
  blessd webhooks edit acme --id 405602261459333060372 --description "the new one"`,
		Args: oneEndpoint,
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := f.check(); err != nil {
				return err
			}
			given := cmd.Flags().Changed
			if !given("events") && !given("description") && !given("store-log") {
				return fmt.Errorf("%w: nothing to change: give --events, --description or --store-log", errUsage)
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
				return fmt.Errorf("a webhook of %s has nothing to change: add and delete", m.Provider)
			}
			if err := c.over(cmd, m); err != nil {
				return err
			}
			own, err := m.ownWebhooks(cmd.Context(), api, id)
			if err != nil {
				return err
			}
			if len(own) > 1 {
				return fmt.Errorf("%s has %s: say which with --id (%s)", m.Name, count(len(own), "webhook"), strings.Join(ids(own), ", "))
			}
			_, err = api.Edit(cmd.Context(), own[0].ID, func(w *manage.Webhook) {
				if given("events") {
					w.Events = c.events
				}
				if given("description") {
					w.Description = c.description
				}
				if given("store-log") {
					w.StoreLog = c.storeLog
				}
			})
			if err != nil {
				return advised(err)
			}
			x := applier{out: cmd.OutOrStdout(), format: f.format}
			return x.report(m, manage.Edit, own[0].ID, "changed", nil)
		},
	}
	f.bind(cmd)
	c.bind(cmd)
	cmd.Flags().StringVar(&id, "id", "", "the provider's `ID` of the webhook, where the endpoint has several")
	return cmd
}

// ownWebhooks returns the endpoint's webhooks, or the one with that id, and errs when
// there is none.
func (m *managed) ownWebhooks(ctx context.Context, api *manage.SendClean, id string) ([]manage.Webhook, error) {
	list, err := api.List(ctx)
	if err != nil {
		return nil, advised(err)
	}
	own := slices.DeleteFunc(list, func(w manage.Webhook) bool { return !m.owns(w.URL) })
	if len(own) == 0 {
		return nil, fmt.Errorf("%s has no webhook with the URL of %s", m.Provider, m.Name)
	}
	if id == "" {
		return own, nil
	}
	for _, w := range own {
		if w.ID == id {
			return []manage.Webhook{w}, nil
		}
	}
	return nil, fmt.Errorf("webhook %s is not one of %s, whose are %s: no other is touched", id, m.Name, strings.Join(ids(own), ", "))
}

func ids(webhooks []manage.Webhook) (all []string) {
	for _, w := range webhooks {
		all = append(all, w.ID)
	}
	return all
}

func newWebhooksDeleteCommand() *cobra.Command {
	var f webhooksFlags
	var id string
	var events []string
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete ENDPOINT",
		Short: "Remove an endpoint's webhooks from its provider",
		Long: `Removes the webhooks with the endpoint's URL, after asking: deliveries end with
it. At SendClean and Sarv --id chooses one; at Mailgun --event chooses names, those
of the old webhooks included, and URLs of others stay. Vision6 and enKod document no
call for it: remove them in their pages.

The key of a webhook that is gone counts for another day, for what is tried again.`,
		Example: `  blessd webhooks delete acme
  blessd webhooks delete acme --id 405602261459333060372 --yes
  blessd webhooks delete eu --event opened --event drop`,
		Args: oneEndpoint,
		RunE: func(cmd *cobra.Command, names []string) error {
			if err := f.check(); err != nil {
				return err
			}
			m, err := loadWebhook(&f.overrides, names[0])
			if err != nil {
				return err
			}
			var targets []string
			switch api := m.api.(type) {
			case *manage.SendClean:
				if len(events) > 0 {
					return fmt.Errorf("%w: --event is Mailgun's; here --id chooses", errUsage)
				}
				own, err := m.ownWebhooks(cmd.Context(), api, id)
				if err != nil {
					return err
				}
				targets = ids(own)
			case *manage.Mailgun:
				if id != "" {
					return fmt.Errorf("%w: --id is for SendClean and Sarv; here --event chooses", errUsage)
				}
				if targets, err = m.ownNames(cmd.Context(), api, events); err != nil {
					return err
				}
			case *manage.Vision6:
				return errors.New("vision6 documents no call that removes a webhook: do it in Vision6's pages")
			default:
				return m.byHandError()
			}
			x := applier{yes: yes, in: cmd.InOrStdin(), talk: cmd.ErrOrStderr(), out: cmd.OutOrStdout(), format: f.format}
			agreed, err := x.ask(fmt.Sprintf("delete %s of %s (%s)?", count(len(targets), "webhook"), m.Name, strings.Join(targets, ", ")), len(targets))
			if err != nil {
				return err
			}
			if !agreed {
				return errors.New("nothing was deleted")
			}
			var failed []error
			for _, target := range targets {
				done, err := m.api.Do(cmd.Context(), m.desired, manage.Step{Action: manage.Delete, Target: target})
				if err == nil {
					err = m.retireKeys(target, time.Now())
				}
				if err != nil {
					failed = append(failed, fmt.Errorf("delete %s: %w", target, advised(err)))
				}
				if err := x.report(m, manage.Delete, target, done, err); err != nil {
					return err
				}
			}
			return errors.Join(failed...)
		},
	}
	f.bind(cmd)
	cmd.Flags().StringVar(&id, "id", "", "the provider's `ID` of the webhook, where the endpoint has several (SendClean, Sarv)")
	cmd.Flags().StringSliceVar(&events, "event", nil, "only under this name (Mailgun); repeatable")
	cmd.Flags().BoolVar(&yes, "yes", false, "delete without asking")
	return cmd
}

// ownNames returns the names at Mailgun that have the endpoint's URL: of these, or
// of all.
func (m *managed) ownNames(ctx context.Context, api *manage.Mailgun, events []string) ([]string, error) {
	for _, e := range events {
		if !slices.Contains(manage.MailgunNames(), e) {
			return nil, fmt.Errorf("%w: mailgun has no webhook %q%s", errUsage, e, didYouMean(e, manage.MailgunNames()))
		}
	}
	list, err := api.List(ctx)
	if err != nil {
		return nil, advised(err)
	}
	var names []string
	for name, urls := range list {
		if slices.ContainsFunc(urls, m.owns) && (len(events) == 0 || slices.Contains(events, name)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if len(names) == 0 {
		return nil, fmt.Errorf("mailgun has the URL of %s under none of these names", m.Name)
	}
	return names, nil
}
