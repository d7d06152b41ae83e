package main

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
)

// person finds what is about somebody in what is stored, by an address.
type person struct{ address []byte } // lower case

// parsePerson takes an e-mail address or a phone number. Anything shorter would
// find everybody.
func parsePerson(s string) (person, error) {
	s = strings.ToLower(strings.TrimSpace(s))
	digits := 0
	for _, c := range s {
		if c >= '0' && c <= '9' {
			digits++
		}
	}
	local, domain, at := strings.Cut(s, "@")
	email, phone := at && local != "" && domain != "", !at && digits >= 6
	if strings.ContainsAny(s, " \t\r\n\"<>,;") || !email && !phone {
		return person{}, errors.New("neither an e-mail address nor a phone number")
	}
	return person{[]byte(s)}, nil
}

// in reports whether b, an event or a body of a provider, has the address in it: as
// it is written in text, in JSON or in a form, in upper or lower case, and not as a
// part of a longer one.
func (p person) in(b []byte) bool {
	if raw := rawBase64(b); raw != nil && p.in(raw) {
		return true
	}
	for _, decode := range []func([]byte) []byte{nil, unescapeJSON, unescapeForm} {
		if decode != nil {
			d := decode(b)
			if d == nil {
				continue // nothing in it is escaped
			}
			b = d
		}
		if p.inPlain(bytes.ToLower(b)) {
			return true
		}
	}
	return false
}

// rawBase64 returns the provider's own bytes out of an event that could not have
// them in JSON as they are; nil when there are none.
func rawBase64(b []byte) []byte {
	_, rest, ok := bytes.Cut(b, []byte(`"raw_base64":"`))
	if !ok {
		return nil
	}
	encoded, _, _ := bytes.Cut(rest, []byte(`"`))
	raw, err := base64.StdEncoding.DecodeString(string(encoded))
	if err != nil {
		return nil
	}
	return raw
}

func (p person) inPlain(b []byte) bool {
	for at := 0; ; {
		i := bytes.Index(b[at:], p.address)
		if i < 0 {
			return false
		}
		start, end := at+i, at+i+len(p.address)
		rest := b[end:]
		if len(rest) > 0 && rest[0] == '.' {
			rest = rest[1:] // the end of a sentence, unless a name follows
		}
		if before := start > 0 && inAddress(b[start-1]); !before && (len(rest) == 0 || !inAddress(rest[0])) {
			return true
		}
		at = start + 1
	}
}

// inAddress reports whether c can be a part of the local part or of the domain of
// an address as people have them.
func inAddress(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("._%+-", c) >= 0 || c >= 0x80
}

// unescapeJSON resolves \u00xx, which is how an address can be hidden in JSON; nil
// when there is none.
func unescapeJSON(b []byte) []byte { return unescape(b, []byte(`\u00`)) }

// unescapeForm resolves %xx and, outside JSON, the plus sign that stands for a
// blank; nil when there is none.
func unescapeForm(b []byte) []byte {
	if len(b) > 0 && b[0] != '{' && b[0] != '[' {
		b = bytes.ReplaceAll(b, []byte("+"), []byte(" "))
	}
	return unescape(b, []byte("%"))
}

// unescape replaces every prefix with two hexadecimal digits behind it by the byte
// that they say.
func unescape(b, prefix []byte) []byte {
	if !bytes.Contains(b, prefix) {
		return nil
	}
	out := make([]byte, 0, len(b))
	for len(b) > 0 {
		if rest, ok := bytes.CutPrefix(b, prefix); ok && len(rest) >= 2 {
			high, ok1 := hexDigit(rest[0])
			low, ok2 := hexDigit(rest[1])
			if ok1 && ok2 {
				out, b = append(out, high<<4|low), rest[2:]
				continue
			}
		}
		out, b = append(out, b[0]), b[1:]
	}
	return out
}

func hexDigit(c byte) (byte, bool) {
	i := strings.IndexByte("0123456789abcdef", c|0x20)
	return byte(max(i, 0)), i >= 0
}
