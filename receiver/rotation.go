package receiver

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/blessd/blessd/delivery"
)

// MaxRotation is how long an announced rotation lasts when nobody announces it
// again.
const MaxRotation = time.Minute

// RotationCounts is what came of the deliveries that no key verified while a
// rotation of their endpoint's key was announced.
type RotationCounts struct {
	// Parked waited for the new key, and of these Blessed were accepted by it.
	Parked  int `json:"parked"`
	Blessed int `json:"blessed"`
	// Refused were answered 503 because no key came, whether they waited or not, and of
	// these Held are kept for certain, to be redeemed.
	Refused int `json:"refused"`
	Held    int `json:"held"`
}

// rotations are the announced changes of keys. What is in it is for requests that
// failed verification: no other looks here.
type rotations struct {
	mu     sync.Mutex
	byName map[string]*rotation
	// changed is closed, and another takes its place, when something happens that
	// those who are parked wait for.
	changed chan struct{}
	// parked are those that wait for a key now, and holding those that wait for the
	// disk after that, over all endpoints.
	parked, holding places
}

// places are what a number of deliveries takes.
type places struct {
	n     int
	bytes int64
}

type rotation struct {
	until  time.Time
	counts RotationCounts
	// open are the requests that came in it and are not answered yet. over is closed
	// when it has ended and there are none.
	open  int
	ended bool
	over  chan struct{}
}

// settle closes over when it is.
func (w *rotation) settle() {
	if w.ended && w.open == 0 {
		close(w.over)
	}
}

// AnnounceRotation says that the key of an endpoint is about to change at the
// provider: for as long as given, MaxRotation at most, a delivery that no key
// verifies waits a moment for a new key before it is refused, and is then refused
// with a status that makes the provider come again, and held. Announcing again gives
// more time. It lets nobody in: only a key does.
//
// What the announcement costs is bounded by Limits: a stranger who fails
// verification while it lasts holds a connection for ParkTimeout.
func (r *Receiver) AnnounceRotation(endpoint string, lasts time.Duration) error {
	e := r.routes.Load().byName[endpoint]
	switch {
	case e == nil:
		return fmt.Errorf("there is no endpoint %q", endpoint)
	case e.provider.verify == nil:
		return fmt.Errorf("%s signs nothing, so the endpoint %q has no key that could change", e.Provider, endpoint)
	}
	r.rotations.mu.Lock()
	defer r.rotations.mu.Unlock()
	now := r.rotations.byName[endpoint]
	if now == nil || !now.announced() {
		now = &rotation{over: make(chan struct{})}
		r.rotations.byName[endpoint] = now
	}
	now.until = time.Now().Add(min(lasts, MaxRotation))
	e.metrics.announced.Set(1)
	return nil
}

// RotationCounts returns what has come of an announcement until now.
func (r *Receiver) RotationCounts(endpoint string) (c RotationCounts) {
	r.rotations.mu.Lock()
	defer r.rotations.mu.Unlock()
	if now := r.rotations.byName[endpoint]; now != nil {
		c = now.counts
	}
	return c
}

// EndRotation ends an announcement, which is to be done when it has run out as
// well. Those that are parked for it are verified once more and answered. The function
// that it returns waits until they are, or ctx ends, and returns what came of all.
func (r *Receiver) EndRotation(endpoint string) func(ctx context.Context) RotationCounts {
	r.rotations.mu.Lock()
	defer r.rotations.mu.Unlock()
	if e := r.routes.Load().byName[endpoint]; e != nil && e.metrics.announced != nil {
		e.metrics.announced.Set(0)
	}
	r.rotations.wakeLocked()
	w := r.rotations.byName[endpoint]
	if w == nil {
		return func(context.Context) RotationCounts { return RotationCounts{} }
	}
	delete(r.rotations.byName, endpoint)
	w.ended = true
	w.settle()
	return func(ctx context.Context) RotationCounts {
		select {
		case <-w.over:
		case <-ctx.Done():
		}
		r.rotations.mu.Lock()
		defer r.rotations.mu.Unlock()
		return w.counts
	}
}

func (w *rotation) announced() bool { return time.Now().Before(w.until) }

// announced tells whether a rotation is announced for an endpoint.
func (ro *rotations) announced(endpoint string) bool {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	now := ro.byName[endpoint]
	return now != nil && now.announced()
}

// join returns the rotation that is announced for an endpoint, or nil. Who joins
// it must part from it.
func (ro *rotations) join(endpoint string) *rotation {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	now := ro.byName[endpoint]
	if now == nil || !now.announced() {
		return nil
	}
	now.open++
	return now
}

// part is the end of a request that has joined w, or nothing when w is nil.
func (ro *rotations) part(w *rotation) {
	if w == nil {
		return
	}
	ro.mu.Lock()
	defer ro.mu.Unlock()
	w.open--
	w.settle()
}

// wake has those that are parked look again.
func (ro *rotations) wake() {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	ro.wakeLocked()
}

func (ro *rotations) wakeLocked() {
	close(ro.changed)
	ro.changed = make(chan struct{})
}

// next is closed at the next change.
func (ro *rotations) next() <-chan struct{} {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	return ro.changed
}

// count changes the counts of w.
func (ro *rotations) count(w *rotation, change func(*RotationCounts)) {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	change(&w.counts)
}

// enter takes a place, if there is one.
func (ro *rotations) enter(p *places, size int64, l *Limits) bool {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	if p.n >= l.MaxParked || p.bytes+size > l.MaxParkedBytes {
		return false
	}
	p.n++
	p.bytes += size
	return true
}

func (ro *rotations) leave(p *places, size int64) {
	ro.mu.Lock()
	defer ro.mu.Unlock()
	p.n--
	p.bytes -= size
}

// awaitsKey says whether another key could change the verdict. A hint says that
// something else than the key is wrong.
func (v *verdict) awaitsKey() bool {
	return v.reason == awaitingKey || v.reason == badSignature && v.hint == ""
}

// park has a delivery that no key verified wait for the new key of an announced
// rotation. It returns the endpoint of now and its verdict. Where nothing is
// announced nothing waits, and a key decides that came while the body was arriving:
// the rotation that brought it may be over.
func (r *Receiver) park(x *exchange, p *post, v verdict) (*endpoint, verdict) {
	w := r.rotations.join(x.endpoint.Name)
	if w == nil {
		if now := r.routes.Load().byName[x.endpoint.Name]; now != nil && now != x.endpoint {
			return r.proveNow(x.endpoint, p, v.gate)
		}
		return x.endpoint, v
	}
	x.rotation = w
	gate, size := v.gate, int64(len(x.body))
	if !r.draining.Load() && r.rotations.enter(&r.rotations.parked, size, &r.limits) {
		r.rotations.count(w, func(c *RotationCounts) { c.Parked++ })
		x.parked = true
		x.endpoint.metrics.parkedNow.Inc()
		r.awaitKey(x, p, gate)
		r.rotations.leave(&r.rotations.parked, size)
	}
	e, v := r.proveNow(x.endpoint, p, gate)
	if v.awaitsKey() {
		v.reason = keyRotation
	}
	return e, v
}

// awaitKey returns when a key verifies the post, or when there is nothing to wait
// for any more.
func (r *Receiver) awaitKey(x *exchange, p *post, gate delivery.Verification) {
	// The deadline for the request's headers and body would end its context.
	_ = http.NewResponseController(x.w).SetReadDeadline(time.Now().Add(r.limits.ParkTimeout + r.limits.PutTimeout)) // a test's recorder has none
	timeout := time.NewTimer(r.limits.ParkTimeout)
	defer timeout.Stop()
	for {
		changed := r.rotations.next()
		// What changed until now is looked at, what changes from now on wakes.
		if r.draining.Load() || !r.rotations.announced(x.endpoint.Name) {
			return
		}
		_, v := r.proveNow(x.endpoint, p, gate)
		if v.settle != nil {
			v.settle(false) // it is claimed by who stores it
		}
		if !v.awaitsKey() {
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			return
		case <-x.q.Context().Done(): // nobody hears the answer, and what was sent is held
			return
		}
	}
}

// proveNow proves a post by the endpoint of now that was's name has, if any.
func (r *Receiver) proveNow(was *endpoint, p *post, gate delivery.Verification) (*endpoint, verdict) {
	e := r.routes.Load().byName[was.Name]
	if e == nil || e.Provider != was.Provider {
		return was, verdict{reason: keyRotation, gate: gate} // its endpoint has left: another may come
	}
	now, why := e.gateAgain(p, gate)
	if why != "" {
		return e, verdict{reason: why, gate: gate}
	}
	v := e.proveBehind(now, p)
	v.gate = now
	return e, v
}

// hold keeps what the key of an announced rotation did not come for in time. The
// sender is told to come again all the same.
func (r *Receiver) hold(x *exchange, d *delivery.Delivery) {
	held, size := false, int64(len(x.body))
	switch {
	case r.unverified == nil:
	case r.rotations.enter(&r.rotations.holding, size, &r.limits):
		ctx, cancel := context.WithTimeout(context.WithoutCancel(x.q.Context()), r.limits.PutTimeout)
		held = r.unverified.Hold(ctx, d, string(keyRotation)) == nil
		cancel()
		r.rotations.leave(&r.rotations.holding, size)
	default: // more at once than a provider sends: like any stranger's
		r.unverified.Keep(d, string(keyRotation))
	}
	if x.rotation == nil {
		return
	}
	r.rotations.count(x.rotation, func(c *RotationCounts) {
		c.Refused++
		if held {
			c.Held++
		}
	})
}
