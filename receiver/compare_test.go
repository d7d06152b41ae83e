package receiver

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestSecretsAreComparedInConstantTime looks for operators and functions that compare
// a secret and end at the first byte that differs. What == costs for a few bytes more
// or less cannot be measured through HTTP on a busy machine, but by somebody who has
// patience it can.
func TestSecretsAreComparedInConstantTime(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		looked++
		for _, place := range unsafeComparisons(t, file, nil) {
			t.Errorf("%s compares a secret: use digests and subtle.ConstantTimeCompare, or hmac.Equal", place)
		}
	}
	if looked < 10 {
		t.Fatalf("only %d files were looked at", looked)
	}
	for _, bad := range []string{
		`string(e.BasicAuth[i].Value) == credentials`,
		`k.Value == other`,
		`signature != want`,
		`bytes.Equal([]byte(k.Value), b)`,
		`strings.Compare(token, want) == 0`,
	} {
		source := "package receiver\n\nfunc f() bool { return " + bad + " }\n"
		if got := unsafeComparisons(t, "bad.go", source); len(got) != 1 {
			t.Errorf("%s: found %q, want it found", bad, got)
		}
	}
}

// unsafeComparisons returns the places. The names are those that secrets and what is
// compared with them have in this package.
func unsafeComparisons(t *testing.T, file string, source any) (places []string) {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, file, source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var secret func(ast.Expr) bool
	secret = func(x ast.Expr) bool {
		switch x := x.(type) {
		case *ast.Ident:
			return slices.Contains([]string{"credentials", "password", "signature", "token"}, x.Name)
		case *ast.SelectorExpr:
			return x.Sel.Name == "Value" || secret(x.Sel)
		case *ast.CallExpr: // a conversion
			kind, named := x.Fun.(*ast.Ident)
			_, slice := x.Fun.(*ast.ArrayType)
			return len(x.Args) == 1 && (slice || named && kind.Name == "string") && secret(x.Args[0])
		}
		return false
	}
	harmless := func(x ast.Expr) bool { // it says whether there is one at all
		switch x := x.(type) {
		case *ast.BasicLit:
			return x.Value == `""`
		case *ast.Ident:
			return x.Name == "nil"
		}
		return false
	}
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BinaryExpr:
			if (n.Op == token.EQL || n.Op == token.NEQ) && (secret(n.X) || secret(n.Y)) && !harmless(n.X) && !harmless(n.Y) {
				places = append(places, set.Position(n.Pos()).String())
			}
		case *ast.CallExpr:
			s, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains([]string{"Equal", "EqualFold", "Compare"}, s.Sel.Name) {
				break
			}
			if pkg, ok := s.X.(*ast.Ident); ok && (pkg.Name == "bytes" || pkg.Name == "strings") && slices.ContainsFunc(n.Args, secret) {
				places = append(places, set.Position(n.Pos()).String())
			}
		}
		return true
	})
	return places
}
