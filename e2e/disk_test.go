package e2e

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestDiskFull fills the disk that everything is on, the journal and the embedded
// server's streams, under load, until nothing is blessed any more. When there is
// space again, all goes on without anybody's help.
func TestDiskFull(t *testing.T) {
	for _, mode := range []string{"journal", "stream"} {
		t.Run(mode, func(t *testing.T) {
			r := newRigWith(t, "acknowledge: "+mode, "  embedded: {listen: \"127.0.0.1:0\"}\n  stream: {max_bytes: 256MiB}\n  quarantine: {max_bytes: 16MiB}")
			data := filepath.Join(r.dir, "data")
			mountSmall(t, data, "size=512m")
			r.start()
			r.ready()
			l := newLedger()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			wg := r.load(ctx, 32, l)
			wait(t, "blessings", func() bool { return l.count() > 100 })

			// With a journal in front it is chance whether a message is on its way just
			// then: without, no stream is harmed, and the disk is filled again.
			filler := filepath.Join(data, "filler")
			stuck := false
			for n := 0; n < 5 && !stuck; n++ {
				before, refused := l.count(), l.refusals()
				if n > 0 {
					if err := os.Remove(filler); err != nil {
						t.Fatal(err)
					}
					wait(t, "blessings", func() bool { return l.count() > before+100 })
					refused = l.refusals()
				}
				fill(t, filler)
				wait(t, "refusals", func() bool { return l.refusals() > refused+20 })
				for deadline := time.Now().Add(12 * time.Second); !stuck && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
					_, metrics := r.get("/metrics")
					stuck = strings.Contains(metrics, "\nblessd_embedded_stuck 1\n")
				}
			}
			if !stuck {
				t.Fatal("the embedded server was not found stuck")
			}
			if _, status := r.get("/-/status"); !strings.Contains(status, `"stuck": "`) {
				t.Errorf("status does not say that the server is stuck:\n%s", status)
			}
			if status, body := r.get("/-/ready"); status != http.StatusServiceUnavailable {
				t.Errorf("ready says %d %s with a full disk", status, body)
			}

			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			before := l.count()
			wait(t, "blessings after there was space", func() bool { return l.count() > before+100 })
			for _, want := range []string{"\nblessd_embedded_stuck 0\n", "\nblessd_embedded_restarts_total{reason=\"disk_full\"} 1\n"} {
				wait(t, "the metrics to have"+want, func() bool { _, metrics := r.get("/metrics"); return strings.Contains(metrics, want) })
			}
			cancel()
			wg.Wait()
			l.verdict(t, r.nats)
			if r.proc.cmd.ProcessState != nil {
				t.Errorf("blessd has ended:\n%s", r.proc.out.String())
			}
		})
	}
}

// mountSmall mounts a file system in memory, and unmounts it at the end.
func mountSmall(t *testing.T, dir, options string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options+",mode=700"); err != nil {
		t.Skipf("SKIPPED, nothing is shown: a small file system cannot be mounted here (needs root): %v", err)
	}
	t.Cleanup(func() {
		// The kernel may need a moment after the program that used it has ended.
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			err := syscall.Unmount(dir, 0)
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("unmount %s: %v", dir, err)
				return
			}
		}
	})
}

// fill takes all the space there is.
func fill(t *testing.T, file string) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
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
			t.Fatalf("fill the disk: %v", err)
		}
	}
}
