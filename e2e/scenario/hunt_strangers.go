package scenario

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

var huntStrangerScenarios = []Scenario{
	{
		Name: "hunt-strangers", Tier: 1,
		Proves: "Nothing from a stranger is published: not by an empty, a foreign, an old or a reused signature, and not later by a reload or a replay either.",
		Run:    huntStrangers,
	},
	{
		Name: "hunt-key-late", Tier: 1,
		Proves: "What a key verifies only later, because it was rotated first at the provider, is refused, kept, and redeemed when the key arrives, though the provider never sends it again.",
		Run:    huntKeyLate,
	},
}

// mailgunBy signs an event-data as Mailgun does, with any key, time and token.
func mailgunBy(p *Endpoint, uid, key, data string, at time.Time, token string) *Delivery {
	timestamp := strconv.FormatInt(at.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(key))
	_, _ = io.WriteString(mac, timestamp+token) // a hash takes everything
	return &Delivery{
		Endpoint: p, UID: uid, Events: 1, ContentType: "application/json",
		Body: fmt.Appendf(nil, `{"signature":{"timestamp":%q,"token":%q,"signature":%q},"event-data":%s}`, timestamp, token, hex.EncodeToString(mac.Sum(nil)), data),
	}
}

func huntStrangers(e *Env) {
	us := &Endpoint{Provider: "mailgun", Name: "us", Blessing: "God bless you", secret: "EXAMPLE-other-signing-key-789abc", signs: true}
	b := e.BlessdLater(Config{})
	file := b.SecretFile("us")
	e.WriteFile(file, us.secret)
	b.AddEndpoint(fmt.Sprintf("{name: us, provider: mailgun, key_files: [%s]}", file))
	b.Start()

	eu := endpointOf("mailgun")
	now := time.Now()
	event := func() (uid, data string) {
		uid = e.ledger.NewUID()
		return uid, mailgunEvent(uid)
	}
	uid, data := event()
	b.Bless(mailgunBy(eu, uid, eu.secret, data, now, "0123456789abcdef0123456789abcdef0123456789abcdef01"))

	refused := func(what string, d *Delivery) {
		if r := b.send(d); r.Err != nil || r.Status == http.StatusOK {
			e.Errorf("GHOST: %s was answered %d %q %v", what, r.Status, r.Body, r.Err)
		}
	}
	forge := func(what string, p *Endpoint, key string, at time.Time, token string) {
		uid, data := event()
		refused(what, mailgunBy(p, uid, key, data, at, token))
	}
	forge("a signature by the empty key", eu, "", now, "token-of-nobody-1")
	forge("a signature by the key of another endpoint", us, eu.secret, now, "token-of-nobody-2")
	forge("a signature of yesterday", eu, eu.secret, now.Add(-24*time.Hour), "token-of-nobody-3")
	forge("a signature of tomorrow", eu, eu.secret, now.Add(24*time.Hour), "token-of-nobody-4")
	forge("a token that was used", eu, eu.secret, now, "0123456789abcdef0123456789abcdef0123456789abcdef01")
	uid, data = event()
	none := mailgunBy(eu, uid, "", data, now, "token-of-nobody-5")
	none.Body = []byte(`{"event-data":` + data + `}`)
	refused("no signature", none)
	sent := e.SignedBy("nobody's key 0123456789")
	refused("SendClean signed by another key", sent)
	refused("SendClean signed by the empty key", e.signedByNothing())
	refused("a wrong token", &Delivery{Endpoint: &Endpoint{Provider: "enkod", Name: "ru", secret: "wrongtoken0123456789abcdef"}, ContentType: "application/json", Body: []byte(enkodEvent(e.ledger.NewUID()))})

	if code, text := b.Ask(http.MethodPost, "/-/reload"); code != http.StatusOK {
		e.Fatalf("reload: %d %s", code, text)
	}
	b.run("replay", "--unverified") // all of it has been looked at when this returns
	b.Settled()
}

// signedByNothing makes a delivery of SendClean whose HMAC has the empty key.
func (e *Env) signedByNothing() *Delivery {
	d := e.Delivery("sendclean")
	uid := e.ledger.NewUID()
	empty := *d.Endpoint
	empty.secret = ""
	d = &Delivery{Endpoint: &empty, UID: uid, Events: 1, ContentType: "application/x-www-form-urlencoded"}
	value := "[" + sendcleanEvents(uid, 1)[0] + "]"
	d.Body = []byte("sarvtes_events=" + url.QueryEscape(value))
	d.sign(value)
	return d
}

func huntKeyLate(e *Env) {
	b := e.Blessd(Config{})
	b.Bless(e.Delivery("sendclean"))
	const late = "EXAMPLE-late-key-0123456789"
	for range 10 {
		if r := b.Post(e.SignedBy(late)); r.Status != http.StatusUnauthorized {
			e.Errorf("a delivery signed by a key that is not here yet was answered %d %v", r.Status, r.Err)
		}
	}
	e.Rules.Redeemed = []int{http.StatusUnauthorized}
	e.Replace(b.SecretFile("sendclean"), late)
	b.env.Wait("the new key to be in force", func() bool { return b.Post(e.SignedBy(late)).Blessed() })
	b.run("replay", "--unverified")
	b.Settled()
}
