package main

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/blessd/blessd/receiver"
	"github.com/blessd/blessd/sink"
)

// addFindFlags are how commands find a running blessd: by what it was started with.
func addFindFlags(cmd *cobra.Command, o *overrides) {
	o.bindConfig(cmd)
	cmd.Flags().StringVar(&o.DataDir, "data-dir", "", "data directory of the running blessd")
}

// findRunning returns the configuration that the running blessd was started with
// and where it listens.
func findRunning(o *overrides) (*Config, addresses, error) {
	cfg, err := o.load(os.LookupEnv)
	if err != nil {
		return nil, addresses{}, fmt.Errorf("the configuration cannot be used:\n%w", err)
	}
	a, err := readAddresses(cfg.DataDir)
	return cfg, a, err
}

// runningHooks returns the webhooks of the running blessd, in the order of its
// configuration.
func runningHooks(o *overrides) ([]hook, error) {
	cfg, a, err := findRunning(o)
	if err != nil {
		return nil, err
	}
	if o.PublicURL == "" && a.PublicURL != "" {
		// What serve was given, by a flag perhaps.
		cfg.PublicURL = a.PublicURL
	}
	endpoints, err := cfg.receiverEndpoints(a.Hooks)
	if err != nil {
		return nil, fmt.Errorf("the keys cannot be used:\n%w", err)
	}
	hooks := make([]hook, len(endpoints))
	for i, e := range endpoints {
		hooks[i] = hookOf(e, a.Hooks)
	}
	return hooks, nil
}

// hookOf is what a provider was given for an endpoint, and how to reach it here.
func hookOf(e receiver.Endpoint, address string) hook {
	h := hook{provider: e.Provider, endpoint: e.Name, registered: e.URL}
	isSample := func(k receiver.Key) bool { return k.Sample }
	if len(e.Tokens) > 0 {
		token := e.Tokens[0]
		if i := slices.IndexFunc(e.Tokens, isSample); i >= 0 && !signs(e.Provider) {
			token, h.sample = e.Tokens[i], true
		}
		h.token = string(token.Value)
		if !e.URLIsComplete {
			h.registered += "/" + h.token
		}
	}
	h.post = "http://" + reachable(address) + receiver.Path(e.Name, h.token)
	if len(e.BasicAuth) > 0 {
		h.header = http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte(e.BasicAuth[0].Value))}}
	}
	if !signs(e.Provider) {
		return h
	}
	// A sample key goes first: what it signs is marked as a test.
	if i := slices.IndexFunc(e.Keys, isSample); i >= 0 {
		h.key, h.sample = e.Keys[i].Value, true
	} else if len(e.Keys) > 0 {
		h.key = e.Keys[0].Value
	}
	h.reported, h.awaiting = isReported(e), !hasRealKey(e)
	return h
}

// usable says what a hook lacks to be sent to, or nil.
func (h hook) usable() error {
	if signs(h.provider) && h.key == "" {
		return fmt.Errorf("the endpoint %s has no key to sign with: it awaits the one that %s shows (`blessd check` says where to put it)", h.endpoint, h.provider)
	}
	return nil
}

// natsFlags says which NATS server to read.
type natsFlags struct {
	running             overrides
	server, context     string
	credsFile, nkeyFile string
	stream              string
}

// dialEvents connects to the server that has the events and says in which stream
// they are.
func dialEvents(f natsFlags) (*nats.Conn, string, error) {
	o := sink.ExternalOptions{URL: f.server, Context: f.context}
	stream := "MAIL_EVENTS"
	foreign := f.server != "" || f.context != ""
	if !foreign {
		cfg, a, err := findRunning(&f.running)
		if err != nil {
			return nil, "", err
		}
		stream, o.URL = cfg.NATS.Stream.Name, a.NATS
		if foreign = cfg.externalNATS(); foreign {
			n := cfg.NATS
			o = sink.ExternalOptions{
				URL: n.URL, Context: n.Context, CredsFile: n.CredsFile, NKeyFile: n.NKeyFile,
				TLS: sink.TLSFiles{CAFile: n.TLS.CAFile, CertFile: n.TLS.CertFile, KeyFile: n.TLS.KeyFile},
			}
		}
	}
	if f.credsFile != "" {
		o.CredsFile, o.NKeyFile = f.credsFile, ""
	}
	if f.nkeyFile != "" {
		o.CredsFile, o.NKeyFile = "", f.nkeyFile
	}
	if f.stream != "" {
		stream = f.stream
	}
	o.Name, o.Log = "blessd tail", zap.NewNop()
	nc, err := sink.Dial(o)
	if err != nil {
		return nil, "", err
	}
	// Dial goes on trying for as long as it takes, which is the daemon's way; a
	// person wants to know.
	if !nc.IsConnected() {
		err := nc.LastError()
		if err == nil {
			err = errors.New("no answer")
		}
		nc.Close()
		where := withoutPasswords(o.URL)
		if o.Context != "" {
			where = "context " + o.Context
		}
		hint := "is blessd running? `blessd serve` starts it"
		if foreign {
			hint = "it is not blessd's own server: is it running, and are its address and your credentials right?"
		}
		return nil, "", fmt.Errorf("NATS at %s: %w (%s)", where, err, hint)
	}
	return nc, stream, nil
}

// withoutPasswords masks the passwords in a list of URLs.
func withoutPasswords(list string) string {
	urls := strings.Split(list, ",")
	for i, s := range urls {
		if u, err := url.Parse(strings.TrimSpace(s)); err == nil && u.Host != "" {
			urls[i] = u.Redacted()
		} else if at := strings.LastIndexByte(s, '@'); at >= 0 {
			urls[i] = "xxxxx" + s[at:]
		}
	}
	return strings.Join(urls, ",")
}
