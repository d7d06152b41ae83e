package sink

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/blessd/blessd/event"
)

// StreamConfig is what an operator decides about a stream.
type StreamConfig struct {
	// Name is the stream's name.
	Name string
	// MaxAge is how long messages are kept; zero means for ever.
	MaxAge time.Duration
	// MaxBytes is how much is kept; zero means no limit but the disk.
	MaxBytes int64
	// DuplicateWindow is how long the server remembers ids. Each costs it about
	// 150 bytes of memory.
	DuplicateWindow time.Duration
	// Replicas is how many servers keep a copy; zero means 1.
	Replicas int
	// Refuse makes a full stream refuse new messages. Else the oldest go.
	Refuse bool
}

// Mismatch says that a stream which exists is not what blessd needs. Nothing was
// changed.
type Mismatch struct {
	// Stream is its name.
	Stream string
	// Differences has a sentence for each.
	Differences []string
}

// Error names the stream and every difference.
func (m *Mismatch) Error() string {
	return fmt.Sprintf("stream %s is not what blessd needs: %s", m.Stream, strings.Join(m.Differences, "; "))
}

// State is the state of one stream.
type State struct {
	// FirstSeq is the sequence of the oldest message, LastSeq that of the
	// newest there ever was. In an empty stream FirstSeq is LastSeq+1.
	FirstSeq, LastSeq uint64
	// FirstTime is when the oldest message was stored; zero in an empty stream.
	FirstTime time.Time
	// Created tells a stream from one that was made anew under the same name.
	Created time.Time
	// Msgs and Bytes are what is stored.
	Msgs, Bytes uint64
	// Limit is the most bytes it keeps, -1 for no limit.
	Limit int64
	// MaxAge is how long it keeps a message, 0 for ever.
	MaxAge time.Duration
	// Refuses says that a full stream takes nothing more. Else its oldest go.
	Refuses bool
	// Replicas is how many servers keep a copy.
	Replicas int
}

// Ensure creates the streams that are missing. With Options.Manage it changes
// existing ones to what Options says and logs what it changed. Without, it
// verifies them: an error then wraps one *Mismatch for each stream that would
// lose or refuse what blessd stores, and nothing is changed. What only differs,
// such as more room than asked for or other metadata, is no mismatch.
func (s *Sink) Ensure(ctx context.Context) error {
	if err := s.reachable(); err != nil {
		return err
	}
	return errors.Join(s.ensure(ctx, s.eventsConfig()), s.ensure(ctx, s.quarantineConfig()))
}

// reachable returns why no request can be sent. Without it a request on a
// connection that is not up fails for want of a buffer, which says nothing; and of a
// handshake that fails, as with a certificate, only the connection itself knows.
func (s *Sink) reachable() error {
	if s.nc.IsConnected() {
		return nil
	}
	if last := s.nc.LastError(); last != nil && !errors.Is(last, nats.ErrDisconnected) {
		return fmt.Errorf("not connected to NATS: %w: %w", nats.ErrDisconnected, last)
	}
	return fmt.Errorf("not connected to NATS: %w", nats.ErrDisconnected)
}

// explained adds what an error means that the server does not explain.
func explained(err error) error {
	if errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("%w: is JetStream enabled on this server, and for this account?", err)
	}
	return err
}

func (s *Sink) eventsConfig() jetstream.StreamConfig {
	c := s.streamConfig(s.o.Events, eventSubjects(s.o.Prefix))
	c.Description = "Canonical events of e-mail providers, written by blessd"
	return c
}

func (s *Sink) quarantineConfig() jetstream.StreamConfig {
	c := s.streamConfig(s.o.Quarantine, quarantineSubjects(s.o.Prefix))
	c.Description = "Deliveries that blessd could not understand, as received"
	c.Discard = jetstream.DiscardNew // what nobody has looked at must not make room by itself
	return c
}

func (s *Sink) streamConfig(c StreamConfig, subjects string) jetstream.StreamConfig {
	sc := jetstream.StreamConfig{
		Name:        c.Name,
		Subjects:    []string{subjects},
		Retention:   jetstream.LimitsPolicy,
		Storage:     jetstream.FileStorage,
		Discard:     jetstream.DiscardOld,
		MaxAge:      c.MaxAge,
		MaxBytes:    c.MaxBytes,
		MaxMsgs:     -1,
		Duplicates:  c.DuplicateWindow,
		Replicas:    max(c.Replicas, 1),
		Compression: jetstream.NoCompression,
		// `nats server check stream` reads thresholds from here.
		Metadata: map[string]string{
			"io.nats.monitor.enabled":     "1",
			"io.nats.monitor.peer-expect": strconv.Itoa(max(c.Replicas, 1)),
		},
	}
	if c.MaxBytes <= 0 {
		sc.MaxBytes = -1
	}
	if c.Refuse {
		sc.Discard = jetstream.DiscardNew
	}
	if s.o.Version != "" {
		sc.Metadata["blessd.version"] = s.o.Version
	}
	return sc
}

func (s *Sink) ensure(ctx context.Context, want jetstream.StreamConfig) error {
	st, err := s.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if _, err := s.js.CreateStream(ctx, want); err != nil {
			return fmt.Errorf("create stream %s: %w", want.Name, err)
		}
		s.log.Info("stream created", zap.String("stream", want.Name), zap.Strings("subjects", want.Subjects))
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up stream %s: %w", want.Name, explained(err))
	}
	have := st.CachedInfo().Config
	if !s.o.Manage {
		if d := dangers(have, want); len(d) > 0 {
			return &Mismatch{Stream: want.Name, Differences: d}
		}
		return nil
	}
	changed, d := adjusted(have, want)
	if len(d) == 0 {
		return nil
	}
	if _, err := s.js.UpdateStream(ctx, changed); err != nil {
		return fmt.Errorf("update stream %s (%s): %w", want.Name, strings.Join(d, "; "), err)
	}
	s.log.Info("stream updated", zap.String("stream", want.Name), zap.Strings("changes", d))
	return nil
}

// dangers lists what of have would lose, refuse or hide messages that a stream
// of want keeps.
func dangers(have, want jetstream.StreamConfig) []string {
	var d []string
	add := func(format string, a ...any) { d = append(d, fmt.Sprintf(format, a...)) }
	if !slices.Contains(have.Subjects, want.Subjects[0]) {
		add("its subjects are %q and not %q", have.Subjects, want.Subjects)
	}
	if have.Mirror != nil {
		add("it is a mirror")
	}
	if have.SubjectTransform != nil {
		add("it stores messages under other subjects (subject_transform)")
	}
	if have.Storage != want.Storage {
		add("its storage is %s, so that a restart empties it, and not %s", have.Storage, want.Storage)
	}
	if have.PersistMode == jetstream.AsyncPersistMode {
		add("its persist_mode is async, so that it acknowledges before it writes")
	}
	if have.Retention != want.Retention {
		add("its retention is %s, so that reading removes messages, and not %s", have.Retention, want.Retention)
	}
	if have.Discard != want.Discard {
		add("when full it %s and does not do what was configured: it %s", discarding(have.Discard), discarding(want.Discard))
	}
	if less(int64(have.MaxAge), int64(want.MaxAge)) {
		add("it keeps messages for %s and not for %s", have.MaxAge, duration(want.MaxAge))
	}
	if less(have.MaxBytes, want.MaxBytes) {
		add("it keeps %d bytes and not %s", have.MaxBytes, bytes(want.MaxBytes))
	}
	if have.MaxMsgs > 0 {
		add("it keeps only %d messages", have.MaxMsgs)
	}
	if have.MaxMsgsPerSubject > 0 {
		add("it keeps only %d messages of a subject", have.MaxMsgsPerSubject)
	}
	if have.MaxMsgSize > 0 && have.MaxMsgSize < minMaxMsgSize {
		add("it refuses messages above %d bytes (max_msg_size)", have.MaxMsgSize)
	}
	if have.Duplicates < want.Duplicates {
		add("it remembers ids for %s and not for %s (duplicate_window)", have.Duplicates, want.Duplicates)
	}
	if have.Replicas < want.Replicas {
		add("it has %d replicas and not %d", have.Replicas, want.Replicas)
	}
	if have.NoAck {
		add("it acknowledges nothing (no_ack)")
	}
	if have.Sealed {
		add("it is sealed")
	}
	return d
}

// minMaxMsgSize is a limit on messages below which ordinary events would be
// refused: it is the default of a server.
const minMaxMsgSize = 1 << 20

// less compares limits, of which zero and below mean none.
func less(have, want int64) bool { return have > 0 && (want <= 0 || have < want) }

func discarding(p jetstream.DiscardPolicy) string {
	if p == jetstream.DiscardNew {
		return "refuses new messages"
	}
	return "removes the oldest messages"
}

func duration(d time.Duration) string {
	if d <= 0 {
		return "ever"
	}
	return d.String()
}

func bytes(n int64) string {
	if n <= 0 {
		return "without a limit"
	}
	return strconv.FormatInt(n, 10)
}

// adjusted returns have with blessd's fields taken from want, and what that
// changes. Fields that blessd does not care about keep their values.
func adjusted(have, want jetstream.StreamConfig) (jetstream.StreamConfig, []string) {
	var d []string
	add := func(what string, from, to any) { d = append(d, fmt.Sprintf("%s %v becomes %v", what, from, to)) }
	c := have
	if !slices.Equal(have.Subjects, want.Subjects) {
		add("subjects", have.Subjects, want.Subjects)
	}
	if have.Storage != want.Storage {
		add("storage", have.Storage, want.Storage)
	}
	if have.Retention != want.Retention {
		add("retention", have.Retention, want.Retention)
	}
	if have.Discard != want.Discard {
		add("discard", have.Discard, want.Discard)
	}
	if have.MaxAge != want.MaxAge {
		add("max_age", have.MaxAge, want.MaxAge)
	}
	if have.MaxBytes != want.MaxBytes {
		add("max_bytes", have.MaxBytes, want.MaxBytes)
	}
	if have.MaxMsgs > 0 {
		add("max_msgs", have.MaxMsgs, want.MaxMsgs)
	}
	if have.MaxMsgsPerSubject > 0 {
		add("max_msgs_per_subject", have.MaxMsgsPerSubject, "none")
	}
	if have.MaxMsgSize > 0 {
		add("max_msg_size", have.MaxMsgSize, "none")
	}
	// Zero leaves the choice to the server.
	if want.Duplicates != 0 && have.Duplicates != want.Duplicates {
		add("duplicate_window", have.Duplicates, want.Duplicates)
		c.Duplicates = want.Duplicates
	}
	if have.Replicas != want.Replicas {
		add("replicas", have.Replicas, want.Replicas)
	}
	if have.Description != want.Description {
		add("description", strconv.Quote(have.Description), strconv.Quote(want.Description))
	}
	c.Subjects, c.Storage, c.Retention, c.Discard = want.Subjects, want.Storage, want.Retention, want.Discard
	c.MaxAge, c.MaxBytes, c.Replicas, c.Description = want.MaxAge, want.MaxBytes, want.Replicas, want.Description
	c.MaxMsgs, c.MaxMsgsPerSubject, c.MaxMsgSize = -1, -1, -1
	c.Metadata = maps.Clone(have.Metadata)
	if c.Metadata == nil {
		c.Metadata = map[string]string{}
	}
	for _, k := range slices.Sorted(maps.Keys(want.Metadata)) {
		if v := want.Metadata[k]; c.Metadata[k] != v {
			add("metadata "+k, strconv.Quote(c.Metadata[k]), strconv.Quote(v))
			c.Metadata[k] = v
		}
	}
	return c, d
}

// requestTimeout bounds one request to the server: one that is on its way when
// the connection breaks is never answered.
const requestTimeout = 5 * time.Second

// State returns the state of the stream of that name.
func (s *Sink) State(ctx context.Context, stream string) (State, error) {
	if err := s.reachable(); err != nil {
		return State{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	st, err := s.js.Stream(ctx, stream)
	if err != nil {
		return State{}, fmt.Errorf("state of stream %s: %w", stream, explained(err))
	}
	i := st.CachedInfo()
	v := State{
		FirstSeq: i.State.FirstSeq,
		LastSeq:  i.State.LastSeq,
		Created:  i.Created,
		Msgs:     i.State.Msgs,
		Bytes:    i.State.Bytes,
		Limit:    i.Config.MaxBytes,
		MaxAge:   i.Config.MaxAge,
		Refuses:  i.Config.Discard == jetstream.DiscardNew,
		Replicas: i.Config.Replicas,
	}
	if v.Msgs > 0 {
		v.FirstTime = i.State.FirstTime
	} else {
		v.FirstSeq = v.LastSeq + 1
	}
	return v, nil
}

// LastReceived returns when blessd received the newest event of an endpoint that
// is still stored, and the zero time when there is none.
func (s *Sink) LastReceived(ctx context.Context, provider, endpoint string) (time.Time, error) {
	for _, token := range []string{provider, endpoint} {
		if err := checkToken("provider or endpoint", token); err != nil {
			return time.Time{}, err
		}
	}
	if err := s.reachable(); err != nil {
		return time.Time{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	fail := func(err error) (time.Time, error) {
		return time.Time{}, fmt.Errorf("last event of %s/%s: %w", provider, endpoint, explained(err))
	}
	st, err := s.js.Stream(ctx, s.o.Events.Name)
	if err != nil {
		return fail(err)
	}
	m, err := st.GetLastMsgForSubject(ctx, strings.Join([]string{s.o.Prefix, "events", provider, endpoint, ">"}, "."))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return fail(err)
	}
	e, err := event.Decode(m.Data)
	if err != nil {
		return m.Time, nil // somebody else's message, but a sign of life
	}
	return e.Received.Time, nil
}

// quiet is how long IDs waits for the next message before it asks whether there
// is one. Within that time two heartbeats must be missed: that is how the client
// notices that its consumer is gone.
const (
	quiet     = 2 * time.Second
	heartbeat = 500 * time.Millisecond
	// readAhead is what read asks for at a time when bodies travel. It is well above
	// the largest body.
	readAhead = 64 << 20
)

// IDs calls yield with the Nats-Msg-Id and the sequence of every message of the
// stream with a sequence above after, in order, up to the last sequence there
// was when IDs began. Only headers travel. Messages without an id, which blessd
// did not write, are passed over. When IDs returns nil nothing was left out;
// after an error, yield may have been called for a part.
func (s *Sink) IDs(ctx context.Context, stream string, after uint64, yield func(id string, seq uint64)) error {
	return s.read(ctx, stream, after, true, func(m jetstream.Msg, seq uint64) error {
		if id := m.Headers().Get(headerID); id != "" {
			yield(id, seq)
		}
		return nil
	})
}

// read calls yield with every message above after, in order, up to the last one that
// there was when it began. An error of yield ends it and is returned as it is.
func (s *Sink) read(ctx context.Context, stream string, after uint64, headersOnly bool, yield func(m jetstream.Msg, seq uint64) error) error {
	fail := func(err error) error { return fmt.Errorf("read stream %s: %w", stream, err) }
	state, err := s.State(ctx, stream)
	if err != nil {
		return err
	}
	last := state.LastSeq
	if state.Msgs == 0 || last <= after {
		return nil
	}
	start := max(after+1, state.FirstSeq)
	setup, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	st, err := s.js.Stream(setup, stream)
	if err != nil {
		return fail(err)
	}
	// An ordered consumer notices a gap, a lost connection and its own deletion,
	// and starts again behind the last message that it handed over.
	cons, err := s.js.OrderedConsumer(setup, stream, jetstream.OrderedConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       start,
		HeadersOnly:       headersOnly,
		InactiveThreshold: 30 * time.Second,
		NamePrefix:        ownConsumerPrefix + rand.Text(),
	})
	if err != nil {
		return fail(err)
	}
	var pull jetstream.PullMessagesOpt = jetstream.PullMaxMessages(4096)
	if !headersOnly {
		pull = jetstream.PullMaxBytes(readAhead)
	}
	it, err := cons.Messages(pull, jetstream.PullExpiry(10*time.Second), jetstream.PullHeartbeat(heartbeat))
	if err != nil {
		return fail(err)
	}
	defer it.Stop()
	for at := start; at <= last; {
		wait, cancel := context.WithTimeout(ctx, quiet)
		m, err := it.Next(jetstream.NextContext(wait))
		cancel()
		if ctx.Err() != nil {
			return fail(ctx.Err())
		}
		if errors.Is(err, context.DeadlineExceeded) {
			// Perhaps the rest was removed meanwhile and nothing will come.
			ask, cancel := context.WithTimeout(ctx, requestTimeout)
			m, err := st.GetMsg(ask, at, jetstream.WithGetMsgSubject(">"))
			cancel()
			if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && m.Sequence > last {
				return nil
			}
			continue
		}
		if errors.Is(err, jetstream.ErrNoHeartbeat) {
			continue // the connection was away; the consumer goes on by itself
		}
		if err != nil {
			return fail(err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return fail(err)
		}
		seq := meta.Sequence.Stream
		if seq > last {
			return nil
		}
		if err := yield(m, seq); err != nil {
			return err
		}
		if meta.NumPending == 0 {
			return nil // what is between here and last was removed
		}
		at = seq + 1
	}
	return nil
}
