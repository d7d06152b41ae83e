package main

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-json"

	"github.com/blessd/blessd/receiver"
)

// announce asks POST /-/rotation and returns the status and the answer.
func (r *reloadRig) announce(body string) (code int, a rotationAnswer, text string) {
	r.t.Helper()
	q, err := http.NewRequest(http.MethodPost, "http://"+r.daemon.Addresses().Admin+"/-/rotation", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	code, text = r.do(q)
	if code == http.StatusOK {
		if err := json.Unmarshal([]byte(text), &a); err != nil {
			r.t.Fatalf("%v: %s", err, text)
		}
	}
	return code, a, text
}

// parked waits until n deliveries wait for a key.
func (r *reloadRig) parked(n int) {
	r.t.Helper()
	until(r.t, fmt.Sprint(n, " to be parked"), func() bool {
		return r.metric(`blessd_webhook_parked{endpoint="acme",provider="sendclean"}`) == fmt.Sprint(n)
	})
}

// The key of an endpoint without key files comes while a delivery that it signed
// waits: it goes in, and so does what came too early and was held.
func TestAnnouncedRotation(t *testing.T) {
	t.Parallel()
	r := startReloadRig(t, acme)
	const rejected = `blessd_webhook_rejected_total{endpoint="acme",provider="sendclean",reason="key_rotation"}`
	fingerprint := receiver.Key{Value: newKey}.Fingerprint()
	if got := r.post("acme", newKey); got != http.StatusUnauthorized {
		t.Fatalf("before the announcement: %d, want 401", got)
	}
	code, a, text := r.announce(`{"endpoint":"acme"}`)
	if code != http.StatusOK || a.Rotation == "" || !a.Holds || a.DataDir != r.path("data") || !slices.Equal(a.Keys, []string{receiver.Key{Value: oldKey}.Fingerprint()}) ||
		time.Until(a.Until) <= 0 || time.Until(a.Until) > receiver.MaxRotation {
		t.Fatalf("announced: %d %s", code, text)
	}
	if strings.Contains(text, oldKey) {
		t.Error("the answer has a key in it")
	}
	if _, status := r.ask(http.MethodGet, "/-/status"); !strings.Contains(status, `"rotation_announced_until"`) {
		t.Errorf("the status does not show the announcement: %s", status)
	}
	answers := make(chan int, 8)
	for range 3 {
		go func() { answers <- r.post("acme", newKey) }()
	}
	r.parked(3)
	if got := r.post("acme", oldKey); got != http.StatusOK {
		t.Errorf("by the old key meanwhile: %d", got)
	}
	if _, err := r.daemon.cfg.storeManagedKey("acme", "405602261459333060372", newKey, time.Now()); err != nil {
		t.Fatal(err)
	}
	code, a, text = r.announce(fmt.Sprintf(`{"endpoint":"acme","rotation":%q,"read_keys":true,"end":true}`, a.Rotation))
	if code != http.StatusOK || !slices.Contains(a.Keys, fingerprint) || a.KeysRefused != "" || a.Counts.Parked != 3 || a.Counts.Refused != 0 {
		t.Errorf("ended: %d %s", code, text)
	}
	for range 3 {
		if got := <-answers; got != http.StatusOK {
			t.Errorf("parked, then %d", got)
		}
	}
	if got := r.post("acme", newKey); got != http.StatusOK {
		t.Errorf("by the new key afterwards: %d", got)
	}
	if got := r.metric(rejected); got != "0" {
		t.Errorf("%s refused for the rotation", got)
	}
	until(t, "what was refused before the announcement to be redeemed", func() bool {
		return r.metric(`blessd_unverified_redeemed_total{endpoint="acme",provider="sendclean"}`) == "1"
	})
}

// What waited in vain is held, and goes in when a key comes later; a file that cannot
// be used is in the answer.
func TestRotationTooLate(t *testing.T) {
	t.Parallel()
	r := startReloadRig(t, acme)
	_, a, _ := r.announce(`{"endpoint":"acme"}`)
	answer := make(chan int, 1)
	go func() { answer <- r.post("acme", newKey) }()
	r.parked(1)
	r.daemon.endRotation("acme", "another", "ended") // which is none
	r.parked(1)
	r.daemon.endRotation("acme", a.Rotation, ranOut) // which it has not
	r.parked(1)
	if got := <-answer; got != http.StatusServiceUnavailable {
		t.Errorf("after 4 s: %d, want 503", got)
	}
	held := func(want string) {
		t.Helper()
		until(t, want+" held", func() bool {
			return r.metric(`blessd_unverified_held_records{endpoint="acme",provider="sendclean"}`) == want
		})
	}
	held("1")
	if err := r.daemon.cfg.makeKeyDir("acme"); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join("data", "keys", "acme", "provider.key")
	r.replace(bad, "")
	_, a, text := r.announce(fmt.Sprintf(`{"endpoint":"acme","rotation":%q,"read_keys":true,"end":true}`, a.Rotation))
	if !strings.Contains(a.KeysRefused, "provider.key: empty") || a.Counts != (receiver.RotationCounts{Parked: 1, Refused: 1, Held: 1}) || len(a.Keys) != 1 {
		t.Errorf("ended: %s", text)
	}
	held("0") // it is like any other now
	if got := r.post("acme", newKey); got != http.StatusUnauthorized {
		t.Errorf("after the end: %d, want 401", got)
	}
	r.replace(bad, newKey)
	until(t, "it to be redeemed", func() bool {
		return r.metric(`blessd_unverified_redeemed_total{endpoint="acme",provider="sendclean"}`) == "1"
	})
}

// An announcement that nobody renews or ends is over by itself.
func TestRotationRunsOut(t *testing.T) {
	t.Parallel()
	r := startReloadRig(t, acme)
	r.daemon.announced.lasts = 100 * time.Millisecond
	if code, _, text := r.announce(`{"endpoint":"acme"}`); code != http.StatusOK {
		t.Fatalf("announced: %d %s", code, text)
	}
	until(t, "the announcement to run out", func() bool {
		return r.logs.FilterMessage("announced rotation of a key is over").Len() == 1
	})
	if got := r.metric(`blessd_webhook_rotation_announced{endpoint="acme",provider="sendclean"}`); got != "0" {
		t.Errorf("announced: %s, want 0", got)
	}
	if got := r.post("acme", newKey); got != http.StatusUnauthorized {
		t.Errorf("afterwards: %d, want 401", got)
	}
}

func TestRotationRefuses(t *testing.T) {
	t.Parallel()
	r := startReloadRig(t, acme+"\n  - {name: ru, provider: enkod, auth: none}")
	for body, want := range map[string]string{
		`{"endpoint":"nobody"}`:              "there is no endpoint",
		`{"endpoint":"ru"}`:                  "enkod signs nothing",
		`{"endpoint":"acme","key":"s3cr3t"}`: "not what this version of blessd understands",
		`nonsense`:                           "not what this version of blessd understands",
		`{"endpoint":"` + strings.Repeat("x", maxRotationRequest): "not what this version of blessd understands",
	} {
		if code, _, text := r.announce(body); code != http.StatusBadRequest || !strings.Contains(text, want) || strings.Contains(text, "s3cr3t") {
			t.Errorf("%.60s: %d %s, want 400 and %q", body, code, text, want)
		}
	}
	if code, _, text := r.announce(`{"endpoint":"acme"}`); code != http.StatusOK {
		t.Fatalf("announced: %d %s", code, text)
	}
	for _, body := range []string{`{"endpoint":"acme"}`, `{"endpoint":"acme","rotation":"another"}`, `{"endpoint":"acme","rotation":"another","end":true}`} {
		if code, _, text := r.announce(body); code != http.StatusConflict || !strings.Contains(text, "announced already") {
			t.Errorf("%s beside another: %d %s, want 409", body, code, text)
		}
	}
	// An announcement that ran out goes on when it is renewed, and its end is no error.
	r.daemon.announced.mu.Lock()
	id := r.daemon.announced.byName["acme"].id
	r.daemon.announced.mu.Unlock()
	r.daemon.endRotation("acme", id, "ended")
	if code, a, text := r.announce(fmt.Sprintf(`{"endpoint":"acme","rotation":%q}`, id)); code != http.StatusOK || a.Rotation != id {
		t.Errorf("renewed: %d %s", code, text)
	}
	for range 2 {
		if code, _, text := r.announce(fmt.Sprintf(`{"endpoint":"acme","rotation":%q,"end":true}`, id)); code != http.StatusOK {
			t.Errorf("ended: %d %s", code, text)
		}
	}
	q, err := http.NewRequest(http.MethodPost, "http://"+r.daemon.Addresses().Admin+"/-/rotation", strings.NewReader(`{"endpoint":"acme"}`))
	if err != nil {
		t.Fatal(err)
	}
	q.Host = "rebound.example.com"
	if code, _ := r.do(q); code != http.StatusMisdirectedRequest {
		t.Errorf("for another host: %d, want 421", code)
	}
	q.Host = ""
	q.Body = http.NoBody
	q.Header.Set("Sec-Fetch-Site", "cross-site")
	if code, _ := r.do(q); code != http.StatusForbidden {
		t.Errorf("from a page of somebody else's: %d, want 403", code)
	}
}
