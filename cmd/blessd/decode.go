package main

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// decodeYAML reads data into the struct v points to. The library does the YAML,
// and this the strictness: its own decoder stops at the first unknown key and
// forgets where values stood, and here everything that is wrong is to be said at
// once, also what turns out after decoding.
func decodeYAML(file string, data []byte, env func(string) (string, bool), v any) (*source, problems) {
	s := newSource(file, data)
	if !utf8.Valid(data) {
		s.failed[""] = true
		return s, problems{{Where: file, What: "not UTF-8 text", Mend: "save the file as UTF-8"}}
	}
	parsed, err := parser.ParseBytes(data, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		s.failed[""] = true
		return s, problems{s.syntaxProblem(err)}
	}
	for _, tk := range lexer.Tokenize(string(data)) {
		switch tk.Type {
		case token.CommentType, token.AnchorType, token.AliasType, token.TagType:
			// The latter three may be passwords that begin with &, * or !.
			s.hide(tk.Position.Line, max(1, tk.Position.Column))
		}
	}
	d := decoder{source: s, env: env, anchors: make(map[string]ast.Node)}
	bodies := slices.DeleteFunc(slices.Clone(parsed.Docs), func(doc *ast.DocumentNode) bool { return doc.Body == nil })
	if len(bodies) > 0 {
		d.value("", bodies[0].Body, reflect.ValueOf(v).Elem())
	}
	if len(bodies) > 1 {
		for _, doc := range bodies[1:] {
			d.hideValue(doc.Body)
		}
		d.complain("", bodies[1].Body, "a second YAML document", "put everything into one document, without --- between")
	}
	// Excerpts are made last, when all that must be hidden is known.
	for i := range d.found {
		d.found[i].Excerpt = s.excerpt(d.found[i].Line, d.found[i].Column)
	}
	return s, d.found
}

// syntaxProblem is for what is no YAML. What stands on the line is not known, so
// that only lines with a key of ours are shown, up to its colon.
func (s *source) syntaxProblem(err error) problem {
	p := problem{Where: s.file, What: "not valid YAML", Mend: "check indentation (spaces only), colons, quotes and brackets on this line and the one before"}
	var syntax *yaml.SyntaxError
	if !errors.As(err, &syntax) || syntax.Token == nil {
		return p
	}
	// The parser's messages are constants but for names of tags and versions.
	if !strings.ContainsAny(syntax.Message, `"`+"`") {
		p.What += ": " + syntax.Message
	}
	p.Line, p.Column = syntax.Token.Position.Line, syntax.Token.Position.Column
	if p.Line < 1 || p.Line > len(s.lines) {
		p.Line, p.Column = 0, 0
		return p
	}
	line := s.lines[p.Line-1]
	key, _, found := strings.Cut(line, ":")
	if found && slices.Contains(allKeys(reflect.TypeFor[Config]()), strings.TrimLeft(key, " \t-{[")) {
		s.hide(p.Line, utf8.RuneCountInString(key)+2)
	} else {
		s.hide(p.Line, len(line)-len(strings.TrimLeft(line, " \t"))+1)
	}
	p.Excerpt = s.excerpt(p.Line, p.Column)
	if strings.Contains(line, "${") {
		p.Mend = "quote a value with ${...} in it: within [] and {} its braces are YAML's"
	}
	return p
}

// decoder walks the parsed file and the struct side by side.
type decoder struct {
	source  *source
	env     func(string) (string, bool)
	anchors map[string]ast.Node
	found   problems
}

// fail is for a value that cannot be decoded.
func (d *decoder) fail(path string, n ast.Node, what, mend string) {
	d.source.failed[path] = true
	d.complain(path, n, what, mend)
}

// complain is for something that is wrong beside a value.
func (d *decoder) complain(path string, n ast.Node, what, mend string) {
	line, column := place(n)
	d.found = append(d.found, problem{Where: d.source.file, Line: line, Column: column, Path: path, What: what, Mend: mend})
}

// place is where a value begins: for a block mapping at its first key, not at the
// colon where the parser puts it.
func place(n ast.Node) (line, column int) {
	switch x := n.(type) {
	case *ast.MappingNode:
		if !x.IsFlowStyle && len(x.Values) > 0 {
			return place(x.Values[0].Key)
		}
	case *ast.MappingValueNode:
		return place(x.Key)
	}
	if tk := n.GetToken(); tk != nil && tk.Position != nil {
		return tk.Position.Line, max(1, tk.Position.Column)
	}
	return 0, 0
}

// plain follows aliases and takes anchors and YAML's own tags off.
func (d *decoder) plain(path string, n ast.Node) ast.Node {
	for range 64 {
		switch x := n.(type) {
		case *ast.AnchorNode:
			d.anchors[x.Name.GetToken().Value] = x.Value
			n = x.Value
		case *ast.AliasNode:
			target, ok := d.anchors[x.Value.GetToken().Value]
			if !ok {
				d.fail(path, n, "an alias without its anchor", "define the &anchor further up in a value that is used, or write the value out; quote a value that begins with *")
				return nil
			}
			n = target
		case *ast.TagNode:
			if !strings.HasPrefix(x.GetToken().Value, "!!") {
				d.fail(path, n, "a tag of no meaning here", "take the ! word away, or quote a value that begins with !")
				return nil
			}
			n = x.Value
		default:
			return n
		}
	}
	d.fail(path, n, "an alias of itself", "write the value out")
	return nil
}

// value decodes n into v. Nothing and null leave the default.
func (d *decoder) value(path string, n ast.Node, v reflect.Value) {
	outer := n
	if n != nil {
		n = d.plain(path, n)
	}
	if n == nil || n.Type() == ast.NullType {
		return
	}
	line, column := place(outer)
	d.source.marks[path] = mark{line: line, column: column}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Struct:
		d.mapping(path, n, v)
	case reflect.Slice:
		d.sequence(path, n, v)
	default:
		d.scalar(path, outer, n, v)
	}
}

// keysOf lists the keys of a struct of the configuration in their order.
func keysOf(t reflect.Type) (keys []string, fields []int) {
	for i := range t.NumField() {
		if key := t.Field(i).Tag.Get("yaml"); key != "" {
			keys, fields = append(keys, key), append(fields, i)
		}
	}
	return keys, fields
}

// allKeys lists the keys of t and of everything in it.
func allKeys(t reflect.Type) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	keys, fields := keysOf(t)
	for _, f := range fields {
		keys = append(keys, allKeys(t.Field(f).Type)...)
	}
	return keys
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func (d *decoder) mapping(path string, n ast.Node, v reflect.Value) {
	m, ok := n.(ast.MapNode)
	if !ok {
		d.hideValue(n)
		keys, _ := keysOf(v.Type())
		d.fail(path, n, "is one value, and must be settings with names", "write them as name: value, with the names "+strings.Join(keys, ", "))
		return
	}
	keys, fields := keysOf(v.Type())
	seen := make(map[string]int)
	for it := m.MapRange(); it.Next(); {
		key := it.Key().GetToken().Value
		if k, ok := it.Key().(*ast.MappingKeyNode); ok && k.Value != nil {
			key = k.Value.GetToken().Value
		}
		line, _ := place(it.Key())
		i := slices.Index(keys, key)
		switch {
		case it.Key().IsMergeKey():
			d.hideValue(it.Value())
			d.complain(path, it.Key(), "merging with << is not supported", "write the settings out; a whole value can be used again with &name and *name")
		case i < 0:
			d.hideValue(it.Value())
			d.unknown(path, key, it.Key(), keys)
		case seen[key] > 0:
			d.complain(join(path, key), it.Key(), fmt.Sprintf("given twice, before on line %d", seen[key]), "keep one of the two")
		default:
			seen[key] = line
			d.value(join(path, key), it.Value(), v.Field(fields[i]))
		}
	}
}

// secretWords are what people call a secret that they write into the file itself.
var secretWords = []string{"api_key", "basic_auth", "key", "owner_id", "password", "secret", "signing_key", "token"}

func (d *decoder) unknown(path, key string, n ast.Node, keys []string) {
	mend := "take it away, or write one of: " + strings.Join(keys, ", ")
	if _, found := slices.BinarySearch(secretWords, key); found {
		mend = "secrets do not stand here: write each into a file of its own and give its path (key_files, token_files, basic_auth_file, ...)"
	}
	what := "unknown key"
	// A key that looks like nothing of ours may be a secret whose name is missing.
	if isKeyName(key) {
		what += " " + strconv.Quote(key) + didYouMean(key, keys)
	} else {
		d.source.hideToken(n.GetToken())
	}
	d.complain(path, n, what, mend)
}

func isKeyName(s string) bool {
	for _, r := range s {
		if (r < 'a' || r > 'z') && r != '_' && r != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

// hideValue hides everything in n from excerpts.
func (d *decoder) hideValue(n ast.Node) {
	if n != nil {
		ast.Walk(hider{d.source}, n)
	}
}

type hider struct{ source *source }

// Visit implements ast.Visitor.
func (h hider) Visit(n ast.Node) ast.Visitor {
	if tk := n.GetToken(); tk != nil && tk.Position != nil {
		h.source.hideToken(tk)
	}
	return h
}

func (d *decoder) sequence(path string, n ast.Node, v reflect.Value) {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		d.hideValue(n)
		key := path[strings.LastIndexByte(path, '.')+1:]
		d.fail(path, n, "is one value, and must be a list", fmt.Sprintf("write %s: [VALUE], or one line beginning with - for each", key))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(list.Values), len(list.Values)))
	for i, item := range list.Values {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.value(at, item, v.Index(i))
		empty := !d.source.has(at) || v.Index(i).Kind() == reflect.String && v.Index(i).Len() == 0
		if empty && !d.source.isFailed(at) {
			if item == nil {
				item = list
			}
			d.fail(at, item, "an empty entry", "take the entry away, or write its value")
		}
	}
}

// scalar decodes the text of one value: quoted or not, a number or a word.
func (d *decoder) scalar(path string, outer, n ast.Node, v reflect.Value) {
	var written string
	switch x := n.(type) {
	case ast.MapNode, ast.ArrayNode:
		d.hideValue(n)
		d.fail(path, n, "is a list or settings with names, and must be one value", "write one value behind the colon")
		return
	case *ast.LiteralNode:
		written = strings.TrimRight(x.Value.Value, "\n")
		d.source.hideToken(x.GetToken())
	default:
		written = n.GetToken().Value
	}
	m := d.source.marks[path]
	m.written = written
	text, err := interpolate(written, d.env)
	if err != nil {
		d.fail(path, outer, err.Error(), "")
		return
	}
	m.fromEnv = text != written
	d.source.marks[path] = m
	// What may hold a secret in the wrong place is checked later, but an excerpt of
	// another problem on the same line may come first.
	if mayHoldSecret(path, text) {
		d.hideValue(n)
		d.source.hideToken(outer.GetToken())
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		d.fail(path, outer, "has a line break or another control character in it", "write the value on one line")
		return
	}
	if err := setScalar(v, text); err != nil {
		d.fail(path, outer, d.source.quote(path, text)+" is "+err.Error(), "")
	}
}

func setScalar(v reflect.Value, text string) error {
	if u, ok := reflect.TypeAssert[encoding.TextUnmarshaler](v.Addr()); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		if text != "true" && text != "false" {
			return errors.New("neither true nor false")
		}
		v.SetBool(text == "true")
	case reflect.Int:
		n, err := strconv.Atoi(text)
		if err != nil || n > math.MaxInt32 || n < math.MinInt32 {
			return errors.New("no whole number")
		}
		v.SetInt(int64(n))
	default:
		return fmt.Errorf("of a kind that blessd cannot read (%s)", v.Type())
	}
	return nil
}

// mayHoldSecret tells whether the value at path is such that a misguided hand
// could have put a secret there: a URL with more than its host and our path, or a
// secret where its file's path belongs.
func mayHoldSecret(path, text string) bool {
	switch key := strings.TrimRight(path[strings.LastIndexByte(path, '.')+1:], "[]0123456789"); {
	case key == "url", key == "public_url", key == "base_url":
		return publicPart(text) != text
	case strings.HasSuffix(key, "_file"), strings.HasSuffix(key, "_files"):
		return !looksLikePath(text)
	}
	return false
}
