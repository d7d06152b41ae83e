package sink_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/blessd/blessd/sink"
)

// powerCutDir tells the test binary to be the child of TestPowerCut.
const powerCutDir = "BLESSD_TEST_POWER_CUT_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(powerCutDir); dir != "" {
		if err := publishAndSync(dir); err != nil {
			fmt.Println("error", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// publishAndSync publishes for ever and says after each Sync how many events it
// made safe.
func publishAndSync(dir string) error {
	e, err := sink.StartEmbedded(sink.EmbeddedOptions{StoreDir: dir, Listen: "127.0.0.1:0", Prefix: "mail", MaxStore: 4 << 30, Log: zap.NewNop()})
	if err != nil {
		return err
	}
	nc, err := e.Connect()
	if err != nil {
		return err
	}
	o := defaults()
	o.Log, o.Registerer, o.PublishTimeout = zap.NewNop(), prometheus.NewRegistry(), 20*time.Second
	s, err := sink.New(nc, o)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if err := s.Ensure(ctx); err != nil {
		return err
	}
	pad := `{"pad":"` + strings.Repeat("x", 3000) + `"}` // some block files get full
	for n := 0; ; {
		var fs []jetstream.PubAckFuture
		for range 500 {
			ev := someEvent(n)
			ev.SetRaw([]byte(pad))
			m, err := s.EventMessage(ev, "")
			if err != nil {
				return err
			}
			f, err := s.Publish(m)
			if err != nil {
				return err
			}
			fs = append(fs, f)
			n++
		}
		for _, f := range fs {
			select {
			case <-f.Ok():
			case err := <-f.Err():
				return err
			}
		}
		if err := e.Sync(ctx); err != nil {
			return err
		}
		if _, err := fmt.Println("synced", n); err != nil {
			return err
		}
	}
}

// TestPowerCut stops a publishing process, copies the image of its disk without
// flushing anything, and looks in the copy for all that Sync had made safe.
func TestPowerCut(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	if os.Getuid() != 0 {
		t.Skip("SKIPPED, NOT TESTED: a power cut needs root for loop mounts")
	}
	dir := t.TempDir()
	image, mnt := filepath.Join(dir, "disk.img"), filepath.Join(dir, "mnt")
	run := func(name string, args ...string) error {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s %q: %w: %s", name, args, err, out)
		}
		return nil
	}
	mount := func(image, at string) error {
		if err := os.MkdirAll(at, 0o700); err != nil {
			return err
		}
		if err := run("mount", "-o", "loop", image, at); err != nil {
			return err
		}
		t.Cleanup(func() {
			// Not mounted any more is what it should be by then.
			if err := syscall.Unmount(at, 0); err != nil && err != syscall.EINVAL {
				t.Errorf("unmount %s: %v", at, err)
			}
		})
		return nil
	}
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(512 << 20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := run("mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", image); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: %v", err)
	}
	if err := mount(image, mnt); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: loop mounts do not work here: %v", err)
	}

	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), powerCutDir+"="+filepath.Join(mnt, "nats"))
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = child.Process.Kill() // it may have ended by itself, which is an error below
		_ = child.Wait()
	}()
	lines := bufio.NewScanner(out)
	synced := 0
	next := func() {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("the child ended: %v", lines.Err())
		}
		n, ok := strings.CutPrefix(lines.Text(), "synced ")
		if !ok {
			t.Fatal(lines.Text())
		}
		if synced, err = strconv.Atoi(n); err != nil {
			t.Fatal(err)
		}
	}
	for cut := 1; cut <= 3; cut++ {
		for range 3 {
			next()
		}
		// Not at the end of a Sync: what lies in the pipe is not yet read.
		if err := child.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		copied := filepath.Join(dir, fmt.Sprintf("cut%d.img", cut))
		if err := copySparse(copied, image); err != nil {
			t.Fatal(err)
		}
		if err := child.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(dir, fmt.Sprintf("cut%d", cut))
		if err := mount(copied, at); err != nil {
			t.Fatal(err)
		}
		found := countAfterCut(t, filepath.Join(at, "nats"))
		t.Logf("cut %d: %d events were synced, %d survived", cut, synced, found)
		if found < synced {
			t.Errorf("cut %d: %d of %d synced events are lost", cut, synced-found, synced)
		}
		if err := syscall.Unmount(at, 0); err != nil {
			t.Error(err)
		}
		if err := os.Remove(copied); err != nil {
			t.Error(err)
		}
	}
	_ = child.Process.Kill()
	_ = child.Wait()
	if err := syscall.Unmount(mnt, 0); err != nil {
		t.Error(err)
	}
}

// countAfterCut starts a server on what is left and counts the events that are
// there from the first on.
func countAfterCut(t *testing.T, dir string) int {
	t.Helper()
	e, err := sink.StartEmbedded(sink.EmbeddedOptions{StoreDir: dir, Listen: "127.0.0.1:0", Prefix: "mail", MaxStore: 4 << 30, Log: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Shutdown(context.Background())
	nc, err := e.Connect(nats.Name("after the cut"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	s := newSink(t, nc, defaults())
	n := 0
	if err := s.IDs(testContext(t), "MAIL_EVENTS", 0, func(id string, _ uint64) {
		if id == someEvent(n).ID {
			n++
		}
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// copySparse copies what the disk of the image holds at this moment, leaving
// holes for zeros.
func copySparse(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	i, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	buf, zero := make([]byte, 1<<20), make([]byte, 1<<20)
	for at := int64(0); at < i.Size(); at += int64(len(buf)) {
		n, err := in.ReadAt(buf, at)
		if err != nil && err != io.EOF {
			return err
		}
		if bytes.Equal(buf[:n], zero[:n]) {
			continue
		}
		if _, err := out.WriteAt(buf[:n], at); err != nil {
			return err
		}
	}
	return out.Truncate(i.Size())
}
