package scenario

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

var diskerrorScenarios = []Scenario{
	{
		Name: "sync-error", Faults: []string{"F11"}, Tier: 0,
		Proves: "After the first sync of the journal that fails nothing is blessed: blessd ends for its supervisor, and what it had blessed is there at the next start.",
		Run:    syncError,
	},
	{
		Name: "sync-error-nats", Faults: []string{"F11"}, Tier: 1,
		Proves: "When a sync of the embedded server's streams fails, the journal keeps what they have not safe, and blessd ends for its supervisor.",
		Run:    syncErrorNATS,
	},
	{
		Name: "sync-error-inside-nats", Faults: []string{"F11"}, Tier: 1,
		Proves: "When one sync fails that the embedded server makes by itself, and each later one succeeds, the server is not restarted as if nothing had been: blessd ends for its supervisor.",
		Run:    syncErrorInsideNATS,
	},
	{
		Name: "write-no-space", Faults: []string{"F10", "F11"}, Tier: 1,
		Proves: "When the journal's log finds no space for some time, deliveries are refused with 503, and blessd goes on by itself.",
		Run:    writeNoSpace,
	},
	{
		Name: "sync-slow", Faults: []string{"F11"}, Tier: 1,
		Proves: "When the disk hangs, every delivery is answered all the same, with 503, before its provider gives up.",
		Run:    syncSlow,
	},
}

// tracer makes system calls of a process fail.
type tracer struct {
	*Process
	log string
}

// inject has the system calls of a running process fail or wait as strace's -e
// inject has it, on the given files alone if there are any.
func (e *Env) inject(p *Process, calls, what string, paths ...string) *tracer {
	if _, err := exec.LookPath("strace"); err != nil {
		e.Skipf("there is no strace here")
	}
	t := &tracer{log: filepath.Join(e.dir, fmt.Sprintf("strace-%d.log", time.Now().UnixNano()))}
	args := []string{"-f", "-ttt", "-o", t.log, "-e", "trace=" + calls, "-e", "inject=" + calls + ":" + what, "-p", strconv.Itoa(p.Pid())}
	for _, path := range paths {
		args = append(args, "-P", path)
	}
	t.Process = e.StartProcess(nil, nil, "strace", args...)
	e.Wait("strace to attach", func() bool {
		if t.Exited() && !p.Exited() {
			if strings.Contains(t.Log(), "Operation not permitted") {
				e.Skipf("strace may not attach here: %s", t.Log())
			}
			e.Fatalf("strace has ended: %s", t.Log())
		}
		return strings.Contains(t.Log(), "attached") || p.Exited()
	})
	return t
}

// detach lets the process go on undisturbed.
func (t *tracer) detach() {
	t.Signal(syscall.SIGINT)
	_ = t.Exit() // by the signal
}

// first returns when the first of the calls failed.
func (t *tracer) first() time.Time {
	text, err := os.ReadFile(t.log)
	if err != nil {
		t.env.Fatalf("%v", err)
	}
	for l := range strings.Lines(string(text)) {
		if !strings.Contains(l, "(INJECTED") {
			continue
		}
		fields := strings.Fields(l) // thread, seconds, call
		seconds, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			t.env.Fatalf("strace wrote %q", l)
		}
		return time.UnixMicro(int64(seconds * 1e6))
	}
	t.env.Fatalf("strace let no call fail:\n%s", tail(string(text), 1000))
	return time.Time{}
}

// blessedSince returns how many deliveries were sent after that moment and blessed.
func (e *Env) blessedSince(moment time.Time) int {
	if err := e.ledger.Flush(); err != nil {
		e.Fatalf("%v", err)
	}
	f, err := os.Open(e.LedgerFile())
	if err != nil {
		e.Fatalf("%v", err)
	}
	defer f.Close()
	sent := map[string]time.Time{}
	n := 0
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var l struct {
			Sent   *ledger.Sent
			Answer *ledger.Answer
		}
		if err := json.NewDecoder(bytes.NewReader(lines.Bytes())).Decode(&l); err != nil {
			e.Fatalf("read the ledger: %v", err)
		}
		switch {
		case l.Sent != nil:
			sent[fmt.Sprint(l.Sent.UID, l.Sent.Attempt)] = l.Sent.Time
		case l.Answer != nil && l.Answer.State() == ledger.Acked && sent[fmt.Sprint(l.Answer.UID, l.Answer.Attempt)].After(moment):
			n++
		}
	}
	if err := lines.Err(); err != nil {
		e.Fatalf("read the ledger: %v", err)
	}
	return n
}

// syncCalls are all ways to have something put on the disk.
const syncCalls = "fsync,fdatasync,sync_file_range,syncfs"

// syncError fails every sync from one moment on. NATS is elsewhere: all syncs are
// the journal's.
func syncError(e *Env) {
	n := e.NATS()
	b := e.Blessd(Config{NATS: n.URL()})
	load := e.Load(b, Load{Retry: true})
	for range e.Times(2) {
		load.MoreBlessed(200)
		e.Moment(300 * time.Millisecond)
		t := e.inject(b.Process, syncCalls, "error=EIO")
		b.failsAndEnds("journal has failed")
		t.detach()
		if n := e.blessedSince(t.first()); n > 0 {
			e.Errorf("%d deliveries were sent after a sync had failed, and were blessed", n)
		}
		b.Start()
	}
	load.MoreBlessed(200)
}

// failsAndEnds waits until blessd ends by itself, with status 1 and a reason.
func (b *Blessd) failsAndEnds(reason string) {
	b.Died()
	if code := b.cmd.ProcessState.ExitCode(); code != 1 {
		b.env.Errorf("blessd ended with %v, want status 1", b.err)
	}
	if !strings.Contains(b.Process.Log(), reason) {
		b.env.Errorf("the log does not say %q:\n%s", reason, tail(b.Process.Log(), 2000))
	}
}

// syncErrorNATS fails the syncs of the files of the streams, and of no others.
func syncErrorNATS(e *Env) {
	b := e.Blessd(Config{})
	load := e.Load(b, Load{Retry: true, Pause: 5 * time.Millisecond})
	for range e.Times(1) {
		load.MoreBlessed(200)
		root := filepath.Join(b.DataDir(), "nats")
		paths := []string{root}
		if err := filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
			if err == nil { // a file may be gone already
				paths = append(paths, path)
			}
			return nil
		}); err != nil {
			e.Fatalf("%v", err)
		}
		t := e.inject(b.Process, syncCalls, "error=EIO", paths...)
		b.failsAndEnds("sync nats data: disk failed to sync") // whoever was first, blessd or the server
		t.detach()
		b.Start()
	}
	load.MoreBlessed(200)
}

// syncErrorInsideNATS fails one sync of the index of the events' stream, the one
// file of it that the server syncs and blessd does not: after this the kernel
// would tell nobody any more.
func syncErrorInsideNATS(e *Env) {
	b := e.Blessd(Config{})
	load := e.Load(b, Load{Retry: true, Pause: 5 * time.Millisecond})
	for range e.Times(1) {
		load.MoreBlessed(200)
		b.Stop() // the server writes its index
		b.Start()
		load.MoreBlessed(200)
		index, err := filepath.Glob(filepath.Join(b.DataDir(), "nats", "jetstream", "*", "streams", "MAIL_EVENTS", "msgs", "index.db"))
		if err != nil || len(index) != 1 {
			e.Fatalf("the stream has no index: %q, %v", index, err)
		}
		t := e.inject(b.Process, "fsync", "error=EIO:when=1", index...)
		b.failsAndEnds("sync nats data: disk failed to sync: the server reports")
		t.detach()
		t.first()
		if strings.Contains(b.Process.Log(), "restarting embedded NATS") {
			e.Errorf("the embedded server was restarted after a sync of its own had failed")
		}
		b.Start()
	}
	load.MoreBlessed(200)
}

// newestLog is the journal's log that is being written.
func (b *Blessd) newestLog() string {
	logs, err := filepath.Glob(filepath.Join(b.DataDir(), "journal", "*.log"))
	if err != nil || len(logs) == 0 {
		b.env.Fatalf("the journal has no log: %v", err)
	}
	return slices.Max(logs) // their numbers have leading zeros
}

func writeNoSpace(e *Env) {
	n := e.NATS()
	b := e.Blessd(Config{NATS: n.URL()})
	load := e.Load(b, Load{Retry: true})
	for range e.Times(2) {
		load.MoreBlessed(200)
		t := e.inject(b.Process, "write,pwrite64,writev,pwritev", "error=ENOSPC", b.newestLog())
		load.MoreRefused(16)
		t.detach()
		t.first()
		load.MoreBlessed(200)
	}
}

func syncSlow(e *Env) {
	n := e.NATS()
	b := e.Blessd(Config{NATS: n.URL()})
	load := e.Load(b, Load{})
	for range e.Times(2) {
		load.MoreBlessed(200)
		t := e.inject(b.Process, "fsync,fdatasync", "delay_exit=9s")
		load.MoreRefused(16)
		t.detach()
		load.MoreBlessed(200)
	}
	load.Stop()
	if load.Unanswered() > 0 {
		e.Errorf("%d deliveries were not answered", load.Unanswered())
	}
	e.Figuref("slowest answer %.1f s with syncs that take 9 s", load.Slowest().Seconds())
	if load.Slowest() > 8*time.Second {
		e.Errorf("the slowest answer took %v: blessd waited for the disk", load.Slowest())
	}
}
