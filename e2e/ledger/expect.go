package ledger

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"mime"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// Expected is what blessd must make of one element of a body: an event, or an entry
// in quarantine.
type Expected struct {
	// Event holds every field that the event must have, and no other, besides id,
	// received and raw; without time when that is the time of receipt. It is nil
	// when the element, or the whole body, has to go to quarantine.
	Event map[string]any
	// Raw is the provider's own object, byte for byte.
	Raw []byte
	// Anew is set where a second delivery is another event: it has nothing of its
	// own that would tell it from a second real one.
	Anew bool
}

// object is a JSON object, its numbers as they were written.
type object = map[string]any

// Expect says what blessd must make of a body, by docs/events.md alone. It knows what
// the bench sends, and no more: an element that it does not know is of the type
// other.unknown.
func Expect(provider, contentType string, body []byte) []Expected {
	text := bytes.Trim(body, " \t\r\n")
	if provider == "sendclean" || provider == "sarv" {
		if form, _, err := mime.ParseMediaType(contentType); err == nil && form == "application/x-www-form-urlencoded" {
			fields, err := url.ParseQuery(string(body))
			if err != nil {
				return quarantined(body)
			}
			text = nil
			for name, values := range fields {
				if strings.HasSuffix(strings.ToLower(name), "tes_events") {
					text = []byte(values[0])
				}
			}
			if len(text) == 0 {
				return nil // how the URL is tried
			}
		}
	}
	if len(text) == 0 {
		return nil
	}
	if !json.Valid(text) || text[0] != '[' && text[0] != '{' {
		return quarantined(body)
	}
	elements := []json.RawMessage{text}
	if text[0] == '[' {
		if err := json.Unmarshal(text, &elements); err != nil {
			return quarantined(body)
		}
	}
	if provider == "mailgun" {
		var outer struct {
			Data json.RawMessage `json:"event-data"`
		}
		if err := json.Unmarshal(text, &outer); err != nil || len(outer.Data) == 0 || outer.Data[0] != '{' {
			return quarantined(body)
		}
		elements = []json.RawMessage{outer.Data}
	}
	var all []Expected
	for _, raw := range elements {
		d := json.NewDecoder(bytes.NewReader(raw))
		d.UseNumber()
		var o object
		if raw[0] != '{' || d.Decode(&o) != nil || !plain(raw) {
			all = append(all, Expected{Raw: raw})
			continue
		}
		for _, e := range kinds[provider](o) {
			anew := provider == "enkod" && !lasting[word(o, "event")] || provider != "mailgun" && e["time"] == nil && e["type"] != "other.unknown"
			all = append(all, Expected{Event: e, Raw: raw, Anew: anew})
		}
	}
	return all
}

func quarantined(body []byte) []Expected { return []Expected{{Raw: body}} }

// routing are the keys that decide what an event is: one that stands twice could be
// read in two ways.
var routing = map[string]bool{"_id": true, "x_unique_id": true, "ts": true, "event": true, "msg": true}

// plain tells whether an element is what a normalizer has to read: not nested more
// than 64 deep, and no routing key twice in the outermost object.
func plain(raw []byte) bool {
	d := json.NewDecoder(bytes.NewReader(raw))
	depth, key := 0, false // whether the next string of the outermost object is a key
	seen := map[string]bool{}
	for {
		t, err := d.Token()
		if err != nil {
			return true // its end
		}
		switch t := t.(type) {
		case json.Delim:
			if t == '{' || t == '[' {
				depth++
			} else {
				depth--
			}
			key = depth == 1
			if depth > 64 {
				return false
			}
		case string:
			if depth == 1 && key {
				if routing[t] && seen[t] {
					return false
				}
				seen[t] = true
				key = false
				continue
			}
			key = depth == 1
		default:
			key = depth == 1
		}
	}
}

// kinds says what the events of one element are, by provider.
var kinds = map[string]func(object) []object{
	"enkod":     enkod,
	"mailgun":   mailgun,
	"sarv":      sendclean,
	"sendclean": sendclean,
	"vision6":   vision6,
}

var unknown = []object{{"type": "other.unknown"}}

// at returns what is at a path, nil when nothing is.
func at(o any, path ...string) any {
	for _, name := range path {
		m, ok := o.(object)
		if !ok {
			return nil
		}
		o = m[name]
	}
	return o
}

// text returns a string or a number as it is written, and nil for nothing.
func text(o any, path ...string) any {
	switch v := at(o, path...).(type) {
	case string:
		if v != "" {
			return v
		}
	case json.Number:
		return v.String()
	}
	return nil
}

// word returns a string, and "" for anything else.
func word(o object, name string) string {
	s, _ := o[name].(string)
	return s
}

// trimmed is text without blanks around it.
func trimmed(o any, path ...string) any {
	if s, ok := text(o, path...).(string); ok && strings.TrimSpace(s) != "" {
		return strings.TrimSpace(s)
	}
	return nil
}

// put sets what is there; what is nil, or an object without anything, is absent.
func put(o object, name string, value any) {
	switch v := value.(type) {
	case nil:
		return
	case object:
		if len(v) == 0 {
			return
		}
	}
	o[name] = value
}

// fields makes an object of names and values, without those that are nil.
func fields(pairs ...any) object {
	o := object{}
	for i := 0; i < len(pairs); i += 2 {
		put(o, pairs[i].(string), pairs[i+1])
	}
	return o
}

// date writes a time of so many milliseconds since 1970, given in units of 1 or 1,000
// of them, to the millisecond.
func date(value any, unit int64) any {
	n, ok := value.(json.Number)
	if !ok {
		return nil
	}
	whole, fraction, _ := strings.Cut(n.String(), ".")
	ms, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || ms <= 0 {
		return nil
	}
	if ms *= unit; unit == 1000 {
		rest, err := strconv.ParseInt((fraction + "000")[:3], 10, 64)
		if err != nil {
			return nil
		}
		ms += rest
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

func sendclean(o object) []object {
	message := fields("id", text(o, "_id"), "correlation_id", text(o, "x_unique_id"), "smtp_user", text(o, "smtp_name"), "account_id", text(o, "user_id"))
	one := func(typ string, when any) object {
		return fields("type", typ, "time", when, "message", message)
	}
	bounce := func(class string) object {
		return fields("class", class, "code", at(o, "msg", "bounceCodeTrad"), "enhanced_code", trimmed(o, "msg", "bounceCodeEnh"),
			"description", trimmed(o, "msg", "bounceDesc"), "reason", "bounced")
	}
	when := date(o["ts"], 1)
	e := one("", when)
	switch word(o, "event") {
	case "send":
		e["type"] = "email.sent"
	case "delivered":
		e["type"] = "email.delivered"
	case "soft_bounce":
		e["type"], e["bounce"] = "email.bounced", bounce("soft")
	case "hard_bounce":
		e["type"], e["bounce"] = "email.bounced", bounce("hard")
	case "open", "click":
		if all := sendcleanInner(o, one); len(all) > 0 {
			return all
		}
		e["type"] = "email." + map[string]string{"open": "opened", "click": "clicked"}[word(o, "event")]
	case "spam":
		e["type"], e["bounce"] = "email.complained", fields("reason", "spam")
		put(e, "complaint", report(text(o, "msg", "feedbackReport")))
		if to, ok := at(e, "complaint", "original_recipient").(string); ok && strings.Contains(to, " ") {
			e["recipient"] = to // the bench sends hashes only
		}
	default:
		return unknown
	}
	return []object{e}
}

// sendcleanInner makes an event of each open or click.
func sendcleanInner(o object, one func(string, any) object) []object {
	var all []object
	opens, _ := at(o, "msg", "opens").([]any)
	if word(o, "event") == "click" {
		opens = nil
	}
	for _, v := range opens {
		e := one("email.opened", date(at(v, "openTs"), 1))
		put(e, "client", fields("ip", text(v, "openIp"), "user_agent", text(v, "openUa")))
		all = append(all, e)
	}
	clicks, _ := at(o, "msg", "clicks").([]any)
	if word(o, "event") == "open" {
		clicks = nil
	}
	for _, v := range clicks {
		e := one("email.clicked", date(at(v, "clickTs"), 1))
		put(e, "click", fields("url", text(v, "clickUrl")))
		put(e, "client", fields("ip", text(v, "clickIp"), "user_agent", text(v, "clickUa")))
		all = append(all, e)
	}
	return all
}

// report reads the abuse report, of the form that SendClean's documentation shows.
func report(value any) object {
	text, _ := value.(string)
	names := map[string]string{
		"Feedback-Type": "feedback_type", "Abuse-Type": "abuse_type", "User-Agent": "reporter", "Source-Ip": "source_ip",
		"Original-Rcpt-To": "original_recipient", "Original-Mail-From": "original_mail_from", "Reported-Domain": "reported_domain",
	}
	o := object{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if field := names[name]; field != "" {
			o[field] = value
		}
		if t, err := time.Parse("Mon, 2 January 2006 15:04:05 -0700", value); name == "Arrival-Date" && err == nil {
			o["arrival"] = t.UTC().Format("2006-01-02T15:04:05.000Z")
		}
	}
	return o
}

// mailgunBounce has what a failure means by its reason, the class first.
var mailgunBounce = map[string][2]string{
	"old":         {"hard", "timed_out"},
	"espblock":    {"unknown", "blocked"},
	"blacklisted": {"unknown", "blocked"},
}

var mailgunSuppressed = map[string]string{"605": "bounced", "606": "unsubscribed", "607": "spam", "625": "blocked"}

func mailgun(o object) []object {
	headers := at(o, "message", "headers")
	message := fields(
		"id", text(headers, "message-id"), "rfc_message_id", text(headers, "message-id"), "subject", text(headers, "subject"),
		"from", text(headers, "from"), "account_id", text(o, "account", "id"),
	)
	if tags, ok := o["tags"].([]any); ok && len(tags) > 0 {
		message["tags"] = tags
	}
	put(message, "metadata", o["user-variables"])
	e := fields("time", date(o["timestamp"], 1000), "message", message, "recipient", text(o, "recipient"))
	if at(o, "flags", "is-test-mode") == true || at(o, "flags", "is-system-test") == true {
		e["test"] = true
	}
	status := o["delivery-status"]
	bounce := fields("code", at(status, "code"), "enhanced_code", trimmed(status, "enhanced-code"), "description", trimmed(status, "message"),
		"attempt", at(status, "attempt-no"), "retry_after_seconds", at(status, "retry-seconds"), "mx_host", text(status, "mx-host"), "tls", at(status, "tls"))
	if bounce["description"] == nil {
		put(bounce, "description", trimmed(status, "description"))
	}
	info := o["client-info"]
	client := fields("ip", text(o, "ip"), "user_agent", text(info, "user-agent"), "type", text(info, "client-type"), "os", text(info, "client-os"),
		"name", text(info, "client-name"), "device", text(info, "device-type"), "bot", text(info, "bot"),
		"country", text(o, "geolocation", "country"), "region", text(o, "geolocation", "region"), "city", text(o, "geolocation", "city"))
	switch word(o, "event") {
	case "accepted":
		e["type"] = "email.queued"
	case "delivered":
		e["type"] = "email.delivered"
		put(e, "bounce", bounce)
	case "failed":
		e["bounce"] = bounce
		mailgunFailed(o, e, bounce)
	case "opened", "clicked", "unsubscribed":
		e["type"] = "email." + word(o, "event")
		put(e, "client", client)
		if word(o, "event") == "clicked" {
			put(e, "click", fields("url", text(o, "url")))
		}
	case "complained":
		e["type"], e["bounce"] = "email.complained", fields("reason", "spam")
	default:
		e = fields("type", "other.unknown", "time", e["time"], "test", e["test"])
	}
	return []object{e}
}

func mailgunFailed(o, e, bounce object) {
	reason, _ := o["reason"].(string)
	code, _ := text(bounce, "code").(string)
	switch {
	case o["severity"] == "temporary":
		e["type"] = "email.deferred"
	case strings.HasPrefix(reason, "suppress-") || mailgunSuppressed[code] != "":
		e["type"], bounce["reason"] = "email.rejected", mailgunSuppressed[code]
	default:
		known, ok := mailgunBounce[reason]
		if !ok {
			known = [2]string{"hard", "bounced"}
		}
		e["type"], bounce["class"], bounce["reason"] = "email.bounced", known[0], known[1]
	}
}

// lasting are enKod's events that a redelivery of is recognised.
var lasting = map[string]bool{"message sent": true, "delivery bounce": true, "complaint": true, "\u0441omplaint": true}

func enkod(o object) []object {
	message := func(typ string) object {
		return fields("type", typ, "recipient", text(o, "to"), "message", fields("id", text(o, "message_uid"), "campaign_id", text(o, "message_id"),
			"subject", text(o, "name"), "from", text(o, "from"), "sending_type", text(o, "sending_type")))
	}
	group := func(typ string) object {
		return fields("type", typ, "channel", text(o, "channel"), "contact", fields("email", text(o, "email")),
			"lists", []any{fields("id", text(o, "group_id"), "name", text(o, "group_name"))})
	}
	var e object
	switch word(o, "event") {
	case "message sent":
		e = message("email.sent")
	case "message open":
		e = message("email.opened")
	case "message clicked":
		e = message("email.clicked")
		put(e, "click", fields("url", text(o, "click_url")))
	case "delivery bounce":
		e = message("email.bounced")
		e["bounce"] = fields("class", "unknown", "description", trimmed(o, "error_message"), "reason", "bounced")
	case "complaint", "\u0441omplaint":
		e = message("email.complained")
		e["bounce"] = fields("reason", "spam")
	case "mailing group subscribe":
		e = group("contact.subscribed")
	case "mailing group unsubscribe":
		e = group("contact.unsubscribed")
	case "contact adding":
		ids, _ := o["groups_ids"].([]any)
		names, _ := o["groups_names"].([]any)
		var lists []any
		for i := range min(len(ids), len(names)) {
			lists = append(lists, fields("id", text(ids[i]), "name", text(names[i])))
		}
		e = fields("type", "contact.created", "contact", fields("email", text(o, "email"), "phone", text(o, "phone")))
		if lists != nil {
			e["lists"] = lists
		}
	default:
		return unknown
	}
	return []object{e}
}

var vision6Verbs = map[string]map[string]bool{
	"contact": {"created": true, "updated": true, "removed": true, "subscribed": true, "unsubscribed": true, "deactivated": true, "reactivated": true},
	"list":    {"created": true, "updated": true, "removed": true, "bulk_updated": true},
}

func vision6(o object) []object {
	when := date(o["timestamp"], 1000)
	thing, verb := word(o, "object"), word(o, "event")
	if !vision6Verbs[thing][verb] {
		return unknown
	}
	e := fields("type", thing+"."+verb, "time", when)
	put(e, "lists", []any{fields("id", text(o, "list_id"))})
	put(e, "contact", fields("id", text(o, "contact_id")))
	return []object{e}
}

// print is a digest of what an event must be and what one is: equal prints are equal
// events, but for id and the time of receipt.
type print [sha256.Size]byte

// print returns the digest of an event that is expected.
func (x *Expected) print(provider, endpoint string) print {
	e := object{"provider": provider, "endpoint": endpoint, "time_source": "provider"}
	maps.Copy(e, x.Event)
	if e["time"] == nil {
		e["time_source"] = "received"
	}
	return printOf(e, x.Raw)
}

func printOf(e object, raw []byte) print {
	text, err := json.Marshal(e) // which sorts the names
	if err != nil {
		panic(err) // it was made of JSON
	}
	h := sha256.New()
	fmt.Fprintf(h, "%d:%s%s", len(text), text, raw)
	return print(h.Sum(nil))
}
