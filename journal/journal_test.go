package journal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("BLESSD_JOURNAL_WRITER"); dir != "" {
		writeForEver(dir)
	}
	os.Exit(m.Run())
}

// payload makes a value that says which it is and whether it is whole.
func payload(n uint64, size int) []byte {
	b := make([]byte, max(size, 12))
	binary.BigEndian.PutUint64(b[4:], n)
	for i := 12; i < len(b); i++ {
		b[i] = byte(n + uint64(i))
	}
	binary.BigEndian.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
	return b
}

// number returns which payload it is.
func number(tb testing.TB, b []byte) uint64 {
	tb.Helper()
	if len(b) < 12 || crc32.ChecksumIEEE(b[4:]) != binary.BigEndian.Uint32(b) {
		tb.Fatalf("a value of %d bytes is not what was appended", len(b))
	}
	return binary.BigEndian.Uint64(b[4:])
}

func open(tb testing.TB, o Options) *Journal {
	tb.Helper()
	j, err := Open(o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = j.Close() })
	return j
}

func mustAppend(tb testing.TB, j *Journal, value []byte) {
	tb.Helper()
	if err := j.Append(deadline(tb), value); err != nil {
		tb.Fatalf("Append: %v", err)
	}
}

func mustRead(tb testing.TB, j *Journal, index uint64) Record {
	tb.Helper()
	r, err := j.Read(index)
	if err != nil {
		tb.Fatalf("Read(%d): %v", index, err)
	}
	if r.Index != index {
		tb.Fatalf("Read(%d) returned record %d", index, r.Index)
	}
	return r
}

func wantBounds(tb testing.TB, j *Journal, first, next uint64) {
	tb.Helper()
	if f, n := j.Bounds(); f != first || n != next {
		tb.Fatalf("bounds are %d, %d; want %d, %d", f, n, first, next)
	}
}

func wantError(tb testing.TB, what string, got, want error) {
	tb.Helper()
	if !errors.Is(got, want) {
		tb.Fatalf("%s: got %v, want %v", what, got, want)
	}
}

// deadline returns a context that ends the test rather than hanging it.
func deadline(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

// eventually waits for something that has no channel to wait on.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for ctx := deadline(tb); !ok(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			tb.Fatalf("timeout: %s", what)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	j := open(t, Options{Dir: dir})
	if i, err := os.Stat(dir); err != nil || i.Mode().Perm() != 0o700 {
		t.Errorf("mode of the directory is %v (%v), want 0700", i.Mode(), err)
	}
	wantBounds(t, j, 1, 1)

	sizes := []int{12, 0, 1, 100, 5 << 20, 9 << 20, 2400}
	before := time.Now()
	for n, size := range sizes {
		value := bytes.Repeat([]byte{byte('a' + n)}, size)
		mustAppend(t, j, value)
		clear(value) // the journal must not keep it
	}
	wantBounds(t, j, 1, uint64(len(sizes))+1)
	for n, size := range sizes {
		r := mustRead(t, j, uint64(n)+1)
		if want := bytes.Repeat([]byte{byte('a' + n)}, size); !bytes.Equal(r.Value, want) {
			t.Errorf("record %d has %d bytes that differ from the %d appended", n+1, len(r.Value), size)
		}
		if r.Appended.Before(before) || r.Appended.After(time.Now()) {
			t.Errorf("record %d was appended at %v, want between %v and now", n+1, r.Appended, before)
		}
	}
	for _, index := range []uint64{0, uint64(len(sizes)) + 1, ^uint64(0)} {
		_, err := j.Read(index)
		wantError(t, fmt.Sprintf("Read(%d)", index), err, ErrNotFound)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, "Append after Close", j.Append(deadline(t), []byte("x")), ErrClosed)
	_, err := j.Read(1)
	wantError(t, "Read after Close", err, ErrClosed)
	wantError(t, "SetCursor after Close", j.SetCursor(Cursor{Index: 1}), ErrClosed)
	wantError(t, "Wait after Close", j.Wait(deadline(t), 100), ErrClosed)
	wantError(t, "second Close", j.Close(), ErrClosed)
	if err := j.Err(); err != nil {
		t.Errorf("Err after Close is %v, want nil", err)
	}
}

func TestCursor(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	j := open(t, Options{Dir: dir})
	for n := range uint64(10) {
		mustAppend(t, j, payload(n+1, 100))
	}
	for _, c := range []Cursor{{Index: 11}, {Index: ^uint64(0)}, {Index: 1, Mark: make([]byte, maxMark+1)}} {
		if err := j.SetCursor(c); err == nil {
			t.Errorf("SetCursor(%d, %d bytes) did not fail", c.Index, len(c.Mark))
		}
	}
	for _, c := range []Cursor{{Index: 4, Mark: []byte("four")}, {Index: 4, Mark: []byte("more")}} {
		if err := j.SetCursor(c); err != nil {
			t.Fatal(err)
		}
		if got := j.Cursor(); got.Index != c.Index || !bytes.Equal(got.Mark, c.Mark) {
			t.Fatalf("cursor is %d %q, want %d %q", got.Index, got.Mark, c.Index, c.Mark)
		}
	}
	if err := j.SetCursor(Cursor{Index: 3}); err == nil {
		t.Error("the cursor went back")
	}
	wantBounds(t, j, 5, 11)
	_, err := j.Read(4)
	wantError(t, "Read behind the cursor", err, ErrNotFound)

	// Everything is consumed, twice opened again: the index goes on.
	if err := j.SetCursor(Cursor{Index: 10, Mark: []byte("ten")}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		j = open(t, Options{Dir: dir})
		if got := j.Cursor(); got.Index != 10 || string(got.Mark) != "ten" {
			t.Fatalf("cursor is %d %q, want 10 \"ten\"", got.Index, got.Mark)
		}
		wantBounds(t, j, 11, 11)
	}
	mustAppend(t, j, payload(11, 100))
	wantBounds(t, j, 11, 12)
	if n := number(t, mustRead(t, j, 11).Value); n != 11 {
		t.Errorf("record 11 holds payload %d", n)
	}
	if cursor, synced := j.positions(); synced.count-cursor.count != 100 {
		t.Errorf("%d bytes are in use, want 100", synced.count-cursor.count)
	}
}

func TestConcurrent(t *testing.T) {
	const writers, each = 64, 200
	j := open(t, Options{Dir: filepath.Join(t.TempDir(), "journal")})
	ctx := deadline(t)
	var wg sync.WaitGroup
	for w := range uint64(writers) {
		wg.Go(func() {
			for n := range uint64(each) {
				if err := j.Append(ctx, payload(w<<32|n, 50+int(n))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	// One reads in order and another moves the cursor behind it.
	read := make(chan uint64, writers*each)
	wg.Go(func() {
		for index := range read {
			if index%97 == 0 || index == writers*each {
				if err := j.SetCursor(Cursor{Index: index, Mark: []byte(strconv.FormatUint(index, 10))}); err != nil {
					t.Error(err)
				}
			}
		}
	})
	var next [writers]uint64
	for index := uint64(1); index <= writers*each; index++ {
		if err := j.Wait(ctx, index); err != nil {
			t.Fatal(err)
		}
		n := number(t, mustRead(t, j, index).Value)
		if w := n >> 32; n&0xffffffff != next[w] {
			t.Fatalf("record %d holds value %d of writer %d, want %d", index, n&0xffffffff, w, next[w])
		} else {
			next[w]++
		}
		read <- index
	}
	close(read)
	wg.Wait()
	wantBounds(t, j, writers*each+1, writers*each+1)
	if got := string(j.Cursor().Mark); got != strconv.Itoa(writers*each) {
		t.Errorf("mark is %q", got)
	}
}

func TestWaitAndNotify(t *testing.T) {
	j := open(t, Options{FS: vfs.NewMem(), Dir: "journal"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, "Wait for what does not come", j.Wait(ctx, 1), context.Canceled)
	select {
	case <-j.Notify():
		t.Fatal("notified of nothing")
	default:
	}
	waited := make(chan error, 1)
	go func() { waited <- j.Wait(context.Background(), 2) }()
	mustAppend(t, j, payload(1, 0))
	<-j.Notify()
	mustRead(t, j, 1)
	mustAppend(t, j, payload(2, 0))
	if err := <-waited; err != nil {
		t.Errorf("Wait(2): %v", err)
	}
	<-j.Notify()
	mustAppend(t, j, payload(3, 0))
	mustAppend(t, j, payload(4, 0))
	<-j.Notify() // one for both
	go func() { waited <- j.Wait(context.Background(), 5) }()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, "Wait while closing", <-waited, ErrClosed)

	// What was left before the start is news as well.
	mem := vfs.NewMem()
	j = open(t, Options{FS: mem, Dir: "journal"})
	mustAppend(t, j, payload(1, 0))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, Options{FS: mem, Dir: "journal"})
	<-j.Notify()
}

func TestFull(t *testing.T) {
	mem := vfs.NewMem()
	o := Options{FS: mem, Dir: "journal", MaxBytes: 1000}
	j := open(t, o)
	for n := range uint64(9) {
		mustAppend(t, j, payload(n+1, 100))
	}
	if j.Full() {
		t.Error("full at 900 of 1000 bytes")
	}
	wantError(t, "101 bytes into 100", j.Append(t.Context(), payload(0, 101)), ErrFull)
	if !j.Full() {
		t.Error("not full after a value was refused")
	}
	mustAppend(t, j, payload(10, 100)) // exactly
	wantError(t, "1 byte into 0", j.Append(t.Context(), []byte{1}), ErrFull)
	mustAppend(t, j, nil)

	// The same after a restart.
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	j = open(t, o)
	if !j.Full() {
		t.Error("not full after opening it again")
	}
	wantError(t, "1 byte into 0 again", j.Append(t.Context(), []byte{1}), ErrFull)
	wantBounds(t, j, 1, 12)

	if err := j.SetCursor(Cursor{Index: 2}); err != nil {
		t.Fatal(err)
	}
	if j.Full() {
		t.Error("still full after the cursor moved")
	}
	mustAppend(t, j, payload(12, 200))
	wantError(t, "1 byte into 0 after that", j.Append(t.Context(), []byte{1}), ErrFull)

	// What never fits does not make it full for the rest.
	if err := j.SetCursor(Cursor{Index: 12}); err != nil {
		t.Fatal(err)
	}
	wantError(t, "1001 bytes into 1000", j.Append(t.Context(), make([]byte, 1001)), ErrFull)
	if j.Full() {
		t.Error("full though it is empty")
	}
	if got := counter(t, j, reasonFull); got != 3 {
		t.Errorf("full was counted %v times since it was opened, want 3", got)
	}
}

func TestDiskSpace(t *testing.T) {
	mem := vfs.NewMem()
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 30})
	j := open(t, Options{FS: mem, Dir: "journal"})
	mustAppend(t, j, payload(1, 0))
	if j.Full() {
		t.Error("full with 1 GiB free")
	}
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: defaultMinFree - 1})
	eventually(t, "full for want of disk space", j.Full)
	err := j.Append(t.Context(), payload(2, 0))
	wantError(t, "Append without space", err, ErrFull)
	if !strings.Contains(err.Error(), "disk") {
		t.Errorf("%q does not say that it is the disk", err)
	}
	if err := j.SetCursor(Cursor{Index: 1}); err != nil { // makes room, so it is allowed
		t.Errorf("SetCursor without space: %v", err)
	}
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: defaultMinFree})
	eventually(t, "not full with space", func() bool { return !j.Full() })
	mustAppend(t, j, payload(3, 0))
	wantBounds(t, j, 2, 3)

	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1})
	j = open(t, Options{FS: mem, Dir: "other", MinFree: -1})
	mustAppend(t, j, payload(1, 0))
}

// TestOpenChecks edits the state behind the journal's back.
func TestOpenChecks(t *testing.T) {
	set := func(key, value []byte) func(*pebble.DB) error {
		return func(db *pebble.DB) error { return db.Set(key, value, pebble.Sync) }
	}
	for name, c := range map[string]struct {
		edit func(*pebble.DB) error
		want string
	}{
		"no end":       {func(db *pebble.DB) error { return db.Delete(endKey, pebble.Sync) }, "where it ends is missing"},
		"no cursor":    {func(db *pebble.DB) error { return db.Delete(cursorKey, pebble.Sync) }, "the key of the cursor is missing"},
		"end too low":  {set(endKey, encodePosition(position{2, 24}, nil)), "record 3 exists, but it should end with 2"},
		"cursor ahead": {set(cursorKey, encodePosition(position{4, 36}, nil)), "beyond the end"},
		"count ahead":  {set(cursorKey, encodePosition(position{3, 37}, nil)), "beyond the end"},
		"version":      {set(endKey, append([]byte{2}, make([]byte, 16)...)), "version 2 is not known"},
		"short":        {set(cursorKey, []byte{1, 2}), "2 bytes are too few"},
		"alien key":    {set([]byte("rx"), nil), "not one of a journal"},
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewMem()
			j := open(t, Options{FS: mem, Dir: "journal"})
			for n := range uint64(3) {
				mustAppend(t, j, payload(n+1, 12))
			}
			if err := c.edit(j.db); err != nil {
				t.Fatal(err)
			}
			if err := j.Close(); err != nil {
				t.Fatal(err)
			}
			_, err := Open(Options{FS: mem, Dir: "journal"})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	t.Run("locked", func(t *testing.T) {
		mem := vfs.NewMem()
		open(t, Options{FS: mem, Dir: "journal"})
		if _, err := Open(Options{FS: mem, Dir: "journal"}); err == nil {
			t.Error("it was opened twice")
		}
	})
	t.Run("negative limit", func(t *testing.T) {
		if _, err := Open(Options{FS: vfs.NewMem(), Dir: "journal", MaxBytes: -1}); err == nil {
			t.Error("MaxBytes -1 was accepted")
		}
	})
}

// TestCrash cuts the power at random moments, with writers at work, records read
// and the cursor moving, and some of what was not synced on the disk or not.
func TestCrash(t *testing.T) {
	for _, percent := range []int{0, 30, 100} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprintf("unsynced=%d,seed=%d", percent, seed), func(t *testing.T) {
				t.Parallel()
				rng := rand.New(rand.NewPCG(seed, uint64(percent)))
				mem := vfs.NewCrashableMem()
				c := crash{t: t, known: map[uint64]uint64{}}
				for range 4 {
					mem = c.run(mem, rng, percent)
				}
				if c.moves == 0 || len(c.known) < 1000 {
					t.Errorf("%d records and %d cursor moves prove little", len(c.known), c.moves)
				}
			})
		}
	}
}

// crash is what the world outside remembers over the power cuts.
type crash struct {
	t     *testing.T
	known map[uint64]uint64 // index -> payload, of every record that was readable
	last  uint64            // payload number
	moves int
	// cursor is the last one that SetCursor acknowledged.
	cursor uint64
}

// run works on the journal in mem for a while and returns a disk as it may look
// after a power cut in the middle of that.
func (c *crash) run(mem *vfs.MemFS, rng *rand.Rand, percent int) *vfs.MemFS {
	t := c.t
	j, err := Open(Options{FS: mem, Dir: "data/journal"})
	if err != nil {
		t.Fatal(err)
	}
	c.check(j)

	var mu sync.Mutex
	acked := map[uint64]bool{}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var counter atomic.Uint64
	counter.Store(c.last)
	lead := make(chan struct{}, 64) // memory is fast, and what is written has to be checked
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case lead <- struct{}{}:
				}
				n := counter.Add(1)
				if err := j.Append(context.Background(), payload(n, 500+int(n%3000))); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acked[n] = true
				mu.Unlock()
			}
		})
	}
	for until := c.highest() + 200 + rng.Uint64N(400); c.highest() < until; {
		first, _ := j.Bounds()
		index := max(first, c.highest()+1)
		if err := j.Wait(deadline(t), index); err != nil {
			t.Fatal(err)
		}
		_, next := j.Bounds()
		for ; index < next; index++ {
			c.learn(j, index)
			<-lead
		}
		if rng.IntN(4) == 0 {
			to := first - 1 + rng.Uint64N(next-first+1)
			if err := j.SetCursor(Cursor{Index: to, Mark: binary.BigEndian.AppendUint64(nil, to)}); err != nil {
				t.Fatal(err)
			}
			c.cursor = to
			c.moves++
		}
		if rng.IntN(20) == 0 {
			if _, err := j.db.AsyncFlush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	// Everything that was acknowledged by now is readable and outlives the cut.
	mu.Lock()
	ackedNow := make([]uint64, 0, len(acked))
	for n := range acked {
		ackedNow = append(ackedNow, n)
	}
	mu.Unlock()
	_, next := j.Bounds()
	for index := c.highest() + 1; index < next; index++ {
		c.learn(j, index)
	}
	readable := map[uint64]bool{}
	for _, n := range c.known {
		readable[n] = true
	}
	for _, n := range ackedNow {
		if !readable[n] {
			t.Errorf("payload %d was acknowledged, and not readable", n)
		}
	}
	clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
	close(stop)
	wg.Wait()
	c.last = counter.Load()
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	return clone
}

func (c *crash) learn(j *Journal, index uint64) {
	n := number(c.t, mustRead(c.t, j, index).Value)
	if old, ok := c.known[index]; ok && old != n {
		c.t.Fatalf("record %d was payload %d and now is %d: the index was used twice", index, old, n)
	}
	c.known[index] = n
}

func (c *crash) highest() uint64 { return uint64(len(c.known)) } // they have no gaps

// check compares a journal that was opened after a power cut with what is known.
func (c *crash) check(j *Journal) {
	t := c.t
	t.Helper()
	first, next := j.Bounds()
	cursor := j.Cursor()
	if cursor.Index < c.cursor {
		t.Errorf("the cursor is at %d, it was acknowledged at %d", cursor.Index, c.cursor)
	}
	if cursor.Index > 0 && binary.BigEndian.Uint64(cursor.Mark) != cursor.Index {
		t.Errorf("the mark at %d is of another cursor: %x", cursor.Index, cursor.Mark)
	}
	if next <= c.highest() {
		t.Errorf("the journal ends with %d, record %d was readable", next-1, c.highest())
	}
	var bytes uint64
	for index := first; index < next; index++ {
		r := mustRead(t, j, index)
		bytes += uint64(len(r.Value))
		c.learn(j, index)
	}
	if cur, synced := j.positions(); synced.count-cur.count != bytes {
		t.Errorf("%d bytes are in use by the counts, %d by the values", synced.count-cur.count, bytes)
	}
	// Records that were stored and never acknowledged are known now as well.
	if uint64(len(c.known)) != next-1 {
		t.Errorf("%d records are known, the journal had %d", len(c.known), next-1)
	}
	c.cursor = cursor.Index
}

// writeForEver is the process that TestKill kills.
func writeForEver(dir string) {
	j, err := Open(Options{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	start, _ := strconv.ParseUint(os.Getenv("BLESSD_JOURNAL_START"), 10, 64)
	var n atomic.Uint64
	n.Store(start)
	for range 15 {
		go func() {
			for {
				m := n.Add(1)
				if err := j.Append(context.Background(), payload(m, 2400)); err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				// One write of a short line to a pipe is never torn.
				fmt.Fprintf(os.Stdout, "%d\n", m)
			}
		}()
	}
	select {}
}

// TestKill kills a writing process and checks that all it was told is there.
func TestKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "journal")
	acked := map[uint64]bool{}
	var highest, next uint64 = 0, 1
	for round := range 5 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "BLESSD_JOURNAL_WRITER="+dir, "BLESSD_JOURNAL_START="+strconv.FormatUint(highest+1000, 10))
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := 100 + rand.IntN(900)
		lines := bufio.NewScanner(out)
		count := 0
		for lines.Scan() {
			n, err := strconv.ParseUint(lines.Text(), 10, 64)
			if err != nil {
				t.Fatalf("the writer said %q", lines.Text())
			}
			acked[n] = true
			highest = max(highest, n)
			if count++; count == kill {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || count < kill {
			t.Fatalf("the writer ended by itself after %d of %d lines (%v)", count, kill, err)
		}

		j, err := Open(Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		j.closeTimeout = 30 * time.Second // the disk may have other work
		first, end := j.Bounds()
		if first != 1 || end < next {
			t.Fatalf("round %d: bounds are %d, %d; want 1 and at least %d", round, first, end, next)
		}
		next = end
		found := map[uint64]bool{}
		for index := first; index < end; index++ {
			n := number(t, mustRead(t, j, index).Value)
			if found[n] {
				t.Errorf("payload %d is there twice", n)
			}
			found[n] = true
		}
		for n := range acked {
			if !found[n] {
				t.Errorf("payload %d was acknowledged and is lost", n)
			}
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d acknowledged, %d records", len(acked), next-1)
}
