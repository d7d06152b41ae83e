package normalize

import (
	"bytes"
	"iter"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	legacy "github.com/goccy/go-json"
	"github.com/goccy/go-json/jsontext"
	"github.com/goccy/go-json/v2"

	"github.com/blessd/blessd/event"
)

// This file is the only one of the package that knows github.com/goccy/go-json.
// It must be v0.12.0 or later: earlier ones accept garbage after a value, wrap
// large integers and panic. After an error of that library nothing of the decoded
// value is used, since it may have been filled in part, and its error texts, which
// can be as long as the input, are not kept at all: a Reason takes their place.

// What one element may be. A larger one is rejected before it is decoded, which
// could take a hundred times its size of memory.
const (
	maxDepth = 64     // nested objects and arrays
	maxKeys  = 1_000  // keys of one object
	maxItems = 10_000 // items of one array within an element
)

// tolerant makes up for senders: a field with a broken character gets U+FFFD in
// its place, and of two equal keys the last one counts unless it is a routing key.
// Names match exactly.
var tolerant = json.JoinOptions(jsontext.AllowInvalidUTF8(true), jsontext.AllowDuplicateNames(true))

var bom = []byte("\ufeff")

// document returns the JSON value that b consists of, without outer blanks and
// without one byte order mark. The reason is ReasonUnreadableBody unless b is one
// valid value, an array or an object.
func document(b []byte) ([]byte, Reason) {
	b = trim(bytes.TrimPrefix(b, bom))
	if len(b) == 0 || b[0] != '[' && b[0] != '{' || !isValid(b) {
		return nil, ReasonUnreadableBody
	}
	return b, ""
}

// isValid tells whether b is one JSON value.
func isValid(b []byte) bool { return legacy.Valid(b) }

// batch yields the elements of an array, or an object as a batch of one. The
// value must come from document.
func batch(value []byte) iter.Seq[[]byte] {
	if value[0] != '[' {
		return func(yield func([]byte) bool) { yield(value) }
	}
	return items(value)
}

// jsonElements is the elements function of providers that send nothing but JSON,
// whatever their Content-Type says.
func jsonElements(body []byte) (iter.Seq[[]byte], Reason) {
	value, reason := document(body)
	if reason != "" {
		return nil, reason
	}
	return batch(value), ""
}

// decode decodes one element into a fresh T. The reason is not "" when raw is no
// JSON object, is too complex, or has one of the routing keys twice. raw must be
// part of a value that document returned.
func decode[T any](raw []byte, routing ...string) (*T, Reason) {
	if raw[0] != '{' {
		return nil, ReasonUnreadableElement
	}
	if reason := inspect(raw, routing); reason != "" {
		return nil, reason
	}
	v := new(T)
	if err := json.Unmarshal(raw, v, tolerant); err != nil {
		return nil, ReasonUnreadableElement
	}
	return v, ""
}

// inspect looks at a valid JSON value without decoding it. Routing keys are those
// of the outermost object that decide what an event is, so that two values would
// make it two events.
func inspect(raw []byte, routing []string) Reason {
	var counts [maxDepth]int // of the keys or items of each open object or array
	depth := 0
	var found uint64 // bit set over routing
	for i := 0; i < len(raw); {
		switch raw[i] {
		case '{', '[':
			if depth == maxDepth {
				return ReasonTooComplex
			}
			counts[depth] = 0
			depth++
			i++
		case '}', ']':
			depth--
			i++
		case ',':
			if counts[depth-1]++; counts[depth-1] >= maxItems {
				return ReasonTooComplex
			}
			i++
		case ':':
			if counts[depth-1] >= maxKeys {
				return ReasonTooComplex
			}
			i++
		case '"':
			end := stringEnd(raw, i)
			if depth == 1 && raw[0] == '{' && nextIs(raw, end, ':') {
				if n := slices.Index(routing, unquote(raw[i:end])); n >= 0 {
					if found&(1<<n) != 0 {
						return ReasonAmbiguous
					}
					found |= 1 << n
				}
			}
			i = end
		default:
			i++
		}
	}
	return ""
}

// items yields the items of a valid JSON array.
func items(array []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := skipBlanks(array, 1); array[i] != ']'; {
			end := valueEnd(array, i)
			if !yield(array[i:end:end]) {
				return
			}
			if i = skipBlanks(array, end); array[i] == ',' {
				i = skipBlanks(array, i+1)
			}
		}
	}
}

// members yields the names and values of a valid JSON object, in order and
// without regard to duplicates.
func members(object []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for i := skipBlanks(object, 1); object[i] != '}'; {
			end := stringEnd(object, i)
			name := unquote(object[i:end])
			i = skipBlanks(object, skipBlanks(object, end)+1)
			end = valueEnd(object, i)
			if !yield(name, object[i:end:end]) {
				return
			}
			if i = skipBlanks(object, end); object[i] == ',' {
				i = skipBlanks(object, i+1)
			}
		}
	}
}

// valueEnd returns the index after the value that starts at i.
func valueEnd(b []byte, i int) int {
	depth := 0
	for i < len(b) {
		switch b[i] {
		case '"':
			if i = stringEnd(b, i); depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // of a literal before the bracket
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\t', '\r', '\n':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return i
}

// stringEnd returns the index after the string that starts at i.
func stringEnd(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

func skipBlanks(b []byte, i int) int {
	for i < len(b) && isBlank(b[i]) {
		i++
	}
	return i
}

func nextIs(b []byte, i int, c byte) bool {
	i = skipBlanks(b, i)
	return i < len(b) && b[i] == c
}

func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// trim removes JSON's blanks, which are fewer than Unicode's.
func trim(b []byte) []byte { return bytes.Trim(b, " \t\r\n") }

// unquote returns the value of a valid JSON string. What is not UTF-8, and half a
// surrogate pair, becomes U+FFFD.
func unquote(quoted []byte) string {
	if inner := quoted[1 : len(quoted)-1]; bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner) {
		return string(inner)
	}
	s, _ := jsontext.AppendUnquote(nil, quoted) // the error only repeats that a character was replaced
	return string(s)
}

// quote returns b as a JSON string, byte for byte: what is not UTF-8 stays as it
// is, for event.SetRaw to notice.
func quote(b []byte) []byte {
	const digits = "0123456789abcdef"
	q := make([]byte, 0, len(b)+len(b)/8+2)
	q = append(q, '"')
	for _, c := range b {
		switch {
		case c == '"' || c == '\\':
			q = append(q, '\\', c)
		case c == '\n':
			q = append(q, '\\', 'n')
		case c == '\r':
			q = append(q, '\\', 'r')
		case c == '\t':
			q = append(q, '\\', 't')
		case c < 0x20:
			q = append(q, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		default:
			q = append(q, c)
		}
	}
	return append(q, '"')
}

// bare is the reverse of quote, or false for what quote has not written.
func bare(quoted []byte) ([]byte, bool) {
	if len(quoted) < 2 || quoted[0] != '"' || quoted[len(quoted)-1] != '"' {
		return nil, false
	}
	in := quoted[1 : len(quoted)-1]
	b := make([]byte, 0, len(in))
	for i := 0; i < len(in); i++ {
		if in[i] != '\\' {
			b = append(b, in[i])
			continue
		}
		if i++; i == len(in) {
			return nil, false
		}
		switch c := in[i]; c {
		case '"', '\\':
			b = append(b, c)
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			if i+4 >= len(in) {
				return nil, false
			}
			n, err := strconv.ParseUint(string(in[i+1:i+5]), 16, 8)
			if err != nil {
				return nil, false
			}
			b = append(b, byte(n))
			i += 4
		default:
			return nil, false
		}
	}
	return b, bytes.Equal(quote(b), quoted)
}

// text is a field that ought to be a string or a number and may be anything: one
// field of a wrong type must not cost the event. The zero text is a missing field.
type text struct {
	// s is the decoded string, or the JSON of any other value.
	s string
	// kind is '"', '0' for a number, 't' for true, 'f' for false, and 'x' for
	// null, an array or an object.
	kind byte
}

// textOf returns a field that was a string, for instance one of a form.
func textOf(s string) text { return text{s: s, kind: '"'} }

// UnmarshalJSON accepts every value.
func (t *text) UnmarshalJSON(b []byte) error {
	switch c := b[0]; {
	case c == '"':
		*t = text{s: unquote(b), kind: '"'}
	case c == '-' || c >= '0' && c <= '9':
		*t = text{s: string(b), kind: '0'}
	case c == 't' || c == 'f':
		*t = text{s: string(b), kind: c}
	default:
		*t = text{s: string(b), kind: 'x'}
	}
	return nil
}

// String returns a string as it is and a number as it was written; "" for
// anything else.
func (t text) String() string {
	if t.kind == '"' || t.kind == '0' {
		return t.s
	}
	return ""
}

// Word returns the field as the tables of event kinds have it: without outer
// blanks and in lower case.
func (t text) Word() string { return strings.ToLower(strings.TrimSpace(t.String())) }

// Identity returns what tells this value from others, whatever its type, so that
// fields of an unexpected type do not make two events one.
func (t text) Identity() string { return t.s }

// Int returns a whole number, also one that came as a string or with a fraction
// of zero; ok is false for anything else.
func (t text) Int() (n int, ok bool) {
	s := strings.TrimSpace(t.String())
	negative := strings.HasPrefix(s, "-")
	v, exact := scaled(strings.TrimPrefix(s, "-"), 0)
	if !exact || v > math.MaxInt32 {
		return 0, false
	}
	if negative {
		v = -v
	}
	return int(v), true
}

// Bool returns whether the field says true, as a boolean or as a string.
func (t text) Bool() bool {
	return t.kind == 't' || t.kind == '"' && strings.EqualFold(strings.TrimSpace(t.s), "true")
}

// Times are read as milliseconds from this number on and as seconds below. As
// milliseconds it is in 1973, as seconds in the year 5138.
const firstMilliseconds = 100_000_000_000

// lastMilliseconds is the end of the year 9999, the last that RFC 3339 can write.
const lastMilliseconds = 253_402_300_799_999

// Time returns the time of a count of seconds or milliseconds since 1970, with or
// without a fraction, or the zero time when the field is none: missing, not a
// number, zero, negative or beyond the year 9999.
func (t text) Time() event.Time {
	s := strings.TrimSpace(t.String())
	ms, ok := floor(s, 0)
	if ok && ms < firstMilliseconds {
		ms, ok = floor(s, 3)
	}
	if !ok || ms <= 0 || ms > lastMilliseconds {
		return event.Time{}
	}
	return event.NewTime(time.UnixMilli(ms))
}

// floor returns the whole part of a decimal number times 10^shift. It works on
// digits, since a float64 would not keep all of them, and without arithmetic that
// an exponent could make expensive. It refuses negative numbers and overflow.
func floor(s string, shift int) (int64, bool) {
	n, _, ok := decimal(s, shift)
	return n, ok
}

// scaled is floor that also refuses a number with a fraction.
func scaled(s string, shift int) (int64, bool) {
	n, whole, ok := decimal(s, shift)
	return n, ok && whole
}

func decimal(s string, shift int) (n int64, whole, ok bool) {
	const maxLen = 64 // no honest timestamp is longer
	if len(s) > maxLen {
		return 0, false, false
	}
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		exp, err := strconv.Atoi(s[i+1:])
		if err != nil || exp < -maxLen || exp > maxLen {
			return 0, false, false
		}
		s, shift = s[:i], shift+exp
	}
	left, right, _ := strings.Cut(s, ".")
	digits := left + right
	if left == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false, false
	}
	point := len(left) + shift
	if point <= 0 {
		return 0, strings.Trim(digits, "0") == "", true
	}
	fraction := ""
	if point < len(digits) {
		digits, fraction = digits[:point], digits[point:]
	} else {
		digits += strings.Repeat("0", point-len(digits))
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	return n, strings.Trim(fraction, "0") == "", err == nil
}

// object is a field that ought to be an object and may be anything; then, and
// when it is missing, its V is the zero T.
type object[T any] struct{ V T }

// UnmarshalJSON accepts every value.
func (o *object[T]) UnmarshalJSON(b []byte) error {
	var v T
	if b[0] == '{' && json.Unmarshal(b, &v, tolerant) != nil {
		var zero T
		v = zero
	}
	o.V = v
	return nil
}

// list is a field that ought to be an array and may be anything; then, and when
// it is missing, it is empty. An item that is not a T is the zero T, so that
// items keep their places.
type list[T any] []T

// UnmarshalJSON accepts every value.
func (l *list[T]) UnmarshalJSON(b []byte) error {
	*l = nil
	if b[0] != '[' {
		return nil
	}
	for item := range items(b) {
		var v T
		if json.Unmarshal(item, &v, tolerant) != nil {
			var zero T
			v = zero
		}
		*l = append(*l, v)
	}
	return nil
}
