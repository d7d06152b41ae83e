package normalize_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/normalize"
)

// elementOf is the delivery that replay makes of one element.
func elementOf(d *delivery.Delivery, raw []byte) *delivery.Delivery {
	alone := *d
	alone.Body, alone.ContentType, alone.Query, alone.Header = raw, "application/json", "", nil
	return &alone
}

func line(t *testing.T, r normalize.Result) string {
	t.Helper()
	if r.Event == nil {
		return string(r.Reject.Reason) + " " + r.Reject.ID + " " + string(r.Reject.Raw)
	}
	b, err := event.Encode(r.Event)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// What an element yields alone is what it yielded in its batch, for every element of
// every fixture: the same ids, the same events.
func TestElement(t *testing.T) {
	elements := 0
	for _, f := range fixtures(t, "*") {
		d := &f.delivery
		type one struct {
			raw   []byte
			lines []string
		}
		var all []*one
		for r := range normalize.Each(d) {
			if r.Element < 0 {
				continue
			}
			var raw []byte
			if r.Event != nil {
				raw = r.Event.RawBytes()
			} else {
				raw = r.Reject.Raw
			}
			if r.Element == len(all) {
				all = append(all, &one{raw: raw})
			}
			all[r.Element].lines = append(all[r.Element].lines, line(t, r))
		}
		for i, e := range all {
			elements++
			equal := 0
			for _, before := range all[:i] {
				if bytes.Equal(before.raw, e.raw) {
					equal++
				}
			}
			var got []string
			for r := range normalize.Element(elementOf(d, e.raw), i, equal) {
				if r.Element != i {
					t.Errorf("%s: element %d is given as %d", f.name, i, r.Element)
				}
				got = append(got, line(t, r))
			}
			if !slices.Equal(got, e.lines) && !differentBytes[f.name] {
				t.Errorf("%s, element %d: alone it is\n%q\nand in its batch\n%q", f.name, i, got, e.lines)
			}
		}
	}
	if elements < 100 {
		t.Errorf("%d elements, want those of all fixtures", elements)
	}
}

// differentBytes are the fixtures with elements that are the same event though their
// bytes differ: alone, nothing tells how many came before.
var differentBytes = map[string]bool{
	"enkod/complaint-latin-and-cyrillic": true,
	"enkod/test-marks":                   true,
	"sendclean/opens-and-clicks-missing": true,
}

func TestElementsOfStrangers(t *testing.T) {
	for _, provider := range []string{"enkod", "mailgun", "sarv", "sendclean", "vision6", "nobody"} {
		for _, raw := range []string{
			"", "{", "}", "{}", "[]", "[", `"`, `""`, `"\`, `"\u12"`, `"\u00ff"`, `"{}"`, `"abc"`, `"--x"`, "null", "1", "\x00", `{"a":1}}`, `{"event":"message sent"} {}`,
			`"event=opened&timestamp=1&token=2&signature=3"`,
		} {
			d := jsonDelivery(provider, raw)
			n := 0
			for r := range normalize.Element(d, 3, 2) {
				n++
				if r.Event != nil {
					checkEvent(t, d, r.Event)
				}
			}
			if n == 0 {
				t.Errorf("%s: %q yields nothing", provider, raw)
			}
		}
	}
	// An element stays one: what would be a form as a body is none in a batch.
	for r := range normalize.Element(jsonDelivery("mailgun", `"abc"`), 0, 0) {
		if r.Reject == nil {
			t.Errorf("got %+v", r.Event)
		}
	}
}

func FuzzElement(f *testing.F) {
	for _, x := range fixtures(f, "*") {
		for r := range normalize.Each(&x.delivery) {
			if r.Event != nil {
				f.Add(x.delivery.Provider, r.Event.RawBytes(), 1)
			}
		}
	}
	f.Fuzz(func(t *testing.T, provider string, raw []byte, equal int) {
		d := jsonDelivery(provider, string(raw))
		for r := range normalize.Element(d, 0, equal) {
			if r.Event == nil && r.Reject == nil {
				t.Error("neither an event nor a reject")
			}
		}
	})
}
