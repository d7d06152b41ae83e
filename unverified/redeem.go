package unverified

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
)

// Filter chooses deliveries. What is empty chooses all.
type Filter struct {
	Endpoints, Providers, Reasons []string
	// Since and Until bound the time of receipt; Until itself is outside.
	Since, Until time.Time
}

// Chooses says whether the filter lets such a delivery through.
func (f Filter) Chooses(provider, endpoint, reason string, received time.Time) bool {
	in := func(list []string, s string) bool { return len(list) == 0 || slices.Contains(list, s) }
	return in(f.Providers, provider) && in(f.Endpoints, endpoint) && in(f.Reasons, reason) &&
		(f.Since.IsZero() || !received.Before(f.Since)) && (f.Until.IsZero() || received.Before(f.Until))
}

// Summary is what became of the deliveries that a filter chose.
type Summary struct {
	// Chosen is how many there are, Done how many of them were looked at.
	Chosen int `json:"chosen"`
	Done   int `json:"done"`
	// Redeemed passed, or with a dry run would pass.
	Redeemed int `json:"redeemed"`
	// Stayed are those that did not pass, by the reason of today.
	Stayed map[string]int `json:"stayed,omitempty"`
	// Damaged could not be read any more, and are gone.
	Damaged int `json:"damaged,omitempty"`
}

// Try says why a delivery does not pass, or "" when it does and has been taken care
// of. An error ends the redeeming; the delivery stays.
type Try func(context.Context, *delivery.Delivery) (reason string, err error)

// Redeem tries the chosen deliveries in the order of their receipt and lets go those
// that pass. What was kept for a final reason is not tried. One redeems at a time;
// others wait. After an error the Summary has what was done until then. It tells
// progress, if not nil, after each delivery.
func (s *Store) Redeem(ctx context.Context, f Filter, try Try, progress func(Summary)) (Summary, error) {
	return s.each(ctx, f, try, true, progress)
}

// DryRun is Redeem but lets nothing go and marks nothing. Its try must not store.
func (s *Store) DryRun(ctx context.Context, f Filter, try Try, progress func(Summary)) (Summary, error) {
	return s.each(ctx, f, try, false, progress)
}

// newerVersion is why a delivery stays that a newer blessd wrote.
const newerVersion = "newer_version"

// found is a record that was chosen. The reason is a copy: marking changes the
// record's own.
type found struct {
	endpoint Endpoint
	record   *record
	reason   string
}

func (s *Store) each(ctx context.Context, f Filter, try Try, change bool, progress func(Summary)) (Summary, error) {
	sum := Summary{Stayed: map[string]int{}}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return sum, ctx.Err()
	}
	if err := s.flush(ctx); err != nil {
		return sum, err
	}
	all := s.choose(f)
	sum.Chosen = len(all)
	for _, it := range all {
		if ctx.Err() != nil {
			return sum, ctx.Err()
		}
		if err := s.one(ctx, it, try, change, &sum); err != nil {
			return sum, err
		}
		sum.Done++
		if progress != nil {
			progress(sum)
		}
	}
	return sum, nil
}

// flush waits until what was refused before is on its shelf.
func (s *Store) flush(ctx context.Context) error {
	for _, w := range s.queue.last() {
		select {
		case <-w.written:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

func (s *Store) choose(f Filter) []found {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []found
	for _, e := range s.sorted() {
		for _, r := range s.shelves[e].records {
			if f.Chooses(e.Provider, e.Name, r.reason, time.Unix(0, r.received)) {
				all = append(all, found{e, r, r.reason})
			}
		}
	}
	// Of two Mailgun deliveries with one signature the first counts.
	slices.SortStableFunc(all, func(a, b found) int { return cmp.Compare(a.record.received, b.record.received) })
	return all
}

func (s *Store) one(ctx context.Context, it found, try Try, change bool, sum *Summary) error {
	if s.isFinal(it.reason) {
		sum.Stayed[it.reason]++
		return nil
	}
	d, err := s.read(it)
	switch {
	case errors.Is(err, fs.ErrNotExist): // evicted meanwhile, or removed by a person
		s.letGo(it)
		return nil
	case errors.Is(err, delivery.ErrDamaged):
		s.o.Log.Warn("unverified delivery cannot be read", zap.String("provider", it.endpoint.Provider), zap.String("endpoint", it.endpoint.Name), zap.Error(err))
		sum.Damaged++
		if change {
			s.letGo(it)
			s.metrics.dropped.WithLabelValues(it.endpoint.Provider, it.endpoint.Name).Inc()
		}
		return nil
	case errors.Is(err, delivery.ErrVersion): // before a downgrade; a newer blessd can read it
		sum.Stayed[newerVersion]++
		return nil
	case err != nil:
		return fmt.Errorf("read an unverified delivery: %w", err)
	}
	why, err := try(ctx, d)
	switch {
	case err != nil:
		return fmt.Errorf("redeem an unverified delivery: %w", err)
	case why != "":
		sum.Stayed[why]++
		if change {
			return s.markFound(it, why)
		}
		return nil
	}
	sum.Redeemed++
	if change {
		s.metrics.redeemed.WithLabelValues(it.endpoint.Provider, it.endpoint.Name).Inc()
		s.letGo(it)
	}
	return nil
}

func (s *Store) read(it found) (*delivery.Delivery, error) {
	s.mu.Lock()
	file := filepath.Join(s.o.Dir, it.endpoint.dir(), it.record.file())
	s.mu.Unlock()
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return delivery.Decode(b)
}

func (s *Store) letGo(it found) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sh := s.shelves[it.endpoint]; sh != nil {
		s.remove(it.endpoint, sh, it.record)
	}
}

func (s *Store) markFound(it found, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.shelves[it.endpoint]
	if sh == nil || sh.byDigest[it.record.digest] != it.record {
		return nil // evicted meanwhile
	}
	if s.holds(reason) {
		return nil // to be tried again; what came before the announcement stays in the share
	}
	return s.mark(it.endpoint, sh, it.record, reason)
}

// Erase lets go every delivery for which match returns true for its body, or with
// dryRun only counts them. It tells progress, if not nil, after each delivery.
func (s *Store) Erase(ctx context.Context, match func(body []byte) bool, dryRun bool, progress func(seen, matched int)) (seen, matched int, err error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return 0, 0, ctx.Err()
	}
	if err := s.flush(ctx); err != nil {
		return 0, 0, err
	}
	for _, it := range s.choose(Filter{}) {
		if ctx.Err() != nil {
			return seen, matched, ctx.Err()
		}
		d, err := s.read(it)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case errors.Is(err, delivery.ErrDamaged) || errors.Is(err, delivery.ErrVersion):
			seen++ // nobody can say whose it is
			continue
		case err != nil:
			return seen, matched, fmt.Errorf("read an unverified delivery: %w", err)
		}
		seen++
		if match(d.Body) {
			matched++
			if !dryRun {
				s.letGo(it)
			}
		}
		if progress != nil {
			progress(seen, matched)
		}
	}
	return seen, matched, nil
}
