package sink_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/sink"
)

func TestEventMessage(t *testing.T) {
	t.Parallel()
	s := newSink(t, unconnected(t), defaults())
	e := someEvent(1)
	e.Recipient = "J\u00f6rg \"100%\"@example.com"
	const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	m, err := s.EventMessage(e, trace)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := m.Subject, "mail.events.sendclean.acme.email.bounced"; got != want {
		t.Errorf("subject: got %s, want %s", got, want)
	}
	want := nats.Header{
		"Nats-Msg-Id":    {e.ID},
		"Content-Type":   {"application/json"},
		"ce-specversion": {"1.0"},
		"ce-id":          {e.ID},
		"ce-source":      {"/blessd/acme"},
		"ce-type":        {"blessd.email.bounced"},
		"ce-time":        {"2016-06-14T07:50:56.000Z"},
		"ce-subject":     {"J%C3%B6rg%20%22100%25%22@example.com"},
		"traceparent":    {trace},
	}
	if got, want := fmt.Sprint(m.Header), fmt.Sprint(want); got != want {
		t.Errorf("headers:\ngot  %s\nwant %s", got, want)
	}
	got, err := event.Decode(m.Data)
	if err != nil {
		t.Fatal(err)
	}
	if got.Recipient != e.Recipient || got.ID != e.ID {
		t.Errorf("body: got %s for %s", got.ID, got.Recipient)
	}

	for _, v := range []string{
		"", "x", strings.ToUpper(trace), "ff" + trace[2:], trace + "-x",
		"00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
		"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0\r",
	} {
		m, err := s.EventMessage(e, v)
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := m.Header["traceparent"]; ok {
			t.Errorf("traceparent %q was handed on: %q", v, got)
		}
	}
}

func TestCESubject(t *testing.T) {
	t.Parallel()
	s := newSink(t, unconnected(t), defaults())
	for _, c := range []struct {
		what   string
		change func(*event.Event)
		want   string
	}{
		{"recipient", func(e *event.Event) { e.Contact = &event.Contact{Email: "c@example.com"} }, "user@example.com"},
		{"contact's address", func(e *event.Event) {
			e.Recipient, e.Contact, e.Message = "", &event.Contact{ID: "1", Email: "c@example.com"}, &event.Message{ID: "m"}
		}, "c@example.com"},
		{"message", func(e *event.Event) {
			e.Recipient, e.Contact, e.Message = "", &event.Contact{ID: "1"}, &event.Message{ID: "m"}
		}, "m"},
		{"contact", func(e *event.Event) {
			e.Recipient, e.Contact, e.Message = "", &event.Contact{ID: "1"}, &event.Message{}
		}, "1"},
		{"list", func(e *event.Event) { e.Recipient, e.Lists = "", []event.List{{ID: "4"}, {ID: "5"}} }, "4"},
		{"nothing", func(e *event.Event) { e.Recipient = "" }, ""},
		{"control characters", func(e *event.Event) { e.Recipient = "a\r\nNats-Rollup: all\x00\x7f\xff~!" }, "a%0D%0ANats-Rollup:%20all%00%7F%FF~!"},
		{"too long", func(e *event.Event) { e.Recipient = strings.Repeat("x", 100000) }, ""},
	} {
		e := someEvent(1)
		c.change(e)
		m, err := s.EventMessage(e, "")
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		if got := m.Header.Get("ce-subject"); got != c.want {
			t.Errorf("%s: got %q, want %q", c.what, got, c.want)
		}
	}
}

func TestSubjects(t *testing.T) {
	t.Parallel()
	s := newSink(t, unconnected(t), defaults())
	for _, typ := range event.Types() {
		e := someEvent(1)
		e.Type = typ
		m, err := s.EventMessage(e, "")
		if err != nil {
			t.Errorf("%s: %v", typ, err)
			continue
		}
		if n := strings.Count(m.Subject, ".") + 1; n != 6 {
			t.Errorf("%s has %d tokens, want 6", m.Subject, n)
		}
	}
	bad := []string{"", ".", "a.b", "*", ">", "A", "a b", "\u00e4", "a\n", strings.Repeat("a", 33)}
	for _, v := range bad {
		for what, change := range map[string]func(*event.Event){
			"provider": func(e *event.Event) { e.Provider = v },
			"endpoint": func(e *event.Event) { e.Endpoint = v },
			"type":     func(e *event.Event) { e.Type = event.Type(v) },
			"verb":     func(e *event.Event) { e.Type = event.Type("email." + v) },
			"id":       func(e *event.Event) { e.ID = v },
		} {
			e := someEvent(1)
			change(e)
			if m, err := s.EventMessage(e, ""); err == nil {
				t.Errorf("%s %q got the subject %q", what, v, m.Subject)
			}
		}
		for _, q := range []sink.Quarantined{
			{Provider: v, Endpoint: "eu", ID: someEvent(1).ID, Reason: "unreadable_body"},
			{Provider: "mailgun", Endpoint: v, ID: someEvent(1).ID, Reason: "unreadable_body"},
			{Provider: "mailgun", Endpoint: "eu", ID: v, Reason: "unreadable_body"},
			{Provider: "mailgun", Endpoint: "eu", ID: someEvent(1).ID, Reason: v},
		} {
			if m, err := s.QuarantineMessage(q); err == nil {
				t.Errorf("%+v got the subject %q", q, m.Subject)
			}
		}
	}
}

func TestQuarantineMessage(t *testing.T) {
	t.Parallel()
	s := newSink(t, unconnected(t), defaults())
	q := sink.Quarantined{
		Provider: "mailgun", Endpoint: "eu", ID: event.NewID("mailgun", "eu", []string{"q"}, 0), Reason: "unreadable_element",
		ContentType: `application/json; charset="utf-8"`, Received: time.Date(2026, 11, 21, 17, 22, 17, 123456789, time.UTC),
		Record: 1 << 60, Element: -1, Occurrence: 2, Raw: []byte("\xff{"),
	}
	m, err := s.QuarantineMessage(q)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := m.Subject, "mail.quarantine.mailgun.eu"; got != want {
		t.Errorf("subject: got %s, want %s", got, want)
	}
	want := nats.Header{
		"Nats-Msg-Id":         {q.ID},
		"Blessd-Provider":     {"mailgun"},
		"Blessd-Endpoint":     {"eu"},
		"Blessd-Received":     {"2026-11-21T17:22:17.123456789Z"},
		"Blessd-Content-Type": {`application/json; charset="utf-8"`},
		"Blessd-Reason":       {"unreadable_element"},
		"Blessd-Record":       {"1152921504606846976"},
		"Blessd-Element":      {"-1"},
		"Blessd-Occurrence":   {"2"},
	}
	if got, want := fmt.Sprint(m.Header), fmt.Sprint(want); got != want {
		t.Errorf("headers:\ngot  %s\nwant %s", got, want)
	}
	if !bytes.Equal(m.Data, q.Raw) {
		t.Errorf("body: got %q, want %q", m.Data, q.Raw)
	}
	back, err := sink.ParseQuarantined(m.Header, m.Data)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(back), fmt.Sprint(q); got != want {
		t.Errorf("read back:\ngot  %s\nwant %s", got, want)
	}
	for name := range want {
		if name == "Nats-Msg-Id" || strings.HasSuffix(name, "er") || strings.HasSuffix(name, "point") || strings.HasSuffix(name, "Type") || strings.HasSuffix(name, "Reason") {
			continue
		}
		h := nats.Header{}
		maps.Copy(h, m.Header)
		h[name] = []string{"x"}
		if _, err := sink.ParseQuarantined(h, nil); err == nil {
			t.Errorf("a wrong %s was read", name)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(*sink.Options){
		"prefix with a dot":  func(o *sink.Options) { o.Prefix = "a.b" },
		"wildcard prefix":    func(o *sink.Options) { o.Prefix = ">" },
		"ce prefix":          func(o *sink.Options) { o.CETypePrefix = "a b" },
		"no stream name":     func(o *sink.Options) { o.Events.Name = "" },
		"stream with a dot":  func(o *sink.Options) { o.Quarantine.Name = "A.B" },
		"the same two names": func(o *sink.Options) { o.Quarantine.Name = o.Events.Name },
	} {
		o := defaults()
		o.Registerer = prometheus.NewRegistry()
		change(&o)
		if _, err := sink.New(unconnected(t), o); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
}

func TestClassify(t *testing.T) {
	t.Parallel()
	api := func(code jetstream.ErrorCode, text string) error {
		return fmt.Errorf("nats: %w", &jetstream.APIError{Code: 503, ErrorCode: code, Description: text})
	}
	for _, c := range []struct {
		err    error
		reason string
		final  bool
	}{
		{nil, "", false},
		{nats.ErrMaxPayload, "too_large", true},
		{api(10054, "message size exceeds maximum allowed"), "too_large", true},
		{api(10097, "header size exceeds maximum allowed of 64k"), "too_large", true},
		{api(10077, "message too large"), "too_large", true},
		{nats.ErrBadSubject, "other", true},
		{api(10077, "maximum messages exceeded"), "stream_full", false},
		{api(10077, "maximum bytes exceeded"), "stream_full", false},
		{api(10077, "write /x: no space left on device"), "stream_full", false},
		{api(10077, "something else"), "other", false},
		{api(10002, "resource limits exceeded for account"), "stream_full", false},
		{api(10023, "insufficient resources"), "stream_full", false},
		{api(10047, "insufficient storage resources available"), "stream_full", false},
		{api(10059, "stream not found"), "no_stream", false},
		{api(10060, "expected stream does not match"), "no_stream", false},
		{api(10167, "too many requests"), "other", false},
		{api(9999, "unheard of"), "other", false},
		{jetstream.ErrNoStreamResponse, "no_stream", false},
		{nats.ErrNoResponders, "no_stream", false},
		{jetstream.ErrAsyncPublishTimeout, "timeout", false},
		{jetstream.ErrTooManyStalledMsgs, "timeout", false},
		{context.DeadlineExceeded, "timeout", false},
		{nats.ErrDisconnected, "disconnected", false},
		{nats.ErrReconnectBufExceeded, "disconnected", false},
		{fmt.Errorf("publish: %w", nats.ErrConnectionClosed), "disconnected", false},
		{io.EOF, "disconnected", false},
		{jetstream.ErrInvalidJSAck, "other", false},
		{errors.New("what"), "other", false},
	} {
		reason, final := sink.Classify(c.err)
		if reason != c.reason || final != c.final {
			t.Errorf("%v: got %s, %t; want %s, %t", c.err, reason, final, c.reason, c.final)
		}
		if reason != "" && !slices.Contains(sink.Reasons(), reason) {
			t.Errorf("reason %s is not in the list", reason)
		}
	}
	if !slices.IsSorted(sink.Reasons()) {
		t.Errorf("reasons are not sorted: %q", sink.Reasons())
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	e := startEmbedded(t, nil)
	o := defaults()
	o.Registerer, o.Mode = reg, "embedded"
	s := newSink(t, connect(t, e), o)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for name, want := range map[string]int{
		"blessd_publish_errors_total": 6, "blessd_publish_duration_seconds": 1,
		"blessd_nats_connected": 1, "blessd_nats_reconnects_total": 1, "blessd_nats_info": 1,
		"blessd_stream_messages": 2, "blessd_stream_bytes": 2, "blessd_stream_limit_bytes": 2, "blessd_stream_first_timestamp_seconds": 2,
		"blessd_stream_limit_age_seconds": 2, "blessd_stream_refuses_when_full": 2,
	} {
		got, err := testutil.GatherAndCount(reg, name)
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("%s: got %d series, want %d", name, got, want)
		}
	}
	ctx := testContext(t)
	if err := s.Refresh(ctx); err == nil {
		t.Error("refreshing without streams is no error")
	}
	if err := s.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, s, 0, 2)
	m := message(t, s, 3)
	m.Data = make([]byte, 9<<20)
	if _, _, err := publish(t, s, m); err == nil {
		t.Fatal("9 MiB were stored")
	}
	if err := s.Refresh(ctx); err != nil {
		t.Fatal(err)
	}
	want := `
# HELP blessd_nats_connected Whether the connection to NATS is up.
# TYPE blessd_nats_connected gauge
blessd_nats_connected 1
# HELP blessd_nats_info How NATS runs and which version; the version is empty before the first connection.
# TYPE blessd_nats_info gauge
blessd_nats_info{mode="embedded",server_version="` + e.Version() + `"} 1
# HELP blessd_nats_reconnects_total Times that the connection to NATS was made again.
# TYPE blessd_nats_reconnects_total counter
blessd_nats_reconnects_total 0
# HELP blessd_publish_errors_total Publishes that were not acknowledged, by reason. Each is tried again unless it can never succeed.
# TYPE blessd_publish_errors_total counter
blessd_publish_errors_total{reason="disconnected"} 0
blessd_publish_errors_total{reason="no_stream"} 0
blessd_publish_errors_total{reason="other"} 0
blessd_publish_errors_total{reason="stream_full"} 0
blessd_publish_errors_total{reason="timeout"} 0
blessd_publish_errors_total{reason="too_large"} 1
# HELP blessd_stream_limit_age_seconds Age at which the stream's messages expire; -1 means never, 0 not yet known.
# TYPE blessd_stream_limit_age_seconds gauge
blessd_stream_limit_age_seconds{stream="MAIL_EVENTS"} 2.592e+06
blessd_stream_limit_age_seconds{stream="MAIL_QUARANTINE"} 7.776e+06
# HELP blessd_stream_limit_bytes Most bytes the stream keeps; -1 means no limit, 0 not yet known.
# TYPE blessd_stream_limit_bytes gauge
blessd_stream_limit_bytes{stream="MAIL_EVENTS"} 1.073741824e+09
blessd_stream_limit_bytes{stream="MAIL_QUARANTINE"} 2.68435456e+08
# HELP blessd_stream_messages Messages stored in the stream.
# TYPE blessd_stream_messages gauge
blessd_stream_messages{stream="MAIL_EVENTS"} 2
blessd_stream_messages{stream="MAIL_QUARANTINE"} 0
# HELP blessd_stream_refuses_when_full 1 when the full stream takes nothing more, 0 when its oldest messages go.
# TYPE blessd_stream_refuses_when_full gauge
blessd_stream_refuses_when_full{stream="MAIL_EVENTS"} 0
blessd_stream_refuses_when_full{stream="MAIL_QUARANTINE"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "blessd_nats_connected", "blessd_nats_info", "blessd_nats_reconnects_total",
		"blessd_publish_errors_total", "blessd_stream_limit_age_seconds", "blessd_stream_limit_bytes", "blessd_stream_messages", "blessd_stream_refuses_when_full"); err != nil {
		t.Error(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "blessd_publish_duration_seconds" {
			if got := f.GetMetric()[0].GetHistogram().GetSampleCount(); got != 2 {
				t.Errorf("publish durations: got %d, want 2", got)
			}
		}
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	e := startEmbedded(t, nil)
	nc := connect(t, e)
	s := newSink(t, nc, defaults())
	read := func(after uint64) (seqs []uint64) {
		t.Helper()
		err := s.IDs(ctx, "MAIL_EVENTS", after, func(id string, seq uint64) {
			if want := someEvent(int(seq) - 1).ID; id != want {
				t.Errorf("sequence %d: got id %s, want %s", seq, id, want)
			}
			seqs = append(seqs, seq)
		})
		if err != nil {
			t.Fatal(err)
		}
		return seqs
	}
	if err := s.IDs(ctx, "MAIL_EVENTS", 0, nil); err == nil {
		t.Error("a missing stream was read")
	}
	if err := s.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	expect := func(what string, after uint64, want ...uint64) {
		t.Helper()
		if got := read(after); !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", what, got, want)
		}
	}
	expect("empty", 0)
	mustPublish(t, s, 0, 8)
	expect("all", 0, 1, 2, 3, 4, 5, 6, 7, 8)
	expect("some", 5, 6, 7, 8)
	expect("none", 8)
	expect("beyond", 80)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(ctx, "MAIL_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	for _, seq := range []uint64{1, 2, 5, 8} {
		if err := st.DeleteMsg(ctx, seq); err != nil {
			t.Fatal(err)
		}
	}
	expect("with gaps", 0, 3, 4, 6, 7)
	expect("the deleted end", 7)
	if _, err := js.Publish(ctx, "mail.events.a.b.email.sent", nil); err != nil {
		t.Fatal(err)
	}
	expect("one without an id", 6, 7)
	if err := st.Purge(ctx); err != nil {
		t.Fatal(err)
	}
	expect("purged", 0)
	if state, err := s.State(ctx, "MAIL_EVENTS"); err != nil || state.FirstSeq != 10 || state.LastSeq != 9 || state.Msgs != 0 {
		t.Errorf("got %+v, %v; want an empty stream from 10", state, err)
	}
	mustPublish(t, s, 9, 12)
	expect("after the purge", 0, 10, 11, 12)

	canceled, cancel := context.WithCancel(ctx)
	cancel()
	if err := s.IDs(canceled, "MAIL_EVENTS", 0, func(string, uint64) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

// While ids are read, the rest of the stream is removed.
func TestIDsWhilePurged(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	e := startEmbedded(t, nil)
	nc := connect(t, e)
	s := newSink(t, nc, defaults())
	if err := s.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	fill(t, s, 0, 5000)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(ctx, "MAIL_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = s.IDs(ctx, "MAIL_EVENTS", 0, func(_ string, seq uint64) {
		if n++; n == 1 {
			if err := st.Purge(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 || n >= 5000 {
		t.Errorf("got %d ids of 5000 of which most were removed", n)
	}
}

// A stranger deletes blessd's consumer and fetches from it while ids are read.
func TestIDsWhileDisturbed(t *testing.T) {
	t.Parallel()
	const total = 8000
	ctx := testContext(t)
	e := startEmbedded(t, nil)
	s := newSink(t, connect(t, e), defaults())
	if err := s.Ensure(ctx); err != nil {
		t.Fatal(err)
	}
	fill(t, s, 0, total)
	nc, err := nats.Connect(e.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	st, err := js.Stream(ctx, "MAIL_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	disturbed := 0
	err = s.IDs(ctx, "MAIL_EVENTS", 0, func(_ string, seq uint64) {
		if seq != last+1 {
			t.Errorf("%d came after %d", seq, last)
		}
		last = seq
		if seq%2400 != 100 {
			return
		}
		names := st.ConsumerNames(ctx)
		for name := range names.Name() {
			disturbed++
			inbox := nats.NewInbox()
			if err := nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.MAIL_EVENTS."+name, inbox, []byte(`{"batch":100,"no_wait":true}`)); err != nil {
				t.Error(err)
			}
			if disturbed%2 == 0 {
				if err := st.DeleteConsumer(ctx, name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
					t.Error(err)
				}
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if last != total || disturbed < 3 {
		t.Errorf("read up to %d of %d, disturbed %d times", last, total, disturbed)
	}
}

// fill publishes events from to to, with many on their way at once.
func fill(t testing.TB, s *sink.Sink, from, to int) {
	t.Helper()
	var fs []jetstream.PubAckFuture
	settle := func() {
		for _, f := range fs {
			select {
			case <-f.Ok():
			case err := <-f.Err():
				t.Fatal(err)
			}
		}
		fs = fs[:0]
	}
	for n := from; n < to; n++ {
		f, err := s.Publish(message(t, s, n))
		if err != nil {
			t.Fatal(err)
		}
		if fs = append(fs, f); len(fs) == 4096 {
			settle()
		}
	}
	settle()
}

func BenchmarkPublish(b *testing.B) {
	for _, always := range []bool{false, true} {
		b.Run(fmt.Sprintf("sync_always=%t", always), func(b *testing.B) {
			e := startEmbedded(b, func(o *sink.EmbeddedOptions) { o.SyncAlways = always })
			so := defaults()
			so.PublishTimeout = time.Minute // the last of 4096 waits for 4095 syncs
			s := newSink(b, connect(b, e), so)
			if err := s.Ensure(testContext(b)); err != nil {
				b.Fatal(err)
			}
			raw := []byte(`{"pad":"` + strings.Repeat("x", 700) + `"}`)
			msgs := make([]*nats.Msg, b.N)
			for n := range msgs {
				ev := someEvent(n)
				ev.SetRaw(raw)
				var err error
				if msgs[n], err = s.EventMessage(ev, ""); err != nil {
					b.Fatal(err)
				}
			}
			if b.N > 0 {
				b.SetBytes(int64(len(msgs[0].Data)))
			}
			b.ResetTimer()
			fs := make([]jetstream.PubAckFuture, b.N)
			for n, m := range msgs {
				var err error
				if fs[n], err = s.Publish(m); err != nil {
					b.Fatal(err)
				}
			}
			for _, f := range fs {
				select {
				case <-f.Ok():
				case err := <-f.Err():
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func BenchmarkIDs(b *testing.B) {
	const stored = 100_000
	e := startEmbedded(b, nil)
	s := newSink(b, connect(b, e), defaults())
	ctx := context.Background()
	if err := s.Ensure(ctx); err != nil {
		b.Fatal(err)
	}
	fill(b, s, 0, stored)
	for b.Loop() {
		n := 0
		if err := s.IDs(ctx, "MAIL_EVENTS", 0, func(string, uint64) { n++ }); err != nil {
			b.Fatal(err)
		}
		if n != stored {
			b.Fatalf("got %d ids, want %d", n, stored)
		}
	}
	b.ReportMetric(stored/(b.Elapsed().Seconds()/float64(b.N)), "ids/s")
}

// unconnected returns a connection to a port where nobody listens.
func unconnected(t testing.TB) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect("nats://127.0.0.1:1", nats.RetryOnFailedConnect(true), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1),
		nats.ReconnectWait(time.Hour), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}
