package sink_test

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/sink"
)

// quarantine reads and empties the quarantine stream. What other tests have put
// there comes first.
func quarantine(t *testing.T, s *sink.Sink) {
	ctx := testContext(t)
	before, err := s.State(ctx, s.QuarantineStream())
	if err != nil {
		t.Fatal(err)
	}
	var want []sink.Quarantined
	for i := range 5 {
		q := sink.Quarantined{
			Provider: "sendclean", Endpoint: "acme", ID: event.NewID("sendclean", "acme", []string{"quarantine", fmt.Sprint(i)}, 0), Reason: "unreadable_element",
			ContentType: "application/json", Received: time.Date(2026, 11, 21, 17, 22, 17, 123456789, time.UTC), Record: 7, Element: i - 1, Occurrence: i,
			Test: i%2 == 0, Raw: fmt.Appendf(nil, "raw \x00 %d", i),
		}
		if i == 3 {
			q.Traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		}
		want = append(want, q)
		m, err := s.QuarantineMessage(q)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := publish(t, s, m); err != nil {
			t.Fatal(err)
		}
	}
	foreign := &nats.Msg{Subject: "mail.quarantine.some.body", Header: nats.Header{}, Data: []byte("not ours")}
	if _, _, err := publish(t, s, foreign); err != nil {
		t.Fatal(err)
	}

	stream, err := s.Quarantine(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []sink.Quarantined
	var seqs []uint64
	unreadable := 0
	each := func(seq uint64, q sink.Quarantined, err error) error {
		if err != nil {
			unreadable++
			return nil
		}
		got, seqs = append(got, q), append(seqs, seq)
		return nil
	}
	if err := stream.Each(ctx, before.LastSeq, each); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) || unreadable != 1 {
		t.Fatalf("got %+v and %d unreadable, want %+v and 1", got, unreadable, want)
	}
	enough := errors.New("enough")
	if err := stream.Each(ctx, seqs[0], func(seq uint64, _ sink.Quarantined, _ error) error {
		if seq != seqs[1] {
			t.Errorf("behind %d comes %d, want %d", seqs[0], seq, seqs[1])
		}
		return enough
	}); !errors.Is(err, enough) {
		t.Errorf("got %v, want the error of yield", err)
	}

	if q, err := stream.Get(ctx, seqs[3]); err != nil || !reflect.DeepEqual(q, want[3]) {
		t.Errorf("got %+v, %v", q, err)
	}
	for range 2 { // the second time there is nothing to delete
		for _, i := range []int{1, 4} {
			if err := stream.Delete(ctx, seqs[i]); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := stream.Delete(ctx, seqs[4]+1000); err != nil {
		t.Errorf("delete what never was: %v", err)
	}
	if _, err := stream.Get(ctx, seqs[1]); !errors.Is(err, sink.ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
	left := slices.Clone(seqs)
	got, seqs = nil, nil
	if err := stream.Each(ctx, before.LastSeq, each); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(seqs, []uint64{left[0], left[2], left[3]}) {
		t.Errorf("left are %v, want the first, third and fourth of %v", seqs, left)
	}

	// Events are found by when they were stored.
	mustPublish(t, s, 9000, 9003)
	var all, recent []string
	if err := s.EventIDs(ctx, time.Time{}, func(id string) { all = append(all, id) }); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(all, someEvent(9000).ID) || !slices.Contains(all, someEvent(9002).ID) {
		t.Errorf("the last events are not among %d", len(all))
	}
	if err := s.EventIDs(ctx, time.Now().Add(time.Hour), func(id string) { recent = append(recent, id) }); err != nil || len(recent) > 0 {
		t.Errorf("of the future: %q, %v", recent, err)
	}
	state, err := s.State(ctx, s.EventsStream())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.EventIDs(ctx, state.FirstTime, func(id string) { recent = append(recent, id) }); err != nil || !slices.Equal(recent, all) {
		t.Errorf("since the first event: %d, %v, want all %d", len(recent), err, len(all))
	}
	if state, err := s.State(ctx, s.QuarantineStream()); err != nil || state.LastSeq < left[4] {
		t.Errorf("deleting has moved the last sequence to %d (%v)", state.LastSeq, err)
	}
}

// The position that the relay compares with at its start must not go back when what
// was quarantined last is replayed and deleted.
func TestDeletingLeavesTheLastSequence(t *testing.T) {
	dir := t.TempDir()
	for start := range 3 {
		e := startEmbedded(t, func(o *sink.EmbeddedOptions) { o.StoreDir = dir })
		nc := connect(t, e)
		s := newSink(t, nc, defaults())
		ctx := testContext(t)
		if err := s.Ensure(ctx); err != nil {
			t.Fatal(err)
		}
		before, err := s.State(ctx, s.QuarantineStream())
		if err != nil {
			t.Fatal(err)
		}
		if want := uint64(3 * start); before.LastSeq != want || before.Msgs != 0 {
			t.Fatalf("start %d: last sequence %d with %d messages, want %d with none", start, before.LastSeq, before.Msgs, want)
		}
		stream, err := s.Quarantine(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			m, err := s.QuarantineMessage(sink.Quarantined{
				Provider: "sendclean", Endpoint: "acme", Reason: "refused", ID: event.NewID("sendclean", "acme", []string{fmt.Sprint(start, i)}, 0), Raw: []byte("{}"),
			})
			if err != nil {
				t.Fatal(err)
			}
			seq, _, err := publish(t, s, m)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Delete(ctx, seq); err != nil {
				t.Fatal(err)
			}
		}
		nc.Close()
		if err := e.Shutdown(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
