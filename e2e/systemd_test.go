package e2e

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// manager is what systemd is to blessd: it holds the sockets, and is told things.
type manager struct {
	t       *testing.T
	sockets []*net.TCPListener
	names   []string
	notices *net.UnixConn
}

func newManager(t *testing.T, names ...string) *manager {
	t.Helper()
	m := &manager{t: t, names: names}
	for range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() }) // nobody writes to it
		m.sockets = append(m.sockets, l.(*net.TCPListener))
	}
	dir, err := os.MkdirTemp("", "blessd") // the path of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // in the temporary directory
	if m.notices, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.notices.Close() })
	return m
}

// start starts blessd as systemd would: it finds the sockets at descriptor 3 and
// on. LISTEN_PID is its own, which only a shell that becomes blessd knows.
func (m *manager) start(r *rig, args ...string) *process {
	m.t.Helper()
	binary, err := blessd()
	if err != nil {
		m.t.Fatal(err)
	}
	p := &process{t: m.t, cmd: exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, binary, "serve", "-c", r.config}, args...)...)}
	p.cmd.Env = append(
		os.Environ(), fmt.Sprintf("LISTEN_FDS=%d", len(m.sockets)), "LISTEN_FDNAMES="+strings.Join(m.names, ":"),
		"NOTIFY_SOCKET="+m.notices.LocalAddr().String(), "WATCHDOG_USEC=300000",
	)
	for _, s := range m.sockets {
		f, err := s.File()
		if err != nil {
			m.t.Fatal(err)
		}
		defer f.Close()
		p.cmd.ExtraFiles = append(p.cmd.ExtraFiles, f)
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { p.end(syscall.SIGKILL) })
	r.proc = p
	return p
}

// told waits for a notice that matches, and returns it.
func (m *manager) told(pattern string) string {
	m.t.Helper()
	want := regexp.MustCompile(pattern)
	if err := m.notices.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		m.t.Fatal(err)
	}
	for b := make([]byte, 4096); ; {
		n, err := m.notices.Read(b)
		if err != nil {
			m.t.Fatalf("waiting to be told %q: %v", pattern, err)
		}
		if want.Match(b[:n]) {
			return string(b[:n])
		}
		if !bytes.HasPrefix(b[:n], []byte("WATCHDOG=1")) {
			m.t.Errorf("told %q, want %q", b[:n], pattern)
		}
	}
}

// TestServiceManager runs blessd as systemd does.
func TestServiceManager(t *testing.T) {
	r := newRig(t, "  embedded: {listen: \"127.0.0.1:0\"}")
	m := newManager(t, "admin", "hooks")
	p := m.start(r)
	m.told(`^READY=1$`)
	for i, path := range []string{"/-/ready", "/hooks/acme"} {
		a, err := http.Get("http://" + m.sockets[i].Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = a.Body.Close() // not of interest
		if a.StatusCode != http.StatusOK {
			t.Errorf("%s on the socket %q: %d, want 200", path, m.names[i], a.StatusCode)
		}
	}
	if !strings.Contains(p.out.String(), "socket from systemd is used") {
		t.Errorf("the log does not say whose sockets they are:\n%s", p.out.String())
	}
	m.told(`^WATCHDOG=1$`)

	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	m.told(`^RELOADING=1\nMONOTONIC_USEC=[0-9]+\n$`)
	m.told(`^READY=1$`)
	write(t, r.config, "nonsense: true\n")
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	m.told(`^RELOADING=1\n`)
	m.told(`^READY=1$`) // with what it had
	wait(t, "the log to say that the file is bad", func() bool { return strings.Contains(p.out.String(), "nonsense") })

	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.told(`^STOPPING=1$`)
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("blessd ended with %v, want status 0\n%s", err, p.out.String())
	}
}

// TestStrangeSockets passes a socket that blessd would not serve: it says so and
// does not start.
func TestStrangeSockets(t *testing.T) {
	for _, names := range [][]string{{"web"}, {"hooks", "hooks"}} {
		r := newRig(t, "  embedded: {listen: \"127.0.0.1:0\"}")
		m := newManager(t, names...)
		p := m.start(r)
		if err := p.cmd.Wait(); err == nil || !strings.Contains(p.out.String(), fmt.Sprintf("socket %q", names[0])) {
			t.Errorf("sockets %q: ended with %v\n%s", names, err, p.out.String())
		}
	}
}

// TestRestartOnSocket posts 200 times while blessd is stopped and started again on
// a socket that stays open. Every post is blessed: none is refused, and none has to
// be repeated.
func TestRestartOnSocket(t *testing.T) {
	r := newRig(t, "  embedded: {listen: \"127.0.0.1:0\"}")
	m := newManager(t, "hooks")
	p := m.start(r)
	m.told(`^READY=1$`)
	target := "http://" + m.sockets[0].Addr().String() + "/hooks/acme"
	const posts, senders = 200, 8
	l := newLedger()
	var next, blessings atomic.Int64
	half := make(chan struct{}) // closed when the second half may begin
	var wg sync.WaitGroup
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: senders}}
	for range senders {
		wg.Go(func() {
			for n := next.Add(1); n <= posts; n = next.Add(1) {
				if n > posts/2 {
					<-half
				}
				uid := fmt.Sprintf("u-%d", n)
				l.mu.Lock()
				l.sent[uid] = true
				l.mu.Unlock()
				answered, ok := post(client, target, uid)
				if !ok {
					t.Errorf("post %d was not blessed, answered: %t", n, answered)
					continue
				}
				blessings.Add(1)
				l.mu.Lock()
				l.blessed[uid] = true
				l.mu.Unlock()
			}
		})
	}
	wait(t, "blessings before the restart", func() bool { return blessings.Load() > posts/4 })
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.told(`^STOPPING=1$`)
	close(half) // from here on while it stops, is away, and starts
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("blessd ended with %v, want status 0\n%s", err, p.out.String())
	}
	while := blessings.Load()
	m.start(r)
	m.told(`^READY=1$`)
	wg.Wait()
	t.Logf("%d posts, %d of them blessed when the first blessd had ended, %d in the end", posts, while, blessings.Load())
	r.nats = natsOf(t, r)
	l.verdict(t, r.nats)
}

func natsOf(t *testing.T, r *rig) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, "data", "addresses.json"))
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`"nats":"([^"]+)"`).FindSubmatch(b)
	if found == nil {
		t.Fatalf("no NATS in %s", b)
	}
	return string(found[1])
}
