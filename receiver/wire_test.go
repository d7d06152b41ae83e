package receiver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
)

// serve starts the receiver's own server on a port of its own.
func serve(t testing.TB, b *bench) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := b.Server()
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

type answer struct {
	code   int
	header http.Header
	body   string
	close  bool
}

func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// talk writes the input and reads answers until the server closes. If finish, it
// says that nothing more comes, else it keeps silent.
func talk(t testing.TB, addr, input string, finish bool) []answer {
	t.Helper()
	c := dial(t, addr)
	// The server may have answered and closed before it has everything.
	_, _ = io.WriteString(c, input)
	if finish {
		_ = c.CloseWrite()
	}
	return readAnswers(t, c, input)
}

func readAnswers(t testing.TB, c net.Conn, input string) (all []answer) {
	t.Helper()
	r := bufio.NewReader(c)
	method, _, _ := strings.Cut(input, " ")
	for {
		if _, err := r.Peek(1); err != nil {
			var network net.Error
			if errors.As(err, &network) && network.Timeout() {
				t.Fatalf("the server did not close after %.60q", input)
			}
			return all
		}
		w, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("answer to %.60q: %v", input, err)
		}
		body, err := io.ReadAll(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		if w.StatusCode == http.StatusContinue {
			continue
		}
		all = append(all, answer{w.StatusCode, w.Header, string(body), w.Close})
	}
}

func codes(all []answer) string {
	var s []string
	for _, a := range all {
		s = append(s, fmt.Sprint(a.code))
	}
	return strings.Join(s, " ")
}

const wireToken = testToken

// wirePath is of an endpoint that asks for nothing but its token.
var wirePath = Path("ru", wireToken)

func wireBench(t testing.TB, limits Limits) (*bench, string) {
	b := newBench(t, limits, Endpoint{Name: "ru", Provider: "enkod", Tokens: []Key{{Value: wireToken}}})
	return b, serve(t, b)
}

// head is a request's beginning.
func head(method, target string, lines ...string) string {
	return method + " " + target + " HTTP/1.1\r\nHost: hooks.example.com\r\n" + strings.Join(append(lines, "", ""), "\r\n")
}

func TestWire(t *testing.T) {
	const limit = 1000
	post := func(lines ...string) string { return head("POST", wirePath, lines...) }
	full := strings.Repeat("x", limit)
	chunk := func(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }
	const chunked = "Transfer-Encoding: chunked"
	good := post("Content-Length: 2") + "{}"
	cases := []struct {
		name, input, codes string
		stored             []string
		silent             bool // the sender waits instead of finishing
	}{
		{"W1 good", good, "200", []string{"{}"}, false},
		{"W2 GET", head("GET", wirePath), "200", nil, false},
		{"W2 HEAD", head("HEAD", wirePath), "200", nil, false},
		{"W2 GET with a body", head("GET", wirePath, "Content-Length: 2") + "{}", "200", nil, false},
		{"W3 empty", post("Content-Length: 0"), "200", nil, false},
		{"W4 no length, bytes follow", post() + "{}", "411", nil, false},
		{"W4 no length, nothing follows", post(), "411", nil, true},
		{"W4 no length on an unknown path", head("POST", "/hooks/nobody"), "404", nil, false},
		{"T10 HTTP/1.0 chunked", "POST " + wirePath + " HTTP/1.0\r\n" + chunked + "\r\n\r\n" + chunk("{}") + "0\r\n\r\n", "411", nil, false},
		{"T10 HTTP/1.0", "POST " + wirePath + " HTTP/1.0\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n{}" + good, "200", []string{"{}"}, false},
		{"W6 length and chunked", post("Content-Length: 5", chunked) + chunk("{}") + "0\r\n\r\n", "200", []string{"{}"}, true},
		{"W7 smuggled", post("Content-Length: 4", chunked) + chunk("{}") + "0\r\n\r\n" + good, "200", []string{"{}"}, false},
		{"W7 smuggled behind an unknown path", head("POST", "/hooks/nobody", chunked) + "0\r\n\r\n" + good, "404", nil, false},
		{"W7 smuggled behind a GET", head("GET", wirePath, chunked) + "0\r\n\r\n" + good, "200", nil, false},
		{"W8 two equal lengths", post("Content-Length: 2", "Content-Length: 2") + "{}", "200", []string{"{}"}, false},
		{"W9 two lengths", post("Content-Length: 2", "Content-Length: 3") + "{}", "400", nil, false},
		{"W9 list of lengths", post("Content-Length: 2, 3") + "{}", "400", nil, false},
		{"W9 negative length", post("Content-Length: -2") + "{}", "400", nil, false},
		{"W9 signed length", post("Content-Length: +2") + "{}", "400", nil, false},
		{"W11 huge length", post("Content-Length: 2147483648") + "{}", "413", nil, true},
		{"W12 unknown coding", post("Transfer-Encoding: xchunked") + "{}", "501", nil, false},
		{"W12 two codings", post("Transfer-Encoding: gzip, chunked") + "0\r\n\r\n", "501", nil, false},
		{"W12 twice", post(chunked, chunked) + "0\r\n\r\n", "501", nil, false},
		{"W13 blank before the colon", post("Transfer-Encoding : chunked") + "0\r\n\r\n", "400", nil, false},
		{"W14 bad chunk size", post(chunked) + "zz\r\n{}\r\n0\r\n\r\n", "400", nil, false},
		{"W14 huge chunk size", post(chunked) + strings.Repeat("f", 17) + "\r\n{}\r\n0\r\n\r\n", "400", nil, false},
		{"W14 chunk longer than it says", post(chunked) + "1\r\n{}\r\n0\r\n\r\n", "400", nil, false},
		{"W15 cut in a chunk", post(chunked) + "a\r\n{}", "400", nil, false},
		{"W15 cut before the last chunk", post(chunked) + chunk("{}"), "400", nil, false},
		{"W15 silence in a chunk", post(chunked) + "a\r\n{}", "408", nil, true},
		{"W16 announced trailer", post(chunked, "Trailer: Content-Length") + chunk("{}") + "0\r\nContent-Length: 99\r\n\r\n", "400", nil, false},
		{"W16 trailer", post(chunked) + chunk("{}") + "0\r\nContent-Length: 99\r\n\r\n", "200", []string{"{}"}, false},
		{"W17 cut", post("Content-Length: 10") + "{}", "400", nil, false},
		{"W17 silence", post("Content-Length: 10") + "{}", "408", nil, true},
		{"W18 exactly the limit", post("Content-Length: 1000") + full, "200", []string{full}, false},
		{"W18 exactly the limit, chunked", post(chunked) + chunk(full) + "0\r\n\r\n", "200", []string{full}, false},
		{"W19 one more", post("Content-Length: 1001") + full + "x", "413", nil, false},
		{"W19 one more, chunked", post(chunked) + chunk(full+"x") + "0\r\n\r\n", "413", nil, false},
		{"W20 without end", post(chunked) + strings.Repeat(chunk(full), 20), "413", nil, true},
		{"W21 large header", post("Content-Length: 2", "X: "+strings.Repeat("x", 21<<10)) + "{}", "431", nil, false},
		{"W21 many headers", post(strings.Repeat("X: y\r\n", 5000)+"Content-Length: 2") + "{}", "431", nil, false},
		{"W21 large URI", head("POST", wirePath+"?"+strings.Repeat("x", 21<<10), "Content-Length: 2") + "{}", "431", nil, false},
		{"W22 no host", "POST " + wirePath + " HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", "400", nil, false},
		{"W22 two hosts", post("Host: b", "Content-Length: 2") + "{}", "400", nil, false},
		{"W23 absolute form", head("POST", "http://evil.example.org"+wirePath, "Content-Length: 2") + "{}", "200", []string{"{}"}, false},
		{"W26 HTTP/2.0", strings.Replace(good, "HTTP/1.1", "HTTP/2.0", 1), "505", nil, false},
		{"W26 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "404", nil, false},
		{"W26 HTTP/0.9", "GET " + wirePath + "\r\n\r\n", "400", nil, false},
		{"W27 double slash", head("GET", "/"+wirePath), "404", nil, false},
		{"W27 dots", head("GET", "/x/.."+wirePath), "404", nil, false},
		{"W28 NUL", head("GET", wirePath+"%00"), "404", nil, false},
		{"W28 raw NUL", head("GET", wirePath+"\x00"), "400", nil, false},
		{"W28 encoded slash", head("GET", "/hooks%2fru/"+wireToken), "404", nil, false},
		{"W28 trailing slash", head("GET", wirePath+"/"), "404", nil, false},
		{"W28 encoded letter", head("GET", "/hooks/%72u/"+wireToken), "404", nil, false},
		{"W28 fragment", head("GET", wirePath+"#x"), "404", nil, false},
		{"W28 question mark", head("GET", wirePath+"?"), "200", nil, false},
		{"W29 unknown", head("GET", "/hooks/nobody/"+wireToken), "404", nil, false},
		{"W30 PUT", head("PUT", wirePath, "Content-Length: 2") + "{}", "405", nil, false},
		{"W30 post", head("post", wirePath, "Content-Length: 2") + "{}", "405", nil, false},
		{"W30 CONNECT", head("CONNECT", wirePath), "405", nil, false},
		{"W30 CONNECT host", head("CONNECT", "example.com:443"), "404", nil, false},
		{"W31 OPTIONS *", head("OPTIONS", "*"), "404", nil, false},
		{"W32 expectation", post("Content-Length: 2", "Expect: 100-continue") + "{}", "200", []string{"{}"}, false},
		{"W32 expectation above the limit", post("Content-Length: 1001", "Expect: 100-continue"), "413", nil, true},
		{"W32 unknown expectation", post("Content-Length: 2", "Expect: miracle") + "{}", "417", nil, false},
		{"W34 slow header", "POST " + wirePath + " HTTP/1.1\r\nHost: h\r\n", "", nil, true},
		{"W38 gzip", post("Content-Length: 2", "Content-Encoding: gzip") + "{}", "415", nil, false},
		{"W38 second header", post("Content-Length: 2", "Content-Encoding: identity", "Content-Encoding: br") + "{}", "415", nil, false},
		{"W38 two layers", post("Content-Length: 2", "Content-Encoding: gzip, gzip") + "{}", "415", nil, false},
		{"W38 identity", post("Content-Length: 2", "Content-Encoding: Identity") + "{}", "200", []string{"{}"}, false},
		{"W39 odd content type", post("Content-Length: 2", "Content-Type: application/json; charset=utf-16") + "{}", "200", []string{"{}"}, false},
		{"keep-alive", good + good, "200 200", []string{"{}", "{}"}, false},
		{"keep-alive after 404", head("GET", "/") + good, "404 200", []string{"{}"}, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b, addr := wireBench(t, Limits{MaxBody: limit, ReadTimeout: 300 * time.Millisecond, ReadHeaderTimeout: 200 * time.Millisecond, IdleTimeout: 300 * time.Millisecond})
			all := talk(t, addr, c.input, !c.silent)
			if got := codes(all); got != c.codes {
				t.Fatalf("answers %q, want %q", got, c.codes)
			}
			var stored []string
			for _, d := range b.store.deliveries() {
				stored = append(stored, string(d.Body))
			}
			if strings.Join(stored, "|") != strings.Join(c.stored, "|") {
				t.Errorf("stored %.80q, want %.80q", stored, c.stored)
			}
			for _, a := range all {
				blessing := Acknowledgement("enkod")
				if strings.HasPrefix(c.input, "HEAD") {
					blessing = ""
				}
				if a.code == 200 && a.body != blessing {
					t.Errorf("200 says %q", a.body)
				}
				if a.code != 200 && strings.Contains(a.body, "bless") {
					t.Errorf("%d says %q", a.code, a.body)
				}
				if a.code == 200 && strings.Contains(c.input, "chunked") && !a.close {
					t.Error("the connection of a chunked request stays open")
				}
			}
			if held := b.budget.held.Load(); held != 0 {
				t.Errorf("%d bytes are still held", held)
			}
		})
	}
}

// TestWireExpectation: the body is asked for only if it will be taken.
func TestWireExpectation(t *testing.T) {
	_, addr := wireBench(t, Limits{MaxBody: 1000})
	for length, want := range map[string]string{"2": "HTTP/1.1 100 Continue\r\n", "1001": "HTTP/1.1 413 Request Entity Too Large\r\n"} {
		c := dial(t, addr)
		if _, err := io.WriteString(c, head("POST", wirePath, "Content-Length: "+length, "Expect: 100-continue")); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != want {
			t.Errorf("length %s: got %q, %v; want %q", length, line, err, want)
		}
	}
}

func TestWirePipeline(t *testing.T) {
	b, addr := wireBench(t, Limits{})
	var in strings.Builder
	for i := range 100 {
		body := fmt.Sprintf(`{"n":%d}`, i)
		in.WriteString(head("POST", wirePath, fmt.Sprintf("Content-Length: %d", len(body))) + body)
	}
	all := talk(t, addr, in.String(), true)
	if want := strings.TrimSpace(strings.Repeat("200 ", 100)); codes(all) != want {
		t.Fatalf("answers %s", codes(all))
	}
	for i, d := range b.store.deliveries() {
		if want := fmt.Sprintf(`{"n":%d}`, i); string(d.Body) != want {
			t.Fatalf("delivery %d is %s, want %s", i, d.Body, want)
		}
	}
}

// TestWireDrip sends a body byte by byte, too slowly.
func TestWireDrip(t *testing.T) {
	b, addr := wireBench(t, Limits{ReadTimeout: 200 * time.Millisecond})
	c := dial(t, addr)
	if _, err := io.WriteString(c, head("POST", wirePath, "Content-Length: 100000")); err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			if _, err := c.Write([]byte("x")); err != nil {
				return
			}
			runtime.Gosched()
			if err := c.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
				return
			}
			waitAMoment(10 * time.Millisecond)
		}
	}()
	r := bufio.NewReader(c)
	w, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Body.Close()
	if w.StatusCode != 408 || !w.Close {
		t.Errorf("got %d, closing %t; want 408 and closing", w.StatusCode, w.Close)
	}
	if n := len(b.store.deliveries()); n != 0 {
		t.Errorf("%d deliveries are stored", n)
	}
	if got := b.counted(t, "rejected", "enkod", "ru", string(timeout)); got != 1 {
		t.Errorf("%v timeouts are counted, want 1", got)
	}
}

// waitAMoment is the pace of a slow sender, which is what is being tested.
func waitAMoment(d time.Duration) { <-time.After(d) }

func TestWireReset(t *testing.T) {
	b, addr := wireBench(t, Limits{})
	c := dial(t, addr)
	if _, err := io.WriteString(c, head("POST", wirePath, "Content-Length: 10")+"{}"); err != nil {
		t.Fatal(err)
	}
	if err := c.SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the reset is counted", func() bool {
		return b.counted(t, "rejected", "enkod", "ru", string(malformed)) == 1
	})
	if n := len(b.store.deliveries()); n != 0 {
		t.Errorf("%d deliveries are stored", n)
	}
	eventually(t, "the refusal is logged", func() bool { return strings.Contains(b.logs.String(), "request refused") })
	for line := range strings.Lines(b.logs.String()) {
		if strings.Contains(line, `"level":"warn"`) && strings.Contains(line, "127.0.0.1") {
			t.Errorf("a warning has the sender's address: %s", line)
		}
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
		waitAMoment(time.Millisecond)
	}
}

func TestWireInFlight(t *testing.T) {
	b, addr := wireBench(t, Limits{MaxBody: 1000, MaxInFlight: 1500})
	hold := dial(t, addr)
	if _, err := io.WriteString(hold, head("POST", wirePath, "Content-Length: 1000")+strings.Repeat("x", 999)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "999 bytes are counted before the body is whole", func() bool { return b.budget.held.Load() == 999 })
	big := head("POST", wirePath, "Content-Length: 502") + strings.Repeat("y", 502)
	all := talk(t, addr, big, true)
	if codes(all) != "503" || all[0].header.Get("Retry-After") != "5" || !all[0].close {
		t.Errorf("above the budget: %+v", all)
	}
	if got := codes(talk(t, addr, head("POST", wirePath, "Content-Length: 501")+strings.Repeat("z", 501), true)); got != "200" {
		t.Errorf("within the budget: %s", got)
	}
	if held := b.budget.held.Load(); held != 999 {
		t.Errorf("%d bytes are held, want 999", held)
	}
	if _, err := io.WriteString(hold, "x"); err != nil {
		t.Fatal(err)
	}
	if err := hold.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := codes(readAnswers(t, hold, "POST ")); got != "200" {
		t.Errorf("the first: %s", got)
	}
	if held := b.budget.held.Load(); held != 0 {
		t.Errorf("%d bytes are still held", held)
	}
	if got := codes(talk(t, addr, big, true)); got != "200" {
		t.Errorf("after the first: %s", got)
	}
	if got := b.counted(t, "rejected", "enkod", "ru", string(inFlight)); got != 1 {
		t.Errorf("in_flight is counted %v times, want 1", got)
	}
}

// TestWireStoreHolds: what waits for the store counts as in flight too.
func TestWireStoreHolds(t *testing.T) {
	b, addr := wireBench(t, Limits{MaxBody: 1000, MaxInFlight: 1000, PutTimeout: 100 * time.Millisecond})
	b.store.put = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	c := dial(t, addr)
	if _, err := io.WriteString(c, head("POST", wirePath, "Content-Length: 1000")+strings.Repeat("x", 1000)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the bytes are held", func() bool { return b.budget.held.Load() == 1000 })
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	all := readAnswers(t, c, "POST ")
	if codes(all) != "503" || all[0].header.Get("Retry-After") != "5" {
		t.Errorf("answers %+v", all)
	}
	if held := b.budget.held.Load(); held != 0 {
		t.Errorf("%d bytes are still held", held)
	}
}

func TestWireTLSOnThePlainPort(t *testing.T) {
	_, addr := wireBench(t, Limits{})
	c := dial(t, addr)
	err := tls.Client(c, &tls.Config{ServerName: "hooks.example.com"}).HandshakeContext(t.Context())
	if err == nil {
		t.Error("the handshake succeeds")
	}
}

func TestWireDraining(t *testing.T) {
	b, addr := wireBench(t, Limits{})
	b.SetDraining(true)
	all := talk(t, addr, strings.Repeat(head("GET", wirePath), 2), false)
	if codes(all) != "200" || !all[0].close {
		t.Errorf("while draining: %+v", all)
	}
}

func TestWireConcurrent(t *testing.T) {
	b, addr := wireBench(t, Limits{})
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	errs := make(chan error, 8)
	for worker := range cap(errs) {
		go func() {
			for i := range 50 {
				q, err := client.Post("http://"+addr+wirePath, "application/json", bytes.NewReader(fmt.Appendf(nil, `{"n":"%d-%d"}`, worker, i)))
				if err != nil {
					errs <- err
					return
				}
				body, err := io.ReadAll(q.Body)
				_ = q.Body.Close()
				if err != nil || q.StatusCode != 200 || string(body) != "God bless you" {
					errs <- fmt.Errorf("%d %q %w", q.StatusCode, body, err)
					return
				}
			}
			errs <- nil
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	seen := map[string]bool{}
	for _, d := range b.store.deliveries() {
		seen[string(d.Body)] = true
	}
	if len(seen) != 400 {
		t.Errorf("%d different deliveries, want 400", len(seen))
	}
}
