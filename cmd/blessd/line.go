package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/blessd/blessd/event"
)

// addFormatFlag gives a command -o, which is text or json.
func addFormatFlag(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVarP(format, "output", "o", "text", "text for people, or json: one object on a line")
}

// badFormat is what a command says to another -o.
func badFormat(format string) error {
	return fmt.Errorf("%w: -o %q is neither text nor json", errUsage, format)
}

// colours tells whether what is written to w may be coloured.
func colours(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(f)
}

// The colours, by how much an event should catch the eye.
const (
	red    = "\x1b[31m"
	green  = "\x1b[32m"
	yellow = "\x1b[33m"
	cyan   = "\x1b[36m"
	dim    = "\x1b[2m"
	bold   = "\x1b[1m"
	plain  = "\x1b[0m"
)

// paint returns s in a colour when colours are wanted.
func paint(s, colour string, wanted bool) string {
	if !wanted || colour == "" {
		return s
	}
	return colour + s + plain
}

// colourOf is by verb, so that a type of a newer blessd has one too.
func colourOf(t event.Type) string {
	switch t.Verb() {
	case "bounced", "complained", "failed", "rejected", "removed":
		return red
	case "deferred", "unsubscribed", "deactivated", "unknown":
		return yellow
	case "delivered", "sent", "subscribed", "created", "reactivated":
		return green
	case "opened", "clicked":
		return cyan
	}
	return ""
}

// eventLine is the event's summary with its type in colour.
func eventLine(e *event.Event, coloured bool) string {
	// No column before the type can hold its dot: they are a time and a name.
	return strings.Replace(e.Summary(), string(e.Type), paint(string(e.Type), colourOf(e.Type), coloured), 1)
}
