package deploy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/internal/program"
	"github.com/blessd/blessd/sink"
)

// broker is a NATS server with the users of nats/permissions.conf.
type broker struct {
	address  string
	operator jetstream.JetStream
	seed     string // of blessd's nkey
	pair     nkeys.KeyPair
	public   string
}

func startBroker(t *testing.T) *broker {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("BLESSD_NATS_NKEY", public)
	t.Setenv("MAIL_OPERATOR_PASSWORD", "secret")
	t.Setenv("SUPPRESSIONS_PASSWORD", "secret")
	b := &broker{address: program.NATS(t, "nats/permissions.conf").Addr().String(), seed: string(seed), pair: pair, public: public}
	if b.operator, err = jetstream.New(b.connect(t, "operator").Conn); err != nil {
		t.Fatal(err)
	}
	return b
}

// intruder is a connection that keeps what the server complains about.
type intruder struct {
	*nats.Conn
	refused chan error
}

func (b *broker) connect(t *testing.T, user string) intruder {
	t.Helper()
	i := intruder{refused: make(chan error, 1000)}
	var err error
	login := nats.UserInfo(user, "secret")
	if user == "blessd" {
		login = nats.Nkey(b.public, b.pair.Sign)
	}
	i.Conn, err = nats.Connect("nats://"+b.address, login, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { i.refused <- err }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	return i
}

// refuses fails unless the server refuses to take a message on the subject.
func (i intruder) refuses(t *testing.T, subject, body string) {
	t.Helper()
	for len(i.refused) > 0 {
		<-i.refused
	}
	if err := i.PublishRequest(subject, nats.NewInbox(), []byte(body)); err != nil {
		t.Fatal(err)
	}
	i.expect(t, subject)
}

func (i intruder) refusesSubscription(t *testing.T, subject string) {
	t.Helper()
	if _, err := i.SubscribeSync(subject); err != nil {
		t.Fatal(err)
	}
	i.expect(t, subject)
}

func (i intruder) expect(t *testing.T, subject string) {
	t.Helper()
	if err := i.Flush(); err != nil { // its answer comes after the complaint
		t.Fatal(err)
	}
	select {
	case err := <-i.refused:
		if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), `"`+subject+`"`) {
			t.Errorf("%s: got %v, want a violation of permissions", subject, err)
		}
	case <-time.After(10 * time.Second):
		t.Errorf("%s is allowed", subject)
	}
}

// addStreams makes the streams and the consumer from the files, on one server.
func (b *broker) addStreams(t *testing.T) {
	t.Helper()
	for _, file := range []string{"nats/stream.json", "nats/quarantine.json"} {
		var c jetstream.StreamConfig
		strict(t, file, &c)
		c.Replicas = 1
		if _, err := b.operator.CreateStream(t.Context(), c); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
}

func (b *broker) addConsumer(t *testing.T) {
	t.Helper()
	var c jetstream.ConsumerConfig
	strict(t, "nats/consumer.json", &c)
	if _, err := b.operator.CreateConsumer(t.Context(), "MAIL_EVENTS", c); err != nil {
		t.Fatal(err)
	}
}

func strict(t *testing.T, file string, v any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(read(t, file)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// stored describes the streams and all that is in them.
func (b *broker) stored(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, name := range []string{"MAIL_EVENTS", "MAIL_QUARANTINE"} {
		s, err := b.operator.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		i := s.CachedInfo()
		config, err := json.Marshal(i.Config)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%s %s\n", name, config)
		for seq := i.State.FirstSeq; seq <= i.State.LastSeq; seq++ {
			m, err := s.GetMsg(t.Context(), seq)
			if err != nil {
				fmt.Fprintf(&text, "  %d %v\n", seq, err)
				continue
			}
			fmt.Fprintf(&text, "  %d %s %s\n", seq, m.Subject, m.Data)
		}
	}
	return text.String()
}

// sink is what blessd publishes with.
func (b *broker) sink(t *testing.T, user string) *sink.Sink {
	t.Helper()
	s, err := sink.New(b.connect(t, user).Conn, sink.Options{
		Prefix: "mail", CETypePrefix: "blessd", Log: zap.NewNop(), Registerer: prometheus.NewRegistry(),
		Events: sink.StreamConfig{Name: "MAIL_EVENTS"}, Quarantine: sink.StreamConfig{Name: "MAIL_QUARANTINE"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publish(t *testing.T, s *sink.Sink, m *nats.Msg) {
	t.Helper()
	f, err := s.Publish(m)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-f.Ok():
	case err := <-f.Err():
		t.Fatal(err)
	}
}

const external = `listen: 127.0.0.1:0
public_url: https://hooks.example.com
admin: {listen: "127.0.0.1:0"}
journal: {max_bytes: 1GiB}
endpoints:
  - {name: ru, provider: enkod, token_files: [DIR/ru.token]}
nats:
  url: nats://%s
  nkey_file: DIR/blessd.nk
  stream: {max_bytes: 1GiB}
  quarantine: {max_bytes: 64MiB}
`

const ruToken = "0123456789abcdef0123456789abcdef"

func post(t *testing.T, b *program.Blessd, body string) {
	t.Helper()
	a, err := http.Post("http://"+b.Hooks+"/hooks/ru/"+ruToken, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if a.StatusCode != http.StatusOK {
		t.Fatalf("answered %d, want 200", a.StatusCode)
	}
}

func sent(uid string) string {
	return fmt.Sprintf(`[{"event":"sent","message_uid":%q,"to":"user@example.com","message_id":7}]`, uid)
}

// TestPublisher runs the whole daemon as the user blessd of permissions.conf: it
// makes the streams or verifies them, publishes, quarantines, reads back after a
// crash, reads its consumers, replays. Nothing of that is refused.
func TestPublisher(t *testing.T) {
	for name, prepare := range map[string]func(*broker, *testing.T){
		"makes the streams":    func(*broker, *testing.T) {},
		"verifies the streams": (*broker).addStreams,
	} {
		t.Run(name, func(t *testing.T) {
			b := startBroker(t)
			prepare(b, t)
			blessd := program.Serve(t, fmt.Sprintf(external, b.address), map[string]string{"ru.token": ruToken, "blessd.nk": b.seed})
			count := func(stream string) uint64 {
				s, err := b.operator.Stream(t.Context(), stream)
				if err != nil {
					return 0
				}
				return s.CachedInfo().State.Msgs
			}
			for n := range 20 {
				post(t, blessd, sent(fmt.Sprint("uid-", n)))
			}
			post(t, blessd, "no JSON")
			program.Wait(t, "20 events and a quarantined body", func() bool { return count("MAIL_EVENTS") == 20 && count("MAIL_QUARANTINE") == 1 })
			b.addConsumer(t)

			// What an older version did not understand.
			s := b.sink(t, "operator")
			m, err := s.QuarantineMessage(sink.Quarantined{
				Provider: "enkod", Endpoint: "ru", ID: event.NewID("enkod", "ru", []string{"q"}, 0), Reason: "unreadable_body", Element: -1,
				Received: time.Now(), ContentType: "application/json", Raw: []byte(sent("late")),
			})
			if err != nil {
				t.Fatal(err)
			}
			publish(t, s, m)
			if dry := blessd.Run(t, "replay", "--dry-run", "-o", "json"); !strings.Contains(dry, `"understood":1`) {
				t.Errorf("the dry run said %s", dry)
			}

			// After a crash it reads back what is stored, and goes on.
			_ = blessd.End(syscall.SIGKILL) // "signal: killed" is what we want
			again := blessd.Again(t)
			// 20 events and what is in quarantine.
			program.Wait(t, "what is stored to be read back", func() bool {
				return strings.Contains(again.Output(), `"already_in_stream":22`)
			})
			post(t, again, sent("after the crash"))
			program.Wait(t, "the event after the crash", func() bool { return count("MAIL_EVENTS") == 21 })
			program.Wait(t, "the consumer in the metrics", func() bool {
				return strings.Contains(metrics(t, again), `blessd_consumer_pending_messages{consumer="suppressions",stream="MAIL_EVENTS"} 0`)
			})
			for _, p := range []*program.Blessd{blessd, again} {
				for line := range strings.Lines(p.Output()) {
					if strings.Contains(strings.ToLower(line), "permission") || strings.Contains(line, "not what blessd needs") || strings.Contains(line, `"error"`) {
						t.Errorf("blessd said: %s", line)
					}
				}
			}
		})
	}
}

// TestPublisherEmptiesQuarantine does as the user blessd what a replay does in the
// end. The daemon itself waits some minutes before, for a stream with one replica.
func TestPublisherEmptiesQuarantine(t *testing.T) {
	b := startBroker(t)
	b.addStreams(t)
	s := b.sink(t, "blessd")
	m, err := s.QuarantineMessage(sink.Quarantined{
		Provider: "enkod", Endpoint: "ru", ID: event.NewID("enkod", "ru", []string{"q"}, 0), Reason: "unreadable_body", Received: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	publish(t, s, m)
	if err := s.EventIDs(t.Context(), time.Now().Add(-time.Hour), func(string) {}); err != nil {
		t.Error(err)
	}
	q, err := s.Quarantine(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	deleted := 0
	err = q.Each(t.Context(), 0, func(seq uint64, _ sink.Quarantined, _ error) error {
		deleted++
		return q.Delete(t.Context(), seq)
	})
	if err != nil || deleted != 1 {
		t.Errorf("deleted %d, %v; want 1", deleted, err)
	}
	b.fill(t, 1)
	if seen, erased, err := s.Erase(t.Context(), "MAIL_EVENTS", func([]byte) bool { return true }, false, nil); err != nil || seen != 1 || erased != 1 {
		t.Errorf("erased %d of %d events: %v", erased, seen, err)
	}
}

func metrics(t *testing.T, b *program.Blessd) string {
	t.Helper()
	a, err := http.Get("http://" + b.Admin + "/metrics")
	if err != nil {
		return ""
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// everything is what of the JetStream API changes anything, with bodies that would.
var everything = map[string]string{
	"STREAM.CREATE.OTHER":                               `{"name":"OTHER","subjects":["other"]}`,
	"STREAM.UPDATE.MAIL_EVENTS":                         `{"name":"MAIL_EVENTS","subjects":["mail.events.>"],"max_msgs":1}`,
	"STREAM.UPDATE.MAIL_QUARANTINE":                     `{"name":"MAIL_QUARANTINE","subjects":["mail.quarantine.>"],"max_msgs":1}`,
	"STREAM.DELETE.MAIL_EVENTS":                         "",
	"STREAM.DELETE.MAIL_QUARANTINE":                     "",
	"STREAM.PURGE.MAIL_EVENTS":                          "",
	"STREAM.PURGE.MAIL_QUARANTINE":                      "",
	"STREAM.RESTORE.NEW":                                `{"config":{"name":"NEW","subjects":["new"]},"state":{}}`,
	"STREAM.SNAPSHOT.MAIL_EVENTS":                       `{"deliver_subject":"mail.quarantine.s.s"}`,
	"STREAM.PEER.REMOVE.MAIL_EVENTS":                    `{"peer":"x"}`,
	"STREAM.LEADER.STEPDOWN.MAIL_EVENTS":                "",
	"CONSUMER.LEADER.STEPDOWN.MAIL_EVENTS.suppressions": "",
	"CONSUMER.DURABLE.CREATE.MAIL_EVENTS.x":             `{"stream_name":"MAIL_EVENTS","config":{"durable_name":"x","ack_policy":"explicit"}}`,
	"CONSUMER.PAUSE.MAIL_EVENTS.suppressions":           `{"pause_until":"2100-01-01T00:00:00Z"}`,
	"CONSUMER.RESET.MAIL_EVENTS.suppressions":           "",
	"META.LEADER.STEPDOWN":                              "",
	"ACCOUNT.PURGE.MAIL":                                "",
}

// TestPublisherMayNothingElse tries what blessd does not do.
func TestPublisherMayNothingElse(t *testing.T) {
	b := startBroker(t)
	b.addStreams(t)
	b.addConsumer(t)
	i := b.connect(t, "blessd")
	before := b.stored(t)
	for api, body := range everything {
		i.refuses(t, "$JS.API."+api, body)
	}
	for _, subject := range []string{"other", "mail", "mail.other.x", "$SYS.REQ.SERVER.PING", "$JS.ACK.MAIL_EVENTS.suppressions.1.1.1.1.1", "$JS.API.STREAM.LIST", "$JS.API.INFO"} {
		i.refuses(t, subject, "")
	}
	for _, subject := range []string{">", "mail.>", "mail.events.>", "$JS.API.>", "$SYS.>"} {
		i.refusesSubscription(t, subject)
	}
	if after := b.stored(t); after != before {
		t.Errorf("something changed\nbefore %s\nafter %s", before, after)
	}
}

// fill stores n events that the consumer suppressions gets.
func (b *broker) fill(t *testing.T, n int) {
	t.Helper()
	s := b.sink(t, "operator")
	for k := range n {
		now := event.NewTime(time.Now())
		m, err := s.EventMessage(&event.Event{
			ID: event.NewID("enkod", "ru", []string{"fill", fmt.Sprint(k)}, 0), Type: event.EmailComplained, Time: now, TimeSource: event.TimeFromReceipt,
			Received: now, Provider: "enkod", Endpoint: "ru", Recipient: "user@example.com",
		}, "")
		if err != nil {
			t.Fatal(err)
		}
		publish(t, s, m)
	}
}

func TestConsumerReads(t *testing.T) {
	b := startBroker(t)
	b.addStreams(t)
	b.addConsumer(t)
	b.fill(t, 10)
	i := b.connect(t, "suppressions")
	js, err := jetstream.New(i.Conn)
	if err != nil {
		t.Fatal(err)
	}
	c, err := js.Consumer(t.Context(), "MAIL_EVENTS", "suppressions")
	if err != nil {
		t.Fatal(err)
	}
	batch, err := c.Fetch(3, jetstream.FetchMaxWait(30*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	for m := range batch.Messages() {
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if batch.Error() != nil {
		t.Error(batch.Error())
	}
	messages, err := c.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Stop()
	nak := true
	for range 8 {
		m, err := messages.Next(jetstream.NextContext(t.Context()))
		if err != nil {
			t.Fatal(err)
		}
		if err := m.InProgress(); err != nil {
			t.Error(err)
		}
		if nak {
			nak = false
			if err := m.Nak(); err != nil {
				t.Error(err)
			}
			continue
		}
		if err := m.Ack(); err != nil {
			t.Error(err)
		}
	}
	program.Wait(t, "all to be acknowledged", func() bool {
		info, err := c.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return info.NumAckPending == 0 && info.NumPending == 0
	})
	if err := i.LastError(); err != nil {
		t.Errorf("the server complained: %v", err)
	}
}

// tricks has the server send something to the subject: an answer, a status without
// a body, an event.
func tricks(t *testing.T, nc *nats.Conn, subject string) {
	t.Helper()
	for range 8 { // an empty body, once nothing is left to be had
		if err := nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT.MAIL_EVENTS.suppressions", subject, []byte(`{"batch":1,"no_wait":true}`)); err != nil {
			t.Fatal(err)
		}
	}
	for request, body := range map[string]string{
		"$JS.API.CONSUMER.INFO.MAIL_EVENTS.suppressions":     "",
		"$JS.ACK.MAIL_EVENTS.suppressions.1.1.1.1.1":         "+NXT",
		"$JS.ACK.MAIL_EVENTS.suppressions.1.2.2.1.1":         "",
		"$JS.API.CONSUMER.MSG.NEXT.MAIL_EVENTS.suppressions": `{"batch":1,"expires":1000000,"idle_heartbeat":100000}`,
	} {
		m := nats.NewMsg(request)
		m.Reply, m.Data = subject, []byte(body)
		m.Header.Set("Nats-Trace-Dest", subject)
		if err := nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
		m.Header = nil
		if err := nc.PublishMsg(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
}

var targets = []string{
	"mail.events.x.y.email.bounced", "mail.quarantine.x.y",
	"$JS.API.STREAM.PURGE.MAIL_EVENTS", "$JS.API.STREAM.PURGE.MAIL_QUARANTINE", "$JS.API.STREAM.DELETE.MAIL_QUARANTINE",
	"$JS.API.CONSUMER.DELETE.MAIL_EVENTS.suppressions",
}

func TestConsumerMayOnlyRead(t *testing.T) {
	b := startBroker(t)
	b.addStreams(t)
	b.addConsumer(t)
	b.fill(t, 3)
	if _, err := b.operator.CreateConsumer(t.Context(), "MAIL_EVENTS", jetstream.ConsumerConfig{Durable: "other", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	before := b.stored(t)
	i := b.connect(t, "suppressions")
	for api, body := range everything {
		i.refuses(t, "$JS.API."+api, body)
	}
	for subject, body := range map[string]string{
		"mail.events.x.y.email.bounced":                    `{"id":"0"}`,
		"mail.quarantine.x.y":                              "{",
		"$JS.API.CONSUMER.CREATE.MAIL_EVENTS":              `{"stream_name":"MAIL_EVENTS","config":{}}`,
		"$JS.API.CONSUMER.CREATE.MAIL_EVENTS.suppressions": `{"stream_name":"MAIL_EVENTS","config":{"durable_name":"suppressions","deliver_subject":"x"}}`,
		"$JS.API.CONSUMER.DELETE.MAIL_EVENTS.suppressions": "",
		"$JS.API.CONSUMER.DELETE.MAIL_EVENTS.other":        "",
		"$JS.API.CONSUMER.INFO.MAIL_EVENTS.other":          "",
		"$JS.API.CONSUMER.MSG.NEXT.MAIL_EVENTS.other":      "",
		"$JS.ACK.MAIL_EVENTS.other.1.1.1.1.1":              "",
		"$JS.API.STREAM.MSG.GET.MAIL_QUARANTINE":           `{"seq":1}`,
		"$JS.API.STREAM.MSG.GET.MAIL_EVENTS":               `{"seq":1}`,
		"$JS.API.STREAM.MSG.DELETE.MAIL_EVENTS":            `{"seq":1}`,
		"$JS.API.STREAM.INFO.MAIL_EVENTS":                  "",
		"$SYS.REQ.SERVER.PING":                             "",
	} {
		i.refuses(t, subject, body)
	}
	for _, subject := range []string{">", "mail.events.>", "mail.>", "$JS.>", "_R_.>"} {
		i.refusesSubscription(t, subject)
	}
	for _, target := range targets {
		tricks(t, i.Conn, target)
	}
	b.settle(t, i.Conn)
	if after := b.stored(t); after != before {
		t.Errorf("something changed\nbefore %s\nafter %s", before, after)
	}
	if _, err := b.operator.Consumer(t.Context(), "MAIL_EVENTS", "suppressions"); err != nil {
		t.Errorf("the consumer: %v", err)
	}

	// These tricks work for whoever may ask for the same within the account: were
	// they harmless, the test above would show nothing.
	nc := b.connect(t, "operator").Conn
	tricks(t, nc, "mail.quarantine.x.y")
	program.Wait(t, "the trick to store something", func() bool { return strings.Contains(b.stored(t), "mail.quarantine.x.y") })
	tricks(t, nc, "$JS.API.STREAM.PURGE.MAIL_EVENTS")
	program.Wait(t, "the trick to purge", func() bool { return !strings.Contains(b.stored(t), "mail.events.enkod") })
}

// settle returns when the server has handled what was sent before, and what that
// set off.
func (b *broker) settle(t *testing.T, nc *nats.Conn) {
	t.Helper()
	for range 3 {
		if _, err := nc.Request("$JS.API.CONSUMER.INFO.MAIL_EVENTS.suppressions", nil, 30*time.Second); err != nil {
			t.Fatal(err)
		}
		if _, err := b.operator.AccountInfo(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestExamplesWithPermissions runs the examples of consumers as the user suppressions.
func TestExamplesWithPermissions(t *testing.T) {
	for language, flags := range map[string][]string{"go": {"-bind", "-max", "2"}, "node": {"--bind", "--max", "2"}} {
		t.Run(language, func(t *testing.T) {
			b := startBroker(t)
			b.addStreams(t)
			b.addConsumer(t)
			b.fill(t, 2)
			words := []string{filepath.Join(t.TempDir(), "suppressions")}
			env := []string{"NATS_URL=nats://suppressions:secret@" + b.address}
			if language == "go" {
				if out, err := exec.Command("go", "build", "-o", words[0], "../examples/consumers/go").CombinedOutput(); err != nil {
					t.Fatalf("build: %v\n%s", err, out)
				}
			} else {
				words = []string{program.Need(t, "node", "nodejs"), "../examples/consumers/node/suppressions.js"}
				if _, err := os.Stat("../examples/consumers/node/node_modules"); err != nil {
					t.Skip("SKIPPED: run npm ci in examples/consumers/node (.ci/run does)")
				}
				env = []string{"NATS_URL=nats://" + b.address, "NATS_USER=suppressions", "NATS_PASSWORD=secret"}
			}
			p := program.Start(t, env, words[0], append(words[1:], flags...)...)
			if err := p.Wait(); err != nil {
				t.Errorf("%v", err)
			}
			if got := strings.Count(p.Output(), "suppress address"); got != 2 || strings.Count(p.Output(), "\n") != 2 {
				t.Errorf("it said, instead of two lines:\n%s", p.Output())
			}
			c, err := b.operator.Consumer(t.Context(), "MAIL_EVENTS", "suppressions")
			if err != nil {
				t.Fatal(err)
			}
			program.Wait(t, "both to be acknowledged", func() bool {
				info, err := c.Info(t.Context())
				return err == nil && info.AckFloor.Stream == 2
			})
		})
	}
}
