package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/receiver"
	"github.com/blessd/blessd/relay"
)

// ask sends a request to the daemon's admin listener and returns the answer.
func (d *daemon) ask(t *testing.T, method, path string, header ...string) (*http.Response, string) {
	t.Helper()
	q, err := http.NewRequest(method, "http://"+d.Addresses().Admin+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		q.Header.Set(header[i], header[i+1])
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a, string(b)
}

func TestPage(t *testing.T) {
	d, dir := startClientTest(t)
	token := func(endpoint string) string {
		key, err := readKey(filepath.Join(dir, "keys", endpoint, "token"), urlToken)
		if err != nil {
			t.Fatal(err)
		}
		return string(key.Value)
	}
	t.Run("headers", func(t *testing.T) {
		a, page := d.ask(t, http.MethodGet, "/")
		policy := a.Header.Get("Content-Security-Policy")
		if a.StatusCode != http.StatusOK || !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") {
			t.Errorf("status %d, policy %q", a.StatusCode, policy)
		}
		for _, bad := range []string{"unsafe-inline", "unsafe-eval", "http:", "https:", "*"} {
			if strings.Contains(policy, bad) {
				t.Errorf("the policy allows %s: %s", bad, policy)
			}
		}
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"} {
			if got := a.Header.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		// What the policy would refuse, and what would make HTML of text.
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=", " onclick=", "<script ", "<style ", "setAttribute('style"} {
			if strings.Contains(page, bad) {
				t.Errorf("the page has %q", bad)
			}
		}
		for _, m := range regexp.MustCompile(`(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)`).FindAllStringSubmatch(page, -1) {
			if strings.Contains(m[1], "//") && !strings.HasPrefix(m[1], "data:") {
				t.Errorf("the page refers to %s", m[1])
			}
		}
		if a, _ := d.ask(t, http.MethodGet, "/nothing"); a.StatusCode != http.StatusNotFound {
			t.Errorf("another path is answered %d", a.StatusCode)
		}
	})
	t.Run("guard", func(t *testing.T) {
		for _, c := range []struct {
			name, method, path string
			header             []string
			want               int
		}{
			{"another host", http.MethodGet, "/", nil, http.StatusMisdirectedRequest},
			{"another host reads", http.MethodGet, "/-/events", nil, http.StatusMisdirectedRequest},
			{"a link from elsewhere", http.MethodGet, "/", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate"}, http.StatusOK},
			{"a page from elsewhere reads", http.MethodGet, "/-/status", []string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "cors"}, http.StatusForbidden},
			{"another port of this machine reads", http.MethodGet, "/-/events", []string{"Sec-Fetch-Site", "same-site", "Sec-Fetch-Mode", "no-cors"}, http.StatusForbidden},
			{"a page from elsewhere posts", http.MethodPost, "/-/endpoints/enkod/url", []string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
			{"a form from elsewhere posts", http.MethodPost, "/-/endpoints/enkod/url", []string{"Origin", "https://evil.example"}, http.StatusForbidden},
			{"a link to a token", http.MethodGet, "/-/endpoints/enkod/url", nil, http.StatusMethodNotAllowed},
		} {
			q := httptest.NewRequest(c.method, c.path, nil)
			if q.Host = d.Addresses().Admin; c.want == http.StatusMisdirectedRequest {
				q.Host = "rebound.example:8081"
			}
			for i := 0; i < len(c.header); i += 2 {
				q.Header.Set(c.header[i], c.header[i+1])
			}
			w := httptest.NewRecorder()
			d.admin.server.Handler.ServeHTTP(w, q)
			if w.Code != c.want || c.want != http.StatusOK && strings.Contains(w.Body.String(), token("enkod")) {
				t.Errorf("%s: %d %s, want %d", c.name, w.Code, w.Body, c.want)
			}
		}
	})
	t.Run("URL", func(t *testing.T) {
		for _, p := range receiver.Providers() {
			a, body := d.ask(t, http.MethodPost, "/-/endpoints/"+p+"/url")
			want := fmt.Sprintf(`"url": "http://%s/hooks/%s/%s"`, d.Addresses().Hooks, p, token(p))
			if a.StatusCode != http.StatusOK || !strings.Contains(body, want) || a.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%d %s, want %s", a.StatusCode, body, want)
			}
		}
		if a, _ := d.ask(t, http.MethodPost, "/-/endpoints/nobody/url"); a.StatusCode != http.StatusNotFound {
			t.Errorf("an unknown endpoint is answered %d", a.StatusCode)
		}
	})
	t.Run("no secret", func(t *testing.T) {
		mustRun(t, "send", "--all", "--data-dir", dir)
		_, page := d.ask(t, http.MethodGet, "/")
		_, answer := d.ask(t, http.MethodGet, "/-/status")
		for _, e := range d.inForce.Load().endpoints {
			for _, k := range append(append(e.Keys, e.Tokens...), e.BasicAuth...) {
				if strings.Contains(page+answer, string(k.Value)) {
					t.Errorf("a secret of %s is shown: %s", e.Name, answer)
				}
			}
		}
	})
}

// Off loopback, without a password, there is neither a page nor anything it asks for.
func TestPageOffLoopback(t *testing.T) {
	l, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := newDaemon(defaultConfig(), zap.NewNop())
	a, err := newAdmin(l, "", d.registry, func() error { return nil }, d.describe, d.Reload, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	d.servePage(a)
	for _, q := range []*http.Request{
		httptest.NewRequest(http.MethodGet, "/", nil), httptest.NewRequest(http.MethodGet, "/-/status", nil), httptest.NewRequest(http.MethodGet, "/-/events", nil),
		httptest.NewRequest(http.MethodPost, "/-/events/1-1", nil), httptest.NewRequest(http.MethodPost, "/-/endpoints/x/url", nil),
	} {
		w := httptest.NewRecorder()
		a.server.Handler.ServeHTTP(w, q)
		if w.Code != http.StatusNotFound {
			t.Errorf("%s %s is answered %d", q.Method, q.URL, w.Code)
		}
	}
}

// viewer reads server-sent events.
type viewer struct {
	t     *testing.T
	lines *bufio.Reader
	close func()
}

func (d *daemon) view(t *testing.T, query string) *viewer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.Addresses().Admin+"/-/events"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Body.Close() })
	if a.StatusCode != http.StatusOK || a.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("answered %d %v", a.StatusCode, a.Header)
	}
	return &viewer{t: t, lines: bufio.NewReader(a.Body), close: cancel}
}

// next returns the next event's name, id and data.
func (v *viewer) next() (name, id, data string) {
	v.t.Helper()
	for {
		line, err := v.lines.ReadString('\n')
		if err != nil {
			v.t.Fatal(err)
		}
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch field {
		case "event":
			name = value
		case "id":
			id = value
		case "data":
			data = value
		case "":
			if name != "" {
				return name, id, data
			}
		}
	}
}

func (v *viewer) settled() (e shownEntry, line string) {
	v.t.Helper()
	name, id, data := v.next()
	if err := json.Unmarshal([]byte(data), &e); err != nil || name != "settled" || e.ID != id {
		v.t.Fatalf("%s %s %s: %v", name, id, data, err)
	}
	return e, data
}

func TestFeed(t *testing.T) {
	d, dir := startClientTest(t)
	send := func(body string) {
		t.Helper()
		key, err := readKey(filepath.Join(dir, "keys", "enkod", "token"), urlToken)
		if err != nil {
			t.Fatal(err)
		}
		a, err := http.Post("http://"+d.Addresses().Hooks+receiver.Path("enkod", string(key.Value)), "application/json", strings.NewReader(body))
		if err != nil || a.Body.Close() != nil || a.StatusCode != http.StatusOK {
			t.Fatalf("answered %v %v", a, err)
		}
	}
	v := d.view(t, "")
	send(`{"event":"message sent","message_id":1,"message_uid":"<script>alert(1)</script>","to":"person@example.net"}`)
	e, line := v.settled()
	if e.Type != "email.sent" || e.Outcome != "published" || e.Endpoint != "enkod" || !e.Masked || e.EventID == "" {
		t.Errorf("got %s", line)
	}
	if strings.Contains(line, "person@") || !strings.Contains(e.Event, "p\u2026@example.net") || !strings.Contains(e.Raw, "p\u2026@example.net") || !strings.HasPrefix(e.Summary, "p\u2026@example.net") {
		t.Errorf("the address is not masked: %s", line)
	}
	if !strings.Contains(e.Event, "<script>alert(1)</script>") {
		t.Errorf("the event is not what was sent: %s", e.Event)
	}
	a, body := d.ask(t, http.MethodPost, "/-/events/"+e.ID)
	var whole shownEntry
	if err := json.Unmarshal([]byte(body), &whole); err != nil || a.StatusCode != http.StatusOK || whole.Masked || strings.Count(whole.Event+whole.Raw, "person@example.net") != 2 {
		t.Errorf("shown on request: %d %s %v", a.StatusCode, body, err)
	}
	send(`{"event":"message sent","message_id":1,"message_uid":"<script>alert(1)</script>","to":"person@example.net"}`)
	if e, line := v.settled(); e.Outcome != "duplicate" {
		t.Errorf("a repetition is %s", line)
	}
	send(`{"event":"mess`)
	if e, line := v.settled(); e.Outcome != "quarantined" || e.Reason != "unreadable_body" || e.Raw != `{"event":"mess` || e.Event != "" || e.Type != "" {
		t.Errorf("what is not understood is %s", line)
	}
	send(`{"event":"message sent","message_id":1,"message_uid":"large","to":"person@example.net","x":"` + strings.Repeat("x", feedMaxBytes) + `"}`)
	last, line := v.settled()
	if last.Type != "email.sent" || last.Event != "" || last.Raw != "" || last.Bytes < feedMaxBytes || len(line) > 1000 {
		t.Errorf("a large event is %.500s", line)
	}
	// Who comes later sees what is remembered; who was there, what came since.
	v2 := d.view(t, "")
	for _, want := range []string{"published", "duplicate", "quarantined", "published"} {
		if e, line := v2.settled(); e.Outcome != want {
			t.Errorf("remembered is %s, want %s", line, want)
		}
	}
	if e, line := d.view(t, "?after="+whole.ID).settled(); e.Outcome != "duplicate" {
		t.Errorf("after the first came %s", line)
	}
	if e, _ := d.view(t, "?after=another-3").settled(); e.ID != whole.ID {
		t.Errorf("after one of another start came %s", e.ID)
	}
	// What is erased is gone here too, and who watches goes on behind it.
	d.feed.forget()
	v3 := d.view(t, "?after="+whole.ID)
	send(`{"event":"message sent","message_id":1,"message_uid":"later","to":"person@example.net"}`)
	if name, _, data := v3.next(); name == "settled" && !strings.Contains(data, `later`) {
		t.Errorf("after the erasure came %s", data)
	}
	if a, _ := d.ask(t, http.MethodPost, "/-/events/"+whole.ID); a.StatusCode != http.StatusNotFound {
		t.Errorf("what was erased is answered %d", a.StatusCode)
	}
	for _, id := range []string{"another-1", "x", d.feed.boot + "-999", d.feed.boot + "-0", d.feed.boot + "--1"} {
		if a, _ := d.ask(t, http.MethodPost, "/-/events/"+id); a.StatusCode != http.StatusNotFound {
			t.Errorf("the event %s is answered %d", id, a.StatusCode)
		}
	}
}

// No more than so many may watch, and who leaves makes room.
func TestFeedViewers(t *testing.T) {
	d, _ := startClientTest(t)
	var viewers []*viewer
	for range feedViewers {
		viewers = append(viewers, d.view(t, ""))
	}
	if a, body := d.ask(t, http.MethodGet, "/-/events"); a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" {
		t.Errorf("one too many is answered %d %s", a.StatusCode, body)
	}
	viewers[0].close()
	deadline := time.Now().Add(20 * time.Second)
	for len(d.feed.viewers) == feedViewers {
		if time.Now().After(deadline) {
			t.Fatal("who has left is still counted")
		}
		time.Sleep(time.Millisecond)
	}
	d.view(t, "")
}

// Who watches does not hold up who publishes, however slow it is; it misses some and
// is told how many.
func TestFeedSlowViewer(t *testing.T) {
	f := newFeed(zap.NewNop(), time.Now())
	f.pace = time.Millisecond
	var sent bytes.Buffer
	stuck, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	full := make(chan struct{})
	const flood = 1000
	go func() {
		done <- f.watch(ctx, 0, func(b []byte) error {
			once.Do(func() { close(stuck); <-release })
			sent.Write(b)
			if strings.Contains(string(b), fmt.Sprintf("id: %s-%d\n", f.boot, flood)) {
				close(full)
			}
			return nil
		})
	}()
	<-stuck
	data := []byte(`{"id":"00000000000000000000000000000000","type":"email.sent","endpoint":"e","provider":"enkod"}`)
	for range flood { // with nobody reading: would it wait, the test would hang
		f.add(relay.Settled{Provider: "enkod", Endpoint: "e", Type: "email.sent", Outcome: relay.OutcomePublished, Data: data})
	}
	close(release)
	select {
	case <-full:
	case <-time.After(20 * time.Second):
		t.Fatal("the last event did not come")
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got := strings.Count(sent.String(), "event: settled")
	if got != feedBurst || !strings.Contains(sent.String(), fmt.Sprintf("event: skipped\ndata: %d\n", flood-feedBurst)) {
		t.Errorf("%d of %d events were sent:\n%.300s", got, flood, sent.String())
	}
	// What was skipped, or erased, is told once.
	f.forget()
	quiet, stop := context.WithCancel(t.Context())
	told := 0
	time.AfterFunc(100*f.pace, stop)
	if err := f.watch(quiet, 1, func([]byte) error { told++; return nil }); err != nil || told != 1 {
		t.Errorf("told %d times of what is gone (%v)", told, err)
	}
	// Who cannot be written to is let go.
	gone := errors.New("gone")
	if err := f.watch(t.Context(), 0, func([]byte) error { return gone }); !errors.Is(err, gone) {
		t.Errorf("watching ended with %v", err)
	}
}

// A flood of refusals hides neither what was accepted nor another endpoint.
func TestRecentRequests(t *testing.T) {
	r := newRecentRequests()
	r.setEndpoints([]receiver.Endpoint{{Name: "a"}, {Name: "b"}})
	at := time.Now()
	add := func(a receiver.Answered) {
		at = at.Add(time.Millisecond)
		a.At = at
		r.add(a)
	}
	add(receiver.Answered{Endpoint: "a", Status: 200, Probe: true})
	add(receiver.Answered{Endpoint: "a", Status: 200, Bytes: 7, Verified: delivery.Verification{Method: delivery.ByToken, Key: "f"}})
	add(receiver.Answered{Endpoint: "b", Status: 200})
	for i := range 1000 {
		add(receiver.Answered{Endpoint: "a", Status: 401, Reason: "bad_signature", Hint: "a hint", Bytes: i})
		add(receiver.Answered{Endpoint: unmatchedEndpoint, Status: 404, Reason: "not_found"})
		add(receiver.Answered{Endpoint: "gone", Status: 404, Reason: "bad_token"})
	}
	a := r.of("a")
	if a.Validations != 1 || a.Accepted != 1 || a.Refused != 1000 || len(a.Requests) != recentKept+2 || a.LastAccepted == nil || a.LastRefused == nil || a.LastValidation == nil {
		t.Errorf("remembered of a is %+v", a)
	}
	for i, want := range []struct {
		outcome string
		bytes   int
	}{0: {"refused", 999}, recentKept - 1: {"refused", 1000 - recentKept}, recentKept: {"accepted", 7}, recentKept + 1: {"validation", 0}} {
		if want.outcome == "" {
			continue
		}
		if got := a.Requests[i]; got.Outcome != want.outcome || got.Bytes != want.bytes {
			t.Errorf("request %d of a is %+v, want %+v", i, got, want)
		}
	}
	if b := r.of("b"); b.Accepted != 1 || len(b.Requests) != 1 {
		t.Errorf("remembered of b is %+v", b)
	}
	if u := r.of(unmatchedEndpoint); u.Refused != 1000 || len(u.Requests) != recentKept {
		t.Errorf("remembered of nobody's is %+v", u)
	}
	r.setEndpoints([]receiver.Endpoint{{Name: "a"}})
	if a, b := r.of("a"), r.of("b"); a.Refused != 1000 || b.Accepted != 0 || b.Requests == nil {
		t.Errorf("after a reload: %+v %+v", a, b)
	}
}

func BenchmarkFeedAdd(b *testing.B) {
	f := newFeed(zap.NewNop(), time.Now())
	s := relay.Settled{Provider: "enkod", Endpoint: "ru", ID: "00000000000000000000000000000000", Type: "email.sent", Outcome: relay.OutcomePublished, Data: make([]byte, 1200)}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			f.add(s)
		}
	})
}

func BenchmarkRecentAdd(b *testing.B) {
	r := newRecentRequests()
	r.setEndpoints([]receiver.Endpoint{{Name: "acme"}})
	a := receiver.Answered{At: time.Now(), Provider: "sendclean", Endpoint: "acme", Status: 200, Bytes: 1200}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			r.add(a)
		}
	})
}
