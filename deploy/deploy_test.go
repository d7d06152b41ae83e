// Package deploy holds no code. Its tests run what operators install, with the
// real programs around it: systemd, proxies, NATS servers. What needs many modules
// for its check is in the module deploy/check.
package deploy

import (
	"os"
	"testing"

	"github.com/blessd/blessd/internal/program"
)

func TestMain(m *testing.M) { program.Main(m) }

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
