package relay

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/blessd/blessd/delivery"
)

// BenchmarkCursor shows what the cursor costs those who wait for a blessing: the
// journal takes 1,000 records of a second, 2.4 KB each, while the relay publishes
// them into an embedded server and syncs that server's files as often as the
// cursor is written. Each append is timed from when it was due, so that one that
// waits makes those behind it late, too. Run it with -benchtime 30000x: 30 s.
func BenchmarkCursor(b *testing.B) {
	const clients, perSecond = 16, 1000
	for _, interval := range []time.Duration{time.Hour, 10 * time.Second, time.Second} {
		b.Run(fmt.Sprintf("every=%v", interval), func(b *testing.B) {
			r := newRig(b)
			r.cursorInterval = interval
			relay, _ := r.relay()
			ctx, cancel := context.WithCancel(context.Background())
			ran := make(chan error, 1)
			go func() { ran <- relay.run(ctx) }()
			value := delivery.Encode(enkod(fmt.Sprintf(`{"event":"message sent","message_id":1,"message_uid":"m","to":"user@example.com","pad":"%02000d"}`, 0)))
			took := make([]time.Duration, b.N)
			b.ResetTimer()
			start := time.Now()
			var wg sync.WaitGroup
			for client := range clients {
				wg.Go(func() {
					for n := client; n < len(took); n += clients {
						due := start.Add(time.Duration(n) * time.Second / perSecond)
						time.Sleep(time.Until(due))
						if err := r.journal.Append(ctx, value); err != nil {
							b.Error(err)
							return
						}
						took[n] = time.Since(due)
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			cancel()
			<-ran
			slices.Sort(took)
			for _, p := range []struct {
				name string
				of   float64
			}{{"p50-ms", 0.5}, {"p99-ms", 0.99}, {"p99.9-ms", 0.999}, {"max-ms", 1}} {
				b.ReportMetric(took[int(p.of*float64(len(took)-1))].Seconds()*1e3, p.name)
			}
		})
	}
}
