// Package seed has bugs and failpoints that the bench puts into blessd, to show that
// it would find them.
//
// The source of blessd knows nothing of them. A [Mutant] or a [Failpoint] names a
// file, a piece of it and what stands there instead; [Build] applies all of them to
// copies and has the go command read the copies in place of the files (-overlay).
// What comes out is one binary with every bug in it, each behind an if, and the
// environment says which one is switched on: BLESSD_MUTANT=name, or none at all,
// which is the correct program. BLESSD_FAILPOINT=name:n makes the process kill
// itself at the n-th passage of a point. See package seeded for the details.
//
// A piece must occur exactly once in its file. When the source changes, the build
// says which seed does not fit any more, and the test of this package does so in
// every run of the tests.
package seed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/format"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Mutant is a bug.
type Mutant struct {
	// Name is lower case with hyphens.
	Name string
	// What it does wrong, in one sentence.
	What string
	// Edits are where, usually one.
	Edits []Edit
	// Scenario is the one that must catch it, and Verdict what that must say: a
	// mutant that merely makes a scenario fail somehow is not caught.
	Scenario, Verdict string
	// Hangs is set when the verdict is that something does not happen any more: it is
	// not waited for as long as with other mutants.
	Hangs bool
	// Tier is 0 when that is quick enough for every run of the tests.
	Tier int
}

// Edit replaces a piece of a file.
type Edit struct {
	// File is relative to the module.
	File string
	// Old occurs exactly once in it.
	Old string
	// New stands there instead. In it MUTANT is an expression that is true when the
	// mutant is switched on; when it is not, New must do what Old does.
	New string
	// Imports are needed beside what the file imports.
	Imports []string
}

// Failpoint is a place at which the program can be made to end.
type Failpoint struct {
	// Name is that of the part of the program, a dot, and when in its work.
	Name string
	// What has and has not happened there, in one sentence.
	What string
	File string
	// Before or After is the piece of the file that the point stands before or
	// after, as a line of its own. It occurs exactly once.
	Before, After string
	// New replaces the piece where a line of its own would not do. In it POINT is a
	// call without a result, and FAILING one that returns an error.
	New string
	// Imports are as in Edit.
	Imports []string
}

// Knob is an interval that a scenario can shorten.
type Knob struct {
	Name, What string
	File       string
	// Old occurs exactly once and is a duration. It becomes the default.
	Old string
	// New is what Old is replaced by; in it KNOB is the duration, and the default is
	// written KNOB(default).
	New string
}

const (
	supportPackage = "github.com/blessd/blessd/e2e/seed/seeded"
	// Tag is the build tag without which the package seeded is empty.
	Tag = "seeded"
	// Binary is the name of the seeded program.
	Binary = "blessd-seeded"
	// ClockBinary is that of the program with a clock that can be stepped.
	ClockBinary = "blessd-seeded-clock"
)

// change is one replacement, whoever wants it.
type change struct {
	seed     string // for errors
	old, new string
	imports  []string
}

// changes returns all of them by file.
func changes() map[string][]change {
	all := map[string][]change{}
	for _, m := range Mutants {
		for _, e := range m.Edits {
			with := strings.ReplaceAll(e.New, "MUTANT", "seeded.Mutant("+strconv.Quote(m.Name)+")")
			all[e.File] = append(all[e.File], change{"mutant " + m.Name, e.Old, with, e.Imports})
		}
	}
	for _, p := range Failpoints {
		call := "seeded.Point(" + strconv.Quote(p.Name) + ")"
		c := change{seed: "failpoint " + p.Name, imports: p.Imports}
		switch {
		case p.New != "":
			c.old = p.Before
			c.new = strings.NewReplacer("POINT", call, "FAILING", "seeded.Failing("+strconv.Quote(p.Name)+")").Replace(p.New)
		case p.Before != "":
			c.old, c.new = p.Before, call+"\n"+p.Before
		default:
			c.old, c.new = p.After, p.After+"\n"+call+"\n"
		}
		all[p.File] = append(all[p.File], c)
	}
	for _, k := range Knobs {
		with := strings.ReplaceAll(k.New, "KNOB(", "seeded.Duration("+strconv.Quote(k.Name)+", ")
		all[k.File] = append(all[k.File], change{seed: "knob " + k.Name, old: k.Old, new: with})
	}
	return all
}

// Copies returns the changed files, by their path relative to the module. The error
// names every seed that does not fit the source in the module's directory.
func Copies(module string) (map[string][]byte, error) {
	copies := map[string][]byte{}
	var problems []error
	for file, cs := range changes() {
		source, err := os.ReadFile(filepath.Join(module, file))
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", cs[0].seed, err))
			continue
		}
		changed, err := apply(file, source, cs)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		copies[file] = changed
	}
	return copies, errors.Join(problems...)
}

// apply makes all changes of one file. They must not overlap.
func apply(file string, source []byte, cs []change) ([]byte, error) {
	type span struct {
		from, to int
		c        change
	}
	var spans []span
	var problems []error
	for _, c := range cs {
		switch n := bytes.Count(source, []byte(c.old)); {
		case c.old == "" || n != 1:
			problems = append(problems, fmt.Errorf("%s: its piece of %s occurs %d times, want exactly once; the source has changed, make the seed follow:\n%s", c.seed, file, n, c.old))
		default:
			from := bytes.Index(source, []byte(c.old))
			spans = append(spans, span{from, from + len(c.old), c})
		}
	}
	slices.SortFunc(spans, func(a, b span) int { return a.from - b.from })
	for i := 1; i < len(spans); i++ {
		if spans[i].from < spans[i-1].to {
			problems = append(problems, fmt.Errorf("%s and %s want the same piece of %s:\n%s", spans[i-1].c.seed, spans[i].c.seed, file, spans[i].c.old))
		}
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	imports := map[string]bool{supportPackage: true}
	f, err := parser.ParseFile(token.NewFileSet(), file, source, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	for _, s := range spans {
		for _, path := range s.c.imports {
			imports[path] = true
		}
	}
	for _, have := range f.Imports {
		if path, err := strconv.Unquote(have.Path.Value); err == nil {
			delete(imports, path)
		}
	}
	var b bytes.Buffer
	name := int(f.Name.End()) - 1 // positions count from 1
	b.Write(source[:name])
	b.WriteByte('\n')
	for _, path := range slices.Sorted(maps.Keys(imports)) {
		fmt.Fprintf(&b, "import %q\n", path)
	}
	at := name
	for _, s := range spans {
		b.Write(source[at:s.from])
		b.WriteString(s.c.new)
		at = s.to
	}
	b.Write(source[at:])
	formatted, err := format.Source(b.Bytes())
	if err != nil {
		return nil, fmt.Errorf("%s with its seeds: %w", file, err)
	}
	return formatted, nil
}

// Overlay writes the copies into dir, and the file for the go command's -overlay,
// whose path it returns. Files of other modules can be replaced, too, by path.
func Overlay(module, dir string, others map[string][]byte) (string, error) {
	module, err := filepath.Abs(module)
	if err != nil {
		return "", err
	}
	copies, err := Copies(module)
	if err != nil {
		return "", err
	}
	files := maps.Clone(others)
	if files == nil {
		files = map[string][]byte{}
	}
	for file, text := range copies {
		files[filepath.Join(module, file)] = text
	}
	replace := make(map[string]string, len(files))
	for file, text := range files {
		at := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			return "", err
		}
		if err := os.WriteFile(at, text, 0o600); err != nil {
			return "", err
		}
		replace[file] = at
	}
	b, err := json.MarshalIndent(map[string]any{"Replace": replace}, "", "  ")
	if err != nil {
		return "", err
	}
	overlay := filepath.Join(dir, "overlay.json")
	return overlay, os.WriteFile(overlay, b, 0o600)
}

// Build builds the seeded program into dir and returns its path. The module's
// directory is only read.
func Build(ctx context.Context, module, dir string) (string, error) {
	return build(ctx, module, dir, Binary, Tag, nil)
}

func build(ctx context.Context, module, dir, name, tags string, others map[string][]byte) (string, error) {
	overlay, err := Overlay(module, filepath.Join(dir, "overlay"), others)
	if err != nil {
		return "", fmt.Errorf("seed blessd: %w", err)
	}
	binary := filepath.Join(dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", tags, "-overlay", overlay, "-o", binary, "./cmd/blessd")
	cmd.Dir = module
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the seeded blessd: %w\n%s", err, out)
	}
	return binary, nil
}

// FindMutant returns the mutant of that name.
func FindMutant(name string) (Mutant, bool) {
	i := slices.IndexFunc(Mutants, func(m Mutant) bool { return m.Name == name })
	if i < 0 {
		return Mutant{}, false
	}
	return Mutants[i], true
}
