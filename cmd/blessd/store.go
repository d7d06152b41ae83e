package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/blessd/blessd/delivery"
	"github.com/blessd/blessd/journal"
	"github.com/blessd/blessd/receiver"
	"github.com/blessd/blessd/relay"
)

// journalStore is the receiver's store with a journal behind it: the place where
// the two packages, which do not know each other, meet.
type journalStore struct{ journal *journal.Journal }

var _ receiver.Store = journalStore{}

// Put implements receiver.Store. Nil means that the delivery is on stable storage.
func (s journalStore) Put(ctx context.Context, d *delivery.Delivery) error {
	err := s.journal.Append(ctx, delivery.Encode(d))
	if errors.Is(err, journal.ErrFull) {
		return fmt.Errorf("%w: %w", receiver.ErrFull, err)
	}
	return err
}

// streamStore is the receiver's store with acknowledge: stream: NATS itself.
type streamStore struct{ direct *relay.Direct }

var _ receiver.Store = streamStore{}

// Put implements receiver.Store. Nil means that NATS has acknowledged everything.
func (s streamStore) Put(ctx context.Context, d *delivery.Delivery) error {
	err := s.direct.Put(ctx, d)
	if errors.Is(err, relay.ErrFull) {
		return fmt.Errorf("%w: %w", receiver.ErrFull, err)
	}
	return err
}
