package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/receiver"
	"github.com/blessd/blessd/sink"
)

// quarantine puts an element into quarantine that is no longer a riddle, as a
// normalizer of long ago would have.
func quarantine(t *testing.T, d *daemon, received time.Time, names ...string) {
	t.Helper()
	var futures []jetstream.PubAckFuture
	for _, name := range names {
		futures = append(futures, quarantineOne(t, d, received, name))
	}
	for _, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			t.Fatal(err)
		}
	}
}

func quarantineOne(t *testing.T, d *daemon, received time.Time, name string) jetstream.PubAckFuture {
	t.Helper()
	raw := fmt.Appendf(nil, `{"event":"message open","message_uid":%q,"to":"user@example.com"}`, name)
	m, err := d.sink.QuarantineMessage(sink.Quarantined{
		Provider: "enkod", Endpoint: "acme", ID: event.NewID("enkod", "acme", []string{name}, 0), Reason: "too_complex", ContentType: "application/json",
		Received: received, Raw: raw,
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := d.sink.Publish(m)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// startReplayTest starts a blessd of one enKod endpoint and waits for its streams.
func startReplayTest(t *testing.T) (p *program, dataDir string) {
	t.Helper()
	p = startProgram(t, "enkod", "journal")
	waitFor(t, "the relay to run", func() bool { return p.daemon.relay.Status().State == "running" })
	return p, p.daemon.cfg.DataDir
}

func TestReplayCommand(t *testing.T) {
	p, dir := startReplayTest(t)
	received := time.Date(2026, 11, 20, 12, 0, 0, 123456789, time.UTC)
	for i := range 5 {
		quarantine(t, p.daemon, received.Add(time.Duration(i)*time.Hour), fmt.Sprint("m", i))
	}
	if code, _ := p.post(p.url(), "application/json", nil, []byte("no JSON")); code != http.StatusOK {
		t.Fatalf("got %d", code)
	}
	p.settled()

	run := func(args ...string) (line replayLine, talk string) {
		t.Helper()
		var out bytes.Buffer
		status, talk := blessd(t.Context(), &out, append([]string{"replay", "--data-dir", dir, "-o", "json"}, args...)...)
		if status != 0 {
			t.Fatalf("replay %q: status %d\n%s", args, status, talk)
		}
		if err := json.Unmarshal(out.Bytes(), &line); err != nil || !line.Done || line.Quarantine == nil {
			t.Fatalf("replay %q: %v\n%s", args, err, out.String())
		}
		return line, talk
	}
	line, talk := run("--dry-run")
	if q := line.Quarantine; !line.DryRun || q.Chosen != 6 || q.Understood != 5 || q.Events["email.opened"] != 5 || q.Stayed["unreadable_body"] != 1 {
		t.Errorf("dry run: %+v", line.Quarantine)
	}
	if !strings.Contains(talk, "chosen") {
		t.Errorf("no progress is shown: %q", talk)
	}
	if n := len(p.read("MAIL_QUARANTINE")); n != 6 {
		t.Fatalf("a dry run leaves %d of 6", n)
	}
	for _, args := range [][]string{
		{"--provider", "mailgun"}, {"--endpoint", "other"}, {"--reason", "ambiguous"}, {"--since", "2026-11-20T17:00:00Z", "--until", "2026-11-20T18:00:00Z"},
	} {
		if line, _ := run(args...); line.Quarantine.Chosen != 0 {
			t.Errorf("%q: %+v", args, line.Quarantine)
		}
	}
	if line, _ := run("--provider", "enkod", "--endpoint", "acme", "--reason", "too_complex", "--since", "2026-11-20T13:00:00Z", "--until", "2026-11-20T15:00:00Z"); line.Quarantine.Understood != 2 {
		t.Errorf("two hours: %+v", line.Quarantine)
	}

	var out bytes.Buffer
	if status, talk := blessd(t.Context(), &out, "replay", "--data-dir", dir); status != 0 {
		t.Fatalf("status %d\n%s", status, talk)
	}
	for _, want := range []string{"understood         3", "published", "email.opened     3", "unreadable_body  1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	times := map[string]bool{}
	for _, m := range p.read("MAIL_EVENTS") {
		e, err := event.Decode(m.Data())
		if err != nil {
			t.Fatal(err)
		}
		times[e.Received.String()] = true
	}
	if len(times) != 5 || !times["2026-11-20T16:00:00.123Z"] {
		t.Errorf("events received at %v, want five of 2026-11-20", times)
	}
}

// A stop does not wait for a replay, and the next one does the rest.
func TestStopDuringReplay(t *testing.T) {
	r := newRestartable(t)
	r.start("1MiB", "the-key-0123456789")
	waitFor(t, "the relay to run", func() bool { return r.daemon.relay.Status().State == "running" })
	const n = 1500
	var names []string
	for i := range n {
		names = append(names, fmt.Sprint("m", i))
	}
	quarantine(t, r.daemon, time.Now().Add(-time.Hour), names...)
	answer, err := http.Post("http://"+r.daemon.Addresses().Admin+"/-/replay", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	in := bufio.NewReader(answer.Body)
	if first, err := in.ReadString('\n'); err != nil || !strings.Contains(first, `"done":false`) {
		t.Fatalf("got %q, %v", first, err)
	}
	// Nobody else may replay meanwhile.
	second, err := http.Post("http://"+r.daemon.Addresses().Admin+"/-/replay", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	second.Body.Close()
	start := time.Now()
	stopDaemon(t, r.daemon)
	if took := time.Since(start); took > stopTime/2 {
		t.Errorf("the stop took %v", took)
	}
	var last string
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			break
		}
		last = line
	}
	if second.StatusCode != http.StatusConflict || !strings.Contains(last, "blessd is stopping") {
		t.Errorf("a second replay got %d, and the first ended with %q: want 409 and that blessd is stopping", second.StatusCode, last)
	}

	r.start("1MiB", "the-key-0123456789")
	waitFor(t, "the relay to run", func() bool { return r.daemon.relay.Status().State == "running" })
	var out bytes.Buffer
	if status, talk := blessd(t.Context(), &out, "replay", "--data-dir", r.daemon.cfg.DataDir); status != 0 {
		t.Fatalf("status %d\n%s", status, talk)
	}
	ids := map[string]int{}
	for _, m := range r.read("MAIL_EVENTS") {
		ids[m.Headers().Get(nats.MsgIdHdr)]++
	}
	if left := len(r.read("MAIL_QUARANTINE")); len(ids) != n || left != 0 {
		t.Errorf("%d events and %d left, want %d and none\n%s", len(ids), left, n, out.String())
	}
	for id, times := range ids {
		if times != 1 {
			t.Errorf("event %s is there %d times", id, times)
		}
	}
}

func TestReplayUnverified(t *testing.T) {
	r := newRestartable(t)
	r.start("1MiB", "the-first-key-0123456789")
	for i := range 3 {
		if got := r.send("the-next-key-0123456789", time.Now(), fmt.Sprint("m", i)); got != http.StatusUnauthorized {
			t.Fatalf("with another key: %d, want 401", got)
		}
	}
	run := func(args ...string) (line replayLine) {
		t.Helper()
		var out bytes.Buffer
		status, talk := blessd(t.Context(), &out, append([]string{"replay", "--unverified", "-o", "json", "--data-dir", r.daemon.cfg.DataDir}, args...)...)
		if status != 0 {
			t.Fatalf("status %d\n%s", status, talk)
		}
		if err := json.Unmarshal(out.Bytes(), &line); err != nil || line.Unverified == nil {
			t.Fatalf("%v\n%s", err, out.String())
		}
		return line
	}
	if u := run().Unverified; u.Chosen != 3 || u.Redeemed != 0 || u.Stayed["bad_signature"] != 3 {
		t.Errorf("without the key: %+v", u)
	}
	es := slices.Clone(r.daemon.inForce.Load().endpoints)
	es[0].Keys = append(es[0].Keys, receiver.Key{Value: "the-next-key-0123456789"})
	if err := r.daemon.receiver.SetEndpoints(es); err != nil { // not by setEndpoints, which redeems
		t.Fatal(err)
	}
	if u := run("--endpoint", "other").Unverified; u.Chosen != 0 {
		t.Errorf("another endpoint: %+v", u)
	}
	if u := run("--dry-run").Unverified; u.Redeemed != 3 {
		t.Errorf("dry run: %+v", u)
	}
	if u := run().Unverified; u.Redeemed != 3 {
		t.Errorf("with the key: %+v", u)
	}
	r.awaitEvents(3)
	if u := run().Unverified; u.Chosen != 0 {
		t.Errorf("again: %+v", u)
	}
	var out bytes.Buffer
	if status, talk := blessd(t.Context(), &out, "replay", "--unverified", "--data-dir", r.daemon.cfg.DataDir); status != 0 || !strings.Contains(out.String(), "redeemed") {
		t.Errorf("status %d\n%s%s", status, out.String(), talk)
	}

	stopDaemon(t, r.daemon)
	r.start("0", "the-first-key-0123456789")
	if status, talk := blessd(t.Context(), &out, "replay", "--unverified", "--data-dir", r.daemon.cfg.DataDir); status != 1 || !strings.Contains(talk, "unverified.max_bytes") {
		t.Errorf("with none kept: status %d, %s", status, talk)
	}
}

// What changes something is for those who may read the machine's files anyway.
func TestReplayIsForOperators(t *testing.T) {
	p, _ := startReplayTest(t)
	url := "http://" + p.daemon.Addresses().Admin + "/-/replay"
	for _, c := range []struct {
		what, body string
		change     func(*http.Request)
		want       int
	}{
		{"a page on the internet", "{}", func(q *http.Request) { q.Header.Set("Sec-Fetch-Site", "cross-site") }, http.StatusForbidden},
		{"another origin", "{}", func(q *http.Request) { q.Header.Set("Origin", "https://evil.example") }, http.StatusForbidden},
		{"another host", "{}", func(q *http.Request) { q.Host = "evil.example" }, http.StatusMisdirectedRequest},
		{"a GET", "", func(q *http.Request) { q.Method = http.MethodGet }, http.StatusMethodNotAllowed},
		{"a word that nobody knows", `{"dry-run":true}`, func(*http.Request) {}, http.StatusBadRequest},
		{"no JSON", "dry_run=true", func(*http.Request) {}, http.StatusBadRequest},
		{"too much", `{"reasons":["` + strings.Repeat("x", maxReplayRequest) + `"]}`, func(*http.Request) {}, http.StatusBadRequest},
		{"an operator", `{"dry_run":true}`, func(*http.Request) {}, http.StatusOK},
	} {
		q, err := http.NewRequest(http.MethodPost, url, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		c.change(q)
		a, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		if a.StatusCode != c.want {
			t.Errorf("%s: %d, want %d", c.what, a.StatusCode, c.want)
		}
	}

	// Off loopback it takes a password.
	everywhere := outside{}
	a, err := newAdmin(everywhere, "", prometheus.NewRegistry(), func() error { return nil }, nil, nil, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	a.operate("POST /-/replay", func(http.ResponseWriter, *http.Request) { t.Error("served to strangers") })
	w := httptest.NewRecorder()
	a.server.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/-/replay", strings.NewReader("{}")))
	if w.Code != http.StatusNotFound {
		t.Errorf("off loopback: %d, want 404", w.Code)
	}
}

// outside is a listener off loopback.
type outside struct{ net.Listener }

func (outside) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 8081} }

func TestReplayWithAPassword(t *testing.T) {
	asked := make(chan bool, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		user, password, _ := q.BasicAuth()
		if asked <- true; user != "admin" || password != "passw0rd" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprintln(w, `{"done":true,"quarantine":{"chosen":0}}`)
	}))
	defer s.Close()
	file := filepath.Join(t.TempDir(), "auth")
	if err := os.WriteFile(file, []byte("admin:passw0rd\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var out bytes.Buffer
	if status, talk := blessd(ctx, &out, "replay", "--admin-url", s.URL); status != 1 || !strings.Contains(talk, "--admin-auth-file") {
		t.Errorf("without it: status %d, %s", status, talk)
	}
	<-asked
	if status, talk := blessd(ctx, &out, "replay", "--admin-url", s.URL, "--admin-auth-file", file); status != 0 {
		t.Errorf("with it: status %d, %s", status, talk)
	}
	<-asked
}
