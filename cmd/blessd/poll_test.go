package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-json"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/blessd/blessd/manage"
	"github.com/blessd/blessd/manage/manageapi"
)

// polled returns what the status says of the endpoint acme.
func (r *reloadRig) polled() (s pollStatus) {
	r.t.Helper()
	_, text := r.ask(http.MethodGet, "/-/status")
	var all struct {
		Endpoints []struct {
			ProviderWebhook *pollStatus `json:"provider_webhook"`
		} `json:"endpoints"`
	}
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		r.t.Fatal(err)
	}
	if all.Endpoints[0].ProviderWebhook != nil {
		s = *all.Endpoints[0].ProviderWebhook
	}
	return s
}

// provider returns a metric of the endpoint acme at its provider.
func (r *reloadRig) provider(name, provider string, labels ...string) string {
	r.t.Helper()
	more := ""
	for _, l := range labels {
		more += "," + l
	}
	return r.metric(fmt.Sprintf(`blessd_provider_webhook_%s{endpoint="acme",provider="%s"%s}`, name, provider, more))
}

// expectProvider fails unless the metric is that.
func (r *reloadRig) expectProvider(name, provider, want string) {
	r.t.Helper()
	if got := r.provider(name, provider); got != want {
		r.t.Errorf("%s is %q, want %q", name, got, want)
	}
}

// pollNow has the provider asked, beside the polls that come by themselves.
func (r *reloadRig) pollNow() pollStatus {
	r.t.Helper()
	r.daemon.polls.mu.Lock()
	p := r.daemon.polls.byName["acme"]
	r.daemon.polls.mu.Unlock()
	if p == nil {
		r.t.Fatal("acme is not polled")
	}
	r.daemon.polls.poll(r.t.Context(), p)
	return r.polled()
}

// firstPoll waits for the first one, which comes by itself.
func (r *reloadRig) firstPoll(provider string) {
	r.t.Helper()
	until(r.t, "the first poll", func() bool {
		return r.provider("polls_total", provider, `result="ok"`) != "0" || r.provider("polls_total", provider, `result="error"`) != "0"
	})
}

// What the provider counts stands beside what arrived here, and only ever grows.
func TestPollCounts(t *testing.T) {
	t.Parallel()
	r := startRotateRigWith(t, "poll: 1h, ", "    key_files: [DIR/key]", func(api *manageapi.SendClean) {
		api.Put(manageapi.Webhook{URL: acmeURL, Event: "send", Key: oldKey, TotalEvents: 1000, LastSuccess: 1459366666})
		api.Put(manageapi.Webhook{URL: "https://other.example.com/", Event: "send", TotalEvents: 5000, LastSuccess: 1759366666})
	})
	r.firstPoll("sendclean")
	r.expectProvider("events_total", "sendclean", "1000")
	r.expectProvider("last_success_timestamp_seconds", "sendclean", "1.459366666e+09")
	r.expectProvider("present", "sendclean", "") // nobody asked for that
	first := r.api.Webhooks()[0].ID
	for range 3 {
		if got := r.deliver(first); got != http.StatusOK {
			t.Fatalf("delivered: %d", got)
		}
	}
	before := time.Now().Truncate(time.Second)
	s := r.pollNow()
	r.expectProvider("events_total", "sendclean", "1003")
	if s.Events == nil || *s.Events != 1003 || s.LastSuccess == nil || s.LastSuccess.Before(before.Add(-time.Hour)) || s.Polled == nil || s.Error != "" || s.State != hookUnknown {
		t.Errorf("the status says %+v", s)
	}

	// Another webhook of the URL comes, and goes; neither is a jump back.
	second := r.api.Put(manageapi.Webhook{URL: acmeURL, Event: "open", Key: oldKey})
	r.deliver(second)
	r.pollNow()
	r.expectProvider("events_total", "sendclean", "1004")
	r.api.Remove(second)
	r.pollNow()
	r.expectProvider("events_total", "sendclean", "1004")

	if found, err := testutil.GatherAndLint(r.daemon.registry); err != nil || len(found) > 0 {
		t.Errorf("metrics: %v, %v", found, err)
	}

	// A poll that fails is counted, says why, and takes nothing away.
	r.api.Misbehave(manageapi.Fault{Call: "settings/listWebhook", Body: `{"status":"error","code":-1,"name":"AuthenticationError","message":"Token MissMatch"}`})
	s = r.pollNow()
	if !strings.Contains(s.Error, "AuthenticationError") || strings.Contains(s.Error, apiToken) || s.Events == nil {
		t.Errorf("the status says %+v", s)
	}
	r.expectProvider("events_total", "sendclean", "1004")
	if got := r.provider("polls_total", "sendclean", `result="error"`); got != "1" {
		t.Errorf("%s polls failed, want 1", got)
	}
	if s = r.pollNow(); s.Error != "" {
		t.Errorf("after the next: %+v", s)
	}

	// An endpoint that is polled no more has no series.
	r.configure(strings.ReplaceAll(r.endpoints, "poll: 1h, ", ""), "")
	if got := r.daemon.Reload("test"); len(got.refused) > 0 {
		t.Fatal(got)
	}
	r.expectProvider("events_total", "sendclean", "")
	r.expectProvider("last_poll_timestamp_seconds", "sendclean", "")
}

// A webhook that is gone, changed, or signs with a key that is not here, is reported.
func TestReconcileReports(t *testing.T) {
	t.Parallel()
	r := startRotateRigWith(t, "poll: 1h, reconcile: report, ", "    key_files: [DIR/key]", func(*manageapi.SendClean) {})
	r.firstPoll("sendclean")
	gone := func() {
		t.Helper()
		if s := r.polled(); s.State != hookGone || len(s.Differences) != 1 {
			t.Errorf("without a webhook the status says %+v", s)
		}
		r.expectProvider("present", "sendclean", "0")
	}
	gone()
	id := r.api.Put(manageapi.Webhook{URL: acmeURL, Event: strings.Join(manage.SendCleanEvents(), ","), Key: oldKey})
	if s := r.pollNow(); s.State != hookPresent || len(s.Differences) > 0 {
		t.Errorf("as it should be: %+v", s)
	}
	r.expectProvider("present", "sendclean", "1")
	r.api.Remove(id)
	r.pollNow()
	gone()
	r.api.Put(manageapi.Webhook{URL: acmeURL, Event: "send,open", Key: newKey})
	s := r.pollNow()
	if s.State != hookChanged || len(s.Differences) != 2 || !strings.Contains(s.Differences[1], "signs with a key that is not here") || strings.Contains(fmt.Sprint(s), newKey) {
		t.Errorf("with other events and another key: %+v", s)
	}
	r.expectProvider("repairs_total", "sendclean", "0")
	if n := len(r.api.Webhooks()); n != 1 || r.api.Webhooks()[0].Event != "send,open" {
		t.Errorf("a report has changed something: %+v", r.api.Webhooks())
	}
}

// A webhook that is gone is put back, with its new key; the provider calls the URL
// meanwhile. What is too much is not deleted.
func TestReconcileRepairs(t *testing.T) {
	t.Parallel()
	r := startRotateRigWith(t, "poll: 1h, reconcile: repair, ", "", func(*manageapi.SendClean) {})
	until(t, "the webhook to be there", func() bool { return r.provider("repairs_total", "sendclean") == "1" })
	hooks := r.api.Webhooks()
	if len(hooks) != 1 || hooks[0].URL != acmeURL {
		t.Fatalf("got %+v", hooks)
	}
	r.keysInForce("1")
	if got := r.deliver(hooks[0].ID); got != http.StatusOK {
		t.Errorf("delivered: %d", got)
	}
	if s := r.pollNow(); s.State != hookPresent || s.Repaired == nil {
		t.Errorf("the status says %+v", s)
	}
	r.expectProvider("repairs_total", "sendclean", "1")

	// Somebody makes a new key there, and another webhook.
	r.api.Remove(hooks[0].ID)
	r.api.Put(manageapi.Webhook{URL: acmeURL, Event: strings.Join(manage.SendCleanEvents(), ","), Key: oldKey})
	r.api.Put(manageapi.Webhook{URL: acmeURL, Event: "send", Key: newKey})
	s := r.pollNow()
	if s.State != hookChanged || len(s.Differences) != 1 || len(r.api.Webhooks()) != 2 {
		t.Errorf("with two: %+v, %+v", s, r.api.Webhooks())
	}
	r.keysInForce("3")
	r.expectProvider("repairs_total", "sendclean", "2")
}

// startAPIRig starts a blessd with one endpoint whose provider's API is h.
func startAPIRig(t *testing.T, h http.Handler, provider, settings string) *reloadRig {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "api"), []byte(apiToken), 0o600); err != nil {
		t.Fatal(err)
	}
	return startReloadRig(t, fmt.Sprintf("  - {name: acme, provider: %s, manage: {api_key_file: %s/api, base_url: \"%s\", plain_http: true, %s", provider, dir, server.URL, settings))
}

func TestReconcileMailgun(t *testing.T) {
	t.Parallel()
	const url, other = "https://hooks.example.com/hooks/acme", "https://other.example.com/"
	api := manageapi.NewMailgun("mg.example.com", apiToken)
	api.Put("delivered", other, url)
	r := startAPIRig(t, api, "mailgun", "domain: mg.example.com, events: [delivered, permanent_fail], poll: 1h, reconcile: repair}}")
	until(t, "what is missing to be there", func() bool { return r.provider("repairs_total", "mailgun") == "1" })
	if got := fmt.Sprint(api.URLs("delivered"), api.URLs("permanent_fail")); got != fmt.Sprintf("[%s %s] [%s]", other, url, url) {
		t.Errorf("registered: %s", got)
	}
	r.expectProvider("events_total", "mailgun", "")
	r.expectProvider("last_success_timestamp_seconds", "mailgun", "")
	api.Put("delivered", other)
	if s := r.pollNow(); s.State != hookPresent || s.Repaired == nil {
		t.Errorf("the status says %+v", s)
	}
	r.expectProvider("repairs_total", "mailgun", "2")
	r.expectProvider("present", "mailgun", "1")
	if wrong := api.Wrong(); len(wrong) > 0 {
		t.Errorf("calls that are not as documented: %q", wrong)
	}
}

// Vision6 says whether a webhook was there when it is registered again.
func TestReconcileVision6(t *testing.T) {
	t.Parallel()
	api := manageapi.NewVision6(apiToken)
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	dir := t.TempDir()
	for name, secret := range map[string]string{"api": apiToken, "url": "0123456789abcdefABCDEF-_"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := startReloadRig(t, strings.ReplaceAll(fmt.Sprintf(`  - name: acme
    provider: vision6
    token_files: [SECRETS/url]
    manage: {api_key_file: SECRETS/api, base_url: "%s/?version=3.3", plain_http: true, poll: 1h, reconcile: repair}`, server.URL), "SECRETS", dir))
	until(t, "all to be registered", func() bool { return r.provider("repairs_total", "vision6") == "1" })
	if n := len(api.Webhooks()); n != 11 {
		t.Fatalf("%d are registered, want 11", n)
	}
	if s := r.pollNow(); s.State != hookPresent {
		t.Errorf("the status says %+v", s)
	}
	r.expectProvider("repairs_total", "vision6", "1")
	api.Remove(api.Webhooks()[3]) // after five failures
	r.pollNow()
	r.expectProvider("repairs_total", "vision6", "2")
	r.expectProvider("present", "vision6", "1")
	if n := len(api.Webhooks()); n != 11 {
		t.Errorf("%d are registered, want 11", n)
	}
	api.Misbehave(manageapi.Fault{Status: http.StatusForbidden})
	if s := r.pollNow(); s.Error == "" || s.State != hookPresent {
		t.Errorf("the status says %+v", s)
	}
	if wrong := api.Wrong(); len(wrong) > 0 {
		t.Errorf("calls that are not as documented: %q", wrong)
	}
}
