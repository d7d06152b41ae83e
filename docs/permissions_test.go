package docs

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/sink"
)

// The permissions that docs/operating.md names are enough for all that blessd does
// with a NATS server of somebody else's.
func TestPermissions(t *testing.T) {
	blocks := fences(section(t, read(t, "docs/operating.md"), "## A NATS of your own"), "conf")
	if len(blocks) != 1 {
		t.Fatalf("%d configurations in docs/operating.md, want one", len(blocks))
	}
	t.Setenv("BLESSD_NATS_PASSWORD", "secret")
	dir := t.TempDir()
	file := filepath.Join(dir, "nats-server.conf")
	if err := os.WriteFile(file, []byte(blocks[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	o.Host, o.Port, o.JetStream, o.StoreDir, o.NoSigs, o.NoLog = "127.0.0.1", server.RANDOM_PORT, true, dir, true, true
	srv, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server is not ready after 10 s")
	}

	nc, err := sink.Dial(sink.ExternalOptions{URL: "nats://blessd:secret@" + srv.Addr().String(), Name: "test", Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	s, err := sink.New(nc, sink.Options{
		Prefix: "mail", CETypePrefix: "blessd", Mode: "external", Log: zap.NewNop(), Registerer: prometheus.NewRegistry(),
		Events:     sink.StreamConfig{Name: "MAIL_EVENTS", MaxBytes: 16 << 20, DuplicateWindow: time.Minute},
		Quarantine: sink.StreamConfig{Name: "MAIL_QUARANTINE", MaxBytes: 16 << 20, DuplicateWindow: time.Minute, Refuse: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for range 2 { // makes the streams, then compares them
		if err := s.Ensure(ctx); err != nil {
			t.Fatal(err)
		}
	}

	now := event.NewTime(time.Now())
	id := event.NewID("enkod", "ru", []string{"permissions"}, 0)
	e, err := s.EventMessage(&event.Event{
		ID: id, Type: event.EmailSent, Time: now, TimeSource: event.TimeFromReceipt, Received: now, Provider: "enkod", Endpoint: "ru",
	}, "")
	if err != nil {
		t.Fatal(err)
	}
	q, err := s.QuarantineMessage(sink.Quarantined{Provider: "enkod", Endpoint: "ru", ID: id, Reason: "unreadable_body", Received: now.Time})
	if err != nil {
		t.Fatal(err)
	}
	var futures []jetstream.PubAckFuture
	for _, m := range []*nats.Msg{e, q} {
		f, err := s.Publish(m)
		if err != nil {
			t.Fatal(err)
		}
		futures = append(futures, f)
	}
	for _, f := range futures {
		select {
		case <-f.Ok():
		case err := <-f.Err():
			t.Fatalf("publish: %v", err)
		}
	}
	for _, stream := range []string{"MAIL_EVENTS", "MAIL_QUARANTINE"} {
		var ids []string
		if err := s.IDs(ctx, stream, 0, func(id string, _ uint64) { ids = append(ids, id) }); err != nil {
			t.Fatal(err)
		}
		if len(ids) != 1 || ids[0] != id {
			t.Errorf("%s: read back %q, want %q", stream, ids, id)
		}
	}
	quarantine, err := s.Quarantine(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := quarantine.Each(ctx, 0, func(seq uint64, _ sink.Quarantined, _ error) error { return quarantine.Delete(ctx, seq) }); err != nil {
		t.Errorf("empty the quarantine: %v", err)
	}
	if err := s.EventIDs(ctx, now.Time, func(string) {}); err != nil {
		t.Error(err)
	}
	seen, erased, err := s.Erase(ctx, "MAIL_EVENTS", func([]byte) bool { return true }, false, nil)
	if err != nil || seen != 1 || erased != 1 {
		t.Errorf("erased %d of %d events: %v", erased, seen, err)
	}
	if err := s.Refresh(ctx); err != nil {
		t.Error(err)
	}
	if err := nc.LastError(); err != nil {
		t.Errorf("the server complained: %v", err)
	}
}
