package manage_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/blessd/blessd/manage"
	"github.com/blessd/blessd/manage/manageapi"
)

// planned is a plan in a line for each step.
func planned(p *manage.Plan) (lines []string) {
	for _, s := range p.Steps {
		lines = append(lines, strings.TrimSpace(string(s.Action)+" "+s.Target)+": "+strings.Join(s.Changes, "; "))
	}
	return lines
}

func wantPlan(t *testing.T, p *manage.Plan, err error, want ...string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if got := planned(p); !slices.Equal(got, want) {
		t.Errorf("got the plan\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	noCanary(t, strings.Join(slices.Concat(planned(p), p.Same, p.Unknown, p.Blocked), "\n"))
}

// From nothing to what is desired, and again: then there is nothing to do.
func TestPlanSendClean(t *testing.T) { synctest.Test(t, testPlanSendClean) }

func testPlanSendClean(t *testing.T) {
	const oldURL, other = hookURL + "2", "https://other.example.com/hook"
	api := manageapi.NewSendClean("sendclean", owner, token, &http.Client{Transport: within{blesses("SendClean")}})
	c := newSendClean(t, "sendclean", api)
	ctx := t.Context()
	foreign := api.Put(manageapi.Webhook{URL: other, Event: "open", StoreLog: "Enable", Description: "not ours"})
	d := manage.Desired{URL: hookURL, Own: []string{hookURL, oldURL}, Description: new("ours"), StoreLog: new(true)}

	p, err := c.Plan(ctx, d)
	wantPlan(t, p, err, `add: events send, open, click, soft_bounce, hard_bounce, spam; description "ours"; store_log Enable`)
	if p.Others != 1 {
		t.Errorf("%d others, want 1", p.Others)
	}
	if _, err := c.Do(ctx, d, p.Steps[0]); err != nil {
		t.Fatal(err)
	}
	p, err = c.Plan(ctx, d)
	wantPlan(t, p, err)
	ours := api.Webhooks()[1]
	if !slices.Equal(p.Same, []string{ours.ID}) {
		t.Errorf("as it should be: %q", p.Same)
	}

	// What the configuration says nothing about stays.
	d.Description, d.StoreLog, d.Events = nil, nil, []string{"spam", "open"}
	p, err = c.Plan(ctx, d)
	wantPlan(t, p, err, "edit "+ours.ID+": events -send -click -soft_bounce -hard_bounce")
	if _, err := c.Do(ctx, d, p.Steps[0]); err != nil {
		t.Fatal(err)
	}
	if w := api.Webhooks()[1]; w.Event != "spam,open" || w.Description != "ours" || w.StoreLog != "Enable" {
		t.Errorf("got %+v", w)
	}
	// The order of events is nobody's business.
	d.Events = []string{"open", "spam"}
	p, err = c.Plan(ctx, d)
	wantPlan(t, p, err)

	// Another of the endpoint's tokens, and a second webhook: the better one stays.
	second := api.Put(manageapi.Webhook{URL: oldURL, Event: "open", StoreLog: "Disable"})
	p, err = c.Plan(ctx, d)
	wantPlan(t, p, err, "delete "+second+": another webhook for the same URL, with the events open: they come twice, and count once")
	if !p.Steps[0].Loses() {
		t.Error("a deletion that nobody is asked about")
	}
	if err := c.Delete(ctx, ours.ID); err != nil {
		t.Fatal(err)
	}
	p, err = c.Plan(ctx, d)
	wantPlan(t, p, err, "edit "+second+": URL: the endpoint's of today instead of another of its own; events +spam")
	if _, err := c.Do(ctx, d, p.Steps[0]); err != nil {
		t.Fatal(err)
	}
	if w := api.Webhooks()[1]; w.URL != hookURL || w.Event != "open,spam" {
		t.Errorf("got %+v", w)
	}
	// Not ours, whatever it looks like.
	api.Put(manageapi.Webhook{URL: hookURL + "/", Event: "open"})
	p, err = c.Plan(ctx, d)
	wantPlan(t, p, err)
	if len(p.Unknown) != 1 || p.Others != 2 {
		t.Errorf("got %+v", p)
	}
	if w := api.Webhooks()[0]; w.ID != foreign || w.Event != "open" || w.Description != "not ours" {
		t.Errorf("the other's webhook is %+v", w)
	}
	if wrong := api.Wrong(); len(wrong) > 0 {
		t.Errorf("not as documented: %q", wrong)
	}
}

// What changes between the plan and its execution is not overwritten unseen.
func TestPlanSendCleanIsOld(t *testing.T) {
	api := manageapi.NewSendClean("sendclean", owner, token, &http.Client{Transport: within{blesses("SendClean")}})
	c := newSendClean(t, "sendclean", api)
	id := api.Put(manageapi.Webhook{URL: hookURL, Event: "open", StoreLog: "Disable"})
	d := manage.Desired{URL: hookURL, Events: []string{"open", "spam"}}
	p, err := c.Plan(t.Context(), d)
	wantPlan(t, p, err, "edit "+id+": events +spam")
	if err := c.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	_, err = c.Do(t.Context(), d, p.Steps[0])
	wantKind(t, err, manage.ErrRefused)
	if n := len(api.Webhooks()); n != 0 {
		t.Errorf("%d webhooks", n)
	}
}

func TestPlanMailgun(t *testing.T) { synctest.Test(t, testPlanMailgun) }

func testPlanMailgun(t *testing.T) {
	const oldURL, a, b, c3 = hookURL + "2", "https://a.example.com/", "https://b.example.com/", "https://c.example.com/"
	api := manageapi.NewMailgun("mg.example.com", apiKey)
	api.RefuseOpened = true
	api.Put("delivered", a, b)
	api.Put("clicked", a, oldURL, b)
	api.Put("complained", a, b, c3)
	api.Put("accepted", hookURL)
	api.Put("unsubscribed", hookURL, oldURL)
	api.Put("drop", hookURL)
	api.Put("temporary_fail", a, hookURL)
	m := newMailgun(t, api)
	d := manage.Desired{
		URL: hookURL, Own: []string{hookURL, oldURL},
		Events: []string{"unsubscribed", "accepted", "delivered", "opened", "clicked", "complained", "permanent_fail"},
	}
	ctx := t.Context()
	p, err := m.Plan(ctx, d)
	wantPlan(t, p, err,
		"edit clicked: URL: the endpoint's of today instead of another of its own",
		"add delivered: the endpoint's URL, beside 2 of others",
		"add opened: the endpoint's URL",
		"add permanent_fail: the endpoint's URL",
		"edit unsubscribed: take away another URL of the endpoint's own: events come twice",
		"delete temporary_fail: the endpoint's URL: the configuration does not list this event",
	)
	if len(p.Blocked) != 1 || !strings.Contains(p.Blocked[0], "complained") || len(p.Unknown) != 2 || !slices.Equal(p.Same, []string{"accepted"}) || p.Others != 8 {
		t.Errorf("got %+v", p)
	}
	for _, s := range p.Steps {
		done, err := m.Do(ctx, d, s)
		if s.Target == "opened" {
			if e := wantKind(t, err, manage.ErrRefused); e.Message != "Invalid webhook type: opened" {
				t.Errorf("got %+v", e)
			}
		} else if err != nil {
			t.Errorf("%s: %q, %v", s.Target, done, err)
		}
	}
	for name, want := range map[string][]string{
		"delivered": {a, b, hookURL}, "clicked": {a, b, hookURL}, "complained": {a, b, c3}, "accepted": {hookURL},
		"unsubscribed": {hookURL}, "drop": {hookURL}, "temporary_fail": {a}, "permanent_fail": {hookURL}, "opened": nil,
	} {
		if got := api.URLs(name); !slices.Equal(got, want) {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
	}
	api.RefuseOpened = false
	p, err = m.Plan(ctx, d)
	wantPlan(t, p, err, "add opened: the endpoint's URL")
	if _, err := m.Do(ctx, d, p.Steps[0]); err != nil {
		t.Fatal(err)
	}
	p, err = m.Plan(ctx, d)
	wantPlan(t, p, err)
	if done, err := m.Do(ctx, d, manage.Step{Action: manage.Add, Target: "opened"}); err != nil || done != "as it should be already" {
		t.Errorf("a step of an old plan: %q, %v", done, err)
	}
	if wrong := api.Wrong(); len(wrong) > 0 {
		t.Errorf("not as documented: %q", wrong)
	}
}

func TestPlanVision6(t *testing.T) { synctest.Test(t, testPlanVision6) }

func testPlanVision6(t *testing.T) {
	api := manageapi.NewVision6(apiKey)
	v := newVision6(t, api)
	d := manage.Desired{URL: hookURL, Lists: []int{0, 17}}
	p, err := v.Plan(t.Context(), d)
	if err != nil || len(p.Steps) != 22 || p.Steps[1].Target != "contact.created, all lists" || len(p.Unknown) == 0 {
		t.Fatalf("got %+v, %v", p, err)
	}
	for _, want := range []string{"added, id 6", "there already (351)"} {
		for _, s := range p.Steps {
			if done, err := v.Do(t.Context(), d, s); err != nil || !strings.HasPrefix(done, want) {
				t.Errorf("%s: %q, %v", s.Target, done, err)
			}
		}
	}
	if n := len(api.Webhooks()); n != 22 {
		t.Errorf("%d webhooks", n)
	}
	d.Lists, d.Events = nil, []string{"contact.unsubscribed"}
	p, err = v.Plan(t.Context(), d)
	wantPlan(t, p, err, "add contact.unsubscribed, all lists: unless it is there")
}
