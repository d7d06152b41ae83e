package sink

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
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

	mu     sync.Mutex
	synced map[string]stamp // what each path looked like before it was synced
	whole  bool             // the file system has been synced once
	err    error            // the first failed sync, which is final
}

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
	return &disk{dir: dir, account: account, root: root, synced: map[string]stamp{}}, nil
}

func (d *disk) close() { d.root.Close() }

// errLayout says that the store does not look as expected.
var errLayout = errors.New("unknown layout of the store")

func (d *disk) sync(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return d.err
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
		return err
	}
	err = fmt.Errorf("sync nats data: %w", err)
	if errors.Is(err, ErrSync) {
		d.err = err
	}
	return err
}

// ErrSync is wrapped by Embedded.Sync's error when the disk failed, and not just
// the way to it: from then on nobody knows what is stored, and only a new start of
// the program finds out.
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
			return nil
		}
		if err := fsync(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
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

func fsync(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("%w: %w", ErrSync, err)
	}
	return nil
}
