package receiver

import (
	"slices"
	"strings"
	"time"

	"github.com/blessd/blessd/delivery"
)

// Answered is what may be told of a request that was answered. It holds nothing of
// the body and no secret; UserAgent alone is the sender's word.
type Answered struct {
	At       time.Time
	Provider string // "unmatched" where no endpoint has the path
	Endpoint string // "unmatched" likewise
	Status   int
	// Reason is why it was refused, one of Reasons; "" when it was not.
	Reason string
	// Hint says what to do about Reason.
	Hint string
	// KeySources are where the endpoint's keys are from, when Reason is about these.
	KeySources []string
	// Probe is true when the provider tried the URL: there was nothing to store.
	Probe bool
	// Bytes is how much of the body arrived.
	Bytes    int
	Verified delivery.Verification
	// Signature is what a signature was that is not enforced: the variant of signing
	// that matched, or "none", "missing" or "ambiguous"; "" where it is enforced.
	Signature string
	UserAgent string // 120 bytes of it at most
	Took      time.Duration
}

// Watch has f told of every request when its answer is certain and before it is
// written. The request waits for f, so f must be quick and wait for nothing. Watch
// must be called before the first request.
func (r *Receiver) Watch(f func(Answered)) { r.watch = f }

// maxUserAgent is how much of a User-Agent is told.
const maxUserAgent = 120

func (r *Receiver) tell(x *exchange, o outcome, f *refusal, status int, took time.Duration) {
	a := Answered{
		At: x.start, Provider: x.endpoint.Provider, Endpoint: x.endpoint.Name, Status: status, Reason: string(o.reason), Probe: o.probe,
		Bytes: len(x.body), Verified: x.verified, Signature: x.report, Took: took,
	}
	if f != nil {
		a.Hint = f.hint
		if o.hint != "" {
			a.Hint = o.hint
		}
		if f.aboutKeys() {
			a.KeySources = x.endpoint.keySources()
		}
	}
	if a.UserAgent = x.q.UserAgent(); len(a.UserAgent) > maxUserAgent {
		// A copy, so that a long one is not kept for its beginning.
		a.UserAgent = strings.Clone(strings.ToValidUTF8(a.UserAgent[:maxUserAgent], ""))
	}
	r.watch(a)
}

// aboutKeys says whether it helps to know where the keys are from.
func (f *refusal) aboutKeys() bool {
	return slices.Contains([]reason{badSignature, awaitingKey, keyRotation}, f.reason)
}
