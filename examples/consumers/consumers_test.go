// Package consumers holds examples of programs that read blessd's events. Its
// tests run each against the built blessd.
package consumers

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/blessd/blessd/internal/program"
)

func TestMain(m *testing.M) { program.Main(m) }

// example returns the program, with the arguments that every run of it has.
func example(t *testing.T, language string) []string {
	t.Helper()
	switch language {
	case "go":
		binary := filepath.Join(t.TempDir(), "suppressions")
		if out, err := exec.Command("go", "build", "-o", binary, "./go").CombinedOutput(); err != nil {
			t.Fatalf("build: %v\n%s", err, out)
		}
		return []string{binary, "-tests"}
	case "node":
		node := program.Need(t, "node", "nodejs")
		if _, err := os.Stat("node/node_modules"); err != nil {
			t.Skip("SKIPPED: run npm ci in examples/consumers/node (.ci/run does)")
		}
		return []string{node, "node/suppressions.js", "--tests"}
	default:
		program.Need(t, "jq", "jq")
		return []string{"shell/suppressions.sh", "--last", "100000"}
	}
}

var suppression = regexp.MustCompile(`(?m)^suppress (address|contact|recipient) .*: (hard bounce ".*"|complaint|unsubscribed) \([a-z0-9]+ at \S+, event [0-9a-f]{32}\)$`)

// TestConsumers sends every sample of every provider, and some of them twice. Each
// of the examples says the same, and says it once.
func TestConsumers(t *testing.T) {
	config, files := program.AllProviders("https://hooks.example.com")
	b := program.Serve(t, config, files)
	b.Run(t, "send", "--all", "--yes")
	b.Run(t, "send", "sendclean", "spam", "--yes", "--count", "3")

	var want []string
	for _, language := range []string{"go", "node", "shell"} {
		t.Run(language, func(t *testing.T) {
			words := example(t, language)
			env := []string{"NATS_URL=" + b.NATS, "TESTS=1", "PATH=" + filepath.Dir(program.Build(t)) + ":" + os.Getenv("PATH")}
			switch language {
			case "shell":
				words = append(words, "-c", b.Config, "--data-dir", filepath.Join(filepath.Dir(b.Config), "data"))
			case "go":
				words = append(words, "-durable", "of-go")
			default:
				words = append(words, "--durable", "of-"+language)
			}
			p := program.Start(t, env, words[0], words[1:]...)
			lines := func() []string { return suppression.FindAllString(p.Output(), -1) }
			if want == nil {
				// The first says how many there are: as many as the stream has.
				count := strings.Count(b.Run(t, "tail", "-o", "json", "--no-follow", "--type", "complained", "--type", "unsubscribed"), "\n")
				hard := regexp.MustCompile(`"bounce":\{"class":"hard"`).FindAllString(b.Run(t, "tail", "-o", "json", "--no-follow", "--type", "bounced"), -1)
				program.Wait(t, "all suppressions", func() bool { return len(lines()) == count+len(hard) })
				want = lines()
				slices.Sort(want)
			}
			program.Wait(t, "as many lines as from Go", func() bool { return len(lines()) >= len(want) })

			// It goes on, and ends when it is told to.
			b.Run(t, "send", "mailgun", "complained", "--yes")
			program.Wait(t, "the line of what came later", func() bool { return len(lines()) >= len(want)+1 })
			got := lines()
			slices.Sort(got)
			for _, line := range want {
				if !slices.Contains(got, line) {
					t.Errorf("%s does not say: %s", language, line)
				}
			}
			if len(got) != len(want)+1 || len(slices.Compact(slices.Clone(got))) != len(got) {
				t.Errorf("%s says %d lines, want %d, each once:\n%s", language, len(got), len(want)+1, p.Output())
			}
			want = got
			if language != "shell" { // a pipe, which ends with its last part
				if err := p.End(syscall.SIGTERM); err != nil {
					t.Errorf("after SIGTERM: %v\n%s", err, p.Output())
				}
			}
		})
	}
}

// TestDurable ends each durable example and starts it again: it goes on where it
// was, and says nothing twice.
func TestDurable(t *testing.T) {
	config, files := program.AllProviders("https://hooks.example.com")
	b := program.Serve(t, config, files)
	for language, flag := range map[string]string{"go": "-max", "node": "--max"} {
		t.Run(language, func(t *testing.T) {
			words := append(example(t, language), strings.Repeat("-", len(flag)-len("max"))+"durable", "durable-"+language, flag, "1")
			env := []string{"NATS_URL=" + b.NATS}
			said := map[string]bool{}
			for _, kind := range []string{"complained", "unsubscribed"} {
				// What it has fetched and not handled comes again, but later.
				b.Run(t, "send", "mailgun", kind, "--yes")
				p := program.Start(t, env, words[0], words[1:]...)
				if err := p.Wait(); err != nil {
					t.Fatalf("%v\n%s", err, p.Output())
				}
				for _, line := range suppression.FindAllString(p.Output(), -1) {
					if said[line] {
						t.Errorf("said twice: %s", line)
					}
					said[line] = true
				}
			}
			if len(said) != 2 {
				t.Errorf("said %d lines, want 2: %v", len(said), said)
			}
		})
	}
}
