package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
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

// restartable is a blessd of one Mailgun endpoint on a directory.
type restartable struct {
	*program
	dir string
}

func newRestartable(t *testing.T) *restartable {
	t.Helper()
	return &restartable{dir: t.TempDir(), program: &program{t: t, provider: "mailgun", client: &http.Client{}}}
}

// start starts a blessd that has these keys. The ports are new ones, the data is what
// was there before.
func (r *restartable) start(unverified string, keys ...string) {
	r.t.Helper()
	var files []string
	for i, key := range keys {
		files = append(files, filepath.Join(r.dir, fmt.Sprint("key", i)))
		if err := os.WriteFile(files[i], []byte(key+"\n"), 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	file := filepath.Join(r.dir, "blessd.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, `listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
data_dir: %s
endpoints:
  - {name: acme, provider: mailgun, key_files: [%s]}
nats: {embedded: {listen: "127.0.0.1:0"}}
unverified: {max_bytes: %s}
`, filepath.Join(r.dir, "data"), strings.Join(files, ", "), unverified), 0o600); err != nil {
		r.t.Fatal(err)
	}
	cfg, err := loadConfig(file, func(string) (string, bool) { return "", false })
	if err != nil {
		r.t.Fatal(err)
	}
	d := newDaemon(cfg, zap.NewNop())
	if err := d.Start(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { stopDaemon(r.t, d) })
	nc, err := nats.Connect(d.Addresses().NATS)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(nc.Close)
	if r.js, err = jetstream.New(nc); err != nil {
		r.t.Fatal(err)
	}
	r.daemon = d
}

// stopDaemon stops d. To do it twice does no harm.
func stopDaemon(t *testing.T, d *daemon) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), stopTime)
	defer cancel()
	if err := d.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// send posts an event that Mailgun signed with that key at that time.
func (r *restartable) send(key receiver.Secret, at time.Time, id string) (status int) {
	r.t.Helper()
	body := fmt.Sprintf(`{"event":"opened","id":%q,"timestamp":%d.5,"recipient":"user@example.com"}`, id, at.Unix())
	s, err := receiver.Sign(receiver.Plain{Provider: "mailgun", URL: r.url(), Key: key, Now: at, Body: []byte(body)})
	if err != nil {
		r.t.Fatal(err)
	}
	status, _ = r.post(r.url(), s.ContentType, s.Header, s.Body)
	return status
}

// awaitEvents waits until the stream has n events and returns them.
func (r *restartable) awaitEvents(n int) (events []*event.Event) {
	r.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s, err := r.js.Stream(r.t.Context(), "MAIL_EVENTS")
		if err == nil && s.CachedInfo().State.Msgs >= uint64(n) {
			break
		}
		if time.Now().After(deadline) {
			r.t.Fatalf("not %d events in 30 s: %v", n, err)
		}
	}
	for _, m := range r.read("MAIL_EVENTS") {
		e, err := event.Decode(m.Data())
		if err != nil {
			r.t.Fatal(err)
		}
		events = append(events, e)
	}
	if len(events) != n {
		r.t.Fatalf("%d events, want %d", len(events), n)
	}
	return events
}

// gathered returns the sum of a metric's series.
func gathered(t *testing.T, d *daemon, name string) (sum float64) {
	t.Helper()
	families, err := d.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		found = true
		for _, m := range f.GetMetric() {
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	if !found {
		t.Fatalf("there is no metric %s", name)
	}
	return sum
}

// What came before its key did goes in when the key is there, with the time at which
// it came; what another key signed stays.
func TestLateKey(t *testing.T) {
	r := newRestartable(t)
	before := time.Now()
	r.start("1MiB")
	if got := r.send("the-late-key-0123456789", before, "early"); got != http.StatusServiceUnavailable {
		t.Fatalf("without a key: %d, want 503", got)
	}
	if got := r.send("a-strangers-key-0123456789", before, "forged"); got != http.StatusServiceUnavailable {
		t.Fatalf("without a key: %d, want 503", got)
	}
	after := time.Now()
	stopDaemon(t, r.daemon)

	r.start("1MiB", "the-late-key-0123456789")
	e := r.awaitEvents(1)[0]
	if received := e.Received.Time; received.Before(before.Truncate(time.Millisecond)) || received.After(after) {
		t.Errorf("received %v, want between %v and %v", received, before, after)
	}
	waitFor(t, "the deliveries to be redeemed", func() bool {
		return gathered(t, r.daemon, "blessd_unverified_redeemed_total") == 1 && gathered(t, r.daemon, "blessd_unverified_records") == 1
	})

	// The key is rotated at Mailgun before it is here; then the endpoint is given it
	// while blessd runs.
	if got := r.send("the-next-key-0123456789", time.Now(), "rotated"); got != http.StatusUnauthorized {
		t.Fatalf("with another key: %d, want 401", got)
	}
	es := slices.Clone(r.daemon.inForce.Load().endpoints)
	es[0].Keys = append(es[0].Keys, receiver.Key{Value: "the-next-key-0123456789"})
	if err := r.daemon.setEndpoints(es); err != nil {
		t.Fatal(err)
	}
	if e := r.awaitEvents(2)[1]; !strings.Contains(string(e.RawBytes()), `"rotated"`) {
		t.Errorf("got %s", e.RawBytes())
	}
}

func TestUnverifiedTurnedOff(t *testing.T) {
	r := newRestartable(t)
	r.start("0")
	if got := r.send("the-late-key-0123456789", time.Now(), "early"); got != http.StatusServiceUnavailable {
		t.Fatalf("without a key: %d, want 503", got)
	}
	if _, err := os.Stat(filepath.Join(r.dir, "data", "unverified")); err == nil {
		t.Error("there is a directory for what is not kept")
	}
}

func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 30 s for %s", what)
		}
	}
}
