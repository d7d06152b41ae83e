package main

import (
	"context"
	"errors"
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

// TestWatchdogWithoutJournal has nothing that could break for good.
func TestWatchdogWithoutJournal(t *testing.T) {
	d := newDaemon(defaultConfig(), zap.NewNop())
	if err := d.broken(); err != nil {
		t.Errorf("got %v, want nil", err)
	}
}
