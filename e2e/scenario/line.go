package scenario

import (
	"net"
	"strings"
	"sync"
	"time"
)

// Line is a TCP proxy in front of a server that hands on what it reads after a time.
type Line struct {
	address string
	mu      sync.Mutex
	delay   time.Duration
	deaf    bool
	held    bool
	shut    bool
	freed   *sync.Cond // held has ended, or shut begun
	open    []net.Conn
}

// Line makes a line to the server at a URL.
func (e *Env) Line(url string) *Line {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		e.Fatalf("%v", err)
	}
	s := &Line{address: l.Addr().String()}
	s.freed = sync.NewCond(&s.mu)
	var wg sync.WaitGroup
	e.Cleanup(func() {
		_ = l.Close() // nobody connects any more
		s.Shut(true)
		wg.Wait()
	})
	_, to, _ := strings.Cut(url, "://")
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			shut := s.shut
			s.mu.Unlock()
			if shut {
				_ = in.Close()
				continue
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close() // the server is away
				continue
			}
			s.mu.Lock()
			s.open = append(s.open, in, out)
			shut = s.shut // meanwhile
			s.mu.Unlock()
			wg.Go(func() { s.carry(out, in, false) })
			wg.Go(func() { s.carry(in, out, true) })
			if shut {
				s.Cut()
			}
		}
	})
	return s
}

// URL is where NATS clients connect to.
func (s *Line) URL() string { return "nats://" + s.address }

// Latency is how long a question and its answer take together.
func (s *Line) Latency(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.delay = d
}

// Deaf swallows all that the server says from now on, or hands it on again. What was
// swallowed is gone: cut the line before.
func (s *Line) Deaf(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deaf = on
}

// Cut breaks all connections; new ones can be made.
func (s *Line) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.open {
		_ = c.Close() // to break it is what we want
	}
	s.open = nil
}

// Shut breaks all connections and lets none be made, or lets them be made again.
func (s *Line) Shut(on bool) {
	s.mu.Lock()
	s.shut = on
	s.freed.Broadcast()
	s.mu.Unlock()
	if on {
		s.Cut()
	}
}

// Hold keeps back what is sent from now on, either way, or lets all of it go: the
// connections outlive a network that was away, since TCP repeats what was lost.
func (s *Line) Hold(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = on
	s.freed.Broadcast()
}

// free waits until nothing is held back.
func (s *Line) free() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.held && !s.shut {
		s.freed.Wait()
	}
}

// carry hands on what was read a while ago, and reads on meanwhile: a long line is
// not a narrow one.
func (s *Line) carry(to, from net.Conn, answers bool) {
	type packet struct {
		due  time.Time
		data []byte
	}
	packets := make(chan packet, 1024)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() { _ = to.Close() }()
		for p := range packets {
			time.Sleep(time.Until(p.due))
			s.free()
			if _, err := to.Write(p.data); err != nil {
				_ = from.Close() // and so the reader ends, too
				for range packets {
				}
				return
			}
		}
	})
	for {
		b := make([]byte, 64<<10)
		n, err := from.Read(b)
		s.mu.Lock()
		delay, swallow := s.delay, s.deaf && answers
		s.mu.Unlock()
		if n > 0 && !swallow {
			packets <- packet{time.Now().Add(delay / 2), b[:n]} // each way
		}
		if err != nil {
			break
		}
	}
	close(packets)
	wg.Wait()
}
