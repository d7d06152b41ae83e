package main

import (
	"fmt"
	"slices"
	"strings"
)

// problem is one thing that is wrong with the configuration or with a file that
// it names. It never contains a secret: no content of a key file, no value that
// came out of the environment, no value of a key that is not known.
type problem struct {
	// Where is the configuration file, the flag or the environment variable.
	Where string `json:"where,omitempty"`
	// Line and Column are the place in the file, from 1; zero when there is none.
	Line   int `json:"line,omitempty"`
	Column int `json:"column,omitempty"`
	// Path is the setting, like endpoints[2].provider.
	Path string `json:"path,omitempty"`
	// What says what is wrong.
	What string `json:"what"`
	// Mend says what to do about it.
	Mend string `json:"mend,omitempty"`
	// Excerpt is the line of the file and a caret under the place.
	Excerpt string `json:"excerpt,omitempty"`
	// Warning is true when blessd starts all the same.
	Warning bool `json:"warning,omitempty"`
}

// head is the first line: where, which setting, what is wrong.
func (p problem) head() string {
	var b strings.Builder
	if p.Where != "" {
		b.WriteString(p.Where)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d", p.Line)
		}
		b.WriteString(": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.What)
	return b.String()
}

func (p problem) String() string {
	s := p.head()
	if p.Excerpt != "" {
		s += "\n" + p.Excerpt
	}
	if p.Mend != "" {
		s += "\n  -> " + p.Mend
	}
	return s
}

// problems is an error that says everything at once.
type problems []problem

func (ps problems) Error() string {
	texts := make([]string, len(ps))
	for i, p := range ps {
		texts[i] = p.String()
	}
	return strings.Join(texts, "\n")
}

// heads are the first lines, for the log.
func (ps problems) heads() []string {
	heads := make([]string, len(ps))
	for i, p := range ps {
		heads[i] = p.head()
	}
	return heads
}

// about tells whether there is an error, not only a warning, about the setting at
// path: what follows from that is not said as well.
func (ps problems) about(path string) bool {
	return slices.ContainsFunc(ps, func(p problem) bool { return p.Path == path && !p.Warning })
}

// split sorts by place, drops what was said twice and takes the warnings apart.
// The error is nil when there are warnings only.
func (ps problems) split() (warnings problems, err error) {
	slices.SortStableFunc(ps, func(a, b problem) int {
		if a.Where != b.Where {
			return 0
		}
		return a.Line - b.Line
	})
	var wrong problems
	for i, p := range ps {
		switch {
		case slices.Contains(ps[:i], p):
		case p.Warning:
			warnings = append(warnings, p)
		default:
			wrong = append(wrong, p)
		}
	}
	if len(wrong) > 0 {
		return warnings, wrong
	}
	return warnings, nil
}

// closest returns the candidate that word was probably meant to be, or "": one that
// is a letter or a few away, or that begins with it.
func closest(word string, candidates []string) string {
	word = strings.ToLower(word)
	best, distance := "", max(1, len(word)/3)+1
	for _, c := range candidates {
		d := editDistance(word, c, distance)
		if len(word) >= 3 && strings.HasPrefix(c, word) {
			d = min(d, 1)
		}
		if d < distance {
			best, distance = c, d
		}
	}
	return best
}

// editDistance counts the letters to insert, delete, replace or swap with the
// next, up to limit.
func editDistance(a, b string, limit int) int {
	if d := len(a) - len(b); d >= limit || -d >= limit {
		return limit
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return min(last[len(b)], limit)
}

// didYouMean is the end of a sentence about a word that is not known.
func didYouMean(word string, candidates []string) string {
	if c := closest(word, candidates); c != "" {
		return fmt.Sprintf("; did you mean %q?", c)
	}
	return ""
}
