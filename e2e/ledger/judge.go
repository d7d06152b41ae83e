package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Rules say what a scenario allows and demands beyond what always has to hold:
// nothing lost, no ghost, nothing changed, nothing doubled, and every refusal one
// that makes the provider come again.
type Rules struct {
	// NothingRefused demands that every attempt was blessed.
	NothingRefused bool
	// OnlyAcked demands that nothing is stored that was not blessed.
	OnlyAcked bool
	// Statuses are refusals that are right here, besides 503 and 429.
	Statuses []int
	// Redeemed are statuses whose deliveries are owed all the same: they were kept,
	// and verified later.
	Redeemed []int
	// MaxEvent, when not 0, is the size from which on an element may be in quarantine
	// in place of its events.
	MaxEvent int
	// Doubles allows an event to be stored again under the same id.
	Doubles bool
	// Again says that events were published more than once for a good reason, so that
	// the metrics count more of them than the ledger.
	Again bool
	// Unbooked are the answers to requests that are not in the ledger, and how many
	// there were of each. What is stored of them is a ghost.
	Unbooked map[Unbooked]int
}

// Unbooked is the answer to a request that is not in the ledger.
type Unbooked struct {
	// Endpoint is what the metrics call it: "unmatched" when the path is nobody's.
	Endpoint string
	// Status is 0 when there was no answer.
	Status int
	// Events are those in the request.
	Events int
}

// Verdict is what the ledger says of a run. Deliveries are requests with all their
// attempts; everything else is counted in events.
type Verdict struct {
	Deliveries     int           `json:"deliveries"`
	Attempts       int           `json:"attempts"`
	Acked          int           `json:"acked"`       // deliveries
	Refused        int           `json:"refused"`     // attempts
	Unanswered     int           `json:"unanswered"`  // attempts
	Events         int           `json:"events"`      // that were blessed
	Stored         int           `json:"stored"`      // messages in the events stream
	Quarantined    int           `json:"quarantined"` // messages in the quarantine stream
	Lost           int           `json:"lost"`
	Ghosts         int           `json:"ghosts"` // messages that nobody sent
	Changed        int           `json:"changed"`
	Duplicates     int           `json:"duplicates"`
	OtherID        int           `json:"other_id"`         // of the duplicates: under another id
	StoredNotAcked int           `json:"stored_not_acked"` // deliveries
	NotRetryable   int           `json:"not_retryable"`    // attempts refused in a way that ends retries
	LongestRefusal time.Duration `json:"longest_refusal_ns"`
	// Details describe the first findings.
	Details []string `json:"details,omitempty"`
}

// maxDetails bounds what a verdict describes.
const maxDetails = 12

// Judge holds a book against what is stored.
type Judge struct {
	book    *Book
	rules   Rules
	found   map[string]*found
	missing int // events that are owed and not there yet
	ghosts  int
	stored  int
	kept    int
	details []string
	owed    map[string]bool
}

// found is what was found of one delivery.
type found struct {
	ids     []string // by expected element, "" for what is not there
	changed int
	doubled int
	otherID int
}

// NewJudge prepares to judge by a book.
func NewJudge(b *Book, r Rules) (*Judge, error) {
	j := &Judge{book: b, rules: r, found: map[string]*found{}, owed: map[string]bool{}}
	for _, uid := range b.order {
		d := b.deliveries[uid]
		if !d.owed(&r) {
			continue
		}
		x, err := b.expected(uid)
		if err != nil {
			return nil, err
		}
		j.owed[uid] = true
		j.missing += len(x.all)
	}
	return j, nil
}

// owed tells whether a delivery has to be stored.
func (d *delivery) owed(r *Rules) bool {
	if d.state() == Acked {
		return true
	}
	for _, a := range d.attempts {
		if slices.Contains(r.Redeemed, a.status) {
			return true
		}
	}
	return false
}

// expectation is what must become of a delivery, and where each event and each raw
// form is in it.
type expectation struct {
	all    []Expected
	prints map[print][]int
	raws   map[[sha256.Size]byte][]int
}

// expected returns what must become of a delivery: of all of its bodies together,
// where they differ, as many of each element as the one has that has most of it.
func (b *Book) expected(uid string) (*expectation, error) {
	if x, ok := b.cached[uid]; ok {
		return x, nil
	}
	d := b.deliveries[uid]
	x := &expectation{prints: map[print][]int{}, raws: map[[sha256.Size]byte][]int{}}
	for _, at := range d.bodies {
		body, err := b.body(at)
		if err != nil {
			return nil, err
		}
		seen := map[print]int{}
		for _, e := range Expect(d.provider, d.contentType, body) {
			p := e.print(d.provider, d.endpoint)
			if seen[p]++; seen[p] <= len(x.prints[p]) {
				continue
			}
			raw := sha256.Sum256(e.Raw)
			x.prints[p] = append(x.prints[p], len(x.all))
			x.raws[raw] = append(x.raws[raw], len(x.all))
			x.all = append(x.all, e)
		}
	}
	if len(b.cached) > 1000 {
		clear(b.cached)
	}
	b.cached[uid] = x
	d.expected = len(x.all)
	return x, nil
}

// Missing returns how many events are owed and were not seen yet.
func (j *Judge) Missing() int { return j.missing }

// See takes in one message of a stream.
func (j *Judge) See(m *Message) error {
	if m.Stream == Quarantine {
		j.kept++
	} else {
		j.stored++
	}
	uid := UID.FindString(string(m.Data))
	d := j.book.deliveries[uid]
	if d == nil {
		j.ghosts++
		j.describe("GHOST %s %d on %s: nobody sent %.200q", m.Stream, m.Seq, m.Subject, m.Data)
		return nil
	}
	x, err := j.book.expected(uid)
	if err != nil {
		return err
	}
	f := j.found[uid]
	if f == nil {
		f = &found{ids: make([]string, len(x.all))}
		j.found[uid] = f
	}
	if m.Stream == Quarantine {
		j.seeQuarantined(m, uid, d, x, f)
	} else {
		j.seeEvent(m, uid, d, x, f)
	}
	return nil
}

func (j *Judge) seeEvent(m *Message, uid string, d *delivery, x *expectation, f *found) {
	e, raw, id, wrong := decode(m)
	if wrong != "" {
		f.changed++
		j.describe("CHANGED %s at %d: %s", uid, m.Seq, wrong)
		return
	}
	double := -1
	for _, i := range x.prints[printOf(e, raw)] {
		if f.ids[i] == "" {
			j.fill(uid, f, i, id)
			return
		}
		if double < 0 || f.ids[i] == id {
			double = i
		}
	}
	switch {
	case double < 0:
		f.changed++
		j.describe("CHANGED %s at %d: %s", uid, m.Seq, difference(e, raw, x.all, d))
	case x.all[double].Anew && len(d.attempts) > 1:
		// Another delivery of what has no identity is another event.
	default:
		f.doubled++
		if f.ids[double] != id {
			f.otherID++
		} else if j.rules.Doubles {
			return
		}
		j.describe("DUP %s at %d: id %s, had %s, type %v", uid, m.Seq, id, f.ids[double], e["type"])
	}
}

// seeQuarantined takes raw bytes for what they are: a whole body or an element. An
// element stands for all of its events.
func (j *Judge) seeQuarantined(m *Message, uid string, d *delivery, x *expectation, f *found) {
	id := m.Header.Get("Nats-Msg-Id")
	if m.Header.Get("Blessd-Provider") != d.provider || m.Header.Get("Blessd-Endpoint") != d.endpoint || m.Header.Get("Blessd-Reason") == "" {
		f.changed++
		j.describe("CHANGED %s in quarantine at %d: headers %v", uid, m.Seq, m.Header)
		return
	}
	hits, misplaced, doubled := 0, 0, false
	for _, i := range x.raws[sha256.Sum256(m.Data)] {
		if f.ids[i] != "" {
			doubled = true
			continue
		}
		if x.all[i].Event != nil && (j.rules.MaxEvent == 0 || len(m.Data) < j.rules.MaxEvent) {
			misplaced++
		}
		hits++
		j.fill(uid, f, i, id)
		if x.all[i].Event == nil {
			break // one entry for each
		}
	}
	switch {
	case misplaced > 0:
		f.changed += misplaced
		j.describe("CHANGED %s: in quarantine at %d as %s, should be %d events", uid, m.Seq, m.Header.Get("Blessd-Reason"), misplaced)
	case hits == 0 && doubled:
		f.doubled++
		j.describe("DUP %s in quarantine at %d", uid, m.Seq)
	case hits == 0:
		f.changed++
		j.describe("CHANGED %s: quarantine %d has what was not sent: %.200q", uid, m.Seq, m.Data)
	}
}

func (j *Judge) fill(uid string, f *found, i int, id string) {
	f.ids[i] = id
	if j.owed[uid] {
		j.missing--
	}
}

func (j *Judge) describe(format string, args ...any) {
	if len(j.details) < maxDetails {
		j.details = append(j.details, fmt.Sprintf(format, args...))
	}
}

// decode reads a stored event and checks all that does not depend on what was sent.
func decode(m *Message) (e object, raw []byte, id, wrong string) {
	var r map[string]json.RawMessage
	if json.Unmarshal(m.Data, &r) != nil {
		return nil, nil, "", fmt.Sprintf("not a JSON object: %.200q", m.Data)
	}
	e = object{}
	for name, value := range r {
		switch name {
		case "raw":
			raw = value
		case "raw_base64":
			if json.Unmarshal(value, &raw) != nil { // which reads base64 into bytes
				return nil, nil, "", "raw_base64 is not base64"
			}
		default:
			d := json.NewDecoder(bytes.NewReader(value))
			d.UseNumber()
			var v any
			if d.Decode(&v) != nil {
				return nil, nil, "", fmt.Sprintf("%s is not JSON", name)
			}
			e[name] = v
		}
	}
	id, _ = e["id"].(string)
	typ, _ := e["type"].(string)
	endpoint, _ := e["endpoint"].(string)
	received, _ := e["received"].(string)
	if _, err := time.Parse("2006-01-02T15:04:05.000Z", received); err != nil {
		return nil, nil, "", fmt.Sprintf("received is %q", received)
	}
	if e["time_source"] == "received" && e["time"] != received {
		return nil, nil, "", fmt.Sprintf("time is %v, and received %v", e["time"], received)
	}
	when, _ := e["time"].(string)
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return nil, nil, "", fmt.Sprintf("id is %q", id)
	}
	if want := fmt.Sprintf("mail.events.%v.%s.%s", e["provider"], endpoint, typ); m.Subject != want {
		return nil, nil, "", fmt.Sprintf("subject is %s, want %s", m.Subject, want)
	}
	for name, want := range map[string]string{
		"Nats-Msg-Id": id, "Content-Type": "application/json", "ce-specversion": "1.0", "ce-id": id,
		"ce-source": "/blessd/" + endpoint, "ce-type": "blessd." + typ, "ce-time": when,
	} {
		if got := m.Header.Get(name); got != want {
			return nil, nil, "", fmt.Sprintf("header %s is %q, want %q", name, got, want)
		}
	}
	if to, ok := e["recipient"].(string); ok {
		if got, err := url.PathUnescape(m.Header.Get("ce-subject")); err != nil || got != to {
			return nil, nil, "", fmt.Sprintf("header ce-subject is %q, want %q", got, to)
		}
	}
	delete(e, "id")
	delete(e, "received")
	if e["time_source"] == "received" {
		delete(e, "time")
	}
	return e, raw, id, ""
}

// difference says how an event differs from what it most likely should be.
func difference(e object, raw []byte, x []Expected, d *delivery) string {
	for i := range x {
		if x[i].Event == nil || !bytes.Equal(x[i].Raw, raw) {
			continue
		}
		want := maps.Clone(x[i].Event)
		want["provider"], want["endpoint"], want["time_source"] = d.provider, d.endpoint, "provider"
		if want["time"] == nil {
			want["time_source"] = "received"
		}
		a, err1 := json.Marshal(e)
		b, err2 := json.Marshal(want)
		if err := errors.Join(err1, err2); err != nil {
			return err.Error()
		}
		return fmt.Sprintf("stored %s, want %s", a, b)
	}
	return fmt.Sprintf("raw is not what was sent: %.300s", raw)
}

// Verdict returns the judgement on what was seen.
func (j *Judge) Verdict() (*Verdict, error) {
	v := &Verdict{
		Deliveries: len(j.book.order), Attempts: j.book.attempts, Ghosts: j.ghosts, Stored: j.stored, Quarantined: j.kept,
		LongestRefusal: j.book.longestRefusal(),
	}
	for _, uid := range j.book.order {
		d, f := j.book.deliveries[uid], j.found[uid]
		if d.state() == Acked {
			v.Acked++
		}
		for _, a := range d.attempts {
			switch a.state {
			case Refused:
				v.Refused++
				if a.status != 503 && a.status != 429 && !slices.Contains(j.rules.Statuses, a.status) && !slices.Contains(j.rules.Redeemed, a.status) {
					v.NotRetryable++
					j.describe("REFUSED %s with %d", uid, a.status)
				}
			case Unknown:
				v.Unanswered++
			case Acked:
			}
		}
		there := 0
		if f != nil {
			v.Changed += f.changed
			v.Duplicates += f.doubled
			v.OtherID += f.otherID
			for _, id := range f.ids {
				if id != "" {
					there++
				}
			}
		}
		if !j.owed[uid] {
			if there > 0 {
				v.StoredNotAcked++
				if j.rules.OnlyAcked {
					j.describe("STORED-NOT-ACKED %s: %d events, %d attempts", uid, there, len(d.attempts))
				}
			}
			continue
		}
		v.Events += d.expected
		lost := d.expected - there
		if f != nil {
			lost = max(0, lost-f.changed) // one that was changed is not lost as well
		}
		if v.Lost += lost; lost > 0 {
			j.describe("LOST %s (%s): %d of %d events", uid, d.endpoint, lost, d.expected)
		}
	}
	v.Details = j.details
	return v, nil
}

// longestRefusal is the longest time in which nothing was blessed: from when the
// first of consecutive attempts that failed was sent to when the last was answered.
func (b *Book) longestRefusal() time.Duration {
	var all []attempt
	for _, d := range b.deliveries {
		for _, a := range d.attempts {
			if a.answered.IsZero() {
				continue
			}
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(x, y attempt) int { return x.answered.Compare(y.answered) })
	var longest time.Duration
	var since time.Time
	for _, a := range all {
		switch {
		case a.state == Acked:
			since = time.Time{}
		case since.IsZero():
			since = a.sent
			fallthrough
		default:
			longest = max(longest, a.answered.Sub(since))
		}
	}
	return longest
}

// Problems returns what is wrong by the rules; none means that the run was good.
func (v *Verdict) Problems(r Rules) []string {
	var all []string
	wrong := func(n int, what string) {
		if n > 0 {
			all = append(all, fmt.Sprintf("%d %s", n, what))
		}
	}
	if v.Acked == 0 {
		all = append(all, "nothing was blessed: this run shows nothing")
	}
	wrong(v.Lost, "LOST")
	wrong(v.Ghosts, "GHOST")
	wrong(v.Changed, "CHANGED")
	if !r.Doubles {
		wrong(v.Duplicates, "DUP")
	}
	wrong(v.OtherID, "stored again under another id")
	wrong(v.NotRetryable, "REFUSED-TRANSIENT: refused in a way that makes a provider give up")
	if r.OnlyAcked {
		wrong(v.StoredNotAcked, "STORED-NOT-ACKED")
	}
	if r.NothingRefused {
		wrong(v.Refused, "refused, none should be")
		wrong(v.Unanswered, "not answered, all should be")
	}
	return all
}

// JudgeStreams reads both streams from their first message, and what is in these
// oversize directories, and returns the verdict.
func JudgeStreams(ctx context.Context, b *Book, url string, r Rules, oversize ...string) (*Verdict, error) {
	j, err := NewJudge(b, r)
	if err != nil {
		return nil, err
	}
	reader, err := NewReader(url)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	if err := reader.Read(ctx, j.See); err != nil {
		return nil, err
	}
	for _, dir := range oversize {
		if err := ReadOversize(dir, j.See); err != nil {
			return nil, err
		}
	}
	return j.Verdict()
}
