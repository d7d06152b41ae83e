package manage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Desired is what the configuration says about the webhooks of one endpoint.
type Desired struct {
	// URL is what is to be registered.
	URL string
	// Own are all URLs by which a webhook is known to be the endpoint's: URL, the same
	// with the endpoint's other tokens, and former ones that somebody named. No other
	// webhook is ever touched.
	Own []string
	// Events are what is to be subscribed to, in the provider's words; for Vision6
	// object.event. Empty is everything.
	Events []string
	// Description and StoreLog are SendClean's and Sarv's. Nil leaves what is there.
	Description *string
	StoreLog    *bool
	// Lists are Vision6's lists, 0 for all. Empty is 0.
	Lists []int
}

// owns tells whether a webhook with this URL is the endpoint's.
func (d Desired) owns(url string) bool { return url == d.URL || slices.Contains(d.Own, url) }

// stale are the URLs that are the endpoint's and not the one to be registered.
func (d Desired) stale() []string {
	return slices.DeleteFunc(slices.Clone(d.Own), func(u string) bool { return u == d.URL })
}

// Action is what a step does.
type Action string

// The actions. Add and Edit lose nothing; Delete ends deliveries and is asked about.
const (
	Add    Action = "add"
	Edit   Action = "edit"
	Delete Action = "delete"
)

// Loses tells whether the step ends deliveries, so that a person must agree.
func (s Step) Loses() bool { return s.Action == Delete }

// Plan is what differs between what is desired and what is registered. It shows no
// URL and no key.
type Plan struct {
	// Steps make it so, in this order.
	Steps []Step `json:"steps"`
	// Same is what is as it should be already.
	Same []string `json:"same"`
	// Unknown says what could not be determined.
	Unknown []string `json:"unknown"`
	// Blocked says what cannot be made so before a person does something.
	Blocked []string `json:"blocked"`
	// Others counts the webhooks that are not the endpoint's. They are not touched.
	Others int `json:"others"`
}

// Step is one change at the provider.
type Step struct {
	Action Action `json:"action"`
	// Target is what is changed, in the provider's words: a webhook's id, the name of
	// an event, an object's event and a list. Empty for a webhook that has no id yet.
	Target string `json:"target,omitempty"`
	// Changes say what will be different, as a person reads it.
	Changes []string `json:"changes"`

	// webhook is how SendClean's or Sarv's is to be.
	webhook Webhook
	// pair and list are Vision6's.
	pair Pair
	list int
}

// describe gives w the description and the store_log that are desired.
func (d Desired) describe(w *Webhook) {
	if d.Description != nil {
		w.Description = *d.Description
	}
	if d.StoreLog != nil {
		w.StoreLog = *d.StoreLog
	}
}

// Plan reads what is registered and says what differs. It changes nothing.
//
// One webhook with all events is what is wanted. Where there are several with the
// endpoint's URL, each with a key of its own, the one that is most as it should be
// is kept.
func (s *SendClean) Plan(ctx context.Context, d Desired) (*Plan, error) {
	list, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	events := d.Events
	if len(events) == 0 {
		events = SendCleanEvents()
	}
	p := &Plan{}
	var own []Webhook
	for _, w := range list {
		if d.owns(w.URL) {
			own = append(own, w)
		} else {
			p.Others++
			if similar(w.URL, d.URL) {
				p.Unknown = append(p.Unknown, "webhook "+w.ID+" has almost the endpoint's URL; it is not touched, and its deliveries do not get in if the difference matters")
			}
		}
	}
	if len(own) == 0 {
		w := Webhook{URL: d.URL, Events: slices.Clone(events)}
		d.describe(&w)
		changes := []string{"events " + strings.Join(w.Events, ", ")}
		if w.Description != "" {
			changes = append(changes, fmt.Sprintf("description %q", w.Description))
		}
		changes = append(changes, "store_log "+enabled(w.StoreLog))
		p.Steps = append(p.Steps, Step{Action: Add, Changes: changes, webhook: w})
		return p, nil
	}
	keep := 0
	for i, w := range own {
		if len(differences(w, d, events)) < len(differences(own[keep], d, events)) {
			keep = i
		}
	}
	w := own[keep]
	if changes := differences(w, d, events); len(changes) > 0 {
		w.URL = d.URL
		if !sameEvents(w.Events, events) {
			w.Events = slices.Clone(events)
		}
		d.describe(&w)
		p.Steps = append(p.Steps, Step{Action: Edit, Target: w.ID, Changes: changes, webhook: w})
	} else {
		p.Same = append(p.Same, w.ID)
	}
	for i, w := range own {
		if i != keep {
			p.Steps = append(p.Steps, Step{
				Action: Delete, Target: w.ID,
				Changes: []string{"another webhook for the same URL, with the events " + strings.Join(w.Events, ", ") + ": they come twice, and count once"},
			})
		}
	}
	return p, nil
}

// Do makes one step of a plan so, and says what came of it.
func (s *SendClean) Do(ctx context.Context, _ Desired, step Step) (string, error) {
	switch step.Action {
	case Add:
		return "added", s.Add(ctx, step.webhook)
	case Edit:
		// Read again, so that what somebody changed meanwhile stays.
		want := step.webhook
		_, err := s.Edit(ctx, step.Target, func(w *Webhook) {
			w.URL, w.Events, w.Description, w.StoreLog = want.URL, want.Events, want.Description, want.StoreLog
		})
		return "changed", err
	default:
		return "deleted", s.Delete(ctx, step.Target)
	}
}

func enabled(b bool) string {
	if b {
		return "Enable"
	}
	return "Disable"
}

// differences says what is not as desired about a webhook.
func differences(w Webhook, d Desired, events []string) (changes []string) {
	if w.URL != d.URL {
		changes = append(changes, "URL: the endpoint's of today instead of another of its own")
	}
	if !sameEvents(w.Events, events) {
		var words []string
		for _, e := range events {
			if !slices.Contains(w.Events, e) {
				words = append(words, "+"+e)
			}
		}
		for _, e := range w.Events {
			if !slices.Contains(events, e) {
				words = append(words, "-"+e)
			}
		}
		changes = append(changes, "events "+strings.Join(words, " "))
	}
	if d.Description != nil && w.Description != *d.Description {
		changes = append(changes, fmt.Sprintf("description %q instead of %q", *d.Description, w.Description))
	}
	if d.StoreLog != nil && w.StoreLog != *d.StoreLog {
		changes = append(changes, "store_log "+enabled(*d.StoreLog))
	}
	return changes
}

// sameEvents compares without regard to order.
func sameEvents(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(slices.Compact(a), slices.Compact(b))
}

// similar tells whether a person could take two URLs for the same.
func similar(a, b string) bool {
	plain := func(s string) string {
		_, s, _ = strings.Cut(strings.ToLower(s), "://")
		return strings.TrimRight(s, "/")
	}
	return plain(a) == plain(b)
}

// Plan reads what is registered and says what differs. It changes nothing. What is
// wanted is the URL under each of the events; other URLs stay beside it.
func (m *Mailgun) Plan(ctx context.Context, d Desired) (*Plan, error) {
	list, err := m.List(ctx)
	if err != nil {
		return nil, err
	}
	events := d.Events
	if len(events) == 0 {
		events = MailgunEvents()
	}
	p := &Plan{}
	for _, name := range slices.Sorted(slices.Values(events)) {
		urls := list[name]
		others := len(urls)
		var stale bool
		for _, u := range urls {
			if d.owns(u) {
				others--
				stale = stale || u != d.URL
			}
		}
		beside := ""
		if others > 0 {
			beside = fmt.Sprintf(", beside %d of others", others)
		}
		switch has := slices.Contains(urls, d.URL); {
		case others >= mailgunURLs:
			p.Blocked = append(p.Blocked, fmt.Sprintf("%s cannot be registered: it has %d URLs of others, which is all that Mailgun takes; remove one there", name, others))
		case has && !stale:
			p.Same = append(p.Same, name)
		case stale && has:
			p.Steps = append(p.Steps, Step{Action: Edit, Target: name, Changes: []string{"take away another URL of the endpoint's own: events come twice"}})
		case stale:
			p.Steps = append(p.Steps, Step{Action: Edit, Target: name, Changes: []string{"URL: the endpoint's of today instead of another of its own"}})
		default:
			p.Steps = append(p.Steps, Step{Action: Add, Target: name, Changes: []string{"the endpoint's URL" + beside}})
			if name == "opened" {
				p.Unknown = append(p.Unknown, "whether opened can be created: the documents leave it out of that list alone; apply tries, and reports Mailgun's answer")
			}
		}
		p.Others += others
	}
	for name, urls := range list {
		if slices.Contains(events, name) {
			continue
		}
		own := 0
		for _, u := range urls {
			if d.owns(u) {
				own++
			}
		}
		p.Others += len(urls) - own
		switch {
		case own == 0:
		case slices.Contains(MailgunEvents(), name):
			p.Steps = append(p.Steps, Step{Action: Delete, Target: name, Changes: []string{"the endpoint's URL: the configuration does not list this event"}})
		default:
			p.Unknown = append(p.Unknown, "the old webhook "+name+" has the endpoint's URL too, so that its events come in both forms; it is left as it is")
		}
	}
	slices.SortStableFunc(p.Steps, func(a, b Step) int {
		if (a.Action == Delete) != (b.Action == Delete) {
			if a.Action == Delete {
				return 1
			}
			return -1
		}
		return strings.Compare(a.Target, b.Target)
	})
	slices.Sort(p.Unknown)
	return p, nil
}

// Do makes one step of a plan so, and says what came of it.
func (m *Mailgun) Do(ctx context.Context, d Desired, step Step) (string, error) {
	add, remove := []string{d.URL}, d.stale()
	if step.Action == Delete {
		add, remove = nil, append(remove, d.URL)
	}
	changed, err := m.Change(ctx, step.Target, add, remove)
	if err != nil || !changed {
		return "as it should be already", err
	}
	switch step.Action {
	case Add:
		return "added", nil
	case Edit:
		return "changed", nil
	}
	return "removed", nil
}

// Plan lists what is to be registered. Which of it is there cannot be asked: a step
// that finds it there changes nothing.
func (v *Vision6) Plan(_ context.Context, d Desired) (*Plan, error) {
	lists := d.Lists
	if len(lists) == 0 {
		lists = []int{0}
	}
	p := &Plan{Unknown: []string{
		"which of them are there: no documented call lists webhooks; apply registers each, and Vision6 says which it has already",
		"whether webhooks are there that the configuration does not list: remove them in Vision6's pages",
	}}
	for _, list := range lists {
		on := "all lists"
		if list > 0 {
			on = fmt.Sprintf("list %d", list)
		}
		for _, pair := range Vision6Pairs() {
			if len(d.Events) == 0 || slices.Contains(d.Events, pair.String()) {
				p.Steps = append(p.Steps, Step{Action: Add, Target: pair.String() + ", " + on, Changes: []string{"unless it is there"}, pair: pair, list: list})
			}
		}
	}
	return p, nil
}

// Do makes one step of a plan so, and says what came of it.
func (v *Vision6) Do(ctx context.Context, d Desired, step Step) (string, error) {
	id, err := v.Add(ctx, Subscription{Pair: step.pair, List: step.list, URL: d.URL})
	if errors.Is(err, ErrExists) {
		return "there already (351)", nil
	}
	return "added, id " + id, err
}
