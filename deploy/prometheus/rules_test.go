// Package prometheus holds no code. Its tests check the alerts: their form, that
// each has a runbook, and by promtool that each fires when it should and only then.
package prometheus

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/blessd/blessd/receiver"
)

const runbooks = "https://github.com/blessd/blessd/blob/main/docs/runbooks.md#"

type rule struct {
	Record      string
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

type ruleFile struct {
	Groups []struct {
		Name  string
		Rules []rule
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// rules returns what is in a file of rules.
func rules(t *testing.T, file string) (all []rule) {
	t.Helper()
	var f ruleFile
	if err := yaml.UnmarshalWithOptions([]byte(read(t, file)), &f, yaml.Strict()); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	for _, g := range f.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// severities are those that each file may have.
var severities = map[string][]string{
	"alerts.yml":         {"critical", "warning"},
	"deliverability.yml": {"info"},
}

// TestForm: whoever is woken up finds what is wrong, by how much, and what to do.
func TestForm(t *testing.T) {
	page := read(t, "../../docs/runbooks.md")
	var sections []string
	for line := range strings.Lines(page) {
		if name, found := strings.CutPrefix(line, "## "); found {
			sections = append(sections, strings.TrimSpace(name))
		}
	}
	var names []string
	for file, allowed := range severities {
		for _, r := range rules(t, file) {
			if r.Alert == "" {
				if !strings.HasPrefix(r.Record, "blessd:") {
					t.Errorf("%s: the record %s does not begin with blessd:", file, r.Record)
				}
				continue
			}
			if slices.Contains(names, r.Alert) {
				t.Errorf("%s: there are two of it", r.Alert)
			}
			names = append(names, r.Alert)
			if !strings.HasPrefix(r.Alert, "Blessd") {
				t.Errorf("%s: the name does not begin with Blessd", r.Alert)
			}
			if !slices.Contains(allowed, r.Labels["severity"]) || len(r.Labels) != 1 {
				t.Errorf("%s: labels %v, want a severity of %v and nothing else", r.Alert, r.Labels, allowed)
			}
			summary, description := r.Annotations["summary"], r.Annotations["description"]
			if summary == "" || strings.Contains(summary, "{{") || !strings.HasSuffix(summary, ".") {
				t.Errorf("%s: summary %q, want one fixed sentence", r.Alert, summary)
			}
			if !strings.Contains(description, "{{ $labels.") {
				t.Errorf("%s: description %q does not say of whom", r.Alert, description)
			}
			// A gauge of 0 and 1 has no value worth telling.
			if counts := regexp.MustCompile(`(?:>|<)=? *[1-9]`).MatchString(r.Expr); counts && !strings.Contains(description, "$value") {
				t.Errorf("%s: description %q does not say how much", r.Alert, description)
			}
			if want := runbooks + strings.ToLower(r.Alert); r.Annotations["runbook_url"] != want {
				t.Errorf("%s: runbook_url %q, want %q", r.Alert, r.Annotations["runbook_url"], want)
			}
		}
	}
	for _, name := range names {
		if !slices.Contains(sections, name) {
			t.Errorf("docs/runbooks.md has no section %s", name)
			continue
		}
		_, section, _ := strings.Cut(page, "\n## "+name+"\n")
		section, _, _ = strings.Cut(section, "\n## ")
		at := -1
		for _, part := range []string{"**What it means.**", "**How to look.**", "**What to do.**"} {
			i := strings.Index(section, part)
			if i <= at {
				t.Errorf("docs/runbooks.md, %s: %s is missing or out of order", name, part)
			}
			at = i
		}
	}
	for _, s := range sections {
		if !slices.Contains(names, s) {
			t.Errorf("docs/runbooks.md has a section %s, and there is no such alert", s)
		}
	}
}

// TestBothWays: every alert has a test in which it fires, and one in which it does
// not though it nearly could.
func TestBothWays(t *testing.T) {
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, file := range testFiles(t) {
		var f struct {
			Tests []struct {
				Name  string
				Cases []struct {
					AlertName string `yaml:"alertname"`
					Alerts    []any  `yaml:"exp_alerts"`
				} `yaml:"alert_rule_test"`
			}
		}
		if err := yaml.Unmarshal([]byte(read(t, file)), &f); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, test := range f.Tests {
			quiet := map[string]bool{}
			for _, c := range test.Cases {
				if len(c.Alerts) > 0 {
					fires[c.AlertName] = true
					quiet[c.AlertName] = false
				} else if _, fired := quiet[c.AlertName]; !fired {
					quiet[c.AlertName] = true
				}
			}
			for name, all := range quiet {
				silent[name] = silent[name] || all
			}
		}
	}
	for file := range severities {
		for _, r := range rules(t, file) {
			if r.Alert == "" {
				continue
			}
			if !fires[r.Alert] {
				t.Errorf("%s: there is no test in which it fires", r.Alert)
			}
			if !silent[r.Alert] {
				t.Errorf("%s: there is no test in which it does not fire", r.Alert)
			}
		}
	}
}

var (
	metric      = regexp.MustCompile(`\bblessd_[a-z0-9_]+`)
	reasonMatch = regexp.MustCompile(`blessd_webhook_rejected_total\{reason=~"([^"]*)"`)
)

// TestNames: an alert on a metric that does not exist never fires.
func TestNames(t *testing.T) {
	operating := read(t, "../../docs/operating.md")
	for file := range severities {
		for _, r := range rules(t, file) {
			for _, name := range metric.FindAllString(r.Expr, -1) {
				if base := strings.TrimSuffix(name, "_bucket"); !strings.Contains(operating, "| `"+base+"`") && !strings.Contains(operating, "| `"+base+"{") {
					t.Errorf("%s%s: docs/operating.md knows no metric %s", r.Alert, r.Record, name)
				}
			}
			for _, m := range reasonMatch.FindAllStringSubmatch(r.Expr, -1) {
				for reason := range strings.SplitSeq(m[1], "|") {
					if !slices.Contains(receiver.Reasons(), reason) {
						t.Errorf("%s: nothing is refused for the reason %s", r.Alert, reason)
					}
				}
			}
		}
	}
}

func testFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*_test.yml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tests of rules: %v", err)
	}
	return files
}

// TestPromtool runs Prometheus' own tool on the configuration, the rules and their
// tests.
func TestPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian: apt-get install prometheus)")
	}
	runs := map[string][]string{
		"config": {"check", "config", "prometheus.yml"},
		"rules":  {"check", "rules", "alerts.yml", "deliverability.yml"},
	}
	for _, file := range testFiles(t) {
		runs[file] = []string{"test", "rules", file}
	}
	for name, args := range runs {
		t.Run(name, func(t *testing.T) {
			if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
				t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		})
	}
}
