package manageapi

import (
	"bytes"
	"fmt"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// Mailgun plays Mailgun's API for the webhooks of one domain, version 3.
type Mailgun struct {
	recorder

	domain, key string

	state sync.Mutex
	hooks map[string][]string

	// RefuseOpened refuses to create opened, which the documents leave out of the
	// names that can be created.
	RefuseOpened bool
	// Sparse has the list name only what has URLs. Otherwise all sixteen names are
	// there, some of them null or empty.
	Sparse bool
	// NoneIs404 answers 404 to a question for a name without URLs.
	NoneIs404 bool
	// Old lists these names' first URL under url, as old entries are.
	Old []string
}

// NewMailgun returns the server of a domain.
func NewMailgun(domain, apiKey string) *Mailgun {
	return &Mailgun{domain: domain, key: apiKey, hooks: map[string][]string{}}
}

var mailgunNames = []string{
	"accepted", "bounce", "click", "clicked", "complained", "deliver", "delivered", "drop",
	"open", "opened", "permanent_fail", "spam", "state_change", "temporary_fail", "unsubscribe", "unsubscribed",
}

// mailgunCreates are the names that the documents of POST list.
var mailgunCreates = []string{"accepted", "clicked", "unsubscribed", "delivered", "permanent_fail", "temporary_fail", "complained"}

// Put sets the URLs of a name as a person would by hand.
func (m *Mailgun) Put(name string, urls ...string) {
	m.state.Lock()
	defer m.state.Unlock()
	m.hooks[name] = urls
}

// URLs returns the URLs of a name.
func (m *Mailgun) URLs(name string) []string {
	m.state.Lock()
	defer m.state.Unlock()
	return slices.Clone(m.hooks[name])
}

// Names are all names that a webhook can have.
func (*Mailgun) Names() []string { return slices.Clone(mailgunNames) }

// ServeHTTP implements http.Handler.
func (m *Mailgun) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	m.serve(w, q, q.Method+" "+q.URL.Path, q.Method, func(body []byte) answer {
		if user, key, ok := q.BasicAuth(); !ok || user != "api" || key != m.key {
			return answer{status: http.StatusUnauthorized, header: http.Header{"Content-Type": {"text/html"}}, body: []byte("Forbidden")}
		}
		rest, ok := strings.CutPrefix(q.URL.Path, "/v3/domains/"+m.domain+"/webhooks")
		if !ok {
			if strings.HasPrefix(q.URL.Path, "/v3/domains/") {
				return mailgunError(http.StatusNotFound, "Domain not found")
			}
			return mailgunError(http.StatusNotFound, m.complain("unknown path %s", q.URL.Path))
		}
		m.state.Lock()
		defer m.state.Unlock()
		name := strings.TrimPrefix(rest, "/")
		switch {
		case rest == "" && q.Method == http.MethodGet:
			return say(map[string]any{"webhooks": m.list()})
		case rest == "" && q.Method == http.MethodPost:
			return m.create(q.Header.Get("Content-Type"), body)
		case !slices.Contains(mailgunNames, name):
			return mailgunError(http.StatusNotFound, m.complain("unknown webhook %q", name))
		case q.Method == http.MethodGet && m.NoneIs404 && len(m.hooks[name]) == 0:
			return mailgunError(http.StatusNotFound, "Webhook not found")
		case q.Method == http.MethodGet:
			return say(map[string]any{"webhook": map[string]any{"urls": append([]string{}, m.hooks[name]...)}})
		case q.Method == http.MethodPut:
			return m.update(name, q.Header.Get("Content-Type"), body)
		case q.Method == http.MethodDelete:
			gone := append([]string{}, m.hooks[name]...)
			if len(gone) == 0 {
				return mailgunError(http.StatusNotFound, "Webhook not found")
			}
			delete(m.hooks, name)
			return say(map[string]any{"message": "Webhook has been deleted", "webhook": map[string]any{"urls": gone}})
		}
		return mailgunError(http.StatusMethodNotAllowed, m.complain("method %s", q.Method))
	})
}

func mailgunError(status int, message string) answer {
	a := say(map[string]any{"message": message})
	a.status = status
	return a
}

// list is all names as the documents' schema has them: an object, or null.
func (m *Mailgun) list() map[string]any {
	all := map[string]any{}
	for i, name := range mailgunNames {
		urls := m.hooks[name]
		switch {
		case len(urls) > 0 && slices.Contains(m.Old, name):
			all[name] = map[string]any{"url": urls[0]}
		case len(urls) > 0:
			all[name] = map[string]any{"urls": urls}
		case m.Sparse:
		case i%3 == 0:
			all[name] = nil
		case i%3 == 1:
			all[name] = map[string]any{}
		default:
			all[name] = map[string]any{"urls": []string{}}
		}
	}
	return all
}

func (m *Mailgun) create(contentType string, body []byte) answer {
	form, err := parseForm(contentType, body)
	if err != nil {
		return mailgunError(http.StatusBadRequest, m.complain("POST: %v", err))
	}
	id := form["id"]
	if len(id) != 1 {
		return mailgunError(http.StatusBadRequest, m.complain("POST: id is there %d times", len(id)))
	}
	name := id[0]
	if !slices.Contains(mailgunCreates, name) && (name != "opened" || m.RefuseOpened) {
		return mailgunError(http.StatusBadRequest, "Invalid webhook type: "+name)
	}
	if len(m.hooks[name]) > 0 {
		// What Mailgun does is not documented: a client should not come here.
		return mailgunError(http.StatusBadRequest, m.complain("POST: %s is there already", name))
	}
	if message := m.write(name, form["url"]); message != "" {
		return mailgunError(http.StatusBadRequest, message)
	}
	return say(map[string]any{"message": "Webhook has been created", "webhook": map[string]any{"urls": m.hooks[name]}})
}

func (m *Mailgun) update(name, contentType string, body []byte) answer {
	form, err := parseForm(contentType, body)
	if err != nil {
		return mailgunError(http.StatusBadRequest, m.complain("PUT: %v", err))
	}
	if len(m.hooks[name]) == 0 {
		return mailgunError(http.StatusNotFound, "Webhook not found")
	}
	if message := m.write(name, form["url"]); message != "" {
		return mailgunError(http.StatusBadRequest, message)
	}
	return say(map[string]any{"message": "Webhook has been updated", "webhook": map[string]any{"urls": m.hooks[name]}})
}

// write replaces the URLs of a name, or says what is wrong with them.
func (m *Mailgun) write(name string, urls []string) string {
	if len(urls) == 0 || len(urls) > 3 {
		return m.complain("%s: %d URLs", name, len(urls))
	}
	for _, u := range urls {
		if p, err := url.Parse(u); err != nil || p.Host == "" || p.Scheme != "http" && p.Scheme != "https" {
			return m.complain("%s: a URL that is none", name)
		}
	}
	m.hooks[name] = slices.Clone(urls)
	return ""
}

// parseForm reads multipart/form-data, as documented, or what a form sends.
func parseForm(contentType string, body []byte) (url.Values, error) {
	t, p, err := mime.ParseMediaType(contentType)
	switch {
	case err != nil:
		return nil, err
	case t == "application/x-www-form-urlencoded":
		return url.ParseQuery(string(body))
	case t == "multipart/form-data":
		form, err := multipart.NewReader(bytes.NewReader(body), p["boundary"]).ReadForm(1 << 20)
		if err != nil {
			return nil, err
		}
		return form.Value, nil
	}
	return nil, fmt.Errorf("content type %s", t)
}
