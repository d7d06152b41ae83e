package ledger_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/blessd/blessd/e2e/ledger"
)

// TestExpect holds the bench's normalizer against the golden events of what the
// providers document: two programs that were written apart have to agree.
func TestExpect(t *testing.T) {
	n := 0
	for _, pattern := range []string{"docs-*", "sample-*", "unknown-*", "all-kinds*"} {
		files, err := filepath.Glob("../../testdata/*/" + pattern + ".golden")
		if err != nil {
			t.Fatal(err)
		}
		for _, golden := range files {
			for extension, contentType := range map[string]string{".json": "application/json", ".form": "application/x-www-form-urlencoded"} {
				body, err := os.ReadFile(strings.TrimSuffix(golden, ".golden") + extension)
				provider := filepath.Base(filepath.Dir(golden))
				if err != nil || provider == "mailgun" && (extension == ".form" || strings.Contains(golden, "rejected")) {
					continue // of another form, or what the bench does not send
				}
				if provider == "mailgun" && !bytes.Contains(body, []byte(`"event-data"`)) {
					body = slices.Concat([]byte(`{"event-data":`), bytes.TrimSpace(body), []byte("}"))
				}
				n++
				t.Run(provider+"/"+filepath.Base(golden), func(t *testing.T) {
					compare(t, golden, ledger.Expect(provider, contentType, body))
				})
			}
		}
	}
	if n < 50 {
		t.Errorf("only %d golden files were found", n)
	}
}

func compare(t *testing.T, golden string, got []ledger.Expected) {
	t.Helper()
	text, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	var want []map[string]any
	for part := range strings.SplitSeq("\n"+string(text), "\n--- ") {
		kind, event, _ := strings.Cut(part, "\n")
		switch {
		case kind == "":
		case kind != "event":
			want = append(want, nil)
		default:
			d := json.NewDecoder(strings.NewReader(event))
			d.UseNumber()
			var e map[string]any
			if err := d.Decode(&e); err != nil {
				t.Fatal(err)
			}
			want = append(want, e)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("expected %d events, the golden file has %d", len(got), len(want))
	}
	for i, w := range want {
		if w == nil || got[i].Event == nil {
			if w != nil || got[i].Event != nil {
				t.Errorf("%d: expected %v, the golden file has %v", i, got[i].Event, w)
			}
			continue
		}
		if w["time_source"] == "received" {
			delete(w, "time")
		}
		delete(w, "test") // the bench sends no tests
		for _, name := range []string{"id", "time_source", "received", "provider", "endpoint", "raw", "raw_base64"} {
			delete(w, name)
		}
		e := maps.Clone(got[i].Event)
		delete(e, "test")
		a, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(w)
		if err != nil {
			t.Fatal(err)
		}
		var x, y any
		if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil || !reflect.DeepEqual(x, y) {
			t.Errorf("%d: expected\n%s\nthe golden file has\n%s", i, a, b)
		}
	}
}
