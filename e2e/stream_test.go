package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The tests in this file have acknowledge: stream, so that no journal hides what
// NATS does.

// refusalTime is how long a refusal may take: 4 s for the store, and some for a
// machine that does other things as well.
const refusalTime = 6 * time.Second

// TestStreamKillBlessd kills blessd, with the NATS server in it, under load.
func TestStreamKillBlessd(t *testing.T) {
	r := newStreamRig(t, "  embedded: {listen: \"127.0.0.1:0\"}")
	r.start()
	l := newLedger()
	ctx, cancel := context.WithCancel(context.Background())
	wg := r.load(ctx, 16, l)
	for range 8 {
		before := l.count()
		wait(t, "blessings after a start", func() bool { return l.count() > before+20 })
		time.Sleep(rand.N(500 * time.Millisecond)) // the moment of the kill is chance
		r.kill()
		r.start()
	}
	cancel()
	wg.Wait()
	l.verdict(t, r.nats)
	if _, err := os.Stat(filepath.Join(r.dir, "data", "journal")); err == nil {
		t.Error("there is a journal")
	}
	if status, body := r.get("/-/status"); status != http.StatusOK || strings.Contains(body, `"journal"`+": {") {
		t.Errorf("status %d mentions a journal that there is not:\n%s", status, body)
	}
}

// TestStreamWithoutNATS stops the NATS server, then kills it: everything is
// refused in time and nothing is blessed, until it is back.
func TestStreamWithoutNATS(t *testing.T) {
	port := freePort(t)
	dir := t.TempDir()
	server := startNATS(t, dir, port)
	r := newStreamRig(t, "  url: "+natsURL(port))
	r.start()
	r.ready()
	l := newLedger()
	client := &http.Client{Timeout: 20 * time.Second}
	n := 0
	try := func() (ok bool, took time.Duration) {
		n++
		uid := fmt.Sprintf("one-%d", n)
		l.sent[uid] = true
		begin := time.Now()
		answered, ok := post(client, *r.hooks.Load()+"/hooks/acme", uid)
		if !answered {
			t.Fatalf("no answer after %v", time.Since(begin))
		}
		if ok {
			l.blessed[uid] = true
		}
		return ok, time.Since(begin)
	}
	if ok, _ := try(); !ok {
		t.Fatal("refused with NATS there")
	}
	for what, fault := range map[string]struct{ down, up func() }{
		"stopped": {
			func() {
				_ = server.cmd.Process.Signal(syscall.SIGSTOP)
				wait(t, "the server to stand still", func() bool {
					b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", server.cmd.Process.Pid))
					return err == nil && strings.Contains(string(b), ") T ")
				})
			},
			func() { _ = server.cmd.Process.Signal(syscall.SIGCONT) },
		},
		"killed": {
			func() { _ = server.end(syscall.SIGKILL) }, // "signal: killed" is what we want
			func() { server = startNATS(t, dir, port) },
		},
	} {
		fault.down()
		for range 2 {
			ok, took := try()
			if ok {
				t.Errorf("blessed with NATS %s", what)
			}
			if took > refusalTime {
				t.Errorf("refused after %v with NATS %s, want at most %v", took, what, refusalTime)
			}
		}
		if status, body := r.get("/-/ready"); status != http.StatusServiceUnavailable {
			t.Errorf("with NATS %s: ready says %d %s", what, status, body)
		}
		fault.up()
		r.ready()
		if ok, took := try(); !ok {
			t.Errorf("refused after %v, with NATS back that was %s", took, what)
		}
	}
	l.verdict(t, r.nats)
}

// TestStreamKillNATS kills the NATS server under load. Requests are refused
// meanwhile; what was blessed is there.
func TestStreamKillNATS(t *testing.T) {
	port := freePort(t)
	dir := t.TempDir()
	server := startNATS(t, dir, port)
	r := newStreamRig(t, "  url: "+natsURL(port))
	r.start()
	l := newLedger()
	ctx, cancel := context.WithCancel(context.Background())
	wg := r.load(ctx, 16, l)
	for range 3 {
		before := l.count()
		wait(t, "blessings", func() bool { return l.count() > before+200 })
		_ = server.end(syscall.SIGKILL) // "signal: killed" is what we want
		server = startNATS(t, dir, port)
	}
	before := l.count()
	wait(t, "blessings after the last kill", func() bool { return l.count() > before+200 })
	cancel()
	wg.Wait()
	l.verdict(t, r.nats)
}

// TestStreamSlowNATS has a line to NATS with a latency: answers wait for it, and
// when it is longer than the deadline they are refusals.
func TestStreamSlowNATS(t *testing.T) {
	port := freePort(t)
	startNATS(t, t.TempDir(), port)
	line := newSlowLine(t, fmt.Sprintf("127.0.0.1:%d", port))
	r := newStreamRig(t, "  url: nats://"+line.address)
	r.start()
	r.ready()
	client := &http.Client{Timeout: 20 * time.Second}
	l := newLedger()
	try := func(uid string, latency time.Duration) (ok bool, took time.Duration) {
		line.latency(latency)
		begin := time.Now()
		l.sent[uid] = true
		answered, ok := post(client, *r.hooks.Load()+"/hooks/acme", uid)
		if !answered {
			t.Fatal("no answer")
		}
		if ok {
			l.blessed[uid] = true
		}
		return ok, time.Since(begin)
	}
	if ok, took := try("slow", 500*time.Millisecond); !ok || took < 500*time.Millisecond {
		t.Errorf("with a latency of 500 ms: blessed %t after %v, want true after that time", ok, took)
	}
	if ok, took := try("too-slow", 8*time.Second); ok || took > refusalTime {
		t.Errorf("with a latency of 8 s: blessed %t after %v, want a refusal within %v", ok, took, refusalTime)
	}
	if ok, _ := try("fast", 0); !ok {
		// What is still in the line comes first.
		wait(t, "a blessing", func() bool { ok, _ := try("fast again", 0); return ok })
	}
	l.verdict(t, natsURL(port))
}

// TestStreamFullRefuses fills a stream that refuses when it is full.
func TestStreamFullRefuses(t *testing.T) {
	port := freePort(t)
	startNATS(t, t.TempDir(), port)
	r := newStreamRig(t, "  url: "+natsURL(port)+"\n  stream: {max_bytes: 256KiB, when_full: refuse}")
	r.start()
	r.ready()
	l := newLedger()
	ctx, cancel := context.WithCancel(context.Background())
	wg := r.load(ctx, 4, l)
	wait(t, "refusals", func() bool { return l.refusals() > 20 })
	blessed := l.count()
	wait(t, "more refusals", func() bool { return l.refusals() > 100 })
	if n := l.count(); n > blessed+4 {
		t.Errorf("%d blessings while the stream was full", n-blessed)
	}
	nc, err := nats.Connect(natsURL(port))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	resize(ctx, t, js, 1<<30)
	blessed = l.count()
	wait(t, "blessings after there was room", func() bool { return l.count() > blessed+50 })
	cancel()
	wg.Wait()
	l.verdict(t, r.nats)
}

// slowLine is a TCP proxy that hands on what it reads after a time.
type slowLine struct {
	address string
	mu      sync.Mutex
	delay   time.Duration
}

func newSlowLine(t *testing.T, to string) *slowLine {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &slowLine{address: l.Addr().String()}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			mu.Lock()
			open = append(open, in, out)
			mu.Unlock()
			wg.Go(func() { s.carry(out, in) })
			wg.Go(func() { s.carry(in, out) })
		}
	})
	return s
}

func (s *slowLine) latency(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
}

func (s *slowLine) carry(to, from net.Conn) {
	defer to.Close()
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		s.mu.Lock()
		delay := s.delay
		s.mu.Unlock()
		time.Sleep(delay / 2) // each way
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
