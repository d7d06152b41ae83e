package relay

// What can become of an event or a body.
const (
	OutcomePublished   = "published"
	OutcomeDuplicate   = "duplicate" // the stream had it
	OutcomeQuarantined = "quarantined"
)

// Settled is one event or quarantined body whose fate is certain, for those who
// watch.
type Settled struct {
	Provider, Endpoint string
	ID                 string
	// Type is the event's; "" for what is quarantined.
	Type    string
	Outcome string
	// Reason is why it was quarantined, one of Reasons.
	Reason string
	// Data is the event as it was published, or the quarantined bytes as they were
	// received. It must not be changed.
	Data []byte
}

func (c *carrier) notify(it *item, outcome string) {
	if c.watch == nil {
		return
	}
	s := Settled{Provider: it.provider, Endpoint: it.endpoint, ID: it.id, Type: it.typ, Outcome: outcome}
	if q := it.quarantine; q != nil {
		s.Type, s.Reason, s.Data = "", q.Reason, q.Raw
	} else {
		s.Data = it.msg.Data
	}
	c.watch(s)
}
