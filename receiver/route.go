package receiver

import (
	"crypto/sha256"
	"crypto/subtle"
	"strings"
)

const (
	pathPrefix     = "/hooks/"
	maxNameLength  = 32
	minTokenLength = 16
	maxTokenLength = 128
	nameChars      = "abcdefghijklmnopqrstuvwxyz0123456789_-"
	tokenChars     = nameChars + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// Path returns the path at which an endpoint is served: "/hooks/acme", or
// "/hooks/acme/<token>" when token is not empty.
func Path(endpoint, token string) string {
	if token == "" {
		return pathPrefix + endpoint
	}
	return pathPrefix + endpoint + "/" + token
}

// routes is one generation of endpoints; it never changes.
type routes struct {
	byName    map[string]*endpoint
	unmatched *endpoint
	digest    func(string) [sha256.Size]byte
}

// match finds the endpoint of an escaped path. There is no cleaning, decoding or
// redirecting: a path is one of ours byte for byte, or nobody's. An unknown
// endpoint and a wrong token cost the same work: every endpoint, the unknown one
// too, has the same number of digests to compare with.
func (t *routes) match(path string) (*endpoint, *Key, reason) {
	name, token, hasToken, ok := splitPath(path)
	if !ok {
		return t.unmatched, nil, notFound
	}
	e, known := t.byName[name]
	if !known {
		e = t.unmatched
	}
	got := t.digest(token)
	hit := -1
	for i := range e.tokenDigests {
		hit = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(e.tokenDigests[i][:], got[:]), i, hit)
	}
	switch {
	case !known:
		return e, nil, notFound
	case len(e.Tokens) == 0 && !hasToken:
		return e, nil, ""
	case hit < 0 || hit >= len(e.Tokens):
		return e, nil, badToken
	}
	return e, &e.Tokens[hit], ""
}

func splitPath(path string) (name, token string, hasToken, ok bool) {
	rest, ok := strings.CutPrefix(path, pathPrefix)
	if !ok {
		return "", "", false, false
	}
	name, token, hasToken = strings.Cut(rest, "/")
	ok = isName(name) && (!hasToken || len(token) <= maxTokenLength && consistsOf(token, tokenChars))
	return name, token, hasToken, ok
}

func isName(s string) bool { return len(s) <= maxNameLength && consistsOf(s, nameChars) }

func isToken(s string) bool {
	return len(s) >= minTokenLength && len(s) <= maxTokenLength && consistsOf(s, tokenChars)
}

// consistsOf says whether s is not empty and has only bytes of set.
func consistsOf(s, set string) bool {
	for i := range len(s) {
		if strings.IndexByte(set, s[i]) < 0 {
			return false
		}
	}
	return s != ""
}

func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
