// Command playprovider plays a provider's management API on loopback, to try
// `blessd webhooks` without an account:
//
//	playprovider sendclean DIR    # also sarv, mailgun, vision6: serves until it is interrupted
//	playprovider deliver DIR      # has it post [EVENTS], a JSON array, to its webhooks (sendclean, sarv)
//	playprovider show DIR         # what is registered, and what was wrong with the calls
//	playprovider put DIR URL      # registers a URL as somebody else would
//	playprovider reset DIR        # gives every webhook a new key (sendclean, sarv)
//	playprovider press FILE N     # posts the first N of enKod's tests to the URL that
//	                              # FILE has, which `blessd webhooks add -o json` wrote
//
// DIR receives the credentials, each in a file; base_url with the address of the API;
// and ca.pem, the certificate that it serves TLS with, for SSL_CERT_FILE.
package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/blessd/blessd/manage/manageapi"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "playprovider:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return errors.New("usage: playprovider sendclean|sarv|mailgun|vision6|deliver|show|put|reset DIR [EVENTS|URL], or press FILE N")
	}
	switch what, dir := args[0], args[1]; what {
	case "sendclean", "sarv", "mailgun", "vision6":
		return serve(ctx, what, dir)
	case "press":
		return press(ctx, dir, args[2:])
	case "deliver", "show", "put", "reset":
		return control(what, dir, strings.Join(args[2:], " "))
	default:
		return fmt.Errorf("no provider %q", what)
	}
}

// domain is Mailgun's.
const domain = "mg.example.com"

// serve plays the provider until ctx ends.
func serve(ctx context.Context, provider, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	secrets := map[string]string{}
	secret := func(name string) string {
		secrets[name] = rand.Text()
		return secrets[name]
	}
	var api http.Handler
	var base string
	var act func(ctx context.Context, what, argument string) (any, error)
	switch provider {
	case "mailgun":
		m := manageapi.NewMailgun(domain, secret("api_key"))
		api, base, act = m, "", actMailgun(m)
	case "vision6":
		v := manageapi.NewVision6(secret("api_key"))
		api, base, act = v, "/api/jsonrpcserver?version=3.3", actVision6(v)
	default:
		s := manageapi.NewSendClean(provider, secret("owner_id"), secret("token"), nil)
		api, base, act = s, "/v1.0/", actSendClean(s)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	certificate, ca, err := certificate()
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/", api)
	mux.HandleFunc("POST /play/{what}", func(w http.ResponseWriter, q *http.Request) {
		argument, err := io.ReadAll(http.MaxBytesReader(w, q.Body, 1<<20))
		if err == nil {
			var v any
			if v, err = act(q.Context(), q.PathValue("what"), string(argument)); err == nil {
				e := json.NewEncoder(w)
				e.SetEscapeHTML(false)
				e.SetIndent("", "  ")
				err = e.Encode(v)
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, TLSConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12}}
	secrets["ca.pem"] = ca
	// Last, so that whoever waits for it finds all the others.
	for name, content := range secrets {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content+"\n"), 0o600); err != nil {
			return err
		}
	}
	address := filepath.Join(dir, "base_url")
	if err := os.WriteFile(address+".new", []byte("https://"+l.Addr().String()+base+"\n"), 0o600); err != nil {
		return err
	}
	if err := os.Rename(address+".new", address); err != nil {
		return err
	}
	context.AfterFunc(ctx, func() { _ = server.Close() }) // nobody waits for an answer
	if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func actSendClean(s *manageapi.SendClean) func(context.Context, string, string) (any, error) {
	return func(ctx context.Context, what, argument string) (any, error) {
		switch what {
		case "put":
			return s.Put(manageapi.Webhook{URL: argument, Event: "open", StoreLog: "Disable"}), nil
		case "reset":
			s.Reset()
			return len(s.Webhooks()), nil
		case "deliver":
			var answers []string
			for _, w := range s.Webhooks() {
				status, body, err := s.Deliver(ctx, w.ID, []byte(argument))
				if err != nil {
					answers = append(answers, "no answer")
					continue
				}
				answers = append(answers, fmt.Sprintf("%d %s", status, body))
			}
			return answers, nil
		}
		return map[string]any{"webhooks": s.Webhooks(), "wrong": s.Wrong()}, nil
	}
}

func actMailgun(m *manageapi.Mailgun) func(context.Context, string, string) (any, error) {
	return func(_ context.Context, what, argument string) (any, error) {
		switch what {
		case "put":
			for _, name := range m.Names() {
				m.Put(name, append(m.URLs(name), argument)...)
			}
			return "ok", nil
		case "show":
			all := map[string][]string{}
			for _, name := range m.Names() {
				if urls := m.URLs(name); len(urls) > 0 {
					all[name] = urls
				}
			}
			return map[string]any{"webhooks": all, "wrong": m.Wrong()}, nil
		}
		return nil, fmt.Errorf("mailgun does not %s here", what)
	}
}

func actVision6(v *manageapi.Vision6) func(context.Context, string, string) (any, error) {
	return func(_ context.Context, what, _ string) (any, error) {
		if what != "show" {
			return nil, fmt.Errorf("vision6 does not %s here", what)
		}
		return map[string]any{"webhooks": v.Webhooks(), "wrong": v.Wrong()}, nil
	}
}

// press posts enKod's tests.
func press(ctx context.Context, file string, args []string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var guide struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal(b, &guide); err != nil {
		return err
	}
	n, err := strconv.Atoi(strings.Join(args, " "))
	if err != nil {
		return err
	}
	return manageapi.PressEnkod(ctx, http.DefaultClient, guide.URL, n)
}

// certificate makes one for loopback that vouches for itself.
func certificate() (tls.Certificate, string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "playprovider"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, "", err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), nil
}

// control talks to a provider that is played already.
func control(what, dir, argument string) error {
	base, err := os.ReadFile(filepath.Join(dir, "base_url"))
	if err != nil {
		return fmt.Errorf("no provider is played in %s: %w", dir, err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	host := strings.Join(strings.SplitN(strings.TrimSpace(string(base)), "/", 4)[:3], "/")
	answer, err := client.Post(host+"/play/"+what, "text/plain", bytes.NewReader([]byte(argument)))
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return errors.New(strings.TrimSpace(string(body)))
	}
	_, err = os.Stdout.Write(body)
	return err
}
