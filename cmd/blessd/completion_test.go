package main

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Every command says what it is for, with an example that it would take, and what its
// exit status means is found by everybody.
func TestHelp(t *testing.T) {
	seen := 0
	everyCommand(newRootCommand(), func(c *cobra.Command) {
		if c.Name() == "help" || c.Hidden {
			return
		}
		seen++
		path := c.CommandPath()
		if c.Short == "" || c.Short[0] < 'A' || c.Short[0] > 'Z' || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: the short help %q is no title", path, c.Short)
		}
		if c.Runnable() && c.Args == nil && !strings.Contains(c.Use, "...") {
			t.Errorf("%s: it does not say which arguments it takes", path)
		}
		examples := 0
		for line := range strings.Lines(c.Example) {
			if strings.TrimSpace(line) == "" {
				continue
			}
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: the example %q is not indented by two blanks, as cobra shows it", path, line)
			}
			if at := strings.Index(line, "blessd"); at >= 0 && (isTopic(c) || strings.Contains(line, path) || c.HasSubCommands()) {
				examples++
				checkExample(t, path, line[at:])
			}
		}
		if examples == 0 {
			t.Errorf("%s: its help has no example of it: %q", path, c.Example)
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s: --%s has no help", path, f.Name)
			}
		})
	})
	if seen < 12 {
		t.Errorf("%d commands found: the walk is wrong", seen)
	}
	var out bytes.Buffer
	if status, talk := blessd(t.Context(), &out, "help", "exit-status"); status != 0 || !strings.Contains(out.String(), "  2  the command line is wrong") {
		t.Errorf("help exit-status: %d %s%s", status, out.String(), talk)
	}
}

// checkExample finds the command of an example and parses its flags.
func checkExample(t *testing.T, path, line string) {
	t.Helper()
	line, _, _ = strings.Cut(line, " #")
	words := regexp.MustCompile(`"[^"]*"|'[^']*'|[^\s|<>&;()]+|[|<>&;()].*`).FindAllString(line, -1)
	if i := slices.IndexFunc(words, func(w string) bool { return strings.ContainsAny(w[:1], "|<>&;()") }); i >= 0 {
		words = words[:i] // what the shell does with it
	}
	if len(words) == 0 || words[0] != "blessd" {
		return
	}
	c, args, err := newRootCommand().Find(words[1:])
	if err != nil {
		t.Errorf("%s: the example %q is of no command: %v", path, line, err)
		return
	}
	for i, w := range args { // a shell would have taken quotes away
		args[i] = strings.Trim(w, `'"`)
	}
	if err := c.ParseFlags(args); err != nil {
		t.Errorf("%s: the example %q has wrong flags: %v", path, line, err)
	} else if err := c.ValidateArgs(c.Flags().Args()); err != nil {
		t.Errorf("%s: the example %q has wrong arguments: %v", path, line, err)
	}
}

func TestExitStatus(t *testing.T) {
	for _, c := range []struct {
		args string
		want int
	}{
		{"version", 0},
		{"help exit-status", 0},
		{"help environment", 0},
		{"completion bash", 0},
		{"", 0},
		{"status --data-dir /nonexistent/blessd", 1},
		{"check -c /nonexistent/blessd.yaml", 1},
		{"nonsense", 2},
		{"status --nonsense", 2},
		{"status extra", 2},
		{"status -o yaml", 2},
		{"status --admin-url ftp://x", 2},
		{"completion tcsh", 2},
		{"completion bash extra", 2},
		{"tail --last x", 2},
	} {
		if status, talk := blessd(t.Context(), io.Discard, strings.Fields(c.args)...); status != c.want || (status == 0) != (talk == "") {
			t.Errorf("blessd %s ends with %d, want %d: %s", c.args, status, c.want, talk)
		}
	}
}

func TestCompletion(t *testing.T) {
	file := write(t, t.TempDir(), "blessd.yaml", "data_dir: /x\nendpoints: [{name: acme, provider: enkod, auth: none}, {name: eu, provider: mailgun}]\n")
	for _, c := range []struct {
		line string
		want []string
		not  string
	}{
		{"sta", []string{"status"}, "serve"},
		{"send ", []string{"sendclean", "mailgun"}, "hard_bounce"},
		{"send sendclean ", []string{"hard_bounce"}, "mailgun"},
		{"tail -o ", []string{"json", "text"}, "yaml"},
		{"tail --type ", []string{"bounced", "email", "email.bounced"}, "enkod"},
		{"tail --provider ", []string{"enkod"}, "email"},
		{"replay --reason ", []string{"unreadable_body", "bad_signature"}, "enkod"},
		{"replay -c " + file + " --endpoint ", []string{"acme", "eu"}, "mailgun\n"},
		{"status -", []string{"--admin-url", "--config", "--output"}, "--type"},
	} {
		args := append([]string{"__complete"}, strings.Split(c.line, " ")...)
		var out bytes.Buffer
		if status, talk := blessd(t.Context(), &out, args...); status != 0 {
			t.Errorf("%q: %s", c.line, talk)
		}
		var words []string
		for line := range strings.Lines(out.String()) {
			word, _, _ := strings.Cut(strings.TrimSpace(line), "\t")
			words = append(words, word)
		}
		for _, want := range c.want {
			if !slices.Contains(words, want) {
				t.Errorf("after %q there is no %q: %q", c.line, want, words)
			}
		}
		if slices.Contains(words, c.not) {
			t.Errorf("after %q there is %q", c.line, c.not)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if got := strings.Join(mustRun(t, "completion", shell), ""); !strings.Contains(got, "blessd") || len(got) < 1000 {
			t.Errorf("the script for %s is %.100s", shell, got)
		}
	}
}

// Colours are for terminals, and for those who do not forbid them.
func TestColours(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("SKIPPED: there are no terminals here: ", err)
	}
	defer terminal.Close()
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, c := range []struct {
		name, noColor, term string
		out                 io.Writer
		want                bool
	}{
		{"terminal", "", "xterm", terminal, true},
		{"NO_COLOR", "1", "xterm", terminal, false},
		{"NO_COLOR of any value", "false", "xterm", terminal, false},
		{"dumb terminal", "", "dumb", terminal, false},
		{"file", "", "xterm", file, false},
		{"pipe", "", "xterm", &bytes.Buffer{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("NO_COLOR", c.noColor)
			t.Setenv("TERM", c.term)
			if got := colours(c.out); got != c.want {
				t.Errorf("colours: %t, want %t", got, c.want)
			}
		})
	}
}
