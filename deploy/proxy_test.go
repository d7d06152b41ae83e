package deploy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/blessd/blessd/internal/program"
	"github.com/blessd/blessd/receiver"
	"github.com/blessd/blessd/testdata"
)

const publicName = "hooks.example.com"

// proxy is a real proxy with a configuration of proxy/, on a free port.
type proxy struct {
	*program.Process
	address string
	roots   *x509.CertPool
	logs    string // a directory
}

// certificate makes a self-signed one for publicName.
func certificate(t *testing.T, dir string) (cert, key string, roots *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: publicName}, DNSNames: []string{publicName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	private8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	program.Write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	program.Write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private8})))
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots = x509.NewCertPool()
	roots.AddCert(parsed)
	return cert, key, roots
}

// replace changes the parts of a configuration that are this machine's, each of
// which must be there.
func replace(t *testing.T, text string, changes ...string) string {
	t.Helper()
	for i := 0; i < len(changes); i += 2 {
		if !strings.Contains(text, changes[i]) {
			t.Fatalf("the configuration has no %q", changes[i])
		}
		text = strings.ReplaceAll(text, changes[i], changes[i+1])
	}
	return text
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// proxies start the proxies in front of an upstream.
var proxies = map[string]func(t *testing.T, upstream string) *proxy{
	"nginx": func(t *testing.T, upstream string) *proxy {
		nginx := program.Need(t, "nginx", "nginx-light")
		dir := t.TempDir()
		p := &proxy{address: freeAddress(t), logs: dir}
		cert, key, roots := certificate(t, dir)
		p.roots = roots
		site := replace(
			t, read(t, "proxy/nginx.conf"),
			"listen 443 ssl http2;", "listen "+p.address+" ssl http2;",
			"    listen [::]:443 ssl http2;\n", "",
			"/etc/ssl/hooks.example.com.pem", cert, "/etc/ssl/hooks.example.com.key", key,
			"http://127.0.0.1:8080", "http://"+upstream,
			"/var/log/nginx", dir,
		)
		user := ""
		if os.Getuid() == 0 {
			user = "user root;" // for the directory of the test
		}
		// gzip on, as Debian has it, to see that the site turns it off.
		program.Write(t, filepath.Join(dir, "nginx.conf"), fmt.Sprintf(`%s
			daemon off; pid %s/pid; error_log %s/error.log;
			events {}
			http {
				access_log %s/access.log;
				gzip on; gzip_types *; gzip_min_length 1;
				client_body_temp_path %s/body; proxy_temp_path %s/proxy; fastcgi_temp_path %s/f; uwsgi_temp_path %s/u; scgi_temp_path %s/s;
				%s
			}`, user, dir, dir, dir, dir, dir, dir, dir, dir, site))
		p.Process = program.Start(t, nil, nginx, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
		return p
	},
	"caddy": func(t *testing.T, upstream string) *proxy {
		caddy := program.Need(t, "caddy", "caddy")
		dir := t.TempDir()
		p := &proxy{address: freeAddress(t), logs: dir}
		cert, key, roots := certificate(t, dir)
		p.roots = roots
		_, port, _ := net.SplitHostPort(p.address)
		program.Write(t, filepath.Join(dir, "Caddyfile"), replace(
			t, read(t, "proxy/Caddyfile"),
			"\n{\n", "\n{\n\tadmin off\n\tauto_https disable_redirects\n",
			"\nhooks.example.com {\n", "\nhttps://hooks.example.com:"+port+" {\n\tbind 127.0.0.1\n\ttls "+cert+" "+key+"\n",
			"127.0.0.1:8080", upstream,
		))
		env := []string{"HOME=" + dir, "XDG_DATA_HOME=" + dir, "XDG_CONFIG_HOME=" + dir}
		p.Process = program.Start(t, env, caddy, "run", "--config", filepath.Join(dir, "Caddyfile"), "--adapter", "caddyfile")
		return p
	},
}

func (p *proxy) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := tls.Dial("tcp", p.address, &tls.Config{RootCAs: p.roots, ServerName: publicName})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return c
}

// client speaks HTTP/1.1 or HTTP/2 with the proxy, whatever the URL says.
func (p *proxy) client(http2 bool) *http.Client {
	return &http.Client{
		Timeout:       time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", p.address)
			},
			TLSClientConfig:    &tls.Config{RootCAs: p.roots, ServerName: publicName},
			ForceAttemptHTTP2:  http2,
			DisableCompression: true,
		},
	}
}

func (p *proxy) ready(t *testing.T) {
	t.Helper()
	program.Wait(t, "the proxy to listen", func() bool {
		c, err := net.Dial("tcp", p.address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// TestProxies sends what every provider sends through each proxy. blessd verifies
// all of it, and the answers arrive as it made them.
func TestProxies(t *testing.T) {
	config, files := program.AllProviders("https://" + publicName)
	for name, start := range proxies {
		t.Run(name, func(t *testing.T) {
			b := program.Serve(t, config, files)
			p := start(t, b.Hooks)
			p.ready(t)
			for _, http2 := range []bool{false, true} {
				client := p.client(http2)
				for _, provider := range receiver.Providers() {
					post := "https://" + publicName + "/hooks/" + provider
					if provider == "enkod" || provider == "vision6" {
						post += "/" + program.Token
					}
					samples, err := testdata.Samples.ReadDir(provider)
					if err != nil {
						t.Fatal(err)
					}
					for _, f := range samples {
						body, err := testdata.Samples.ReadFile(provider + "/" + f.Name())
						if err != nil {
							t.Fatal(err)
						}
						plain := receiver.Plain{Provider: provider, URL: post, Key: program.Key, Now: time.Now(), Body: bytes.TrimSpace(body), ContentType: "application/json"}
						if filepath.Ext(f.Name()) == ".form" {
							plain.ContentType = "application/x-www-form-urlencoded"
						}
						if provider == "sendclean" || provider == "sarv" {
							plain.Body = []byte(url.Values{"sarvtes_events": {"[" + string(plain.Body) + "]"}}.Encode())
							plain.ContentType = "application/x-www-form-urlencoded"
						}
						signed, err := receiver.Sign(plain)
						if err != nil {
							t.Fatal(err)
						}
						code, header, answer := deliver(t, client, http.MethodPost, post, signed.Header, signed.ContentType, signed.Body)
						if code != http.StatusOK || answer != receiver.Acknowledgement(provider) {
							t.Errorf("%s %s: %d %q, want 200 %q", provider, f.Name(), code, answer, receiver.Acknowledgement(provider))
						}
						if header.Get("Content-Encoding") != "" || header.Get("Content-Type") != "text/plain; charset=utf-8" {
							t.Errorf("%s %s: answered with %v", provider, f.Name(), header)
						}
					}
					for _, method := range []string{http.MethodGet, http.MethodHead} { // the check when it is registered
						if code, _, _ := deliver(t, client, method, post, nil, "", nil); code != http.StatusOK {
							t.Errorf("%s %s: %d, want 200", method, provider, code)
						}
					}
				}
				for size, want := range map[int]int{8 << 20: http.StatusOK, 8<<20 + 1: http.StatusRequestEntityTooLarge} {
					code, _, answer := deliver(t, client, http.MethodPost, "https://"+publicName+"/hooks/vision6/"+program.Token, nil, "application/json", make([]byte, size))
					if code != want {
						t.Errorf("%d bytes: %d %.100s, want %d", size, code, answer, want)
					}
				}
				for _, path := range []string{"/", "/metrics", "/-/ready", "/hooksx", "/x/hooks/enkod"} {
					if code, _, _ := deliver(t, client, http.MethodGet, "https://"+publicName+path, nil, "", nil); code != http.StatusNotFound {
						t.Errorf("%s: %d, want 404", path, code)
					}
				}
			}
			// blessd itself refused the long one.
			if text := metrics(t, b); !strings.Contains(text, `blessd_webhook_rejected_total{endpoint="vision6",provider="vision6",reason="too_large"} 2`) {
				t.Error("the body that is too long was not refused by blessd")
			}
		})
	}
}

func deliver(t *testing.T, client *http.Client, method, target string, header http.Header, contentType string, body []byte) (int, http.Header, string) {
	t.Helper()
	q, err := http.NewRequest(method, target, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(q.Header, header)
	q.Header.Set("Content-Type", contentType)
	q.Header.Set("Accept-Encoding", "gzip, br")
	a, err := client.Do(q)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return a.StatusCode, a.Header, string(text)
}

// seen is a request as the upstream of a proxy gets it.
type seen struct {
	line   string
	header http.Header
	body   []byte
}

// upstream records requests from the wire: the line is not parsed.
func upstream(t *testing.T) (string, <-chan seen) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	requests := make(chan seen, 100)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed at the end of the test
			}
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				line, err := r.ReadString('\n')
				if err != nil {
					return
				}
				// Header and body are read by net/http, with another line before them.
				q, err := http.ReadRequest(bufio.NewReader(io.MultiReader(strings.NewReader("POST / HTTP/1.1\r\n"), r)))
				if err != nil {
					return
				}
				body, err := io.ReadAll(q.Body)
				if err != nil {
					return
				}
				requests <- seen{line: strings.TrimSpace(line), header: q.Header, body: body}
				fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
			}()
		}
	}()
	return l.Addr().String(), requests
}

// TestProxiesChangeNothing compares what goes into a proxy with what comes out.
func TestProxiesChangeNothing(t *testing.T) {
	targets := []string{
		"/hooks/acme", "/hooks/acme/", "/hooks/acme/to%2Fken", "/hooks/acme/%41%7e", "/hooks/acme/a%20b%2B+c", "/hooks/a//b", "/hooks/acme/%C3%A9%FF",
		"/hooks/acme?", "/hooks/acme?b=2&a=1&&c", "/hooks/acme?x=%20+%2B;y=/?:@", "/hooks/acme?x=%zz", "/hooks/acme/(a)'!*,;:@&=$~-_.",
		"/hooks/acme?" + strings.Repeat("q", 4000),
	}
	noise := make([]byte, 8<<20)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	bodies := [][]byte{nil, []byte("a=1&b=%20+&c"), []byte("\x00\r\n\r\n\xff\xfe"), noise[:70_000], noise}
	for name, start := range proxies {
		t.Run(name, func(t *testing.T) {
			address, requests := upstream(t)
			p := start(t, address)
			p.ready(t)
			send := func(target, head string, body []byte) seen {
				t.Helper()
				c := p.dial(t)
				defer c.Close()
				if _, err := c.Write(append([]byte("POST "+target+" HTTP/1.1\r\nHost: "+publicName+"\r\nConnection: close\r\n"+head+"\r\n"), body...)); err != nil {
					t.Fatal(err)
				}
				status, err := bufio.NewReader(c).ReadString('\n')
				if err != nil || !strings.Contains(status, " 200 ") {
					t.Fatalf("%s: answered %q, %v\n%s", target, status, err, p.Output())
				}
				return <-requests
			}
			const signature = "X-SendCleanTES-SIGNATURE: a/b+c=\r\nX_Odd: 1\r\nContent-Type: multipart/form-data; boundary=\"a b\"\r\n"
			for _, target := range targets {
				got := send(target, signature+"Content-Length: 3\r\n", []byte("x=1"))
				if want := "POST " + target + " HTTP/1.1"; got.line != want {
					t.Errorf("%q arrived as %q", want, got.line)
				}
				for header, want := range map[string]string{"X-Sendcleantes-Signature": "a/b+c=", "X_odd": "1", "Content-Type": `multipart/form-data; boundary="a b"`} {
					if !slices.Equal(got.header[header], []string{want}) {
						t.Errorf("%s: %q arrived as %q", header, want, got.header[header])
					}
				}
			}
			for _, body := range bodies {
				got := send("/hooks/acme", "Content-Length: "+strconv.Itoa(len(body))+"\r\n", body)
				if !bytes.Equal(got.body, body) {
					t.Errorf("%d bytes arrived as %d others", len(body), len(got.body))
				}
				if len(body) == 0 {
					continue
				}
				var chunks bytes.Buffer
				for rest := body; len(rest) > 0; {
					n := min(len(rest), 10_000)
					fmt.Fprintf(&chunks, "%x\r\n%s\r\n", n, rest[:n])
					rest = rest[n:]
				}
				chunks.WriteString("0\r\n\r\n")
				if got := send("/hooks/acme", "Transfer-Encoding: chunked\r\n", chunks.Bytes()); !bytes.Equal(got.body, body) {
					t.Errorf("%d bytes in chunks arrived as %d others", len(body), len(got.body))
				}
			}
		})
	}
}

// TestProxiesKeepTokens looks for a token in what the proxies log, also when
// nobody is behind them.
func TestProxiesKeepTokens(t *testing.T) {
	for name, start := range proxies {
		t.Run(name, func(t *testing.T) {
			p := start(t, freeAddress(t))
			p.ready(t)
			target := "https://" + publicName + "/hooks/enkod/" + program.Token
			code, _, _ := deliver(t, p.client(false), http.MethodPost, target, nil, "application/json", []byte("{}"))
			if code != http.StatusBadGateway {
				t.Errorf("with nobody behind it: %d, want 502", code)
			}
			_ = p.End(syscall.SIGTERM) // so that all is written; its status is of no interest
			logs := p.Output()
			err := filepath.WalkDir(p.logs, func(path string, entry os.DirEntry, err error) error {
				if err == nil && entry.Type().IsRegular() {
					logs += read(t, path)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if strings.Contains(logs, program.Token) {
				t.Errorf("the token is in the logs:\n%s", logs)
			}
		})
	}
}
