package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

const (
	// settleTime is how long key files must stay as they are before they are read:
	// whoever writes one in place, and not by rename, is not read half way.
	settleTime = 200 * time.Millisecond
	// lookInterval is how often they are looked at unasked: not every file system
	// tells of changes, and the kernel's watches can run out.
	lookInterval = 5 * time.Second
)

// startWatching reads the key files again whenever one of them changes.
func (d *daemon) startWatching(context.Context) error {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.watchKeys(ctx)
	}()
	d.onStop("watch on key files", func(context.Context) error {
		cancel()
		<-done
		return nil
	})
	return nil
}

func (d *daemon) watchKeys(ctx context.Context) {
	var told chan fsnotify.Event // nil tells nothing
	var lost chan error
	w, err := fsnotify.NewWatcher()
	if err != nil {
		d.log.Warn("key files cannot be watched, and are looked at from time to time instead", zap.Duration("every", lookInterval), zap.Error(err))
	} else {
		defer func() { _ = w.Close() }() // nothing is lost with it
		told, lost = w.Events, w.Errors
	}
	tick := time.NewTicker(lookInterval)
	defer tick.Stop()
	settle := time.NewTimer(0) // the first look is at once: something may have changed since the start
	defer settle.Stop()
	changed := "" // the state that has to last
	for armed := true; ; {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-told:
			if !ok {
				told = nil
			}
		case _, ok := <-lost: // too many at once: a look finds out
			if !ok {
				lost = nil
			}
		case <-tick.C:
		case <-settle.C:
			armed = false
			state, seen := d.keyStates()
			switch state {
			case seen:
				changed = ""
			case changed:
				changed = ""
				d.reloadKeys()
			default:
				changed = state
				settle.Reset(settleTime)
				armed = true
			}
			d.watchPlaces(w)
			continue
		}
		if !armed {
			settle.Reset(settleTime)
			armed = true
		}
	}
}

// keyStates returns the state of the key files in force now and when they were
// read.
func (d *daemon) keyStates() (now, seen string) {
	d.reloadMu.Lock()
	defer d.reloadMu.Unlock()
	return d.inForce.Load().cfg.keyState(), d.reloads.seen
}

// watchPlaces makes w watch where the key files in force are. Directories that are
// watched already are so again: another one may have the name now.
func (d *daemon) watchPlaces(w *fsnotify.Watcher) {
	if w == nil {
		return
	}
	var places []string
	cfg := d.inForce.Load().cfg
	for _, file := range slices.Concat(cfg.secretFiles(), cfg.managedDirs()) {
		places = append(places, placesOf(file)...)
	}
	for _, dir := range w.WatchList() {
		if !slices.Contains(places, dir) {
			_ = w.Remove(dir) // it is gone already
		}
	}
	slices.Sort(places)
	for _, dir := range slices.Compact(places) {
		if err := w.Add(dir); err != nil {
			d.log.Debug("directory of keys is not watched", zap.String("dir", dir), zap.Error(err))
		}
	}
}

// placesOf returns the directories in which a change can make another file of this
// path: its own, and that of each symbolic link on the way. What does not exist is
// awaited where it would appear.
func placesOf(file string) (dirs []string) {
	path, err := filepath.Abs(file)
	if err != nil {
		return nil
	}
	const mostLinks = 40 // as many as the kernel follows
	at, rest := "/", strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		next := filepath.Join(at, rest[0])
		info, err := os.Lstat(next)
		switch {
		case err != nil:
			return append(dirs, at)
		case info.Mode()&os.ModeSymlink != 0:
			target, err := os.Readlink(next)
			if links++; err != nil || links > mostLinks {
				return append(dirs, at)
			}
			dirs = append(dirs, at)
			if filepath.IsAbs(target) {
				at = "/"
			}
			rest = append(strings.Split(target, "/"), rest[1:]...)
		case !info.IsDir():
			return append(dirs, at)
		default:
			at, rest = next, rest[1:]
		}
	}
	return append(dirs, at)
}

// secretFiles returns every file that receiverEndpoints reads, but for those in
// managedDirs.
func (c *Config) secretFiles() (files []string) {
	for _, e := range c.Endpoints {
		files = slices.Concat(files, e.KeyFiles, e.ParentKeyFiles, e.TokenFiles, []string{e.BasicAuthFile})
		if m := e.Manage; m != nil {
			files = append(files, m.APIKeyFile, m.OwnerIDFile, m.TokenFile)
		}
		if c.noFile {
			files = append(files, filepath.Join(c.keyDir(e.Name), tokenFile), filepath.Join(c.keyDir(e.Name), sampleTokenFile))
		}
	}
	return slices.DeleteFunc(files, func(f string) bool { return f == "" })
}

// managedDirs returns the directories in which keys may appear.
func (c *Config) managedDirs() (dirs []string) {
	for _, e := range c.Endpoints {
		if signs(e.Provider) {
			dirs = append(dirs, c.keyDir(e.Name))
		}
	}
	return dirs
}

// keyState describes all key files without reading them: another state means that
// one of them was written, replaced, added or removed, or counts no more.
func (c *Config) keyState() string {
	files := c.secretFiles()
	var b strings.Builder
	now := time.Now()
	for _, e := range c.Endpoints {
		if !signs(e.Provider) {
			continue
		}
		keys, err := c.managedKeys(e.Name)
		if err != nil {
			fmt.Fprintln(&b, e.Name, err)
		}
		for _, k := range keys {
			files = append(files, k.file)
			fmt.Fprintln(&b, k.file, k.counts(now)) // one that ceases to count changes nothing else
		}
	}
	for _, file := range files {
		var s unix.Stat_t
		err := unix.Stat(file, &s)
		fmt.Fprintln(&b, file, err, s.Dev, s.Ino, s.Mode, s.Uid, s.Gid, s.Size, s.Mtim.Nano(), s.Ctim.Nano())
	}
	return b.String()
}
