package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-json"
	"github.com/spf13/cobra"

	"github.com/blessd/blessd/manage"
	"github.com/blessd/blessd/receiver"
)

const (
	// defaultOverlap is for how long a key counts that was replaced: for what the
	// provider signed with it and sends again. Nobody knows for how long SendClean
	// and Sarv do; Mailgun does for 8 hours.
	defaultOverlap = 24 * hour
	// announceEvery is how often an announcement is renewed, a third of its time.
	announceEvery = receiver.MaxRotation / 3
	// askTime is for how long the provider is asked which key is in force, when the
	// answer to its reset was lost; firstAsk is the first pause, which doubles.
	askTime  = 30 * time.Second
	firstAsk = time.Second
)

// keyRotation is one run of rotate-key.
type keyRotation struct {
	*managed
	api *manage.SendClean
	// announce asks the running blessd.
	announce func(context.Context, rotationRequest) (*rotationAnswer, error)
	overlap  time.Duration
	webhook  string // the id of the only one, or empty for all of the endpoint's URL
	noReset  bool
	askTime  time.Duration
	talk     io.Writer

	id     string // of the announcement
	report rotationReport
}

// rotationReport is what rotate-key says it did.
type rotationReport struct {
	Endpoint string           `json:"endpoint"`
	Provider string           `json:"provider"`
	Webhooks []rotatedWebhook `json:"webhooks"`
	// Deliveries are those that no key verified meanwhile.
	Deliveries receiver.RotationCounts `json:"deliveries"`
	// Problem is what went wrong, and what to do about it.
	Problem string `json:"problem,omitempty"`
}

// rotatedWebhook is what became of the key of one webhook. Keys are fingerprints.
type rotatedWebhook struct {
	ID string `json:"webhook_id"`
	// State is rotated; unchanged, the provider's key is the old one; unknown, the
	// provider may have made a new one that is not here; stored, the provider's key of
	// now was fetched; or waiting, nothing was tried.
	State string `json:"state"`
	Old   string `json:"old_key,omitempty"`
	New   string `json:"new_key,omitempty"`
	// StoredIn is the file of the new key.
	StoredIn string `json:"stored_in,omitempty"`
	// OldUntil is when the old key ceases to count, where blessd can see to that.
	OldUntil *time.Time `json:"old_key_until,omitempty"`
	// OldIn are files of key_files that hold the old key, which blessd leaves alone.
	OldIn []string `json:"old_key_in,omitempty"`
}

func newWebhooksRotateKeyCommand() *cobra.Command {
	var (
		f       webhooksFlags
		admin   adminFlags
		overlap string
		webhook string
		noReset bool
	)
	cmd := &cobra.Command{
		Use:   "rotate-key ENDPOINT",
		Short: "Have SendClean or Sarv make a new key, without losing a delivery",
		Long: `Has the provider make a new key for the webhook of an endpoint, and the running
blessd accept it, without losing a delivery. The provider signs with the new key
before anybody here can know it. So the running blessd is told first: for as long
as it takes, a delivery that no key verifies waits up to 4 s for the new key, else
it is answered 503 and held, and goes in when the key is here.

The new key is stored in <data_dir>/keys/ENDPOINT/. The old one counts for the
overlap, for what was signed with it and comes again. Where it stands in one of
key_files that is for you to take away, and this command says so. When several
webhooks have the endpoint's URL, each has a key of its own, and all are rotated.

It must run on blessd's machine, as blessd's user or root, since it writes into
the data directory. Without a running blessd, or when that cannot be written,
nothing is reset. When the provider's answer is lost, the provider is asked which
key is in force. --no-reset only fetches and stores the keys that are in force at
the provider: after somebody has changed one there, or after a failure here.

Exit status: 0 when the new keys are in force; 1 when not, and the message says
what is and what to do; 2 when the command line is wrong.`,
		Example: `  blessd webhooks rotate-key acme -c /etc/blessd/blessd.yaml
  blessd webhooks rotate-key acme --overlap 3d
  blessd webhooks rotate-key acme --no-reset -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			var lasts Duration
			if err := lasts.UnmarshalText([]byte(overlap)); err != nil || lasts < 0 {
				return fmt.Errorf("%w: --overlap %q is no duration like 12h or 3d", errUsage, overlap)
			}
			r, err := newKeyRotation(&f.overrides, admin, args[0])
			if err != nil {
				return err
			}
			r.overlap, r.webhook, r.noReset, r.talk = time.Duration(lasts), webhook, noReset, cmd.ErrOrStderr()
			err = r.run(cmd.Context())
			if len(r.report.Webhooks) > 0 {
				if err != nil {
					r.report.Problem = err.Error()
				}
				if shown := r.report.write(cmd.OutOrStdout(), f.format); shown != nil {
					return fmt.Errorf("write the report: %w", shown)
				}
			}
			return err
		},
	}
	cmd.Flags().StringVar(&overlap, "overlap", defaultOverlap.String(), "for how `long` the old key still counts")
	cmd.Flags().StringVar(&webhook, "webhook-id", "", "only the webhook with this `id`, of several that have the URL")
	cmd.Flags().BoolVar(&noReset, "no-reset", false, "only fetch and store the keys that are in force at the provider")
	f.bind(cmd)
	admin.bind(cmd)
	return cmd
}

// newKeyRotation finds the endpoint and its provider's API.
func newKeyRotation(running *overrides, admin adminFlags, name string) (*keyRotation, error) {
	m, err := loadWebhook(running, name)
	if err != nil {
		return nil, err
	}
	if err := m.canRotate(); err != nil {
		return nil, err
	}
	api, ok := m.sendClean()
	if !ok {
		return nil, fmt.Errorf("the API of %s cannot make a new key", m.Provider)
	}
	return &keyRotation{
		managed: m, api: api, overlap: time.Duration(defaultOverlap), askTime: askTime, talk: io.Discard,
		announce: func(ctx context.Context, o rotationRequest) (*rotationAnswer, error) {
			answer, err := admin.post(ctx, running, "/-/rotation", o)
			if err != nil {
				return nil, err
			}
			defer answer.Body.Close()
			var r rotationAnswer
			if err := json.NewDecoder(io.LimitReader(answer.Body, 1<<20)).Decode(&r); err != nil {
				return nil, errors.New("what answers at the admin listener is not this version of blessd")
			}
			return &r, nil
		},
	}, nil
}

// canRotate says why the key of an endpoint cannot be rotated, or nil.
func (m *managed) canRotate() error {
	where := filepath.Join(m.cfg.keyDir(m.Name), providerKeyFile)
	switch {
	case !signs(m.Provider):
		return fmt.Errorf("%s signs nothing, so there is no key to rotate: to change the token in the URL add a file to token_files, reload, change the URL at the provider, and take the old file away", m.Provider)
	case !signsURL(m.Provider):
		return fmt.Errorf("the API of %s has no documented call that makes a new signing key: make one in its control panel, and put it into %s at once; what comes in between is refused, kept, and goes in then", m.Provider, where)
	case m.config == nil:
		return fmt.Errorf("the endpoint %s has no manage section, so the API of %s cannot be called: add one, or make a new key in its panel and put it into %s at once", m.Name, m.Provider, where)
	}
	return nil
}

// run rotates the keys. The report says what was done, also after an error.
func (r *keyRotation) run(ctx context.Context) error {
	r.report = rotationReport{Endpoint: r.Name, Provider: r.Provider}
	webhooks, err := r.find(ctx)
	if err != nil {
		return err
	}
	probe, err := r.cfg.tryKeyDir(r.Name)
	if err != nil {
		return fmt.Errorf("nothing was reset: a new key could not be stored: %w (run this as blessd's user or root)", err)
	}
	first, err := r.ask(ctx, rotationRequest{ReadKeys: true, Probe: probe})
	err = errors.Join(err, os.Remove(filepath.Join(r.cfg.keyDir(r.Name), probePrefix+probe)))
	if err != nil {
		return fmt.Errorf("nothing was reset: %w", err)
	}
	if err := r.ready(first); err != nil {
		return errors.Join(fmt.Errorf("nothing was reset: %w", err), r.end(ctx))
	}
	if !first.Holds {
		fmt.Fprintln(r.talk, "unverified.max_bytes is 0: a delivery that the new key comes too late for is answered 503 and not kept")
	}
	for _, w := range webhooks {
		r.report.Webhooks = append(r.report.Webhooks, rotatedWebhook{ID: w.ID, State: "waiting", Old: fingerprint(w.Key)})
	}
	// What was begun at the provider is finished here, whoever presses Ctrl-C.
	lasting := context.WithoutCancel(ctx)
	ended := r.keepAnnouncing(lasting)
	for i, w := range webhooks {
		if ctx.Err() != nil {
			err = errors.New("interrupted: webhooks that are still waiting have their old keys")
			break
		}
		if err = r.rotate(lasting, w, first.Keys, &r.report.Webhooks[i]); err != nil {
			break
		}
	}
	ended()
	if slices.ContainsFunc(r.report.Webhooks, func(w rotatedWebhook) bool { return w.State == "unknown" }) {
		// The announcement runs out by itself, and until then nothing is answered 401.
		return err
	}
	return errors.Join(err, r.end(lasting))
}

// find returns the provider's webhooks that have the endpoint's URL.
func (r *keyRotation) find(ctx context.Context) ([]manage.Webhook, error) {
	all, err := r.api.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("nothing was reset: %w", advised(err))
	}
	var found []manage.Webhook
	for _, w := range all {
		if r.owns(w.URL) && (r.webhook == "" || r.webhook == w.ID) {
			found = append(found, w)
		}
	}
	switch {
	case len(found) > 0:
		return found, nil
	case r.webhook != "":
		return nil, fmt.Errorf("nothing was reset: %s has no webhook %s with the URL of %s", r.Provider, r.webhook, r.Name)
	}
	return nil, fmt.Errorf("nothing was reset: none of the %s at %s has the URL of %s: compare `blessd webhooks list` with public_url, token_files and url",
		count(len(all), "webhook"), r.Provider, r.Name)
}

// ask tells the running blessd about the rotation.
func (r *keyRotation) ask(ctx context.Context, o rotationRequest) (*rotationAnswer, error) {
	o.Endpoint, o.Rotation = r.Name, r.id
	a, err := r.announce(ctx, o)
	if err == nil {
		r.id = a.Rotation
	}
	return a, err
}

// ready says why a new key would not be in force once it is stored, or nil.
func (r *keyRotation) ready(a *rotationAnswer) error {
	switch {
	case !a.SeesProbe:
		return fmt.Errorf("the running blessd, with its data in %s, does not see what this command writes into %s: name the configuration that it runs with, on its machine", a.DataDir, r.cfg.keyDir(r.Name))
	case a.KeysRefused != "":
		return fmt.Errorf("the running blessd does not take the key files that are there:\n%s", a.KeysRefused)
	}
	return nil
}

// keepAnnouncing renews the announcement until the function that it returns is
// called.
func (r *keyRotation) keepAnnouncing(ctx context.Context) (ended func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	request := rotationRequest{Endpoint: r.Name, Rotation: r.id}
	go func() {
		defer close(done)
		tick := time.NewTicker(announceEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if _, err := r.announce(ctx, request); err != nil && ctx.Err() == nil {
				fmt.Fprintf(r.talk, "the announcement could not be renewed: %v\n", err)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// end ends the announcement and notes what came of the deliveries.
func (r *keyRotation) end(ctx context.Context) error {
	a, err := r.ask(ctx, rotationRequest{ReadKeys: true, End: true})
	if err != nil {
		return fmt.Errorf("the announcement could not be ended, and ends by itself within %s: %w", receiver.MaxRotation, err)
	}
	r.report.Deliveries = a.Counts
	return nil
}

// rotate gives one webhook a new key, and the new key to the running blessd, which
// has those in force whose fingerprints are given.
func (r *keyRotation) rotate(ctx context.Context, w manage.Webhook, inForce []string, done *rotatedWebhook) error {
	if w.Key != "" && !slices.Contains(inForce, fingerprint(w.Key)) {
		// What this webhook has signed until now was refused: the overlap is for it, too.
		fmt.Fprintf(r.talk, "webhook %s: its key was not known here, and is stored\n", w.ID)
		if err := r.store(ctx, w.ID, w.Key, done); err != nil {
			done.State = "unchanged"
			return fmt.Errorf("webhook %s was not reset: %w", w.ID, err)
		}
	}
	if r.noReset {
		done.State, done.New, done.Old = "stored", done.Old, ""
		return nil
	}
	fmt.Fprintf(r.talk, "webhook %s: %s makes a new key\n", w.ID, r.Provider)
	key, err := r.reset(ctx, w, done)
	if err != nil {
		return err
	}
	done.New = fingerprint(key)
	if err := r.store(ctx, w.ID, key, done); err != nil {
		done.State = "unknown"
		return fmt.Errorf("webhook %s has the new key %s, which is not in force here: %w\nmend that, and run `blessd webhooks rotate-key %s --no-reset`: it fetches the key from %s; deliveries are refused and kept until then", w.ID, done.New, err, r.Name, r.Provider)
	}
	done.State = "rotated"
	return r.retire(w, done)
}

// reset returns the webhook's new key. After an error the state says what is known.
func (r *keyRotation) reset(ctx context.Context, w manage.Webhook, done *rotatedWebhook) (manage.Secret, error) {
	key, err := r.api.ResetKey(ctx, w.ID)
	if err == nil {
		return key, nil
	}
	if !manage.Uncertain(err) {
		done.State = "unchanged"
		return "", fmt.Errorf("webhook %s keeps its key: %w", w.ID, advised(err))
	}
	fmt.Fprintf(r.talk, "webhook %s: %v; asking which key is in force\n", w.ID, err)
	deadline := time.Now().Add(r.askTime)
	for pause := firstAsk; ; pause *= 2 {
		now, infoErr := r.api.Info(ctx, w.ID)
		switch {
		case infoErr == nil && now.Key != "" && now.Key != w.Key:
			return now.Key, nil
		case infoErr == nil && time.Until(deadline) < pause:
			done.State = "unchanged"
			return "", fmt.Errorf("webhook %s: %w; %s still shows the key that it had: run the command again", w.ID, err, r.Provider)
		case infoErr != nil && (time.Until(deadline) < pause || !errors.Is(infoErr, manage.ErrUnavailable)):
			done.State = "unknown"
			return "", fmt.Errorf("webhook %s: %w, and %w\nrun `blessd webhooks rotate-key %s --no-reset` when %s answers again: it fetches the key; deliveries that a new key signs are refused and kept until then", w.ID, err, infoErr, r.Name, r.Provider)
		}
		time.Sleep(pause)
	}
}

// store keeps a key and has the running blessd take it. It returns nil when
// deliveries are verified by it.
func (r *keyRotation) store(ctx context.Context, webhook string, key manage.Secret, done *rotatedWebhook) error {
	file, err := r.cfg.storeManagedKey(r.Name, webhook, receiver.Secret(key), time.Now())
	if err != nil {
		return err
	}
	done.StoredIn = file
	a, err := r.ask(ctx, rotationRequest{ReadKeys: true})
	switch {
	case err != nil:
		return fmt.Errorf("it is stored in %s, and blessd takes it when it runs: %w", file, err)
	case a.KeysRefused != "":
		return fmt.Errorf("it is stored in %s, and the running blessd does not take the key files:\n%s", file, a.KeysRefused)
	case !slices.Contains(a.Keys, fingerprint(key)):
		return fmt.Errorf("it is stored in %s, and the running blessd has not taken it", file)
	}
	return nil
}

// retire has the webhook's keys of before count for the overlap and no longer.
func (r *keyRotation) retire(w manage.Webhook, done *rotatedWebhook) error {
	keys, err := r.cfg.managedKeys(r.Name)
	if err != nil {
		return fmt.Errorf("webhook %s has its new key, and the old one is not retired: %w", w.ID, err)
	}
	until := time.Now().Add(r.overlap)
	for _, k := range keys {
		switch {
		case k.file == done.StoredIn || k.webhook != "" && k.webhook != w.ID || !r.holdsOld(k, w, done):
			continue
		case !k.counts(time.Now()):
			err = errors.Join(err, os.Remove(k.file)) // it has had its time
			continue
		}
		if _, retireErr := r.cfg.retireManagedKey(k, until); retireErr != nil {
			err = errors.Join(err, retireErr)
			continue
		}
		if k.until.IsZero() || k.until.After(until) {
			at := until.UTC().Truncate(time.Second)
			done.OldUntil = &at
		}
	}
	for _, k := range r.Keys {
		if w.Key != "" && k.Value == receiver.Secret(w.Key) && filepath.Dir(k.Source) != r.cfg.keyDir(r.Name) {
			done.OldIn = append(done.OldIn, k.Source)
		}
	}
	if err != nil {
		return fmt.Errorf("webhook %s has its new key, and an old one goes on counting: %w", w.ID, err)
	}
	return nil
}

// holdsOld tells whether a managed key is one that the webhook had before: stored
// for it, or put there by a person with the same value.
func (r *keyRotation) holdsOld(k managedKey, w manage.Webhook, done *rotatedWebhook) bool {
	if k.webhook == w.ID {
		return k.print != done.New
	}
	value, err := readKey(k.file, signatureKey)
	return err == nil && w.Key != "" && value.Value == receiver.Secret(w.Key)
}

// tryKeyDir writes a file where a key of the endpoint would be stored, as large as the
// largest key. It returns how its name ends.
func (c *Config) tryKeyDir(endpoint string) (probe string, err error) {
	if err := c.makeKeyDir(endpoint); err != nil {
		return "", err
	}
	probe = rand.Text()
	return probe, writeFileAs(filepath.Join(c.keyDir(endpoint), probePrefix+probe), make([]byte, maxSecretBytes), c.giveAway)
}

// fingerprint is what may be shown of a key.
func fingerprint(key manage.Secret) string {
	if key == "" {
		return ""
	}
	return receiver.Key{Value: receiver.Secret(key)}.Fingerprint()
}

// write prints the report as text or json.
func (p *rotationReport) write(w io.Writer, format string) error {
	if format == "json" {
		b, err := json.MarshalWithOption(p, json.DisableHTMLEscape())
		if err != nil {
			return err
		}
		_, err = w.Write(append(b, '\n'))
		return err
	}
	var b strings.Builder
	for _, h := range p.Webhooks {
		fmt.Fprintf(&b, "webhook %s: %s\n", h.ID, h.words())
		if h.StoredIn != "" {
			fmt.Fprintf(&b, "  stored in %s\n", h.StoredIn)
		}
		if h.OldUntil != nil {
			fmt.Fprintf(&b, "  the old key counts until %s\n", h.OldUntil.Format("2006-01-02 15:04:05 UTC"))
		}
		for _, file := range h.OldIn {
			fmt.Fprintf(&b, "  the old key is in %s too: take that out of key_files when the overlap is over\n", file)
		}
	}
	if d := p.Deliveries; d != (receiver.RotationCounts{}) {
		fmt.Fprintf(&b, "%s waited for the new key, %d of them blessed; %d answered 503, %d of them held until it was here\n",
			countOf(d.Parked, "delivery", "deliveries"), d.Blessed, d.Refused, d.Held)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// words is the state for people.
func (h *rotatedWebhook) words() string {
	switch h.State {
	case "rotated":
		return "key " + orUnknown(h.Old) + " replaced by " + h.New
	case "stored":
		return "key " + h.New + " is in force at the provider and here"
	case "unchanged":
		return "key " + orUnknown(h.Old) + " is as it was"
	case "unknown":
		return "key " + orUnknown(h.Old) + " may have been replaced by one that is not here"
	}
	return "not tried"
}

func orUnknown(print string) string {
	if print == "" {
		return "(not shown by the provider)"
	}
	return print
}

// countOf is count for a noun with a plural of its own.
func countOf(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprint(n, " ", many)
}
