package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestRotation changes the key of an endpoint under load, three times, as it is
// meant to be done: the new one beside the old one, then the provider, then the old
// one away. No request that is signed with a key in force is refused.
func TestRotation(t *testing.T) {
	r := newRig(t, "  embedded: {listen: \"127.0.0.1:0\"}")
	file, other := filepath.Join(r.dir, "key"), filepath.Join(r.dir, "data", "keys", "acme", "next.key")
	if err := os.MkdirAll(filepath.Dir(other), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(r.dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.start()
	target := *r.hooks.Load() + "/hooks/acme"

	const senders = 16
	var using atomic.Pointer[string]
	current := key
	using.Store(&current)
	var round [senders]atomic.Int64 // of each sender's last answer, by key
	l := newLedger()
	keys := map[string]int64{key: 0}
	var keysMu sync.Mutex
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: senders}}
	for s := range senders {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				k := *using.Load()
				uid := fmt.Sprintf("u-%d-%d", s, n)
				l.mu.Lock()
				l.sent[uid] = true
				l.mu.Unlock()
				status, answer, err := postSigned(client, target, uid, k)
				if err != nil || status != http.StatusOK || answer != blessing {
					t.Errorf("signed with a key in force: %d %q %v", status, answer, err)
					return
				}
				l.mu.Lock()
				l.blessed[uid] = true
				l.mu.Unlock()
				keysMu.Lock()
				round[s].Store(keys[k])
				keysMu.Unlock()
			}
		})
	}
	inForce := func(n int) {
		t.Helper()
		wait(t, fmt.Sprintf("%d keys in force", n), func() bool {
			return r.metric(`blessd_endpoint_keys{endpoint="acme",kind="signature",provider="sendclean"}`) == fmt.Sprint(n)
		})
	}
	for i := range int64(3) {
		before := l.count()
		wait(t, "blessings", func() bool { return l.count() > before+200 })
		old, next := *using.Load(), fmt.Sprintf("EXAMPLE-NEXT-KEY-%d-0123456789", i+1)
		rename(t, other, next)
		inForce(2)
		keysMu.Lock()
		keys[next] = i + 1
		keysMu.Unlock()
		using.Store(&next)
		for s := range senders {
			wait(t, "every sender to sign with the new key", func() bool { return t.Failed() || round[s].Load() == i+1 })
		}
		if status, _, err := postSigned(client, target, "late", old); err != nil || status != http.StatusOK {
			t.Errorf("signed with the old key, which is in force: %d %v", status, err)
		}
		rename(t, file, next) // the same twice: one key
		inForce(1)
		if status, _, err := postSigned(client, target, "late", old); err != nil || status != http.StatusUnauthorized {
			t.Errorf("signed with the key that was taken away: %d %v, want 401", status, err)
		}
		if err := os.Remove(other); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	wg.Wait()
	l.sent["late"], l.blessed["late"] = true, true
	l.verdict(t, r.nats)
}

// rename puts a file in place as it should be done.
func rename(t *testing.T, file, text string) {
	t.Helper()
	write(t, file+".tmp", text)
	if err := os.Rename(file+".tmp", file); err != nil {
		t.Fatal(err)
	}
}
