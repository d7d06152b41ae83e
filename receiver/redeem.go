package receiver

import (
	"context"
	"net/http"
	"slices"

	"github.com/blessd/blessd/delivery"
)

// Unverified keeps deliveries that arrived whole and were refused, for a key that
// comes late.
type Unverified interface {
	// Keep takes d, which was refused for that reason, and returns at once, however
	// slow the disk is. It may drop d: the sender has been told to come again. Its
	// Verified is what let it through to the signature, a token or a password. The
	// receiver touches neither d nor its body again.
	Keep(d *delivery.Delivery, reason string)
	// Hold is Keep for a delivery whose key is on its way: nil means that d is kept,
	// apart from what strangers can fill. It may wait until ctx ends, and an error
	// means that it is not kept.
	Hold(ctx context.Context, d *delivery.Delivery, reason string) error
}

// KeyRotation is the reason of a delivery that no key verified while a rotation of
// its endpoint's key was announced.
const KeyRotation = string(keyRotation)

// KeepUnverified says where refused deliveries go. Without it they go nowhere. It
// must be called before the first request.
func (r *Receiver) KeepUnverified(u Unverified) { r.unverified = u }

// ForgerySuspected is the reason of a delivery that must not be redeemed: the token
// of its signature was seen with other content, which a restart forgets.
const ForgerySuspected = string(forgerySuspected)

// keeps says whether what is refused for this reason is kept. A wrong token or
// password is a stranger's, and a path that is nobody's is not an endpoint's: no
// key that comes late makes them genuine.
func (why reason) keeps() bool {
	return slices.Contains([]reason{awaitingKey, badSignature, forgerySuspected, missingSignature, stale}, why)
}

// Redeem verifies a delivery that was refused once more, by today's endpoints and
// keys and by the code that requests go through, with the time of receipt as the
// clock. What passes is put into the Store with that time; then the reason is "". Else
// it is why it does not pass, one of Reasons: KeyRotation as long as one is announced
// that may still bring the key. After an error the delivery has passed
// and is not stored.
func (r *Receiver) Redeem(ctx context.Context, d *delivery.Delivery) (why string, err error) {
	e, v := r.proveAgain(d)
	if v.reason != "" {
		return string(v.reason), nil
	}
	redeemed := *d // with its proof, while the caller's stays as it was kept
	return "", r.accept(ctx, e, &redeemed, v)
}

// Verify is Redeem without the storing: what would prove the delivery now, or why
// nothing does.
func (r *Receiver) Verify(d *delivery.Delivery) (delivery.Verification, string) {
	_, v := r.proveAgain(d)
	if v.settle != nil {
		v.settle(false)
	}
	return v.verified, string(v.reason)
}

// proveAgain makes the post that d was and has its endpoint of today prove it.
func (r *Receiver) proveAgain(d *delivery.Delivery) (*endpoint, verdict) {
	e := r.routes.Load().byName[d.Endpoint]
	if e == nil || e.Provider != d.Provider {
		return e, verdict{reason: notFound}
	}
	p := &post{header: http.Header{}, body: d.Body, now: d.Received}
	if d.ContentType != "" {
		p.header.Set("Content-Type", d.ContentType)
	}
	for _, f := range d.Header {
		p.header.Add(f.Name, f.Value)
	}
	gate, why := e.gateAgain(p, d.Verified)
	if why != "" {
		return e, verdict{reason: why}
	}
	v := e.proveBehind(gate, p)
	if v.awaitsKey() && r.rotations.announced(e.Name) {
		v.reason = keyRotation
	}
	return e, v
}

// gateAgain is gate for a delivery whose token or password is known by its
// fingerprint alone: what let it in must still be among today's.
func (e *endpoint) gateAgain(p *post, was delivery.Verification) (delivery.Verification, reason) {
	find := func(keys []Key, method delivery.Method) *Key {
		i := slices.IndexFunc(keys, func(k Key) bool { return was.Method == method && k.Fingerprint() == was.Key })
		if i < 0 {
			return nil
		}
		return &keys[i]
	}
	switch {
	case len(e.Tokens) > 0:
		if p.token = find(e.Tokens, delivery.ByToken); p.token == nil {
			return delivery.Verification{}, badToken
		}
		return delivery.Verification{Method: delivery.ByToken, Key: p.token.Fingerprint(), Sample: p.token.Sample}, ""
	case len(e.BasicAuth) > 0:
		k := find(e.BasicAuth, delivery.ByBasicAuth)
		if k == nil {
			return delivery.Verification{}, badCredentials
		}
		return delivery.Verification{Method: delivery.ByBasicAuth, Key: k.Fingerprint(), Sample: k.Sample}, ""
	}
	return delivery.Verification{Method: delivery.ByNothing}, ""
}
