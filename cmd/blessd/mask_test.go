package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-json/jsontext"

	"github.com/blessd/blessd/event"
)

func TestMask(t *testing.T) {
	e := &event.Event{
		Recipient: "user@example.com", Contact: &event.Contact{Email: "other.one@example.org", Phone: "+7 900 123-45-67"},
		Client: &event.Client{IP: "203.0.113.9"}, Complaint: &event.Complaint{SourceIP: "2001:db8::1", OriginalRecipient: "hash0123"},
	}
	m := newMasker(e)
	for _, c := range []struct{ text, want string }{
		{"nothing here", "nothing here"},
		{`{"to":"user@example.com"}`, `{"to":"u` + "\u2026" + `@example.com"}`},
		{`{"to":"stranger@example.net","n":12}`, `{"to":"s` + "\u2026" + `@example.net","n":12}`},
		{`recipient=user%40example.com&event=opened`, `recipient=u` + "\u2026" + `%40example.com&event=opened`},
		{`recipient=stranger%40example.net&x=1`, `recipient=s` + "\u2026" + `%40example.net&x=1`},
		{`"a\u0040b.example"`, `"a` + "\u2026" + `\u0040b.example"`},
		{`bounce+user=example.com@sender.example`, `b` + "\u2026" + `@sender.example`},
		{`"\"john doe\"@example.com"`, `"` + "\u2026" + `@example.com"`},
		{`John <john@example.com>, Jane <jane@example.com>`, `John <j` + "\u2026" + `@example.com>, Jane <j` + "\u2026" + `@example.com>`},
		{"\u00fcser@example.com", "\u00fc\u2026@example.com"},
		{"\u044e\u0437\u0435\u0440@\u043f\u0440\u0438\u043c\u0435\u0440.\u0440\u0444", "\u044e\u2026@\u043f\u0440\u0438\u043c\u0435\u0440.\u0440\u0444"},
		{`{"phone":"+7 900 123-45-67","ip":"203.0.113.9"}`, `{"phone":"` + "\u2026" + `","ip":"` + "\u2026" + `"}`},
		{`phone=%2B7+900+123-45-67`, `phone=` + "\u2026"},
		{`Source-IP: 2001:db8::1 of hash0123`, `Source-IP: ` + "\u2026" + ` of ` + "\u2026"},
	} {
		if got := m.mask(c.text); got != c.want {
			t.Errorf("%s became %s, want %s", c.text, got, c.want)
		}
		if got := m.mask(m.mask(c.text)); got != m.mask(c.text) {
			t.Errorf("%s masked twice became %s", c.text, got)
		}
	}
	if got := newMasker(nil).mask(`a@b.example`); got != "a\u2026@b.example" {
		t.Errorf("without an event: %s", got)
	}
}

// No address of any event that the fixtures make is left in what is shown of it.
func TestMaskGoldens(t *testing.T) {
	files, err := filepath.Glob("../../testdata/*/*.golden")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	masked := 0
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			e, err := event.Decode([]byte(line))
			if err != nil {
				continue // a reject, or a mark between two
			}
			if _, shown, _ := shownEvent([]byte(line), true); !jsontext.Value(shown).IsValid() {
				t.Errorf("%s: what is masked is no JSON: %s", file, shown)
			}
			data, err := event.Encode(e)
			if err != nil {
				t.Fatal(err)
			}
			summary, text, raw := shownEvent(data, true)
			for _, secret := range []string{e.Recipient, address(e)} {
				if len(secret) < 3 {
					continue
				}
				masked++
				for what, shown := range map[string]string{"summary": summary, "event": text, "raw": raw} {
					if strings.Contains(shown, secret) {
						t.Errorf("%s: the %s shows %q:\n%s", file, what, secret, shown)
					}
				}
			}
		}
	}
	if masked == 0 {
		t.Error("no address found: the test tests nothing")
	}
}

func address(e *event.Event) string {
	if e.Contact == nil {
		return ""
	}
	return e.Contact.Email
}
