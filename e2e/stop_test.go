package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const (
	inFlight = 1000
	// stopLimit is how long a stop may take, whatever is in flight.
	stopLimit = 5 * time.Second
)

// ask asks the admin listener.
func (r *rig) ask(method, path string) (int, string) {
	r.t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, "data", "addresses.json"))
	if err != nil {
		r.t.Fatal(err)
	}
	var a struct{ Admin string }
	if err := json.Unmarshal(b, &a); err != nil {
		r.t.Fatal(err)
	}
	q, err := http.NewRequest(method, "http://"+a.Admin+path, http.NoBody)
	if err != nil {
		r.t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(q)
	if err != nil {
		return 0, ""
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, ""
	}
	return answer.StatusCode, string(text)
}

// metric returns the value of a series, "" when there is none.
func (r *rig) metric(series string) string {
	r.t.Helper()
	_, text := r.ask(http.MethodGet, "/metrics")
	for line := range strings.Lines(text) {
		if value, found := strings.CutPrefix(line, series+" "); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// stop ends blessd by SIGTERM and fails when that takes too long or goes wrong.
func (r *rig) stop(meanwhile func()) {
	r.t.Helper()
	began := time.Now()
	if err := r.proc.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		r.t.Fatal(err)
	}
	meanwhile()
	if err := r.proc.cmd.Wait(); err != nil {
		r.t.Errorf("blessd ended with %v, want status 0\n%s", err, r.proc.out.String())
	}
	took := time.Since(began)
	r.t.Logf("stopped in %.2f s", took.Seconds())
	if took > stopLimit {
		r.t.Errorf("the stop took %v, want %v at most", took, stopLimit)
	}
}

// onlyBlessed fails when the stream holds anything that was not blessed, or lacks
// what was.
func (l *ledger) onlyBlessed(t *testing.T, natsURL string) {
	t.Helper()
	l.verdict(t, natsURL)
	have, _ := stored(t, natsURL)
	l.mu.Lock()
	defer l.mu.Unlock()
	for uid := range have {
		if !l.blessed[uid] {
			t.Errorf("%s is stored and was not blessed", uid)
		}
	}
}

// TestStopInFlight stops blessd when the last byte of 1,000 requests is missing,
// and sends it then: all are answered. Some never send it: they do not keep the
// program from ending, and are told to come again.
func TestStopInFlight(t *testing.T) {
	r := newRig(t, "  embedded: {listen: \"127.0.0.1:0\"}")
	r.start()
	l := newLedger()
	base, err := url.Parse(*r.hooks.Load())
	if err != nil {
		t.Fatal(err)
	}
	type request struct {
		uid  string
		last string
		conn net.Conn
	}
	requests := make([]request, inFlight)
	for i := range requests {
		uid := fmt.Sprintf("flying-%d", i)
		body, signature := signed(uid, key)
		conn, err := net.Dial("tcp", base.Host)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /hooks/acme HTTP/1.1\r\nHost: hooks.example.com\r\nContent-Type: application/x-www-form-urlencoded\r\n"+
			"X-SendCleanTES-Signature: %s\r\nContent-Length: %d\r\n\r\n%s", signature, len(body), body[:len(body)-1])
		requests[i] = request{uid, body[len(body)-1:], conn}
		l.sent[uid] = true
	}
	wait(t, "1,000 requests in flight", func() bool { return r.metric("blessd_webhook_requests_in_flight") == fmt.Sprint(inFlight) })

	const slow = 50 // of them send nothing more
	answers := make([]string, inFlight)
	r.stop(func() {
		wait(t, "blessd to be not ready", func() bool {
			code, text := r.ask(http.MethodGet, "/-/ready")
			return code == http.StatusServiceUnavailable && strings.Contains(text, "shutting down")
		})
		var wg sync.WaitGroup
		for i, q := range requests {
			wg.Go(func() {
				if i >= slow {
					io.WriteString(q.conn, q.last) // whether that went well shows in the answer
				}
				answers[i] = readAnswer(q.conn)
			})
		}
		wg.Wait()
	})
	for i, q := range requests {
		want := "200 " + blessing
		if i < slow {
			want = "408 Request Timeout"
		}
		if answers[i] != want {
			t.Errorf("request %d was answered %q, want %q", i, answers[i], want)
		}
		if answers[i] == "200 "+blessing {
			l.blessed[q.uid] = true
		}
	}
	r.start()
	l.onlyBlessed(t, r.nats)
}

func readAnswer(conn net.Conn) string {
	a, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err.Error()
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d %s", a.StatusCode, b)
}

// TestStopUnderLoad stops blessd while 250 senders post as fast as they can, on
// connections that they keep open, as proxies do. A connection that cannot be made
// is what a stopped program is; one that breaks under a request is not.
func TestStopUnderLoad(t *testing.T) {
	r := newRig(t, "  embedded: {listen: \"127.0.0.1:0\"}")
	l := newLedger()
	const senders = 250
	for round := range 2 {
		r.start()
		target := *r.hooks.Load() + "/hooks/acme"
		client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: senders}}
		var wg sync.WaitGroup
		var answered, refused atomic.Int64
		for s := range senders {
			wg.Go(func() {
				for n := 0; ; n++ {
					uid := fmt.Sprintf("u-%d-%d-%d", round, s, n)
					l.mu.Lock()
					l.sent[uid] = true
					l.mu.Unlock()
					status, answer, err := postSigned(client, target, uid, key)
					switch {
					case errors.Is(err, syscall.ECONNREFUSED):
						refused.Add(1)
						return
					case err != nil:
						t.Errorf("a request broke off: %v", err)
						return
					case status != http.StatusOK || answer != blessing:
						t.Errorf("answered %d %q", status, answer)
						return
					}
					answered.Add(1)
					l.mu.Lock()
					l.blessed[uid] = true
					l.mu.Unlock()
				}
			})
		}
		wait(t, "every sender's first answers", func() bool { return answered.Load() > 2*senders })
		r.stop(func() {})
		wg.Wait()
		t.Logf("round %d: %d answered, then %d connections refused", round, answered.Load(), refused.Load())
		client.CloseIdleConnections()
	}
	r.start()
	l.onlyBlessed(t, r.nats)
}

// TestStopWithoutNATS stops blessd when NATS does not answer any more: what it
// could not publish waits in the journal for the next start.
func TestStopWithoutNATS(t *testing.T) {
	port := freePort(t)
	nats := startNATS(t, t.TempDir(), port)
	r := newRig(t, "  url: "+natsURL(port))
	r.start()
	l := newLedger()
	ctx, cancel := context.WithCancel(context.Background())
	wg := r.load(ctx, 16, l)
	wait(t, "blessings", func() bool { return l.count() > 200 })
	if err := nats.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	before := l.count()
	wait(t, "blessings without NATS", func() bool { return l.count() > before+200 })
	cancel()
	wg.Wait()
	r.stop(func() {})
	if err := nats.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	r.start()
	l.onlyBlessed(t, natsURL(port))
}
