package sink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
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

	// Only so many descriptors stay open, and none of what is gone.
	if d.held[msgs] == nil || d.held[block] != nil {
		t.Errorf("the directory of the blocks is held: %t, a removed block: %t; want true, false", d.held[msgs] != nil, d.held[block] != nil)
	}
	write("../meta.inf", "{}")
	for i := range maxHeld + 10 {
		write(fmt.Sprintf("more%d.blk", i), "text")
	}
	known()
	known()
	if n := len(d.held); n != maxHeld {
		t.Errorf("%d files are held, want %d", n, maxHeld)
	}

	// A failure stays one.
	if err := os.Remove(filepath.Join(msgs, "../meta.inf")); err != nil {
		t.Fatal(err)
	}
	d.root.Close()
	if err := d.sync(context.Background()); err == nil {
		t.Fatal("syncing a closed directory succeeded")
	}
	write("../meta.inf", "{}")
	if err := d.sync(context.Background()); err == nil {
		t.Error("a failure of the disk was forgotten")
	}
}

// What of a block is in memory alone is not what the next server goes by.
func TestDiskUncaches(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	block := filepath.Join(dir, "A", "streams", "S", "msgs", "1.blk")
	if err := os.MkdirAll(filepath.Dir(block), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(block)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(make([]byte, 8*os.Getpagesize())); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	cached := func() (n int) {
		t.Helper()
		m, err := unix.Mmap(int(f.Fd()), 0, 8*os.Getpagesize(), unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Munmap(m) }()
		pages := make([]byte, 8)
		if _, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), uintptr(unsafe.Pointer(&pages[0]))); errno != 0 {
			t.Fatal(errno)
		}
		for _, p := range pages {
			n += int(p & 1)
		}
		return n
	}
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	if cached() != 0 {
		t.Skip("this file system keeps its files in memory")
	}
	if _, err := f.ReadAt(make([]byte, 8*os.Getpagesize()), 0); err != nil {
		t.Fatal(err)
	}
	if n := cached(); n != 8 {
		t.Fatalf("%d pages are in memory after they were read, want 8", n)
	}
	d, err := openDisk(dir, "A")
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if err := d.uncache(); err != nil {
		t.Fatal(err)
	}
	if n := cached(); n != 0 {
		t.Errorf("%d pages are still in memory, want none", n)
	}
}

// Of the server's log, errors of the disk are final, and nothing else is.
func TestDiskError(t *testing.T) {
	t.Parallel()
	const line = "Filestore [S] Critical write error: %v"
	at := func(op string, errno syscall.Errno) error {
		return fmt.Errorf("block: %w", &fs.PathError{Op: op, Path: "1.blk", Err: errno})
	}
	for name, c := range map[string]struct {
		format string
		err    any
		want   bool
	}{
		"failed sync":          {line, at("sync", unix.EIO), true},
		"failed write":         {line, at("write", unix.EIO), true},
		"read-only":            {line, at("open", unix.EROFS), true},
		"of a stream":          {"JetStream stream '%s > %s' critical write error: %v", at("sync", unix.EIO), true},
		"no space":             {line, at("write", unix.ENOSPC), false},
		"quota":                {line, at("write", unix.EDQUOT), false},
		"too many files":       {line, at("open", unix.EMFILE), false},
		"not the disk's":       {line, errors.New("no message block"), false},
		"no error":             {line, "sync: input/output error", false},
		"another line":         {"Could not read: %v", at("read", unix.EIO), false},
		"a line without error": {line, nil, false},
	} {
		if got := diskError(c.format, []any{"A", "S", c.err}); (got != nil) != c.want {
			t.Errorf("%s: got %v, want an error: %t", name, got, c.want)
		}
	}
}

func TestServerLog(t *testing.T) {
	t.Parallel()
	l := newServerLog(zap.NewNop(), nil)
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
