package manage_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/blessd/blessd/manage"
	"github.com/blessd/blessd/manage/manageapi"
)

const vision6Path = "/api/jsonrpcserver?version=3.3"

func newVision6(t *testing.T, s http.Handler) *manage.Vision6 {
	t.Helper()
	c, err := manage.NewVision6(manage.Vision6Config{BaseURL: "https://www.vision6.com.au" + vision6Path, APIKey: apiKey}, manage.Options{Transport: within{s}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// All eleven pairs, over a real network, with errors in both forms.
func TestVision6(t *testing.T) {
	for _, asText := range []bool{false, true} {
		api := manageapi.NewVision6(apiKey)
		api.ErrorsAsText = asText
		server := httptest.NewServer(api)
		defer server.Close()
		c, err := manage.NewVision6(manage.Vision6Config{BaseURL: server.URL + vision6Path, APIKey: apiKey}, manage.Options{PlainHTTP: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range manage.Vision6Pairs() {
			s := manage.Subscription{Pair: p, List: 123, URL: hookURL}
			if id, err := c.Add(t.Context(), s); err != nil || len(id) != 3 {
				t.Errorf("%s: %q, %v", p, id, err)
			}
			id, err := c.Add(t.Context(), s)
			if e := wantKind(t, err, manage.ErrExists); id != "" || e.Name != "351" || e.Message != "Duplicate Webhook details not allowed" || e.Uncertain {
				t.Errorf("%s again: %q, %+v", p, id, e)
			}
		}
		if got := api.Webhooks(); len(got) != 11 || got[0] != "contact created 123 "+hookURL {
			t.Errorf("registered are %q", got)
		}
		_, err = c.Add(t.Context(), manage.Subscription{Pair: manage.Pair{Object: "list", Event: "subscribed"}, URL: hookURL})
		if e := wantKind(t, err, manage.ErrRefused); e.Name != "310" || e.Uncertain {
			t.Errorf("got %+v", e)
		}
		if wrong := api.Wrong(); len(wrong) != 0 {
			t.Errorf("not as documented: %q", wrong)
		}
	}
}

func TestVision6Answers(t *testing.T) {
	for _, tc := range []struct {
		name, body string
		status     int
		kind       error
		id, code   string
	}{
		{"as in the documents", `{"id":1,"result":616,"error":null}`, 200, nil, "616", ""},
		{"the id as text", `{"id":"1","result":"616","error":null}`, 200, nil, "616", ""},
		{"no error", `{"id":1,"result":616}`, 200, nil, "616", ""},
		{"an empty error", `{"id":1,"result":616,"error":""}`, 200, nil, "616", ""},
		{"created", `{"id":1,"result":616,"error":null}`, 201, nil, "616", ""},
		{"text", `{"id":1,"result":null,"error":"351-Duplicate Webhook details not allowed"}`, 200, manage.ErrExists, "", "351"},
		{"text with a blank", `{"id":1,"result":null,"error":"351 - Duplicate"}`, 200, manage.ErrExists, "", "351"},
		{"a number", `{"id":1,"result":null,"error":351}`, 200, manage.ErrExists, "", "351"},
		{"the code as text", `{"id":1,"result":null,"error":{"code":"351","message":"Duplicate"}}`, 200, manage.ErrExists, "", "351"},
		{"with another status", `{"id":1,"result":null,"error":{"code":351,"message":"Duplicate"}}`, 400, manage.ErrExists, "", "351"},
		{"invalid", `{"id":1,"result":null,"error":{"code":310}}`, 200, manage.ErrRefused, "", "310"},
		{"text without a code", `{"id":1,"result":null,"error":"go away, CANARYapikey0123456789"}`, 200, manage.ErrRefused, "", ""},
		{"an error that is a list", `{"id":1,"result":null,"error":["351"]}`, 200, manage.ErrOdd, "", ""},
		{"another call's answer", `{"id":2,"result":616,"error":null}`, 200, manage.ErrOdd, "", ""},
		{"no id at all", `{"result":616,"error":null}`, 200, manage.ErrOdd, "", ""},
		{"no result", `{"id":1,"result":null,"error":null}`, 200, manage.ErrOdd, "", ""},
		{"true", `{"id":1,"result":true,"error":null}`, 200, manage.ErrOdd, "", ""},
		{"a fraction", `{"id":1,"result":6.5,"error":null}`, 200, manage.ErrOdd, "", ""},
		{"a result that is an object", `{"id":1,"result":{"id":616},"error":null}`, 200, manage.ErrOdd, "", ""},
		{"a page with 403", `<html>`, 403, manage.ErrCredentials, "", ""},
		{"a page with 404", `<html>`, 404, manage.ErrNotFound, "", ""},
		{"a result with 404", `{"id":1,"result":616,"error":null}`, 404, manage.ErrNotFound, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			api := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})
			id, err := newVision6(t, api).Add(t.Context(), manage.Subscription{Pair: manage.Pair{Object: "contact", Event: "created"}, URL: hookURL})
			if tc.kind == nil {
				if err != nil || id != tc.id {
					t.Fatalf("got %q, %v", id, err)
				}
				return
			}
			if e := wantKind(t, err, tc.kind); e.Name != tc.code || id != "" {
				t.Errorf("got %q, %+v", id, e)
			}
		})
	}
}

func TestVision6Pairs(t *testing.T) {
	pairs := manage.Vision6Pairs()
	seen := map[string]bool{}
	for _, p := range pairs {
		seen[p.String()] = true
	}
	if len(pairs) != 11 || len(seen) != 11 {
		t.Errorf("got %v", pairs)
	}
}
