package event_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/blessd/blessd/event"
)

// complete returns an event with every field set.
func complete() *event.Event {
	yes := true
	arrival := event.NewTime(time.Date(2016, 6, 14, 7, 50, 56, 0, time.UTC))
	return &event.Event{
		ID: "00112233445566778899aabbccddeeff", Type: event.EmailBounced,
		Time:       event.NewTime(time.Date(2016, 6, 14, 7, 50, 56, 123456789, time.UTC)),
		TimeSource: event.TimeFromProvider,
		Received:   event.NewTime(time.Date(2026, 11, 21, 17, 22, 17, 0, time.UTC)),
		Provider:   "sendclean", Endpoint: "acme",
		Message: &event.Message{
			ID: "m", CorrelationID: "c", CampaignID: "g", RFCMessageID: "r@example.com", Subject: "<b>\u041f & \u2028\"\\\x00", From: "a@example.com",
			Tags: []string{"x", "y"}, Metadata: map[string]string{"b": "2", "a": "1"}, AccountID: "1", SMTPUser: "s", SendingType: "instant",
		},
		Recipient: "reader@example.com",
		Bounce: &event.Bounce{
			Class: event.BounceHard, Code: 550, EnhancedCode: "5.1.1", Description: "d", Reason: event.ReasonBounced,
			Attempt: 2, RetryAfterSeconds: 600, MXHost: "mx.example.com", TLS: &yes,
		},
		Click:     &event.Click{URL: "https://example.com/?a=1&b=<2>"},
		Client:    &event.Client{IP: "192.0.2.1", UserAgent: "u", Type: "browser", OS: "o", Name: "n", Device: "d", Bot: "b", Country: "US", Region: "CA", City: "c"},
		Complaint: &event.Complaint{FeedbackType: "abuse", AbuseType: "complaint", Reporter: "r", SourceIP: "192.0.2.2", Arrival: &arrival, OriginalRecipient: "o", OriginalMailFrom: "f", ReportedDomain: "d"},
		Contact:   &event.Contact{ID: "142", Email: "e@example.com", Phone: "+79001234567"},
		Lists:     []event.List{{ID: "4", Name: "n"}, {ID: "5"}},
		Channel:   "email", Test: true,
		Raw: json.RawMessage("{ \"b\":1.0,\n\t\"a\":\"<&>\\u003c\u2028\\/\" , \"a\":1e400}"),
	}
}

// The JSON is an API: a change of this text is a change that consumers see.
const completeJSON = `{"id":"00112233445566778899aabbccddeeff","type":"email.bounced","time":"2016-06-14T07:50:56.123Z","time_source":"provider",` +
	`"received":"2026-11-21T17:22:17.000Z","provider":"sendclean","endpoint":"acme",` +
	`"message":{"id":"m","correlation_id":"c","campaign_id":"g","rfc_message_id":"r@example.com","subject":"<b>` + "\u041f" + ` & \u2028\"\\\u0000","from":"a@example.com",` +
	`"tags":["x","y"],"metadata":{"a":"1","b":"2"},"account_id":"1","smtp_user":"s","sending_type":"instant"},` +
	`"recipient":"reader@example.com",` +
	`"bounce":{"class":"hard","code":550,"enhanced_code":"5.1.1","description":"d","reason":"bounced","attempt":2,"retry_after_seconds":600,"mx_host":"mx.example.com","tls":true},` +
	`"click":{"url":"https://example.com/?a=1&b=<2>"},` +
	`"client":{"ip":"192.0.2.1","user_agent":"u","type":"browser","os":"o","name":"n","device":"d","bot":"b","country":"US","region":"CA","city":"c"},` +
	`"complaint":{"feedback_type":"abuse","abuse_type":"complaint","reporter":"r","source_ip":"192.0.2.2","arrival":"2016-06-14T07:50:56.000Z",` +
	`"original_recipient":"o","original_mail_from":"f","reported_domain":"d"},` +
	`"contact":{"id":"142","email":"e@example.com","phone":"+79001234567"},"lists":[{"id":"4","name":"n"},{"id":"5"}],"channel":"email","test":true,` +
	`"raw":{ "b":1.0,` + "\n\t" + `"a":"<&>\u003c` + "\u2028" + `\/" , "a":1e400}}`

func encode(t testing.TB, e *event.Event) []byte {
	t.Helper()
	b, err := event.Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decode(t testing.TB, b []byte) *event.Event {
	t.Helper()
	e, err := event.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEncode(t *testing.T) {
	if got := encode(t, complete()); string(got) != completeJSON {
		t.Errorf("got\n%s\nwant\n%s", got, completeJSON)
	}
	minimal := &event.Event{ID: "1", Type: event.OtherUnknown, TimeSource: event.TimeFromReceipt, Provider: "p", Endpoint: "e"}
	const want = `{"id":"1","type":"other.unknown","time":"0001-01-01T00:00:00.000Z","time_source":"received","received":"0001-01-01T00:00:00.000Z","provider":"p","endpoint":"e"}`
	if got := encode(t, minimal); string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// complete must stay so when a field is added.
func TestCompleteHasEveryField(t *testing.T) {
	e := complete()
	e.RawBase64 = []byte("x") // stands in for Raw
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		if v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		if v.IsZero() {
			t.Errorf("%s is not set", path)
			return
		}
		if v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[event.Time]() {
			for i := range v.NumField() {
				walk(v.Field(i), path+"."+v.Type().Field(i).Name)
			}
		}
	}
	walk(reflect.ValueOf(e), "Event")
}

func TestEncodeIsWhatEncodingJSONReads(t *testing.T) {
	var got event.Event
	if err := json.Unmarshal(encode(t, complete()), &got); err != nil {
		t.Fatal(err)
	}
	if want := complete(); !reflect.DeepEqual(&got, want) {
		t.Errorf("got %+v, want %+v", &got, want)
	}
}

func TestDecode(t *testing.T) {
	got := decode(t, []byte(completeJSON))
	if want := complete(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if again := encode(t, got); string(again) != completeJSON {
		t.Errorf("encoded again\n%s\nwant\n%s", again, completeJSON)
	}
}

// An event outlives the message it came in.
func TestDecodedEventAliasesNothing(t *testing.T) {
	b := []byte(completeJSON)
	e := decode(t, b)
	for i := range b {
		b[i] = 'Z'
	}
	if want := complete(); !reflect.DeepEqual(e, want) {
		t.Errorf("got %+v, want %+v", e, want)
	}
}

// A newer blessd may send more than this one knows.
func TestDecodeAcceptsTheFuture(t *testing.T) {
	e := decode(t, []byte(`{"id":"1","type":"email.teleported","future":{"x":[1]},"message":{"id":"m","future":1},"time":"2026-11-21T18:22:17.123456789+01:00","bounce":{"class":"odd"}}`))
	if e.Type != "email.teleported" || e.Message.ID != "m" || e.Bounce.Class != "odd" {
		t.Errorf("got %+v", e)
	}
	if got, want := e.Time.String(), "2026-11-21T17:22:17.123Z"; got != want {
		t.Errorf("time %s, want %s", got, want)
	}
}

func TestDecodeErrors(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for _, body := range []string{
		"", " ", "null", "1", `"x"`, "[]", "{}", `{"id":"1"}`, `{"type":"email.sent"}`, `{"id":"","type":"email.sent"}`, `{"id":1,"type":"email.sent"}`,
		`{"id":"1","type":"email.sent","time":"yesterday"}`, `{"id":"1","type":"email.sent","time":5}`, `{"id":"1","type":"email.sent","time":"` + long + `"}`,
		`{"id":"1","type":"email.sent"}x`, `{"id":"1","type":"email.sent"`, `{"id":"1","type":"email.sent","raw":{a:1}}`, `{"id":"1","type":"email.sent","raw_base64":"*"}`, long,
	} {
		e, err := event.Decode([]byte(body))
		if e != nil || !errors.Is(err, event.ErrNotEvent) {
			t.Errorf("%.80q: got %+v, %v", body, e, err)
		} else if len(err.Error()) > 400 {
			t.Errorf("%.80q: the error is %d bytes long", body, len(err.Error()))
		}
	}
	for n := range completeJSON {
		if e, err := event.Decode([]byte(completeJSON[:n])); e != nil || !errors.Is(err, event.ErrNotEvent) {
			t.Fatalf("cut at %d: got %+v, %v", n, e, err)
		}
	}
}

func TestRaw(t *testing.T) {
	for _, raw := range []string{
		`{}`, "{ \"a\" : 1.50e+3 ,\r\n\t\"a\":\"\\u0041\\/<\u2028>\" }", `"a=1&b=%20"`, `["\ud800"]`, "{\"a\":\"\xff\xfe\"}", "{\"\xc3\":\"\u0441\"}", `{"a":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + `}`,
	} {
		e := &event.Event{ID: "1", Type: event.OtherUnknown}
		e.SetRaw([]byte(raw))
		if got := string(e.RawBytes()); got != raw {
			t.Errorf("raw bytes %q, want %q", got, raw)
		}
		valid := utf8.ValidString(raw)
		if (e.Raw != nil) != valid || (e.RawBase64 != nil) == valid {
			t.Errorf("%q is in Raw %t, in RawBase64 %t", raw, e.Raw != nil, e.RawBase64 != nil)
		}
		b := encode(t, e)
		if !json.Valid(b) || !utf8.Valid(b) {
			t.Errorf("not JSON in UTF-8: %q", b)
		}
		if valid && !bytes.HasSuffix(b, []byte(`,"raw":`+raw+`}`)) {
			t.Errorf("%q is not in %q", raw, b)
		}
		got := decode(t, b)
		if string(got.RawBytes()) != raw {
			t.Errorf("decoded raw bytes %q, want %q", got.RawBytes(), raw)
		}
		// One after the other: the second takes the first one's place.
		got.SetRaw([]byte("{}"))
		if string(got.RawBytes()) != "{}" || got.RawBase64 != nil {
			t.Errorf("set again: %q", got.RawBytes())
		}
	}
	if e := (&event.Event{}); e.RawBytes() != nil || e.RawString() != "" {
		t.Errorf("an event without a raw form has %q, %q", e.RawBytes(), e.RawString())
	}
}

// Encoding leaves the event alone, so that it can be done twice and at once.
func TestEncodeChangesNothing(t *testing.T) {
	e := complete()
	first := encode(t, e)
	if second := encode(t, e); !bytes.Equal(first, second) || !reflect.DeepEqual(e, complete()) {
		t.Errorf("got\n%s\nthen\n%s\nof %+v", first, second, e)
	}
}

func TestInvalidUTF8InFields(t *testing.T) {
	e := &event.Event{ID: "1", Type: event.EmailSent, Recipient: "a\xff\xc3b", Channel: "\xed\xa0\x80"}
	b := encode(t, e)
	if !json.Valid(b) || !utf8.Valid(b) {
		t.Errorf("not JSON in UTF-8: %q", b)
	}
	if got, want := decode(t, b).Recipient, "a\ufffd\ufffdb"; got != want {
		t.Errorf("recipient %q, want %q", got, want)
	}
}

func TestTime(t *testing.T) {
	at := event.NewTime(time.Date(2026, 11, 21, 18, 22, 17, 999_999_999, time.FixedZone("", 3600)))
	if got, want := at.String(), "2026-11-21T17:22:17.999Z"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for year, ok := range map[int]bool{-1: false, 0: true, 1: true, 9999: true, 10000: false} {
		b, err := json.Marshal(event.NewTime(time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)))
		if (err == nil) != ok {
			t.Errorf("the year %d: %s, %v", year, b, err)
		}
		if ok && len(b) != len(`"2026-11-21T17:22:17.999Z"`) {
			t.Errorf("the year %d: %s is not as long as every other", year, b)
		}
	}
	// An error, and not a message that nobody could read back.
	e := &event.Event{ID: "1", Type: event.EmailSent, Time: event.NewTime(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC))}
	if b, err := event.Encode(e); err == nil {
		t.Errorf("encoded %s", b)
	}
}

func TestTypes(t *testing.T) {
	types := event.Types()
	if !slices.IsSorted(types) {
		t.Errorf("not sorted: %q", types)
	}
	if n := len(slices.Compact(slices.Clone(types))); n != len(types) || n != 24 {
		t.Errorf("%d types, %d different ones, want 24", len(types), n)
	}
	for _, typ := range types {
		if typ.Family()+"."+typ.Verb() != string(typ) || !slices.Contains([]string{"email", "contact", "list", "other"}, typ.Family()) || typ.Verb() == "" {
			t.Errorf("%q has the family %q and the verb %q", typ, typ.Family(), typ.Verb())
		}
	}
	types[0] = "changed"
	if event.Types()[0] == "changed" {
		t.Error("the caller's slice is the package's")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(completeJSON))
	f.Add([]byte(`{"id":"1","type":"email.sent"}`))
	f.Add([]byte("{\"id\":\"1\",\"type\":\"x\",\"raw_base64\":\"/w==\",\"raw\":{}}"))
	f.Add([]byte(`{"id":"1","type":"x","raw":null,"message":null,"lists":[null],"time":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := event.Decode(b)
		if err != nil {
			if e != nil || !errors.Is(err, event.ErrNotEvent) {
				t.Fatalf("%+v, %v", e, err)
			}
			return
		}
		line, err := event.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		if !json.Valid(line) {
			t.Fatalf("not JSON: %q", line)
		}
		again, err := event.Encode(decode(t, line))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, line) {
			t.Errorf("encoded again\n%s\nwant\n%s", again, line)
		}
		_ = e.Summary() // total
	})
}

func BenchmarkEncode(b *testing.B) {
	e := complete()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := event.Encode(e); err != nil {
			b.Fatal(err)
		}
	}
}
