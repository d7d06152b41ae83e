package receiver

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/blessd/blessd/delivery"
)

func mailgunSum(key, timestamp, token string) string {
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(timestamp + token))
	return hex.EncodeToString(h.Sum(nil))
}

// at is the timestamp that lies d after now.
func at(d time.Duration) string { return fmt.Sprint(now.Add(d).Unix()) }

func mailgunEndpoint() Endpoint {
	return Endpoint{Name: "eu", Provider: "mailgun", Keys: []Key{{Value: testKey}}}
}

// mailgunBody is a signed body with any timestamp, as JSON.
func mailgunBody(timestamp, token, event string) string {
	return fmt.Sprintf(`{"signature":{"timestamp":%s,"token":%q,"signature":%q},"event-data":%s}`,
		timestamp, token, mailgunSum(testKey, strings.Trim(timestamp, `"`), token), event)
}

func postJSON(body string) *http.Request {
	q := httptest.NewRequest("POST", "/hooks/eu", strings.NewReader(body))
	q.Header.Set("Content-Type", "application/json")
	return q
}

func TestMailgunJSON(t *testing.T) {
	ts := at(0)
	sum := mailgunSum(testKey, ts, "tok")
	sig := `{"timestamp":"` + ts + `","token":"tok","signature":"` + sum + `"}`
	cases := []struct {
		name, body string
		want       reason
	}{
		{"as documented", `{"signature":` + sig + `,"event-data":{"id":"1"}}`, ""},
		{"signature last", `{"event-data":{"id":"1"},"signature":` + sig + `}`, ""},
		{"more members", `{"signature":{"x":{"y":[1]},"timestamp":"` + ts + `","token":"tok","signature":"` + sum + `","z":null},"new":[],"event-data":{}}`, ""},
		{"integer timestamp", mailgunBody(ts, "tok", "{}"), ""},
		{"blanks and a BOM", "\xef\xbb\xbf \n{\"signature\" : " + sig + " , \"event-data\":{} } \n", ""},
		{"upper case digest", `{"signature":{"timestamp":"` + ts + `","token":"tok","signature":"` + strings.ToUpper(sum) + `"}}`, ""},
		{"names twice in the event", `{"signature":` + sig + `,"event-data":{"a":1,"a":2}}`, ""},
		{"bad UTF-8 in the event", `{"signature":` + sig + `,"event-data":{"a":"` + "\xff" + `"}}`, ""},
		{"lone surrogate in the event", `{"signature":` + sig + `,"event-data":{"a":"\ud800"}}`, ""},
		{"escaped name", `{"signa\u0074ure":` + sig + `,"event-data":{}}`, ""},
		{"no event", `{"signature":` + sig + `}`, ""},

		{"no signature", `{"event-data":{}}`, missingSignature},
		{"empty object", `{}`, missingSignature},
		{"signature without one", `{"signature":{"timestamp":"` + ts + `","token":"tok"}}`, missingSignature},
		{"empty signature", `{"signature":{"timestamp":"` + ts + `","token":"tok","signature":""}}`, missingSignature},
		{"signature twice", `{"signature":` + sig + `,"event-data":{},"signature":` + sig + `}`, badSignature},
		{"signature twice, once escaped", `{"signature":` + sig + `,"signatur\u0065":{},"event-data":{}}`, badSignature},
		{"timestamp twice", `{"signature":{"timestamp":"` + ts + `","timestamp":"` + ts + `","token":"tok","signature":"` + sum + `"}}`, badSignature},
		{"token twice", `{"signature":{"timestamp":"` + ts + `","token":"tok","token":"tok","signature":"` + sum + `"}}`, badSignature},
		{"digest twice", `{"signature":{"timestamp":"` + ts + `","token":"tok","signature":"x","signature":"` + sum + `"}}`, badSignature},
		{"signature null", `{"signature":null}`, badSignature},
		{"signature a string", `{"signature":"` + sum + `"}`, badSignature},
		{"signature an array", `{"signature":[` + sig + `]}`, badSignature},
		{"token a number", `{"signature":{"timestamp":"` + ts + `","token":5,"signature":"` + mailgunSum(testKey, ts, "5") + `"}}`, badSignature},
		{"token null", `{"signature":{"timestamp":"` + ts + `","token":null,"signature":"` + mailgunSum(testKey, ts, "") + `"}}`, badSignature},
		{"token an object", `{"signature":{"timestamp":"` + ts + `","token":{},"signature":"` + sum + `"}}`, badSignature},
		{"token empty", `{"signature":{"timestamp":"` + ts + `","token":"","signature":"` + mailgunSum(testKey, ts, "") + `"}}`, badSignature},
		{"token too long", mailgunBody(`"`+ts+`"`, strings.Repeat("x", 257), "{}"), badSignature},
		{"digest a number", `{"signature":{"timestamp":"` + ts + `","token":"tok","signature":1}}`, badSignature},
		{"parent null", `{"signature":{"timestamp":"` + ts + `","token":"tok","signature":"` + sum + `","parent-signature":null}}`, badSignature},
		{"cut off", `{"signature":` + sig + `,"event-data":{"id":"1"`, badSignature},
		{"cut off inside the event", `{"signature":` + sig + `,"event-data":{"id":"1}`, badSignature},
		{"something behind", `{"signature":` + sig + `,"event-data":{}}x`, badSignature},
		{"a second object", `{"signature":` + sig + `}{}`, badSignature},
		{"broken event", `{"signature":` + sig + `,"event-data":{'id':1}}`, badSignature},
		{"array", `[{"signature":` + sig + `,"event-data":{}}]`, badSignature},
		{"deep", `{"signature":` + sig + `,"event-data":` + strings.Repeat("[", 100000) + strings.Repeat("]", 100000) + `}`, badSignature},
		{"no JSON", `hello`, badSignature},
		{"blank", ` `, badSignature},
		{"wrong digest", `{"signature":{"timestamp":"` + ts + `","token":"tok","signature":"` + mailgunSum("x", ts, "tok") + `"}}`, badSignature},
		{"digest too long", `{"signature":{"timestamp":"` + ts + `","token":"tok","signature":"` + sum + `00"}}`, badSignature},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, Limits{}, mailgunEndpoint())
			expect(t, b.do(postJSON(c.body)), "mailgun", c.want)
			if n := len(b.store.deliveries()); (n == 1) != (c.want == "") {
				t.Errorf("%d deliveries are stored", n)
			} else if n == 1 && string(b.store.deliveries()[0].Body) != c.body {
				t.Errorf("the body is not stored as it came")
			}
		})
	}
}

func TestMailgunAge(t *testing.T) {
	cases := []struct {
		timestamp string // as JSON
		want      reason
	}{
		{at(0), ""},
		{at(-time.Second), ""},
		{at(-8 * time.Hour), ""},
		{at(-12 * time.Hour), ""},
		{at(-12*time.Hour - time.Second), stale},
		{at(10 * time.Minute), ""},
		{at(10*time.Minute + time.Second), stale},
		{"0", stale},
		{"1", stale},
		{"99999999999999", stale},
		{"9223372036854775807", stale},
		{"9223372036854775808", badSignature},
		{strings.Repeat("9", 400), badSignature},
		{`"abc"`, badSignature},
		{`""`, badSignature},
		{at(0) + ".5", badSignature},
		{`"` + at(0) + `.0"`, badSignature},
		{"1.7e9", badSignature},
		{"-" + at(0), badSignature},
		{`"+` + at(0) + `"`, badSignature},
		{`" ` + at(0) + `"`, badSignature},
		{"null", badSignature},
		{"true", badSignature},
	}
	for _, c := range cases {
		b := newBench(t, Limits{}, mailgunEndpoint())
		t.Log(c.timestamp)
		expect(t, b.do(postJSON(mailgunBody(c.timestamp, "tok", "{}"))), "mailgun", c.want)
	}
	e := mailgunEndpoint()
	e.MaxAge, e.MaxAhead = time.Minute, time.Second
	b := newBench(t, Limits{}, e)
	expect(t, b.do(postJSON(mailgunBody(at(-61*time.Second), "tok", "{}"))), "mailgun", stale)
	expect(t, b.do(postJSON(mailgunBody(at(2*time.Second), "tok", "{}"))), "mailgun", stale)
	expect(t, b.do(postJSON(mailgunBody(at(-time.Minute), "tok", "{}"))), "mailgun", "")
}

// TestMailgunDigitsMoved: timestamp and token are signed without anything between
// them, so digits can change sides. The age refuses that.
func TestMailgunDigitsMoved(t *testing.T) {
	ts, token := at(0), "123abc"
	sum := mailgunSum(testKey, ts, token)
	b := newBench(t, Limits{}, mailgunEndpoint())
	for i := -len(ts) + 1; i <= 3; i++ {
		if i == 0 {
			continue
		}
		all, cut := ts+token, len(ts)+i
		body := fmt.Sprintf(`{"signature":{"timestamp":%q,"token":%q,"signature":%q}}`, all[:cut], all[cut:], sum)
		expect(t, b.do(postJSON(body)), "mailgun", stale)
	}
}

func TestMailgunParent(t *testing.T) {
	ts := at(0)
	body := func(sub, parent string) string {
		return fmt.Sprintf(`{"signature":{"timestamp":%q,"token":"tok","signature":%q,"parent-signature":%q},"event-data":{}}`,
			ts, mailgunSum(sub, ts, "tok"), mailgunSum(parent, ts, "tok"))
	}
	keys, parents := []Key{{Value: "sub-key"}}, []Key{{Value: "parent-key"}}
	cases := []struct {
		name        string
		keys, prnts []Key
		body        string
		want        reason
	}{
		{"sub-account's key", keys, nil, body("sub-key", "parent-key"), ""},
		{"parent key", nil, parents, body("sub-key", "parent-key"), ""},
		{"both", keys, parents, body("sub-key", "parent-key"), ""},
		{"only the parent's matches", keys, parents, body("x", "parent-key"), ""},
		{"parent's key is no signature key", keys, parents, body("parent-key", "sub-key"), badSignature},
		{"parent key is not configured", keys, nil, body("x", "parent-key"), badSignature},
		{"none", keys, parents, body("x", "y"), badSignature},
	}
	for _, c := range cases {
		b := newBench(t, Limits{}, Endpoint{Name: "eu", Provider: "mailgun", Keys: c.keys, ParentKeys: c.prnts})
		t.Log(c.name)
		expect(t, b.do(postJSON(c.body)), "mailgun", c.want)
	}
}

func TestMailgunLegacyForm(t *testing.T) {
	ts := at(0)
	proof := "&timestamp=" + ts + "&token=tok&signature=" + mailgunSum(testKey, ts, "tok")
	cases := []struct {
		name, body string
		want       reason
	}{
		{"as documented", "event=opened&recipient=a%40b.c" + proof, ""},
		{"user variables in front", "token=mine&timestamp=1&signature=x&event=opened" + proof, ""},
		{"user variables behind", "event=opened" + proof + "&token=mine", badSignature},
		{"no signature", "event=opened", missingSignature},
		{"no token", "event=opened&timestamp=" + ts + "&signature=" + mailgunSum(testKey, ts, ""), badSignature},
		{"stale", "event=opened&timestamp=1&token=tok&signature=" + mailgunSum(testKey, "1", "tok"), stale},
		{"broken", "event=%zz" + proof, badSignature},
		{"JSON inside", `{"signature":1}` + proof, badSignature},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, Limits{}, mailgunEndpoint())
			q := httptest.NewRequest("POST", "/hooks/eu", strings.NewReader(c.body))
			q.Header.Set("Content-Type", mediaURLEncoded)
			expect(t, b.do(q), "mailgun", c.want)
		})
	}
}

func TestSignMailgun(t *testing.T) {
	var m bytes.Buffer
	w := multipart.NewWriter(&m)
	if err := w.WriteField("event", "dropped"); err != nil {
		t.Fatal(err)
	}
	if err := w.WriteField("attachment-1", "x"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for contentType, body := range map[string]string{
		"":                      `{"id":"1","a":"\u2028"}`,
		mediaURLEncoded:         "event=opened",
		w.FormDataContentType(): m.String(),
	} {
		s, err := Sign(Plain{Provider: "mailgun", Key: testKey, Now: now, Body: []byte(body), ContentType: contentType})
		if err != nil {
			t.Fatal(err)
		}
		b := newBench(t, Limits{}, mailgunEndpoint())
		expect(t, b.do(toRequest(s, "/hooks/eu")), "mailgun", "")
		if f := parseForm(contentType, s.Body); f.isForm && (len(f.fields) < 4 || f.fields[0].name != "event") {
			t.Errorf("fields %v", f.fields)
		}
	}
	for _, p := range []Plain{
		{Provider: "mailgun", Key: testKey, Body: []byte(`{"cut`)},
		{Provider: "mailgun", Body: []byte(`{}`)},
		{Provider: "mailgun", Key: testKey, Body: []byte("a=%zz"), ContentType: mediaURLEncoded},
		{Provider: "nobody", Key: testKey},
		{Provider: "sarv", Body: []byte("a=1")},
	} {
		if _, err := Sign(p); err == nil {
			t.Errorf("%+v can be signed", p)
		}
	}
}

func TestForgery(t *testing.T) {
	ts := `"` + at(0) + `"`
	first := mailgunBody(ts, "tok", `{"id":"1"}`)
	b := newBench(t, Limits{}, mailgunEndpoint(), Endpoint{Name: "eu2", Provider: "mailgun", Keys: []Key{{Value: testKey}}})

	// What could not be stored binds nobody.
	b.store.put = func(context.Context) error { return errors.New("full") }
	expect(t, b.do(postJSON(mailgunBody(ts, "tok", `{"id":"other"}`))), "mailgun", storeFailed)
	b.store.put = nil

	expect(t, b.do(postJSON(first)), "mailgun", "")
	expect(t, b.do(postJSON(first)), "mailgun", "")
	expect(t, b.do(postJSON(" "+first)), "mailgun", "")
	if n := len(b.store.deliveries()); n != 3 {
		t.Fatalf("%d deliveries, want the repetitions too", n)
	}
	form := url.Values{"timestamp": {at(0)}, "token": {"tok"}, "signature": {mailgunSum(testKey, at(0), "tok")}, "event": {"spam"}}.Encode()
	asForm := httptest.NewRequest("POST", "/hooks/eu", strings.NewReader(form))
	asForm.Header.Set("Content-Type", mediaURLEncoded)
	elsewhere := postJSON(mailgunBody(ts, "tok", `{"id":"2"}`))
	elsewhere.URL.Path = "/hooks/eu2"
	for name, q := range map[string]*http.Request{
		"other event":        postJSON(mailgunBody(ts, "tok", `{"id":"2"}`)),
		"no event":           postJSON(strings.Replace(first, `,"event-data":{"id":"1"}`, "", 1)),
		"a second event":     postJSON(strings.Replace(first, `{"id":"1"}}`, `{"id":"1"},"event-data":{"id":"2"}}`, 1)),
		"a name like it":     postJSON(strings.Replace(first, `{"id":"1"}}`, `{"id":"1"},"Event-Data":{"id":"2"}}`, 1)),
		"legacy form":        asForm,
		"at another of ours": elsewhere,
	} {
		t.Log(name)
		expect(t, b.do(q), "mailgun", forgerySuspected)
	}
	if n := len(b.store.deliveries()); n != 3 {
		t.Errorf("%d deliveries, want 3", n)
	}
	// A reload forgets nothing.
	if err := b.SetEndpoints([]Endpoint{mailgunEndpoint()}); err != nil {
		t.Fatal(err)
	}
	expect(t, b.do(postJSON(mailgunBody(ts, "tok", `{"id":"2"}`))), "mailgun", forgerySuspected)
	expect(t, b.do(postJSON(mailgunBody(ts, "tok2", `{"id":"2"}`))), "mailgun", "")
}

// TestForgeryOvertakes sends the forgery while the first is on its way to the store.
func TestForgeryOvertakes(t *testing.T) {
	ts := `"` + at(0) + `"`
	b := newBench(t, Limits{}, mailgunEndpoint())
	entered, leave := make(chan struct{}), make(chan struct{})
	b.store.put = func(context.Context) error { close(entered); <-leave; return nil }
	done := make(chan *httptest.ResponseRecorder)
	go func() { done <- b.do(postJSON(mailgunBody(ts, "tok", `{"id":"1"}`))) }()
	<-entered
	expect(t, b.do(postJSON(mailgunBody(ts, "tok", `{"id":"2"}`))), "mailgun", forgerySuspected)
	close(leave)
	expect(t, <-done, "mailgun", "")
}

func TestTokenTable(t *testing.T) {
	table := newTokenTable(3)
	key := func(i int) (s sum) { s[0] = byte(i); return s }
	enter := func(i int) {
		t.Helper()
		settle, ok := table.claim(key(i), key(i))
		if !ok {
			t.Fatalf("claim %d is refused", i)
		}
		settle(true)
	}
	for i := range 10 {
		enter(i)
		enter(i) // a repetition takes no room
	}
	if len(table.stored) != 3 || len(table.ring) != 3 || len(table.pending) != 0 {
		t.Errorf("%d stored, %d in the ring, %d pending; want 3, 3, 0", len(table.stored), len(table.ring), len(table.pending))
	}
	for i := range 10 {
		settle, ok := table.claim(key(i), key(100))
		if want := i < 7; ok != want {
			t.Errorf("token %d with other content: %t, want %t: the oldest go first", i, ok, want)
		}
		if ok {
			settle(false)
		}
	}
	// Two of the same on their way, one fails: the other's claim lasts.
	a, _ := table.claim(key(50), key(50))
	b, ok := table.claim(key(50), key(50))
	if !ok {
		t.Fatal("a repetition is refused while the first is on its way")
	}
	a(false)
	if _, ok := table.claim(key(50), key(51)); ok {
		t.Error("other content is taken while one is on its way")
	}
	b(true)
	if _, ok := table.claim(key(50), key(51)); ok {
		t.Error("other content is taken after it was stored")
	}
}

func TestMailgunSamplesAndKeys(t *testing.T) {
	e := mailgunEndpoint()
	e.Keys = []Key{{Value: testKey, Sample: true}}
	b := newBench(t, Limits{}, e)
	expect(t, b.do(postJSON(mailgunBody(at(0), "tok", `{}`))), "mailgun", "")
	if v := b.store.deliveries()[0].Verified; v.Method != delivery.BySignature || !v.Sample {
		t.Errorf("verified %+v", v)
	}
	// It is the sample's signature, so its age and its token are judged as ever.
	expect(t, b.do(postJSON(mailgunBody(at(-24*time.Hour), "tok", `{}`))), "mailgun", stale)
	expect(t, b.do(postJSON(mailgunBody(at(0), "tok", `{"x":1}`))), "mailgun", forgerySuspected)
}

// TestForgeryByFileName hides a field of a captured form by giving it a file name,
// which makes an attachment of it.
func TestForgeryByFileName(t *testing.T) {
	b := newBench(t, Limits{}, mailgunEndpoint())
	const contentType = "multipart/form-data; boundary=b"
	part := func(name, value string) string {
		return "--b\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + value + "\r\n"
	}
	s, err := Sign(Plain{
		Provider: "mailgun", Key: mailgunEndpoint().Keys[0].Value, Now: now, ContentType: contentType,
		Body: []byte(part("event", "dropped") + part("recipient", "alice@example.com") + part("code", "550") + "--b--\r\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	send := func(body []byte) *httptest.ResponseRecorder {
		return b.do(toRequest(Signed{ContentType: contentType, Header: http.Header{}, Body: body}, Path(mailgunEndpoint().Name, "")))
	}
	expect(t, send(s.Body), "mailgun", "")
	expect(t, send(s.Body), "mailgun", "") // Mailgun repeats itself
	for _, name := range []string{"recipient", "code", "event"} {
		hidden := bytes.Replace(s.Body, []byte(`name="`+name+`"`), []byte(`name="`+name+`"; filename="x"`), 1)
		expect(t, send(hidden), "mailgun", forgerySuspected)
	}
	for _, name := range []string{"token", "signature", "timestamp"} {
		hidden := bytes.Replace(s.Body, []byte(`name="`+name+`"`), []byte(`name="`+name+`"; filename="x"`), 1)
		if w := send(hidden); w.Code != http.StatusUnauthorized {
			t.Errorf("%s hidden: %d, want 401", name, w.Code)
		}
	}
}
