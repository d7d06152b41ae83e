package scenario

import (
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/blessd/blessd/e2e/ledger"
)

var consumerScenarios = []Scenario{
	{
		Name: "consumer-absent", Faults: []string{"F36"}, Tier: 1,
		Proves: "When a consumer is away the oldest events expire by the stream's limit and no provider notices; the metrics say how far behind the consumer is, and how full the stream.",
		Run:    consumerAbsent,
	},
}

// consumerAbsent sends more than the stream keeps. What it does not keep is owed to
// nobody: it is posted unheard.
func consumerAbsent(e *Env) {
	const limit = 1 << 20
	n := e.NATS()
	b := e.Blessd(Config{NATS: n.URL(), Stream: "max_bytes: 1MiB"})
	e.Wait("the stream", func() bool { return e.Stream(n.JetStream(), ledger.Events) != nil })
	if c := e.Stream(n.JetStream(), ledger.Events).Config; c.MaxBytes != limit || c.MaxAge != 30*24*time.Hour || c.Discard != jetstream.DiscardOld {
		e.Errorf("the stream keeps %d bytes for %v and discards %v, want what is configured, and the documented defaults", c.MaxBytes, c.MaxAge, c.Discard)
	}
	consumer, err := n.JetStream().CreateOrUpdateConsumer(e.ctx, ledger.Events, jetstream.ConsumerConfig{Durable: "absent", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		e.Fatalf("%v", err)
	}
	for i := range 400 {
		b.PostUnheard(e.Delivery(Providers()[i%len(Providers())]))
	}
	e.Wait("the journal to be published", func() bool { return b.settled() })
	i := e.Stream(n.JetStream(), ledger.Events)
	if i.State.FirstSeq == 1 {
		e.Fatalf("nothing has expired")
	}
	b.WaitMetric(limit, "blessd_stream_limit_bytes", "stream", ledger.Events)
	b.WaitMetric(float64(i.State.Bytes), "blessd_stream_bytes", "stream", ledger.Events)
	b.WaitMetric(float64(i.State.Msgs), "blessd_consumer_pending_messages", "consumer", "absent")
	e.Figuref("%d of %d events have expired; the metrics say that the stream is %.0f%% full, and the consumer %d events behind",
		i.State.FirstSeq-1, i.State.LastSeq, 100*float64(i.State.Bytes)/limit, i.State.Msgs)
	b.Ready()

	// The consumer is back, and slow: it gets everything that is left.
	got := 0
	for got < int(i.State.Msgs) {
		batch, err := consumer.Fetch(100, jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			e.Fatalf("%v", err)
		}
		for m := range batch.Messages() {
			got++
			if err := m.Ack(); err != nil {
				e.Fatalf("%v", err)
			}
		}
		if e.ctx.Err() != nil {
			return
		}
	}
	b.WaitMetric(0, "blessd_consumer_pending_messages", "consumer", "absent")
	b.Blessings(5)
	e.Rules.NothingRefused = false // unheard answers are not answers
}
