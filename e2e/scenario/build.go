package scenario

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// module is the directory of go.mod, whatever directory this runs in.
func module(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/blessd/blessd").Output()
	if err != nil {
		return "", fmt.Errorf("find the source of blessd, inside of which this has to run: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Build builds blessd from this source into a directory and returns its path.
func Build(ctx context.Context, dir string) (string, error) {
	root, err := module(ctx)
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "blessd")
	build := exec.CommandContext(ctx, "go", "build", "-o", binary, "./cmd/blessd")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build blessd: %w\n%s", err, out)
	}
	return binary, nil
}

// Commit is the version of this source, as git describes it.
func Commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}
