package manage

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-json/jsontext"
	"github.com/goccy/go-json/v2"
)

// This file is the only one of the package that knows github.com/goccy/go-json.
// Its error texts can quote the input, keys included, so that none is kept.

var errShape = errors.New("not of the documented shape")

// decode reads one JSON value. After an error v is of no use.
func decode(body []byte, v any) error {
	if json.Unmarshal(body, v, jsontext.AllowInvalidUTF8(true)) != nil {
		return errShape
	}
	return nil
}

// encode writes v as JSON.
func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, errors.New("the request cannot be encoded")
	}
	return b, nil
}

// isJSON tells whether body is one JSON value.
func isJSON(body []byte) bool {
	var v raw
	return decode(body, &v) == nil
}

// raw is a JSON value as it came.
type raw []byte

// UnmarshalJSON implements json.Unmarshaler.
func (r *raw) UnmarshalJSON(b []byte) error {
	*r = bytes.Clone(b)
	return nil
}

// is tells whether the value, without blanks, is one of these texts.
func (r raw) is(texts ...string) bool {
	return slices.Contains(texts, strings.Join(strings.Fields(string(r)), ""))
}

// text is a string, or a number as it is written: ids and keys come as either. An
// id that was written as 4.05e20 has lost its last digits, and is an error.
type text struct {
	value string
	given bool // false for null
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *text) UnmarshalJSON(b []byte) error {
	switch {
	case len(b) == 0:
		return errShape
	case b[0] == '"':
		var s string
		if decode(b, &s) != nil {
			return errShape
		}
		*t = text{s, true}
	case string(b) == "null":
		*t = text{}
	case b[0] == '-' || b[0] >= '0' && b[0] <= '9':
		if bytes.ContainsAny(b, ".eE") {
			return errShape
		}
		*t = text{string(b), true}
	default:
		return errShape
	}
	return nil
}

// number is a whole number, or a string that holds one.
type number struct {
	value int64
	given bool // false for null and ""
}

// UnmarshalJSON implements json.Unmarshaler.
func (n *number) UnmarshalJSON(b []byte) error {
	var t text
	if err := t.UnmarshalJSON(b); err != nil {
		return err
	}
	s := strings.TrimSpace(t.value)
	if s == "" {
		*n = number{}
		return nil
	}
	v, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return errShape
	}
	*n = number{v, true}
	return nil
}
