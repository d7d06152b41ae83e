package journal

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func counter(t *testing.T, j *Journal, reason string) float64 {
	t.Helper()
	return testutil.ToFloat64(j.metrics.appendErrors.WithLabelValues(reason))
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	mem := vfs.NewMem()
	j := open(t, Options{FS: mem, Dir: "journal", MaxBytes: 1000, Registerer: reg})
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}

	const errorsHelp = `
		# HELP blessd_journal_append_errors_total Appends to the journal that were not acknowledged.
		# TYPE blessd_journal_append_errors_total counter
	`
	check := func(records, bytes, errors string) {
		t.Helper()
		want := `
		# HELP blessd_journal_bytes Bytes of the records that are durable and not yet consumed.
		# TYPE blessd_journal_bytes gauge
		blessd_journal_bytes ` + bytes + `
		# HELP blessd_journal_limit_bytes The limit of blessd_journal_bytes, 0 when there is none.
		# TYPE blessd_journal_limit_bytes gauge
		blessd_journal_limit_bytes 1000
		# HELP blessd_journal_records Records that are durable and not yet consumed.
		# TYPE blessd_journal_records gauge
		blessd_journal_records ` + records + errorsHelp + errors
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "blessd_journal_bytes",
			"blessd_journal_limit_bytes", "blessd_journal_records", "blessd_journal_append_errors_total"); err != nil {
			t.Error(err)
		}
	}
	check("0", "0", `
		blessd_journal_append_errors_total{reason="closed"} 0
		blessd_journal_append_errors_total{reason="failed"} 0
		blessd_journal_append_errors_total{reason="full"} 0
		blessd_journal_append_errors_total{reason="no_space"} 0
		blessd_journal_append_errors_total{reason="timeout"} 0
	`)
	if got := j.oldest(); got != 0 {
		t.Errorf("oldest is %v in an empty journal, want 0", got)
	}

	before := float64(time.Now().UnixNano()) / 1e9
	mustAppend(t, j, payload(1, 300))
	mustAppend(t, j, payload(2, 200))
	after := float64(time.Now().UnixNano()) / 1e9
	if got := j.oldest(); got < before || got > after {
		t.Errorf("oldest is %v, want between %v and %v", got, before, after)
	}
	wantError(t, "too much", j.Append(t.Context(), make([]byte, 501)), ErrFull)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantError(t, "cancelled", j.Append(ctx, nil), context.Canceled)
	mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1})
	short := func() bool { _, short := j.space.short(); return short }
	eventually(t, "no space", short)
	wantError(t, "no space", j.Append(t.Context(), nil), ErrFull)
	mem.TestingSetDiskUsage(vfs.DiskUsage{})
	eventually(t, "space again", func() bool { return !short() })
	if err := j.SetCursor(Cursor{Index: 1}); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	wantError(t, "closed", j.Append(t.Context(), nil), ErrClosed)
	check("1", "200", `
		blessd_journal_append_errors_total{reason="closed"} 1
		blessd_journal_append_errors_total{reason="failed"} 0
		blessd_journal_append_errors_total{reason="full"} 1
		blessd_journal_append_errors_total{reason="no_space"} 1
		blessd_journal_append_errors_total{reason="timeout"} 1
	`)
	if n, err := testutil.GatherAndCount(reg, "blessd_journal_sync_seconds"); err != nil || n != 1 {
		t.Errorf("%d series of blessd_journal_sync_seconds (%v), want 1", n, err)
	}
	if _, err := Open(Options{FS: mem, Dir: "journal", Registerer: reg}); err == nil {
		t.Error("metrics were registered twice")
	}
}
