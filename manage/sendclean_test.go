package manage_test

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/blessd/blessd/manage"
	"github.com/blessd/blessd/manage/manageapi"
)

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func newSendClean(t *testing.T, provider string, s http.Handler) *manage.SendClean {
	t.Helper()
	c, err := manage.NewSendClean(
		manage.SendCleanConfig{Provider: provider, AppDomain: "us1.example.net", OwnerID: owner, Token: token},
		manage.Options{Transport: within{s}},
	)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Every call, over a real network, against a server that calls the webhook.
func TestSendClean(t *testing.T) {
	for provider, brand := range map[string]string{"sendclean": "SendClean", "sarv": "Sarv"} {
		t.Run(provider, func(t *testing.T) {
			hook := httptest.NewServer(blesses(brand))
			defer hook.Close()
			api := manageapi.NewSendClean(provider, owner, token, nil)
			server := httptest.NewServer(api)
			defer server.Close()
			c, err := manage.NewSendClean(
				manage.SendCleanConfig{Provider: provider, BaseURL: server.URL + "/v1.0", OwnerID: owner, Token: token},
				manage.Options{PlainHTTP: true},
			)
			if err != nil {
				t.Fatal(err)
			}
			ctx := t.Context()

			if got, err := c.List(ctx); err != nil || len(got) != 0 {
				t.Fatalf("list of a new account: %v, %v", got, err)
			}
			url := hook.URL + "/hooks/acme/CANARYurltoken"
			for _, events := range [][]string{{"open", "click"}, manage.SendCleanEvents()} { // one URL twice is allowed
				if err := c.Add(ctx, manage.Webhook{URL: url, Events: events, Description: "from blessd", StoreLog: true}); err != nil {
					t.Fatal(err)
				}
			}
			list, err := c.List(ctx)
			if err != nil || len(list) != 2 {
				t.Fatalf("list: %v, %v", list, err)
			}
			for i, w := range list {
				real := api.Webhooks()[i]
				if w.ID != real.ID || w.URL != url || string(w.Key) != real.Key || w.Description != "from blessd" || !w.StoreLog || w.Created.Unix() != real.Created || w.TotalEvents != nil {
					t.Errorf("got %+v, want %+v", w, real)
				}
			}
			if list[0].Key == list[1].Key {
				t.Error("two webhooks with one key")
			}

			w, err := c.Info(ctx, list[0].ID)
			if err != nil || w.TotalEvents == nil || *w.TotalEvents != 0 || !w.LastSuccess.IsZero() || w.Key != list[0].Key {
				t.Fatalf("info: %+v, %v", w, err)
			}
			if status, body, err := api.Deliver(ctx, w.ID, []byte(`[{"event":"open"},{"event":"click"}]`)); err != nil || status != 200 || body != "God bless you, "+brand {
				t.Fatalf("deliver: %d %q %v", status, body, err)
			}
			if w, err = c.Info(ctx, w.ID); err != nil || *w.TotalEvents != 2 || w.LastSuccess.IsZero() {
				t.Fatalf("info after a delivery: %+v, %v", w, err)
			}

			after, err := c.Edit(ctx, w.ID, func(w *manage.Webhook) { w.Description = "changed" })
			if err != nil || after.Description != "changed" {
				t.Fatalf("edit: %+v, %v", after, err)
			}
			if real := api.Webhooks()[0]; real.Event != "open,click" || real.StoreLog != "Enable" || real.URL != url || real.Description != "changed" {
				t.Errorf("an edit of the description left %+v", real)
			}
			before := len(api.Calls())
			if _, err := c.Edit(ctx, w.ID, func(w *manage.Webhook) { w.Events[0], w.Events[1] = "open", "click" }); err != nil {
				t.Fatal(err)
			}
			if n := len(api.Calls()) - before; n != 1 {
				t.Errorf("an edit that changes nothing made %d calls, want the one that reads", n)
			}

			key, err := c.ResetKey(ctx, w.ID)
			if err != nil || string(key) != api.Webhooks()[0].Key || key == w.Key {
				t.Fatalf("reset: %v, is the new key: %t", err, string(key) == api.Webhooks()[0].Key)
			}
			if err := c.Delete(ctx, w.ID); err != nil {
				t.Fatal(err)
			}
			if left := api.Webhooks(); len(left) != 1 || left[0].ID != list[1].ID {
				t.Errorf("left after the deletion: %+v", left)
			}
			e := wantKind(t, c.Delete(ctx, w.ID), manage.ErrRefused)
			if e.Name != "ValidationError" || e.Uncertain {
				t.Errorf("a second deletion: %+v", e)
			}
			if wrong := api.Wrong(); len(wrong) != 0 {
				t.Errorf("not as documented: %q", wrong)
			}
		})
	}
}

// The documents call an error's name "name" and "type"; both are read.
func TestSendCleanErrors(t *testing.T) {
	for _, underType := range []bool{false, true} {
		api := manageapi.NewSendClean("sendclean", owner, "another", &http.Client{Transport: within{http.NotFoundHandler()}})
		api.ErrorsUnderType = underType
		e := wantKind(t, func() error { _, err := newSendClean(t, "sendclean", api).List(t.Context()); return err }(), manage.ErrCredentials)
		if e.Name != "AuthenticationError" || e.Message != "Token MissMatch" || e.Status != 200 {
			t.Errorf("got %+v", e)
		}

		api = manageapi.NewSendClean("sendclean", owner, token, &http.Client{Transport: within{http.NotFoundHandler()}})
		api.ErrorsUnderType = underType
		e = wantKind(t, newSendClean(t, "sendclean", api).Add(t.Context(), manage.Webhook{URL: hookURL, Events: []string{"open"}}), manage.ErrRefused)
		if e.Name != "ValidationError" || !strings.Contains(e.Message, "God bless you, SendClean") {
			t.Errorf("got %+v", e)
		}
		if n := len(api.Webhooks()); n != 0 {
			t.Errorf("%d webhooks without a blessing", n)
		}
	}
}

// Answers that are JSON and not as documented.
func TestSendCleanOddAnswers(t *testing.T) {
	one := `{"webhook_id":"424353445757557577457","url":"http://abc.com/wh1.php","event":"open,click","key":"cgvddgrsd","store_log":"Enable","description":"d","create_date":754453534}`
	for _, tc := range []struct {
		name, body string
		kind       error // nil is success
	}{
		{"as in the documents", `{"status":"success","webhook_list":[` + one + `]}`, nil},
		{"single quotes", `{"status":"success","webhook_list":[{"webhook_id":'424353445757557577457'}]}`, manage.ErrOdd},
		{"an unknown path", `{"status":"error","message":"Page not found"}`, manage.ErrNotFound},
		{"no list", `{"status":"success"}`, manage.ErrOdd},
		{"null as a list", `{"status":"success","webhook_list":null}`, nil},
		{"a list that is text", `{"status":"success","webhook_list":"none"}`, manage.ErrOdd},
		{"a list with a number", `{"status":"success","webhook_list":[1]}`, manage.ErrOdd},
		{"no id", `{"status":"success","webhook_list":[` + one + `,{"url":"http://a.example","event":"open"}]}`, manage.ErrOdd},
		{"an empty id", `{"status":"success","webhook_list":[{"webhook_id":"","url":"http://a.example","event":"open"}]}`, manage.ErrOdd},
		{"no url", `{"status":"success","webhook_list":[{"webhook_id":"1","event":"open"}]}`, manage.ErrOdd},
		{"no event", `{"status":"success","webhook_list":[{"webhook_id":"1","url":"http://a.example"}]}`, manage.ErrOdd},
		{"an id that lost digits", `{"status":"success","webhook_list":[{"webhook_id":4.0560226145933e+20,"url":"http://a.example","event":"open"}]}`, manage.ErrOdd},
		{"another store_log", `{"status":"success","webhook_list":[{"webhook_id":"1","url":"http://a.example","event":"open","store_log":"maybe"}]}`, manage.ErrOdd},
		{"a date that is none", `{"status":"success","webhook_list":[{"webhook_id":"1","url":"http://a.example","event":"open","create_date":"yesterday"}]}`, manage.ErrOdd},
		{"no status", `{"webhook_list":[]}`, manage.ErrOdd},
		{"another status", `{"status":"ok","webhook_list":[]}`, manage.ErrOdd},
		{"a boolean as status", `{"status":true,"webhook_list":[]}`, manage.ErrOdd},
		{"status twice", `{"status":"error","status":"success","webhook_list":[]}`, manage.ErrOdd},
		{"two values", `{"status":"success","webhook_list":[]}{}`, manage.ErrOdd},
		{"a general error, again and again", `{"status":"error","name":"GeneralError","message":"CANARYkeyIs0123456789"}`, manage.ErrUnavailable},
	} {
		t.Run(tc.name, func(t *testing.T) {
			api := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, tc.body) })
			got, err := newSendClean(t, "sendclean", api).List(t.Context())
			if tc.kind == nil {
				if err != nil {
					t.Fatal(err)
				}
				if len(got) > 0 && (got[0].ID != "424353445757557577457" || !slices.Equal(got[0].Events, []string{"open", "click"}) || !got[0].Created.Equal(time.Unix(754453534, 0))) {
					t.Errorf("got %+v", got[0])
				}
				return
			}
			wantKind(t, err, tc.kind)
		})
	}
}

// Ids and keys that come as bare numbers lose no digit.
func TestSendCleanNumbers(t *testing.T) {
	const id, key = "405602261459333060372", "998877665544332211009988776655"
	api := manageapi.NewSendClean("sendclean", owner, token, nil)
	api.Numbers = true
	api.Put(manageapi.Webhook{ID: id, URL: hookURL, Event: "open", StoreLog: "Disable", Key: key})
	c := newSendClean(t, "sendclean", api)
	list, err := c.List(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != id || string(list[0].Key) != key {
		t.Fatalf("got %v, %v", list, err)
	}
	if w, err := c.Info(t.Context(), id); err != nil || w.ID != id || string(w.Key) != key {
		t.Fatalf("got %v, %v", w, err)
	}
	if _, err := c.ResetKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
}

// An answer about another webhook is believed in nothing.
func TestSendCleanAnotherWebhook(t *testing.T) {
	asked := 0
	api := http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		asked++
		if strings.HasSuffix(q.URL.Path, "getWebhookInfo") {
			_, _ = io.WriteString(w, `{"status":"success","webhook_data":{"webhook_id":"2","url":"http://a.example","event":"open","key":"CANARYk"}}`)
			return
		}
		_, _ = io.WriteString(w, `{"status":"success","webhook_id":"2","key":"CANARYk"}`)
	})
	c := newSendClean(t, "sendclean", api)
	_, err := c.Edit(t.Context(), "1", func(w *manage.Webhook) { w.Description = "x" })
	wantKind(t, err, manage.ErrOdd)
	if asked != 1 {
		t.Errorf("%d calls: something was written", asked)
	}
	_, err = c.ResetKey(t.Context(), "1")
	if e := wantKind(t, err, manage.ErrOdd); !e.Uncertain {
		t.Error("whether the key is another is not said to be uncertain")
	}
}

// What is written comes back the same, or is not written.
func TestSendCleanRefusesToWrite(t *testing.T) {
	api := manageapi.NewSendClean("sendclean", owner, token, nil)
	c := newSendClean(t, "sendclean", api)
	for name, w := range map[string]manage.Webhook{
		"no URL":              {Events: []string{"open"}},
		"no http URL":         {URL: "ftp://example.com/", Events: []string{"open"}},
		"no events":           {URL: hookURL},
		"an event of two":     {URL: hookURL, Events: []string{"open,click"}},
		"an event of nothing": {URL: hookURL, Events: []string{""}},
	} {
		if err := c.Add(t.Context(), w); err == nil {
			t.Errorf("%s: no error", name)
		} else {
			noCanary(t, err.Error())
		}
	}
	if n := len(api.Calls()); n != 0 {
		t.Errorf("%d calls", n)
	}
}

func TestNewSendClean(t *testing.T) {
	ok := manage.SendCleanConfig{Provider: "sarv", BaseURL: "http://mail.example.net:7279/v1.0/", OwnerID: owner, Token: token}
	if _, err := manage.NewSendClean(ok, manage.Options{PlainHTTP: true}); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*manage.SendCleanConfig){
		"without TLS":     func(*manage.SendCleanConfig) {},
		"nowhere":         func(c *manage.SendCleanConfig) { c.BaseURL = "" },
		"two addresses":   func(c *manage.SendCleanConfig) { c.AppDomain = "us1.example.net" },
		"no owner":        func(c *manage.SendCleanConfig) { c.BaseURL, c.OwnerID = "https://a.example", "" },
		"no token":        func(c *manage.SendCleanConfig) { c.BaseURL, c.Token = "https://a.example", "" },
		"a password":      func(c *manage.SendCleanConfig) { c.BaseURL = "https://u:CANARY@a.example" },
		"no URL":          func(c *manage.SendCleanConfig) { c.BaseURL = "://CANARY" },
		"another protcol": func(c *manage.SendCleanConfig) { c.BaseURL = "ftp://a.example" },
	} {
		c := ok
		change(&c)
		_, err := manage.NewSendClean(c, manage.Options{})
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		noCanary(t, err.Error())
		if name == "without TLS" && !strings.Contains(err.Error(), "credentials") {
			t.Errorf("the reason is missing: %v", err)
		}
	}
}
