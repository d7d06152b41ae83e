package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/blessd/blessd/receiver"
)

// reloadRig is a blessd whose configuration and key files a test changes.
type reloadRig struct {
	t      *testing.T
	dir    string
	daemon *daemon
	logs   *observer.ObservedLogs
}

const (
	oldKey = "EXAMPLE-OLD-KEY-0123456789"
	newKey = "EXAMPLE-NEW-KEY-0123456789"
)

// startReloadRig starts a blessd with these endpoints; DIR in them is the directory
// of the rig.
func startReloadRig(t *testing.T, endpoints string) *reloadRig {
	t.Helper()
	r := &reloadRig{t: t, dir: t.TempDir()}
	r.write("key", oldKey)
	r.configure(endpoints, "")
	cfg, err := loadConfig(r.path("blessd.yaml"), func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	core, logs := observer.New(zapcore.DebugLevel)
	r.daemon, r.logs = newDaemon(cfg, zap.New(core)), logs
	startDaemon(t, r.daemon)
	return r
}

func startDaemon(t *testing.T, d *daemon) {
	t.Helper()
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		if err := d.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
}

func (r *reloadRig) path(name string) string { return filepath.Join(r.dir, name) }

// write writes a file in place.
func (r *reloadRig) write(name, text string) {
	r.t.Helper()
	if err := os.WriteFile(r.path(name), []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// replace writes a file as it should be done.
func (r *reloadRig) replace(name, text string) {
	r.t.Helper()
	r.write(name+".new", text)
	if err := os.Rename(r.path(name+".new"), r.path(name)); err != nil {
		r.t.Fatal(err)
	}
}

// configure writes the configuration; more is put behind it.
func (r *reloadRig) configure(endpoints, more string) {
	r.t.Helper()
	r.replace("blessd.yaml", strings.ReplaceAll(fmt.Sprintf(`listen: 127.0.0.1:0
public_url: https://hooks.example.com
admin: {listen: "127.0.0.1:0"}
data_dir: DIR/data
nats: {embedded: {listen: "127.0.0.1:0"}}
endpoints:
%s
%s`, endpoints, more), "DIR", r.dir))
}

// ask asks the admin listener and returns the status and the body.
func (r *reloadRig) ask(method, path string) (int, string) {
	r.t.Helper()
	q, err := http.NewRequest(method, "http://"+r.daemon.Addresses().Admin+path, http.NoBody)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.do(q)
}

func (r *reloadRig) do(q *http.Request) (int, string) {
	r.t.Helper()
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return a.StatusCode, string(b)
}

// post sends what SendClean would, signed with the key.
func (r *reloadRig) post(endpoint, key string) int {
	r.t.Helper()
	code, _ := r.do(r.signed(endpoint, key))
	return code
}

func (r *reloadRig) signed(endpoint, key string) *http.Request {
	s, err := receiver.Sign(receiver.Plain{
		Provider: "sendclean", URL: "https://hooks.example.com" + receiver.Path(endpoint, ""), Key: receiver.Secret(key), Now: time.Now(),
		Body: []byte(`[{"_id":"1","ts":1465890656000,"event":"send"}]`), ContentType: "application/json",
	})
	if err != nil {
		r.t.Error(err)
	}
	q, err := http.NewRequest(http.MethodPost, "http://"+r.daemon.Addresses().Hooks+receiver.Path(endpoint, ""), bytes.NewReader(s.Body))
	if err != nil {
		r.t.Error(err)
		return nil
	}
	q.Header = s.Header.Clone()
	q.Header.Set("Content-Type", s.ContentType)
	return q
}

// metric returns the value of a series, "" when there is none.
func (r *reloadRig) metric(series string) string {
	r.t.Helper()
	_, text := r.ask(http.MethodGet, "/metrics")
	for line := range strings.Lines(text) {
		if value, found := strings.CutPrefix(line, series+" "); found {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s for %s", what)
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-t.Context().Done():
		}
	}
}

const acme = "  - {name: acme, provider: sendclean, key_files: [DIR/key], signature: enforce}"

func TestReload(t *testing.T) {
	t.Parallel()
	r := startReloadRig(t, acme+"\n  - {name: gone, provider: vision6, auth: none}")
	const ok = "blessd_config_last_reload_successful"
	started := r.metric("blessd_config_last_reload_success_timestamp_seconds")
	hash := r.metric("blessd_config_hash")
	if got := r.metric(ok); got != "1" {
		t.Errorf("%s is %q after the start, want 1", ok, got)
	}

	// Nothing of this may come into force, and no secret may show.
	const secret = "SECRET-IN-THE-WRONG-PLACE-0123"
	r.write("empty", "")
	r.configure("  - {name: next, provider: sendclean, key_files: [DIR/key], signature: enforce}\n"+
		"  - {name: bad, provider: sendclean, key_files: [DIR/empty], password: "+secret+"}", "")
	code, text := r.ask(http.MethodPost, "/-/reload")
	if code != http.StatusInternalServerError || !strings.Contains(text, "password") || !strings.Contains(text, "blessd.yaml:") {
		t.Errorf("a bad file: %d %q, want 500 with the place and the key", code, text)
	}
	r.configure("  - {name: next, provider: sendclean, key_files: [DIR/empty, DIR/none]}", "")
	code, also := r.ask(http.MethodPost, "/-/reload")
	if code != http.StatusInternalServerError || !strings.Contains(also, "empty") || !strings.Contains(also, "none") {
		t.Errorf("bad key files: %d %q, want 500 and both", code, also)
	}
	said := r.logs.FilterMessage("not reloaded: what was in force stays in force").All()
	if len(said) != 2 {
		t.Errorf("the log says %d times that nothing was reloaded, want 2", len(said))
	}
	if all := fmt.Sprint(text, also, r.logs.All()); strings.Contains(all, secret) || strings.Contains(all, oldKey) {
		t.Error("a secret shows in the answer or in the log")
	}
	if got := r.metric(ok); got != "0" {
		t.Errorf("%s is %q after a bad file, want 0", ok, got)
	}
	if r.metric("blessd_config_hash") != hash || r.metric("blessd_config_last_reload_success_timestamp_seconds") != started {
		t.Error("the hash or the time of what is in force has changed")
	}
	if a, b := r.post("acme", oldKey), r.post("next", oldKey); a != 200 || b != 404 {
		t.Errorf("after a bad file: acme %d, next %d; want 200 and 404", a, b)
	}
	// Keys that are read again by themselves do not hide that the file was refused.
	r.replace("key", newKey)
	until(t, "the new key", func() bool { return r.post("acme", newKey) == 200 })
	if got := r.metric(ok); got != "0" {
		t.Errorf("%s is %q while the file is bad, want 0", ok, got)
	}
	r.replace("key", oldKey)
	until(t, "the old key", func() bool { return r.post("acme", oldKey) == 200 })

	r.configure(acme+"\n  - {name: next, provider: sendclean, key_files: [DIR/key], signature: enforce}",
		"journal: {max_bytes: 1GiB}\nlimits: {max_body: 1MiB}")
	code, text = r.ask(http.MethodPost, "/-/reload")
	if want := "reloaded: 2 endpoints\nchanged, but not before a restart: limits.max_body, journal.max_bytes\n"; code != 200 || text != want {
		t.Errorf("a good file: %d %q, want 200 %q", code, text, want)
	}
	if r.logs.FilterMessage("settings have changed that need a restart").Len() != 1 {
		t.Error("the log does not say that a restart is needed")
	}
	if a, b := r.post("acme", oldKey), r.post("next", oldKey); a != 200 || b != 200 {
		t.Errorf("after a good file: acme %d, next %d; want 200 both", a, b)
	}
	for series, want := range map[string]string{
		ok: "1",
		`blessd_endpoint_keys{endpoint="gone",kind="none",provider="vision6"}`:                       "",
		`blessd_endpoint_keys{endpoint="next",kind="signature",provider="sendclean"}`:                "1",
		`blessd_events_quarantined_total{endpoint="next",provider="sendclean",reason="too_large"}`:   "0",
		`blessd_webhook_rejected_total{endpoint="next",provider="sendclean",reason="bad_signature"}`: "0",
	} {
		if got := r.metric(series); got != want {
			t.Errorf("%s is %q, want %q", series, got, want)
		}
	}
	if r.metric("blessd_config_hash") == hash {
		t.Error("the hash has not changed with the file")
	}
	var s status
	_, text = r.ask(http.MethodGet, "/-/status")
	if err := json.Unmarshal([]byte(text), &s); err != nil || len(s.Endpoints) != 2 || s.Endpoints[1].Name != "next" {
		t.Errorf("status after the reload: %v %s", err, text)
	}

	// It is asked for by POST, and not by a page on the internet.
	if code, _ := r.ask(http.MethodGet, "/-/reload"); code != http.StatusMethodNotAllowed {
		t.Errorf("GET /-/reload: %d, want 405", code)
	}
	q, err := http.NewRequest(http.MethodPost, "http://"+r.daemon.Addresses().Admin+"/-/reload", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	q.Header.Set("Origin", "https://elsewhere.example")
	if code, _ := r.do(q); code != http.StatusForbidden {
		t.Errorf("POST /-/reload from another origin: %d, want 403", code)
	}
}

// TestHangup is a reload by signal.
func TestHangup(t *testing.T) {
	t.Parallel()
	r := startReloadRig(t, acme)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	hangup := make(chan os.Signal, 1)
	go func() { ended <- r.daemon.wait(ctx, hangup) }()
	r.configure(acme+"\n  - {name: next, provider: sendclean, key_files: [DIR/key], signature: enforce}", "")
	hangup <- syscall.SIGHUP
	until(t, "the new endpoint", func() bool { return r.post("next", oldKey) == 200 })
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("run ended with %v", err)
	}
}

// TestReloadInUse reloads, asks for status and metrics, and posts, all at once. A
// key that is in force all the time is never refused.
func TestReloadInUse(t *testing.T) {
	t.Parallel()
	r := startReloadRig(t, acme)
	var stop atomic.Bool
	var wg sync.WaitGroup
	posted := make([]atomic.Int64, 4)
	for i := range posted {
		wg.Go(func() {
			for !stop.Load() {
				q := r.signed("acme", oldKey)
				a, err := http.DefaultClient.Do(q)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := io.Copy(io.Discard, a.Body); err != nil {
					t.Error(err)
				}
				_ = a.Body.Close() // it was read
				if a.StatusCode != 200 {
					t.Errorf("status %d while reloading", a.StatusCode)
				}
				posted[i].Add(1)
			}
		})
	}
	for i := range 20 {
		other := ""
		if i%2 == 0 {
			other = "\n  - {name: other, provider: enkod, auth: none}"
		}
		r.configure(acme+other, "")
		if code, text := r.ask(http.MethodPost, "/-/reload"); code != 200 {
			t.Errorf("reload %d: %d %s", i, code, text)
		}
		r.ask(http.MethodGet, "/-/status")
		r.metric("blessd_config_hash")
	}
	for i := range posted {
		until(t, "every sender to have posted", func() bool { return posted[i].Load() > 2 })
	}
	stop.Store(true)
	wg.Wait()
}

func TestKeyFilesAreWatched(t *testing.T) {
	t.Parallel()
	verifies := func(t *testing.T, r *reloadRig, key string) {
		t.Helper()
		until(t, "a key that was put there", func() bool { return r.post("acme", key) == 200 })
	}
	const refusal = "not reloaded: what was in force stays in force"

	t.Run("replaced by rename", func(t *testing.T) {
		t.Parallel()
		r := startReloadRig(t, acme)
		verifies(t, r, oldKey)
		r.replace("key", newKey)
		verifies(t, r, newKey)
		if code := r.post("acme", oldKey); code != 401 {
			t.Errorf("the old key: %d, want 401", code)
		}
	})
	t.Run("emptied and taken away", func(t *testing.T) {
		t.Parallel()
		r := startReloadRig(t, acme)
		refused := func() bool { return r.metric("blessd_config_last_reload_successful") == "0" }
		r.write("key", "")
		until(t, "the empty file to be refused", refused)
		verifies(t, r, oldKey)
		r.write("key", newKey+"\n")
		verifies(t, r, newKey)
		until(t, "the reload to be successful", func() bool { return !refused() })
		if err := os.Remove(r.path("key")); err != nil {
			t.Fatal(err)
		}
		until(t, "the missing file to be refused", refused)
		verifies(t, r, newKey)
		r.replace("key", oldKey)
		verifies(t, r, oldKey)
		if n := r.logs.FilterMessage(refusal).Len(); n != 2 {
			t.Errorf("the log says %d times that nothing was reloaded, want 2", n)
		}
	})
	t.Run("as Kubernetes does it", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		link := func(target, name string) {
			t.Helper()
			if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		volume := func(name, key string) {
			t.Helper()
			if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name, "acme"), []byte(key), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		volume("..2026_11_21_01", oldKey)
		link("..2026_11_21_01", "..data")
		link("..data/acme", "acme")
		r := startReloadRig(t, strings.ReplaceAll(acme, "DIR/key", filepath.Join(dir, "acme")))
		verifies(t, r, oldKey)
		volume("..2026_11_21_02", newKey)
		link("..2026_11_21_02", "..data_tmp")
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, "..2026_11_21_01")); err != nil {
			t.Fatal(err)
		}
		verifies(t, r, newKey)
		if n := r.logs.FilterMessage(refusal).Len(); n != 0 {
			t.Errorf("refused %d times", n)
		}
	})
	t.Run("in a directory that was not there", func(t *testing.T) {
		t.Parallel()
		r := startReloadRig(t, "  - {name: acme, provider: sendclean}")
		if code := r.post("acme", newKey); code != 503 {
			t.Errorf("awaiting its key: %d, want 503", code)
		}
		if err := os.MkdirAll(r.path("data/keys/acme"), 0o700); err != nil {
			t.Fatal(err)
		}
		r.replace("data/keys/acme/provider.key", newKey)
		verifies(t, r, newKey)
	})
	t.Run("without a configuration file", func(t *testing.T) {
		t.Parallel()
		d, dir := startClientTest(t)
		key := filepath.Join(dir, "keys", "mailgun", providerKeyFile)
		if err := writeFile(key, []byte(newKey)); err != nil {
			t.Fatal(err)
		}
		awaiting := func() bool {
			for _, e := range d.inForce.Load().endpoints {
				if e.Name == "mailgun" {
					return awaitsKey(e)
				}
			}
			t.Fatal("mailgun has no endpoint")
			return true
		}
		until(t, "provider.key to be read", func() bool { return !awaiting() })
		if err := os.Remove(key); err != nil {
			t.Fatal(err)
		}
		if r := d.Reload("test"); len(r.refused) > 0 || r.endpoints != len(receiver.Providers()) || !awaiting() {
			t.Errorf("reload without a file: %s", r)
		}
	})
}

// The directories that are watched are those in which a change can make a path
// another file.
func TestPlacesOf(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.MkdirAll(at("real/v1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("real/v1/key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"real/current": "v1", "keys": at("real"), "loop": "loop", "dangling": "real/nothing"} {
		if err := os.Symlink(target, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string][]string{
		"real/v1/key":      {"real/v1"},
		"real/current/key": {"real", "real/v1"},
		"keys/current/key": {"", "real", "real/v1"},
		"real/v1":          {"real/v1"},
		"real/v1/none":     {"real/v1"},
		"none/v1/key":      {""},
		"dangling":         {"", "real"},
	} {
		for i := range want {
			want[i] = at(want[i])
		}
		if got := placesOf(at(file)); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("places of %s: %v, want %v", file, got, want)
		}
	}
	if got := placesOf(at("loop")); len(got) == 0 || got[0] != dir {
		t.Errorf("places of a link to itself: %v", got)
	}
}
