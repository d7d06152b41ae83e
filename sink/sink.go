// Package sink puts canonical events and what could not be understood into NATS
// JetStream: streams, subjects, headers, publishing. It is given a connection and
// does not know whose server is behind it, and it knows nothing of providers'
// payloads. The same suite of tests runs against the server that this package
// can embed (see [StartEmbedded]) and against an external one (see [Dial]).
//
// # What is published
//
// An event is one message on <prefix>.events.<provider>.<endpoint>.<family>.<verb>,
// always six tokens. Each comes from a closed list or from the configuration: no
// text of a payload ever gets into a subject. The body is the event's JSON, and
// the headers are CloudEvents 1.0 in binary mode beside Nats-Msg-Id, which is the
// event's id, so that the server suppresses doubles within its duplicate window.
// What could not be understood goes, as received, to
// <prefix>.quarantine.<provider>.<endpoint>.
//
// # Who can read and write the embedded server
//
// The embedded server's listener takes clients without credentials, on loopback
// unless configured otherwise, so that `nats sub 'mail.events.>'` just works.
// Such a stranger can read every event. It can neither forge, change nor delete
// one that is stored. Permissions alone do not achieve that (measured with
// nats-server 2.15.2): the server answers an API request on any reply subject it
// names, so that one with the reply subject mail.events.x.y.email.bounced was
// stored as an event, the status of a pull request with an empty body and the
// reply subject $JS.API.STREAM.PURGE.<stream> purged the stream, and a snapshot
// or a push consumer delivers wherever its request says. Therefore:
//
//   - The streams live in the account BLESSD, strangers in the account CONSUMERS,
//     which has no JetStream of its own. It imports <prefix>.> to listen, and of
//     the JetStream API only what reads. Answers are delivered inside CONSUMERS.
//   - Requests to create a consumer pass a gate (gate.go), which parses them,
//     refuses a push consumer that delivers anywhere but to an inbox, and hands
//     on what it has itself written.
//   - blessd's own inboxes have a prefix of their own, which CONSUMERS does not
//     see, so that nobody can forge the acknowledgements that blessd waits for.
//
// What remains possible for a stranger: to disturb others without credentials,
// since all of them are one user. It can delete their durable consumers, fetch
// from them and acknowledge in their name, see their inboxes, and have the server
// send them what they did not ask for: real events, or answers of the API, even
// on an event's subject (event.Decode refuses the latter; nothing of it is
// stored). It can waste memory and processor time. Who must exclude that gives
// the server a configuration file with users, see [EmbeddedOptions].ConfigFile.
// In such a file, and on an external server, any user who may use the JetStream
// API in the streams' account is as powerful as one who may publish to them.
package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// ownConsumerPrefix starts the names of blessd's own consumers. The gate lets
// nobody else use it.
const ownConsumerPrefix = "blessd-"

// Options are what a Sink needs beside its connection.
type Options struct {
	// Prefix is the first token of every subject, usually "mail".
	Prefix string
	// CETypePrefix starts the CloudEvents type, usually "blessd".
	CETypePrefix string
	// Events and Quarantine are the two streams.
	Events, Quarantine StreamConfig
	// MaxPending bounds the messages that wait for their acknowledgement.
	// Optional, default 4096. A server that syncs each message handles some
	// hundred in a second: the last of a full window must still be acknowledged
	// within PublishTimeout.
	MaxPending int
	// PublishTimeout is how long an acknowledgement is waited for. Optional,
	// default 5 s.
	PublishTimeout time.Duration
	// Manage says that the server is ours: existing streams are changed to what
	// is configured.
	Manage bool
	// Mode is the label of blessd_nats_info: "embedded" or "external".
	Mode string
	// Version is blessd's, for the streams' metadata. Optional.
	Version string
	// Log and Registerer are required.
	Log        *zap.Logger
	Registerer prometheus.Registerer
}

// Sink publishes to JetStream and reads back what is stored. It starts nothing
// and is safe for concurrent use.
type Sink struct {
	nc  *nats.Conn
	js  jetstream.JetStream
	o   Options
	log *zap.Logger
	m   *metrics
}

// New returns a Sink on nc, which stays the caller's. It talks to nobody, so nc
// need not be connected yet.
func New(nc *nats.Conn, o Options) (*Sink, error) {
	if err := checkToken("subject prefix", o.Prefix); err != nil {
		return nil, err
	}
	if o.CETypePrefix == "" || percentEncode(o.CETypePrefix) != o.CETypePrefix || len(o.CETypePrefix) > 64 {
		return nil, fmt.Errorf("prefix %.80q of CloudEvents types must be 1 to 64 printable ASCII characters", o.CETypePrefix)
	}
	for _, c := range []StreamConfig{o.Events, o.Quarantine} {
		if c.Name == "" || strings.ContainsAny(c.Name, " \t\r\n.*>/\\") {
			return nil, fmt.Errorf("stream name %q must not be empty nor contain blanks, dots, stars, > or slashes", c.Name)
		}
	}
	if o.Events.Name == o.Quarantine.Name {
		return nil, fmt.Errorf("events and quarantine must be two streams, both are %q", o.Events.Name)
	}
	if o.MaxPending <= 0 {
		o.MaxPending = 4096
	}
	if o.PublishTimeout <= 0 {
		o.PublishTimeout = 5 * time.Second
	}
	s := &Sink{nc: nc, o: o, log: o.Log}
	var err error
	if s.m, err = newMetrics(nc, o); err != nil {
		return nil, err
	}
	s.js, err = jetstream.New(
		nc,
		jetstream.WithPublishAsyncMaxPending(o.MaxPending),
		jetstream.WithPublishAsyncTimeout(o.PublishTimeout),
		jetstream.WithPublishAsyncAckHandler(func(_ jetstream.JetStream, m *nats.Msg, _ *jetstream.PubAck) { s.m.acked(m) }),
		jetstream.WithPublishAsyncErrHandler(func(_ jetstream.JetStream, m *nats.Msg, err error) { s.m.failed(m, err) }),
	)
	if err != nil {
		return nil, fmt.Errorf("jetstream: %w", err)
	}
	return s, nil
}

// EventsStream returns the name of the stream of events.
func (s *Sink) EventsStream() string { return s.o.Events.Name }

// QuarantineStream returns the name of the stream of what was not understood.
func (s *Sink) QuarantineStream() string { return s.o.Quarantine.Name }

// Publish sends m, made by EventMessage or QuarantineMessage, and returns at
// once; the future tells when the server has stored it. It blocks while
// Options.MaxPending messages wait for their acknowledgement, at most
// Options.PublishTimeout. Nothing is buffered while the connection is away: the
// error comes at once then. Errors, here and from the future, are for Classify.
// The same message must not be published again before its future is resolved.
//
// After an error the message may have been stored all the same. Publishing it
// again is safe within the duplicate window.
func (s *Sink) Publish(m *nats.Msg) (jetstream.PubAckFuture, error) {
	stream := s.o.Events.Name
	if strings.HasPrefix(m.Subject, s.o.Prefix+".quarantine.") {
		stream = s.o.Quarantine.Name
	}
	if !s.nc.IsConnected() {
		// A connection that was never there would keep the message for later.
		s.m.refused(nats.ErrDisconnected)
		return nil, nats.ErrDisconnected
	}
	s.m.sent(m)
	f, err := s.js.PublishMsgAsync(
		m,
		jetstream.WithExpectStream(stream), // never into somebody else's stream on the same subjects
		jetstream.WithRetryAttempts(0),     // the relay decides
		jetstream.WithStallWait(s.o.PublishTimeout),
	)
	if err != nil {
		s.m.failed(m, err)
		return nil, err
	}
	return f, nil
}

// The reasons why publishing fails: what Classify returns.
const (
	ReasonTimeout      = "timeout"
	ReasonNoStream     = "no_stream"
	ReasonStreamFull   = "stream_full"
	ReasonDisconnected = "disconnected"
	ReasonTooLarge     = "too_large"
	ReasonOther        = "other"
)

// reasons is sorted, so that the metrics made of it are stable.
var reasons = []string{ReasonDisconnected, ReasonNoStream, ReasonOther, ReasonStreamFull, ReasonTimeout, ReasonTooLarge}

// Reasons returns every reason of Classify, sorted. The slice is the caller's.
func Reasons() []string { return append([]string(nil), reasons...) }

// codes are the server's answers that have a reason of their own. Those that say
// "too large" concern the message alone: it can never be stored.
var codes = map[jetstream.ErrorCode]string{
	10002: ReasonStreamFull, // resource limits exceeded for account
	10008: ReasonNoStream,   // JetStream system temporarily unavailable
	10023: ReasonStreamFull, // insufficient resources
	10028: ReasonStreamFull, // memory resources exceeded
	10039: ReasonNoStream,   // JetStream not enabled for account
	10047: ReasonStreamFull, // insufficient storage resources available
	10054: ReasonTooLarge,   // message size exceeds maximum allowed
	10059: ReasonNoStream,   // stream not found
	10060: ReasonNoStream,   // another stream than the expected one took it
	10076: ReasonNoStream,   // JetStream not enabled
	10097: ReasonTooLarge,   // header size exceeds maximum allowed of 64k
	10118: ReasonNoStream,   // stream is offline
	10194: ReasonNoStream,   // stream is offline, with a reason
}

// Classify says why publishing failed, as one of Reasons, and whether that is
// final: this message can never be stored, however often it is sent. Whatever is
// not known to be final is not. For nil the reason is "".
func Classify(err error) (reason string, final bool) {
	is := func(targets ...error) bool {
		for _, t := range targets {
			if errors.Is(err, t) {
				return true
			}
		}
		return false
	}
	var api *jetstream.APIError
	switch {
	case err == nil:
		return "", false
	case errors.As(err, &api):
		reason = codes[api.ErrorCode]
		if reason == "" {
			reason = byDescription(api)
		}
		return reason, reason == ReasonTooLarge
	case is(nats.ErrMaxPayload):
		return ReasonTooLarge, true
	case is(nats.ErrBadSubject, nats.ErrBadHeaderMsg):
		return ReasonOther, true
	case is(jetstream.ErrNoStreamResponse, nats.ErrNoResponders, jetstream.ErrStreamNotFound, jetstream.ErrJetStreamNotEnabled):
		return ReasonNoStream, false
	case is(jetstream.ErrAsyncPublishTimeout, jetstream.ErrTooManyStalledMsgs, nats.ErrTimeout, context.DeadlineExceeded):
		return ReasonTimeout, false
	case is(nats.ErrDisconnected, nats.ErrReconnectBufExceeded, nats.ErrConnectionClosed, nats.ErrConnectionReconnecting,
		nats.ErrConnectionDraining, nats.ErrInvalidConnection, nats.ErrStaleConnection, nats.ErrNoServers, io.EOF, io.ErrClosedPipe):
		return ReasonDisconnected, false
	}
	return ReasonOther, false
}

// byDescription tells apart what the server answers under one code: when its
// store refuses a message, the code is always 10077.
func byDescription(e *jetstream.APIError) string {
	if e.ErrorCode != 10077 {
		return ReasonOther
	}
	switch {
	case strings.Contains(e.Description, "maximum messages"), strings.Contains(e.Description, "maximum bytes"),
		strings.Contains(e.Description, "no space left"):
		return ReasonStreamFull
	case strings.Contains(e.Description, "message too large"):
		return ReasonTooLarge
	}
	return ReasonOther
}
