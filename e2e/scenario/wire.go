package scenario

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

var wireScenarios = []Scenario{
	{
		Name: "wire", Faults: []string{"F28"}, Tier: 0,
		Proves: "A request that is too large, cut short, half closed, chunked, compressed or without a length is answered as it should be, and never stored in part.",
		Run:    wire,
	},
	{
		Name: "wire-slow", Faults: []string{"F28"}, Tier: 0,
		Proves: "A body that never ends is given up, and the provider is told to come again.",
		Run: func(e *Env) {
			b := e.Blessd(Config{})
			var wg sync.WaitGroup
			for range 50 {
				q := e.byHand(b, e.Delivery("sendclean"))
				wg.Go(func() {
					q.write(head(q.Delivery, len(q.Body)))
					q.write(string(q.Body[:len(q.Body)/2]))
					if got := e.readAnswer(q.conn, q.Delivery, q.attempt); !strings.HasPrefix(got, "408 ") {
						e.Errorf("half a body was answered %q, want 408", got)
					}
				})
			}
			load := e.Load(b, Load{Pause: 100 * time.Millisecond}) // others do not notice
			wg.Wait()
			load.Stop()
			if load.Refused()+load.Unanswered() > 0 {
				e.Errorf("%d refused and %d not answered beside the slow ones, want none", load.Refused(), load.Unanswered())
			}
			e.Rules.OnlyAcked, e.Rules.Statuses = true, []int{http.StatusRequestTimeout}
		},
	},
	{
		Name: "wire-gone", Faults: []string{"F28"}, Tier: 0,
		Proves: "A provider that goes away before it has its answer, and comes again, finds its events stored once.",
		Run:    wireGone,
	},
	{
		Name: "strangers", Faults: []string{"F26", "F28"}, Tier: 0,
		Proves: "Nothing of a stranger is published: wrong signatures, keys, tokens and paths are refused, and are never blessed.",
		Run:    strangers,
	},
}

// byHand is a delivery that is sent as bytes.
type byHand struct {
	*Delivery
	attempt int
	conn    net.Conn
}

func (e *Env) byHand(b *Blessd, d *Delivery) *byHand {
	attempt, err := e.ledger.Sent(ledger.Sent{UID: d.UID, Provider: d.Provider, Endpoint: d.Name, ContentType: d.ContentType, Events: d.Events, Body: d.Body})
	if err != nil {
		e.Fatalf("%v", err)
	}
	return &byHand{d, attempt, e.dial(b)}
}

// write sends bytes. Whether that went well shows in the answer.
func (q *byHand) write(text string) { _, _ = io.WriteString(q.conn, text) }

func wire(e *Env) {
	b := e.Blessd(Config{More: "limits: {max_body: 256KiB}"})
	withHeader := func(d *Delivery, line string) string {
		return strings.Replace(head(d, len(d.Body)), "\r\n\r\n", "\r\n"+line+"\r\n\r\n", 1)
	}
	chunked := func(d *Delivery, end string) string {
		var text strings.Builder
		text.WriteString(strings.Replace(head(d, 0), "Content-Length: 0", "Transfer-Encoding: chunked", 1))
		for part := range slices.Chunk(d.Body, 1000) {
			fmt.Fprintf(&text, "%x\r\n%s\r\n", len(part), part)
		}
		return text.String() + end
	}
	large := func() *Delivery {
		uid := e.ledger.NewUID()
		return e.SendClean("sendclean", uid, sendcleanEvents(uid, 3000)...)
	}
	for range e.Times(1) {
		for _, c := range []struct {
			what  string
			make  func() *Delivery
			bytes func(*Delivery) string
			half  bool // closes its side after that
			want  string
		}{
			{"a chunked body", nil, func(d *Delivery) string { return chunked(d, "0\r\n\r\n") }, false, "200"},
			{"a chunked body that is cut", nil, func(d *Delivery) string { return chunked(d, "") }, true, "400"},
			{"chunks that are none", nil, func(d *Delivery) string { return chunked(d, "zz\r\n") }, false, "400"},
			{"a chunked body that is too large", large, func(d *Delivery) string { return chunked(d, "0\r\n\r\n") }, false, "413"},
			{"a body that is too large", large, func(d *Delivery) string { return head(d, len(d.Body)) + string(d.Body) }, false, "413"},
			{"a body that will be too large", nil, func(d *Delivery) string { return head(d, 1<<40) + string(d.Body) }, false, "413"},
			{"a body that is cut", nil, func(d *Delivery) string { return head(d, len(d.Body)) + string(d.Body[:len(d.Body)-1]) }, true, "400"},
			{"no length", nil, func(d *Delivery) string {
				return strings.Replace(head(d, 0), "Content-Length: 0\r\n", "", 1) + string(d.Body)
			}, true, "411"},
			{"HTTP/1.0 without a length", nil, func(d *Delivery) string {
				return strings.Replace(strings.Replace(head(d, 0), "Content-Length: 0\r\n", "", 1), "HTTP/1.1", "HTTP/1.0", 1) + string(d.Body)
			}, true, "411"},
			{"a compressed body", nil, func(d *Delivery) string { return withHeader(d, "Content-Encoding: gzip") + string(d.Body) }, false, "415"},
			{"another method", nil, func(d *Delivery) string {
				return strings.Replace(head(d, len(d.Body)), "POST ", "PUT ", 1) + string(d.Body)
			}, false, "405"},
			{"a half closed connection", nil, func(d *Delivery) string { return head(d, len(d.Body)) + string(d.Body) }, true, "200"},
		} {
			d := e.Delivery("sendclean")
			if c.make != nil {
				d = c.make()
			}
			q := e.byHand(b, d)
			text := c.bytes(d)
			var wg sync.WaitGroup
			wg.Go(func() { // it may be answered before all was sent
				q.write(text)
				if c.half {
					_ = q.conn.(*net.TCPConn).CloseWrite()
				}
			})
			if got := e.readAnswer(q.conn, d, q.attempt); !strings.HasPrefix(got, c.want) {
				e.Errorf("%s: answered %q, want %s", c.what, got, c.want)
			}
			_ = q.conn.Close() // so that a writer ends that was answered early
			wg.Wait()
			if r := b.Post(e.Delivery("sendclean")); !r.Blessed() {
				e.Errorf("after %s: %d %v", c.what, r.Status, r.Err)
			}
		}
	}
	e.Rules.OnlyAcked, e.Rules.Statuses = true, []int{400, 405, 411, 413, 415}
}

// wireGone resets the connection as soon as the request is sent, or in the middle.
func wireGone(e *Env) {
	b := e.Blessd(Config{})
	var sent []*Delivery
	for i := range e.Times(1) * 100 {
		d := e.Delivery("sendclean")
		sent = append(sent, d)
		q := e.byHand(b, d)
		n := len(d.Body)
		if i%2 == 1 {
			n /= 2
		}
		q.write(head(d, len(d.Body)) + string(d.Body[:n]))
		if err := q.conn.(*net.TCPConn).SetLinger(0); err != nil { // a reset, with what was not read
			e.Fatalf("%v", err)
		}
		_ = q.conn.Close()
		if err := e.ledger.Answered(ledger.Answer{UID: d.UID, Attempt: q.attempt, Error: "reset by the sender"}); err != nil {
			e.Fatalf("%v", err)
		}
	}
	for _, d := range sent {
		if r := b.Post(d); !r.Blessed() {
			e.Errorf("at the second time: %d %v", r.Status, r.Err)
		}
	}
}

// strangers never learn the blessing.
func strangers(e *Env) {
	b := e.Blessd(Config{})
	refuse := func(what string, d *Delivery, want int) {
		r := b.Post(d)
		if r.Status != want || strings.Contains(r.Body, "God bless") {
			e.Errorf("%s: %d %q %v, want %d", what, r.Status, r.Body, r.Err, want)
		}
	}
	at := func(d *Delivery, secret string) *Delivery {
		p := *d.Endpoint
		p.secret = secret
		d.Endpoint = &p
		return d
	}
	for range e.Times(1) * 10 {
		for _, provider := range []string{"sendclean", "sarv"} {
			d := e.Delivery(provider)
			d.Header = nil
			refuse("no signature", d, http.StatusUnauthorized)
			d = e.Delivery(provider)
			d.Body = bytes.Replace(d.Body, []byte("hard_bounce"), []byte("soft_bounce"), 1)
			refuse("another body", d, http.StatusUnauthorized)
			d = e.Delivery(provider)
			for name, value := range d.Header {
				d.Header[name] = value[:len(value)-4] + "AAA="
			}
			refuse("nearly the signature", d, http.StatusUnauthorized)
		}
		refuse("another key", e.SignedBy("EXAMPLEKEY0123456789aB"), http.StatusUnauthorized)
		refuse("the key of another endpoint", e.SignedBy(endpointOf("sarv").secret), http.StatusUnauthorized)
		d := e.Delivery("mailgun")
		d.Body = bytes.Replace(d.Body, []byte(`"signature":"`), []byte(`"signature":"0`), 1)
		refuse("Mailgun's signature with a digit more", d, http.StatusUnauthorized)
		d = e.Delivery("mailgun")
		if r := b.Post(d); !r.Blessed() {
			e.Errorf("Mailgun's own: %d %v", r.Status, r.Err)
		}
		forged := *d
		forged.UID = e.ledger.NewUID()
		forged.Body = bytes.ReplaceAll(d.Body, []byte(d.UID), []byte(forged.UID))
		refuse("Mailgun's signature with another event", &forged, http.StatusUnauthorized)
		for _, provider := range []string{"enkod", "vision6"} {
			token := endpointOf(provider).secret
			for _, wrong := range []string{token[:len(token)-1], token + "x", strings.ToLower(token)} {
				refuse(fmt.Sprintf("the token %q", wrong), at(e.Delivery(provider), wrong), http.StatusNotFound)
			}
			for _, wrong := range []string{"", "%2e%2e", token + "/"} {
				if r := b.sendAs(unmatched, at(e.Delivery(provider), wrong)); r.Status != http.StatusNotFound {
					e.Errorf("the path with %q: %d %q %v, want 404", wrong, r.Status, r.Body, r.Err)
				}
			}
		}
	}
	// Paths that belong to nobody.
	for _, path := range []string{"/", "/hooks", "/hooks/", "/hooks/nobody", "//hooks/acme", "/hooks/../hooks/acme", "/hooks/acme/", "/metrics", "/-/status", "/debug/pprof/"} {
		conn := e.dial(b)
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: hooks.example.com\r\nConnection: close\r\n\r\n", path)
		answer, err := io.ReadAll(conn)
		if text := string(answer); err != nil || !strings.HasPrefix(text, "HTTP/1.1 404 ") || strings.Contains(text, "God bless") {
			e.Errorf("GET %s: %q %v, want 404", path, text, err)
		}
		e.unbooked(ledger.Unbooked{Endpoint: unmatched, Status: http.StatusNotFound}, 1)
	}
	e.Rules.OnlyAcked, e.Rules.Statuses = true, []int{http.StatusUnauthorized, http.StatusNotFound}
}
