package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-json"

	"github.com/blessd/blessd/manage/manageapi"
	"github.com/blessd/blessd/receiver"
)

// rotateRig is a blessd and a SendClean that has its webhooks.
type rotateRig struct {
	*reloadRig
	api       *manageapi.SendClean
	endpoints string // as configured
}

const (
	ownerID  = "EXAMPLE-OWNER-0123456789"
	apiToken = "EXAMPLE-TOKEN-0123456789"
	acmeURL  = "https://hooks.example.com/hooks/acme"
)

// startRotateRig starts both. more is what else stands in the endpoint's settings.
func startRotateRig(t *testing.T, more string) *rotateRig {
	t.Helper()
	return startRotateRigWith(t, "", more, func(*manageapi.SendClean) {})
}

// startRotateRigWith is startRotateRig with more in manage, and with webhooks that are
// there before blessd starts.
func startRotateRigWith(t *testing.T, manage, more string, prepare func(*manageapi.SendClean)) *rotateRig {
	t.Helper()
	r, started := &rotateRig{}, make(chan struct{})
	// What goes to the public URL arrives at the public listener, as by a proxy.
	r.api = manageapi.NewSendClean("sendclean", ownerID, apiToken, &http.Client{Transport: roundTrip(func(q *http.Request) (*http.Response, error) {
		<-started // a start may register a webhook, whose URL is called
		q.URL = &url.URL{Scheme: "http", Host: r.daemon.Addresses().Hooks, Path: q.URL.Path}
		return http.DefaultTransport.RoundTrip(q)
	})})
	server := httptest.NewServer(r.api)
	t.Cleanup(server.Close)
	t.Cleanup(func() {
		if wrong := r.api.Wrong(); len(wrong) > 0 {
			t.Errorf("calls that are not as documented: %q", wrong)
		}
	})
	dir := t.TempDir()
	for name, secret := range map[string]string{"owner": ownerID, "token": apiToken} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	prepare(r.api)
	r.endpoints = fmt.Sprintf(`  - name: acme
    provider: sendclean
    signature: enforce
    manage: {base_url: "%s/v1.0/", plain_http: true, %sowner_id_file: %s/owner, token_file: %s/token}
%s`, server.URL, manage, dir, dir, more)
	r.reloadRig = startReloadRig(t, r.endpoints)
	close(started)
	return r
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

// deliver has the provider deliver an event of a webhook, and returns the status.
func (r *rotateRig) deliver(id string) int {
	r.t.Helper()
	status, _, err := r.api.Deliver(r.t.Context(), id, []byte(`[{"_id":"1","ts":1465890656000,"event":"send","msg":{}}]`))
	if err != nil {
		r.t.Error(err)
	}
	return status
}

// rotate runs the command. Nothing that it says may have a secret in it.
func (r *rotateRig) rotate(args ...string) (status int, report rotationReport, talk string) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	status, talk = blessd(ctx, &out, append([]string{"webhooks", "rotate-key", "acme", "-c", r.path("blessd.yaml"), "-o", "json"}, args...)...)
	secrets := []string{ownerID, apiToken, oldKey, newKey}
	for _, w := range r.api.Webhooks() {
		secrets = append(secrets, w.Key)
	}
	for _, s := range secrets {
		if strings.Contains(out.String()+talk, s) {
			r.t.Errorf("a secret is in what it says: %s%s", out.String(), talk)
		}
	}
	if out.Len() > 0 {
		if err := json.Unmarshal(out.Bytes(), &report); err != nil {
			r.t.Fatalf("%v: %s", err, out.String())
		}
	}
	return status, report, talk
}

// configureElsewhere gives the commands a configuration with another data directory.
func (r *rotateRig) configureElsewhere() {
	r.t.Helper()
	b, err := os.ReadFile(r.path("blessd.yaml"))
	if err != nil {
		r.t.Fatal(err)
	}
	r.replace("blessd.yaml", strings.ReplaceAll(string(b), r.path("data"), r.path("elsewhere")))
	if err := os.MkdirAll(r.path("elsewhere"), 0o700); err != nil {
		r.t.Fatal(err)
	}
}

// resets counts the calls that make a new key.
func (r *rotateRig) resets() (n int) {
	for _, c := range r.api.Calls() {
		if c.Name == "settings/keyResetWebhook" {
			n++
		}
	}
	return n
}

func printOf(key string) string { return receiver.Key{Value: receiver.Secret(key)}.Fingerprint() }

// keysInForce counts the endpoint's keys.
func (r *rotateRig) keysInForce(want string) {
	r.t.Helper()
	until(r.t, want+" keys in force", func() bool {
		return r.metric(`blessd_endpoint_keys{endpoint="acme",kind="signature",provider="sendclean"}`) == want
	})
}

// The new key is in force when the command ends, the old one counts on, wherever it
// was, and a key that only the provider had is fetched.
func TestRotateKey(t *testing.T) {
	t.Parallel()
	r := startRotateRig(t, "    key_files: [DIR/key]")
	first := r.api.Put(manageapi.Webhook{URL: acmeURL, Event: "send", Key: oldKey})
	r.api.Put(manageapi.Webhook{URL: "https://other.example.com/", Event: "send", Key: newKey})
	status, report, talk := r.rotate()
	now := r.api.Webhooks()
	if status != 0 || len(report.Webhooks) != 1 || report.Problem != "" {
		t.Fatalf("status %d, %+v\n%s", status, report, talk)
	}
	w := report.Webhooks[0]
	if w.ID != first || w.State != "rotated" || w.Old != printOf(oldKey) || w.New != printOf(now[0].Key) || w.OldUntil != nil || !slices.Equal(w.OldIn, []string{r.path("key")}) {
		t.Errorf("got %+v", w)
	}
	if b, err := os.ReadFile(w.StoredIn); err != nil || string(b) != now[0].Key+"\n" || now[1].Key != newKey {
		t.Errorf("stored in %s: %v; the other webhook's key was changed: %v", w.StoredIn, err, now[1].Key != newKey)
	}
	if got := r.deliver(first); got != http.StatusOK {
		t.Errorf("by the new key: %d", got)
	}
	if got := r.post("acme", oldKey); got != http.StatusOK {
		t.Errorf("by the old key: %d", got)
	}

	// Again, with two webhooks of the URL by now, one of them with a key that is not
	// here.
	second := r.api.Put(manageapi.Webhook{URL: acmeURL, Event: "open"})
	if got := r.deliver(second); got != http.StatusUnauthorized {
		t.Errorf("by a key that is not here: %d", got)
	}
	was := r.api.Webhooks()
	status, report, talk = r.rotate("--overlap", "0")
	if status != 0 || len(report.Webhooks) != 2 || r.resets() != 3 {
		t.Fatalf("status %d, %+v, %d resets\n%s", status, report, r.resets(), talk)
	}
	for i, id := range []string{first, second} {
		if w := report.Webhooks[i]; w.ID != id || w.State != "rotated" || w.OldUntil == nil || w.OldUntil.After(time.Now()) || len(w.OldIn) > 0 {
			t.Errorf("got %+v", w)
		}
		if got := r.deliver(id); got != http.StatusOK {
			t.Errorf("webhook %d: %d", i+1, got)
		}
	}
	r.keysInForce("3") // that of key_files and two new ones
	if got := r.post("acme", was[0].Key); got != http.StatusUnauthorized {
		t.Errorf("by a key whose time is over: %d", got)
	}
	until(t, "what came before its key to be redeemed", func() bool {
		return r.metric(`blessd_unverified_redeemed_total{endpoint="acme",provider="sendclean"}`) == "1"
	})

	// A third time one alone: keys that are over are cleared away.
	if status, report, talk = r.rotate("--webhook-id", second); status != 0 || len(report.Webhooks) != 1 || report.Webhooks[0].ID != second {
		t.Fatalf("status %d, %+v\n%s", status, report, talk)
	}
	keys, err := r.daemon.cfg.managedKeys("acme")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if k.webhook == second && !k.counts(time.Now()) {
			t.Errorf("%s is still there", k.file)
		}
	}
	if got := r.metric(`blessd_webhook_rotation_announced{endpoint="acme",provider="sendclean"}`); got != "0" {
		t.Error("the announcement goes on")
	}
}

// An endpoint whose key a person put into the data directory: it ends with the
// overlap.
func TestRotateKeyPutThereByHand(t *testing.T) {
	t.Parallel()
	r := startRotateRig(t, "")
	id := r.api.Put(manageapi.Webhook{URL: acmeURL, Event: "send", Key: oldKey})
	if got := r.deliver(id); got != http.StatusServiceUnavailable {
		t.Errorf("without a key: %d, want 503", got)
	}
	if err := r.daemon.cfg.makeKeyDir("acme"); err != nil {
		t.Fatal(err)
	}
	r.replace("data/keys/acme/provider.key", oldKey)
	r.keysInForce("1")
	status, report, talk := r.rotate("--overlap", "3d")
	if status != 0 || len(report.Webhooks) != 1 || report.Webhooks[0].OldUntil == nil || time.Until(*report.Webhooks[0].OldUntil) < 71*time.Hour || len(report.Webhooks[0].OldIn) != 0 {
		t.Fatalf("status %d, %+v\n%s", status, report, talk)
	}
	if found, _ := filepath.Glob(r.path("data/keys/acme/provider.until.*.key")); len(found) != 1 {
		t.Errorf("found %q", found)
	}
	for _, got := range []int{r.deliver(id), r.post("acme", oldKey)} {
		if got != http.StatusOK {
			t.Errorf("got %d", got)
		}
	}
	text := rotationReport{Webhooks: report.Webhooks, Deliveries: receiver.RotationCounts{Parked: 1, Blessed: 1}}
	var b strings.Builder
	if err := text.write(&b, "text"); err != nil || !strings.Contains(b.String(), "replaced by") || !strings.Contains(b.String(), "the old key counts until") || !strings.Contains(b.String(), "1 delivery waited for the new key, 1 of them blessed; 0 answered 503") {
		t.Errorf("%v: %s", err, b.String())
	}
}

// What keeps a new key from being put into force is found before one is made.
func TestRotateKeyRefusesBefore(t *testing.T) {
	t.Parallel()
	r := startRotateRig(t, `    key_files: [DIR/key]
  - {name: eu, provider: mailgun, key_files: [DIR/key]}
  - {name: ru, provider: enkod, auth: none}
  - {name: hand, provider: sarv, key_files: [DIR/key]}`)
	refused := func(what, want string, args ...string) {
		t.Helper()
		status, _, talk := r.rotate(args...)
		if status != 1 || !strings.Contains(talk, want) || !strings.Contains(talk, "nothing was reset") {
			t.Errorf("%s: status %d, want 1 and %q: %s", what, status, want, talk)
		}
	}
	refused("no webhook", "none of the 0 webhooks at sendclean has the URL of acme")
	r.api.Put(manageapi.Webhook{URL: acmeURL, Event: "send", Key: oldKey})
	refused("another id", "no webhook 17 with the URL of acme", "--webhook-id", "17")
	r.api.Misbehave(manageapi.Fault{Call: "settings/listWebhook", Body: `{"status":"error","code":-1,"name":"AuthenticationError","message":"Token MissMatch"}`})
	refused("credentials", "AuthenticationError")
	refused("nobody at the admin listener", "blessd does not answer", "--admin-url", "http://127.0.0.1:1")
	if _, err := r.daemon.rotate(&rotationRequest{Endpoint: "acme"}); err != nil {
		t.Fatal(err)
	}
	refused("announced by another", "announced already")
	for _, a := range r.daemon.announced.byName {
		r.daemon.endRotation("acme", a.id, "ended")
	}
	if err := r.daemon.cfg.makeKeyDir("hand"); err != nil {
		t.Fatal(err)
	}
	r.replace("data/keys/hand/provider.key", "")
	status, _, talk := r.rotate() // which reads the same keys and finds it itself
	if status != 1 || !strings.Contains(talk, "provider.key: empty") {
		t.Errorf("a key file that is no good: status %d: %s", status, talk)
	}
	if err := os.Remove(r.path("data/keys/hand/provider.key")); err != nil {
		t.Fatal(err)
	}
	r.configureElsewhere()
	status, _, talk = r.rotate("--admin-url", "http://"+r.daemon.Addresses().Admin)
	if status != 1 || !strings.Contains(talk, "nothing was reset") || !strings.Contains(talk, "does not see what this command writes") {
		t.Errorf("another data directory: status %d: %s", status, talk)
	}
	if n := r.resets(); n != 0 {
		t.Errorf("%d keys were made", n)
	}
	for _, c := range []struct{ endpoint, want string }{
		{"eu", "no documented call that makes a new signing key"}, {"ru", "enkod signs nothing"}, {"hand", "no manage section"}, {"acmee", `did you mean "acme"?`},
	} {
		var out bytes.Buffer
		if status, talk := blessd(t.Context(), &out, "webhooks", "rotate-key", c.endpoint, "-c", r.path("blessd.yaml")); status == 0 || !strings.Contains(talk, c.want) {
			t.Errorf("%s: status %d, want %q: %s", c.endpoint, status, c.want, talk)
		}
	}
	for _, args := range [][]string{{}, {"acme", "--overlap", "soon"}, {"acme", "-o", "xml"}} {
		if status, talk := blessd(t.Context(), &bytes.Buffer{}, append([]string{"webhooks", "rotate-key", "-c", r.path("blessd.yaml")}, args...)...); status != 2 {
			t.Errorf("%q: status %d, want 2: %s", args, status, talk)
		}
	}
}

// The provider has made a key and its answer is lost: the key is fetched. It has made
// none, or says no: everything is as it was. It cannot be asked: what can be done is
// said, and the key is fetched later; what came meanwhile goes in then.
func TestRotateKeyAnswerLost(t *testing.T) {
	t.Parallel()
	r := startRotateRig(t, "    key_files: [DIR/key]")
	id := r.api.Put(manageapi.Webhook{URL: acmeURL, Event: "send", Key: oldKey})
	const call = "settings/keyResetWebhook"
	for _, c := range []struct {
		name  string
		fault manageapi.Fault
	}{
		{"dropped", manageapi.Fault{Call: call, Executed: true, Drop: true}},
		{"a page", manageapi.Fault{Call: call, Executed: true, Status: 502, Body: "<html>"}},
		{"cut", manageapi.Fault{Call: call, Cut: 20}},
		{"without the key", manageapi.Fault{Call: call, Executed: true, Body: `{"status":"success","message":"Webhook key reseted"}`}},
	} {
		r.api.Misbehave(c.fault)
		status, report, talk := r.rotate()
		key := r.api.Webhooks()[0].Key
		if status != 0 || len(report.Webhooks) != 1 || report.Webhooks[0].State != "rotated" || report.Webhooks[0].New != printOf(key) {
			t.Errorf("%s: status %d, %+v\n%s", c.name, status, report, talk)
		}
		if got := r.deliver(id); got != http.StatusOK {
			t.Errorf("%s: by the new key: %d", c.name, got)
		}
	}

	key := r.api.Webhooks()[0].Key
	r.api.Misbehave(manageapi.Fault{Call: call, Body: `{"status":"error","code":-1,"name":"ValidationError","message":"webhook_id is not valid"}`})
	status, report, talk := r.rotate()
	if status != 1 || report.Webhooks[0].State != "unchanged" || !strings.Contains(talk, "keeps its key") || r.api.Webhooks()[0].Key != key {
		t.Errorf("refused: status %d, %+v\n%s", status, report, talk)
	}

	// From here on the command itself is not used: it would ask for half a minute.
	run := func(noReset bool) (rotationReport, error) {
		t.Helper()
		k, err := newKeyRotation(&overrides{Config: r.path("blessd.yaml")}, adminFlags{}, "acme")
		if err != nil {
			t.Fatal(err)
		}
		k.askTime, k.noReset = 0, noReset
		err = k.run(t.Context())
		return k.report, err
	}
	r.api.Misbehave(manageapi.Fault{Call: call, Status: 502})
	report, err := run(false)
	if err == nil || report.Webhooks[0].State != "unchanged" || !strings.Contains(err.Error(), "run the command again") || r.api.Webhooks()[0].Key != key {
		t.Errorf("not made: %+v, %v", report, err)
	}
	announced := func() string {
		return r.metric(`blessd_webhook_rotation_announced{endpoint="acme",provider="sendclean"}`)
	}
	if announced() != "0" {
		t.Error("the announcement goes on")
	}

	r.api.Misbehave(manageapi.Fault{Call: call, Executed: true, Drop: true}, manageapi.Fault{Call: "settings/getWebhookInfo", Body: "<html>"})
	report, err = run(false)
	if err == nil || report.Webhooks[0].State != "unknown" || !strings.Contains(err.Error(), "--no-reset") || r.api.Webhooks()[0].Key == key {
		t.Errorf("not known: %+v, %v", report, err)
	}
	if announced() != "1" {
		t.Error("the announcement was ended, and the key is not here")
	}
	for _, a := range r.daemon.announced.byName {
		r.daemon.endRotation("acme", a.id, "ended") // as if it had run out
	}
	if got := r.deliver(id); got != http.StatusUnauthorized {
		t.Errorf("by the key that is not here: %d", got)
	}
	report, err = run(true)
	if err != nil || report.Webhooks[0].State != "stored" || report.Webhooks[0].New != printOf(r.api.Webhooks()[0].Key) {
		t.Errorf("fetched: %+v, %v", report, err)
	}
	until(t, "what came meanwhile to be redeemed", func() bool {
		return r.metric(`blessd_unverified_redeemed_total{endpoint="acme",provider="sendclean"}`) == "1"
	})
	if got := r.deliver(id); got != http.StatusOK {
		t.Errorf("by the key that was fetched: %d", got)
	}
}

// blessd ends while the provider makes the key: the key is stored, the command says
// so, and the next start has it.
func TestRotateKeyDaemonGone(t *testing.T) {
	t.Parallel()
	r := startRotateRig(t, "    key_files: [DIR/key]")
	r.api.Put(manageapi.Webhook{URL: acmeURL, Event: "send", Key: oldKey})
	k, err := newKeyRotation(&overrides{Config: r.path("blessd.yaml")}, adminFlags{}, "acme")
	if err != nil {
		t.Fatal(err)
	}
	ask, asked := k.announce, 0
	k.announce = func(ctx context.Context, o rotationRequest) (*rotationAnswer, error) {
		if asked++; asked > 1 {
			return nil, fmt.Errorf("blessd does not answer")
		}
		return ask(ctx, o)
	}
	err = k.run(t.Context())
	w := k.report.Webhooks[0]
	if err == nil || !strings.Contains(err.Error(), "it is stored in "+w.StoredIn) || !strings.Contains(err.Error(), "blessd takes it when it runs") || w.New != printOf(r.api.Webhooks()[0].Key) {
		t.Errorf("%+v, %v", w, err)
	}
	r.keysInForce("2") // nobody has told this one
}
