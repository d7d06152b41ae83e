package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/blessd/blessd/receiver"
)

// runCheck runs the command and returns what it wrote, to both sides.
func runCheck(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := newCheckCommand()
	cmd.SilenceUsage = true
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.Execute()
	return out.String(), err
}

// checkedConfig writes a configuration of every kind of endpoint with its keys.
func checkedConfig(t *testing.T) (file string, keys map[string]receiver.Key) {
	t.Helper()
	dir := t.TempDir()
	keys = make(map[string]receiver.Key)
	for name, content := range map[string]string{
		"acme": "s3cr3t-acme", "eu": "s3cr3t-eu", "parent": "s3cr3t-parent", "token": "s3cr3t-0123456789abcdefgh", "basic": "user:s3cr3t", "api": "s3cr3t-api",
	} {
		write(t, dir, name, content+"\n")
		keys[name] = receiver.Key{Value: receiver.Secret(content)}
	}
	return write(t, dir, "blessd.yaml", strings.ReplaceAll(`
data_dir: DIR/data
public_url: https://hooks.example.com
endpoints:
  - {name: acme, provider: sendclean, key_files: [DIR/acme]}
  - {name: rep, provider: sarv, key_files: [DIR/acme], token_files: [DIR/token]}
  - {name: eu, provider: mailgun, key_files: [DIR/eu], parent_key_files: [DIR/parent], manage: {domain: mg.example.com, api_key_file: DIR/api}}
  - {name: waits, provider: mailgun}
  - {name: ru, provider: enkod, token_files: [DIR/token], basic_auth_file: DIR/basic}
  - {name: open, provider: vision6, auth: none}
nats: {stream: {max_bytes: 10MiB}, quarantine: {max_bytes: 10MiB}}
journal: {max_bytes: 16MiB}
unverified: {max_bytes: 1MiB}
`, "DIR", dir)), keys
}

func TestCheck(t *testing.T) {
	file, keys := checkedConfig(t)
	out, err := runCheck(t, "-c", file)
	if err != nil {
		t.Fatalf("got %v:\n%s", err, out)
	}
	for _, want := range []string{
		"acme      sendclean  https://hooks.example.com/hooks/acme         signature                   1 (" + keys["acme"].Fingerprint() + ")",
		"rep       sarv       https://hooks.example.com/hooks/rep/<token>  token + signature reported  1 (" + keys["acme"].Fingerprint() + ")",
		"eu        mailgun    https://hooks.example.com/hooks/eu           signature                   2 (" + keys["eu"].Fingerprint() + ", " + keys["parent"].Fingerprint() + ")",
		"waits     mailgun    https://hooks.example.com/hooks/waits        signature, awaiting key     none",
		"ru        enkod      https://hooks.example.com/hooks/ru/<token>   token + basic auth          none                    1 (" + keys["token"].Fingerprint() + ")",
		"open      vision6    https://hooks.example.com/hooks/open         NOTHING",
		"about 9 MB of the NATS server's memory at 100 events/s",
		"about 90 MB of the NATS server's memory at 1000 events/s",
		"managed webhooks  eu (see `blessd webhooks plan`)",
		"warning: " + file + ":8: endpoints[3]: waits has no key yet",
		"warning: " + file + ":10: endpoints[5].auth: none",
		"ok, 2 warnings",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "s3cr3t") {
		t.Errorf("a secret is shown:\n%s", out)
	}
	if found, err := exists(filepath.Join(filepath.Dir(file), "data")); found || err != nil {
		t.Errorf("check made the data directory: %v, %v", found, err)
	}
}

func TestCheckJSON(t *testing.T) {
	file, _ := checkedConfig(t)
	out, err := runCheck(t, "-c", file, "-o", "json")
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in:\n%s", err, out)
	}
	if !r.OK || len(r.Problems) != 0 || len(r.Warnings) != 2 || r.Plan == nil || len(r.Plan.Endpoints) != 6 || r.Plan.Duplicates[1].Bytes != 90_000_000 {
		t.Errorf("got %s", out)
	}
	if w := r.Warnings[0]; w.Where != file || w.Line != 8 || w.Path != "endpoints[3]" || w.Mend == "" || !w.Warning {
		t.Errorf("got the warning %+v", w)
	}

	out, err = runCheck(t, "-c", filepath.Join("testdata", "config", "provider-unknown.yaml"), "-o", "json")
	if err == nil || err.Error() != "the configuration cannot be used: 1 problem" {
		t.Errorf("got the error %v", err)
	}
	out, _, _ = strings.Cut(out, "\nError: ")
	r = report{}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in:\n%s", err, out)
	}
	if r.OK || len(r.Problems) != 1 || r.Problems[0].Line != 3 || r.Plan != nil {
		t.Errorf("got %s", out)
	}
}

func TestCheckWithoutFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	out, err := runCheck(t, "--data-dir", dir)
	if err != nil {
		t.Fatalf("got %v:\n%s", err, out)
	}
	for _, want := range []string{"none: one endpoint per provider", "/hooks/enkod/<token>", "chosen by blessd  journal.max_bytes, nats.stream.max_bytes, nats.quarantine.max_bytes", "ok, 0 warnings"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
	if found, err := exists(dir); found || err != nil {
		t.Errorf("check made the data directory: %v, %v", found, err)
	}
}

// Sizes that were given and do not fit are the file's mistake.
func TestCheckSizes(t *testing.T) {
	dir := t.TempDir()
	file := write(t, dir, "blessd.yaml", "data_dir: "+dir+"/data\nendpoints: [{name: a, provider: enkod, auth: none}]\nnats: {stream: {max_bytes: 1000TiB}}\n")
	if out, err := runCheck(t, "-c", file); err == nil || !strings.Contains(out, ":3: nats.stream.max_bytes: the sizes do not fit the disk") {
		t.Errorf("%v:\n%s", err, out)
	}
}

func TestCheckOtherFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "web.yml", "basic_auth_users:\n  admin: [s3cr3t]\n")
	write(t, dir, "nats.conf", "authorization {\n  user: s3cr3t\n")
	write(t, dir, "data", "a file")
	file := write(t, dir, "blessd.yaml", strings.ReplaceAll(`
data_dir: DIR/data
admin: {web_config_file: DIR/web.yml}
nats: {embedded: {config_file: DIR/nats.conf}, stream: {max_bytes: 1000TiB}}
endpoints: [{name: a, provider: enkod, auth: none}]
`, "DIR", dir))
	out, err := runCheck(t, "-c", file)
	if err == nil {
		t.Error("got no error")
	}
	for _, want := range []string{
		":2: data_dir: " + dir + "/data is not a directory",
		":3: admin.web_config_file: file " + dir + "/web.yml is no web configuration of exporter-toolkit, about line 2",
		":4: nats.embedded.config_file: file " + dir + "/nats.conf is no configuration of nats-server",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "s3cr3t") {
		t.Errorf("a secret is shown:\n%s", out)
	}
}

// What follows from a mistake is not said beside it.
func TestCheckSaysItOnce(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "file", "a key")
	const open = "{name: o, provider: enkod, auth: none}"
	for _, c := range []struct {
		text     string
		want     string // the one problem
		warnings int
	}{
		{"endpoints: [{name: a, provider: mailgun, key_files: [DIR/file], signature: report}]", "signature: mailgun endpoints have no such setting", 0},
		{"public_url: ${NOPE}\nendpoints: [{name: a, provider: sendclean, key_files: [DIR/file]}]", "public_url: the environment variable NOPE", 0},
		{"endpoints: [{name: a, provider: mailgun, key_files: DIR/file}]", "key_files: is one value", 0},
		{"endpoints: [{name: a, provider: enkod, token_files: DIR/file}]", "token_files: is one value", 0},
		{"endpoints: [{name: a, provider: sarv, key_files: [DIR/file], signature: report, token_files: DIR/file}]", "token_files: is one value", 0},
		{"endpoints: [{name: \"${NOPE}\", provider: mailgun}]", "name: the environment variable NOPE", 0},
		{"endpoints: [{name: a, provider: mailgun, key_files: [DIR/file]}]\ndata_dir: DIR/file", "data_dir: DIR/file is not a directory", 0},
		{"endpoints: [{name: a, provider: mailgun, key_files: [DIR/file]}]\ndata_dir: DIR/file/data", "data_dir: DIR/file/data is not a directory", 0},
		{"endpoints: [" + open + "]\nnats: {url: \"${NOPE}\", creds_file: DIR/file}", "nats.url: the environment variable NOPE", 1},
		{"endpoints: [" + open + "]\nlimits: {max_body: x, max_in_flight_bytes: 4MiB}", "limits.max_body: \"x\" is no size", 1},
		{"endpoints: [" + open + "]\nlisten: x:y:z\nadmin: {listen: 127.0.0.1:8081}", "listen: \"x:y:z\" is no address", 1},
		{"endpoints: [" + open + "]\nlisten: ${NOPE}\nadmin: {listen: 127.0.0.1:8080}", "listen: the environment variable NOPE", 1},
	} {
		text := c.text
		if !strings.Contains(text, "data_dir") {
			text += "\ndata_dir: DIR/data"
		}
		file := write(t, dir, "blessd.yaml", strings.ReplaceAll(text, "DIR", dir)+"\n")
		out, err := runCheck(t, "-c", file)
		if want := strings.ReplaceAll(c.want, "DIR", dir); err == nil || !strings.Contains(out, want) || !strings.Contains(out, "\n1 problem, "+count(c.warnings, "warning")) {
			t.Errorf("%s:\n%v\n%s", c.text, err, out)
		}
	}
	out, err := runCheck(t, "--data-dir", filepath.Join(dir, "file"))
	if err == nil || !strings.Contains(out, "\n1 problem, 0 warnings") {
		t.Errorf("without a file, %v:\n%s", err, out)
	}
}

// What serve would refuse of an external server's files, check says too, once.
func TestCheckClientFiles(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "garbage", "s3cr3t\n")
	t.Setenv("XDG_CONFIG_HOME", dir)
	for _, c := range []struct{ nats, want string }{
		{"{url: 'nats://n1', creds_file: DIR/garbage}", "nats.creds_file: file DIR/garbage cannot be used"},
		{"{url: 'nats://n1', nkey_file: DIR/garbage}", "nats.nkey_file: file DIR/garbage cannot be used"},
		{"{url: 'nats://n1', tls: {ca_file: DIR/garbage}}", "nats.tls.ca_file: file DIR/garbage cannot be used"},
		{"{url: 'nats://n1', tls: {cert_file: DIR/garbage, key_file: DIR/garbage}}", "nats.tls.cert_file: file DIR/garbage cannot be used"},
		{"{url: 'nats://n1', tls: {cert_file: DIR/garbage, key_file: DIR/none}}", "nats.tls.key_file: file DIR/none: stat"},
		{"{url: 'nats://n1', creds_file: DIR/none}", "nats.creds_file: file DIR/none: stat"},
		{"{context: nope}", `nats.context: context "nope" cannot be used: there is none of that name`},
	} {
		file := write(t, dir, "blessd.yaml", strings.ReplaceAll("data_dir: DIR/data\njournal: {max_bytes: 1MiB}\nlimits: {max_body: 512KiB}\nendpoints: [{name: a, provider: enkod, auth: none}]\nnats: "+c.nats+"\n", "DIR", dir))
		out, err := runCheck(t, "-c", file)
		if want := file + ":5: " + strings.ReplaceAll(c.want, "DIR", dir); err == nil || !strings.Contains(out, want) || !strings.Contains(out, "\n1 problem, ") {
			t.Errorf("%s: %v\nwant %s in:\n%s", c.nats, err, want, out)
		}
		if strings.Contains(out, "s3cr3t") {
			t.Errorf("a secret is shown:\n%s", out)
		}
	}
}

// TestNoSecretIsShown puts a secret wherever a misguided hand could, and looks for
// it in everything that is said.
func TestNoSecretIsShown(t *testing.T) {
	const canary = "S3cr3t+Canary/0123456789"
	const ok = "endpoints: [{name: acme, provider: mailgun}]\n"
	for name, text := range map[string]string{
		"unknown key":           "endpoints:\n  - name: acme\n    provider: mailgun\n    key: CANARY\n",
		"unknown key, quoted":   "endpoints:\n  - name: acme\n    provider: mailgun\n    key: \"CANARY\"\n",
		"unknown key, flow":     "endpoints: [{name: acme, key: CANARY, provider: mailgum}]\n",
		"unknown key, after":    "endpoints: [{name: acme, provider: mailgum, key: 'CANARY'}]\n",
		"unknown key, list":     "endpoints: [{name: acme, provider: mailgun, keys: [a, CANARY], max_age: x}]\n",
		"unknown key, nested":   ok + "secrets: {a: {b: [CANARY]}, b: CANARY}\n",
		"unknown key, block":    "endpoints:\n  - name: acme\n    key: |\n      one\n      CANARY\n    provider: mailgum\n",
		"unknown key, folded":   "endpoints:\n  - {name: acme, key: >\n      CANARY\n    , provider: mailgum}\n",
		"unknown key, anchor":   ok + "key: &a CANARY\nlisten: *a\n",
		"unknown key, tag":      ok + "key: !!str CANARY\n",
		"no key at all":         "CANARY\n",
		"no key in a mapping":   ok + "CANARY: x\n",
		"comment":               "listen: x # CANARY\n" + ok,
		"key path":              "endpoints: [{name: acme, provider: mailgun, key_files: [CANARY], max_age: x}]\n",
		"key path, scalar":      "endpoints:\n  - name: acme\n    provider: mailgun\n    key_files: CANARY\n",
		"key path, mapping":     "endpoints:\n  - name: acme\n    provider: mailgun\n    key_files: {a: CANARY}\n",
		"basic auth":            "endpoints: [{name: acme, provider: mailgun, basic_auth_file: 'user:CANARY'}]\n",
		"token path":            "endpoints: [{name: acme, provider: enkod, token_files: [CANARY]}]\n",
		"api key path":          "endpoints: [{name: acme, provider: mailgun, manage: {domain: x.example, api_key_file: CANARY}}]\n",
		"creds path":            ok + "nats: {url: 'nats://n1', creds_file: CANARY}\n",
		"web config path":       ok + "admin: {web_config_file: CANARY}\n",
		"user in NATS URL":      ok + "nats: {url: 'nats://u:CANARY@n1:4222,nats://n2:x'}\n",
		"token in NATS URL":     ok + "nats: {url: 'nats://CANARY@n1:4222'}\n",
		"user in public_url":    ok + "public_url: https://u:CANARY@h.example\n",
		"query in public_url":   ok + "public_url: https://h.example/?token=CANARY\n",
		"token in url":          "endpoints: [{name: acme, provider: sendclean, url: 'https://h.example/hooks/acme/CANARY#', signature: x}]\n",
		"anchored url":          "endpoints: [{name: acme, provider: sendclean, url: &u 'https://h.example/hooks/acme/CANARY#', signature: x}]\n",
		"syntax, value":         ok + "key: CANARY: x\n",
		"syntax, quote":         ok + "key: \"CANARY\n",
		"syntax, next line":     ok + "listen: [CANARY\nnats: x\n",
		"syntax, no colon":      "endpoints:\n  - name: acme\n   CANARY\n",
		"syntax, tab":           ok + "key:\n\tCANARY\n",
		"syntax, known key":     ok + "listen: a: CANARY\n",
		"tag":                   ok + "listen: !CANARY x\n",
		"alias":                 ok + "listen: *CANARY\n",
		"anchor":                ok + "listen: &CANARY x\n",
		"scalar for a mapping":  ok + "limits: CANARY\n",
		"scalar for a list":     "endpoints: CANARY\n",
		"mapping for a scalar":  ok + "listen: {key: CANARY}\n",
		"list for a scalar":     ok + "listen: [CANARY]\n",
		"control character":     "endpoints: [{name: acme, provider: mailgun, key_files: [\"CANARY\\n\"]}]\n",
		"environment":           ok + "listen: ${CANARY_VARIABLE}\nlog: {level: \"${CANARY_VARIABLE}\"}\n",
		"environment, key file": "endpoints: [{name: acme, provider: mailgun, key_files: [\"${CANARY_VARIABLE}\"]}]\n",
		"environment, list":     ok + "nats: {stream: {replicas: \"${CANARY_VARIABLE}\", max_age: \"${CANARY_VARIABLE}\", name: \"${CANARY_VARIABLE}\"}}\n",
		"two documents":         ok + "---\nkey: CANARY\n",
		"merge":                 ok + "<<: {key: CANARY}\n",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("CANARY_VARIABLE", canary)
			t.Setenv("BLESSD_DATA_DIR", dir)
			file := write(t, dir, "blessd.yaml", strings.ReplaceAll(text, "CANARY", canary))
			if strings.Contains(text, "CANARY_VARIABLE") {
				file = write(t, dir, "blessd.yaml", text)
			}
			for _, format := range []string{"text", "json"} {
				out, err := runCheck(t, "-c", file, "-o", format)
				if err == nil {
					t.Fatalf("got no error:\n%s", out)
				}
				for _, part := range []string{canary, "S3cr3t", "Canary", "0123456789"} {
					if strings.Contains(out, part) {
						t.Errorf("%q is shown:\n%s", part, out)
					}
				}
			}
			_, err := loadConfig(file, os.LookupEnv)
			if err != nil && strings.Contains(err.Error(), "S3cr3t") {
				t.Errorf("the error shows it:\n%v", err)
			}
		})
	}
}

// TestWeakAcknowledgement warns of single replicas on a server that is not ours.
func TestWeakAcknowledgement(t *testing.T) {
	for _, test := range []struct {
		name, settings string
		want           []string // where warnings stand, and a part of them
	}{
		{"embedded", "acknowledge: stream", nil},
		{"journal", `nats: {url: "nats://n1:4222"}`, []string{"nats.stream.replicas", "stays in the journal for 4m"}},
		{"stream", "acknowledge: stream\nnats: {url: \"nats://n1:4222\"}", []string{"nats.stream.replicas", "answered with 200"}},
		{"replicated", "acknowledge: stream\nnats: {url: \"nats://n1:4222\", stream: {replicas: 3}}", nil},
		{"no journal to size", "acknowledge: stream\njournal: {max_bytes: 1GiB}", []string{"journal.max_bytes", "there is no journal"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, found := parseConfig("blessd.yaml", []byte(test.settings+"\nendpoints: [{name: acme, provider: mailgun}]\n"), func(string) (string, bool) { return "", false })
			found = append(found, c.validate()...)
			var got string
			for _, p := range found {
				if !p.Warning {
					t.Errorf("an error: %s", p)
				}
				got += p.String()
			}
			if len(found) != len(test.want)/2 {
				t.Errorf("%d warnings, want %d:\n%s", len(found), len(test.want)/2, got)
			}
			for _, w := range test.want {
				if !strings.Contains(got, w) {
					t.Errorf("no %q in:\n%s", w, got)
				}
			}
		})
	}
}
