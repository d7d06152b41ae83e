// Package event defines the canonical event: what blessd publishes for every
// bounce, open, click, complaint and contact change, whichever provider sent
// it. It is the API that consumers build on, and it knows nothing of providers,
// HTTP or NATS.
//
// A consumer needs three things: [Decode] turns a NATS message body into an
// [Event], [Event.Type] says what happened, and [Event.ID] is the same at every
// redelivery, so a consumer that remembers ids handles each event once:
//
//	e, err := event.Decode(msg.Data())
//	if err != nil {
//		return err // not a canonical event
//	}
//	switch e.Type {
//	case event.EmailBounced:
//		if e.Bounce.Class == event.BounceHard {
//			suppress(e.Recipient, e.Message)
//		}
//	case event.EmailComplained, event.EmailUnsubscribed:
//		suppress(e.Recipient, e.Message)
//	}
//
// Compatibility: fields are added, never renamed or retyped; new types may
// appear, so a consumer ignores what it does not know. Fields that do not apply,
// or that the provider does not send, are absent. In particular SendClean and
// Sarv name no recipient: their events carry [Message.CorrelationID], the
// X-Unique-Id header that the sender set.
package event

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-json"
)

// Event is one thing that happened to one message or one contact.
type Event struct {
	// ID is 32 lower-case hexadecimal digits, equal at every redelivery of the
	// same event and different for different events. See [NewID].
	ID string `json:"id"`
	// Type says what happened, as <family>.<verb>.
	Type Type `json:"type"`
	// Time is when it happened; TimeSource says who says so.
	Time Time `json:"time"`
	// TimeSource is TimeFromProvider when Time is the provider's own timestamp
	// and TimeFromReceipt when the provider sent none that could be used.
	TimeSource TimeSource `json:"time_source"`
	// Received is when blessd accepted the request that carried the event.
	Received Time `json:"received"`
	// Provider is who sent it: sendclean, sarv, mailgun, enkod or vision6.
	Provider string `json:"provider"`
	// Endpoint is the name the operator gave the webhook URL it arrived at.
	Endpoint string `json:"endpoint"`
	// Message is the e-mail concerned; absent for contact and list events.
	Message *Message `json:"message,omitempty"`
	// Recipient is the address the message went to, as the provider wrote it.
	Recipient string `json:"recipient,omitempty"`
	// Bounce holds delivery details of email.bounced, email.deferred,
	// email.rejected and email.delivered; and the reason of
	// email.complained.
	Bounce *Bounce `json:"bounce,omitempty"`
	// Click is present for email.clicked.
	Click *Click `json:"click,omitempty"`
	// Client is the program and place of an open, click or unsubscribe.
	Client *Client `json:"client,omitempty"`
	// Complaint holds the parsed feedback report of email.complained.
	Complaint *Complaint `json:"complaint,omitempty"`
	// Contact is whom a contact event is about.
	Contact *Contact `json:"contact,omitempty"`
	// Lists are the mailing lists or groups concerned, in the provider's order.
	Lists []List `json:"lists,omitempty"`
	// Channel is the medium of a subscription, for instance "email".
	Channel string `json:"channel,omitempty"`
	// Test is true for the provider's own test data, for messages sent in a
	// test mode, and for deliveries verified by blessd's sample keys.
	Test bool `json:"test,omitempty"`
	// Raw is the provider's own object, byte for byte. For a body that is a
	// form and not JSON it is a JSON string holding the body as received.
	Raw json.RawMessage `json:"raw,omitempty" jsonschema:"-"`
	// RawBase64 takes Raw's place when the provider's bytes are not valid
	// UTF-8 and so could not stand in a JSON document unaltered.
	RawBase64 []byte `json:"raw_base64,omitempty"`
}

// Message identifies an e-mail, in the provider's words and in the sender's.
type Message struct {
	// ID is the provider's id of the message.
	ID string `json:"id,omitempty"`
	// CorrelationID is what the sender attached to find the message again.
	CorrelationID string `json:"correlation_id,omitempty"`
	// CampaignID is the provider's id of the mailing the message belongs to.
	CampaignID string `json:"campaign_id,omitempty"`
	// RFCMessageID is the Message-Id header without its angle brackets.
	RFCMessageID string `json:"rfc_message_id,omitempty"`
	// Subject is the subject line, decoded.
	Subject string `json:"subject,omitempty"`
	// From is the sender as the provider wrote it.
	From string `json:"from,omitempty"`
	// Tags are the sender's tags, in the provider's order.
	Tags []string `json:"tags,omitempty"`
	// Metadata is what the sender attached to the message. A value that is not
	// a string at the provider is kept as its JSON text.
	Metadata map[string]string `json:"metadata,omitempty"`
	// AccountID is the provider's account that sent the message.
	AccountID string `json:"account_id,omitempty"`
	// SMTPUser is the SMTP user that sent the message.
	SMTPUser string `json:"smtp_user,omitempty"`
	// SendingType is how the message was triggered, for instance "scheduled".
	SendingType string `json:"sending_type,omitempty"`
}

// Bounce is what the receiving side, or the provider in its place, said.
type Bounce struct {
	// Class is present for email.bounced: hard, soft or unknown.
	Class BounceClass `json:"class,omitempty"`
	// Code is the SMTP reply code, or a provider's own three digits.
	Code int `json:"code,omitempty"`
	// EnhancedCode is the RFC 3463 status code, for instance "5.2.2".
	EnhancedCode string `json:"enhanced_code,omitempty"`
	// Description is the text that came with the code, without outer blanks.
	Description string `json:"description,omitempty"`
	// Reason is why, from a closed list.
	Reason Reason `json:"reason,omitempty"`
	// Attempt is the number of this delivery attempt, from 1.
	Attempt int `json:"attempt,omitempty"`
	// RetryAfterSeconds is when the provider tries again, in seconds.
	RetryAfterSeconds int `json:"retry_after_seconds,omitempty"`
	// MXHost is the server that was talked to.
	MXHost string `json:"mx_host,omitempty"`
	// TLS says whether the delivery was encrypted, where the provider tells.
	TLS *bool `json:"tls,omitempty"`
}

// Click is one click.
type Click struct {
	// URL is what was clicked, verbatim. It comes from a message and may hold
	// anything: never render or follow it unchecked.
	URL string `json:"url"`
}

// Client is the program that opened or clicked. All of it is the recipient's
// word and may be an image proxy's or a security scanner's instead of a person's.
type Client struct {
	IP        string `json:"ip,omitempty"`
	UserAgent string `json:"user_agent,omitempty"`
	// Type is the kind of program, for instance "browser".
	Type string `json:"type,omitempty"`
	OS   string `json:"os,omitempty"`
	// Name is the name of the program, for instance "Chromium".
	Name string `json:"name,omitempty"`
	// Device is the kind of device, for instance "mobile".
	Device string `json:"device,omitempty"`
	// Bot names the bot, where the provider believes that it was one.
	Bot     string `json:"bot,omitempty"`
	Country string `json:"country,omitempty"`
	Region  string `json:"region,omitempty"`
	City    string `json:"city,omitempty"`
}

// Complaint is a parsed abuse report (RFC 5965), as far as it could be parsed.
type Complaint struct {
	FeedbackType string `json:"feedback_type,omitempty"`
	AbuseType    string `json:"abuse_type,omitempty"`
	// Reporter is the report's User-Agent.
	Reporter string `json:"reporter,omitempty"`
	SourceIP string `json:"source_ip,omitempty"`
	// Arrival is when the reported message arrived.
	Arrival *Time `json:"arrival,omitempty"`
	// OriginalRecipient may be a hash in place of the local part.
	OriginalRecipient string `json:"original_recipient,omitempty"`
	OriginalMailFrom  string `json:"original_mail_from,omitempty"`
	ReportedDomain    string `json:"reported_domain,omitempty"`
}

// Contact is a person in the provider's address book.
type Contact struct {
	ID    string `json:"id,omitempty"`
	Email string `json:"email,omitempty"`
	Phone string `json:"phone,omitempty"`
}

// List is a mailing list, which some providers call a group.
type List struct {
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"`
}

// Time is a time that is written as RFC 3339 in UTC with milliseconds, always
// of the same length, so that times sort as text.
type Time struct{ time.Time }

// timeFormat has a literal Z: times are converted to UTC before they are written.
const timeFormat = "2006-01-02T15:04:05.000Z"

// NewTime returns t in UTC, cut to milliseconds.
func NewTime(t time.Time) Time { return Time{t.UTC().Truncate(time.Millisecond)} }

// String returns t as it is written in JSON.
func (t Time) String() string { return t.UTC().Format(timeFormat) }

// MarshalJSON writes t as a string. Years outside 0 to 9999 are an error, since
// RFC 3339 has no form for them.
func (t Time) MarshalJSON() ([]byte, error) {
	if y := t.UTC().Year(); y < 0 || y > 9999 {
		return nil, fmt.Errorf("time with the year %d has no RFC 3339 form", y)
	}
	return []byte(`"` + t.String() + `"`), nil
}

// UnmarshalJSON reads any RFC 3339 time.
func (t *Time) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("time: %w", err)
	}
	parsed, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return fmt.Errorf("time: %w", err)
	}
	*t = NewTime(parsed)
	return nil
}

// SetRaw stores b, which must be one JSON value, as the event's raw form: in Raw
// when b is valid UTF-8, else in RawBase64.
func (e *Event) SetRaw(b []byte) {
	e.Raw, e.RawBase64 = nil, nil
	if utf8.Valid(b) {
		e.Raw = b
	} else {
		e.RawBase64 = b
	}
}

// RawBytes returns the provider's own bytes, wherever they are kept.
func (e *Event) RawBytes() []byte {
	if e.RawBase64 != nil {
		return e.RawBase64
	}
	return e.Raw
}

// wire is Event without Raw, which is appended unaltered.
type wire Event

// Encode returns e as JSON in UTF-8, with Raw in it byte for byte. That is why
// blessd uses it and not a general marshaler: those rewrite an embedded value.
func Encode(e *Event) ([]byte, error) {
	w := wire(*e)
	w.Raw = nil
	b, err := json.MarshalWithOption(&w, json.DisableHTMLEscape())
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", e.ID, err)
	}
	if e.Raw == nil {
		return b, nil
	}
	const key = `,"raw":`
	out := make([]byte, 0, len(b)+len(key)+len(e.Raw))
	out = append(out, b[:len(b)-1]...) // every event has an id, so "{...}" is never empty
	out = append(out, key...)
	out = append(out, e.Raw...)
	return append(out, '}'), nil
}

// ErrNotEvent is wrapped by Decode's errors.
var ErrNotEvent = errors.New("not a canonical event")

// Decode reads the body of a NATS message. Unknown fields and unknown types are
// accepted: a newer blessd may send them.
func Decode(b []byte) (*Event, error) {
	e := new(Event)
	if err := json.Unmarshal(b, e); err != nil {
		return nil, fmt.Errorf("%w: %.256s", ErrNotEvent, err.Error())
	}
	if e.ID == "" || e.Type == "" {
		return nil, fmt.Errorf("%w: id or type is missing", ErrNotEvent)
	}
	return e, nil
}

// RawString returns the event's raw form as text, for people to read.
func (e *Event) RawString() string {
	if e.RawBase64 != nil {
		return base64.StdEncoding.EncodeToString(e.RawBase64)
	}
	return string(bytes.TrimSpace(e.Raw))
}

// Summary is one line for people: when (UTC), where, what, to whom, and the
// detail that matters for the type. It holds personal data. Its wording may
// change: programs read the JSON.
func (e *Event) Summary() string {
	f := []string{e.Time.Format(time.DateTime), pad(e.Endpoint, 10), pad(string(e.Type), 20)}
	add := func(words ...string) {
		// Whatever a stranger wrote takes one line, and not all of it.
		s := strings.Join(strings.Fields(strings.Join(words, " ")), " ")
		if s != "" {
			f = append(f, clip(s, 120))
		}
	}
	if who := e.who(); who != "" {
		f = append(f, pad(who, 24))
	}
	if b := e.Bounce; b != nil && e.Type != EmailDelivered && e.Type != EmailComplained {
		code := ""
		if b.Code != 0 {
			code = fmt.Sprint(b.Code)
		}
		add(string(b.Class), code, b.EnhancedCode)
		add(strings.TrimPrefix(strings.TrimSpace(b.Description), b.EnhancedCode))
	}
	if c := e.Complaint; c != nil {
		add(c.FeedbackType, c.AbuseType)
		add(c.Reporter)
	}
	if e.Click != nil {
		add(e.Click.URL)
	}
	for _, l := range e.Lists {
		add("list", l.ID, l.Name)
	}
	if c := e.Client; c != nil {
		if c.Bot != "" {
			add("bot", c.Bot)
		}
		add(c.Name)
		add(c.OS)
		add(c.Country)
	}
	if e.Test {
		add("(test)")
	}
	return strings.TrimRight(printable(strings.Join(f, "  ")), " ")
}

// who is the best name there is for the person or message concerned.
func (e *Event) who() string {
	switch {
	case e.Recipient != "":
		return clip(e.Recipient, 80)
	case e.Contact != nil && e.Contact.Email != "":
		return clip(e.Contact.Email, 80)
	case e.Contact != nil && e.Contact.ID != "":
		return "contact " + clip(e.Contact.ID, 32)
	case e.Message != nil && e.Message.CorrelationID != "":
		return clip(e.Message.CorrelationID, 32)
	case e.Message != nil:
		return clip(e.Message.ID, 32)
	}
	return ""
}

// clip shortens s to n characters.
func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "\u2026"
	}
	return s
}

func pad(s string, n int) string {
	return s + strings.Repeat(" ", max(0, n-utf8.RuneCountInString(s)))
}

// printable replaces what would move a terminal's cursor or reorder its text:
// the strings come from strangers.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r < 0x20, r >= 0x7f && r < 0xa0, r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x2028, r == 0x2029:
			return '\ufffd'
		}
		return r
	}, s)
}
