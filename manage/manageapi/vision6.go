package manageapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"sync"
)

// Vision6 plays addWebhook of Vision6's JSON-RPC API.
type Vision6 struct {
	recorder

	key string

	state sync.Mutex
	next  int
	hooks map[string]int // id by details

	// ErrorsAsText has errors come as "351-Duplicate ..." instead of as an object.
	ErrorsAsText bool
}

// NewVision6 returns the server of an account, for any path with ?version=3.3.
func NewVision6(apiKey string) *Vision6 {
	return &Vision6{key: apiKey, next: 616, hooks: map[string]int{}}
}

// Webhooks returns what is registered, as "object event list url", sorted.
func (v *Vision6) Webhooks() []string {
	v.state.Lock()
	defer v.state.Unlock()
	list := make([]string, 0, len(v.hooks))
	for details := range v.hooks {
		list = append(list, details)
	}
	slices.Sort(list)
	return list
}

// Remove takes a webhook away, as Vision6 does after five failures.
func (v *Vision6) Remove(details string) {
	v.state.Lock()
	defer v.state.Unlock()
	delete(v.hooks, details)
}

var vision6Events = map[string][]string{
	"list":    {"created", "updated", "removed", "bulk_updated"},
	"contact": {"created", "updated", "removed", "subscribed", "unsubscribed", "deactivated", "reactivated"},
}

// ServeHTTP implements http.Handler.
func (v *Vision6) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	v.serve(w, q, "addWebhook", "addWebhook", func(body []byte) answer {
		if q.Method != http.MethodPost || q.URL.Query().Get("version") != "3.3" {
			v.complain("%s with version %q", q.Method, q.URL.Query().Get("version"))
			return answer{status: http.StatusNotFound}
		}
		if t, _, err := mime.ParseMediaType(q.Header.Get("Content-Type")); err != nil || t != "application/json" {
			v.complain("content type %q", q.Header.Get("Content-Type"))
			return answer{status: http.StatusUnsupportedMediaType}
		}
		var call struct {
			ID     json.RawMessage   `json:"id"`
			Method string            `json:"method"`
			Params []json.RawMessage `json:"params"`
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(&call); err != nil || len(call.ID) == 0 {
			return v.refuse(nil, -32700, v.complain("the body is no call: %v", err))
		}
		if call.Method != "addWebhook" {
			return v.refuse(call.ID, -32601, v.complain("method %q is not documented", call.Method))
		}
		var key string
		if len(call.Params) != 2 || json.Unmarshal(call.Params[0], &key) != nil {
			return v.refuse(call.ID, 310, v.complain("%d parameters", len(call.Params)))
		}
		if key != v.key {
			return v.refuse(call.ID, 100, "Invalid API key") // the number is this server's own
		}
		var hook struct {
			Object string `json:"object"`
			Event  string `json:"event"`
			List   int    `json:"list_id"`
			URL    string `json:"url"`
		}
		d = json.NewDecoder(bytes.NewReader(call.Params[1]))
		d.DisallowUnknownFields()
		if err := d.Decode(&hook); err != nil || !slices.Contains(vision6Events[hook.Object], hook.Event) || hook.List < 0 || hook.URL == "" {
			return v.refuse(call.ID, 310, "Invalid Method Parameters")
		}
		v.state.Lock()
		defer v.state.Unlock()
		details := fmt.Sprintf("%s %s %d %s", hook.Object, hook.Event, hook.List, hook.URL)
		if _, there := v.hooks[details]; there {
			return v.refuse(call.ID, 351, "Duplicate Webhook details not allowed")
		}
		id := v.next
		v.next++
		v.hooks[details] = id
		return say(map[string]any{"id": call.ID, "result": id, "error": nil})
	})
}

func (v *Vision6) refuse(id json.RawMessage, code int, message string) answer {
	var e any = map[string]any{"code": code, "message": message}
	if v.ErrorsAsText {
		e = fmt.Sprintf("%d-%s", code, message)
	}
	return say(map[string]any{"id": id, "result": nil, "error": e})
}
