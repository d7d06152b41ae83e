package docs

import (
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/receiver"
	"github.com/blessd/blessd/relay"
)

// mapping is a row of the tables in docs/events.md that say what becomes of an event.
type mapping struct {
	words []string // the provider's event
	types []string
	seen  bool
}

// The tables in docs/events.md say what the golden files show: every event in them
// has a row, and every row has an event.
func TestMapping(t *testing.T) {
	page := section(t, read(t, "docs/events.md"), "## What becomes of each provider's events")
	tes := mappings(t, page, "### SendClean and Sarv")
	tables := map[string][]mapping{
		"enkod": mappings(t, page, "### enKod"), "mailgun": mappings(t, page, "### Mailgun"),
		"sarv": tes, "sendclean": tes, "vision6": mappings(t, page, "### Vision6"),
	}
	for _, p := range receiver.Providers() {
		if len(tables[p]) == 0 {
			t.Errorf("docs/events.md has no table for %s", p)
		}
	}
	goldens, err := filepath.Glob(filepath.Join(root, "testdata/*/*.golden"))
	if err != nil || len(goldens) == 0 {
		t.Fatalf("no golden files (%v)", err)
	}
	for _, file := range goldens {
		for _, e := range goldenEvents(t, file) {
			words := providerWords(t, e)
			if !note(tables[e.Provider], words, string(e.Type)) && e.Type != event.OtherUnknown {
				t.Errorf("%s: docs/events.md has no row by which %q becomes %s", file, words, e.Type)
			}
		}
	}
	for provider, rows := range tables {
		for _, m := range rows {
			if !m.seen {
				t.Errorf("docs/events.md, %s: no golden file shows %q becoming %q", provider, m.words, m.types)
			}
		}
	}
}

func mappings(t *testing.T, page, heading string) []mapping {
	t.Helper()
	var found []mapping
	for _, cells := range rows(section(t, page, heading)) {
		m := mapping{words: codes(cells[0])}
		object, _, _ := strings.Cut(cells[0], " ")
		if object == "contact" || object == "list" { // Vision6 has two words for an event
			m.words = []string{object + " " + m.words[0]}
		}
		if strings.HasPrefix(cells[0], "old form: ") {
			for i, w := range m.words {
				m.words[i] = "old form: " + w
			}
		}
		for _, c := range codes(cells[1]) {
			if slices.Contains(event.Types(), event.Type(c)) {
				m.types = append(m.types, c)
			}
		}
		if len(m.words) > 0 { // a row without is about events that nobody has the names of
			found = append(found, m)
		}
	}
	return found
}

// note marks the rows by which an event becomes a type, and tells whether there are any.
func note(rows []mapping, word, typ string) (found bool) {
	for i := range rows {
		if slices.Contains(rows[i].words, word) && slices.Contains(rows[i].types, typ) {
			rows[i].seen, found = true, true
		}
	}
	return found
}

// goldenEvents returns the events of a golden file.
func goldenEvents(t *testing.T, file string) []*event.Event {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var found []*event.Event
	for block := range strings.SplitSeq("\n"+string(b), "\n--- ") {
		line, ok := strings.CutPrefix(block, "event\n")
		if !ok {
			continue
		}
		e, err := event.Decode([]byte(line))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		found = append(found, e)
	}
	return found
}

// providerWords returns what the provider calls the event, as the tables write it.
func providerWords(t *testing.T, e *event.Event) string {
	t.Helper()
	raw := e.RawBytes()
	var form string
	if json.Unmarshal(raw, &form) == nil {
		if i := strings.Index(form, `name="event"`); i >= 0 { // multipart
			_, rest, _ := strings.Cut(form[i:], "\r\n\r\n")
			rest, _, _ = strings.Cut(rest, "\r\n")
			return "old form: " + word(rest)
		}
		values, err := url.ParseQuery(form)
		if err != nil {
			t.Fatalf("event %s: %v", e.ID, err)
		}
		return "old form: " + word(values.Get("event"))
	}
	var o struct{ Object, Event any }
	if err := json.Unmarshal(raw, &o); err != nil {
		t.Fatalf("event %s: %v", e.ID, err)
	}
	name, _ := o.Event.(string)
	if object, ok := o.Object.(string); ok && e.Provider == "vision6" {
		return word(object) + " " + word(name)
	}
	return word(name)
}

func word(s string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimSpace(s)), "\u0441", "c")
}

// Each reason has a row in docs/operating.md.
func TestReasons(t *testing.T) {
	page := read(t, "docs/operating.md")
	first := func(text string) (found []string) {
		for _, cells := range rows(text) {
			found = append(found, codes(cells[0])...)
		}
		return found
	}
	compare(t, "docs/operating.md", "reason for a refusal", first(section(t, page, "## What a refusal means")), receiver.Reasons())
	compare(t, "docs/operating.md", "reason for quarantine", first(section(t, page, "### Quarantine and oversize")), relay.Reasons())
}

// Each acknowledgement is in docs/providers.md, each provider has a page, and each
// variant of signing is in SendClean's.
func TestProviders(t *testing.T) {
	page := read(t, "docs/providers.md")
	for _, p := range receiver.Providers() {
		if ack := receiver.Acknowledgement(p); !strings.Contains(page, "`"+ack+"`") {
			t.Errorf("docs/providers.md does not have %s's acknowledgement %q", p, ack)
		}
		if link := "](providers/" + p + ".md)"; !strings.Contains(page, link) {
			t.Errorf("docs/providers.md does not lead to the page of %s", p)
		}
	}
	var documented []string
	for _, cells := range rows(section(t, read(t, "docs/providers/sendclean.md"), "## The variants of signing")) {
		documented = append(documented, codes(cells[0])...)
	}
	compare(t, "docs/providers/sendclean.md", "variant of signing", documented, receiver.Variants())
}

// Each header that the sink writes has a row in docs/events.md.
func TestHeaders(t *testing.T) {
	page := read(t, "docs/events.md")
	var documented, real []string
	for _, cells := range append(rows(section(t, page, "## Headers")), rows(section(t, page, "## Quarantine"))...) {
		documented = append(documented, codes(cells[0])...)
	}
	header := regexp.MustCompile(`(?m)^\theader\w+ += "([^"]+)"$`)
	for _, m := range header.FindAllStringSubmatch(read(t, "sink/message.go"), -1) {
		real = append(real, m[1])
	}
	if len(real) == 0 {
		t.Fatal("no header found in sink/message.go")
	}
	compare(t, "docs/events.md", "header", documented, real)
}
