package scenario

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

var stopScenarios = []Scenario{
	{
		Name: "stop", Faults: []string{"F19"}, Tier: 0,
		Proves: "SIGTERM under load ends blessd with status 0 within 5 s, and nothing is stored that was not blessed.",
		Run: func(e *Env) {
			b := e.Blessd(Config{})
			load := e.Load(b, Load{})
			for range e.Times(3) {
				load.MoreBlessed(50)
				b.Stop()
				b.Start()
			}
			load.MoreBlessed(50)
			load.Stop()
			onlyUnanswered(e)
		},
	},
	{
		Name: "stop-in-flight", Faults: []string{"F19", "F28"}, Tier: 0,
		Proves: "SIGTERM with 1,000 requests in flight: all that arrive whole are blessed, the others are told to come again, within 5 s.",
		Run:    stopInFlight,
	},
	{
		Name: "stop-keepalive", Faults: []string{"F19"}, Tier: 0,
		Proves: "SIGTERM while 250 senders post on connections that stay open breaks no request: each is blessed, or its connection was never made.",
		Run:    stopKeepalive,
	},
}

// onlyUnanswered demands that nothing was stored that was refused, and little that was
// not answered: a connection that was being made when the listener was closed.
func onlyUnanswered(e *Env) {
	e.Rules.OnlyAcked = true
	if _, refused, _ := e.ledger.Counts(); refused > 0 {
		e.Errorf("%d requests were refused though nothing was the matter", refused)
	}
}

// stopInFlight stops blessd when the last byte of 1,000 requests is missing, and
// sends it then. Some never send it: they do not keep the program from ending.
func stopInFlight(e *Env) {
	const inFlight, slow = 1000, 50
	b := e.Blessd(Config{})
	type request struct {
		*Delivery
		attempt int
		conn    net.Conn
		answer  string
	}
	requests := make([]*request, inFlight)
	for i := range requests {
		q := &request{Delivery: e.Delivery("sendclean")}
		requests[i] = q
		q.conn = e.dial(b)
		var err error
		if q.attempt, err = e.ledger.Sent(ledger.Sent{UID: q.UID, Provider: q.Provider, Endpoint: q.Name, ContentType: q.ContentType, Events: q.Events, Body: q.Body}); err != nil {
			e.Fatalf("%v", err)
		}
		// Whether that goes well shows in the answer.
		_, _ = io.WriteString(q.conn, head(q.Delivery, len(q.Body))+string(q.Body[:len(q.Body)-1]))
	}
	b.WaitMetric(inFlight, "blessd_webhook_requests_in_flight")
	b.StopDuring(func() {
		e.Wait("blessd to be not ready", func() bool {
			status, text := b.Get("/-/ready")
			return status == http.StatusServiceUnavailable && strings.Contains(text, "shutting down")
		})
		var wg sync.WaitGroup
		for i, q := range requests {
			wg.Go(func() {
				if i >= slow {
					_, _ = q.conn.Write(q.Body[len(q.Body)-1:])
				}
				q.answer = e.readAnswer(q.conn, q.Delivery, q.attempt)
			})
		}
		wg.Wait()
	})
	for i, q := range requests {
		want := "200 " + q.Blessing
		if i < slow {
			want = "408 Request Timeout"
		}
		if q.answer != want {
			e.Errorf("request %d was answered %q, want %q", i, q.answer, want)
		}
	}
	e.Rules.OnlyAcked, e.Rules.Statuses = true, []int{http.StatusRequestTimeout}
}

// head is the head of a request, as bytes.
func head(d *Delivery, length int) string {
	var text strings.Builder
	fmt.Fprintf(&text, "POST %s HTTP/1.1\r\nHost: hooks.example.com\r\nContent-Type: %s\r\nContent-Length: %d\r\n", d.Path(), d.ContentType, length)
	for name, value := range d.Header {
		fmt.Fprintf(&text, "%s: %s\r\n", name, value)
	}
	return text.String() + "\r\n"
}

// dial connects to the public listener, until the scenario is over.
func (e *Env) dial(b *Blessd) net.Conn {
	conn, err := net.Dial("tcp", b.where.Load().Hooks)
	if err != nil {
		e.Fatalf("%v", err)
	}
	e.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(e.o.Limit)); err != nil {
		e.Fatalf("%v", err)
	}
	return conn
}

// readAnswer reads an answer off a connection and enters it. It returns status and
// body, or what went wrong.
func (e *Env) readAnswer(conn net.Conn, d *Delivery, attempt int) string {
	answer := ledger.Answer{UID: d.UID, Attempt: attempt}
	text, err := func() (string, error) {
		a, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return "", err
		}
		defer a.Body.Close()
		body, err := io.ReadAll(a.Body)
		answer.Status, answer.Exact = a.StatusCode, err == nil && string(body) == d.Blessing
		return fmt.Sprintf("%d %s", a.StatusCode, body), err
	}()
	if err != nil {
		answer.Error, text = err.Error(), err.Error()
	}
	if err := e.ledger.Answered(answer); err != nil {
		e.Errorf("%v", err)
	}
	return text
}

// stopKeepalive has proxies in front, which keep their connections open. A connection
// that cannot be made is what a stopped program is; one that breaks under a request
// is not.
func stopKeepalive(e *Env) {
	const senders = 250
	b := e.BlessdLater(Config{})
	for range e.Times(2) {
		b.Start()
		base := "http://" + b.where.Load().Hooks
		var wg sync.WaitGroup
		for s := range senders {
			wg.Go(func() {
				for !e.Failed() {
					r := e.PostTo(base, e.Delivery(Providers()[s%len(Endpoints)]))
					switch {
					case errors.Is(r.Err, syscall.ECONNREFUSED):
						return
					case r.Err != nil:
						e.Errorf("a request broke off: %v", r.Err)
					case !r.Blessed():
						e.Errorf("answered %d %q", r.Status, r.Body)
					}
				}
			})
		}
		before, _, _ := e.ledger.Counts()
		e.Wait("every sender's first answers", func() bool { now, _, _ := e.ledger.Counts(); return now > before+2*senders || e.Failed() })
		b.Stop()
		wg.Wait()
		client.CloseIdleConnections()
	}
	e.Rules.OnlyAcked = true
}
