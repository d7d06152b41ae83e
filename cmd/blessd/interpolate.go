package main

import (
	"errors"
	"fmt"
	"strings"
)

// interpolate replaces ${VAR}, ${VAR:-default} and ${VAR:?text} in one parsed
// scalar. $$ stands for $, and any other $ for itself. As in a shell, the default
// and the text apply to a variable that is unset or empty, and a plain ${VAR} to
// one that is unset is an error, since a forgotten variable must not become an
// empty setting. Nothing is interpolated twice: a value with ${ in it stays as it
// is. No error contains a value.
func interpolate(s string, env func(string) (string, bool)) (string, error) {
	if !strings.Contains(s, "$") {
		return s, nil
	}
	var out strings.Builder
	for {
		before, after, found := strings.Cut(s, "$")
		out.WriteString(before)
		if !found {
			return out.String(), nil
		}
		switch {
		case strings.HasPrefix(after, "$"):
			out.WriteByte('$')
			s = after[1:]
		case strings.HasPrefix(after, "{"):
			expression, rest, closed := strings.Cut(after[1:], "}")
			if !closed {
				return "", errors.New("${ without its }; write $${ for the two characters themselves")
			}
			value, err := expand(expression, env)
			if err != nil {
				return "", err
			}
			out.WriteString(value)
			s = rest
		default:
			out.WriteByte('$')
			s = after
		}
	}
}

// expand returns the value of what stands between ${ and }.
func expand(expression string, env func(string) (string, bool)) (string, error) {
	name, fallback, operator := expression, "", ""
	if i := strings.IndexByte(expression, ':'); i >= 0 {
		name = expression[:i]
		switch rest := expression[i:]; {
		case strings.HasPrefix(rest, ":-"), strings.HasPrefix(rest, ":?"):
			operator, fallback = rest[:2], rest[2:]
		default:
			return "", errors.New("unknown form of ${...}: write ${VAR}, ${VAR:-default} or ${VAR:?text}")
		}
	}
	if !isVariable(name) {
		return "", errors.New("${...} needs the name of a variable: letters, digits and _, not beginning with a digit")
	}
	value, set := env(name)
	switch {
	case operator == "" && !set:
		return "", fmt.Errorf("the environment variable %s is not set; set it, or give a default: ${%s:-default}", name, name)
	case operator == ":-" && value == "":
		return fallback, nil
	case operator == ":?" && value == "":
		if fallback == "" {
			fallback = "it must be set"
		}
		return "", fmt.Errorf("the environment variable %s is not set or empty: %s", name, fallback)
	}
	return value, nil
}

func isVariable(name string) bool {
	for i := range len(name) {
		c := name[i]
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
