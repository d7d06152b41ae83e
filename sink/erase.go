package sink

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Erase removes the messages of one of the two streams for which match returns
// true, and has the server overwrite what they took on disk. It looks at every
// message that there was when it began. With dryRun it only looks. It tells
// progress, if not nil, after each message: how many were looked at, and how many
// of these matched. Deleted messages leave gaps in the stream's sequence, which
// nothing minds.
func (s *Sink) Erase(ctx context.Context, stream string, match func(data []byte) bool, dryRun bool, progress func(seen, matched int)) (seen, matched int, err error) {
	setup, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	st, err := s.js.Stream(setup, stream)
	if err != nil {
		return 0, 0, fmt.Errorf("look up stream %s: %w", stream, err)
	}
	err = s.read(ctx, stream, 0, false, func(m jetstream.Msg, seq uint64) error {
		seen++
		if match(m.Data()) {
			matched++
			if !dryRun {
				if err := deleteMsg(ctx, st, seq, st.SecureDeleteMsg); err != nil {
					return err
				}
			}
		}
		if progress != nil {
			progress(seen, matched)
		}
		return nil
	})
	return seen, matched, err
}
