package relay

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/blessd/blessd/event"
)

// Who watches is told once of everything that is settled, with and without a
// journal.
func TestWatch(t *testing.T) {
	var mu sync.Mutex
	var told []string
	watch := func(s Settled) {
		mu.Lock()
		defer mu.Unlock()
		name := string(s.Data)
		if s.Outcome != OutcomeQuarantined {
			e, err := event.Decode(s.Data)
			if err != nil || e.ID != s.ID || string(e.Type) != s.Type || e.Endpoint != s.Endpoint || e.Provider != s.Provider {
				t.Errorf("told of %+v with the event %+v (%v)", s, e, err)
				return
			}
			name = e.Message.ID
		}
		if len(name) > 20 {
			name = name[:20]
		}
		told = append(told, strings.Join([]string{s.Outcome, s.Type, s.Reason, name}, " "))
	}
	want := []string{
		"published email.sent  a", "quarantined  unreadable_body {\"event\":", "duplicate email.sent  a",
		"quarantined  too_large {\"event\":\"message se",
	}
	check := func(t *testing.T) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		equal(t, "told", fmt.Sprintf("%q", told), fmt.Sprintf("%q", want))
		told = nil
	}
	bodies := []string{
		`{"event":"message sent","message_id":1,"message_uid":"a","to":"user@example.com"}`,
		`{"event":`,
		`{"event":"message sent","message_id":1,"message_uid":"a","to":"user@example.com"}`,
		`{"event":"message sent","message_uid":"huge","name":"` + strings.Repeat("x", 9<<20) + `"}`,
	}
	t.Run("journal", func(t *testing.T) {
		r := newRig(t)
		r.window = time.Minute
		for _, b := range bodies {
			r.put(enkod(b))
		}
		relay, _ := r.relay()
		relay.watch = watch
		r.drain(relay)
		check(t)
	})
	t.Run("direct", func(t *testing.T) {
		r := newRig(t)
		r.window = time.Minute
		d, _ := r.direct(8)
		d.watch = watch
		for _, b := range bodies {
			if err := offer(d, enkod(b), 30*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		check(t)
	})
}
