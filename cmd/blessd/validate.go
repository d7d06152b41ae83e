package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/blessd/blessd/manage"
	"github.com/blessd/blessd/receiver"
)

// providerSettings says which settings of an endpoint a provider takes beyond
// name, provider, token_files, basic_auth_file and url, that all take.
var providerSettings = []struct {
	name   string
	signs  bool // takes key_files
	own    []string
	manage []string // nil: it has no management API
	events []string // what manage.events may list
}{
	{
		name: "enkod",
		own:  []string{"auth"},
	},
	{
		name:   "mailgun",
		signs:  true,
		own:    []string{"key_files", "max_age", "parent_key_files"},
		manage: []string{"api_key_file", "base_url", "domain", "events", "plain_http", "poll", "reconcile", "region"},
		events: manage.MailgunEvents(),
	},
	{
		name:   "sarv",
		signs:  true,
		own:    []string{"key_files", "signature", "signature_variants"},
		manage: []string{"app_domain", "base_url", "description", "events", "owner_id_file", "plain_http", "poll", "reconcile", "store_log", "token_file"},
		events: slices.Sorted(slices.Values(manage.SendCleanEvents())),
	},
	{
		name:   "sendclean",
		signs:  true,
		own:    []string{"key_files", "signature", "signature_variants"},
		manage: []string{"app_domain", "base_url", "description", "events", "owner_id_file", "plain_http", "poll", "reconcile", "store_log", "token_file"},
		events: slices.Sorted(slices.Values(manage.SendCleanEvents())),
	},
	{
		name:   "vision6",
		own:    []string{"auth"},
		manage: []string{"api_key_file", "base_url", "events", "lists", "plain_http", "poll", "reconcile"},
		events: vision6Events(),
	},
}

// vision6Events are the pairs of Vision6 as they are written in the configuration.
func vision6Events() (events []string) {
	for _, p := range manage.Vision6Pairs() {
		events = append(events, p.String())
	}
	slices.Sort(events)
	return events
}

// settingsOf returns the index of the provider in providerSettings, or -1.
func settingsOf(provider string) int {
	for i := range providerSettings {
		if providerSettings[i].name == provider {
			return i
		}
	}
	return -1
}

// signs tells whether the provider signs its requests.
func signs(provider string) bool {
	i := settingsOf(provider)
	return i >= 0 && providerSettings[i].signs
}

// signsURL tells whether the provider's signature covers the URL, and with that
// whether there is a choice between enforcing and reporting it.
func signsURL(provider string) bool {
	i := settingsOf(provider)
	return i >= 0 && slices.Contains(providerSettings[i].own, "signature")
}

var (
	endpointName  = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)
	streamName    = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	ceTypePrefix  = regexp.MustCompile(`^[a-z0-9]+([.-][a-z0-9]+)*$`)
	contextName   = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)
	apiHost       = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*(:[0-9]{1,5})?$`)
	maxBodyLimit  = 64 * MiB
	mailgunRetry  = 8 * hour
	maxReplicas   = 5
	minimumWindow = Duration(100 * time.Millisecond)
)

// validator collects what is wrong with a decoded configuration.
type validator struct {
	*Config
	found problems
}

// validate checks everything that can be known without reading another file.
func (c *Config) validate() problems {
	v := &validator{Config: c}
	v.listeners()
	v.oneOf("acknowledge", c.Acknowledge, "journal", "stream")
	v.acknowledge()
	v.endpoints()
	v.nats()
	v.limits()
	v.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("log.format", c.Log.Format, "auto", "console", "json")
	return v.found
}

func (v *validator) fail(path, what, mend string) {
	if v.source.isFailed(path) || v.found.about(path) {
		return // it was said what is wrong with it
	}
	v.found = append(v.found, v.source.problem(path, what, mend))
}

func (v *validator) warn(path, what, mend string) {
	if v.source.isFailed(path) || v.found.about(path) {
		return
	}
	p := v.source.problem(path, what, mend)
	p.Warning = true
	v.found = append(v.found, p)
}

// unknown tells whether any of the settings could not be read: what is compared with
// their defaults then is not said.
func (v *validator) unknown(paths ...string) bool {
	return slices.ContainsFunc(paths, v.source.isFailed)
}

// oneOf demands one of a few words.
func (v *validator) oneOf(path, value string, words ...string) {
	if !slices.Contains(words, value) {
		v.fail(path, v.source.quote(path, value)+" is not known"+v.suggest(path, value, words), "write one of: "+strings.Join(words, ", "))
	}
}

// suggest is didYouMean, unless the value came out of the environment.
func (v *validator) suggest(path, value string, words []string) string {
	if v.source.marks[path].fromEnv {
		return ""
	}
	return didYouMean(value, words)
}

// acknowledge warns of promises that are weaker than they look.
func (v *validator) acknowledge() {
	single := v.externalNATS() && v.NATS.Stream.Replicas == 1
	switch {
	case v.acknowledgesStream() && single:
		v.warn("nats.stream.replicas", "a NATS server acknowledges what has no replica before it syncs it: a loss of power there loses events that were answered with 200",
			"give the stream three replicas, set sync_interval: always on that server, or write acknowledge: journal")
	case single:
		v.warn("nats.stream.replicas", "a NATS server acknowledges what has no replica before it syncs it: unless the stream that is there has more, each request stays in the journal for "+Duration(2*foreignSyncInterval).String()+" after its events were published",
			"give the stream three replicas, or make sure that the server's sync_interval is not above its default of "+Duration(foreignSyncInterval).String())
	}
	if v.acknowledgesStream() && v.source.has("journal.max_bytes") {
		v.warn("journal.max_bytes", "there is no journal with acknowledge: stream", "take it away")
	}
}

func (v *validator) listeners() {
	v.address("listen", v.Listen)
	v.address("admin.listen", v.Admin.Listen)
	if v.Listen == v.Admin.Listen && !strings.HasSuffix(v.Listen, ":0") && !v.unknown("listen") {
		v.fail("admin.listen", "the same address as listen", "give the admin listener a port of its own: providers must not reach it")
	}
	if !loopbackOnly(v.Admin.Listen) && v.Admin.WebConfigFile == "" {
		v.warn("admin.listen", "not on loopback and without web_config_file: only metrics and health are served", "listen on 127.0.0.1, or set web_config_file with basic_auth_users")
	}
	v.readable("admin.web_config_file", v.Admin.WebConfigFile)
	if v.PublicURL != "" {
		v.url("public_url", v.PublicURL, false)
	}
}

// address demands host:port with a number as the port.
func (v *validator) address(path, value string) {
	host, port, err := net.SplitHostPort(value)
	const mend = "write host:port, like 127.0.0.1:8080, [::1]:8080 or :8080 for all interfaces"
	if err != nil {
		v.fail(path, v.source.quote(path, value)+" is no address", mend)
		return
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		v.fail(path, v.source.quote(path, value)+" has no port from 0 to 65535", mend)
		return
	}
	if _, err := netip.ParseAddr(host); err != nil && host != "" && !apiHost.MatchString(host) {
		v.fail(path, v.source.quote(path, value)+" has no host that can be one", mend)
	}
}

// loopbackOnly tells whether an address is reachable from this machine only.
func loopbackOnly(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true // said elsewhere
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// reachable returns the address at which a listener is reached from this machine.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// url demands an absolute http or https URL. It may hold secrets, so it is never
// quoted whole.
func (v *validator) url(path, value string, query bool) {
	shown := strconv.Quote(publicPart(value))
	if v.source.marks[path].fromEnv {
		shown = v.source.quote(path, value)
	}
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		v.fail(path, shown+" is no http or https URL", "write it whole, like https://hooks.example.com")
	case u.User != nil:
		v.fail(path, shown+" has a user or password in it", "take them out; a request's user and password go into basic_auth_file")
	case u.Fragment != "" || strings.Contains(value, "#"):
		v.fail(path, shown+" has a # part, which is never sent", "take it away")
	case !query && (u.RawQuery != "" || u.ForceQuery):
		v.fail(path, shown+" has a query", "write only what stands before /hooks, without /hooks")
	case !query && strings.Contains(u.Path+"/", "/hooks/"):
		v.fail(path, shown+" has /hooks in it", "leave out /hooks and what follows it; blessd adds that itself")
	}
}

// readable demands that a file, when given, can be read.
func (v *validator) readable(path, file string) {
	if file == "" {
		return
	}
	info, err := os.Stat(file)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err == nil {
		var f *os.File
		if f, err = os.Open(file); err == nil {
			f.Close()
		}
	}
	if err != nil {
		v.fail(path, "file "+showPath(file)+": "+reason(err), "correct the path, or let the user that runs blessd read the file")
	}
}

func (v *validator) endpoints() {
	if len(v.Endpoints) == 0 {
		v.fail("endpoints", "there is no endpoint, so there is nothing to receive", "add one, like: endpoints: [{name: acme, provider: mailgun, key_files: [/etc/blessd/keys/acme]}]; or start without a configuration file")
		return
	}
	first := make(map[string]int)
	for i, e := range v.Endpoints {
		path := fmt.Sprintf("endpoints[%d]", i)
		name := path + ".name"
		switch before, taken := first[e.Name]; {
		case e.Name == "":
			v.fail(name, "missing", "give the endpoint a name; it becomes part of its URL: /hooks/NAME")
		case !endpointName.MatchString(e.Name):
			v.fail(name, v.source.quote(name, e.Name)+" cannot be a name", "write 1 to 32 of the characters a-z, 0-9, _ and -")
		case e.Name == "unmatched":
			v.fail(name, `"unmatched" is what metrics call requests that belong to no endpoint`, "choose another name")
		case taken:
			p := fmt.Sprintf("endpoints[%d]", before)
			if m, ok := v.source.marks[p+".name"]; ok {
				p += fmt.Sprintf(" on line %d", m.line)
			}
			v.fail(name, v.source.quote(name, e.Name)+" is the name of "+p+" as well", "give each endpoint a name of its own")
		}
		if _, taken := first[e.Name]; !taken {
			first[e.Name] = i
		}
		v.endpoint(path, e)
	}
}

func (v *validator) endpoint(path string, e EndpointConfig) {
	if e.Provider == "" {
		v.fail(path+".provider", "missing", "write one of: "+strings.Join(receiver.Providers(), ", "))
		return
	}
	v.oneOf(path+".provider", e.Provider, receiver.Providers()...)
	at := settingsOf(e.Provider)
	if at < 0 {
		return
	}
	settings := providerSettings[at]
	for _, s := range []struct {
		key   string
		given bool
	}{
		{"auth", e.Auth != ""},
		{"key_files", len(e.KeyFiles) > 0},
		{"max_age", v.source.has(path + ".max_age")},
		{"parent_key_files", len(e.ParentKeyFiles) > 0},
		{"signature", e.Signature != ""},
		{"signature_variants", len(e.SignatureVariants) > 0},
	} {
		if s.given && !slices.Contains(settings.own, s.key) {
			v.fail(path+"."+s.key, e.Provider+" endpoints have no such setting", v.instead(s.key, e.Provider))
		}
	}
	if e.Auth != "" {
		v.oneOf(path+".auth", e.Auth, "none")
	}
	secured := len(e.TokenFiles) > 0 || e.BasicAuthFile != "" || v.unknown(path+".token_files", path+".basic_auth_file")
	switch {
	case settings.signs:
	case e.Auth == "none" && secured:
		v.fail(path+".auth", "none contradicts token_files and basic_auth_file", "take one of them away")
	case e.Auth == "none":
		v.warn(path+".auth", "none: whoever knows the name of this endpoint can make up events", "give it token_files")
	case !secured && !v.noFile && !v.unknown(path+".auth"):
		v.fail(path, e.Provider+" does not sign, and this endpoint has neither token_files nor basic_auth_file",
			"make a token, (umask 077; openssl rand -hex 16 > FILE), and add token_files: [FILE]; to believe everybody write auth: none")
	}
	if e.Signature != "" {
		v.oneOf(path+".signature", e.Signature, string(receiver.SignatureEnforce), string(receiver.SignatureReport))
	}
	if e.Signature == string(receiver.SignatureReport) && !secured {
		v.fail(path+".signature", "report accepts what is not signed right, and this endpoint has no other proof", "add token_files, or write signature: enforce")
	}
	for i, variant := range e.SignatureVariants {
		v.oneOf(fmt.Sprintf("%s.signature_variants[%d]", path, i), variant, receiver.Variants()...)
	}
	v.endpointURL(path, e, secured)
	if slices.Contains(settings.own, "max_age") {
		switch {
		case e.MaxAge <= 0:
			v.fail(path+".max_age", "no signature is that young", "leave it out for "+defaultMaxAge.String())
		case e.MaxAge < mailgunRetry:
			v.warn(path+".max_age", fmt.Sprintf("%s is less than the %s for which Mailgun tries again: late retries are refused", e.MaxAge, mailgunRetry), "leave it out for "+defaultMaxAge.String())
		}
	}
	if e.Manage != nil {
		v.manage(path, e.Provider, settings.manage, settings.events, *e.Manage)
		if settings.manage != nil {
			v.polling(path, e)
		}
	}
}

// instead says what to do about a setting that the provider does not take.
func (v *validator) instead(key, provider string) string {
	switch {
	case key == "key_files" && !signs(provider):
		return provider + " does not sign: use token_files"
	case key == "auth":
		return "take it away; without a key the endpoint awaits one, and nothing unsigned is believed"
	}
	return "take it away"
}

// endpointURL checks what a signature is computed over.
func (v *validator) endpointURL(path string, e EndpointConfig, secured bool) {
	if e.URL != "" {
		v.url(path+".url", e.URL, true)
		return
	}
	enforced := e.Signature == string(receiver.SignatureEnforce) || e.Signature == "" && !secured
	if signsURL(e.Provider) && enforced && v.PublicURL == "" && !v.noFile && !v.unknown("public_url", path+".url", path+".signature") {
		v.warn(path, fmt.Sprintf("%s signs over the URL that was registered, and there is no public_url: it is taken to be %s", e.Provider, v.publicURL("")+receiver.Path(e.Name, "")),
			"set public_url to what stands before /hooks at the provider, or every real delivery is refused")
	}
}

func (v *validator) manage(path, provider string, allowed, events []string, m ManageConfig) {
	path += ".manage"
	if allowed == nil {
		v.fail(path, provider+" has no API to manage webhooks with", "take it away, and register the URL by hand")
		return
	}
	for _, s := range []struct {
		key   string
		given bool
	}{
		{"app_domain", m.AppDomain != ""},
		{"owner_id_file", m.OwnerIDFile != ""},
		{"token_file", m.TokenFile != ""},
		{"events", len(m.Events) > 0},
		{"description", m.Description != ""},
		{"store_log", m.StoreLog},
		{"domain", m.Domain != ""},
		{"region", m.Region != ""},
		{"api_key_file", m.APIKeyFile != ""},
		{"base_url", m.BaseURL != ""},
		{"plain_http", m.PlainHTTP},
		{"lists", len(m.Lists) > 0},
		{"poll", m.Poll != 0},
		{"reconcile", m.Reconcile != ""},
	} {
		known := slices.Contains(allowed, s.key)
		switch {
		case s.given && !known:
			v.fail(join(path, s.key), provider+" has no such setting", "write any of: "+strings.Join(allowed, ", "))
		case !s.given && known && slices.Contains([]string{"api_key_file", "domain", "owner_id_file", "token_file"}, s.key):
			v.fail(join(path, s.key), "missing", "the API of "+provider+" needs it")
		}
	}
	for i, event := range m.Events {
		at := fmt.Sprintf("%s.events[%d]", path, i)
		if len(events) > 0 {
			v.oneOf(at, event, events...)
		}
		if slices.Contains(m.Events[:i], event) {
			v.fail(at, v.source.quote(at, event)+" is listed twice", "take one of the two away")
		}
	}
	for _, host := range []struct{ key, value string }{{"app_domain", m.AppDomain}, {"domain", m.Domain}} {
		if at := join(path, host.key); host.value != "" && !apiHost.MatchString(host.value) {
			v.fail(at, v.source.quote(at, host.value)+" is no host name", "write the host alone, without https://")
		}
	}
	if m.Region != "" {
		v.oneOf(path+".region", m.Region, "us", "eu")
	}
	v.manageAddress(path, provider, allowed, m)
	for i, list := range m.Lists {
		at := fmt.Sprintf("%s.lists[%d]", path, i)
		switch {
		case list < 0:
			v.fail(at, "no list has a number below 0", "write the list's id, or 0 for all lists")
		case slices.Contains(m.Lists[:i], list):
			v.fail(at, fmt.Sprintf("%d is listed twice", list), "take one of the two away")
		case list == 0 && len(m.Lists) > 1:
			v.warn(at, "0 stands for all lists, so that the events of the others come twice", "write 0 alone, or the others without it")
		}
	}
}

// polling checks how the provider is asked for its side.
func (v *validator) polling(path string, e EndpointConfig) {
	m, poll, reconcile := e.Manage, path+".manage.poll", path+".manage.reconcile"
	if m.Reconcile != "" {
		v.oneOf(reconcile, m.Reconcile, reconcileOff, reconcileReport, reconcileRepair)
	}
	active := m.Reconcile == reconcileReport || m.Reconcile == reconcileRepair
	switch {
	case active && m.Poll == 0 && !v.unknown(poll):
		v.fail(reconcile, "without poll nobody looks", "add poll, like poll: 15m")
	case m.Poll == 0:
		return
	case m.Poll < leastPoll:
		v.fail(poll, fmt.Sprintf("%s is less than the %s that providers' limits on calls allow", m.Poll, leastPoll), "write 1m or more, like 15m")
	case !active && !countsDeliveries(e.Provider) && !v.unknown(reconcile):
		v.fail(poll, e.Provider+" does not say how much it has delivered, so there is nothing to poll without reconcile", "add reconcile: repair, or take poll away")
	case m.Reconcile == reconcileReport && e.Provider == "vision6":
		v.fail(reconcile, "Vision6 can only be asked by registering again, which puts back what is gone", "write repair, or take it away")
	case v.PublicURL == "" && e.URL == "" && !v.noFile && !v.unknown("public_url", path+".url"):
		v.fail(poll, "there is no public_url, so which webhook is this endpoint's cannot be known", "set public_url to what stands before /hooks at the provider")
	}
}

// manageAddress checks where the API is.
func (v *validator) manageAddress(path, provider string, allowed []string, m ManageConfig) {
	base := path + ".base_url"
	if slices.Contains(allowed, "app_domain") {
		switch {
		case m.AppDomain == "" && m.BaseURL == "" && !v.unknown(path+".app_domain", base):
			v.fail(path+".app_domain", "missing", "the API of "+provider+" needs it, or a base_url: there is no address that all accounts share")
		case m.AppDomain != "" && m.BaseURL != "":
			v.fail(base, "given together with app_domain", "take one of them away")
		}
	}
	if m.Region != "" && m.BaseURL != "" {
		v.fail(base, "given together with region", "take one of them away")
	}
	if m.BaseURL == "" {
		if m.PlainHTTP {
			v.fail(path+".plain_http", "allows a base_url without TLS, and there is none", "take it away")
		}
		return
	}
	v.url(base, m.BaseURL, true)
	if scheme, _, _ := strings.Cut(m.BaseURL, "://"); strings.EqualFold(scheme, "http") && !v.found.about(base) {
		if !m.PlainHTTP && !v.unknown(path+".plain_http") {
			v.fail(base, "without TLS everybody on the way can read the credentials", "write https, or where there is none and the way is safe add plain_http: true")
		} else {
			v.warn(base, "without TLS: everybody on the way can read the credentials", "use https as soon as "+provider+" has it")
		}
	}
}

func (v *validator) nats() {
	n := v.NATS
	if v.externalNATS() {
		v.externalNATSOnly()
	} else {
		v.address("nats.embedded.listen", n.Embedded.Listen)
		if !loopbackOnly(n.Embedded.Listen) && n.Embedded.ConfigFile == "" {
			v.warn("nats.embedded.listen", "not on loopback: whoever reaches it reads every event without credentials", "listen on 127.0.0.1, or set up accounts and TLS in config_file")
		}
		v.readable("nats.embedded.config_file", n.Embedded.ConfigFile)
		for _, s := range []struct{ key, value string }{
			{"creds_file", n.CredsFile},
			{"nkey_file", n.NKeyFile},
			{"tls.ca_file", n.TLS.CAFile},
			{"tls.cert_file", n.TLS.CertFile},
			{"tls.key_file", n.TLS.KeyFile},
		} {
			if s.value != "" && !v.unknown("nats.url", "nats.context") {
				v.fail("nats."+s.key, "is for a server with nats.url, and blessd runs its own", "add nats.url; TLS of the embedded server goes into nats.embedded.config_file")
			}
		}
	}
	if !endpointName.MatchString(n.SubjectPrefix) {
		v.fail("nats.subject_prefix", v.source.quote("nats.subject_prefix", n.SubjectPrefix)+" cannot be one token of a subject", "write 1 to 32 of the characters a-z, 0-9, _ and -")
	}
	if len(n.CETypePrefix) > 64 || !ceTypePrefix.MatchString(n.CETypePrefix) {
		v.fail("nats.ce_type_prefix", v.source.quote("nats.ce_type_prefix", n.CETypePrefix)+" cannot begin a CloudEvents type", "write words of a-z and 0-9 with dots or dashes between, like blessd or com.example.mail")
	}
	v.streams()
}

func (v *validator) externalNATSOnly() {
	n := v.NATS
	switch {
	case v.source.has("nats.embedded"):
		v.fail("nats.embedded", "contradicts nats.url and nats.context: either blessd runs a server or it uses one", "take one of them away")
	case v.source.given["nats.embedded.listen"] != "":
		v.fail("nats.embedded.listen", "the configuration uses a NATS server that is not ours", "take it away, or take nats.url and nats.context away")
	}
	if n.URL != "" && n.Context != "" {
		v.fail("nats.context", "given together with nats.url", "take one of them away: a context has its own URL")
	}
	for _, s := range []struct{ key, value string }{
		{"creds_file", n.CredsFile},
		{"nkey_file", n.NKeyFile},
		{"tls.ca_file", n.TLS.CAFile},
		{"tls.cert_file", n.TLS.CertFile},
		{"tls.key_file", n.TLS.KeyFile},
	} {
		v.readable("nats."+s.key, s.value)
	}
	if n.CredsFile != "" && n.NKeyFile != "" {
		v.fail("nats.nkey_file", "given together with nats.creds_file", "take one of them away")
	}
	if (n.TLS.CertFile == "") != (n.TLS.KeyFile == "") {
		v.fail("nats.tls", "cert_file and key_file belong together", "give both or neither")
	}
	if n.Context != "" && !contextName.MatchString(n.Context) {
		v.fail("nats.context", v.source.quote("nats.context", n.Context)+" cannot be the name of a context", "write a name that `nats context ls` shows")
	}
	for server := range strings.SplitSeq(n.URL, ",") {
		server = strings.TrimSpace(server)
		if n.URL == "" {
			break
		}
		shown := strconv.Quote(publicPart(server))
		if v.source.marks["nats.url"].fromEnv {
			shown = "a server"
		}
		if !strings.Contains(server, "://") {
			server = "nats://" + server
		}
		u, err := url.Parse(server)
		switch {
		case err != nil || u.Hostname() == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) || strings.Trim(u.Path, "/") != "":
			v.fail("nats.url", shown+" is no NATS URL", "write nats://host:4222 or tls://host:4222, several with commas between")
		case u.User != nil:
			v.fail("nats.url", shown+" has a secret in it", "take it out, and use creds_file, nkey_file or a context")
		}
	}
}

func (v *validator) streams() {
	s, q := v.NATS.Stream, v.NATS.Quarantine
	for _, n := range []struct{ path, name string }{{"nats.stream.name", s.Name}, {"nats.quarantine.name", q.Name}} {
		if !streamName.MatchString(n.name) {
			v.fail(n.path, v.source.quote(n.path, n.name)+" cannot be the name of a stream", "write 1 to 64 of the characters A-Z, a-z, 0-9, _ and -")
		}
	}
	if s.Name == q.Name {
		v.fail("nats.quarantine.name", "the same as nats.stream.name", "give each stream a name of its own")
	}
	for _, size := range []struct {
		path string
		size Size
	}{{"nats.stream.max_bytes", s.MaxBytes}, {"nats.quarantine.max_bytes", q.MaxBytes}} {
		v.notZero(size.path, size.size)
	}
	switch {
	case s.DuplicateWindow < minimumWindow:
		v.fail("nats.stream.duplicate_window", fmt.Sprintf("%s is too short: the server wants %s at least", s.DuplicateWindow, minimumWindow), "leave it out for 10m")
	case s.MaxAge > 0 && s.DuplicateWindow > s.MaxAge && !v.unknown("nats.stream.max_age"):
		v.fail("nats.stream.duplicate_window", fmt.Sprintf("%s is longer than max_age, %s, which the server does not take", s.DuplicateWindow, s.MaxAge), "make it shorter")
	}
	switch {
	case s.Replicas < 1 || s.Replicas > maxReplicas:
		v.fail("nats.stream.replicas", fmt.Sprintf("%d is not from 1 to %d", s.Replicas, maxReplicas), "write 1, or 3 or 5 on a cluster")
	case s.Replicas > 1 && !v.externalNATS() && v.NATS.Embedded.ConfigFile == "" && !v.unknown("nats.url", "nats.context", "nats.embedded.config_file"):
		v.fail("nats.stream.replicas", fmt.Sprintf("%d replicas need a cluster, and the embedded server is alone", s.Replicas), "write 1, use nats.url, or set up a cluster in nats.embedded.config_file")
	}
	v.oneOf("nats.stream.when_full", s.WhenFull, "expire", "refuse")
}

// notZero demands a size that was given to be one.
func (v *validator) notZero(path string, size Size) {
	if size == 0 && v.source.has(path) {
		v.fail(path, "0 leaves no room for anything", "leave it out, and blessd chooses by the disk's free space")
	}
}

func (v *validator) limits() {
	l := v.Limits
	switch {
	case l.MaxBody <= 0:
		v.fail("limits.max_body", "0 lets nothing in", "leave it out for 8MiB")
	case l.MaxBody > maxBodyLimit:
		v.fail("limits.max_body", fmt.Sprintf("%s is more than the %s that blessd can take", l.MaxBody, maxBodyLimit), "leave it out for 8MiB")
	case l.MaxInFlightBytes < l.MaxBody && !v.unknown("limits.max_body"):
		v.fail("limits.max_in_flight_bytes", fmt.Sprintf("%s is less than limits.max_body, %s: the largest bodies would never get in", l.MaxInFlightBytes, l.MaxBody), "make it several times max_body")
	}
	v.notZero("journal.max_bytes", v.Journal.MaxBytes)
	if v.source.has("journal.max_bytes") && v.Journal.MaxBytes > 0 && v.Journal.MaxBytes < 2*l.MaxBody && !v.unknown("limits.max_body") && !v.found.about("limits.max_body") {
		v.warn("journal.max_bytes", fmt.Sprintf("%s is less than two bodies of limits.max_body, %s", v.Journal.MaxBytes, l.MaxBody), "make it larger: it is what keeps requests while NATS is away")
	}
}
