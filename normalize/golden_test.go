package normalize_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/normalize"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// A fixture is testdata/<provider>/<name> with one of these extensions: a body
// exactly as it is received. <name>.meta.json may say more about the request, and
// <name>.golden holds what blessd makes of it.
var contentTypes = map[string]string{
	".form":      "application/x-www-form-urlencoded",
	".json":      "application/json",
	".multipart": "multipart/form-data", // the meta file names the boundary
	".bin":       "application/octet-stream",
}

type fixture struct {
	name     string // <provider>/<name>
	golden   string // the path
	delivery delivery.Delivery
}

// fixtures returns the fixtures of one provider, or of all for "*".
func fixtures(t testing.TB, provider string) []fixture {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join("..", "testdata", provider, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var all []fixture
	names := make(map[string]bool)
	for _, path := range paths {
		ext := filepath.Ext(path)
		contentType, known := contentTypes[ext]
		if !known || strings.HasSuffix(path, ".meta.json") {
			continue
		}
		stem := strings.TrimSuffix(path, ext)
		provider := filepath.Base(filepath.Dir(path))
		f := fixture{name: provider + "/" + filepath.Base(stem), golden: stem + ".golden"}
		if names[f.name] {
			t.Errorf("two bodies are named %s", f.name)
		}
		names[f.name] = true
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		meta := struct {
			ContentType string    `json:"content_type"`
			Endpoint    string    `json:"endpoint"`
			Received    time.Time `json:"received"`
			Sample      bool      `json:"sample"`
		}{contentType, "acme", time.Date(2026, 11, 21, 17, 22, 17, 123456789, time.UTC), false}
		switch b, err := os.ReadFile(stem + ".meta.json"); {
		case os.IsNotExist(err):
		case err != nil:
			t.Fatal(err)
		default:
			if err := json.Unmarshal(b, &meta); err != nil {
				t.Fatalf("%s.meta.json: %v", stem, err)
			}
		}
		f.delivery = delivery.Delivery{
			Provider: provider, Endpoint: meta.Endpoint, Received: meta.Received, Method: "POST",
			ContentType: meta.ContentType, Body: body, Verified: delivery.Verification{Sample: meta.Sample},
		}
		all = append(all, f)
	}
	if len(all) == 0 {
		t.Fatalf("no fixtures of %s", provider)
	}
	return all
}

// render writes results as a golden file has them. The lines between them survive
// raw forms of several lines, since no JSON value has such a line in it.
func render(t testing.TB, d *delivery.Delivery) []byte {
	t.Helper()
	var b bytes.Buffer
	for r := range normalize.Each(d) {
		switch {
		case r.Event != nil && r.Reject == nil:
			line, err := event.Encode(r.Event)
			if err != nil {
				t.Fatal(err)
			}
			b.WriteString("--- event\n")
			b.Write(line)
		case r.Reject != nil && r.Event == nil:
			type reject struct {
				Reason      normalize.Reason `json:"reason"`
				ID          string           `json:"id"`
				Element     int              `json:"element"`
				Occurrence  int              `json:"occurrence"`
				ContentType string           `json:"content_type"`
				Raw         string           `json:"raw,omitempty"`
				RawBase64   []byte           `json:"raw_base64,omitempty"` // when Raw is not UTF-8
			}
			j := reject{
				Reason: r.Reject.Reason, ID: r.Reject.ID, Element: r.Element,
				Occurrence: r.Occurrence, ContentType: r.Reject.ContentType,
			}
			if utf8.Valid(r.Reject.Raw) {
				j.Raw = string(r.Reject.Raw)
			} else {
				j.RawBase64 = r.Reject.Raw
			}
			b.WriteString("--- reject\n")
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(map[string]reject{"reject": j}); err != nil {
				t.Fatal(err)
			}
			continue
		default:
			t.Fatalf("not exactly one of event and reject: %+v", r)
		}
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func TestGolden(t *testing.T) {
	for _, f := range fixtures(t, "*") {
		t.Run(f.name, func(t *testing.T) {
			check(t, &f.delivery)
			got := render(t, &f.delivery)
			if *update {
				if err := os.WriteFile(f.golden, got, 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, err := os.ReadFile(f.golden)
			if err != nil {
				t.Fatalf("%v (go test ./normalize -update writes it)", err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// A golden file without its body tests nothing.
func TestNoStrayGoldenFiles(t *testing.T) {
	wanted := make(map[string]bool)
	for _, f := range fixtures(t, "*") {
		wanted[f.golden] = true
	}
	for _, pattern := range []string{"*.golden", "*.meta.json"} {
		paths, err := filepath.Glob(filepath.Join("..", "testdata", "*", pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			stem := strings.TrimSuffix(path, pattern[1:])
			if !wanted[stem+".golden"] {
				t.Errorf("%s belongs to no body", path)
			}
		}
	}
}

// Every kind that a provider is documented to send has a sample, and each is
// understood as what its name says.
func TestSamples(t *testing.T) {
	kinds := map[string]map[string]event.Type{
		"sendclean": sendcleanKinds, "sarv": sendcleanKinds,
		"enkod": {
			"message_sent": event.EmailSent, "delivery_bounce": event.EmailBounced,
			"message_open": event.EmailOpened, "message_clicked": event.EmailClicked, "complaint": event.EmailComplained,
			"mailing_group_subscribe": event.ContactSubscribed, "mailing_group_unsubscribe": event.ContactUnsubscribed,
			"contact_adding": event.ContactCreated,
		},
		"vision6": {
			"contact_created": event.ContactCreated, "contact_updated": event.ContactUpdated,
			"contact_removed": event.ContactRemoved, "contact_subscribed": event.ContactSubscribed,
			"contact_unsubscribed": event.ContactUnsubscribed, "contact_deactivated": event.ContactDeactivated,
			"contact_reactivated": event.ContactReactivated, "list_created": event.ListCreated,
			"list_updated": event.ListUpdated, "list_removed": event.ListRemoved, "list_bulk_updated": event.ListBulkUpdated,
		},
	}
	for provider, kinds := range kinds {
		found := make(map[string]bool)
		for _, f := range fixtures(t, provider) {
			kind, ok := strings.CutPrefix(f.name, provider+"/sample-")
			if !ok {
				continue
			}
			found[kind] = true
			results := slices.Collect(normalize.Each(&f.delivery))
			if len(results) != 1 || results[0].Event == nil {
				t.Errorf("%s: got %d results, want one event", f.name, len(results))
			} else if got := results[0].Event.Type; got != kinds[kind] {
				t.Errorf("%s: got %s, want %s", f.name, got, kinds[kind])
			}
		}
		for kind := range kinds {
			if !found[kind] {
				t.Errorf("%s has no sample-%s.json", provider, kind)
			}
		}
	}
}

var sendcleanKinds = map[string]event.Type{
	"send": event.EmailSent, "delivered": event.EmailDelivered,
	"soft_bounce": event.EmailBounced, "hard_bounce": event.EmailBounced,
	"open": event.EmailOpened, "click": event.EmailClicked, "spam": event.EmailComplained,
}

var (
	idPattern   = regexp.MustCompile(`^[0-9a-f]{32}$`)
	timePattern = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$`)
)

// check checks what holds for the results of every delivery whatsoever.
func check(t testing.TB, d *delivery.Delivery) {
	t.Helper()
	body := bytes.Clone(d.Body)
	first := render(t, d)
	if second := render(t, d); !bytes.Equal(first, second) {
		t.Errorf("not deterministic:\n%s\nthen\n%s", first, second)
	}
	if !bytes.Equal(d.Body, body) {
		t.Error("the body was changed")
	}
	ids := make(map[string]bool)
	whole := false
	n := 0
	element := -1
	for r := range normalize.Each(d) {
		n++
		var id string
		if r.Event != nil {
			id = r.Event.ID
			checkEvent(t, d, r.Event)
		} else {
			id = r.Reject.ID
			checkReject(t, d, r.Element, r.Reject)
			if r.Element < 0 {
				whole = true
			} else {
				if r.Element <= element {
					t.Errorf("element %d comes after %d", r.Element, element)
				}
				element = r.Element
			}
		}
		if ids[id] {
			t.Errorf("the id %s occurs twice in one delivery", id)
		}
		ids[id] = true
	}
	if whole && n != 1 {
		t.Errorf("the whole body was rejected and there are %d results", n)
	}
	for range normalize.Each(d) {
		break // whoever stops early is not called again
	}
}

func checkEvent(t testing.TB, d *delivery.Delivery, e *event.Event) {
	t.Helper()
	if !idPattern.MatchString(e.ID) {
		t.Errorf("id %q", e.ID)
	}
	if !slices.Contains(event.Types(), e.Type) {
		t.Errorf("type %q", e.Type)
	}
	if e.Provider != d.Provider || e.Endpoint != d.Endpoint || !e.Received.Equal(event.NewTime(d.Received).Time) {
		t.Errorf("%s %s %s are not the delivery's", e.Provider, e.Endpoint, e.Received)
	}
	if d.Verified.Sample && !e.Test {
		t.Error("verified by a sample key and not marked as a test")
	}
	times := []event.Time{e.Time, e.Received}
	if e.Complaint != nil && e.Complaint.Arrival != nil {
		times = append(times, *e.Complaint.Arrival)
	}
	for _, at := range times {
		if !timePattern.MatchString(at.String()) {
			t.Errorf("time %s", at)
		}
	}
	if e.TimeSource == event.TimeFromReceipt && e.Time != e.Received {
		t.Errorf("time %s is not that of receipt, %s", e.Time, e.Received)
	}
	if len(e.RawBytes()) == 0 {
		t.Error("no raw form")
	}
	line, err := event.Encode(e)
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	if !json.Valid(line) || !utf8.Valid(line) {
		t.Errorf("encoded event is not JSON in UTF-8: %s", line)
	}
	if e.Raw != nil && !bytes.HasSuffix(line, append(append([]byte(`,"raw":`), e.Raw...), '}')) {
		t.Errorf("raw form is not in the event byte for byte: %s", line)
	}
	again, err := event.Decode(line)
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	if !bytes.Equal(again.RawBytes(), e.RawBytes()) {
		t.Errorf("decoded raw form %q, want %q", again.RawBytes(), e.RawBytes())
	}
	twice, err := event.Encode(again)
	if err != nil {
		t.Fatalf("encode again: %v", err)
	}
	if !bytes.Equal(twice, line) {
		t.Errorf("encoded, decoded and encoded again:\n%s\nwant\n%s", twice, line)
	}
}

func checkReject(t testing.TB, d *delivery.Delivery, element int, r *normalize.Reject) {
	t.Helper()
	if !slices.Contains(normalize.Reasons(), r.Reason) {
		t.Errorf("reason %q", r.Reason)
	}
	if !idPattern.MatchString(r.ID) {
		t.Errorf("id %q", r.ID)
	}
	if element < 0 && (!bytes.Equal(r.Raw, d.Body) || r.ContentType != d.ContentType) {
		t.Errorf("reject of the whole body holds %q (%s)", r.Raw, r.ContentType)
	}
	if element >= 0 && (!json.Valid(r.Raw) || r.ContentType != "application/json") {
		t.Errorf("reject of an element holds %q (%s)", r.Raw, r.ContentType)
	}
}
