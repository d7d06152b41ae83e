package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/goccy/go-json"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/exporter-toolkit/web"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/blessd/blessd/receiver"
	"github.com/blessd/blessd/sink"
)

func newCheckCommand() *cobra.Command {
	var o overrides
	var format string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration and the keys",
		Long: `Check the configuration file and every file that it names, and say what would
run. Nothing is started, contacted or written, and no secret is shown.

Exit status: 0 when serve would start with this configuration, 1 when something
is wrong, 2 when the command line is. Warnings do not change it.`,
		Example: `  blessd check -c /etc/blessd/blessd.yaml
  blessd check -c blessd.yaml -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if format != "text" && format != "json" {
				return badFormat(format)
			}
			r := o.check(os.LookupEnv)
			if err := r.write(cmd.OutOrStdout(), format); err != nil {
				return fmt.Errorf("write the report: %w", err)
			}
			if n := len(r.Problems); n > 0 {
				return fmt.Errorf("the configuration cannot be used: %s", count(n, "problem"))
			}
			return nil
		},
	}
	o.bind(cmd)
	addFormatFlag(cmd, &format)
	return cmd
}

// count writes a number and its noun.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// report is what check found. Nothing in it is secret.
type report struct {
	OK       bool     `json:"ok"`
	Problems problems `json:"problems"`
	Warnings problems `json:"warnings"`
	// Plan is what would run, when there is no problem.
	Plan *plan `json:"plan,omitempty"`
}

// plan is what would run.
type plan struct {
	File       string         `json:"file,omitempty"`
	DataDir    string         `json:"data_dir"`
	Listen     string         `json:"listen"`
	Admin      string         `json:"admin"`
	PublicURL  string         `json:"public_url"`
	NATS       string         `json:"nats"`
	Subjects   string         `json:"subjects"`
	Journal    string         `json:"journal"`
	Events     string         `json:"events"`
	Quarantine string         `json:"quarantine"`
	Computed   []string       `json:"computed,omitempty"`
	Endpoints  []plannedHook  `json:"endpoints"`
	Duplicates []windowMemory `json:"duplicate_window_memory"`
	Managed    []string       `json:"managed,omitempty"` // endpoints that blessd webhooks manages
}

// plannedHook is one endpoint.
type plannedHook struct {
	Name     string   `json:"name"`
	Provider string   `json:"provider"`
	Path     string   `json:"path"`
	URL      string   `json:"url"` // to register, the token masked
	Verified string   `json:"verified"`
	Keys     []string `json:"keys"`   // fingerprints
	Tokens   []string `json:"tokens"` // fingerprints
}

// windowMemory is what the server's memory of ids costs at a rate.
type windowMemory struct {
	EventsPerSecond int   `json:"events_per_second"`
	Bytes           int64 `json:"bytes"`
}

// bytesPerID is about what a NATS server keeps for each id in the window.
const bytesPerID = 150

// check loads the configuration as serve would and looks at every file it names.
func (o *overrides) check(env func(string) (string, bool)) report {
	c, err := o.load(env)
	var found problems
	add := func(err error) {
		ps, _ := errors.AsType[problems](err)
		found = append(found, ps...)
	}
	add(err)
	var r report
	if c != nil {
		endpoints, err := c.receiverEndpoints("")
		add(err)
		found = append(found, c.warnings...)
		found = append(found, c.keyWarnings...)
		found = append(found, c.otherFiles(found)...)
		if c.DataDir != "" {
			dir := c.dataDirProblems()
			found = append(found, dir...)
			if !dir.about("data_dir") {
				found = append(found, c.diskProblems(freeBytes)...)
			}
		}
		if !slices.ContainsFunc(found, func(p problem) bool { return !p.Warning }) {
			r.Plan = c.plan(endpoints)
		}
	}
	r.Warnings, err = found.split()
	r.Problems, _ = errors.AsType[problems](err)
	r.OK = len(r.Problems) == 0
	return r
}

// lineNumber finds where a foreign parser's message points to. The rest of such a
// message may quote the file, which may hold passwords.
var lineNumber = regexp.MustCompile(`(?:line |:)(\d+)`)

// otherFiles checks the files that other programs' formats are in, but for those
// that are known to be wrong.
func (c *Config) otherFiles(known problems) (found problems) {
	at := func(err error) string {
		if m := lineNumber.FindStringSubmatch(err.Error()); m != nil {
			return ", about line " + m[1]
		}
		return ""
	}
	if file := c.Admin.WebConfigFile; file != "" && !known.about("admin.web_config_file") {
		if err := web.Validate(file); err != nil {
			found = append(found, c.source.problem("admin.web_config_file", "file "+showPath(file)+" is no web configuration of exporter-toolkit"+at(err), "see its web-configuration.md; passwords are bcrypt hashes, certificates must exist"))
		}
	}
	if file := c.NATS.Embedded.ConfigFile; file != "" && !c.externalNATS() && !known.about("nats.embedded.config_file") {
		if _, err := server.ProcessConfigFile(file); err != nil {
			found = append(found, c.source.problem("nats.embedded.config_file", "file "+showPath(file)+" is no configuration of nats-server"+at(err), "nats-server -t -c FILE says more"))
		}
	}
	if c.externalNATS() {
		found = append(found, c.clientFiles(known)...)
	}
	return found
}

// clientFiles tries what a connection to an external server needs, one setting
// after the other, so that each is named that is wrong.
func (c *Config) clientFiles(known problems) (found problems) {
	const nowhere = "nats://127.0.0.1" // nothing connects
	n := c.NATS
	for _, s := range []struct {
		path, file, mend string
		o                sink.ExternalOptions
	}{
		{"nats.creds_file", n.CredsFile, "give the file that nsc or the operator made, with a JWT and a seed", sink.ExternalOptions{CredsFile: n.CredsFile}},
		{"nats.nkey_file", n.NKeyFile, "give a file with a user's seed, which begins with SU", sink.ExternalOptions{NKeyFile: n.NKeyFile}},
		{"nats.tls.ca_file", n.TLS.CAFile, "give certificates as PEM", sink.ExternalOptions{TLS: sink.TLSFiles{CAFile: n.TLS.CAFile}}},
		{"nats.tls.cert_file", n.TLS.CertFile, "give a certificate and its key as PEM", sink.ExternalOptions{TLS: sink.TLSFiles{CertFile: n.TLS.CertFile, KeyFile: n.TLS.KeyFile}}},
	} {
		if s.file == "" || known.about(s.path) || s.path == "nats.tls.cert_file" && (n.TLS.KeyFile == "" || known.about("nats.tls.key_file")) {
			continue
		}
		s.o.URL = nowhere
		if err := sink.CheckExternal(s.o); err != nil {
			found = append(found, c.source.problem(s.path, "file "+showPath(s.file)+" cannot be used: "+err.Error(), s.mend))
		}
	}
	if n.Context != "" && !known.about("nats.context") {
		if err := sink.CheckExternal(sink.ExternalOptions{Context: n.Context}); err != nil {
			found = append(found, c.source.problem("nats.context", "context "+c.source.quote("nats.context", n.Context)+" cannot be used: "+errors.Unwrap(err).Error(), "see `nats context ls`; contexts belong to a user, who must be the one that runs blessd"))
		}
	}
	return found
}

// dataDirIsNone tells whether a file is where the data directory is to be.
func (c *Config) dataDirIsNone() bool {
	info, err := os.Stat(c.DataDir)
	return errors.Is(err, unix.ENOTDIR) || err == nil && !info.IsDir()
}

// dataDirProblems looks at the data directory, when it is there already.
func (c *Config) dataDirProblems() problems {
	if c.dataDirIsNone() {
		return problems{c.source.problem("data_dir", c.DataDir+" is not a directory, or lies in what is none", "name a directory; it is made when it is missing")}
	}
	info, err := os.Stat(c.DataDir)
	if err != nil {
		return nil // it will be made
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	p := c.source.problem("data_dir", fmt.Sprintf("others can look into %s (mode %04o), and it will hold people's addresses", c.DataDir, info.Mode().Perm()), "chmod 700 it")
	p.Warning = true
	return problems{p}
}

// plan says what would run.
func (c *Config) plan(endpoints []receiver.Endpoint) *plan {
	s, q := c.NATS.Stream, c.NATS.Quarantine
	p := &plan{
		File:       c.source.file,
		DataDir:    c.DataDir,
		Listen:     c.Listen,
		Admin:      c.Admin.Listen,
		PublicURL:  c.publicURL(""),
		Subjects:   c.NATS.SubjectPrefix + ".>",
		Journal:    c.Journal.MaxBytes.String(),
		Events:     fmt.Sprintf("%s: %s, %s, %s, when full: %s", s.Name, s.MaxBytes, age(s.MaxAge), count(s.Replicas, "replica"), s.WhenFull),
		Quarantine: fmt.Sprintf("%s: %s, %s, %s, when full: refuse", q.Name, q.MaxBytes, age(q.MaxAge), count(s.Replicas, "replica")),
	}
	if c.acknowledgesStream() {
		p.Journal = "none: an answer waits for NATS"
	}
	switch {
	case c.NATS.URL != "":
		p.NATS = publicPart(c.NATS.URL)
	case c.NATS.Context != "":
		p.NATS = "context " + c.NATS.Context
	default:
		p.NATS = "embedded, nats://" + reachable(c.NATS.Embedded.Listen)
	}
	for _, rule := range sizeRules {
		if _, ok := c.computed[rule.path]; ok {
			p.Computed = append(p.Computed, rule.path)
		}
	}
	for _, e := range endpoints {
		p.Endpoints = append(p.Endpoints, c.plannedHook(e))
	}
	for _, rate := range []int{100, 1000} {
		p.Duplicates = append(p.Duplicates, windowMemory{rate, int64(time.Duration(s.DuplicateWindow).Seconds() * float64(rate) * bytesPerID)})
	}
	for _, e := range c.Endpoints {
		if e.Manage != nil {
			p.Managed = append(p.Managed, e.Name)
		}
	}
	return p
}

func age(d Duration) string {
	if d == 0 {
		return "for ever"
	}
	return d.String()
}

func (c *Config) plannedHook(e receiver.Endpoint) plannedHook {
	hook := plannedHook{Name: e.Name, Provider: e.Provider, Path: receiver.Path(e.Name, ""), URL: e.URL, Keys: []string{}, Tokens: []string{}}
	for _, key := range slices.Concat(e.Keys, e.ParentKeys) {
		hook.Keys = append(hook.Keys, key.Fingerprint())
	}
	for _, token := range e.Tokens {
		hook.Tokens = append(hook.Tokens, token.Fingerprint())
	}
	var by []string
	if len(e.Tokens) > 0 || c.noFile {
		hook.Path = receiver.Path(e.Name, "<token>")
		hook.URL += "/<token>"
		by = append(by, "token")
	}
	if e.URLIsComplete {
		hook.URL = publicPart(e.URL)
	}
	if len(e.BasicAuth) > 0 {
		by = append(by, "basic auth")
	}
	switch {
	case !signs(e.Provider):
	case c.noFile && signsURL(e.Provider) || isReported(e):
		by = append(by, "signature reported")
	case awaitsKey(e):
		by = append(by, "signature, awaiting key")
	default:
		by = append(by, "signature")
	}
	if len(by) == 0 {
		by = append(by, "NOTHING")
	}
	hook.Verified = strings.Join(by, " + ")
	return hook
}

// write prints the report as text or json.
func (r report) write(w io.Writer, format string) error {
	if format == "json" {
		if r.Problems == nil {
			r.Problems = problems{}
		}
		if r.Warnings == nil {
			r.Warnings = problems{}
		}
		b, err := json.MarshalIndentWithOption(r, "", "  ", json.DisableHTMLEscape())
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "%s\n", b)
		return err
	}
	var b strings.Builder
	for _, p := range r.Problems {
		fmt.Fprintf(&b, "%s\n\n", p)
	}
	for _, p := range r.Warnings {
		fmt.Fprintf(&b, "warning: %s\n\n", p)
	}
	if r.Plan != nil {
		r.Plan.text(&b)
	}
	if r.OK {
		fmt.Fprintf(&b, "ok, %s\n", count(len(r.Warnings), "warning"))
	} else {
		fmt.Fprintf(&b, "%s, %s\n", count(len(r.Problems), "problem"), count(len(r.Warnings), "warning"))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (p *plan) text(b *strings.Builder) {
	t := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	file := p.File
	if file == "" {
		file = "none: one endpoint per provider, with generated tokens"
	}
	for _, line := range [][2]string{
		{"configuration", file},
		{"data", p.DataDir},
		{"webhooks", p.Listen + ", known as " + publicPart(p.PublicURL)},
		{"admin", p.Admin},
		{"NATS", p.NATS + ", subjects " + p.Subjects},
		{"events", p.Events},
		{"quarantine", p.Quarantine},
		{"journal", p.Journal},
	} {
		fmt.Fprintf(t, "%s\t%s\n", line[0], line[1])
	}
	for _, m := range p.Duplicates {
		fmt.Fprintf(t, "duplicate window\tabout %.0f MB of the NATS server's memory at %d events/s\n", float64(m.Bytes)/1e6, m.EventsPerSecond)
	}
	if len(p.Computed) > 0 {
		fmt.Fprintf(t, "chosen by blessd\t%s\n", strings.Join(p.Computed, ", "))
	}
	if len(p.Managed) > 0 {
		fmt.Fprintf(t, "managed webhooks\t%s (see `blessd webhooks plan`)\n", strings.Join(p.Managed, ", "))
	}
	// A strings.Builder takes everything.
	_ = t.Flush()
	b.WriteString("\n")
	fmt.Fprintln(t, "ENDPOINT\tPROVIDER\tURL\tVERIFIED BY\tKEYS\tTOKENS")
	for _, e := range p.Endpoints {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", e.Name, e.Provider, e.URL, e.Verified, fingerprints(e.Keys), fingerprints(e.Tokens))
	}
	_ = t.Flush()
	b.WriteString("\n")
}

func fingerprints(f []string) string {
	if len(f) == 0 {
		return "none"
	}
	return fmt.Sprintf("%d (%s)", len(f), strings.Join(f, ", "))
}
