package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/blessd/blessd/manage"
	"github.com/blessd/blessd/receiver"
)

func newWebhooksCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "webhooks",
		Short: "Manage the webhooks at the providers",
		Long: `Manages the webhooks that are registered at the providers, through their own
APIs: SendClean, Sarv, Mailgun and Vision6, for endpoints with manage: in the
configuration. enKod has no API; add says what to enter there by hand.

A webhook is the endpoint's when its URL is: public_url and the endpoint's path,
with any of its tokens. No other webhook is ever changed.

Exit status: 0 when all went well, 1 when something failed or remains to be done
by hand, 2 when the command line is wrong. Tokens in URLs are masked, and keys and
credentials are never shown.`,
		Example: `  blessd webhooks plan -c /etc/blessd/blessd.yaml
  blessd webhooks apply -c /etc/blessd/blessd.yaml
  blessd webhooks list -o json`,
		Args: unknownSubcommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	cmd.AddCommand(
		newWebhooksListCommand(), newWebhooksInfoCommand(),
		newWebhooksAddCommand(), newWebhooksEditCommand(), newWebhooksDeleteCommand(),
		newWebhooksPlanCommand(), newWebhooksApplyCommand(),
		newWebhooksRotateKeyCommand(),
	)
	return cmd
}

// webhooksFlags are those of every command under webhooks.
type webhooksFlags struct {
	overrides
	format string
}

func (f *webhooksFlags) bind(cmd *cobra.Command) {
	addFindFlags(cmd, &f.overrides)
	cmd.Flags().StringVar(&f.PublicURL, "public-url", "", "what the providers are given, without /hooks (default: as the running blessd)")
	addFormatFlag(cmd, &f.format)
	cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		cfg, err := f.load(os.LookupEnv)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []string
		for _, e := range cfg.Endpoints {
			if !slices.Contains(args, e.Name) {
				names = append(names, e.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// check refuses another -o.
func (f *webhooksFlags) check() error {
	if f.format != "text" && f.format != "json" {
		return badFormat(f.format)
	}
	return nil
}

// webhookPlanner is a provider's API as plan and apply use it.
type webhookPlanner interface {
	// Plan reads what is registered and says what differs. It changes nothing.
	Plan(context.Context, manage.Desired) (*manage.Plan, error)
	// Do makes one step of a plan so, and says what came of it.
	Do(context.Context, manage.Desired, manage.Step) (string, error)
}

// managed is an endpoint and the access to its provider's API.
type managed struct {
	receiver.Endpoint
	cfg *Config
	// url is what is to be registered, token included. own are the same with each of
	// the endpoint's tokens.
	url string
	own []string
	// config is nil where a person registers the URL by hand; then api is nil too.
	config *ManageConfig
	// account tells accounts apart. Two endpoints may share one.
	account string
	desired manage.Desired
	api     webhookPlanner // *manage.SendClean, *manage.Mailgun or *manage.Vision6
}

// loadWebhook is loadWebhooks for the one endpoint that a command is about.
func loadWebhook(o *overrides, name string) (*managed, error) {
	all, err := loadWebhooks(o, []string{name})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// loadWebhooks returns the endpoints of these names, or all, in the order of the
// configuration, with their clients. Nothing is called yet.
func loadWebhooks(o *overrides, names []string) ([]*managed, error) {
	cfg, err := o.load(os.LookupEnv)
	if err != nil {
		return nil, fmt.Errorf("the configuration cannot be used:\n%w", err)
	}
	// A blessd that runs knows its public URL, which may come from a flag. None has to
	// run.
	a, _ := readAddresses(cfg.DataDir)
	if o.PublicURL == "" && a.PublicURL != "" {
		cfg.PublicURL = a.PublicURL
	}
	endpoints, err := cfg.receiverEndpoints(a.Hooks)
	if err != nil {
		return nil, fmt.Errorf("the keys cannot be used:\n%w", err)
	}
	var known []string
	var all []*managed
	for i, e := range endpoints {
		known = append(known, e.Name)
		if len(names) > 0 && !slices.Contains(names, e.Name) {
			continue
		}
		m, err := newManaged(cfg, i, e)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("%w: no endpoint %q%s", errUsage, name, didYouMean(name, known))
		}
	}
	return all, nil
}

// newManaged returns the endpoint at position i of the configuration.
func newManaged(cfg *Config, i int, e receiver.Endpoint) (*managed, error) {
	m := &managed{Endpoint: e, cfg: cfg, config: cfg.Endpoints[i].Manage, url: e.URL, own: []string{e.URL}}
	if !e.URLIsComplete && len(e.Tokens) > 0 {
		m.own = nil
		for _, token := range e.Tokens {
			m.own = append(m.own, e.URL+"/"+string(token.Value))
		}
		m.url = m.own[0]
	}
	c := m.config
	if c == nil {
		return m, nil
	}
	m.desired = manage.Desired{URL: m.url, Own: m.own, Events: c.Events, Lists: c.Lists}
	at := fmt.Sprintf("endpoints[%d].manage", i)
	if cfg.source.has(at + ".description") {
		m.desired.Description = &c.Description
	}
	if cfg.source.has(at + ".store_log") {
		m.desired.StoreLog = &c.StoreLog
	}
	var err error
	if m.api, m.account, err = newManageClient(e.Provider, *c); err != nil {
		return nil, fmt.Errorf("endpoint %s: %w", e.Name, err)
	}
	return m, nil
}

// newManageClient returns the client of a provider's API, with the credentials from
// their files, and what tells its account from others.
func newManageClient(provider string, c ManageConfig) (api webhookPlanner, account string, err error) {
	secret := func(file string) (s manage.Secret) {
		if err != nil {
			return ""
		}
		key, problem := readKey(file, signatureKey)
		if problem != nil {
			err = fmt.Errorf("credentials for the API of %s, file %s: %s", provider, showPath(file), reason(problem))
		}
		return manage.Secret(key.Value)
	}
	o := manage.Options{UserAgent: "blessd/" + currentVersion().Version, PlainHTTP: c.PlainHTTP}
	switch provider {
	case "sendclean", "sarv":
		owner, token := secret(c.OwnerIDFile), secret(c.TokenFile)
		if err != nil {
			return nil, "", err
		}
		api, err = manage.NewSendClean(manage.SendCleanConfig{Provider: provider, AppDomain: c.AppDomain, BaseURL: c.BaseURL, OwnerID: owner, Token: token}, o)
		account = strings.Join([]string{provider, c.AppDomain, c.BaseURL, string(owner)}, "\n")
	case "mailgun":
		key := secret(c.APIKeyFile)
		if err != nil {
			return nil, "", err
		}
		api, err = manage.NewMailgun(manage.MailgunConfig{Domain: c.Domain, Region: c.Region, BaseURL: c.BaseURL, APIKey: key}, o)
		account = strings.Join([]string{provider, c.Region, c.BaseURL, c.Domain}, "\n")
	case "vision6":
		key := secret(c.APIKeyFile)
		if err != nil {
			return nil, "", err
		}
		api, err = manage.NewVision6(manage.Vision6Config{BaseURL: c.BaseURL, APIKey: key}, o)
		account = strings.Join([]string{provider, c.BaseURL, string(key)}, "\n")
	default:
		return nil, "", fmt.Errorf("%s has no API to manage webhooks with", provider)
	}
	if err != nil {
		return nil, "", err
	}
	return api, account, nil
}

// sendClean returns the client of an endpoint at SendClean or Sarv.
func (m *managed) sendClean() (*manage.SendClean, bool) {
	api, ok := m.api.(*manage.SendClean)
	return api, ok
}

// owns tells whether a webhook with this URL is the endpoint's.
func (m *managed) owns(url string) bool { return slices.Contains(m.own, url) }

// hasKey tells whether the endpoint verifies with that key already.
func (m *managed) hasKey(key manage.Secret) bool {
	return slices.ContainsFunc(m.Keys, func(k receiver.Key) bool { return !k.Sample && string(k.Value) == string(key) })
}

// storeKeys keeps the keys of all webhooks with the endpoint's URL: each of them
// signs. It returns the ids of those whose key was not there, and of those whose key
// the provider does not show.
func (m *managed) storeKeys(ctx context.Context) (stored, hidden []string, err error) {
	api, ok := m.sendClean()
	if !ok {
		return nil, nil, nil
	}
	list, err := api.List(ctx)
	if err != nil {
		return nil, nil, fmt.Errorf("look up the key: %w", err)
	}
	for _, w := range list {
		switch {
		case !m.owns(w.URL):
		case w.Key == "":
			hidden = append(hidden, w.ID)
		case !m.hasKey(w.Key):
			if err := m.cfg.createDataDir(); err != nil {
				return stored, hidden, err
			}
			if _, err := m.cfg.storeManagedKey(m.Name, w.ID, receiver.Secret(w.Key), time.Now()); err != nil {
				return stored, hidden, err
			}
			stored = append(stored, w.ID)
			m.Keys = append(m.Keys, receiver.Key{Value: receiver.Secret(w.Key)})
		}
	}
	return stored, hidden, nil
}

// advised adds to an error of a provider what to do about it.
func advised(err error) error {
	if advice := manage.Advice(err); advice != "" {
		return fmt.Errorf("%w: %s", err, advice)
	}
	return err
}

// checkURL asks the endpoint's URL for the blessing, as a provider does while it
// registers it.
func (m *managed) checkURL(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url, nil)
	if err != nil {
		return errors.New("the URL of the endpoint is none")
	}
	return askBlessing(q, receiver.Acknowledgement(m.Provider))
}
