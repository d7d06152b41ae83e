package sink

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// disk makes safe what a JetStream file store has written. Its layout, the
// server's own affair but stable for years, is
// <dir>/<account>/streams/<stream>/meta.inf, meta.sum and msgs/<n>.blk. Where
// that is not what is found, the whole file system is synced instead, which
// waits for other people's data, too.
type disk struct {
	dir     string
	account string
	root    *os.File // held from the start, so that no failed write is missed

	failure atomic.Pointer[error] // the first, ours or the server's, which is final

	mu     sync.Mutex
	synced map[string]stamp    // what each path looked like before it was synced
	held   map[string]*os.File // what has changed of late, see fsync
	whole  bool                // the file system has been synced once
}

// maxHeld is how many descriptors are kept of files that do not change any more.
const maxHeld = 64

// stamp tells whether a file has changed. Files are appended to or replaced.
type stamp struct {
	size  int64
	mtime time.Time
	inode uint64
}

func openDisk(dir, account string) (*disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("nats data directory: %w", err)
	}
	root, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("nats data directory: %w", err)
	}
	return &disk{dir: dir, account: account, root: root, synced: map[string]stamp{}, held: map[string]*os.File{}}, nil
}

func (d *disk) close() {
	d.root.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	for path := range d.held {
		d.release(path)
	}
}

// uncache has the blocks of the streams read from the disk, and not from what the
// kernel has in memory of them. A page whose write has failed stays there and
// counts as written: after an end by ErrSync the next server would find messages
// that the disk does not have, and the relay would take them for safe. What is
// missing is instead found missing, and published again by the relay, which has
// not moved the cursor over it. What is not written yet stays in memory, and sync
// hears how writing it ends. It is done at each start, since a disk that fails is
// no place to note that it has.
func (d *disk) uncache() error {
	blocks, err := filepath.Glob(filepath.Join(d.dir, d.account, "streams", "*", "msgs", "*.blk"))
	if err != nil {
		return fmt.Errorf("nats data directory: %w", err)
	}
	for _, path := range blocks {
		f, err := os.Open(path)
		if err != nil {
			return fmt.Errorf("nats data directory: %w", err)
		}
		err = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		f.Close()
		if err != nil {
			return fmt.Errorf("nats data directory: read %s anew: %w", path, err)
		}
	}
	return nil
}

// fail notes an error after which nobody knows what is stored. It waits for
// nothing, and returns the first of them.
func (d *disk) fail(err error) error {
	err = fmt.Errorf("sync nats data: %w", err)
	d.failure.CompareAndSwap(nil, &err)
	return d.failed()
}

// failed returns the error that was noted, if any.
func (d *disk) failed() error {
	if err := d.failure.Load(); err != nil {
		return *err
	}
	return nil
}

// errLayout says that the store does not look as expected.
var errLayout = errors.New("unknown layout of the store")

func (d *disk) sync(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.failed(); err != nil {
		return err
	}
	err := d.syncFiles(ctx)
	if errors.Is(err, errLayout) || err == nil && !d.whole {
		// The first time this covers whatever lies around the streams, too.
		if err = unix.Syncfs(int(d.root.Fd())); err == nil {
			d.whole = true
		} else {
			err = fmt.Errorf("%w: %w", ErrSync, err)
		}
	}
	if err == nil || ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return cmp.Or(d.failed(), err) // the server may have met an error meanwhile
	}
	if errors.Is(err, ErrSync) {
		return d.fail(err)
	}
	return fmt.Errorf("sync nats data: %w", err)
}

// ErrSync is wrapped by Embedded.Sync's error when the disk failed, for blessd or
// for the server, and not just the way to it: from then on nobody knows what is
// stored, and only a new start of the program finds out.
var ErrSync = errors.New("disk failed to sync")

// syncFiles syncs what has changed since it was last synced.
func (d *disk) syncFiles(ctx context.Context) error {
	streams := filepath.Join(d.dir, d.account, "streams")
	entries, err := os.ReadDir(streams)
	if errors.Is(err, fs.ErrNotExist) {
		return errLayout
	}
	if err != nil {
		return err
	}
	seen := make(map[string]bool, len(d.synced))
	// A file before its directory, and the directory as it was before its files
	// were listed: what comes later is newer than any acknowledgement so far.
	sync := func(path string, i fs.FileInfo) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		seen[path] = true
		now := stamp{size: i.Size(), mtime: i.ModTime(), inode: inode(i)}
		if d.synced[path] == now {
			if len(d.held) > maxHeld {
				d.release(path)
			}
			return nil
		}
		if d.synced[path].inode != now.inode {
			d.release(path)
		}
		if err := d.fsync(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		d.synced[path] = now
		return nil
	}
	dir := func(path string, each func(fs.DirEntry) error) error {
		i, err := os.Stat(path)
		if err != nil {
			return err
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := each(e); err != nil {
				return err
			}
		}
		return sync(path, i)
	}
	file := func(path string, e fs.DirEntry) error {
		i, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // an expired block
		}
		if err != nil {
			return err
		}
		return sync(path, i)
	}
	for _, e := range entries {
		stream := filepath.Join(streams, e.Name())
		msgs := filepath.Join(stream, "msgs")
		if !e.IsDir() {
			continue
		}
		if _, err := os.Stat(filepath.Join(stream, "meta.inf")); errors.Is(err, fs.ErrNotExist) {
			return errLayout
		}
		err := dir(msgs, func(e fs.DirEntry) error {
			if !strings.HasSuffix(e.Name(), ".blk") {
				return nil // indexes, which the server can make anew
			}
			return file(filepath.Join(msgs, e.Name()), e)
		})
		if errors.Is(err, fs.ErrNotExist) {
			return errLayout
		}
		if err != nil {
			return err
		}
		err = dir(stream, func(e fs.DirEntry) error {
			if e.IsDir() {
				return nil
			}
			return file(filepath.Join(stream, e.Name()), e)
		})
		if err != nil {
			return err
		}
	}
	if err := dir(streams, func(fs.DirEntry) error { return nil }); err != nil {
		return err
	}
	for path := range d.synced {
		if !seen[path] {
			delete(d.synced, path)
			d.release(path)
		}
	}
	return nil
}

func inode(i fs.FileInfo) uint64 {
	if s, ok := i.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}

// fsync syncs the file at path. The server syncs it, too, now and then and when it
// stops, and the kernel tells of a failed write once to each descriptor that was
// open before, but to none that is opened after somebody was told. So the
// descriptor is held. The first time all files have changed, most of them for good.
func (d *disk) fsync(path string) error {
	f := d.held[path]
	if f == nil {
		var err error
		if f, err = os.Open(path); err != nil {
			return err
		}
		if d.whole {
			d.held[path] = f
		} else {
			defer f.Close()
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("%w: %w", ErrSync, err)
	}
	return nil
}

// release closes what is held of path.
func (d *disk) release(path string) {
	if f := d.held[path]; f != nil {
		f.Close()
		delete(d.held, path)
	}
}
