package scenario

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
)

// Process is a program that a scenario started, and may signal. It does not outlive
// the scenario, nor the bench.
type Process struct {
	env  *Env
	name string
	cmd  *exec.Cmd
	out  output
	done chan struct{}
	err  error // after done
	// ends is set when its end is meant.
	ends atomic.Bool
}

// output collects what a process writes, while it is still writing.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// StartProcess starts a program; env is in addition to ours, and files are its
// descriptors from 3 on.
func (e *Env) StartProcess(env []string, files []*os.File, name string, args ...string) *Process {
	p := &Process{env: e, name: name, cmd: exec.Command(name, args...), done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.ExtraFiles = files
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		// The kernel's "parent" of Pdeathsig is the thread, which must stay.
		runtime.LockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
		close(p.done)
	}()
	if err := <-started; err != nil {
		e.Fatalf("start %s: %v", name, err)
	}
	e.Cleanup(p.Kill)
	return p
}

// Pid is its process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Log is what it wrote to stdout and stderr so far.
func (p *Process) Log() string { return p.out.String() }

// Signal sends a signal. That the process is gone already is as good.
func (p *Process) Signal(sig syscall.Signal) {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.env.Errorf("signal %v to %s: %v", sig, p.name, err)
	}
}

// Kill ends it by SIGKILL and waits until it is gone.
func (p *Process) Kill() {
	p.ends.Store(true)
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Exited tells whether it has ended.
func (p *Process) Exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Exit waits until it has ended and returns how: nil is status 0.
func (p *Process) Exit() error {
	p.ends.Store(true)
	p.env.Wait("the end of "+p.name, p.Exited)
	return p.err
}

// Freeze stops it by SIGSTOP and waits until it stands still.
func (p *Process) Freeze() {
	p.Signal(syscall.SIGSTOP)
	p.env.Wait(p.name+" to stand still", func() bool {
		stat, err := os.ReadFile("/proc/" + strconv.Itoa(p.Pid()) + "/stat")
		return err == nil && strings.Contains(string(stat), ") T ")
	})
}

// Thaw lets it go on after Freeze.
func (p *Process) Thaw() { p.Signal(syscall.SIGCONT) }
