package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jsm.go"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// TestMoving follows docs/operating.md from the embedded server to a NATS of one's
// own. The nats command's backup and restore are those of jsm.go, its library.
func TestMoving(t *testing.T) {
	p := startProgram(t, "enkod", "journal")
	send := func(first, last int) {
		t.Helper()
		for i := first; i <= last; i++ {
			body := fmt.Sprintf(`{"event":"message sent","message_id":1,"message_uid":"m%d","to":"user@example.com"}`, i)
			if code, answer := p.post(p.url(), "application/json", nil, []byte(body)); code != http.StatusOK {
				t.Fatalf("%d %s", code, answer)
			}
		}
	}
	send(1, 20)
	if code, _ := p.post(p.url(), "application/json", nil, []byte("no JSON")); code != http.StatusOK {
		t.Fatalf("got %d", code)
	}
	events, _ := p.settled()
	if len(events) != 20 {
		t.Fatalf("%d events, want 20", len(events))
	}
	// A consumer that has handled the first five.
	c, err := p.js.CreateConsumer(t.Context(), "MAIL_EVENTS", jetstream.ConsumerConfig{Durable: "crm", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		m, err := c.Next(jetstream.FetchMaxWait(10 * time.Second))
		if err == nil {
			err = m.DoubleAck(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cfg := *p.daemon.cfg
	stopDaemon(t, p.daemon)

	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "operating.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## From the embedded server to a NATS of your own\n")
	_, conf, _ := strings.Cut(section, "```conf\n")
	conf, _, _ = strings.Cut(conf, "```")
	for old, now := range map[string]string{"127.0.0.1:4333": "127.0.0.1:-1", "/var/lib/blessd/nats": filepath.Join(cfg.DataDir, "nats")} {
		if !strings.Contains(conf, old) {
			t.Fatalf("the configuration in docs/operating.md has no %q", old)
		}
		conf = strings.ReplaceAll(conf, old, now)
	}
	t.Setenv("MOVER_PASSWORD", "secret")
	old, stopOld := startPlainNATS(t, conf)
	manager := func(url string) *jsm.Manager {
		t.Helper()
		nc, err := nats.Connect(url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		m, err := jsm.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	backups := t.TempDir()
	from := manager("nats://mover:secret@" + old)
	for _, name := range []string{"MAIL_EVENTS", "MAIL_QUARANTINE"} {
		s, err := from.LoadStream(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.SnapshotToDirectory(t.Context(), filepath.Join(backups, name), jsm.SnapshotConsumers()); err != nil {
			t.Fatal(err)
		}
	}
	stopOld()

	own, _ := startPlainNATS(t, fmt.Sprintf("listen: 127.0.0.1:-1\nmax_payload: 8MB\njetstream {store_dir: %q}\n", t.TempDir()))
	to := manager("nats://" + own)
	for _, name := range []string{"MAIL_EVENTS", "MAIL_QUARANTINE"} {
		if _, _, err := to.RestoreSnapshotFromDirectory(t.Context(), name, filepath.Join(backups, name)); err != nil {
			t.Fatal(err)
		}
	}

	cfg.NATS.URL = "nats://" + own
	p.daemon = newDaemon(&cfg, zap.NewNop())
	p.daemon.acceptReset = true
	if err := p.daemon.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect("nats://" + own)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if p.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the relay to run", func() bool { return p.daemon.relay.Status().State == "running" })
	send(21, 25)
	events, quarantined := p.settled()
	if len(events) != 25 || len(quarantined) != 1 {
		t.Errorf("%d events and %d quarantined after the move, want 25 and 1", len(events), len(quarantined))
	}
	if went := gathered(t, p.daemon, "blessd_stream_went_backwards"); went != 0 {
		t.Error("blessd says that the stream went backwards")
	}
	moved, err := p.js.Consumer(t.Context(), "MAIL_EVENTS", "crm")
	if err != nil {
		t.Fatal(err)
	}
	if m, err := moved.Next(jetstream.FetchMaxWait(10 * time.Second)); err != nil || m.Headers().Get(nats.MsgIdHdr) != events[5].Headers().Get(nats.MsgIdHdr) {
		t.Errorf("the consumer does not go on with the sixth event: %v, %v", m, err)
	}
}

// startPlainNATS starts an ordinary server with the text of a configuration file
// and returns its address.
func startPlainNATS(t *testing.T, conf string) (address string, stop func()) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "nats-server.conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatalf("%v\n%s", err, conf)
	}
	o.NoSigs, o.NoLog = true, true
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	stop = func() { s.Shutdown(); s.WaitForShutdown() }
	t.Cleanup(stop)
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the NATS server is not ready after 30 s")
	}
	return s.Addr().String(), stop
}
