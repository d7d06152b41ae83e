package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/goccy/go-json"
	"github.com/goccy/go-yaml"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/exporter-toolkit/web"
	"go.uber.org/zap"
	"go.uber.org/zap/exp/zapslog"
)

// admin is the listener for operators and Prometheus, apart from the public one.
type admin struct {
	server    *http.Server
	webConfig string
	log       *zap.Logger
	mux       *http.ServeMux
	// guard is around what only those may ask for who may read the machine's files.
	// Nil where it is not served.
	guard func(http.Handler) http.Handler
}

// newAdmin returns the admin server. What it shows beyond metrics and health is
// for those who may read the machine's files anyway: it is served on loopback, or
// where the web configuration asks for a password or a client certificate.
func newAdmin(l net.Listener, webConfig string, reg *prometheus.Registry, ready func() error, describe func(*http.Request) status, reload func(trigger string) reloaded, log *zap.Logger) (*admin, error) {
	authenticated, err := webConfigAuthenticates(webConfig)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg, EnableOpenMetrics: true}))
	mux.HandleFunc("GET /-/healthy", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "blessd is healthy") })
	mux.HandleFunc("GET /-/ready", func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			answer(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
			return
		}
		answer(w, http.StatusOK, "ready")
	})
	loopback := isLoopback(l.Addr())
	a := &admin{webConfig: webConfig, log: log, mux: mux}
	if loopback || authenticated {
		a.guard = func(next http.Handler) http.Handler { return ownHost(authenticated, l.Addr(), next) }
	} else {
		log.Warn("admin listener is reachable from outside without authentication: only /metrics, /-/healthy and /-/ready are served",
			zap.Stringer("listen", l.Addr()))
	}
	a.operate("GET /-/status", func(w http.ResponseWriter, q *http.Request) { answerJSON(w, describe(q)) })
	a.operate("POST /-/reload", answerReload(reload))
	a.server = &http.Server{
		Handler:           http.NewCrossOriginProtection().Handler(mux),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          zap.NewStdLog(log.WithOptions(zap.IncreaseLevel(zap.WarnLevel))),
	}
	return a, nil
}

// operate serves what is for operators alone. It must be called before serve.
func (a *admin) operate(pattern string, h http.HandlerFunc) {
	if a.guard != nil {
		a.mux.Handle(pattern, a.guard(h))
	}
}

// serve blocks until the server is shut down. TLS and basic auth come from the
// web configuration, which is Prometheus' own format.
func (a *admin) serve(l net.Listener) error {
	addrs, systemd := []string{l.Addr().String()}, false
	quiet := a.log.WithOptions(zap.IncreaseLevel(zap.WarnLevel))
	err := web.Serve(l, a.server, &web.FlagConfig{
		WebListenAddresses: &addrs, WebSystemdSocket: &systemd, WebConfigFile: &a.webConfig,
	}, slog.New(zapslog.NewHandler(quiet.Core())))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func answer(w http.ResponseWriter, code int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(code)
	fmt.Fprintln(w, text)
}

// answerJSON answers with v, for people and programs alike.
func answerJSON(w http.ResponseWriter, v any) {
	b, err := json.MarshalIndentWithOption(v, "", "  ", json.DisableHTMLEscape())
	if err != nil {
		answer(w, http.StatusInternalServerError, "the answer cannot be encoded")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(append(b, '\n')) // a client that has gone needs no answer
}

func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// ownHost refuses requests that name another host: a page on the internet can
// make a browser ask for a name that it has pointed at 127.0.0.1, and would then
// read the answer. Where a password is needed the browser does not have it.
func ownHost(authenticated bool, listen net.Addr, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		host := q.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		host = strings.Trim(host, "[]")
		own, _, _ := net.SplitHostPort(listen.String())
		ip := net.ParseIP(host)
		if !authenticated && host != "localhost" && host != own && (ip == nil || !ip.IsLoopback()) {
			answer(w, http.StatusMisdirectedRequest, "this listener answers to its own address only")
			return
		}
		// The page of another site may lead here, and do nothing else.
		site := q.Header.Get("Sec-Fetch-Site")
		if site != "" && site != "same-origin" && site != "none" && q.Header.Get("Sec-Fetch-Mode") != "navigate" {
			answer(w, http.StatusForbidden, "this listener answers to its own pages only")
			return
		}
		next.ServeHTTP(w, q)
	})
}

// webConfigAuthenticates tells whether the file makes clients prove themselves.
func webConfigAuthenticates(file string) (bool, error) {
	if file == "" {
		return false, nil
	}
	if err := web.Validate(file); err != nil {
		return false, fmt.Errorf("admin.web_config_file %s: %w", file, err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return false, fmt.Errorf("admin.web_config_file: %w", err)
	}
	var c struct {
		Users map[string]string `yaml:"basic_auth_users"`
		TLS   struct {
			ClientAuth string `yaml:"client_auth_type"`
		} `yaml:"tls_server_config"`
	}
	if err := yaml.Unmarshal(b, &c); err != nil {
		return false, fmt.Errorf("admin.web_config_file %s: %w", file, err)
	}
	return len(c.Users) > 0 || c.TLS.ClientAuth == "RequireAndVerifyClientCert", nil
}
