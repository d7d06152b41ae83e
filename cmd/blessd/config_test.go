package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/blessd/blessd/receiver"
)

// envOf is an environment with these variables alone, and a home.
func envOf(pairs ...string) func(string) (string, bool) {
	m := map[string]string{"HOME": "/nonexistent/home"}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) (string, bool) {
		v, ok := m[name]
		return v, ok
	}
}

// write makes a file of mode 0600 in a directory.
func write(t *testing.T, dir, name, content string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// load loads a configuration text and fails the test on a problem.
func load(t *testing.T, text string, env func(string) (string, bool)) *Config {
	t.Helper()
	c, err := loadConfig(write(t, t.TempDir(), "blessd.yaml", text), env)
	if err != nil {
		t.Fatalf("load:\n%v\nof:\n%s", err, text)
	}
	return c
}

// badConfig is a file in testdata/config with one mistake: where the problem is and
// what is said about it.
type badConfig struct {
	file    string
	line    int
	message string // the beginning
	mend    string // a part
}

var badConfigs = []badConfig{
	{"alias-unknown", 3, `endpoints: an alias without its anchor`, "&anchor"},
	{"auth-contradicts-token", 5, `endpoints[0].auth: none contradicts token_files and basic_auth_file`, "take one"},
	{"auth-signing-provider", 4, `endpoints[0].auth: mailgun endpoints have no such setting`, "nothing unsigned is believed"},
	{"auth-unknown", 4, `endpoints[0].auth: "nome" is not known; did you mean "none"?`, "none"},
	{"boolean", 6, `endpoints[0].manage.store_log: "yes" is neither true nor false`, ""},
	{"ce-prefix", 5, `nats.ce_type_prefix: "Acme Mail" cannot begin a CloudEvents type`, "com.example.mail"},
	{"control-character", 2, `endpoints[0].name: has a line break or another control character in it`, "one line"},
	{"duplicate-key", 4, `listen: given twice, before on line 1`, "keep one"},
	{"duplicate-name", 4, `endpoints[2].name: "acme" is the name of endpoints[0] on line 2 as well`, "of its own"},
	{"empty", 0, `endpoints: there is no endpoint, so there is nothing to receive`, "without a configuration file"},
	{"empty-entry", 4, `endpoints[0].key_files[0]: an empty entry`, "take the entry away"},
	{"enkod-keys", 4, `endpoints[0].key_files: enkod endpoints have no such setting`, "use token_files"},
	{"enkod-open", 3, `endpoints[0]: enkod does not sign, and this endpoint has neither token_files nor basic_auth_file`, "auth: none"},
	{"list-scalar", 4, `endpoints[0].key_files: is one value, and must be a list`, "key_files: [VALUE]"},
	{"listen-name", 1, `listen: "localhost" is no address`, "host:port"},
	{"listen-port", 1, `listen: "127.0.0.1:http" has no port from 0 to 65535`, "host:port"},
	{"listen-range", 2, `admin.listen: ":65536" has no port from 0 to 65535`, "host:port"},
	{"listen-same", 2, `admin.listen: the same address as listen`, "port of its own"},
	{"log-level", 4, `log.level: "debgu" is not known; did you mean "debug"?`, "debug, info, warn, error"},
	{"manage-enkod", 5, `endpoints[0].manage: enkod has no API to manage webhooks with`, "by hand"},
	{"manage-event", 8, `endpoints[0].manage.events[1]: "opn" is not known; did you mean "open"?`, "hard_bounce"},
	{"manage-event-twice", 6, `endpoints[0].manage.events[1]: "clicked" is listed twice`, "take one"},
	{"manage-foreign", 7, `endpoints[0].manage.domain: sendclean has no such setting`, "app_domain"},
	{"manage-list-twice", 7, `endpoints[0].manage.lists[1]: 17 is listed twice`, "take one"},
	{"manage-missing", 4, `endpoints[0].manage.api_key_file: missing`, "needs it"},
	{"manage-no-address", 4, `endpoints[0].manage.app_domain: missing`, "base_url"},
	{"manage-pair", 6, `endpoints[0].manage.events[1]: "list.subscribed" is not known`, "contact.subscribed"},
	{"manage-plain-http", 5, `endpoints[0].manage.base_url: without TLS everybody on the way can read the credentials`, "plain_http: true"},
	{"manage-plain-http-without-url", 6, `endpoints[0].manage.plain_http: allows a base_url without TLS, and there is none`, "take it away"},
	{"manage-poll-no-public-url", 8, `endpoints[0].manage.poll: there is no public_url`, "set public_url"},
	{"manage-poll-nothing", 8, `endpoints[0].manage.poll: mailgun does not say how much it has delivered`, "reconcile: repair"},
	{"manage-poll-short", 9, `endpoints[0].manage.poll: 10s is less than the 1m that providers' limits on calls allow`, "15m"},
	{"manage-reconcile-unknown", 8, `endpoints[0].manage.reconcile: "reppair" is not known; did you mean "repair"?`, "report"},
	{"manage-reconcile-vision6", 9, `endpoints[0].manage.reconcile: Vision6 can only be asked by registering again`, "write repair"},
	{"manage-reconcile-without-poll", 8, `endpoints[0].manage.reconcile: without poll nobody looks`, "poll: 15m"},
	{"manage-region-and-address", 7, `endpoints[0].manage.base_url: given together with region`, "take one"},
	{"manage-two-addresses", 6, `endpoints[0].manage.base_url: given together with app_domain`, "take one"},
	{"map-scalar", 1, `limits: is one value, and must be settings with names`, "max_body"},
	{"max-age", 4, `endpoints[0].max_age: "12 hours" is no duration`, ""},
	{"max-age-enkod", 4, `endpoints[0].max_age: enkod endpoints have no such setting`, "take it away"},
	{"merge", 5, `endpoints[1]: merging with << is not supported`, "write the settings out"},
	{"name-bad", 2, `endpoints[0].name: "Acme GmbH" cannot be a name`, "a-z, 0-9, _ and -"},
	{"name-missing", 2, `endpoints[0].name: missing`, "/hooks/NAME"},
	{"name-unmatched", 2, `endpoints[0].name: "unmatched" is what metrics call`, "another name"},
	{"nats-both", 4, `nats.embedded: contradicts nats.url and nats.context`, "one of them"},
	{"nats-context-url", 5, `nats.context: given together with nats.url`, "one of them"},
	{"nats-creds-embedded", 4, `nats.creds_file: is for a server with nats.url`, "add nats.url"},
	{"nats-creds-missing", 5, `nats.creds_file: file /nonexistent/creds: stat: no such file or directory`, "correct the path"},
	{"nats-tls-half", 5, `nats.tls: cert_file and key_file belong together`, "both or neither"},
	{"nats-url", 4, `nats.url: "http://n2:80" is no NATS URL`, "nats://host:4222"},
	{"nats-url-password", 4, `nats.url: "nats://...@n1:4222" has a secret in it`, "creds_file"},
	{"prefix", 4, `nats.subject_prefix: "mail.prod" cannot be one token of a subject`, "a-z, 0-9, _ and -"},
	{"provider-missing", 2, `endpoints[0].provider: missing`, "enkod, mailgun, sarv, sendclean, vision6"},
	{"provider-unknown", 3, `endpoints[0].provider: "sendcleam" is not known; did you mean "sendclean"?`, "enkod, mailgun, sarv, sendclean, vision6"},
	{"public-url", 1, `public_url: "hooks.example.com" is no http or https URL`, "https://hooks.example.com"},
	{"public-url-hook", 1, `public_url: "https://example.com/hooks/acme" has /hooks in it`, "leave out /hooks"},
	{"public-url-hooks", 1, `public_url: "https://example.com/hooks" has /hooks in it`, "leave out /hooks"},
	{"public-url-query", 1, `public_url: "https://example.com/?..." has a query`, "without /hooks"},
	{"quarantine-name", 5, `nats.quarantine.name: the same as nats.stream.name`, "of its own"},
	{"replicas", 4, `nats.stream.replicas: 3 replicas need a cluster`, "write 1"},
	{"replicas-word", 4, `nats.stream.replicas: "many" is no whole number`, ""},
	{"report-open", 5, `endpoints[0].signature: report accepts what is not signed right`, "token_files"},
	{"second-document", 3, `a second YAML document`, "one document"},
	{"secret-inline", 4, `endpoints[0]: unknown key "token"; did you mean "token_files"?`, "secrets do not stand here"},
	{"signature", 5, `endpoints[0].signature: "enforced" is not known; did you mean "enforce"?`, "enforce, report"},
	{"size-overflow", 4, `limits.max_body: "99999999TiB" is size too large`, ""},
	{"size-unit", 4, `limits.max_body: "8 megs" is no size`, ""},
	{"size-zero", 4, `journal.max_bytes: 0 leaves no room for anything`, "free space"},
	{"sizes-order", 4, `limits.max_in_flight_bytes: 1MiB is less than limits.max_body, 8MiB`, "several times"},
	{"stream-name", 4, `nats.stream.name: "MAIL EVENTS" cannot be the name of a stream`, "A-Z"},
	{"syntax-bracket", 4, `not valid YAML`, "brackets"},
	{"syntax-indent", 3, `not valid YAML`, "indentation"},
	{"syntax-tab", 3, `not valid YAML`, "spaces only"},
	{"tag", 1, `listen: a tag of no meaning here`, "! word"},
	{"unknown-key", 5, `unknown key "limit"; did you mean "limits"?`, "journal"},
	{"unknown-nested", 5, `nats.stream: unknown key "max_size"`, "max_bytes"},
	{"url-fragment", 4, `endpoints[0].url: "https://h.example/hooks/a?..." has a # part`, "take it away"},
	{"variable-form", 1, `listen: unknown form of ${...}`, ""},
	{"variable-open", 1, `listen: ${ without its }`, ""},
	{"variable-required", 1, `listen: the environment variable BLESSD_TEST_ADDRESS is not set or empty: the address of this machine`, ""},
	{"variable-unquoted", 3, `not valid YAML`, "quote a value with ${...}"},
	{"variable-unset", 1, `listen: the environment variable BLESSD_TEST_ADDRESS is not set`, ""},
	{"variants", 5, `endpoints[0].signature_variants[0]: "fields-base46" is not known; did you mean "fields-base64"?`, "body-hex"},
	{"when-full", 4, `nats.stream.when_full: "reject" is not known`, "expire, refuse"},
	{"window", 4, `nats.stream.duplicate_window: 1h is longer than max_age, 30m`, "shorter"},
}

func TestBadConfigs(t *testing.T) {
	named := make(map[string]bool)
	for _, test := range badConfigs {
		named[test.file+".yaml"] = true
		t.Run(test.file, func(t *testing.T) {
			file := filepath.Join("testdata", "config", test.file+".yaml")
			_, err := loadConfig(file, envOf())
			found, ok := errors.AsType[problems](err)
			if !ok {
				t.Fatalf("got %v (%T), want problems", err, err)
			}
			if len(found) != 1 {
				t.Fatalf("got %d problems, want one:\n%v", len(found), found)
			}
			p := found[0]
			head := p.head()
			want := file + ": " + test.message
			if test.line > 0 {
				want = fmt.Sprintf("%s:%d: %s", file, test.line, test.message)
			}
			if !strings.HasPrefix(head, want) {
				t.Errorf("got  %s\nwant %s...", head, want)
			}
			if p.Line != test.line {
				t.Errorf("got line %d, want %d", p.Line, test.line)
			}
			if (test.line > 0) != strings.HasPrefix(p.Excerpt, fmt.Sprintf("%5d | ", test.line)) {
				t.Errorf("the excerpt is not of line %d:\n%s", test.line, p.Excerpt)
			}
			if !strings.Contains(p.Mend, test.mend) {
				t.Errorf("got the mend %q, want it to say %q", p.Mend, test.mend)
			}
		})
	}
	files, err := os.ReadDir(filepath.Join("testdata", "config"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !named[f.Name()] {
			t.Errorf("testdata/config/%s is in no test", f.Name())
		}
	}
	if !slices.IsSortedFunc(badConfigs, func(a, b badConfig) int { return strings.Compare(a.file, b.file) }) {
		t.Error("badConfigs is not sorted")
	}
}

func TestAllProblemsAtOnce(t *testing.T) {
	file := write(t, t.TempDir(), "blessd.yaml", `listen: nowhere
endpoints:
  - {name: a b, provider: mailgum, key_fils: [/x]}
limits: {max_body: 8q}
log: {level: loud}
`)
	_, err := loadConfig(file, envOf("BLESSD_ADMIN_LISTEN", "x"))
	if err == nil {
		t.Fatal("got no error")
	}
	for _, want := range []string{
		":1: listen: ", ":3: endpoints[0].name: ", `did you mean "mailgun"?`, `did you mean "key_files"?`,
		":4: limits.max_body: ", ":5: log.level: ", "environment variable BLESSD_ADMIN_LISTEN: admin.listen: ",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in:\n%v", want, err)
		}
	}
}

// example is the file that operators begin with.
const example = "../../deploy/blessd.yaml"

func TestExample(t *testing.T) {
	c, err := loadConfig(example, envOf())
	if err != nil {
		t.Fatal(err)
	}
	if len(c.warnings) > 0 {
		t.Errorf("the example has warnings:\n%v", c.warnings)
	}
	if got := len(c.Endpoints); got != 4 {
		t.Errorf("got %d endpoints, want 4", got)
	}
	data, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range allKeys(reflect.TypeFor[Config]()) {
		if !regexp.MustCompile(`(?m)(^|[ {#])` + key + `:( |$)`).Match(data) {
			t.Errorf("key %s does not occur in %s", key, example)
		}
	}
}

// TestExampleShowsDefaults loads the example without what has no default and
// compares it with an empty one.
func TestExampleShowsDefaults(t *testing.T) {
	c, err := loadConfig(example, envOf())
	if err != nil {
		t.Fatal(err)
	}
	want := defaultConfig()
	want.Endpoints, want.PublicURL, want.DataDir = c.Endpoints, c.PublicURL, c.DataDir
	want.Journal.MaxBytes, want.NATS.Stream.MaxBytes, want.NATS.Quarantine.MaxBytes = 10*GiB, 10*GiB, GiB
	if got, want := text(t, c), text(t, want); got != want {
		t.Errorf("the example differs from the defaults: got\n%s\nwant\n%s", got, want)
	}
}

// text writes a configuration as YAML.
func text(t *testing.T, c *Config) string {
	t.Helper()
	b, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestRoundTrip(t *testing.T) {
	c, err := loadConfig(example, envOf())
	if err != nil {
		t.Fatal(err)
	}
	first := text(t, c)
	// max_age belongs to Mailgun: where it is zero it was not given.
	again := load(t, strings.ReplaceAll(first, "  max_age: 0s\n", ""), envOf())
	if second := text(t, again); second != first {
		t.Errorf("got\n%s\nwant\n%s", second, first)
	}
}

// TestContract is the file of the design, which scripts outside rely on.
func TestContract(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"acme", "acme.owner", "acme.api", "eu", "eu.api", "v6.api"} {
		write(t, dir, name, "secret of "+strings.ReplaceAll(name, ".", " ")+"\n")
	}
	write(t, dir, "ru.token", "ru-0123456789abcdefghijklmno\n")
	write(t, dir, "v6.token", "v6-0123456789abcdefghijklmno\r\n")
	c := load(t, strings.ReplaceAll(`
listen: 127.0.0.1:8080                       # the public listener
public_url: https://hooks.example.com
admin: {listen: 127.0.0.1:8081, web_config_file: ""}
data_dir: DIR/blessd-data
acknowledge: journal
endpoints:
  - name: acme
    provider: sendclean
    key_files: [DIR/acme]
    signature: enforce
    token_files: []
    url: ""
    manage: {app_domain: us1.example.net, owner_id_file: DIR/acme.owner, token_file: DIR/acme.api, events: [send, open, click, soft_bounce, hard_bounce, spam], description: our hook, store_log: true}
  - {name: eu, provider: mailgun, key_files: [DIR/eu], parent_key_files: [], max_age: 12h, manage: {domain: mg.example.com, region: eu, api_key_file: DIR/eu.api}}
  - {name: ru, provider: enkod, token_files: [DIR/ru.token], basic_auth_file: ""}
  - {name: v6, provider: vision6, token_files: [DIR/v6.token], manage: {base_url: "https://www.vision6.com.au/api/jsonrpcserver?version=3.3", api_key_file: DIR/v6.api, lists: [0]}}
nats:
  embedded: {listen: 127.0.0.1:4222, config_file: ""}
  subject_prefix: mail
  ce_type_prefix: blessd
  stream: {name: MAIL_EVENTS, max_age: 30d, max_bytes: 10GiB, duplicate_window: 10m, replicas: 1, when_full: expire}
  quarantine: {name: MAIL_QUARANTINE, max_age: 90d, max_bytes: 1GiB}
limits: {max_body: 8MiB, max_in_flight_bytes: 64MiB}
journal: {max_bytes: 10GiB}
unverified: {max_bytes: 0}
log: {level: info, format: auto}
`, "DIR", dir), envOf())
	if got, want := time.Duration(c.NATS.Stream.MaxAge), 30*24*time.Hour; got != want {
		t.Errorf("stream.max_age: got %v, want %v", got, want)
	}
	if got := c.Unverified.MaxBytes; got != 0 {
		t.Errorf("unverified.max_bytes: got %v, want 0", got)
	}
	if m := c.Endpoints[0].Manage; m == nil || !m.StoreLog || len(m.Events) != 6 {
		t.Errorf("manage of acme: got %+v", m)
	}
	endpoints, err := c.receiverEndpoints("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.keyWarnings) > 0 {
		t.Errorf("got warnings:\n%v", c.keyWarnings)
	}
	if got, want := string(endpoints[0].Keys[0].Value), "secret of acme"; got != want {
		t.Errorf("key of acme: got %q, want %q", got, want)
	}
	if got, want := endpoints[0].URL, "https://hooks.example.com/hooks/acme"; got != want {
		t.Errorf("URL of acme: got %q, want %q", got, want)
	}
	if got, want := string(endpoints[3].Tokens[0].Value), "v6-0123456789abcdefghijklmno"; got != want {
		t.Errorf("token of v6: got %q, want %q", got, want)
	}
	if got, want := endpoints[1].MaxAge, 12*time.Hour; got != want {
		t.Errorf("max_age of eu: got %v, want %v", got, want)
	}
}

// TestProviders: the receiver's table decides which providers there are.
func TestProviders(t *testing.T) {
	var names []string
	for _, p := range providerSettings {
		names = append(names, p.name)
		for _, list := range [][]string{p.own, p.manage, p.events} {
			if !slices.IsSorted(list) {
				t.Errorf("%s: %q is not sorted", p.name, list)
			}
		}
		keys, _ := keysOf(reflect.TypeFor[EndpointConfig]())
		for _, key := range p.own {
			if !slices.Contains(keys, key) {
				t.Errorf("%s: endpoints have no key %s", p.name, key)
			}
		}
		keys, _ = keysOf(reflect.TypeFor[ManageConfig]())
		for _, key := range p.manage {
			if !slices.Contains(keys, key) {
				t.Errorf("%s: manage has no key %s", p.name, key)
			}
		}
	}
	if want := receiver.Providers(); !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
	if !slices.IsSorted(secretWords) {
		t.Error("secretWords is not sorted")
	}
}

func TestPrecedence(t *testing.T) {
	file := write(t, t.TempDir(), "blessd.yaml", "listen: 127.0.0.1:1\nadmin: {listen: 127.0.0.1:2}\ndata_dir: /file\n"+
		"endpoints: [{name: a, provider: enkod, auth: none}]\n")
	var o overrides
	cmd := &cobra.Command{Use: "serve", RunE: func(*cobra.Command, []string) error { return nil }}
	o.bind(cmd)
	cmd.SetArgs([]string{"--listen", "127.0.0.1:9"})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	c, err := o.load(envOf("BLESSD_CONFIG", file, "BLESSD_LISTEN", "127.0.0.1:8", "BLESSD_ADMIN_LISTEN", "127.0.0.1:7", "BLESSD_NATS_LISTEN", "127.0.0.1:6", "BLESSD_PUBLIC_URL", "https://env.example"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []struct{ what, got, want string }{
		{"flag over environment and file", c.Listen, "127.0.0.1:9"},
		{"environment over file", c.Admin.Listen, "127.0.0.1:7"},
		{"file over default", c.DataDir, "/file"},
		{"environment over default", c.NATS.Embedded.Listen, "127.0.0.1:6"},
		{"environment over nothing", c.PublicURL, "https://env.example"},
		{"default", c.NATS.SubjectPrefix, "mail"},
	} {
		if s.got != s.want {
			t.Errorf("%s: got %s, want %s", s.what, s.got, s.want)
		}
	}
	o.NATSListen = "nowhere"
	if _, err := o.load(envOf("BLESSD_CONFIG", file)); err == nil || !strings.Contains(err.Error(), "flag --nats-listen: nats.embedded.listen: \"nowhere\" is no address") {
		t.Errorf("a bad flag: got %v", err)
	}
}

func TestNoSuchFile(t *testing.T) {
	for _, file := range []string{"/nonexistent/blessd.yaml", t.TempDir()} {
		c, err := loadConfig(file, envOf())
		if c != nil || err == nil || !strings.HasPrefix(err.Error(), file+": read the configuration: ") {
			t.Errorf("%s: got %v, %v", file, c, err)
		}
	}
}

func TestDefaultDataDir(t *testing.T) {
	if info, err := os.Stat(systemDataDir); err == nil && info.IsDir() {
		t.Skip("this machine has " + systemDataDir)
	}
	for _, test := range []struct {
		env  func(string) (string, bool)
		want string
	}{
		{envOf("XDG_STATE_HOME", "/state"), "/state/blessd"},
		{envOf("XDG_STATE_HOME", "relative"), "/nonexistent/home/.local/state/blessd"},
		{envOf(), "/nonexistent/home/.local/state/blessd"},
		{envOf("HOME", ""), ""},
	} {
		if got, err := defaultDataDir(test.env); got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("got %q, %v, want %q", got, err, test.want)
		}
	}
}

func TestInterpolate(t *testing.T) {
	env := envOf("A", "1", "EMPTY", "", "TRICK", "${A}: [x]\n$$", "_B9", "b")
	for _, test := range []struct{ in, want, err string }{
		{"plain", "plain", ""},
		{"${A}", "1", ""},
		{"x${A}${A}y", "x11y", ""},
		{"${_B9}", "b", ""},
		{"$$", "$", ""},
		{"$${A}", "${A}", ""},
		{"$$${A}", "$1", ""},
		{"$A and $", "$A and $", ""},
		{"${EMPTY}", "", ""},
		{"${EMPTY:-default}", "default", ""},
		{"${NONE:-}", "", ""},
		{"${NONE:-a:-b:?c$}", "a:-b:?c$", ""},
		{"${A:-default}", "1", ""},
		{"${A:?text}", "1", ""},
		{"${TRICK}", "${A}: [x]\n$$", ""},
		{"${NONE}", "", "the environment variable NONE is not set"},
		{"${EMPTY:?it is the port}", "", "EMPTY is not set or empty: it is the port"},
		{"${NONE:?}", "", "NONE is not set or empty: it must be set"},
		{"${A", "", "without its }"},
		{"${}", "", "needs the name of a variable"},
		{"${9A}", "", "needs the name of a variable"},
		{"${A B}", "", "needs the name of a variable"},
		{"${A:+x}", "", "unknown form"},
		{"${A:}", "", "unknown form"},
	} {
		got, err := interpolate(test.in, env)
		if got != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%s: got %q, %v, want %q, %q", test.in, got, err, test.want, test.err)
		}
	}
}

// TestInterpolationInjectsNothing: a variable's value is a value, whatever it looks
// like, and is not repeated in messages.
func TestInterpolationInjectsNothing(t *testing.T) {
	c := load(t, "endpoints: [{name: a, provider: enkod, auth: none}]\nnats: {stream: {max_bytes: \"${SIZE}\", replicas: \"${N:-1}\"}}\ndata_dir: ${DIR}\n",
		envOf("SIZE", "3GiB", "DIR", "/x #y: {z}"))
	if c.NATS.Stream.MaxBytes != 3*GiB || c.NATS.Stream.Replicas != 1 || c.DataDir != "/x #y: {z}" {
		t.Errorf("got %v, %d, %q", c.NATS.Stream.MaxBytes, c.NATS.Stream.Replicas, c.DataDir)
	}
	file := write(t, t.TempDir(), "blessd.yaml", "listen: ${L}\npublic_url: ${L}\nlog: {level: \"${L}\"}\nlimits: {max_body: \"${L}\"}\nnats: {subject_prefix: \"${L}\", url: \"${L}\"}\nendpoints: [{name: \"${L}\", provider: \"${L}\"}]\n")
	_, err := loadConfig(file, envOf("L", "canary value\nlisten: x"))
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("got %v", err)
	}
	_, err = loadConfig(file, envOf("L", "canary value"))
	if err == nil || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), `the value of "${L}"`) {
		t.Errorf("got %v", err)
	}
}

func TestUnits(t *testing.T) {
	for in, want := range map[string]Size{
		"0": 0, "1": 1, "512B": 512, "8KiB": 8192, "10GiB": 10 << 30, "1 TiB": 1 << 40, "3kB": 3000, "5MB": 5e6, "2GB": 2e9, "1TB": 1e12, "8388607TiB": 8388607 << 40,
	} {
		var got Size
		if err := got.UnmarshalText([]byte(in)); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", in, got, err, want)
		}
		var again Size
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Errorf("%s: %s came back as %d, %v", in, got, again, err)
		}
	}
	for _, in := range []string{"", "GiB", "-1", "1.5GiB", "1e3", "10 gib", "10G", "8388608TiB", "99999999999999999999", "0x10", "1_000", "+5"} {
		var got Size
		if err := got.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("size %q: got %d, want an error", in, got)
		}
	}
	for in, want := range map[string]time.Duration{
		"0": 0, "500ms": 500 * time.Millisecond, "90s": 90 * time.Second, "12h": 12 * time.Hour, "30d": 720 * time.Hour, "1d12h": 36 * time.Hour, "1w": 168 * time.Hour,
	} {
		var got Duration
		if err := got.UnmarshalText([]byte(in)); err != nil || time.Duration(got) != want {
			t.Errorf("%s: got %v, %v, want %v", in, got, err, want)
		}
		var again Duration
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Errorf("%s: %s came back as %v, %v", in, got, again, err)
		}
	}
	for _, in := range []string{"", "30", "-1h", "1.5h", "1h1d", "h", "99999999999d"} {
		var got Duration
		if err := got.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("duration %q: got %v, want an error", in, got)
		}
	}
	for size, want := range map[Size]string{0: "0 B", 1023: "1023 B", 1536: "1.5 KiB", 10 * GiB: "10.0 GiB"} {
		if got := size.approximate(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestSizes(t *testing.T) {
	space := func(free Size) func(string) (Size, error) {
		return func(string) (Size, error) { return free, nil }
	}
	dir := t.TempDir()
	start := func(free Size) *Config {
		c := firstRunConfig()
		c.DataDir = dir
		if err := c.chooseSizes(space(free)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := start(1000 * GiB)
	if c.Journal.MaxBytes != 10*GiB || c.NATS.Stream.MaxBytes != 10*GiB || c.NATS.Quarantine.MaxBytes != GiB {
		t.Errorf("on a large disk: got %v, %v, %v", c.Journal.MaxBytes, c.NATS.Stream.MaxBytes, c.NATS.Quarantine.MaxBytes)
	}
	if len(c.chosen) != 3 {
		t.Errorf("chosen: %v", c.chosen)
	}
	c = start(5000*MiB + spareBytes)
	if c.Journal.MaxBytes != 1000*MiB || c.NATS.Stream.MaxBytes != 2000*MiB || c.NATS.Quarantine.MaxBytes != 500*MiB || len(c.computed) != 3 {
		t.Errorf("on a small disk: got %v, %v, %v", c.Journal.MaxBytes, c.NATS.Stream.MaxBytes, c.NATS.Quarantine.MaxBytes)
	}
	if err := c.rememberSizes(); err != nil {
		t.Fatal(err)
	}
	if c = start(10 * MiB); len(c.chosen) != 0 || len(c.computed) != 3 {
		t.Errorf("after a restart: %v are new", c.chosen)
	}
	if c.Journal.MaxBytes != 1000*MiB || c.NATS.Quarantine.MaxBytes != 500*MiB {
		t.Errorf("after a restart: got %v, %v", c.Journal.MaxBytes, c.NATS.Quarantine.MaxBytes)
	}

	// What was given stays, what an external server keeps has nothing to do with us.
	given := load(t, "data_dir: "+dir+"\njournal: {max_bytes: 3MiB}\nnats: {context: prod}\nlimits: {max_body: 1MiB}\nendpoints: [{name: a, provider: enkod, auth: none}]\n", envOf())
	if given.Journal.MaxBytes != 3*MiB || given.NATS.Stream.MaxBytes != 10*GiB || given.NATS.Quarantine.MaxBytes != GiB || len(given.computed) != 0 {
		t.Errorf("given: got %v, %v, %v", given.Journal.MaxBytes, given.NATS.Stream.MaxBytes, given.NATS.Quarantine.MaxBytes)
	}

	for _, test := range []struct {
		free Size
		fits bool
	}{{4000 * MiB, true}, {3700 * MiB, false}, {0, false}} {
		// 1000 + 2000 + 500 MiB, 64 MiB unverified, and 256 MiB stay free.
		if found := c.diskProblems(space(test.free)); (len(found) == 0) != test.fits {
			t.Errorf("%v free: got %v", test.free, found)
		} else if len(found) > 0 && (!found[0].Warning || found[0].Path != "data_dir") {
			t.Errorf("%v free and nothing given: got %+v, want a warning about data_dir", test.free, found[0])
		}
	}
	// What blessd chooses fits, unless the disk is all but full.
	for _, free := range []Size{500 * MiB, 600 * MiB, GiB, 20 * GiB, 25 * GiB, TiB} {
		empty := firstRunWith(t.TempDir())
		if err := empty.chooseSizes(space(free)); err != nil {
			t.Fatal(err)
		}
		if found := empty.diskProblems(space(free)); len(found) > 0 {
			t.Errorf("%v free: chose what does not fit: %v", free, found)
		}
	}
	// Sizes that were given and do not fit by themselves are wrong.
	wrong := load(t, "data_dir: "+dir+"\njournal: {max_bytes: 3GiB}\nendpoints: [{name: a, provider: enkod, auth: none}]\n", envOf())
	if found := wrong.diskProblems(space(2 * GiB)); len(found) != 1 || found[0].Warning || found[0].Path != "journal.max_bytes" || found[0].Line != 2 {
		t.Errorf("a journal of 3GiB on 2GiB: got %+v", found)
	}
	if found := wrong.diskProblems(space(4 * GiB)); len(found) != 1 || !found[0].Warning || found[0].Line != 1 {
		t.Errorf("a journal of 3GiB on 4GiB, and streams: got %+v", found)
	}
	c.NATS.Stream.MaxBytes, c.Journal.MaxBytes = 1<<62, 1<<62
	if found := c.diskProblems(space(1 << 50)); len(found) == 0 {
		t.Error("a sum beyond 63 bits fits")
	}

	write(t, dir, sizesFile, "{")
	if err := firstRunWith(dir).chooseSizes(space(GiB)); err == nil || !strings.Contains(err.Error(), "delete it") {
		t.Errorf("a damaged sizes.json: got %v", err)
	}
	if free, err := freeBytes(filepath.Join(t.TempDir(), "not", "there")); err != nil || free <= 0 {
		t.Errorf("free bytes: got %v, %v", free, err)
	}
}

func firstRunWith(dir string) *Config {
	c := firstRunConfig()
	c.DataDir = dir
	return c
}

// keysConfig has an endpoint of each kind whose secrets are read from dir.
func keysConfig(dir string) string {
	return strings.ReplaceAll(`
data_dir: DIR/data
public_url: https://hooks.example.com/
endpoints:
  - {name: s, provider: sendclean, key_files: [DIR/key]}
  - {name: e, provider: enkod, token_files: [DIR/token], basic_auth_file: DIR/basic}
`, "DIR", dir)
}

func TestKeyFiles(t *testing.T) {
	const token = "0123456789abcdefABCDEF-_"
	for _, test := range []struct {
		name, file, content string
		line                int
		want                string // empty: it is fine
		warning             bool
	}{
		{"plain", "key", "s3cr3t", 5, "", false},
		{"newline", "key", "s3cr3t\n", 5, "", false},
		{"crlf", "key", "s3cr3t\r\n", 5, "", false},
		{"inner space", "key", "s3 cr3t\n", 5, "", false},
		{"empty", "key", "", 5, "empty", false},
		{"one newline", "key", "\n", 5, "empty", false},
		{"white space", "key", " \t \n", 5, "nothing but white space", false},
		{"two newlines", "key", "s3cr3t\n\n", 5, "more than one line", false},
		{"two keys", "key", "s3cr3t\ns3cr3t2\n", 5, "more than one line", false},
		{"space at the end", "key", "s3cr3t \n", 5, "a space at the beginning or end", false},
		{"byte order mark", "key", "\ufeffs3cr3t\n", 5, "not plain text", false},
		{"utf-16", "key", "s\x003\x00", 5, "not plain text", false},
		{"latin-1", "key", "s\xe93cr3t", 5, "not plain text", false},
		{"too large", "key", strings.Repeat("s3cr3t", 1000), 5, "larger than 4096 bytes", false},
		{"weak token", "token", "s3cr3t0123456789012", 6, "the token has 19 characters, fewer than the 22", true},
		{"short token", "token", "s3cr3t012345678", 6, "the token has 15 characters, and fewer than 16 can be guessed", false},
		{"token with a slash", "token", "s3cr3t/0123456789abcdef", 6, "the token does not fit a URL", false},
		{"long token", "token", strings.Repeat("s3cr3t", 22), 6, "the token does not fit a URL", false},
		{"password alone", "basic", "s3cr3t", 6, "not of the form user:password", false},
		{"no password", "basic", "s3cr3t:", 6, "not of the form user:password", false},
		{"no user", "basic", ":s3cr3t", 6, "not of the form user:password", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "key", "a key")
			write(t, dir, "token", token)
			write(t, dir, "basic", "user:s3:cr3t")
			file := write(t, dir, test.file, test.content)
			c := load(t, keysConfig(dir), envOf())
			endpoints, err := c.receiverEndpoints("")
			found := c.keyWarnings
			if ps, ok := errors.AsType[problems](err); ok {
				found = ps
			}
			if test.want == "" {
				if err != nil || len(found) > 0 {
					t.Fatalf("got %v, %v", err, found)
				}
				if got, want := string(endpoints[0].Keys[0].Value), strings.TrimRight(test.content, "\r\n"); got != want {
					t.Errorf("got the key %q, want %q", got, want)
				}
				return
			}
			if len(found) != 1 {
				t.Fatalf("got %v, want one problem", found)
			}
			p := found[0]
			if p.Line != test.line || p.Warning != test.warning || !strings.Contains(p.What, "file "+file+": "+test.want) || p.Mend == "" {
				t.Errorf("got %v, want %q on line %d", p, test.want, test.line)
			}
			if strings.Contains(p.String(), "s3cr3t") {
				t.Errorf("the secret is in the message:\n%v", p)
			}
		})
	}
}

func TestUnreadableKeyFiles(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "key"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, dir, "basic", "user:password")
	c := load(t, keysConfig(dir), envOf())
	_, err := c.receiverEndpoints("")
	for _, want := range []string{
		":5: endpoints[0].key_files[0]: file " + dir + "/key: not a regular file",
		":6: endpoints[1].token_files[0]: file " + dir + "/token: stat: no such file or directory",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in %v", want, err)
		}
	}
}

func TestKeyWarnings(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "key", "0123456789abcdefABCDEF-_")
	write(t, dir, "token", "0123456789abcdefABCDEF-_")
	if err := os.Chmod(filepath.Join(dir, "key"), 0o640); err != nil {
		t.Fatal(err)
	}
	c := load(t, strings.ReplaceAll(`
data_dir: DIR/data
endpoints:
  - {name: twice, provider: mailgun, key_files: [DIR/key, DIR/key]}
  - {name: waits, provider: mailgun}
  - {name: open, provider: vision6, auth: none}
  - {name: guess, provider: sarv, key_files: [DIR/key]}
  - {name: reported, provider: sarv, token_files: [DIR/token]}
  - {name: young, provider: mailgun, key_files: [DIR/key], max_age: 5m}
admin: {listen: ":8081"}
nats: {embedded: {listen: "0.0.0.0:4222"}}
`, "DIR", dir), envOf())
	if _, err := c.receiverEndpoints(""); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct{ list, text string }{
		{c.keyWarnings.Error(), ":4: endpoints[0].key_files[0]: file " + dir + "/key can be read by others (mode 0640)"},
		{c.keyWarnings.Error(), ":4: endpoints[0].key_files[1]: file " + dir + "/key holds the same as " + dir + "/key"},
		{c.keyWarnings.Error(), ":5: endpoints[1]: waits has no key yet"},
		{c.warnings.Error(), ":6: endpoints[2].auth: none: whoever knows the name"},
		{c.warnings.Error(), ":7: endpoints[3]: sarv signs over the URL that was registered, and there is no public_url: it is taken to be http://127.0.0.1:8080/hooks/guess"},
		{c.warnings.Error(), ":9: endpoints[5].max_age: 5m is less than the 8h"},
		{c.warnings.Error(), ":10: admin.listen: not on loopback"},
		{c.warnings.Error(), ":11: nats.embedded.listen: not on loopback"},
	} {
		if !strings.Contains(want.list, want.text) {
			t.Errorf("%q is missing in:\n%s", want.text, want.list)
		}
	}
	if strings.Contains(c.keyWarnings.Error(), "reported has no key") {
		t.Errorf("a token is proof enough for sarv, got:\n%v", c.keyWarnings)
	}
}

func TestTokenAsKey(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "key", "s3cr3t-9abcdefABCDEF-_xx\n")
	write(t, dir, "token", "s3cr3t-9abcdefABCDEF-_xx")
	c := load(t, strings.ReplaceAll("data_dir: DIR/data\nendpoints: [{name: a, provider: mailgun, key_files: [DIR/key], token_files: [DIR/token]}]\n", "DIR", dir), envOf())
	if _, err := c.receiverEndpoints(""); err == nil || !strings.Contains(err.Error(), "hold the same secret, once as token and once as signature key") || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("got %v", err)
	}
}

func TestManagedKeys(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "key", "first")
	write(t, dir, "data/keys/a/2026.key", "second\n")
	write(t, dir, "data/keys/a/sample.key", "a sample")
	write(t, dir, "data/keys/a/token", "0123456789abcdefABCDEF-_")
	write(t, dir, "data/keys/a/.new-1.key", "half writ")
	write(t, dir, "data/keys/a/notes.txt", "anything")
	c := load(t, strings.ReplaceAll("data_dir: DIR/data\nendpoints: [{name: a, provider: mailgun, key_files: [DIR/key]}]\n", "DIR", dir), envOf())
	endpoints, err := c.receiverEndpoints("")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, k := range endpoints[0].Keys {
		got = append(got, string(k.Value))
		if k.Sample {
			t.Errorf("key of %s is a sample", k.Source)
		}
	}
	if want := []string{"first", "second"}; !slices.Equal(got, want) || len(endpoints[0].Tokens) > 0 {
		t.Errorf("got keys %q and %d tokens, want %q and none", got, len(endpoints[0].Tokens), want)
	}
	write(t, dir, "data/keys/a/empty.key", "")
	if _, err := c.receiverEndpoints(""); err == nil || !strings.Contains(err.Error(), "empty.key: empty") {
		t.Errorf("an empty managed key: got %v", err)
	}
}

// What blessd stores counts until it is replaced, and for as long after as it is told;
// then not even a damaged file does harm.
func TestStoredKeys(t *testing.T) {
	dir := t.TempDir()
	c := load(t, strings.ReplaceAll("data_dir: DIR/data\npublic_url: https://hooks.example.com\nendpoints: [{name: a, provider: sendclean}]\n", "DIR", dir), envOf())
	if err := c.createDataDir(); err != nil {
		t.Fatal(err)
	}
	values := func() (got []string) {
		t.Helper()
		endpoints, err := c.receiverEndpoints("")
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range endpoints[0].Keys {
			got = append(got, string(k.Value))
		}
		if awaitsKey(endpoints[0]) != (len(got) == 0) {
			t.Errorf("awaits a key: %v, with %q", awaitsKey(endpoints[0]), got)
		}
		return got
	}
	expect := func(want ...string) {
		t.Helper()
		if got := values(); !slices.Equal(got, want) {
			t.Errorf("got keys %q, want %q", got, want)
		}
	}
	expect()
	now := time.Date(2026, 11, 21, 22, 45, 0, 0, time.UTC)
	store := func(webhook, key string, at time.Time) string {
		t.Helper()
		file, err := c.storeManagedKey("a", webhook, receiver.Secret(key), at)
		if err != nil {
			t.Fatal(err)
		}
		return file
	}
	first := store("405602261459333060372", "first", now)
	if want := dir + "/data/keys/a/405602261459333060372.20261121T224500Z." + (receiver.Key{Value: "first"}).Fingerprint() + ".key"; first != want {
		t.Errorf("stored in %s, want %s", first, want)
	}
	for _, path := range []string{first, filepath.Dir(first), filepath.Dir(filepath.Dir(first))} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: others can look in: %v, %v", path, info.Mode(), err)
		}
	}
	expect("first")
	if again := store("405602261459333060372", "first", now.Add(time.Hour)); again != first {
		t.Errorf("stored again as %s", again)
	}
	store("405602261459333060372", "second", now.Add(time.Second))
	expect("first", "second")

	keys, err := c.managedKeys("a")
	if err != nil || len(keys) != 2 || keys[0].webhook != "405602261459333060372" || !keys[0].set.Equal(now) || !keys[0].until.IsZero() {
		t.Fatalf("got %+v, %v", keys, err)
	}
	file, err := c.retireManagedKey(keys[0], time.Now().Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	expect("first", "second")
	old, _, err := parseManagedKey(file)
	if err != nil || old.webhook != keys[0].webhook || old.print != keys[0].print || !old.set.Equal(now) || old.until.Before(time.Now().Add(time.Hour-2*time.Second)) {
		t.Errorf("%s reads as %+v, %v", file, old, err)
	}
	if same, err := c.retireManagedKey(old, time.Now().Add(2*time.Hour)); err != nil || same != file {
		t.Errorf("a key that ends earlier was given more time: %s, %v", same, err)
	}
	// What root stores is for whom the data directory belongs to.
	if os.Geteuid() == 0 {
		const nobody = 65534
		if err := os.Chown(c.DataDir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		var s unix.Stat_t
		if err := unix.Stat(store("17", "third", now), &s); err != nil || s.Uid != nobody || s.Gid != nobody {
			t.Errorf("stored for user %d and group %d, %v", s.Uid, s.Gid, err)
		}
		if err := os.Remove(store("17", "third", now)); err != nil {
			t.Fatal(err)
		}
	}
	before := c.keyState()
	ended, err := c.retireManagedKey(old, time.Now().Add(-time.Second))
	if err != nil {
		t.Fatal(err)
	}
	expect("second")
	if c.keyState() == before {
		t.Error("a key that counts no more is no other state")
	}
	if err := os.WriteFile(ended, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	expect("second")
	// A key that a provider gives again counts again.
	store("405602261459333060372", "first", now.Add(time.Minute))
	expect("second", "first")

	for _, bad := range []struct{ webhook, key string }{{"1", ""}, {"1", "s3cr3t\ns3cr3t"}, {"../x", "s3cr3t"}, {"", "s3cr3t"}, {"a.b", "s3cr3t"}} {
		if file, err := c.storeManagedKey("a", bad.webhook, receiver.Secret(bad.key), now); err == nil || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("webhook %q, key %q: stored as %s, %v", bad.webhook, bad.key, file, err)
		}
	}
	write(t, dir, "data/keys/a/provider.until.tomorrow.key", "third")
	if _, err := c.receiverEndpoints(""); err == nil || !strings.Contains(err.Error(), "provider.until.tomorrow.key: its name has no time like") {
		t.Errorf("a name that cannot be understood: got %v", err)
	}
}

// TestFirstRun starts twice without a file, the second time with a real key.
func TestFirstRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "blessd")
	env := envOf("BLESSD_DATA_DIR", dir)
	start := func() (*Config, []receiver.Endpoint) {
		t.Helper()
		c, err := loadConfig("", env)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.createDataDir(); err != nil {
			t.Fatal(err)
		}
		if err := c.prepare(); err != nil {
			t.Fatal(err)
		}
		endpoints, err := c.receiverEndpoints("127.0.0.1:40001")
		if err != nil {
			t.Fatal(err)
		}
		if len(c.keyWarnings) > 0 {
			t.Errorf("got warnings:\n%v", c.keyWarnings)
		}
		return c, endpoints
	}
	c, first := start()
	if len(first) != len(receiver.Providers()) {
		t.Fatalf("got %d endpoints, want one per provider", len(first))
	}
	tokens := make(map[receiver.Secret]bool)
	for _, e := range first {
		if e.Name != e.Provider || len(e.Tokens) == 0 || len(e.Tokens[0].Value) < weakSecret || e.Tokens[0].Sample {
			t.Errorf("%s: got tokens %v", e.Name, e.Tokens)
		}
		if want := !signs(e.Provider); (len(e.Tokens) == 2 && e.Tokens[1].Sample) != want {
			t.Errorf("%s: got tokens %v, want a sample token: %v", e.Name, e.Tokens, want)
		}
		tokens[e.Tokens[0].Value] = true
		if want := signs(e.Provider); (len(e.Keys) == 1 && e.Keys[0].Sample) != want {
			t.Errorf("%s: got keys %v, want a sample key: %v", e.Name, e.Keys, want)
		}
	}
	if len(tokens) != len(first) {
		t.Errorf("got %d tokens for %d endpoints", len(tokens), len(first))
	}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if entry.IsDir() {
			want = 0o700
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%s: got mode %04o, want %04o", path, got, want)
		}
		if strings.HasPrefix(entry.Name(), ".new") {
			t.Errorf("%s was left behind", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, h := range c.hooks(first) {
		e := first[i]
		if want := "http://127.0.0.1:40001/hooks/" + e.Name + "/" + string(e.Tokens[0].Value); h.URL != want {
			t.Errorf("%s: got another URL than the token's", e.Name)
		}
		if h.Answer != receiver.Acknowledgement(e.Provider) {
			t.Errorf("%s: got the answer %q", e.Name, h.Answer)
		}
		wantFile := ""
		if signs(e.Provider) {
			wantFile = filepath.Join(dir, "keys", e.Name, "provider.key")
		}
		if h.KeyFile != wantFile || h.Refused != (e.Provider == "mailgun") {
			t.Errorf("%s: got key file %q, refused %v", e.Name, h.KeyFile, h.Refused)
		}
	}

	write(t, dir, "keys/mailgun/provider.key", "the real one\n")
	c, second := start()
	for i := range first {
		if first[i].Tokens[0] != second[i].Tokens[0] {
			t.Errorf("%s: the token has changed", first[i].Name)
		}
	}
	m := second[slices.Index(receiver.Providers(), "mailgun")]
	if len(m.Keys) != 2 || m.Keys[0].Sample || !m.Keys[1].Sample || string(m.Keys[0].Value) != "the real one" {
		t.Errorf("mailgun: got keys %v", m.Keys)
	}
	for _, h := range c.hooks(second) {
		if h.Provider == "mailgun" && (h.KeyFile != "" || h.Refused) {
			t.Errorf("mailgun: the key is there, got %q, %v", h.KeyFile, h.Refused)
		}
	}

	write(t, dir, "keys/enkod/token", "")
	if _, err := c.receiverEndpoints(""); err == nil || !strings.Contains(err.Error(), "keys/enkod/token: empty") {
		t.Errorf("an emptied token: got %v", err)
	}
}

// TestFileGeneratesNothing: with a configuration file there are no made-up keys.
func TestFileGeneratesNothing(t *testing.T) {
	dir := t.TempDir()
	c := load(t, "data_dir: "+dir+"\nendpoints: [{name: a, provider: mailgun}]\n", envOf())
	if err := c.prepare(); err != nil {
		t.Fatal(err)
	}
	if found, err := exists(filepath.Join(dir, keysDir)); found || err != nil {
		t.Errorf("keys were made: %v, %v", found, err)
	}
	if found, err := exists(filepath.Join(dir, sizesFile)); !found || err != nil {
		t.Errorf("the sizes were not kept: %v, %v", found, err)
	}
}

func TestEndpointURL(t *testing.T) {
	c := load(t, "data_dir: "+t.TempDir()+"\nlisten: \":0\"\nendpoints: [{name: a, provider: mailgun}, {name: b, provider: sarv, url: \"https://p.example/x?y=1\"}]\n", envOf())
	endpoints, err := c.receiverEndpoints("[::]:40001")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := endpoints[0].URL, "http://127.0.0.1:40001/hooks/a"; got != want || endpoints[0].URLIsComplete {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := endpoints[1].URL, "https://p.example/x?y=1"; got != want || !endpoints[1].URLIsComplete {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestPublicPart(t *testing.T) {
	for in, want := range map[string]string{
		"https://hooks.example.com":                        "https://hooks.example.com",
		"https://u:p@h.example/x":                          "https://...@h.example/x",
		"https://u:p/q@h.example/x":                        "https://...@h.example/x",
		"https://h.example/hooks/acme":                     "https://h.example/hooks/acme",
		"https://h.example/hooks/acme/tok":                 "https://h.example/hooks/acme/...",
		"https://h.example/0123456789abcdef":               "https://h.example/...",
		"https://h.example/a?token=x":                      "https://h.example/a?...",
		"nats://a:4222,u:p@b:4222,tls://t@c":               "nats://a:4222,...@b:4222,tls://...@c",
		"no url at all":                                    "no url at all",
		"https://h.example/hooks/acme/0123456789abcdef/xy": "https://h.example/hooks/acme/...",
	} {
		if got := publicPart(in); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
}

// FuzzLoadConfig: whatever the file is, it is either refused with a place in it or
// accepted, and reading it twice gives the same.
func FuzzLoadConfig(f *testing.F) {
	files, err := filepath.Glob(filepath.Join("testdata", "config", "*.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, example) {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	const secret = "canary-0123456789"
	env := envOf("A", secret)
	f.Fuzz(func(t *testing.T, data []byte) {
		c, found := parseConfig("fuzz.yaml", data, env)
		found = append(found, c.validate()...)
		for _, p := range found {
			if p.What == "" {
				t.Errorf("a problem says nothing: %+v", p)
			}
			if p.Line < 0 || p.Line > len(c.source.lines) {
				t.Errorf("a problem is on line %d of %d", p.Line, len(c.source.lines))
			}
		}
		if _, err := found.split(); err != nil && strings.Contains(err.Error(), secret) && !strings.Contains(string(data), secret) {
			t.Errorf("a value of the environment is in the message:\n%v", err)
		}
		again, _ := parseConfig("fuzz.yaml", data, env)
		again.validate()
		if !reflect.DeepEqual(c, again) {
			t.Error("the second reading differs")
		}
	})
}
