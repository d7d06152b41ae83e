package event_test

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"testing"

	"github.com/blessd/blessd/event"
)

// Consumers remember ids and blessd compares them with ids in the stream, so the
// same event must have the same id in every version.
func TestNewIDIsStable(t *testing.T) {
	for _, c := range []struct {
		provider, endpoint string
		identity           []string
		occurrence         int
		written, want      string
	}{
		{"sendclean", "acme", []string{"a", "", "send"}, 0, "9:sendclean4:acme1:a0:4:send1:0", "788e408f31944fb4140ef63f3f644287"},
		{"enkod", "ru", nil, 12, "5:enkod2:ru2:12", "00fd58f7a221296817e74d2dfb34a81c"},
		{"", "", []string{"\u0441"}, 0, "0:0:2:\u04411:0", "6ede6889a6b700b2be4a088b924d7f7c"},
	} {
		got := event.NewID(c.provider, c.endpoint, c.identity, c.occurrence)
		sum := sha256.Sum256([]byte(c.written))
		if documented := hex.EncodeToString(sum[:])[:32]; got != documented {
			t.Errorf("NewID(%q, %q, %q, %d) = %s, which is not the documented %s", c.provider, c.endpoint, c.identity, c.occurrence, got, documented)
		}
		if got != c.want {
			t.Errorf("NewID(%q, %q, %q, %d) = %s, want %s", c.provider, c.endpoint, c.identity, c.occurrence, got, c.want)
		}
	}
}

// No two lists of strings may be written alike, wherever they are divided.
func TestNewIDKeepsFieldsApart(t *testing.T) {
	seen := make(map[string]string)
	add := func(name, id string) {
		t.Helper()
		if other, ok := seen[id]; ok {
			t.Errorf("%s and %s have the same id", name, other)
		}
		seen[id] = name
	}
	add("base", event.NewID("p", "e", []string{"ab", "c"}, 0))
	add("moved", event.NewID("p", "e", []string{"a", "bc"}, 0))
	add("joined", event.NewID("p", "e", []string{"abc"}, 0))
	add("order", event.NewID("p", "e", []string{"c", "ab"}, 0))
	add("empty field", event.NewID("p", "e", []string{"ab", "c", ""}, 0))
	add("leading empty field", event.NewID("p", "e", []string{"", "ab", "c"}, 0))
	add("endpoint", event.NewID("p", "f", []string{"ab", "c"}, 0))
	add("provider", event.NewID("q", "e", []string{"ab", "c"}, 0))
	add("provider and endpoint", event.NewID("pe", "", []string{"ab", "c"}, 0))
	add("occurrence", event.NewID("p", "e", []string{"ab", "c"}, 1))
	add("occurrence as a field", event.NewID("p", "e", []string{"ab", "c", "1"}, 0))
	add("looks like a length", event.NewID("p", "e", []string{"ab1:c"}, 0))
	add("none", event.NewID("p", "e", nil, 0))
	add("large", event.NewID("p", "e", []string{string(make([]byte, 1<<20))}, 0))
	form := regexp.MustCompile(`^[0-9a-f]{32}$`)
	for id, name := range seen {
		if !form.MatchString(id) {
			t.Errorf("%s: id %q", name, id)
		}
	}
}
