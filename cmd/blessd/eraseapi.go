package main

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/goccy/go-json"
	"go.uber.org/zap"

	"github.com/blessd/blessd/relay"
)

// eraseRequest is what POST /-/erase takes: in the body, so that no access log has
// the address.
type eraseRequest struct {
	Address string `json:"address"`
	// DryRun changes nothing.
	DryRun bool `json:"dry_run"`
}

// eraseLine is a line of the answer: how far it is, or with Done what came of it.
type eraseLine struct {
	Done   bool `json:"done"`
	DryRun bool `json:"dry_run"`
	// Error is why it ended early. What was erased until then is erased.
	Error string `json:"error,omitempty"`
	// Waiting counts the requests in the journal that have to be in NATS first.
	Waiting uint64 `json:"waiting,omitempty"`
	// Places are in the order in which they are searched; the last one may be in
	// progress.
	Places []erasedPlace `json:"places,omitempty"`
}

// erasedPlace is somewhere that blessd keeps what providers have sent.
type erasedPlace struct {
	Name    string `json:"name"`
	Seen    int    `json:"seen"`
	Matched int    `json:"matched"` // erased, but for a dry run
}

// oversizeDir is where the relay keeps what no stream takes, in the data directory.
const oversizeDir = "oversize"

// journalWait bounds how long an erasure waits for the journal.
const journalWait = time.Minute

// serveErase answers POST /-/erase as /-/replay is answered.
func (d *daemon) serveErase(w http.ResponseWriter, q *http.Request) {
	var o eraseRequest
	in := json.NewDecoder(http.MaxBytesReader(w, q.Body, maxReplayRequest))
	in.DisallowUnknownFields()
	if err := in.Decode(&o); err != nil {
		answer(w, http.StatusBadRequest, "the request is not the JSON that /-/erase takes")
		return
	}
	who, err := parsePerson(o.Address)
	if err != nil {
		answer(w, http.StatusBadRequest, "the address is "+err.Error())
		return
	}
	ctx, end, ok := d.beginWork(w, q)
	if !ok {
		return
	}
	defer end()
	say := d.answerLines(w)
	line := eraseLine{DryRun: o.DryRun}
	err = d.erase(ctx, who, o.DryRun, &line, func() { say(line, false) })
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	line.Done = true
	found := 0
	for _, p := range line.Places {
		found += p.Matched
	}
	// Whom it was about is not for a log.
	fields := []zap.Field{zap.Bool("dry_run", o.DryRun), zap.Int("found", found)}
	if err != nil {
		line.Error = err.Error()
		d.log.Warn("erasure ended early", append(fields, zap.Error(err))...)
	} else {
		d.log.Info("erasure ended", fields...)
	}
	end()
	say(line, true)
}

// erase removes what is about somebody from everywhere but the journal, which it
// first waits for: what is in there would be published once more after a crash.
func (d *daemon) erase(ctx context.Context, who person, dryRun bool, line *eraseLine, say func()) error {
	if !dryRun {
		if err := d.awaitCursor(ctx, line, say); err != nil {
			return err
		}
	}
	in := func(place string, run func(progress func(seen, matched int)) (seen, matched int, err error)) error {
		line.Places = append(line.Places, erasedPlace{Name: place})
		p := &line.Places[len(line.Places)-1]
		seen, matched, err := run(func(seen, matched int) {
			p.Seen, p.Matched = seen, matched
			say()
		})
		p.Seen, p.Matched = seen, matched
		return err
	}
	for _, stream := range []string{d.sink.EventsStream(), d.sink.QuarantineStream()} {
		if err := in(stream, func(progress func(seen, matched int)) (seen, matched int, err error) {
			return d.sink.Erase(ctx, stream, who.in, dryRun, progress)
		}); err != nil {
			return err
		}
	}
	if err := in(oversizeDir, func(func(seen, matched int)) (seen, matched int, err error) {
		return relay.EraseOversize(filepath.Join(d.cfg.DataDir, oversizeDir), who.in, dryRun)
	}); err != nil {
		return err
	}
	if !dryRun {
		d.feed.forget()
	}
	if d.redeemer == nil {
		return nil
	}
	return in("unverified", func(progress func(seen, matched int)) (seen, matched int, err error) {
		return d.redeemer.store.Erase(ctx, who.in, dryRun, progress)
	})
}

// awaitCursor waits until what was in the journal when it began is safe in NATS.
func (d *daemon) awaitCursor(ctx context.Context, line *eraseLine, say func()) error {
	if d.journal == nil {
		return nil
	}
	_, next := d.journal.Bounds()
	deadline := time.Now().Add(journalWait)
	for {
		done := d.journal.Cursor().Index
		if done+1 >= next {
			line.Waiting = 0
			return nil
		}
		line.Waiting = next - 1 - done
		say()
		if time.Now().After(deadline) {
			return fmt.Errorf("nothing is erased: %d requests in the journal are not safe in NATS yet, and could be published again after a crash. "+
				"`blessd status` says why; try again when the journal is empty", line.Waiting)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
