package journal

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestSalvage flips bits of the log until Open refuses it, and saves what is left:
// every record is there as it was written or is reported, no more are missing than
// a block of the log holds, and the journal goes on.
func TestSalvage(t *testing.T) {
	const records, size, moved = 200, 900, 20
	mem := vfs.NewCrashableMem()
	j := open(t, Options{FS: mem, Dir: "journal"})
	for n := range uint64(records) {
		mustAppend(t, j, payload(n+1, size))
		if n == records/2 {
			if err := j.SetCursor(Cursor{Index: moved, Mark: []byte("mark")}); err != nil {
				t.Fatal(err)
			}
		}
	}
	crashed := mem.CrashClone(vfs.CrashCloneCfg{})
	logs := list(t, crashed, "journal", ".log")
	name := logs[len(logs)-1]
	log := []byte(strings.TrimRight(string(contents(t, crashed, name)), "\x00"))
	rng := rand.New(rand.NewPCG(5, 6))
	// Damage of the last 32 KiB cannot be told from a torn end.
	salvaged, missing := 0, uint64(0)
	for at := 100; at < len(log)-logBlock-2*size; at += 3001 {
		fs := copyFS(t, crashed, "journal")
		b := append([]byte(nil), log...)
		b[at] ^= 1 << rng.IntN(8)
		replace(t, fs, name, b)
		if _, err := Open(Options{FS: fs, Dir: "journal"}); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("bit flip at %d: Open returns %v, want ErrCorrupt", at, err)
		}
		would, err := Salvage(Options{FS: fs, Dir: "journal"}, true)
		if err != nil || len(would.Damage) != 1 || would.Damage[0].Whole > int64(at) || would.Recovered == 0 {
			t.Fatalf("bit flip at %d: a dry run says %+v, %v", at, would, err)
		}
		if _, err := Open(Options{FS: fs, Dir: "journal"}); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("bit flip at %d: after a dry run Open returns %v, want ErrCorrupt", at, err)
		}
		did, err := Salvage(Options{FS: fs, Dir: "journal"}, false)
		if err != nil || len(did.Damage) != 1 || did.Missing > 2*logBlock/size {
			t.Fatalf("bit flip at %d: %+v, %v", at, did, err)
		}
		if kept := contents(t, fs, name+damagedSuffix); string(kept) != string(b) {
			t.Errorf("bit flip at %d: the damaged log is not kept as it was", at)
		}
		again, err := Salvage(Options{FS: fs, Dir: "journal"}, false)
		if err != nil || len(again.Damage) != 0 || again.Recovered != 0 {
			t.Errorf("bit flip at %d: the second time %+v, %v", at, again, err)
		}
		j, err := Open(Options{FS: fs, Dir: "journal"})
		if err != nil {
			t.Fatalf("bit flip at %d: after the salvage: %v", at, err)
		}
		first, next := j.Bounds()
		// The cursor is one that was written, at worst an older one.
		c := j.Cursor()
		moved, never := c.Index == moved && string(c.Mark) == "mark", c.Index == 0 && len(c.Mark) == 0
		if first != c.Index+1 || next != records+1 || !moved && !never {
			t.Errorf("bit flip at %d: bounds %d, %d, cursor %+v", at, first, next, c)
		}
		damaged := uint64(0)
		for index := first; index < next; index++ {
			switch r, err := j.Read(index); {
			case errors.Is(err, ErrDamaged):
				damaged++
			case err != nil:
				t.Fatal(err)
			case number(t, r.Value) != index:
				t.Fatalf("bit flip at %d: record %d is payload %d", at, index, number(t, r.Value))
			}
		}
		if damaged != did.Missing {
			t.Errorf("bit flip at %d: %d records are damaged, the salvage said %d", at, damaged, did.Missing)
		}
		mustAppend(t, j, payload(records+1, size))
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		salvaged++
		missing += damaged
	}
	t.Logf("%d salvaged, %.1f of %d records missing on average", salvaged, float64(missing)/float64(salvaged), records)
}

// A journal without damage stays as it is.
func TestSalvageNothing(t *testing.T) {
	mem := vfs.NewMem()
	j := open(t, Options{FS: mem, Dir: "journal"})
	mustAppend(t, j, payload(1, 100))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	did, err := Salvage(Options{FS: mem, Dir: "journal"}, false)
	if err != nil || len(did.Damage)+did.Recovered != 0 || did.Missing != 0 {
		t.Errorf("%+v, %v", did, err)
	}
}
