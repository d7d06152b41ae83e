package normalize_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/normalize"
)

var received = time.Date(2026, 11, 21, 17, 22, 17, 123456789, time.UTC)

func jsonDelivery(provider, body string) *delivery.Delivery {
	return &delivery.Delivery{
		Provider: provider, Endpoint: "acme", Received: received, Method: "POST",
		ContentType: "application/json", Body: []byte(body),
	}
}

func load(t testing.TB, name string) fixture {
	t.Helper()
	provider, _, _ := strings.Cut(name, "/")
	for _, f := range fixtures(t, provider) {
		if f.name == name {
			return f
		}
	}
	t.Fatalf("no fixture %s", name)
	return fixture{}
}

// events returns the events of a delivery that must have no rejects.
func events(t testing.TB, d *delivery.Delivery) []*event.Event {
	t.Helper()
	var all []*event.Event
	for r := range normalize.Each(d) {
		if r.Reject != nil {
			t.Fatalf("rejected: %+v", r.Reject)
		}
		all = append(all, r.Event)
	}
	return all
}

func ids(t testing.TB, d *delivery.Delivery) []string {
	t.Helper()
	var all []string
	for _, e := range events(t, d) {
		all = append(all, e.ID)
	}
	slices.Sort(all)
	return all
}

// A body that was cut short yields one reject and no event, wherever the cut is.
func TestCutAnywhere(t *testing.T) {
	for _, name := range []string{
		"sendclean/docs-batch", "sendclean/docs-batch-sarvtes_events", "sendclean/docs-batch-SendCleantes_events",
		"sendclean/docs-batch-multipart", "sendclean/object-field-string", "sendclean/bom",
		"sarv/docs-batch", "enkod/docs-complaint-cyrillic-es", "enkod/test-marks", "vision6/docs-receiving", "vision6/all-kinds",
	} {
		t.Run(name, func(t *testing.T) {
			f := load(t, name)
			whole := bytes.TrimRight(f.delivery.Body, " \r\n") // blanks at the end may be missing
			if n := len(events(t, &f.delivery)); n == 0 {
				t.Fatal("the whole body has no events")
			}
			for cut := range whole {
				d := f.delivery
				d.Body = whole[:cut]
				results := slices.Collect(normalize.Each(&d))
				if cut == 0 || cut < 32 && bytes.HasSuffix(d.Body, []byte("tes_events=")) {
					// Nothing at all, and an empty field, are how a URL is tested.
					if len(results) != 0 {
						t.Errorf("cut at %d: %d results, want none", cut, len(results))
					}
					continue
				}
				if len(results) != 1 || results[0].Reject == nil || results[0].Reject.Reason != normalize.ReasonUnreadableBody ||
					results[0].Element != -1 || !bytes.Equal(results[0].Reject.Raw, d.Body) {
					t.Fatalf("cut at %d: %d results, want one reject of the body", cut, len(results))
				}
			}
		})
	}
}

// The order of keys and the blanks between them are no part of an identity.
func TestIDsIgnoreKeyOrderAndBlanks(t *testing.T) {
	for _, name := range []string{
		"sendclean/docs-batch", "sendclean/clicks-several", "sendclean/spam-reports", "sarv/docs-batch",
		"enkod/bounce-texts", "enkod/contacts", "enkod/docs-message_open", "vision6/all-kinds", "vision6/timestamps",
	} {
		t.Run(name, func(t *testing.T) {
			f := load(t, name)
			want := ids(t, &f.delivery)
			dec := json.NewDecoder(bytes.NewReader(f.delivery.Body))
			dec.UseNumber()
			var v any
			if err := dec.Decode(&v); err != nil {
				t.Fatal(err)
			}
			sorted, err := json.MarshalIndent(v, "\t", "\r\n ")
			if err != nil {
				t.Fatal(err)
			}
			d := f.delivery
			d.Body = sorted
			if bytes.Equal(sorted, f.delivery.Body) {
				t.Fatal("nothing was changed")
			}
			if got := ids(t, &d); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// A provider may repeat a batch in another order or cut into other batches.
func TestIDsIgnoreTheBatch(t *testing.T) {
	for _, name := range []string{"sendclean/docs-batch", "enkod/bounce-texts", "vision6/all-kinds", "vision6/timestamps"} {
		t.Run(name, func(t *testing.T) {
			f := load(t, name)
			want := ids(t, &f.delivery)
			var elements []json.RawMessage
			if err := json.Unmarshal(f.delivery.Body, &elements); err != nil {
				t.Fatal(err)
			}
			batch := func(elements []json.RawMessage) *delivery.Delivery {
				body, err := json.Marshal(elements)
				if err != nil {
					t.Fatal(err)
				}
				d := f.delivery
				d.Body = body
				return &d
			}
			for seed := range uint64(20) {
				r := rand.New(rand.NewPCG(seed, 0))
				r.Shuffle(len(elements), func(i, j int) { elements[i], elements[j] = elements[j], elements[i] })
				cut := r.IntN(len(elements) + 1)
				got := append(ids(t, batch(elements[:cut])), ids(t, batch(elements[cut:]))...)
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Fatalf("seed %d, cut at %d: got %q, want %q", seed, cut, got, want)
				}
			}
		})
	}
}

// Each line differs from the first in one field. What identifies an event makes
// another id, and nothing else does.
func TestIdentity(t *testing.T) {
	for _, c := range []struct {
		provider, name  string
		base            string
		same, different []string
	}{
		{
			"sendclean", "bounce",
			`{"_id":"a","x_unique_id":"b","event":"hard_bounce","ts":1465890656000,"msg":{"bounceCodeTrad":550,"bounceCodeEnh":"5.1.1","bounceDesc":"c"}}`,
			[]string{
				`{"_id":"a","x_unique_id":"b","event":"hard_bounce","ts":1465890656000,"msg":{"bounceCodeTrad":550,"bounceCodeEnh":"5.1.1","bounceDesc":"d"}}`,
				`{"_id":"a","x_unique_id":"b","event":" Hard_Bounce","ts":"1465890656000","smtp_name":"x","user_id":5,"msg":{"bounceCodeTrad":"550","bounceCodeEnh":"5.1.1"}}`,
			},
			[]string{
				`{"_id":"A","x_unique_id":"b","event":"hard_bounce","ts":1465890656000,"msg":{"bounceCodeTrad":550,"bounceCodeEnh":"5.1.1","bounceDesc":"c"}}`,
				`{"_id":"a","x_unique_id":"B","event":"hard_bounce","ts":1465890656000,"msg":{"bounceCodeTrad":550,"bounceCodeEnh":"5.1.1","bounceDesc":"c"}}`,
				`{"_id":"a","x_unique_id":"b","event":"soft_bounce","ts":1465890656000,"msg":{"bounceCodeTrad":550,"bounceCodeEnh":"5.1.1","bounceDesc":"c"}}`,
				`{"_id":"a","x_unique_id":"b","event":"hard_bounce","ts":1465890656001,"msg":{"bounceCodeTrad":550,"bounceCodeEnh":"5.1.1","bounceDesc":"c"}}`,
				`{"_id":"a","x_unique_id":"b","event":"hard_bounce","ts":1465890656000,"msg":{"bounceCodeTrad":551,"bounceCodeEnh":"5.1.1","bounceDesc":"c"}}`,
				`{"_id":"a","x_unique_id":"b","event":"hard_bounce","ts":1465890656000,"msg":{"bounceCodeTrad":550,"bounceCodeEnh":"5.1.2","bounceDesc":"c"}}`,
				`{"_id":"a","x_unique_id":"b","event":"delivered","ts":1465890656000}`,
				`{"x_unique_id":"b","event":"hard_bounce","ts":1465890656000,"msg":{"bounceCodeTrad":550,"bounceCodeEnh":"5.1.1","bounceDesc":"c"}}`,
				`{"x_unique_id":"b","event":"hard_bounce","ts":1465890656000,"msg":{"bounceCodeTrad":550,"bounceCodeEnh":"5.1.1","bounceDesc":"d"}}`,
			},
		},
		{
			"sarv", "click",
			`{"_id":"a","event":"click","ts":1465890656000,"msg":{"clicks":[{"clickTs":1465890656001,"clickUrl":"u","clickIp":"i","clickUa":"a"}]}}`,
			[]string{
				// The time of the element is not that of the click.
				`{"_id":"a","event":"click","ts":1465890659999,"msg":{"clicks":[{"clickTs":1465890656001,"clickUrl":"u","clickIp":"i","clickUa":"a"}]}}`,
			},
			[]string{
				`{"_id":"a","event":"click","ts":1465890656000,"msg":{"clicks":[{"clickTs":1465890656002,"clickUrl":"u","clickIp":"i","clickUa":"a"}]}}`,
				`{"_id":"a","event":"click","ts":1465890656000,"msg":{"clicks":[{"clickTs":1465890656001,"clickUrl":"v","clickIp":"i","clickUa":"a"}]}}`,
				`{"_id":"a","event":"click","ts":1465890656000,"msg":{"clicks":[{"clickTs":1465890656001,"clickUrl":"u","clickIp":"j","clickUa":"a"}]}}`,
				`{"_id":"a","event":"click","ts":1465890656000,"msg":{"clicks":[{"clickTs":1465890656001,"clickUrl":"u","clickIp":"i","clickUa":"b"}]}}`,
				`{"_id":"a","event":"click","ts":1465890656000,"msg":{"clicks":[{"clickUrl":"u","clickIp":"i","clickUa":"a"}]}}`,
				`{"_id":"a","event":"click","ts":1465890656001,"msg":{"clicks":[{"clickUrl":"u","clickIp":"i","clickUa":"a"}]}}`,
				`{"_id":"a","event":"click","ts":1465890656000}`,
			},
		},
		{
			"sendclean", "open",
			`{"_id":"a","event":"open","ts":1465890656000,"msg":{"opens":[{"openTs":1465890656001,"openIp":"i","openUa":"a"}]}}`,
			[]string{
				`{"_id":"a","event":"open","ts":1465890656009,"msg":{"opens":[{"openTs":1465890656001,"openIp":"i","openUa":"a"}]}}`,
			},
			[]string{
				`{"_id":"a","event":"open","ts":1465890656000,"msg":{"opens":[{"openTs":1465890656002,"openIp":"i","openUa":"a"}]}}`,
				`{"_id":"a","event":"open","ts":1465890656000,"msg":{"opens":[{"openTs":1465890656001,"openIp":"j","openUa":"a"}]}}`,
				`{"_id":"a","event":"open","ts":1465890656000,"msg":{"opens":[{"openTs":1465890656001,"openIp":"i","openUa":"b"}]}}`,
				`{"_id":"a","event":"open","ts":1465890656000,"msg":{"opens":[{"openTs":[1],"openIp":"i","openUa":"a"}]}}`,
				`{"_id":"a","event":"open","ts":1465890656000,"msg":{"opens":[{"openTs":[2],"openIp":"i","openUa":"a"}]}}`,
			},
		},
		{
			"enkod", "bounce",
			`{"event":"delivery bounce","message_uid":"u","to":"t"}`,
			[]string{
				`{"event":"delivery bounce","message_uid":"u","to":"t","name":"n","from":"f","message_id":4,"error_message":"e"}`,
			},
			[]string{
				`{"event":"message sent","message_uid":"u","to":"t"}`,
				`{"event":"delivery bounce","message_uid":"v","to":"t"}`,
				`{"event":"delivery bounce","message_uid":"u","to":"s"}`,
				`{"event":"delivery bounce","to":"t"}`,
				`{"event":"complaint","message_uid":"u","to":"t"}`,
				`{"event":"message open","message_uid":"u","to":"t"}`,
				`{"event":"message clicked","message_uid":"u","to":"t","click_url":"a"}`,
				`{"event":"message clicked","message_uid":"u","to":"t","click_url":"b"}`,
			},
		},
		{
			"enkod", "complaint", `{"event":"complaint","message_uid":"u","to":"t"}`,
			[]string{"{\"event\":\"\u0441omplaint\",\"message_uid\":\"u\",\"to\":\"t\"}"},
			nil,
		},
		{
			"enkod", "subscription", `{"event":"mailing group subscribe","email":"e","group_id":4,"channel":"email"}`,
			[]string{`{"event":"mailing group subscribe","email":"e","group_id":4,"channel":"email","group_name":"n"}`},
			[]string{
				`{"event":"mailing group unsubscribe","email":"e","group_id":4,"channel":"email"}`,
				`{"event":"mailing group subscribe","email":"f","group_id":4,"channel":"email"}`,
				`{"event":"mailing group subscribe","email":"e","group_id":5,"channel":"email"}`,
				`{"event":"mailing group subscribe","email":"e","group_id":4,"channel":"sms"}`,
				`{"event":"contact adding","email":"e"}`,
				`{"event":"contact adding","email":"e","phone":"p"}`,
			},
		},
		{
			"vision6", "contact", `{"list_id":1,"contact_id":2,"object":"contact","event":"updated","timestamp":1496618831}`,
			[]string{`{"list_id":"1","contact_id":"2","object":"Contact","event":"updated ","timestamp":1496618831,"x":1}`},
			[]string{
				`{"list_id":3,"contact_id":2,"object":"contact","event":"updated","timestamp":1496618831}`,
				`{"list_id":1,"contact_id":3,"object":"contact","event":"updated","timestamp":1496618831}`,
				`{"list_id":1,"contact_id":2,"object":"list","event":"updated","timestamp":1496618831}`,
				`{"list_id":1,"contact_id":2,"object":"contact","event":"created","timestamp":1496618831}`,
				`{"list_id":1,"contact_id":2,"object":"contact","event":"updated","timestamp":1496618832}`,
				`{"list_id":12,"contact_id":"","object":"contact","event":"updated","timestamp":1496618831}`,
			},
		},
		{
			"sendclean", "unknown", `{"event":"new"}`, nil,
			[]string{`{"event": "new"}`, `{"event":"newer"}`, `{}`},
		},
	} {
		t.Run(c.provider+"/"+c.name, func(t *testing.T) {
			one := func(body string) string {
				got := ids(t, jsonDelivery(c.provider, body))
				if len(got) != 1 {
					t.Fatalf("%s has %d events, want one", body, len(got))
				}
				return got[0]
			}
			base := one(c.base)
			for _, body := range c.same {
				if got := one(body); got != base {
					t.Errorf("%s has the id %s, want %s", body, got, base)
				}
			}
			seen := map[string]string{base: c.base}
			for _, body := range c.different {
				id := one(body)
				if other, ok := seen[id]; ok {
					t.Errorf("%s has the same id as %s", body, other)
				}
				seen[id] = body
			}
			d := jsonDelivery(c.provider, c.base)
			d.Endpoint = "other"
			if got := ids(t, d)[0]; got == base {
				t.Error("the id does not depend on the endpoint")
			}
		})
	}
}

// enKod's opens, clicks and contacts carry nothing to tell one from the next, so
// when they were received does; what happens to a message only once keeps its id.
func TestEnkodIdentityAndReceiveTime(t *testing.T) {
	for body, want := range map[string]bool{ // whether the id stays
		`{"event":"message sent","message_uid":"u","to":"t"}`:                 true,
		`{"event":"delivery bounce","message_uid":"u","to":"t"}`:              true,
		`{"event":"complaint","message_uid":"u","to":"t"}`:                    true,
		`{"event":"message sent","to":"t"}`:                                   false,
		`{"event":"message open","message_uid":"u","to":"t"}`:                 false,
		`{"event":"message clicked","message_uid":"u","to":"t"}`:              false,
		`{"event":"mailing group subscribe","email":"e","group_id":4}`:        false,
		`{"event":"mailing group unsubscribe","email":"e","group_id":4}`:      false,
		`{"event":"contact adding","email":"e"}`:                              false,
		`{"event":"whatsapp template sent","phone":"79001234567"}`:            false,
		`{"event":"message sent","message_uid":null,"to":"t","message_id":4}`: false,
	} {
		d := jsonDelivery("enkod", body)
		first := ids(t, d)
		if again := ids(t, d); !slices.Equal(again, first) {
			t.Errorf("%s: the id changes though the record is the same", body)
		}
		d.Received = d.Received.Add(time.Nanosecond)
		if got := slices.Equal(ids(t, d), first); got != want {
			t.Errorf("%s received a nanosecond later: same id %t, want %t", body, got, want)
		}
		// The same instant is the same, wherever the process thinks it is.
		d.Received = received.In(time.FixedZone("elsewhere", 3600))
		if !slices.Equal(ids(t, d), first) {
			t.Errorf("%s: the id depends on the time zone", body)
		}
	}
}

// Equal elements of one delivery are counted, so that none of them is lost.
func TestOccurrences(t *testing.T) {
	d := jsonDelivery("sendclean", `[{"_id":"a","event":"send","ts":1},1,{"_id":"a","event":"send","ts":1},1,2]`)
	results := slices.Collect(normalize.Each(d))
	if len(results) != 5 {
		t.Fatalf("got %d results, want 5", len(results))
	}
	if results[0].Event.ID == results[2].Event.ID {
		t.Error("equal elements have equal ids")
	}
	for i, want := range map[int]int{1: 0, 3: 1, 4: 0} {
		if got := results[i].Occurrence; got != want {
			t.Errorf("element %d: occurrence %d, want %d", i, got, want)
		}
	}
	if got, want := results[0].Event.ID, event.NewID("sendclean", "acme", []string{"a", "", "send", "ts", "1"}, 0); got != want {
		t.Errorf("id %s, want %s", got, want)
	}
}

// The id of a reject is documented, so that replay can compute it.
func TestRejectID(t *testing.T) {
	d := jsonDelivery("sendclean", `[1,1]`)
	const sum = "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b" // SHA-256 of "1"
	i := 0
	for r := range normalize.Each(d) {
		if want := event.NewID("sendclean", "acme", []string{"reject", sum}, i); r.Reject.ID != want {
			t.Errorf("reject %d has the id %s, want %s", i, r.Reject.ID, want)
		}
		i++
	}
	if i != 2 {
		t.Errorf("%d rejects, want 2", i)
	}
}

func TestUnknownProvider(t *testing.T) {
	for _, body := range []string{"", "[{}]"} {
		d := jsonDelivery("pigeon", body)
		results := slices.Collect(normalize.Each(d))
		if len(results) != 1 || results[0].Reject == nil || results[0].Reject.Reason != normalize.ReasonUnknownProvider {
			t.Errorf("%q: got %d results, want one reject", body, len(results))
		}
		check(t, d)
	}
}

// Every body at every provider's endpoint: some become unknown events, some
// rejects, none is lost and nothing breaks.
func TestEveryBodyAtEveryEndpoint(t *testing.T) {
	all := fixtures(t, "*")
	for _, provider := range []string{"enkod", "mailgun", "sarv", "sendclean", "vision6"} {
		for _, f := range all {
			d := f.delivery
			if d.Provider == provider {
				continue // TestGolden
			}
			d.Provider = provider
			check(t, &d)
			results := 0
			for range normalize.Each(&d) {
				results++
			}
			var array []json.RawMessage
			if json.Unmarshal(d.Body, &array) == nil && array != nil && provider != "mailgun" && results < len(array) {
				t.Errorf("%s at %s: %d elements and %d results", f.name, provider, len(array), results)
			}
		}
	}
}

// The elements of a form are the same as those of the bare JSON.
func TestFormsAndJSONAgree(t *testing.T) {
	bare, form := load(t, "sendclean/docs-batch"), load(t, "sendclean/docs-batch-sarvtes_events")
	want := ids(t, &bare.delivery)
	for _, f := range []fixture{form, load(t, "sendclean/docs-batch-SendCleantes_events"), load(t, "sendclean/docs-batch-multipart"), load(t, "sendclean/docs-batch-reversed")} {
		if got := ids(t, &f.delivery); !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", f.name, got, want)
		}
	}
}

// No Content-Type whatsoever changes what a url encoded or JSON body means.
func TestContentTypeIsNotBelieved(t *testing.T) {
	for _, name := range []string{"sendclean/docs-batch", "sendclean/docs-batch-sarvtes_events", "enkod/docs-message_sent", "vision6/docs-receiving"} {
		f := load(t, name)
		want := ids(t, &f.delivery)
		for _, contentType := range []string{
			"", "text/plain", "application/json", "application/json; charset=utf-16",
			"application/x-www-form-urlencoded", "APPLICATION/X-WWW-FORM-URLENCODED; charset=UTF-8", ";", "\x00",
		} {
			d := f.delivery
			d.ContentType = contentType
			if got := ids(t, &d); !slices.Equal(got, want) {
				t.Errorf("%s as %q: got %q, want %q", name, contentType, got, want)
			}
		}
	}
}

// What would take the daemon down if it were believed.
func TestHostileBodies(t *testing.T) {
	const size = 1 << 20
	repeat := func(s string) string { return strings.Repeat(s, size/len(s)) }
	opens := `[{"_id":"a","event":"open","msg":{"opens":[` + strings.TrimSuffix(strings.Repeat(`{"openTs":1465988314000,"openIp":"192.0.2.1"},`, 5_000), ",") + `]}},{"_id":"b","event":"send"}]`
	for name, c := range map[string]struct {
		body    string
		reasons []normalize.Reason // "" is an event
	}{
		"open brackets":       {repeat("["), []normalize.Reason{normalize.ReasonUnreadableBody}},
		"nested arrays":       {strings.Repeat("[", size/2) + strings.Repeat("]", size/2), []normalize.Reason{normalize.ReasonUnreadableBody}},
		"nested objects":      {repeat(`{"a":`), []normalize.Reason{normalize.ReasonUnreadableBody}},
		"deep element":        {`[{"a":` + strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000) + `},{"event":"send"}]`, []normalize.Reason{normalize.ReasonTooComplex, ""}},
		"many keys":           {`[{"event":"send"` + strings.Repeat(`,"k":1`, 60_000) + `}]`, []normalize.Reason{normalize.ReasonTooComplex}},
		"many nested items":   {`[{"event":"send","x":[1` + strings.Repeat(`,1`, 20_000) + `]}]`, []normalize.Reason{normalize.ReasonTooComplex}},
		"fan-out":             {opens, []normalize.Reason{normalize.ReasonTooComplex, ""}},
		"long number":         {`[{"event":"send","ts":` + repeat("1") + `}]`, []normalize.Reason{""}},
		"long string":         {`[{"event":"` + repeat(`\u0000`) + `"}]`, []normalize.Reason{""}},
		"huge exponent":       {`[{"event":"send","ts":1e999999999999999999}]`, []normalize.Reason{""}},
		"long key":            {`[{"` + repeat("k") + `":1}]`, []normalize.Reason{""}},
		"fields of a form":    {repeat("a=b&"), []normalize.Reason{normalize.ReasonUnreadableBody}},
		"percent of a form":   {"sarvtes_events=" + repeat("%5B"), []normalize.Reason{normalize.ReasonUnreadableBody}},
		"endless boundary":    {"--" + repeat("b"), []normalize.Reason{normalize.ReasonUnreadableBody}},
		"lines of a report":   {`[{"event":"spam","msg":{"feedbackReport":"` + strings.Repeat(`a\r\n `, 100_000) + `"}}]`, []normalize.Reason{""}},
		"address of a report": {`[{"event":"spam","msg":{"feedbackReport":"Original-Rcpt-To: ` + strings.Repeat(`(`, 100_000) + `"}}]`, []normalize.Reason{""}},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			var got []normalize.Reason
			for r := range normalize.Each(jsonDelivery("sendclean", c.body)) {
				if r.Reject != nil {
					got = append(got, r.Reject.Reason)
				} else {
					got = append(got, "")
				}
			}
			if !slices.Equal(got, c.reasons) {
				t.Errorf("got %q, want %q", got, c.reasons)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// A large batch never exists as a list of events.
func TestStreaming(t *testing.T) {
	const elements = 50_000
	d := jsonDelivery("vision6", "["+strings.TrimSuffix(strings.Repeat("{},", elements), ",")+"]")
	live := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := live()
	n := 0
	for r := range normalize.Each(d) {
		if n++; n == elements {
			if r.Event == nil || r.Event.Type != event.OtherUnknown {
				t.Errorf("the last result is %+v", r)
			}
			if now := live(); now > before+8<<20 {
				t.Errorf("%d bytes are alive after %d events, %d before", now, n, before)
			}
		}
	}
	if n != elements {
		t.Errorf("%d results, want %d", n, elements)
	}
}

// Each stops when the consumer does, between elements and within one.
func TestEachStops(t *testing.T) {
	d := load(t, "sendclean/opens-several").delivery
	total := len(events(t, &d))
	for stop := 1; stop <= total; stop++ {
		n := 0
		for range normalize.Each(&d) {
			if n++; n == stop {
				break
			}
		}
		if n != stop {
			t.Errorf("%d results after a stop at %d", n, stop)
		}
	}
}

// A field whose name needs decoding is still the field.
func TestFormFieldNameIsDecoded(t *testing.T) {
	d := jsonDelivery("sarv", "sarvtes%5fevents="+url.QueryEscape(`[{"_id":"a","event":"send"}]`))
	if got := events(t, d); len(got) != 1 || got[0].Type != event.EmailSent {
		t.Errorf("got %d events", len(got))
	}
}

func fuzzProvider(f *testing.F, provider string) {
	for _, c := range fixtures(f, provider) {
		f.Add(c.delivery.ContentType, c.delivery.Body)
	}
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		check(t, &delivery.Delivery{
			Provider: provider, Endpoint: "fuzz", Received: received, Method: "POST", ContentType: contentType, Body: body,
		})
	})
}

func FuzzSendClean(f *testing.F) { fuzzProvider(f, "sendclean") }
func FuzzSarv(f *testing.F)      { fuzzProvider(f, "sarv") }
func FuzzEnkod(f *testing.F)     { fuzzProvider(f, "enkod") }
func FuzzVision6(f *testing.F)   { fuzzProvider(f, "vision6") }

// BenchmarkNormalize is the documentation's batch of seven events in its form.
func BenchmarkNormalize(b *testing.B) {
	d := load(b, "sendclean/docs-batch-sarvtes_events").delivery
	value, err := url.ParseQuery(string(d.Body))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("events", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(value.Get("sarvtes_events"))))
		for b.Loop() {
			for r := range normalize.Each(&d) {
				if r.Event == nil {
					b.Fatal(fmt.Sprint(r.Reject))
				}
			}
		}
	})
	b.Run("encoded", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(value.Get("sarvtes_events"))))
		for b.Loop() {
			for r := range normalize.Each(&d) {
				if _, err := event.Encode(r.Event); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
