package sink_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/blessd/blessd/event"
	"github.com/blessd/blessd/sink"
)

// backend is a server behind a connection, that can be taken away and given back.
type backend struct {
	nc         *nats.Conn
	stop, back func(t *testing.T)
}

// TestConformance runs one suite against every way to have a NATS server.
func TestConformance(t *testing.T) { // not parallel: one of them sets the environment
	for name, start := range map[string]func(*testing.T) *backend{
		"embedded":         embeddedBackend,
		"external":         func(t *testing.T) *backend { return externalBackend(t, plain) },
		"external user":    func(t *testing.T) *backend { return externalBackend(t, userInURL) },
		"external nkey":    func(t *testing.T) *backend { return externalBackend(t, nkeyFile) },
		"external tls":     func(t *testing.T) *backend { return externalBackend(t, mutualTLS) },
		"external context": func(t *testing.T) *backend { return externalBackend(t, cliContext) },
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t)
			o := defaults()
			reg := prometheus.NewRegistry()
			o.Registerer, o.MaxPending = reg, 64
			s := newSink(t, b.nc, o)
			until(t, "the connection is up", b.nc.IsConnected)
			js, err := jetstream.New(b.nc)
			if err != nil {
				t.Fatal(err)
			}
			t.Run("ensure", func(t *testing.T) { ensure(t, s, js) })
			t.Run("read back", func(t *testing.T) { readBack(t, s, js) })
			t.Run("duplicates", func(t *testing.T) { duplicates(t, s) })
			t.Run("too large", func(t *testing.T) { tooLarge(t, s, b.nc) })
			t.Run("ids", func(t *testing.T) {
				n := 0
				if err := s.IDs(testContext(t), s.EventsStream(), 0, func(string, uint64) { n++ }); err != nil || n != 2 {
					t.Errorf("got %d ids, %v; want 2", n, err)
				}
			})
			t.Run("last received", func(t *testing.T) { lastReceived(t, s) })
			t.Run("quarantine", func(t *testing.T) { quarantine(t, s) })
			t.Run("full", func(t *testing.T) { full(t, b.nc) })
			t.Run("no stream", func(t *testing.T) { noStream(t, b.nc) })
			t.Run("server gone", func(t *testing.T) { serverGone(t, s, b, reg) })
		})
	}
}

func ensure(t *testing.T, s *sink.Sink, js jetstream.JetStream) {
	ctx := testContext(t)
	for range 2 { // the second time there is nothing to do
		if err := s.Ensure(ctx); err != nil {
			t.Fatal(err)
		}
	}
	st, err := js.Stream(ctx, "MAIL_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	c := st.CachedInfo().Config
	if c.Storage != jetstream.FileStorage || c.Retention != jetstream.LimitsPolicy || c.Discard != jetstream.DiscardOld ||
		c.MaxAge != 720*time.Hour || c.MaxBytes != 1<<30 || c.Duplicates != 10*time.Minute || c.DenyDelete || c.DenyPurge ||
		c.Compression != jetstream.NoCompression || c.Metadata["io.nats.monitor.enabled"] != "1" {
		t.Errorf("MAIL_EVENTS: got %+v", c)
	}
	if st, err = js.Stream(ctx, "MAIL_QUARANTINE"); err != nil {
		t.Fatal(err)
	}
	if c := st.CachedInfo().Config; c.Discard != jetstream.DiscardNew || c.Storage != jetstream.FileStorage {
		t.Errorf("MAIL_QUARANTINE: got %+v", c)
	}
}

// lastReceived is what tells of a silence after a restart.
func lastReceived(t *testing.T, s *sink.Sink) {
	ctx := testContext(t)
	e := someEvent(1)
	got, err := s.LastReceived(ctx, e.Provider, e.Endpoint)
	if err != nil || !got.Equal(e.Received.Time) {
		t.Errorf("got %s, %v; want %s", got, err, e.Received)
	}
	if got, err := s.LastReceived(ctx, e.Provider, "nobody"); err != nil || !got.IsZero() {
		t.Errorf("an endpoint without events: got %s, %v; want the zero time", got, err)
	}
	if got, err := s.LastReceived(ctx, e.Provider, "*"); err == nil {
		t.Errorf("an endpoint named *: got %s, want an error", got)
	}
}

func readBack(t *testing.T, s *sink.Sink, js jetstream.JetStream) {
	ctx := testContext(t)
	m := message(t, s, 0)
	seq, duplicate, err := publish(t, s, m)
	if err != nil || duplicate || seq != 1 {
		t.Fatalf("got %d, %t, %v; want sequence 1", seq, duplicate, err)
	}
	st, err := js.Stream(ctx, "MAIL_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	got, err := st.GetMsg(ctx, seq)
	if err != nil {
		t.Fatal(err)
	}
	if got.Subject != m.Subject || string(got.Data) != string(m.Data) {
		t.Errorf("got %s %s, want %s %s", got.Subject, got.Data, m.Subject, m.Data)
	}
	for k := range m.Header {
		if len(got.Header[k]) != 1 || got.Header[k][0] != m.Header[k][0] {
			t.Errorf("header %s: got %q, want %q", k, got.Header[k], m.Header[k])
		}
	}
	q := sink.Quarantined{
		Provider: "mailgun", Endpoint: "eu", ID: event.NewID("mailgun", "eu", []string{"q"}, 0), Reason: "unreadable_body",
		ContentType: "text/plain; charset=utf-8", Received: time.Unix(1, 2).UTC(), Record: 7, Element: -1, Raw: []byte("\x00\xff{\r\n"),
	}
	qm, err := s.QuarantineMessage(q)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := publish(t, s, qm); err != nil {
		t.Fatal(err)
	}
	if st, err = js.Stream(ctx, "MAIL_QUARANTINE"); err != nil {
		t.Fatal(err)
	}
	if got, err = st.GetMsg(ctx, 1); err != nil {
		t.Fatal(err)
	}
	back, err := sink.ParseQuarantined(got.Header, got.Data)
	if err != nil {
		t.Fatal(err)
	}
	if string(back.Raw) != string(q.Raw) || back.ContentType != q.ContentType || !back.Received.Equal(q.Received) || back.Record != q.Record {
		t.Errorf("got %+v, want %+v", back, q)
	}
}

func duplicates(t *testing.T, s *sink.Sink) {
	if seq, duplicate, err := publish(t, s, message(t, s, 0)); err != nil || !duplicate || seq != 1 {
		t.Errorf("got %d, %t, %v; want a duplicate of 1", seq, duplicate, err)
	}
	if seq, duplicate, err := publish(t, s, message(t, s, 1)); err != nil || duplicate || seq != 2 {
		t.Errorf("got %d, %t, %v; want the new sequence 2", seq, duplicate, err)
	}
}

func tooLarge(t *testing.T, s *sink.Sink, nc *nats.Conn) {
	m := message(t, s, 100)
	m.Data = make([]byte, nc.MaxPayload()+1)
	if _, _, err := publish(t, s, m); err == nil {
		t.Error("a message above max_payload was stored")
	} else if reason, final := sink.Classify(err); reason != "too_large" || !final {
		t.Errorf("above max_payload: got %s, %t for %v; want too_large, true", reason, final, err)
	}
	m = message(t, s, 101)
	m.Header["ce-subject"] = []string{strings.Repeat("x", 70000)}
	if _, _, err := publish(t, s, m); err == nil {
		t.Error("headers above 64 KiB were stored")
	} else if reason, final := sink.Classify(err); reason != "too_large" || !final {
		t.Errorf("headers above 64 KiB: got %s, %t for %v; want too_large, true", reason, final, err)
	}
}

// full and noStream use a prefix and streams of their own.
func full(t *testing.T, nc *nats.Conn) {
	o := defaults()
	o.Prefix, o.Events.Name, o.Quarantine.Name = "full", "FULL", "FULL_QUARANTINE"
	o.Events.MaxBytes, o.Events.Refuse = 2000, true
	s := newSink(t, nc, o)
	if err := s.Ensure(testContext(t)); err != nil {
		t.Fatal(err)
	}
	for n := range 100 {
		_, _, err := publish(t, s, message(t, s, n))
		if err == nil {
			continue
		}
		if reason, final := sink.Classify(err); reason != "stream_full" || final {
			t.Errorf("got %s, %t for %v; want stream_full, false", reason, final, err)
		}
		return
	}
	t.Error("2000 bytes took 100 events")
}

func noStream(t *testing.T, nc *nats.Conn) {
	o := defaults()
	o.Prefix, o.Events.Name = "full", "ANOTHER"
	s := newSink(t, nc, o)
	_, _, err := publish(t, s, message(t, s, 1000))
	if reason, final := sink.Classify(err); reason != "no_stream" || final {
		t.Errorf("somebody else's stream on the subject: got %s, %t for %v; want no_stream, false", reason, final, err)
	}
	o.Prefix = "nowhere"
	s = newSink(t, nc, o)
	began := time.Now()
	_, _, err = publish(t, s, message(t, s, 1000))
	if reason, final := sink.Classify(err); reason != "no_stream" || final {
		t.Errorf("no stream on the subject: got %s, %t for %v; want no_stream, false", reason, final, err)
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("it took %s to notice that there is no stream", d)
	}
}

func serverGone(t *testing.T, s *sink.Sink, b *backend, reg *prometheus.Registry) {
	ctx := testContext(t)
	before, err := s.State(ctx, "MAIL_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	b.stop(t)
	until(t, "the connection is down", func() bool { return !b.nc.IsConnected() })
	began := time.Now()
	for n := range 200 { // more than the window: none may stay pending
		_, _, err := publish(t, s, message(t, s, 200+n))
		if reason, final := sink.Classify(err); reason != "disconnected" || final {
			t.Fatalf("got %s, %t for %v; want disconnected, false", reason, final, err)
		}
	}
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("it took %s to fail 200 times", d)
	}
	b.back(t)
	until(t, "the connection is back", b.nc.IsConnected)
	until(t, "the stream is back", func() bool { _, err := s.State(ctx, "MAIL_EVENTS"); return err == nil })
	after, err := s.State(ctx, "MAIL_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	if after.LastSeq != before.LastSeq || !after.Created.Equal(before.Created) {
		t.Errorf("what was refused was buffered: got %+v, before %+v", after, before)
	}
	if seq, _, err := publish(t, s, message(t, s, 200)); err != nil || seq != before.LastSeq+1 {
		t.Errorf("got %d, %v; want sequence %d", seq, err, before.LastSeq+1)
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP blessd_nats_connected Whether the connection to NATS is up.
# TYPE blessd_nats_connected gauge
blessd_nats_connected 1
# HELP blessd_nats_reconnects_total Times that the connection to NATS was made again.
# TYPE blessd_nats_reconnects_total counter
blessd_nats_reconnects_total 1
`), "blessd_nats_connected", "blessd_nats_reconnects_total"); err != nil {
		t.Error(err)
	}
}

func embeddedBackend(t *testing.T) *backend {
	e := startEmbedded(t, nil)
	return &backend{
		nc:   connect(t, e),
		stop: func(t *testing.T) { sink.StopServer(t, e) },
		back: func(t *testing.T) {
			if err := e.Restart(testContext(t)); err != nil {
				t.Fatal(err)
			}
		},
	}
}

// plain, userInURL and the others prepare a server and what dials it.
type variant func(t *testing.T, so *server.Options, do *sink.ExternalOptions)

func plain(*testing.T, *server.Options, *sink.ExternalOptions) {}

func userInURL(t *testing.T, so *server.Options, do *sink.ExternalOptions) {
	so.Username, so.Password = "blessd", "s3cret"
	do.URL = strings.Replace(do.URL, "://", "://blessd:s3cret@", 1)
}

func nkeyFile(t *testing.T, so *server.Options, do *sink.ExternalOptions) {
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
	so.Nkeys = []*server.NkeyUser{{Nkey: public}}
	do.NKeyFile = filepath.Join(t.TempDir(), "user.nk")
	if err := os.WriteFile(do.NKeyFile, seed, 0o600); err != nil {
		t.Fatal(err)
	}
}

func mutualTLS(t *testing.T, so *server.Options, do *sink.ExternalOptions) {
	ca, caKey, caFile := certificate(t, nil, nil)
	serverCert, serverKey, _ := certificate(t, ca, caKey)
	_, clientKey, clientFile := certificate(t, ca, caKey)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	so.TLS, so.TLSVerify = true, true
	so.TLSConfig = &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{serverCert.Raw}, PrivateKey: serverKey}},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    pool,
		MinVersion:   tls.VersionTLS12,
	}
	der, err := x509.MarshalECPrivateKey(clientKey)
	if err != nil {
		t.Fatal(err)
	}
	keyFile := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	do.TLS = sink.TLSFiles{CAFile: caFile, CertFile: clientFile, KeyFile: keyFile}
}

// certificate returns a new one for 127.0.0.1, signed by parent or by itself, and
// a file that holds it.
func certificate(t *testing.T, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: parent == nil,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cert.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return c, key, file
}

func cliContext(t *testing.T, so *server.Options, do *sink.ExternalOptions) {
	so.Username, so.Password = "blessd", "s3cret"
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	dir = filepath.Join(dir, "nats", "context")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "prod.json"), []byte(`{"url":"`+do.URL+`","user":"blessd","password":"s3cret"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	do.URL, do.Context = "", "prod"
}

func externalBackend(t *testing.T, v variant) *backend {
	t.Helper()
	dir, port := t.TempDir(), freePort(t)
	do := sink.ExternalOptions{URL: "nats://" + net.JoinHostPort("127.0.0.1", port), Name: "blessd test", Log: zap.NewNop()}
	base := &server.Options{ServerName: "external", Host: "127.0.0.1", JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true}
	v(t, base, &do)
	start := func(t *testing.T) *server.Server {
		t.Helper()
		so := base.Clone()
		var err error
		if so.Port, err = net.LookupPort("tcp", port); err != nil {
			t.Fatal(err)
		}
		srv, err := server.NewServer(so)
		if err != nil {
			t.Fatal(err)
		}
		srv.Start()
		if !srv.ReadyForConnections(10 * time.Second) {
			t.Fatal("external server is not ready")
		}
		return srv
	}
	srv := start(t)
	stop := func(*testing.T) { srv.Shutdown(); srv.WaitForShutdown() }
	t.Cleanup(func() { stop(t) })
	nc, err := sink.Dial(do)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return &backend{nc: nc, stop: stop, back: func(t *testing.T) { srv = start(t) }}
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func TestMismatch(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	nc := connect(t, startEmbedded(t, nil))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	s := newSink(t, nc, defaults())
	good := jetstream.StreamConfig{
		Name: "MAIL_EVENTS", Subjects: []string{"mail.events.>"}, Storage: jetstream.FileStorage,
		MaxAge: 720 * time.Hour, MaxBytes: 1 << 30, Duplicates: 10 * time.Minute,
	}
	for _, c := range []struct {
		what   string
		change func(*jetstream.StreamConfig)
		want   []string // a part of each difference; none when it is no mismatch
	}{
		{"equal", func(*jetstream.StreamConfig) {}, nil},
		{"more of everything", func(c *jetstream.StreamConfig) {
			c.MaxAge, c.MaxBytes, c.Duplicates = 0, -1, time.Hour
			c.Subjects = append(c.Subjects, "mail.other")
			c.Description, c.Metadata, c.AllowDirect, c.DenyPurge = "mine", map[string]string{"a": "b"}, true, true
			c.Compression = jetstream.S2Compression
		}, nil},
		{"subjects", func(c *jetstream.StreamConfig) { c.Subjects = []string{"mail.events.sendclean.>"} }, []string{"subjects"}},
		{"memory", func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }, []string{"storage"}},
		{"work queue", func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }, []string{"retention"}},
		{"discard", func(c *jetstream.StreamConfig) { c.Discard = jetstream.DiscardNew }, []string{"when full"}},
		{"limits", func(c *jetstream.StreamConfig) {
			c.MaxAge, c.MaxBytes, c.MaxMsgs, c.MaxMsgsPerSubject, c.MaxMsgSize, c.Duplicates = time.Hour, 1<<20, 10, 1, 1000, time.Minute
		}, []string{"keeps messages for 1h0m0s", "keeps 1048576 bytes", "only 10 messages", "only 1 messages of a subject", "above 1000 bytes", "duplicate_window"}},
		{"no acks", func(c *jetstream.StreamConfig) { c.NoAck = true }, []string{"acknowledges nothing"}},
		{"transform", func(c *jetstream.StreamConfig) {
			c.SubjectTransform = &jetstream.SubjectTransformConfig{Source: "mail.events.>", Destination: "x.>"}
		}, []string{"subject_transform"}},
		{"async", func(c *jetstream.StreamConfig) { c.PersistMode = jetstream.AsyncPersistMode }, []string{"persist_mode"}},
	} {
		cfg := good
		c.change(&cfg)
		st, err := js.CreateStream(ctx, cfg)
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		err = s.Ensure(ctx)
		var m *sink.Mismatch
		switch {
		case len(c.want) == 0 && err != nil:
			t.Errorf("%s: %v", c.what, err)
		case len(c.want) > 0 && !errors.As(err, &m):
			t.Errorf("%s: got %v, want a mismatch", c.what, err)
		case len(c.want) > 0:
			if m.Stream != "MAIL_EVENTS" || len(m.Differences) != len(c.want) {
				t.Errorf("%s: got %q, want %d differences", c.what, m.Differences, len(c.want))
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%s: %q does not say %q", c.what, err, w)
				}
			}
		}
		now, err := st.Info(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := now.Config.MaxAge, cfg.MaxAge; got != want || now.Config.Description != cfg.Description {
			t.Errorf("%s: the stream was changed: %+v", c.what, now.Config)
		}
		if err := js.DeleteStream(ctx, "MAIL_EVENTS"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestManage(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	nc := connect(t, startEmbedded(t, nil))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "MAIL_EVENTS", Subjects: []string{"mail.events.>"}, MaxAge: time.Hour, MaxMsgs: 3, AllowDirect: true, Metadata: map[string]string{"mine": "kept"},
	}); err != nil {
		t.Fatal(err)
	}
	o := defaults()
	o.Manage, o.Version, o.Events.Refuse = true, "1.2.3", true
	for range 2 {
		if err := newSink(t, nc, o).Ensure(ctx); err != nil {
			t.Fatal(err)
		}
	}
	st, err := js.Stream(ctx, "MAIL_EVENTS")
	if err != nil {
		t.Fatal(err)
	}
	c := st.CachedInfo().Config
	if c.MaxAge != 720*time.Hour || c.MaxBytes != 1<<30 || c.MaxMsgs > 0 || c.Discard != jetstream.DiscardNew || c.Duplicates != 10*time.Minute {
		t.Errorf("not brought up to date: %+v", c)
	}
	if !c.AllowDirect || c.Metadata["mine"] != "kept" || c.Metadata["blessd.version"] != "1.2.3" {
		t.Errorf("what is not blessd's was changed: %+v", c)
	}
}

func TestDialRefuses(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "missing")
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for what, o := range map[string]sink.ExternalOptions{
		"nothing":         {},
		"bad url":         {URL: "nats://user:s3cret@[::1"},
		"bad second url":  {URL: "nats://127.0.0.1:1,nats://user:s3cret@ho st:1"},
		"missing creds":   {URL: "nats://127.0.0.1:1", CredsFile: missing},
		"garbage creds":   {URL: "nats://127.0.0.1:1", CredsFile: garbage},
		"garbage nkey":    {URL: "nats://127.0.0.1:1", NKeyFile: garbage},
		"garbage ca":      {URL: "nats://127.0.0.1:1", TLS: sink.TLSFiles{CAFile: garbage}},
		"garbage cert":    {URL: "nats://127.0.0.1:1", TLS: sink.TLSFiles{CertFile: garbage, KeyFile: garbage}},
		"missing nkey":    {URL: "nats://127.0.0.1:1", NKeyFile: missing},
		"missing ca":      {URL: "nats://127.0.0.1:1", TLS: sink.TLSFiles{CAFile: missing}},
		"missing cert":    {URL: "nats://127.0.0.1:1", TLS: sink.TLSFiles{CertFile: missing, KeyFile: missing}},
		"key alone":       {URL: "nats://127.0.0.1:1", TLS: sink.TLSFiles{KeyFile: missing}},
		"creds and nkey":  {URL: "nats://127.0.0.1:1", CredsFile: missing, NKeyFile: missing},
		"unknown context": {Context: "there-is-none"},
		"context and url": {Context: "there-is-none", URL: "nats://127.0.0.1:1"},
	} {
		o.Log = zap.NewNop()
		nc, err := sink.Dial(o)
		if err == nil {
			nc.Close()
			t.Errorf("%s was accepted", what)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error holds a password: %v", what, err)
		}
		// Whoever checks hears the same.
		if checked := sink.CheckExternal(o); checked == nil || err == nil || checked.Error() != err.Error() {
			t.Errorf("%s: Dial says %v, CheckExternal %v", what, err, checked)
		}
	}
}

// A server that is not there, or refuses the credentials, is waited for.
func TestDialWaits(t *testing.T) {
	t.Parallel()
	closed := make(chan error, 1)
	port := freePort(t)
	nc, err := sink.Dial(sink.ExternalOptions{
		URL: "nats://blessd:new@127.0.0.1:" + port, Log: zap.NewNop(), OnClosed: func(err error) { closed <- err },
	})
	if err != nil {
		t.Fatal(err)
	}
	start := func(password string) *server.Server {
		so := &server.Options{Host: "127.0.0.1", Username: "blessd", Password: password, NoSigs: true, NoLog: true}
		if so.Port, err = net.LookupPort("tcp", port); err != nil {
			t.Fatal(err)
		}
		srv, err := server.NewServer(so)
		if err != nil {
			t.Fatal(err)
		}
		srv.Start()
		if !srv.ReadyForConnections(10 * time.Second) {
			t.Fatal("server is not ready")
		}
		return srv
	}
	old := start("old")
	until(t, "credentials were refused more than twice", func() bool { v, err := old.Varz(nil); return err == nil && v.TotalConnections > 2 })
	old.Shutdown()
	old.WaitForShutdown()
	srv := start("new")
	defer srv.Shutdown()
	until(t, "the connection is up", nc.IsConnected)
	select {
	case err := <-closed:
		t.Fatalf("closed for good: %v", err)
	default:
	}
	nc.Close()
	select {
	case <-closed:
	case <-testContext(t).Done():
		t.Error("OnClosed was not called")
	}
}

// TestUntrustedServer has a server whose certificate blessd does not trust: whoever
// waits for it is told so.
func TestUntrustedServer(t *testing.T) {
	b := externalBackend(t, func(t *testing.T, so *server.Options, do *sink.ExternalOptions) {
		mutualTLS(t, so, do)
		_, _, do.TLS.CAFile = certificate(t, nil, nil)
	})
	s := newSink(t, b.nc, defaults())
	until(t, "the error says what is wrong with the certificate", func() bool {
		err := s.Ensure(testContext(t))
		if !errors.Is(err, nats.ErrDisconnected) {
			t.Fatalf("error %v, want one for want of a connection", err)
		}
		return strings.Contains(err.Error(), "certificate signed by unknown authority")
	})
}
