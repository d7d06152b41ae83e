package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

var exhaustive = flag.Bool("exhaustive", false, "damage the files at every byte, not at some")

// injector returns its error for the operations that match, while it is on.
type injector struct {
	on    atomic.Bool
	match func(errorfs.Op) bool
	err   error
	hits  atomic.Int64
}

func (i *injector) MaybeError(op errorfs.Op) error {
	if !i.on.Load() || !i.match(op) {
		return nil
	}
	i.hits.Add(1)
	return i.err
}

func (i *injector) String() string { return "injector" }

func isSync(k errorfs.OpKind) bool {
	return k == errorfs.OpFileSync || k == errorfs.OpFileSyncData || k == errorfs.OpFileSyncTo
}

func isLog(op errorfs.Op) bool { return strings.HasSuffix(op.Path, ".log") }

func isNewLog(op errorfs.Op) bool {
	return isLog(op) && (op.Kind == errorfs.OpCreate || op.Kind == errorfs.OpReuseForWrite)
}

// TestWriteErrors lets one kind of operation fail for good, at a moment when
// writers are at work, and checks that nothing is acknowledged from then on, that
// the journal says so and can be closed, and that what was acknowledged before is
// there after a power cut.
func TestWriteErrors(t *testing.T) {
	for name, match := range map[string]func(errorfs.Op) bool{
		"log sync":       func(op errorfs.Op) bool { return isLog(op) && isSync(op.Kind) },
		"log write":      func(op errorfs.Op) bool { return isLog(op) && op.Kind == errorfs.OpFileWrite },
		"log create":     isNewLog,
		"directory sync": func(op errorfs.Op) bool { return strings.HasSuffix(op.Path, "journal") && isSync(op.Kind) },
		"table sync":     func(op errorfs.Op) bool { return strings.HasSuffix(op.Path, ".sst") && isSync(op.Kind) },
		"table write": func(op errorfs.Op) bool {
			return strings.HasSuffix(op.Path, ".sst") && op.Kind == errorfs.OpFileWrite
		},
		"manifest write": func(op errorfs.Op) bool {
			return strings.Contains(op.Path, "MANIFEST-") && op.Kind == errorfs.OpFileWrite
		},
		"manifest sync": func(op errorfs.Op) bool { return strings.Contains(op.Path, "MANIFEST-") && isSync(op.Kind) },
	} {
		t.Run(name, func(t *testing.T) {
			mem := vfs.NewCrashableMem()
			in := &injector{match: match, err: syscall.EIO}
			j, err := Open(Options{FS: errorfs.Wrap(mem, in), Dir: "journal"})
			if err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			acked := map[uint64]bool{}
			var wg sync.WaitGroup
			var next atomic.Uint64
			for range 8 {
				wg.Go(func() {
					for {
						n := next.Add(1)
						err := j.Append(deadline(t), payload(n, 2400))
						if err != nil {
							if !errors.Is(err, ErrFailed) || !errors.Is(err, syscall.EIO) {
								t.Errorf("Append: got %v, want ErrFailed and EIO", err)
							}
							return
						}
						mu.Lock()
						acked[n] = true
						if len(acked) == 100 {
							in.on.Store(true)
							// Begins a new log and writes a table. It does not return.
							go func(db *pebble.DB) { _, _ = db.AsyncFlush() }(j.db)
						}
						mu.Unlock()
					}
				})
			}
			<-j.Failed()
			wg.Wait() // they end at once, though nothing of pebble does
			if in.hits.Load() == 0 {
				t.Fatal("no error was injected")
			}
			wantError(t, "Err", j.Err(), ErrFailed)
			wantError(t, "Append after the failure", j.Append(deadline(t), nil), ErrFailed)
			wantError(t, "SetCursor after the failure", j.SetCursor(Cursor{Index: 1}), ErrFailed)
			wantError(t, "Wait after the failure", j.Wait(deadline(t), 1<<40), ErrFailed)
			if got := counter(t, j, reasonFailed); got < 9 {
				t.Errorf("failed was counted %v times, want 8 writers and 1", got)
			}
			if n := number(t, mustRead(t, j, 1).Value); n > 8 {
				t.Errorf("record 1 holds payload %d", n)
			}
			wantError(t, "Close after the failure", j.Close(), ErrFailed)

			clone := mem.CrashClone(vfs.CrashCloneCfg{})
			j = open(t, Options{FS: clone, Dir: "journal"})
			first, end := j.Bounds()
			for index := first; index < end; index++ {
				delete(acked, number(t, mustRead(t, j, index).Value))
			}
			for n := range acked {
				t.Errorf("payload %d was acknowledged and is lost", n)
			}
			mustAppend(t, j, payload(1, 0))
		})
	}
}

// TestOpenErrors: an error while opening is returned, and does not hang or panic.
func TestOpenErrors(t *testing.T) {
	for _, err := range []error{syscall.EIO, syscall.ENOSPC} {
		failed := 0
		for nth := int64(1); ; nth++ {
			var seen atomic.Int64
			in := &injector{err: err, match: func(op errorfs.Op) bool {
				return op.Kind.ReadOrWrite() == errorfs.OpIsWrite && seen.Add(1) >= nth
			}}
			in.on.Store(true)
			j, err := Open(Options{FS: errorfs.Wrap(vfs.NewMem(), in), Dir: "journal"})
			if err == nil {
				in.on.Store(false)
				_ = j.Close()
				break
			}
			if !errors.Is(err, in.err) {
				t.Errorf("operation %d: got %v, want %v", nth, err, in.err)
			}
			failed++
		}
		if failed < 10 {
			t.Errorf("only %d operations failed", failed)
		}
	}
}

// TestNoSpace: a full disk is waited out, whatever file it hits.
func TestNoSpace(t *testing.T) {
	for name, match := range map[string]func(errorfs.Op) bool{
		"log write":  func(op errorfs.Op) bool { return isLog(op) && op.Kind == errorfs.OpFileWrite },
		"log create": isNewLog,
		"table": func(op errorfs.Op) bool {
			return strings.HasSuffix(op.Path, ".sst") && op.Kind == errorfs.OpFileWrite
		},
		"manifest": func(op errorfs.Op) bool {
			return strings.Contains(op.Path, "MANIFEST-") && op.Kind == errorfs.OpFileWrite
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := &injector{match: match, err: syscall.ENOSPC}
			j := open(t, Options{FS: errorfs.Wrap(vfs.NewMem(), in), Dir: "journal"})
			mustAppend(t, j, payload(1, 2400))
			in.on.Store(true)
			var wg sync.WaitGroup
			wg.Go(func() { // begins a new log and writes a table
				if err := j.db.Flush(); err != nil {
					t.Error(err)
				}
			})
			wg.Go(func() { fill(t, j, 300, 2400) })
			eventually(t, "the disk is full", func() bool { return in.hits.Load() > 0 })
			if strings.HasPrefix(name, "log") {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
				defer cancel()
				err := j.Append(ctx, payload(2, 2400))
				wantError(t, "Append on a full disk", err, context.DeadlineExceeded)
			}
			in.on.Store(false)
			wg.Wait()
			mustAppend(t, j, payload(3, 2400))
			if err := j.Err(); err != nil {
				t.Fatal(err)
			}
			_, next := j.Bounds()
			if got := number(t, mustRead(t, j, next-1).Value); got != 3 {
				t.Errorf("the last record is payload %d, want 3", got)
			}
			for index := uint64(1); index < next; index++ {
				mustRead(t, j, index)
			}
		})
	}
}

// hangingFS is a disk whose log syncs hang while the gate is shut.
type hangingFS struct {
	vfs.FS
	gate *sync.RWMutex
}

func (h hangingFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := h.FS.Create(name, c)
	if err == nil && strings.HasSuffix(name, ".log") {
		f = hangingFile{f, h.gate}
	}
	return f, err
}

func (h hangingFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := h.FS.ReuseForWrite(from, to, c)
	if err == nil {
		f = hangingFile{f, h.gate}
	}
	return f, err
}

type hangingFile struct {
	vfs.File
	gate *sync.RWMutex
}

func (h hangingFile) Sync() error { return h.SyncData() }

func (h hangingFile) SyncData() error {
	h.gate.RLock()
	defer h.gate.RUnlock()
	return h.File.SyncData()
}

// TestHangingDisk: nothing is readable before its sync, whoever waits can give
// up, and Close does not hang.
func TestHangingDisk(t *testing.T) {
	var gate sync.RWMutex
	j := open(t, Options{FS: hangingFS{vfs.NewMem(), &gate}, Dir: "journal"})
	mustAppend(t, j, payload(1, 0))
	<-j.Notify()
	gate.Lock()
	short := func() context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	wantError(t, "Append", j.Append(short(), payload(2, 0)), context.DeadlineExceeded)
	wantBounds(t, j, 1, 2)
	_, err := j.Read(2)
	wantError(t, "Read before the sync", err, ErrNotFound)
	wantError(t, "Wait", j.Wait(short(), 2), context.DeadlineExceeded)
	if err := j.SetCursor(Cursor{Index: 2}); err == nil {
		t.Error("the cursor moved beyond what is synced")
	}
	select {
	case <-j.Notify():
		t.Error("notified before the sync")
	default:
	}
	// The queue is bounded: what does not fit is not stored.
	j.maxQueued = 64 << 10
	big := make([]byte, 20<<10)
	for range 3 {
		wantError(t, "Append of 20 KiB", j.Append(short(), big), context.DeadlineExceeded)
	}
	wantError(t, "Append of 20 KiB beyond the queue", j.Append(short(), big), context.DeadlineExceeded)
	wantError(t, "Append of little", j.Append(short(), payload(3, 0)), context.DeadlineExceeded)

	gate.Unlock()
	if err := j.Wait(deadline(t), 6); err != nil {
		t.Fatal(err)
	}
	if n := number(t, mustRead(t, j, 2).Value); n != 2 {
		t.Errorf("record 2 is payload %d", n)
	}
	wantBounds(t, j, 1, 7)
	if got := counter(t, j, reasonTimeout); got != 6 {
		t.Errorf("timeout was counted %v times, want 6", got)
	}

	// Close gives up, and what waits for it is told.
	gate.Lock()
	defer gate.Unlock()
	j.closeTimeout = 100 * time.Millisecond
	appended := make(chan error, 1)
	go func() { appended <- j.Append(context.Background(), payload(4, 0)) }()
	eventually(t, "the append is queued", func() bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		return j.queued > 0
	})
	if err := j.Close(); err == nil {
		t.Error("Close did not say that it gave up")
	}
	wantError(t, "Append while Close gave up", <-appended, ErrClosed)
}

// TestDamagedTable flips bytes in the tables: every record is either as it was
// appended or reported as damaged, and some of them still are readable.
func TestDamagedTable(t *testing.T) {
	const records = 300
	mem := vfs.NewMem()
	j := open(t, Options{FS: mem, Dir: "journal"})
	for n := range uint64(records) {
		mustAppend(t, j, payload(n+1, 2000))
	}
	if err := j.db.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	damaged, whole := 0, 0
	for range 8 {
		fs := copyFS(t, mem, "journal")
		for _, name := range list(t, fs, "journal", ".sst") {
			b := contents(t, fs, name)
			if len(b) < 10_000 {
				continue // it has the first state only
			}
			b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
			replace(t, fs, name, b)
		}
		j, err := Open(Options{FS: fs, Dir: "journal"})
		if err != nil {
			t.Logf("cannot be opened: %v", err)
			continue
		}
		for index := uint64(1); index <= records; index++ {
			r, err := j.Read(index)
			switch {
			case errors.Is(err, ErrDamaged):
				damaged++
			case err != nil:
				t.Errorf("record %d: %v", index, err)
			default:
				whole++
				if n := number(t, r.Value); n != index {
					t.Errorf("record %d is payload %d", index, n)
				}
			}
		}
		mustAppend(t, j, payload(records+1, 0))
		for index := uint64(1); index <= records+1; index += 1 + index%5 {
			if err := j.SetCursor(Cursor{Index: index}); err != nil {
				t.Fatalf("SetCursor(%d): %v", index, err)
			}
		}
		if err := j.SetCursor(Cursor{Index: records + 1}); err != nil {
			t.Fatal(err)
		}
		if cursor, synced := j.positions(); cursor != synced {
			t.Errorf("cursor is %v, end is %v", cursor, synced)
		}
		mustAppend(t, j, payload(records+2, 0))
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d damaged, %d whole", damaged, whole)
	if damaged == 0 || whole < 10*damaged {
		t.Errorf("%d records damaged and %d whole: one flipped bit costs too much or nothing", damaged, whole)
	}
}

// TestMissingRecord: what should be there and is not, is damaged, not skipped.
func TestMissingRecord(t *testing.T) {
	j := open(t, Options{FS: vfs.NewMem(), Dir: "journal"})
	for n := range uint64(6) {
		mustAppend(t, j, payload(n+1, 100))
	}
	for _, index := range []uint64{3, 4, 6} {
		if err := j.db.Delete(recordKey(index), nil); err != nil {
			t.Fatal(err)
		}
		_, err := j.Read(index)
		wantError(t, "Read", err, ErrDamaged)
	}
	mustRead(t, j, 2)
	mustRead(t, j, 5)
	// The counts stay right though the record that has it is gone: 5 has 500.
	if err := j.SetCursor(Cursor{Index: 4}); err != nil {
		t.Fatal(err)
	}
	if cursor, _ := j.positions(); cursor != (position{4, 400}) {
		t.Errorf("cursor is %v, want 4 and 400", cursor)
	}
	if err := j.SetCursor(Cursor{Index: 6}); err != nil {
		t.Fatal(err)
	}
	if cursor, synced := j.positions(); cursor != synced {
		t.Errorf("cursor is %v, want %v", cursor, synced)
	}
}

// TestTornTail cuts the log and flips its bits. The journal then opens with a
// complete prefix of what was appended, or says that it is damaged.
func TestTornTail(t *testing.T) {
	const records = 100
	step, size := 2999, 900 // several of the log's blocks of 32 KiB
	if *exhaustive {
		step, size = 1, 100
	}
	mem := vfs.NewCrashableMem()
	j := open(t, Options{FS: mem, Dir: "journal"})
	for n := range uint64(records) {
		mustAppend(t, j, payload(n+1, size))
	}
	// As a power cut leaves it, without the trailer of a clean end.
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	logs := list(t, crashed, "journal", ".log")
	name := logs[len(logs)-1]
	log := contents(t, crashed, name)
	for len(log) > 0 && log[len(log)-1] == 0 {
		log = log[:len(log)-1]
	}
	refused, reported := 0, false
	try := func(what string, b []byte) (complete uint64, ok bool) {
		fs := copyFS(t, crashed, "journal")
		replace(t, fs, name, b)
		core, logged := observer.New(zap.WarnLevel)
		j, err := Open(Options{FS: fs, Dir: "journal", Log: zap.New(core)})
		if err != nil {
			refused++
			return 0, false
		}
		reported = logged.FilterMessageSnippet("not whole").Len() == 1
		first, next := j.Bounds()
		if first != 1 || next > records+1 {
			t.Fatalf("%s: bounds are %d, %d", what, first, next)
		}
		for index := first; index < next; index++ {
			if n := number(t, mustRead(t, j, index).Value); n != index {
				t.Fatalf("%s: record %d is payload %d", what, index, n)
			}
		}
		mustAppend(t, j, payload(next, size))
		if err := j.Close(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		return next - 1, true
	}
	if n, ok := try("untouched", log); !ok || n != records || reported {
		t.Fatalf("%d records after a power cut (%v, reported as torn: %v), want %d", n, ok, reported, records)
	}
	var last uint64
	for cut := 0; cut < len(log); cut += step {
		what := fmt.Sprintf("cut at %d of %d", cut, len(log))
		n, ok := try(what, log[:cut:cut])
		if !ok {
			continue
		}
		if n < last || n > uint64(cut/size) {
			t.Errorf("%s: %d records, %d with less of the log", what, n, last)
		}
		if want := !wholeUpTo(log, cut); reported != want {
			t.Errorf("%s: reported as torn: %v, want %v", what, reported, want)
		}
		last = n
	}
	if refused > 0 {
		t.Errorf("%d of the cuts kept the journal from opening", refused)
	}
	if step == 1 && last != records-1 {
		t.Errorf("the last cut leaves %d records, want %d", last, records-1)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	flips, short := 0, 0
	for at := 0; at < len(log); at += step {
		b := append([]byte(nil), log...)
		b[at] ^= 1 << rng.IntN(8)
		flips++
		if n, ok := try(fmt.Sprintf("bit flip at %d of %d", at, len(log)), b); ok && n < records {
			short++
		}
	}
	t.Logf("log of %d bytes; of %d bit flips %d were refused, %d left a shorter prefix", len(log), flips, refused, short)
	// Behind the last 32 KiB, pebble's unit of reading ahead, damage is known for
	// what it is; in them it cannot be told from a torn end.
	if want := flips * (len(log) - 32<<10) / len(log); refused < want {
		t.Errorf("%d bit flips were refused, want at least %d", refused, want)
	}
}

// wholeUpTo reports whether a log that is cut there ends with a whole write, by
// the format in pebble's record package: chunks of length and kind, a header of
// 19 bytes each, and zeros where a block of 32 KiB has no room for one.
func wholeUpTo(log []byte, cut int) bool {
	const block, header, full, last = 32 << 10, 19, 9, 12
	end := 0
	for at := 0; at+header <= cut; {
		if left := block - at%block; left < header {
			at += left
			continue
		}
		kind := log[at+6]
		at += header + int(binary.LittleEndian.Uint16(log[at+4:]))
		if at <= cut && (kind == full || kind == last) {
			end = at
		}
	}
	if left := block - end%block; left < header && cut-end <= left {
		return true // nothing but the padding is there
	}
	return end == cut
}

func list(tb testing.TB, fs vfs.FS, dir, suffix string) (names []string) {
	tb.Helper()
	all, err := fs.List(dir)
	if err != nil {
		tb.Fatal(err)
	}
	for _, name := range all {
		if strings.HasSuffix(name, suffix) {
			names = append(names, fs.PathJoin(dir, name))
		}
	}
	if len(names) == 0 {
		tb.Fatalf("no %s in %v", suffix, all)
	}
	slices.Sort(names)
	return names
}

func contents(tb testing.TB, fs vfs.FS, name string) []byte {
	tb.Helper()
	f, err := fs.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	b, err := io.ReadAll(f)
	if err := errors.Join(err, f.Close()); err != nil {
		tb.Fatal(err)
	}
	return b
}

func replace(tb testing.TB, fs vfs.FS, name string, b []byte) {
	tb.Helper()
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = f.Write(append([]byte(nil), b...))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		tb.Fatal(err)
	}
}

func copyFS(tb testing.TB, from vfs.FS, dir string) *vfs.MemFS {
	tb.Helper()
	to := vfs.NewMem()
	if ok, err := vfs.Clone(from, to, dir, dir); err != nil || !ok {
		tb.Fatalf("copying: %v, %v", ok, err)
	}
	return to
}
