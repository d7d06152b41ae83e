package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-json"
	"github.com/goccy/go-json/jsontext"
	"go.uber.org/zap"

	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/relay"
)

const (
	// feedKept is how many events are remembered.
	feedKept = 50
	// feedMaxBytes is the largest event that is remembered whole. Of a larger one
	// there is what it is, and not what it says.
	feedMaxBytes = 64 << 10
	// feedPace is how often somebody who watches gets what is new, and feedBurst how
	// many events at most then: who watches a flood sees a part of it, and costs the
	// same.
	feedPace  = 500 * time.Millisecond
	feedBurst = 20
	// feedViewers may watch at once.
	feedViewers = 8
	// feedWait is how long one who watches may take to read what is sent.
	feedWait = 5 * time.Second
	// feedSilence is how long nothing may be sent, so that a connection that is gone
	// is noticed.
	feedSilence = 15 * time.Second
)

// feed remembers the last events that were published, or quarantined, for the status
// page. Who publishes adds to it, which costs a lock and a slot of a ring, whether
// somebody watches or not; who watches looks at it from time to time.
type feed struct {
	log     *zap.Logger
	boot    string // tells the numbers of this start from those of another
	viewers chan struct{}
	pace    time.Duration

	mu   sync.Mutex
	ring [feedKept]*feedEntry
	next uint64 // the number that the next entry gets; they begin at 1
}

// feedEntry is one event.
type feedEntry struct {
	n    uint64
	at   time.Time
	size int
	what relay.Settled

	once sync.Once
	sent []byte // as it is sent: made when somebody watches
}

func newFeed(log *zap.Logger, started time.Time) *feed {
	return &feed{
		log: log, boot: strconv.FormatInt(started.UnixMilli(), 36), viewers: make(chan struct{}, feedViewers), pace: feedPace, next: 1,
	}
}

// add is for relay.Options.Watch.
func (f *feed) add(s relay.Settled) {
	e := &feedEntry{at: time.Now(), size: len(s.Data), what: s}
	switch {
	case e.size > feedMaxBytes:
		e.what.Data = nil
	case s.Outcome == relay.OutcomeQuarantined:
		e.what.Data = bytes.Clone(s.Data) // it may be a small part of a large body
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	e.n = f.next
	f.ring[e.n%feedKept] = e
	f.next++
}

// since returns the newest entries behind number n, oldest first, how many older ones
// it leaves out, and the number to go on behind.
func (f *feed) since(n uint64) (entries []*feedEntry, skipped, last uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	first := max(n+1, f.next-min(f.next, feedBurst), 1)
	for i := first; i < f.next; i++ {
		if e := f.ring[i%feedKept]; e != nil { // or it was erased
			entries = append(entries, e)
		}
	}
	return entries, first - (n + 1), f.next - 1
}

// forget lets go what is remembered: somebody is to be erased.
func (f *feed) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.ring[:])
}

// find returns an entry that is still remembered, or nil.
func (f *feed) find(id string) *feedEntry {
	boot, number, _ := strings.Cut(id, "-")
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil || boot != f.boot {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.ring[n%feedKept]; e != nil && e.n == n {
		return e
	}
	return nil
}

// shownEntry is an event as the page gets it.
type shownEntry struct {
	ID       string    `json:"id"` // of the entry; also what POST /-/events/{id} takes
	At       time.Time `json:"at"`
	Outcome  string    `json:"outcome"` // published, duplicate or quarantined
	Reason   string    `json:"reason,omitempty"`
	Provider string    `json:"provider"`
	Endpoint string    `json:"endpoint"`
	Type     string    `json:"type,omitempty"`
	EventID  string    `json:"event_id"`
	Bytes    int       `json:"bytes"`
	// Summary is a line for people, without what stands above; Event the canonical event without its raw part,
	// and Raw that. They are texts, not JSON, and empty where the event was too large
	// to be remembered.
	Summary string `json:"summary,omitempty"`
	Event   string `json:"event,omitempty"`
	Raw     string `json:"raw,omitempty"`
	Masked  bool   `json:"masked"`
}

// shown returns the entry for people, with or without what it says of people.
func (e *feedEntry) shown(boot string, masked bool) shownEntry {
	s := shownEntry{
		ID: fmt.Sprintf("%s-%d", boot, e.n), At: e.at.UTC().Truncate(time.Millisecond), Outcome: e.what.Outcome, Reason: e.what.Reason,
		Provider: e.what.Provider, Endpoint: e.what.Endpoint, Type: e.what.Type, EventID: e.what.ID, Bytes: e.size, Masked: masked,
	}
	switch {
	case e.what.Data == nil:
	case e.what.Outcome == relay.OutcomeQuarantined:
		s.Raw = shownRaw(e.what.Data, newMasker(nil), masked)
	default:
		s.Summary, s.Event, s.Raw = shownEvent(e.what.Data, masked)
	}
	return s
}

// shownEvent returns a canonical event in parts: a line for people, itself without
// its raw part, and that.
func shownEvent(data []byte, masked bool) (summary, canonical, raw string) {
	e, err := event.Decode(data)
	if err != nil {
		return "", "", "" // what blessd published can be decoded
	}
	m, original := newMasker(e), e.RawBytes()
	e.Raw, e.RawBase64 = nil, nil
	b, err := event.Encode(e)
	if err != nil {
		return "", "", ""
	}
	canonical, summary = indented(b), detail(e)
	if masked {
		canonical, summary = m.mask(canonical), ""
		// The line is made of what is masked: in the line itself half an address could
		// be cut off.
		if e, err := event.Decode([]byte(canonical)); err == nil {
			summary = detail(e)
		}
	}
	return summary, canonical, shownRaw(original, m, masked)
}

// detail is the event's line for people from behind its type.
func detail(e *event.Event) string {
	_, rest, _ := strings.Cut(e.Summary(), string(e.Type)) // no column before it can hold its dot
	return strings.TrimSpace(rest)
}

// shownRaw returns what a provider sent as text.
func shownRaw(raw []byte, m masker, masked bool) string {
	if !utf8.Valid(raw) {
		if masked {
			return "" // nobody knows what stands in it
		}
		return strings.ToValidUTF8(string(raw), "\ufffd")
	}
	s := indented(raw)
	if masked {
		s = m.mask(s)
	}
	return s
}

// indented returns JSON for people, and everything else as it is.
func indented(b []byte) string {
	v := jsontext.Value(bytes.Clone(b))
	if err := v.Indent(jsontext.WithIndent("  "), jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true), jsontext.PreserveRawStrings(true)); err != nil {
		return string(b)
	}
	return string(v)
}

// message returns the entry as a server-sent event.
func (e *feedEntry) message(boot string) []byte {
	e.once.Do(func() {
		s := e.shown(boot, true)
		b, err := json.MarshalWithOption(s, json.DisableHTMLEscape())
		if err != nil {
			return // strings and numbers can be encoded
		}
		e.sent = fmt.Appendf(nil, "id: %s\nevent: settled\ndata: %s\n\n", s.ID, b)
	})
	return e.sent
}

// serve is GET /-/events: what is remembered, and then what comes, as server-sent
// events. What people can be known by is masked.
func (f *feed) serve(w http.ResponseWriter, q *http.Request) {
	select {
	case f.viewers <- struct{}{}:
		defer func() { <-f.viewers }()
	default:
		w.Header().Set("Retry-After", "10")
		answer(w, http.StatusServiceUnavailable, fmt.Sprintf("%d are watching already", feedViewers))
		return
	}
	out := http.NewResponseController(w)
	// The deadline for the request's headers and body would end the context.
	_ = out.SetReadDeadline(time.Time{}) // a test's recorder has none
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // a proxy would keep it back
	send := func(b []byte) error {
		_ = out.SetWriteDeadline(time.Now().Add(feedWait))
		if _, err := w.Write(b); err != nil {
			return err
		}
		return out.Flush()
	}
	n := f.position(cmp.Or(q.Header.Get("Last-Event-ID"), q.URL.Query().Get("after")))
	if err := f.watch(q.Context(), n, send); err != nil && q.Context().Err() == nil {
		f.log.Debug("somebody who watches does not keep up", zap.Error(err))
	}
}

// position is the number behind which somebody wants to go on who has seen id.
func (f *feed) position(id string) uint64 {
	boot, number, _ := strings.Cut(id, "-")
	n, err := strconv.ParseUint(number, 10, 64)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil || boot != f.boot || n >= f.next {
		return f.next - 1 - min(f.next-1, feedBurst) // the last ones of this start
	}
	return n
}

// watch sends what comes behind number n, until ctx is done or send fails.
func (f *feed) watch(ctx context.Context, n uint64, send func([]byte) error) error {
	tick := time.NewTicker(f.pace)
	defer tick.Stop()
	b := []byte("retry: 3000\n\n")
	for sent := time.Now(); ; {
		entries, skipped, last := f.since(n)
		n = last
		if skipped > 0 {
			b = fmt.Appendf(b, "event: skipped\ndata: %d\n\n", skipped)
		}
		for _, e := range entries {
			b = append(b, e.message(f.boot)...)
		}
		if len(b) == 0 && time.Since(sent) > feedSilence {
			b = append(b, ": still here\n\n"...)
		}
		if len(b) > 0 {
			if err := send(b); err != nil {
				return err
			}
			b, sent = b[:0], time.Now()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// reveal is POST /-/events/{id}: one event with everything that it says.
func (f *feed) reveal(w http.ResponseWriter, q *http.Request) {
	e := f.find(q.PathValue("id"))
	if e == nil {
		answer(w, http.StatusNotFound, fmt.Sprintf("it is not remembered any more: the last %d events are; `blessd tail` has all of them", feedKept))
		return
	}
	answerJSON(w, e.shown(f.boot, false))
}
