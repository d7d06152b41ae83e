// Package receiver is the public face of blessd: it takes the providers' webhook
// requests, decides whether they are who they say they are, hands what is
// authentic to a Store and gives each provider the answer it wants to hear.
//
// A 200 with the provider's acknowledgement means that the Store has the request
// on stable storage, or that there was nothing in it to store. Everything else is
// answered with a status that makes the provider come again; never with a
// redirect, 403, 406 or 410, which some providers take as the end.
//
// The package refuses to know what a payload means, what NATS is, and where keys
// come from. A provider is one file here and one line in the table of provider.go.
package receiver

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
)

// Store keeps accepted deliveries.
type Store interface {
	// Put returns nil only when d is on stable storage, whole: the provider is
	// told so and forgets it. Any error means that the provider must come again;
	// d may have been stored all the same, since a repetition does no harm.
	// An error that wraps ErrFull says that there is no room. Put returns when ctx
	// ends, and may keep d and its body: the receiver touches neither again.
	Put(ctx context.Context, d *delivery.Delivery) error
}

// ErrFull is wrapped by Store.Put when there is no room for the delivery.
var ErrFull = errors.New("no room for another delivery")

// Receiver is the handler of the public listener.
type Receiver struct {
	store Store
	// unverified takes what is refused, if not nil.
	unverified Unverified
	// watch is told of every answer, if not nil.
	watch     func(Answered)
	limits    Limits
	log       *zap.Logger
	errorLog  *log.Logger
	metrics   *metrics
	budget    budget
	seen      *tokenTable
	routes    atomic.Pointer[routes]
	rotations rotations
	draining  atomic.Bool
	// digestKey keys the digests of tokens and passwords, so that what a
	// comparison takes says nothing about them.
	digestKey [sha256.Size]byte
	// now is the clock that deliveries are stamped and signatures aged with.
	now func() time.Time
}

// New returns a Receiver that knows no endpoint yet and answers 404 to everything.
// It registers its metrics with reg and starts nothing.
func New(store Store, limits Limits, reg prometheus.Registerer, log *zap.Logger) (*Receiver, error) {
	if store == nil || reg == nil || log == nil {
		return nil, errors.New("receiver needs a store, a registerer and a logger")
	}
	limits, err := limits.withDefaults()
	if err != nil {
		return nil, err
	}
	errorLog, err := zap.NewStdLogAt(log, zap.WarnLevel)
	if err != nil {
		return nil, fmt.Errorf("logger of the HTTP server: %w", err)
	}
	m, err := newMetrics(reg)
	if err != nil {
		return nil, err
	}
	r := &Receiver{
		store:    store,
		limits:   limits,
		log:      log,
		errorLog: errorLog,
		metrics:  m,
		budget:   budget{max: limits.MaxInFlight},
		seen:     newTokenTable(maxSeenTokens),
		now:      time.Now,
		rotations: rotations{
			byName: map[string]*rotation{}, changed: make(chan struct{}),
		},
	}
	_, _ = rand.Read(r.digestKey[:]) // never fails
	return r, r.SetEndpoints(nil)
}

// SetEndpoints replaces all endpoints at once. Every problem of every endpoint is
// in the error, and then nothing has changed. Requests that are already being
// handled are finished by the endpoints they began with.
func (r *Receiver) SetEndpoints(es []Endpoint) error {
	next, err := r.compile(es)
	if err != nil {
		return err
	}
	r.routes.Store(next)
	r.rotations.wake()
	return nil
}

// SetDraining tells senders to open a new connection for their next request, which
// lets a stopping server end. Nobody waits for a key any more then.
func (r *Receiver) SetDraining(on bool) {
	r.draining.Store(on)
	r.rotations.wake()
}

// Server returns a server for the public listener with the limits that the promise
// above needs. The caller starts and stops it.
func (r *Receiver) Server() *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           r,
		ReadHeaderTimeout: r.limits.ReadHeaderTimeout,
		ReadTimeout:       r.limits.ReadTimeout,
		// It runs from the end of the headers: through the body, the wait for a key and
		// the store.
		WriteTimeout:                 r.limits.ReadTimeout + r.limits.ParkTimeout + r.limits.PutTimeout + 5*time.Second,
		IdleTimeout:                  r.limits.IdleTimeout,
		MaxHeaderBytes:               r.limits.MaxHeaderBytes,
		ErrorLog:                     r.errorLog,
		DisableGeneralOptionsHandler: true,
		Protocols:                    &protocols,
	}
}

// exchange is one request on its way through.
type exchange struct {
	w        http.ResponseWriter
	q        *http.Request
	start    time.Time
	endpoint *endpoint
	token    *Key // the URL token that matched
	body     []byte
	read     bool // the body is whole
	trace    string
	id       string // what requestID has made up
	verified delivery.Verification
	report   string // what a signature was that is not enforced
	// rotation is the announced one that the request failed verification in, and
	// parked says whether it waited for its key.
	rotation *rotation
	parked   bool
}

// ServeHTTP answers one request.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.metrics.inFlight.Inc()
	defer r.metrics.inFlight.Dec()
	x := &exchange{w: w, q: q, start: time.Now(), trace: traceparent(q.Header)}
	defer func() { // what is counted then, panic or not
		r.budget.give(int64(len(x.body)))
		r.rotations.part(x.rotation)
	}()
	r.answer(x, r.receive(x))
}

// receive takes the request through the steps in their order and says what came of
// it. It writes nothing.
func (r *Receiver) receive(x *exchange) outcome {
	var why reason
	if x.endpoint, x.token, why = r.routes.Load().match(x.q.URL.EscapedPath()); why != "" {
		return refused(why)
	}
	switch x.q.Method {
	case http.MethodGet, http.MethodHead:
		return validated
	case http.MethodPost:
	default:
		return refused(methodNotAllowed)
	}
	if why := admit(x.q, r.limits.MaxBody); why != "" {
		return refused(why)
	}
	if why, err := r.readBody(x); why != "" {
		return outcome{reason: why, err: err}
	}
	p := &post{header: x.q.Header, body: x.body, token: x.token, now: r.now()}
	if x.endpoint.isEmpty(p) {
		return validated
	}
	d := r.newDelivery(x, p.now)
	e, v := x.endpoint, x.endpoint.prove(p)
	if v.awaitsKey() {
		e, v = r.park(x, p, v)
	}
	if v.reason != "" {
		return r.refuse(x, d, v)
	}
	x.verified, x.report = v.verified, v.report
	err := r.accept(x.q.Context(), e, d, v)
	switch {
	case err == nil:
		if x.parked {
			r.rotations.count(x.rotation, func(c *RotationCounts) { c.Blessed++ })
		}
		return blessed
	case errors.Is(err, ErrFull):
		return outcome{reason: journalFull, err: err}
	default:
		return outcome{reason: storeFailed, err: err}
	}
}

// accept stores what v proves, and settles what hangs on that.
func (r *Receiver) accept(ctx context.Context, e *endpoint, d *delivery.Delivery, v verdict) error {
	if v.report != "" {
		e.reportSignature(v.report)
	}
	d.Verified = v.verified
	err := r.put(ctx, d)
	if v.settle != nil {
		v.settle(err == nil)
	}
	return err
}

// put hands d to the store. A sender that hangs up in the meantime does not stop
// it: the delivery is proven and whole, and repeating it would cost both sides.
func (r *Receiver) put(ctx context.Context, d *delivery.Delivery) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.limits.PutTimeout)
	defer cancel()
	return r.store.Put(ctx, d)
}

// refuse is where every delivery passes that arrived whole but could not be
// proven: by a key that is missing or was rotated, perhaps. What another key could
// prove is kept for it, with what the token and the password proved.
func (r *Receiver) refuse(x *exchange, d *delivery.Delivery, v verdict) outcome {
	d.Verified = v.gate
	switch {
	case v.reason == keyRotation:
		r.hold(x, d)
	case r.unverified != nil && v.reason.keeps():
		r.unverified.Keep(d, string(v.reason))
	}
	return outcome{reason: v.reason, hint: v.hint, unproven: d}
}

// newDelivery makes the record of a request that has not been proven yet.
func (r *Receiver) newDelivery(x *exchange, received time.Time) *delivery.Delivery {
	e := x.endpoint
	d := &delivery.Delivery{
		Provider:    e.Provider,
		Endpoint:    e.Name,
		Received:    received.UTC(),
		Method:      x.q.Method,
		Query:       x.q.URL.RawQuery,
		ContentType: x.q.Header.Get("Content-Type"),
		Body:        x.body,
	}
	if x.trace != "" {
		d.Header = append(d.Header, delivery.Field{Name: "Traceparent", Value: x.trace})
	}
	for _, v := range x.q.Header["User-Agent"] {
		d.Header = append(d.Header, delivery.Field{Name: "User-Agent", Value: v})
	}
	for _, name := range e.provider.headers {
		for _, v := range x.q.Header[http.CanonicalHeaderKey(name)] {
			d.Header = append(d.Header, delivery.Field{Name: name, Value: v})
		}
	}
	return d
}

// digest is what secrets are compared as.
func (r *Receiver) digest(secret string) (d [sha256.Size]byte) {
	h := hmac.New(sha256.New, r.digestKey[:])
	h.Write([]byte(secret))
	h.Sum(d[:0])
	return d
}

// traceparent returns the request's W3C trace context when there is exactly one and
// its syntax is valid, else "".
func traceparent(h http.Header) string {
	vs := h["Traceparent"]
	if len(vs) != 1 {
		return ""
	}
	s := vs[0]
	if len(s) < 55 || len(s) > 128 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return ""
	}
	version, trace, parent, flags := s[:2], s[3:35], s[36:52], s[53:55]
	for _, part := range []string{version, trace, parent, flags} {
		if !consistsOf(part, "0123456789abcdef") {
			return ""
		}
	}
	if version == "ff" || consistsOf(trace, "0") || consistsOf(parent, "0") {
		return ""
	}
	if rest := s[55:]; rest != "" && (version == "00" || rest[0] != '-' || !printable(rest)) {
		return ""
	}
	return s
}
