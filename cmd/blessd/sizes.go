package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/goccy/go-json"
	"golang.org/x/sys/unix"
)

// sizesFile remembers, in the data directory, the sizes that were computed at the
// first start: a journal must not shrink because the disk has filled since.
const sizesFile = "sizes.json"

// sizeRule says how a size that was left out is computed.
type sizeRule struct {
	path     string
	most     Size
	percent  Size // of the free space, without what stays free
	embedded bool // only when the embedded server keeps it; otherwise most holds
	of       func(*Config) *Size
}

var sizeRules = []sizeRule{
	{"journal.max_bytes", 10 * GiB, 20, false, func(c *Config) *Size { return &c.Journal.MaxBytes }},
	{"nats.stream.max_bytes", 10 * GiB, 40, true, func(c *Config) *Size { return &c.NATS.Stream.MaxBytes }},
	{"nats.quarantine.max_bytes", 1 * GiB, 10, true, func(c *Config) *Size { return &c.NATS.Quarantine.MaxBytes }},
}

// chooseSizes fills in the sizes that were left out: as remembered in the data
// directory, else from the free space of its disk.
func (c *Config) chooseSizes(free func(dir string) (Size, error)) error {
	remembered, err := readSizes(c.DataDir)
	if err != nil {
		return err
	}
	c.computed, c.chosen = make(map[string]Size), make(map[string]Size)
	for _, rule := range sizeRules {
		size := rule.of(c)
		if *size != 0 || c.source.has(rule.path) {
			continue
		}
		if rule.path == "journal.max_bytes" && c.acknowledgesStream() {
			continue // there is none
		}
		if rule.embedded && c.externalNATS() {
			*size = rule.most
			continue
		}
		if *size = remembered[rule.path]; *size <= 0 {
			space, err := free(c.DataDir)
			if err != nil {
				return fmt.Errorf("find out how much room the disk has: %w", err)
			}
			*size = min(rule.most, max(space-spareBytes, 0)/100*rule.percent/MiB*MiB)
			// On a full disk blessd says so; it does not run with no journal at all.
			*size = max(*size, 16*MiB)
			c.chosen[rule.path] = *size
		}
		c.computed[rule.path] = *size
	}
	return nil
}

func readSizes(dataDir string) (map[string]Size, error) {
	file := filepath.Join(dataDir, sizesFile)
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the remembered sizes: %w", err)
	}
	var sizes map[string]Size
	if err := json.Unmarshal(b, &sizes); err != nil {
		return nil, fmt.Errorf("%s is not what blessd wrote: delete it, and the sizes are computed again", file)
	}
	return sizes, nil
}

// rememberSizes adds what was computed to what is remembered.
func (c *Config) rememberSizes() error {
	sizes, err := readSizes(c.DataDir)
	if err != nil {
		return err
	}
	changed := false
	for path, size := range c.computed {
		if sizes[path] != size {
			if sizes == nil {
				sizes = make(map[string]Size)
			}
			sizes[path], changed = size, true
		}
	}
	if !changed {
		return nil
	}
	b, err := json.MarshalIndent(sizes, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the sizes: %w", err)
	}
	return writeFile(filepath.Join(c.DataDir, sizesFile), append(b, '\n'))
}

// freeBytes is the room that is left for us on the disk where dir is or will be.
func freeBytes(dir string) (Size, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return 0, err
	}
	for {
		var s unix.Statfs_t
		err := unix.Statfs(dir, &s)
		if err == nil {
			return Size(s.Bavail) * Size(s.Bsize), nil
		}
		// What is wrong with the path shows when the directory is made.
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) || dir == filepath.Dir(dir) {
			return 0, fmt.Errorf("statfs %s: %w", dir, err)
		}
		dir = filepath.Dir(dir)
	}
}

// usedBytes is what the data directory holds already.
func usedBytes(dir string) (used Size) {
	// What vanishes or cannot be read meanwhile is not worth an error.
	_ = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := entry.Info(); err == nil && info.Mode().IsRegular() {
			used += Size(info.Size())
		}
		return nil
	})
	return used
}

// spareBytes stays free: below it the journal takes nothing any more.
const spareBytes = 256 * MiB

// diskProblems tells whether everything that may be stored fits the disk. Sizes
// that were given and do not fit are an error in check. Serve warns of it, since it
// runs until the disk is full and then answers 503; and so it is a warning when
// blessd chose the sizes, because nobody wrote anything wrong.
func (c *Config) diskProblems(free func(dir string) (Size, error)) problems {
	space, err := free(c.DataDir)
	if err != nil {
		return problems{c.source.problem("data_dir", "find out how much room the disk has: "+err.Error(), "")}
	}
	need := []struct {
		path string
		size Size
	}{
		{"unverified.max_bytes", c.Unverified.MaxBytes},
	}
	if !c.acknowledgesStream() {
		need = append(need, need[0])
		need[0].path, need[0].size = "journal.max_bytes", c.Journal.MaxBytes
	}
	if !c.externalNATS() {
		need = append(need, []struct {
			path string
			size Size
		}{
			{"nats.stream.max_bytes", c.NATS.Stream.MaxBytes},
			{"nats.quarantine.max_bytes", c.NATS.Quarantine.MaxBytes},
		}...)
	}
	room := max(space+usedBytes(c.DataDir)-spareBytes, 0)
	var sum, given Size // that were given
	largest := need[0]
	for i, n := range need {
		sum = plus(sum, n.size)
		if c.source.has(n.path) {
			given = plus(given, n.size)
		}
		if i > 0 && n.size > largest.size {
			largest = n
		}
	}
	if sum <= room {
		return nil
	}
	what := fmt.Sprintf("the sizes do not fit the disk: journal, streams and unverified deliveries may take %s, and %s has room for %s",
		sum.approximate(), c.DataDir, room.approximate())
	mend := fmt.Sprintf("make them smaller, or give the data directory a larger disk (%s always stays free)", spareBytes)
	if given > room {
		return problems{c.source.problem(largest.path, what, mend)}
	}
	p := c.source.problem("data_dir", what, mend)
	p.Warning = true
	return problems{p}
}

// plus adds sizes that are not negative, up to the largest there is.
func plus(a, b Size) Size {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
