package journal

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// The reasons of blessd_journal_append_errors_total.
const (
	reasonClosed  = "closed"
	reasonFailed  = "failed"
	reasonFull    = "full"
	reasonNoSpace = "no_space"
	reasonTimeout = "timeout"
)

type metrics struct {
	appendErrors *prometheus.CounterVec
	sync         prometheus.Histogram
}

func newMetrics(j *Journal, r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		appendErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "blessd_journal_append_errors_total",
			Help: "Appends to the journal that were not acknowledged.",
		}, []string{"reason"}),
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                            "blessd_journal_sync_seconds",
			Help:                            "How long it took to write and sync one batch of records.",
			Buckets:                         []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 4},
			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}),
	}
	for _, reason := range []string{reasonClosed, reasonFailed, reasonFull, reasonNoSpace, reasonTimeout} {
		m.appendErrors.WithLabelValues(reason)
	}
	if r == nil {
		return m, nil
	}
	gauge := func(name, help string, value func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	for _, c := range []prometheus.Collector{
		m.appendErrors,
		m.sync,
		gauge("blessd_journal_records", "Records that are durable and not yet consumed.", func() float64 {
			cursor, synced := j.positions()
			return float64(synced.index - cursor.index)
		}),
		gauge("blessd_journal_bytes", "Bytes of the records that are durable and not yet consumed.", func() float64 {
			cursor, synced := j.positions()
			return float64(synced.count - cursor.count)
		}),
		gauge("blessd_journal_limit_bytes", "The limit of blessd_journal_bytes, 0 when there is none.", func() float64 {
			return float64(j.maxBytes)
		}),
		gauge("blessd_journal_oldest_record_timestamp_seconds", "When the oldest record that is not yet consumed was appended, 0 when there is none.", j.oldest),
	} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return m, nil
}

func (j *Journal) positions() (cursor, synced position) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.cursor, j.synced
}

// oldest returns the append time of the first record that can be read. It does
// not look far: beyond a stretch of damage the next cursor will tell.
func (j *Journal) oldest() float64 {
	cursor, synced := j.positions()
	for i := cursor.index + 1; i <= min(synced.index, cursor.index+100); i++ {
		if r, _, err := j.read(i, false); err == nil {
			return float64(r.Appended.UnixNano()) / 1e9
		}
	}
	return 0
}

// Backlog is what is durable and not yet consumed.
type Backlog struct {
	Records uint64
	// Bytes are those of the records; Limit is the most that they may be, 0 for none.
	Bytes, Limit uint64
	// Oldest is when the first of them was appended; zero when there is none.
	Oldest time.Time
}

// Backlog says what is waiting. It reads a record and may wait for the disk.
func (j *Journal) Backlog() Backlog {
	cursor, synced := j.positions()
	b := Backlog{Records: synced.index - cursor.index, Bytes: synced.count - cursor.count, Limit: j.maxBytes}
	if at := j.oldest(); at > 0 {
		b.Oldest = time.Unix(0, int64(at*1e9)).UTC()
	}
	return b
}
