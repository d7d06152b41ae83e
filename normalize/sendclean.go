package normalize

import (
	"bytes"
	"io"
	"iter"
	"mime"
	"mime/multipart"
	"net/mail"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
)

// SendClean and Sarv are one platform under two brands: the documented payloads
// are byte for byte the same.
// https://sendclean.com/docs/email-api/webhooks.PHP.php
// https://sarv.com/docs/transactional-email/webhooks.PHP.php
//
// What they get wrong: no recipient anywhere, so that x_unique_id, the header
// that the sender set, is the only way back; _id is the message's and shared by
// all of its events; ts of a click is not when the click was; bounceCodeTrad may
// contradict the text beside it (472 and "552 5.2.2"), and both are kept; the
// date in a feedback report has the month in full.
var (
	sarvProvider      = provider{name: "sarv", elements: sendcleanElements, events: sendcleanEvents}
	sendcleanProvider = provider{name: "sendclean", elements: sendcleanElements, events: sendcleanEvents}
)

// sendcleanTypes has no entry for kinds of which nothing is documented, such as
// unsubscribes: they become other.unknown.
var sendcleanTypes = map[string]event.Type{
	"send":        event.EmailSent,
	"delivered":   event.EmailDelivered, // in the sample payload but in no list of events to subscribe to
	"soft_bounce": event.EmailBounced,
	"hard_bounce": event.EmailBounced,
	"open":        event.EmailOpened,
	"click":       event.EmailClicked,
	"spam":        event.EmailComplained,
}

var sendcleanClasses = map[string]event.BounceClass{
	"soft_bounce": event.BounceSoft,
	"hard_bounce": event.BounceHard,
}

type sendcleanEvent struct {
	ID       text                 `json:"_id"`
	UserID   text                 `json:"user_id"` // not documented, but receivers read it
	SMTPName text                 `json:"smtp_name"`
	UniqueID text                 `json:"x_unique_id"`
	TS       text                 `json:"ts"` // milliseconds
	Event    text                 `json:"event"`
	Msg      object[sendcleanMsg] `json:"msg"`
}

type sendcleanMsg struct {
	BounceDesc     text                         `json:"bounceDesc"`
	BounceCodeTrad text                         `json:"bounceCodeTrad"`
	BounceCodeEnh  text                         `json:"bounceCodeEnh"`
	FeedbackReport text                         `json:"feedbackReport"`
	Opens          list[object[sendcleanOpen]]  `json:"opens"`
	Clicks         list[object[sendcleanClick]] `json:"clicks"`
}

type sendcleanOpen struct {
	TS text `json:"openTs"`
	IP text `json:"openIp"`
	UA text `json:"openUa"`
}

type sendcleanClick struct {
	TS  text `json:"clickTs"`
	URL text `json:"clickUrl"`
	IP  text `json:"clickIp"`
	UA  text `json:"clickUa"`
}

// maxFanOut bounds the bytes of all the events of one element, each of which
// carries the whole of it: without a bound 8 MiB of opens would be terabytes.
const maxFanOut = 64 << 20

func sendcleanEvents(d *delivery.Delivery, raw []byte) ([]finding, Reason) {
	s, reason := decode[sendcleanEvent](raw, "_id", "x_unique_id", "ts", "event", "msg")
	if reason != "" {
		return nil, reason
	}
	kind := s.Event.Word()
	kindType, known := sendcleanTypes[kind]
	if !known {
		return []finding{unknown(raw)}, ""
	}
	msg := s.Msg.V

	anonymous := "" // what identifies an event without a message id, copied once
	if s.ID.String() == "" {
		anonymous = string(raw)
	}
	// base is what all events of this element have in common.
	base := func() finding {
		f := finding{
			event:    event.Event{Type: kindType, Time: s.TS.Time()},
			identity: []string{s.ID.Identity(), s.UniqueID.Identity(), kind},
		}
		m := event.Message{
			ID:            s.ID.String(),
			CorrelationID: s.UniqueID.String(),
			SMTPUser:      s.SMTPName.String(),
			AccountID:     s.UserID.String(),
		}
		if m.ID != "" || m.CorrelationID != "" || m.SMTPUser != "" || m.AccountID != "" {
			f.event.Message = &m
		}
		if m.ID == "" {
			f.identity = append(f.identity, anonymous)
		}
		return f
	}
	// inner sets the time of an open or click from its own field, and from the
	// element's when that cannot be used; what was used identifies the event.
	inner := func(f *finding, ts text) {
		f.identity = append(f.identity, "at", ts.Identity())
		if t := ts.Time(); !t.IsZero() {
			f.event.Time = t
			return
		}
		f.identity = append(f.identity, "ts", s.TS.Identity())
	}

	switch kindType {
	case event.EmailOpened:
		if len(msg.Opens) > 0 {
			if len(msg.Opens)*len(raw) > maxFanOut {
				return nil, ReasonTooComplex
			}
			findings := make([]finding, len(msg.Opens))
			for i, o := range msg.Opens {
				f := base()
				inner(&f, o.V.TS)
				f.identity = append(f.identity, "by", o.V.IP.Identity(), o.V.UA.Identity())
				f.event.Client = sendcleanClient(o.V.IP, o.V.UA)
				findings[i] = f
			}
			return byReceipt(d, findings), ""
		}
	case event.EmailClicked:
		if len(msg.Clicks) > 0 {
			if len(msg.Clicks)*len(raw) > maxFanOut {
				return nil, ReasonTooComplex
			}
			findings := make([]finding, len(msg.Clicks))
			for i, c := range msg.Clicks {
				f := base()
				inner(&f, c.V.TS)
				f.identity = append(f.identity, "by", c.V.URL.Identity(), c.V.IP.Identity(), c.V.UA.Identity())
				if u := c.V.URL.String(); u != "" {
					f.event.Click = &event.Click{URL: u}
				}
				f.event.Client = sendcleanClient(c.V.IP, c.V.UA)
				findings[i] = f
			}
			return byReceipt(d, findings), ""
		}
	}

	f := base()
	f.identity = append(f.identity, "ts", s.TS.Identity())
	switch kindType {
	case event.EmailBounced:
		f.identity = append(f.identity, msg.BounceCodeTrad.Identity(), msg.BounceCodeEnh.Identity())
		f.event.Bounce = &event.Bounce{
			Class:        sendcleanClasses[kind],
			Code:         replyCode(msg.BounceCodeTrad),
			EnhancedCode: enhancedCode(msg.BounceCodeEnh),
			Description:  strings.TrimSpace(msg.BounceDesc.String()),
			Reason:       event.ReasonBounced,
		}
	case event.EmailComplained:
		f.event.Bounce = &event.Bounce{Reason: event.ReasonSpam}
		f.event.Complaint, f.event.Recipient = feedbackReport(msg.FeedbackReport.String())
	}
	return byReceipt(d, []finding{f}), ""
}

func sendcleanClient(ip, ua text) *event.Client {
	c := event.Client{IP: ip.String(), UserAgent: ua.String()}
	if c == (event.Client{}) {
		return nil
	}
	return &c
}

// replyCode returns an SMTP reply code, or 0 for what cannot be one.
func replyCode(t text) int {
	if n, ok := t.Int(); ok && n >= 100 && n <= 999 {
		return n
	}
	return 0
}

var enhancedPattern = regexp.MustCompile(`^[245]\.\d{1,3}\.\d{1,3}$`)

// enhancedCode returns a status code of RFC 3463, or "" for what cannot be one.
func enhancedCode(t text) string {
	s := strings.TrimSpace(t.String())
	if !enhancedPattern.MatchString(s) {
		return ""
	}
	return s
}

// feedbackReport reads the fields of an abuse report (RFC 5965), which come
// without the MIME structure around them. A field that cannot be read is absent,
// and so is a report without any. The recipient is "" unless the report names a
// plain address.
func feedbackReport(report string) (*event.Complaint, string) {
	var c event.Complaint
	fields := map[string]*string{
		"feedback-type":      &c.FeedbackType,
		"abuse-type":         &c.AbuseType,
		"user-agent":         &c.Reporter,
		"source-ip":          &c.SourceIP,
		"original-rcpt-to":   &c.OriginalRecipient,
		"original-mail-from": &c.OriginalMailFrom,
		"reported-domain":    &c.ReportedDomain,
	}
	for line := range strings.Lines(unfold.Replace(report)) {
		name, value, ok := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		if !ok || value == "" {
			continue
		}
		name = strings.ToLower(strings.TrimSpace(name))
		if name == "arrival-date" && c.Arrival == nil {
			c.Arrival = arrival(value)
		}
		if field := fields[name]; field != nil && *field == "" {
			*field = value
		}
	}
	if c == (event.Complaint{}) {
		return nil, ""
	}
	return &c, plainAddress(c.OriginalRecipient)
}

// unfold joins lines: one that starts with a blank continues the one before.
var unfold = strings.NewReplacer("\r\n ", " ", "\r\n\t", " ", "\n ", " ", "\n\t", " ")

// arrival reads a date as the documentation's sample has it, which is RFC 5322
// but for the month in full, or as RFC 5322 wants it.
func arrival(s string) *event.Time {
	t, err := time.Parse("Mon, 2 January 2006 15:04:05 -0700", s)
	if err != nil {
		t, err = mail.ParseDate(s)
	}
	if err != nil || t.UTC().Year() < 1970 || t.UTC().Year() > 9999 {
		return nil
	}
	at := event.NewTime(t)
	return &at
}

// hashPattern matches what reporters put in place of the local part to protect
// the complainant: an MD5, SHA-1 or SHA-256.
var hashPattern = regexp.MustCompile(`^(?i:[0-9a-f]{32}|[0-9a-f]{40}|[0-9a-f]{64})$`)

// plainAddress returns the address that s consists of, perhaps in angle brackets,
// or "" when it is none or a hash.
func plainAddress(s string) string {
	if strings.HasPrefix(s, "<") && strings.HasSuffix(s, ">") {
		s = s[1 : len(s)-1]
	}
	parsed, err := mail.ParseAddress(s)
	if err != nil || parsed.Address != s {
		return ""
	}
	if local, _, _ := strings.Cut(s, "@"); hashPattern.MatchString(local) {
		return ""
	}
	return s
}

// sendcleanElements finds the batch wherever it may be: in a form field, url
// encoded or multipart, or as bare JSON. What was seen on the wire is a url
// encoded form, but no documentation says so; the body itself decides, since the
// Content-Type may be missing or wrong.
func sendcleanElements(d *delivery.Delivery) (iter.Seq[[]byte], Reason) {
	body := bytes.TrimPrefix(d.Body, bom)
	start := trim(body)
	switch {
	case len(start) == 0:
		return nil, ReasonUnreadableBody // an empty body is none, blanks are something
	case start[0] == '[' || start[0] == '{':
		return sendcleanJSON(body)
	case bytes.HasPrefix(start, []byte("--")), strings.HasPrefix(strings.ToLower(d.ContentType), "multipart/"):
		return sendcleanMultipart(d.ContentType, start)
	default:
		return sendcleanForm(start)
	}
}

// isSendcleanField says whether a form field holds the batch. sarvtes_events is
// the better evidenced name, for SendClean accounts too; SendCleantes_events is
// what the documentation calls it.
func isSendcleanField(name string) bool {
	const suffix = "tes_events"
	return len(name) >= len(suffix) && strings.EqualFold(name[len(name)-len(suffix):], suffix)
}

// sendcleanField holds the batch of a form until it is known to be the only one.
type sendcleanField struct {
	value []byte
	n     int
}

func (f *sendcleanField) add(value []byte) { f.value, f.n = value, f.n+1 }

func (f *sendcleanField) elements() (iter.Seq[[]byte], Reason) {
	switch {
	case f.n == 0:
		return nil, ReasonUnreadableBody
	case f.n > 1:
		return nil, ReasonAmbiguous
	case len(f.value) == 0:
		return func(func([]byte) bool) {}, "" // the test of a URL
	}
	return jsonElements(f.value)
}

func sendcleanForm(body []byte) (iter.Seq[[]byte], Reason) {
	var field sendcleanField
	for pair := range strings.SplitSeq(string(body), "&") {
		// url.ParseQuery would refuse a semicolon, which the text of a bounce
		// holds and a careless sender might not encode.
		name, value, ok := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return nil, ReasonUnreadableBody
		}
		if !ok || !isSendcleanField(name) {
			continue
		}
		value, err = url.QueryUnescape(value)
		if err != nil {
			return nil, ReasonUnreadableBody
		}
		field.add([]byte(value))
	}
	return field.elements()
}

func sendcleanMultipart(contentType string, body []byte) (iter.Seq[[]byte], Reason) {
	boundary := ""
	if _, params, err := mime.ParseMediaType(contentType); err == nil {
		boundary = params["boundary"]
	}
	if boundary == "" { // then the first line tells
		line, _, _ := bytes.Cut(body, []byte("\n"))
		boundary = strings.TrimPrefix(string(bytes.TrimRight(line, " \t\r")), "--")
	}
	if boundary == "" {
		return nil, ReasonUnreadableBody
	}
	// The reader takes a body that ends within a boundary for complete.
	if !bytes.Contains(body, []byte("\n--"+boundary+"--")) {
		return nil, ReasonUnreadableBody
	}
	var field sendcleanField
	for r := multipart.NewReader(bytes.NewReader(body), boundary); ; {
		part, err := r.NextPart()
		if err == io.EOF { //nolint:errorlint // a wrapped EOF is a body that was cut short
			break
		}
		if err != nil {
			return nil, ReasonUnreadableBody
		}
		if !isSendcleanField(part.FormName()) {
			continue
		}
		value, err := io.ReadAll(part)
		if err != nil {
			return nil, ReasonUnreadableBody
		}
		field.add(value)
	}
	return field.elements()
}

func sendcleanJSON(body []byte) (iter.Seq[[]byte], Reason) {
	value, reason := document(body)
	if reason != "" {
		return nil, reason
	}
	if value[0] == '[' {
		return items(value), ""
	}
	// One object is an event, or holds the form's field with the batch.
	var field sendcleanField
	for name, v := range members(value) {
		switch {
		case name == "event":
			return batch(value), ""
		case !isSendcleanField(name):
		case v[0] == '"':
			field.add([]byte(unquote(v)))
		default:
			field.add(v)
		}
	}
	if field.n == 0 {
		return batch(value), ""
	}
	return field.elements()
}
