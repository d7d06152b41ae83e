package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A stop takes its time from its beginning on, and 5 s at most.
const (
	// backlogTime bounds how long connections are taken that the kernel has
	// accepted for us already.
	backlogTime = 500 * time.Millisecond
	// lingerTime is how long open connections may bring another request: its answer
	// closes them. A proxy may be writing one just now, and would see a reset.
	lingerTime = 3500 * time.Millisecond
	// quietTime without any request, also before the stop, ends that earlier. It is
	// longer than a busy machine keeps a sender waiting for its turn.
	quietTime = time.Second
	// bodyTime is how long a request may take to arrive. What is sent slower is
	// answered 408, and comes again.
	bodyTime = 2 * time.Second
	// answerTime is how long a stop waits for the answers. It is a little more than
	// a request may wait for its journal record.
	answerTime = 4200 * time.Millisecond
)

// connections are those of the public listener that are open.
type connections struct {
	mu      sync.Mutex
	open    map[net.Conn]struct{}
	changed time.Time // when one of them last began or ended a request
}

func newConnections() *connections { return &connections{open: make(map[net.Conn]struct{})} }

// track is for http.Server.ConnState.
func (c *connections) track(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed = time.Now()
	if state == http.StateClosed || state == http.StateHijacked {
		delete(c.open, conn)
	} else {
		c.open[conn] = struct{}{}
	}
}

// quiet tells whether nothing is open, or nothing has happened since.
func (c *connections) quiet(since time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.open) == 0 || c.changed.Before(since)
}

// endReads makes every read of a request fail. Answers are written all the same.
func (c *connections) endReads() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // closed meanwhile is as good
	}
}

// publicServer is the public listener while it is served.
type publicServer struct {
	server      *http.Server
	listener    net.Listener
	socket      net.Listener // which the listener is made of, with the kernel's backlog
	passed      bool         // the socket is somebody else's, and goes on without us
	connections *connections
	served      chan struct{} // closed when nothing is accepted any more
}

// serve returns when the listener was closed.
func (p *publicServer) serve() error {
	defer close(p.served)
	return p.server.Serve(p.listener)
}

// stop ends in an order in which nobody who has sent a whole request is cut off:
// no new connections, answers to all that is on the open ones, and only then their
// end. began is when the stop of the program did.
func (p *publicServer) stop(ctx context.Context, began time.Time) error {
	var errs []error
	if !p.passed {
		errs = append(errs, emptyBacklog(p.socket, backlogTime))
	}
	errs = append(errs, closed(p.listener.Close()))
	<-p.served // every connection is tracked now
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for time.Since(began) < lingerTime && !p.connections.quiet(time.Now().Add(-quietTime)) {
		<-poll.C
	}
	hurry := time.AfterFunc(time.Until(began.Add(bodyTime)), p.connections.endReads)
	defer hurry.Stop()
	ctx, cancel := context.WithDeadline(ctx, began.Add(answerTime))
	defer cancel()
	if err := p.server.Shutdown(ctx); err != nil {
		errs = append(errs, err, p.server.Close())
	}
	return errors.Join(errs...)
}

// emptyBacklog waits until whoever accepts from l has taken every connection that
// the kernel has for it, and lets the kernel take no more: those that are in the
// backlog when l is closed are reset.
func emptyBacklog(l net.Listener, most time.Duration) error {
	raw, ok := l.(syscall.Conn)
	if !ok {
		return nil
	}
	control, err := raw.SyscallConn()
	if err != nil {
		return fmt.Errorf("empty the backlog: %w", err)
	}
	var listenErr error
	if err := control.Control(func(fd uintptr) { listenErr = unix.Listen(int(fd), 0) }); err != nil || listenErr != nil {
		return fmt.Errorf("empty the backlog: %w", errors.Join(err, listenErr))
	}
	poll := time.NewTicker(time.Millisecond)
	defer poll.Stop()
	for deadline := time.Now().Add(most); time.Now().Before(deadline); <-poll.C {
		waiting := 0
		if err := control.Control(func(fd uintptr) {
			// An error is no connection: then there is nothing to wait for.
			waiting, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		}); err != nil {
			return fmt.Errorf("empty the backlog: %w", err)
		}
		if waiting <= 0 {
			return nil
		}
	}
	return nil
}
