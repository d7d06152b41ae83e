package manage_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/blessd/blessd/manage"
	"github.com/blessd/blessd/manage/manageapi"
)

func newMailgun(t *testing.T, s http.Handler) *manage.Mailgun {
	t.Helper()
	c, err := manage.NewMailgun(manage.MailgunConfig{Domain: "mg.example.com", Region: "eu", APIKey: apiKey}, manage.Options{Transport: within{s}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Every call, over a real network.
func TestMailgun(t *testing.T) {
	for name, set := range map[string]func(*manageapi.Mailgun){
		"all names":           func(*manageapi.Mailgun) {},
		"names with URLs":     func(m *manageapi.Mailgun) { m.Sparse = true },
		"404 for nothing":     func(m *manageapi.Mailgun) { m.NoneIs404 = true },
		"old entries":         func(m *manageapi.Mailgun) { m.Old = []string{"drop"} },
		"404, names that are": func(m *manageapi.Mailgun) { m.NoneIs404, m.Sparse = true, true },
	} {
		t.Run(name, func(t *testing.T) {
			api := manageapi.NewMailgun("mg.example.com", apiKey)
			set(api)
			server := httptest.NewServer(api)
			defer server.Close()
			c, err := manage.NewMailgun(manage.MailgunConfig{Domain: "mg.example.com", BaseURL: server.URL, APIKey: apiKey}, manage.Options{PlainHTTP: true})
			if err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()
			const other, third = "https://other.example.com/a", "https://third.example.com/b"
			api.Put("drop", other)
			api.Put("delivered", other, third)
			api.Put("clicked", hookURL)

			list, err := c.List(ctx)
			if err != nil || len(list) != 3 || !slices.Equal(list["drop"], []string{other}) || !slices.Equal(list["delivered"], []string{other, third}) {
				t.Fatalf("list: %v, %v", list, err)
			}
			for _, e := range manage.MailgunEvents() {
				changed, err := c.AddURL(ctx, e, hookURL)
				if err != nil || changed != (e != "clicked") {
					t.Errorf("add to %s: changed %t, %v", e, changed, err)
				}
			}
			if got := api.URLs("delivered"); !slices.Equal(got, []string{other, third, hookURL}) {
				t.Errorf("delivered has %q", got)
			}
			before := len(api.Calls())
			for _, e := range manage.MailgunEvents() {
				if changed, err := c.AddURL(ctx, e, hookURL); changed || err != nil {
					t.Errorf("add to %s again: changed %t, %v", e, changed, err)
				}
			}
			for _, call := range api.Calls()[before:] {
				if !strings.HasPrefix(call.Name, "GET ") {
					t.Errorf("adding again calls %s", call.Name)
				}
			}
			moved := hookURL + "2"
			if changed, err := c.Change(ctx, "delivered", []string{moved}, []string{hookURL}); !changed || err != nil {
				t.Errorf("move: changed %t, %v", changed, err)
			}
			if got := api.URLs("delivered"); !slices.Equal(got, []string{other, third, moved}) {
				t.Errorf("delivered has %q", got)
			}
			_, err = c.AddURL(ctx, "delivered", hookURL)
			wantKind(t, err, manage.ErrFull)

			for _, e := range []string{"delivered", "clicked"} {
				if changed, err := c.RemoveURL(ctx, e, moved); changed != (e == "delivered") || err != nil {
					t.Errorf("remove from %s: changed %t, %v", e, changed, err)
				}
			}
			if changed, err := c.RemoveURL(ctx, "clicked", hookURL); !changed || err != nil {
				t.Errorf("remove the only one: changed %t, %v", changed, err)
			}
			if d, n := api.URLs("delivered"), api.URLs("clicked"); !slices.Equal(d, []string{other, third}) || len(n) != 0 {
				t.Errorf("left are %q and %q", d, n)
			}
			if wrong := api.Wrong(); len(wrong) != 0 {
				t.Errorf("not as documented: %q", wrong)
			}
		})
	}
}

func TestMailgunErrors(t *testing.T) {
	api := manageapi.NewMailgun("mg.example.com", "another")
	_, err := newMailgun(t, api).List(t.Context())
	if e := wantKind(t, err, manage.ErrCredentials); e.Message != "Forbidden" || e.Status != 401 {
		t.Errorf("got %+v", e)
	}
	_, err = newMailgun(t, manageapi.NewMailgun("other.example.com", apiKey)).AddURL(t.Context(), "clicked", hookURL)
	if e := wantKind(t, err, manage.ErrNotFound); e.Message != "Domain not found" {
		t.Errorf("got %+v", e)
	}
	// What the documents leave open: the answer is the provider's.
	api = manageapi.NewMailgun("mg.example.com", apiKey)
	api.RefuseOpened = true
	_, err = newMailgun(t, api).AddURL(t.Context(), "opened", hookURL)
	if e := wantKind(t, err, manage.ErrRefused); e.Message != "Invalid webhook type: opened" || e.Status != 400 || e.Uncertain {
		t.Errorf("got %+v", e)
	}
}

// An answer in which the others' URLs cannot be read leads to no write.
func TestMailgunOddAnswers(t *testing.T) {
	for name, body := range map[string]string{
		"text for urls":     `{"webhook":{"urls":"https://other.example.com"}}`,
		"numbers for urls":  `{"webhook":{"urls":[true]}}`,
		"no webhook":        `{"message":"ok"}`,
		"null":              `{"webhook":null}`,
		"another shape":     `{"webhook":["https://other.example.com"]}`,
		"a text as webhook": `{"webhook":"https://other.example.com"}`,
	} {
		api := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.Method != http.MethodGet {
				t.Errorf("%s: a %s follows", name, q.Method)
			}
			_, _ = io.WriteString(w, body)
		})
		_, err := newMailgun(t, api).AddURL(t.Context(), "clicked", hookURL)
		if e := wantKind(t, err, manage.ErrOdd); e.Uncertain {
			t.Errorf("%s: uncertain: %v", name, err)
		}
	}
	for _, body := range []string{`{}`, `{"webhooks":[]}`, `{"webhooks":null}`, `{"webhooks":{"clicked":["a"]}}`} {
		api := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
		_, err := newMailgun(t, api).List(t.Context())
		wantKind(t, err, manage.ErrOdd)
	}
}

func TestNewMailgun(t *testing.T) {
	for name, c := range map[string]manage.MailgunConfig{
		"region":  {Domain: "mg.example.com", Region: "asia", APIKey: apiKey},
		"domain":  {APIKey: apiKey},
		"key":     {Domain: "mg.example.com"},
		"no TLS":  {Domain: "mg.example.com", BaseURL: "http://127.0.0.1", APIKey: apiKey},
		"nothing": {},
	} {
		if _, err := manage.NewMailgun(c, manage.Options{}); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			noCanary(t, err.Error())
		}
	}
	// The two regions are two places.
	for region, host := range map[string]string{"": "api.mailgun.net", "us": "api.mailgun.net", "eu": "api.eu.mailgun.net"} {
		asked := ""
		c, err := manage.NewMailgun(manage.MailgunConfig{Domain: "mg.example.com", Region: region, APIKey: apiKey}, manage.Options{
			Transport: within{http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				asked = q.URL.Scheme + "://" + q.URL.Host
				_, _ = io.WriteString(w, `{"webhooks":{}}`)
			})},
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.List(t.Context()); err != nil || asked != "https://"+host {
			t.Errorf("region %q: asked %s, %v", region, asked, err)
		}
	}
}

func TestMailgunNames(t *testing.T) {
	names := manage.MailgunNames()
	if len(names) != 16 || !slices.IsSorted(names) || !slices.Contains(names, "state_change") {
		t.Errorf("got %q", names)
	}
	if events := manage.MailgunEvents(); len(events) != 8 || !slices.IsSorted(events) {
		t.Errorf("got %q", events)
	}
	if errors.Is(manage.ErrFull, manage.ErrExists) {
		t.Error("two errors are one")
	}
}
