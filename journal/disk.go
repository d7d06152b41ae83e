package journal

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// pebbleOptions are for a queue on a small machine: little memory, few files,
// nothing compressed (a value is written to a table once and read once), and no
// stall that a reader of the journal cannot end.
func pebbleOptions(j *Journal, fs vfs.FS) *pebble.Options {
	log := j.log.WithOptions(zap.WrapCore(func(c zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(c, time.Minute, 5, 1000)
	}))
	o := &pebble.Options{
		FS:                 disk{fs, j},
		FormatMajorVersion: pebble.FormatNewest,
		Logger:             logger{j, log},
		EventListener: &pebble.EventListener{
			BackgroundError: func(err error) { log.Error("journal background error", zap.Error(err)) },
			// The default is Fatalf. Damage is reported to whoever reads it, as
			// ErrDamaged, and is no reason to stop accepting.
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				log.Error("journal file is damaged", zap.String("path", i.Path), zap.NamedError("error", i.Details))
			},
			WriteStallBegin: func(i pebble.WriteStallBeginInfo) {
				log.Warn("journal writes stall", zap.String("reason", i.Reason))
			},
		},
		// A memtable begins with 256 KiB and grows with the load. pebble takes its
		// memory from the cache's, hence the sum.
		MemTableSize:                memTableSize,
		MemTableStopWritesThreshold: 3,
		CacheSize:                   8<<20 + memTableSize,
		MaxOpenFiles:                128,
		// Never stop appends because of compactions: one that cannot get past a
		// damaged table would stop them for ever.
		L0StopWritesThreshold: 1 << 20,
		MaxManifestFileSize:   1 << 20,
	}
	o.TargetFileSizes[0] = 4 << 20
	o.FlushSplitBytes = 8 << 20
	// What the cursor has passed is dropped table by table, without reading them,
	// by compactions that find no slot while another one runs if there is but
	// one: under load a journal with 700 MB in use took 1.8 GB of the disk.
	o.CompactionConcurrencyRange = func() (lower, upper int) { return 1, 3 }
	o.Experimental.EnableDeleteOnlyCompactionExcises = func() bool { return true }
	o.Experimental.ReadSamplingMultiplier = -1 // no compactions because of reads
	for i := range o.Levels {
		o.Levels[i].Compression = func() *sstable.CompressionProfile { return sstable.NoCompression }
	}
	return o
}

const memTableSize = 16 << 20

// logger hands pebble's messages to zap.
type logger struct {
	j   *Journal
	log *zap.Logger
}

func (l logger) Infof(format string, args ...any) {
	l.log.Debug("pebble", zap.String("text", fmt.Sprintf(format, args...)))
}

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("pebble reports an error", zap.String("text", fmt.Sprintf(format, args...)))
}

// Fatalf does not end the process, which is not pebble's to end, and does not
// return either.
func (l logger) Fatalf(format string, args ...any) {
	l.j.fail(fmt.Errorf(format, args...))
	park()
}

// park stops the calling goroutine for ever: what happens to one of pebble's, or
// to the committer, once the journal has failed.
//
// pebble expects Fatalf to end the process and goes wrong when it returns: after
// an error from the commit pipeline DB.Apply returns nil, as if the batch were
// durable; after an error from the manifest the next edit is tried on top of an
// unknown one. runtime.Goexit or a panic are no better, as both run the deferred
// calls: UpdateVersionLocked's release the manifest for the next flush, and
// commitWrite's unlock DB.mu, which rotateWAL has unlocked before it panics about
// an error from closing or making a log file: "fatal error: sync: unlock of
// unlocked mutex", which nothing recovers. A parked goroutine acknowledges
// nothing, changes nothing, and keeps its locks, so that the others stop too; the
// program has been told by Failed and exits.
func park() { select {} }

// disk is the file system that pebble gets. It catches what goes wrong with
// writing before pebble has to deal with it (see park), and so that one rule
// holds for every file: a write or sync that fails is final, except that for want
// of space
//
//   - the log and the manifest wait. Nothing was lost, the rest of the write can
//     follow when there is space; pebble would give up the store;
//   - a table gets its error, a little later: pebble deletes what it has written
//     of it, which makes room, and tries again, at once and for ever.
//
// Reading is not its business.
type disk struct {
	vfs.FS
	j *Journal
}

// retryInterval is how long writes wait for space between two attempts.
const retryInterval = 250 * time.Millisecond

// Unwrap implements vfs.FS.
func (d disk) Unwrap() vfs.FS { return d.FS }

// Create implements vfs.FS.
func (d disk) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.Create(name, c)
	for d.again("creating", name, err) {
		f, err = d.FS.Create(name, c)
	}
	return d.file(f, name, err)
}

// ReuseForWrite implements vfs.FS.
func (d disk) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f, err := d.FS.ReuseForWrite(from, to, c)
	for d.again("renaming", to, err) {
		f, err = d.FS.ReuseForWrite(from, to, c)
	}
	return d.file(f, to, err)
}

// OpenReadWrite implements vfs.FS.
func (d disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := d.FS.OpenReadWrite(name, c, o...)
	return d.file(f, name, err)
}

// OpenDir implements vfs.FS: directories are opened to be synced.
func (d disk) OpenDir(name string) (vfs.File, error) {
	f, err := d.FS.OpenDir(name)
	return d.file(f, name, err)
}

// Rename implements vfs.FS.
func (d disk) Rename(from, to string) error {
	err := d.FS.Rename(from, to)
	for d.again("renaming", to, err) {
		err = d.FS.Rename(from, to)
	}
	return err
}

func (d disk) file(f vfs.File, name string, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return &file{f, d, name}, nil
}

// again decides about the outcome of something that can be repeated. It returns
// false when err is pebble's to see, true when there may be space now, and not at
// all when the error is final.
func (d disk) again(what, name string, err error) bool {
	if err == nil {
		return false
	}
	if !noSpace(err) || d.j.opening.Load() {
		d.final(what, name, err)
	}
	wait := time.NewTimer(retryInterval)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-d.j.failed:
		park()
	case <-d.j.abandoned:
		park()
	}
	return !isTable(name)
}

// final fails the journal and does not return.
func (d disk) final(what, name string, err error) {
	d.j.fail(fmt.Errorf("%s %s: %w", what, d.PathBase(name), err))
	park()
}

// noSpace tells whether err is a want that passes: of disk space, or of file
// descriptors, which connections use up too. Nothing was written then.
func noSpace(err error) bool {
	for _, want := range []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE} {
		if errors.Is(err, want) {
			return true
		}
	}
	return false
}

// isTable reports whether a file can be thrown away while it is being written.
func isTable(name string) bool { return strings.HasSuffix(name, ".sst") }

// file is a file or directory of disk.
type file struct {
	vfs.File
	d    disk
	name string
}

func (f *file) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	for f.d.again("writing", f.name, err) {
		var m int
		m, err = f.File.Write(p[n:])
		n += m
	}
	return n, err
}

func (f *file) Sync() error     { return f.synced(f.File.Sync()) }
func (f *file) SyncData() error { return f.synced(f.File.SyncData()) }

func (f *file) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.synced(err)
}

func (f *file) Close() error {
	if err := f.File.Close(); err != nil {
		f.d.final("closing", f.name, err)
	}
	return nil
}

// synced lets no error of a sync pass, not even one for want of space: the kernel
// may have dropped what it could not write. A table is another matter, it is
// written anew.
func (f *file) synced(err error) error {
	if err == nil {
		return nil
	}
	if !isTable(f.name) || !noSpace(err) {
		f.d.final("syncing", f.name, err)
	}
	f.d.again("syncing", f.name, err)
	return err
}

// space watches the free space of the disk.
type space struct {
	fs  vfs.FS
	dir string
	min uint64 // 0 = do not look

	start   time.Time
	looking sync.Mutex
	next    atomic.Int64 // when to look again, after start
	free    atomic.Uint64
}

func newSpace(fs vfs.FS, dir string, min int64) *space {
	s := &space{fs: fs, dir: dir, start: time.Now()}
	switch {
	case min == 0:
		s.min = defaultMinFree
	case min > 0:
		s.min = uint64(min)
	}
	s.short() // so that free is set before two goroutines look at once
	return s
}

// short reports whether less than min is free, by a look that is at most
// spaceInterval old. If the file system does not tell, it is not short: a write
// without space waits, it is not lost.
func (s *space) short() (free uint64, short bool) {
	if s.min == 0 {
		return 0, false
	}
	now := time.Since(s.start)
	if int64(now) >= s.next.Load() && s.looking.TryLock() {
		free := ^uint64(0)
		if u, err := s.fs.GetDiskUsage(s.dir); err == nil {
			free = u.AvailBytes
		}
		s.free.Store(free)
		s.next.Store(int64(now + spaceInterval))
		s.looking.Unlock()
	}
	free = s.free.Load()
	return free, free < s.min
}
