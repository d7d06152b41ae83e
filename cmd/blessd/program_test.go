package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/blessd/blessd/journal"
	"github.com/blessd/blessd/receiver"
)

// programKey signs Mailgun's fixtures; the others are signed here.
const programKey = "blessd-testdata-mailgun"

// unauthentic are the fixtures that cannot be verified as they are. The normalizer
// has an answer to them because a token in the URL may be what counts.
var unauthentic = map[string]string{
	"mailgun/array":                        "Mailgun sends one object; the signature has no place in an array",
	"mailgun/array-mixed":                  "Mailgun sends one object; the signature has no place in an array",
	"mailgun/legacy-boundary-missing":      "fields cannot be told apart for certain",
	"mailgun/legacy-broken-escape":         "fields cannot be told apart for certain",
	"mailgun/legacy-no-event-no-signature": "it has no signature",
	"mailgun/legacy-truncated":             "its signature was cut off",
	"mailgun/truncated":                    "its signature was cut off",
	"sendclean/broken-percent":             "fields cannot be told apart for certain",
	"sendclean/cut-form":                   "fields cannot be told apart for certain",
	"sendclean/multipart-preamble":         "fields cannot be told apart for certain",
}

// probes are the fixtures that say nothing: they are blessed and not kept.
var probes = map[string]bool{
	"sarv/two-fields":                true,
	"sendclean/blanks":               true,
	"sendclean/blanks-in-field":      true,
	"sendclean/multipart-two-fields": true,
}

// program is a whole blessd with one endpoint, as an operator would run it.
type program struct {
	t        *testing.T
	daemon   *daemon
	provider string
	token    string
	js       jetstream.JetStream
	client   *http.Client
}

func startProgram(t *testing.T, provider, acknowledge string) *program {
	t.Helper()
	dir := t.TempDir()
	put := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	p := &program{t: t, provider: provider, client: &http.Client{}}
	keys := ""
	switch provider {
	case "sendclean", "sarv":
		keys = "key_files: [" + put("key", programKey) + "], signature: enforce"
	case "mailgun":
		keys = "key_files: [" + put("key", programKey) + "], max_age: 87600h" // the fixtures do not get younger
	default:
		p.token = "TOKEN0123456789abcdefghij"
		keys = "token_files: [" + put("token", p.token) + "]"
	}
	file := put("blessd.yaml", fmt.Sprintf(`listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
data_dir: %s
acknowledge: %s
endpoints:
  - {name: acme, provider: %s, %s}
nats: {embedded: {listen: "127.0.0.1:0"}}
`, filepath.Join(dir, "data"), acknowledge, provider, keys))
	cfg, err := loadConfig(file, func(string) (string, bool) { return "", false })
	if err != nil {
		t.Fatal(err)
	}
	p.daemon = newDaemon(cfg, zap.NewNop())
	if err := p.daemon.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), stopTime)
		defer cancel()
		if err := p.daemon.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	nc, err := nats.Connect(p.daemon.Addresses().NATS) // as any consumer: no credentials
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	if p.js, err = jetstream.New(nc); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *program) url() string {
	return "http://" + p.daemon.Addresses().Hooks + receiver.Path("acme", p.token)
}

// post sends a request and returns the status and the body of the answer.
func (p *program) post(url, contentType string, header http.Header, body []byte) (int, string) {
	p.t.Helper()
	q, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	maps.Copy(q.Header, header)
	if contentType != "" {
		q.Header.Set("Content-Type", contentType)
	}
	a, err := p.client.Do(q)
	if err != nil {
		p.t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return a.StatusCode, string(b)
}

// settled waits until the relay has published what was accepted, and returns
// everything in both streams.
func (p *program) settled() (events, quarantined []jetstream.Msg) {
	p.t.Helper()
	// Without a journal everything is there when it was answered.
	for deadline := time.Now().Add(30 * time.Second); p.daemon.journal != nil; time.Sleep(5 * time.Millisecond) {
		_, next := p.daemon.journal.Bounds()
		if s := p.daemon.relay.Status(); s.Settled+1 == next {
			break
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("not published in 30 s: %+v", p.daemon.relay.Status())
		}
	}
	return p.read("MAIL_EVENTS"), p.read("MAIL_QUARANTINE")
}

func (p *program) read(stream string) (all []jetstream.Msg) {
	p.t.Helper()
	// The quarantine is not for everybody on the machine: it is read as blessd.
	js := p.js
	if stream == "MAIL_QUARANTINE" {
		var err error
		if js, err = jetstream.New(p.daemon.conn); err != nil {
			p.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		p.t.Fatal(err)
	}
	want := s.CachedInfo().State.Msgs
	c, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		p.t.Fatal(err)
	}
	for uint64(len(all)) < want {
		m, err := c.Next(jetstream.FetchMaxWait(10 * time.Second))
		if err != nil {
			p.t.Fatalf("read %s after %d of %d: %v", stream, len(all), want, err)
		}
		all = append(all, m)
	}
	return all
}

// wanted is one entry of a golden file.
type wanted struct {
	fixture string
	line    []byte // of an event: as Encode writes it
	reject  *struct {
		Reason      string `json:"reason"`
		ID          string `json:"id"`
		Element     int    `json:"element"`
		Occurrence  int    `json:"occurrence"`
		ContentType string `json:"content_type"`
		Raw         string `json:"raw"`
		RawBase64   []byte `json:"raw_base64"`
	}
}

func golden(t *testing.T, file string) (all []wanted) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range regexp.MustCompile(`(?m)^--- `).Split(string(b), -1) {
		kind, text, _ := strings.Cut(part, "\n")
		text = strings.TrimSuffix(text, "\n")
		w := wanted{fixture: file, line: []byte(text)}
		switch kind {
		case "event":
		case "reject":
			var j map[string]json.RawMessage
			if err := json.Unmarshal(w.line, &j); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if err := json.Unmarshal(j["reject"], &w.reject); err != nil {
				t.Fatalf("%s: %v", file, err)
			}
		default:
			continue
		}
		all = append(all, w)
	}
	return all
}

// TestProgram starts the whole program for each provider, posts every fixture as
// the provider would, and reads NATS as a consumer would. What it finds there must
// be the golden files, with nothing missing and nothing more; with a journal and
// without.
func TestProgram(t *testing.T) {
	contentTypes := map[string]string{".form": "application/x-www-form-urlencoded", ".json": "application/json", ".bin": "application/octet-stream", ".multipart": "multipart/form-data"}
	for _, acknowledge := range []string{"journal", "stream"} {
		for _, provider := range receiver.Providers() {
			t.Run(acknowledge+"/"+provider, func(t *testing.T) {
				t.Parallel()
				p := startProgram(t, provider, acknowledge)
				files, err := filepath.Glob(filepath.Join("..", "..", "testdata", provider, "*"))
				if err != nil {
					t.Fatal(err)
				}
				var want []wanted
				posted := 0
				for _, file := range files {
					ext := filepath.Ext(file)
					contentType, isBody := contentTypes[ext]
					stem := strings.TrimSuffix(file, ext)
					if !isBody || strings.HasSuffix(file, ".meta.json") {
						continue
					}
					meta := struct {
						ContentType *string `json:"content_type"`
						Endpoint    string  `json:"endpoint"`
						Sample      bool    `json:"sample"`
					}{}
					if b, err := os.ReadFile(stem + ".meta.json"); err == nil {
						if err := json.Unmarshal(b, &meta); err != nil {
							t.Fatal(err)
						}
					}
					if meta.Endpoint != "" || meta.Sample {
						continue // about the normalizer alone: another endpoint, or a sample key
					}
					if strings.Contains(stem, "sample-legacy_") {
						continue // without a timestamp: `blessd send` signs it, and then it is another event
					}
					if meta.ContentType != nil {
						contentType = *meta.ContentType
					}
					body, err := os.ReadFile(file)
					if err != nil {
						t.Fatal(err)
					}
					name := provider + "/" + filepath.Base(stem)
					s := receiver.Signed{ContentType: contentType, Body: body}
					signable := provider != "mailgun" || strings.Contains(name, "/sample-") // its fixtures are signed
					if signable && provider != "enkod" && provider != "vision6" {
						s, err = receiver.Sign(receiver.Plain{Provider: provider, URL: p.url(), Key: programKey, Now: time.Now(), Body: body, ContentType: contentType})
						if err != nil {
							s = receiver.Signed{ContentType: contentType, Body: body}
						}
						s.ContentType = contentType
					}
					code, answer := p.post(p.url(), s.ContentType, s.Header, s.Body)
					if why, refused := unauthentic[name]; refused {
						if code != http.StatusUnauthorized || strings.Contains(answer, "bless") {
							t.Errorf("%s: %d %q, want 401 (%s)", name, code, answer, why)
						}
						continue
					}
					if code != http.StatusOK || answer != receiver.Acknowledgement(provider) {
						t.Errorf("%s: %d %q, want the acknowledgement", name, code, answer)
						continue
					}
					posted++
					if probes[name] {
						continue
					}
					want = append(want, golden(t, stem+".golden")...)
				}
				events, quarantined := p.settled()
				compareEvents(t, events, want)
				compareQuarantine(t, quarantined, want)
				t.Logf("posted %d fixtures; %d events and %d quarantined", posted, len(events), len(quarantined))
			})
		}
	}
}

var (
	receivedField = regexp.MustCompile(`"received":"[^"]*"`)
	timeField     = regexp.MustCompile(`"time":"[^"]*","time_source":"received"`)
	idField       = regexp.MustCompile(`^\{"id":"[0-9a-f]{32}"`)
	signedField   = regexp.MustCompile(`timestamp=[^"&]*|token=[^"&]*|signature=[^"&]*`)
)

// comparable takes out of an event what depends on when it was posted.
func comparable(line []byte) string {
	line = receivedField.ReplaceAll(line, nil)
	if timeField.Match(line) { // then the id may depend on it as well
		line = idField.ReplaceAll(timeField.ReplaceAll(line, nil), nil)
	}
	return string(signedField.ReplaceAll(line, nil))
}

// lastingID returns an event's id and whether it is the same at every redelivery.
func lastingID(t *testing.T, line []byte) (id string, lasting bool) {
	t.Helper()
	var e struct {
		ID, Type, Provider string
		TimeSource         string `json:"time_source"`
		Message            struct{ ID string }
	}
	if err := json.Unmarshal(line, &e); err != nil {
		t.Fatal(err)
	}
	switch {
	case e.TimeSource == "provider", e.Provider != "enkod" && e.Type == "other.unknown":
		return e.ID, true
	case e.Provider == "mailgun": // its ids do not need the time
		return e.ID, true
	case e.Provider == "enkod" && e.Message.ID != "":
		return e.ID, slices.Contains([]string{"email.sent", "email.bounced", "email.complained"}, e.Type)
	}
	return e.ID, false
}

func compareEvents(t *testing.T, events []jetstream.Msg, want []wanted) {
	t.Helper()
	have := map[string]int{} // by what can be compared
	ids := map[string]bool{}
	for _, m := range events {
		have[comparable(m.Data())]++
		var e struct {
			ID, Type, Provider, Endpoint, Time string
		}
		if err := json.Unmarshal(m.Data(), &e); err != nil {
			t.Fatal(err)
		}
		ids[e.ID] = true
		family, verb, _ := strings.Cut(e.Type, ".")
		for what, pair := range map[string][2]string{
			"subject":           {m.Subject(), strings.Join([]string{"mail", "events", e.Provider, e.Endpoint, family, verb}, ".")},
			nats.MsgIdHdr:       {m.Headers().Get(nats.MsgIdHdr), e.ID},
			"ce-id":             {m.Headers().Get("ce-id"), e.ID},
			"ce-specversion":    {m.Headers().Get("ce-specversion"), "1.0"},
			"ce-source":         {m.Headers().Get("ce-source"), "/blessd/" + e.Endpoint},
			"ce-type":           {m.Headers().Get("ce-type"), "blessd." + e.Type},
			"ce-time":           {m.Headers().Get("ce-time"), e.Time},
			"Content-Type":      {m.Headers().Get("Content-Type"), "application/json"},
			"id has 32 letters": {strconv.Itoa(len(e.ID)), "32"},
		} {
			if pair[0] != pair[1] {
				t.Errorf("event %s: %s is %q, want %q", e.ID, what, pair[0], pair[1])
			}
		}
	}
	if len(ids) != len(events) {
		t.Errorf("%d events have %d ids", len(events), len(ids))
	}
	claimed := map[string]bool{}
	expected := 0
	for _, w := range want {
		if w.reject != nil {
			continue
		}
		if id, lasting := lastingID(t, w.line); lasting {
			// An id that came before is the same event from another fixture, whose
			// bytes may differ in what does not identify it.
			if claimed[id] {
				continue
			}
			claimed[id] = true
		}
		key := comparable(w.line)
		expected++
		if have[key] == 0 {
			t.Errorf("%s: not in the stream:\n%s", w.fixture, w.line)
			continue
		}
		have[key]--
	}
	if expected != len(events) {
		t.Errorf("the stream has %d events, the golden files %d different ones", len(events), expected)
	}
}

func compareQuarantine(t *testing.T, quarantined []jetstream.Msg, want []wanted) {
	t.Helper()
	have := map[string]jetstream.Msg{}
	for _, m := range quarantined {
		have[m.Headers().Get(nats.MsgIdHdr)] = m
	}
	expected := map[string]bool{}
	for _, w := range want {
		if w.reject == nil || expected[w.reject.ID] {
			continue
		}
		expected[w.reject.ID] = true
		m, ok := have[w.reject.ID]
		if !ok {
			t.Errorf("%s: not in quarantine:\n%s", w.fixture, w.line)
			continue
		}
		raw := w.reject.RawBase64
		if raw == nil {
			raw = []byte(w.reject.Raw)
		}
		if !bytes.Equal(m.Data(), raw) {
			t.Errorf("%s: quarantined %q, want %q", w.fixture, m.Data(), raw)
		}
		for name, value := range map[string]string{
			"Blessd-Reason": w.reject.Reason, "Blessd-Element": strconv.Itoa(w.reject.Element),
			"Blessd-Occurrence": strconv.Itoa(w.reject.Occurrence), "Blessd-Endpoint": "acme",
		} {
			if got := m.Headers().Get(name); got != value {
				t.Errorf("%s: header %s is %q, want %q", w.fixture, name, got, value)
			}
		}
	}
	if len(expected) != len(quarantined) {
		t.Errorf("%d in quarantine, want %d", len(quarantined), len(expected))
	}
}

// TestStrangers posts what nobody may get in with, and then one delivery that may:
// it must be alone in the stream.
func TestStrangers(t *testing.T) {
	for _, provider := range receiver.Providers() {
		t.Run(provider, func(t *testing.T) {
			t.Parallel()
			p := startProgram(t, provider, "journal")
			sample := map[string]string{"sendclean": "sample-send", "sarv": "sample-send", "mailgun": "sample-delivered", "enkod": "sample-message_sent", "vision6": "sample-contact_created"}[provider]
			body, err := os.ReadFile(filepath.Join("..", "..", "testdata", provider, sample+".json"))
			if err != nil {
				t.Fatal(err)
			}
			sign := func(key receiver.Secret) receiver.Signed {
				s, err := receiver.Sign(receiver.Plain{Provider: provider, URL: p.url(), Key: key, Now: time.Now(), Body: body, ContentType: "application/json"})
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			good, bad := sign(programKey), sign("another-key-of-somebody-else")
			base := "http://" + p.daemon.Addresses().Hooks
			type attempt struct {
				what, url string
				s         receiver.Signed
				want      []int
			}
			attempts := []attempt{
				{"unknown endpoint", base + "/hooks/nobody", good, []int{404}},
				{"unknown endpoint with the token", base + "/hooks/nobody/" + p.token, good, []int{404}},
				{"a longer path", p.url() + "/more", good, []int{404}},
				{"a trailing slash", p.url() + "/", good, []int{404}},
				{"two slashes", base + "//hooks/acme/" + p.token, good, []int{404}},
				{"the admin's path", base + "/metrics", good, []int{404}},
			}
			if p.token != "" {
				attempts = append(
					attempts,
					attempt{"no token", base + "/hooks/acme", good, []int{404}},
					attempt{"wrong token", base + "/hooks/acme/" + strings.Repeat("x", len(p.token)), good, []int{404}},
				)
			} else {
				attempts = append(
					attempts,
					attempt{"wrong key", p.url(), bad, []int{401}},
					attempt{"no signature", p.url(), receiver.Signed{ContentType: "application/json", Body: body}, []int{401}},
				)
			}
			for _, a := range attempts {
				code, answer := p.post(a.url, a.s.ContentType, a.s.Header, a.s.Body)
				if !slices.Contains(a.want, code) || strings.Contains(strings.ToLower(answer), "god bless") {
					t.Errorf("%s: %d %q, want %d and no blessing", a.what, code, answer, a.want)
				}
			}
			if code, answer := p.post(p.url(), good.ContentType, good.Header, good.Body); code != 200 || answer != receiver.Acknowledgement(provider) {
				t.Fatalf("the right one: %d %q", code, answer)
			}
			events, quarantined := p.settled()
			if len(events) != 1 || len(quarantined) != 0 {
				t.Errorf("%d events and %d quarantined, want the one event", len(events), len(quarantined))
			}
		})
	}
}

// TestJournalLeftBehind changes to acknowledge: stream while the journal holds
// what nobody would publish any more.
func TestJournalLeftBehind(t *testing.T) {
	cfg := defaultConfig()
	cfg.DataDir, cfg.Acknowledge = t.TempDir(), "stream"
	j, err := journal.Open(journal.Options{Dir: filepath.Join(cfg.DataDir, "journal"), MinFree: -1})
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Append(t.Context(), []byte("blessed")); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	d := newDaemon(cfg, zap.NewNop())
	if err := d.openJournal(t.Context()); err == nil || !strings.Contains(err.Error(), "still holds 1 request") {
		t.Errorf("with a record: %v, want a refusal to start", err)
	}
	if j, err = journal.Open(journal.Options{Dir: filepath.Join(cfg.DataDir, "journal"), MinFree: -1}); err != nil {
		t.Fatal(err)
	}
	if err := j.SetCursor(journal.Cursor{Index: 1}); err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if err := d.openJournal(t.Context()); err != nil || d.journal != nil {
		t.Errorf("with an empty journal: %v, want no error and no journal", err)
	}
}
