// Package docs holds no code. Its tests keep what the project's pages say true:
// they compare them with the source, the configuration and each other.
package docs

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/blessd/blessd/e2e/scenario"
	"github.com/blessd/blessd/event"
)

const root = ".."

// pages returns every page that people read, by its path from the root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	providers, err := filepath.Glob("providers/*.md")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, providers...)
	found := map[string]string{}
	for _, f := range append(files, "../README.md", "../CONTRIBUTING.md", "../CHANGELOG.md") {
		path, err := filepath.Rel(root, filepath.Join("../docs", f))
		if err != nil {
			t.Fatal(err)
		}
		found[path] = read(t, path)
	}
	return found
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// section returns what is under a heading, up to the next of its level or above.
func section(t *testing.T, page, heading string) string {
	t.Helper()
	_, rest, ok := strings.Cut(page, "\n"+heading+"\n")
	if !ok {
		t.Fatalf("no heading %q", heading)
	}
	level, _, _ := strings.Cut(heading, " ")
	for ; level != ""; level = level[1:] {
		rest, _, _ = strings.Cut(rest, "\n"+level+" ")
	}
	return rest
}

// rows returns the cells of every row of the tables in text, without the heads.
func rows(text string) [][]string {
	var found [][]string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i, c := range cells {
			cells[i] = strings.TrimSpace(c)
		}
		if strings.Trim(cells[0], "-: ") == "" { // what came before was a head
			found = found[:len(found)-1]
			continue
		}
		found = append(found, cells)
	}
	return found
}

var codeSpan = regexp.MustCompile("`([^`\n]+)`")

// codes returns what is set as code in text.
func codes(text string) []string {
	var found []string
	for _, m := range codeSpan.FindAllStringSubmatch(text, -1) {
		found = append(found, m[1])
	}
	return found
}

// compare fails unless both sides hold the same strings.
func compare(t *testing.T, page, what string, documented, real []string) {
	t.Helper()
	for _, s := range real {
		if !slices.Contains(documented, s) {
			t.Errorf("%s does not describe the %s %q", page, what, s)
		}
	}
	for _, s := range documented {
		if !slices.Contains(real, s) {
			t.Errorf("%s describes the %s %q, which does not exist", page, what, s)
		}
	}
}

func TestEventTypes(t *testing.T) {
	var documented, real []string
	for _, cells := range rows(section(t, read(t, "docs/events.md"), "## Types")) {
		documented = append(documented, codes(cells[0])...)
	}
	for _, typ := range event.Types() {
		real = append(real, string(typ))
	}
	compare(t, "docs/events.md", "type", documented, real)
}

func TestEventFields(t *testing.T) {
	var documented, real []string
	for _, cells := range rows(section(t, read(t, "docs/events.md"), "## Fields")) {
		documented = append(documented, codes(cells[0])[0]+" "+cells[1])
	}
	fields(reflect.TypeFor[event.Event](), "", func(path, typ string) { real = append(real, path+" "+typ) })
	compare(t, "docs/events.md", "field", documented, real)
}

// fields yields every JSON field of a struct with its type in the docs' words.
func fields(t reflect.Type, prefix string, yield func(path, typ string)) {
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		path := prefix + name
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		switch {
		case inner == reflect.TypeFor[event.Time]():
			yield(path, "time")
		case inner == reflect.TypeFor[[]byte]():
			yield(path, "string") // base64
		case inner.Kind() == reflect.Slice && inner.Elem().Kind() == reflect.Uint8:
			yield(path, "any JSON")
		case inner.Kind() == reflect.Slice && inner.Elem().Kind() == reflect.Struct:
			yield(path, "array of object")
			fields(inner.Elem(), path+".", yield)
		case inner.Kind() == reflect.Slice:
			yield(path, "array of "+inner.Elem().Kind().String())
		case inner.Kind() == reflect.Map:
			yield(path, "map of "+inner.Elem().Kind().String())
		case inner.Kind() == reflect.Struct:
			yield(path, "object")
			fields(inner, path+".", yield)
		case inner.Kind() == reflect.Bool:
			yield(path, "boolean")
		case inner.Kind() == reflect.Int:
			yield(path, "integer")
		default:
			yield(path, inner.Kind().String())
		}
	}
}

// The closed lists of words that fields may hold.
func TestEventWords(t *testing.T) {
	described := map[string]string{}
	for _, cells := range rows(section(t, read(t, "docs/events.md"), "## Fields")) {
		described[codes(cells[0])[0]] = cells[2]
	}
	for field, words := range map[string][]string{
		"time_source":  {string(event.TimeFromProvider), string(event.TimeFromReceipt)},
		"bounce.class": {string(event.BounceHard), string(event.BounceSoft), string(event.BounceUnknown)},
		"bounce.reason": {
			string(event.ReasonInvalid), string(event.ReasonBounced), string(event.ReasonTimedOut), string(event.ReasonBlocked),
			string(event.ReasonSpam), string(event.ReasonUnsubscribed), string(event.ReasonOther),
		},
	} {
		for _, w := range words {
			if !slices.Contains(codes(described[field]), w) {
				t.Errorf("docs/events.md, field %s: %q is missing", field, w)
			}
		}
	}
}

// Every example that claims to be JSON is JSON, and an example of an event is what
// blessd makes of a body in testdata.
func TestJSONExamples(t *testing.T) {
	goldens, err := filepath.Glob(filepath.Join(root, "testdata/*/*.golden"))
	if err != nil {
		t.Fatal(err)
	}
	var golden []string
	for _, file := range goldens {
		for _, e := range goldenEvents(t, file) {
			line, err := event.Encode(e)
			if err != nil {
				t.Fatal(err)
			}
			golden = append(golden, compact(t, line))
		}
	}
	events := 0
	for page, text := range pages(t) {
		for i, example := range fences(text, "json") {
			if !json.Valid([]byte(example)) {
				t.Errorf("%s: JSON example %d does not parse:\n%s", page, i+1, example)
				continue
			}
			if !strings.Contains(example, `"time_source"`) {
				continue
			}
			events++
			if !slices.Contains(golden, compact(t, []byte(example))) {
				t.Errorf("%s: JSON example %d is no event of a golden file", page, i+1)
			}
		}
	}
	if events < 2 {
		t.Errorf("%d examples of events found, want those of README.md and docs/events.md", events)
	}
}

func compact(t *testing.T, text []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Compact(&b, text); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// fences returns the fenced blocks of a language.
func fences(text, language string) []string {
	var found []string
	for {
		_, rest, ok := strings.Cut(text, "\n```"+language+"\n")
		if !ok {
			return found
		}
		block, after, ok := strings.Cut(rest, "\n```")
		if !ok {
			return append(found, rest)
		}
		found = append(found, block)
		text = after
	}
}

var (
	link  = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	slugs = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// Every link to a file of the project leads there, and to a heading that exists.
func TestLinks(t *testing.T) {
	all := pages(t)
	links := 0
	for page, text := range all {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			links++
			file, anchor, _ := strings.Cut(m[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(all[target]), anchor) {
				t.Errorf("%s links to %s: no heading has this anchor", page, m[1])
			}
		}
	}
	if links == 0 {
		t.Error("no link found: the pattern is wrong")
	}
}

// anchors returns the anchors of a page's headings, as GitHub makes them.
func anchors(text string) []string {
	var found []string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		heading := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
		found = append(found, strings.ReplaceAll(slugs.ReplaceAllString(heading, ""), " ", "-"))
	}
	return found
}

// Every page is reached from the README, directly or over others.
func TestPagesAreLinked(t *testing.T) {
	all := pages(t)
	reached := map[string]bool{}
	var visit func(page string)
	visit = func(page string) {
		if _, ok := all[page]; !ok || reached[page] {
			return
		}
		reached[page] = true
		for _, m := range link.FindAllStringSubmatch(all[page], -1) {
			file, _, _ := strings.Cut(m[1], "#")
			visit(filepath.Join(filepath.Dir(page), file))
		}
	}
	visit("README.md")
	for page := range all {
		if !reached[page] {
			t.Errorf("nothing that README.md leads to links to %s", page)
		}
	}
}

var target = regexp.MustCompile(`\bmake ([a-z]+(?:-[a-z0-9]+)*)`)

// Every make target that the pages name exists.
func TestMakeTargets(t *testing.T) {
	makefile := read(t, "Makefile")
	for page, text := range pages(t) {
		for _, span := range append(codes(text), fences(text, "sh")...) {
			for _, m := range target.FindAllStringSubmatch(span, -1) {
				if !strings.Contains(makefile, "\n"+m[1]+":") {
					t.Errorf("%s names make %s, which the Makefile does not have", page, m[1])
				}
			}
		}
	}
}

var metric = regexp.MustCompile(`"(blessd_[a-z0-9_]+)"`)

// docs/operating.md lists the metrics of the source, all and no other.
func TestMetrics(t *testing.T) {
	names := map[string]bool{}
	sources(t, func(_ string, source []byte) {
		for _, m := range metric.FindAllSubmatch(source, -1) {
			names[string(m[1])] = true
		}
	})
	var documented []string
	for _, cells := range rows(section(t, read(t, "docs/operating.md"), "## Metrics")) {
		name, _, _ := strings.Cut(codes(cells[0])[0], "{")
		documented = append(documented, name)
	}
	compare(t, "docs/operating.md", "metric", documented, slices.Sorted(maps.Keys(names)))
}

var mention = regexp.MustCompile(`\bblessd_[a-z0-9_]+`)

// Whatever metric a page names exists; the beginning of several names is enough.
func TestMetricMentions(t *testing.T) {
	known := []string{"blessd_build_info"}
	sources(t, func(_ string, source []byte) {
		for _, m := range metric.FindAllSubmatch(source, -1) {
			known = append(known, string(m[1]))
		}
	})
	mentions := 0
	for page, text := range pages(t) {
		for _, name := range mention.FindAllString(text, -1) {
			mentions++
			if !slices.ContainsFunc(known, func(k string) bool {
				return k == name || strings.HasPrefix(k, strings.TrimSuffix(name, "_")+"_")
			}) {
				t.Errorf("%s names the metric %s, which does not exist", page, name)
			}
		}
	}
	if mentions == 0 {
		t.Error("no metric is mentioned: the pattern is wrong")
	}
}

// sources yields the Go files of the program, without its tests.
func sources(t *testing.T, yield func(path string, source []byte)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata"):
			return fs.SkipDir
		case entry.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go"):
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		yield(path, source)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// What is published is finished.
func TestNoLooseEnds(t *testing.T) {
	for page, text := range pages(t) {
		for _, mark := range []string{"TODO", "FIXME", "XXX"} {
			if before, _, found := strings.Cut(text, mark); found {
				t.Errorf("%s, line %d: %q", page, 1+strings.Count(before, "\n"), mark)
			}
		}
	}
}

// TestGuarantees holds docs/guarantees.md against the README, sentence by sentence,
// and against the bench: every scenario that it names exists.
func TestGuarantees(t *testing.T) {
	page := read(t, "docs/guarantees.md")
	_, promise, _ := strings.Cut(read(t, "README.md"), "\n## What is promised\n")
	quote, _, _ := strings.Cut(strings.TrimSpace(promise), "\n\n")
	quote = strings.Join(strings.Fields(strings.ReplaceAll(quote, ">", "")), " ")
	for _, cells := range rows(page[:strings.Index(page, "What the README says besides")]) {
		before := len(quote)
		quote = strings.TrimLeft(strings.Replace(quote, cells[0], "", 1), " ,.")
		if len(quote) == before {
			t.Errorf("docs/guarantees.md: the README does not promise %q", cells[0])
		}
	}
	if quote != "" {
		t.Errorf("docs/guarantees.md says nothing of the README's promise %q", quote)
	}
	known := map[string]bool{}
	for _, s := range scenario.All() {
		known[s.Name] = true
	}
	shown, _, _ := strings.Cut(page, "<!-- from here on: bench table -->")
	for _, cells := range rows(shown) {
		for _, name := range codes(cells[1]) {
			if !known[name] && name != "failpoint-…" {
				t.Errorf("docs/guarantees.md names the scenario %q, which does not exist", name)
			}
		}
	}
}
