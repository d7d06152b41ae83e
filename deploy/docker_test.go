package deploy

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/blessd/blessd/internal/program"
)

// TestImage builds the image from nothing but blessd, and runs what it says: the
// daemon as a user without rights, and the health check.
func TestImage(t *testing.T) {
	buildah := program.Need(t, "buildah", "buildah")
	if os.Getuid() != 0 {
		t.Skip("SKIPPED: buildah without namespaces needs root")
	}
	dir := t.TempDir()
	tool := func(args ...string) *exec.Cmd {
		return exec.Command(buildah, append([]string{"--storage-driver", "vfs", "--root", filepath.Join(dir, "storage"), "--runroot", filepath.Join(dir, "run")}, args...)...)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := tool(args...).CombinedOutput()
		if err != nil {
			t.Fatalf("buildah %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return strings.TrimSpace(string(out))
	}
	// What .dockerignore lets through.
	sources := filepath.Join(dir, "sources")
	if err := os.MkdirAll(filepath.Join(sources, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, cmd := range [][]string{
		{"cp", program.Build(t), filepath.Join(sources, "bin", "blessd")},
		{"cp", "-r", "--parents", "docker/state", sources},
		{"mkdir", filepath.Join(sources, "deploy")},
		{"mv", filepath.Join(sources, "docker"), filepath.Join(sources, "deploy", "docker")},
	} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(cmd, " "), err, out)
		}
	}
	run("bud", "--isolation", "chroot", "--format", "docker", "--build-arg", "BASE=scratch", "-t", "blessd", "-f", "docker/Dockerfile", sources)
	container := run("from", "blessd")
	t.Cleanup(func() { run("rm", container) })
	for what, want := range map[string]string{
		"{{.Docker.Config.User}}":                   "65532:65532",
		"{{.Docker.Config.Entrypoint}}":             "[/usr/bin/blessd]",
		"{{.Docker.Config.Cmd}}":                    "[serve]",
		"{{index .Docker.Config.Healthcheck.Test}}": "[CMD /usr/bin/blessd health --live]",
	} {
		if got := run("inspect", "--type", "container", "--format", what, container); got != want {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}

	// The user of the image, on a free port of the loopback interface: the network
	// is this machine's.
	inside := func(args ...string) []string {
		return append([]string{
			"run", "--isolation", "chroot", "--env", "BLESSD_LISTEN=127.0.0.1:0", "--env", "BLESSD_ADMIN_LISTEN=127.0.0.1:0",
			"--env", "BLESSD_NATS_LISTEN=127.0.0.1:0", container, "--", "/usr/bin/blessd",
		}, args...)
	}
	if out, err := tool(inside("health", "--live")...).CombinedOutput(); err == nil {
		t.Errorf("the health check of a container where nothing runs succeeds: %s", out)
	}
	serve := tool(inside("serve")...)
	p := program.Start(t, nil, serve.Path, serve.Args[1:]...)
	program.Wait(t, "blessd in the container to be healthy", func() bool {
		out, err := tool(inside("health")...).CombinedOutput()
		return err == nil && strings.HasSuffix(strings.TrimSpace(string(out)), "ready")
	})
	if out := run(inside("health", "--live")...); !strings.Contains(out, "healthy") {
		t.Errorf("the health check says %q", out)
	}
	if out := run(inside("send", "--all")...); strings.Contains(out, "refused") {
		t.Errorf("the samples were not blessed: %s", out)
	}
	// Where buildah keeps a volume is its own affair.
	found := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "addresses.json" {
			return nil // what goes away meanwhile
		}
		found++
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 65532 {
			t.Errorf("%s is user %d's, want 65532", path, uid)
		}
		return nil
	})
	if err != nil || found != 1 {
		t.Errorf("%d data directories, want one: %v", found, err)
	}
	_ = p.End(syscall.SIGKILL) // buildah hands on no other signal
}
