package sink

import (
	"testing"
	"time"
)

// A server whose disk fills up again and again is restarted each time that there is
// space. One that fails for another reason is left alone for longer and longer.
func TestWatchdogDue(t *testing.T) {
	const least, most = 10 * time.Second, time.Minute
	now := time.Now()
	for _, c := range []struct {
		name          string
		ago, backoff  time.Duration // 0 ago is never
		waited        bool
		want          bool
		backoffBecame time.Duration
	}{
		{"the first", 0, least, false, true, least},
		{"the first, after a wait for space", 0, least, true, true, least},
		{"too soon", 9 * time.Second, least, false, false, least},
		{"again", 11 * time.Second, least, false, true, 20 * time.Second},
		{"again and again", 50 * time.Second, 40 * time.Second, false, true, most},
		{"too soon after several", 15 * time.Second, 40 * time.Second, false, false, 40 * time.Second},
		{"space again, after several", 15 * time.Second, 40 * time.Second, true, true, 40 * time.Second},
		{"space again, too soon", 9 * time.Second, 40 * time.Second, true, false, 40 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &Watchdog{o: WatchdogOptions{Backoff: least, MaxBackoff: most}, backoff: c.backoff, waiting: c.waited}
			if c.ago > 0 {
				w.restarted = now.Add(-c.ago)
			}
			if got := w.due(now); got != c.want || w.backoff != c.backoffBecame {
				t.Errorf("due %t, then a back-off of %v; want %t, %v", got, w.backoff, c.want, c.backoffBecame)
			}
		})
	}
}
