package docs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// sandboxDir makes this test binary the first process of a sandbox: it runs the
// script in that directory.
const sandboxDir = "BLESSD_DOCS_SANDBOX"

func TestMain(m *testing.M) {
	if dir := os.Getenv(sandboxDir); dir != "" {
		fmt.Fprintln(os.Stderr, sandbox(dir))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// notRun are the commands that this test leaves out, by how they begin, and why.
var notRun = []struct{ prefix, why string }{
	{"make test", "it is what runs this test"},
	{"make fuzz", "it takes minutes; .ci/run has what it needs"},
	{"make demo", ".ci/run runs it"},
	{"go test ./normalize -update", "it rewrites the golden files"},
	{"blessd webhooks plan", "it calls a provider; the scripts in e2e/testdata/webhooks do the same with one that is played"},
	{"blessd webhooks apply", "the same"},
	{"blessd webhooks rotate-key", "the same"},
	{"make image", "TestImage in deploy builds it"},
	{"make deb", "make check-deploy does"},
	{"apt install ./bin", "make check-deploy installs the package"},
	{"kubectl ", "there is no cluster; deploy/check reads the manifests"},
	{"docker ", "there is no docker; TestImage in deploy runs the image"},
	{"nats ", "there is no nats command on the module proxy; TestMoving and the tests of sink and of deploy do the same with its library"},
}

// command is one command of a page, with what continues it.
type command struct {
	page, text string
}

// commands returns what the sh blocks of a page hold, in order.
func commands(page, text string) []command {
	var all []command
	for _, block := range fences(strings.ReplaceAll(text, "\n   ", "\n"), "sh") {
		block = strings.ReplaceAll(block, "\\\n", " ")
		for line := range strings.Lines(block) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				all = append(all, command{page, line})
			}
		}
	}
	return all
}

var comment = regexp.MustCompile(`\s+# .*$`)

// TestCommands runs the commands of the README and of every page as they stand
// there: in a network and over a copy of the file system of their own, with the
// ports and the paths that they name. Only systemctl and vi are played, by
// testdata/sandbox.sh, which also sets the scene.
func TestCommands(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs blessd; skipped with -short")
	}
	dir := t.TempDir()
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "blessd"), "./cmd/blessd")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	prelude, err := os.ReadFile(filepath.Join("testdata", "sandbox.sh"))
	if err != nil {
		t.Fatal(err)
	}
	all := pages(t)
	for _, page := range slices.Sorted(func(yield func(string) bool) {
		for page := range all {
			if !yield(page) {
				return
			}
		}
	}) {
		script := bytes.NewBuffer(slices.Clone(prelude))
		n := 0
		for _, c := range commands(page, all[page]) {
			text := comment.ReplaceAllString(c.text, "")
			if i := slices.IndexFunc(notRun, func(x struct{ prefix, why string }) bool { return strings.HasPrefix(text, x.prefix) }); i >= 0 {
				t.Logf("not run: %s: %s (%s)", page, text, notRun[i].why)
				continue
			}
			text = strings.ReplaceAll(text, "-c FILE", "-c /etc/blessd/blessd.yaml")
			fmt.Fprintf(script, "step %s\n%s\n", quoted(page+": "+text), step(text))
			n++
		}
		if n == 0 {
			continue
		}
		script.WriteString("finish\n")
		t.Run(page, func(t *testing.T) {
			out, err := runSandboxed(t, dir, script.Bytes())
			t.Logf("%d commands\n%s", n, out)
			if err != nil {
				t.Errorf("%v: the last command above failed", err)
			}
		})
	}
}

// endless are the commands that run until they are interrupted.
var endless = regexp.MustCompile(`^(make run|(bin/)?blessd tail|blessd serve|go run )`)

// step returns what runs a command in the sandbox.
func step(text string) string {
	if endless.MatchString(text) {
		return "beside " + quoted(text)
	}
	return text
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// runSandboxed runs a script in a sandbox of its own. It skips the test where the
// system does not let it make one.
func runSandboxed(t *testing.T, dir string, script []byte) (out []byte, err error) {
	t.Helper()
	scratch, err := os.MkdirTemp(dir, "sandbox-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(scratch, "script"), script, 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	repository, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Dir = repository
	cmd.Env = append(os.Environ(), "PWD="+repository, sandboxDir+"="+scratch, "BLESSD="+filepath.Join(dir, "blessd"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err = cmd.CombinedOutput()
	if denied := cmd.Process == nil; denied {
		t.Skipf("SKIPPED: no sandbox can be made here: %v", err)
	}
	if bytes.HasPrefix(out, []byte(noSandbox)) {
		t.Skipf("SKIPPED: %s", out)
	}
	return out, err
}

// noSandbox begins what a sandbox says that could not be made.
const noSandbox = "no sandbox can be made here: "

// sandbox makes the file system and the network of the sandbox, and becomes the
// script. It returns only an error.
func sandbox(dir string) error {
	if err := isolate(dir); err != nil {
		return fmt.Errorf("%s%w", noSandbox, err)
	}
	// The repository is now another one under the same name.
	if err := os.Chdir(os.Getenv("PWD")); err != nil {
		return fmt.Errorf("%s%w", noSandbox, err)
	}
	return syscall.Exec("/bin/sh", []string{"sh", "-eu", filepath.Join(dir, "script")}, os.Environ())
}

func isolate(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// What is written there goes to memory, and nowhere when the sandbox ends.
	memory := filepath.Join(dir, "memory")
	if err := os.Mkdir(memory, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", memory, "tmpfs", 0, "size=2g"); err != nil {
		return fmt.Errorf("mount memory: %w", err)
	}
	repository, err := os.Getwd()
	if err != nil {
		return err
	}
	for i, name := range []string{"/etc", "/usr", "/var", "/mnt", repository} {
		upper, work := filepath.Join(memory, fmt.Sprint(i)), filepath.Join(memory, fmt.Sprint(i, "-work"))
		for _, d := range []string{upper, work} {
			if err := os.Mkdir(d, 0o755); err != nil {
				return err
			}
		}
		if err := unix.Mount("overlay", name, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", name, upper, work)); err != nil {
			return fmt.Errorf("mount over %s: %w", name, err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring up loopback: %w", err)
	}
	return nil
}
