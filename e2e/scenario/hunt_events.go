package scenario

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

var huntEventScenarios = []Scenario{
	{
		Name: "hunt-events", Tier: 1,
		Proves: "What is sent is what is stored: each event once, in order, unaltered, whatever ids are shared, repeated or missing, and what cannot be understood whole in quarantine.",
		Run:    huntEvents,
	},
	{
		Name: "hunt-too-large", Tier: 1,
		Proves: "An event that NATS refuses for its size goes to quarantine, and the rest of its batch, and all that follows, is published.",
		Run:    func(e *Env) { huntTooLarge(e, "journal") },
	},
	{
		Name: "hunt-too-large-stream", Tier: 1,
		Proves: "The same holds without a journal, before the answer.",
		Run:    func(e *Env) { huntTooLarge(e, "stream") },
	},
	{
		Name: "hunt-quarantine-full", Tier: 1,
		Proves: "What even the quarantine stream has no room for is kept as a file.",
		Run:    huntQuarantineFull,
	},
}

func huntEvents(e *Env) {
	again := *endpointOf("sendclean")
	again.Name = "again"
	b := e.BlessdLater(Config{})
	b.AddEndpoint(fmt.Sprintf("{name: again, provider: sendclean, key_files: [%s], signature: enforce}", b.SecretFile("sendclean")))
	b.Start()
	var order []string // of the uids
	post := func(d *Delivery) {
		order = append(order, d.UID)
		b.Bless(d)
	}
	// The uid is where it identifies nothing, since the ids are to be shared.
	shared := func(p *Endpoint, kind string, ts int64) *Delivery {
		uid := e.ledger.NewUID()
		d := e.SendClean("sendclean", uid, fmt.Sprintf(`{"_id":"shared.1","smtp_name":%q,"x_unique_id":"shared","ts":%d,"event":%q,"msg":{}}`, uid, ts, kind))
		d.Endpoint = p
		d.sign(d.value(e))
		return d
	}
	acme := endpointOf("sendclean")

	for _, p := range Providers() {
		for range 8 {
			post(e.Delivery(p))
		}
	}
	// One message, several events; two endpoints, the same ids.
	post(shared(acme, "send", 1465890656001))
	post(shared(acme, "delivered", 1465890656500))
	post(shared(acme, "delivered", 1465890656789))
	post(shared(&again, "delivered", 1465890656789))
	// The same request again, and events that nothing tells apart in one request.
	twice := e.Delivery("sendclean")
	post(twice)
	b.Bless(twice)
	uid := e.ledger.NewUID()
	same := sendcleanEvents(uid, 1)[0]
	post(e.SendClean("sendclean", uid, same, same, same))
	// A kind that nobody knows; white space, escapes and numbers as nobody writes them.
	uid = e.ledger.NewUID()
	post(e.SendClean("sendclean", uid, fmt.Sprintf(`{"event":"teleported","_id":%q,"ts":1465890656000}`, uid)))
	uid = e.ledger.NewUID()
	post(e.SendClean("sendclean", uid, fmt.Sprintf("{ \"ts\" : 1465890656999,\t\"event\":\"send\", \"zz\":1.50e+3, \"_id\":\"m.%s\",\"x\":\"<b>\\u0026 &\\/\", \"big\":12345678901234567890123, \"x_unique_id\":%q,\"msg\":{} }", uid, uid)))
	// An element with few fields behind one with many.
	uid = e.ledger.NewUID()
	post(e.SendClean("sendclean", uid, append(sendcleanEvents(uid, PerBatch), fmt.Sprintf(`{"_id":"few.%s","ts":1465890659001,"event":"send"}`, uid))...))
	// Authentic and unreadable: cut short, no JSON, not an object.
	uid = e.ledger.NewUID()
	post(e.Plain("enkod", uid, "["+enkodEvent(uid)+`,{"event":"message sent","message_uid":"cu`, 1))
	uid = e.ledger.NewUID()
	post(e.Plain("vision6", uid, "not JSON "+uid, 1))
	uid = e.ledger.NewUID()
	post(e.Plain("enkod", uid, "["+enkodEvent(uid)+","+quoted("a string "+uid)+"]", 2))

	b.Settled()
	e.inOrder(b, order)
}

// value is what the form of a delivery has signed.
func (d *Delivery) value(e *Env) string { return e.formValue(string(d.Body)) }

// inOrder checks that the events of the deliveries are in the stream in the order in
// which the deliveries were blessed, and within each as they were sent.
func (e *Env) inOrder(b *Blessd, order []string) {
	last, lastElement, wrong := -1, -1, 0
	e.each(b.NATSURL(), func(m *ledger.Message) {
		if m.Stream != ledger.Events {
			return
		}
		at := slices.Index(order, ledger.UID.FindString(string(m.Data)))
		var v struct {
			Raw  json.RawMessage `json:"raw"`
			Type string          `json:"type"`
		}
		if at < 0 || json.Unmarshal(m.Data, &v) != nil {
			return // the ledger has a word for that
		}
		element := slices.Index([]string{"email.sent", "email.delivered", "email.bounced", "email.opened", "email.clicked", "email.complained"}, v.Type)
		if at < last || at == last && strings.Contains(string(v.Raw), `"14304056-`) && element < lastElement {
			wrong++
		}
		last, lastElement = max(at, last), element
	})
	if wrong > 0 {
		e.Errorf("ORDER: %d events are before others that were sent earlier", wrong)
	}
}

// huntTooLarge sends a batch with an event at its end that is just too large for the
// server when it is an event, and not when it is quarantined.
func huntTooLarge(e *Env, acknowledge string) {
	const limit = 256 << 10
	n := e.natsWithPayload(limit)
	line := e.Line(n.URL())
	b := e.Blessd(Config{NATS: line.URL(), Acknowledge: acknowledge})
	b.Ready()
	b.Bless(e.Delivery("sendclean"))
	line.Latency(500 * time.Millisecond) // so that all of a batch is sent before the first acknowledgement
	uid := e.ledger.NewUID()
	elements := sendcleanEvents(uid, PerBatch)
	// Raw and the headers of the quarantine fit, raw and what the event adds do not.
	last := len(elements) - 1
	pad := limit - 500 - len(elements[last])
	elements[last] = strings.Replace(elements[last], `"msg":{`, `"pad":"`+strings.Repeat("x", pad-len(`"pad":"",`))+`","msg":{`, 1)
	b.Bless(e.SendClean("sendclean", uid, elements...))
	b.Bless(e.Delivery("sendclean"))
	e.Rules.MaxEvent = limit - 1000
	b.Settled()
	if got := b.Metric("blessd_events_quarantined_total", "reason", "too_large"); got != 1 {
		e.Errorf("%v events are in quarantine as too large, want 1", got)
	}
}

// huntQuarantineFull sends more that cannot be understood than the quarantine has room for.
func huntQuarantineFull(e *Env) {
	b := e.Blessd(Config{Quarantine: "max_bytes: 64KiB"})
	var uids []string
	for range 24 {
		uid := e.ledger.NewUID()
		uids = append(uids, uid)
		if r := b.send(e.Plain("vision6", uid, "not JSON "+uid+strings.Repeat(".", 6000), 1)); !r.Blessed() {
			e.Fatalf("an unreadable body was answered %d %q %v", r.Status, r.Body, r.Err)
		}
	}
	b.Settled()
	if inStream := e.everyBody(b, uids); inStream == len(uids) {
		e.Fatalf("the quarantine stream had room for everything: this run shows nothing")
	}
}
