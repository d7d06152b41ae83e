package scenario

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// childConf makes this program a NATS server with the configuration that it names.
const childConf = "BENCH_NATS_CONF"

// Child is to be called first by whatever runs scenarios: when the process was
// started to be a NATS server it is one, and does not return.
func Child() {
	file := os.Getenv(childConf)
	if file == "" {
		return
	}
	opts, err := server.ProcessConfigFile(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s, err := server.NewServer(opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	s.ConfigureLogger()
	s.Start()
	s.WaitForShutdown()
	os.Exit(0)
}

// NATS is an ordinary nats-server with JetStream, in a process of its own.
type NATS struct {
	*Process
	env  *Env
	file string
	dir  string // its store; empty when natsWith was not told
	url  string
	js   jetstream.JetStream
}

// NATS starts a server; each of more is lines for its configuration file. It comes
// back on the same port, with what it stored.
func (e *Env) NATS(more ...string) *NATS {
	n := e.NATSLater(more...)
	n.Start()
	return n
}

// NATSLater prepares what NATS starts.
func (e *Env) NATSLater(more ...string) *NATS { return e.prepareNATS("", more) }

// NATSWithin is NATS with lines for the section jetstream, like a limit.
func (e *Env) NATSWithin(store string, more ...string) *NATS {
	n := e.prepareNATS(store, more)
	n.Start()
	return n
}

func (e *Env) prepareNATS(store string, more []string) *NATS {
	port := e.FreePort()
	dir := filepath.Join(e.dir, fmt.Sprintf("nats-%d", port))
	conf := fmt.Sprintf("listen: \"127.0.0.1:%d\"\nmax_payload: 8MB\njetstream {\n  store_dir: %q\n  %s\n}\n%s\n", port, dir, store, strings.Join(more, "\n"))
	n := e.natsWith(dir+".conf", conf, fmt.Sprintf("nats://127.0.0.1:%d", port))
	n.dir = dir
	return n
}

func (e *Env) natsWith(file, conf, url string) *NATS {
	e.WriteFile(file, conf)
	n := &NATS{env: e, file: file, url: url}
	if e.streams == "" {
		e.streams = url
	}
	return n
}

// URL is where clients connect to.
func (n *NATS) URL() string { return n.url }

// Start starts it, again after Kill or Stop, and waits until it takes connections.
func (n *NATS) Start() {
	self, err := os.Executable()
	if err != nil {
		n.env.Fatalf("%v", err)
	}
	n.Process = n.env.StartProcess([]string{childConf + "=" + n.file}, nil, self)
	n.name = "the NATS server"
	n.env.Wait("the NATS server", func() bool {
		if n.Exited() {
			n.env.Fatalf("the NATS server has ended: %s", tail(n.Log(), 1000))
		}
		nc, err := nats.Connect(n.url)
		if err != nil {
			return false
		}
		nc.Close()
		return true
	})
}

// Stop ends it by SIGTERM, as an operator would.
func (n *NATS) Stop() {
	n.Signal(syscall.SIGTERM)
	if err := n.Exit(); err != nil {
		n.env.Logf("the NATS server ended with %v", err)
	}
}

// JetStream is a connection of the scenario's own.
func (n *NATS) JetStream() jetstream.JetStream {
	if n.js == nil {
		n.js = n.env.JetStream(n.url)
	}
	return n.js
}

// JetStream connects to a server until the scenario is over.
func (e *Env) JetStream(url string) jetstream.JetStream {
	// Of a cluster's servers the one that it is connected to may be the frozen one.
	nc, err := nats.Connect(url, nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.PingInterval(2*time.Second), nats.MaxPingsOutstanding(2))
	if err != nil {
		e.Fatalf("connect to %s: %v", url, err)
	}
	e.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		e.Fatalf("%v", err)
	}
	return js
}

// Stream returns the state and configuration of a stream, nil while there is none.
func (e *Env) Stream(js jetstream.JetStream, name string) *jetstream.StreamInfo {
	s, err := js.Stream(e.ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // blessd makes it when it has found the server
	}
	if err != nil {
		e.Fatalf("stream %s: %v", name, err)
	}
	return s.CachedInfo()
}

// Resize changes how many bytes a stream may hold.
func (e *Env) Resize(js jetstream.JetStream, name string, bytes int64) {
	c := e.Stream(js, name).Config
	c.MaxBytes = bytes
	if _, err := js.UpdateStream(e.ctx, c); err != nil {
		e.Fatalf("resize the stream: %v", err)
	}
}

// Full tells whether a stream has no room for another event.
func (e *Env) Full(js jetstream.JetStream, name string) bool {
	i := e.Stream(js, name)
	return i != nil && i.State.Bytes+4096 > uint64(i.Config.MaxBytes)
}

// FreePort returns a port that was free a moment ago: a server that is restarted has
// to come back where it was.
func (e *Env) FreePort() int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		e.Fatalf("%v", err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil {
		e.Fatalf("%v", err)
	}
	return port
}
