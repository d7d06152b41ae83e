package main

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/blessd/blessd/receiver"
)

// recentKept is how many requests of an endpoint are remembered, of those that were
// refused and of the others each: a flood of the one hides none of the other, and
// none of another endpoint's.
const recentKept = 8

// unmatchedEndpoint is what the receiver calls requests that belong to no endpoint.
const unmatchedEndpoint = "unmatched"

// recentRequests remembers the last requests of each endpoint, for the status. It is
// in memory only, and takes no part in anything.
type recentRequests struct {
	shelves atomic.Pointer[map[string]*recentShelf] // by endpoint; replaced as a whole
}

// recentShelf is what is remembered of one endpoint.
type recentShelf struct {
	mu                                        sync.Mutex
	answered, refused                         [recentKept]receiver.Answered
	validations, accepted, refusals           uint64
	lastValidation, lastAccepted, lastRefusal time.Time
}

func newRecentRequests() *recentRequests {
	r := &recentRequests{}
	r.shelves.Store(&map[string]*recentShelf{unmatchedEndpoint: {}})
	return r
}

// setEndpoints makes room for these endpoints. What is remembered of those that stay
// stays.
func (r *recentRequests) setEndpoints(es []receiver.Endpoint) {
	before := *r.shelves.Load()
	next := map[string]*recentShelf{unmatchedEndpoint: before[unmatchedEndpoint]}
	for _, e := range es {
		if next[e.Name] = before[e.Name]; next[e.Name] == nil {
			next[e.Name] = &recentShelf{}
		}
	}
	r.shelves.Store(&next)
}

// add is for receiver.Watch.
func (r *recentRequests) add(a receiver.Answered) {
	s := (*r.shelves.Load())[a.Endpoint]
	if s == nil {
		return // it was answered by an endpoint that a reload took away
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case a.Reason != "":
		s.refused[s.refusals%recentKept] = a
		s.refusals++
		s.lastRefusal = a.At
		return
	case a.Probe:
		s.validations++
		s.lastValidation = a.At
	default:
		s.accepted++
		s.lastAccepted = a.At
	}
	s.answered[(s.validations+s.accepted-1)%recentKept] = a
}

// requestCounts is what came to an endpoint since blessd was started.
type requestCounts struct {
	// Validations are requests with which the provider tried the URL.
	Validations    uint64     `json:"validations"`
	LastValidation *time.Time `json:"last_validation,omitempty"`
	// Accepted are deliveries that were stored and blessed.
	Accepted     uint64     `json:"accepted"`
	LastAccepted *time.Time `json:"last_accepted,omitempty"`
	Refused      uint64     `json:"refused"`
	LastRefused  *time.Time `json:"last_refused,omitempty"`
	// Requests are the last ones, newest first: up to 8 that were refused and up to 8
	// others.
	Requests []requestStatus `json:"requests"`
}

// requestStatus is one request.
type requestStatus struct {
	At      time.Time `json:"at"`
	Outcome string    `json:"outcome"` // accepted, validation or refused
	Status  int       `json:"status"`
	// Reason is why it was refused; Hint says what to do about it, and KeySources
	// where the keys are from that did not verify it.
	Reason     string   `json:"reason,omitempty"`
	Hint       string   `json:"hint,omitempty"`
	KeySources []string `json:"key_sources,omitempty"`
	Bytes      int      `json:"bytes"`
	// Verified is how it proved itself, and Key the fingerprint of what it did so by.
	Verified string `json:"verified,omitempty"`
	Key      string `json:"key,omitempty"`
	Test     bool   `json:"test,omitempty"` // it was a sample key
	// Signature is what a signature was that is not enforced.
	Signature   string  `json:"signature,omitempty"`
	UserAgent   string  `json:"user_agent,omitempty"`
	TookSeconds float64 `json:"took_seconds"`
}

// of returns what is remembered of an endpoint.
func (r *recentRequests) of(endpoint string) requestCounts {
	c := requestCounts{Requests: []requestStatus{}}
	s := (*r.shelves.Load())[endpoint]
	if s == nil {
		return c
	}
	when := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		t = t.UTC().Truncate(time.Millisecond)
		return &t
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c.Validations, c.Accepted, c.Refused = s.validations, s.accepted, s.refusals
	c.LastValidation, c.LastAccepted, c.LastRefused = when(s.lastValidation), when(s.lastAccepted), when(s.lastRefusal)
	for _, kept := range [][]receiver.Answered{
		s.answered[:min(recentKept, s.validations+s.accepted)],
		s.refused[:min(recentKept, s.refusals)],
	} {
		for _, a := range kept {
			c.Requests = append(c.Requests, requestOf(a))
		}
	}
	slices.SortStableFunc(c.Requests, func(a, b requestStatus) int { return b.At.Compare(a.At) })
	return c
}

func requestOf(a receiver.Answered) requestStatus {
	s := requestStatus{
		At: a.At.UTC().Truncate(time.Millisecond), Outcome: "accepted", Status: a.Status, Reason: a.Reason, Hint: a.Hint, KeySources: a.KeySources,
		Bytes: a.Bytes, Verified: string(a.Verified.Method), Key: a.Verified.Key, Test: a.Verified.Sample, Signature: a.Signature,
		UserAgent: a.UserAgent, TookSeconds: math.Round(a.Took.Seconds()*1e6) / 1e6,
	}
	switch {
	case a.Reason != "":
		s.Outcome = "refused"
	case a.Probe:
		s.Outcome = "validation"
	}
	return s
}
