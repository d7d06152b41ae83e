package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/goccy/go-json"
	"go.uber.org/zap"

	"github.com/blessd/blessd/receiver"
)

// rotationRequest is what POST /-/rotation takes: an endpoint whose key is about to
// change at its provider. It says so for receiver.MaxRotation, again and again if
// need be.
//
// There is no key in it. Whoever may announce is not whoever may say which keys
// count: that is who can write into the data directory.
type rotationRequest struct {
	Endpoint string `json:"endpoint"`
	// Rotation is what the first answer gave, to announce for longer or to end.
	// Without it the announcement is a new one.
	Rotation string `json:"rotation,omitempty"`
	// Probe asks whether blessd sees the file .try-<Probe> among the endpoint's managed
	// keys: whether who put it there can put a key there.
	Probe string `json:"probe,omitempty"`
	// ReadKeys has the key files read at once, before the answer.
	ReadKeys bool `json:"read_keys,omitempty"`
	// End ends the announcement.
	End bool `json:"end,omitempty"`
}

// rotationAnswer is what it answers.
type rotationAnswer struct {
	Rotation string    `json:"rotation"`
	Until    time.Time `json:"until"`
	DataDir  string    `json:"data_dir"`
	// SeesProbe is the answer to Probe.
	SeesProbe bool `json:"sees_probe"`
	// Keys are the fingerprints of the keys in force, but for samples.
	Keys []string `json:"keys"`
	// KeysRefused is why the key files that are there were not put into force.
	KeysRefused string `json:"keys_refused,omitempty"`
	// Holds says whether deliveries are kept that the key comes too late for.
	Holds  bool                    `json:"holds"`
	Counts receiver.RotationCounts `json:"counts"`
}

const maxRotationRequest = 4 << 10

// probePrefix begins the name of a file that tries a directory, and probe is how it
// goes on.
const probePrefix = ".try-"

var probe = regexp.MustCompile(`^[A-Z2-7]{26}$`)

// errAnnounced is when somebody else changes the key of the endpoint.
var errAnnounced = errors.New("a rotation of this endpoint's key is announced already")

// announcements are the rotations that are announced, one for an endpoint.
type announcements struct {
	mu     sync.Mutex
	byName map[string]*announcement
	lasts  time.Duration // receiver.MaxRotation
	ended  bool
}

type announcement struct {
	id    string
	until time.Time
	timer *time.Timer
}

// serveRotation is POST /-/rotation.
func (d *daemon) serveRotation(w http.ResponseWriter, q *http.Request) {
	var o rotationRequest
	in := json.NewDecoder(http.MaxBytesReader(w, q.Body, maxRotationRequest))
	in.DisallowUnknownFields()
	if err := in.Decode(&o); err != nil {
		answer(w, http.StatusBadRequest, "the request is not what this version of blessd understands")
		return
	}
	a, err := d.rotate(&o)
	switch {
	case errors.Is(err, errAnnounced):
		answer(w, http.StatusConflict, err.Error())
		return
	case err != nil:
		answer(w, http.StatusBadRequest, err.Error())
		return
	}
	b, err := json.Marshal(a)
	if err != nil {
		answer(w, http.StatusInternalServerError, "the answer cannot be encoded")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(append(b, '\n')) // a client that has gone needs no answer
}

// rotate does what o says.
func (d *daemon) rotate(o *rotationRequest) (*rotationAnswer, error) {
	a, err := d.announceRotation(o)
	if err != nil {
		return nil, err
	}
	if o.ReadKeys {
		a.KeysRefused = d.readKeys()
	}
	if probe.MatchString(o.Probe) {
		// Reading is more than seeing: the key is to be read, too.
		_, err := os.ReadFile(filepath.Join(d.cfg.keyDir(o.Endpoint), probePrefix+o.Probe))
		a.SeesProbe = err == nil
	}
	a.DataDir, a.Holds, a.Keys = d.cfg.DataDir, d.redeemer != nil, []string{}
	for _, e := range d.inForce.Load().endpoints {
		if e.Name != o.Endpoint {
			continue
		}
		for _, k := range slices.Concat(e.Keys, e.ParentKeys) {
			if !k.Sample {
				a.Keys = append(a.Keys, k.Fingerprint())
			}
		}
	}
	if o.End {
		a.Counts = d.endRotation(o.Endpoint, o.Rotation, "ended")
	} else {
		a.Counts = d.receiver.RotationCounts(o.Endpoint)
	}
	return a, nil
}

// readKeys puts the key files into force that are there now, if they are not. It
// returns why it cannot, or "".
func (d *daemon) readKeys() string {
	now, seen := d.keyStates()
	d.reloadMu.Lock()
	read := now == seen && d.reloads.keysOK
	d.reloadMu.Unlock()
	if read {
		return ""
	}
	if r := d.reloadKeys(); len(r.refused) > 0 {
		return r.refused.Error()
	}
	return ""
}

// announceRotation begins an announcement, or gives it more time.
func (d *daemon) announceRotation(o *rotationRequest) (*rotationAnswer, error) {
	all := &d.announced
	all.mu.Lock()
	defer all.mu.Unlock()
	now := all.byName[o.Endpoint]
	switch {
	case all.ended:
		return nil, errors.New("blessd is stopping")
	case now == nil && o.Rotation == "":
		now = &announcement{id: rand.Text()}
	case now == nil && o.End:
		return &rotationAnswer{Rotation: o.Rotation}, nil // it has run out
	case now == nil:
		now = &announcement{id: o.Rotation} // it has run out, and goes on
	case now.id != o.Rotation:
		return nil, fmt.Errorf("%w, until %s: wait for its end", errAnnounced, now.until.UTC().Format(time.RFC3339))
	}
	if err := d.receiver.AnnounceRotation(o.Endpoint, all.lasts); err != nil {
		return nil, err
	}
	if now.timer == nil {
		all.byName[o.Endpoint] = now
		name, id := o.Endpoint, now.id
		now.timer = time.AfterFunc(all.lasts, func() { d.endRotation(name, id, ranOut) })
		d.log.Info("rotation of a key announced", zap.String("endpoint", o.Endpoint), zap.Duration("for", all.lasts))
	}
	now.until = time.Now().Add(all.lasts)
	now.timer.Reset(all.lasts) // after until is set: it is past when the timer fires
	return &rotationAnswer{Rotation: now.id, Until: now.until.UTC()}, nil
}

// ranOut is how an announcement ends that nobody ended.
const ranOut = "ran out"

// answeredTime is how long the end of an announcement waits for those parked to be
// answered, to say what came of them.
const answeredTime = 5 * time.Second

// endRotation ends the announcement with this id, if it lasts. What is held is
// verified by the keys of now then, whatever the timing of the last one was.
func (d *daemon) endRotation(endpoint, id, how string) receiver.RotationCounts {
	counts := d.forgetRotation(endpoint, id, how)
	if counts == nil {
		return receiver.RotationCounts{}
	}
	ctx, cancel := context.WithTimeout(context.Background(), answeredTime)
	defer cancel()
	c := counts(ctx)
	d.redeemAgain()
	d.log.Info("announced rotation of a key is over", zap.String("endpoint", endpoint), zap.String("how", how),
		zap.Int("parked", c.Parked), zap.Int("blessed", c.Blessed), zap.Int("refused", c.Refused), zap.Int("held", c.Held))
	return c
}

// forgetRotation returns nil when there is nothing to end.
func (d *daemon) forgetRotation(endpoint, id, how string) func(context.Context) receiver.RotationCounts {
	all := &d.announced
	all.mu.Lock()
	defer all.mu.Unlock()
	now := all.byName[endpoint]
	if now == nil || now.id != id || how == ranOut && time.Now().Before(now.until) {
		return nil
	}
	now.timer.Stop()
	delete(all.byName, endpoint)
	return d.receiver.EndRotation(endpoint)
}

// announcedUntil is when the announcement for an endpoint runs out, or nil.
func (d *daemon) announcedUntil(endpoint string) *time.Time {
	d.announced.mu.Lock()
	defer d.announced.mu.Unlock()
	now := d.announced.byName[endpoint]
	if now == nil {
		return nil
	}
	until := now.until.UTC().Truncate(time.Second)
	return &until
}

// stop lets no announcement begin, and none run out.
func (a *announcements) stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	for _, now := range a.byName {
		now.timer.Stop()
	}
}
