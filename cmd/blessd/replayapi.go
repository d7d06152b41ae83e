package main

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/goccy/go-json"
	"go.uber.org/zap"

	"github.com/blessd/blessd/relay"
	"github.com/blessd/blessd/unverified"
)

// replayRequest is what POST /-/replay takes. Every field may be left out.
type replayRequest struct {
	// Unverified redeems refused deliveries instead of replaying the quarantine.
	Unverified bool `json:"unverified"`
	// DryRun changes nothing.
	DryRun bool `json:"dry_run"`
	// QuarantineOnly leaves the oversize files alone.
	QuarantineOnly bool `json:"quarantine_only"`
	// What is empty chooses all.
	Endpoints []string `json:"endpoints,omitempty"`
	Providers []string `json:"providers,omitempty"`
	Reasons   []string `json:"reasons,omitempty"`
	// Since and Until bound the time of receipt; Until itself is outside.
	Since *time.Time `json:"since,omitempty"`
	Until *time.Time `json:"until,omitempty"`
}

func (q *replayRequest) filter() unverified.Filter {
	f := unverified.Filter{Endpoints: q.Endpoints, Providers: q.Providers, Reasons: q.Reasons}
	if q.Since != nil {
		f.Since = *q.Since
	}
	if q.Until != nil {
		f.Until = *q.Until
	}
	return f
}

// replayLine is a line of the answer: how far it is, or with Done what came of it.
type replayLine struct {
	Done   bool `json:"done"`
	DryRun bool `json:"dry_run"`
	// Error is why it ended early. What was done until then is done.
	Error      string               `json:"error,omitempty"`
	Quarantine *relay.ReplaySummary `json:"quarantine,omitempty"`
	Unverified *unverified.Summary  `json:"unverified,omitempty"`
}

const (
	maxReplayRequest = 64 << 10
	// progressEvery is how often the answer says how far it is.
	progressEvery = time.Second
	// lineTime is how long a client may take to read a line: it must not hold up a
	// stop.
	lineTime = 3 * time.Second
)

// errReplayStopped is why a replay or an erasure ends when blessd does.
var errReplayStopped = errors.New("blessd is stopping: what was done is done, and the same command does the rest")

// replays lets one replay or erasure run at a time, and none once blessd stops.
type replays struct {
	turn chan struct{}
	ctx  context.Context
	stop context.CancelFunc
}

func newReplays() *replays {
	ctx, stop := context.WithCancel(context.Background())
	return &replays{turn: make(chan struct{}, 1), ctx: ctx, stop: stop}
}

// begin returns false while another one runs. Else end must be called.
func (r *replays) begin(parent context.Context) (ctx context.Context, end func(), ok bool) {
	select {
	case r.turn <- struct{}{}:
	default:
		return nil, nil, false
	}
	ctx, cancel := context.WithCancelCause(parent)
	forget := context.AfterFunc(r.ctx, func() { cancel(errReplayStopped) })
	return ctx, func() { forget(); cancel(nil); <-r.turn }, true
}

// ended waits for the one that runs, and keeps the turn.
func (r *replays) ended(ctx context.Context) error {
	select {
	case r.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// serveReplay answers POST /-/replay with a line of JSON for each second and one at
// the end.
func (d *daemon) serveReplay(w http.ResponseWriter, q *http.Request) {
	var o replayRequest
	in := json.NewDecoder(http.MaxBytesReader(w, q.Body, maxReplayRequest))
	in.DisallowUnknownFields()
	if err := in.Decode(&o); err != nil {
		answer(w, http.StatusBadRequest, "the request is not the JSON that /-/replay takes")
		return
	}
	if o.Unverified && d.redeemer == nil {
		answer(w, http.StatusConflict, "no refused deliveries are kept: unverified.max_bytes is 0")
		return
	}
	ctx, end, ok := d.beginWork(w, q)
	if !ok {
		return
	}
	defer end()
	say := d.answerLines(w)
	line := d.replay(ctx, &o, func(line replayLine) {
		line.DryRun = o.DryRun
		say(line, false)
	})
	line.Done, line.DryRun = true, o.DryRun
	end() // who has the answer may ask for the next
	say(line, true)
}

// beginWork gives q the turn of those that take long, or refuses it. After ok the
// caller calls end, once or more often.
func (d *daemon) beginWork(w http.ResponseWriter, q *http.Request) (ctx context.Context, end func(), ok bool) {
	ctx, end, ok = d.replays.begin(q.Context())
	switch {
	case d.draining.Load():
		if ok {
			end()
		}
		answer(w, http.StatusServiceUnavailable, "blessd is stopping")
		return nil, nil, false
	case !ok:
		answer(w, http.StatusConflict, "another replay or erasure is running")
		return nil, nil, false
	}
	return ctx, sync.OnceFunc(end), true
}

// answerLines begins an answer of lines of JSON: some that say how far it is, of
// which it leaves out all but one a second, and a last one.
func (d *daemon) answerLines(w http.ResponseWriter) func(line any, last bool) {
	out := http.NewResponseController(w)
	// The deadline for the request's headers and body would end the context.
	_ = out.SetReadDeadline(time.Time{}) // a test's recorder has none
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	var said time.Time
	return func(line any, last bool) {
		if now := time.Now(); !last {
			if now.Sub(said) < progressEvery {
				return
			}
			said = now
		}
		b, err := json.MarshalWithOption(line, json.DisableHTMLEscape())
		if err != nil {
			d.log.Error("an answer cannot be encoded", zap.Error(err))
			return
		}
		_ = out.SetWriteDeadline(time.Now().Add(lineTime))
		_, _ = w.Write(append(b, '\n')) // a client that has gone ends the context
		_ = out.Flush()
	}
}

// replayer is what has the quarantine.
func (d *daemon) replayer() interface {
	Replay(context.Context, relay.ReplayOptions) (relay.ReplaySummary, error)
} {
	if d.direct != nil {
		return d.direct
	}
	return d.relay
}

// replay does what o says and returns what came of it.
func (d *daemon) replay(ctx context.Context, o *replayRequest, say func(replayLine)) (line replayLine) {
	start := time.Now()
	var err error
	if o.Unverified {
		var sum unverified.Summary
		redeem := d.redeemer.redeem
		if o.DryRun {
			redeem = d.redeemer.dryRun
		}
		sum, err = redeem(ctx, d.receiver, o.filter(), func(s unverified.Summary) { say(replayLine{Unverified: &s}) })
		line.Unverified = &sum
	} else {
		var sum relay.ReplaySummary
		sum, err = d.replayer().Replay(ctx, relay.ReplayOptions{
			Choose: o.filter().Chooses, Oversize: !o.QuarantineOnly, DryRun: o.DryRun,
			Progress: func(s relay.ReplaySummary) { say(replayLine{Quarantine: &s}) },
		})
		line.Quarantine = &sum
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	fields := []zap.Field{zap.Bool("unverified", o.Unverified), zap.Bool("dry_run", o.DryRun), zap.Duration("took", time.Since(start))}
	if q := line.Quarantine; q != nil {
		fields = append(fields, zap.Int("chosen", q.Chosen), zap.Int("understood", q.Understood))
	}
	if u := line.Unverified; u != nil {
		fields = append(fields, zap.Int("chosen", u.Chosen), zap.Int("redeemed", u.Redeemed))
	}
	if err != nil {
		line.Error = err.Error()
		d.log.Warn("replay ended early", append(fields, zap.Error(err))...)
		return line
	}
	d.log.Info("replay ended", fields...)
	return line
}
