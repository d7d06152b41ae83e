package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// Config is the configuration file, deploy/blessd.yaml shows it whole. It is one
// strict YAML document: an unknown key is an error. ${VAR}, ${VAR:-default} and
// ${VAR:?text} are replaced inside values (quote them within [] and {}), $$ is a
// dollar sign. No secret stands in it: secrets are files, one each, whose paths
// are given; one newline at their end is not part of the secret. Relative paths
// are relative to the working directory.
//
// A flag is stronger than its environment variable, that is stronger than the
// file, and the file than the defaults given here.
type Config struct {
	// Listen is the address of the public listener, as host:port: /hooks/... and
	// nothing else, over plain HTTP. Port 0 takes a free one. Default
	// 127.0.0.1:8080. Flag --listen, environment BLESSD_LISTEN.
	Listen string `yaml:"listen"`
	// PublicURL is what the providers were given, without /hooks and what follows,
	// like https://hooks.example.com: signatures of SendClean and Sarv are computed
	// over it. Default http:// and the address of the listener. Flag --public-url,
	// environment BLESSD_PUBLIC_URL.
	PublicURL string `yaml:"public_url"`
	// Admin is the listener for metrics, health and status.
	Admin AdminConfig `yaml:"admin"`
	// DataDir holds the journal, the embedded NATS server's streams and generated
	// keys. It is made with mode 0700 and locked while blessd runs. Default
	// /var/lib/blessd where that exists and can be written, else
	// $XDG_STATE_HOME/blessd, else ~/.local/state/blessd. Flag --data-dir,
	// environment BLESSD_DATA_DIR.
	DataDir string `yaml:"data_dir"`
	// Acknowledge is what a provider's answer waits for: journal, the record is on
	// this machine's disk; or stream, NATS has acknowledged every event, for machines
	// without a durable disk. Default journal.
	Acknowledge string `yaml:"acknowledge"`
	// Endpoints are the webhooks. At least one.
	Endpoints []EndpointConfig `yaml:"endpoints"`
	// NATS says where the events go.
	NATS NATSConfig `yaml:"nats"`
	// Limits bound what a request may take.
	Limits LimitsConfig `yaml:"limits"`
	// Journal keeps requests from the blessing until they are published. There is none
	// with acknowledge: stream.
	Journal JournalConfig `yaml:"journal"`
	// Unverified keeps deliveries that no key verifies, for a key that comes late.
	Unverified UnverifiedConfig `yaml:"unverified"`
	// Log says what is logged, and how. It goes to stderr.
	Log LogConfig `yaml:"log"`

	// noFile is true when there is no configuration file: then the endpoints, their
	// tokens and their sample keys are blessd's own.
	noFile bool
	// computed has the sizes that were left out and that blessd chose itself.
	computed map[string]Size
	// chosen has those of them that no earlier start remembers.
	chosen map[string]Size
	// warnings were found while loading, keyWarnings while reading the key files.
	warnings, keyWarnings problems
	// source knows where each setting stands.
	source *source
	// sum is the SHA-256 of the file.
	sum [sha256.Size]byte
	// again loads the configuration from where this one is from.
	again func() (*Config, error)
}

// AdminConfig is the admin listener.
type AdminConfig struct {
	// Listen is its address, as host:port. Off loopback and without basic auth it
	// serves metrics and health only. Default 127.0.0.1:8081. Flag --admin-listen,
	// environment BLESSD_ADMIN_LISTEN.
	Listen string `yaml:"listen"`
	// WebConfigFile is a file of Prometheus' exporter-toolkit for TLS and basic
	// auth. Default none.
	WebConfigFile string `yaml:"web_config_file"`
}

// EndpointConfig is one webhook at one provider.
type EndpointConfig struct {
	// Name is part of the URL, of the subject and of every id, so that it should
	// never change: 1 to 32 of a-z, 0-9, _ and -. It is served at /hooks/<name>, or
	// with token_files at /hooks/<name>/<token>.
	Name string `yaml:"name"`
	// Provider is sendclean, sarv, mailgun, enkod or vision6.
	Provider string `yaml:"provider"`
	// KeyFiles hold the keys that the provider signs with (SendClean, Sarv,
	// Mailgun); any of them verifies, so that keys can be changed without a gap.
	// Without one the endpoint awaits its key. Files *.key in
	// <data_dir>/keys/<name>/ are read as well; one called *.until.TIME.key, with a
	// time like 20261121T235900Z, counts until then.
	KeyFiles []string `yaml:"key_files"`
	// ParentKeyFiles hold the keys of the parent account for Mailgun's
	// parent-signature. Default none.
	ParentKeyFiles []string `yaml:"parent_key_files"`
	// TokenFiles hold unguessable last parts of the URL, 16 to 128 characters of
	// A-Z, a-z, 0-9, - and _, better 22 or more. Any of them opens the endpoint. Default none.
	TokenFiles []string `yaml:"token_files"`
	// BasicAuthFile holds user:password, demanded with every request. Default none.
	BasicAuthFile string `yaml:"basic_auth_file"`
	// Auth is empty, or none for an enKod or Vision6 endpoint that is to believe
	// everybody who knows its name.
	Auth string `yaml:"auth"`
	// Signature is, for SendClean and Sarv, enforce or report, which only counts and
	// logs whether the signature was right. Default report when the endpoint has a
	// token, else enforce.
	Signature string `yaml:"signature"`
	// SignatureVariants are the ways to sign that are accepted, for SendClean and
	// Sarv. Default fields-base64, the one with the best evidence, and for a body
	// that is no form urlbody-base64 and body-base64.
	SignatureVariants []string `yaml:"signature_variants"`
	// URL is what was registered at the provider, whole, if that is not public_url
	// and the path. Default empty.
	URL string `yaml:"url"`
	// MaxAge is how old Mailgun's signature may be. Mailgun tries again for 8 h and
	// may use the first signature. Default 12h.
	MaxAge Duration `yaml:"max_age"`
	// Manage is what `blessd webhooks` needs to register this webhook and to keep it
	// as it should be. Default none: a person does it at the provider.
	Manage *ManageConfig `yaml:"manage"`
}

// ManageConfig is the access to a provider's management API, and what to register
// there. Which of these a provider takes is in providerSettings.
type ManageConfig struct {
	// AppDomain is the domain of SendClean's or Sarv's API, like us1.example.net: it
	// is at https://api.<app_domain>/v1.0/.
	AppDomain string `yaml:"app_domain"`
	// BaseURL is the API's address whole: for SendClean and Sarv instead of
	// app_domain, for Mailgun instead of region, for Vision6 the endpoint on the host
	// that the account logs in to. Default for Vision6
	// https://www.vision6.com.au/api/jsonrpcserver?version=3.3.
	BaseURL string `yaml:"base_url"`
	// PlainHTTP allows a base_url without TLS, as Sarv's own library has it: the
	// credentials can then be read by everybody on the way. Default false.
	PlainHTTP bool `yaml:"plain_http"`
	// OwnerIDFile holds the owner_id of SendClean or Sarv.
	OwnerIDFile string `yaml:"owner_id_file"`
	// TokenFile holds the API token of SendClean or Sarv.
	TokenFile string `yaml:"token_file"`
	// Events are the kinds to subscribe to, in the provider's words; for Vision6
	// object.event, like contact.unsubscribed. Default all.
	Events []string `yaml:"events"`
	// Description is shown in SendClean's or Sarv's list of webhooks. Default: what
	// is there stays.
	Description string `yaml:"description"`
	// StoreLog makes SendClean or Sarv keep a log of its calls, or with false not.
	// Default: what is there stays.
	StoreLog bool `yaml:"store_log"`
	// Domain is the sending domain at Mailgun.
	Domain string `yaml:"domain"`
	// Region is Mailgun's: us or eu. Default us.
	Region string `yaml:"region"`
	// APIKeyFile holds the API key of Mailgun, which is not the signing key, or of
	// Vision6.
	APIKeyFile string `yaml:"api_key_file"`
	// Lists are the ids of the Vision6 lists to watch, 0 for all. Default 0.
	Lists []int `yaml:"lists"`
	// Poll is how often the running blessd asks the provider: SendClean and Sarv how
	// much they have delivered, for the metrics, and with reconcile all of them
	// whether the webhook is still there. At least 1m; for Vision6, where each time
	// is eleven calls, better hours. Default 0: never.
	Poll Duration `yaml:"poll"`
	// Reconcile is what each poll does about a webhook that is gone or changed: off;
	// report it, in metrics, status and log; or repair it, which adds and changes and
	// never deletes, and fetches keys that are not here. Vision6 can only be asked by
	// registering again, so it has no report. With several blessd for one webhook
	// only one may repair. Default off.
	Reconcile string `yaml:"reconcile"`
}

// NATSConfig says where the events go: to the embedded server, or with url or
// context to one that is there already.
type NATSConfig struct {
	// Embedded is the server inside blessd, the default.
	Embedded EmbeddedConfig `yaml:"embedded"`
	// URL lists servers, separated by commas: nats://n1:4222,nats://n2:4222.
	URL string `yaml:"url"`
	// Context is the name of a context of the nats command line tool.
	Context string `yaml:"context"`
	// CredsFile is a NATS credentials file, for url.
	CredsFile string `yaml:"creds_file"`
	// NKeyFile holds an NKey seed, for url.
	NKeyFile string `yaml:"nkey_file"`
	// TLS is for url.
	TLS TLSConfig `yaml:"tls"`
	// SubjectPrefix is the first token of every subject. Default mail.
	SubjectPrefix string `yaml:"subject_prefix"`
	// CETypePrefix is the beginning of the CloudEvents type. Default blessd.
	CETypePrefix string `yaml:"ce_type_prefix"`
	// Stream keeps the events.
	Stream StreamConfig `yaml:"stream"`
	// Quarantine keeps authentic bodies that could not be understood.
	Quarantine QuarantineConfig `yaml:"quarantine"`
}

// EmbeddedConfig is the NATS server inside blessd.
type EmbeddedConfig struct {
	// Listen is the address for NATS clients, as host:port. Whoever can reach it
	// reads the events without credentials, unless config_file says otherwise.
	// Default 127.0.0.1:4222. Flag --nats-listen, environment BLESSD_NATS_LISTEN.
	Listen string `yaml:"listen"`
	// ConfigFile is a nats-server.conf for all else: TLS, accounts, leaf nodes,
	// clustering. Default none.
	ConfigFile string `yaml:"config_file"`
}

// TLSConfig are the TLS files for an external NATS server.
type TLSConfig struct {
	// CAFile has the authorities to trust. Default the system's.
	CAFile string `yaml:"ca_file"`
	// CertFile and KeyFile are the client certificate. Default none.
	CertFile string `yaml:"cert_file"`
	// KeyFile is the key of CertFile.
	KeyFile string `yaml:"key_file"`
}

// StreamConfig is the stream of events. On a server that is not ours blessd makes
// it when it is missing and otherwise changes nothing.
type StreamConfig struct {
	// Name of the stream. Default MAIL_EVENTS.
	Name string `yaml:"name"`
	// MaxAge is how long events stay, 0 for ever. Default 30d.
	MaxAge Duration `yaml:"max_age"`
	// MaxBytes is how much the stream holds. Default with the embedded server: the
	// smaller of 10GiB and 40 % of the disk's free space, less 256MiB, at the first
	// start, else 10GiB.
	MaxBytes Size `yaml:"max_bytes"`
	// DuplicateWindow is how long the server remembers ids, at about 150 bytes each.
	// It covers quick redeliveries; restarts are covered without it. Default 10m.
	DuplicateWindow Duration `yaml:"duplicate_window"`
	// Replicas is 1 to 5, more than 1 on a cluster only; the quarantine has as many.
	// Default 1.
	Replicas int `yaml:"replicas"`
	// WhenFull is expire, the oldest events go, or refuse, new ones wait in the
	// journal, or without one are refused. Default expire.
	WhenFull string `yaml:"when_full"`
}

// QuarantineConfig is the quarantine stream. When it is full it refuses.
type QuarantineConfig struct {
	// Name of the stream. Default MAIL_QUARANTINE.
	Name string `yaml:"name"`
	// MaxAge is how long bodies stay, 0 for ever. Default 90d.
	MaxAge Duration `yaml:"max_age"`
	// MaxBytes is how much the stream holds. Default with the embedded server: the
	// smaller of 1GiB and 10 % of the disk's free space, less 256MiB, at the first
	// start, else 1GiB.
	MaxBytes Size `yaml:"max_bytes"`
}

// LimitsConfig bounds what requests may take.
type LimitsConfig struct {
	// MaxBody is the largest body that is accepted. Default 8MiB.
	MaxBody Size `yaml:"max_body"`
	// MaxInFlightBytes bounds the bodies of all requests that are being received;
	// beyond it providers are asked to come again. Default 64MiB.
	MaxInFlightBytes Size `yaml:"max_in_flight_bytes"`
}

// JournalConfig is the journal.
type JournalConfig struct {
	// MaxBytes is how much it may hold; when it is full providers are asked to come
	// again. Default the smaller of 10GiB and 20 % of the disk's free space, less
	// 256MiB, at the first start.
	MaxBytes Size `yaml:"max_bytes"`
}

// UnverifiedConfig is the store of deliveries that no key verified.
type UnverifiedConfig struct {
	// MaxBytes is how much they may take, each endpoint an equal share of it; 0
	// keeps none. Default 64MiB.
	MaxBytes Size `yaml:"max_bytes"`
}

// LogConfig is the log.
type LogConfig struct {
	// Level is debug, info, warn or error. Default info.
	Level string `yaml:"level"`
	// Format is console, json, or auto: console on a terminal. Default auto.
	Format string `yaml:"format"`
}

// defaultConfig has every default that does not depend on the machine.
func defaultConfig() *Config {
	return &Config{
		Listen:      "127.0.0.1:8080",
		Admin:       AdminConfig{Listen: "127.0.0.1:8081"},
		Acknowledge: "journal",
		NATS: NATSConfig{
			Embedded:      EmbeddedConfig{Listen: "127.0.0.1:4222"},
			SubjectPrefix: "mail",
			CETypePrefix:  "blessd",
			Stream: StreamConfig{
				Name:            "MAIL_EVENTS",
				MaxAge:          30 * day,
				DuplicateWindow: 10 * minute,
				Replicas:        1,
				WhenFull:        "expire",
			},
			Quarantine: QuarantineConfig{Name: "MAIL_QUARANTINE", MaxAge: 90 * day},
		},
		Limits:     LimitsConfig{MaxBody: 8 * MiB, MaxInFlightBytes: 64 * MiB},
		Unverified: UnverifiedConfig{MaxBytes: 64 * MiB},
		Log:        LogConfig{Level: "info", Format: "auto"},
		source:     newSource("", nil),
	}
}

// defaultMaxAge is for the Mailgun endpoints that give none.
const defaultMaxAge = 12 * hour

// externalNATS is true when the events go to a server that is not ours.
func (c *Config) externalNATS() bool { return c.NATS.URL != "" || c.NATS.Context != "" }

// acknowledgesStream is true when there is no journal and the answer waits for NATS.
func (c *Config) acknowledgesStream() bool { return c.Acknowledge == "stream" }

// overrides are the settings that the command line and the environment may give.
// An empty one is not given.
type overrides struct {
	Config      string // the configuration file
	Listen      string
	AdminListen string
	DataDir     string
	PublicURL   string
	NATSListen  string
}

// override ties a flag and an environment variable to a setting.
type override struct {
	flag, variable, path string
	value                *string
	set                  func(*Config, string)
}

func (o *overrides) list() []override {
	return []override{
		{"listen", "BLESSD_LISTEN", "listen", &o.Listen, func(c *Config, v string) { c.Listen = v }},
		{"admin-listen", "BLESSD_ADMIN_LISTEN", "admin.listen", &o.AdminListen, func(c *Config, v string) { c.Admin.Listen = v }},
		{"data-dir", "BLESSD_DATA_DIR", "data_dir", &o.DataDir, func(c *Config, v string) { c.DataDir = v }},
		{"public-url", "BLESSD_PUBLIC_URL", "public_url", &o.PublicURL, func(c *Config, v string) { c.PublicURL = v }},
		{"nats-listen", "BLESSD_NATS_LISTEN", "nats.embedded.listen", &o.NATSListen, func(c *Config, v string) { c.NATS.Embedded.Listen = v }},
	}
}

// bind adds the flags to cmd: -c and one for every override.
func (o *overrides) bind(cmd *cobra.Command) {
	o.bindConfig(cmd)
	f := cmd.Flags()
	f.StringVar(&o.Listen, "listen", "", "address of the public listener, host:port (default 127.0.0.1:8080)")
	f.StringVar(&o.AdminListen, "admin-listen", "", "address of the admin listener, host:port (default 127.0.0.1:8081)")
	f.StringVar(&o.DataDir, "data-dir", "", "where the journal, streams and generated keys are")
	f.StringVar(&o.PublicURL, "public-url", "", "what the providers were given, without /hooks: https://hooks.example.com")
	f.StringVar(&o.NATSListen, "nats-listen", "", "address of the embedded NATS server, host:port (default 127.0.0.1:4222)")
}

// bindConfig adds -c alone, for the commands that change nothing else.
func (o *overrides) bindConfig(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.Config, "config", "c", "", "configuration `FILE` (default: $BLESSD_CONFIG, else none is needed)")
}

// load returns the configuration that these overrides, the environment, the file
// and the defaults make together. It reads the file, remembered sizes and the disk's
// free space, and writes nothing.
//
// The error is of type problems and has everything that is wrong. The Config is
// usable for reports even then, except when it is nil.
func (o *overrides) load(env func(string) (string, bool)) (*Config, error) {
	file := o.Config
	if file == "" {
		file, _ = env("BLESSD_CONFIG")
	}
	var c *Config
	var found problems
	if file == "" {
		c = firstRunConfig()
	} else {
		data, err := readConfigFile(file)
		if err != nil {
			return nil, problems{{Where: file, What: err.Error(), Mend: "name the configuration file with -c FILE or BLESSD_CONFIG; without either blessd starts with no configuration at all"}}
		}
		c, found = parseConfig(file, data, env)
	}
	for _, s := range o.list() {
		value, where := *s.value, "flag --"+s.flag
		if value == "" {
			value, _ = env(s.variable)
			where = "environment variable " + s.variable
		}
		if value != "" {
			s.set(c, value)
			c.source.given[s.path] = where
		}
	}
	if c.DataDir == "" {
		dir, err := defaultDataDir(env)
		if err != nil {
			found = append(found, c.source.problem("data_dir", err.Error(), "give data_dir in the configuration file, --data-dir or BLESSD_DATA_DIR"))
		}
		c.DataDir = dir
	}
	found = append(found, c.validate()...)
	if c.DataDir != "" {
		if err := c.chooseSizes(freeBytes); err != nil {
			found = append(found, problem{What: err.Error(), Mend: "give the sizes in the configuration, or mend the data directory"})
		}
	}
	again := *o
	c.again = func() (*Config, error) { return again.load(env) }
	var err error
	c.warnings, err = found.split()
	return c, err
}

// loadConfig is load with nothing on the command line but -c.
func loadConfig(path string, env func(string) (string, bool)) (*Config, error) {
	return (&overrides{Config: path}).load(env)
}

// parseConfig decodes data over the defaults. The Config is never nil.
func parseConfig(file string, data []byte, env func(string) (string, bool)) (*Config, problems) {
	c := defaultConfig()
	c.sum = sha256.Sum256(data)
	var found problems
	c.source, found = decodeYAML(file, data, env, c)
	for i := range c.Endpoints {
		if e := &c.Endpoints[i]; e.Provider == "mailgun" && !c.source.has(fmt.Sprintf("endpoints[%d].max_age", i)) {
			e.MaxAge = defaultMaxAge
		}
	}
	return c, found
}

// hash is a number by which two instances see whether their files are the same; 0
// without a file. It has 48 bits, which a metric holds exactly.
func (c *Config) hash() float64 {
	var n uint64
	for _, b := range c.sum[:6] {
		n = n<<8 | uint64(b)
	}
	return float64(n)
}

// maxConfigBytes is far more than anybody writes, and less than what hurts.
const maxConfigBytes = 1 << 20

func readConfigFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", errors.Unwrap(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", errors.Unwrap(err))
	}
	if len(data) > maxConfigBytes {
		return nil, errors.New("read the configuration: larger than 1 MiB")
	}
	return data, nil
}

// systemDataDir is made by packages and by systemd's StateDirectory.
const systemDataDir = "/var/lib/blessd"

func defaultDataDir(env func(string) (string, bool)) (string, error) {
	if info, err := os.Stat(systemDataDir); err == nil && info.IsDir() && unix.Access(systemDataDir, unix.W_OK|unix.X_OK) == nil {
		return systemDataDir, nil
	}
	if dir, _ := env("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "blessd"), nil
	}
	if home, _ := env("HOME"); home != "" {
		return filepath.Join(home, ".local", "state", "blessd"), nil
	}
	return "", errors.New("there is no place for the data: neither a writable /var/lib/blessd nor XDG_STATE_HOME nor HOME")
}

// createDataDir makes the data directory with mode 0700. One that is there and
// empty, a fresh volume, is closed to others where that is allowed; the mode of
// any other is its owner's business and only warned about.
func (c *Config) createDataDir() error {
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	entries, err := os.ReadDir(c.DataDir)
	if err != nil {
		return fmt.Errorf("read the data directory: %w", err)
	}
	if len(entries) > 0 {
		return nil
	}
	if err := os.Chmod(c.DataDir, 0o700); err != nil && !errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("close the data directory to others: %w", err)
	}
	return nil
}

// prepare writes what a start leaves behind for the next one: the sizes that were
// computed and, without a configuration file, the generated tokens and sample
// keys. The data directory must exist and be locked by the caller.
func (c *Config) prepare() error {
	if err := c.rememberSizes(); err != nil {
		return err
	}
	if !c.noFile {
		return nil
	}
	return c.generateKeys()
}

// exists tells whether there is a file, and errs when that cannot be found out.
func exists(file string) (bool, error) {
	_, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
