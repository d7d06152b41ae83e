package event

import "strings"

// Type is what happened: a family and a verb with a dot between them. The verbs
// of the email family are those of django-anymail.
type Type string

// The types. Contact and list events concern an address book and no message.
const (
	EmailQueued       Type = "email.queued"       // accepted by the provider, not yet sent
	EmailSent         Type = "email.sent"         // handed to the delivery queue; says nothing of arrival
	EmailDelivered    Type = "email.delivered"    // accepted by the recipient's server
	EmailDeferred     Type = "email.deferred"     // refused for now; the provider tries again
	EmailBounced      Type = "email.bounced"      // refused by the recipient's server
	EmailRejected     Type = "email.rejected"     // not sent at all, for instance to a suppressed address
	EmailFailed       Type = "email.failed"       // the provider could not send; reserved
	EmailOpened       Type = "email.opened"       // one open
	EmailClicked      Type = "email.clicked"      // one click
	EmailComplained   Type = "email.complained"   // reported as spam
	EmailUnsubscribed Type = "email.unsubscribed" // unsubscribed by a link in a message
	EmailSubscribed   Type = "email.subscribed"   // subscribed by a link in a message; reserved

	ContactCreated      Type = "contact.created"
	ContactUpdated      Type = "contact.updated"
	ContactRemoved      Type = "contact.removed"
	ContactSubscribed   Type = "contact.subscribed"
	ContactUnsubscribed Type = "contact.unsubscribed"
	ContactDeactivated  Type = "contact.deactivated"
	ContactReactivated  Type = "contact.reactivated"

	ListCreated     Type = "list.created"
	ListUpdated     Type = "list.updated"
	ListRemoved     Type = "list.removed"
	ListBulkUpdated Type = "list.bulk_updated" // many contacts changed at once; no contact events follow

	// OtherUnknown is a kind that blessd does not know. Raw holds all of it.
	OtherUnknown Type = "other.unknown"
)

// types is sorted, so that tables and metrics made of it are stable.
var types = []Type{
	ContactCreated, ContactDeactivated, ContactReactivated, ContactRemoved,
	ContactSubscribed, ContactUnsubscribed, ContactUpdated,
	EmailBounced, EmailClicked, EmailComplained, EmailDeferred, EmailDelivered,
	EmailFailed, EmailOpened, EmailQueued, EmailRejected, EmailSent,
	EmailSubscribed, EmailUnsubscribed,
	ListBulkUpdated, ListCreated, ListRemoved, ListUpdated,
	OtherUnknown,
}

// Types returns every type, sorted. The slice is the caller's.
func Types() []Type { return append([]Type(nil), types...) }

// Family is the part before the dot: email, contact, list or other.
func (t Type) Family() string { f, _, _ := strings.Cut(string(t), "."); return f }

// Verb is the part after the dot.
func (t Type) Verb() string { _, v, _ := strings.Cut(string(t), "."); return v }

// TimeSource says where an event's time comes from.
type TimeSource string

// The sources of an event's time.
const (
	TimeFromProvider TimeSource = "provider" // the provider's timestamp
	TimeFromReceipt  TimeSource = "received" // when blessd accepted the request
)

// BounceClass is how final a bounce is.
type BounceClass string

// The bounce classes.
const (
	BounceHard    BounceClass = "hard"    // permanent: do not send there again
	BounceSoft    BounceClass = "soft"    // perhaps temporary; whether the provider retried is not known
	BounceUnknown BounceClass = "unknown" // the provider does not say
)

// Reason is why a message was not delivered or not wanted: django-anymail's
// reject reasons.
type Reason string

// The reasons.
const (
	ReasonInvalid      Reason = "invalid"
	ReasonBounced      Reason = "bounced"
	ReasonTimedOut     Reason = "timed_out"
	ReasonBlocked      Reason = "blocked"
	ReasonSpam         Reason = "spam"
	ReasonUnsubscribed Reason = "unsubscribed"
	ReasonOther        Reason = "other"
)
