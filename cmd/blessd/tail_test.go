package main

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestTailFilter(t *testing.T) {
	for _, c := range []struct {
		types, providers, endpoints []string
		want                        []string
		usage                       bool
	}{
		{},
		{types: []string{"email.bounced"}, want: []string{"mail.events.*.*.email.bounced"}},
		{types: []string{"unsubscribed"}, want: []string{"mail.events.*.*.contact.unsubscribed", "mail.events.*.*.email.unsubscribed"}},
		{types: []string{"list", "list.created"}, want: []string{
			"mail.events.*.*.list.bulk_updated", "mail.events.*.*.list.created", "mail.events.*.*.list.removed", "mail.events.*.*.list.updated",
		}},
		{providers: []string{"sarv", "enkod", "sarv"}, want: []string{"mail.events.enkod.*.*.*", "mail.events.sarv.*.*.*"}},
		{endpoints: []string{"acme"}, want: []string{"mail.events.*.acme.*.*"}},
		{
			types: []string{"opened", "clicked"}, providers: []string{"mailgun"}, endpoints: []string{"b", "a"},
			want: []string{
				"mail.events.mailgun.a.email.clicked", "mail.events.mailgun.a.email.opened",
				"mail.events.mailgun.b.email.clicked", "mail.events.mailgun.b.email.opened",
			},
		},
		{types: []string{"bouncd"}, usage: true},
		{types: []string{""}, usage: true},
		{types: []string{">"}, usage: true},
		{providers: []string{"mandrill"}, usage: true},
		{endpoints: []string{"a.b"}, usage: true},
		{endpoints: []string{"*"}, usage: true},
		{endpoints: []string{""}, usage: true},
	} {
		f, err := newTailFilter(c.types, c.providers, c.endpoints)
		if errors.Is(err, errUsage) != c.usage {
			t.Errorf("%q %q %q: %v", c.types, c.providers, c.endpoints, err)
		}
		if got := f.subjects("mail.events."); err == nil && !slices.Equal(got, c.want) {
			t.Errorf("%q %q %q: got %q, want %q", c.types, c.providers, c.endpoints, got, c.want)
		}
	}
}

func TestEventsPrefix(t *testing.T) {
	for _, c := range []struct {
		subjects []string
		want     string
	}{
		{[]string{"mail.events.>"}, "mail.events."},
		{[]string{"other", "post.events.>"}, "post.events."},
		{nil, "*.events."},
	} {
		if got := eventsPrefix(c.subjects); got != c.want {
			t.Errorf("%q: got %q, want %q", c.subjects, got, c.want)
		}
	}
}

func TestParseSince(t *testing.T) {
	now := time.Date(2026, 11, 21, 17, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		text string
		want time.Time
	}{
		{"1h", now.Add(-time.Hour)},
		{"7d", now.Add(-7 * 24 * time.Hour)},
		{"2026-11-20T10:00:00+02:00", time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)},
		{"2026-11-20 08:00:00", time.Date(2026, 11, 20, 8, 0, 0, 0, time.UTC)},
		{"2026-11-20", time.Date(2026, 11, 20, 0, 0, 0, 0, time.UTC)},
	} {
		if got, err := parseSince(c.text, now); err != nil || !got.Equal(c.want) {
			t.Errorf("%s: got %s, %v, want %s", c.text, got, err, c.want)
		}
	}
	for _, text := range []string{"yesterday", "-1h", "1", "2026-13-01"} {
		if got, err := parseSince(text, now); !errors.Is(err, errUsage) {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
}

// message is what of a message a line is made of.
type message struct {
	jetstream.Msg
	subject string
	headers nats.Header
	data    string
}

func (m message) Subject() string      { return m.subject }
func (m message) Headers() nats.Header { return m.headers }
func (m message) Data() []byte         { return []byte(m.data) }

func TestJSONLine(t *testing.T) {
	const odd = `{"id":"1","raw":{ "a" : 1.50, "b":"<&>\u0441\/\ud800","a":2,"u":"` + "\u2028" + `"}}`
	for _, c := range []struct{ name, data, want string }{
		{"one line stays as it is", odd, odd},
		{"lines are joined, and nothing else changes", "{\"raw\":{\r\n  \"a\" : 1.50,\n\t\"b\":\"<x\\n\\/>\"}}\n", `{"raw":{"a":1.50,"b":"<x\n\/>"}}`},
		{"not UTF-8", "{\"raw\":\"\xff\"}", "{\"raw\":\"\xff\"}"},
	} {
		m := message{subject: "mail.events.x", headers: nats.Header{"A": {"1"}, "B": {"1", "<2>"}}, data: c.data}
		line, err := jsonLine(m)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		want := `{"subject":"mail.events.x","headers":{"A":"1","B":["1","<2>"]},"data":` + c.want + "}\n"
		if string(line) != want {
			t.Errorf("%s:\ngot  %q\nwant %q", c.name, line, want)
		}
		if strings.Count(string(line), "\n") != 1 || !json.Valid(line) {
			t.Errorf("%s: not one line of JSON: %q", c.name, line)
		}
	}
	for _, data := range []string{"", "{", "[]", "null", `"x"`, "{}{}", "text"} {
		if line, err := jsonLine(message{data: data}); err == nil {
			t.Errorf("%q became %q", data, line)
		}
	}
	line, err := jsonLine(message{subject: "s", data: "{}"})
	if want := "{\"subject\":\"s\",\"headers\":{},\"data\":{}}\n"; err != nil || string(line) != want {
		t.Errorf("without headers: got %q, %v, want %q", line, err, want)
	}
}
