package grafana

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// patience bounds the waits. It is reached on failure only.
const patience = 3 * time.Minute

// TestExpressions runs every expression of the dashboards, and every rule, in a real
// Prometheus that scrapes a real blessd with traffic of all kinds. An expression
// without an answer is a panel that stays empty. It does so twice: with classic
// histograms, and with native ones alone.
func TestExpressions(t *testing.T) {
	if testing.Short() {
		t.Skip("runs Prometheus for some seconds; skipped with -short")
	}
	prometheus, err := exec.LookPath("prometheus")
	if err != nil {
		t.Skip("prometheus is not installed (Debian: apt-get install prometheus)")
	}
	b := startBlessd(t)
	servers := map[string]string{
		"classic": startPrometheus(t, prometheus, b.admin),
		"native":  startPrometheus(t, prometheus, b.admin, "--enable-feature=native-histograms"),
	}
	stop := b.traffic(t)
	defer stop()
	for name, server := range servers {
		t.Run(name, func(t *testing.T) {
			deadline := time.Now().Add(patience) // for all: what is there later is no news
			for _, file := range dashboards {
				d := load(t, file)
				for _, v := range d.Templating.List {
					if v.Type == "query" {
						waitFor(t, deadline, file+", variable "+v.Name, func() string { return answersLabels(t, server, v.Definition) })
					}
				}
				for _, e := range d.expressions() {
					waitFor(t, deadline, fmt.Sprintf("%s, %s:\n%s", file, e.where, e.expr), func() string { return answers(t, server, e.expr) })
				}
			}
			waitFor(t, deadline, "rules", func() string { return rulesHealth(t, server) })
		})
	}
	// That both were tested, and not the same twice.
	bucket := `blessd_webhook_request_duration_seconds_bucket`
	if why := answers(t, servers["classic"], bucket); why != "" {
		t.Errorf("without the feature there are no classic buckets: %s", why)
	}
	if why := answers(t, servers["native"], bucket); why == "" {
		t.Error("with the feature there are classic buckets all the same")
	}
}

// waitFor repeats try until it returns "", and fails with what it said last.
func waitFor(t *testing.T, deadline time.Time, what string, try func() string) {
	t.Helper()
	for ; ; time.Sleep(200 * time.Millisecond) {
		why := try()
		if why == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s\n%s", what, why)
			return
		}
	}
}

// inGrafana is what Grafana would put in place of the variables. Most take
// everything; times are short, so that nothing has to run for a week.
var inGrafana = strings.NewReplacer(
	"$__rate_interval", "10s", "$__range", "1m", "$window", "1m", "$before", "3s",
	"$job", ".+", "$instance", ".+", "$provider", ".+", "$endpoint", ".+",
)

// ask runs one query of Prometheus' API into v.
func ask(t *testing.T, server, path string, q url.Values, v any) (problem string) {
	t.Helper()
	a, err := http.Get("http://" + server + "/api/v1/" + path + "?" + q.Encode())
	if err != nil {
		return err.Error()
	}
	defer a.Body.Close()
	var answer struct {
		Status, Error string
		Data          json.RawMessage
	}
	if err := json.NewDecoder(a.Body).Decode(&answer); err != nil {
		return err.Error()
	}
	if answer.Status != "success" {
		return answer.Error
	}
	if err := json.Unmarshal(answer.Data, v); err != nil {
		return err.Error()
	}
	return ""
}

// answers says why expr has no answer, or "". No number is no answer either.
func answers(t *testing.T, server, expr string) string {
	t.Helper()
	var data struct {
		Result []struct{ Value [2]any }
	}
	if problem := ask(t, server, "query", url.Values{"query": {inGrafana.Replace(expr)}}, &data); problem != "" {
		return problem
	}
	for _, r := range data.Result {
		if text, ok := r.Value[1].(string); ok {
			if f, err := strconv.ParseFloat(text, 64); err == nil && !math.IsNaN(f) {
				return ""
			}
		} else { // a native histogram
			return ""
		}
	}
	return fmt.Sprintf("empty: %d series, none with a number", len(data.Result))
}

// answersLabels does the same for a variable's label_values(selector, label).
func answersLabels(t *testing.T, server, definition string) string {
	t.Helper()
	inner, found := strings.CutPrefix(definition, "label_values(")
	i := strings.LastIndex(inner, ", ")
	if !found || i < 0 {
		return definition + " is not label_values(selector, label)"
	}
	selector, label := inGrafana.Replace(inner[:i]), strings.TrimSuffix(inner[i+2:], ")")
	var values []string
	if problem := ask(t, server, "label/"+label+"/values", url.Values{"match[]": {selector}}, &values); problem != "" {
		return problem
	}
	if len(values) == 0 {
		return definition + ": empty"
	}
	return ""
}

// rulesHealth says which rule cannot be evaluated, or "" when all were.
func rulesHealth(t *testing.T, server string) string {
	t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	if problem := ask(t, server, "rules", nil, &data); problem != "" {
		return problem
	}
	n := 0
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			n++
			if r.Health != "ok" {
				return fmt.Sprintf("%s: %s %s", r.Name, r.Health, r.LastError)
			}
		}
	}
	if n == 0 {
		return "no rules are loaded"
	}
	return ""
}

func write(t *testing.T, file, text string) string {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// start runs a program until the test ends.
func start(t *testing.T, name string, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // gone already is as good
		_ = cmd.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s:\n%s", filepath.Base(name), text[max(0, len(text)-4000):])
		}
		log.Close()
	})
}

// blessd is the program under sample traffic.
type blessd struct {
	binary, config     string
	hooks, admin, nats string
}

func startBlessd(t *testing.T) *blessd {
	t.Helper()
	dir := t.TempDir()
	b := &blessd{binary: filepath.Join(dir, "blessd")}
	if out, err := exec.Command("go", "build", "-o", b.binary, "../../cmd/blessd").CombinedOutput(); err != nil {
		t.Fatalf("build blessd: %v\n%s", err, out)
	}
	key := write(t, filepath.Join(dir, "key"), "EXAMPLEKEY0123456789ab\n")
	b.config = write(t, filepath.Join(dir, "blessd.yaml"), fmt.Sprintf(`listen: 127.0.0.1:0
public_url: https://hooks.example.com
admin: {listen: "127.0.0.1:0"}
data_dir: %[1]s/data
endpoints:
  - {name: shop, provider: sendclean, key_files: [%[2]s], signature: enforce}
  - {name: news, provider: sarv, key_files: [%[2]s], signature: enforce}
  - {name: eu, provider: mailgun, key_files: [%[2]s]}
  - {name: ru, provider: enkod, token_files: [%[2]s]}
  - {name: members, provider: vision6, token_files: [%[2]s]}
nats: {embedded: {listen: "127.0.0.1:0"}}
`, dir, key))
	start(t, b.binary, "serve", "-c", b.config)
	waitFor(t, time.Now().Add(patience), "blessd to listen", func() string {
		text, err := os.ReadFile(filepath.Join(dir, "data", "addresses.json"))
		if err != nil {
			return err.Error()
		}
		var a struct{ Hooks, Admin, NATS string }
		if err := json.Unmarshal(text, &a); err != nil {
			return err.Error()
		}
		b.hooks, b.admin, b.nats = a.Hooks, a.Admin, a.NATS
		return ""
	})
	if b.admin == "" {
		t.FailNow()
	}
	nc, err := nats.Connect(b.nats)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateConsumer(t.Context(), "MAIL_EVENTS", jetstream.ConsumerConfig{Durable: "suppressions"}); err != nil {
		t.Fatal(err)
	}
	return b
}

// traffic sends everything that the dashboards show, again and again until stop is
// called: every sample, forgeries, strangers' requests, and what nobody understands.
func (b *blessd) traffic(t *testing.T) (stop func()) {
	t.Helper()
	end, done := make(chan struct{}), make(chan struct{})
	post := func(path, body string) {
		a, err := http.Post("http://"+b.hooks+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.Copy(io.Discard, a.Body)
		a.Body.Close()
	}
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			for _, args := range [][]string{{"--all"}, {"sendclean", "open", "--bad-signature"}, {"mailgun", "--bad-signature"}} {
				args = slices.Concat([]string{"send", "-c", b.config}, args)
				if out, err := exec.Command(b.binary, args...).CombinedOutput(); err != nil {
					t.Errorf("blessd %s: %v\n%s", strings.Join(args, " "), err, out)
				}
			}
			post("/hooks/nobody", "{}")
			post("/hooks/ru/EXAMPLEKEY0123456789ab", fmt.Sprintf(`{"event":%d`, n)) // cut short: quarantine
			select {
			case <-end:
				return
			case <-time.After(time.Second):
			}
		}
	}()
	return func() {
		close(end)
		<-done
	}
}

// startPrometheus scrapes blessd every second, with the rules that it is shipped
// with, and returns the server's address.
func startPrometheus(t *testing.T, binary, target string, flags ...string) string {
	t.Helper()
	dir := t.TempDir()
	rules, err := filepath.Abs("../prometheus")
	if err != nil {
		t.Fatal(err)
	}
	config := write(t, filepath.Join(dir, "prometheus.yml"), fmt.Sprintf(`global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%[1]s/alerts.yml, %[1]s/deliverability.yml]
scrape_configs:
  - job_name: blessd
    static_configs: [{targets: ['%[2]s']}]
`, rules, target))
	for range 10 { // the port may be taken between the two
		address := freeAddress(t)
		start(t, binary, append(flags, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+address)...)
		deadline := time.Now().Add(patience / 5)
		for time.Now().Before(deadline) {
			if a, err := http.Get("http://" + address + "/-/ready"); err == nil {
				a.Body.Close()
				if a.StatusCode == http.StatusOK {
					return address
				}
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	t.Fatal("prometheus does not get ready")
	return ""
}
