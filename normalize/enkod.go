package normalize

import (
	"iter"
	"regexp"
	"strconv"
	"strings"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
)

// enKod sends one JSON object for each event; an array of them is accepted too.
// https://help.enkod.io/doku.php/en:user_guide:webhooks:start
//
// What it gets wrong: no event has an id or a time, so that the time is that of
// receipt; the c of "complaint" is U+0441, a Cyrillic letter; message_id is the
// mailing's, and message_uid is the message's; bounces do not say whether they
// are hard or soft. The Russian documentation lists WhatsApp events without their
// names, which are other.unknown here.
var enkodProvider = provider{
	name: "enkod",
	elements: func(d *delivery.Delivery) (iter.Seq[[]byte], Reason) {
		return jsonElements(d.Body)
	},
	events: enkodEvents,
}

var enkodTypes = map[string]event.Type{
	"message sent":              event.EmailSent,
	"delivery bounce":           event.EmailBounced,
	"message open":              event.EmailOpened,
	"message clicked":           event.EmailClicked,
	"\u0441omplaint":            event.EmailComplained, // as documented
	"complaint":                 event.EmailComplained, // as it may be mended
	"mailing group subscribe":   event.ContactSubscribed,
	"mailing group unsubscribe": event.ContactUnsubscribed,
	"contact adding":            event.ContactCreated,
}

type enkodEvent struct {
	Event text `json:"event"`

	// Of messages.
	MessageID    text `json:"message_id"`
	MessageUID   text `json:"message_uid"`
	SendingType  text `json:"sending_type"`
	Name         text `json:"name"` // the subject
	From         text `json:"from"`
	To           text `json:"to"`
	ErrorMessage text `json:"error_message"`
	ClickURL     text `json:"click_url"`

	// Of contacts.
	Email       text       `json:"email"`
	Phone       text       `json:"phone"`
	GroupID     text       `json:"group_id"`
	GroupName   text       `json:"group_name"`
	GroupsIDs   list[text] `json:"groups_ids"`
	GroupsNames list[text] `json:"groups_names"`
	Channel     text       `json:"channel"`
}

func enkodEvents(d *delivery.Delivery, raw []byte) ([]finding, Reason) {
	k, reason := decode[enkodEvent](raw, "event", "message_uid", "to")
	if reason != "" {
		return nil, reason
	}
	kind, known := enkodTypes[k.Event.Word()]
	if !known {
		f := unknown(raw)
		f.identity = append(f.identity, received(d))
		return []finding{f}, ""
	}
	f := finding{event: event.Event{Type: kind, Test: k.isSample(kind)}}
	e := &f.event
	if kind.Family() == "contact" {
		if c := (event.Contact{Email: k.Email.String(), Phone: k.Phone.String()}); c != (event.Contact{}) {
			e.Contact = &c
		}
		e.Lists = k.lists()
		e.Channel = k.Channel.String()
		f.identity = []string{
			string(kind), k.Email.Identity(), k.Phone.Identity(), k.GroupID.Identity(), k.Channel.Identity(), received(d),
		}
		return []finding{f}, ""
	}

	m := event.Message{
		ID:          k.MessageUID.String(),
		CampaignID:  k.MessageID.String(),
		Subject:     k.Name.String(),
		From:        k.From.String(),
		SendingType: k.SendingType.String(),
	}
	if m.ID != "" || m.CampaignID != "" || m.Subject != "" || m.From != "" || m.SendingType != "" {
		e.Message = &m
	}
	e.Recipient = k.To.String()
	f.identity = []string{string(kind), k.MessageUID.Identity(), k.To.Identity()}
	switch kind {
	case event.EmailBounced:
		description := strings.TrimSpace(k.ErrorMessage.String())
		e.Bounce = &event.Bounce{Class: event.BounceUnknown, Description: description, Reason: event.ReasonBounced}
		e.Bounce.Code, e.Bounce.EnhancedCode = smtpCodes(description)
	case event.EmailComplained:
		e.Bounce = &event.Bounce{Reason: event.ReasonSpam}
	case event.EmailClicked:
		if u := k.ClickURL.String(); u != "" {
			e.Click = &event.Click{URL: u}
		}
		f.identity = append(f.identity, k.ClickURL.Identity())
	}
	// A message is sent, bounced and complained about once, but it may be opened
	// and clicked any number of times, each looking like the one before. Those,
	// and messages without an id, are told apart by when they were received, at
	// the price that a redelivery is a new event.
	once := kind == event.EmailSent || kind == event.EmailBounced || kind == event.EmailComplained
	if !once || m.ID == "" {
		f.identity = append(f.identity, k.MessageID.Identity(), k.Name.Identity(), k.From.Identity(), received(d))
	}
	return []finding{f}, ""
}

// lists returns the groups: one for a subscription, any number for a new contact,
// whose ids and names come in two arrays that need not be of equal length.
func (k *enkodEvent) lists() []event.List {
	var lists []event.List
	add := func(id, name string) {
		if id != "" || name != "" {
			lists = append(lists, event.List{ID: id, Name: name})
		}
	}
	add(k.GroupID.String(), k.GroupName.String())
	for i := range max(len(k.GroupsIDs), len(k.GroupsNames)) {
		var id, name text
		if i < len(k.GroupsIDs) {
			id = k.GroupsIDs[i]
		}
		if i < len(k.GroupsNames) {
			name = k.GroupsNames[i]
		}
		add(id.String(), name.String())
	}
	return lists
}

// What the documentation's samples hold. enKod posts test data when a URL is
// saved, and that it looks like the samples is INFERRED.
const (
	enkodSampleSuffix  = "(test)"
	enkodSampleUID     = "0123456789_012_012_01234"
	enkodSampleGroupID = "4"
	enkodSamplePhone   = "80123456789"
)

// isSample says whether the event is one of the documentation's samples. The name
// alone does not make it one: a real subject may end in "(test)".
func (k *enkodEvent) isSample(kind event.Type) bool {
	switch kind {
	case event.ContactSubscribed, event.ContactUnsubscribed:
		return k.GroupID.String() == enkodSampleGroupID && strings.HasSuffix(k.GroupName.String(), enkodSampleSuffix)
	case event.ContactCreated:
		// The sample of a new contact has no name with the suffix.
		l := k.lists()
		return k.Phone.String() == enkodSamplePhone && len(l) == 2 &&
			l[0] == event.List{ID: "0", Name: "test_group_0"} && l[1] == event.List{ID: "1", Name: "test_group_1"}
	}
	return k.MessageUID.String() == enkodSampleUID && strings.HasSuffix(k.Name.String(), enkodSampleSuffix)
}

// smtpReply finds a reply code where servers write it: at the start of the text
// or of a clause after a colon, semicolon or bracket, after a word that announces
// one, or right before an enhanced code. A bare number in a sentence ("over 500
// MB") is none.
var (
	smtpReply    = regexp.MustCompile(`(?:^|[:;(\[]\s*|(?i:\b(?:error|code|status|reply|response))[\s#]+)([45]\d\d)(?:[\s:;,)\]-]|$)`)
	smtpBoth     = regexp.MustCompile(`(?:^|[^\d.])([45]\d\d)[\s#(-]+[45]\.\d{1,3}\.\d{1,3}(?:[^\d.]|\.\D|\.?$)`)
	smtpEnhanced = regexp.MustCompile(`(?:^|[^\d.])([45]\.\d{1,3}\.\d{1,3})(?:[^\d.]|\.\D|\.?$)`)
)

// smtpCodes returns the reply code and the enhanced code in the text of a bounce,
// 0 and "" where there are none.
func smtpCodes(s string) (code int, enhanced string) {
	m := smtpBoth.FindStringSubmatch(s)
	if m == nil {
		m = smtpReply.FindStringSubmatch(s)
	}
	if m != nil {
		code, _ = strconv.Atoi(m[1]) // three digits
	}
	if m := smtpEnhanced.FindStringSubmatch(s); m != nil {
		enhanced = m[1]
	}
	return code, enhanced
}
