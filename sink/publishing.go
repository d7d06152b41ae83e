package sink

import (
	"sync"
	"time"
)

// Publishing is how publishing goes, as the last answers tell.
type Publishing struct {
	// Acknowledged is when the last acknowledgement came; zero before the first.
	Acknowledged time.Time
	// Failures counts those since then, not counting messages that can never be
	// stored; Since is when the first of them was noticed and Failed when the last.
	Failures      int
	Since, Failed time.Time
	// Unanswered counts how many of Failures the server left without an answer, or
	// answered that it has no such stream.
	Unanswered int
	// Reason is that of the last failure, as Classify gives it.
	Reason string
}

// streak keeps Publishing up to date.
type streak struct {
	mu  sync.Mutex
	now Publishing
}

func (s *streak) acked() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = Publishing{Acknowledged: time.Now()}
}

// forget lets the failures so far go: the server was replaced.
func (s *streak) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = Publishing{Acknowledged: s.now.Acknowledged}
}

func (s *streak) failed(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now.Failed = time.Now()
	if s.now.Failures == 0 {
		s.now.Since = s.now.Failed
	}
	s.now.Failures++
	if reason == ReasonTimeout || reason == ReasonNoStream {
		s.now.Unanswered++
	}
	s.now.Reason = reason
}

// Publishing returns how publishing goes.
func (s *Sink) Publishing() Publishing {
	s.m.streak.mu.Lock()
	defer s.m.streak.mu.Unlock()
	return s.m.streak.now
}

// Connected tells whether there is a connection to the server.
func (s *Sink) Connected() bool { return s.nc.IsConnected() }
