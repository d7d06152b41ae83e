package scenario

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

var diskScenarios = []Scenario{
	{
		Name: "disk-full", Faults: []string{"F10"}, Tier: 0,
		Proves: "A full disk under the journal and the embedded server means 503 and not ready; with space again everything goes on by itself, and nothing is lost.",
		Run:    func(e *Env) { diskFull(e, "journal") },
	},
	{
		Name: "stream-disk-full", Faults: []string{"F10"}, Tier: 0,
		Proves: "The same holds without a journal.",
		Run:    func(e *Env) { diskFull(e, "stream") },
	},
}

// diskFull fills the disk that everything is on until nothing is blessed any more.
func diskFull(e *Env, acknowledge string) {
	b := e.BlessdLater(Config{Acknowledge: acknowledge, Stream: "max_bytes: 256MiB", Quarantine: "max_bytes: 16MiB", Journal: "max_bytes: 128MiB"})
	e.MountSmall(b.DataDir(), "size=512m")
	b.Start()
	b.Ready()
	load := e.Load(b, Load{Senders: 32, Retry: true})
	load.MoreBlessed(100)

	// With a journal in front it is chance whether a message is on its way just then:
	// without, no stream is harmed, and the disk is filled again.
	filler := filepath.Join(b.DataDir(), "filler")
	stuck := false
	for n := 0; n < 30 && !stuck; n++ {
		if n > 0 {
			e.remove1(filler)
			load.MoreBlessed(100)
		}
		e.Fill(filler)
		load.MoreRefused(20)
		// Nothing on its way after a moment: not this time.
		began := time.Now()
		for most := 2 * time.Second; !stuck && time.Since(began) < most; time.Sleep(20 * time.Millisecond) {
			m := b.Metrics()
			stuck = m.Sum("blessd_embedded_stuck") == 1
			if m.Sum("blessd_publish_pending") > 0 || acknowledge == "stream" {
				most = 30 * time.Second
			}
		}
	}
	if !stuck {
		e.Fatalf("the embedded server was not found stuck")
	}
	if _, status := b.Get("/-/status"); !strings.Contains(status, `"stuck": "`) {
		e.Errorf("status does not say that the server is stuck:\n%s", status)
	}
	b.NotReady("with a full disk")

	e.remove1(filler)
	load.MoreBlessed(100)
	b.WaitMetric(0, "blessd_embedded_stuck")
	b.WaitMetric(1, "blessd_embedded_restarts_total", "reason", "disk_full")
}

// remove1 removes one file.
func (e *Env) remove1(file string) {
	if err := os.Remove(file); err != nil {
		e.Fatalf("%v", err)
	}
}

// MountSmall mounts a file system in memory until the scenario is over, or skips it.
func (e *Env) MountSmall(dir, options string) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		e.Fatalf("%v", err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options+",mode=700"); err != nil {
		e.Skipf("a small file system cannot be mounted here (needs root): %v", err)
	}
	e.Cleanup(func() { e.Unmount(dir) })
}

// Unmount unmounts, for which the kernel may need a moment after the program that
// used it has ended.
func (e *Env) Unmount(dir string) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := syscall.Unmount(dir, 0)
		if err == nil || errors.Is(err, syscall.EINVAL) { // not mounted any more
			return
		}
		if time.Now().After(deadline) {
			e.Errorf("unmount %s: %v", dir, err)
			return
		}
	}
}

// Fill takes all the space there is where the file is.
func (e *Env) Fill(file string) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		e.Fatalf("%v", err)
	}
	defer f.Close()
	var at int64
	for step := int64(64 << 20); step >= 4096; {
		err := syscall.Fallocate(int(f.Fd()), 0, at, step)
		switch {
		case err == nil:
			at += step
		case errors.Is(err, syscall.ENOSPC):
			step /= 2
		case !errors.Is(err, syscall.EINTR):
			e.Fatalf("fill the disk: %v", err)
		}
	}
}
