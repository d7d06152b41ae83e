package sink

import (
	"context"
	"testing"
)

// StopServer stops e's server, as a crash of it would: e.Restart brings it back.
func StopServer(t *testing.T, e *Embedded) {
	t.Helper()
	if err := e.stop(context.Background()); err != nil {
		t.Fatal(err)
	}
}

// Password returns what blessd logs in with, to look for it where it must not be.
func Password(e *Embedded) string { return e.password }

// Look has w look once.
func Look(ctx context.Context, w *Watchdog) { w.look(ctx) }
