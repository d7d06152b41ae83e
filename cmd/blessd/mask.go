package main

import (
	"cmp"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-json"

	"github.com/blessd/blessd/event"
)

// mailAddress finds what looks like an address of e-mail in JSON or in a form: the @
// may be written as %40 or \u0040. It would rather find too much than too little.
// The local part is quoted, or has everything that JSON, HTML and lists of addresses
// do not use around one.
var mailAddress = regexp.MustCompile(`(?i)(?:\\"[^"\\]{1,64}\\"|[^\s"<>,;:()\[\]{}\\&@]{1,200})(?:@|\\u0040)[^\s"<>,;:()\[\]{}\\&=@]{1,255}` +
	`|(?:[^\s"<>,;:()\[\]{}\\&=@]{1,200}?)%40[^\s"<>,;:()\[\]{}\\&=@]{1,255}`)

// atSign is how the @ of an address may be written.
var atSign = regexp.MustCompile(`(?i)@|\\u0040|%40`)

// maskAddress leaves the first character and the domain.
func maskAddress(s string) string {
	at := atSign.FindAllStringIndex(s, -1)
	if len(at) == 0 {
		return "\u2026"
	}
	last := at[len(at)-1]
	first, n := utf8.DecodeRuneInString(s)
	if first == '\\' || first == '\u2026' { // the quotation mark of a quoted one; one that is masked
		n = 0
	}
	return s[:min(n, last[0])] + "\u2026" + s[last[0]:]
}

// masker hides what an event says of people: their addresses of e-mail wherever they
// stand, and the telephone numbers and IP addresses that the event names, wherever
// they are repeated.
type masker struct {
	words *strings.Replacer
}

// newMasker knows what e names; nil for what is no event.
func newMasker(e *event.Event) masker {
	var words []string
	add := func(s string) {
		if len(s) >= 3 {
			words = append(words, s)
		}
	}
	if e != nil {
		add(e.Recipient)
		if c := e.Contact; c != nil {
			add(c.Email)
			add(c.Phone)
		}
		if c := e.Client; c != nil {
			add(c.IP)
		}
		if c := e.Complaint; c != nil {
			add(c.SourceIP)
			add(c.OriginalRecipient)
		}
	}
	// As they may be written: as they are, in JSON, in a form.
	for _, w := range slices.Clone(words) {
		add(url.QueryEscape(w))
		if b, err := json.MarshalWithOption(w, json.DisableHTMLEscape()); err == nil {
			add(strings.Trim(string(b), `"`))
		}
	}
	slices.SortFunc(words, func(a, b string) int { return cmp.Or(len(b)-len(a), strings.Compare(a, b)) })
	var pairs []string
	for _, w := range slices.Compact(words) {
		pairs = append(pairs, w, maskAddress(w))
	}
	return masker{strings.NewReplacer(pairs...)}
}

func (m masker) mask(s string) string {
	return mailAddress.ReplaceAllStringFunc(m.words.Replace(s), maskAddress)
}
