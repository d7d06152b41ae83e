package manage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"
)

// SendClean is the management API of SendClean and of Sarv, which are one platform
// under two names: the calls settings/*Webhook of their documents,
// https://sendclean.com/docs/email-api/webhooks.php and
// https://sarv.com/docs/transactional-email/webhooks.php.
//
// What is odd about it: errors come with status 200, their name in "name" by the
// examples and in "type" by the tables; registering says neither the new webhook's
// id nor its key, so that both have to be looked up; one URL may be registered
// several times, with a key each; times are seconds, 0 for never.
type SendClean struct {
	calls        *caller
	owner, token Secret
}

// SendCleanConfig says where the API is and who calls it.
type SendCleanConfig struct {
	// Provider is sendclean or sarv.
	Provider string
	// AppDomain is the account's: the API is at https://api.<AppDomain>/v1.0/.
	AppDomain string
	// BaseURL is the API's address whole, instead of AppDomain.
	BaseURL string
	// OwnerID and Token are the account's credentials.
	OwnerID, Token Secret
}

// NewSendClean returns the client. It calls nothing yet.
func NewSendClean(c SendCleanConfig, o Options) (*SendClean, error) {
	base := c.BaseURL
	switch {
	case base != "" && c.AppDomain != "":
		return nil, fmt.Errorf("the API of %s has an app_domain and a base_url: one of them is too many", c.Provider)
	case c.AppDomain != "":
		base = "https://api." + c.AppDomain + "/v1.0/"
	case base == "":
		return nil, fmt.Errorf("the API of %s has neither an app_domain nor a base_url, and there is no address that all accounts share", c.Provider)
	}
	if !strings.HasSuffix(base, "/") {
		base += "/"
	}
	// 60 calls a minute (second-hand); a burst and a minute together stay below.
	calls, err := newCaller(c.Provider, base, o, rate.NewLimiter(0.8, 10), c.OwnerID, c.Token)
	if err != nil {
		return nil, err
	}
	return &SendClean{calls: calls, owner: c.OwnerID, token: c.Token}, nil
}

// SendCleanEvents are the events that can be subscribed to, in the order of the
// documents. Deliveries have a seventh, delivered, that no list of them names.
func SendCleanEvents() []string {
	return []string{"send", "open", "click", "soft_bounce", "hard_bounce", "spam"}
}

// List returns all webhooks of the account, without LastSuccess and TotalEvents.
func (s *SendClean) List(ctx context.Context) ([]Webhook, error) {
	q := request{call: "settings/listWebhook", repeatable: true}
	var answer struct {
		List raw `json:"webhook_list"`
	}
	if err := s.call(ctx, q, nil, &answer); err != nil {
		return nil, err
	}
	switch {
	case len(answer.List) == 0:
		return nil, s.calls.odd(q, http.StatusOK, "a list without webhook_list")
	case answer.List.is("null", "[]", "{}"): // how PHP writes an empty array is anybody's guess
		return nil, nil
	}
	var list []sendCleanWebhook
	if decode(answer.List, &list) != nil {
		return nil, s.calls.odd(q, http.StatusOK, "a webhook_list that is not as documented")
	}
	webhooks := make([]Webhook, len(list))
	for i := range list {
		w, err := list[i].webhook()
		if err != nil {
			return nil, s.calls.odd(q, http.StatusOK, fmt.Sprintf("webhook %d of %d: %v", i+1, len(list), err))
		}
		webhooks[i] = w
	}
	return webhooks, nil
}

// Info returns one webhook with everything that the provider knows about it.
func (s *SendClean) Info(ctx context.Context, id string) (Webhook, error) {
	q := request{call: "settings/getWebhookInfo", repeatable: true}
	var answer struct {
		Data *sendCleanWebhook `json:"webhook_data"`
	}
	if err := s.call(ctx, q, map[string]string{"webhook_id": id}, &answer); err != nil {
		return Webhook{}, err
	}
	if answer.Data == nil {
		return Webhook{}, s.calls.odd(q, http.StatusOK, "an answer without webhook_data")
	}
	w, err := answer.Data.webhook()
	if err != nil {
		return Webhook{}, s.calls.odd(q, http.StatusOK, err.Error())
	}
	if w.ID != id {
		return Webhook{}, s.calls.odd(q, http.StatusOK, "an answer about another webhook than "+id)
	}
	return w, nil
}

// Add registers w's URL, events, description and store_log. The provider calls the
// URL before it answers, and wants to hear its blessing there. Which id and key the
// new webhook has, List says afterwards.
func (s *SendClean) Add(ctx context.Context, w Webhook) error {
	if err := s.checkWritten(w); err != nil {
		return err
	}
	q := request{call: "settings/addWebhook", changes: true, secrets: secretParts(w.URL)}
	return s.call(ctx, q, sendCleanFields(w), nil)
}

// Edit reads a webhook, lets change alter its URL, Events, Description and
// StoreLog, and writes all four, since what is left out of a call may be lost. It
// returns what was written, or what is there when change changed nothing.
func (s *SendClean) Edit(ctx context.Context, id string, change func(*Webhook)) (Webhook, error) {
	before, err := s.Info(ctx, id)
	if err != nil {
		return Webhook{}, err
	}
	after := before
	after.Events = slices.Clone(before.Events)
	change(&after)
	if after.URL == before.URL && slices.Equal(after.Events, before.Events) && after.Description == before.Description && after.StoreLog == before.StoreLog {
		return before, nil
	}
	if err := s.checkWritten(after); err != nil {
		return Webhook{}, err
	}
	q := request{
		call: "settings/editWebhook", changes: true, repeatable: true,
		secrets: slices.Concat(secretParts(before.URL), secretParts(after.URL)),
	}
	fields := sendCleanFields(after)
	fields["webhook_id"] = id
	if err := s.call(ctx, q, fields, nil); err != nil {
		return Webhook{}, err
	}
	return after, nil
}

// ResetKey has the provider make a new key, with which it signs from then on, and
// returns it. When the error is Uncertain the key may be another now; Info shows
// which.
func (s *SendClean) ResetKey(ctx context.Context, id string) (Secret, error) {
	q := request{call: "settings/keyResetWebhook", changes: true}
	var answer struct {
		ID  text `json:"webhook_id"`
		Key text `json:"key"`
	}
	if err := s.call(ctx, q, map[string]string{"webhook_id": id}, &answer); err != nil {
		return "", err
	}
	switch {
	case answer.Key.value == "":
		return "", s.calls.odd(q, http.StatusOK, "an answer without the new key")
	case answer.ID.given && answer.ID.value != id:
		return "", s.calls.odd(q, http.StatusOK, "the new key of another webhook than "+id)
	}
	return Secret(answer.Key.value), nil
}

// Delete removes a webhook.
func (s *SendClean) Delete(ctx context.Context, id string) error {
	return s.call(ctx, request{call: "settings/deleteWebhook", changes: true}, map[string]string{"webhook_id": id}, nil)
}

// checkWritten refuses what cannot be written so that it comes back the same.
func (s *SendClean) checkWritten(w Webhook) error {
	u, err := url.Parse(w.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%s: the webhook has no http or https URL", s.calls.provider)
	}
	if len(w.Events) == 0 {
		return fmt.Errorf("%s: the webhook would get no events", s.calls.provider)
	}
	for _, e := range w.Events {
		if e == "" || strings.ContainsAny(e, ", \t\r\n") {
			return fmt.Errorf("%s: %q is no event", s.calls.provider, e)
		}
	}
	return nil
}

func sendCleanFields(w Webhook) map[string]string {
	storeLog := "Disable"
	if w.StoreLog {
		storeLog = "Enable"
	}
	return map[string]string{
		"url": w.URL, "event": strings.Join(w.Events, ","), "description": w.Description, "store_log": storeLog,
	}
}

// sendCleanWebhook is a webhook in an answer.
type sendCleanWebhook struct {
	ID          text   `json:"webhook_id"`
	URL         text   `json:"url"`
	Event       *text  `json:"event"`
	Description text   `json:"description"`
	StoreLog    text   `json:"store_log"`
	Key         text   `json:"key"`
	Created     number `json:"create_date"`
	LastSuccess number `json:"last_success"`
	TotalEvents number `json:"total_event"`
}

// webhook checks what everything else rests on.
func (x *sendCleanWebhook) webhook() (Webhook, error) {
	switch {
	case x.ID.value == "":
		return Webhook{}, errors.New("it has no webhook_id")
	case x.URL.value == "":
		return Webhook{}, errors.New("it has no url")
	case x.Event == nil:
		return Webhook{}, errors.New("it has no event")
	}
	w := Webhook{
		ID: x.ID.value, URL: x.URL.value, Description: x.Description.value, Key: Secret(x.Key.value),
		Created: seconds(x.Created), LastSuccess: seconds(x.LastSuccess),
	}
	switch strings.ToLower(x.StoreLog.value) {
	case "enable":
		w.StoreLog = true
	case "disable", "":
	default:
		return Webhook{}, errors.New("its store_log is neither Enable nor Disable")
	}
	for e := range strings.SplitSeq(x.Event.value, ",") {
		if e = strings.TrimSpace(e); e != "" {
			w.Events = append(w.Events, e)
		}
	}
	if x.TotalEvents.given {
		w.TotalEvents = &x.TotalEvents.value
	}
	return w, nil
}

// seconds is a time of the API.
func seconds(n number) time.Time {
	if n.value <= 0 {
		return time.Time{}
	}
	return time.Unix(n.value, 0).UTC()
}

// call sends the fields with the credentials and reads the answer into v, which may
// be nil.
func (s *SendClean) call(ctx context.Context, q request, fields map[string]string, v any) error {
	all := map[string]string{"owner_id": string(s.owner), "token": string(s.token)}
	maps.Copy(all, fields)
	var err error
	if q.body, err = encode(all); err != nil {
		return fmt.Errorf("%s, %s: %w", s.calls.provider, q.call, err)
	}
	q.method, q.contentType = http.MethodPost, "application/json"
	q.url = s.calls.base.JoinPath(q.call).String()
	r, err := s.calls.do(ctx, q)
	if err != nil {
		return err
	}
	var head struct {
		Status  text `json:"status"`
		Code    text `json:"code"`
		Name    text `json:"name"`
		Type    text `json:"type"`
		Message text `json:"message"`
	}
	if decode(r.body, &head) != nil {
		if isJSON(r.body) {
			return s.calls.odd(q, r.status, "JSON that is not as documented")
		}
		return s.calls.notJSON(q, r)
	}
	if r.status == http.StatusOK && head.Status.value == "success" {
		if v != nil && decode(r.body, v) != nil {
			return s.calls.odd(q, r.status, "JSON that is not as documented")
		}
		return nil
	}
	e := &Error{Kind: ErrRefused, Status: r.status, Name: head.Name.value, Message: s.calls.clean(head.Message.value, q.secrets)}
	if e.Name == "" {
		e.Name = head.Type.value
	}
	e.Name = s.calls.clean(e.Name, q.secrets)
	switch {
	case e.Name == "AuthenticationError", e.Name == "Invalid_Key", r.status == http.StatusUnauthorized, r.status == http.StatusForbidden:
		e.Kind = ErrCredentials
	case r.status == http.StatusNotFound, strings.EqualFold(e.Message, "Page not found"):
		// The API answers so to a path that it does not know, with status 200.
		e.Kind = ErrNotFound
	case e.Name == "GeneralError":
		// A fault of the provider's own: what became of the call is not said.
		e.Kind, e.Uncertain = ErrUnavailable, q.changes
	case head.Status.value == "error", r.status >= http.StatusBadRequest:
	default:
		return s.calls.odd(q, r.status, "an answer whose status is neither success nor error")
	}
	return s.calls.fail(q, e)
}
