package ledger_test

import (
	"os/exec"
	"strings"
	"testing"
)

// TestIndependence keeps the promise of the package comment: nothing of this module is
// behind the ledger or the scenarios, so that no fault can cancel itself out. What
// plays the providers to the scenarios shares nothing with blessd either.
func TestIndependence(t *testing.T) {
	const player = "github.com/blessd/blessd/manage/manageapi"
	for _, p := range []string{"ledger", "scenario"} {
		out, err := exec.Command("go", "list", "-deps", "github.com/blessd/blessd/e2e/"+p).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for dep := range strings.Lines(string(out)) {
			dep = strings.TrimSpace(dep)
			own := strings.HasPrefix(dep, "github.com/blessd/blessd/e2e/") || p == "scenario" && dep == player
			if strings.HasPrefix(dep, "github.com/blessd/blessd") && !own {
				t.Errorf("e2e/%s depends on %s", p, dep)
			}
			if strings.Contains(dep, "goccy") {
				t.Errorf("e2e/%s depends on %s, which blessd reads JSON with", p, dep)
			}
		}
	}
}
