package sink

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/jsm.go/natscontext"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// TLSFiles are the PEM files of a TLS connection. All are optional; a
// certificate needs its key.
type TLSFiles struct {
	CAFile, CertFile, KeyFile string
}

// ExternalOptions say how to reach a server that is not ours.
type ExternalOptions struct {
	// URL is one address or several with commas between them.
	URL string
	// Context is the name of a context of the nats CLI, instead of everything
	// else here.
	Context string
	// CredsFile and NKeyFile are at most one way to log in. Both are read again
	// at each reconnection.
	CredsFile, NKeyFile string
	// TLS makes the connection use TLS, whatever the addresses say.
	TLS TLSFiles
	// Name is what the server shows as the connection's name.
	Name string
	// Log is required.
	Log *zap.Logger
	// OnClosed is called when the connection is closed for good, with the last
	// error; also after Close. Optional.
	OnClosed func(error)
}

// Dial returns a connection to an external server. It need not be there: the
// connection is made in the background, again and again, and so it is after an
// interruption or when the server refuses the credentials. Nothing is buffered
// meanwhile. Wrong options and unreadable files are errors at once.
func Dial(o ExternalOptions) (*nats.Conn, error) {
	opts := append([]nats.Option{
		nats.Name(o.Name),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectBufSize(-1),
		nats.ReconnectWait(500 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, 500*time.Millisecond),
		// A server that stands still, and its connections with it, is left after 10 to
		// 15 s: by then a cluster has another leader. With 20 s it took a minute.
		nats.PingInterval(5 * time.Second),
		nats.MaxPingsOutstanding(2),
	}, logging(o.Log, o.OnClosed)...)
	urls, opts, err := resolve(o, opts)
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect(urls, opts...)
	if err != nil {
		return nil, fmt.Errorf("connect to nats: %w", err)
	}
	return nc, nil
}

// CheckExternal says what Dial would refuse: wrong options, a context that does
// not exist, files that cannot be read or are not what they should be. It connects
// to nothing.
func CheckExternal(o ExternalOptions) error {
	_, _, err := resolve(o, nil)
	return err
}

// resolve adds to opts what o says, and returns the addresses to connect to. All
// that can be known without a server is checked.
func resolve(o ExternalOptions, opts []nats.Option) (urls string, _ []nats.Option, err error) {
	urls = o.URL
	if o.Context != "" {
		if urls, opts, err = fromContext(o, opts); err != nil {
			return "", nil, fmt.Errorf("nats context %q: %w", o.Context, err)
		}
	} else if opts, err = credentials(o, opts); err != nil {
		return "", nil, err
	}
	if err := checkURLs(urls); err != nil {
		return "", nil, err
	}
	if err := tryOptions(opts); err != nil {
		if o.Context != "" {
			err = fmt.Errorf("nats context %q: %w", o.Context, err)
		}
		return "", nil, err
	}
	return urls, opts, nil
}

// tryOptions reads the files that the options name. nats.go reads credentials no
// earlier than a server asks for them, and then goes on asking.
func tryOptions(opts []nats.Option) error {
	o := nats.GetDefaultOptions()
	for _, opt := range opts {
		if opt == nil {
			continue
		}
		if err := opt(&o); err != nil {
			return err
		}
	}
	if o.UserJWT != nil {
		if _, err := o.UserJWT(); err != nil {
			return fmt.Errorf("credentials: %w", err)
		}
	}
	if o.SignatureCB != nil {
		if _, err := o.SignatureCB([]byte("nonce")); err != nil {
			return fmt.Errorf("credentials: %w", err)
		}
	}
	return nil
}

// credentials adds o's credentials and TLS files to opts.
func credentials(o ExternalOptions, opts []nats.Option) ([]nats.Option, error) {
	if o.CredsFile != "" && o.NKeyFile != "" {
		return nil, errors.New("only one of creds_file and nkey_file can be set")
	}
	if o.CredsFile != "" {
		opts = append(opts, nats.UserCredentials(o.CredsFile))
	}
	if o.NKeyFile != "" {
		nkey, err := nats.NkeyOptionFromSeed(o.NKeyFile)
		if err != nil {
			return nil, fmt.Errorf("nkey file %s: %w", o.NKeyFile, err)
		}
		opts = append(opts, nkey)
	}
	if o.TLS.CAFile != "" {
		opts = append(opts, nats.RootCAs(o.TLS.CAFile))
	}
	if (o.TLS.CertFile == "") != (o.TLS.KeyFile == "") {
		return nil, errors.New("tls cert_file and key_file belong together")
	}
	if o.TLS.CertFile != "" {
		opts = append(opts, nats.ClientCert(o.TLS.CertFile, o.TLS.KeyFile))
	}
	return opts, nil
}

// fromContext reads a context of the nats CLI. Its references to secrets (env://,
// op://, nsc://) work as they do there.
func fromContext(o ExternalOptions, opts []nats.Option) (string, []nats.Option, error) {
	if o.URL != "" || o.CredsFile != "" || o.NKeyFile != "" || o.TLS != (TLSFiles{}) {
		return "", nil, errors.New("it takes the place of url, creds_file, nkey_file and tls")
	}
	if !natscontext.IsKnown(o.Context) {
		return "", nil, errors.New("there is none of that name")
	}
	c, err := natscontext.New(o.Context, true)
	if err != nil {
		return "", nil, err
	}
	if c.JSDomain() != "" || c.JSAPIPrefix() != "" {
		return "", nil, errors.New("it names a JetStream domain or API prefix, which blessd does not use: connect to the servers that hold the streams")
	}
	opts, err = c.NATSOptions(opts...)
	return c.ServerURL(), opts, err
}

// checkURLs keeps an address that cannot be parsed, and may hold a password, out
// of the error that nats.go would make of it.
func checkURLs(urls string) error {
	for i, s := range strings.Split(urls, ",") {
		s = strings.TrimSpace(s)
		if s == "" {
			return fmt.Errorf("nats url %d is empty", i+1)
		}
		if !strings.Contains(s, "://") {
			s = "nats://" + s
		}
		u, err := url.Parse(s)
		if err != nil || u.Host == "" {
			return fmt.Errorf("nats url %d cannot be parsed", i+1)
		}
	}
	return nil
}

// redacted returns URLs without the passwords in them.
func redacted(urls []string) []string {
	out := make([]string, len(urls))
	for i, s := range urls {
		out[i] = "unreadable"
		if u, err := url.Parse(s); err == nil {
			out[i] = u.Redacted()
		}
	}
	return out
}

// logging returns handlers that tell log what becomes of a connection. Without
// them nats.go writes to the standard error.
func logging(log *zap.Logger, onClosed func(error)) []nats.Option {
	server := func(nc *nats.Conn) zap.Field { return zap.String("server", nc.ConnectedUrlRedacted()) }
	// Why it does not connect is worth a line, but not one for each try.
	waiting := rate.NewLimiter(rate.Every(time.Minute), 1)
	return []nats.Option{
		nats.ConnectHandler(func(nc *nats.Conn) {
			if nc.Opts.InProcessServer != nil {
				log.Debug("nats connected in process")
				return
			}
			log.Info("nats connected", server(nc))
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("nats disconnected", zap.Error(err))
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("nats reconnected", server(nc)) }),
		nats.ReconnectErrHandler(func(nc *nats.Conn, err error) {
			if waiting.Allow() {
				log.Warn("nats cannot be reached: deliveries stay in the journal meanwhile", zap.Strings("servers", redacted(nc.Servers())), zap.Error(err))
			}
		}),
		nats.LameDuckModeHandler(func(nc *nats.Conn) { log.Info("nats server is about to stop", server(nc)) }),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			if errors.Is(err, context.Canceled) {
				return
			}
			fields := []zap.Field{zap.Error(err)}
			if sub != nil {
				fields = append(fields, zap.String("subject", sub.Subject))
			}
			log.Warn("nats error", fields...)
		}),
		nats.ClosedHandler(func(nc *nats.Conn) {
			log.Debug("nats connection closed", zap.Error(nc.LastError()))
			if onClosed != nil {
				onClosed(nc.LastError())
			}
		}),
	}
}
