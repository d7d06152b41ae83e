package scenario

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

var systemdScenarios = []Scenario{
	{
		Name: "service-manager", Faults: []string{"F19", "F20", "F33"}, Tier: 0,
		Proves: "Run as systemd runs it, blessd serves on the sockets that it was handed and tells when it is ready, reloads, stops and lives.",
		Run:    serviceManager,
	},
	{
		Name: "strange-sockets", Faults: []string{"F20"}, Tier: 0,
		Proves: "Handed a socket that it would not serve, blessd says so and does not start.",
		Run: func(e *Env) {
			for _, names := range [][]string{{"web"}, {"hooks", "hooks"}} {
				b := e.BlessdLater(Config{})
				e.manager(names...).start(b)
				if err := b.Exit(); err == nil || !strings.Contains(b.Log(), fmt.Sprintf("socket %q", names[0])) && !strings.Contains(b.Log(), fmt.Sprintf(`socket \"%s\"`, names[0])) {
					e.Errorf("sockets %q: ended with %v\n%s", names, err, b.Log())
				}
			}
		},
	},
	{
		Name: "restart-on-socket", Faults: []string{"F20"}, Tier: 0,
		Proves: "A restart on a socket that systemd holds refuses no request and breaks none.",
		Run:    restartOnSocket,
	},
}

// manager is what systemd is to blessd: it holds the sockets, and is told things.
type manager struct {
	env     *Env
	sockets []*net.TCPListener
	names   []string
	notices *net.UnixConn
}

func (e *Env) manager(names ...string) *manager {
	m := &manager{env: e, names: names}
	for range names {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			e.Fatalf("%v", err)
		}
		e.Cleanup(func() { _ = l.Close() })
		m.sockets = append(m.sockets, l.(*net.TCPListener))
	}
	dir, err := os.MkdirTemp("", "blessd") // the path of a socket must be short
	if err != nil {
		e.Fatalf("%v", err)
	}
	e.Cleanup(func() { _ = os.RemoveAll(dir) })
	if m.notices, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"}); err != nil {
		e.Fatalf("%v", err)
	}
	e.Cleanup(func() { _ = m.notices.Close() })
	return m
}

// start starts blessd as systemd would: it finds the sockets at descriptor 3 and on.
// LISTEN_PID is its own, which only a shell that becomes blessd knows.
func (m *manager) start(b *Blessd) {
	c := b.config
	c.Wrap = []string{"sh", "-c", `LISTEN_PID=$$ exec "$0" "$@"`}
	c.Env = []string{
		fmt.Sprintf("LISTEN_FDS=%d", len(m.sockets)), "LISTEN_FDNAMES=" + strings.Join(m.names, ":"),
		"NOTIFY_SOCKET=" + m.notices.LocalAddr().String(), "WATCHDOG_USEC=300000",
	}
	c.Files = nil
	for _, s := range m.sockets {
		f, err := s.File()
		if err != nil {
			m.env.Fatalf("%v", err)
		}
		defer f.Close()
		c.Files = append(c.Files, f)
	}
	b.Configure(c)
	b.StartOnly()
}

// told waits for a notice that matches.
func (m *manager) told(pattern string) {
	want := regexp.MustCompile(pattern)
	if err := m.notices.SetReadDeadline(time.Now().Add(m.env.o.Limit)); err != nil {
		m.env.Fatalf("%v", err)
	}
	for b := make([]byte, 4096); ; {
		n, err := m.notices.Read(b)
		if err != nil {
			m.env.Fatalf("waiting to be told %q: %v\n%s", pattern, err, m.env.logs())
		}
		if want.Match(b[:n]) {
			return
		}
		if !bytes.HasPrefix(b[:n], []byte("WATCHDOG=1")) {
			m.env.Errorf("told %q, want %q", b[:n], pattern)
		}
	}
}

func serviceManager(e *Env) {
	b := e.BlessdLater(Config{})
	m := e.manager("admin", "hooks")
	m.start(b)
	m.told(`^READY=1$`)
	b.Listening()
	if a := b.where.Load(); a.Admin != m.sockets[0].Addr().String() || a.Hooks != m.sockets[1].Addr().String() {
		e.Errorf("blessd listens on %+v, not on the sockets it was handed", a)
	}
	b.Ready()
	for _, p := range Providers() {
		if r := b.Post(e.Delivery(p)); !r.Blessed() {
			e.Errorf("%s on the socket: %d %v", p, r.Status, r.Err)
		}
	}
	b.WaitLog("socket from systemd is used")
	m.told(`^WATCHDOG=1$`)

	b.Signal(syscall.SIGHUP)
	m.told(`^RELOADING=1\nMONOTONIC_USEC=[0-9]+\n$`)
	m.told(`^READY=1$`)
	e.WriteFile(b.ConfigFile(), "nonsense: true\n")
	b.Signal(syscall.SIGHUP)
	m.told(`^RELOADING=1\n`)
	m.told(`^READY=1$`) // with what it had
	b.WaitLog("nonsense")
	if r := b.Post(e.Delivery("sendclean")); !r.Blessed() {
		e.Errorf("after a bad reload: %d %v", r.Status, r.Err)
	}
	b.StopDuring(func() { m.told(`^STOPPING=1$`) })
	// To read the streams it has to run once more.
	m.start(b)
	m.told(`^READY=1$`)
	b.Listening()
	e.Rules.OnlyAcked, e.Rules.NothingRefused = true, true
}

// restartOnSocket posts while blessd is stopped and started again on a socket that
// stays open. None of it is refused, and none has to be repeated.
func restartOnSocket(e *Env) {
	const posts, senders = 200, 8
	b := e.BlessdLater(Config{})
	m := e.manager("hooks")
	m.start(b)
	m.told(`^READY=1$`)
	base := "http://" + m.sockets[0].Addr().String()
	for range e.Times(2) {
		half := make(chan struct{}) // closed when the second half may begin
		var next, blessings atomic.Int64
		var wg sync.WaitGroup
		for range senders {
			wg.Go(func() {
				for n := next.Add(1); n <= posts; n = next.Add(1) {
					if n > posts/2 {
						<-half
					}
					if r := e.PostTo(base, e.Delivery(Providers()[n%5])); !r.Blessed() {
						e.Errorf("post %d was answered %d %v", n, r.Status, r.Err)
						continue
					}
					blessings.Add(1)
				}
			})
		}
		e.Wait("blessings before the restart", func() bool { return blessings.Load() > posts/4 || e.Failed() })
		b.StopDuring(func() {
			m.told(`^STOPPING=1$`)
			close(half) // from here on while it stops, is away, and starts
		})
		m.start(b)
		m.told(`^READY=1$`)
		wg.Wait()
	}
	b.Listening()
	if status, _ := b.Get("/-/healthy"); status != http.StatusOK {
		e.Errorf("healthy says %d", status)
	}
	e.Rules.NothingRefused, e.Rules.OnlyAcked = true, true
}
