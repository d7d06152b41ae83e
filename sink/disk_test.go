package sink

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

// What Sync has synced is remembered, so that an idle stream costs nothing, and
// what has changed since is not taken for synced.
func TestDiskRemembers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	msgs := filepath.Join(dir, "A", "streams", "S", "msgs")
	if err := os.MkdirAll(msgs, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(msgs, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("1.blk", "one")
	write("index.db", "index")
	write("../meta.inf", "{}")
	d, err := openDisk(dir, "A")
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	known := func() (names []string) {
		t.Helper()
		if err := d.sync(context.Background()); err != nil {
			t.Fatal(err)
		}
		for path := range d.synced {
			rel, err := filepath.Rel(filepath.Join(dir, "A", "streams"), path)
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, rel)
		}
		slices.Sort(names)
		return names
	}
	want := []string{".", "S", "S/meta.inf", "S/msgs", "S/msgs/1.blk"}
	if got := known(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	block := filepath.Join(msgs, "1.blk")
	before := d.synced[block]
	write("1.blk", "more")
	known()
	if d.synced[block] == before {
		t.Error("a block that has grown was not synced again")
	}
	before = d.synced[block]
	write("1.tmp", "none") // of the same size, then renamed over the block
	if err := os.Chtimes(filepath.Join(msgs, "1.tmp"), before.mtime, before.mtime); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(msgs, "1.tmp"), block); err != nil {
		t.Fatal(err)
	}
	known()
	if d.synced[block] == before {
		t.Error("a block that was replaced was not synced again")
	}
	write("2.blk", "two")
	if err := os.Remove(block); err != nil {
		t.Fatal(err)
	}
	want = []string{".", "S", "S/meta.inf", "S/msgs", "S/msgs/2.blk"}
	if got := known(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := os.Remove(filepath.Join(msgs, "../meta.inf")); err != nil {
		t.Fatal(err)
	}
	if err := d.syncFiles(context.Background()); !errors.Is(err, errLayout) {
		t.Errorf("an unknown layout: got %v, want %v", err, errLayout)
	}
	known() // the whole file system then

	// A failure stays one.
	d.root.Close()
	if err := d.sync(context.Background()); err == nil {
		t.Fatal("syncing a closed directory succeeded")
	}
	write("../meta.inf", "{}")
	if err := d.sync(context.Background()); err == nil {
		t.Error("a failure of the disk was forgotten")
	}
}

func TestServerLog(t *testing.T) {
	t.Parallel()
	l := newServerLog(zap.NewNop())
	l.Fatalf("first %d", 1)
	l.Fatalf("second") // does not block
	select {
	case got := <-l.fatal:
		if got != "first 1" {
			t.Errorf("got %q, want the first", got)
		}
	case <-time.After(time.Second):
		t.Error("Fatalf was not noticed")
	}
}

func FuzzGate(f *testing.F) {
	f.Add([]byte(`{"stream_name":"S","config":{"deliver_subject":"mail.x","deliver_policy":"all","ack_policy":"none","replay_policy":"instant"}}`))
	f.Add([]byte(`{"stream_name":"S","config":{"durable_name":"d","ack_policy":"explicit","opt_start_time":"2020-01-01T00:00:00Z","backoff":[1,2],"metadata":{"a":"b"}},"action":"create"}`))
	f.Add([]byte(`{"config":{"deliver_subject":"_INBOX.a","DELIVER_SUBJECT":"x"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		out, err := admitted(body)
		if err != nil {
			return
		}
		// What comes out is admitted again, and says nothing else.
		again, err := admitted(out)
		if err != nil {
			t.Fatalf("%q became %q, which is refused: %v", body, out, err)
		}
		if string(again) != string(out) {
			t.Fatalf("%q became %q and then %q", body, out, again)
		}
		if _, after, found := strings.Cut(string(out), `"deliver_subject":"`); found && !strings.HasPrefix(after, inboxPrefix) {
			t.Fatalf("%q became %q", body, out)
		}
	})
}
