package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/blessd/blessd/receiver"
	"github.com/blessd/blessd/relay"
	"github.com/blessd/blessd/sink"
)

// status is what GET /-/status answers: the page and `blessd status` show it. It
// holds no key, no token and no address of a person. Fields are added and never
// renamed.
type status struct {
	Version  string    `json:"version"`
	Started  time.Time `json:"started"`
	Now      time.Time `json:"now"` // by the clock of this machine
	Ready    bool      `json:"ready"`
	NotReady string    `json:"not_ready,omitempty"` // why
	// Attention is what somebody should look at, the worst first.
	Attention   []attention  `json:"attention"`
	DataDir     string       `json:"data_dir"`
	Config      configStatus `json:"config"`
	PublicURL   string       `json:"public_url"`
	Hooks       string       `json:"hooks"`       // host:port of the public listener
	Acknowledge string       `json:"acknowledge"` // what an answer waits for
	// Endpoints are in the order of the configuration.
	Endpoints []endpointStatus `json:"endpoints"`
	// Unmatched are requests that belong to no endpoint.
	Unmatched requestCounts  `json:"unmatched"`
	Journal   *journalStatus `json:"journal,omitempty"` // none with acknowledge: stream
	Relay     relay.Status   `json:"relay"`
	NATS      natsStatus     `json:"nats"`
	// Unverified is missing when nothing of the kind is kept.
	Unverified *unverifiedStatus `json:"unverified,omitempty"`
}

// attention is one thing to look at.
type attention struct {
	// Level is error when blessd cannot do its work or events are at stake, warning
	// when something waits for somebody, note for the rest.
	Level string `json:"level"`
	What  string `json:"what"`
	Mend  string `json:"mend,omitempty"`
}

// configStatus is what was read last.
type configStatus struct {
	File   string    `json:"file,omitempty"`
	Loaded time.Time `json:"loaded"` // when what is in force was read
	// InForce is false when what was read last could not be used, and what was in
	// force before stays.
	InForce bool `json:"in_force"`
}

type endpointStatus struct {
	Name     string `json:"name"`
	Provider string `json:"provider"`
	Path     string `json:"path"` // the token is masked
	// URL is what the provider is given, the token masked. POST
	// /-/endpoints/{name}/url answers with the token.
	URL string `json:"url"`
	// Verified says by what a request proves itself.
	Verified string `json:"verified"`
	// Answer is what the provider hears.
	Answer string `json:"answer"`
	// Register says what to enter where at the provider.
	Register []string `json:"register"`
	// KeyFile is where the provider's signature key may be put, where it signs.
	KeyFile     string `json:"key_file,omitempty"`
	AwaitingKey bool   `json:"awaiting_key"`
	Keys        int    `json:"keys"`
	Tokens      int    `json:"tokens"`
	// RotationUntil is when the announcement that the key changes runs out.
	RotationUntil *time.Time `json:"rotation_announced_until,omitempty"`
	// ProviderWebhook is what the provider says, for an endpoint with manage.poll.
	ProviderWebhook *pollStatus `json:"provider_webhook,omitempty"`
	requestCounts
}

type journalStatus struct {
	First uint64 `json:"first"` // the oldest record that is not settled and safe
	Next  uint64 `json:"next"`  // the index that the next record gets
	// Unpublished are the records that no stream has yet.
	Unpublished uint64 `json:"unpublished"`
	// Records and Bytes are what is not settled and safe; LimitBytes is 0 for none.
	Records    uint64     `json:"records"`
	Bytes      uint64     `json:"bytes"`
	LimitBytes uint64     `json:"limit_bytes"`
	Oldest     *time.Time `json:"oldest,omitempty"` // when the oldest of them was written
	Full       bool       `json:"full"`             // nothing is blessed until there is room
	Failed     string     `json:"failed,omitempty"`
}

type natsStatus struct {
	Connected     bool                `json:"connected"`
	URL           string              `json:"url"`
	Embedded      bool                `json:"embedded"`
	ServerVersion string              `json:"server_version,omitempty"`
	Reconnects    uint64              `json:"reconnects"`
	Watchdog      *sink.WatchdogState `json:"watchdog,omitempty"` // of the embedded server
	Streams       []streamInfo        `json:"streams,omitempty"`
}

type streamInfo struct {
	Name       string     `json:"name"`
	Messages   uint64     `json:"messages"`
	Bytes      uint64     `json:"bytes"`
	LimitBytes int64      `json:"limit_bytes"` // -1 for none
	Replicas   int        `json:"replicas"`
	LastSeq    uint64     `json:"last_sequence"`
	First      *time.Time `json:"first,omitempty"` // when the oldest message was stored
	Error      string     `json:"error,omitempty"`
}

// unverifiedStatus is what is kept of refused deliveries.
type unverifiedStatus struct {
	Records    int              `json:"records"`
	Bytes      int64            `json:"bytes"`
	LimitBytes int64            `json:"limit_bytes"`
	Endpoints  []unverifiedKept `json:"endpoints"`
}

type unverifiedKept struct {
	Endpoint string `json:"endpoint"`
	Records  int    `json:"records"`
	Bytes    int64  `json:"bytes"`
}

// describe is the answer of GET /-/status.
func (d *daemon) describe(q *http.Request) status {
	now := d.inForce.Load()
	s := status{
		Version: currentVersion().Version, Started: d.started.UTC().Truncate(time.Second), Now: time.Now().UTC().Truncate(time.Millisecond),
		DataDir: d.cfg.DataDir, Ready: true, Config: *d.config.Load(), PublicURL: publicPart(now.cfg.publicURL(d.hooks.Addr().String())),
		Hooks: d.hooks.Addr().String(), Acknowledge: d.cfg.Acknowledge,
		Endpoints: []endpointStatus{}, Unmatched: d.recent.of(unmatchedEndpoint),
	}
	if err := d.Ready(); err != nil {
		s.Ready, s.NotReady = false, err.Error()
	}
	for _, e := range now.endpoints {
		s.Endpoints = append(s.Endpoints, d.describeEndpoint(now.cfg, e))
	}
	if d.direct != nil {
		s.Relay = d.direct.Status()
	} else {
		s.Relay = d.relay.Status()
		s.Journal = d.describeJournal(s.Relay.Settled)
	}
	s.NATS = d.describeNATS(q.Context())
	s.Unverified = d.describeUnverified()
	s.Attention = s.attention()
	return s
}

func (d *daemon) describeEndpoint(cfg *Config, e receiver.Endpoint) endpointStatus {
	h, keyFile := cfg.plannedHook(e), ""
	if signs(e.Provider) {
		keyFile = filepath.Join(cfg.keyDir(e.Name), providerKeyFile)
	}
	return endpointStatus{
		Name: e.Name, Provider: e.Provider, Path: maskedPath(e), URL: h.URL, Verified: h.Verified, Answer: receiver.Acknowledgement(e.Provider),
		Register: registration(e, keyFile), KeyFile: keyFile, AwaitingKey: awaitsKey(e), Keys: len(e.Keys), Tokens: len(e.Tokens),
		RotationUntil: d.announcedUntil(e.Name), ProviderWebhook: d.polls.statusOf(e.Name),
		requestCounts: d.recent.of(e.Name),
	}
}

func (d *daemon) describeJournal(settled uint64) *journalStatus {
	s := &journalStatus{Full: d.journal.Full()}
	s.First, s.Next = d.journal.Bounds()
	s.Unpublished = s.Next - 1 - min(s.Next-1, max(settled, s.First-1))
	b := d.journal.Backlog()
	s.Records, s.Bytes, s.LimitBytes = b.Records, b.Bytes, b.Limit
	if !b.Oldest.IsZero() {
		oldest := b.Oldest.Truncate(time.Millisecond)
		s.Oldest = &oldest
	}
	if err := d.journal.Err(); err != nil {
		s.Failed = err.Error()
	}
	return s
}

func (d *daemon) describeNATS(ctx context.Context) natsStatus {
	s := natsStatus{
		Connected: d.conn.IsConnected(), URL: withoutPasswords(d.addresses.NATS), Embedded: d.embedded != nil,
		ServerVersion: d.conn.ConnectedServerVersion(), Reconnects: d.conn.Stats().Reconnects,
	}
	if d.watchdog != nil {
		state := d.watchdog.State()
		s.Watchdog = &state
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, name := range []string{d.sink.EventsStream(), d.sink.QuarantineStream()} {
		info := streamInfo{Name: name}
		if st, err := d.sink.State(ctx, name); err != nil {
			info.Error = err.Error()
		} else {
			info.Messages, info.Bytes, info.LimitBytes, info.Replicas, info.LastSeq = st.Msgs, st.Bytes, st.Limit, st.Replicas, st.LastSeq
			if !st.FirstTime.IsZero() {
				first := st.FirstTime.UTC().Truncate(time.Millisecond)
				info.First = &first
			}
		}
		s.Streams = append(s.Streams, info)
	}
	return s
}

func (d *daemon) describeUnverified() *unverifiedStatus {
	if d.redeemer == nil {
		return nil
	}
	s := &unverifiedStatus{LimitBytes: int64(d.cfg.Unverified.MaxBytes), Endpoints: []unverifiedKept{}}
	for _, k := range d.redeemer.store.Kept() {
		if k.Records == 0 {
			continue
		}
		s.Records += k.Records
		s.Bytes += k.Bytes
		s.Endpoints = append(s.Endpoints, unverifiedKept{Endpoint: k.Name, Records: k.Records, Bytes: k.Bytes})
	}
	return s
}

// maskedPath is an endpoint's path with its token, a secret, left out.
func maskedPath(e receiver.Endpoint) string {
	if len(e.Tokens) > 0 {
		return receiver.Path(e.Name, "<token>")
	}
	return receiver.Path(e.Name, "")
}

// registration says what to enter where so that the provider sends to e. keyFile is
// where a signature key may be put at any time.
func registration(e receiver.Endpoint, keyFile string) []string {
	var steps []string
	key := func(text string) {
		steps = append(steps, text+" Put it, alone on one line, into "+keyFile+": blessd notices.")
	}
	switch e.Provider {
	case "sendclean", "sarv":
		name, header := "SendClean", "X-SendCleanTES-SIGNATURE"
		if e.Provider == "sarv" {
			name, header = "Sarv", "X-SarvTES-SIGNATURE"
		}
		steps = append(
			steps, "At "+name+", in the account's webhook settings, add a webhook with this URL and choose its events.",
			fmt.Sprintf("%s tries the URL at once, and takes it when it hears %q.", name, receiver.Acknowledgement(e.Provider)),
		)
		key(name + " then shows the webhook's key, which it signs with in the header " + header + ".")
	case "mailgun":
		steps = append(steps, "In Mailgun's control panel, at the webhooks of the domain or the account, enter this URL for each type of event.")
		key("Mailgun signs within the body, with the account's HTTP webhook signing key, which is not the API key.")
	case "enkod":
		steps = append(
			steps, "In enKod's settings for webhooks, enter this URL for all events, or for each.",
			"Before it can be saved enKod sends a sample of each kind. They come out marked as a test.",
		)
	case "vision6":
		steps = append(steps, "Call addWebhook of Vision6's API with this URL, once for each object, event and list: eleven in all, where list 0 stands for all lists.")
	}
	if !signs(e.Provider) && len(e.Tokens) > 0 {
		steps = append(steps, "It signs nothing: the token in the URL is the proof. Keep it secret.")
	}
	if len(e.BasicAuth) > 0 {
		steps = append(steps, "A password is asked for: enter the URL as https://user:password@host/..., with what is in basic_auth_file.")
	}
	return steps
}

// serveURL is POST /-/endpoints/{name}/url: what the provider is given, with the
// token. It takes a POST so that no other page and no link can ask for it.
func (d *daemon) serveURL(w http.ResponseWriter, q *http.Request) {
	now := d.inForce.Load()
	for _, h := range now.cfg.hooks(now.endpoints) {
		if h.Name == q.PathValue("name") {
			answerJSON(w, struct {
				URL string `json:"url"`
			}{h.URL})
			return
		}
	}
	answer(w, http.StatusNotFound, "no endpoint has this name")
}

// attention is what somebody should look at.
func (s *status) attention() []attention {
	found := map[string][]attention{}
	add := func(level, what, mend string) { found[level] = append(found[level], attention{level, what, mend}) }
	if j := s.Journal; j != nil {
		switch {
		case j.Failed != "":
			add("error", "The journal has failed: "+j.Failed, "Look at the disk; blessd ends, and its supervisor starts it again.")
		case j.Full:
			add("error", "The journal is full: providers are told to come again.", "Look at why it does not empty (NATS, below) and at the space on the disk.")
		}
	} else if !s.Ready {
		add("error", "Deliveries are refused: "+s.NotReady+".", "They wait for NATS, since there is no journal: look at the NATS server.")
	}
	for _, r := range s.Relay.StreamWentBackwards {
		add("error", fmt.Sprintf("The stream %s went backwards: it had %d messages and was found with %d. Events in it are gone.", r.Stream, r.Expected, r.Found),
			"Find out why (a restored backup, a deleted stream, a lost disk), then start once with --accept-stream-reset.")
	}
	if w := s.NATS.Watchdog; w != nil && w.Stuck != "" {
		add("error", "The embedded NATS server stores nothing: "+w.Stuck+".", "Make room on the disk; blessd restarts the server by itself.")
	}
	streams := true
	switch {
	case !s.NATS.Connected:
		streams = false
		mend := "Is the server running, and are its address and blessd's credentials right? Deliveries wait in the journal."
		if s.Journal == nil {
			mend = "Is the server running, and are its address and blessd's credentials right?"
		}
		add("error", "NATS is not connected.", mend)
	case s.Relay.State == "waiting":
		add("warning", "Nothing is published: "+s.Relay.Error+".", "It is tried until it works. Look at the NATS server and its streams.")
	}
	for i, st := range s.NATS.Streams {
		switch {
		case st.Error != "" && streams:
			add("warning", "The stream "+st.Name+" cannot be read: "+st.Error+".", "")
		case i == 1 && st.Messages > 0:
			add("warning", count(int(st.Messages), "message")+" in quarantine: genuine, and not understood.", "`blessd replay --dry-run` says what a newer version makes of it.")
		}
	}
	s.attentionOfEndpoints(add)
	if !s.Config.InForce {
		add("warning", "The configuration or a key file that was read last cannot be used: what was in force before stays.", "The log and `blessd check` say what is wrong.")
	}
	all := []attention{}
	for _, level := range []string{"error", "warning", "note"} {
		all = append(all, found[level]...)
	}
	return all
}

func (s *status) attentionOfEndpoints(add func(level, what, mend string)) {
	for _, e := range s.Endpoints {
		if e.AwaitingKey {
			add("warning", e.Name+" awaits its key: deliveries are refused with 503 and kept.", "Put the key that the provider shows, alone on one line, into "+e.KeyFile+": blessd notices.")
		}
		if w := e.ProviderWebhook; w != nil && (w.State == "gone" || w.State == "changed") {
			add("error", e.Name+": the webhook at the provider is "+w.State+". "+strings.Join(w.Differences, "; ")+".", "`blessd webhooks plan` says what differs, and `blessd webhooks apply` mends it.")
		} else if w != nil && w.Error != "" {
			add("warning", e.Name+": the provider cannot be asked about its webhook: "+w.Error+".", "Look at manage of this endpoint, and at the network.")
		}
		if e.Verified == "NOTHING" {
			add("warning", e.Name+" asks for no proof: whoever finds the URL can post events.", "Configure token_files.")
		}
	}
	if u := s.Unverified; u != nil && u.Records > 0 {
		var names []string
		for _, k := range u.Endpoints {
			names = append(names, fmt.Sprintf("%s (%d)", k.Endpoint, k.Records))
		}
		add("warning", "Refused deliveries are kept for a key that comes late: "+strings.Join(names, ", ")+".",
			"Strangers' are among them perhaps. When a key was changed at the provider, put the new one beside the old one: what it verifies goes in by itself.")
	}
	if isLocalURL(s.PublicURL) {
		add("note", "public_url is "+s.PublicURL+": providers cannot reach that.", "Put a proxy with TLS in front and set public_url, or start with --public-url https://hooks.example.com.")
	}
}

// isLocalURL tells whether a URL leads to the machine itself.
func isLocalURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil {
		return false
	}
	ip := net.ParseIP(u.Hostname())
	return u.Hostname() == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified())
}
