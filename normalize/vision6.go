package normalize

import (
	"iter"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
)

// Vision6 posts an array of notices about contacts and lists; a single one is
// accepted too.
// https://developers.vision6.com.au/3.3/method/webhook
//
// What it leaves out: the e-mail address, and what changed. Only the ids are
// there to ask the API with. A contact that is added and subscribed by hand
// yields two events, created and subscribed.
var vision6Provider = provider{
	name: "vision6",
	elements: func(d *delivery.Delivery) (iter.Seq[[]byte], Reason) {
		return jsonElements(d.Body)
	},
	events: vision6Events,
}

// vision6Types is by object and event.
var vision6Types = map[[2]string]event.Type{
	{"contact", "created"}:      event.ContactCreated,
	{"contact", "updated"}:      event.ContactUpdated,
	{"contact", "removed"}:      event.ContactRemoved,
	{"contact", "subscribed"}:   event.ContactSubscribed,
	{"contact", "unsubscribed"}: event.ContactUnsubscribed,
	{"contact", "deactivated"}:  event.ContactDeactivated,
	{"contact", "reactivated"}:  event.ContactReactivated,
	{"list", "created"}:         event.ListCreated,
	{"list", "updated"}:         event.ListUpdated,
	{"list", "removed"}:         event.ListRemoved,
	{"list", "bulk_updated"}:    event.ListBulkUpdated,
}

type vision6Event struct {
	ListID    text `json:"list_id"`
	ContactID text `json:"contact_id"` // absent for lists
	Object    text `json:"object"`
	Event     text `json:"event"`
	Timestamp text `json:"timestamp"` // seconds
}

func vision6Events(d *delivery.Delivery, raw []byte) ([]finding, Reason) {
	v, reason := decode[vision6Event](raw, "object", "event", "list_id", "contact_id", "timestamp")
	if reason != "" {
		return nil, reason
	}
	object, kind := v.Object.Word(), v.Event.Word()
	kindType, known := vision6Types[[2]string{object, kind}]
	if !known {
		return []finding{unknown(raw)}, ""
	}
	f := finding{
		event: event.Event{Type: kindType, Time: v.Timestamp.Time()},
		identity: []string{
			object, kind, v.ListID.Identity(), v.ContactID.Identity(), v.Timestamp.Identity(),
		},
	}
	if id := v.ContactID.String(); id != "" {
		f.event.Contact = &event.Contact{ID: id}
	}
	if id := v.ListID.String(); id != "" {
		f.event.Lists = []event.List{{ID: id}}
	}
	return byReceipt(d, []finding{f}), ""
}
