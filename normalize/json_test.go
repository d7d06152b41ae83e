package normalize

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// Earlier versions of the library accept garbage, wrap integers and panic; a
// replacement would go unnoticed otherwise.
func TestJSONLibraryVersion(t *testing.T) {
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?m)goccy/go-json(\s+\S+)?\s+=>`).Match(mod) {
		t.Error("github.com/goccy/go-json is replaced")
	}
	m := regexp.MustCompile(`(?m)^\s*github\.com/goccy/go-json v(\d+)\.(\d+)\.(\d+)\b`).FindSubmatch(mod)
	if m == nil {
		t.Fatal("github.com/goccy/go-json is not in go.mod")
	}
	major, _ := strconv.Atoi(string(m[1]))
	minor, _ := strconv.Atoi(string(m[2]))
	if major == 0 && minor < 12 {
		t.Errorf("github.com/goccy/go-json is v%s.%s.%s, want at least v0.12.0", m[1], m[2], m[3])
	}
}

func TestTablesAreSorted(t *testing.T) {
	if !slices.IsSortedFunc(providers, func(a, b provider) int { return strings.Compare(a.name, b.name) }) {
		t.Error("providers is not sorted by name")
	}
	for _, p := range providers {
		if p.name == "" || p.elements == nil || p.events == nil {
			t.Errorf("provider %q is incomplete", p.name)
		}
	}
	if !slices.IsSorted(Reasons()) {
		t.Errorf("reasons are not sorted: %q", Reasons())
	}
}

func TestDocument(t *testing.T) {
	for body, want := range map[string]string{
		"[]": "[]", " \r\n\t{} ": "{}", "\ufeff[1]": "[1]", "\ufeff \n[1] ": "[1]", "\"\xff\"": "",
		"": "", " ": "", "\ufeff": "", "\ufeff\ufeff[]": "", "null": "", "1": "", `"x"`: "", "true": "",
		"[": "", "[]]": "", "[]x": "", "[]\x00": "", "[][]": "", "{}\n{}": "", "[1,]": "", "[,1]": "", "['a']": "", "[NaN]": "",
		"[Infinity]": "", "[01]": "", "[+1]": "", "[1.]": "", "[.5]": "", "[0x10]": "", "[1e]": "", "[//x\n1]": "", "{a:1}": "",
		"[\"\n\"]": "", "[\"\x00\"]": "", "[\"\x01\"]": "", `["\q"]`: "", `["\u12"]`: "", "[\v1]": "", "[\u00a01]": "",
		`{"a":01}`: "", `{"a":"\q"}`: "", `{"a":{"b":[1,2}}`: "", `{"a":1,}`: "", `{"a"}`: "", `{1:1}`: "",
		`["\ud800"]`: `["\ud800"]`, "[\"\xff\xfe\"]": "[\"\xff\xfe\"]", "{\"\xc3\":1}": "{\"\xc3\":1}", "[\"\x7f\u2028\"]": "[\"\x7f\u2028\"]",
	} {
		got, reason := document([]byte(body))
		if string(got) != want || (reason == "") != (want != "") {
			t.Errorf("document(%q) = %q, %q, want %q", body, got, reason, want)
		}
	}
}

// The scanners agree with encoding/json on every document.
func agree(t *testing.T, b []byte) {
	t.Helper()
	value, reason := document(b)
	std := trim(bytes.TrimPrefix(b, bom))
	want := json.Valid(std) && (std[0] == '[' || std[0] == '{')
	if got := reason == ""; got != want {
		t.Fatalf("document(%q) valid %t, encoding/json says %t", b, got, want)
	}
	if reason != "" {
		return
	}
	var got [][]byte
	for item := range batch(value) {
		got = append(got, item)
	}
	var raws []json.RawMessage
	if value[0] == '{' {
		raws = []json.RawMessage{value}
		var n int
		m := make(map[string]json.RawMessage)
		if err := json.Unmarshal(value, &m); err != nil {
			t.Fatal(err)
		}
		last := make(map[string][]byte)
		for name, v := range members(value) {
			n++
			last[name] = v
		}
		if len(last) != len(m) {
			t.Fatalf("%q has the members %q, encoding/json says %q", value, last, m)
		}
		for name, v := range m {
			if !bytes.Equal(last[name], v) {
				t.Fatalf("member %q of %q is %q, encoding/json says %q", name, value, last[name], v)
			}
		}
	} else if err := json.Unmarshal(value, &raws); err != nil {
		t.Fatal(err)
	}
	if len(got) != len(raws) {
		t.Fatalf("%q has %d items, encoding/json says %d", value, len(got), len(raws))
	}
	for i := range raws {
		if !bytes.Equal(got[i], raws[i]) {
			t.Fatalf("item %d of %q is %q, encoding/json says %q", i, value, got[i], raws[i])
		}
		inspect(got[i], []string{"event"}) // must be total
		var s string
		if got[i][0] == '"' {
			if err := json.Unmarshal(raws[i], &s); err != nil {
				t.Fatal(err)
			}
			if u := unquote(got[i]); u != s {
				t.Fatalf("unquote(%q) = %q, encoding/json says %q", got[i], u, s)
			}
		}
	}
}

var documents = []string{
	`[]`, `{}`, ` [ ] `, ` { } `, `[1]`, `[1,2]`, `[ 1 , 2 ]`, "[\n1\n,\r\n{}\t]", `[[],[[]],{}]`, `[{"a":[1,{"b":"]"}]},"}"]`,
	`["\"","\\","\\\"]",",",":"]`, `[-1.5e+10,true,false,null]`, `{"a":1}`, `{ "a" : 1 , "b" : [1,2] }`, `{"\u0061":1,"b":"\"}"}`,
	`{"a":1,"a":2}`, `{"":{}}`, `["\ud83d\ude00","\ud800","\udc00x","\ud800\ud800"]`, "[\"\xff\"]", "{\"\xff\":1}", `[`, `[1`, `{"a"`, `{"a":`, `["`, `["\`,
}

func TestScannersAgreeWithEncodingJSON(t *testing.T) {
	for _, d := range documents {
		agree(t, []byte(d))
	}
}

func FuzzJSON(f *testing.F) {
	for _, d := range documents {
		f.Add([]byte(d))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		agree(t, b)
		q := quote(b)
		if utf8.Valid(b) {
			var s string
			if err := json.Unmarshal(q, &s); err != nil || s != string(b) {
				t.Errorf("quote(%q) = %q, which is %q, %v", b, q, s, err)
			}
		} else if !json.Valid(q) {
			t.Errorf("quote(%q) = %q is not valid", b, q)
		}
	})
}

func TestInspect(t *testing.T) {
	nested := func(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }
	keys := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"k%d":0,`, i)
		}
		return "{" + strings.TrimSuffix(b.String(), ",") + "}"
	}
	for _, c := range []struct {
		name, value string
		want        Reason
	}{
		{"depth 64", nested(64), ""},
		{"depth 65", nested(65), ReasonTooComplex},
		{"depth 65 in an object", `{"a":` + nested(64) + `}`, ReasonTooComplex},
		{"1000 keys", keys(1_000), ""},
		{"1001 keys", keys(1_001), ReasonTooComplex},
		{"1001 keys below", `{"a":[` + keys(1_001) + `]}`, ReasonTooComplex},
		{"10000 items", `{"a":[1` + strings.Repeat(",1", 9_999) + `]}`, ""},
		{"10001 items", `{"a":[1` + strings.Repeat(",1", 10_000) + `]}`, ReasonTooComplex},
		{"many siblings", `{"a":[` + strings.TrimSuffix(strings.Repeat(`[1,2],`, 5_000), ",") + `]}`, ""},
		{"no duplicate", `{"event":1,"x":"event","y":{"event":2},"z":[{"event":3}]}`, ""},
		{"duplicate", `{"event":1,"x":2,"event":1}`, ReasonAmbiguous},
		{"escaped duplicate", `{"event" : 1,"\u0065vent" :1}`, ReasonAmbiguous},
		{"duplicate of another key", `{"x":1,"x":2}`, ""},
		{"other case", `{"event":1,"Event":2}`, ""},
		{"brackets in strings", `{"a":"[[[{{{\"]","event":"}"}`, ""},
	} {
		if got := inspect([]byte(c.value), []string{"_id", "event"}); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestTime(t *testing.T) {
	const none = ""
	for value, want := range map[string]string{
		`1465890656000`:           "2016-06-14T07:50:56.000Z",
		`1465890656123`:           "2016-06-14T07:50:56.123Z",
		`"1465890656123"`:         "2016-06-14T07:50:56.123Z",
		`" 1465890656123\n"`:      "2016-06-14T07:50:56.123Z",
		`1465890656123.999`:       "2016-06-14T07:50:56.123Z",
		`1.465890656123e12`:       "2016-06-14T07:50:56.123Z",
		`14658906561230E-1`:       "2016-06-14T07:50:56.123Z",
		`1465890656`:              "2016-06-14T07:50:56.000Z",
		`1465890656.123456`:       "2016-06-14T07:50:56.123Z",
		`1529704976.105`:          "2018-06-22T22:02:56.105Z", // 104 as a float64
		`1.465890656e9`:           "2016-06-14T07:50:56.000Z",
		`1`:                       "1970-01-01T00:00:01.000Z",
		`99999999999`:             "5138-11-16T09:46:39.000Z",
		`100000000000`:            "1973-03-03T09:46:40.000Z",
		`253402300799999`:         "9999-12-31T23:59:59.999Z",
		`253402300799999.9`:       "9999-12-31T23:59:59.999Z",
		`253402300800000`:         none,
		`0`:                       none,
		`-0`:                      none,
		`0.0001`:                  none,
		`1e-400`:                  none,
		`-1465890656000`:          none,
		`9223372036854775807`:     none,
		`9223372036854775808`:     none,
		`18446744073709551616`:    none,
		`9e99`:                    none,
		`1e999999999999`:          none,
		`"1e"`:                    none,
		`"."`:                     none,
		`"1.2.3"`:                 none,
		`"+1465890656000"`:        none,
		`"0x1"`:                   none,
		`"abc"`:                   none,
		`""`:                      none,
		`null`:                    none,
		`true`:                    none,
		`[1465890656000]`:         none,
		`{"a":1465890656000}`:     none,
		`"\u0661\u0664"`:          none,
		strings.Repeat("1", 1000): none,
	} {
		var f text
		if err := f.UnmarshalJSON([]byte(value)); err != nil {
			t.Fatal(err)
		}
		got := none
		if at := f.Time(); !at.IsZero() {
			got = at.String()
		}
		if got != want {
			t.Errorf("%s is the time %q, want %q", value, got, want)
		}
	}
	if got := (text{}).Time(); !got.IsZero() {
		t.Errorf("a missing field is the time %s", got)
	}
}

// Every millisecond of a long time comes out as it went in, in each notation.
func TestTimeKeepsMilliseconds(t *testing.T) {
	for ms := int64(firstMilliseconds); ms < lastMilliseconds; ms += 123_456_789_013 {
		want := time.UnixMilli(ms).UTC()
		for _, s := range []string{
			strconv.FormatInt(ms, 10),
			fmt.Sprintf("%d.%03d", ms/1000, ms%1000),
			fmt.Sprintf("%d.%012de12", ms/1_000_000_000_000, ms%1_000_000_000_000),
		} {
			if strings.Contains(s, ".") && !strings.Contains(s, "e") && ms/1000 >= firstMilliseconds {
				continue // so many seconds are taken for milliseconds
			}
			if got := textOf(s).Time(); !got.Equal(want) {
				t.Fatalf("%s is %s, want %s", s, got, want)
			}
		}
	}
}

func TestText(t *testing.T) {
	for _, c := range []struct {
		json, str, identity string
		n                   int
		isInt, isTrue       bool
	}{
		{`"a"`, "a", "a", 0, false, false},
		{`""`, "", "", 0, false, false},
		{`"\u0441 \ud800"`, "\u0441 \ufffd", "\u0441 \ufffd", 0, false, false},
		{`42`, "42", "42", 42, true, false},
		{`"42"`, "42", "42", 42, true, false},
		{`" 42 "`, " 42 ", " 42 ", 42, true, false},
		{`42.0`, "42.0", "42.0", 42, true, false},
		{`4.2e1`, "4.2e1", "4.2e1", 42, true, false},
		{`42.5`, "42.5", "42.5", 0, false, false},
		{`-7`, "-7", "-7", -7, true, false},
		{`0`, "0", "0", 0, true, false},
		{`0.0`, "0.0", "0.0", 0, true, false},
		{`0.5`, "0.5", "0.5", 0, false, false},
		{`2147483648`, "2147483648", "2147483648", 0, false, false},
		{`12345678901234567890`, "12345678901234567890", "12345678901234567890", 0, false, false},
		{`"--1"`, "--1", "--1", 0, false, false},
		{`true`, "", "true", 0, false, true},
		{`"True"`, "True", "True", 0, false, true},
		{`false`, "", "false", 0, false, false},
		{`null`, "", "null", 0, false, false},
		{`[1]`, "", "[1]", 0, false, false},
		{`{"a":1}`, "", `{"a":1}`, 0, false, false},
	} {
		var f text
		if err := json.Unmarshal([]byte(c.json), &f); c.json != "null" && err != nil {
			t.Fatal(err)
		} else if c.json == "null" {
			f = text{s: "null", kind: 'x'} // encoding/json does not ask about null
		}
		if got := f.String(); got != c.str {
			t.Errorf("%s: string %q, want %q", c.json, got, c.str)
		}
		if got := f.Identity(); got != c.identity {
			t.Errorf("%s: identity %q, want %q", c.json, got, c.identity)
		}
		if n, ok := f.Int(); n != c.n || ok != c.isInt {
			t.Errorf("%s: number %d, %t, want %d, %t", c.json, n, ok, c.n, c.isInt)
		}
		if got := f.Bool(); got != c.isTrue {
			t.Errorf("%s: %t, want %t", c.json, got, c.isTrue)
		}
	}
}

// Nothing of one element may show up in another one.
func TestDecodeIsFresh(t *testing.T) {
	type fields struct {
		A text                     `json:"a"`
		O object[struct{ B text }] `json:"o"`
		L list[text]               `json:"l"`
	}
	first, reason := decode[fields]([]byte(`{"a":"secret","o":{"B":"secret"},"l":["secret"]}`))
	if reason != "" || first.A.String() != "secret" || first.O.V.B.String() != "secret" || len(first.L) != 1 {
		t.Fatalf("got %+v, %q", first, reason)
	}
	for _, raw := range []string{`{}`, `{"a":null,"o":null,"l":null}`, `{"o":{"B":"secret"},"o":5,"l":["secret"],"l":{}}`} {
		second, reason := decode[fields]([]byte(raw))
		if reason != "" || second.A.String() != "" || second.O.V.B.String() != "" || len(second.L) != 0 {
			t.Errorf("%s: got %+v, %q", raw, second, reason)
		}
	}
	if _, reason := decode[fields]([]byte(`[1]`)); reason != ReasonUnreadableElement {
		t.Errorf("an array: got %q", reason)
	}
}

// Strings do not alias the body, which the relay may reuse once the events are out.
func TestDecodedStringsAreCopies(t *testing.T) {
	raw := []byte(`{"a":"kept","l":["kept",5]}`)
	type fields struct {
		A text       `json:"a"`
		L list[text] `json:"l"`
	}
	v, reason := decode[fields](raw)
	if reason != "" {
		t.Fatal(reason)
	}
	for i := range raw {
		raw[i] = 'Z'
	}
	if v.A.String() != "kept" || v.L[0].String() != "kept" || v.L[1].String() != "5" {
		t.Errorf("got %+v", v)
	}
}

func TestSMTPCodes(t *testing.T) {
	for s, want := range map[string]struct {
		code     int
		enhanced string
	}{
		"550 5.1.1 User unknown":            {550, "5.1.1"},
		"550-5.1.1 line":                    {550, "5.1.1"},
		"550 #5.1.0 Address rejected":       {550, "5.1.0"},
		"smtp; 552 5.2.2 Over quota":        {552, "5.2.2"},
		"host a.b said: 450 4.2.0 later":    {450, "4.2.0"},
		"a sentence, then 550 5.7.1 anyway": {550, "5.7.1"},
		"5.7.1 blocked":                     {0, "5.7.1"},
		"421":                               {421, ""},
		"status code 554":                   {554, ""},
		"(554)":                             {554, ""},
		"[550] no":                          {550, ""},
		"more than 500 MB":                  {0, ""},
		"500MB":                             {0, ""},
		"connect to 5.5.5.5: refused":       {0, ""},
		"connect to 15.5.5: refused":        {0, ""},
		"250 2.0.0 ok":                      {0, ""},
		"4501 5.1.1234":                     {0, ""},
		"":                                  {0, ""},
		"\u041e\u0448\u0438\u0431\u043a\u0430: 550": {550, ""},
	} {
		if code, enhanced := smtpCodes(s); code != want.code || enhanced != want.enhanced {
			t.Errorf("smtpCodes(%q) = %d, %q, want %d, %q", s, code, enhanced, want.code, want.enhanced)
		}
	}
}

func TestPlainAddress(t *testing.T) {
	for s, want := range map[string]string{
		"user@example.com":                                     "user@example.com",
		"<user@example.com>":                                   "user@example.com",
		"User@EXAMPLE.com":                                     "User@EXAMPLE.com",
		"user+tag@example.com":                                 "user+tag@example.com",
		"b0df23337efdcda913f1e8888014812b@example.com":         "",
		"DA39A3EE5E6B4B0D3255BFEF95601890AFD80709@example.com": "",
		"User <user@example.com>":                              "",
		"a@b.example, c@d.example":                             "",
		"redacted":                                             "",
		"rfc822;user@example.com":                              "",
		"user@":                                                "",
		"":                                                     "",
		"<>":                                                   "",
	} {
		if got := plainAddress(s); got != want {
			t.Errorf("plainAddress(%q) = %q, want %q", s, got, want)
		}
	}
}
