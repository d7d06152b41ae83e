package manage

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/time/rate"
)

// Vision6 is the one documented call of Vision6's JSON-RPC API, version 3.3, that is
// about webhooks: https://developers.vision6.com.au/3.3/method/addwebhook.
//
// A webhook there is an object, an event and a list, so that all of it takes eleven
// for each list. Methods to list, change and remove them exist, and their names are
// in no document that could be read: they are done in Vision6's pages. What addWebhook
// answers to a second call, error 351, says that a webhook with the same details is
// there.
type Vision6 struct {
	calls *caller
	key   Secret
}

// Vision6Config says where the API is and who calls.
type Vision6Config struct {
	// BaseURL is the API's endpoint on the host that the account logs in to. Default
	// https://www.vision6.com.au/api/jsonrpcserver?version=3.3.
	BaseURL string
	// APIKey needs full access.
	APIKey Secret
}

// vision6URL is where public clients find the API.
const vision6URL = "https://www.vision6.com.au/api/jsonrpcserver?version=3.3"

// Pair is an object and what can happen to it.
type Pair struct {
	Object, Event string
}

// String returns object.event.
func (p Pair) String() string { return p.Object + "." + p.Event }

// Vision6Pairs are all eleven pairs, in the order of the documents.
func Vision6Pairs() []Pair {
	return []Pair{
		{"list", "created"},
		{"contact", "created"},
		{"list", "updated"},
		{"contact", "updated"},
		{"list", "removed"},
		{"contact", "removed"},
		{"list", "bulk_updated"},
		{"contact", "subscribed"},
		{"contact", "unsubscribed"},
		{"contact", "deactivated"},
		{"contact", "reactivated"},
	}
}

// Subscription is what addWebhook registers.
type Subscription struct {
	Pair
	// List is the id of the list to watch, 0 for all.
	List int
	URL  string
}

// NewVision6 returns the client. It calls nothing yet.
func NewVision6(c Vision6Config, o Options) (*Vision6, error) {
	if c.BaseURL == "" {
		c.BaseURL = vision6URL
	}
	// No limit is documented.
	calls, err := newCaller("vision6", c.BaseURL, o, rate.NewLimiter(4, 22), c.APIKey)
	if err != nil {
		return nil, err
	}
	return &Vision6{calls: calls, key: c.APIKey}, nil
}

// Add registers a subscription and returns the new webhook's id. The error is
// ErrExists when one with these details is there already.
func (v *Vision6) Add(ctx context.Context, s Subscription) (id string, err error) {
	// Twice does the same as once: the second answer is 351.
	q := request{
		call: fmt.Sprintf("addWebhook %s, list %d", s.Pair, s.List), method: http.MethodPost, url: v.calls.base.String(),
		contentType: "application/json", changes: true, repeatable: true, secrets: secretParts(s.URL),
	}
	type details struct {
		Object string `json:"object"`
		Event  string `json:"event"`
		List   int    `json:"list_id"`
		URL    string `json:"url"`
	}
	q.body, err = encode(struct {
		ID     int    `json:"id"`
		Method string `json:"method"`
		Params []any  `json:"params"`
	}{1, "addWebhook", []any{string(v.key), details{s.Object, s.Event, s.List, s.URL}}})
	if err != nil {
		return "", fmt.Errorf("%s, %s: %w", v.calls.provider, q.call, err)
	}
	r, err := v.calls.do(ctx, q)
	if err != nil {
		return "", err
	}
	var answer struct {
		ID     text `json:"id"`
		Result raw  `json:"result"`
		Error  raw  `json:"error"`
	}
	if decode(r.body, &answer) != nil {
		if r.status >= http.StatusBadRequest {
			return "", v.status(q, r)
		}
		if isJSON(r.body) {
			return "", v.calls.odd(q, r.status, "JSON that is not as documented")
		}
		return "", v.calls.notJSON(q, r)
	}
	var result text
	switch {
	case len(answer.Error) > 0 && !answer.Error.is("null", "false", `""`):
		return "", v.refused(q, r.status, answer.Error)
	case r.status >= http.StatusBadRequest:
		return "", v.status(q, r)
	case answer.ID.value != "1":
		return "", v.calls.odd(q, r.status, "the answer to another call")
	case len(answer.Result) == 0 || result.UnmarshalJSON(answer.Result) != nil || result.value == "" || strings.Trim(result.value, "0123456789") != "":
		return "", v.calls.odd(q, r.status, "neither an error nor the id of the new webhook")
	}
	return result.value, nil
}

// Ensure registers everything that is desired and returns what was missing: the only
// way to ask what is there is to register it. After an error it returns what it has
// added until then.
func (v *Vision6) Ensure(ctx context.Context, d Desired) (missing []string, err error) {
	p, err := v.Plan(ctx, d)
	if err != nil {
		return nil, err
	}
	for _, step := range p.Steps {
		_, err := v.Add(ctx, Subscription{Pair: step.pair, List: step.list, URL: d.URL})
		switch {
		case err == nil:
			missing = append(missing, step.Target)
		case !errors.Is(err, ErrExists):
			return missing, err
		}
	}
	return missing, nil
}

// errorText is an error that comes as text, like 351-Duplicate Webhook.
var errorText = regexp.MustCompile(`^\s*([0-9]{1,6})\s*[-:]?\s*(.*)$`)

// refused understands an error that is an object, a text or a bare number.
func (v *Vision6) refused(q request, status int, b raw) error {
	var object struct {
		Code    text `json:"code"`
		Message text `json:"message"`
	}
	var plain text
	code, message := "", ""
	switch {
	case plain.UnmarshalJSON(b) == nil:
		message = plain.value
		if m := errorText.FindStringSubmatch(plain.value); m != nil {
			code, message = m[1], m[2]
		}
	case decode(b, &object) == nil:
		code, message = object.Code.value, object.Message.value
	default:
		return v.calls.odd(q, status, "an error that is not as documented")
	}
	e := &Error{Kind: ErrRefused, Status: status, Name: v.calls.clean(code, q.secrets), Message: v.calls.clean(message, q.secrets)}
	n, _ := strconv.Atoi(code) // no number is none of these
	switch n {
	case 310:
		if e.Message == "" {
			e.Message = "one or more parameters are invalid"
		}
	case 351:
		e.Kind = ErrExists
	}
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		e.Kind = ErrCredentials
	}
	return v.calls.fail(q, e)
}

// status is for a status that says no, and a body that says nothing.
func (v *Vision6) status(q request, r *reply) error {
	e := &Error{Kind: ErrRefused, Status: r.status}
	switch r.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		e.Kind = ErrCredentials
	case http.StatusNotFound:
		e.Kind = ErrNotFound
	}
	return v.calls.fail(q, e)
}
