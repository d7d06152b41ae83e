package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// TestWatchdog says that blessd is alive until it cannot do its work.
func TestWatchdog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var failed atomic.Bool
		var alive atomic.Int64
		broken := func() error {
			if failed.Load() {
				return errors.New("a sync failed")
			}
			return nil
		}
		go watchdog(ctx, time.Second, broken, func() { alive.Add(1) })
		time.Sleep(3500 * time.Millisecond) // of the test's own clock
		synctest.Wait()
		if got := alive.Load(); got != 4 {
			t.Errorf("alive %d times in 3.5 s, want 4", got)
		}
		failed.Store(true)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if got := alive.Load(); got != 4 {
			t.Errorf("alive %d times, want no more than the 4 before the failure", got)
		}
	})
}

// TestSystemdUnits lets systemd itself check the units.
func TestSystemdUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("there is no systemd-analyze here: the units are not checked")
	}
	dir := t.TempDir()
	// The program must exist for that; any will do.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var units []string
	for _, name := range []string{"blessd.service", "blessd.socket"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "deploy", "systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		unit := filepath.Join(dir, name)
		if err := os.WriteFile(unit, []byte(strings.ReplaceAll(string(b), "/usr/bin/blessd", self)), 0o600); err != nil {
			t.Fatal(err)
		}
		units = append(units, unit)
	}
	cmd := exec.Command(analyze, append([]string{"verify", "--man=no"}, units...)...)
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
	out, err := cmd.CombinedOutput()
	// It says what is wrong with other units of the machine too.
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "blessd") {
			t.Errorf("%s", line)
		}
	}
	if err != nil {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// TestWatchdogWithoutJournal has nothing that could break for good.
func TestWatchdogWithoutJournal(t *testing.T) {
	d := newDaemon(defaultConfig(), zap.NewNop())
	if err := d.broken(); err != nil {
		t.Errorf("got %v, want nil", err)
	}
}
