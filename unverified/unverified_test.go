package unverified

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
)

var (
	eu    = Endpoint{"mailgun", "eu"}
	acme  = Endpoint{"sendclean", "acme"}
	start = time.Date(2026, 11, 21, 17, 22, 17, 123456789, time.UTC)
)

func open(t *testing.T, dir string, maxBytes int64, es ...Endpoint) (*Store, *prometheus.Registry) {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	s, err := Open(Options{Dir: dir, MaxBytes: maxBytes, Final: []string{"forgery_suspected"}, Held: []string{"key_rotation"}, Log: zap.NewNop(), Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	s.SetEndpoints(es)
	t.Cleanup(func() { closeStore(t, s) })
	return s, reg
}

func closeStore(t *testing.T, s *Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

// refused is the n-th delivery of an endpoint.
func refused(e Endpoint, n int, body string) *delivery.Delivery {
	return &delivery.Delivery{
		Provider: e.Provider, Endpoint: e.Name, Received: start.Add(time.Duration(n) * time.Second), Method: "POST", ContentType: "application/json",
		Header: []delivery.Field{{Name: "Traceparent", Value: fmt.Sprint(n)}}, Body: []byte(body),
	}
}

func flush(t *testing.T, s *Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.flush(ctx); err != nil {
		t.Fatal(err)
	}
}

// bodies redeems nothing and returns what is there.
func bodies(t *testing.T, s *Store, f Filter) (all []string) {
	t.Helper()
	_, err := s.DryRun(t.Context(), f, func(_ context.Context, d *delivery.Delivery) (string, error) {
		all = append(all, string(d.Body))
		return "bad_signature", nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func want(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// files returns the regular files below dir.
func files(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestKeptAcrossARestart(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "unverified")
	s, _ := open(t, dir, 1<<20, eu)
	in := refused(eu, 1, `{"to":"user@example.com"}`)
	in.Header = append(in.Header, delivery.Field{Name: "X-Signature", Value: "c2VjcmV0"})
	in.Verified = delivery.Verification{Method: delivery.ByToken, Key: "0badcafe"}
	s.Keep(in, "bad_signature")
	s.Keep(refused(eu, 2, `{"to":"other@example.com"}`), "awaiting_key")
	closeStore(t, s)

	for _, path := range append(files(t, dir), dir, filepath.Join(dir, "mailgun.eu")) {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode&0o077 != 0 {
			t.Errorf("%s has mode %o, which lets others in", path, mode)
		}
	}
	// A file of a write that was killed, and one that is not ours.
	torn := filepath.Join(dir, "mailgun.eu", newFile+"123")
	for _, name := range []string{torn, filepath.Join(dir, "mailgun.eu", "README")} {
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	s, reg := open(t, dir, 1<<20, eu)
	var got []*delivery.Delivery
	sum, err := s.Redeem(t.Context(), Filter{Reasons: []string{"bad_signature"}}, func(_ context.Context, d *delivery.Delivery) (string, error) {
		got = append(got, d)
		return "", nil
	}, nil)
	if err != nil || sum.Chosen != 1 || sum.Redeemed != 1 {
		t.Fatalf("got %+v, %v", sum, err)
	}
	want(t, "the delivery", *got[0], *in)
	want(t, "what is left", bodies(t, s, Filter{}), []string{`{"to":"other@example.com"}`})
	want(t, "records", testutil.ToFloat64(s.metrics.records), 1)
	want(t, "redeemed", testutil.ToFloat64(s.metrics.redeemed), 1)
	want(t, "files", len(files(t, dir)), 2) // and the README
	if _, err := os.Stat(torn); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a killed write left is still there: %v", err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
}

func TestFileNamesHaveNoSecrets(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, 1<<20, eu)
	d := refused(eu, 1, "body-secret")
	d.Query = "token=query-secret"
	d.Header = append(d.Header, delivery.Field{Name: "X-Signature", Value: "header-secret"})
	s.Keep(d, "bad_signature")
	flush(t, s)
	names := files(t, dir)
	if len(names) != 1 || strings.Contains(names[0], "secret") {
		t.Errorf("files %q, want one without a secret in its name", names)
	}
}

func TestEqualDeliveriesAreKeptOnce(t *testing.T) {
	s, _ := open(t, t.TempDir(), 1<<20, eu, acme)
	for n := range 5 {
		s.Keep(refused(eu, n, "same"), "bad_signature") // another Traceparent each time
	}
	s.Keep(refused(acme, 9, "same"), "bad_signature") // of another endpoint
	signed := refused(eu, 10, "same")
	signed.Header = append(signed.Header, delivery.Field{Name: "X-Signature", Value: "other"})
	s.Keep(signed, "bad_signature") // a stranger's copy must not stand for the provider's
	var got []time.Time
	if _, err := s.DryRun(t.Context(), Filter{}, func(_ context.Context, d *delivery.Delivery) (string, error) {
		got = append(got, d.Received)
		return "", nil
	}, nil); err != nil {
		t.Fatal(err)
	}
	want(t, "received", got, []time.Time{start, start.Add(9 * time.Second), start.Add(10 * time.Second)})
}

// A flood takes the room of its own endpoint, oldest first, and of no other.
func TestFairShares(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, 16*blockSize, eu, acme)
	s.Keep(refused(acme, 0, "the one that counts"), "bad_signature")
	for n := range 100 {
		s.Keep(refused(eu, n, fmt.Sprint("flood ", n)), "bad_signature")
		flush(t, s)
	}
	want(t, "acme's", bodies(t, s, Filter{Endpoints: []string{"acme"}}), []string{"the one that counts"})
	want(t, "eu's", bodies(t, s, Filter{Providers: []string{"mailgun"}}),
		[]string{"flood 92", "flood 93", "flood 94", "flood 95", "flood 96", "flood 97", "flood 98", "flood 99"})
	want(t, "evicted", testutil.ToFloat64(s.metrics.evicted.WithLabelValues("mailgun", "eu")), 92)
	want(t, "bytes", testutil.ToFloat64(s.metrics.bytes.WithLabelValues("mailgun", "eu")), 8*blockSize)
	want(t, "limit", testutil.ToFloat64(s.metrics.limit.WithLabelValues("mailgun", "eu")), 8*blockSize)

	// What is larger than the share is not worth eight others.
	s.Keep(refused(eu, 200, strings.Repeat("x", 9*blockSize)), "bad_signature")
	flush(t, s)
	want(t, "eu's", len(bodies(t, s, Filter{Endpoints: []string{"eu"}})), 8)
	want(t, "dropped", testutil.ToFloat64(s.metrics.dropped.WithLabelValues("mailgun", "eu")), 1)

	// More endpoints have smaller shares; one that has left keeps its own until it
	// is empty.
	more := []Endpoint{eu, {"sarv", "in"}, {"mailgun", "us"}}
	s.SetEndpoints(more)
	want(t, "eu's", bodies(t, s, Filter{Endpoints: []string{"eu"}}), []string{"flood 96", "flood 97", "flood 98", "flood 99"})
	want(t, "acme's", bodies(t, s, Filter{Endpoints: []string{"acme"}}), []string{"the one that counts"})
	s.Keep(refused(acme, 300, "of an endpoint that has left"), "bad_signature")
	if _, err := s.Redeem(t.Context(), Filter{Endpoints: []string{"acme"}}, func(context.Context, *delivery.Delivery) (string, error) { return "", nil }, nil); err != nil {
		t.Fatal(err)
	}
	s.SetEndpoints(more)
	if _, err := os.Stat(filepath.Join(dir, "sendclean.acme")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the empty shelf of an endpoint that has left is still there: %v", err)
	}
	want(t, "limit", testutil.ToFloat64(s.metrics.limit.WithLabelValues("mailgun", "eu")), 16*blockSize/3)
}

// Keep must not wait for the disk: nothing is taken from the queue here.
func TestKeepNeverWaits(t *testing.T) {
	s, _ := open(t, t.TempDir(), 1<<30, eu, acme)
	s.mu.Lock() // the writer waits with one in its hands
	big := strings.Repeat("x", queueBytes/4)
	for n := range 20 {
		s.Keep(refused(eu, n, fmt.Sprint(n, big)), "bad_signature")
	}
	s.Keep(refused(acme, 1, strings.Repeat("y", 2*queueBytes)), "bad_signature") // one may always wait
	dropped := testutil.ToFloat64(s.metrics.dropped.WithLabelValues("mailgun", "eu"))
	s.mu.Unlock()
	flush(t, s)
	if dropped < 15 || dropped > 18 {
		t.Errorf("%v of 20 were dropped, want all but the 3 or 4 for which there is room", dropped)
	}
	want(t, "acme's", len(bodies(t, s, Filter{Endpoints: []string{"acme"}})), 1)
	want(t, "eu's", len(bodies(t, s, Filter{Endpoints: []string{"eu"}})), 20-int(dropped))
}

// hold holds the n-th delivery of an endpoint.
func hold(t *testing.T, s *Store, e Endpoint, n int, body string) {
	t.Helper()
	if err := s.Hold(t.Context(), refused(e, n, body), "key_rotation"); err != nil {
		t.Fatalf("hold %q: %v", body, err)
	}
}

// What is held takes nothing from a share, and no flood on a share takes it away.
// Once it was tried it is like all.
func TestHeldBesideTheShares(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, 8*blockSize, eu, acme)
	for n := range 5 {
		hold(t, s, eu, n, fmt.Sprint("held ", n))
	}
	for n := range 20 {
		s.Keep(refused(eu, 100+n, fmt.Sprint("flood ", n)), "bad_signature")
		flush(t, s)
	}
	s.Keep(refused(eu, 200, "held 3"), "bad_signature") // the provider comes again, afterwards
	held := []string{"held 0", "held 1", "held 2", "held 3", "held 4"}
	want(t, "eu's", bodies(t, s, Filter{}), append(held, "flood 16", "flood 17", "flood 18", "flood 19"))
	gauge := func(what string, v *prometheus.GaugeVec, n float64) {
		t.Helper()
		want(t, what, testutil.ToFloat64(v.WithLabelValues("mailgun", "eu")), n)
	}
	gauge("held", s.metrics.held, 5)
	gauge("records", s.metrics.records, 9)
	gauge("bytes", s.metrics.bytes, 4*blockSize)

	// A restart knows them by their names.
	closeStore(t, s)
	s, _ = open(t, dir, 8*blockSize, eu, acme)
	gauge("held", s.metrics.held, 5)

	// Room for those held is bounded too, and the endpoint with most gives way.
	for n := range 6 {
		hold(t, s, acme, n, fmt.Sprint("acme ", n))
	}
	want(t, "acme's", bodies(t, s, Filter{Endpoints: []string{"acme"}}), []string{"acme 1", "acme 2", "acme 3", "acme 4", "acme 5"})
	want(t, "eu's", bodies(t, s, Filter{Reasons: []string{"key_rotation"}, Endpoints: []string{"eu"}}), []string{"held 2", "held 3", "held 4"})
	if err := s.Hold(t.Context(), refused(eu, 9, strings.Repeat("x", 9*blockSize)), "key_rotation"); err == nil {
		t.Error("what is larger than all the room was held")
	}

	// Tried by a key that does not fit they are in the share again, by their age.
	try := func(reason string) Summary {
		t.Helper()
		sum, err := s.Redeem(t.Context(), Filter{Endpoints: []string{"eu"}}, func(_ context.Context, d *delivery.Delivery) (string, error) {
			if string(d.Body) == "held 2" {
				return "", nil
			}
			return reason, nil
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	if sum := try("key_rotation"); sum.Redeemed != 1 { // more keys are to come
		t.Errorf("got %+v", sum)
	}
	gauge("held", s.metrics.held, 2)
	try("bad_signature")
	gauge("held", s.metrics.held, 0)
	gauge("bytes", s.metrics.bytes, 4*blockSize)
	want(t, "eu's", len(bodies(t, s, Filter{Endpoints: []string{"eu"}})), 4)

	// What is refused as ever and then again while a rotation is announced moves over,
	// unless it is suspect.
	s.Keep(refused(eu, 300, "again"), "bad_signature")
	hold(t, s, eu, 301, "again")
	gauge("held", s.metrics.held, 1)
	s.Keep(refused(eu, 302, "suspect"), "forgery_suspected")
	hold(t, s, eu, 303, "suspect")
	gauge("held", s.metrics.held, 1)
}

// Hold waits for the disk, for as long as its caller does and no longer, and what it
// gives up is written by nobody.
func TestHoldWaits(t *testing.T) {
	s, _ := open(t, t.TempDir(), 1<<30, eu)
	s.mu.Lock() // the disk stands still
	s.Keep(refused(eu, 0, "first"), "bad_signature")
	waitUntil(t, "the writer to have the first", func() bool {
		s.queue.mu.Lock()
		defer s.queue.mu.Unlock()
		return s.queue.writing != nil
	})
	big := strings.Repeat("x", queueBytes)
	held := make(chan error, 4)
	for n := range 3 {
		go func() { held <- s.Hold(t.Context(), refused(eu, 1+n, fmt.Sprint(n, big)), "key_rotation") }()
	}
	impatient, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { gone <- s.Hold(impatient, refused(eu, 9, "gone"), "key_rotation") }()
	waitUntil(t, "all to wait", func() bool {
		s.queue.mu.Lock()
		defer s.queue.mu.Unlock()
		return s.queue.lines[eu] != nil && len(s.queue.lines[eu].items) == 4
	})
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	s.mu.Unlock()
	for range 3 {
		if err := <-held; err != nil {
			t.Error(err)
		}
	}
	want(t, "kept", len(bodies(t, s, Filter{})), 4)
	want(t, "dropped", testutil.ToFloat64(s.metrics.dropped.WithLabelValues("mailgun", "eu")), 1)
	closeStore(t, s)
	if err := s.Hold(t.Context(), refused(eu, 10, "late"), "key_rotation"); err == nil {
		t.Error("held by a store that is closed")
	}
}

// waitUntil waits for a condition, for half a minute at most.
func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited half a minute for %s", what)
		}
	}
}

func TestRedeem(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, 1<<20, eu, acme)
	for n := range 4 {
		s.Keep(refused(eu, 2*n, fmt.Sprint("eu ", n)), "awaiting_key")
		s.Keep(refused(acme, 2*n+1, fmt.Sprint("acme ", n)), "bad_signature")
	}
	s.Keep(refused(eu, 20, "suspect"), "forgery_suspected")
	s.Keep(refused(eu, 21, "suspect later"), "awaiting_key")
	s.Keep(refused(eu, 22, "suspect later"), "forgery_suspected") // the same again, by now suspect

	var order []string
	progress := 0
	sum, err := s.Redeem(t.Context(), Filter{}, func(_ context.Context, d *delivery.Delivery) (string, error) {
		order = append(order, string(d.Body))
		switch string(d.Body) {
		case "eu 2":
			return "forgery_suspected", nil
		case "acme 2":
			return "bad_signature", nil
		}
		return "", nil
	}, func(Summary) { progress++ })
	if err != nil {
		t.Fatal(err)
	}
	want(t, "order", order, []string{"eu 0", "acme 0", "eu 1", "acme 1", "eu 2", "acme 2", "eu 3", "acme 3"})
	want(t, "summary", sum, Summary{Chosen: 10, Done: 10, Redeemed: 6, Stayed: map[string]int{"forgery_suspected": 3, "bad_signature": 1}})
	want(t, "progress", progress, 10)

	// What was suspect once is not tried again, after a restart neither.
	closeStore(t, s)
	s, _ = open(t, dir, 1<<20, eu, acme)
	want(t, "tried again", bodies(t, s, Filter{}), []string{"acme 2"})
	want(t, "within a time", bodies(t, s, Filter{Since: start.Add(5 * time.Second), Until: start.Add(6 * time.Second)}), []string{"acme 2"})
	want(t, "after it", len(bodies(t, s, Filter{Since: start.Add(6 * time.Second)})), 0)
}

func TestRedeemStopsAtAnError(t *testing.T) {
	s, _ := open(t, t.TempDir(), 1<<20, eu)
	for n := range 3 {
		s.Keep(refused(eu, n, fmt.Sprint(n)), "awaiting_key")
	}
	full := errors.New("no room")
	sum, err := s.Redeem(t.Context(), Filter{}, func(_ context.Context, d *delivery.Delivery) (string, error) {
		if string(d.Body) == "1" {
			return "", full
		}
		return "", nil
	}, nil)
	if !errors.Is(err, full) || sum.Redeemed != 1 {
		t.Errorf("got %+v, %v", sum, err)
	}
	want(t, "what stays", bodies(t, s, Filter{}), []string{"1", "2"})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Redeem(ended, Filter{}, nil, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("redeeming under an ended context: %v", err)
	}
}

func TestDamagedFilesAreLetGo(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, 1<<20, eu)
	s.Keep(refused(eu, 1, "cut short"), "awaiting_key")
	s.Keep(refused(eu, 2, "whole"), "awaiting_key")
	s.Keep(refused(eu, 3, "removed"), "awaiting_key")
	flush(t, s)
	names := files(t, dir)
	slices.Sort(names)
	if err := os.Truncate(names[0], 30); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(names[2]); err != nil {
		t.Fatal(err)
	}
	sum, err := s.Redeem(t.Context(), Filter{}, func(context.Context, *delivery.Delivery) (string, error) { return "", nil }, nil)
	if err != nil || sum.Redeemed != 1 || sum.Damaged != 1 {
		t.Errorf("got %+v, %v", sum, err)
	}
	want(t, "files", len(files(t, dir)), 0)
	want(t, "records", testutil.ToFloat64(s.metrics.records), 0)
}

// What was kept for a final reason is erased like the rest, and a restart finds
// nothing of it.
func TestErase(t *testing.T) {
	dir := t.TempDir()
	s, _ := open(t, dir, 1<<20, acme, eu)
	s.Keep(refused(acme, 1, "about me"), "bad_signature")
	s.Keep(refused(eu, 2, "about me, too"), "forgery_suspected")
	s.Keep(refused(eu, 3, "about you"), "bad_signature")
	about := func(b []byte) bool { return strings.Contains(string(b), "me") }
	for _, c := range []struct {
		dryRun        bool
		seen, matched int
	}{{true, 3, 2}, {false, 3, 2}, {false, 1, 0}} {
		seen, matched, err := s.Erase(t.Context(), about, c.dryRun, nil)
		if err != nil || seen != c.seen || matched != c.matched {
			t.Errorf("dry run %v: %d of %d, %v; want %d of %d", c.dryRun, matched, seen, err, c.matched, c.seen)
		}
	}
	closeStore(t, s)
	again, _ := open(t, dir, 1<<20, acme, eu)
	want(t, "left after a restart", bodies(t, again, Filter{}), []string{"about you"})
}
