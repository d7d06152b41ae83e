package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Everything about one person goes, and nothing about others.
func TestErase(t *testing.T) {
	p, dir := startReplayTest(t)
	for i := range 3 {
		for _, to := range []string{"user@example.com", "other@example.com"} {
			body := fmt.Sprintf(`{"event":"message open","message_uid":"m%d","to":%q}`, i, to)
			if code, answer := p.post(p.url(), "application/json", nil, []byte(body)); code != http.StatusOK {
				t.Fatalf("%d %s", code, answer)
			}
		}
	}
	quarantine(t, p.daemon, time.Now(), "q1", "q2") // to user@example.com
	p.settled()

	run := func(stdin string, args ...string) (line eraseLine) {
		t.Helper()
		var out bytes.Buffer
		cmd := newRootCommand()
		cmd.SetArgs(append([]string{"erase", "--data-dir", dir, "-o", "json"}, args...))
		cmd.SetIn(strings.NewReader(stdin))
		cmd.SetOut(&out)
		if err := cmd.ExecuteContext(t.Context()); err != nil {
			t.Fatalf("erase %q: %v", args, err)
		}
		if err := json.Unmarshal(out.Bytes(), &line); err != nil || !line.Done {
			t.Fatalf("erase %q: %v\n%s", args, err, out.String())
		}
		return line
	}
	check := func(what string, l eraseLine, dryRun bool, events, quarantined int) {
		t.Helper()
		if l.DryRun != dryRun || len(l.Places) != 4 || l.Places[0].Matched != events || l.Places[1].Matched != quarantined {
			t.Errorf("%s: %+v, want %d events and %d quarantined", what, l, events, quarantined)
		}
	}
	check("without --yes", run("", "user@example.com"), true, 3, 2)
	if n := len(p.read("MAIL_EVENTS")); n != 6 {
		t.Fatalf("a dry run leaves %d of 6 events", n)
	}
	check("erased", run("User@Example.com\n", "--file", "-", "--yes"), false, 3, 2)
	check("again", run("", "user@example.com"), true, 0, 0)
	for _, stream := range []string{"MAIL_EVENTS", "MAIL_QUARANTINE"} {
		for _, m := range p.read(stream) {
			if bytes.Contains(m.Data(), []byte(`"user@`)) {
				t.Errorf("%s still has %s", stream, m.Data())
			}
		}
	}
	if n := len(p.read("MAIL_EVENTS")); n != 3 {
		t.Errorf("%d events of others are left, want 3", n)
	}

	// What comes next is stored as ever, and no alarm is raised.
	if code, _ := p.post(p.url(), "application/json", nil, []byte(`{"event":"message open","message_uid":"m9","to":"user@example.com"}`)); code != http.StatusOK {
		t.Fatalf("got %d", code)
	}
	p.settled()
	check("a new event", run("", "user@example.com"), true, 1, 0)
	if s := p.daemon.relay.Status(); s.State != "running" {
		t.Errorf("the relay is %+v", s)
	}
}
