package scenario

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

var overloadScenarios = []Scenario{
	{
		Name: "overload", Faults: []string{"F30"}, Tier: 1,
		Proves: "When three times as many requests come as can be answered, what is blessed is stored, memory stays bounded, and afterwards nothing is refused.",
		Run:    overload,
	},
	{
		Name: "idle-and-slow", Faults: []string{"F29"}, Tier: 1,
		Proves: "Thousands of idle and of slow connections do not keep providers from being answered.",
		Run:    idleAndSlow,
	},
	{
		Name: "memory-limit", Faults: []string{"F31"}, Tier: 1,
		Proves: "Large bodies from many connections at once do not use up the memory that blessd was given.",
		Run:    memoryLimit,
	},
	{
		Name: "few-descriptors", Faults: []string{"F32"}, Tier: 1,
		Proves: "When all file descriptors are taken by connections blessd waits, without spinning, and goes on when they are closed.",
		Run:    fewDescriptors,
	},
}

// answers collects how long answers took.
type answers struct {
	mu               sync.Mutex
	blessed, refused []time.Duration
}

func (a *answers) see(r *Reply) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case r.Blessed():
		a.blessed = append(a.blessed, r.Took)
	case r.Err == nil:
		a.refused = append(a.refused, r.Took)
	}
}

// p99 returns the time that 99 in a hundred did not exceed.
func p99(all []time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	all = slices.Sorted(slices.Values(all))
	return all[len(all)*99/100]
}

// memory returns what a process has, and the most it ever had, in MiB.
func (p *Process) memory() (now, peak int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		p.env.Fatalf("%v", err)
	}
	for l := range strings.Lines(string(text)) {
		if f := strings.Fields(l); len(f) > 1 {
			kib, _ := strconv.Atoi(f[1]) // of the two lines that are read it is a number
			switch f[0] {
			case "VmRSS:":
				now = kib / 1024
			case "VmHWM:":
				peak = kib / 1024
			}
		}
	}
	return now, peak
}

// cpu returns the time that a process has computed.
func (p *Process) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid()))
	if err != nil {
		p.env.Fatalf("%v", err)
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, err1 := strconv.Atoi(f[11])
	system, err2 := strconv.Atoi(f[12])
	if err1 != nil || err2 != nil {
		p.env.Fatalf("/proc has %q", text)
	}
	const tick = 10 * time.Millisecond
	return time.Duration(user+system) * tick
}

// overload finds out how much can be done, the senders and their ledger included,
// and then has three times as much sent, whatever becomes of it.
func overload(e *Env) {
	b := e.Blessd(Config{})
	single := []string{"mailgun", "enkod"} // one event each: there is less to read back
	// measure returns the answers, and how many blessings and requests there were a second.
	measure := func(l Load, d time.Duration) (a *answers, blessed, sent float64) {
		a = &answers{}
		l.Seen, l.Providers = a.see, single
		load := e.Load(b, l)
		pause(e.ctx, d)
		n := load.Blessed()
		load.Stop()
		return a, float64(n) / d.Seconds(), float64(load.Blessed()+load.Refused()+load.Unanswered()) / d.Seconds()
	}
	d := min(e.For(2*time.Second), time.Minute)
	before, capacity, _ := measure(Load{Senders: 32}, d)
	during, goodput, sent := measure(Load{Rate: 3 * capacity}, d)
	after, again, _ := measure(Load{Senders: 32}, d)
	_, peak := b.memory()
	e.Figuref("capacity %.0f requests/s, p99 %d ms", capacity, p99(before.blessed).Milliseconds())
	e.Figuref("%.0f requests/s sent: %.0f%% of the capacity blessed meanwhile, p99 %d ms, %d refused, p99 %d ms",
		sent, 100*goodput/capacity, p99(during.blessed).Milliseconds(), len(during.refused), p99(during.refused).Milliseconds())
	e.Figuref("afterwards %.0f requests/s, p99 %d ms; at most %d MiB of memory", again, p99(after.blessed).Milliseconds(), peak)
	if len(after.refused) > 0 {
		e.Errorf("%d requests were refused after the overload", len(after.refused))
	}
	const most = 512 // MiB, twice the goal
	if peak > most {
		e.Errorf("blessd took %d MiB of memory, want %d at most", peak, most)
	}
}

// idleAndSlow opens as many connections as blessd serves, less some: half of them
// idle after one request, half sending a body byte by byte, again and again as they
// are given up.
func idleAndSlow(e *Env) {
	const wanted = 20_000
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		e.Fatalf("%v", err)
	}
	const served = 10_000 // by blessd at once; the others wait in the kernel
	n := min(wanted, served-500, int(limit.Cur)/2-500, int(float64(wanted)*e.o.Scale)) / 2
	b := e.Blessd(Config{})
	light := func() *answers {
		a := &answers{}
		load := e.Load(b, Load{Senders: 8, Pause: 5 * time.Millisecond, Seen: a.see})
		load.MoreBlessed(1000)
		load.Stop()
		if load.Refused()+load.Unanswered() > 0 {
			e.Errorf("%d refused and %d unanswered, want none", load.Refused(), load.Unanswered())
		}
		return a
	}
	before := light()
	now, _ := b.memory()

	address, path := b.where.Load().Hooks, endpointOf("sendclean").Path()
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	done := make(chan struct{})
	e.Cleanup(func() {
		close(done)
		mu.Lock()
		for c := range open {
			_ = c.Close() // nobody uses it any more
		}
		mu.Unlock()
		wg.Wait()
	})
	ready := make(chan error, 2*n)
	once := func(idle bool) error {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		mu.Lock()
		open[c] = true
		mu.Unlock()
		defer func() {
			mu.Lock()
			delete(open, c)
			mu.Unlock()
			_ = c.Close() // it was given up
		}()
		if idle {
			if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", path); err != nil {
				return err
			}
			if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
				return err
			}
			ready <- nil
			_, _ = io.Copy(io.Discard, c) // until it is closed
			return nil
		}
		if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n", path); err != nil {
			return err
		}
		ready <- nil
		for {
			select {
			case <-done:
				return nil
			case <-time.After(time.Second):
			}
			if _, err := c.Write([]byte("[")); err != nil {
				return nil // given up by blessd
			}
		}
	}
	for i := range 2 * n {
		wg.Go(func() {
			if err := once(i%2 == 0); err != nil {
				ready <- err
			}
		})
		if i%100 == 99 {
			time.Sleep(10 * time.Millisecond) // the kernel's queue is short
		}
	}
	for range 2 * n {
		select {
		case err := <-ready:
			if err != nil {
				e.Fatalf("open a connection: %v", err)
			}
		case <-time.After(e.o.Limit):
			e.Fatalf("connections were not served")
		}
	}
	during := light()
	loaded, peak := b.memory()
	acme := []string{"endpoint", "acme", "code", "408"}
	b.WaitMetric(float64(n), "blessd_webhook_requests_total", acme...) // each slow one is given up
	e.unbooked(ledger.Unbooked{Endpoint: "acme", Status: 408}, n)
	e.unbooked(ledger.Unbooked{Endpoint: "acme", Status: 200}, n)
	e.Figuref("%d idle and %d slow connections (blessd serves %d at once, this machine lets a process open %d files)", n, n, served, limit.Cur)
	e.Figuref("p99 %d ms, without them %d ms; %d MiB of memory, %d at most, without them %d",
		p99(during.blessed).Milliseconds(), p99(before.blessed).Milliseconds(), loaded, peak, now)
	const most = 400 // MiB
	if peak > most {
		e.Errorf("blessd took %d MiB of memory, want %d at most", peak, most)
	}
}

// memoryLimit gives blessd 512 MiB, in a control group where that is possible: what
// takes more is ended by the kernel. Bodies that are arriving are copied on their way
// to the journal, so that less of them than by default has to fit.
func memoryLimit(e *Env) {
	const limit = 512 << 20
	c := Config{Env: []string{fmt.Sprintf("GOMEMLIMIT=%d", limit*8/10)}, More: "limits: {max_in_flight_bytes: 16MiB}"}
	group, file := "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		group, file = "/sys/fs/cgroup", "memory.max"
	}
	group = filepath.Join(group, fmt.Sprintf("blessd-bench-%d", os.Getpid()))
	err := os.Mkdir(group, 0o755)
	if err == nil {
		e.Cleanup(func() { // the processes in it have ended
			if err := os.Remove(group); err != nil {
				e.Errorf("%v", err)
			}
		})
		err = os.WriteFile(filepath.Join(group, file), []byte(strconv.Itoa(limit)), 0o600)
	}
	if err != nil {
		e.Skipf("no control group can be made here: %v", err)
	}
	c.Wrap = []string{"sh", "-c", `echo $$ > ` + filepath.Join(group, "cgroup.procs") + ` && exec "$0" "$@"`}
	b := e.Blessd(c)
	pad := strings.Repeat("x", 1<<20)
	load := e.Load(b, Load{Senders: 100, Pause: 2 * time.Second, Make: func(string) *Delivery {
		uid := e.ledger.NewUID()
		return e.SendClean("sendclean", uid, strings.Replace(sendcleanEvents(uid, 1)[0], "{", `{"pad":"`+pad+`",`, 1))
	}})
	want := min(e.Times(60), 1000)
	e.Wait("blessings", func() bool {
		if b.Exited() {
			e.Fatalf("blessd has ended with %v: %d MiB of memory were not enough", b.err, limit>>20)
		}
		return load.Blessed() >= want
	})
	load.Stop()
	_, peak := b.memory()
	e.Figuref("a control group of 512 MiB, 16 MiB in flight, 100 connections with bodies of 1 MiB: at most %d MiB resident, %d refused", peak, load.Refused())
}

// fewDescriptors has more connections than blessd may have files.
func fewDescriptors(e *Env) {
	if _, err := exec.LookPath("prlimit"); err != nil {
		e.Skipf("there is no prlimit here")
	}
	const files = 96
	n := e.NATS()
	b := e.Blessd(Config{NATS: n.URL(), Wrap: []string{"prlimit", fmt.Sprintf("--nofile=%d", files)}})
	for range e.Times(2) {
		load := e.Load(b, Load{Senders: 4})
		load.MoreBlessed(200)
		load.Stop()
		client.CloseIdleConnections()
		var all []net.Conn
		for range 2 * files {
			c, err := net.Dial("tcp", b.where.Load().Hooks)
			if err != nil {
				e.Fatalf("%v", err)
			}
			all = append(all, c)
		}
		const watched = 2 * time.Second
		before := b.cpu()
		pause(e.ctx, watched)
		used := b.cpu() - before
		e.Figuref("%d connections and %d files: %.0f%% of a core", len(all), files, 100*used.Seconds()/watched.Seconds())
		if used > watched/2 {
			e.Errorf("blessd computed for %v in %v without anything to do", used, watched)
		}
		load = e.Load(b, Load{Senders: 4, Retry: true}) // behind those in the kernel's queue
		for _, c := range all {
			_ = c.Close() // nothing was sent
		}
		load.MoreBlessed(200)
		load.Stop()
	}
}
