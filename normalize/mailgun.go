package normalize

import (
	"iter"
	"mime"
	"net/mail"
	"strings"
	"time"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
)

// Mailgun posts one event per request, {"signature":{...},"event-data":{...}}.
// The signature block proves who sent it and is no part of the event: an event's
// raw form is the event-data object, byte for byte.
//
// https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads
// says that fields may be added at any time. Nearly every object can be null, {}
// or missing, and the legacy webhooks (mailgun_legacy.go) are forms.
var mailgunProvider = provider{name: "mailgun", elements: mailgunElements, events: mailgunEvents, body: mailgunBody}

// mailgunTypes lacks "failed", which severity and reason divide into three types.
// No webhook is known to carry "rejected". Events of the Events API that concern no
// sent message, as "stored" and "list_uploaded", are unknown kinds on purpose.
var mailgunTypes = map[string]event.Type{
	"accepted":     event.EmailQueued,
	"clicked":      event.EmailClicked,
	"complained":   event.EmailComplained,
	"delivered":    event.EmailDelivered,
	"opened":       event.EmailOpened,
	"rejected":     event.EmailRejected,
	"unsubscribed": event.EmailUnsubscribed,
}

// mailgunSuppressions are the reasons of a message that was not sent because of
// what an earlier one met with.
var mailgunSuppressions = map[string]event.Reason{
	"suppress-bounce":      event.ReasonBounced,
	"suppress-complaint":   event.ReasonSpam,
	"suppress-unsubscribe": event.ReasonUnsubscribed,
}

// mailgunCodes are Mailgun's own codes for a message that was not sent. They are
// not SMTP and not documented; 605 to 607 come with a suppress-* reason or with
// "generic".
var mailgunCodes = map[int]event.Reason{
	605: event.ReasonBounced,
	606: event.ReasonUnsubscribed,
	607: event.ReasonSpam,
	625: event.ReasonBlocked, // poor quality of the mailing list
}

// mailgunData is an event-data object, as far as it is used.
type mailgunData struct {
	Wrapped   text                  `json:"event-data"` // of an element that could not be unwrapped
	Event     text                  `json:"event"`
	ID        text                  `json:"id"`
	Timestamp text                  `json:"timestamp"`
	Severity  text                  `json:"severity"`
	Reason    text                  `json:"reason"`
	Recipient text                  `json:"recipient"`
	URL       text                  `json:"url"`
	IP        text                  `json:"ip"`
	Status    object[mailgunStatus] `json:"delivery-status"`
	Reject    object[mailgunReject] `json:"reject"`
	Message   object[mailgunHeader] `json:"message"`
	Client    object[mailgunClient] `json:"client-info"`
	Place     object[mailgunPlace]  `json:"geolocation"`
	Flags     object[mailgunFlags]  `json:"flags"`
	Account   object[mailgunNamed]  `json:"account"`
	Domain    object[mailgunNamed]  `json:"domain"`
	List      mailgunNamed          `json:"mailing-list"`
	Campaigns list[mailgunNamed]    `json:"campaigns"`
	Tags      list[text]            `json:"tags"`
	Variables mailgunVariables      `json:"user-variables"`
}

type mailgunStatus struct {
	Code         text `json:"code"`
	EnhancedCode text `json:"enhanced-code"`
	BounceCode   text `json:"bounce-code"` // an enhanced code too
	Message      text `json:"message"`
	Description  text `json:"description"`
	Attempt      text `json:"attempt-no"`
	Retry        text `json:"retry-seconds"`
	MXHost       text `json:"mx-host"`
	TLS          text `json:"tls"`
}

type mailgunReject struct {
	Reason      text `json:"reason"`
	Description text `json:"description"`
}

type mailgunHeader struct {
	Headers object[struct {
		To        text `json:"to"`
		From      text `json:"from"`
		Subject   text `json:"subject"`
		MessageID text `json:"message-id"`
	}] `json:"headers"`
}

type mailgunClient struct {
	Type      text `json:"client-type"`
	OS        text `json:"client-os"`
	Name      text `json:"client-name"`
	Device    text `json:"device-type"`
	UserAgent text `json:"user-agent"`
	Bot       text `json:"bot"`
}

type mailgunPlace struct {
	Country text `json:"country"`
	Region  text `json:"region"`
	City    text `json:"city"`
}

type mailgunFlags struct {
	TestMode   text `json:"is-test-mode"`
	SystemTest text `json:"is-system-test"`
}

// mailgunNamed is an object that is known by one of its members, or by a string
// in its place.
type mailgunNamed struct {
	ID      text `json:"id"`
	Name    text `json:"name"`
	Address text `json:"address"`
}

// UnmarshalJSON accepts every value.
func (n *mailgunNamed) UnmarshalJSON(b []byte) error {
	type plain mailgunNamed
	var o object[plain]
	if err := o.UnmarshalJSON(b); err != nil {
		return err
	}
	*n = mailgunNamed(o.V)
	if b[0] == '"' {
		s := textOf(unquote(b))
		*n = mailgunNamed{ID: s, Address: s}
	}
	return nil
}

// mailgunVariables are the sender's own. Mailgun puts a sentence about truncated
// or invalid JSON in their place when it could not read them: that is none.
type mailgunVariables map[string]string

// UnmarshalJSON accepts every value.
func (v *mailgunVariables) UnmarshalJSON(b []byte) error {
	*v = nil
	if b[0] != '{' {
		return nil
	}
	for name, value := range members(b) {
		if *v == nil {
			*v = make(mailgunVariables)
		}
		if value[0] == '"' {
			(*v)[name] = unquote(value)
		} else {
			(*v)[name] = strings.ToValidUTF8(string(value), "\ufffd")
		}
	}
	return nil
}

// mailgunElements yields event-data objects, or for a legacy webhook the form as
// one JSON string. Mailgun sends one event per request; an array of them and a
// bare event-data object, as its Events API returns, are understood too.
func mailgunElements(d *delivery.Delivery) (iter.Seq[[]byte], Reason) {
	if mailgunIsForm(d.Body) {
		form, reason := mailgunForm(d)
		if reason == "" && !form.has("event") && !form.signed() {
			reason = ReasonUnreadableBody
		}
		if reason != "" {
			return nil, reason
		}
		return func(yield func([]byte) bool) { yield(quote(d.Body)) }, ""
	}
	value, reason := document(d.Body)
	if reason != "" {
		return nil, reason
	}
	if value[0] == '{' {
		data, reason := mailgunUnwrap(value)
		if reason != "" {
			return nil, reason
		}
		return func(yield func([]byte) bool) { yield(data) }, ""
	}
	return func(yield func([]byte) bool) {
		for item := range items(value) {
			data, reason := mailgunUnwrap(item)
			if reason != "" {
				data = item // mailgunEvents finds the reason again and rejects the item alone
			}
			if !yield(data) {
				return
			}
		}
	}, ""
}

// mailgunUnwrap returns the event-data object of what Mailgun posts, or the value
// itself when it is a bare event-data object.
func mailgunUnwrap(value []byte) ([]byte, Reason) {
	if value[0] != '{' {
		return nil, ReasonUnreadableBody
	}
	if reason := inspect(value, []string{"event-data"}); reason != "" {
		return nil, reason
	}
	var named, timed bool
	for name, v := range members(value) {
		switch name {
		case "event-data":
			if v[0] != '{' {
				return nil, ReasonUnreadableBody
			}
			return v, ""
		case "event":
			named = v[0] == '"'
		case "timestamp":
			timed = true
		}
	}
	if !named || !timed {
		return nil, ReasonUnreadableBody
	}
	return value, ""
}

func mailgunEvents(d *delivery.Delivery, raw []byte) ([]finding, Reason) {
	if mailgunIsForm(d.Body) {
		return mailgunLegacyEvents(d, raw)
	}
	data, reason := decode[mailgunData](raw, "event-data", "event", "id", "reason", "severity", "timestamp")
	if reason != "" {
		return nil, reason
	}
	if data.Wrapped.kind != 0 || data.Event.kind == 0 && data.Timestamp.kind == 0 {
		return nil, ReasonUnreadableElement // not an event-data object
	}
	return []finding{data.finding(raw)}, ""
}

// finding says what the object means.
func (m *mailgunData) finding(raw []byte) finding {
	f := unknown(raw)
	e := &f.event
	e.Time = m.Timestamp.Time()
	e.Test = m.Flags.V.TestMode.Bool() || m.Flags.V.SystemTest.Bool()
	if id := m.ID.String(); id != "" && !e.Time.IsZero() {
		// Mailgun promises that an id is unique within a day and no more.
		f.identity = []string{m.Domain.V.Name.String(), e.Time.Format(time.DateOnly), id}
	}
	known := false
	if e.Type, known = mailgunTypes[mailgunWord(m.Event)]; !known {
		if e.Type, known = m.failure(); !known {
			e.Type = event.OtherUnknown
			return f
		}
	}
	e.Recipient = m.Recipient.String()
	if e.Recipient == "" && e.Type == event.EmailRejected {
		e.Recipient = mailgunAddress(m.Message.V.Headers.V.To.String()) // "rejected" has no recipient
	}
	e.Message = m.message()
	e.Bounce = m.bounce(e.Type)
	if address := m.List.Address.String(); address != "" {
		e.Lists = []event.List{{ID: address}}
	}
	switch e.Type {
	case event.EmailClicked:
		if u := m.URL.String(); u != "" {
			e.Click = &event.Click{URL: u}
		}
		fallthrough
	case event.EmailOpened, event.EmailUnsubscribed:
		e.Client = m.client()
	}
	return f
}

// failure returns the type of a "failed". A severity that is neither temporary
// nor permanent is a kind that nobody knows: to call it a bounce could cost the
// recipient all further mail.
func (m *mailgunData) failure() (event.Type, bool) {
	if mailgunWord(m.Event) != "failed" {
		return "", false
	}
	switch mailgunWord(m.Severity) {
	case "temporary":
		return event.EmailDeferred, true
	case "permanent":
		if _, ok := m.notSent(); ok {
			return event.EmailRejected, true
		}
		return event.EmailBounced, true
	}
	return "", false
}

// notSent returns why Mailgun did not even try, if so. django-anymail counts such
// failures as bounces; nothing was sent, so they must not count in a bounce rate.
func (m *mailgunData) notSent() (event.Reason, bool) {
	reason := mailgunWord(m.Reason)
	if r, ok := mailgunSuppressions[reason]; ok {
		return r, true
	}
	code, _ := m.Status.V.Code.Int()
	if r, ok := mailgunCodes[code]; ok {
		return r, true
	}
	return event.ReasonOther, strings.HasPrefix(reason, "suppress-")
}

func (m *mailgunData) bounce(t event.Type) *event.Bounce {
	var b event.Bounce
	switch t {
	case event.EmailComplained:
		return &event.Bounce{Reason: event.ReasonSpam}
	case event.EmailBounced:
		b.Class, b.Reason = event.BounceHard, event.ReasonBounced
		switch mailgunWord(m.Reason) {
		case "old": // given up after 8 hours
			b.Reason = event.ReasonTimedOut
		case "espblock", "blacklisted":
			// Permanent for this message, but it is about the sender's reputation
			// and says nothing of the address.
			b.Class, b.Reason = event.BounceUnknown, event.ReasonBlocked
		}
	case event.EmailRejected:
		b.Reason = event.ReasonOther
		if mailgunWord(m.Event) == "failed" {
			b.Reason, _ = m.notSent()
		}
	case event.EmailDeferred:
		b.RetryAfterSeconds = mailgunPositive(m.Status.V.Retry)
	case event.EmailDelivered:
	default:
		return nil
	}
	s := &m.Status.V
	b.Code = replyCode(s.Code)
	b.EnhancedCode = mailgunEnhancedCode(s.EnhancedCode, s.BounceCode, s.Code)
	b.Description = mailgunFirst(s.Message, s.Description, m.Reject.V.Reason, m.Reject.V.Description)
	b.Attempt = mailgunPositive(s.Attempt)
	b.MXHost = s.MXHost.String()
	if k := s.TLS.kind; k == 't' || k == 'f' {
		encrypted := s.TLS.Bool()
		b.TLS = &encrypted
	}
	if b == (event.Bounce{}) {
		return nil
	}
	return &b
}

func (m *mailgunData) message() *event.Message {
	h := &m.Message.V.Headers.V
	msg := mailgunMessage(h.MessageID.String(), h.Subject.String(), h.From.String())
	msg.AccountID = m.Account.V.ID.String()
	if len(m.Campaigns) > 0 {
		msg.CampaignID = m.Campaigns[0].ID.String()
	}
	for _, t := range m.Tags {
		if s := t.String(); s != "" {
			msg.Tags = append(msg.Tags, s)
		}
	}
	msg.Metadata = m.Variables
	return mailgunPresent(msg)
}

func (m *mailgunData) client() *event.Client {
	c, p := &m.Client.V, &m.Place.V
	return mailgunKnown(event.Client{
		IP: m.IP.String(), UserAgent: c.UserAgent.String(), Type: c.Type.String(), OS: c.OS.String(),
		Name: c.Name.String(), Device: c.Device.String(), Bot: c.Bot.String(),
		Country: p.Country.String(), Region: p.Region.String(), City: p.City.String(),
	})
}

// mailgunMessage returns the message of that Message-Id, which is the only name
// that Mailgun has for one: with angle brackets in some events, without in others.
func mailgunMessage(id, subject, from string) event.Message {
	id = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(id), "<"), ">")
	if decoded, err := new(mime.WordDecoder).DecodeHeader(subject); err == nil {
		subject = strings.ToValidUTF8(decoded, "\ufffd")
	}
	return event.Message{ID: id, RFCMessageID: id, Subject: subject, From: from}
}

// mailgunPresent returns nil for a message of which nothing is known.
func mailgunPresent(m event.Message) *event.Message {
	if m.ID == "" && m.CampaignID == "" && m.Subject == "" && m.From == "" && m.AccountID == "" &&
		len(m.Tags) == 0 && len(m.Metadata) == 0 {
		return nil
	}
	return &m
}

// mailgunKnown removes the word "unknown", which Mailgun writes where it could not
// tell, and returns nil for a client of which nothing is known.
func mailgunKnown(c event.Client) *event.Client {
	for _, s := range []*string{&c.Type, &c.OS, &c.Name, &c.Device, &c.Country, &c.Region, &c.City} {
		if strings.EqualFold(*s, "unknown") {
			*s = ""
		}
	}
	if c == (event.Client{}) {
		return nil
	}
	return &c
}

// mailgunEnhancedCode returns the first enhanced code among the values. Delayed
// bounces have it as bounce-code too, and legacy webhooks may have it as code.
func mailgunEnhancedCode(values ...text) string {
	for _, v := range values {
		if code := enhancedCode(v); code != "" {
			return code
		}
	}
	return ""
}

// mailgunFirst returns the first text that is not blank, without outer blanks.
func mailgunFirst(values ...text) string {
	for _, v := range values {
		if s := strings.TrimSpace(v.String()); s != "" {
			return s
		}
	}
	return ""
}

// mailgunWord returns a word of a closed list as the tables spell it.
func mailgunWord(t text) string { return strings.ToLower(strings.TrimSpace(t.String())) }

func mailgunPositive(t text) int {
	n, _ := t.Int()
	return max(n, 0)
}

// mailgunAddress returns the address of a To header that names exactly one.
func mailgunAddress(to string) string {
	if list, err := mail.ParseAddressList(to); err == nil && len(list) == 1 {
		return list[0].Address
	}
	return ""
}
