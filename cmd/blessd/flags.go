package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// flagMistake says in a sentence of ours what is wrong with a flag.
func flagMistake(c *cobra.Command, err error) string {
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok {
		name := e.GetSpecifiedName()
		if e.GetSpecifiedShortnames() != "" {
			return "no flag -" + name
		}
		var known []string
		c.Flags().VisitAll(func(f *pflag.Flag) { known = append(known, f.Name) })
		if near := closest(name, known); near != "" {
			return fmt.Sprintf("no flag --%s; did you mean --%s?", name, near)
		}
		return "no flag --" + name
	}
	if e, ok := errors.AsType[*pflag.ValueRequiredError](err); ok {
		return shownFlag(e.GetFlag()) + " needs a value"
	}
	if e, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		is := "of no use: " + e.Unwrap().Error()
		switch e.GetFlag().Value.Type() {
		case "int":
			is = "no whole number"
		case "float64":
			is = "no number"
		case "bool":
			is = "neither true nor false"
		}
		return fmt.Sprintf("%s %q is %s", shownFlag(e.GetFlag()), e.GetValue(), is)
	}
	return err.Error()
}

// shownFlag is the flag as people type it.
func shownFlag(f *pflag.Flag) string {
	if f.Name == "config" {
		return "-c"
	}
	return "--" + f.Name
}

// exclusive demands that not both of the flags are given.
func exclusive(c *cobra.Command, a, b string) error {
	if c.Flags().Changed(a) && c.Flags().Changed(b) {
		return fmt.Errorf("%w: %s and %s exclude each other", errUsage, shownFlag(c.Flag(a)), shownFlag(c.Flag(b)))
	}
	return nil
}
