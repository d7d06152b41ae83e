package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestKillBlessd kills blessd, with the NATS server in it, ten times under load.
// That alone proves little, since the page cache survives: see the tests below.
func TestKillBlessd(t *testing.T) {
	r := newRig(t, "  embedded: {listen: \"127.0.0.1:0\"}")
	r.start()
	l := newLedger()
	ctx, cancel := context.WithCancel(context.Background())
	wg := r.load(ctx, 16, l)
	for range 10 {
		before := l.count()
		wait(t, "blessings after a start", func() bool { return l.count() > before+20 })
		time.Sleep(rand.N(500 * time.Millisecond)) // the moment of the kill is chance
		r.kill()
		r.start()
	}
	cancel()
	wg.Wait()
	l.verdict(t, r.nats)
}

// TestStop ends blessd with SIGTERM under load: what is in the stream then was
// blessed, and the program ends well.
func TestStop(t *testing.T) {
	r := newRig(t, "  embedded: {listen: \"127.0.0.1:0\"}")
	r.start()
	l := newLedger()
	ctx, cancel := context.WithCancel(context.Background())
	wg := r.load(ctx, 16, l)
	for range 3 {
		before := l.count()
		wait(t, "blessings after a start", func() bool { return l.count() > before+50 })
		proc := r.proc
		if err := proc.end(syscall.SIGTERM); err != nil {
			t.Fatalf("blessd ended with %v, want status 0\n%s", err, proc.out.String())
		}
		r.hooks.Store(nil)
		r.start()
	}
	cancel()
	wg.Wait()
	l.verdict(t, r.nats)
	have, _ := stored(t, r.nats)
	l.mu.Lock()
	defer l.mu.Unlock()
	for uid := range have {
		if !l.blessed[uid] {
			t.Errorf("%s is stored and was not blessed, though nothing was killed", uid)
		}
	}
}

// TestKillNATS kills a NATS server of its own three times under load. Providers
// must not notice: the journal takes what NATS cannot.
func TestKillNATS(t *testing.T) {
	port := freePort(t)
	dir := t.TempDir()
	server := startNATS(t, dir, port)
	r := newRig(t, "  url: "+natsURL(port))
	r.start()
	l := newLedger()
	ctx, cancel := context.WithCancel(context.Background())
	wg := r.load(ctx, 16, l)
	for range 3 {
		before := l.count()
		wait(t, "blessings", func() bool { return l.count() > before+200 })
		_ = server.end(syscall.SIGKILL) // "signal: killed" is what we want
		before = l.count()
		wait(t, "blessings without NATS", func() bool { return l.count() > before+200 })
		server = startNATS(t, dir, port)
	}
	cancel()
	wg.Wait()
	l.verdict(t, r.nats)
	if l.refused > 0 || l.unknown > 0 {
		t.Errorf("%d requests refused and %d unanswered while NATS was away, want none", l.refused, l.unknown)
	}
}

// TestStreamFull lets the stream fill up and refuse under load, and makes room.
func TestStreamFull(t *testing.T) {
	port := freePort(t)
	startNATS(t, t.TempDir(), port)
	r := newRig(t, "  url: "+natsURL(port)+"\n  stream: {max_bytes: 1MiB, when_full: refuse}")
	r.start()
	l := newLedger()
	ctx, cancel := context.WithCancel(context.Background())
	wg := r.load(ctx, 16, l)

	nc, err := nats.Connect(natsURL(port))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for size := int64(2 << 20); size <= 4<<20; size += 1 << 20 {
		wait(t, "the stream to be full", func() bool { return fullStream(ctx, t, js) })
		before := l.count()
		wait(t, "blessings while the stream is full", func() bool { return l.count() > before+200 })
		resize(ctx, t, js, size)
	}
	cancel()
	wg.Wait()
	resize(context.Background(), t, js, 1<<30)
	l.verdict(t, r.nats)
	if l.refused > 0 {
		t.Errorf("%d requests refused while the stream was full, want none", l.refused)
	}
}

func fullStream(ctx context.Context, t *testing.T, js jetstream.JetStream) bool {
	t.Helper()
	s, err := js.Stream(ctx, "MAIL_EVENTS")
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return false // blessd makes it when it has found the server
	}
	if err != nil {
		t.Fatal(err)
	}
	i := s.CachedInfo()
	return i.State.Bytes+4096 > uint64(i.Config.MaxBytes)
}

func resize(ctx context.Context, t *testing.T, js jetstream.JetStream, bytes int64) {
	t.Helper()
	s, err := js.Stream(ctx, "MAIL_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	c := s.CachedInfo().Config
	c.MaxBytes = bytes
	if _, err := js.UpdateStream(ctx, c); err != nil {
		t.Fatal(err)
	}
}

func startNATS(t *testing.T, dir string, port int) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, []string{natsChild + "=" + filepath.Join(dir, "js"), fmt.Sprintf("%s_PORT=%d", natsChild, port)}, self)
	wait(t, "the NATS server", func() bool {
		nc, err := nats.Connect(natsURL(port))
		if err != nil {
			return false
		}
		nc.Close()
		return true
	})
	return p
}

func natsURL(port int) string { return fmt.Sprintf("nats://127.0.0.1:%d", port) }

// freePort returns a port that was free a moment ago: a NATS server that is
// restarted has to come back where it was.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := strings.Cut(l.Addr().String(), ":")
	var n int
	if _, err := fmt.Sscan(port, &n); err != nil {
		t.Fatal(err)
	}
	return n
}
