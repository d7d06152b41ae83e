package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// A journal with a damaged log keeps blessd from starting, which says how to go on,
// and that works.
func TestSalvageCommand(t *testing.T) {
	p := startProgram(t, "enkod", "journal")
	for i := range 40 {
		body := fmt.Sprintf(`{"event":"message sent","message_id":1,"message_uid":"m%d","to":"user@example.com","pad":"%04096d"}`, i, 0)
		if code, answer := p.post(p.url(), "application/json", nil, []byte(body)); code != http.StatusOK {
			t.Fatalf("%d %s", code, answer)
		}
	}
	p.settled()
	cfg := p.daemon.cfg
	var out bytes.Buffer
	if status, talk := blessd(t.Context(), &out, "salvage", "--data-dir", cfg.DataDir); status != 1 || !strings.Contains(talk, "in use by another blessd") {
		t.Errorf("while blessd runs: status %d, %s", status, talk)
	}
	stopDaemon(t, p.daemon)

	logs, err := filepath.Glob(filepath.Join(cfg.DataDir, "journal", "*.log"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("%q, %v", logs, err)
	}
	newest := logs[len(logs)-1]
	b, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	b[20_000] ^= 4
	if err := os.WriteFile(newest, b, 0o600); err != nil {
		t.Fatal(err)
	}
	start := func() error {
		p.daemon = newDaemon(cfg, zap.NewNop())
		err := p.daemon.Start(t.Context())
		if err != nil {
			_ = p.daemon.Stop(context.Background()) // it has not come far
		}
		return err
	}
	if err := start(); err == nil || !strings.Contains(err.Error(), "blessd salvage") {
		t.Fatalf("with a damaged log: %v", err)
	}
	run := func(want string, args ...string) {
		t.Helper()
		var out bytes.Buffer
		if status, talk := blessd(t.Context(), &out, append([]string{"salvage", "--data-dir", cfg.DataDir}, args...)...); status != 0 || !strings.Contains(out.String(), want) {
			t.Errorf("salvage %q: status %d, want 0 and %q\n%s%s", args, status, want, out.String(), talk)
		}
	}
	run("damaged at byte")
	run(`"dry_run":true`, "-o", "json")
	run("the journal can be used again", "--yes")
	run("no log is damaged", "--yes")
	if err := start(); err != nil {
		t.Fatal(err)
	}
	if code, _ := p.post(p.url(), "application/json", nil, []byte(`{"event":"message sent","message_id":1,"message_uid":"last","to":"user@example.com"}`)); code != http.StatusOK {
		t.Errorf("after the salvage: %d", code)
	}
	stopDaemon(t, p.daemon)
}
