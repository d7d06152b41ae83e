// Package normalize turns deliveries into canonical events: one accepted request
// in, its events and what could not be understood out, in the order of the body.
//
// It is pure. It knows no keys, no HTTP server, no NATS and no clock: the same
// delivery yields the same results on every machine and in every year, which is
// what makes ids stable and records replayable.
//
// It is total. Any bytes yield results and never an error or a panic: a kind
// that nobody knows becomes other.unknown with its raw bytes, and what is not an
// event at all becomes a [Reject].
//
// Each provider has one file, which holds what the provider is known to send and
// what it gets wrong, and one line in the table below.
package normalize

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"iter"
	"slices"
	"time"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
)

// Result is one outcome of normalizing: exactly one of Event and Reject is set.
type Result struct {
	Event  *event.Event
	Reject *Reject
	// Element is the index in the batch, or -1 for the whole body.
	Element int
	// Occurrence counts what is equal within one delivery, from 0.
	Occurrence int
}

// Reject is an authentic body, or an element of one, that cannot be understood.
type Reject struct {
	Reason Reason
	// ID is [event.NewID] over provider, endpoint, "reject" with the SHA-256 of
	// Raw in hexadecimal digits, and the occurrence.
	ID string
	// Raw is what was not understood, byte for byte. It aliases the delivery's
	// body or memory of its own, and nothing writes to either.
	Raw []byte
	// ContentType is Raw's: the request's for a whole body, else application/json.
	ContentType string
}

// Reason says why something was rejected. It is a metric label: a closed list.
type Reason string

// The reasons.
const (
	ReasonAmbiguous         Reason = "ambiguous"          // two values where only one can be meant
	ReasonTooComplex        Reason = "too_complex"        // nested too deep, too many keys or too much fan-out
	ReasonUnknownProvider   Reason = "unknown_provider"   // a newer or older program wrote the delivery
	ReasonUnreadableBody    Reason = "unreadable_body"    // not what this provider could have sent, or cut short
	ReasonUnreadableElement Reason = "unreadable_element" // an element of a batch that is no JSON object
)

// Reasons returns every reason, sorted. The slice is the caller's.
func Reasons() []Reason {
	return []Reason{
		ReasonAmbiguous, ReasonTooComplex, ReasonUnknownProvider,
		ReasonUnreadableBody, ReasonUnreadableElement,
	}
}

// provider is what a provider's file contributes.
type provider struct {
	name string
	// elements finds the elements of a body that is not empty: each one JSON
	// value without outer blanks. A reason other than "" rejects the whole body;
	// it is given before the first element, so that a damaged body has none.
	elements func(d *delivery.Delivery) (iter.Seq[[]byte], Reason)
	// events says what one element means: one finding or more, or the reason why
	// it is rejected. raw becomes the raw form of each event and is not written to.
	events func(d *delivery.Delivery, raw []byte) ([]finding, Reason)
	// body returns the whole body that an element's raw form stands for, or false
	// where it stands for the element alone. Nil where it always does.
	body func(raw []byte) ([]byte, bool)
}

// finding is one event as a provider's file understands it. The event holds its
// type, its details, its time if the provider sent one that can be used (else the
// zero time), and Test if the provider marks it. The rest is filled in here.
type finding struct {
	event event.Event
	// identity is what tells this event from every other one of the endpoint. See event.NewID.
	identity []string
}

// providers is sorted by name.
var providers = []provider{
	enkodProvider,
	mailgunProvider,
	sarvProvider,
	sendcleanProvider,
	vision6Provider,
}

// Each yields the delivery's events and rejects in the order of its body. Each
// event is made when it is asked for, so that a large body never exists as a list
// of events. A body that is not valid as a whole yields one reject and no event;
// an empty body or an empty batch, which is how providers probe a URL, yields
// nothing. Raw forms may alias d.Body, which must not be written to afterwards.
func Each(d *delivery.Delivery) iter.Seq[Result] {
	return func(yield func(Result) bool) {
		p, ok := find(d.Provider)
		seen := occurrences{d: d, count: make(map[[16]byte]int)}
		if !ok {
			yield(seen.reject(ReasonUnknownProvider, -1, d.Body, d.ContentType))
			return
		}
		if len(d.Body) == 0 {
			return
		}
		elements, reason := p.elements(d)
		if reason != "" {
			yield(seen.reject(reason, -1, d.Body, d.ContentType))
			return
		}
		element := -1
		for raw := range elements {
			element++
			findings, reason := p.events(d, raw)
			if reason != "" {
				if !yield(seen.reject(reason, element, raw, jsonType)) {
					return
				}
				continue
			}
			for i := range findings {
				if !yield(seen.event(&findings[i], element, raw)) {
					return
				}
			}
		}
	}
}

func find(name string) (provider, bool) {
	i, ok := slices.BinarySearchFunc(providers, name, func(p provider, name string) int { return cmp.Compare(p.name, name) })
	if !ok {
		return provider{}, false
	}
	return providers[i], true
}

// Element yields what Each would yield of one element of a batch: of a delivery that
// had d.Body, the raw form of an event or of a reject, as its element of that index,
// behind as many equal ones as equal says. It is how what was quarantined alone is put
// through a newer program, and d has the rest of what the delivery had. The ids are
// those of Each unless other elements, with other bytes, were the same event.
func Element(d *delivery.Delivery, element, equal int) iter.Seq[Result] {
	return func(yield func(Result) bool) {
		raw := d.Body
		seen := occurrences{d: d, count: make(map[[16]byte]int)}
		findings, reason := []finding(nil), ReasonUnknownProvider
		if p, ok := find(d.Provider); ok {
			findings, reason = p.element(d, raw)
		}
		if reason != "" {
			seen.id(rejected(raw))
		}
		for i := range findings {
			seen.id(findings[i].identity)
		}
		for id, n := range seen.count {
			seen.count[id] = n * equal // each equal element had the same results
		}
		if reason != "" {
			yield(seen.reject(reason, element, raw, jsonType))
			return
		}
		for i := range findings {
			if !yield(seen.event(&findings[i], element, raw)) {
				return
			}
		}
	}
}

// element says what an element means without the body that it came in.
func (p *provider) element(d *delivery.Delivery, raw []byte) ([]finding, Reason) {
	if len(raw) == 0 || raw[0] == '{' && !isValid(raw) {
		return nil, ReasonUnreadableElement
	}
	in := *d
	if p.body != nil {
		if body, ok := p.body(raw); ok {
			in.Body = body
			if _, reason := p.elements(&in); reason != "" {
				return nil, reason
			}
			return p.events(&in, raw)
		}
	}
	in.Body = slices.Concat([]byte("["), raw, []byte("]"))
	return p.events(&in, raw)
}

const jsonType = "application/json"

// occurrences numbers what is equal within one delivery and completes results.
type occurrences struct {
	d *delivery.Delivery
	// count is by the id of the first occurrence, which is shorter than an
	// identity that may be a whole element.
	count map[[16]byte]int
}

// id returns the id of an identity and how often it was seen before.
func (o *occurrences) id(identity []string) (string, int) {
	id := event.NewID(o.d.Provider, o.d.Endpoint, identity, 0)
	var key [16]byte
	_, _ = hex.Decode(key[:], []byte(id)) // NewID promises 32 hexadecimal digits
	n := o.count[key]
	o.count[key] = n + 1
	if n > 0 {
		id = event.NewID(o.d.Provider, o.d.Endpoint, identity, n)
	}
	return id, n
}

// rejected is the identity of what cannot be understood.
func rejected(raw []byte) []string {
	sum := sha256.Sum256(raw)
	return []string{"reject", hex.EncodeToString(sum[:])}
}

func (o *occurrences) reject(reason Reason, element int, raw []byte, contentType string) Result {
	id, n := o.id(rejected(raw))
	return Result{Element: element, Occurrence: n, Reject: &Reject{
		Reason: reason, ID: id, Raw: raw, ContentType: contentType,
	}}
}

func (o *occurrences) event(f *finding, element int, raw []byte) Result {
	e := &f.event
	var n int
	e.ID, n = o.id(f.identity)
	e.Received = event.NewTime(o.d.Received)
	e.TimeSource = event.TimeFromProvider
	if e.Time.IsZero() {
		e.Time, e.TimeSource = e.Received, event.TimeFromReceipt
	}
	e.Provider, e.Endpoint = o.d.Provider, o.d.Endpoint
	e.Test = e.Test || o.d.Verified.Sample
	e.SetRaw(raw)
	return Result{Event: e, Element: element, Occurrence: n}
}

// byReceipt adds the recorded receive time to the identity of findings that have
// no time of their own: what tells two of them apart is when they came. The price
// is that a redelivery of such an event is a new one; the other choice would be
// to lose the second of two real ones.
func byReceipt(d *delivery.Delivery, findings []finding) []finding {
	for i := range findings {
		if f := &findings[i]; f.event.Time.IsZero() {
			f.identity = append(f.identity, received(d))
		}
	}
	return findings
}

// received is the recorded receive time as part of an identity.
func received(d *delivery.Delivery) string { return d.Received.UTC().Format(time.RFC3339Nano) }

// unknown is the finding for a kind that the provider's file does not know.
func unknown(raw []byte) finding {
	return finding{event: event.Event{Type: event.OtherUnknown}, identity: []string{string(raw)}}
}
