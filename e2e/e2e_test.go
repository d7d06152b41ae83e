// Package e2e breaks a running blessd from outside and counts what is left. It
// shares no code with the data path: it signs, sends, and reads the streams by
// means of its own, so that a fault on both sides cannot cancel itself out.
package e2e

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/blessd/blessd/e2e/scenario"
)

const (
	natsChild = "BLESSD_E2E_NATS" // makes this test binary a NATS server
	key       = "EXAMPLEKEY0123456789ab"
	publicURL = "https://hooks.example.com"
	blessing  = "God bless you, SendClean"
	perBatch  = 7
)

func TestMain(m *testing.M) {
	scenario.Child()
	if file := os.Getenv(natsChild + "_CONF"); file != "" {
		opts, err := server.ProcessConfigFile(file)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(serveNATS(opts))
	}
	if dir := os.Getenv(natsChild); dir != "" {
		os.Exit(runNATS(dir, os.Getenv(natsChild+"_PORT")))
	}
	dir, err := os.MkdirTemp("", "blessd-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	code := m.Run()
	_ = os.RemoveAll(dir) // in the temporary directory: what is left there does no harm
	os.Exit(code)
}

// buildDir is where the binary under test goes.
var buildDir string

// runNATS is an ordinary nats-server with JetStream in a process of its own.
func runNATS(dir, port string) int {
	opts := &server.Options{JetStream: true, StoreDir: dir, Host: "127.0.0.1", MaxPayload: 8 << 20}
	if _, err := fmt.Sscan(port, &opts.Port); err != nil {
		return 1
	}
	return serveNATS(opts)
}

func serveNATS(opts *server.Options) int {
	s, err := server.NewServer(opts)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	s.Start()
	s.WaitForShutdown()
	return 0
}

// process is a program that the tests started, and may kill.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	out output
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

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func start(t *testing.T, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, cmd: exec.Command(name, args...)}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() { p.end(syscall.SIGKILL) })
	return p
}

// end sends the signal and waits for the process to be gone.
func (p *process) end(sig syscall.Signal) error {
	if p.cmd.ProcessState != nil {
		return nil
	}
	_ = p.cmd.Process.Signal(sig) // gone already is as good
	return p.cmd.Wait()
}

// blessd builds the program once for all tests of the run.
var blessd = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(buildDir, "blessd")
	out, err := exec.Command("go", "build", "-o", binary, "../cmd/blessd").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return binary, nil
})

// rig is one blessd with its configuration and its data.
type rig struct {
	t      *testing.T
	dir    string
	config string
	proc   *process
	hooks  atomic.Pointer[string] // base URL, nil while it is down
	admin  string
	nats   string
	pause  time.Duration // between the requests of one sender
}

// newRig writes a configuration; nats is its nats section.
func newRig(t *testing.T, natsSection string) *rig {
	t.Helper()
	return newRigWith(t, "journal: {max_bytes: 1GiB}", natsSection)
}

// newStreamRig is newRig without a journal: what is answered waits for NATS.
func newStreamRig(t *testing.T, natsSection string) *rig {
	t.Helper()
	return newRigWith(t, "acknowledge: stream", natsSection)
}

// newRigWith writes a configuration with more top-level settings.
func newRigWith(t *testing.T, settings, natsSection string) *rig {
	t.Helper()
	if testing.Short() {
		t.Skip("kills processes for some seconds; skipped with -short")
	}
	r := &rig{t: t, dir: t.TempDir()}
	r.config = filepath.Join(r.dir, "blessd.yaml")
	write(t, filepath.Join(r.dir, "key"), key)
	write(t, r.config, fmt.Sprintf(`listen: 127.0.0.1:0
public_url: %s
admin: {listen: "127.0.0.1:0"}
data_dir: %s
endpoints:
  - {name: acme, provider: sendclean, key_files: [%s], signature: enforce}
nats:
%s
%s
`, publicURL, filepath.Join(r.dir, "data"), filepath.Join(r.dir, "key"), natsSection, settings))
	return r
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// start starts blessd, with flags beside its configuration.
func (r *rig) start(flags ...string) {
	r.t.Helper()
	binary, err := blessd()
	if err != nil {
		r.t.Fatal(err)
	}
	file := filepath.Join(r.dir, "data", "addresses.json")
	_ = os.Remove(file) // not there at the first start
	r.proc = start(r.t, nil, binary, append([]string{"serve", "-c", r.config}, flags...)...)
	var a struct{ Hooks, Admin, NATS string }
	wait(r.t, "blessd to listen", func() bool {
		b, err := os.ReadFile(file)
		return err == nil && json.Unmarshal(b, &a) == nil && a.Hooks != ""
	})
	base := "http://" + a.Hooks
	r.admin, r.nats = "http://"+a.Admin, a.NATS
	r.hooks.Store(&base)
}

func (r *rig) kill() {
	r.hooks.Store(nil)
	_ = r.proc.end(syscall.SIGKILL) // "signal: killed" is what we want
}

// wait polls until the condition holds, for a minute at most.
func wait(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// ledger knows what was sent and what was blessed.
type ledger struct {
	mu      sync.Mutex
	sent    map[string]bool
	blessed map[string]bool
	refused int // answered, and not with the blessing
	unknown int // no answer, or half of one
}

// load sends batches until ctx is done. A refused batch is not sent again: only
// what was blessed has to be there in the end.
func (r *rig) load(ctx context.Context, senders int, l *ledger) *sync.WaitGroup {
	var wg sync.WaitGroup
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: senders}}
	for s := range senders {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				base := r.hooks.Load()
				if base == nil {
					time.Sleep(5 * time.Millisecond)
					continue
				}
				uid := fmt.Sprintf("u-%d-%d-%d", s, n, rand.Uint32())
				l.mu.Lock()
				l.sent[uid] = true
				l.mu.Unlock()
				answered, ok := post(client, *base+"/hooks/acme", uid)
				time.Sleep(r.pause)
				l.mu.Lock()
				switch {
				case ok:
					l.blessed[uid] = true
				case answered:
					l.refused++
				default:
					l.unknown++
				}
				l.mu.Unlock()
			}
		})
	}
	return &wg
}

func newLedger() *ledger { return &ledger{sent: map[string]bool{}, blessed: map[string]bool{}} }

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.blessed)
}

func (l *ledger) refusals() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.refused
}

// post sends one signed batch of seven events that carry uid.
func post(client *http.Client, target, uid string) (answered, ok bool) {
	status, answer, err := postSigned(client, target, uid, key)
	return err == nil, status == http.StatusOK && answer == blessing
}

// signed returns the body of such a batch, and its signature by the key.
func signed(uid, key string) (body, signature string) {
	var events []string
	for i := range perBatch {
		events = append(events, fmt.Sprintf(`{"_id":"m.%s","smtp_name":"smtp1","x_unique_id":%q,"ts":%d,"msg":{},"event":%q}`,
			uid, uid, 1465890656000+int64(i), []string{"send", "delivered"}[i%2]))
	}
	value := "[" + strings.Join(events, ",") + "]"
	mac := hmac.New(sha1.New, []byte(key))
	io.WriteString(mac, publicURL+"/hooks/acme"+"sarvtes_events"+value)
	return url.Values{"sarvtes_events": {value}}.Encode(), base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func postSigned(client *http.Client, target, uid, key string) (status int, answer string, err error) {
	body, signature := signed(uid, key)
	q, err := http.NewRequest(http.MethodPost, target, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	q.Header.Set("X-SendCleanTES-Signature", signature)
	a, err := client.Do(q)
	if err != nil {
		return 0, "", err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	return a.StatusCode, string(b), err
}

// get asks the admin listener.
func (r *rig) get(path string) (status int, body string) {
	r.t.Helper()
	a, err := http.Get(r.admin + path)
	if err != nil {
		return 0, err.Error()
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		return 0, err.Error()
	}
	return a.StatusCode, string(b)
}

// ready waits until blessd says that it can bless.
func (r *rig) ready() {
	r.t.Helper()
	wait(r.t, "blessd to be ready", func() bool { status, _ := r.get("/-/ready"); return status == http.StatusOK })
}

// stored reads the stream from its beginning and counts events by uid.
func stored(t *testing.T, natsURL string) (byUID map[string]int, total int) {
	t.Helper()
	nc, err := nats.Connect(natsURL)
	if err != nil {
		t.Fatalf("connect to %s: %v", natsURL, err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	s, err := js.Stream(ctx, "MAIL_EVENTS")
	if err != nil {
		t.Fatalf("events stream: %v", err)
	}
	last := s.CachedInfo().State.LastSeq
	c, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	messages, err := c.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Stop()
	byUID = map[string]int{}
	for seq := uint64(0); seq < last; {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			t.Fatalf("read the stream after %d of %d: %v", seq, last, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			t.Fatal(err)
		}
		seq = meta.Sequence.Stream
		var e struct {
			Message struct {
				CorrelationID string `json:"correlation_id"`
			} `json:"message"`
		}
		if err := json.Unmarshal(m.Data(), &e); err != nil {
			t.Fatalf("message %d is not JSON: %v", seq, err)
		}
		byUID[e.Message.CorrelationID]++
		total++
	}
	return byUID, total
}

// verdict waits until the stream has stopped growing at the blessed count or
// more, and then compares.
func (l *ledger) verdict(t *testing.T, natsURL string) {
	t.Helper()
	l.mu.Lock()
	sent, blessed := maps.Clone(l.sent), maps.Clone(l.blessed)
	refused, unknown := l.refused, l.unknown
	l.mu.Unlock()
	var have map[string]int
	var total int
	wait(t, "every blessed event to be in the stream", func() bool {
		have, total = stored(t, natsURL)
		for uid := range blessed {
			if have[uid] < perBatch {
				time.Sleep(100 * time.Millisecond)
				return false
			}
		}
		return true
	})
	lost, ghosts, doubled := 0, 0, 0
	for uid := range blessed {
		if have[uid] < perBatch {
			lost++
		}
	}
	for uid, n := range have {
		if !sent[uid] {
			ghosts++
		}
		if n > perBatch {
			doubled++
		}
	}
	t.Logf("sent %d batches, blessed %d, refused %d, unanswered %d; stream has %d events: lost %d, ghosts %d, doubled %d",
		len(sent), len(blessed), refused, unknown, total, lost, ghosts, doubled)
	if len(blessed) == 0 {
		t.Fatal("nothing was blessed: this run shows nothing")
	}
	if lost+ghosts+doubled > 0 {
		t.Errorf("lost %d, ghosts %d, doubled %d; want none", lost, ghosts, doubled)
	}
}
