package scenario

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

var huntWireScenarios = []Scenario{
	{
		Name: "hunt-wire", Tier: 1,
		Proves: "What is damaged, cut short, too large, compressed or ambiguous on the wire is never blessed, nothing is redirected, and no secret is logged.",
		Run:    huntWire,
	},
}

// huntWire posts by hand what no HTTP client would.
func huntWire(e *Env) {
	b := e.BlessdLater(Config{More: "limits: {max_body: 64KiB, max_in_flight_bytes: 1MiB}"})
	b.Start()
	for _, p := range Providers() {
		d := e.Delivery(p)
		if r := b.Post(d); !r.Blessed() {
			e.Errorf("not the blessing: %s heard %q, wants %q", p, r.Body, d.Blessing)
		}
	}
	b.Settled()

	// What is taken of this, once or many times, is one event.
	uid := e.ledger.NewUID()
	plain := e.Plain("enkod", uid, fmt.Sprintf(`{"event":"message sent","message_uid":%q,"to":"a@example.com"}`, uid), 1)
	b.Bless(plain)
	head := "POST " + plain.Path() + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
	body := string(plain.Body)
	blessed := func(what string, answers []*Reply) {
		for _, r := range answers {
			if r.Status == http.StatusOK {
				e.Errorf("%s blessed: %d %q", what, r.Status, r.Body)
			}
		}
	}
	w := &rawWire{e: e, to: b.where.Load().Hooks}
	blessed("truncated body", w.say(head+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body)+10, body)))
	big := strings.Repeat(" ", 64<<10) + body
	blessed("chunked body above the limit", w.say(head+fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(big), big)))
	blessed("body above the limit", w.say(head+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(big), big)))
	blessed("body without a length", w.say(strings.Replace(head, plain.Path(), "/hooks/acme", 1)+"\r\n"+body))
	blessed("body without a length", w.say(strings.Replace(head, "HTTP/1.1", "HTTP/1.0", 1)+"\r\n"+body))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = io.WriteString(z, body) // into memory
	_ = z.Close()
	blessed("compressed body", w.say(head+fmt.Sprintf("Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", zipped.Len(), zipped.String())))
	blessed("cut chunk", w.say(head+"Transfer-Encoding: chunked\r\n\r\n"+fmt.Sprintf("%x\r\n%s", len(body)+5, body)))

	one := fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
	if n := len(w.say(head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body) + head + one)); n > 1 {
		e.Errorf("smuggled request served: %d answers on a connection after a chunked request", n)
	}
	for _, path := range []string{"/hooks/ru/", "//hooks/ru", "/hooks/./ru", "/hooks/x/../ru", plain.Path() + "/", "/hooks", "/"} {
		for _, r := range w.say("GET " + path + " HTTP/1.1\r\nHost: x\r\n\r\n") {
			if r.Status >= 300 && r.Status < 400 {
				e.Errorf("redirected: %s with %d", path, r.Status)
			}
		}
	}
	for _, r := range w.say("PUT " + plain.Path() + " HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n") {
		if r.Status != http.StatusMethodNotAllowed {
			e.Errorf("PUT was answered %d", r.Status)
		}
	}
	w.flood(head, body)
	for _, p := range Endpoints {
		if strings.Contains(b.Log(), p.secret) {
			e.Errorf("secret in the log: that of %s", p.Provider)
		}
		if _, text := b.Get("/metrics"); strings.Contains(text, p.secret) {
			e.Errorf("secret in the metrics: that of %s", p.Provider)
		}
	}
	b.Bless(e.Delivery("mailgun")) // it goes on
	b.Settled()
}

// rawWire makes raw connections.
type rawWire struct {
	e  *Env
	to string
}

func (w *rawWire) dial() net.Conn {
	c, err := net.Dial("tcp", w.to)
	if err != nil {
		w.e.Fatalf("connect: %v", err)
	}
	w.e.Cleanup(func() { _ = c.Close() }) // closed already is as good
	if err := c.SetDeadline(time.Now().Add(w.e.o.Limit)); err != nil {
		w.e.Fatalf("%v", err)
	}
	return c
}

// say writes the text, ends its own direction, and returns every answer.
func (w *rawWire) say(text string) (answers []*Reply) {
	c := w.dial()
	defer func() { _ = c.Close() }() // all is read, or nothing comes
	_, _ = io.WriteString(c, text)   // it may be refused in the middle
	_ = c.(*net.TCPConn).CloseWrite()
	r := bufio.NewReader(c)
	for {
		a, err := http.ReadResponse(r, nil)
		if err != nil {
			return answers
		}
		body, err := io.ReadAll(a.Body)
		_ = a.Body.Close()
		reply := &Reply{Status: a.StatusCode, Body: string(body), Header: a.Header, Err: err}
		answers = append(answers, reply)
		w.book(text, reply)
	}
}

// book enters the answer to a request, or nil when none could be read.
func (w *rawWire) book(request string, r *Reply) {
	endpoint := unmatched
	for _, p := range Endpoints {
		if strings.Fields(request)[1] == p.Path() {
			endpoint = p.Name
		}
	}
	switch {
	case r == nil:
		w.e.unbooked(ledger.Unbooked{Endpoint: endpoint, Events: 1}, 1)
	case strings.HasPrefix(r.Body, "400 Bad Request"): // by the HTTP server: blessd never heard of it
	default:
		w.e.unbooked(ledger.Unbooked{Endpoint: endpoint, Status: r.Status, Events: 1}, 1)
	}
}

// flood holds more bytes in flight than the limit, and then lets all of them go on:
// the least that has to be refused is what was too much.
func (w *rawWire) flood(head, body string) {
	const size, held = 60 << 10, 24
	begin, end := strings.Repeat(" ", size-len(body))+body[:len(body)-1], body[len(body)-1:]
	var conns []net.Conn
	for range held {
		c := w.dial()
		_, _ = io.WriteString(c, head+fmt.Sprintf("Content-Length: %d\r\n\r\n%s", size, begin)) // it may be refused in the middle
		conns = append(conns, c)
	}
	refused := 0
	for _, c := range conns {
		_, _ = io.WriteString(c, end)
		a, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			refused++ // cut off, for the bytes that were not read
			w.book(head, nil)
			continue
		}
		w.book(head, &Reply{Status: a.StatusCode})
		if a.StatusCode == http.StatusServiceUnavailable {
			refused++
		}
		_ = a.Body.Close()
		_ = c.Close()
	}
	if refused == 0 {
		w.e.Errorf("more in flight than the limit: %d bodies of %d bytes were held at once and none was refused", held, size)
	}
}
