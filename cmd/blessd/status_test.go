package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/blessd/blessd/receiver"
	"github.com/blessd/blessd/relay"
	"github.com/blessd/blessd/sink"
)

func TestStatus(t *testing.T) {
	d, dir := startClientTest(t)
	mustRun(t, "send", "--all", "--data-dir", dir)
	var out bytes.Buffer
	// The provider's own key is missing: it is refused, and kept.
	if status, talk := blessd(t.Context(), &out, "send", "mailgun", "opened", "--bad-signature", "--data-dir", dir); status != 0 {
		t.Fatal(talk)
	}
	a, err := http.Get("http://" + d.Addresses().Hooks + "/hooks/nobody")
	if err != nil || a.Body.Close() != nil {
		t.Fatal(err)
	}
	waitForEvents(t, d, 50)
	deadline := time.Now().Add(20 * time.Second)
	var s status
	for {
		lines := mustRun(t, "status", "-o", "json", "--data-dir", dir)
		if len(lines) != 1 {
			t.Fatalf("%d lines of JSON", len(lines))
		}
		in := json.NewDecoder(strings.NewReader(lines[0]))
		in.DisallowUnknownFields()
		s = status{}
		if err := in.Decode(&s); err != nil {
			t.Fatal(err)
		}
		if s.Unverified.Records == 1 && s.Journal.Unpublished == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not there: %s", lines[0])
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !s.Ready || s.NotReady != "" || s.DataDir != dir || !s.NATS.Connected || !s.NATS.Embedded || s.NATS.ServerVersion == "" || len(s.NATS.Streams) != 2 ||
		s.NATS.Streams[0].Messages != 50 || s.Relay.State != "running" || !s.Config.InForce || s.Hooks != d.Addresses().Hooks || s.Unmatched.Refused != 1 {
		t.Errorf("the status is %+v", s)
	}
	if len(s.Endpoints) != 5 {
		t.Fatalf("%d endpoints", len(s.Endpoints))
	}
	for _, e := range s.Endpoints {
		if e.Answer != receiver.Acknowledgement(e.Provider) || !strings.HasSuffix(e.URL, "/hooks/"+e.Name+"/<token>") || len(e.Register) < 2 || e.Accepted == 0 || e.LastAccepted == nil {
			t.Errorf("endpoint %+v", e)
		}
		if e.Name != "mailgun" {
			continue
		}
		i := slices.IndexFunc(e.Requests, func(r requestStatus) bool { return r.Outcome == "refused" })
		if e.Refused != 1 || i < 0 || e.Requests[i].Reason != "awaiting_key" || e.Requests[i].Hint == "" || e.Requests[i].Status != 503 || !e.AwaitingKey {
			t.Errorf("mailgun %+v", e)
		}
	}
	text := strings.Join(mustRun(t, "status", "--data-dir", dir), "")
	for _, want := range []string{
		"   ready   up ", "mailgun awaits its key", "Refused deliveries are kept for a key that comes late: mailgun (1).", "providers cannot reach that",
		"503 awaiting_key\n    the endpoint has no key of the provider yet", "404 not_found", "MAIL_EVENTS      50 messages", "refused and kept   1, ", "relay              running",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
	if strings.ContainsRune(text, '\x1b') {
		t.Errorf("there are colours where there is no terminal: %q", text)
	}
}

// What answers, or does not, is said, and a blessd that accepts nothing is a failure.
func TestStatusFails(t *testing.T) {
	dir := t.TempDir()
	run := func(args ...string) (int, string, string) {
		var out bytes.Buffer
		status, talk := blessd(t.Context(), &out, append([]string{"status"}, args...)...)
		return status, out.String(), talk
	}
	if status, out, talk := run("--data-dir", dir); status != 1 || out != "" || !strings.Contains(talk, "no blessd has run on "+dir) || !strings.Contains(talk, "blessd serve") {
		t.Errorf("without a blessd: %d %s%s", status, out, talk)
	}
	if err := (addresses{Hooks: "127.0.0.1:1", Admin: "127.0.0.1:1"}).write(dir); err != nil {
		t.Fatal(err)
	}
	if status, out, talk := run("--data-dir", dir); status != 1 || out != "" || !strings.Contains(talk, "blessd does not answer at http://127.0.0.1:1") {
		t.Errorf("after blessd has ended: %d %s%s", status, out, talk)
	}
	answer := ""
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) }))
	defer other.Close()
	for _, answer = range []string{"<html>", "{}", ""} {
		if status, out, talk := run("--admin-url", other.URL); status != 1 || out != "" || !strings.Contains(talk, "is not blessd") {
			t.Errorf("with another program there: %d %s%s", status, out, talk)
		}
	}
	answer = `{"version":"1","ready":false,"not_ready":"journal is full","endpoints":[{"name":"a","url":"x\u001b[31m","requests":[]}]}`
	status, out, talk := run("--admin-url", other.URL)
	if status != 1 || !strings.Contains(out, "not ready: journal is full") || !strings.Contains(talk, "blessd does not accept deliveries: journal is full") {
		t.Errorf("not ready: %d %s%s", status, out, talk)
	}
	if strings.ContainsRune(out, '\x1b') {
		t.Errorf("the terminal is told what to do: %q", out)
	}
}

// What needs a look is named with what to do about it, the worst first.
func TestAttention(t *testing.T) {
	of := func(change func(*status)) []attention {
		s := status{
			Ready: true, Config: configStatus{InForce: true}, PublicURL: "https://hooks.example.com", Journal: &journalStatus{},
			NATS: natsStatus{Connected: true, Streams: []streamInfo{{Name: "MAIL_EVENTS", Messages: 7}, {Name: "MAIL_QUARANTINE"}}},
		}
		s.Relay.State = "running"
		change(&s)
		return s.attention()
	}
	if got := of(func(*status) {}); len(got) != 0 || got == nil {
		t.Errorf("nothing is wrong: %v", got)
	}
	for _, c := range []struct {
		name   string
		change func(*status)
		level  string
		want   string
	}{
		{"journal failed", func(s *status) { s.Journal.Failed = "sync: input/output error" }, "error", "input/output error"},
		{"journal full", func(s *status) { s.Journal.Full = true }, "error", "full"},
		{"NATS away", func(s *status) { s.NATS.Connected = false }, "error", "not connected"},
		{"relay waits", func(s *status) { s.Relay.State, s.Relay.Error = "waiting", "no responders" }, "warning", "no responders"},
		{"quarantine", func(s *status) { s.NATS.Streams[1].Messages = 3 }, "warning", "3 messages in quarantine"},
		{"stream unknown", func(s *status) { s.NATS.Streams[0].Error = "timeout" }, "warning", "timeout"},
		{"no proof", func(s *status) { s.Endpoints = []endpointStatus{{Name: "x", Verified: "NOTHING"}} }, "warning", "x asks for no proof"},
		{"awaits its key", func(s *status) { s.Endpoints = []endpointStatus{{Name: "x", AwaitingKey: true, KeyFile: "/k"}} }, "warning", "x awaits its key"},
		{"refused configuration", func(s *status) { s.Config.InForce = false }, "warning", "cannot be used"},
		{"kept", func(s *status) {
			s.Unverified = &unverifiedStatus{Records: 2, Endpoints: []unverifiedKept{{"eu", 2, 8192}}}
		}, "warning", "eu (2)"},
		{"local", func(s *status) { s.PublicURL = "http://localhost:8080" }, "note", "localhost"},
		{"without a journal", func(s *status) { s.Journal, s.Ready, s.NotReady = nil, false, "NATS does not answer" }, "error", "NATS does not answer"},
	} {
		got := of(c.change)
		if len(got) != 1 || got[0].Level != c.level || !strings.Contains(got[0].What, c.want) || got[0].Mend == "" && c.name != "stream unknown" {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
	got := of(func(s *status) {
		s.PublicURL, s.Config.InForce, s.Journal.Full = "http://127.0.0.1", false, true
	})
	if len(got) != 3 || got[0].Level != "error" || got[1].Level != "warning" || got[2].Level != "note" {
		t.Errorf("in the wrong order: %+v", got)
	}
}

// A reload that is refused shows, and a daemon that drains is not ready.
func TestStatusOfReload(t *testing.T) {
	d, dir := startClientTest(t)
	write(t, dir+"/keys/mailgun", "provider.key", "\n") // an empty key
	d.reloadKeys()
	if s := d.describe(httptest.NewRequest(http.MethodGet, "/-/status", nil)); s.Config.InForce {
		t.Error("a refused key file does not show")
	}
	write(t, dir+"/keys/mailgun", "provider.key", "a-key-of-the-provider-0123\n")
	d.reloadKeys()
	if s := d.describe(httptest.NewRequest(http.MethodGet, "/-/status", nil)); !s.Config.InForce || s.Config.Loaded.Before(s.Started) {
		t.Errorf("after the mend: %+v", s.Config)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // of a client that has gone: nothing may hang
	_ = d.describe(httptest.NewRequest(http.MethodGet, "/-/status", nil).WithContext(ctx))
}

// docs/operating.md has every field of the status, and no other.
func TestStatusIsDocumented(t *testing.T) {
	b, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, page, found := strings.Cut(string(b), "### The status as JSON\n")
	page, _, _ = strings.Cut(page, "\n## ")
	if !found {
		t.Fatal("docs/operating.md has no section on it")
	}
	documented := map[string][]string{}
	brackets, code := regexp.MustCompile(`\([^)]*\)`), regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(page) {
		if cells := strings.Split(line, "|"); len(cells) == 4 {
			// Up to a semicolon: what follows is what all of another object is.
			fields, _, _ := strings.Cut(brackets.ReplaceAllString(cells[2], ""), "; and")
			for _, m := range code.FindAllStringSubmatch(fields, -1) {
				object := strings.Trim(strings.TrimSpace(cells[1]), "`")
				documented[object] = append(documented[object], m[1])
			}
		}
	}
	for object, v := range map[string]any{
		"(the whole)": status{}, "attention[]": attention{}, "config": configStatus{}, "endpoints[]": endpointStatus{}, "provider_webhook": pollStatus{}, "unmatched": requestCounts{},
		"requests[]": requestStatus{}, "journal": journalStatus{}, "relay": relay.Status{}, "stream_went_backwards[]": relay.Regress{}, "nats": natsStatus{},
		"watchdog": sink.WatchdogState{}, "streams[]": streamInfo{}, "unverified": unverifiedStatus{}, "unverified.endpoints[]": unverifiedKept{},
	} {
		var real []string
		for f := range reflect.TypeOf(v).Fields() {
			if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
				real = append(real, name)
			}
		}
		if got := documented[object]; !slices.Equal(got, real) {
			t.Errorf("of %s are documented\n%q, there are\n%q", object, got, real)
		}
		delete(documented, object)
	}
	if len(documented) > 0 {
		t.Errorf("documented and not there: %q", documented)
	}
}
