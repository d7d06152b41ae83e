package manageapi_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/blessd/blessd/manage/manageapi"
)

// The servers refuse what the documents do not allow, and remember it: a test that
// uses them could not fail otherwise.
func TestStrict(t *testing.T) {
	blessing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "God bless you, SendClean") }))
	defer blessing.Close()
	silent := httptest.NewServer(http.NotFoundHandler())
	defer silent.Close()
	for _, tc := range []struct {
		name, method, path, contentType, body string
		want                                  string // in the answer
		wrong                                 bool   // it is against the documents
	}{
		{"as documented", "POST", "/v1.0/settings/listWebhook", "application/json", `{"owner_id":"o","token":"t"}`, `"webhook_list":[]`, false},
		{"wrong token", "POST", "/v1.0/settings/listWebhook", "application/json", `{"owner_id":"o","token":"x"}`, "AuthenticationError", false},
		{"no token", "POST", "/v1.0/settings/listWebhook", "application/json", `{"owner_id":"o"}`, "AuthenticationError", false},
		{"GET", "GET", "/v1.0/settings/listWebhook", "application/json", `{"owner_id":"o","token":"t"}`, "ValidationError", true},
		{"a form", "POST", "/v1.0/settings/listWebhook", "application/x-www-form-urlencoded", `owner_id=o&token=t`, "ValidationError", true},
		{"no JSON", "POST", "/v1.0/settings/listWebhook", "application/json", `{`, "ValidationError", true},
		{"a number", "POST", "/v1.0/settings/deleteWebhook", "application/json", `{"owner_id":"o","token":"t","webhook_id":1}`, "ValidationError", true},
		{"unknown parameter", "POST", "/v1.0/settings/listWebhook", "application/json", `{"owner_id":"o","token":"t","page":"1"}`, "ValidationError", true},
		{"no id", "POST", "/v1.0/settings/getWebhookInfo", "application/json", `{"owner_id":"o","token":"t"}`, "ValidationError", true},
		{"no such id", "POST", "/v1.0/settings/getWebhookInfo", "application/json", `{"owner_id":"o","token":"t","webhook_id":"1"}`, "webhook_id is not valid", false},
		{"the typo of a public client", "POST", "/v1.0/settings/keyRestWebhook", "application/json", `{"owner_id":"o","token":"t","webhook_id":"1"}`, "Page not found", true},
		{"an event that is none", "POST", "/v1.0/settings/addWebhook", "application/json", `{"owner_id":"o","token":"t","url":"` + blessing.URL + `","event":"delivered"}`, "ValidationError", false},
		{"no blessing", "POST", "/v1.0/settings/addWebhook", "application/json", `{"owner_id":"o","token":"t","url":"` + silent.URL + `","event":"open"}`, "always response", false},
		{"a blessing", "POST", "/v1.0/settings/addWebhook", "application/json", `{"owner_id":"o","token":"t","url":"` + blessing.URL + `","event":"open","store_log":"Enable","description":""}`, "Webhook Added", false},
	} {
		s := manageapi.NewSendClean("sendclean", "o", "t", nil)
		got := ask(t, s, tc.method, tc.path, tc.contentType, tc.body, "")
		if !strings.Contains(got, tc.want) || (len(s.Wrong()) > 0) != tc.wrong {
			t.Errorf("sendclean, %s: got %s, wrong: %q", tc.name, got, s.Wrong())
		}
	}
	form := "application/x-www-form-urlencoded"
	for _, tc := range []struct {
		name, method, path, body, key string
		want                          string
		wrong                         bool
	}{
		{"as documented", "GET", "", "", "k", `"state_change"`, false},
		{"wrong key", "GET", "", "", "x", "Forbidden", false},
		{"another domain", "GET", "../../other/webhooks", "", "k", "", true},
		{"no id", "POST", "", "url=https://a.example", "k", "400", true},
		{"state_change cannot be made", "POST", "", "id=state_change&url=https://a.example", "k", "Invalid webhook type", false},
		{"four URLs", "POST", "", "id=clicked&url=https://a.example&url=https://b.example&url=https://c.example&url=https://d.example", "k", "400", true},
		{"a URL that is none", "POST", "", "id=clicked&url=x", "k", "400", true},
		{"as documented", "POST", "", "id=clicked&url=https://a.example", "k", "has been created", false},
		{"twice", "POST", "", "id=drop&url=https://a.example", "k", "Invalid webhook type", false},
		{"an update of nothing", "PUT", "/clicked", "url=https://a.example", "k", "Webhook not found", false},
		{"an unknown name", "GET", "/bounced", "", "k", "unknown webhook", true},
		{"a method", "PATCH", "/clicked", "", "k", "405", true},
	} {
		m := manageapi.NewMailgun("d.example", "k")
		got := ask(t, m, tc.method, "/v3/domains/d.example/webhooks"+tc.path, form, tc.body, tc.key)
		if !strings.Contains(got, tc.want) || (len(m.Wrong()) > 0) != tc.wrong {
			t.Errorf("mailgun, %s: got %s, wrong: %q", tc.name, got, m.Wrong())
		}
	}
	for _, tc := range []struct {
		name, path, body string
		want             string
		wrong            bool
	}{
		{"as documented", "/api?version=3.3", `{"id":1,"method":"addWebhook","params":["k",{"object":"contact","event":"unsubscribed","list_id":123,"url":"https://a.example"}]}`, `"result":616`, false},
		{"wrong key", "/api?version=3.3", `{"id":1,"method":"addWebhook","params":["x",{"object":"contact","event":"created","list_id":0,"url":"https://a.example"}]}`, `"error":{`, false},
		{"no version", "/api", `{"id":1,"method":"addWebhook","params":["k",{}]}`, "404", true},
		{"a method that nobody documents", "/api?version=3.3", `{"id":1,"method":"removeWebhook","params":["k",616]}`, "-32601", true},
		{"a pair that is none", "/api?version=3.3", `{"id":1,"method":"addWebhook","params":["k",{"object":"contact","event":"bulk_updated","list_id":0,"url":"https://a.example"}]}`, "310", false},
		{"an unknown detail", "/api?version=3.3", `{"id":1,"method":"addWebhook","params":["k",{"object":"contact","event":"created","list":0,"url":"https://a.example"}]}`, "310", false},
		{"no id", "/api?version=3.3", `{"method":"addWebhook","params":["k",{}]}`, "-32700", true},
	} {
		v := manageapi.NewVision6("k")
		got := ask(t, v, "POST", tc.path, "application/json", tc.body, "")
		if !strings.Contains(got, tc.want) || (len(v.Wrong()) > 0) != tc.wrong {
			t.Errorf("vision6, %s: got %s, wrong: %q", tc.name, got, v.Wrong())
		}
	}
}

// ask returns the status and the body of the answer.
func ask(t *testing.T, h http.Handler, method, path, contentType, body, key string) string {
	t.Helper()
	q := httptest.NewRequest(method, path, strings.NewReader(body))
	q.Header.Set("Content-Type", contentType)
	if key != "" {
		q.SetBasicAuth("api", key)
	}
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, q)
	return http.StatusText(rec.Code) + " " + rec.Result().Status + " " + rec.Body.String()
}
