package check

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "blessd-check-")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "blessd")
	cmd := exec.Command("go", "build", "-o", file, "./cmd/blessd")
	cmd.Dir, cmd.Env = "../..", append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build blessd: %w\n%s", err, out)
	}
	return file, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if file, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(file)) // in the temporary directory
	}
	os.Exit(code)
}

// configured has `blessd check` read a configuration, with a directory of the test
// in place of /etc/blessd and /var/lib/blessd, and keys in it.
func configured(t *testing.T, config string, env ...string) {
	t.Helper()
	blessd, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("keys/mailgun", "EXAMPLEKEY0123456789ab")
	write("keys/nats.nk", "SUADPOPTYKHFERHLJW3VFD3FGNPFNQ3JS2CPRRPVMTULIREFXDWASUBYSM")
	// The sizes are those of another machine's disk.
	for _, size := range []string{"10GiB", "5GiB"} {
		config = strings.ReplaceAll(config, size, "1GiB")
	}
	write("blessd.yaml", strings.NewReplacer("/etc/blessd", dir, "/var/lib/blessd", filepath.Join(dir, "data")).Replace(config))
	cmd := exec.Command(blessd, "check", "-c", filepath.Join(dir, "blessd.yaml"))
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("blessd check: %v\n%s", err, out)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
