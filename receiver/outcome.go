package receiver

import (
	"io"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/time/rate"

	"github.com/blessd/blessd/delivery"
)

// outcome is what came of a request: validated or blessed, or a reason.
type outcome struct {
	reason reason
	probe  bool
	hint   string // for the operator, instead of the reason's own
	err    error
	// unproven is the delivery that arrived whole and was not believed.
	unproven *delivery.Delivery
}

var (
	blessed   = outcome{}
	validated = outcome{probe: true}
)

func refused(why reason) outcome { return outcome{reason: why} }

// reason says why a request was not blessed.
type reason string

const (
	awaitingKey         reason = "awaiting_key"
	badCredentials      reason = "bad_credentials"
	badSignature        reason = "bad_signature"
	badToken            reason = "bad_token"
	forgerySuspected    reason = "forgery_suspected"
	inFlight            reason = "in_flight"
	journalFull         reason = "journal_full"
	keyRotation         reason = "key_rotation"
	lengthRequired      reason = "length_required"
	malformed           reason = "malformed"
	methodNotAllowed    reason = "method_not_allowed"
	missingSignature    reason = "missing_signature"
	notFound            reason = "not_found"
	stale               reason = "stale"
	storeFailed         reason = "store_failed"
	timeout             reason = "timeout"
	tooLarge            reason = "too_large"
	unsupportedEncoding reason = "unsupported_encoding"
)

// refusal is how a reason is answered and logged.
type refusal struct {
	reason reason
	status int
	// close ends the connection, because what is left of the request on it cannot
	// be trusted or is not worth reading.
	close bool
	level zapcore.Level
	hint  string
}

// refusals is the whole of what a request can be refused for, sorted by reason.
var refusals = []refusal{
	{awaitingKey, http.StatusServiceUnavailable, false, zap.WarnLevel, "the endpoint has no key of the provider yet: put the key that the provider shows for this webhook into one of key_files"},
	{badCredentials, http.StatusUnauthorized, false, zap.WarnLevel, "user and password are missing or not those of basic_auth_file: write them into the URL at the provider as https://user:password@host/..."},
	{badSignature, http.StatusUnauthorized, false, zap.WarnLevel, "no key in key_sources made this signature: was it rotated at the provider, or is url not exactly what was registered there?"},
	{badToken, http.StatusNotFound, false, zap.WarnLevel, "the URL at the provider has no token, or not one of token_files"},
	{forgerySuspected, http.StatusUnauthorized, false, zap.WarnLevel, "a signature that was already used came with other content: somebody who saw a request may be forging events; configure token_files and rotate the key"},
	{inFlight, http.StatusServiceUnavailable, true, zap.WarnLevel, "more bytes are arriving at once than limits.max_in_flight_bytes allows"},
	{journalFull, http.StatusServiceUnavailable, false, zap.ErrorLevel, "there is no room for another delivery: is NATS away for long, or the disk full?"},
	{keyRotation, http.StatusServiceUnavailable, false, zap.WarnLevel, "the key of the endpoint is being changed, as was announced, and the new one is not here yet: the delivery is held, and goes in when it is"},
	{lengthRequired, http.StatusLengthRequired, true, zap.WarnLevel, "a POST came without Content-Length and not chunked: does a proxy in front drop them?"},
	{malformed, http.StatusBadRequest, true, zap.WarnLevel, "the body was damaged or ended early on its way: look at the network and the proxy in front"},
	{methodNotAllowed, http.StatusMethodNotAllowed, false, zap.WarnLevel, "only GET, HEAD and POST are answered here"},
	{missingSignature, http.StatusUnauthorized, false, zap.WarnLevel, "the request has no signature: does it come from the provider, and does a proxy in front drop headers?"},
	{notFound, http.StatusNotFound, false, zap.WarnLevel, "no endpoint has this path: compare the URL at the provider with the configuration"},
	{stale, http.StatusUnauthorized, false, zap.WarnLevel, "the signature is older than max_age or lies in the future: is the clock of this machine right?"},
	{storeFailed, http.StatusServiceUnavailable, false, zap.ErrorLevel, "the delivery could not be made durable in time: look at the disk and the journal's errors, or with acknowledge: stream at NATS"},
	{timeout, http.StatusRequestTimeout, true, zap.WarnLevel, "the body did not arrive in time: look at the network and the proxy in front"},
	{tooLarge, http.StatusRequestEntityTooLarge, true, zap.WarnLevel, "the body is larger than limits.max_body"},
	{unsupportedEncoding, http.StatusUnsupportedMediaType, false, zap.WarnLevel, "the body is compressed: does a proxy in front do that?"},
}

// Reasons returns every value of the label "reason", sorted.
func Reasons() []string {
	names := make([]string, len(refusals))
	for i, f := range refusals {
		names[i] = string(f.reason)
	}
	return names
}

func (o outcome) refusal() *refusal {
	for i := range refusals {
		if refusals[i].reason == o.reason {
			return &refusals[i]
		}
	}
	return nil
}

// retryAfter is what a 503 asks of the provider, in seconds.
const retryAfter = "5"

// allowed is what a 405 says.
const allowed = "GET, HEAD, POST"

// answer turns the outcome into the response, the metrics and the log. It counts
// before it writes: who has the answer finds the request counted.
func (r *Receiver) answer(x *exchange, o outcome) {
	status, text := http.StatusOK, ""
	h := x.w.Header()
	closing := r.draining.Load()
	// Where a proxy in front and net/http could disagree on where a request ends,
	// nothing that follows on the connection is served.
	closing = closing || len(x.q.TransferEncoding) > 0 || !x.q.ProtoAtLeast(1, 1)
	f := o.refusal()
	if f == nil {
		text = x.endpoint.provider.acknowledgement
	} else {
		// The text is the status's own: what exactly was wrong is the operator's
		// business, and an unknown endpoint must look like a wrong token.
		status, text = f.status, http.StatusText(f.status)
		closing = closing || f.close
		switch {
		case status == http.StatusServiceUnavailable:
			h.Set("Retry-After", retryAfter)
		case status == http.StatusMethodNotAllowed:
			h.Set("Allow", allowed)
		case f.reason == badCredentials:
			h.Set("WWW-Authenticate", `Basic realm="blessd", charset="UTF-8"`)
		}
	}
	if closing {
		h.Set("Connection", "close")
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Content-Length", strconv.Itoa(len(text)))

	took := time.Since(x.start)
	x.endpoint.metrics.count(x, o, status, took)
	r.logAnswer(x, o, f, status, took)
	if r.watch != nil {
		r.tell(x, o, f, status, took)
	}

	x.w.WriteHeader(status)
	if x.q.Method != http.MethodHead {
		// A sender that is gone comes again; its delivery is stored already.
		_, _ = io.WriteString(x.w, text)
	}
}

func (r *Receiver) logAnswer(x *exchange, o outcome, f *refusal, status int, took time.Duration) {
	e := x.endpoint
	if c := r.log.Check(zap.DebugLevel, "request answered"); c != nil {
		c.Write(zap.String("request_id", x.requestID()), zap.String("provider", e.Provider), zap.String("endpoint", e.Name), zap.Int("code", status),
			zap.String("reason", string(o.reason)), zap.Bool("validation", o.probe), zap.Bool("unproven", o.unproven != nil), zap.Bool("parked", x.parked), zap.Int("bytes", len(x.body)),
			zap.String("verified", string(x.verified.Method)), zap.String("key", x.verified.Key),
			zap.Duration("took", took), zap.String("remote", x.q.RemoteAddr), zap.Error(o.err))
	}
	if f == nil {
		if took < slow {
			return
		}
		if ok, suppressed := e.slow.allow(); ok {
			r.log.Warn("request answered slowly", zap.String("provider", e.Provider), zap.String("endpoint", e.Name),
				zap.String("request_id", x.requestID()), zap.Duration("took", took), zap.Int("bytes", len(x.body)),
				zap.Int64("suppressed", suppressed))
		}
		return
	}
	// Strangers can cause refusals without end: each endpoint and reason has its
	// own allowance, so that a flood of one hides no other.
	ok, suppressed := e.warnings[f.reason].allow()
	if !ok {
		return
	}
	hint := f.hint
	if o.hint != "" {
		hint = o.hint
	}
	fields := []zap.Field{
		zap.String("provider", e.Provider), zap.String("endpoint", e.Name),
		zap.String("reason", string(f.reason)), zap.Int("code", status), zap.String("hint", hint),
	}
	if f.aboutKeys() {
		fields = append(fields, zap.Strings("key_sources", e.keySources()))
	}
	if suppressed > 0 {
		fields = append(fields, zap.Int64("suppressed", suppressed))
	}
	if o.err != nil && (f.reason == journalFull || f.reason == storeFailed) {
		// Errors of the network name the sender's address: they stay at debug.
		fields = append(fields, zap.Error(o.err))
	}
	r.log.Log(f.level, "request refused", fields...)
}

// allowance bounds the log lines of one endpoint and reason.
type allowance struct {
	limit      *rate.Limiter
	suppressed atomic.Int64
}

func newAllowance() *allowance {
	return &allowance{limit: rate.NewLimiter(rate.Every(10*time.Second), 10)}
}

// allow says whether a line may be written, and how many were not since the last.
func (a *allowance) allow() (bool, int64) {
	if !a.limit.Allow() {
		a.suppressed.Add(1)
		return false, 0
	}
	return true, a.suppressed.Swap(0)
}
