package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/blessd/blessd/manage"
	"github.com/blessd/blessd/manage/manageapi"
)

const (
	canaryOwner   = "CANARYowner0123"
	canaryToken   = "CANARY/apitoken+0123="
	canaryKey     = "CANARYapikey0123456789"
	canaryURLPart = "CANARYurltoken0123456789"
	otherURLPart  = "CANARYothertoken012345678"
)

// site is a configuration with the providers and the public address around it.
type site struct {
	t         *testing.T
	dir       string
	hooks     *httptest.Server // blesses; stands for blessd behind its proxy
	sendclean *manageapi.SendClean
	mailgun   *manageapi.Mailgun
	apis      map[string]*httptest.Server
	config    string
	in        string // what the person types
}

// newSite returns a site whose endpoints are acme and beta, at one account of
// SendClean, eu at Mailgun and ru at enKod.
func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), apis: map[string]*httptest.Server{}}
	s.hooks = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if !strings.HasSuffix(q.URL.Path, canaryURLPart) && !strings.HasSuffix(q.URL.Path, otherURLPart) {
			http.NotFound(w, q)
			return
		}
		if strings.HasPrefix(q.URL.Path, "/hooks/eu/") {
			fmt.Fprint(w, "God bless you")
			return
		}
		fmt.Fprint(w, "God bless you, SendClean")
	}))
	t.Cleanup(s.hooks.Close)
	s.sendclean = manageapi.NewSendClean("sendclean", canaryOwner, canaryToken, nil)
	s.mailgun = manageapi.NewMailgun("mg.example.com", canaryKey)
	for name, api := range map[string]http.Handler{"sendclean": s.sendclean, "mailgun": s.mailgun} {
		s.apis[name] = httptest.NewServer(api)
		t.Cleanup(s.apis[name].Close)
	}
	for name, content := range map[string]string{
		"owner": canaryOwner, "token": canaryToken, "api": canaryKey, "sign": "CANARYsigningkey0123",
		"url": canaryURLPart, "other": otherURLPart,
	} {
		write(t, s.dir, name, content+"\n")
	}
	s.configure("", "")
	return s
}

// configure writes the configuration, with more settings for acme, and for its
// manage.
func (s *site) configure(more, moreManage string) {
	s.t.Helper()
	text := strings.NewReplacer("DIR", s.dir, "HOOKS", s.hooks.URL, "SENDCLEAN", s.apis["sendclean"].URL, "MAILGUN", s.apis["mailgun"].URL).Replace(`
public_url: HOOKS
data_dir: DIR/data
endpoints:
  - name: acme
    provider: sendclean
    token_files: [DIR/url]
    ` + more + `
    manage: {base_url: "SENDCLEAN/v1.0", plain_http: true, owner_id_file: DIR/owner, token_file: DIR/token` + moreManage + `}
  - name: beta
    provider: sendclean
    token_files: [DIR/url]
    manage: {base_url: "SENDCLEAN/v1.0", plain_http: true, owner_id_file: DIR/owner, token_file: DIR/token}
  - name: eu
    provider: mailgun
    key_files: [DIR/sign]
    token_files: [DIR/url]
    manage: {base_url: "MAILGUN", plain_http: true, domain: mg.example.com, api_key_file: DIR/api}
  - {name: ru, provider: enkod, token_files: [DIR/url]}
`)
	s.config = write(s.t, s.dir, "blessd.yaml", text)
}

// run runs `blessd webhooks` and returns the status and both outputs. Nothing in them
// may be secret unless the command line asks for a whole URL.
func (s *site) run(args ...string) (status int, out, talk string) {
	s.t.Helper()
	status, out, talk = s.runShowingURL(args...)
	if text := out + talk; strings.Contains(text, "CANARY") {
		s.t.Errorf("blessd webhooks %s shows a secret:\n%s", strings.Join(args, " "), text)
	}
	for _, w := range s.sendclean.Webhooks() {
		if strings.Contains(out+talk, w.Key) {
			s.t.Errorf("blessd webhooks %s shows a key", strings.Join(args, " "))
		}
	}
	return status, out, talk
}

func (s *site) runShowingURL(args ...string) (status int, out, talk string) {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	root := newRootCommand()
	root.SetArgs(append([]string{"webhooks", args[0], "-c", s.config}, args[1:]...))
	root.SetOut(&stdout)
	root.SetErr(&stderr)
	root.SetIn(strings.NewReader(s.in))
	err := root.ExecuteContext(s.t.Context())
	switch {
	case errors.Is(err, errUsage):
		status = 2
	case err != nil:
		status = 1
	}
	if err != nil {
		fmt.Fprintf(&stderr, "blessd: %v\n", err)
	}
	return status, stdout.String(), stderr.String()
}

// want runs a command and wants a status and these texts in both outputs together.
func (s *site) want(status int, args []string, texts ...string) string {
	s.t.Helper()
	got, out, talk := s.run(args...)
	if got != status {
		s.t.Fatalf("blessd webhooks %s: status %d, want %d\n%s%s", strings.Join(args, " "), got, status, out, talk)
	}
	for _, text := range texts {
		if !strings.Contains(out+talk, text) {
			s.t.Errorf("blessd webhooks %s: %q is missing in\n%s%s", strings.Join(args, " "), text, out, talk)
		}
	}
	return out
}

func (s *site) url(endpoint, token string) string {
	return s.hooks.URL + "/hooks/" + endpoint + "/" + token
}

// noWrong fails when a call was not as documented.
func (s *site) noWrong() {
	s.t.Helper()
	if wrong := slices.Concat(s.sendclean.Wrong(), s.mailgun.Wrong()); len(wrong) > 0 {
		s.t.Errorf("not as documented: %q", wrong)
	}
}

func TestWebhooksApply(t *testing.T) {
	s := newSite(t)
	s.want(0, []string{"plan"}, "acme  sendclean  "+s.hooks.URL+"/hooks/acme/...", "+ webhook: events send, open", "+ accepted: the endpoint's URL", "by hand:")
	s.want(0, []string{"apply"}, "acme: add webhook: added", "beta: add webhook: added", "eu: add opened: added")
	s.noWrong()
	// Two endpoints of one account do not see each other's webhooks as foreign.
	out := s.want(0, []string{"list"}, "acme ", "beta ", "registered", "by hand")
	if n := strings.Count(out, "sendclean"); n != 2 || strings.Contains(out, "not ours") {
		t.Errorf("want two webhooks at sendclean, both ours:\n%s", out)
	}
	// The keys are here, in files that nobody else reads.
	for i, endpoint := range []string{"acme", "beta"} {
		files, err := filepath.Glob(filepath.Join(s.dir, "data", "keys", endpoint, "*.key"))
		if err != nil || len(files) != 1 {
			t.Fatalf("%s: files %q, %v", endpoint, files, err)
		}
		b, err := os.ReadFile(files[0])
		if err != nil || strings.TrimSpace(string(b)) != s.sendclean.Webhooks()[i].Key {
			t.Errorf("%s: not the key (%v)", endpoint, err)
		}
		if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v", endpoint, info.Mode(), err)
		}
	}
	sent, mailed := len(s.sendclean.Calls()), len(s.mailgun.Calls())
	s.want(0, []string{"apply"}, "nothing to do")
	for _, call := range slices.Concat(s.sendclean.Calls()[sent:], s.mailgun.Calls()[mailed:]) {
		if !strings.Contains(call.Name, "listWebhook") && !strings.HasPrefix(call.Name, "GET") {
			t.Errorf("applying again calls %s", call.Name)
		}
	}
	var plan struct {
		Steps   []any
		Same    []string
		Keys    []string
		Blocked []string
	}
	if err := json.Unmarshal([]byte(s.want(0, []string{"plan", "acme", "-o", "json"})), &plan); err != nil || plan.Steps == nil || len(plan.Steps) != 0 || len(plan.Same) != 1 || plan.Keys == nil || plan.Blocked == nil {
		t.Errorf("got %+v, %v", plan, err)
	}
}

// Another webhook with the endpoint's URL is deleted when a person agrees, and its
// key counts for a day.
func TestWebhooksDeletion(t *testing.T) {
	s := newSite(t)
	s.want(0, []string{"apply", "acme"})
	id := s.sendclean.Put(manageapi.Webhook{URL: s.url("acme", canaryURLPart), Event: "open", StoreLog: "Disable"})
	s.want(0, []string{"plan", "acme"}, "- "+id, "+ key of "+id)
	for _, answer := range []string{"", "no\n", "y\n"} {
		s.in = answer
		s.want(0, []string{"apply", "acme"}, "delete 1 webhook?", id+" is left as it is")
		if n := len(s.sendclean.Webhooks()); n != 2 {
			t.Fatalf("%q: %d webhooks left, want 2", answer, n)
		}
	}
	// Its key is here before it goes.
	if err := os.RemoveAll(filepath.Join(s.dir, "data", "keys")); err != nil {
		t.Fatal(err)
	}
	s.in = "yes\n"
	s.want(0, []string{"apply", "acme"}, "delete "+id+": deleted")
	if list := s.sendclean.Webhooks(); len(list) != 1 || list[0].ID == id {
		t.Errorf("left: %+v", list)
	}
	retired, err := filepath.Glob(filepath.Join(s.dir, "data", "keys", "acme", id+".*.until.*.key"))
	if err != nil || len(retired) != 1 {
		t.Errorf("the key of a deleted webhook has no end: %q, %v", retired, err)
	}
	s.noWrong()
}

// Nobody to ask, and no --yes: nothing at all is done.
func TestWebhooksDeletionUnasked(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	x := applier{in: null, talk: &bytes.Buffer{}}
	if agreed, err := x.ask("delete 1 webhook?", 1); err == nil || agreed || !strings.Contains(err.Error(), "--yes") {
		t.Errorf("got %t, %v", agreed, err)
	}
	x.yes = true
	if agreed, err := x.ask("delete 1 webhook?", 1); err != nil || !agreed {
		t.Errorf("got %t, %v", agreed, err)
	}
}

// A URL with another of the endpoint's tokens is ours, and moves to the first.
func TestWebhooksTokenChanges(t *testing.T) {
	s := newSite(t)
	s.want(0, []string{"apply", "acme"})
	id := s.sendclean.Webhooks()[0].ID
	s.configure("", "")
	text := strings.Replace(readText(t, s.config), "token_files: ["+s.dir+"/url]", "token_files: ["+s.dir+"/other, "+s.dir+"/url]", 1)
	write(t, s.dir, "blessd.yaml", text)
	s.want(0, []string{"apply", "acme"}, "~ "+id+": URL: the endpoint's of today", "acme: edit "+id+": changed")
	if w := s.sendclean.Webhooks()[0]; w.ID != id || w.URL != s.url("acme", otherURLPart) {
		t.Errorf("got %+v", w)
	}
	s.noWrong()
}

// Webhooks with a former public_url are ours when somebody says so, and move.
func TestWebhooksFormerPublicURL(t *testing.T) {
	s := newSite(t)
	const former = "https://old.example.com"
	id := s.sendclean.Put(manageapi.Webhook{URL: former + "/hooks/acme/" + canaryURLPart, Event: "send,open,click,soft_bounce,hard_bounce,spam", StoreLog: "Disable"})
	other := s.sendclean.Put(manageapi.Webhook{URL: former + "/hooks/another/" + canaryURLPart, Event: "open", StoreLog: "Disable"})
	for _, name := range manage.MailgunEvents() {
		s.mailgun.Put(name, "https://other.example.com/", former+"/hooks/eu/"+canaryURLPart)
	}
	s.want(0, []string{"plan", "acme"}, "+ webhook", "2 webhooks of others")
	s.want(2, []string{"plan", "--former-public-url", "old"}, "like https://hooks.example.com")
	s.want(0, []string{"plan", "acme", "--former-public-url", former}, "~ "+id, "1 webhook of others")
	s.want(0, []string{"apply", "acme", "eu", "--former-public-url", former + "/"}, "acme: edit "+id+": changed", "eu: edit accepted: changed")
	if list := s.sendclean.Webhooks(); len(list) != 2 || list[0].URL != s.url("acme", canaryURLPart) || list[1].ID != other || list[1].Event != "open" {
		t.Errorf("got %+v", list)
	}
	for _, name := range manage.MailgunEvents() {
		if got := s.mailgun.URLs(name); !slices.Equal(got, []string{"https://other.example.com/", s.url("eu", canaryURLPart)}) {
			t.Errorf("%s has %q", name, got)
		}
	}
	s.noWrong()
}

func readText(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Others' webhooks are out of reach of every command.
func TestWebhooksOthers(t *testing.T) {
	s := newSite(t)
	other := s.sendclean.Put(manageapi.Webhook{URL: "https://other.example.com/hook", Event: "open", StoreLog: "Enable", Description: "theirs"})
	near := s.sendclean.Put(manageapi.Webhook{URL: s.url("acme", canaryURLPart) + "/", Event: "open", StoreLog: "Enable"})
	for _, name := range manage.MailgunNames() {
		s.mailgun.Put(name, "https://other.example.com/hook")
	}
	out := s.want(0, []string{"apply"}, "2 webhooks of others", "? webhook "+near+" has almost")
	s.sendclean.Put(manageapi.Webhook{URL: "https://other.example.com/\x1b[31m", Event: "open,\x1b[2Jclick", StoreLog: "Enable"})
	if out += s.want(0, []string{"list"}, "?[2Jclick"); strings.Contains(out, "\x1b") {
		t.Errorf("a terminal would obey:\n%q", out)
	}
	s.want(1, []string{"edit", "acme", "--id", other, "--description", "mine"}, "not one of acme")
	s.want(1, []string{"delete", "acme", "--id", other, "--yes"}, "no other is touched")
	s.want(0, []string{"delete", "acme", "--yes"}, "deleted")
	s.want(0, []string{"delete", "eu", "--yes"}, "eu: delete accepted: removed")
	s.want(1, []string{"delete", "eu", "--yes"}, "under none of these names")
	s.want(1, []string{"delete", "acme", "--yes"}, "no webhook with the URL of acme")
	list := s.sendclean.Webhooks()
	if len(list) != 4 || list[0].ID != other || list[0].Description != "theirs" || list[1].ID != near {
		t.Errorf("left: %+v", list)
	}
	for _, name := range manage.MailgunNames() {
		if urls := s.mailgun.URLs(name); !slices.Equal(urls, []string{"https://other.example.com/hook"}) {
			t.Errorf("%s has %q", name, urls)
		}
	}
	s.noWrong()
}

func TestWebhooksAddAndEdit(t *testing.T) {
	s := newSite(t)
	s.want(0, []string{"add", "acme", "--events", "open,click", "--description", "trial", "--store-log"}, "acme: add webhook: added", "stored")
	if w := s.sendclean.Webhooks()[0]; w.Event != "open,click" || w.Description != "trial" || w.StoreLog != "Enable" {
		t.Errorf("got %+v", w)
	}
	s.want(1, []string{"add", "acme"}, "registered at sendclean already")
	s.want(0, []string{"edit", "acme", "--events", "spam"}, "changed")
	if w := s.sendclean.Webhooks()[0]; w.Event != "spam" || w.Description != "trial" || w.StoreLog != "Enable" {
		t.Errorf("got %+v", w)
	}
	s.want(0, []string{"info", "acme"}, "events sent   0", "last success  never", "key           known")
	var info struct {
		Total *int64 `json:"total_events"`
	}
	if err := json.Unmarshal([]byte(s.want(0, []string{"info", "acme", "-o", "json"})), &info); err != nil || info.Total == nil {
		t.Errorf("got %+v, %v", info, err)
	}
	s.sendclean.Put(manageapi.Webhook{URL: s.url("acme", canaryURLPart), Event: "open", StoreLog: "Disable"})
	s.want(1, []string{"edit", "acme", "--events", "spam"}, "say which with --id")
	s.want(0, []string{"add", "eu", "--events", "opened"}, "eu: add opened: added")
	if urls := s.mailgun.URLs("clicked"); len(urls) != 0 {
		t.Errorf("clicked has %q", urls)
	}
	s.noWrong()
}

// What a person enters by hand is the one thing that shows the token.
func TestWebhooksByHand(t *testing.T) {
	s := newSite(t)
	status, out, _ := s.runShowingURL("add", "ru")
	if status != 0 || !strings.Contains(out, s.url("ru", canaryURLPart)+"\n") || !strings.Contains(out, "In enKod open Settings") {
		t.Errorf("status %d\n%s", status, out)
	}
	var guide struct {
		URL   string
		Steps []string
	}
	if _, out, _ := s.runShowingURL("add", "ru", "-o", "json"); json.Unmarshal([]byte(out), &guide) != nil || guide.URL != s.url("ru", canaryURLPart) || len(guide.Steps) < 3 {
		t.Errorf("got %+v", guide)
	}
	s.want(1, []string{"edit", "ru", "--events", "x"}, "no API to manage webhooks with")
	s.want(1, []string{"info", "ru"}, "by hand")
	// blessd is not running: that is said, and not taken for silence.
	s.want(0, []string{"list", "ru"}, "by hand", "what has arrived is not known")
	for _, p := range providerSettings {
		if len(manage.ByHand(p.name)) < 2 {
			t.Errorf("%s: nothing says what to do by hand", p.name)
		}
	}
}

func TestWebhooksUsage(t *testing.T) {
	s := newSite(t)
	for _, tc := range []struct {
		args []string
		text string
	}{
		{[]string{"plan", "acmee"}, `did you mean "acme"?`},
		{[]string{"list", "-o", "yaml"}, "neither text nor json"},
		{[]string{"add"}, "the name of one endpoint"},
		{[]string{"delete", "acme", "eu"}, "the name of one endpoint"},
		{[]string{"edit", "acme"}, "nothing to change"},
		{[]string{"edit", "acme", "--events", "opn"}, `did you mean "open"?`},
		{[]string{"add", "eu", "--store-log"}, "neither --description nor --store-log"},
		{[]string{"delete", "acme", "--event", "open"}, "--event is Mailgun's"},
		{[]string{"delete", "eu", "--id", "1"}, "--event chooses"},
		{[]string{"delete", "eu", "--event", "openend"}, `did you mean "opened"?`},
		{[]string{"lst"}, `did you mean "list"?`},
		{[]string{"apply", "--yess"}, "did you mean --yes?"},
	} {
		s.want(2, tc.args, tc.text)
	}
	if n := len(s.sendclean.Calls()) + len(s.mailgun.Calls()); n != 0 {
		t.Errorf("%d calls in spite of a wrong command line", n)
	}
}

// Before anything is registered the URL must answer with the blessing.
func TestWebhooksChecksURL(t *testing.T) {
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		text   string
	}{
		"404": {http.NotFound, "is not known there (404)"},
		"redirect": {func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, "/"+canaryURLPart, http.StatusMovedPermanently)
		}, "redirects (status 301)"},
		"password":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) }, "asks for a password"},
		"503":       {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, "answers 503 instead of the blessing"},
		"a newline": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "God bless you, SendClean") }, "not a character more"},
		"Sarv":      {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "God bless you, Sarv") }, `must answer "God bless you, SendClean"`},
		"a page":    {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>"+strings.Repeat("x", 1000)) }, "is it blessd that answers"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.hooks.Config.Handler = tc.answer
			s.want(1, []string{"apply", "acme"}, "nothing was registered", tc.text)
			s.want(1, []string{"add", "acme"}, "nothing was registered", tc.text)
			if n := len(s.sendclean.Webhooks()); n != 0 {
				t.Errorf("%d webhooks", n)
			}
		})
	}
	s := newSite(t)
	s.hooks.Close()
	s.want(1, []string{"apply", "acme"}, "cannot be reached", "--no-check")
	// The provider tries for itself, and says no.
	s.want(1, []string{"apply", "acme", "--no-check"}, "ValidationError", "url is not reachable")
	s.want(0, []string{"apply", "eu", "--no-check"}, "eu: add accepted: added")
}

// One provider's fault is no other's.
func TestWebhooksPartialFailure(t *testing.T) {
	s := newSite(t)
	s.sendclean.Misbehave(manageapi.Fault{Call: "settings/listWebhook", Body: `{"status":"error","code":-1,"name":"AuthenticationError","message":"Token MissMatch ` + canaryToken + `"}`})
	s.want(1, []string{"apply"}, "acme: sendclean, settings/listWebhook: AuthenticationError: Token MissMatch ...: check the files with the credentials", "beta: add webhook: added", "eu: add accepted: added")

	s = newSite(t)
	s.mailgun.RefuseOpened = true
	s.want(1, []string{"apply", "eu"}, "eu: add opened: FAILED", "Invalid webhook type: opened (HTTP status 400)", "eu: add unsubscribed: added")

	s = newSite(t)
	s.mailgun.Put("clicked", "https://a.example/", "https://b.example/", "https://c.example/")
	s.want(1, []string{"apply", "eu"}, "! clicked cannot be registered: it has 3 URLs of others", "eu: add accepted: added")

	// It is not known whether it was done, and apply says how to find out; then it is
	// found, and nothing is registered twice.
	s = newSite(t)
	s.sendclean.Misbehave(manageapi.Fault{Call: "settings/addWebhook", Executed: true, Status: 502, Echo: true})
	s.want(1, []string{"apply", "acme"}, "whether it was done all the same is not known", "blessd webhooks list")
	s.want(0, []string{"apply", "acme"}, "nothing to do")
	if n := len(s.sendclean.Webhooks()); n != 1 {
		t.Errorf("%d webhooks", n)
	}
	s.noWrong()
}

// A provider that says success and does something else is found out.
func TestWebhooksVerifies(t *testing.T) {
	s := newSite(t)
	s.sendclean.Misbehave(manageapi.Fault{Call: "settings/addWebhook", Body: `{"status":"success","message":"Webhook Added"}`})
	s.want(1, []string{"apply", "acme"}, "sendclean accepted the change, and still differs: add webhook")
}

// Every command against a provider that repeats the credentials in its answers.
func TestWebhooksNoSecrets(t *testing.T) {
	for _, fault := range []manageapi.Fault{
		{Echo: true},
		{Echo: true, Body: "no: "},
		{Echo: true, Status: 400},
		{Echo: true, Status: 401, Body: "Forbidden "},
		{Echo: true, Status: 404},
		{Body: `{"status":"error","name":"SECRET","message":"SECRET ` + canaryURLPart + `"}`},
		{Body: `{"message":"SECRET ` + canaryURLPart + `"}`, Status: 400},
		{Status: 302, Header: http.Header{"Location": {"https://SECRET.example.com/SECRET"}}},
	} {
		s := newSite(t)
		with := func(secret string) manageapi.Fault {
			f := fault
			f.Body = strings.ReplaceAll(f.Body, "SECRET", secret)
			f.Header = f.Header.Clone()
			for name := range f.Header {
				f.Header.Set(name, strings.ReplaceAll(f.Header.Get(name), "SECRET", secret))
			}
			return f
		}
		for _, args := range [][]string{
			{"list"},
			{"list", "-o", "json"},
			{"info", "acme"},
			{"add", "acme"},
			{"edit", "acme", "--events", "open"},
			{"delete", "acme", "--yes"},
			{"plan"},
			{"plan", "-o", "json"},
			{"apply", "--yes"},
			{"apply", "--yes", "-o", "json"},
			{"add", "eu"},
			{"delete", "eu", "--yes"},
		} {
			s.sendclean.Misbehave(with(canaryOwner), with(canaryToken), with(canaryOwner))
			s.mailgun.Misbehave(with(canaryKey), with(canaryKey))
			s.run(args...)
		}
	}
}

// Every command under webhooks has an example and says how it ends.
func TestWebhooksHelp(t *testing.T) {
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Example == "" || c.Long == "" || c.Short == "" {
			t.Errorf("%s: its help has no example or no text", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(newWebhooksCommand())
}

// What keeps a provider from the URL, or strangers near it, is said.
func TestReachDoubt(t *testing.T) {
	for url, want := range map[string]string{
		"https://hooks.example.com/hooks/acme":              "",
		"http://hooks.example.com/hooks/acme/" + canaryKey:  "without TLS",
		"http://127.0.0.1:8080/hooks/acme/" + canaryURLPart: "public_url",
		"https://localhost/hooks/acme":                      "public_url",
		"https://10.1.2.3/hooks/acme":                       "public_url",
		"https://[::1]/hooks/acme":                          "public_url",
	} {
		got := reachDoubt(url)
		if (got == "") != (want == "") || !strings.Contains(got, want) || strings.Contains(got, "CANARY") {
			t.Errorf("%s: %q", url, got)
		}
	}
}

func TestWebhooksCompletion(t *testing.T) {
	s := newSite(t)
	var out bytes.Buffer
	if status, talk := blessd(t.Context(), &out, "__complete", "webhooks", "plan", "-c", s.config, "acme", ""); status != 0 || !strings.HasPrefix(out.String(), "beta\neu\nru\n") {
		t.Errorf("status %d\n%s%s", status, out.String(), talk)
	}
}

// The grace of a key is longer than any provider is known to try again.
func TestKeyGrace(t *testing.T) {
	if keyGrace < time.Duration(mailgunRetry) {
		t.Errorf("%s is less than the %s for which Mailgun tries again", keyGrace, mailgunRetry)
	}
}
