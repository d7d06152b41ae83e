package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// greet tells a person what runs and what to do next. Without a configuration
// file that includes the URLs to paste at the providers, which are secrets: they
// go to stdout and never to the log.
func (d *daemon) greet(out io.Writer) error {
	var b strings.Builder
	where := "NATS at " + d.addresses.NATS
	if d.embedded != nil {
		where = "embedded NATS " + d.embedded.Version()
	}
	fmt.Fprintf(&b, "blessd %s   %s, data in %s\n\n", currentVersion().Version, where, d.cfg.DataDir)
	found := " --data-dir " + shellWord(d.cfg.DataDir)
	if d.cfg.noFile {
		d.greetFirst(&b)
	} else {
		d.greetConfigured(&b)
		found = " -c " + shellWord(d.cfg.source.file)
		if d.cfg.source.given["data_dir"] != "" {
			found += " --data-dir " + shellWord(d.cfg.DataDir)
		}
	}
	fmt.Fprintf(&b, "\nwatch:   %s tail%s\n", self(), found)
	if d.addresses.NATS != "" {
		fmt.Fprintf(&b, "         nats sub -s %s '%s.events.>'\n", d.addresses.NATS, d.cfg.NATS.SubjectPrefix)
	} else {
		fmt.Fprintf(&b, "         nats sub --context %s '%s.events.>'\n", d.cfg.NATS.Context, d.cfg.NATS.SubjectPrefix)
	}
	if d.cfg.noFile {
		fmt.Fprintf(&b, "try:     %s send%s sendclean hard_bounce\n", self(), found)
	}
	fmt.Fprintf(&b, "status:  http://%s/   or  %s status%s\n", d.addresses.Admin, self(), found)
	_, err := io.WriteString(out, b.String())
	return err
}

// greetConfigured is for a start with a configuration file. Whoever wrote it has
// the tokens.
func (d *daemon) greetConfigured(b *strings.Builder) {
	b.WriteString("The URLs to register at the providers, and what proves that a request is theirs:\n")
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for _, e := range d.inForce.Load().endpoints {
		h := d.cfg.plannedHook(e)
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", h.Name, h.Provider, h.URL, h.Verified)
	}
	_ = t.Flush() // a strings.Builder takes everything
	for _, h := range d.cfg.hooks(d.inForce.Load().endpoints) {
		if h.Refused {
			fmt.Fprintf(b, "%s awaits its key: deliveries are answered 503 until it is in key_files or in %s and blessd is restarted\n", h.Name, h.KeyFile)
		}
	}
}

// greetFirst is for a start without a configuration file.
func (d *daemon) greetFirst(b *strings.Builder) {
	b.WriteString("Paste these URLs at the providers. The token in each is its secret: whoever knows it is believed.\n")
	for _, h := range d.cfg.hooks(d.inForce.Load().endpoints) {
		fmt.Fprintf(b, "  %-10s %s   answers %q\n", h.Name, h.URL, h.Answer)
		switch {
		case h.KeyFile != "" && h.Refused:
			fmt.Fprintf(b, "             real signature key missing: deliveries wait for it (503) until it is in %s\n", h.KeyFile)
		case h.KeyFile != "":
			fmt.Fprintf(b, "             real signature key missing: the token is what counts; for the signature too put the key in %s\n", h.KeyFile)
		}
	}
	if strings.HasPrefix(d.cfg.PublicURL, "http://127.") || d.cfg.PublicURL == "" {
		b.WriteString("\nProviders reach blessd through a public HTTPS address in front of it: start with --public-url https://hooks.example.com\n")
	}
}
