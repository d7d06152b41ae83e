package scenario

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

var keyScenarios = []Scenario{
	{
		Name: "rotation", Faults: []string{"F34"}, Tier: 0,
		Proves: "A key is changed under load, the new one beside the old one first: no request that is signed with a key in force is refused, and none with another is believed.",
		Run:    rotation,
	},
	{
		Name: "late-key", Faults: []string{"F34"}, Tier: 0,
		Proves: "The provider changed its key and told nobody: what was refused meanwhile is in the stream once the key is there, though the provider never came again.",
		Run:    lateKey,
	},
	{
		Name: "bad-reload", Faults: []string{"F33"}, Tier: 0,
		Proves: "A configuration or a key file that is broken, missing, or swapped under load changes nothing until it is good, and then at once.",
		Run:    badReload,
	},
}

// keysInForce waits until an endpoint has so many signing keys.
func (b *Blessd) keysInForce(n int) {
	b.WaitMetric(float64(n), "blessd_endpoint_keys", "endpoint", "acme", "kind", "signature")
}

// answered posts a delivery of SendClean that is signed with a key.
func answered(e *Env, b *Blessd, key string, want int) {
	if r := b.Post(e.SignedBy(key)); r.Status != want {
		e.Errorf("signed with %q: %d %v, want %d", key, r.Status, r.Err, want)
	}
}

func rotation(e *Env) {
	b := e.BlessdLater(Config{})
	file, other := b.SecretFile("sendclean"), filepath.Join(b.DataDir(), "keys", "acme", "next.key")
	if err := os.MkdirAll(filepath.Dir(other), 0o700); err != nil {
		e.Fatalf("%v", err)
	}
	b.Start()
	// The senders sign with this key. It counts those that were blessed with it.
	type using struct {
		key    string
		answer atomic.Int64
	}
	var now atomic.Pointer[using]
	now.Store(&using{key: endpointOf("sendclean").secret})
	done := make(chan struct{})
	const senders = 16
	for range senders {
		go func() {
			defer func() { done <- struct{}{} }()
			for e.ctx.Err() == nil && !e.Failed() {
				u := now.Load()
				if u == nil {
					return
				}
				if r := b.Post(e.SignedBy(u.key)); !r.Blessed() {
					e.Errorf("signed with a key in force: %d %q %v", r.Status, r.Body, r.Err)
				}
				u.answer.Add(1)
			}
		}()
	}
	for i := range e.Times(3) {
		u := now.Load()
		e.Wait("blessings", func() bool { return u.answer.Load() > 200 || e.Failed() })
		next := &using{key: fmt.Sprintf("EXAMPLE-NEXT-KEY-%d-0123456789", i+1)}
		e.Replace(other, next.key)
		b.keysInForce(2)
		now.Store(next)
		// Each sender has at most one request on its way that is signed with the old key.
		e.Wait("every sender to sign with the new key", func() bool { return next.answer.Load() > 3*senders || e.Failed() })
		answered(e, b, u.key, http.StatusOK) // it is in force still
		e.Replace(file, next.key)            // the same twice: one key
		b.keysInForce(1)
		answered(e, b, u.key, http.StatusUnauthorized)
		e.remove1(other)
	}
	now.Store(nil)
	for range senders {
		<-done
	}
	e.Rules.Statuses = []int{http.StatusUnauthorized}
}

func lateKey(e *Env) {
	b := e.Blessd(Config{})
	for i := range e.Times(2) {
		old, key := endpointOf("sendclean").secret, fmt.Sprintf("EXAMPLE-LATE-KEY-%d-0123456789", i+1)
		if i > 0 {
			old = fmt.Sprintf("EXAMPLE-LATE-KEY-%d-0123456789", i)
		}
		answered(e, b, old, http.StatusOK)
		before := b.Metric("blessd_unverified_redeemed_total")
		load := e.Load(b, Load{Providers: []string{"sendclean"}, Senders: 4, Make: func(string) *Delivery { return e.SignedBy(key) }})
		load.MoreRefused(100)
		load.Stop()
		n := float64(load.Refused())
		b.WaitMetric(n, "blessd_unverified_records", "endpoint", "acme")
		e.Replace(b.SecretFile("sendclean"), key)
		b.WaitMetric(before+n, "blessd_unverified_redeemed_total", "endpoint", "acme")
		b.WaitMetric(0, "blessd_unverified_records", "endpoint", "acme")
		answered(e, b, key, http.StatusOK)
	}
	// By hand there is nothing left to do, and to do it does no harm.
	if out, err := exec.CommandContext(e.ctx, e.o.Binary, "replay", "--unverified", "-c", b.ConfigFile()).CombinedOutput(); err != nil {
		e.Errorf("blessd replay --unverified: %v\n%s", err, out)
	}
	e.Rules.Redeemed = []int{http.StatusUnauthorized}
}

// badReload breaks what a reload reads, in the ways that people do.
func badReload(e *Env) {
	b := e.BlessdLater(Config{})
	// As in Kubernetes: the key is a link, into a directory that is a link.
	mount := filepath.Join(e.dir, "secret")
	versions := 0
	swap := func(key string) {
		versions++
		version := filepath.Join(mount, fmt.Sprintf("..v%d", versions))
		if err := os.MkdirAll(version, 0o700); err != nil {
			e.Fatalf("%v", err)
		}
		e.WriteFile(filepath.Join(version, "key"), key)
		tmp := filepath.Join(mount, "..data_tmp")
		if err := os.Symlink(filepath.Base(version), tmp); err != nil {
			e.Fatalf("%v", err)
		}
		if err := os.Rename(tmp, filepath.Join(mount, "..data")); err != nil {
			e.Fatalf("%v", err)
		}
	}
	key := endpointOf("sendclean").secret
	swap(key)
	e.remove1(b.SecretFile("sendclean"))
	for _, link := range [][2]string{{"..data/key", filepath.Join(mount, "key")}, {filepath.Join(mount, "key"), b.SecretFile("sendclean")}} {
		if err := os.Symlink(link[0], link[1]); err != nil {
			e.Fatalf("%v", err)
		}
	}
	b.Start()
	load := e.Load(b, Load{Pause: 2 * time.Millisecond})
	good, err := os.ReadFile(b.ConfigFile())
	if err != nil {
		e.Fatalf("%v", err)
	}
	reload := func(what string, want int) {
		status, text := b.Ask(http.MethodPost, "/-/reload")
		ok := 0.0
		if want == http.StatusOK {
			ok = 1
		}
		if status != want || b.Metric("blessd_config_last_reload_successful") != ok {
			e.Errorf("reload with %s: %d %s, and the metric is %v; want %d", what, status, text, b.Metric("blessd_config_last_reload_successful"), want)
		}
		load.MoreBlessed(50)
	}
	for range e.Times(1) {
		load.MoreBlessed(50)
		for what, text := range map[string]string{
			"broken YAML":           "endpoints: [",
			"an unknown key":        string(good) + "nonsense: true\n",
			"an empty file":         "",
			"a missing key file":    strings.Replace(string(good), b.SecretFile("mailgun"), filepath.Join(e.dir, "not-there"), 1),
			"no endpoint":           strings.Replace(string(good), "endpoints:", "endpoints: []\nwas:", 1),
			"an unknown provider":   strings.Replace(string(good), "provider: mailgun", "provider: pigeon", 1),
			"an endpoint twice":     strings.Replace(string(good), "name: sv", "name: acme", 1),
			"a file that is binary": "\x00\x01\x02",
		} {
			e.Replace(b.ConfigFile(), text)
			reload(what, http.StatusInternalServerError)
			b.Signal(syscall.SIGHUP) // says it in the log alone
			e.Replace(b.ConfigFile(), string(good))
			reload("what was there before "+what, http.StatusOK)
		}
		// An empty key file leaves the old key in force.
		swap("")
		load.MoreBlessed(50)
		b.keysInForce(1)
		answered(e, b, key, http.StatusOK)
		// A swapped one is in force without a reload. The provider changes last.
		next := "EXAMPLE-SWAPPED-KEY-0123456789"
		swap(key)
		load.MoreBlessed(50)
		load.Stop()
		swap(next)
		e.Wait("the swapped key", func() bool { return b.Post(e.SignedBy(next)).Blessed() })
		answered(e, b, key, http.StatusUnauthorized)
		swap(key)
		e.Wait("the first key", func() bool { return b.Post(e.SignedBy(key)).Blessed() })
		load = e.Load(b, Load{Pause: 2 * time.Millisecond})
		load.MoreBlessed(50)
	}
	// Each was signed with a key that came, or came back, afterwards.
	e.Rules.Redeemed = []int{http.StatusUnauthorized}
	if load.Refused()+load.Unanswered() > 0 {
		e.Errorf("%d refused and %d not answered over reloads, want none", load.Refused(), load.Unanswered())
	}
}
