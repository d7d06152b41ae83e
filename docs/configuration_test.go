package docs

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

var update = flag.Bool("update", false, "write the generated part of docs/configuration.md again")

const (
	begin = "<!-- from here on generated from cmd/blessd/config.go: make generate -->\n"
	end   = "<!-- end of what is generated -->\n"
)

//go:generate go test . -run TestConfigurationReference -update

// docs/configuration.md holds the comments of the Config struct, which is where
// each setting is documented.
func TestConfigurationReference(t *testing.T) {
	page := read(t, "docs/configuration.md")
	before, rest, ok1 := strings.Cut(page, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok1 || !ok2 {
		t.Fatal("docs/configuration.md has lost the marks round its generated part")
	}
	want := before + begin + parseSettings(t).reference() + end + after
	if page == want {
		return
	}
	if *update {
		if err := os.WriteFile(filepath.Join(root, "docs/configuration.md"), []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Error("docs/configuration.md differs from the comments in cmd/blessd/config.go: run make generate")
}

// deploy/blessd.yaml shows every setting, as a value or in a comment, and nothing
// that is none.
func TestExampleConfiguration(t *testing.T) {
	example := read(t, "deploy/blessd.yaml")
	var document any
	if err := yaml.Unmarshal([]byte(example), &document); err != nil {
		t.Fatalf("deploy/blessd.yaml: %v", err)
	}
	var shown, known []string
	walkYAML(document, "", func(path string) { shown = append(shown, path) })
	for _, s := range parseSettings(t).all {
		known = append(known, s.path)
		word := regexp.MustCompile(`\b` + s.key + `:`)
		if !word.MatchString(example) {
			t.Errorf("deploy/blessd.yaml does not show %s", s.path)
		}
	}
	for _, path := range shown {
		if !slices.Contains(known, path) {
			t.Errorf("deploy/blessd.yaml has %s, which is no setting", path)
		}
	}
}

func walkYAML(v any, path string, yield func(path string)) {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			p := strings.TrimPrefix(path+"."+key, ".")
			yield(p)
			walkYAML(inner, p, yield)
		}
	case []any:
		for _, inner := range v {
			if _, ok := inner.(map[string]any); ok {
				walkYAML(inner, path+"[]", yield)
			}
		}
	}
}

// settings is the Config struct as its source has it.
type settings struct {
	structs map[string]*ast.TypeSpec
	all     []setting
}

type setting struct{ path, key, typ, text string }

func parseSettings(t *testing.T) *settings {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, "cmd/blessd/config.go"), nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	s := &settings{structs: map[string]*ast.TypeSpec{}}
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.TYPE {
			continue
		}
		for _, spec := range g.Specs {
			typ := spec.(*ast.TypeSpec)
			if typ.Doc == nil {
				typ.Doc = g.Doc
			}
			s.structs[typ.Name.Name] = typ
		}
	}
	if s.structs["Config"] == nil {
		t.Fatal("cmd/blessd/config.go has no type Config")
	}
	s.walk("Config", "")
	if len(s.all) < 20 {
		t.Fatalf("only %d settings found in cmd/blessd/config.go", len(s.all))
	}
	return s
}

// walk appends the settings of a struct, those of an inner struct after it.
func (s *settings) walk(name, prefix string) {
	fields := s.structs[name].Type.(*ast.StructType).Fields.List
	keys := map[string]string{}
	for _, f := range fields {
		if f.Tag != nil {
			keys[f.Names[0].Name] = key(f)
		}
	}
	for _, f := range fields {
		if f.Tag == nil {
			continue
		}
		path := prefix + key(f)
		typ, inner := typeWords(f.Type)
		s.all = append(s.all, setting{path: path, key: key(f), typ: typ, text: sentence(f.Doc.Text(), f.Names[0].Name, keys)})
		if s.structs[inner] != nil {
			if strings.HasPrefix(typ, "list") {
				path += "[]"
			}
			s.walk(inner, path+".")
		}
	}
}

func key(f *ast.Field) string {
	tag, _ := strconv.Unquote(f.Tag.Value)
	name, _, _ := strings.Cut(reflect.StructTag(tag).Get("yaml"), ",")
	return name
}

// typeWords returns a type in the reference's words, and its name in the source.
func typeWords(e ast.Expr) (words, name string) {
	switch e := e.(type) {
	case *ast.StarExpr:
		return typeWords(e.X)
	case *ast.ArrayType:
		words, name = typeWords(e.Elt)
		return "list of " + words + "s", name
	case *ast.Ident:
		switch e.Name {
		case "int":
			return "number", e.Name
		case "bool":
			return "true or false", e.Name
		case "string", "Size", "Duration":
			return strings.ToLower(e.Name), e.Name
		}
		return "section", e.Name
	}
	return fmt.Sprintf("%T", e), ""
}

// sentence turns a field's comment into a cell of the table: names of the source
// become keys, and "Listen is the address" becomes "the address".
func sentence(comment, field string, keys map[string]string) string {
	text := strings.Join(strings.Fields(comment), " ")
	text = camelCase.ReplaceAllStringFunc(text, func(name string) string {
		if k, ok := keys[name]; ok {
			return "`" + k + "`"
		}
		return name
	})
	if rest, ok := strings.CutPrefix(text, field+" "); ok {
		text = "`" + keys[field] + "` " + rest
	}
	for _, verb := range []string{" is ", " are "} {
		text = strings.TrimPrefix(text, "`"+keys[field]+"`"+verb)
	}
	return strings.NewReplacer("|", `\|`, "<", "&lt;").Replace(text)
}

// camelCase matches names that are no words.
var camelCase = regexp.MustCompile(`\b[A-Z]+[a-z]+[A-Z]\w*`)

func (s *settings) reference() string {
	var b strings.Builder
	b.WriteString("\n| key | type | what |\n| --- | --- | --- |\n")
	for _, x := range s.all {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", x.path, x.typ, x.text)
	}
	b.WriteString("\n")
	return b.String()
}
