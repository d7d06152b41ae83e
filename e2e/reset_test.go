package e2e

import (
	"context"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// TestStreamReset deletes the stream under a blessd that is at work. Blessing goes
// on, what is blessed afterwards arrives, and the alarm stays over a restart until
// it is accepted.
func TestStreamReset(t *testing.T) {
	port := freePort(t)
	startNATS(t, t.TempDir(), port)
	r := newRig(t, "  url: "+natsURL(port))
	r.start()
	l := newLedger()
	ctx, cancel := context.WithCancel(context.Background())
	wg := r.load(ctx, 4, l)
	wait(t, "blessings", func() bool { return l.count() > 100 })
	alarm := func(want string) func() bool {
		return func() bool {
			_, metrics := r.get("/metrics")
			return strings.Contains(metrics, "\nblessd_stream_went_backwards "+want+"\n")
		}
	}
	wait(t, "no alarm", alarm("0"))

	nc, err := nats.Connect(natsURL(port))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(ctx, "MAIL_EVENTS"); err != nil {
		t.Fatal(err)
	}
	wait(t, "the alarm", alarm("1"))
	before := l.count()
	wait(t, "blessings after the reset", func() bool { return l.count() > before+100 })
	cancel()
	wg.Wait()
	// The cursor waits four minutes for a server that syncs late: the journal had
	// everything, and so the stream has it again.
	l.verdict(t, natsURL(port))
	if l.refused+l.unknown > 0 {
		t.Errorf("%d requests refused and %d unanswered, want none", l.refused, l.unknown)
	}

	restart := func(flags ...string) {
		t.Helper()
		if err := r.proc.end(syscall.SIGTERM); err != nil {
			t.Fatalf("blessd ended with %v\n%s", err, r.proc.out.String())
		}
		r.start(flags...)
		r.ready()
	}
	restart()
	wait(t, "the alarm after a restart", alarm("1"))
	if _, status := r.get("/-/status"); !strings.Contains(status, `"stream_went_backwards": [`) {
		t.Errorf("status does not say that the stream went backwards:\n%s", status)
	}
	restart("--accept-stream-reset")
	wait(t, "the alarm to be accepted", func() bool {
		return alarm("0")() && strings.Contains(r.proc.out.String(), "is accepted")
	})
	restart()
	wait(t, "the relay to begin", func() bool { return strings.Contains(r.proc.out.String(), "relay starts") })
	wait(t, "no alarm after that", alarm("0"))
	l.verdict(t, natsURL(port))
}
