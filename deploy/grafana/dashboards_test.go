// Package grafana holds no code. Its tests check the dashboards: their form, that
// their thresholds are those of the alerts, and that no panel stays empty.
package grafana

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// dashboards are all that are shipped.
var dashboards = []string{"blessd-deliverability.json", "blessd-overview.json"}

// The part of a dashboard that the tests look at.
type dashboard struct {
	UID, Title    string
	Tags          []string
	Editable      bool
	SchemaVersion int
	Templating    struct{ List []variable }
	Annotations   struct {
		List []struct{ Name, Type, Expr string }
	}
	Panels []panel
}

type variable struct {
	Name, Label, Type, Definition, AllValue string
	Query                                   any
	Multi, IncludeAll                       bool
	Refresh                                 int
	Datasource                              source
}

type source struct{ Type, UID string }

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               source
	GridPos                  struct{ H, W, X, Y int }
	Targets                  []target
	Options                  json.RawMessage
	FieldConfig              struct {
		Defaults struct {
			Unit       string
			Thresholds thresholds
			Custom     json.RawMessage
		}
		Overrides []struct {
			Matcher    struct{ ID, Options string }
			Properties []struct {
				ID    string
				Value json.RawMessage
			}
		}
	}
}

type target struct {
	RefID, Expr, LegendFormat, Format string
	Instant, Range                    bool
	Datasource                        source
}

type thresholds struct {
	Mode  string
	Steps []struct {
		Color string
		Value *float64
	}
}

func load(t *testing.T, file string) *dashboard {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return &d
}

// expression is one that Prometheus is asked, and where it stands.
type expression struct{ where, expr string }

func (d *dashboard) expressions() (all []expression) {
	for _, p := range d.Panels {
		for _, q := range p.Targets {
			all = append(all, expression{fmt.Sprintf("panel %q, %s", p.Title, q.RefID), q.Expr})
		}
	}
	for _, a := range d.Annotations.List {
		if a.Expr != "" {
			all = append(all, expression{fmt.Sprintf("annotation %q", a.Name), a.Expr})
		}
	}
	return all
}

// freeAddress is one on loopback that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestAllAreTested(t *testing.T) {
	files, err := filepath.Glob("blessd-*.json")
	if err != nil || !slices.Equal(files, dashboards) {
		t.Errorf("there are %v, tested are %v", files, dashboards)
	}
}

// units are Grafana's names of those that are used.
var units = []string{"bytes", "dateTimeFromNow", "eps", "none", "ops", "percent", "reqps", "s", "short"}

// TestLint has the rules of Grafana's dashboard-linter, by their names there, and a
// few more. The linter itself cannot be had as a Go module.
func TestLint(t *testing.T) {
	for _, file := range dashboards {
		t.Run(file, func(t *testing.T) {
			d := load(t, file)
			if d.UID != strings.TrimSuffix(file, ".json") || !strings.HasPrefix(d.Title, "blessd / ") || !slices.Contains(d.Tags, "blessd-mixin") || d.SchemaVersion != 39 {
				t.Errorf("uid %q, title %q, tags %q, schemaVersion %d", d.UID, d.Title, d.Tags, d.SchemaVersion)
			}
			if d.Editable {
				t.Error("uneditable-dashboard: it can be edited")
			}
			lintVariables(t, d, read(t, file))
			for _, p := range d.Panels {
				lintPanel(t, &p)
			}
			lintLayout(t, d)
			for _, e := range d.expressions() {
				for _, problem := range lintExpression(e.expr) {
					t.Errorf("%s: %s\n%s", e.where, problem, e.expr)
				}
			}
		})
	}
}

func lintVariables(t *testing.T, d *dashboard, text string) {
	t.Helper()
	if v := d.Templating.List[0]; v.Name != "datasource" || v.Label != "Data source" || v.Type != "datasource" || v.Query != "prometheus" {
		t.Errorf("template-datasource-rule: the first variable is %+v", v)
	}
	names := map[string]bool{}
	for _, v := range d.Templating.List {
		names[v.Name] = true
		if !strings.Contains(text, "$"+v.Name) && !strings.Contains(text, "${"+v.Name+"}") {
			t.Errorf("template-unused: %s", v.Name)
		}
		if v.Type != "query" {
			continue
		}
		if v.Label != strings.ToUpper(v.Name[:1])+v.Name[1:] || v.Datasource != ours || !v.Multi || !v.IncludeAll || v.AllValue != ".+" {
			t.Errorf("template-%s-rule: %+v", v.Name, v)
		}
		if v.Refresh != 2 {
			t.Errorf("template-on-time-change-reload-rule: %s is read at %d, want 2", v.Name, v.Refresh)
		}
	}
	for _, name := range []string{"job", "instance", "endpoint"} {
		if !names[name] {
			t.Errorf("template-%s-rule: there is no variable %s", name, name)
		}
	}
}

// ours is how panels name the data source that is chosen above them.
var ours = source{Type: "prometheus", UID: "${datasource}"}

func lintPanel(t *testing.T, p *panel) {
	t.Helper()
	if p.Title == "" {
		t.Errorf("panel %d has no title", p.ID)
	}
	if p.Type == "row" {
		return
	}
	if !strings.HasSuffix(p.Description, ".") || len(p.Description) < 20 {
		t.Errorf("panel-title-description-rule: %q has the description %q", p.Title, p.Description)
	}
	if p.Datasource != ours {
		t.Errorf("panel-datasource-rule: %q has %+v", p.Title, p.Datasource)
	}
	if len(p.Targets) == 0 {
		t.Errorf("panel-no-targets-rule: %q", p.Title)
	}
	used := []string{p.FieldConfig.Defaults.Unit}
	for _, o := range p.FieldConfig.Overrides {
		for _, property := range o.Properties {
			if property.ID == "unit" {
				used = append(used, strings.Trim(string(property.Value), `"`))
			}
		}
	}
	for _, unit := range used {
		if !slices.Contains(units, unit) {
			t.Errorf("panel-units-rule: %q has the unit %q", p.Title, unit)
		}
	}
	ids := map[string]bool{}
	for _, q := range p.Targets {
		if q.Datasource != ours {
			t.Errorf("target-datasource-rule: %q, %s has %+v", p.Title, q.RefID, q.Datasource)
		}
		if ids[q.RefID] || q.Instant == q.Range {
			t.Errorf("%q, %s: the name is taken, or it is neither instant nor a range", p.Title, q.RefID)
		}
		ids[q.RefID] = true
	}
}

// lintLayout: nothing lies on something else, or beside the 24 columns.
func lintLayout(t *testing.T, d *dashboard) {
	t.Helper()
	taken, ids := map[[2]int]string{}, map[int]bool{}
	for _, p := range d.Panels {
		g := p.GridPos
		if g.X < 0 || g.W < 1 || g.X+g.W > 24 || g.H < 1 || ids[p.ID] {
			t.Errorf("%q: place %+v, id %d", p.Title, g, p.ID)
		}
		ids[p.ID] = true
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%q lies on %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

var (
	selectors = regexp.MustCompile(`\b((?:blessd|go|process)_[a-z0-9_]+)(\{[^}]*\})?(\[[^\]]*\])?`)
	rates     = regexp.MustCompile(`\b(i?rate|increase)\(([a-z0-9_]+)(\{[^}]*\})?(\[[^\]]*\])`)
)

func lintExpression(expr string) (problems []string) {
	add := func(format string, a ...any) { problems = append(problems, fmt.Sprintf(format, a...)) }
	counted := map[string]int{}
	for _, m := range rates.FindAllStringSubmatch(expr, -1) {
		counted[m[2]]++
		if m[1] != "increase" && m[4] != "[$__rate_interval]" {
			add("target-rate-interval-rule: %s over %s", m[1], m[4])
		}
	}
	seen := map[string]int{}
	for _, m := range selectors.FindAllStringSubmatch(expr, -1) {
		name, matchers := m[1], m[2]
		seen[name]++
		for _, label := range []string{"job", "instance"} {
			if !strings.Contains(matchers, label+`=~"$`+label+`"`) {
				add("target-%s-rule: %s%s", label, name, matchers)
			}
		}
	}
	if len(seen) == 0 {
		add("target-promql-rule: no metric")
	}
	for name, n := range seen {
		if strings.HasSuffix(name, "_total") && counted[name] != n {
			add("target-counter-agg-rule: %s", name)
		}
		// A native histogram has no buckets of that name.
		if base, is := strings.CutSuffix(name, "_bucket"); is && seen[base] != n {
			add("%s is asked without %s, or the other way round", name, base)
		}
	}
	return problems
}

// A rule that finds nothing anywhere may find nothing at all.
func TestLintFinds(t *testing.T) {
	for expr, rule := range map[string]string{
		`sum(rate(blessd_events_late_total{job=~"$job",instance=~"$instance"}[5m]))`: "target-rate-interval-rule",
		`sum(blessd_events_late_total{job=~"$job",instance=~"$instance"})`:           "target-counter-agg-rule",
		`blessd_ready{instance=~"$instance"}`:                                        "target-job-rule",
		`blessd_ready{job=~"$job"}`:                                                  "target-instance-rule",
		`blessd_ready`:                                                               "target-job-rule",
		`rate(blessd_journal_sync_seconds_bucket{job=~"$job",instance=~"$instance"}[$__rate_interval])`: "without blessd_journal_sync_seconds",
		`time()`: "target-promql-rule",
	} {
		if problems := lintExpression(expr); !strings.Contains(strings.Join(problems, " "), rule) {
			t.Errorf("%s: found %v, want %s", expr, problems, rule)
		}
	}
}

// TestMetricsExist: docs/operating.md lists what blessd has.
func TestMetricsExist(t *testing.T) {
	operating := read(t, "../../docs/operating.md")
	for _, file := range dashboards {
		for _, e := range load(t, file).expressions() {
			for _, m := range selectors.FindAllStringSubmatch(e.expr, -1) {
				name := strings.TrimSuffix(m[1], "_bucket")
				if strings.HasPrefix(name, "blessd_") && name != "blessd_build_info" && !strings.Contains(operating, "| `"+name) {
					t.Errorf("%s, %s: docs/operating.md knows no metric %s", file, e.where, name)
				}
			}
		}
	}
}

// alert is what thresholds are compared with.
type alert struct {
	severity     string
	above, below []float64
}

var comparison = regexp.MustCompile(`(>|<|==) *([0-9.]+)`)

func alerts(t *testing.T) map[string]alert {
	t.Helper()
	all := map[string]alert{}
	for _, file := range []string{"alerts.yml", "deliverability.yml"} {
		var f struct {
			Groups []struct {
				Rules []struct {
					Alert, Expr string
					Labels      struct{ Severity string }
				}
			}
		}
		if err := yaml.Unmarshal([]byte(read(t, "../prometheus/"+file)), &f); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, g := range f.Groups {
			for _, r := range g.Rules {
				a := alert{severity: r.Labels.Severity}
				for _, m := range comparison.FindAllStringSubmatch(r.Expr, -1) {
					v, err := strconv.ParseFloat(m[2], 64)
					switch {
					case err != nil:
						t.Fatalf("%s: %v", r.Alert, err)
					case m[1] == ">":
						a.above = append(a.above, v)
					case m[1] == "<":
						a.below = append(a.below, v)
					case v == 0: // of a gauge of 0 and 1
						a.below = append(a.below, 1)
					}
				}
				all[r.Alert] = a
			}
		}
	}
	return all
}

var alertName = regexp.MustCompile(`\bBlessd[A-Z]\w+`)

// TestThresholds: what is yellow or red is what an alert fires for, with the same
// number, and the panel's description says which.
func TestThresholds(t *testing.T) {
	known := alerts(t)
	coloured := 0
	for _, file := range dashboards {
		for _, p := range load(t, file).Panels {
			var named []alert
			for _, name := range alertName.FindAllString(p.Description, -1) {
				a, found := known[name]
				if !found {
					t.Errorf("%s, %q names %s, and there is no such alert", file, p.Title, name)
				}
				named = append(named, a)
			}
			all := []thresholds{p.FieldConfig.Defaults.Thresholds}
			for _, o := range p.FieldConfig.Overrides {
				for _, property := range o.Properties {
					if property.ID != "thresholds" {
						continue
					}
					var th thresholds
					if err := json.Unmarshal(property.Value, &th); err != nil {
						t.Fatal(err)
					}
					all = append(all, th)
				}
			}
			for _, th := range all {
				for i := 1; i < len(th.Steps); i++ {
					coloured++
					if !matches(named, th.Steps[i-1].Color, th.Steps[i].Color, *th.Steps[i].Value) {
						t.Errorf("%s, %q: from %s to %s at %v is none of the alerts in its description", file, p.Title, th.Steps[i-1].Color, th.Steps[i].Color, *th.Steps[i].Value)
					}
				}
			}
		}
	}
	if coloured < 10 {
		t.Errorf("only %d thresholds", coloured)
	}
}

// matches tells whether one of the alerts fires beyond value, in its colour.
func matches(named []alert, before, after string, value float64) bool {
	return slices.ContainsFunc(named, func(a alert) bool {
		bad := "yellow"
		if a.severity == "critical" {
			bad = "red"
		}
		return after == bad && slices.Contains(a.above, value) || before == bad && slices.Contains(a.below, value)
	})
}

// TestSchema holds the dashboards against Grafana's own types, see preview/README.md.
func TestSchema(t *testing.T) {
	for _, file := range dashboards {
		validate(t, file, "Dashboard", withoutOthers(t, file))
		for _, p := range load(t, file).Panels {
			kind := strings.ToUpper(p.Type[:1]) + p.Type[1:]
			if p.Type == "row" {
				continue
			}
			validate(t, file+", "+p.Title, kind+"Options", p.Options)
			if custom := p.FieldConfig.Defaults.Custom; custom != nil {
				validate(t, file+", "+p.Title, kind+"FieldConfig", custom)
			}
		}
	}
}

// withoutOthers leaves out what Grafana writes and these types do not have: the text
// of a variable's query, and what the Prometheus data source adds to an annotation.
func withoutOthers(t *testing.T, file string) []byte {
	t.Helper()
	var d map[string]any
	if err := json.Unmarshal([]byte(read(t, file)), &d); err != nil {
		t.Fatal(err)
	}
	for part, fields := range map[string][]string{
		"templating":  {"definition"},
		"annotations": {"expr", "step", "tagKeys", "textFormat", "titleFormat", "useValueForTime"},
	} {
		for _, v := range d[part].(map[string]any)["list"].([]any) {
			for _, field := range fields {
				delete(v.(map[string]any), field)
			}
		}
	}
	b, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func validate(t *testing.T, what, definition string, instance []byte) {
	t.Helper()
	c := jsonschema.NewCompiler()
	s, err := c.Compile("schema/" + definition + ".json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(instance))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(v); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// TestMixin: jsonnet makes the dashboards and all alerts of it.
func TestMixin(t *testing.T) {
	out, err := exec.Command("go", "tool", "-modfile=../../internal/tools/go.mod", "jsonnet", "-e", `local m = import 'mixin.libsonnet'; {dashboards: m.grafanaDashboards, alerts: m.prometheusAlerts}`).Output()
	if err != nil {
		t.Fatalf("jsonnet: %v", err)
	}
	var made struct {
		Dashboards map[string]dashboard
		Alerts     struct {
			Groups []struct{ Rules []any }
		}
	}
	if err := json.Unmarshal(out, &made); err != nil {
		t.Fatal(err)
	}
	for _, file := range dashboards {
		if d := load(t, file); made.Dashboards[file].Title != d.Title {
			t.Errorf("%s: title %q, want %q", file, made.Dashboards[file].Title, d.Title)
		}
	}
	if want := strings.Count(read(t, "../prometheus/alerts.yml"), "- alert:"); len(made.Alerts.Groups) != 1 || len(made.Alerts.Groups[0].Rules) != want {
		t.Errorf("alerts: %d groups, want one with %d rules", len(made.Alerts.Groups), want)
	}
}

// TestProvisioning: the files say what the dashboards and Grafana expect.
func TestProvisioning(t *testing.T) {
	var sources struct {
		APIVersion  int `yaml:"apiVersion"`
		Datasources []struct {
			Name, UID, Type, Access, URL string
			IsDefault                    bool `yaml:"isDefault"`
			Editable                     bool
			JSONData                     map[string]string `yaml:"jsonData"`
		}
	}
	var providers struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Name, Folder, Type        string
			DisableDeletion, Editable bool
			Options                   struct{ Path string }
		}
	}
	for file, v := range map[string]any{"provisioning/datasources/blessd.yml": &sources, "provisioning/dashboards/blessd.yml": &providers} {
		if err := yaml.Unmarshal([]byte(read(t, file)), v); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	if sources.APIVersion != 1 || len(sources.Datasources) != 1 || sources.Datasources[0].Type != "prometheus" || sources.Datasources[0].UID != "prometheus" {
		t.Errorf("data sources: %+v", sources)
	}
	interval := "scrape_interval: " + sources.Datasources[0].JSONData["timeInterval"]
	if !strings.Contains(read(t, "../prometheus/prometheus.yml"), interval) {
		t.Errorf("prometheus.yml does not have %q", interval)
	}
	if providers.APIVersion != 1 || len(providers.Providers) != 1 || providers.Providers[0].Type != "file" || providers.Providers[0].Editable || providers.Providers[0].Options.Path == "" {
		t.Errorf("dashboards: %+v", providers)
	}
}
