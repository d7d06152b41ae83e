// Package ledger keeps the books of the bench, and judges by them. It shares no code
// with blessd: what is wrong there cannot cancel itself out here.
//
// A [Ledger] is a file of JSON lines. Every delivery is entered, and on disk, before
// its first byte is sent, and what came back is entered afterwards. A [Book] is that
// file read again, and a [Judge] holds the book against what a fresh connection to
// NATS finds in the streams, element by element, by a normalizer of its own that was
// written from docs/events.md and the providers' documentation.
package ledger

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"sync"
	"sync/atomic"
	"time"
)

// Sent is a delivery that is about to be sent.
type Sent struct {
	UID         string    `json:"uid"`     // of the form of NewUID, and in each of the body's elements
	Attempt     int       `json:"attempt"` // from 1, of this uid
	Time        time.Time `json:"time"`
	Provider    string    `json:"provider"`
	Endpoint    string    `json:"endpoint"`
	ContentType string    `json:"content_type,omitempty"`
	Events      int       `json:"events"` // that the sender knows to be in it
	SHA256      string    `json:"sha256"`
	// Body is absent when an earlier attempt of this uid had the same.
	Body []byte `json:"body,omitempty"`
}

// Answer is what came of an attempt: a status, or an error instead of one.
type Answer struct {
	UID     string    `json:"uid"`
	Attempt int       `json:"attempt"`
	Time    time.Time `json:"time"`
	Status  int       `json:"status,omitempty"`
	// Exact is whether the body was the provider's acknowledgement, byte for byte,
	// and was read to a clean end.
	Exact bool   `json:"exact,omitempty"`
	Error string `json:"error,omitempty"`
}

// State is what an attempt, or a delivery with all its attempts, has come to.
type State int

// The states. Of a delivery that is Unknown nothing can be said: it may be stored.
const (
	Unknown State = iota // no answer, or half of one
	Refused              // answered, and not with the blessing
	Acked                // 200, and exactly the acknowledgement
)

// State returns what the answer means.
func (a *Answer) State() State {
	switch {
	case a.Error != "" || a.Status == 0:
		return Unknown
	case a.Status == 200 && a.Exact:
		return Acked
	default:
		return Refused
	}
}

// line is one line of the file: one of its fields is set.
type line struct {
	Run    string  `json:"run,omitempty"`
	Sent   *Sent   `json:"sent,omitempty"`
	Answer *Answer `json:"answer,omitempty"`
	Note   *note   `json:"note,omitempty"`
}

// note is what somebody who reads the file wants to know besides.
type note struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// Ledger is a file that is being written.
type Ledger struct {
	file *os.File
	run  string
	next atomic.Uint32

	mu       sync.Mutex
	synced   sync.Cond
	pending  bytes.Buffer
	entered  uint64 // lines so far
	durable  uint64 // of them on disk
	syncing  bool
	err      error
	attempts map[string]attempts

	acked, refused, unknown atomic.Int64
}

type attempts struct {
	n   int
	sum [sha256.Size]byte // of the first body
}

// Create begins a ledger.
func Create(file string) (*Ledger, error) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create the ledger: %w", err)
	}
	sum := sha256.Sum256(fmt.Append(nil, file, time.Now().UnixNano(), os.Getpid()))
	l := &Ledger{file: f, run: hex.EncodeToString(sum[:4]), attempts: map[string]attempts{}}
	l.synced.L = &l.mu
	return l, l.enter(&line{Run: l.run}, true)
}

// UID is what every element of a delivery has in it somewhere, so that it is found
// again whatever becomes of it.
var UID = regexp.MustCompile(`e2e-[0-9a-f]{8}-[0-9a-f]{8}`)

// NewUID returns a name for a delivery, of the form of [UID].
func (l *Ledger) NewUID() string {
	return fmt.Sprintf("e2e-%s-%08x", l.run, l.next.Add(1))
}

// Sent enters a delivery that is about to be sent, and returns when that is on disk.
// It fills in the attempt and the time.
func (l *Ledger) Sent(s Sent) (attempt int, err error) {
	sum := sha256.Sum256(s.Body)
	l.mu.Lock()
	before := l.attempts[s.UID]
	now := before
	if now.n++; now.n == 1 {
		now.sum = sum
	}
	l.attempts[s.UID] = now
	l.mu.Unlock()
	s.Attempt, s.Time, s.SHA256 = now.n, time.Now(), hex.EncodeToString(sum[:])
	if before.n > 0 && sum == before.sum {
		s.Body = nil
	}
	return s.Attempt, l.enter(&line{Sent: &s}, true)
}

// Answered enters what came back. It is on disk by the next Sent or Close, and if it
// never gets there the attempt is Unknown, which is the safe side.
func (l *Ledger) Answered(a Answer) error {
	a.Time = time.Now()
	switch a.State() {
	case Acked:
		l.acked.Add(1)
	case Refused:
		l.refused.Add(1)
	case Unknown:
		l.unknown.Add(1)
	}
	return l.enter(&line{Answer: &a}, false)
}

// Note enters what was done to blessd, for who reads the file.
func (l *Ledger) Note(text string) error {
	return l.enter(&line{Note: &note{time.Now(), text}}, false)
}

// Counts returns how many attempts were answered with the blessing, were refused, and
// were not answered.
func (l *Ledger) Counts() (acked, refused, unknown int) {
	return int(l.acked.Load()), int(l.refused.Load()), int(l.unknown.Load())
}

// enter appends a line. Many that wait for the disk share one sync.
func (l *Ledger) enter(e *line, wait bool) error {
	text, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode a line of the ledger: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending.Write(text)
	l.pending.WriteByte('\n')
	l.entered++
	if !wait {
		return l.err
	}
	for mine := l.entered; l.durable < mine && l.err == nil; {
		if l.syncing {
			l.synced.Wait()
			continue
		}
		l.flush()
	}
	return l.err
}

// flush writes and syncs what is pending. It is called, and returns, with mu held.
func (l *Ledger) flush() {
	l.syncing = true
	text, upTo := bytes.Clone(l.pending.Bytes()), l.entered
	l.pending.Reset()
	l.mu.Unlock()
	_, err := l.file.Write(text)
	if err == nil {
		err = l.file.Sync()
	}
	l.mu.Lock()
	l.syncing = false
	if err != nil && l.err == nil {
		l.err = fmt.Errorf("write the ledger: %w", err)
	}
	l.durable = upTo
	l.synced.Broadcast()
}

// Flush puts on disk what was entered so far.
func (l *Ledger) Flush() error {
	return l.enter(&line{Note: &note{time.Now(), "all until here is on disk"}}, true)
}

// Close ends the ledger.
func (l *Ledger) Close() error {
	l.mu.Lock()
	for l.syncing {
		l.synced.Wait()
	}
	l.flush()
	err := l.err
	l.mu.Unlock()
	return errors.Join(err, l.file.Close())
}

// Book is a ledger that is read.
type Book struct {
	Run        string
	deliveries map[string]*delivery
	order      []string // uids in the order of their first attempts
	file       *os.File // for the bodies
	attempts   int
	cached     map[string]*expectation // of some deliveries
}

// delivery is what the book has of one uid.
type delivery struct {
	provider, endpoint, contentType string
	bodies                          []place
	attempts                        []attempt
	expected                        int // -1 before it is known
}

// place is where a line with a body is.
type place struct {
	offset int64
	length int
	sum    string
}

type attempt struct {
	body     int // index of bodies
	sent     time.Time
	answered time.Time // zero when there is no answer
	status   int
	state    State
}

// Open reads a ledger, also one that is still being written.
func Open(file string) (*Book, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open the ledger: %w", err)
	}
	b := &Book{file: f, deliveries: map[string]*delivery{}, cached: map[string]*expectation{}}
	if err := b.read(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return b, nil
}

// Close lets go of the file.
func (b *Book) Close() error { return b.file.Close() }

func (b *Book) read() error {
	r := bufio.NewReaderSize(b.file, 1<<20)
	for offset, number := int64(0), 1; ; number++ {
		text, err := r.ReadBytes('\n')
		if err != nil {
			return nil //nolint:nilerr // the end, or a line that is being written
		}
		var e line
		if err := json.Unmarshal(text, &e); err != nil {
			return fmt.Errorf("line %d of the ledger: %w", number, err)
		}
		switch {
		case e.Run != "":
			b.Run = e.Run
		case e.Sent != nil:
			b.sent(e.Sent, place{offset, len(text), e.Sent.SHA256})
		case e.Answer != nil:
			d := b.deliveries[e.Answer.UID]
			if d == nil || e.Answer.Attempt > len(d.attempts) {
				return fmt.Errorf("line %d of the ledger answers what was not sent", number)
			}
			a := &d.attempts[e.Answer.Attempt-1]
			a.answered, a.status, a.state = e.Answer.Time, e.Answer.Status, e.Answer.State()
		}
		offset += int64(len(text))
	}
}

func (b *Book) sent(s *Sent, at place) {
	d := b.deliveries[s.UID]
	if d == nil {
		d = &delivery{provider: s.Provider, endpoint: s.Endpoint, contentType: s.ContentType, expected: -1}
		b.deliveries[s.UID] = d
		b.order = append(b.order, s.UID)
	}
	body := -1
	for i, p := range d.bodies {
		if p.sum == s.SHA256 {
			body = i
		}
	}
	if body < 0 {
		body = len(d.bodies)
		d.bodies = append(d.bodies, place{sum: s.SHA256})
	}
	if len(s.Body) > 0 {
		d.bodies[body] = at // not always in the first of them, when attempts overlap
	}
	// Attempts of one delivery may be entered out of order.
	for len(d.attempts) < s.Attempt {
		d.attempts = append(d.attempts, attempt{})
	}
	a := &d.attempts[s.Attempt-1]
	a.body, a.sent = body, s.Time
	b.attempts++
}

// state is the best that any attempt has come to.
func (d *delivery) state() State {
	best := Refused
	for _, a := range d.attempts {
		switch a.state {
		case Acked:
			return Acked
		case Unknown:
			best = Unknown
		case Refused:
		}
	}
	return best
}

// body reads a body back from the file.
func (b *Book) body(p place) ([]byte, error) {
	if p.length == 0 {
		return nil, nil // an empty one
	}
	text := make([]byte, p.length)
	if _, err := b.file.ReadAt(text, p.offset); err != nil {
		return nil, fmt.Errorf("read a body from the ledger: %w", err)
	}
	var e line
	if err := json.Unmarshal(text, &e); err != nil {
		return nil, fmt.Errorf("read a body from the ledger: %w", err)
	}
	return e.Sent.Body, nil
}
