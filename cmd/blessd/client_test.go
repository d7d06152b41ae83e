package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/receiver"
)

// startClientTest starts a daemon as `blessd serve` without a configuration does,
// on free ports, and returns it with its data directory.
func startClientTest(t *testing.T) (*daemon, string) {
	t.Helper()
	dir := t.TempDir()
	o := overrides{Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", NATSListen: "127.0.0.1:0", DataDir: dir}
	cfg, err := o.load(func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	d := newDaemon(cfg, zap.NewNop())
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		if err := d.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return d, dir
}

// blessd runs a command line in this process.
func blessd(ctx context.Context, out io.Writer, args ...string) (status int, talk string) {
	var errs bytes.Buffer
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(&errs)
	err := root.ExecuteContext(ctx)
	switch {
	case errors.Is(err, errUsage):
		status = 2
	case err != nil:
		status = 1
	}
	if err != nil {
		fmt.Fprintf(&errs, "blessd: %v\n", err)
	}
	return status, errs.String()
}

// mustRun runs a command line that must succeed and returns its output by lines.
func mustRun(t *testing.T, args ...string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out bytes.Buffer
	if status, talk := blessd(ctx, &out, args...); status != 0 {
		t.Fatalf("blessd %s: status %d\n%s%s", strings.Join(args, " "), status, out.String(), talk)
	}
	return slices.Collect(strings.Lines(out.String()))
}

// waitForEvents waits until the stream holds n events.
func waitForEvents(t *testing.T, d *daemon, n uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		// The daemon makes the stream when it has found NATS: an error may pass.
		state, err := d.sink.State(ctx, d.sink.EventsStream())
		switch {
		case err == nil && state.Msgs > n:
			t.Fatalf("the stream holds %d events, want %d", state.Msgs, n)
		case err == nil && state.Msgs == n:
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("the stream holds %d events (%v), want %d", state.Msgs, err, n)
		}
	}
}

// tailLine is a line of tail -o json.
type tailLine struct {
	Subject string
	Headers map[string]any
	Data    json.RawMessage
}

func parseLines(t *testing.T, lines []string) (parsed []tailLine, types []event.Type) {
	t.Helper()
	for _, l := range lines {
		var p tailLine
		d := json.NewDecoder(strings.NewReader(l))
		d.DisallowUnknownFields()
		if err := d.Decode(&p); err != nil {
			t.Fatalf("%v: %s", err, l)
		}
		e, err := event.Decode(p.Data)
		if err != nil {
			t.Fatalf("%v: %s", err, l)
		}
		if id := p.Headers["Nats-Msg-Id"]; id != e.ID {
			t.Errorf("header Nats-Msg-Id is %v, the event's id %s", id, e.ID)
		}
		if want := "mail.events." + e.Provider + "." + e.Endpoint + "." + string(e.Type); p.Subject != want {
			t.Errorf("subject %s, want %s", p.Subject, want)
		}
		parsed, types = append(parsed, p), append(types, e.Type)
	}
	return parsed, types
}

func TestSendAndTail(t *testing.T) {
	d, dir := startClientTest(t)
	at := []string{"--data-dir", dir}
	run := func(args ...string) []string { t.Helper(); return mustRun(t, append(args, at...)...) }

	total := 0
	for _, p := range receiver.Providers() {
		all, err := samples(p)
		if err != nil {
			t.Fatal(err)
		}
		total += len(all)
	}

	// Every sample is stored as a redelivery is: once.
	for range 2 {
		if got := run("send", "mailgun", "opened", "--fresh=false"); len(got) != 1 || !strings.Contains(got[0], `  opened  200 in `) ||
			!strings.HasPrefix(got[0], "POST /hooks/mailgun/\u2026  ") || !strings.HasSuffix(got[0], " ms  \"God bless you\"\n") {
			t.Errorf("send said %q", got)
		}
	}
	waitForEvents(t, d, 1)

	for i, line := range run("send", "--all", "-o", "json") {
		var s sent
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if s.Status != 200 || !s.Expected || s.Answer != receiver.Acknowledgement(s.Provider) || !strings.HasSuffix(s.URL, "/hooks/"+s.Endpoint+"/\u2026") {
			t.Errorf("line %d: %s", i, line)
		}
	}
	waitForEvents(t, d, uint64(1+total))
	if got := run("send", "vision6", "list_created", "--count", "3", "--rate", "1000"); len(got) != 1 || !strings.HasPrefix(got[0], "sent 3, acknowledged 3, refused 0, in ") {
		t.Errorf("3 requests made %q", got)
	}
	waitForEvents(t, d, uint64(total+4))

	t.Run("all are tests", func(t *testing.T) {
		parsed, _ := parseLines(t, run("tail", "--no-follow", "-o", "json"))
		for _, l := range parsed {
			if e, err := event.Decode(l.Data); err != nil || !e.Test {
				t.Errorf("%v, not marked as a test: %s", err, l.Data)
			}
		}
	})
	t.Run("everything", func(t *testing.T) {
		_, types := parseLines(t, run("tail", "--no-follow", "-o", "json"))
		if len(types) != total+4 {
			t.Errorf("%d events, want %d", len(types), total+4)
		}
		// All that any provider sends is there.
		for _, want := range event.Types() {
			reserved := want == event.EmailFailed || want == event.EmailSubscribed || want == event.OtherUnknown
			if slices.Contains(types, want) == reserved {
				t.Errorf("%s: reserved %t, there %t", want, reserved, !reserved)
			}
		}
		if got := run("tail", "--no-follow"); len(got) != total+4 {
			t.Errorf("%d lines for people, want %d", len(got), total+4)
		}
	})
	t.Run("last", func(t *testing.T) {
		if _, types := parseLines(t, run("tail", "--no-follow", "-o", "json", "--last", "4")); !slices.Equal(types, []event.Type{
			event.ListUpdated, event.ListCreated, event.ListCreated, event.ListCreated,
		}) {
			t.Errorf("the last 4 are %v", types)
		}
		// They are far from the end, behind what does not match.
		lines, types := parseLines(t, run("tail", "--no-follow", "-o", "json", "--last", "2", "--type", "bounced", "--provider", "enkod,mailgun"))
		if len(types) != 2 || types[0] != event.EmailBounced || types[1] != event.EmailBounced {
			t.Fatalf("the last 2 bounces are %v", types)
		}
		if got := lines[0].Subject + " " + lines[1].Subject; got != "mail.events.mailgun.mailgun.email.bounced mail.events.mailgun.mailgun.email.bounced" {
			t.Errorf("the last 2 bounces are %s", got)
		}
		if got := run("tail", "--no-follow", "--last", "1000", "--type", "complained"); len(got) != 5 {
			t.Errorf("%d complaints, want all 5: %q", len(got), got)
		}
		if got := run("tail", "--no-follow", "--last", "5", "--endpoint", "nobody"); len(got) != 0 {
			t.Errorf("an endpoint that does not exist has %q", got)
		}
	})
	t.Run("since", func(t *testing.T) {
		if got := run("tail", "--no-follow", "--since", "1h", "--provider", "vision6", "--type", "list"); len(got) != 7 {
			t.Errorf("%d list events in the last hour, want 7", len(got))
		}
		if got := run("tail", "--no-follow", "--since", time.Now().Add(time.Hour).Format(time.RFC3339)); len(got) != 0 {
			t.Errorf("events from the future: %q", got)
		}
	})
	t.Run("another server and stream", func(t *testing.T) {
		var out bytes.Buffer
		if status, talk := blessd(t.Context(), &out, "tail", "--no-follow", "--last", "1", "--server", d.Addresses().NATS); status != 0 || strings.Count(out.String(), "\n") != 1 {
			t.Errorf("status %d: %s%s", status, out.String(), talk)
		}
		if status, talk := blessd(t.Context(), io.Discard, "tail", "--no-follow", "--server", d.Addresses().NATS, "--stream", "NOPE"); status != 1 || !strings.Contains(talk, "NOPE") {
			t.Errorf("status %d: %s", status, talk)
		}
	})
	t.Run("bad signatures", func(t *testing.T) {
		for _, p := range receiver.Providers() {
			all, err := samples(p)
			if err != nil {
				t.Fatal(err)
			}
			// A wrong signature of SendClean and Sarv is only reported: the token is right.
			blessed := p == "sendclean" || p == "sarv"
			got := run("send", p, all[0].event, "--bad-signature")
			if len(got) != 1 || strings.Contains(got[0], "God bless") != blessed {
				t.Errorf("%s: %q", p, got)
			}
		}
		waitForEvents(t, d, uint64(total+6))
	})
	t.Run("print-curl", func(t *testing.T) {
		got := run("send", "sarv", "hard_bounce", "--print-curl")
		waitForEvents(t, d, uint64(total+6)) // nothing was sent
		if len(got) != 2 || got[0] != "# sarv hard_bounce\n" || !strings.HasPrefix(got[1], "curl ") {
			t.Fatalf("printed %q", got)
		}
		if _, err := exec.LookPath("curl"); err != nil {
			t.Skip("there is no curl here")
		}
		answer, err := exec.Command("/bin/sh", "-c", strings.Join(got, "")).Output()
		if err != nil || !strings.Contains(string(answer), "200 OK") || !strings.HasSuffix(string(answer), "God bless you, Sarv") {
			t.Errorf("%v: %s", err, answer)
		}
		waitForEvents(t, d, uint64(total+7))
		parsed, _ := parseLines(t, run("tail", "--no-follow", "-o", "json", "--last", "1"))
		if e, err := event.Decode(parsed[0].Data); err != nil || !e.Test || e.Bounce == nil {
			t.Errorf("%v: %s", err, parsed[0].Data)
		}
	})
}

// follower is a tail that runs beside the test.
type follower struct {
	lines     chan string
	passed    []string // what was shown and not awaited
	interrupt context.CancelFunc
	ended     chan struct{}
	status    int    // once it has ended
	talk      string // once it has ended
}

func follow(t *testing.T, args ...string) *follower {
	t.Helper()
	ctx, interrupt := context.WithCancel(t.Context())
	t.Cleanup(interrupt)
	f := &follower{lines: make(chan string, 1000), interrupt: interrupt, ended: make(chan struct{})}
	read, write := io.Pipe()
	go func() {
		defer close(f.lines)
		for s := bufio.NewScanner(read); s.Scan(); {
			f.lines <- s.Text()
		}
	}()
	go func() {
		defer close(f.ended)
		f.status, f.talk = blessd(ctx, write, append([]string{"tail"}, args...)...)
		_ = write.Close()
	}()
	return f
}

// await calls send until a line shows that has want in it: it is not known when
// the tail has begun.
func (f *follower) await(t *testing.T, want string, send func()) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		send()
		select {
		case l, more := <-f.lines:
			if !more {
				t.Fatal("the tail has ended")
			}
			if strings.Contains(l, want) {
				return
			}
			f.passed = append(f.passed, l)
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			t.Fatalf("no event %q is shown", want)
		}
	}
}

// stop interrupts it and returns the lines that were not awaited.
func (f *follower) stop(t *testing.T) (rest []string) {
	t.Helper()
	f.interrupt()
	select {
	case <-f.ended:
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
	for l := range f.lines {
		rest = append(rest, l)
	}
	if f.status != 0 {
		t.Errorf("an interrupt is status %d, want 0: %s", f.status, f.talk)
	}
	return rest
}

// Only what comes after its start is shown, until it is interrupted.
func TestTailFollows(t *testing.T) {
	d, dir := startClientTest(t)
	mustRun(t, "send", "enkod", "message_open", "--data-dir", dir)
	waitForEvents(t, d, 1)
	f := follow(t, "--type", "opened", "--data-dir", dir)
	const opened = "  mailgun     email.opened          lena@example.com"
	// One event before the end decides: the tail shows them in order.
	clicked := func() { mustRun(t, "send", "enkod", "message_clicked", "--data-dir", dir) }
	f.await(t, opened, func() {
		clicked()
		mustRun(t, "send", "mailgun", "opened", "--data-dir", dir)
	})
	for _, l := range f.stop(t) {
		if !strings.Contains(l, opened) {
			t.Errorf("shown: %q", l)
		}
	}
	for _, l := range f.passed {
		t.Errorf("shown before: %q", l)
	}
	if want := "watching mail.events.*.*.email.opened at " + d.Addresses().NATS + " (Ctrl-C ends)\n"; f.talk != want {
		t.Errorf("said %q, want %q", f.talk, want)
	}
}

// The URL that is signed over may be known from a flag of serve alone.
func TestSendSignsOverThePublicURL(t *testing.T) {
	dir := t.TempDir()
	start := func(publicURL string) *daemon {
		t.Helper()
		o := overrides{Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", NATSListen: "127.0.0.1:0", DataDir: dir, PublicURL: publicURL}
		cfg, err := o.load(envOf())
		if err != nil {
			t.Fatal(err)
		}
		for i := range cfg.Endpoints {
			if cfg.Endpoints[i].Provider == "sarv" {
				cfg.Endpoints[i].Signature = "enforce"
			}
		}
		d := newDaemon(cfg, zap.NewNop())
		if err := d.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return d
	}
	for publicURL, want := range map[string]string{"https://hooks.example.com/": "https://hooks.example.com", "": "http://127.0.0.1:"} {
		d := start(publicURL)
		a, err := readAddresses(dir)
		if err != nil || !strings.HasPrefix(a.PublicURL, want) {
			t.Errorf("got %q, %v, want %s", a.PublicURL, err, want)
		}
		if got := mustRun(t, "send", "sarv", "open", "--data-dir", dir); !strings.Contains(got[0], " 200 in ") {
			t.Errorf("%q: %q", publicURL, got)
		}
		var out bytes.Buffer
		if status, _ := blessd(t.Context(), &out, "send", "sarv", "open", "--data-dir", dir, "--public-url", "https://other.example"); status != 1 {
			t.Errorf("a flag of send is not stronger: %s", out.String())
		}
		if err := d.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestTailSurvivesARestartOfNATS(t *testing.T) {
	d, dir := startClientTest(t)
	f := follow(t, "--data-dir", dir)
	f.await(t, "mailgun", func() { mustRun(t, "send", "mailgun", "opened", "--data-dir", dir) })
	if err := d.embedded.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "send", "enkod", "message_open", "--data-dir", dir)
	f.await(t, "enkod", func() {})
	f.stop(t)
	if want := "watching mail.events.> at " + d.Addresses().NATS + " (Ctrl-C ends)\nblessd: the connection to NATS is lost, waiting for it\nblessd: connected to NATS again\n"; f.talk != want {
		t.Errorf("said %q, want %q", f.talk, want)
	}
}

// On a server that is not ours anybody may publish anything.
func TestTailSkipsWhatIsNoEvent(t *testing.T) {
	d, dir := startClientTest(t)
	mustRun(t, "send", "sarv", "open", "--data-dir", dir)
	waitForEvents(t, d, 1)
	js, err := jetstream.New(d.conn)
	if err != nil {
		t.Fatal(err)
	}
	for _, body := range []string{"text", "[1]", `{"id":""}`} {
		if _, err := js.PublishMsg(t.Context(), &nats.Msg{Subject: "mail.events.a.b.c.d", Data: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	for format, want := range map[string]int{"text": 1, "json": 2} {
		var out bytes.Buffer
		status, talk := blessd(t.Context(), &out, "tail", "--no-follow", "-o", format, "--data-dir", dir)
		if status != 0 || strings.Count(out.String(), "\n") != want || strings.Count(talk, "skipped a message on mail.events.a.b.c.d") != 4-want {
			t.Errorf("-o %s: status %d\n%s%s", format, status, out.String(), talk)
		}
	}
}

func TestDemo(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	// The environment is the user's: the demo is not.
	t.Setenv("BLESSD_DATA_DIR", filepath.Join(t.TempDir(), "not-for-demos"))
	out := strings.Join(mustRun(t, "demo"), "")
	for _, want := range []string{
		"wrong token", "404", "forged signature", "401", "  hard_bounce  email.bounced", "  list_created          list.created",
		"requests  52 sent, 50 blessed, 2 refused\n", "enkod 8, mailgun 17, sarv 7, sendclean 7, vision6 11\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if strings.Contains(out, "\x1b") {
		t.Error("colours in what is not a terminal")
	}
	if left, err := os.ReadDir(os.TempDir()); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := os.Stat(os.Getenv("BLESSD_DATA_DIR")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the demo used the user's data directory: %v", err)
	}
}

// Without a PROVIDER, --all is for those that are configured.
func TestSendAllThatIsConfigured(t *testing.T) {
	dir := t.TempDir()
	if err := (addresses{Hooks: "0.0.0.0:1"}).write(dir); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"token": "0123456789abcdefghijklmnop\n", "key": "the key\n",
		"blessd.yaml": "data_dir: " + dir + "\nendpoints:\n" +
			"  - {name: ru, provider: enkod, token_files: [" + dir + "/token]}\n" +
			"  - {name: eu, provider: mailgun, key_files: [" + dir + "/key]}\n" +
			"  - {name: us, provider: mailgun, key_files: [" + dir + "/key]}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	status, talk := blessd(t.Context(), &out, "send", "--all", "--print-curl", "-c", filepath.Join(dir, "blessd.yaml"))
	if status != 0 || strings.Count(out.String(), "\ncurl ") != 8+17 || strings.Count(out.String(), "'http://127.0.0.1:1/hooks/eu'") != 17 ||
		strings.Count(out.String(), "'http://127.0.0.1:1/hooks/ru/0123456789abcdefghijklmnop'") != 8 {
		t.Errorf("status %d: %s%s", status, out.String(), talk)
	}
	if want := "endpoint ru: sent with its real token, so the events are not marked as a test\n" +
		"endpoint eu: signed with its real key, so the events are not marked as a test\n"; talk != want {
		t.Errorf("said %q, want %q", talk, want)
	}
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"send sarv", 1, "there is: ru (enkod), eu (mailgun), us (mailgun)"},
		{"send enkod --endpoint us", 2, "the endpoint us is for mailgun"},
		{"send enkod --endpoint xx", 1, "no endpoint xx"},
	} {
		status, talk := blessd(t.Context(), io.Discard, append(strings.Fields(c.args), "-c", filepath.Join(dir, "blessd.yaml"))...)
		if status != c.status || !strings.Contains(talk, c.says) {
			t.Errorf("%s: status %d: %s", c.args, status, talk)
		}
	}
	out.Reset()
	if status, talk := blessd(t.Context(), &out, "send", "mailgun", "opened", "--endpoint", "us", "--print-curl", "-c", filepath.Join(dir, "blessd.yaml")); status != 0 || !strings.Contains(out.String(), "/hooks/us'") {
		t.Errorf("status %d: %s%s", status, out.String(), talk)
	}
}

func TestClientMistakes(t *testing.T) {
	dir := t.TempDir()
	stopped := t.TempDir()
	if err := (addresses{Hooks: "127.0.0.1:1", Admin: "127.0.0.1:1", NATS: "nats://user:passw0rd@127.0.0.1:1"}).write(stopped); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(dir, "key")
	if err := os.WriteFile(key, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args   string
		status int
		says   string
	}{
		{"send", 2, "which PROVIDER"},
		{"send mandrill", 2, "no provider"},
		{"send sendclena", 2, `did you mean "sendclean"`},
		{"send --all open", 2, "no provider"},
		{"send sarv open --all", 2, "exclude each other"},
		{"send sarv opn --data-dir " + stopped, 2, `did you mean "open"`},
		{"send sarv --count 0", 2, "--count"},
		{"send sarv --rate -1", 2, "--rate"},
		{"send sarv -o yaml", 2, "-o"},
		{"send sarv --key-file " + key, 2, "--url"},
		{"send --all --endpoint x", 2, "--endpoint"},
		{"send --all --url http://127.0.0.1:1/", 2, "PROVIDER"},
		{"send sarv --data-dir " + dir, 1, "`blessd serve`"},
		{"send enkod message_open --url http://127.0.0.1:1/hooks/x/0123456789abcdef", 1, "blessd serve"},
		{"send sarv --no-such-flag", 2, "--no-such-flag"},
		{"send sarv --no-such-flag", 2, "no flag --no-such-flag (see"},
		{"send sarv --fersh", 2, "did you mean --fresh?"},
		{"send sarv -x", 2, "no flag -x"},
		{"send sarv --count many", 2, `--count "many" is no whole number`},
		{"send sarv --rate fast", 2, `--rate "fast" is no number`},
		{"send sarv --count", 2, "--count needs a value"},
		{"send sarv --all=maybe", 2, `--all "maybe" is neither true nor false`},
		{"send sarv -c x.yaml --url http://127.0.0.1:1/", 2, "--url and -c exclude each other"},
		{"send sarv --endpoint x --url http://127.0.0.1:1/", 2, "--url and --endpoint exclude each other"},
		{"tail --since 1h --last 5", 2, "--since and --last exclude each other"},
		{"tail --server nats://127.0.0.1:1 -c x.yaml", 2, "--server and -c exclude each other"},
		{"tial", 2, `no command "tial"; did you mean "tail"?`},
		{"serv", 2, `did you mean "serve"?`},
		{"frobnicate", 2, `no command "frobnicate" (see`},
		{"tail extra", 2, "extra"},
		{"tail -o yaml", 2, "-o"},
		{"tail --type nothing", 2, "event type"},
		{"tail --since soon", 2, "--since"},
		{"tail --last 0", 2, "--last"},
		{"tail --data-dir " + dir, 1, "`blessd serve`"},
		{"tail --data-dir " + stopped, 1, "127.0.0.1:1"},
		{"tail --server nats://127.0.0.1:1", 1, "not blessd's own server"},
		{"tail -c " + filepath.Join(dir, "none.yaml"), 1, "none.yaml"},
		{"replay now", 2, "now"},
		{"replay -o yaml", 2, "-o"},
		{"replay --provider mandrill", 2, "no provider"},
		{"replay --endpoint A.B", 2, "endpoint"},
		{"replay --reason to_complex", 2, `did you mean "too_complex"`},
		{"replay --reason bad_signature", 2, "no reason"},
		{"replay --unverified --reason too_complex", 2, "no reason"},
		{"replay --unverified --oversize", 2, "oversize"},
		{"replay --since soon", 2, "--since"},
		{"replay --until soon", 2, "--until"},
		{"replay --since 1h --until 2h", 2, "--until"},
		{"replay --admin-url user:passw0rd", 2, "--admin-url"},
		{"replay --admin-url http://user:passw0rd@127.0.0.1:1", 2, "--admin-url"},
		{"replay --data-dir " + dir, 1, "`blessd serve`"},
		{"replay --data-dir " + stopped, 1, "`blessd serve`"},
		{"erase", 2, "--file"},
		{"erase user@example.com --file x", 2, "--file"},
		{"erase user", 2, "e-mail address"},
		{"erase user@example.com -o yaml", 2, "-o"},
		{"erase user@example.com --data-dir " + stopped, 1, "`blessd serve`"},
		{"erase --file " + filepath.Join(dir, "none"), 1, "none"},
		{"salvage now", 2, "now"},
		{"salvage -o yaml", 2, "-o"},
		{"salvage --data-dir " + dir, 1, "no journal"},
		{"schema message", 2, "message"},
		{"version -o yaml", 2, "-o"},
		{"demo now", 2, "now"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		var out bytes.Buffer
		status, talk := blessd(ctx, &out, strings.Fields(c.args)...)
		cancel()
		if status != c.status || !strings.Contains(talk, c.says) || out.Len() > 0 {
			t.Errorf("blessd %s: status %d, want %d\n%s%s", c.args, status, c.status, out.String(), talk)
		}
		if strings.Contains(talk, "passw0rd") || strings.Contains(talk, "0123456789abcdef") {
			t.Errorf("blessd %s shows a secret: %s", c.args, talk)
		}
	}
}

func TestSchemaCommand(t *testing.T) {
	for _, args := range [][]string{{"schema"}, {"schema", "event"}} {
		if got := strings.Join(mustRun(t, args...), ""); got != string(event.Schema()) {
			t.Errorf("blessd %v does not print the schema", args)
		}
	}
}

func TestVersionCommand(t *testing.T) {
	var v map[string]string
	if err := json.Unmarshal([]byte(strings.Join(mustRun(t, "version", "-o", "json"), "")), &v); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"version", "commit", "go_version", "nats_server", "platform"} {
		if v[key] == "" {
			t.Errorf("%s is missing in %v", key, v)
		}
	}
	text := strings.Join(mustRun(t, "version"), "")
	if got := strings.Join(mustRun(t, "--version"), ""); got != text {
		t.Errorf("--version prints %q, version %q", got, text)
	}
	for _, value := range v {
		if !strings.Contains(text, value) {
			t.Errorf("%q is not in %q", value, text)
		}
	}
}

// Every command of a client says how it is used and ended.
func TestClientHelp(t *testing.T) {
	for _, c := range newRootCommand().Commands() {
		if !slices.Contains([]string{"send", "tail", "replay", "schema", "version", "demo"}, c.Name()) {
			continue
		}
		if c.Example == "" || c.Short == "" {
			t.Errorf("%s has no example or no description", c.Name())
		}
		for line := range strings.Lines(c.Long) {
			if len(line) > 82 {
				t.Errorf("%s: wider than a terminal: %s", c.Name(), line)
			}
		}
	}
}
