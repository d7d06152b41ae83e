package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// metricLabels are all labels that a series of blessd may have: each takes its
// values from a closed list, from the configuration, or from blessd's version.
var metricLabels = []string{
	"class", "code", "consumer", "endpoint", "kind", "mode", "outcome", "provider", "reason", "result", "server_version", "stream", "type", "variant",
}

// series returns what the daemon exports of its own, as name{label="value",…}.
func series(t *testing.T, d *daemon) []string {
	t.Helper()
	families, err := d.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "blessd_") || f.GetName() == "blessd_build_info" {
			continue
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, pair := range m.GetLabel() {
				if !slices.Contains(metricLabels, pair.GetName()) {
					t.Errorf("%s has the label %s, which is not in the list", f.GetName(), pair.GetName())
				}
				labels = append(labels, fmt.Sprintf("%s=%q", pair.GetName(), pair.GetValue()))
			}
			all = append(all, f.GetName()+"{"+strings.Join(labels, ",")+"}")
		}
	}
	return all
}

// documented is a metric with its labels in docs/operating.md.
var documented = regexp.MustCompile("\\| `(blessd_[a-z0-9_]+)(?:\\{([a-z_,]*)\\})?`")

// compareLabels holds the labels of every metric against the docs.
func compareLabels(t *testing.T, d *daemon) {
	t.Helper()
	page, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	described := map[string][]string{}
	for _, m := range documented.FindAllStringSubmatch(string(page), -1) {
		described[m[1]] = slices.Sorted(strings.SplitSeq(m[2], ","))
	}
	families, err := d.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		labels, is := described[f.GetName()]
		if !is {
			continue // Go's own, or the documentation's test complains
		}
		got := []string{}
		for _, pair := range f.GetMetric()[0].GetLabel() {
			got = append(got, pair.GetName())
		}
		if want := strings.Join(labels, ","); strings.Join(got, ",") != want {
			t.Errorf("%s has the labels %v, docs/operating.md says %s", f.GetName(), got, want)
		}
	}
}

// TestMetrics: the whole program's metrics have good names, and whatever comes
// makes no series that was not there from the start.
func TestMetrics(t *testing.T) {
	d, dir := startClientTest(t)
	if err := d.sink.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := series(t, d)
	mustRun(t, "send", "--all", "--data-dir", dir)
	for _, wrong := range [][]string{{"send", "sendclean", "open"}, {"send", "enkod"}, {"send", "mailgun", "opened"}} {
		if status, talk := blessd(t.Context(), io.Discard, append(wrong, "--bad-signature", "--data-dir", dir)...); status != 0 {
			t.Errorf("%v --bad-signature: status %d\n%s", wrong, status, talk)
		}
	}
	for _, path := range []string{"/", "/hooks/nobody", "/hooks/mailgun/x"} {
		a, err := http.Post("http://"+d.Addresses().Hooks+path, "application/x-www-form-urlencoded", strings.NewReader("x=%zz"))
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		_, next := d.journal.Bounds()
		if d.relay.Status().Settled+1 == next {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("not published in a minute: %+v", d.relay.Status())
		}
	}
	if err := d.sink.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, s := range series(t, d) {
		if !slices.Contains(before, s) {
			t.Errorf("%s was not there at the start", s)
		}
	}
	compareLabels(t, d)
	if len(before) < 400 {
		t.Errorf("%d series, want those of five endpoints", len(before))
	}
	problems, err := testutil.GatherAndLint(d.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	t.Run("promtool", func(t *testing.T) { promtoolCheck(t, "http://"+d.Addresses().Admin+"/metrics") })
}

// promtoolCheck has Prometheus' own tool read what Prometheus would.
func promtoolCheck(t *testing.T, url string) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed (Debian: apt-get install prometheus)")
	}
	a, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	check := exec.CommandContext(ctx, promtool, "check", "metrics")
	check.Stdin = a.Body
	if out, err := check.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("promtool check metrics: %v\n%s", err, out)
	}
}
