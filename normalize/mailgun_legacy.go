package normalize

import (
	"bytes"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/url"
	"slices"
	"strings"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
)

// Mailgun's legacy webhooks, the only ones before June 2018, post a flat form, as
// multipart/form-data when the recipient's server returned attachments. An
// event's raw form is a JSON string that holds the body as received.
//
// https://help.mailgun.com/hc/en-us/articles/14048832145051-Legacy-Webhooks
//
// The sender's own variables are merged into the fields. Where one bears the name
// of a field of Mailgun's, Mailgun's value is the last for timestamp, token and
// signature and the first for everything else.

// mailgunLegacyTypes holds the words of the field "event" and the names under
// which the webhooks are registered, which some senders of test data use.
var mailgunLegacyTypes = map[string]event.Type{
	"bounce":       event.EmailBounced,
	"bounced":      event.EmailBounced,
	"click":        event.EmailClicked,
	"clicked":      event.EmailClicked,
	"complained":   event.EmailComplained,
	"deliver":      event.EmailDelivered,
	"delivered":    event.EmailDelivered,
	"drop":         event.EmailRejected,
	"dropped":      event.EmailRejected,
	"open":         event.EmailOpened,
	"opened":       event.EmailOpened,
	"spam":         event.EmailComplained,
	"unsubscribe":  event.EmailUnsubscribed,
	"unsubscribed": event.EmailUnsubscribed,
}

// The names of Mailgun's own fields; everything else is the sender's. body-plain,
// attachment-count, h and the X- names are not documented, but sent.
var (
	mailgunSigned = []string{"signature", "timestamp", "token"}
	mailgunFields = []string{
		"X-Mailgun-Sid", "X-Mailgun-Tag", "body-plain", "campaign-id", "campaign-name", "domain",
		"event", "h", "mailing-list", "recipient", "tag",
	}
	mailgunDeliveryFields = []string{
		"attachment-count", "code", "description", "error", "message-headers", "notification", "reason",
	}
	mailgunClientFields = []string{
		"city", "client-name", "client-os", "client-type", "country", "device-type", "ip", "region",
		"url", "user-agent",
	}
)

// mailgunValues is a form. A value that is not UTF-8 has U+FFFD in its place.
type mailgunValues url.Values

// mailgunIsForm goes by the body, since the Content-Type may be missing or wrong.
func mailgunIsForm(body []byte) bool {
	start := trim(bytes.TrimPrefix(body, bom))
	return len(start) == 0 || start[0] != '{' && start[0] != '['
}

// mailgunForm reads the fields of a form. Attachments are left out.
func mailgunForm(d *delivery.Delivery) (mailgunValues, Reason) {
	form := make(mailgunValues)
	add := func(name, value string) {
		name = strings.ToValidUTF8(name, "\ufffd")
		form[name] = append(form[name], strings.ToValidUTF8(value, "\ufffd"))
	}
	if body := trim(d.Body); bytes.HasPrefix(body, []byte("--")) {
		return form, mailgunMultipart(d.ContentType, body, add)
	}
	n := 0
	for pair := range strings.SplitSeq(string(d.Body), "&") {
		if n++; n > maxItems {
			return nil, ReasonTooComplex
		}
		// url.ParseQuery would refuse a semicolon, which a user agent may hold.
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return nil, ReasonUnreadableBody
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return nil, ReasonUnreadableBody
		}
		if name != "" {
			add(name, value)
		}
	}
	return form, ""
}

func mailgunMultipart(contentType string, body []byte, add func(name, value string)) Reason {
	_, params, _ := mime.ParseMediaType(contentType) // no parameters if it cannot be read
	boundary := params["boundary"]
	if boundary == "" { // then the first line tells
		line, _, _ := bytes.Cut(body[2:], []byte("\n"))
		boundary = string(bytes.TrimRight(line, " \t\r"))
	}
	// The reader takes a body that ends within a boundary for complete.
	if boundary == "" || !bytes.Contains(body, []byte("\n--"+boundary+"--")) {
		return ReasonUnreadableBody
	}
	r := multipart.NewReader(bytes.NewReader(body), boundary)
	for n := 0; ; n++ {
		part, err := r.NextPart()
		if err == io.EOF { //nolint:errorlint // a form that was cut short is an error that wraps io.EOF
			return ""
		}
		if err != nil {
			return ReasonUnreadableBody
		}
		if n == maxItems {
			return ReasonTooComplex
		}
		value, err := io.ReadAll(part)
		if err != nil {
			return ReasonUnreadableBody
		}
		if name := part.FormName(); name != "" && part.FileName() == "" {
			add(name, string(value))
		}
	}
}

func (f mailgunValues) has(name string) bool { return len(f[name]) > 0 }

// signed reports whether the form has the fields of a form that Mailgun sends.
func (f mailgunValues) signed() bool {
	return !slices.ContainsFunc(mailgunSigned, func(name string) bool { return !f.has(name) })
}

// get returns Mailgun's own value of a field that is not one of mailgunSigned.
func (f mailgunValues) get(name string) string {
	if v := f[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (f mailgunValues) text(name string) text { return textOf(f.get(name)) }

// messageID returns the field that is spelled Message-Id in some events and
// message-id in others.
func (f mailgunValues) messageID() string {
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if strings.EqualFold(name, "message-id") && f.get(name) != "" {
			return f.get(name)
		}
	}
	return ""
}

// mailgunBody returns the form that a raw form stands for.
func mailgunBody(raw []byte) ([]byte, bool) {
	body, ok := bare(raw)
	return body, ok && mailgunIsForm(body)
}

func mailgunLegacyEvents(d *delivery.Delivery, raw []byte) ([]finding, Reason) {
	form, reason := mailgunForm(d)
	if reason != "" {
		return nil, reason
	}
	f := unknown(raw)
	e := &f.event
	if v := form["timestamp"]; len(v) > 0 {
		e.Time = textOf(v[len(v)-1]).Time()
	}
	name := mailgunWord(form.text("event"))
	t, known := mailgunLegacyTypes[name]
	if !known {
		return []finding{f}, ""
	}
	headers := mailgunHeaders(form.get("message-headers"))
	e.Type = t
	e.Recipient = form.get("recipient")
	e.Message = form.message(t, headers)
	e.Bounce = form.bounce(t)
	if address := form.get("mailing-list"); address != "" {
		e.Lists = []event.List{{ID: address}}
	}
	switch t {
	case event.EmailClicked:
		if u := form.get("url"); u != "" {
			e.Click = &event.Click{URL: u}
		}
		fallthrough
	case event.EmailOpened, event.EmailUnsubscribed:
		e.Client = form.client()
	}
	if !e.Time.IsZero() {
		// Without the token, in case that a retry is signed anew.
		id := ""
		if e.Message != nil {
			id = e.Message.ID
		}
		f.identity = []string{
			"legacy", name, id, e.Recipient, e.Time.String(), form.get("url"), form.get("code"), form.get("ip"),
		}
	}
	return []finding{f}, ""
}

// bounce infers the class from the code: the form does not say how final a bounce is.
func (f mailgunValues) bounce(t event.Type) *event.Bounce {
	if t == event.EmailComplained {
		return &event.Bounce{Reason: event.ReasonSpam}
	}
	if t != event.EmailBounced && t != event.EmailRejected {
		return nil
	}
	var b event.Bounce
	b.Code, b.EnhancedCode = replyCode(f.text("code")), enhancedCode(f.text("code"))
	b.Description = mailgunFirst(f.text("error"), f.text("notification"), f.text("description"))
	first := b.Code / 100
	if first == 0 && b.EnhancedCode != "" {
		first = int(b.EnhancedCode[0] - '0')
	}
	switch r, ours := mailgunCodes[b.Code]; {
	case ours:
		b.Reason = r
	case b.Code == 499 || mailgunWord(f.text("reason")) == "old": // no server could be reached, or not for 8 hours
		b.Reason = event.ReasonTimedOut
	case t == event.EmailBounced || first == 4 || first == 5:
		b.Reason = event.ReasonBounced
	default: // "hardfail", which stands for any suppression
		b.Reason = event.ReasonOther
	}
	if t == event.EmailBounced {
		switch first {
		case 4:
			b.Class = event.BounceSoft
		case 5:
			b.Class = event.BounceHard
		default:
			b.Class = event.BounceUnknown
		}
	}
	return &b
}

func (f mailgunValues) client() *event.Client {
	return mailgunKnown(event.Client{
		IP: f.get("ip"), UserAgent: f.get("user-agent"), Type: f.get("client-type"), OS: f.get("client-os"),
		Name: f.get("client-name"), Device: f.get("device-type"),
		Country: f.get("country"), Region: f.get("region"), City: f.get("city"),
	})
}

func (f mailgunValues) message(t event.Type, headers mailgunHeaderList) *event.Message {
	id := f.messageID()
	if id == "" {
		id = headers.get("Message-Id")
	}
	m := mailgunMessage(id, headers.get("Subject"), headers.get("From"))
	m.CampaignID = f.get("campaign-id")
	// A sender's variable that is called tag cannot be told from a tag.
	for _, tags := range [][]string{f["tag"], f["X-Mailgun-Tag"], headers["x-mailgun-tag"]} {
		if m.Tags == nil && len(tags) > 0 {
			m.Tags = tags
		}
	}
	m.Metadata = f.metadata(t, headers)
	return mailgunPresent(m)
}

// metadata returns the sender's variables: every field that is not Mailgun's, and
// the other value of a field that is both. The header that set them, where the
// form quotes it, is more exact: it is not merged with anything.
func (f mailgunValues) metadata(t event.Type, headers mailgunHeaderList) map[string]string {
	known := mailgunDeliveryFields
	switch t {
	case event.EmailClicked, event.EmailOpened, event.EmailUnsubscribed:
		known = mailgunClientFields
	}
	m := make(map[string]string)
	for name, v := range f {
		switch {
		case name == "tag" || name == "X-Mailgun-Tag":
		case slices.Contains(mailgunSigned, name):
			if len(v) > 1 {
				m[name] = v[0]
			}
		case slices.Contains(mailgunFields, name) || slices.Contains(known, name) || strings.EqualFold(name, "message-id"):
			if len(v) > 1 {
				m[name] = v[len(v)-1]
			}
		case strings.TrimRight(name, "0123456789") != "attachment-":
			m[name] = v[len(v)-1]
		}
	}
	for _, v := range headers["x-mailgun-variables"] {
		if value, reason := document([]byte(v)); reason == "" {
			var variables mailgunVariables
			if variables.UnmarshalJSON(value) == nil {
				maps.Copy(m, variables)
			}
		}
	}
	if len(m) == 0 {
		return nil
	}
	return m
}

// mailgunHeaderList is the original message's headers by their names in lower
// case, each with its values in order.
type mailgunHeaderList map[string][]string

func (h mailgunHeaderList) get(name string) string {
	if v := h[strings.ToLower(name)]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// mailgunHeaders reads the field message-headers, JSON of the form
// [["Subject","..."],["Content-Type",["text/plain",{...}]],...]. Values that are
// not strings are left out.
func mailgunHeaders(field string) mailgunHeaderList {
	h := make(mailgunHeaderList)
	value, reason := document([]byte(field))
	if reason != "" || value[0] != '[' {
		return h
	}
	for pair := range items(value) {
		if pair[0] != '[' {
			continue
		}
		var words []string
		n := 0
		for v := range items(pair) {
			if n++; v[0] == '"' {
				words = append(words, unquote(v))
			}
		}
		if n == 2 && len(words) == 2 {
			name := strings.ToLower(words[0])
			h[name] = append(h[name], words[1])
		}
	}
	return h
}
