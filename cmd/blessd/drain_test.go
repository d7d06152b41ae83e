package main

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestStopTakesTheBacklog stops a listener behind which the kernel has accepted
// connections, with whole requests on them, that nobody has seen yet.
func TestStopTakesTheBacklog(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &publicServer{
		server: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Connection", "close")
			_, _ = io.WriteString(w, "answered") // who reads it, finds out
		})},
		listener: l, socket: l, connections: newConnections(), served: make(chan struct{}),
	}
	p.server.ConnState = p.connections.track
	conns := make([]net.Conn, 100)
	for i := range conns {
		if conns[i], err = net.Dial("tcp", l.Addr().String()); err != nil {
			t.Fatal(err)
		}
		defer conns[i].Close()
		if err := conns[i].SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conns[i], "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 1)
	go func() { ended <- p.serve() }()
	began := time.Now()
	if err := p.stop(t.Context(), began); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > bodyTime {
		t.Errorf("the stop took %v", took)
	}
	<-ended
	for i, c := range conns {
		a, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Errorf("connection %d: %v", i, err)
			continue
		}
		if b, err := io.ReadAll(a.Body); string(b) != "answered" || err != nil {
			t.Errorf("connection %d: %q %v", i, b, err)
		}
		_ = a.Body.Close() // it was read
	}
}
