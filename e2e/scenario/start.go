package scenario

import (
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/blessd/blessd/e2e/ledger"
)

var startScenarios = []Scenario{
	{
		Name: "second-blessd", Faults: []string{"F2"}, Tier: 0,
		Proves: "A second blessd on the same data directory does not start, says why, and does the first one no harm.",
		Run: func(e *Env) {
			b := e.Blessd(Config{})
			load := e.Load(b, Load{})
			load.MoreBlessed(50)
			for range e.Times(2) {
				out, err := exec.CommandContext(e.ctx, e.o.Binary, "serve", "-c", b.ConfigFile()).CombinedOutput()
				if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 1 {
					e.Errorf("the second blessd ended with %v, want status 1", err)
				}
				if !strings.Contains(string(out), b.DataDir()) || !strings.Contains(string(out), "in use by another blessd") {
					e.Errorf("the second blessd does not say what is in use:\n%s", out)
				}
				load.MoreBlessed(50)
			}
			e.Rules.NothingRefused = true
		},
	},
	{
		Name: "stream-gone-at-start", Faults: []string{"F2", "F16"}, Tier: 0,
		Proves: "When the embedded store has lost its streams while blessd was down, blessd says so instead of starting empty, and publishes what its journal still has.",
		Run:    streamGone,
	},
	{
		Name: "upgrade", Faults: []string{"F37"}, Tier: 1,
		Proves: "A data directory that an older blessd wrote is read by this one, and the other way round, without a loss.",
		Run:    upgrade,
	},
}

// streamGone deletes the stream's files, as the loss of power does with NATS' default
// settings. What was in them and is safe by blessd's lights is gone, whatever anybody
// does: it is not in the books.
func streamGone(e *Env) {
	b := e.Blessd(Config{})
	for range 20 {
		if r := b.send(e.Delivery("sendclean")); !r.Blessed() {
			e.Fatalf("refused with %d %v", r.Status, r.Err)
		}
	}
	e.Wait("the cursor to move", func() bool {
		return b.Metric("blessd_relay_cursor_timestamp_seconds") > 0 && b.Metric("blessd_journal_records") == 0
	})
	load := e.Load(b, Load{Retry: true})
	load.MoreBlessed(100)
	b.Kill()
	streams, err := find(b.DataDir(), ledger.Events)
	if err != nil || len(streams) != 1 {
		e.Fatalf("the directory of the stream: %v %v", streams, err)
	}
	if err := os.RemoveAll(streams[0]); err != nil {
		e.Fatalf("%v", err)
	}
	b.Start()
	b.WaitMetric(1, "blessd_stream_went_backwards")
	load.MoreBlessed(100)
	if status, text := b.Get("/-/ready"); status != http.StatusOK {
		e.Errorf("ready says %d %s: the journal takes deliveries", status, text)
	}
}

// find returns the directories of this name.
func find(root, name string) (found []string, err error) {
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == name {
			found = append(found, path)
		}
		return err
	})
	return found, err
}

// upgrade needs an older program, whose path is in BENCH_OLD_BINARY.
func upgrade(e *Env) {
	old := os.Getenv("BENCH_OLD_BINARY")
	if old == "" {
		e.Skipf("no release exists yet: set BENCH_OLD_BINARY to an older blessd")
	}
	now := e.o.Binary
	n := e.NATSLater()
	e.o.Binary = old
	b := e.Blessd(Config{NATS: n.URL()})
	// Everything stays in the journal, for the next program to read.
	for i := range e.Times(1) * 4 {
		load := e.Load(b, Load{})
		load.MoreBlessed(100)
		load.Stop()
		b.Stop()
		e.o.Binary = []string{now, old}[i%2]
		b.Start()
	}
	n.Start()
	load := e.Load(b, Load{})
	load.MoreBlessed(100)
	e.Rules.NothingRefused = true
}
