package manage

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/time/rate"
)

// Mailgun is Mailgun's API for the webhooks of one domain, version 3:
// https://documentation.mailgun.com/docs/mailgun/api-reference/send/mailgun/domain-webhooks.
//
// A webhook there is a name, which is a kind of event, with up to three URLs. There
// is no key for each: everything is signed with the account's one signing key, which
// no call shows. What is odd about it: writing replaces all URLs of a name, so that
// whoever forgets the others' removes them; opened is missing from the list of names
// that can be created, and present in every other.
type Mailgun struct {
	calls  *caller
	domain string
	auth   string
}

// MailgunConfig says which domain it is about and who calls.
type MailgunConfig struct {
	// Domain is the sending domain.
	Domain string
	// Region is us or eu; empty is us.
	Region string
	// BaseURL is the API's address, instead of that of the region.
	BaseURL string
	// APIKey is the account's or the domain's. It is not the signing key.
	APIKey Secret
}

// mailgunURLs is how many URLs a name can have.
const mailgunURLs = 3

// mailgunRegions are the addresses of the API.
var mailgunRegions = map[string]string{
	"":   "https://api.mailgun.net",
	"eu": "https://api.eu.mailgun.net",
	"us": "https://api.mailgun.net",
}

// MailgunEvents are the names that can be subscribed to today, sorted.
func MailgunEvents() []string {
	return []string{"accepted", "clicked", "complained", "delivered", "opened", "permanent_fail", "temporary_fail", "unsubscribed"}
}

// MailgunNames are all names that the documents know, sorted: today's, those of the
// old webhooks, which post forms, and state_change, which nothing explains.
func MailgunNames() []string {
	names := append(MailgunEvents(), "bounce", "click", "deliver", "drop", "open", "spam", "state_change", "unsubscribe")
	slices.Sort(names)
	return names
}

// NewMailgun returns the client. It calls nothing yet.
func NewMailgun(c MailgunConfig, o Options) (*Mailgun, error) {
	base := c.BaseURL
	if base == "" {
		var ok bool
		if base, ok = mailgunRegions[c.Region]; !ok {
			return nil, fmt.Errorf("mailgun has no region %q: write us or eu", c.Region)
		}
	}
	if c.Domain == "" {
		return nil, errors.New("the API of mailgun needs the sending domain")
	}
	// 300 calls a minute and account; a burst and a minute together stay below.
	calls, err := newCaller("mailgun", base, o, rate.NewLimiter(4, 50), c.APIKey)
	if err != nil {
		return nil, err
	}
	auth := base64.StdEncoding.EncodeToString([]byte("api:" + string(c.APIKey)))
	calls.secrets = append(calls.secrets, auth)
	return &Mailgun{calls: calls, domain: c.Domain, auth: "Basic " + auth}, nil
}

// List returns the URLs of every name that has any, today's names and old ones.
func (m *Mailgun) List(ctx context.Context) (map[string][]string, error) {
	q := m.request(http.MethodGet, "")
	q.repeatable = true
	r, err := m.do(ctx, q)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Webhooks *map[string]*mailgunWebhook `json:"webhooks"`
	}
	if decode(r.body, &answer) != nil || answer.Webhooks == nil {
		return nil, m.calls.odd(q, r.status, "JSON that is not as documented")
	}
	list := make(map[string][]string)
	for name, w := range *answer.Webhooks {
		if urls := w.urls(); len(urls) > 0 {
			list[name] = urls
		}
	}
	return list, nil
}

// URLs returns the URLs of one name, none when it has none.
func (m *Mailgun) URLs(ctx context.Context, name string) ([]string, error) {
	q := m.request(http.MethodGet, name)
	q.repeatable = true
	urls, err := m.webhook(ctx, q)
	if errors.Is(err, ErrNotFound) {
		// No such domain or nothing under the name: the list tells them apart.
		list, listErr := m.List(ctx)
		if listErr != nil {
			return nil, listErr
		}
		if _, ok := list[name]; !ok {
			return nil, nil
		}
	}
	return urls, err
}

// AddURL adds a URL to a name, beside those that are there. It tells whether
// something changed. ErrFull says that three other URLs are there.
func (m *Mailgun) AddURL(ctx context.Context, name, add string) (changed bool, err error) {
	return m.Change(ctx, name, []string{add}, nil)
}

// RemoveURL takes a URL away from a name and leaves the others.
func (m *Mailgun) RemoveURL(ctx context.Context, name, remove string) (changed bool, err error) {
	return m.Change(ctx, name, nil, []string{remove})
}

// Change adds URLs to a name and takes others away, in one step, and leaves all
// others: it reads what is there just before it writes. Between the two somebody
// else's change can be lost, since Mailgun has no conditional write.
func (m *Mailgun) Change(ctx context.Context, name string, add, remove []string) (changed bool, err error) {
	before, err := m.URLs(ctx, name)
	if err != nil {
		return false, err
	}
	after := slices.DeleteFunc(slices.Clone(before), func(u string) bool { return slices.Contains(remove, u) })
	for _, u := range add {
		if !slices.Contains(after, u) {
			after = append(after, u)
		}
	}
	if slices.Equal(after, before) {
		return false, nil
	}
	var q request
	switch {
	case len(after) > mailgunURLs:
		q = m.request(http.MethodPut, name)
		return false, m.calls.fail(q, &Error{Kind: ErrFull, Message: fmt.Sprintf("%s has %d URLs of others, and Mailgun takes %d in all", name, len(after)-len(add), mailgunURLs)})
	case len(after) == 0:
		q = m.request(http.MethodDelete, name)
	case len(before) == 0:
		q = m.request(http.MethodPost, "")
		q.call += " " + name
		if err := q.form(name, after); err != nil {
			return false, m.calls.fail(q, &Error{Kind: ErrRefused, Message: err.Error()})
		}
	default:
		q = m.request(http.MethodPut, name)
		q.repeatable = true // it says how it is to be, and not what is to change
		if err := q.form("", after); err != nil {
			return false, m.calls.fail(q, &Error{Kind: ErrRefused, Message: err.Error()})
		}
	}
	q.changes = true
	for _, u := range slices.Concat(before, after) {
		q.secrets = append(q.secrets, secretParts(u)...)
	}
	got, err := m.webhook(ctx, q)
	if err != nil {
		return false, err
	}
	// A deletion answers what was removed, the others what is there now.
	if q.method != http.MethodDelete && got != nil {
		for _, u := range after {
			if !slices.Contains(got, u) {
				return false, m.calls.odd(q, http.StatusOK, "an answer that does not have the URLs that were written")
			}
		}
	}
	return true, nil
}

// mailgunWebhook is what stands for a name in an answer. Old entries have url.
type mailgunWebhook struct {
	URL  text   `json:"url"`
	URLs []text `json:"urls"`
}

func (w *mailgunWebhook) urls() []string {
	if w == nil {
		return nil
	}
	var urls []string
	for _, u := range append(w.URLs, w.URL) {
		if u.value != "" && !slices.Contains(urls, u.value) {
			urls = append(urls, u.value)
		}
	}
	return urls
}

func (m *Mailgun) request(method, name string) request {
	path := m.calls.base.JoinPath("v3", "domains", m.domain, "webhooks")
	call := method + " webhooks"
	if name != "" {
		path = path.JoinPath(name)
		call += "/" + name
	}
	return request{
		call: call, method: method, url: path.String(),
		header: http.Header{"Authorization": {m.auth}},
	}
}

// form is the body of a call that writes, multipart/form-data by the documents.
func (q *request) form(name string, urls []string) error {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	if name != "" {
		if err := w.WriteField("id", name); err != nil {
			return err
		}
	}
	for _, u := range urls {
		if parsed, err := url.Parse(u); err != nil || parsed.Host == "" {
			return errors.New("a URL that is none")
		}
		if err := w.WriteField("url", u); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	q.body, q.contentType = b.Bytes(), w.FormDataContentType()
	return nil
}

// webhook sends a call that answers with one name's URLs. They are nil when the
// answer does not have them.
func (m *Mailgun) webhook(ctx context.Context, q request) ([]string, error) {
	r, err := m.do(ctx, q)
	if err != nil {
		return nil, err
	}
	var answer struct {
		Webhook *mailgunWebhook `json:"webhook"`
	}
	if decode(r.body, &answer) != nil || answer.Webhook == nil {
		return nil, m.calls.odd(q, r.status, "JSON that is not as documented")
	}
	return answer.Webhook.urls(), nil
}

// do returns an answer of status 200 that is JSON.
func (m *Mailgun) do(ctx context.Context, q request) (*reply, error) {
	r, err := m.calls.do(ctx, q)
	if err != nil {
		return nil, err
	}
	if r.status == http.StatusOK {
		if !isJSON(r.body) {
			return nil, m.calls.notJSON(q, r)
		}
		return r, nil
	}
	var said struct {
		Message text `json:"message"`
		Reason  text `json:"Reason"`
		Error   text `json:"Error"`
	}
	e := &Error{Kind: ErrRefused, Status: r.status}
	if decode(r.body, &said) == nil {
		e.Message = m.calls.clean(strings.TrimSpace(said.Message.value+" "+said.Reason.value+" "+said.Error.value), q.secrets)
	} else if len(r.body) > 0 && r.body[0] != '<' && !isJSON(r.body) {
		e.Message = m.calls.clean(string(r.body), q.secrets) // "Forbidden", to wrong credentials
	}
	switch r.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Kind = ErrCredentials
	case http.StatusNotFound:
		e.Kind = ErrNotFound
	case http.StatusConflict:
		e.Kind = ErrExists
	default:
		if r.status < http.StatusBadRequest {
			return nil, m.calls.odd(q, r.status, "a status that is not documented")
		}
	}
	return nil, m.calls.fail(q, e)
}
