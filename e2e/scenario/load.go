package scenario

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/blessd/blessd/e2e/ledger"
)

// Reply is what came back.
type Reply struct {
	Status int
	Body   string
	Header http.Header
	Err    error // instead of an answer
	Took   time.Duration
	exact  bool
}

// Blessed is whether the provider would believe that it was taken: status 200 and
// exactly the acknowledgement.
func (r *Reply) Blessed() bool { return r.Err == nil && r.Status == http.StatusOK && r.exact }

// client is for all senders. Providers keep their connections open, and so does it.
var client = &http.Client{
	Timeout:       60 * time.Second,
	Transport:     &http.Transport{MaxIdleConnsPerHost: 2000, DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// Post sends a delivery: it is entered in the ledger before, and what comes back
// after. A blessd that is down yields no answer.
func (b *Blessd) Post(d *Delivery) *Reply {
	a := b.where.Load()
	if a == nil {
		return &Reply{Err: io.ErrClosedPipe}
	}
	return b.env.PostTo("http://"+a.Hooks, d)
}

// PostTo is Post to whatever serves at a base URL.
func (e *Env) PostTo(base string, d *Delivery) *Reply {
	attempt, err := e.ledger.Sent(ledger.Sent{
		UID: d.UID, Provider: d.Provider, Endpoint: d.Name, ContentType: d.ContentType, Events: d.Events, Body: d.Body,
	})
	if err != nil {
		e.Errorf("%v", err)
		return &Reply{Err: err}
	}
	r := e.exchange(base, d)
	if r.Status == http.StatusServiceUnavailable && r.Header.Get("Retry-After") == "" {
		e.Errorf("503 without Retry-After: %.200s", r.Body)
	}
	answer := ledger.Answer{UID: d.UID, Attempt: attempt, Status: r.Status, Exact: r.exact}
	if r.Err != nil {
		answer.Error = r.Err.Error()
	}
	if err := e.ledger.Answered(answer); err != nil {
		e.Errorf("%v", err)
	}
	return r
}

func (e *Env) exchange(base string, d *Delivery) *Reply {
	began := time.Now()
	q, err := http.NewRequest(http.MethodPost, base+d.Path(), bytes.NewReader(d.Body))
	if err != nil {
		return &Reply{Err: err}
	}
	if d.ContentType != "" {
		q.Header.Set("Content-Type", d.ContentType)
	}
	for name, value := range d.Header {
		q.Header.Set(name, value)
	}
	answer, err := client.Do(q)
	if err != nil {
		return &Reply{Err: err, Took: time.Since(began)}
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return &Reply{
		Status: answer.StatusCode, Body: string(text), Header: answer.Header, Err: err, Took: time.Since(began),
		exact: err == nil && string(text) == d.Blessing,
	}
}

// Load is how traffic is made.
type Load struct {
	// Senders each wait for their answer before they send again. Default 16.
	Senders int
	// Rate, when not 0, makes an open loop instead: so many requests a second,
	// whatever becomes of them.
	Rate float64
	// Pause is between the requests of one sender.
	Pause time.Duration
	// Providers are who sends. Default all five.
	Providers []string
	// Retry sends what was refused or not answered again, as providers do, until it
	// is blessed or the load stops.
	Retry bool
	// Seen, when not nil, gets every answer, from many goroutines.
	Seen func(*Reply)
	// Make, when not nil, makes the deliveries.
	Make func(provider string) *Delivery
}

// Traffic is a load that is running.
type Traffic struct {
	env     *Env
	to      []*Blessd
	load    Load
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	stopped bool

	blessed, refused, unknown atomic.Int64
	slowest                   atomic.Int64 // of the answers, in nanoseconds
}

// Load sends deliveries until it is stopped, at the end of the scenario at the latest.
// What is down is left alone until it is back.
func (e *Env) Load(b *Blessd, l Load) *Traffic { return e.LoadAll([]*Blessd{b}, l) }

// LoadAll is Load on several blessd in turn.
func (e *Env) LoadAll(to []*Blessd, l Load) *Traffic {
	if l.Senders == 0 {
		l.Senders = 16
	}
	if len(l.Providers) == 0 {
		l.Providers = Providers()
	}
	if l.Make == nil {
		l.Make = e.Delivery
	}
	t := &Traffic{env: e, to: to, load: l}
	ctx, cancel := context.WithCancel(e.ctx)
	t.cancel = cancel
	e.traffic = append(e.traffic, t)
	e.Cleanup(t.Stop)
	if l.Rate > 0 {
		t.wg.Go(func() { t.open(ctx) })
		return t
	}
	for s := range l.Senders {
		t.wg.Go(func() {
			for n := s; ctx.Err() == nil; n++ {
				t.one(ctx, n)
				pause(ctx, l.Pause)
			}
		})
	}
	return t
}

func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// open starts requests at a constant rate, in goroutines of their own.
func (t *Traffic) open(ctx context.Context) {
	const most = 20_000 // requests without an answer, beyond which nothing is sent
	var flying atomic.Int64
	began := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		due := began.Add(time.Duration(float64(n) / t.load.Rate * float64(time.Second)))
		pause(ctx, time.Until(due))
		if flying.Load() >= most {
			continue
		}
		flying.Add(1)
		t.wg.Go(func() {
			defer flying.Add(-1)
			t.one(ctx, n)
		})
	}
}

// one sends one delivery, again and again if it is to be retried.
func (t *Traffic) one(ctx context.Context, n int) {
	b := t.to[n%len(t.to)]
	for !b.Up() {
		if ctx.Err() != nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	d := t.load.Make(t.load.Providers[n%len(t.load.Providers)])
	for {
		r := b.Post(d)
		if t.load.Seen != nil {
			t.load.Seen(r)
		}
		for {
			was := t.slowest.Load()
			if int64(r.Took) <= was || t.slowest.CompareAndSwap(was, int64(r.Took)) {
				break
			}
		}
		switch {
		case r.Blessed():
			t.blessed.Add(1)
			return
		case r.Err == nil:
			t.refused.Add(1)
		default:
			t.unknown.Add(1)
			pause(ctx, 5*time.Millisecond) // of a connection that cannot be made there are many in a second
		}
		if !t.load.Retry || ctx.Err() != nil {
			return
		}
		pause(ctx, 20*time.Millisecond)
		for !b.Up() && ctx.Err() == nil {
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// Blessed is how many deliveries were answered with the blessing so far.
func (t *Traffic) Blessed() int { return int(t.blessed.Load()) }

// Refused is how many were answered otherwise.
func (t *Traffic) Refused() int { return int(t.refused.Load()) }

// Unanswered is how many were not answered.
func (t *Traffic) Unanswered() int { return int(t.unknown.Load()) }

// Slowest is the longest time to an answer.
func (t *Traffic) Slowest() time.Duration { return time.Duration(t.slowest.Load()) }

// MoreBlessed waits until so many more were blessed.
func (t *Traffic) MoreBlessed(n int) {
	before := t.Blessed()
	t.env.Wait("blessings", func() bool { return t.Blessed() >= before+n })
}

// MoreRefused waits until so many more were refused.
func (t *Traffic) MoreRefused(n int) {
	before := t.Refused()
	t.env.Wait("refusals", func() bool { return t.Refused() >= before+n })
}

// Stop ends it and waits for the answers to what was sent.
func (t *Traffic) Stop() {
	if t.stopped {
		return
	}
	t.stopped = true
	t.cancel()
	t.wg.Wait()
}

// Moment waits for a time that chance chooses.
func (e *Env) Moment(most time.Duration) { pause(e.ctx, rand.N(most)) }
