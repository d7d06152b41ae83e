package deploy

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/blessd/blessd/internal/program"
)

// TestSystemdUnits lets systemd itself check the units.
func TestSystemdUnits(t *testing.T) {
	analyze := program.Need(t, "systemd-analyze", "systemd")
	dir := t.TempDir()
	var units []string
	for _, name := range []string{"blessd.service", "blessd.socket"} {
		unit := filepath.Join(dir, name)
		// The program must exist for that.
		program.Write(t, unit, strings.ReplaceAll(read(t, "systemd/"+name), "/usr/bin/blessd", program.Build(t)))
		units = append(units, unit)
	}
	cmd := exec.Command(analyze, append([]string{"verify", "--man=no"}, units...)...)
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+dir+":")
	out, err := cmd.CombinedOutput()
	// It says what is wrong with other units of the machine too.
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "blessd") {
			t.Errorf("%s", line)
		}
	}
	if err != nil {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

var exposure = regexp.MustCompile(`Overall exposure level for blessd.service: ([0-9.]+)`)

// TestSystemdSecurity holds the unit to what systemd thinks of it.
func TestSystemdSecurity(t *testing.T) {
	analyze := program.Need(t, "systemd-analyze", "systemd")
	out, err := exec.Command(analyze, "security", "--offline=yes", "--no-pager", "systemd/blessd.service").CombinedOutput()
	found := exposure.FindSubmatch(out)
	if err != nil || found == nil {
		t.Fatalf("systemd-analyze security: %v\n%s", err, out)
	}
	level, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("exposure level %.1f", level)
	if level > 1.5 {
		t.Errorf("the exposure level is %.1f, want 1.5 at most\n%s", level, out)
	}
}

// TestSystemCalls runs blessd from its start to its stop, and compares the system
// calls that it makes with those that the unit allows: systemd itself does not run
// here.
func TestSystemCalls(t *testing.T) {
	analyze := program.Need(t, "systemd-analyze", "systemd")
	strace := program.Need(t, "strace", "strace")
	unit := read(t, "systemd/blessd.service")
	allowed := map[string]bool{}
	for line := range strings.Lines(unit) {
		sets, ok := strings.CutPrefix(strings.TrimSpace(line), "SystemCallFilter=")
		if !ok {
			continue
		}
		sets, forbid := strings.CutPrefix(sets, "~")
		for set := range strings.FieldsSeq(sets) {
			for _, call := range systemCalls(t, analyze, set) {
				allowed[call] = !forbid
			}
		}
	}
	if !allowed["fsync"] || allowed["reboot"] {
		t.Fatalf("the filter is not read right: %v", allowed)
	}

	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	b := program.Start(t, nil, strace, "-f", "-qq", "-o", trace, "-e", "signal=none", program.Build(t), "serve",
		"--data-dir", filepath.Join(dir, "data"), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0")
	program.Wait(t, "blessd to be ready", func() bool { return strings.Contains(b.Output(), "blessd is ready") })
	if out, err := exec.Command(program.Build(t), "send", "--all", "--data-dir", filepath.Join(dir, "data")).CombinedOutput(); err != nil {
		t.Fatalf("send: %v\n%s", err, out)
	}
	if err := b.End(syscall.SIGTERM); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
	seen := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^[0-9]+ +([a-z0-9_]+)\(`).FindAllStringSubmatch(read(t, trace), -1) {
		seen[m[1]] = true
	}
	if !seen["fsync"] && !seen["fdatasync"] {
		t.Fatalf("nothing was synced: the trace is not read right: %v", seen)
	}
	for call := range seen {
		if !allowed[call] {
			t.Errorf("the unit forbids the system call %s", call)
		}
	}
}

// TestSocketActivation has systemd's own tool hold the socket under the name that
// the socket unit gives it.
func TestSocketActivation(t *testing.T) {
	activate := program.Need(t, "systemd-socket-activate", "systemd")
	name := regexp.MustCompile(`(?m)^FileDescriptorName=(.+)$`).FindStringSubmatch(read(t, "systemd/blessd.socket"))
	if name == nil {
		t.Fatal("the socket has no name")
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "blessd.yaml")
	program.Write(t, config, "endpoints: [{name: mailgun, provider: mailgun}]\n")
	address := freeAddress(t)
	p := program.Start(t, nil, activate, "--listen", address, "--fdname", name[1], program.Build(t), "serve",
		"-c", config, "--data-dir", filepath.Join(dir, "data"), "--admin-listen", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0")
	// The first connection starts blessd, and waits in the socket until it is there.
	program.Wait(t, "the socket", func() bool { return strings.Contains(p.Output(), "Listening on") })
	a, err := http.Get("http://" + address + "/hooks/mailgun")
	if err != nil {
		t.Fatalf("%v\n%s", err, p.Output())
	}
	a.Body.Close()
	if a.StatusCode != http.StatusOK {
		t.Errorf("the check of a URL is answered %d, want 200\n%s", a.StatusCode, p.Output())
	}
}

// systemCalls returns the calls of a set, with those of the sets in it.
func systemCalls(t *testing.T, analyze, set string) []string {
	t.Helper()
	out, err := exec.Command(analyze, "syscall-filter", "--no-pager", set).CombinedOutput()
	if err != nil {
		t.Fatalf("systemd-analyze syscall-filter %s: %v\n%s", set, err, out)
	}
	var calls []string
	for i, line := range slices.Collect(strings.Lines(string(out))) {
		switch line = strings.TrimSpace(line); {
		case i == 0 || line == "" || line[0] == '#':
		case line[0] == '@':
			calls = append(calls, systemCalls(t, analyze, line)...)
		default:
			calls = append(calls, line)
		}
	}
	return calls
}
