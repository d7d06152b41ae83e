package sink

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/blessd/blessd/event"
)

// The headers. They are set by assignment, never through a method that changes
// case: the server suppresses doubles by exactly this spelling of Nats-Msg-Id.
const (
	headerID          = "Nats-Msg-Id"
	headerContentType = "Content-Type"
	headerTraceparent = "traceparent"

	// CloudEvents 1.0, NATS binding, binary mode.
	headerSpecVersion = "ce-specversion"
	headerCEID        = "ce-id"
	headerCESource    = "ce-source"
	headerCEType      = "ce-type"
	headerCETime      = "ce-time"
	headerCESubject   = "ce-subject"

	headerProvider     = "Blessd-Provider"
	headerEndpoint     = "Blessd-Endpoint"
	headerReceived     = "Blessd-Received"
	headerOriginalType = "Blessd-Content-Type"
	headerReason       = "Blessd-Reason"
	headerRecord       = "Blessd-Record"
	headerElement      = "Blessd-Element"
	headerOccurrence   = "Blessd-Occurrence"
	headerTest         = "Blessd-Test"
)

// maxCESubject bounds ce-subject. The server refuses headers above 64 KiB, and
// no address that a stranger makes up shall make an event unstorable; what is
// longer stands in the body alone.
const maxCESubject = 1024

// Quarantined is an authentic body, or one element of it, that could not be
// understood, with what is needed to put it through a better normalizer.
type Quarantined struct {
	Provider, Endpoint string
	// ID is the same at every redelivery, see event.NewID.
	ID string
	// Reason is a word from the normalizer's closed list.
	Reason string
	// ContentType is that of Raw.
	ContentType string
	// Received is the delivery's.
	Received time.Time
	// Record is the index of the journal record it came in.
	Record uint64
	// Element is the index in the batch, -1 for the whole body.
	Element int
	// Occurrence counts equal ones in one delivery, from 0.
	Occurrence int
	// Test is true when the delivery was verified by a sample key of blessd's own:
	// what comes of it is a test.
	Test bool
	// Traceparent is the request's W3C trace context header, "" for none.
	Traceparent string
	// Raw is what was received, byte for byte.
	Raw []byte
}

// EventMessage returns e as it is published. Traceparent is the request's W3C
// trace context header, "" for none; one that is not valid is left out.
func (s *Sink) EventMessage(e *event.Event, traceparent string) (*nats.Msg, error) {
	subject, err := eventSubject(s.o.Prefix, e.Provider, e.Endpoint, e.Type)
	if err != nil {
		return nil, fmt.Errorf("event %.40q: %w", e.ID, err)
	}
	if !validID(e.ID) {
		return nil, fmt.Errorf("event id %.40q is not 32 hexadecimal digits", e.ID)
	}
	body, err := event.Encode(e)
	if err != nil {
		return nil, err
	}
	h := nats.Header{
		headerID:          {e.ID},
		headerContentType: {"application/json"},
		headerSpecVersion: {"1.0"},
		headerCEID:        {e.ID},
		headerCESource:    {"/blessd/" + e.Endpoint},
		headerCEType:      {s.o.CETypePrefix + "." + string(e.Type)},
		headerCETime:      {e.Time.String()},
	}
	if v := percentEncode(about(e)); v != "" && len(v) <= maxCESubject {
		h[headerCESubject] = []string{v}
	}
	if validTraceparent(traceparent) {
		h[headerTraceparent] = []string{traceparent}
	}
	return &nats.Msg{Subject: subject, Header: h, Data: body}, nil
}

// QuarantineMessage returns q as it is published. The body is q.Raw itself.
func (s *Sink) QuarantineMessage(q Quarantined) (*nats.Msg, error) {
	subject, err := quarantineSubject(s.o.Prefix, q.Provider, q.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("quarantine %.40q: %w", q.ID, err)
	}
	if !validID(q.ID) {
		return nil, fmt.Errorf("quarantine id %.40q is not 32 hexadecimal digits", q.ID)
	}
	if err := checkToken("reason", q.Reason); err != nil {
		return nil, err
	}
	h := nats.Header{
		headerID:         {q.ID},
		headerProvider:   {q.Provider},
		headerEndpoint:   {q.Endpoint},
		headerReceived:   {q.Received.UTC().Format(time.RFC3339Nano)},
		headerReason:     {q.Reason},
		headerRecord:     {strconv.FormatUint(q.Record, 10)},
		headerElement:    {strconv.Itoa(q.Element)},
		headerOccurrence: {strconv.Itoa(q.Occurrence)},
	}
	if q.ContentType != "" {
		h[headerOriginalType] = []string{q.ContentType}
	}
	if q.Test {
		h[headerTest] = []string{"true"}
	}
	if validTraceparent(q.Traceparent) {
		h[headerTraceparent] = []string{q.Traceparent}
	}
	return &nats.Msg{Subject: subject, Header: h, Data: q.Raw}, nil
}

// ParseQuarantined reads back what QuarantineMessage wrote. It is how replay
// gets at a quarantined body.
func ParseQuarantined(h nats.Header, raw []byte) (Quarantined, error) {
	q := Quarantined{
		Provider:    h.Get(headerProvider),
		Endpoint:    h.Get(headerEndpoint),
		ID:          h.Get(headerID),
		Reason:      h.Get(headerReason),
		ContentType: h.Get(headerOriginalType),
		Test:        h.Get(headerTest) == "true",
		Traceparent: h.Get(headerTraceparent),
		Raw:         raw,
	}
	var err error
	if q.Received, err = time.Parse(time.RFC3339Nano, h.Get(headerReceived)); err != nil {
		return Quarantined{}, fmt.Errorf("header %s: %w", headerReceived, err)
	}
	if q.Record, err = strconv.ParseUint(h.Get(headerRecord), 10, 64); err != nil {
		return Quarantined{}, fmt.Errorf("header %s: %w", headerRecord, err)
	}
	if q.Element, err = strconv.Atoi(h.Get(headerElement)); err != nil {
		return Quarantined{}, fmt.Errorf("header %s: %w", headerElement, err)
	}
	if q.Occurrence, err = strconv.Atoi(h.Get(headerOccurrence)); err != nil {
		return Quarantined{}, fmt.Errorf("header %s: %w", headerOccurrence, err)
	}
	return q, nil
}

// about is what the event is about, for CloudEvents' subject: whom the message
// went to, or the next best name.
func about(e *event.Event) string {
	switch {
	case e.Recipient != "":
		return e.Recipient
	case e.Contact != nil && e.Contact.Email != "":
		return e.Contact.Email
	case e.Message != nil && e.Message.ID != "":
		return e.Message.ID
	case e.Contact != nil && e.Contact.ID != "":
		return e.Contact.ID
	case len(e.Lists) > 0:
		return e.Lists[0].ID
	}
	return ""
}

// percentEncode writes s as CloudEvents wants it in a header: every byte of a
// space, a double quote, a percent sign and of whatever is not printable ASCII
// as a percent sign and two upper-case hexadecimal digits.
func percentEncode(s string) string {
	plain := func(c byte) bool { return c > ' ' && c <= '~' && c != '"' && c != '%' }
	n := 0
	for i := range len(s) {
		if !plain(s[i]) {
			n++
		}
	}
	if n == 0 {
		return s
	}
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	b.Grow(len(s) + 2*n)
	for i := range len(s) {
		if c := s[i]; plain(c) {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(digits[c>>4])
			b.WriteByte(digits[c&15])
		}
	}
	return b.String()
}

// validID tells whether s has the form of event.NewID.
func validID(s string) bool { return len(s) == 32 && isHex(s) }

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// validTraceparent tells whether s is a W3C trace context header of version 00,
// the only one there is.
func validTraceparent(s string) bool {
	if len(s) != 55 || s[:3] != "00-" || s[35] != '-' || s[52] != '-' {
		return false
	}
	trace, parent, flags := s[3:35], s[36:52], s[53:]
	return isHex(trace) && isHex(parent) && isHex(flags) &&
		strings.Trim(trace, "0") != "" && strings.Trim(parent, "0") != ""
}
