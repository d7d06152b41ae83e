package scenario

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// publicURL is what the providers were given.
const publicURL = "https://hooks.example.com"

// Endpoint is one of the webhooks that every blessd of the bench has.
type Endpoint struct {
	Provider, Name string
	// Blessing is what the provider wants to hear.
	Blessing string
	secret   string // the key that it signs with, or the token in the URL
	signs    bool
	settings string
}

// Endpoints has one for each provider.
var Endpoints = []*Endpoint{
	{Provider: "sendclean", Name: "acme", Blessing: "God bless you, SendClean", secret: "EXAMPLEKEY0123456789ab", signs: true, settings: ", signature: enforce"},
	{Provider: "sarv", Name: "sv", Blessing: "God bless you, Sarv", secret: "EXAMPLEKEYsarv45678901", signs: true, settings: ", signature: enforce"},
	{Provider: "mailgun", Name: "eu", Blessing: "God bless you", secret: "EXAMPLE-signing-key-0123456789ab", signs: true},
	{Provider: "enkod", Name: "ru", Blessing: "God bless you", secret: "EXAMPLEtokenEnkod0123456789"},
	{Provider: "vision6", Name: "v6", Blessing: "God bless you", secret: "EXAMPLEtokenVision60123456"},
}

// Providers returns the names of all of them.
func Providers() []string {
	var names []string
	for _, p := range Endpoints {
		names = append(names, p.Provider)
	}
	return names
}

func endpointOf(provider string) *Endpoint {
	i := slices.IndexFunc(Endpoints, func(p *Endpoint) bool { return p.Provider == provider })
	return Endpoints[i]
}

func (p *Endpoint) secretKind() string {
	if p.signs {
		return "key_files"
	}
	return "token_files"
}

// Path is where its deliveries are posted to.
func (p *Endpoint) Path() string {
	if p.signs {
		return "/hooks/" + p.Name
	}
	return "/hooks/" + p.Name + "/" + p.secret
}

// Delivery is one POST of a provider, before it is signed.
type Delivery struct {
	*Endpoint
	UID         string
	Events      int
	ContentType string
	Body        []byte
	Header      map[string]string
	// Key, when not empty, signs in place of the endpoint's.
	Key string
}

// PerBatch is how many events are in a request of SendClean, Sarv and Vision6: as
// many as in the documentation's sample.
const PerBatch = 7

// Delivery makes a delivery as this provider sends them, signed and with a name of
// its own. Batches are like the documentation's: several events share one _id, and
// some have no x_unique_id.
func (e *Env) Delivery(provider string) *Delivery {
	uid := e.ledger.NewUID()
	switch provider {
	case "mailgun":
		return e.Mailgun(uid, mailgunEvent(uid))
	case "enkod":
		return e.Plain(provider, uid, enkodEvent(uid), 1)
	case "vision6":
		return e.Plain(provider, uid, "["+strings.Join(vision6Events(uid, PerBatch), ",")+"]", PerBatch)
	default:
		return e.SendClean(provider, uid, sendcleanEvents(uid, PerBatch)...)
	}
}

// SendClean makes a delivery of SendClean or Sarv of the given elements.
func (e *Env) SendClean(provider, uid string, elements ...string) *Delivery {
	d := &Delivery{Endpoint: endpointOf(provider), UID: uid, Events: len(elements), ContentType: "application/x-www-form-urlencoded"}
	value := "[" + strings.Join(elements, ",") + "]"
	d.Body = []byte(url.Values{"sarvtes_events": {value}}.Encode())
	d.sign(value)
	return d
}

// SignedBy makes a delivery of SendClean that is signed with another key.
func (e *Env) SignedBy(key string) *Delivery {
	d := e.Delivery("sendclean")
	d.Key = key
	form, err := url.ParseQuery(string(d.Body))
	if err != nil {
		e.Fatalf("%v", err)
	}
	d.sign(form.Get("sarvtes_events"))
	return d
}

// sign signs by Mandrill's rule: the URL as it was registered, and then the names and
// values of the form's fields.
func (d *Delivery) sign(value string) {
	key := d.Key
	if key == "" {
		key = d.secret
	}
	mac := hmac.New(sha1.New, []byte(key))
	_, _ = io.WriteString(mac, publicURL+d.Path()+"sarvtes_events"+value)
	name := "X-SendCleanTES-Signature"
	if d.Provider == "sarv" {
		name = "X-SarvTES-Signature"
	}
	d.Header = map[string]string{name: base64.StdEncoding.EncodeToString(mac.Sum(nil))}
}

// Mailgun makes a delivery of Mailgun of the given event-data.
func (e *Env) Mailgun(uid, data string) *Delivery {
	p := endpointOf("mailgun")
	token := make([]byte, 25)
	_, _ = rand.Read(token) // it never fails
	timestamp, hexToken := strconv.FormatInt(time.Now().Unix(), 10), hex.EncodeToString(token)
	mac := hmac.New(sha256.New, []byte(p.secret))
	_, _ = io.WriteString(mac, timestamp+hexToken)
	return &Delivery{
		Endpoint: p, UID: uid, Events: 1, ContentType: "application/json",
		Body: fmt.Appendf(nil, `{"signature":{"timestamp":"%s","token":"%s","signature":"%x"},"event-data":%s}`, timestamp, hexToken, mac.Sum(nil), data),
	}
}

// Plain makes a delivery of a provider that does not sign.
func (e *Env) Plain(provider, uid, body string, events int) *Delivery {
	return &Delivery{Endpoint: endpointOf(provider), UID: uid, Events: events, ContentType: "application/json", Body: []byte(body)}
}

// turn makes the deliveries differ in kind, one after the other.
var turn atomic.Uint64

// sendcleanEvents makes n elements of all seven kinds.
func sendcleanEvents(uid string, n int) []string {
	var all []string
	for i := range n {
		ts := 1465890656000 + int64(i/7)
		unique, msg := fmt.Sprintf("%q", uid), "{}"
		kind := []string{"send", "delivered", "soft_bounce", "hard_bounce", "open", "click", "spam"}[i%7]
		switch kind {
		case "soft_bounce":
			msg = `{"bounceDesc":"smtp; 552 5.2.2 Over quota ","bounceCodeTrad":472,"bounceCodeEnh":"4.2.2"}`
		case "hard_bounce":
			msg = `{"bounceDesc":"Requested action not taken: mailbox unavailable ","bounceCodeTrad":550,"bounceCodeEnh":"5.2.2"}`
		case "open":
			unique = `""`
			msg = fmt.Sprintf(`{"opens":[{"openTs":%d,"openIp":"192.0.2.7","openUa":"Mozilla/5.0 (via ggpht.com GoogleImageProxy)"}]}`, ts)
		case "click":
			unique = `""`
			msg = fmt.Sprintf(`{"clicks":[{"clickTs":%d,"clickUrl":"http://example.com/?a=1&b=%%20<x>","clickIp":"192.0.2.8","clickUa":"Mozilla/5.0"}]}`, ts+131000)
		case "spam":
			msg = `{"feedbackReport":"Arrival-Date: Tue, 14 June 2016 07:50:56 +0000\r\nOriginal-Rcpt-To: b0df23337efdcda913f1e8888014812b@example.com\r\nReported-Domain: example.org\r\nFeedback-Type: abuse\r\nUser-Agent: ReturnPathFBL/2.0\r\n"}`
		}
		all = append(all, fmt.Sprintf(`{"_id":"14304056-%s.129.1","smtp_name":"smtp87654321","x_unique_id":%s,"ts":%d,"msg":%s,"event":%q}`, uid, unique, ts, msg, kind))
	}
	return all
}

// mailgunEvent makes event-data of one of eight kinds.
func mailgunEvent(uid string) string {
	const (
		status = `"delivery-status":{"tls":true,"mx-host":"mx1.example.com","code":%d,"description":"","session-seconds":0.43,"attempt-no":1,"message":%q},`
		client = `"ip":"203.0.113.77","geolocation":{"country":"DE","region":"BE","city":"Berlin"},"client-info":{"client-type":"browser","client-os":"Linux","device-type":"desktop","client-name":"Firefox","user-agent":"Mozilla/5.0 (X11)","bot":""},`
		full   = `"message":{"headers":{"to":"lena@example.com","message-id":"%[1]s@mg.example.net","from":"Shop <orders@mg.example.net>","subject":"Your receipt"},"attachments":[],"size":4210},`
		short  = `"message":{"headers":{"message-id":"%[1]s@mg.example.net"}},`
	)
	n := turn.Add(1)
	var kind, more string
	switch n % 8 {
	case 0:
		kind, more = "accepted", fmt.Sprintf(full, uid)
	case 1:
		kind, more = "delivered", fmt.Sprintf(status, 250, "OK")+fmt.Sprintf(full, uid)
	case 2:
		kind, more = "failed", `"severity":"permanent","reason":"bounce",`+fmt.Sprintf(status, 550, "5.1.1 No such user")+fmt.Sprintf(full, uid)
	case 3:
		kind, more = "failed", `"severity":"temporary","reason":"generic",`+fmt.Sprintf(status, 451, "4.7.1 Too many connections")+fmt.Sprintf(full, uid)
	case 4:
		kind, more = "opened", client+fmt.Sprintf(short, uid)
	case 5:
		kind, more = "clicked", client+`"url":"https://shop.example.net/?x=a%20b#track",`+fmt.Sprintf(short, uid)
	case 6:
		kind, more = "unsubscribed", client+fmt.Sprintf(short, uid)
	default:
		kind, more = "complained", fmt.Sprintf(full, uid)
	}
	return fmt.Sprintf(`{"event":%q,"id":%q,"timestamp":%d.%06d,"account":{"id":"61a0c2b7"},"domain":{"name":"mg.example.net"},%s"recipient":"lena@example.com","tags":["receipt"],"user-variables":{"order":"8120"}}`,
		kind, uid, 1773132301+n%1000, 482913, more)
}

// enkodEvent makes a body of one of eight kinds.
func enkodEvent(uid string) string {
	message := func(event, more string) string {
		return fmt.Sprintf(`{"event":%q,"message_id":77,"message_uid":%q,"sending_type":"instant","name":"Your receipt","from":"shop@example.net","to":"lena@example.com"%s}`, event, uid, more)
	}
	group := func(event string) string {
		return fmt.Sprintf(`{"event":%q,"email":"%s@example.com","group_id":12,"group_name":"News","channel":"email"}`, event, uid)
	}
	switch turn.Add(1) % 8 {
	case 0:
		return message("message sent", "")
	case 1:
		return message("message open", "")
	case 2:
		return message("message clicked", `,"click_url":"https://example.com/a?b=c"`)
	case 3:
		return message("delivery bounce", `,"error_message":"mailbox is somewhere else"`)
	case 4:
		return message("\u0441omplaint", "")
	case 5:
		return group("mailing group subscribe")
	case 6:
		return group("mailing group unsubscribe")
	default:
		return fmt.Sprintf(`{"event":"contact adding","email":"%s@example.com","phone":"80123456789","groups_names":["News","Offers"],"groups_ids":[12,13]}`, uid)
	}
}

// vision6Events makes n elements of all eleven kinds. Vision6 knows numbers only, so
// that the uid is in a field that it does not send, and the contact is made of it.
func vision6Events(uid string, n int) []string {
	number, err := strconv.ParseUint(uid[len(uid)-8:], 16, 32)
	if err != nil {
		panic(err) // NewUID makes no other
	}
	var all []string
	for i := range n {
		verbs := []string{"created", "updated", "removed", "subscribed", "unsubscribed", "deactivated", "reactivated"}
		if i%8 == 7 || i%7 == 6 && number%2 == 0 {
			verb := []string{"created", "updated", "removed", "bulk_updated"}[number/2%4]
			all = append(all, fmt.Sprintf(`{"list_id":%d,"object":"list","event":%q,"timestamp":%d,"uid":%q}`, number*100+uint64(i), verb, 1496618831, uid))
			continue
		}
		all = append(all, fmt.Sprintf(`{"list_id":1791,"contact_id":%d,"object":"contact","event":%q,"timestamp":%d,"uid":%q}`, number, verbs[i%7], 1496618831+i/7, uid))
	}
	return all
}
