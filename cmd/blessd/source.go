package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/token"
)

// source remembers where in the configuration file each setting stands, so that
// a problem found long after parsing still names its line. A nil or empty source,
// of a start without a file, knows no places.
type source struct {
	file  string
	lines []string
	marks map[string]mark   // by path
	given map[string]string // by path: the flag or variable that overrides the file
	// hidden is, by line, the first column that an excerpt must not show: behind it
	// is a comment, the value of an unknown key or something else that may be a
	// secret in the wrong place.
	hidden map[int]int
	// failed has the paths whose value could not be decoded: what follows from that
	// is not said as well. The empty path is the whole file.
	failed map[string]bool
}

// mark is the place of one value and what is written there, which is not its
// value when ${VAR} is.
type mark struct {
	line, column int
	written      string
	fromEnv      bool
}

func newSource(file string, data []byte) *source {
	return &source{
		file:   file,
		lines:  strings.Split(string(data), "\n"),
		marks:  make(map[string]mark),
		given:  make(map[string]string),
		hidden: make(map[int]int),
		failed: make(map[string]bool),
	}
}

// has tells whether the file gives a value at path.
func (s *source) has(path string) bool {
	_, ok := s.marks[path]
	return ok
}

// isFailed tells whether the value at path, or what it is part of, could not be
// decoded.
func (s *source) isFailed(path string) bool {
	for path != "" && !s.failed[path] {
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return s.failed[path]
}

// quote returns what is written at path, for a message: what was read from the
// environment stays there.
func (s *source) quote(path, value string) string {
	if m, ok := s.marks[path]; ok && m.fromEnv && s.given[path] == "" {
		return "the value of " + strconv.Quote(m.written)
	}
	if len(value) > 80 {
		value = strings.ToValidUTF8(value[:80], "") + "..."
	}
	return strconv.Quote(value)
}

// problem makes a problem with the setting at path, or with what surrounds it
// when the file does not give it.
func (s *source) problem(path, what, mend string) problem {
	p := problem{Path: path, What: what, Mend: mend, Where: s.file}
	if where := s.given[path]; where != "" {
		p.Where = where
		return p
	}
	for at := path; at != ""; {
		if m, ok := s.marks[at]; ok {
			p.Line, p.Column, p.Excerpt = m.line, m.column, s.excerpt(m.line, m.column)
			break
		}
		at = at[:max(0, strings.LastIndexAny(at, ".["))]
	}
	return p
}

// hide keeps excerpts from showing the line from column on.
func (s *source) hide(line, column int) {
	if c, ok := s.hidden[line]; !ok || column < c {
		s.hidden[line] = column
	}
}

// hideToken hides every line of a token that may be a secret.
func (s *source) hideToken(tk *token.Token) {
	s.hide(tk.Position.Line, max(1, tk.Position.Column))
	last := tk.Position.Line + strings.Count(strings.TrimSpace(tk.Origin), "\n")
	if tk.Type == token.LiteralType || tk.Type == token.FoldedType {
		last = len(s.lines)
		if tk.Next != nil && tk.Next.Next != nil {
			last = tk.Next.Next.Position.Line - 1
		}
	}
	for line := tk.Position.Line + 1; line <= last; line++ {
		s.hide(line, 1)
	}
}

// excerpt returns the line with its number and a caret under the column.
func (s *source) excerpt(line, column int) string {
	if line < 1 || line > len(s.lines) {
		return ""
	}
	text, pointed := []rune(strings.TrimRight(strings.ToValidUTF8(s.lines[line-1], "?"), "\r ")), true
	if c, ok := s.hidden[line]; ok && c-1 < len(text) {
		pointed = column <= c
		text = append(text[:c-1:c-1], []rune("...")...)
	}
	const most = 160
	if len(text) > most {
		text = append(text[:most:most], []rune("...")...)
	}
	for i, r := range text {
		if r < ' ' && r != '\t' || r == 0x7f {
			text[i] = '?' // a terminal would obey
		}
	}
	number := fmt.Sprintf("%5d | ", line)
	out := number + string(text)
	if column < 1 || column > len(text) || !pointed {
		return out
	}
	lead := []rune(strings.Repeat(" ", len(number)-2) + "| ")
	for _, r := range text[:column-1] {
		if r != '\t' {
			r = ' '
		}
		lead = append(lead, r)
	}
	return out + "\n" + string(lead) + "^"
}

// looksLikePath tells whether a path can be shown in a message: a secret that was
// written where the path of its file belongs cannot.
func looksLikePath(s string) bool {
	for _, prefix := range []string{"/", "./", "../"} {
		if strings.HasPrefix(s, prefix) {
			return true
		}
	}
	return strings.ContainsAny(s, "/.") && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && !strings.ContainsRune("/._-", r)
	})
}

// showPath returns the path of a file for a message.
func showPath(s string) string {
	if looksLikePath(s) {
		return s
	}
	return "(not shown, since it does not look like a path)"
}

// publicPart returns a URL, or several with commas between, without what may be
// secret in it: user and password, query, what follows /hooks/<name>, and any part
// of a path that is long enough for a token.
func publicPart(s string) string {
	urls := strings.Split(s, ",")
	for i, u := range urls {
		scheme, rest, found := strings.Cut(u, "://")
		if !found {
			scheme, rest = "", u
		} else {
			scheme += "://"
		}
		if at := strings.LastIndexByte(rest, '@'); at >= 0 {
			rest = "...@" + rest[at+1:]
		}
		if end := strings.IndexAny(rest, "?#"); end >= 0 {
			rest = rest[:end] + "?..."
		}
		segments := strings.Split(rest, "/")
		for j := 1; j < len(segments); j++ {
			if j > 2 && segments[j-2] == "hooks" {
				segments = append(segments[:j:j], "...")
			} else if len(segments[j]) >= 16 {
				segments[j] = "..."
			}
		}
		urls[i] = scheme + strings.Join(segments, "/")
	}
	return strings.Join(urls, ",")
}
