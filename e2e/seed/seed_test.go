package seed

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "../.."

// TestSeedsFit shows that every piece is where its seed says and that the copies are
// Go that vet accepts. When it fails after a change of the source, the error names
// the seed: make it follow.
func TestSeedsFit(t *testing.T) {
	dir := t.TempDir()
	overlay, err := Overlay(module, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]bool{}
	for file := range changes() {
		packages["./"+filepath.Dir(file)] = true
	}
	args := []string{"vet", "-tags", Tag, "-overlay", overlay}
	for p := range packages {
		args = append(args, p)
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = module
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("go vet of the seeded source: %v\n%s", err, out)
	}
}

// TestClockFits shows that the standard library's time.Now can be made wrong.
func TestClockFits(t *testing.T) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := clockCopy(filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")); err != nil {
		t.Error(err)
	}
}

// TestSource shows that a seed which does not fit is an error that names it.
func TestSource(t *testing.T) {
	source := []byte("package p\n\nfunc f() int {\n\treturn 1\n}\n\nfunc g() int {\n\treturn 2\n}\n")
	for _, c := range []struct {
		name    string
		changes []change
		want    string
	}{
		{"gone", []change{{seed: "mutant a", old: "return 3", new: "return 4"}}, "mutant a: its piece of p.go occurs 0 times"},
		{"twice", []change{{seed: "mutant a", old: "return", new: "return 4"}}, "mutant a: its piece of p.go occurs 2 times"},
		{"overlap", []change{{seed: "mutant a", old: "return 1", new: "x"}, {seed: "failpoint b", old: "1\n}", new: "y"}}, "mutant a and failpoint b want the same piece of p.go"},
		{"no Go", []change{{seed: "mutant a", old: "return 1", new: "return ("}}, "p.go with its seeds"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := apply("p.go", source, c.changes)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q in it", err, c.want)
			}
		})
	}
	got, err := apply("p.go", source, []change{{seed: "mutant a", old: "return 1", new: "return 3", imports: []string{"strings"}}})
	if err != nil {
		t.Fatal(err)
	}
	want := "package p\n\nimport \"github.com/blessd/blessd/e2e/seed/seeded\"\nimport \"strings\"\n\nfunc f() int {\n\treturn 3\n}\n\nfunc g() int {\n\treturn 2\n}\n"
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestTables shows that the tables are whole: a mutant that nothing has to catch is
// not one.
func TestTables(t *testing.T) {
	names := map[string]bool{}
	word := regexp.MustCompile(`^[a-z][a-z0-9.-]*$`)
	check := func(name, what string) {
		if !word.MatchString(name) || names[name] {
			t.Errorf("name %q is taken or no name", name)
		}
		names[name] = true
		if !strings.HasSuffix(what, ".") {
			t.Errorf("%s: %q is no sentence", name, what)
		}
	}
	for _, m := range Mutants {
		check(m.Name, m.What)
		if m.Scenario == "" || m.Verdict == "" {
			t.Errorf("mutant %s: nothing has to catch it", m.Name)
		}
		guarded := false
		for _, e := range m.Edits {
			guarded = guarded || strings.Contains(e.New, "MUTANT")
		}
		if !guarded {
			t.Errorf("mutant %s is switched on always: MUTANT is in none of its edits", m.Name)
		}
	}
	for _, p := range Failpoints {
		check(p.Name, p.What)
		if (p.Before == "") == (p.After == "") {
			t.Errorf("failpoint %s stands before or after a piece, and not both", p.Name)
		}
		if p.New != "" && !strings.Contains(p.New, "POINT") && !strings.Contains(p.New, "FAILING") {
			t.Errorf("failpoint %s: neither POINT nor FAILING is in New", p.Name)
		}
	}
	for _, k := range Knobs {
		check(k.Name, k.What)
		if !strings.Contains(k.New, "KNOB(") {
			t.Errorf("knob %s: KNOB( is not in New", k.Name)
		}
	}
	if n := len(Mutants); n < 25 {
		t.Errorf("%d mutants, want at least 25", n)
	}
}

// TestNotInTheProgram shows that nothing of this can get into the real binary: it
// does not depend on the package, and without the tag the package has nothing that
// could be called.
func TestNotInTheProgram(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "./cmd/blessd")
	cmd.Dir = module
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if deps := string(out); !strings.Contains(deps, "blessd/journal\n") {
		t.Fatalf("go list does not list the dependencies:\n%s", deps)
	} else if strings.Contains(deps, "blessd/e2e") {
		t.Error("cmd/blessd depends on a package of e2e")
	}
	cmd = exec.Command("go", "list", "-f", "{{.GoFiles}}", supportPackage)
	cmd.Dir = module
	if out, err = cmd.Output(); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != "[doc.go]" {
		t.Errorf("without the tag the package has the files %s, want [doc.go] alone", got)
	}
	doc, err := os.ReadFile("seeded/doc.go")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(doc), "\nfunc ") {
		t.Error("doc.go has a function, which a build without the tag could call")
	}
}
