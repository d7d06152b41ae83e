package normalize_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/normalize"
)

func mailgunDelivery(contentType, body string) *delivery.Delivery {
	return &delivery.Delivery{
		Provider: "mailgun", Endpoint: "acme", Method: "POST", ContentType: contentType, Body: []byte(body),
		Received: time.Date(2026, 11, 21, 17, 22, 17, 123456789, time.UTC),
		Verified: delivery.Verification{Method: delivery.BySignature},
	}
}

func mailgunWrap(eventData string) string {
	return `{"signature":{"timestamp":"1773132300","token":"t","signature":"s"},"event-data":` + eventData + `}`
}

// mailgunOne normalizes a body that holds one event.
func mailgunOne(t *testing.T, contentType, body string) *event.Event {
	t.Helper()
	results := slices.Collect(normalize.Each(mailgunDelivery(contentType, body)))
	if len(results) != 1 || results[0].Event == nil {
		t.Fatalf("got %d results, the first with reject %+v, want one event: %.300s", len(results), first(results).Reject, body)
	}
	return results[0].Event
}

func first(results []normalize.Result) normalize.Result {
	if len(results) == 0 {
		return normalize.Result{}
	}
	return results[0]
}

const (
	jsonType   = "application/json"
	urlEncoded = "application/x-www-form-urlencoded"
)

func TestMailgunFailures(t *testing.T) {
	type outcome struct {
		Type   event.Type
		Class  event.BounceClass
		Reason event.Reason
	}
	tests := []struct {
		severity, reason, code string
		want                   outcome
	}{
		{"temporary", "generic", "451", outcome{event.EmailDeferred, "", ""}},
		{"temporary", "greylisted", "450", outcome{event.EmailDeferred, "", ""}},
		{"temporary", "suppress-bounce", "605", outcome{event.EmailDeferred, "", ""}},
		{"permanent", "bounce", "550", outcome{event.EmailBounced, event.BounceHard, event.ReasonBounced}},
		{"permanent", "generic", "550", outcome{event.EmailBounced, event.BounceHard, event.ReasonBounced}},
		{"permanent", "hardfail", "0", outcome{event.EmailBounced, event.BounceHard, event.ReasonBounced}},
		{"permanent", "greylisted", "451", outcome{event.EmailBounced, event.BounceHard, event.ReasonBounced}},
		{"permanent", "", "null", outcome{event.EmailBounced, event.BounceHard, event.ReasonBounced}},
		{"permanent", "of-tomorrow", "499", outcome{event.EmailBounced, event.BounceHard, event.ReasonBounced}},
		{"permanent", "old", "498", outcome{event.EmailBounced, event.BounceHard, event.ReasonTimedOut}},
		{"permanent", "espblock", "554", outcome{event.EmailBounced, event.BounceUnknown, event.ReasonBlocked}},
		{"permanent", "blacklisted", "550", outcome{event.EmailBounced, event.BounceUnknown, event.ReasonBlocked}},
		{"permanent", "suppress-bounce", "605", outcome{event.EmailRejected, "", event.ReasonBounced}},
		{"permanent", "suppress-unsubscribe", "606", outcome{event.EmailRejected, "", event.ReasonUnsubscribed}},
		{"permanent", "suppress-complaint", "607", outcome{event.EmailRejected, "", event.ReasonSpam}},
		{"permanent", "suppress-complaint", "null", outcome{event.EmailRejected, "", event.ReasonSpam}},
		{"permanent", "suppress-weather", "null", outcome{event.EmailRejected, "", event.ReasonOther}},
		{"permanent", "generic", "605", outcome{event.EmailRejected, "", event.ReasonBounced}},
		{"permanent", "generic", "606", outcome{event.EmailRejected, "", event.ReasonUnsubscribed}},
		{"permanent", "generic", "607", outcome{event.EmailRejected, "", event.ReasonSpam}},
		{"permanent", "generic", `"607"`, outcome{event.EmailRejected, "", event.ReasonSpam}},
		{"permanent", "old", "625", outcome{event.EmailRejected, "", event.ReasonBlocked}},
		{" Permanent ", "Suppress-Bounce", "null", outcome{event.EmailRejected, "", event.ReasonBounced}},
		{"transient", "generic", "451", outcome{Type: event.OtherUnknown}},
		{"", "bounce", "550", outcome{Type: event.OtherUnknown}},
	}
	for _, tt := range tests {
		e := mailgunOne(t, jsonType, mailgunWrap(fmt.Sprintf(
			`{"event":"failed","id":"a","timestamp":1773132300.5,"severity":%q,"reason":%q,"delivery-status":{"code":%s}}`,
			tt.severity, tt.reason, tt.code)))
		got := outcome{Type: e.Type}
		if e.Bounce != nil {
			got.Class, got.Reason = e.Bounce.Class, e.Bounce.Reason
		}
		if got != tt.want {
			t.Errorf("%q %q %s: got %+v, want %+v", tt.severity, tt.reason, tt.code, got, tt.want)
		}
	}
}

func TestMailgunTypes(t *testing.T) {
	for kind, want := range map[string]event.Type{
		`"accepted"`: event.EmailQueued, `"delivered"`: event.EmailDelivered, `"opened"`: event.EmailOpened,
		`"clicked"`: event.EmailClicked, `"unsubscribed"`: event.EmailUnsubscribed, `"complained"`: event.EmailComplained,
		`"rejected"`: event.EmailRejected, `" Opened "`: event.EmailOpened, `"\u006fpened"`: event.EmailOpened,
		`"stored"`: event.OtherUnknown, `"list_uploaded"`: event.OtherUnknown, `"open"`: event.OtherUnknown,
		`""`: event.OtherUnknown, `null`: event.OtherUnknown, `42`: event.OtherUnknown, `["opened"]`: event.OtherUnknown,
		`"mail.events.>"`: event.OtherUnknown, `"a\r\nb"`: event.OtherUnknown,
	} {
		e := mailgunOne(t, jsonType, mailgunWrap(`{"event":`+kind+`,"id":"a","timestamp":1773132300.5}`))
		if e.Type != want {
			t.Errorf("%s: got %s, want %s", kind, e.Type, want)
		}
	}
}

func TestMailgunTime(t *testing.T) {
	const received = "2026-11-21T17:22:17.123Z"
	for timestamp, want := range map[string]string{
		"1529692198.641821":     "2018-06-22T18:29:58.641Z",
		"1529692198.641999999":  "2018-06-22T18:29:58.641Z",
		"1529692198.642":        "2018-06-22T18:29:58.642Z",
		"1377047343.0":          "2013-08-21T01:09:03.000Z",
		"1377047343":            "2013-08-21T01:09:03.000Z",
		`"1377047343"`:          "2013-08-21T01:09:03.000Z",
		`"1377047343.25"`:       "2013-08-21T01:09:03.250Z",
		"1.529692198641821e9":   "2018-06-22T18:29:58.641Z",
		"null":                  received,
		`"soon"`:                received,
		"0":                     received,
		"-1":                    received,
		"9e99":                  received,
		"1e999999999":           received,
		"9223372036854775808":   received,
		"{}":                    received,
		"1773132300000":         "2026-03-10T08:45:00.000Z", // too many for seconds, so milliseconds
		"253402300799.9999":     "1978-01-11T21:31:40.799Z",
		`"1773132300.5 "`:       "2026-03-10T08:45:00.500Z",
		"1773132300.0000000001": "2026-03-10T08:45:00.000Z",
	} {
		e := mailgunOne(t, jsonType, mailgunWrap(`{"event":"opened","id":"a","timestamp":`+timestamp+`}`))
		source := event.TimeFromProvider
		if want == received {
			source = event.TimeFromReceipt
		}
		if e.Time.String() != want || e.TimeSource != source {
			t.Errorf("%s: got %s (%s), want %s (%s)", timestamp, e.Time, e.TimeSource, want, source)
		}
	}
}

func TestMailgunIdentity(t *testing.T) {
	id := func(data string) string { return mailgunOne(t, jsonType, mailgunWrap(data)).ID }
	base := id(`{"event":"opened","id":"a","timestamp":1773132300.5,"domain":{"name":"mg.example.net"},"tags":["x"]}`)
	if want := event.NewID("mailgun", "acme", []string{"mg.example.net", "2026-03-10", "a"}, 0); base != want {
		t.Errorf("got id %s, want that of domain, date and id, %s", base, want)
	}
	for name, data := range map[string]string{
		"order and blanks":    ` { "domain" : { "name":"mg.example.net" } , "timestamp":1773132300.5, "id" : "a" , "event":"opened" } `,
		"escapes":             `{"event":"opened","\u0069d":"\u0061","timestamp":1773132300.5,"domain":{"name":"mg.example.ne\u0074"}}`,
		"form of the number":  `{"event":"opened","id":"a","timestamp":"1773132300.500","domain":{"name":"mg.example.net"}}`,
		"other details":       `{"event":"opened","id":"a","timestamp":1773132300.5,"domain":{"name":"mg.example.net"},"ip":"192.0.2.1"}`,
		"later that day":      `{"event":"opened","id":"a","timestamp":1773187199.999,"domain":{"name":"mg.example.net"}}`,
		"a kind of tomorrow":  `{"event":"forwarded","id":"a","timestamp":1773132300.5,"domain":{"name":"mg.example.net"}}`,
		"a severity tomorrow": `{"event":"failed","severity":"x","id":"a","timestamp":1773132300.5,"domain":{"name":"mg.example.net"}}`,
	} {
		if got := id(data); got != base {
			t.Errorf("%s: got another id, %s, want %s", name, got, base)
		}
	}
	seen := map[string]string{base: "base"}
	for name, data := range map[string]string{
		"next day":        `{"event":"opened","id":"a","timestamp":1773187200,"domain":{"name":"mg.example.net"}}`,
		"other id":        `{"event":"opened","id":"A","timestamp":1773132300.5,"domain":{"name":"mg.example.net"}}`,
		"other domain":    `{"event":"opened","id":"a","timestamp":1773132300.5,"domain":{"name":"mg2.example.net"}}`,
		"no domain":       `{"event":"opened","id":"a","timestamp":1773132300.5}`,
		"no id":           `{"event":"opened","timestamp":1773132300.5,"domain":{"name":"mg.example.net"}}`,
		"no id, other ip": `{"event":"opened","timestamp":1773132300.5,"domain":{"name":"mg.example.net"},"ip":"192.0.2.1"}`,
		"empty id":        `{"event":"opened","id":"","timestamp":1773132300.5,"domain":{"name":"mg.example.net"}}`,
		"null id":         `{"event":"opened","id":null,"timestamp":1773132300.5,"domain":{"name":"mg.example.net"}}`,
		"no timestamp":    `{"event":"opened","id":"a","domain":{"name":"mg.example.net"}}`,
		"bad timestamp":   `{"event":"opened","id":"a","timestamp":"soon","domain":{"name":"mg.example.net"}}`,
	} {
		got := id(data)
		if other, ok := seen[got]; ok {
			t.Errorf("%s has the id of %s", name, other)
		}
		seen[got] = name
	}

	d := mailgunDelivery(jsonType, mailgunWrap(`{"event":"opened","id":"a","timestamp":1773132300.5,"domain":{"name":"mg.example.net"}}`))
	d.Endpoint = "other"
	if got := first(slices.Collect(normalize.Each(d))).Event.ID; got == base {
		t.Error("two endpoints yield one id")
	}
}

func TestMailgunSignatureIsNoPartOfTheEvent(t *testing.T) {
	const data = `{"event":"opened", "id":"a" ,"timestamp":1773132300.5}`
	a := mailgunOne(t, jsonType, `{"signature":{"timestamp":"1","token":"a","signature":"b"},"event-data":`+data+`}`)
	b := mailgunOne(t, jsonType, "\ufeff {\n\"x\":[{}], \"event-data\" : "+data+" , \"signature\":{\"token\":\"c\"}}\n")
	c := mailgunOne(t, jsonType, data)
	for _, e := range []*event.Event{a, b, c} {
		if string(e.RawBytes()) != data {
			t.Errorf("got raw %s, want %s", e.RawBytes(), data)
		}
		if e.ID != a.ID {
			t.Errorf("got id %s, want %s", e.ID, a.ID)
		}
	}
}

func TestMailgunRejects(t *testing.T) {
	const ok = `{"event-data":{"event":"opened","id":"a","timestamp":1}}`
	deep := strings.Repeat("[", 70) + strings.Repeat("]", 70)
	var keys strings.Builder
	for i := range 1001 {
		fmt.Fprintf(&keys, `,"k%d":0`, i)
	}
	tests := []struct {
		name, contentType, body string
		want                    []normalize.Reason // "" for an event
	}{
		{"blanks", jsonType, " \n", []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"null", jsonType, "null", []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"number", jsonType, "1", []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"string", jsonType, `"x"`, []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"empty object", jsonType, "{}", []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"empty array", jsonType, "[]", nil},
		{"no event-data", jsonType, `{"signature":{}}`, []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"event-data array", jsonType, `{"event-data":[` + ok + `]}`, []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"event-data null", jsonType, `{"event-data":null}`, []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"event-data empty", jsonType, `{"event-data":{}}`, []normalize.Reason{normalize.ReasonUnreadableElement}},
		{"event without time", jsonType, `{"event":"opened"}`, []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"enkod's", jsonType, `{"event":"message open","message_id":4}`, []normalize.Reason{normalize.ReasonUnreadableBody}},
		// In an array, which Mailgun does not send, any object with an event is taken for a kind of tomorrow.
		{"vision6's", jsonType, `[{"list_id":1,"object":"contact","event":7}]`, []normalize.Reason{""}},
		{"garbage after", jsonType, ok + "x", []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"two values", jsonType, ok + ok, []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"event-data twice", jsonType, `{"event-data":{"event":"opened","timestamp":1},"event-data":{"event":"opened","timestamp":1}}`, []normalize.Reason{normalize.ReasonAmbiguous}},
		{"severity twice", jsonType, mailgunWrap(`{"event":"failed","severity":"temporary","severity":"permanent","timestamp":1}`), []normalize.Reason{normalize.ReasonAmbiguous}},
		{"event twice by escape", jsonType, mailgunWrap(`{"event":"opened","\u0065vent":"complained","timestamp":1}`), []normalize.Reason{normalize.ReasonAmbiguous}},
		{"tags twice", jsonType, mailgunWrap(`{"event":"opened","timestamp":1,"tags":["a"],"tags":["b"]}`), []normalize.Reason{""}},
		{"deep", jsonType, mailgunWrap(`{"event":"opened","timestamp":1,"x":` + deep + `}`), []normalize.Reason{normalize.ReasonTooComplex}},
		{"many keys", jsonType, mailgunWrap(`{"event":"opened","timestamp":1` + keys.String() + `}`), []normalize.Reason{normalize.ReasonTooComplex}},
		{"mixed array", jsonType, `[` + ok + `,1,null,"x",[],{},{"signature":{}},{"event-data":7},` + ok + `]`, []normalize.Reason{
			"", normalize.ReasonUnreadableElement, normalize.ReasonUnreadableElement, normalize.ReasonUnreadableElement, normalize.ReasonUnreadableElement,
			normalize.ReasonUnreadableElement, normalize.ReasonUnreadableElement, normalize.ReasonUnreadableElement, "",
		}},
		{"ambiguous in array", jsonType, `[{"event-data":{"event":"opened","timestamp":1},"event-data":{}},` + ok + `]`, []normalize.Reason{normalize.ReasonAmbiguous, ""}},
		{"form of someone", urlEncoded, "foo=bar", []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"half signed form", urlEncoded, "timestamp=1&token=t", []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"signed form", urlEncoded, "timestamp=1&token=t&signature=s", []normalize.Reason{""}},
		{"bad escape", urlEncoded, "event=opened&x=%zz", []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"bad escape of a name", urlEncoded, "event=opened&%zz=x", []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"semicolon", urlEncoded, "event=opened&user-agent=a;b&&", []normalize.Reason{""}},
		{"many fields", urlEncoded, "event=opened" + strings.Repeat("&a=", 10_000), []normalize.Reason{normalize.ReasonTooComplex}},
		{"blank line before the parts", "multipart/form-data; boundary=b", "\r\n--b\r\nContent-Disposition: form-data; name=\"event\"\r\n\r\nopened\r\n--b--\r\n", []normalize.Reason{""}},
		{"no boundary", "multipart/form-data", "--", []normalize.Reason{normalize.ReasonUnreadableBody}},
		{"many parts", "multipart/form-data; boundary=b", strings.Repeat("--b\r\nContent-Disposition: form-data; name=\"event\"\r\n\r\nopened\r\n", 10_001) + "--b--\r\n", []normalize.Reason{normalize.ReasonTooComplex}},
		{"no parts", "multipart/form-data; boundary=b", "--b\r\n\r\n--b--\r\n", []normalize.Reason{normalize.ReasonUnreadableBody}},
	}
	for _, tt := range tests {
		var got []normalize.Reason
		for r := range normalize.Each(mailgunDelivery(tt.contentType, tt.body)) {
			if r.Event != nil {
				got = append(got, "")
				continue
			}
			got = append(got, r.Reject.Reason)
			if r.Element < 0 && string(r.Reject.Raw) != tt.body {
				t.Errorf("%s: the rejected body is %.100q, want all of it", tt.name, r.Reject.Raw)
			}
			if r.Element < 0 && r.Reject.ContentType != tt.contentType {
				t.Errorf("%s: the rejected body has the content type %q, want %q", tt.name, r.Reject.ContentType, tt.contentType)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

// A body of JSON that was cut anywhere holds no event.
func TestMailgunCut(t *testing.T) {
	body := mailgunWrap(`{"event":"failed","id":"a","timestamp":1773132300.5,"severity":"permanent","delivery-status":{"code":550,"message":"caf\u00e9 ` + "\u00e9" + `"},"user-variables":{"a":[1,{"b":null}]}}`)
	for n := 1; n < len(body); n++ {
		results := slices.Collect(normalize.Each(mailgunDelivery(jsonType, body[:n])))
		if len(results) != 1 || results[0].Reject == nil || results[0].Reject.Reason != normalize.ReasonUnreadableBody {
			t.Fatalf("cut after %d bytes: got %+v, want one reject", n, results)
		}
	}
	const boundary = "multipart/form-data; boundary=b"
	body = "--b\r\nContent-Disposition: form-data; name=\"event\"\r\n\r\nopened\r\n--b\r\nContent-Disposition: form-data; name=\"recipient\"\r\n\r\nlena@example.com\r\n--b--"
	mailgunOne(t, boundary, body)
	for n := 1; n < len(body); n++ {
		results := slices.Collect(normalize.Each(mailgunDelivery(boundary, body[:n])))
		if len(results) != 1 || results[0].Reject == nil {
			t.Fatalf("form cut after %d bytes: got %+v, want one reject", n, results)
		}
	}
}

func TestMailgunLegacyNames(t *testing.T) {
	for name, want := range map[string]event.Type{
		"delivered": event.EmailDelivered, "deliver": event.EmailDelivered,
		"dropped": event.EmailRejected, "drop": event.EmailRejected,
		"bounced": event.EmailBounced, "bounce": event.EmailBounced,
		"complained": event.EmailComplained, "spam": event.EmailComplained,
		"unsubscribed": event.EmailUnsubscribed, "unsubscribe": event.EmailUnsubscribed,
		"clicked": event.EmailClicked, "click": event.EmailClicked,
		"opened": event.EmailOpened, "open": event.EmailOpened, " Opened": event.EmailOpened,
		"stored": event.OtherUnknown, "failed": event.OtherUnknown, "": event.OtherUnknown,
	} {
		e := mailgunOne(t, urlEncoded, url.Values{"event": {name}, "timestamp": {"1773132400"}}.Encode())
		if e.Type != want {
			t.Errorf("%q: got %s, want %s", name, e.Type, want)
		}
		if want := "2026-03-10T08:46:40.000Z"; e.Time.String() != want {
			t.Errorf("%q: got time %s, want %s", name, e.Time, want)
		}
	}
}

func TestMailgunLegacyBounces(t *testing.T) {
	type bounce struct {
		class    event.BounceClass
		reason   event.Reason
		code     int
		enhanced string
	}
	tests := []struct {
		event, code, reason string
		want                bounce
	}{
		{"bounced", "550", "", bounce{event.BounceHard, event.ReasonBounced, 550, ""}},
		{"bounced", "5.1.1", "", bounce{event.BounceHard, event.ReasonBounced, 0, "5.1.1"}},
		{"bounced", "452", "", bounce{event.BounceSoft, event.ReasonBounced, 452, ""}},
		{"bounced", "4.2.2", "", bounce{event.BounceSoft, event.ReasonBounced, 0, "4.2.2"}},
		{"bounced", "499", "", bounce{event.BounceSoft, event.ReasonTimedOut, 499, ""}},
		{"bounced", "", "", bounce{event.BounceUnknown, event.ReasonBounced, 0, ""}},
		{"bounced", "blue", "", bounce{event.BounceUnknown, event.ReasonBounced, 0, ""}},
		{"dropped", "605", "hardfail", bounce{"", event.ReasonBounced, 605, ""}},
		{"dropped", "606", "hardfail", bounce{"", event.ReasonUnsubscribed, 606, ""}},
		{"dropped", "607", "hardfail", bounce{"", event.ReasonSpam, 607, ""}},
		{"dropped", "625", "hardfail", bounce{"", event.ReasonBlocked, 625, ""}},
		{"dropped", "499", "hardfail", bounce{"", event.ReasonTimedOut, 499, ""}},
		{"dropped", "", "old", bounce{"", event.ReasonTimedOut, 0, ""}},
		{"dropped", "", "hardfail", bounce{"", event.ReasonOther, 0, ""}},
		{"dropped", "550", "hardfail", bounce{"", event.ReasonBounced, 550, ""}},
		{"dropped", "5.7.1", "", bounce{"", event.ReasonBounced, 0, "5.7.1"}},
	}
	for _, tt := range tests {
		e := mailgunOne(t, urlEncoded, url.Values{"event": {tt.event}, "code": {tt.code}, "reason": {tt.reason}}.Encode())
		got := bounce{e.Bounce.Class, e.Bounce.Reason, e.Bounce.Code, e.Bounce.EnhancedCode}
		if got != tt.want {
			t.Errorf("%s %q %q: got %+v, want %+v", tt.event, tt.code, tt.reason, got, tt.want)
		}
	}
}

func TestMailgunLegacyIdentity(t *testing.T) {
	base := url.Values{
		"event": {"clicked"}, "message-id": {"m@example.net"}, "recipient": {"lena@example.com"},
		"timestamp": {"1773132400"}, "url": {"https://example.net/"}, "code": {""}, "ip": {"192.0.2.1"},
		"token": {"a"}, "signature": {"b"},
	}
	id := func(changes ...string) string {
		form := url.Values{}
		maps.Copy(form, base)
		for i := 0; i < len(changes); i += 2 {
			form.Set(changes[i], changes[i+1])
		}
		return mailgunOne(t, urlEncoded, form.Encode()).ID
	}
	if got := id("token", "c", "signature", "d", "city", "Bonn", "order", "7"); got != id() {
		t.Error("the id depends on fields that do not identify the event")
	}
	seen := map[string]string{id(): "base"}
	for _, field := range []string{"event", "message-id", "recipient", "timestamp", "url", "code", "ip"} {
		value := map[string]string{"event": "opened", "timestamp": "1773132401"}[field]
		if value == "" {
			value = "other"
		}
		got := id(field, value)
		if other, ok := seen[got]; ok {
			t.Errorf("with another %s the id is that of %s", field, other)
		}
		seen[got] = field
	}

	// The same fields in another order and in another encoding are the same event.
	shuffled := "ip=192.0.2.1&signature=z&url=https%3a%2f%2fexample.net%2F&timestamp=1773132400&token=y&Message-Id=%3Cm%40example.net%3E&recipient=lena@example.com&event=clicked&code="
	if got := mailgunOne(t, urlEncoded, shuffled).ID; got != id() {
		t.Errorf("shuffled: got id %s, want %s", got, id())
	}
}

func TestMailgunLegacyConflicts(t *testing.T) {
	e := mailgunOne(t, urlEncoded, "timestamp=then&token=mine&event=opened&recipient=lena%40example.com&ip=192.0.2.1"+
		"&tag=a&tag=b&event=party&recipient=door&ip=home&code=blue&message-id=m%40example.net&message-id=7&order=1&order=2"+
		"&timestamp=1773132400&token=t&signature=s")
	if e.Type != event.EmailOpened || e.Recipient != "lena@example.com" || e.Client.IP != "192.0.2.1" ||
		e.Message.ID != "m@example.net" || e.Time.String() != "2026-03-10T08:46:40.000Z" {
		t.Errorf("a variable took the place of a field: %+v %+v %+v", e, e.Message, e.Client)
	}
	if want := []string{"a", "b"}; !slices.Equal(e.Message.Tags, want) {
		t.Errorf("got tags %q, want %q", e.Message.Tags, want)
	}
	want := map[string]string{
		"timestamp": "then", "token": "mine", "event": "party", "recipient": "door", "ip": "home",
		"code": "blue", "message-id": "7", "order": "2",
	}
	if !reflect.DeepEqual(e.Message.Metadata, want) {
		t.Errorf("got metadata %v, want %v", e.Message.Metadata, want)
	}
}

// The header X-Mailgun-Variables is not merged with anything and so settles what
// the fields leave open.
func TestMailgunLegacyVariablesHeader(t *testing.T) {
	e := mailgunOne(t, urlEncoded, url.Values{
		"event": {"delivered"}, "order": {"merged"}, "new-field": {"x"}, "recipient": {"lena@example.com"},
		"message-headers": {`[["X-Mailgun-Variables","{\"order\":\"8120\",\"recipient\":\"you\",\"n\":[1, 2]}"],["x-mailgun-variables","{\"second\":\"2\"}"],` +
			`["X-Mailgun-Variables","none"],["Subject",["not","text"]],["subject","S"],["From"],["From","a","b"],["From","F"],7,["Message-ID"," <m@example.net> "],["X-Mailgun-Tag","t"]]`},
	}.Encode())
	want := &event.Message{
		ID: "m@example.net", RFCMessageID: "m@example.net", Subject: "S", From: "F", Tags: []string{"t"},
		Metadata: map[string]string{"order": "8120", "recipient": "you", "n": "[1, 2]", "second": "2", "new-field": "x"},
	}
	if !reflect.DeepEqual(e.Message, want) {
		t.Errorf("got %+v, want %+v", e.Message, want)
	}
	for _, headers := range []string{"", "none", "{}", "[[", "[]", "[[]]", "null"} {
		e := mailgunOne(t, urlEncoded, url.Values{"event": {"delivered"}, "message-headers": {headers}}.Encode())
		if e.Message != nil {
			t.Errorf("message-headers %q: got %+v, want no message", headers, e.Message)
		}
	}
}

func TestMailgunLegacyRaw(t *testing.T) {
	for _, body := range []string{
		"event=opened&x=%22%5C%0A+%C3%A9",
		"event=opened&x=\"\\\t\x01\u2028\u00e9",
	} {
		e := mailgunOne(t, urlEncoded, body)
		var got string
		if err := json.Unmarshal(e.Raw, &got); err != nil || got != body {
			t.Errorf("got raw %s (%v), want the JSON string of %q", e.Raw, err, body)
		}
	}
	e := mailgunOne(t, urlEncoded, "event=opened&x=caf\xe9")
	if e.Raw != nil || string(e.RawBase64) != "\"event=opened&x=caf\xe9\"" {
		t.Errorf("got raw %q and base64 of %q, want the body in the latter", e.Raw, e.RawBase64)
	}
}

func TestMailgunSamples(t *testing.T) {
	kinds := map[string]event.Type{
		"accepted": event.EmailQueued, "clicked": event.EmailClicked, "complained": event.EmailComplained,
		"delivered": event.EmailDelivered, "failed_permanent": event.EmailBounced,
		"failed_suppressed": event.EmailRejected, "failed_temporary": event.EmailDeferred,
		"opened": event.EmailOpened, "rejected": event.EmailRejected, "unsubscribed": event.EmailUnsubscribed,

		"legacy_bounced": event.EmailBounced, "legacy_clicked": event.EmailClicked,
		"legacy_complained": event.EmailComplained, "legacy_delivered": event.EmailDelivered,
		"legacy_dropped": event.EmailRejected, "legacy_opened": event.EmailOpened,
		"legacy_unsubscribed": event.EmailUnsubscribed,
	}
	for _, f := range fixtures(t, "mailgun") {
		kind, ok := strings.CutPrefix(f.name, "mailgun/sample-")
		if !ok {
			continue
		}
		want, known := kinds[kind]
		if !known {
			t.Errorf("no test knows sample-%s", kind)
		}
		delete(kinds, kind)
		results := slices.Collect(normalize.Each(&f.delivery))
		if len(results) != 1 || results[0].Event == nil {
			t.Fatalf("%s: got %d results, want one event", f.name, len(results))
		}
		e := results[0].Event
		if e.Type != want {
			t.Errorf("%s: got %s, want %s", f.name, e.Type, want)
		}
		if strings.HasPrefix(kind, "legacy_") {
			for _, field := range []string{"timestamp=", "token=", "signature="} {
				if strings.Contains(string(f.delivery.Body), field) {
					t.Errorf("%s has the field %s, which is added when it is sent", f.name, field)
				}
			}
			continue
		}
		// What Mailgun posts around the object does not change what it means.
		wrapped := mailgunOne(t, jsonType, mailgunWrap(strings.TrimSpace(string(f.delivery.Body))))
		if !reflect.DeepEqual(wrapped, e) {
			t.Errorf("%s: wrapped it is %+v, bare %+v", f.name, wrapped, e)
		}
	}
	for kind := range kinds {
		t.Errorf("there is no sample-%s", kind)
	}
}

// An id depends neither on the order of keys nor on blanks, unless nothing but
// the bytes can identify the event.
func TestMailgunIDsOfFixtures(t *testing.T) {
	byBytes := []string{
		"mailgun/array-mixed", // has rejects, which are identified by their bytes
		"mailgun/id-missing", "mailgun/timestamp-unusable",
	}
	n := 0
	for _, f := range fixtures(t, "mailgun") {
		ids := func(d delivery.Delivery) (ids []string, types []event.Type) {
			for r := range normalize.Each(&d) {
				if r.Event == nil {
					return nil, nil
				}
				ids = append(ids, r.Event.ID)
				types = append(types, r.Event.Type)
			}
			return ids, types
		}
		want, wantTypes := ids(f.delivery)
		var value any
		if want == nil || slices.Contains(byBytes, f.name) || json.Unmarshal([]byte(strings.TrimPrefix(string(f.delivery.Body), "\ufeff")), &value) != nil {
			continue
		}
		sorted, err := json.MarshalIndent(value, " ", "\t")
		if err != nil {
			t.Fatal(err)
		}
		f.delivery.Body = sorted
		if got, types := ids(f.delivery); !slices.Equal(got, want) || !slices.Equal(types, wantTypes) {
			t.Errorf("%s: got %q %q with keys sorted and indented, want %q %q", f.name, got, types, want, wantTypes)
		}
		n++
	}
	if n < 40 {
		t.Errorf("compared %d fixtures, want the JSON ones, which are more", n)
	}
}

func FuzzMailgun(f *testing.F) {
	for _, c := range fixtures(f, "mailgun") {
		f.Add(c.delivery.ContentType, c.delivery.Body)
	}
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		d := mailgunDelivery(contentType, string(body))
		check(t, d)
	})
}
