package main

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// A start that fails says what to do about it.
func TestStartAdvice(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	file := write(t, t.TempDir(), "file", "")
	for _, c := range []struct {
		name string
		set  func(*overrides)
		want []string
	}{
		{"listen", func(o *overrides) { o.Listen = taken.Addr().String() }, []string{"another program has it", "--listen or `listen:`", "port 0"}},
		{"admin", func(o *overrides) { o.AdminListen = taken.Addr().String() }, []string{"another program has it", "--admin-listen or `admin.listen:`"}},
		{"NATS", func(o *overrides) { o.NATSListen = taken.Addr().String() }, []string{"another program has it", "--nats-listen or `nats.embedded.listen:`"}},
		{"address", func(o *overrides) { o.Listen = "192.0.2.1:0" }, []string{"does not have that address", "--listen"}},
		{"data directory", func(o *overrides) { o.DataDir = filepath.Join(file, "data") }, []string{"data directory", "--data-dir or `data_dir:`"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := overrides{Listen: "127.0.0.1:0", AdminListen: "127.0.0.1:0", NATSListen: "127.0.0.1:0", DataDir: t.TempDir()}
			c.set(&o)
			cfg, err := o.load(envOf())
			if err == nil {
				d := newDaemon(cfg, zap.NewNop())
				if err = d.Start(t.Context()); err == nil {
					t.Fatal("it started", d.Stop(t.Context()))
				}
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is not in: %v", want, err)
				}
			}
		})
	}
}

// The greeting names the file, and per endpoint the URL and the proof.
func TestGreeting(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "token", "s3cr3t-0123456789abcdefgh\n")
	file := write(t, dir, "a file.yaml", strings.ReplaceAll(`
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
public_url: https://hooks.example.com
data_dir: DIR/data
endpoints:
  - {name: ru, provider: enkod, token_files: [DIR/token]}
  - {name: waits, provider: mailgun}
nats: {embedded: {listen: "127.0.0.1:0"}}
`, "DIR", dir))
	cfg, err := loadConfig(file, envOf())
	if err != nil {
		t.Fatal(err)
	}
	d := newDaemon(cfg, zap.NewNop())
	if err := d.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	var out bytes.Buffer
	if err := d.greet(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"  ru     enkod    https://hooks.example.com/hooks/ru/<token>  token\n",
		"  waits  mailgun  https://hooks.example.com/hooks/waits       signature, awaiting key\n",
		"waits awaits its key: deliveries are answered 503 until it is in key_files or in " + dir + "/data/keys/waits/provider.key",
		shellWord(os.Args[0]) + " tail -c '" + file + "'\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "s3cr3t") {
		t.Errorf("a secret is shown:\n%s", out.String())
	}

	answer := httptest.NewRecorder()
	q := httptest.NewRequest(http.MethodGet, "/-/status", nil)
	q.Host = "localhost"
	d.admin.server.Handler.ServeHTTP(answer, q)
	if body := answer.Body.String(); answer.Code != http.StatusOK || !strings.Contains(body, `"/hooks/ru/<token>"`) {
		t.Errorf("status %d: %s", answer.Code, body)
	}
}

// Where a program reads the log, everything on stderr is the log.
func TestWarningsAreLogged(t *testing.T) {
	for format, lines := range map[string]int{"json": 0, "console": 1} {
		cfg := load(t, "data_dir: /x\nlog: {format: "+format+"}\nendpoints: [{name: a, provider: enkod, auth: none}]\n", envOf())
		core, logged := observer.New(zap.WarnLevel)
		var talk bytes.Buffer
		warn(cfg, zap.New(core), &talk)
		if strings.Count(talk.String(), "warning: ") != lines || logged.Len() != 1-lines {
			t.Errorf("%s: logged %d, said %q", format, logged.Len(), talk.String())
		}
		for _, e := range logged.All() {
			if s, _ := e.ContextMap()["problem"].(string); !strings.Contains(s, ":3: endpoints[0].auth: none") {
				t.Errorf("logged %v", e.ContextMap())
			}
		}
	}
}
