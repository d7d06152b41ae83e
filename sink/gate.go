package sink

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/goccy/go-json"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// gateSubject is where requests of strangers to create a consumer arrive: the
// account CONSUMERS imports $JS.API.CONSUMER.CREATE.> and
// $JS.API.CONSUMER.DURABLE.CREATE.> from below it.
const gateSubject = "_BLESSD.GATE."

const (
	// maxGateBody bounds a request. Real ones have a few hundred bytes.
	maxGateBody = 64 << 10
	// maxGateDepth bounds the nesting of its JSON. Real ones have three levels.
	maxGateDepth = 16
	// maxGateRequests are handled at once; more wait in the subscription.
	maxGateRequests = 32
	gateTimeout     = 5 * time.Second
)

// gate hands on requests to create or change a consumer, unless they would let
// the server write where a stranger may not. No permission can do that: where a
// push consumer delivers stands in the body.
type gate struct {
	nc   *nats.Conn
	log  *zap.Logger
	busy chan struct{}
	wg   sync.WaitGroup
}

// openGate begins to serve on nc, which belongs to the gate from then on.
func openGate(nc *nats.Conn, log *zap.Logger) (*gate, error) {
	g := &gate{nc: nc, log: log, busy: make(chan struct{}, maxGateRequests)}
	if _, err := nc.Subscribe(gateSubject+">", g.request); err != nil {
		return nil, fmt.Errorf("subscribe the consumer gate: %w", err)
	}
	return g, nc.Flush()
}

// close ends the gate. Requests that are being handled get no answer.
func (g *gate) close() {
	g.nc.Close()
	g.wg.Wait()
}

func (g *gate) request(m *nats.Msg) {
	g.busy <- struct{}{}
	g.wg.Go(func() {
		defer func() { <-g.busy }()
		g.handle(m)
	})
}

func (g *gate) handle(m *nats.Msg) {
	answer, err := g.forward(m)
	if err != nil {
		g.log.Debug("consumer request refused", zap.String("subject", m.Subject), zap.Error(err))
		answer = refusal(err)
	}
	if err := m.Respond(answer); err != nil {
		g.log.Debug("consumer request not answered", zap.String("subject", m.Subject), zap.Error(err))
	}
}

func (g *gate) forward(m *nats.Msg) (answer []byte, err error) {
	body, err := admitted(m.Data)
	if err != nil {
		return nil, err
	}
	r := nats.NewMsg("$JS.API." + strings.TrimPrefix(m.Subject, gateSubject))
	r.Data = body
	// A client may demand an API level; no other header concerns the request.
	const level = "Nats-Required-Api-Level"
	if v := m.Header.Get(level); v != "" {
		r.Header[level] = []string{v}
	}
	a, err := g.nc.RequestMsg(r, gateTimeout)
	if err != nil {
		return nil, fmt.Errorf("hand on: %w", err)
	}
	return a.Data, nil
}

// admitted returns the request written anew, so that the server reads exactly
// what was checked here, whatever duplicate or oddly spelled keys it came with.
func admitted(body []byte) (_ []byte, err error) {
	// The decoder has no known panic; were there one, a stranger could end blessd.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("unreadable request: %v", p)
		}
	}()
	if len(body) > maxGateBody || tooDeep(body) {
		return nil, errors.New("request is too large")
	}
	var r server.CreateConsumerRequest
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, errors.New("request is not readable")
	}
	c := &r.Config
	if c.DeliverSubject != "" && !strings.HasPrefix(c.DeliverSubject, inboxPrefix) {
		return nil, fmt.Errorf("a push consumer may deliver below %s only; or use a pull consumer", inboxPrefix)
	}
	if c.Direct || c.Sourcing {
		return nil, errors.New("direct and sourcing consumers are for servers")
	}
	if strings.HasPrefix(c.Name, ownConsumerPrefix) || strings.HasPrefix(c.Durable, ownConsumerPrefix) {
		return nil, fmt.Errorf("names that begin with %q are blessd's own", ownConsumerPrefix)
	}
	return json.Marshal(&r)
}

// inboxPrefix starts the inboxes of every NATS client by default, with the dot.
const inboxPrefix = "_INBOX."

// tooDeep counts brackets, also those in strings: it may err on the side of
// refusing, which no real request comes near.
func tooDeep(body []byte) bool {
	depth := 0
	for _, c := range body {
		switch c {
		case '{', '[':
			if depth++; depth > maxGateDepth {
				return true
			}
		case '}', ']':
			depth--
		}
	}
	return false
}

// refusal is the answer to a refused request, in the shape that clients expect.
func refusal(err error) []byte {
	b, jerr := json.Marshal(&server.JSApiConsumerCreateResponse{
		ApiResponse: server.ApiResponse{
			Type: server.JSApiConsumerCreateResponseType,
			// The code is that of an invalid deliver subject or configuration.
			Error: &server.ApiError{Code: 403, ErrCode: 10012, Description: "blessd: " + err.Error()},
		},
	})
	if jerr != nil {
		return []byte("-ERR 'refused'")
	}
	return b
}
