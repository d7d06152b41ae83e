package ledger

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The streams, as blessd names them by default.
const (
	Events     = "MAIL_EVENTS"
	Quarantine = "MAIL_QUARANTINE"
)

// Message is what a stream holds under one sequence.
type Message struct {
	Stream  string
	Seq     uint64
	Subject string
	Header  nats.Header
	Data    []byte
}

// Reader reads both streams over a connection of its own, from the first message on.
type Reader struct {
	nc   *nats.Conn
	js   jetstream.JetStream
	next map[string]uint64 // sequence to read next, by stream
	made map[string]time.Time
}

// NewReader connects. It is for one goroutine.
func NewReader(url string) (*Reader, error) {
	nc, err := nats.Connect(url, nats.Name("bench ledger"), nats.MaxReconnects(-1), nats.RetryOnFailedConnect(true),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), // what matters comes back from the calls
		nats.DisconnectErrHandler(nil))
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", url, err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("JetStream at %s: %w", url, err)
	}
	return &Reader{nc: nc, js: js, next: map[string]uint64{}, made: map[string]time.Time{}}, nil
}

// Close disconnects.
func (r *Reader) Close() { r.nc.Close() }

// ErrAnotherStream says that a stream is not the one that was read before. What was
// read of it does not count any more.
var ErrAnotherStream = errors.New("the stream was made anew")

// Read yields what has come into both streams since it was called last.
func (r *Reader) Read(ctx context.Context, yield func(*Message) error) error {
	for _, name := range []string{Events, Quarantine} {
		if err := r.read(ctx, name, yield); err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
	}
	return nil
}

func (r *Reader) read(ctx context.Context, name string, yield func(*Message) error) error {
	s, err := r.js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil // nothing was ever stored
	}
	if err != nil {
		return err
	}
	info := s.CachedInfo()
	if made, ok := r.made[name]; ok && !made.Equal(info.Created) {
		return ErrAnotherStream
	}
	r.made[name] = info.Created
	begin := max(r.next[name], 1)
	if info.State.Msgs == 0 || info.State.LastSeq < begin {
		return nil
	}
	// A stream whose last messages were deleted has nothing up to LastSeq.
	if _, err := s.GetMsg(ctx, begin, jetstream.WithGetMsgSubject(">")); errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil
	}
	c, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: begin})
	if err != nil {
		return err
	}
	messages, err := c.Messages()
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		patience, cancel := context.WithTimeout(ctx, 30*time.Second)
		m, err := messages.Next(jetstream.NextContext(patience))
		cancel()
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		r.next[name] = meta.Sequence.Stream + 1
		if err := yield(&Message{name, meta.Sequence.Stream, m.Subject(), m.Headers(), m.Data()}); err != nil {
			return err
		}
		if meta.NumPending == 0 || meta.Sequence.Stream >= info.State.LastSeq {
			return nil
		}
	}
}

// ReadOversize yields what is in a data directory's oversize/, where bodies go that
// even the quarantine stream does not take, as if it was in quarantine.
func ReadOversize(dir string, yield func(*Message) error) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.*.json"))
	if err != nil {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	for _, file := range files {
		about, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("read %s: %w", dir, err)
		}
		var m struct{ Provider, Endpoint, ID, Reason string }
		if err := json.Unmarshal(about, &m); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		sum, _, _ := strings.Cut(filepath.Base(file), ".")
		data, err := os.ReadFile(filepath.Join(dir, sum))
		if err != nil {
			return fmt.Errorf("read %s: %w", dir, err)
		}
		if is := sha256.Sum256(data); hex.EncodeToString(is[:]) != sum {
			return fmt.Errorf("%s is not what its name says", filepath.Join(dir, sum))
		}
		h := nats.Header{"Nats-Msg-Id": {m.ID}, "Blessd-Provider": {m.Provider}, "Blessd-Endpoint": {m.Endpoint}, "Blessd-Reason": {m.Reason}}
		if err := yield(&Message{Stream: Quarantine, Subject: file, Header: h, Data: data}); err != nil {
			return err
		}
	}
	return nil
}
