// Package program runs the built blessd, and NATS servers, for tests of what
// stands around them: packages, proxies, permissions, consumers. It knows the
// program from outside alone.
package program

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Root is the directory of the project.
func Root(t testing.TB) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("the path of the source is not known")
	}
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// builds is where the binary of this run goes.
var builds struct {
	sync.Mutex
	binary string
	err    error
}

// Main runs a package's tests, and then removes what Build made:
//
//	func TestMain(m *testing.M) { program.Main(m) }
func Main(m *testing.M) {
	code := m.Run()
	if builds.binary != "" {
		_ = os.RemoveAll(filepath.Dir(builds.binary)) // in the temporary directory: what is left there does no harm
	}
	os.Exit(code)
}

// Build builds blessd as it is released, once for all tests of a package, which
// calls Main.
func Build(t testing.TB) string {
	t.Helper()
	builds.Lock()
	defer builds.Unlock()
	if builds.err == nil && builds.binary == "" {
		builds.binary, builds.err = build(Root(t))
	}
	if builds.err != nil {
		t.Fatal(builds.err)
	}
	return builds.binary
}

func build(root string) (string, error) {
	dir, err := os.MkdirTemp("", "blessd-program-")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "blessd")
	cmd := exec.Command("go", "build", "-o", binary, "./cmd/blessd")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build blessd: %w\n%s", err, out)
	}
	return binary, nil
}

// Need returns the path of a program, and skips the test where it is not
// installed; debian is the package that has it.
func Need(t testing.TB, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		// Not every user's search path has the directories of daemons.
		for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/sbin"} {
			if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
				return p
			}
		}
		t.Skipf("SKIPPED: there is no %s here (apt-get install %s)", name, debian)
	}
	return path
}

// Process is a running program.
type Process struct {
	Cmd   *exec.Cmd
	out   output
	ended chan struct{} // closed when it has
	err   error         // how it ended
}

// output collects what a process writes, while it is still writing.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// Start starts a program, which is killed at the end of the test.
func Start(t testing.TB, env []string, name string, args ...string) *Process {
	t.Helper()
	p := &Process{Cmd: exec.Command(name, args...), ended: make(chan struct{})}
	p.Cmd.Env = append(os.Environ(), env...)
	p.Cmd.Stdout, p.Cmd.Stderr = &p.out, &p.out
	p.Cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a script is ended with all it started
	if err := p.Cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		p.err = p.Cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() { _ = p.End(syscall.SIGKILL) }) // "signal: killed" is what we want
	return p
}

// Output is what it has written so far, to both outputs.
func (p *Process) Output() string {
	p.out.mu.Lock()
	defer p.out.mu.Unlock()
	return p.out.b.String()
}

// End sends the signal and waits for the process to be gone.
func (p *Process) End(sig syscall.Signal) error {
	select {
	case <-p.ended: // its number may be another's by now
	default:
		_ = syscall.Kill(-p.Cmd.Process.Pid, sig) // gone already is as good
	}
	return p.Wait()
}

// Wait waits for the process to end by itself.
func (p *Process) Wait() error {
	<-p.ended
	return p.err
}

// Wait polls until the condition holds, for a minute at most.
func Wait(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// Blessd is a running blessd.
type Blessd struct {
	*Process
	Config string // its configuration file
	Hooks  string // host:port of its public listener
	Admin  string // host:port of its admin listener
	NATS   string // the URL of its NATS server
}

// Serve starts blessd with a configuration file, with DIR in it for a directory of
// the test, and waits until it is ready. Files are others to write there.
func Serve(t testing.TB, config string, files map[string]string) *Blessd {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		Write(t, filepath.Join(dir, name), text)
	}
	b := &Blessd{Config: filepath.Join(dir, "blessd.yaml")}
	Write(t, b.Config, strings.ReplaceAll(config, "DIR", dir))
	return b.Again(t)
}

// Again starts another blessd on the configuration and the data of one that has
// ended, and waits until it is ready.
func (b *Blessd) Again(t testing.TB) *Blessd {
	t.Helper()
	b = &Blessd{Config: b.Config}
	dir := filepath.Dir(b.Config)
	_ = os.Remove(filepath.Join(dir, "data", "addresses.json")) // of the one before
	b.Process = Start(t, nil, Build(t), "serve", "-c", b.Config, "--data-dir", filepath.Join(dir, "data"))
	var a struct{ Hooks, Admin, NATS string }
	Wait(t, "blessd to be ready", func() bool {
		select {
		case <-b.ended:
			t.Fatalf("blessd has ended\n%s", b.Output())
		default:
		}
		text, err := os.ReadFile(filepath.Join(dir, "data", "addresses.json"))
		if err != nil || json.Unmarshal(text, &a) != nil || a.Admin == "" {
			return false
		}
		answer, err := http.Get("http://" + a.Admin + "/-/ready")
		if err != nil {
			return false
		}
		answer.Body.Close()
		return answer.StatusCode == http.StatusOK
	})
	b.Hooks, b.Admin, b.NATS = a.Hooks, a.Admin, a.NATS
	return b
}

// Run runs a command of blessd against b, and returns what it writes to stdout.
func (b *Blessd) Run(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command(Build(t), append(args, "-c", b.Config, "--data-dir", filepath.Join(filepath.Dir(b.Config), "data"))...)
	var talk bytes.Buffer
	cmd.Stderr = &talk
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("blessd %s: %v\n%s%s", strings.Join(args, " "), err, out, talk.Bytes())
	}
	return string(out)
}

// Write writes a file that its owner alone may read.
func Write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// NATS starts a NATS server with JetStream and an ordinary configuration file, on
// a free port of the loopback interface.
func NATS(t testing.TB, file string) *server.Server {
	t.Helper()
	o, err := server.ProcessConfigFile(file)
	if err != nil {
		t.Fatal(err)
	}
	o.Host, o.Port, o.JetStream, o.StoreDir, o.NoSigs, o.NoLog = "127.0.0.1", server.RANDOM_PORT, true, t.TempDir(), true, true
	srv, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(time.Minute) {
		t.Fatal("the NATS server is not ready after a minute")
	}
	return srv
}

// AllProviders returns a configuration with an endpoint for each provider, of the
// provider's name, with the files it needs. Its public URL is publicURL.
func AllProviders(publicURL string) (config string, files map[string]string) {
	config = `listen: 127.0.0.1:0
public_url: ` + publicURL + `
admin: {listen: "127.0.0.1:0"}
journal: {max_bytes: 1GiB}
endpoints:
  - {name: sendclean, provider: sendclean, key_files: [DIR/key], signature: enforce}
  - {name: sarv, provider: sarv, key_files: [DIR/key], signature: enforce}
  - {name: mailgun, provider: mailgun, key_files: [DIR/key]}
  - {name: enkod, provider: enkod, token_files: [DIR/token]}
  - {name: vision6, provider: vision6, token_files: [DIR/token]}
nats:
  embedded: {listen: "127.0.0.1:0"}
  stream: {max_bytes: 1GiB}
  quarantine: {max_bytes: 64MiB}
`
	return config, map[string]string{"key": Key, "token": Token}
}

// Key and Token are those of AllProviders.
const (
	Key   = "EXAMPLEKEY0123456789ab"
	Token = "0123456789abcdef0123456789abcdef"
)
