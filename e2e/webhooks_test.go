package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/blessd/blessd/e2e/scenario"
)

// TestWebhooks runs the scripts in testdata/webhooks, which show how blessd registers
// its webhooks, with the real program. They are documentation too: docs/webhooks.md
// leads to them.
func TestWebhooks(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs blessd; skipped with -short")
	}
	bin := t.TempDir()
	if _, err := scenario.Build(t.Context(), bin); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "build", "-o", bin, "../manage/manageapi/playprovider").CombinedOutput()
	if err != nil {
		t.Fatalf("build playprovider: %v\n%s", err, out)
	}
	testscript.Run(t, testscript.Params{
		Dir: "testdata/webhooks",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(filepath.ListSeparator)+e.Getenv("PATH"))
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"await":   await,
			"readenv": readenv,
			"until":   until,
		},
	})
}

// patience is how long a script waits for something that comes by itself.
const patience = 2 * time.Minute

// await FILE waits until the file is there.
func await(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: await FILE")
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		_, err := os.Stat(ts.MkAbs(args[0]))
		switch {
		case err == nil:
			return
		case !errors.Is(err, os.ErrNotExist) || time.Now().After(deadline):
			ts.Fatalf("await %s: %v", args[0], err)
		}
	}
}

// readenv NAME FILE sets an environment variable to what the file holds.
func readenv(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: readenv NAME FILE")
	}
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// until PATTERN COMMAND... runs the command until it succeeds and its output matches.
func until(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: until PATTERN COMMAND...")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		err := ts.Exec(args[1], args[2:]...)
		switch out := ts.ReadFile("stdout"); {
		case err == nil && pattern.MatchString(out):
			return
		case time.Now().After(deadline):
			ts.Fatalf("until %s: %v\n%s\n%s", args[0], err, out, ts.ReadFile("stderr"))
		}
	}
}
