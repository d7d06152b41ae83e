package receiver

import (
	"bytes"
	"encoding/base64"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/blessd/blessd/delivery"
)

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestVectors are signatures that were computed elsewhere, by Mandrill's rule.
func TestVectors(t *testing.T) {
	cases := []struct{ provider, query, file, base64, hex string }{
		{"sendclean", "", "batch-sarvtes_events", "k2feWT6QdLPMB7ORevVmVOrGgaM=", "9367de593e9074b3cc07b3917af56654eac681a3"},
		{"sendclean", "?x=1", "batch-sarvtes_events", "tfRYfUGxVsVV0grv+j2/p0r9Ilg=", "b5f4587d41b156c555d20aeffa3dbfa74afd2258"},
		{"sendclean", "", "batch-SendCleantes_events", "0ylyi65egM1CTbRoI609J/172Wg=", "d329728bae5e80cd424db46823ad3d27fd7bd968"},
		{"sendclean", "?x=1", "batch-SendCleantes_events", "w1PZ3zVB9EcWLjuOl1bzgGPYLU4=", "c353d9df3541f447162e3b8e9756f38063d82d4e"},
		{"sendclean", "", "single-with-user_id", "l9SKN8L+MyR+RtvEu6n+5fA0560=", "97d48a37c2fe33247e46dbc4bba9fee5f034e7ad"},
		{"sarv", "", "batch-sarvtes_events", "3SJDa2Z7KwdbCrKrZ8KxdZYHtHo=", "dd22436b667b2b075b0ab2ab67c2b1759607b47a"},
		{"sarv", "?x=1", "batch-sarvtes_events", "Z/uoTlH+ZI2HbY+vEgdfnVoETaA=", "67fba84e51fe648d876d8faf12075f9d5a044da0"},
		{"sarv", "", "batch-SendCleantes_events", "x+cqRS3lIXrUa5zX71DgBMqK5CU=", "c7e72a452de5217ad46b9cd7ef50e004ca8ae425"},
		{"sarv", "?x=1", "batch-SendCleantes_events", "D8dXG/rDs0m0rGygfiT7l8bhqZI=", "0fc7571bfac3b349b4ac6ca07e24fb97c6e1a992"},
		{"sarv", "", "single-with-user_id", "4+stsLJsYZ1Fnq0g0pWJYryoVZA=", "e3eb2db0b26c619d459ead20d2958962bca85590"},
	}
	for _, c := range cases {
		t.Run(c.provider+c.query+c.file, func(t *testing.T) {
			url := "https://hooks.example.com/v1/" + c.provider + "/acct1" + c.query
			body := readFile(t, "testdata/"+c.file+".form")
			e := Endpoint{Name: "acme", Provider: c.provider, Keys: []Key{{Value: testKey}}, URL: url, URLIsComplete: true}
			for header, name := range map[string]string{"X-SendCleanTES-SIGNATURE": "a", "X-SarvTES-SIGNATURE": "b"} {
				for _, v := range []struct {
					accept    []string
					signature string
					want      reason
				}{
					{nil, c.base64, ""},
					{nil, c.hex, badSignature},
					{[]string{"fields-hex"}, c.hex, ""},
					{[]string{"fields-hex"}, c.base64, badSignature},
					{[]string{"fields-base64", "fields-hex"}, c.hex, ""},
				} {
					e.Variants = v.accept
					b := newBench(t, Limits{}, e)
					q := httptest.NewRequest("POST", "/hooks/acme", bytes.NewReader(body))
					q.Header.Set("Content-Type", mediaURLEncoded)
					q.Header.Set(header, v.signature)
					w := b.do(q)
					expect(t, w, c.provider, v.want)
					if v.want == "" && len(b.store.deliveries()[0].Header) != 1 {
						t.Errorf("%s: headers %v", name, b.store.deliveries()[0].Header)
					}
				}
			}
			s, err := Sign(Plain{Provider: c.provider, URL: url, Key: testKey, Body: body})
			if err != nil {
				t.Fatal(err)
			}
			header := map[string]string{"sendclean": "X-SendCleanTES-Signature", "sarv": "X-SarvTES-Signature"}[c.provider]
			if got := s.Header.Get(header); got != c.base64 {
				t.Errorf("Sign makes %q, want %q", got, c.base64)
			}
		})
	}
}

// tes is a SendClean endpoint and a way to sign for it by any rule.
func tes(variants ...string) Endpoint {
	return Endpoint{Name: "acme", Provider: "sendclean", Keys: []Key{{Value: testKey}}, URL: testURL + "acme", Variants: variants}
}

func signedAs(name, url, contentType string, body []byte) *http.Request {
	q := httptest.NewRequest("POST", "/hooks/acme", bytes.NewReader(body))
	if contentType != "" {
		q.Header.Set("Content-Type", contentType)
	}
	f := parseForm(contentType, body)
	sortFields(f)
	for _, v := range variants {
		if v.name == name {
			q.Header.Set("X-SendCleanTES-Signature", v.encode(sumTES(testKey, v.cover, url, f, body)))
		}
	}
	return q
}

func TestEveryVariant(t *testing.T) {
	const asJSON = `[{"event":"send"}]`
	for _, v := range variants {
		overFields := v.cover == coverFields || v.cover == coverFieldsNoQuery
		for _, accepted := range []bool{false, true} {
			e := tes()
			if accepted {
				e = tes(v.name)
			}
			e.URL, e.URLIsComplete = testURL+"acme?x=1", true
			for contentType, body := range map[string]string{mediaURLEncoded: formBody, "application/json": asJSON} {
				isForm := contentType == mediaURLEncoded
				var want reason
				switch {
				case overFields && !isForm:
					want = badSignature // it would cover the URL alone
				case accepted:
				case isForm && v.name == "fields-base64", !isForm && (v.name == "urlbody-base64" || v.name == "body-base64"):
				default:
					want = badSignature
				}
				b := newBench(t, Limits{}, e)
				w := b.do(signedAs(v.name, e.URL, contentType, []byte(body)))
				t.Logf("%s accepted=%t form=%t", v.name, accepted, isForm)
				expect(t, w, "sendclean", want)
				if hinted := strings.Contains(b.logs.String(), "by the variant "+v.name); hinted != (want != "" && (isForm || !overFields)) {
					t.Errorf("the log tells the variant: %t\n%s", hinted, b.logs.String())
				}
			}
		}
	}
}

// TestSignatureOfTheURLAlone is the forgery that the rule of the fields would allow
// if a body without fields were a form without fields.
func TestSignatureOfTheURLAlone(t *testing.T) {
	for _, vs := range [][]string{nil, Variants()} {
		b := newBench(t, Limits{}, tes(vs...))
		for contentType, body := range map[string]string{
			"application/json":              `[{"event":"spam"}]`,
			"":                              `{"event":"spam"}`,
			mediaURLEncoded:                 ` [{"event":"spam"}]`,
			"text/plain":                    "\xef\xbb\xbf[{\"event\":\"spam\"}]",
			"multipart/mixed":               "a=b",
			mediaMultipart:                  `[{"event":"spam"}]`,
			mediaURLEncoded + " ":           "&&&",
			mediaMultipart + "; boundary=x": "--x--\r\n",
			mediaMultipart + ";boundary=x":  "[{\"event\":\"spam\"}]\r\n--x\r\n--x--\r\n",
		} {
			q := httptest.NewRequest("POST", "/hooks/acme", strings.NewReader(body))
			q.Header.Set("Content-Type", contentType)
			q.Header.Set("X-SendCleanTES-Signature", base64.StdEncoding.EncodeToString(sumTES(testKey, coverFields, testURL+"acme", &form{}, nil)))
			w := b.do(q)
			if w.Code != 401 {
				t.Errorf("%q %q: %d", contentType, body, w.Code)
			}
		}
		if n := len(b.store.deliveries()); n != 0 {
			t.Errorf("%d forgeries are stored", n)
		}
	}
}

func TestForms(t *testing.T) {
	var m bytes.Buffer
	w := multipart.NewWriter(&m)
	if err := w.WriteField("zzz", "last"); err != nil {
		t.Fatal(err)
	}
	if err := w.WriteField("sarvtes_events", `[{"event":"open","ua":"a b+c"}]`); err != nil {
		t.Fatal(err)
	}
	file, err := w.CreateFormFile("attachment", "x.bin")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Write([]byte{0, 1, 2}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	cases := []struct{ name, contentType, body, signed string }{
		{"sorted, decoded", mediaURLEncoded, "b=%D1%81+2&a=1", "a1b\u0441 2"},
		{"equal names keep their order", mediaURLEncoded, "b=2&a=x&b=1", "axb2b1"},
		{"no equals sign", mediaURLEncoded, "sarvtes_events=%5B1%5D&flag", "flagsarvtes_events[1]"},
		{"equals sign in the value", mediaURLEncoded, "a=b=c", "ab=c"},
		{"charset", mediaURLEncoded + "; charset=UTF-8", "a=1", "a1"},
		{"upper case", "Application/X-WWW-Form-Urlencoded", "a=1", "a1"},
		{"bad parameter", mediaURLEncoded + "; =", "a=1", "a1"},
		{"no content type", "", "a=1", "a1"},
		{"text/plain", "text/plain", "a=1", "a1"},
		{"called JSON", "application/json", "a=1", "a1"},
		{"semicolon", mediaURLEncoded, "a=1;2", "a1;2"},
		{"multipart", w.FormDataContentType(), m.String(), "attachment\x00\x01\x02sarvtes_events[{\"event\":\"open\",\"ua\":\"a b+c\"}]zzzlast"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			e := tes()
			b := newBench(t, Limits{}, e)
			q := httptest.NewRequest("POST", "/hooks/acme", strings.NewReader(c.body))
			q.Header.Set("Content-Type", c.contentType)
			q.Header.Set("X-SarvTES-Signature", base64.StdEncoding.EncodeToString(sumTES(testKey, coverURLBody, e.URL, nil, []byte(c.signed))))
			expect(t, b.do(q), "sendclean", "")
			q = httptest.NewRequest("POST", "/hooks/acme", strings.NewReader(c.body))
			s, err := Sign(Plain{Provider: "sendclean", URL: e.URL, Key: testKey, Body: []byte(c.body), ContentType: c.contentType})
			if err != nil {
				t.Fatal(err)
			}
			q.Header = s.Header
			q.Header.Set("Content-Type", c.contentType)
			if c.contentType != "" {
				expect(t, b.do(q), "sendclean", "")
			}
		})
	}
}

func TestBrokenForms(t *testing.T) {
	for contentType, body := range map[string]string{
		mediaURLEncoded:                   "sarvtes_events=%5B%zz&a=1",
		mediaURLEncoded + " ":             "sarvtes_events%=1",
		mediaMultipart:                    "--x\r\n",
		mediaMultipart + "; boundary=x":   "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\ncut off",
		mediaMultipart + ";boundary=x":    strings.Repeat("--x\r\n\r\n\r\n", maxFields+1) + "--x--\r\n",
		mediaURLEncoded + ";charset=utf8": strings.Repeat("a=1&", maxFields+1),
	} {
		b := newBench(t, Limits{}, tes())
		expect(t, b.do(signedAs("fields-base64", testURL+"acme", contentType, []byte(body))), "sendclean", badSignature)
		// What covers the bytes needs no decoding.
		b = newBench(t, Limits{}, tes("urlbody-base64"))
		expect(t, b.do(signedAs("urlbody-base64", testURL+"acme", contentType, []byte(body))), "sendclean", "")
		// Behind a token it is accepted; what it means is not our business.
		e := tes()
		e.Tokens = []Key{{Value: testToken}}
		b = newBench(t, Limits{}, e)
		q := signedAs("", "", contentType, []byte(body))
		q.URL.Path = Path("acme", testToken)
		expect(t, b.do(q), "sendclean", "")
		if got := string(b.store.deliveries()[0].Body); got != body {
			t.Errorf("stored %q", got)
		}
		if _, err := Sign(Plain{Provider: "sarv", URL: testURL, Key: testKey, Body: []byte(body), ContentType: contentType}); err == nil {
			t.Errorf("%q can be signed", body)
		}
	}
}

func TestAmbiguousSignature(t *testing.T) {
	good := signedAs("fields-base64", testURL+"acme", mediaURLEncoded, []byte(formBody)).Header.Get("X-SendCleanTES-Signature")
	for name, h := range map[string]http.Header{
		"both brands":       {"X-Sendcleantes-Signature": {good}, "X-Sarvtes-Signature": {"other"}},
		"both brands, same": {"X-Sendcleantes-Signature": {good}, "X-Sarvtes-Signature": {good}},
		"twice":             {"X-Sendcleantes-Signature": {good, "other"}},
		"twice the same":    {"X-Sarvtes-Signature": {good, good}},
		"list":              {"X-Sarvtes-Signature": {good + ", " + good}},
	} {
		b := newBench(t, Limits{}, tes())
		q := httptest.NewRequest("POST", "/hooks/acme", strings.NewReader(formBody))
		q.Header = h
		q.Header.Set("Content-Type", mediaURLEncoded)
		t.Log(name)
		expect(t, b.do(q), "sendclean", badSignature)
	}
	b := newBench(t, Limits{}, tes())
	q := httptest.NewRequest("POST", "/hooks/acme", strings.NewReader(formBody))
	q.Header.Set("X-SarvTES-Signature", "  ")
	expect(t, b.do(q), "sendclean", missingSignature)
}

func TestReport(t *testing.T) {
	e := tes()
	e.Tokens = []Key{{Value: testToken}}
	e.Keys = []Key{{Value: testKey}, {Value: "made-up", Sample: true}}
	token := delivery.Verification{Method: delivery.ByToken, Key: e.Tokens[0].Fingerprint()}
	signature := delivery.Verification{Method: delivery.BySignature, Key: e.Keys[0].Fingerprint()}
	url := testURL + "acme/" + testToken
	made := func(key Secret) *http.Request {
		return request(t, "sendclean", Path("acme", testToken), url, key, formBody)
	}
	cases := []struct {
		name, label string
		q           *http.Request
		want        delivery.Verification
	}{
		{"matches", "fields-base64", made(testKey), signature},
		{"matches otherwise", "urlbody-hex", signedAs("urlbody-hex", url, mediaURLEncoded, []byte(formBody)), signature},
		{"sample", "fields-base64", made("made-up"), delivery.Verification{Method: delivery.BySignature, Key: e.Keys[1].Fingerprint(), Sample: true}},
		{"wrong key", "none", made("wrong"), token},
		{"missing", "missing", httptest.NewRequest("POST", "/", strings.NewReader(formBody)), token},
		{"ambiguous", "ambiguous", func() *http.Request {
			q := made(testKey)
			q.Header.Set("X-SarvTES-Signature", "x")
			return q
		}(), token},
	}
	for _, mode := range []SignatureMode{"", SignatureReport} {
		for _, c := range cases {
			t.Run(string(mode)+" "+c.name, func(t *testing.T) {
				e.Signature = mode
				b := newBench(t, Limits{}, e)
				q := c.q.Clone(t.Context())
				q.Body = httptest.NewRequest("POST", "/", strings.NewReader(formBody)).Body
				q.URL.Path = Path("acme", testToken)
				expect(t, b.do(q), "sendclean", "")
				if got := b.store.deliveries()[0].Verified; got != c.want {
					t.Errorf("verified %+v, want %+v", got, c.want)
				}
				if got := b.counted(t, "reports", "sendclean", "acme", c.label); got != 1 {
					t.Errorf("%s is counted %v times", c.label, got)
				}
				q.URL.Path = Path("acme", testToken+"x")
				expect(t, b.do(q), "sendclean", badToken)
			})
		}
	}
	t.Run("no key", func(t *testing.T) {
		e.Keys, e.Signature = nil, ""
		b := newBench(t, Limits{}, e)
		expect(t, b.do(made(testKey)), "sendclean", "")
		if got := b.store.deliveries()[0].Verified; got != token {
			t.Errorf("verified %+v, want %+v", got, token)
		}
		e.Signature = SignatureEnforce
		if err := b.SetEndpoints([]Endpoint{e}); err != nil {
			t.Fatal(err)
		}
		expect(t, b.do(made(testKey)), "sendclean", awaitingKey)
	})
}

func TestEmptyDeliveries(t *testing.T) {
	var m bytes.Buffer
	w := multipart.NewWriter(&m)
	if err := w.WriteField("sarvtes_events", "[]"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	empty := map[string][]string{
		mediaURLEncoded:         {"sarvtes_events=%5B%5D", "SendCleantes_events=", "sarvtes_events", "TES_EVENTS=+%5B+%0A%5D+", "x=1&sarvtes_events=[]", "sarvtes_events=[]&SendCleantes_events=", "[]", " "},
		"application/json":      {"[]", " [ \r\n\t] ", "\n", `{"sarvtes_events":"[]"}`, `{"sarvtes_events":[ ]}`, `{"SendCleantes_events":""}`, "\xef\xbb\xbf[]"},
		"":                      {"[]", "sarvtes_events=[]"},
		w.FormDataContentType(): {m.String()},
	}
	events := map[string][]string{
		mediaURLEncoded:    {"sarvtes_events=[1]", "sarvtes_events=[]&SendCleantes_events=[1]", "a=1", "sarvtes_events=%zz", "events=[]", "[,]", "[", "sarvtes_events=null"},
		"application/json": {"[1]", "[[]]", "{}", "null", `{"sarvtes_events":"[1]"}`, `{"sarvtes_events":[],"x":1}`, `{"sarvtes_events":[]}{}`, `{"sarvtes_events":[]`, `{"x":[]}`, "0", `""`},
	}
	for _, provider := range []string{"sendclean", "sarv"} {
		e := tes()
		e.Provider = provider
		b := newBench(t, Limits{}, e)
		n := 0.0
		for contentType, bodies := range empty {
			for _, body := range bodies {
				q := httptest.NewRequest("POST", "/hooks/acme", strings.NewReader(body))
				q.Header.Set("Content-Type", contentType)
				w := b.do(q)
				n++
				if got := b.counted(t, "validations", provider, "acme"); w.Code != 200 || w.Body.String() != Acknowledgement(provider) || got != n {
					t.Fatalf("%s %q: %d %q, %v validations", contentType, body, w.Code, w.Body, got)
				}
			}
		}
		for contentType, bodies := range events {
			for _, body := range bodies {
				q := httptest.NewRequest("POST", "/hooks/acme", strings.NewReader(body))
				q.Header.Set("Content-Type", contentType)
				if w := b.do(q); w.Code != 401 {
					t.Errorf("%s %q: %d", contentType, body, w.Code)
				}
			}
		}
		if n := len(b.store.deliveries()); n != 0 {
			t.Errorf("%d deliveries are stored", n)
		}
	}
	// The others have no such thing: an empty array is a delivery.
	b := newBench(t, Limits{}, samples()[4].endpoint)
	expect(t, b.do(httptest.NewRequest("POST", samples()[4].path(), strings.NewReader("[]"))), "vision6", "")
	if n := len(b.store.deliveries()); n != 1 {
		t.Errorf("%d deliveries are stored, want 1", n)
	}
}
