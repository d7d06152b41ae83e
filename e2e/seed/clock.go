package seed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// ClockTag is set beside [Tag] in a build by [BuildClock].
const ClockTag = "seededclock"

// What is put into the standard library's time.Now: seconds that the clock of the day
// is wrong by. Monotonic readings stay as they are, and with them time-outs, as when
// somebody sets the clock of a machine.
const (
	clockOld   = "\tsec, nsec, mono := runtimeNow()\n\tif mono == 0 {"
	clockNew   = "\tsec, nsec, mono := runtimeNow()\n\tsec += SeededWrong.Load()\n\tif mono == 0 {"
	clockVar   = "\n// SeededWrong is what Now is wrong by, in seconds.\nvar SeededWrong atomic.Int64\n"
	clockBegin = "package time\n"
)

// ErrToolchain is returned where the standard library cannot be changed: that of a
// toolchain which the go command has downloaded is in the module cache, of which it
// lets nobody replace a file.
var ErrToolchain = errors.New("the go command's standard library is in the module cache, and cannot be built with another clock: run it with GOTOOLCHAIN=local and a Go that is installed")

// BuildClock is [Build] with a clock that a scenario can step: time.Now is wrong by
// the seconds in the file that BLESSD_CLOCK names. It takes longer, since every
// package is built with another package time.
func BuildClock(ctx context.Context, module, dir string) (string, error) {
	find := exec.CommandContext(ctx, "go", "env", "GOROOT", "GOMODCACHE")
	find.Dir = module // whose go.mod may choose the toolchain
	out, err := find.Output()
	if err != nil {
		return "", fmt.Errorf("find the standard library: %w", err)
	}
	root, cache, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if strings.HasPrefix(root, cache+string(filepath.Separator)) {
		return "", ErrToolchain
	}
	file := filepath.Join(root, "src", "time", "time.go")
	text, err := clockCopy(file)
	if err != nil {
		return "", err
	}
	return build(ctx, module, dir, ClockBinary, Tag+","+ClockTag, map[string][]byte{file: text})
}

// clockCopy is the file of time.Now with a clock that can be wrong.
func clockCopy(file string) ([]byte, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	for _, piece := range []string{clockOld, clockBegin} {
		if n := bytes.Count(text, []byte(piece)); n != 1 {
			return nil, fmt.Errorf("clock: its piece of %s occurs %d times, want exactly once; this Go is another, make the seed follow:\n%s", file, n, piece)
		}
	}
	text = bytes.Replace(text, []byte(clockOld), []byte(clockNew), 1)
	text = bytes.Replace(text, []byte(clockBegin), []byte(clockBegin+"\nimport \"sync/atomic\"\n"), 1)
	return append(text, clockVar...), nil
}
