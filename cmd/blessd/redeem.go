package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/receiver"
	"github.com/blessd/blessd/unverified"
)

var _ receiver.Unverified = (*unverified.Store)(nil)

// redeemer puts refused deliveries through verification again when the keys may have
// changed: what passes goes into the journal with the time at which it came.
type redeemer struct {
	store *unverified.Store
	log   *zap.Logger
	again chan struct{} // holds one request
	stop  context.CancelFunc
	runs  sync.WaitGroup
}

// openUnverified finds the deliveries that are kept. It comes before the receiver,
// so that the receiver has stopped when it is closed.
func (d *daemon) openUnverified(context.Context) error {
	if d.cfg.Unverified.MaxBytes == 0 {
		return nil
	}
	log := d.log.Named("unverified")
	store, err := unverified.Open(unverified.Options{
		Dir: filepath.Join(d.cfg.DataDir, "unverified"), MaxBytes: int64(d.cfg.Unverified.MaxBytes),
		Final: []string{receiver.ForgerySuspected}, Held: []string{receiver.KeyRotation}, Log: log, Registerer: d.registry,
	})
	if err != nil {
		return err
	}
	r := &redeemer{store: store, log: log, again: make(chan struct{}, 1), stop: func() {}}
	d.redeemer = r
	d.onStop("unverified deliveries", func(ctx context.Context) error {
		r.stop()
		r.runs.Wait() // for one delivery at most
		return store.Close(ctx)
	})
	return nil
}

// setEndpoints puts endpoints into force and has what was refused before verified by
// their keys, beside. On an error nothing has changed.
func (d *daemon) setEndpoints(es []receiver.Endpoint) error {
	if err := d.receiver.SetEndpoints(es); err != nil {
		return err
	}
	d.recent.setEndpoints(es)
	if d.redeemer == nil {
		return nil
	}
	var shelves []unverified.Endpoint
	for _, e := range es {
		shelves = append(shelves, unverified.Endpoint{Provider: e.Provider, Name: e.Name})
	}
	d.redeemer.store.SetEndpoints(shelves)
	d.redeemAgain()
	return nil
}

// redeemAgain has what was refused before verified by the keys of now, beside.
func (d *daemon) redeemAgain() {
	if d.redeemer == nil {
		return
	}
	select {
	case d.redeemer.again <- struct{}{}:
	default: // it has been asked already and has not begun
	}
}

// redeemLate is when what was asked for is done once more: a delivery that was being
// refused by the old keys may have been kept just behind the first time.
const redeemLate = 5 * time.Second

// start redeems whenever it is asked to.
func (r *redeemer) start(to *receiver.Receiver) {
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	r.runs.Go(func() {
		var late <-chan time.Time
		for {
			select {
			case <-r.again:
				late = time.After(redeemLate)
			case <-late:
				late = nil
			case <-ctx.Done():
				return
			}
			start := time.Now()
			sum, err := r.redeem(ctx, to, unverified.Filter{}, nil)
			if err != nil && ctx.Err() == nil {
				r.log.Error("unverified deliveries not redeemed: `blessd replay --unverified` tries again", zap.Error(err))
			}
			if sum.Redeemed > 0 {
				r.log.Info("unverified deliveries redeemed", zap.Int("redeemed", sum.Redeemed), zap.Int("looked_at", sum.Done), zap.Duration("took", time.Since(start)))
			}
		}
	})
}

// redeem verifies what the filter chooses by the keys of now. What passes is in the
// journal when it leaves the store.
func (r *redeemer) redeem(ctx context.Context, to *receiver.Receiver, f unverified.Filter, progress func(unverified.Summary)) (unverified.Summary, error) {
	sum, err := r.store.Redeem(ctx, f, to.Redeem, progress)
	if errors.Is(err, receiver.ErrFull) {
		err = fmt.Errorf("%w; the rest stays until there is room", err)
	}
	return sum, err
}

// dryRun says what redeem would do.
func (r *redeemer) dryRun(ctx context.Context, to *receiver.Receiver, f unverified.Filter, progress func(unverified.Summary)) (unverified.Summary, error) {
	return r.store.DryRun(ctx, f, func(_ context.Context, d *delivery.Delivery) (string, error) {
		_, why := to.Verify(d)
		return why, nil
	}, progress)
}
