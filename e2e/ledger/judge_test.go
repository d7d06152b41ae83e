package ledger_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/blessd/blessd/e2e/ledger"
)

// store plays what is behind blessd: a real server with both streams.
type store struct {
	t   testing.TB
	url string
	js  jetstream.JetStream
}

func newStore(t testing.TB) *store {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the server does not start")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	for name, subject := range map[string]string{ledger.Events: "mail.events.>", ledger.Quarantine: "mail.quarantine.>"} {
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: name, Subjects: []string{subject}}); err != nil {
			t.Fatal(err)
		}
	}
	return &store{t, s.ClientURL(), js}
}

// publish stores what the expectation says, under an id, after a change to it.
func (s *store) publish(endpoint string, x ledger.Expected, id string, change func(event map[string]any, m *nats.Msg)) {
	s.t.Helper()
	e := maps.Clone(x.Event)
	e["id"], e["provider"], e["endpoint"], e["received"], e["time_source"] = id, "sendclean", endpoint, "2026-11-21T17:22:17.123Z", "provider"
	e["raw"] = json.RawMessage(x.Raw)
	m := nats.NewMsg(fmt.Sprintf("mail.events.sendclean.%s.%s", endpoint, e["type"]))
	m.Header = nats.Header{
		"Nats-Msg-Id": {id}, "Content-Type": {"application/json"}, "ce-specversion": {"1.0"}, "ce-id": {id}, "ce-source": {"/blessd/" + endpoint},
		"ce-type": {"blessd." + e["type"].(string)}, "ce-time": {e["time"].(string)},
	}
	if change != nil {
		change(e, m)
	}
	var err error
	if m.Data, err = json.Marshal(e); err != nil {
		s.t.Fatal(err)
	}
	// The ids of the streams here are not to absorb anything.
	if _, err := s.js.PublishMsg(s.t.Context(), m); err != nil {
		s.t.Fatal(err)
	}
}

func body(uid string) []byte {
	return fmt.Appendf(nil, `[{"_id":"m-%s","x_unique_id":"%s","ts":1465890656000,"event":"send","msg":{}},{"_id":"m-%s","x_unique_id":"","ts":1465890656001,"event":"delivered","msg":{}}]`, uid, uid, uid)
}

func id(n int) string { return fmt.Sprintf("%032x", n) }

// TestVerdicts has each kind of fault once: a judge that misses one is no judge.
func TestVerdicts(t *testing.T) {
	as := func(e map[string]any, name string, value any) { e[name] = value }
	for _, c := range []struct {
		name    string
		answers []ledger.Answer // of one delivery; one of them if there is none
		store   func(s *store, uid string, x []ledger.Expected)
		rules   ledger.Rules
		want    string // the problems
	}{
		{name: "all is well", store: func(s *store, _ string, x []ledger.Expected) {
			s.publish("acme", x[0], id(1), nil)
			s.publish("acme", x[1], id(2), nil)
		}},
		{name: "lost", want: "1 LOST", store: func(s *store, _ string, x []ledger.Expected) {
			s.publish("acme", x[0], id(1), nil)
		}},
		{name: "all lost", want: "2 LOST", store: func(*store, string, []ledger.Expected) {}},
		{name: "ghost", want: "1 GHOST", store: func(s *store, uid string, x []ledger.Expected) {
			s.publish("acme", x[0], id(1), nil)
			s.publish("acme", x[1], id(2), nil)
			ghost := ledger.Expect("sendclean", "application/json", body(strings.Replace(uid, "-0000", "-ffff", 1)))
			s.publish("acme", ghost[0], id(3), nil)
		}},
		{name: "changed field", want: "1 CHANGED", store: func(s *store, _ string, x []ledger.Expected) {
			s.publish("acme", x[0], id(1), func(e map[string]any, _ *nats.Msg) { as(e, "recipient", "x@example.com") })
			s.publish("acme", x[1], id(2), nil)
		}},
		{name: "changed raw", want: "1 CHANGED", store: func(s *store, _ string, x []ledger.Expected) {
			s.publish("acme", x[0], id(1), func(e map[string]any, _ *nats.Msg) {
				as(e, "raw", json.RawMessage(strings.Replace(string(x[0].Raw), "send", "sent", 1)))
			})
			s.publish("acme", x[1], id(2), nil)
		}},
		{name: "changed subject", want: "1 CHANGED", store: func(s *store, _ string, x []ledger.Expected) {
			s.publish("acme", x[0], id(1), func(_ map[string]any, m *nats.Msg) { m.Subject = "mail.events.sendclean.acme.email.opened" })
			s.publish("acme", x[1], id(2), nil)
		}},
		{name: "no id in the header", want: "1 CHANGED", store: func(s *store, _ string, x []ledger.Expected) {
			s.publish("acme", x[0], id(1), func(_ map[string]any, m *nats.Msg) { m.Header.Del("Nats-Msg-Id") })
			s.publish("acme", x[1], id(2), nil)
		}},
		{name: "another endpoint", want: "2 CHANGED", store: func(s *store, _ string, x []ledger.Expected) {
			s.publish("other", x[0], id(1), nil)
			s.publish("other", x[1], id(2), nil)
		}},
		{name: "double under another id", want: "1 DUP, 1 stored again under another id", store: func(s *store, _ string, x []ledger.Expected) {
			s.publish("acme", x[0], id(1), nil)
			s.publish("acme", x[1], id(2), nil)
			s.publish("acme", x[0], id(3), nil)
		}},
		{
			name: "refused and stored", answers: []ledger.Answer{{Status: 503}}, rules: ledger.Rules{OnlyAcked: true},
			want: "nothing was blessed: this run shows nothing, 1 STORED-NOT-ACKED", store: func(s *store, _ string, x []ledger.Expected) {
				s.publish("acme", x[0], id(1), nil)
			},
		},
		{
			name: "200 without the blessing", answers: []ledger.Answer{{Status: 200}}, want: "nothing was blessed: this run shows nothing, 1 REFUSED-TRANSIENT: refused in a way that makes a provider give up",
			store: func(*store, string, []ledger.Expected) {},
		},
		{
			name: "given up", answers: []ledger.Answer{{Status: 404}, {Status: 200, Exact: true}}, want: "1 REFUSED-TRANSIENT: refused in a way that makes a provider give up",
			store: func(s *store, _ string, x []ledger.Expected) {
				s.publish("acme", x[0], id(1), nil)
				s.publish("acme", x[1], id(2), nil)
			},
		},
		{
			name: "no answer, then blessed", answers: []ledger.Answer{{Error: "reset"}, {Status: 200, Exact: true}}, rules: ledger.Rules{NothingRefused: true}, want: "1 not answered, all should be",
			store: func(s *store, _ string, x []ledger.Expected) {
				s.publish("acme", x[0], id(1), nil)
				s.publish("acme", x[1], id(2), nil)
			},
		},
		{name: "in quarantine by mistake", want: "1 CHANGED", store: func(s *store, _ string, x []ledger.Expected) {
			m := nats.NewMsg("mail.quarantine.sendclean.acme")
			m.Header = nats.Header{"Nats-Msg-Id": {id(1)}, "Blessd-Provider": {"sendclean"}, "Blessd-Endpoint": {"acme"}, "Blessd-Reason": {"refused"}}
			m.Data = x[0].Raw
			if _, err := s.js.PublishMsg(s.t.Context(), m); err != nil {
				s.t.Fatal(err)
			}
			s.publish("acme", x[1], id(2), nil)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			file := filepath.Join(t.TempDir(), "ledger")
			l, err := ledger.Create(file)
			if err != nil {
				t.Fatal(err)
			}
			uid := l.NewUID()
			if c.answers == nil {
				c.answers = []ledger.Answer{{Status: 200, Exact: true}}
			}
			for i, a := range c.answers {
				attempt, err := l.Sent(ledger.Sent{UID: uid, Provider: "sendclean", Endpoint: "acme", ContentType: "application/json", Events: 2, Body: body(uid)})
				if err != nil || attempt != i+1 {
					t.Fatalf("attempt %d, %v; want %d", attempt, err, i+1)
				}
				a.UID, a.Attempt = uid, attempt
				if err := l.Answered(a); err != nil {
					t.Fatal(err)
				}
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			x := ledger.Expect("sendclean", "application/json", body(uid))
			c.store(s, uid, x)
			book, err := ledger.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer book.Close()
			v, err := ledger.JudgeStreams(t.Context(), book, s.url, c.rules)
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(v.Problems(c.rules), ", "); got != c.want {
				t.Errorf("got %q, want %q\n%+v", got, c.want, v)
			}
		})
	}
}

// TestConserve has metrics that are right, and each of them wrong by one.
func TestConserve(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ledger")
	l, err := ledger.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range []int{200, 503} {
		uid := l.NewUID()
		attempt, err := l.Sent(ledger.Sent{UID: uid, Provider: "sendclean", Endpoint: "acme", ContentType: "application/json", Events: 2, Body: body(uid)})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Answered(ledger.Answer{UID: uid, Attempt: attempt, Status: status, Exact: status == 200}); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	book, err := ledger.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer book.Close()
	right := []string{
		`blessd_webhook_requests_total{code="200",endpoint="acme",provider="sendclean"} 1`,
		`blessd_webhook_requests_total{code="503",endpoint="acme",provider="sendclean"} 1`,
		`blessd_webhook_blessed_total{endpoint="acme",provider="sendclean"} 1`,
		`blessd_webhook_rejected_total{endpoint="acme",provider="sendclean",reason="journal_full"} 1`,
		`blessd_events_received_total{endpoint="acme",provider="sendclean",type="email.sent"} 2`,
		`blessd_events_published_total{endpoint="acme",provider="sendclean",type="email.sent"} 2`,
	}
	for wrong := -1; wrong < len(right); wrong++ {
		text := ""
		for i, line := range right {
			if i == wrong {
				line += "3"
			}
			text += line + "\n"
		}
		differences, err := book.Conserve(ledger.ParseMetrics(text), ledger.Rules{})
		if err != nil {
			t.Fatal(err)
		}
		if (len(differences) > 0) != (wrong >= 0) {
			t.Errorf("with a wrong line %d: %v", wrong, differences)
		}
	}
}

func BenchmarkJudge(b *testing.B) {
	s := newStore(b)
	file := filepath.Join(b.TempDir(), "ledger")
	l, err := ledger.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	const deliveries = 1000
	for n := range deliveries {
		uid := l.NewUID()
		if _, err := l.Sent(ledger.Sent{UID: uid, Provider: "sendclean", Endpoint: "acme", ContentType: "application/json", Events: 2, Body: body(uid)}); err != nil {
			b.Fatal(err)
		}
		if err := l.Answered(ledger.Answer{UID: uid, Attempt: 1, Status: 200, Exact: true}); err != nil {
			b.Fatal(err)
		}
		for i, x := range ledger.Expect("sendclean", "application/json", body(uid)) {
			s.publish("acme", x, id(2*n+i), nil)
		}
	}
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		book, err := ledger.Open(file)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := ledger.JudgeStreams(b.Context(), book, s.url, ledger.Rules{}); err != nil {
			b.Fatal(err)
		}
		if err := book.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*2*deliveries)/b.Elapsed().Seconds(), "events/s")
}
