package event_test

import (
	"strings"
	"testing"
	"time"

	"github.com/blessd/blessd/event"
)

func TestSummary(t *testing.T) {
	at := event.NewTime(time.Date(2026, 11, 21, 18, 22, 17, 0, time.FixedZone("", 3600)))
	for _, c := range []struct {
		name string
		e    event.Event
		want string
	}{
		{
			"a bounce says why, its code once",
			event.Event{
				Type: event.EmailBounced, Endpoint: "eu", Recipient: "user@example.com",
				Bounce: &event.Bounce{Class: event.BounceHard, Code: 550, EnhancedCode: "5.1.1", Description: " 5.1.1 no\r\n such  user "},
			},
			"2026-11-21 17:22:17  eu          email.bounced         user@example.com          hard 550 5.1.1  no such user",
		},
		{
			"a click without a recipient is found by what the sender attached",
			event.Event{
				Type: event.EmailClicked, Endpoint: "acme", Message: &event.Message{ID: "m", CorrelationID: "order-1"},
				Click: &event.Click{URL: "https://example.com/"}, Client: &event.Client{Name: "Firefox", Bot: "scanner"}, Test: true,
			},
			"2026-11-21 17:22:17  acme        email.clicked         order-1                   https://example.com/  bot scanner  Firefox  (test)",
		},
		{
			"a complaint",
			event.Event{
				Type: event.EmailComplained, Endpoint: "acme", Message: &event.Message{ID: "m"},
				Bounce: &event.Bounce{Reason: event.ReasonSpam}, Complaint: &event.Complaint{FeedbackType: "abuse", Reporter: "FBL/2.0"},
			},
			"2026-11-21 17:22:17  acme        email.complained      m                         abuse  FBL/2.0",
		},
		{
			"a contact",
			event.Event{
				Type: event.ContactCreated, Endpoint: "v6", Contact: &event.Contact{ID: "142"}, Lists: []event.List{{ID: "7", Name: "News"}},
			},
			"2026-11-21 17:22:17  v6          contact.created       contact 142               list 7 News",
		},
		{
			"what is accepted needs no code",
			event.Event{
				Type: event.EmailDelivered, Endpoint: "eu", Recipient: "user@example.com", Bounce: &event.Bounce{Code: 250},
			},
			"2026-11-21 17:22:17  eu          email.delivered       user@example.com",
		},
		{
			"nothing known",
			event.Event{Type: event.OtherUnknown, Endpoint: "eu"},
			"2026-11-21 17:22:17  eu          other.unknown",
		},
	} {
		c.e.Time = at
		if got := c.e.Summary(); got != c.want {
			t.Errorf("%s:\ngot  %q\nwant %q", c.name, got, c.want)
		}
	}
}

// What strangers write must not move the cursor, reorder the line or flood it.
func TestSummaryIsSafeForATerminal(t *testing.T) {
	e := event.Event{
		Type: event.EmailClicked, Recipient: "a\x1b[2J\u202eb\nc@example.com",
		Click:  &event.Click{URL: "https://example.com/\x07" + strings.Repeat("\u00fc", 10_000)},
		Client: &event.Client{Name: "x\u2028y\u0085z"},
	}
	got := e.Summary()
	if strings.ContainsAny(got, "\x1b\x07\n\u202e\u2028\u0085") {
		t.Errorf("control characters in %q", got)
	}
	if n := len([]rune(got)); n > 400 {
		t.Errorf("%d characters long", n)
	}
	if !strings.Contains(got, "\u2026") {
		t.Error("nothing shows that the URL was cut")
	}
}
