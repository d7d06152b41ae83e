package manage_test

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/blessd/blessd/manage"
)

// FuzzAnswers has every client read whatever a provider may answer: it understands it
// or says what is wrong in one line, without a secret, and a change that was not
// confirmed is never taken for done.
func FuzzAnswers(f *testing.F) {
	for _, body := range []string{
		`{"status":"success","webhook_list":[{"webhook_id":"1","url":"https://a.example","event":"open","key":"k"}]}`,
		`{"status":"success","webhook_data":{"webhook_id":1,"url":"https://a.example","event":"open","total_event":"3"}}`,
		`{"status":"error","code":-1,"name":"AuthenticationError","message":"Token MissMatch"}`,
		`{"webhooks":{"opened":{"urls":["https://a.example"]},"clicked":null,"drop":{"url":"https://b.example"}}}`,
		`{"message":"Webhook has been created","webhook":{}}`,
		`{"id":1,"result":616,"error":null}`,
		`{"id":1,"result":null,"error":"351-Duplicate"}`,
		`<html>`, "", "null", `[]`, `{"status":{}}`, "\xff{", `{"retry-seconds":1e9}`,
	} {
		f.Add(body, 200)
		f.Add(body, 400)
		f.Add(body, 429)
	}
	f.Fuzz(func(t *testing.T, body string, status int) {
		if status < 200 || status > 599 {
			return
		}
		// The secrets in what is echoed are the caller's own.
		if strings.Contains(body, "CANARY") {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			api := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				_, _ = w.Write([]byte(body))
			})
			s, m, v := newSendClean(t, "sendclean", api), newMailgun(t, api), newVision6(t, api)
			ctx := t.Context()
			_, list := s.List(ctx)
			_, info := s.Info(ctx, "1")
			_, reset := s.ResetKey(ctx, "1")
			add := s.Add(ctx, manage.Webhook{URL: hookURL, Events: []string{"open"}})
			_, edit := s.Edit(ctx, "1", func(w *manage.Webhook) { w.Description += "x" })
			_, names := m.List(ctx)
			_, url := m.AddURL(ctx, "clicked", hookURL)
			_, subscribe := v.Add(ctx, manage.Subscription{Pair: manage.Pair{Object: "contact", Event: "created"}, URL: hookURL})
			for _, err := range []error{list, info, reset, add, edit, names, url, subscribe} {
				if err == nil {
					continue
				}
				noCanary(t, err.Error())
				e, ok := errors.AsType[*manage.Error](err)
				if !ok || e.Kind == nil || strings.ContainsAny(err.Error(), "\r\n\x1b") || len(err.Error()) > 800 {
					t.Errorf("got %T %q", err, err)
				}
			}
			if (add == nil || reset == nil) && !strings.Contains(body, "success") {
				t.Errorf("taken for done: %q", body)
			}
		})
	})
}
