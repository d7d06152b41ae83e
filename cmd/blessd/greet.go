package main

import (
	"fmt"
	"io"
	"strings"
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
	if d.cfg.noFile {
		d.greetFirst(&b)
	} else {
		for _, e := range d.inForce.Load().endpoints {
			fmt.Fprintf(&b, "  %-12s %-10s %s\n", e.Name, e.Provider, maskedPath(e))
		}
	}
	data := ""
	if d.cfg.noFile {
		data = " --data-dir " + d.cfg.DataDir
	} else {
		data = " -c FILE"
	}
	fmt.Fprintf(&b, "\nwatch:   blessd tail%s\n         nats sub -s %s '%s.events.>'\n", data, d.addresses.NATS, d.cfg.NATS.SubjectPrefix)
	if d.cfg.noFile {
		fmt.Fprintf(&b, "try:     blessd send%s sendclean hard_bounce\n", data)
	}
	fmt.Fprintf(&b, "status:  http://%s/-/status   /metrics   /-/ready\n", d.addresses.Admin)
	_, err := io.WriteString(out, b.String())
	return err
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
