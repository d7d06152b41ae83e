package event_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"

	invopop "github.com/invopop/jsonschema"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/blessd/blessd/event"
)

var update = flag.Bool("update", false, "rewrite schema.json")

const schemaID = "https://raw.githubusercontent.com/blessd/blessd/main/event/schema.json"

// timePattern is what Time writes, and no other form of RFC 3339.
const timePattern = `^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z$`

// constant is one declared value of a string type: Type, Reason and so on.
type constant struct{ goName, value, comment string }

// constants reads type.go, so that an enum cannot miss a value that was added.
func constants(t *testing.T) map[string][]constant {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "type.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string][]constant)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		typ, isNamed := spec.Type.(*ast.Ident)
		lit, isLiteral := spec.Values[0].(*ast.BasicLit)
		if !isNamed || !isLiteral || lit.Kind != token.STRING {
			return true
		}
		value, err := strconv.Unquote(lit.Value)
		if err != nil {
			t.Fatal(err)
		}
		all[typ.Name] = append(all[typ.Name], constant{spec.Names[0].Name, value, strings.TrimSpace(spec.Comment.Text())})
		return true
	})
	return all
}

// generate returns the schema of an event. The strict one, which refuses unknown
// fields, is for this project's tests: a published event may have fields that
// this version does not know.
func generate(t *testing.T, strict bool) []byte {
	t.Helper()
	consts := constants(t)
	r := &invopop.Reflector{ExpandedStruct: true, AllowAdditionalProperties: !strict}
	if err := r.AddGoComments("github.com/blessd/blessd/event", ".", invopop.WithFullComment()); err != nil {
		t.Fatal(err)
	}
	proseFromGo(r.CommentMap, consts)
	r.Mapper = func(typ reflect.Type) *invopop.Schema {
		if typ == reflect.TypeFor[event.Time]() {
			return &invopop.Schema{Type: "string", Format: "date-time", Pattern: timePattern}
		}
		values := consts[typ.Name()]
		if typ.Kind() != reflect.String || typ.PkgPath() != "github.com/blessd/blessd/event" {
			return nil
		}
		if len(values) == 0 {
			t.Fatalf("no constants of %s found in type.go", typ)
		}
		s := &invopop.Schema{Type: "string"}
		for _, c := range values {
			s.Enum = append(s.Enum, c.value)
		}
		return s
	}
	s := r.Reflect(&event.Event{})
	s.ID = schemaID
	s.Title = "blessd event"
	s.Description = "One thing that happened to one message or one contact, as blessd publishes it. " +
		"Fields are added over time, never renamed or retyped: ignore what you do not know."

	property := func(name string) *invopop.Schema {
		p, ok := s.Properties.Get(name)
		if !ok {
			t.Fatalf("the event has no property %q", name)
		}
		return p
	}
	property("id").Pattern = "^[0-9a-f]{32}$"
	property("provider").Pattern = "^[a-z0-9_-]{1,32}$"
	property("endpoint").Pattern = "^[a-z0-9_-]{1,32}$"
	property("type").Description += " New types may appear: expect a value that is not listed here." + meanings(consts["Type"])
	s.Definitions["Bounce"].Properties.Value("class").Description += meanings(consts["BounceClass"])

	// Raw is json.RawMessage, of which reflection knows only that it is bytes.
	s.Properties.Delete("raw_base64")
	s.Properties.Set("raw", &invopop.Schema{Description: r.CommentMap["github.com/blessd/blessd/event.Event.Raw"]})
	s.Properties.Set("raw_base64", &invopop.Schema{
		Type: "string", ContentEncoding: "base64",
		Description: r.CommentMap["github.com/blessd/blessd/event.Event.RawBase64"],
	})
	s.OneOf = []*invopop.Schema{{Required: []string{"raw"}}, {Required: []string{"raw_base64"}}}

	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(s); err != nil {
		t.Fatal(err)
	}
	// The generator's own marshaler escapes for HTML, which this is not.
	return []byte(strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(out.String()))
}

// meanings lists what the values mean, as far as type.go says so.
func meanings(values []constant) string {
	var list strings.Builder
	for _, c := range values {
		if c.comment != "" {
			list.WriteString("\n- " + c.value + ": " + c.comment)
		}
	}
	return list.String()
}

// proseFromGo turns Go comments into descriptions: one line, links without
// brackets, and the JSON's names where a field's comment has Go's.
func proseFromGo(comments map[string]string, consts map[string][]constant) {
	fields := make(map[string]map[string]string) // by Go type, JSON name by Go name
	for _, typ := range []reflect.Type{
		reflect.TypeFor[event.Event](), reflect.TypeFor[event.Message](), reflect.TypeFor[event.Bounce](),
		reflect.TypeFor[event.Click](), reflect.TypeFor[event.Client](), reflect.TypeFor[event.Complaint](),
		reflect.TypeFor[event.Contact](), reflect.TypeFor[event.List](),
	} {
		names := make(map[string]string)
		for f := range typ.Fields() {
			names[f.Name], _, _ = strings.Cut(f.Tag.Get("json"), ",")
		}
		for _, values := range consts {
			for _, c := range values {
				names[c.goName] = strconv.Quote(c.value)
			}
		}
		fields[typ.Name()] = names
	}
	word := regexp.MustCompile(`[A-Za-z0-9_-]+`)
	link := regexp.MustCompile(` ?See \[[A-Za-z.]+\]\.`)
	for key, text := range comments {
		text = link.ReplaceAllString(strings.Join(strings.Fields(text), " "), "")
		typ, field, _ := strings.Cut(strings.TrimPrefix(key, "github.com/blessd/blessd/event."), ".")
		comments[key] = word.ReplaceAllStringFunc(text, func(w string) string {
			if name, ok := fields[typ][w]; ok && field != "" {
				return name
			}
			return w
		})
	}
}

func TestSchemaIsGenerated(t *testing.T) {
	want := generate(t, false)
	if *update {
		if err := os.WriteFile("schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(event.Schema(), want) {
		t.Error("schema.json differs from the types: review and commit `go generate ./event`")
	}
}

// TestSchemaListsEveryType holds Types, the constants and the enum together.
func TestSchemaListsEveryType(t *testing.T) {
	var s struct {
		Properties struct{ Type struct{ Enum []event.Type } }
	}
	if err := json.Unmarshal(event.Schema(), &s); err != nil {
		t.Fatal(err)
	}
	listed := make(map[event.Type]bool)
	for _, typ := range s.Properties.Type.Enum {
		listed[typ] = true
	}
	for _, typ := range event.Types() {
		if !listed[typ] {
			t.Errorf("%s is not in the enum", typ)
		}
		delete(listed, typ)
	}
	for typ := range listed {
		t.Errorf("%s is in the enum but not in Types()", typ)
	}
}

func compile(t *testing.T, schema []byte) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	c.AssertContent()
	if err := c.AddResource(schemaID, doc); err != nil {
		t.Fatal(err)
	}
	compiled, err := c.Compile(schemaID)
	if err != nil {
		t.Fatal(err)
	}
	return compiled
}

func validate(s *jsonschema.Schema, b []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

func TestSchemaRefuses(t *testing.T) {
	const whole = `{"id":"0123456789abcdef0123456789abcdef","type":"email.bounced","time":"2026-11-21T17:22:17.123Z",` +
		`"time_source":"provider","received":"2026-11-21T17:22:17.123Z","provider":"sendclean","endpoint":"acme",` +
		`"bounce":{"class":"hard","code":550},"raw":{"event":"hard_bounce"}}`
	loose, strict := compile(t, event.Schema()), compile(t, generate(t, true))
	for _, s := range []*jsonschema.Schema{loose, strict} {
		if err := validate(s, []byte(whole)); err != nil {
			t.Fatalf("a whole event is refused: %v", err)
		}
	}
	for _, c := range []struct{ what, old, new string }{
		{"an id in capitals", "0123456789abcdef", "0123456789ABCDEF"},
		{"an unknown type", "email.bounced", "email.bouncd"},
		{"a time without milliseconds", "17:22:17.123Z\",\"time_source", "17:22:17Z\",\"time_source"},
		{"a time that does not exist", "2026-11-21T17:22:17.123Z\",\"time_source", "2026-13-21T17:22:17.123Z\",\"time_source"},
		{"an unknown time source", `"time_source":"provider"`, `"time_source":"clock"`},
		{"an unknown bounce class", `"hard"`, `"firm"`},
		{"a code that is no number", `550`, `"550"`},
		{"no provider", `"provider":"sendclean",`, ``},
		{"no raw", `,"raw":{"event":"hard_bounce"}`, ``},
		{"raw twice", `"raw":{`, `"raw_base64":"e30=","raw":{`},
		{"raw_base64 that is not base64", `"raw":{"event":"hard_bounce"}`, `"raw_base64":"{"`},
	} {
		broken := strings.Replace(whole, c.old, c.new, 1)
		if broken == whole {
			t.Fatalf("%s: the case changes nothing", c.what)
		}
		if err := validate(loose, []byte(broken)); err == nil {
			t.Errorf("%s is accepted: %s", c.what, broken)
		}
	}
	unknown := strings.Replace(whole, `"bounce":{`, `"bounce":{"colour":"red",`, 1)
	if err := validate(loose, []byte(unknown)); err != nil {
		t.Errorf("a field of a newer version is refused: %v", err)
	}
	if err := validate(strict, []byte(unknown)); err == nil {
		t.Error("the strict schema accepts a field that does not exist")
	}
}

// TestGoldenEvents holds every event of every golden file against the schema, and
// against the strict one, in which a misspelt field is an error.
func TestGoldenEvents(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "testdata", "*", "*.golden"))
	if err != nil {
		t.Fatal(err)
	}
	loose, strict := compile(t, event.Schema()), compile(t, generate(t, true))
	seen := make(map[event.Type]bool)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// No JSON value has such a line in it: the raw forms may span lines.
		parts := strings.Split("\n"+string(b), "\n--- ")
		if parts[0] != "" && len(b) > 0 { // an empty file is a body without events
			t.Errorf("%s does not begin with a separator", file)
		}
		for i, part := range parts[1:] {
			kind, text, _ := strings.Cut(part, "\n")
			if kind == "reject" {
				continue
			}
			if kind != "event" {
				t.Fatalf("%s: part %d is a %q", file, i, kind)
			}
			e, err := event.Decode([]byte(text))
			if err != nil {
				t.Errorf("%s: event %d: %v", file, i, err)
				continue
			}
			seen[e.Type] = true
			for name, s := range map[string]*jsonschema.Schema{"schema": loose, "strict schema": strict} {
				if err := validate(s, []byte(text)); err != nil {
					t.Errorf("%s: event %d against the %s: %v\n%s", file, i, name, err, text)
				}
			}
		}
	}
	reserved := map[event.Type]bool{event.EmailFailed: true, event.EmailSubscribed: true} // no provider sends them
	for _, typ := range event.Types() {
		if !seen[typ] && !reserved[typ] {
			t.Errorf("no golden file has an event %s", typ)
		}
	}
}
