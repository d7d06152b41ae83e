package sink_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/sink"
)

// house is an embedded server with three events and a quarantined body, and a
// stranger who connects to it without credentials.
type house struct {
	e    *sink.Embedded
	s    *sink.Sink
	own  jetstream.JetStream
	nc   *nats.Conn
	js   jetstream.JetStream
	errs chan error
}

func newHouse(t *testing.T) *house {
	t.Helper()
	e := startEmbedded(t, nil)
	nc := connect(t, e)
	o := defaults()
	o.Manage = true
	h := &house{e: e, s: newSink(t, nc, o), errs: make(chan error, 100)}
	if err := h.s.Ensure(testContext(t)); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, h.s, 0, 3)
	q, err := h.s.QuarantineMessage(sink.Quarantined{
		Provider: "mailgun", Endpoint: "eu", ID: event.NewID("mailgun", "eu", []string{"q"}, 0), Reason: "unreadable_body", Element: -1, Raw: []byte("{"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := publish(t, h.s, q); err != nil {
		t.Fatal(err)
	}
	if h.own, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	h.nc, err = nats.Connect(e.ClientURL(), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		select {
		case h.errs <- err:
		default:
		}
	}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.nc.Close)
	if h.js, err = jetstream.New(h.nc); err != nil {
		t.Fatal(err)
	}
	return h
}

// stored describes everything that a stranger must not change.
func (h *house) stored(t *testing.T) string {
	t.Helper()
	ctx := testContext(t)
	var b strings.Builder
	for _, name := range []string{"MAIL_EVENTS", "MAIL_QUARANTINE"} {
		st, err := h.own.Stream(ctx, name)
		if err != nil {
			t.Fatalf("stream %s: %v", name, err)
		}
		i := st.CachedInfo()
		cfg, err := json.Marshal(i.Config)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s created %s, %d messages %d to %d, %d deleted, config %s\n", name, i.Created, i.State.Msgs, i.State.FirstSeq, i.State.LastSeq, i.State.NumDeleted, cfg)
		for seq := i.State.FirstSeq; seq <= i.State.LastSeq; seq++ {
			m, err := st.GetMsg(ctx, seq)
			if err != nil {
				t.Fatalf("message %d of %s: %v", seq, name, err)
			}
			fmt.Fprintf(&b, "  %d %s %s\n", seq, m.Subject, m.Data)
		}
	}
	names := h.own.StreamNames(ctx)
	n := 0
	for range names.Name() {
		n++
	}
	fmt.Fprintf(&b, "%d streams\n", n)
	return b.String()
}

// settle returns when the server has handled what the stranger sent before, and
// what that set off: the request travels the same way through the same account.
func (h *house) settle(t *testing.T) {
	t.Helper()
	for range 3 {
		if _, err := h.nc.Request("$JS.API.STREAM.INFO.MAIL_EVENTS", nil, 5*time.Second); err != nil {
			t.Fatal(err)
		}
		if _, err := h.own.AccountInfo(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStrangerReads(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ctx := testContext(t)
	want := someEvent(0).ID

	t.Run("core subscription", func(t *testing.T) {
		sub, err := h.nc.SubscribeSync("mail.events.>")
		if err != nil {
			t.Fatal(err)
		}
		all, err := h.nc.SubscribeSync("mail.>")
		if err != nil {
			t.Fatal(err)
		}
		if err := h.nc.Flush(); err != nil {
			t.Fatal(err)
		}
		mustPublish(t, h.s, 3, 4)
		for _, sub := range []*nats.Subscription{sub, all} {
			m, err := sub.NextMsg(5 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := m.Subject, "mail.events.sendclean.acme.email.bounced"; got != want {
				t.Errorf("subject: got %s, want %s", got, want)
			}
			if got, want := m.Header.Get("ce-id"), someEvent(3).ID; got != want {
				t.Errorf("ce-id: got %s, want %s", got, want)
			}
			sub.Unsubscribe()
		}
	})
	t.Run("info and get", func(t *testing.T) {
		if _, err := h.js.AccountInfo(ctx); err != nil {
			t.Errorf("account info: %v", err)
		}
		st, err := h.js.Stream(ctx, "MAIL_EVENTS")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := st.Info(ctx, jetstream.WithSubjectFilter(">")); err != nil {
			t.Errorf("info: %v", err)
		}
		m, err := st.GetMsg(ctx, 1)
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Header.Get("Nats-Msg-Id"); got != want {
			t.Errorf("got id %s, want %s", got, want)
		}
		if _, err := st.GetLastMsgForSubject(ctx, "mail.events.sendclean.acme.email.bounced"); err != nil {
			t.Errorf("last message: %v", err)
		}
		var names []string
		l := h.js.StreamNames(ctx)
		for n := range l.Name() {
			names = append(names, n)
		}
		if l.Err() != nil || len(names) != 2 {
			t.Errorf("names: got %v, %v; want two", names, l.Err())
		}
		if n, err := h.js.StreamNameBySubject(ctx, "mail.events.>"); n != "MAIL_EVENTS" {
			t.Errorf("stream by subject: got %q, %v", n, err)
		}
		if q, err := h.js.Stream(ctx, "MAIL_QUARANTINE"); err != nil {
			t.Errorf("quarantine: %v", err)
		} else if m, err := q.GetMsg(ctx, 1); err != nil || string(m.Data) != "{" {
			t.Errorf("quarantined: got %v, %v", m, err)
		}
	})
	t.Run("durable pull consumer with acks", func(t *testing.T) {
		c, err := h.js.CreateOrUpdateConsumer(ctx, "MAIL_EVENTS", jetstream.ConsumerConfig{
			Durable: "billing", AckPolicy: jetstream.AckExplicitPolicy, FilterSubjects: []string{"mail.events.*.*.email.bounced", "mail.events.*.*.email.complained"},
		})
		if err != nil {
			t.Fatal(err)
		}
		b, err := c.Fetch(2, jetstream.FetchMaxWait(5*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for m := range b.Messages() {
			n++
			if err := m.DoubleAck(ctx); err != nil {
				t.Errorf("acknowledge: %v", err)
			}
		}
		if n != 2 || b.Error() != nil {
			t.Errorf("fetched %d messages, %v; want 2", n, b.Error())
		}
		i, err := c.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if i.AckFloor.Stream != 2 || i.NumAckPending != 0 {
			t.Errorf("got ack floor %d, %d pending; want 2, 0", i.AckFloor.Stream, i.NumAckPending)
		}
		got := make(chan uint64, 10)
		cc, err := c.Consume(func(m jetstream.Msg) {
			meta, _ := m.Metadata()
			m.Ack()
			got <- meta.Sequence.Stream
		})
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Stop()
		for want := uint64(3); want <= 4; want++ {
			select {
			case seq := <-got:
				if seq != want {
					t.Errorf("consumed %d, want %d", seq, want)
				}
			case <-ctx.Done():
				t.Fatal("nothing consumed")
			}
		}
		mustPublish(t, h.s, 4, 5)
		if seq := <-got; seq != 5 {
			t.Errorf("consumed %d, want 5", seq)
		}
	})
	t.Run("many fetches of one", func(t *testing.T) {
		c, err := h.js.CreateConsumer(ctx, "MAIL_EVENTS", jetstream.ConsumerConfig{AckPolicy: jetstream.AckNonePolicy})
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			if _, err := c.Next(jetstream.FetchMaxWait(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("ordered consumer", func(t *testing.T) {
		c, err := h.js.OrderedConsumer(ctx, "MAIL_EVENTS", jetstream.OrderedConsumerConfig{})
		if err != nil {
			t.Fatal(err)
		}
		it, err := c.Messages()
		if err != nil {
			t.Fatal(err)
		}
		defer it.Stop()
		m, err := it.Next(jetstream.NextContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Headers().Get("Nats-Msg-Id"); got != want {
			t.Errorf("got id %s, want %s", got, want)
		}
	})
	t.Run("push consumers", func(t *testing.T) {
		// The older API of nats.go, of the nats CLI and of other languages.
		js, err := h.nc.JetStream()
		if err != nil {
			t.Fatal(err)
		}
		for name, opts := range map[string][]nats.SubOpt{
			"ephemeral": {nats.AckExplicit()},
			"ordered":   {nats.OrderedConsumer()},
			"durable":   {nats.Durable("pushed"), nats.EnableFlowControl(), nats.IdleHeartbeat(time.Second)},
		} {
			sub, err := js.SubscribeSync("mail.events.>", opts...)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			m, err := sub.NextMsg(5 * time.Second)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := m.Header.Get("Nats-Msg-Id"); got != want {
				t.Errorf("%s: got id %s, want %s", name, got, want)
			}
			if name != "ordered" {
				if err := m.AckSync(); err != nil {
					t.Errorf("%s: acknowledge: %v", name, err)
				}
			}
			sub.Unsubscribe()
		}
	})
	t.Run("own consumer deleted", func(t *testing.T) {
		if err := h.js.DeleteConsumer(ctx, "MAIL_EVENTS", "billing"); err != nil {
			t.Error(err)
		}
	})
}

func TestStrangerCannotWrite(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ctx := testContext(t)
	if _, err := h.js.CreateConsumer(ctx, "MAIL_EVENTS", jetstream.ConsumerConfig{Durable: "d", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	// Push consumers deliver when somebody listens to exactly their subject.
	inbox := nats.NewInbox()
	for _, s := range []string{"mail.>", "mail.quarantine.x.y", "mail.events.x.y.email.sent", "$JS.API.STREAM.PURGE.MAIL_EVENTS", inbox} {
		if _, err := h.nc.Subscribe(s, func(*nats.Msg) {}); err != nil {
			t.Fatal(err)
		}
	}
	before := h.stored(t)

	check := func(t *testing.T) {
		t.Helper()
		h.settle(t)
		if after := h.stored(t); after != before {
			t.Errorf("a stranger changed what is stored\nbefore %s\nafter %s", before, after)
		}
	}
	const forged = "mail.events.x.y.email.bounced"

	t.Run("publishing", func(t *testing.T) {
		for _, subject := range []string{forged, "mail.quarantine.x.y", "mail.events.sendclean.acme.email.bounced", "_BLESSD.GATE.CONSUMER.CREATE.MAIL_EVENTS", "$SYS.REQ.SERVER.PING"} {
			if err := h.nc.Publish(subject, []byte(`{"id":"0","type":"email.bounced"}`)); err != nil {
				t.Fatal(err)
			}
			if _, err := h.nc.Request(subject, nil, 50*time.Millisecond); err == nil {
				t.Errorf("request on %s was answered", subject)
			}
		}
		select {
		case err := <-h.errs:
			if !errors.Is(err, nats.ErrPermissionViolation) {
				t.Errorf("got %v, want a permissions violation", err)
			}
		case <-ctx.Done():
			t.Error("publishing is not refused")
		}
		check(t)
	})

	t.Run("api", func(t *testing.T) {
		for subject, body := range map[string]string{
			"STREAM.CREATE.OTHER":                       `{"name":"OTHER","subjects":["other"]}`,
			"STREAM.CREATE.COPY":                        `{"name":"COPY","sources":[{"name":"MAIL_EVENTS"}]}`,
			"STREAM.UPDATE.MAIL_EVENTS":                 `{"name":"MAIL_EVENTS","subjects":["mail.events.>"],"max_msgs":1}`,
			"STREAM.DELETE.MAIL_EVENTS":                 "",
			"STREAM.PURGE.MAIL_EVENTS":                  "",
			"STREAM.MSG.DELETE.MAIL_EVENTS":             `{"seq":1}`,
			"STREAM.RESTORE.MAIL_EVENTS":                `{"config":{"name":"MAIL_EVENTS"}}`,
			"STREAM.RESTORE.NEW":                        `{"config":{"name":"NEW","subjects":["new"]},"state":{}}`,
			"STREAM.SNAPSHOT.MAIL_EVENTS":               `{"deliver_subject":"mail.quarantine.s.s"}`,
			"STREAM.PEER.REMOVE.MAIL_EVENTS":            `{"peer":"x"}`,
			"STREAM.PEER.EVACUATE.MAIL_EVENTS":          `{"peer":"x"}`,
			"STREAM.CANCEL_MOVE.MAIL_EVENTS":            "",
			"STREAM.LEADER.STEPDOWN.MAIL_EVENTS":        "",
			"CONSUMER.LEADER.STEPDOWN.MAIL_EVENTS.d":    "",
			"CONSUMER.PEER.REMOVE.MAIL_EVENTS.d":        `{"peer":"x"}`,
			"CONSUMER.PAUSE.MAIL_EVENTS.d":              `{"pause_until":"2100-01-01T00:00:00Z"}`,
			"CONSUMER.RESET.MAIL_EVENTS.d":              "",
			"CONSUMER.UNPIN.MAIL_EVENTS.d":              `{"group":"x"}`,
			"META.LEADER.STEPDOWN":                      "",
			"META.RESCUE":                               "",
			"SERVER.REMOVE":                             `{"peer":"x"}`,
			"SERVER.EVACUATE":                           `{"peer":"x"}`,
			"ACCOUNT.PURGE.BLESSD":                      "",
			"ACCOUNT.STREAM.MOVE.BLESSD.MAIL_EVENTS":    "",
			"CONSUMER.DURABLE.CREATE.MAIL_EVENTS.d.e.f": "{}",
		} {
			r, err := h.nc.Request("$JS.API."+subject, []byte(body), 100*time.Millisecond)
			if err == nil {
				t.Errorf("%s was answered: %.200s", subject, r.Data)
			}
		}
		check(t)
	})

	t.Run("reply subjects", func(t *testing.T) {
		replies := []string{
			forged, "mail.quarantine.x.y",
			"$JS.API.STREAM.PURGE.MAIL_EVENTS", "$JS.API.STREAM.PURGE.MAIL_QUARANTINE", "$JS.API.STREAM.DELETE.MAIL_QUARANTINE",
			"$JS.ACK.MAIL_EVENTS.d.1.1.1.1.1", "_R_.abcdef.ghijkl", "_BLESSD.GATE.CONSUMER.CREATE.MAIL_EVENTS",
		}
		for _, reply := range replies {
			nc, err := nats.Connect(h.e.ClientURL(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), nats.NoReconnect())
			if err != nil {
				t.Fatal(err)
			}
			for subject, body := range map[string]string{
				"$JS.API.INFO":                         "",
				"$JS.API.STREAM.NAMES":                 "",
				"$JS.API.STREAM.INFO.MAIL_EVENTS":      "",
				"$JS.API.STREAM.MSG.GET.MAIL_EVENTS":   `{"seq":1}`,
				"$JS.API.CONSUMER.INFO.MAIL_EVENTS.d":  "",
				"$JS.API.CONSUMER.CREATE.MAIL_EVENTS":  `{"stream_name":"MAIL_EVENTS","config":{}}`,
				"$JS.ACK.MAIL_EVENTS.d.1.1.1.1.1":      "+NXT",
				"$JS.FC.MAIL_EVENTS.d.x":               "",
				"$JS.API.CONSUMER.DELETE.MAIL_EVENTS.": "",
			} {
				if err := nc.PublishRequest(subject, reply, []byte(body)); err != nil {
					t.Fatal(err)
				}
			}
			// The statuses of empty pull requests have empty bodies, which an API
			// request to purge or delete takes for a plain order.
			for range 8 {
				if err := nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.MAIL_EVENTS.d", reply, []byte(`{"batch":1,"no_wait":true}`)); err != nil {
					t.Fatal(err)
				}
			}
			nc.Flush()
			nc.Close()
		}
		check(t)
	})

	t.Run("push consumers", func(t *testing.T) {
		n := 0
		create := func(stream, config string) string {
			t.Helper()
			n++
			name := fmt.Sprintf("p%d", n)
			body := fmt.Sprintf(`{"stream_name":%q,"config":{"name":%q,"ack_policy":"none","inactive_threshold":60000000000,%s}}`, stream, name, config)
			r, err := h.nc.Request("$JS.API.CONSUMER.CREATE."+stream+"."+name, []byte(body), 5*time.Second)
			if err != nil {
				t.Fatalf("%s: %v", config, err)
			}
			return string(r.Data)
		}
		const hb = `,"idle_heartbeat":100000000`
		for _, config := range []string{
			// Events name their stream in a header, so that another does not take
			// them. Heartbeats do not.
			`"deliver_subject":"mail.quarantine.x.y"` + hb,
			`"deliver_subject":"mail.events.x.y.email.sent"` + hb,
			`"deliver_subject":"$JS.API.STREAM.PURGE.MAIL_EVENTS"` + hb,
			`"deliver_subject":"$JS.API.STREAM.DELETE.MAIL_QUARANTINE"` + hb,
			`"deliver_subject":"$JS.ACK.MAIL_EVENTS.d.1.1.1.1.1"`,
			`"deliver_subject":"_BLESSD.x"`,
			`"deliver_subject":"_INBOX"`,
			`"deliver_subject":"_inbox.x"`,
			`"Deliver_Subject":"mail.quarantine.x.y"`,
			`"deliver\u005fsubject":"mail.quarantine.x.y"`,
			`"deliver_subject":"_INBOX.a","deliver_subject":"mail.quarantine.x.y"`,
			`"DELIVER_SUBJECT":"mail.quarantine.x.y","deliver_subject":"_INBOX.a","Deliver_subject":"mail.quarantine.x.y"`,
			`"deliver_subject":"mail.quarantine.x.y","direct":true`,
			`"deliver_subject":"` + inbox + `","direct":true`,
		} {
			for _, stream := range []string{"MAIL_EVENTS", "MAIL_QUARANTINE"} {
				if got := create(stream, config); !strings.Contains(got, `"error"`) {
					t.Errorf("%s: not refused: %.300s", config, got)
				}
			}
		}
		// What wins among equal keys must be what was checked.
		if got := create("MAIL_EVENTS", `"deliver_subject":"mail.quarantine.x.y","deliver_subject":"`+inbox+`"`); !strings.Contains(got, inbox) {
			t.Errorf("got %s, want a consumer that delivers to %s", got, inbox)
		}
		// Legacy forms of the request go the same way.
		for subject, config := range map[string]string{
			"CONSUMER.CREATE.MAIL_EVENTS":                 `"deliver_subject":"mail.quarantine.x.y"`,
			"CONSUMER.DURABLE.CREATE.MAIL_EVENTS.p":       `"durable_name":"p","deliver_subject":"mail.quarantine.x.y"`,
			"CONSUMER.CREATE.MAIL_EVENTS.p.mail.events.>": `"name":"p","filter_subject":"mail.events.>","deliver_subject":"mail.quarantine.x.y"`,
			"CONSUMER.CREATE.MAIL_EVENTS.d":               `"durable_name":"d","ack_policy":"explicit","deliver_subject":"mail.quarantine.x.y"`,
		} {
			r, err := h.nc.Request("$JS.API."+subject, []byte(`{"stream_name":"MAIL_EVENTS","config":{`+config+`}}`), 5*time.Second)
			if err != nil || !bytes.Contains(r.Data, []byte(`"error"`)) {
				t.Errorf("%s: not refused: %v, %v", subject, r, err)
			}
		}
		for what, body := range map[string]string{
			"no JSON":  `{`,
			"nothing":  ``,
			"deep":     strings.Repeat(`[`, 100000),
			"large":    `{"stream_name":"` + strings.Repeat("x", 100000) + `"}`,
			"wrong":    `{"stream_name":5,"config":[]}`,
			"own name": `{"stream_name":"MAIL_EVENTS","config":{"name":"blessd-x"}}`,
		} {
			r, err := h.nc.Request("$JS.API.CONSUMER.CREATE.MAIL_EVENTS", []byte(body), 5*time.Second)
			if err != nil || !bytes.Contains(r.Data, []byte(`"error"`)) {
				t.Errorf("%s: not refused: %v, %v", what, r, err)
			}
		}
		// A consumer that got through would send its first heartbeat now.
		hearing, err := h.nc.SubscribeSync(nats.NewInbox())
		if err != nil {
			t.Fatal(err)
		}
		if got := create("MAIL_EVENTS", `"deliver_subject":"`+hearing.Subject+`","deliver_policy":"new"`+hb); strings.Contains(got, `"error"`) {
			t.Fatal(got)
		}
		for range 3 {
			if _, err := hearing.NextMsg(5 * time.Second); err != nil {
				t.Fatal(err)
			}
		}
		check(t)
	})

	t.Run("message trace", func(t *testing.T) {
		for _, dest := range []string{forged, "mail.quarantine.x.y", "$JS.API.STREAM.PURGE.MAIL_EVENTS", "_INBOX.x"} {
			m := nats.NewMsg("$JS.API.INFO")
			m.Reply = inbox
			m.Header.Set("Nats-Trace-Dest", dest)
			if err := h.nc.PublishMsg(m); err != nil {
				t.Fatal(err)
			}
		}
		check(t)
	})

	t.Run("in blessd's name", func(t *testing.T) {
		for _, o := range []nats.Option{nats.UserInfo("blessd", ""), nats.UserInfo("blessd", "blessd"), nats.UserInfo("consumer", ""), nats.Token("blessd")} {
			nc, err := nats.Connect(h.e.ClientURL(), o)
			if err == nil {
				nc.Close()
				t.Error("logged in with made-up credentials")
			}
		}
		if _, err := h.nc.SubscribeSync("_BLESSD.>"); err != nil {
			t.Fatal(err)
		}
		h.nc.Flush()
		if !errors.Is(h.nc.LastError(), nats.ErrPermissionViolation) {
			t.Errorf("listening to blessd's inboxes: got %v, want a permissions violation", h.nc.LastError())
		}
	})
}

// What a stranger makes the server send to another one's subscription is no event.
func TestStrangerCannotForgeToOthers(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	victim, err := nats.Connect(h.e.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer victim.Close()
	sub, err := victim.SubscribeSync("mail.events.>")
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Flush(); err != nil {
		t.Fatal(err)
	}
	const forged = "mail.events.x.y.email.bounced"
	requests := map[string]string{
		"$JS.API.INFO":                        "",
		"$JS.API.STREAM.NAMES":                "",
		"$JS.API.STREAM.LIST":                 "",
		"$JS.API.STREAM.INFO.MAIL_EVENTS":     "",
		"$JS.API.STREAM.MSG.GET.MAIL_EVENTS":  `{"seq":1}`,
		"$JS.API.CONSUMER.LIST.MAIL_EVENTS":   "",
		"$JS.API.CONSUMER.NAMES.MAIL_EVENTS":  "",
		"$JS.API.CONSUMER.INFO.MAIL_EVENTS.x": "",
		"$JS.API.CONSUMER.CREATE.MAIL_EVENTS": `{"stream_name":"MAIL_EVENTS","config":{"description":"\"id\":\"0\""}}`,
	}
	for subject, body := range requests {
		if err := h.nc.PublishRequest(subject, forged, []byte(body)); err != nil {
			t.Fatal(err)
		}
	}
	for range requests {
		m, err := sub.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := event.Decode(m.Data); err == nil {
			t.Errorf("taken for the event %v: %s", e, m.Data)
		}
	}
}
