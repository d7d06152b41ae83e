package manageapi

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/big"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// SendClean plays the API of SendClean or Sarv at /v1.0/settings/.
type SendClean struct {
	recorder

	provider string // sendclean or sarv
	owner    string
	token    string
	client   *http.Client

	state sync.Mutex
	hooks []*Webhook

	// ErrorsUnderType has errors carry their name in type, as the documents' tables
	// say, instead of in name, as their examples show.
	ErrorsUnderType bool
	// Numbers has ids and keys come as bare numbers where they consist of digits.
	Numbers bool
}

// Webhook is one that is registered.
type Webhook struct {
	ID, URL, Event, Description, StoreLog, Key string
	Created, LastSuccess, TotalEvents          int64
}

// NewSendClean returns the server of an account. With client it calls webhooks;
// nil is one that follows no redirects.
func NewSendClean(provider, owner, token string, client *http.Client) *SendClean {
	if client == nil {
		client = &http.Client{
			Timeout:       30 * time.Second,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return &SendClean{provider: provider, owner: owner, token: token, client: client}
}

// brand is how the platform calls itself.
func (s *SendClean) brand() string {
	if s.provider == "sarv" {
		return "Sarv"
	}
	return "SendClean"
}

// Webhooks returns the account's webhooks in the order in which they were made.
func (s *SendClean) Webhooks() []Webhook {
	s.state.Lock()
	defer s.state.Unlock()
	list := make([]Webhook, len(s.hooks))
	for i, h := range s.hooks {
		list[i] = *h
	}
	return list
}

// Put adds a webhook as a person would by hand, without a check of its URL, and
// returns its id. ID, Key and Created are made up where they are empty.
func (s *SendClean) Put(w Webhook) string {
	s.state.Lock()
	defer s.state.Unlock()
	if w.ID == "" {
		w.ID = digits(21)
	}
	if w.Key == "" {
		w.Key = newKey()
	}
	if w.Created == 0 {
		w.Created = time.Now().Unix()
	}
	s.hooks = append(s.hooks, &w)
	return w.ID
}

// Reset gives every webhook a new key, as a person would by hand.
func (s *SendClean) Reset() {
	s.state.Lock()
	defer s.state.Unlock()
	for _, h := range s.hooks {
		h.Key = newKey()
	}
}

// Remove takes a webhook away, as a person would by hand.
func (s *SendClean) Remove(id string) {
	s.state.Lock()
	defer s.state.Unlock()
	s.hooks = slices.DeleteFunc(s.hooks, func(h *Webhook) bool { return h.ID == id })
}

// Parameters of the calls: true where the documents' table has a star.
var sendCleanCalls = map[string]map[string]bool{
	"addWebhook":      {"url": true, "event": false, "description": false, "store_log": false},
	"editWebhook":     {"webhook_id": true, "url": true, "event": false, "description": false, "store_log": false},
	"keyResetWebhook": {"webhook_id": true},
	"listWebhook":     {},
	"deleteWebhook":   {"webhook_id": true},
	"getWebhookInfo":  {"webhook_id": true},
}

// ServeHTTP implements http.Handler.
func (s *SendClean) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	call, found := strings.CutPrefix(q.URL.Path, "/v1.0/settings/")
	known, ok := sendCleanCalls[call]
	name := "settings/" + call
	if !found || !ok {
		name = q.URL.Path
	}
	s.serve(w, q, name, name, func(body []byte) answer {
		if !found || !ok {
			s.complain("unknown path %s", q.URL.Path)
			// As it was seen: no name, no code, status 200.
			return say(map[string]any{"status": "error", "message": "Page not found"})
		}
		if q.Method != http.MethodPost {
			return s.refuse("ValidationError", s.complain("%s: method %s", call, q.Method))
		}
		if t, _, err := mime.ParseMediaType(q.Header.Get("Content-Type")); err != nil || t != "application/json" {
			return s.refuse("ValidationError", s.complain("%s: content type %q", call, q.Header.Get("Content-Type")))
		}
		var given map[string]any
		if err := json.Unmarshal(body, &given); err != nil {
			return s.refuse("ValidationError", s.complain("%s: the body is no JSON object: %v", call, err))
		}
		p := map[string]string{}
		for k, v := range given {
			text, isString := v.(string)
			if _, takes := known[k]; !isString || !takes && k != "owner_id" && k != "token" {
				return s.refuse("ValidationError", s.complain("%s: parameter %s is unknown or no string", call, k))
			}
			p[k] = text
		}
		if !hmac.Equal([]byte(p["owner_id"]), []byte(s.owner)) || !hmac.Equal([]byte(p["token"]), []byte(s.token)) {
			return s.refuse("AuthenticationError", "Token MissMatch")
		}
		for k, required := range known {
			if required && p[k] == "" {
				return s.refuse("ValidationError", s.complain("%s: parameter %s is missing", call, k))
			}
		}
		return s.execute(q.Context(), call, p)
	})
}

func say(v any) answer {
	b, err := json.Marshal(v)
	if err != nil {
		return answer{status: http.StatusInternalServerError}
	}
	return answer{body: b}
}

func (s *SendClean) refuse(name, message string) answer {
	field := "name"
	if s.ErrorsUnderType {
		field = "type"
	}
	return say(map[string]any{"status": "error", "code": -1, field: name, "message": message})
}

var sendCleanEvents = []string{"send", "open", "click", "soft_bounce", "hard_bounce", "spam"}

func (s *SendClean) execute(ctx context.Context, call string, p map[string]string) answer {
	if call == "addWebhook" || call == "editWebhook" {
		for e := range strings.SplitSeq(p["event"], ",") {
			if e != "" && !slices.Contains(sendCleanEvents, e) {
				return s.refuse("ValidationError", "event "+e+" is not valid")
			}
		}
		if v := p["store_log"]; v != "" && v != "Enable" && v != "Disable" {
			return s.refuse("ValidationError", "store_log is not valid")
		}
		if err := s.tryURL(ctx, p["url"]); err != nil {
			return s.refuse("ValidationError", err.Error())
		}
	}
	s.state.Lock()
	defer s.state.Unlock()
	var h *Webhook
	if i := slices.IndexFunc(s.hooks, func(h *Webhook) bool { return h.ID == p["webhook_id"] }); i >= 0 {
		h = s.hooks[i]
	} else if p["webhook_id"] != "" {
		return s.refuse("ValidationError", "webhook_id is not valid")
	}
	switch call {
	case "addWebhook":
		s.hooks = append(s.hooks, &Webhook{
			ID: digits(21), URL: p["url"], Event: p["event"], Description: p["description"], StoreLog: p["store_log"],
			Key: newKey(), Created: time.Now().Unix(),
		})
		return say(map[string]any{"status": "success", "message": "Webhook Added"})
	case "editWebhook":
		// What is left out is lost: the documents do not say that it stays.
		h.URL, h.Event, h.Description, h.StoreLog = p["url"], p["event"], p["description"], p["store_log"]
		return say(map[string]any{"status": "success", "message": "Webhook Edited"})
	case "keyResetWebhook":
		h.Key = newKey()
		return say(map[string]any{"status": "success", "message": "Webhook key reseted", "webhook_id": s.shown(h.ID), "key": s.shown(h.Key)})
	case "listWebhook":
		list := make([]any, len(s.hooks))
		for i, h := range s.hooks {
			list[i] = s.fields(h)
		}
		return say(map[string]any{"status": "success", "webhook_list": list})
	case "deleteWebhook":
		s.hooks = slices.DeleteFunc(s.hooks, func(x *Webhook) bool { return x == h })
		return say(map[string]any{"status": "success", "message": "Webhook Deleted"})
	default: // getWebhookInfo
		data := s.fields(h)
		data["last_success"], data["total_event"] = h.LastSuccess, h.TotalEvents
		return say(map[string]any{"status": "success", "webhook_data": data})
	}
}

func (s *SendClean) fields(h *Webhook) map[string]any {
	return map[string]any{
		"webhook_id": s.shown(h.ID), "url": h.URL, "event": h.Event, "key": s.shown(h.Key),
		"store_log": h.StoreLog, "description": h.Description, "create_date": h.Created,
	}
}

// shown is an id or a key as a string, or as a number of as many digits.
func (s *SendClean) shown(v string) any {
	if s.Numbers && v != "" && strings.Trim(v, "0123456789") == "" {
		return json.Number(v)
	}
	return v
}

// tryURL calls the URL as the platform does before it takes it.
func (s *SendClean) tryURL(ctx context.Context, webhook string) error {
	u, err := url.Parse(webhook)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("url is not valid")
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, webhook, nil)
	if err != nil {
		return fmt.Errorf("url is not valid")
	}
	a, err := s.client.Do(q)
	if err != nil {
		return fmt.Errorf("url is not reachable")
	}
	defer a.Body.Close()
	b, err := io.ReadAll(io.LimitReader(a.Body, 1<<10))
	if want := "God bless you, " + s.brand(); err != nil || string(b) != want {
		return fmt.Errorf("url must always response '%s'", want)
	}
	return nil
}

// Deliver posts events, a JSON array, to the webhook with this id, as the platform
// does: the form field sarvtes_events, signed with the key that is in force when it
// is sent. It returns the status and the body of the answer.
func (s *SendClean) Deliver(ctx context.Context, id string, events []byte) (int, string, error) {
	s.state.Lock()
	i := slices.IndexFunc(s.hooks, func(h *Webhook) bool { return h.ID == id })
	if i < 0 {
		s.state.Unlock()
		return 0, "", fmt.Errorf("there is no webhook %s", id)
	}
	h := *s.hooks[i]
	s.state.Unlock()
	var n []json.RawMessage
	if err := json.Unmarshal(events, &n); err != nil {
		return 0, "", fmt.Errorf("the events are no JSON array: %w", err)
	}
	form := url.Values{"sarvtes_events": {string(events)}}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, h.URL, strings.NewReader(form.Encode()))
	if err != nil {
		return 0, "", err
	}
	q.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	q.Header.Set("X-"+s.brand()+"TES-Signature", Signature(h.Key, h.URL, form))
	a, err := s.client.Do(q)
	if err != nil {
		return 0, "", err
	}
	defer a.Body.Close()
	b, err := io.ReadAll(io.LimitReader(a.Body, 1<<10))
	if err != nil {
		return 0, "", err
	}
	if a.StatusCode == http.StatusOK && string(b) == "God bless you, "+s.brand() {
		s.state.Lock()
		if i := slices.IndexFunc(s.hooks, func(x *Webhook) bool { return x.ID == id }); i >= 0 {
			s.hooks[i].LastSuccess = time.Now().Unix()
			s.hooks[i].TotalEvents += int64(len(n))
		}
		s.state.Unlock()
	}
	return a.StatusCode, string(b), nil
}

// Signature signs a form by Mandrill's rule, which the platform is taken to follow:
// HMAC-SHA1 over the URL and the fields sorted by name, base64.
func Signature(key, webhook string, form url.Values) string {
	h := hmac.New(sha1.New, []byte(key))
	var b bytes.Buffer
	b.WriteString(webhook)
	for _, name := range slices.Sorted(maps.Keys(form)) {
		for _, value := range form[name] {
			b.WriteString(name + value)
		}
	}
	h.Write(b.Bytes())
	return base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// digits returns a random number of n digits.
func digits(n int64) string {
	most := new(big.Int).Exp(big.NewInt(10), big.NewInt(n-1), nil)
	v, err := rand.Int(rand.Reader, new(big.Int).Mul(most, big.NewInt(9)))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return v.Add(v, most).String()
}

// newKey is like the one in the documents: 22 letters and digits.
func newKey() string { return rand.Text()[:22] }
