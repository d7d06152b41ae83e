package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/blessd/blessd/receiver"
)

// The names within <data_dir>/keys/<endpoint>/.
const (
	keysDir         = "keys"
	tokenFile       = "token"        // generated, without a configuration file
	sampleKeyFile   = "sample.key"   // generated, without a configuration file
	sampleTokenFile = "sample.token" // generated, without a configuration file
	providerKeyFile = "provider.key" // where an operator without a configuration file puts the real one
	managedSuffix   = ".key"
)

const (
	// weakSecret characters are fewer than 128 bits, however they were chosen.
	weakSecret = 22
	// shortSecret characters can be guessed.
	shortSecret = 16
	// maxSecretBytes is more than any key has: a larger file is no key file.
	maxSecretBytes = 4 << 10
)

// secretKind is what a secret is for; it decides which contents are right.
type secretKind int

const (
	signatureKey secretKind = iota
	urlToken
	userPassword
)

// readKey reads one secret. The file holds nothing else; one newline at its end,
// of either kind, is not part of it. The error names the file and never quotes it.
func readKey(file string, kind secretKind) (receiver.Key, error) {
	key := receiver.Key{Source: file}
	info, err := os.Stat(file)
	if err != nil {
		return key, err
	}
	// Opening a pipe could wait for ever.
	if !info.Mode().IsRegular() {
		return key, errors.New("not a regular file")
	}
	f, err := os.Open(file)
	if err != nil {
		return key, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	if err != nil {
		return key, err
	}
	if len(b) > maxSecretBytes {
		return key, fmt.Errorf("larger than %d bytes, so it holds more than one secret", maxSecretBytes)
	}
	if rest, found := bytes.CutSuffix(b, []byte("\n")); found {
		b = bytes.TrimSuffix(rest, []byte("\r"))
	}
	if err := checkSecret(b, kind); err != nil {
		return key, err
	}
	key.Value = receiver.Secret(b)
	return key, nil
}

func checkSecret(b []byte, kind secretKind) error {
	switch {
	case len(b) == 0:
		return errors.New("empty")
	case len(bytes.TrimSpace(b)) == 0:
		return errors.New("nothing but white space")
	case bytes.ContainsAny(b, "\r\n"):
		return errors.New("more than one line; a file holds one secret")
	case !utf8.Valid(b) || bytes.HasPrefix(b, []byte("\ufeff")) || bytes.ContainsFunc(b, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return errors.New("not plain text: it has a byte order mark, control characters or another encoding")
	case b[0] == ' ' || b[len(b)-1] == ' ':
		return errors.New("a space at the beginning or end, which no provider makes")
	}
	switch kind {
	case urlToken:
		if len(b) < shortSecret {
			return fmt.Errorf("the token has %d characters, and fewer than %d can be guessed", len(b), shortSecret)
		}
		if len(b) > 128 || strings.ContainsFunc(string(b), func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
		}) {
			return errors.New("the token does not fit a URL: write at most 128 of the characters A-Z, a-z, 0-9, - and _")
		}
	case userPassword:
		user, password, found := bytes.Cut(b, []byte(":"))
		if !found || len(user) == 0 || len(password) == 0 {
			return errors.New("not of the form user:password")
		}
	}
	return nil
}

// keyMend says what to do about a secret file that is no good.
func keyMend(err error, kind secretKind) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "make the file, or correct its path; the setting takes the path of a file that holds the secret, not the secret"
	case errors.Is(err, fs.ErrPermission):
		return "let the user that runs blessd read the file and its directory"
	}
	switch kind {
	case urlToken:
		return "make one: (umask 077; openssl rand -hex 16 > FILE)"
	case userPassword:
		return "write one line, user:password"
	}
	return "write the key as the provider shows it, alone on one line"
}

// reason is the error without the path, which stands in the message already.
func reason(err error) string {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Op + ": " + pathErr.Err.Error()
	}
	return err.Error()
}

// keyReader reads the secrets of all endpoints and collects what is wrong.
type keyReader struct {
	config *Config
	found  problems
}

// add reads one file for the setting at path.
func (k *keyReader) add(keys []receiver.Key, path, file string, kind secretKind) []receiver.Key {
	if file == "" {
		return keys // loading the configuration has said so
	}
	key, err := readKey(file, kind)
	if err != nil {
		k.found = append(k.found, k.config.source.problem(path, "file "+showPath(file)+": "+reason(err), keyMend(err, kind)))
		return keys
	}
	for _, other := range keys {
		if other.Value == key.Value {
			k.warn(path, fmt.Sprintf("file %s holds the same as %s", showPath(file), showPath(other.Source)), "take one of the two away")
			return keys
		}
	}
	if kind == urlToken && len(key.Value) < weakSecret {
		k.warn(path, fmt.Sprintf("file %s: the token has %d characters, fewer than the %d that 128 bits need", showPath(file), len(key.Value), weakSecret), keyMend(err, kind))
	}
	k.checkMode(path, file)
	return append(keys, key)
}

func (k *keyReader) warn(path, what, mend string) {
	p := k.config.source.problem(path, what, mend)
	p.Warning = true
	k.found = append(k.found, p)
}

func (k *keyReader) checkMode(path, file string) {
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o077 != 0 {
		k.warn(path, fmt.Sprintf("file %s can be read by others (mode %04o)", showPath(file), info.Mode().Perm()), "chmod 600 it")
	}
}

// list reads the files of one setting.
func (k *keyReader) list(path string, files []string, kind secretKind) (keys []receiver.Key) {
	for i, file := range files {
		keys = k.add(keys, fmt.Sprintf("%s[%d]", path, i), file, kind)
	}
	return keys
}

// managed returns the keys in <data_dir>/keys/<endpoint>/ that count: those that
// were put or stored there beside key_files, and without a configuration file the
// generated ones.
func (k *keyReader) managed(path string, e EndpointConfig, keys []receiver.Key) []receiver.Key {
	if k.config.dataDirIsNone() {
		return keys
	}
	there, err := k.config.managedKeys(e.Name)
	// One that is renamed now, because it was replaced, is there under another name.
	for range 3 {
		if !slices.ContainsFunc(there, func(m managedKey) bool { found, err := exists(m.file); return !found && err == nil }) {
			break
		}
		there, err = k.config.managedKeys(e.Name)
	}
	if err != nil {
		k.found = append(k.found, k.config.source.problem(path, err.Error(), "let the user that runs blessd read the directory, and rename or remove a file that is named otherwise"))
		return keys
	}
	now := time.Now()
	for _, m := range there {
		sample := filepath.Base(m.file) == sampleKeyFile
		if !m.counts(now) || sample && !k.config.noFile {
			continue
		}
		before := len(keys)
		keys = k.add(keys, path, m.file, signatureKey)
		for i := before; i < len(keys); i++ {
			keys[i].Sample = sample
		}
	}
	return keys
}

// receiverEndpoints reads every key file and returns the endpoints for the
// receiver. hooksAddr is the address that the public listener got, for the
// public_url that was left out. What is worth a warning is in c.keyWarnings
// afterwards; the error is of type problems and has everything that is wrong with
// any file.
func (c *Config) receiverEndpoints(hooksAddr string) ([]receiver.Endpoint, error) {
	k := &keyReader{config: c}
	base := c.publicURL(hooksAddr)
	endpoints := make([]receiver.Endpoint, 0, len(c.Endpoints))
	for i, e := range c.Endpoints {
		path := fmt.Sprintf("endpoints[%d]", i)
		r := receiver.Endpoint{
			Name:       e.Name,
			Provider:   e.Provider,
			Keys:       k.list(path+".key_files", e.KeyFiles, signatureKey),
			ParentKeys: k.list(path+".parent_key_files", e.ParentKeyFiles, signatureKey),
			Tokens:     k.list(path+".token_files", e.TokenFiles, urlToken),
			NoAuth:     e.Auth == "none",
			Signature:  receiver.SignatureMode(e.Signature),
			Variants:   e.SignatureVariants,
			URL:        base + receiver.Path(e.Name, ""),
		}
		if e.BasicAuthFile != "" {
			r.BasicAuth = k.add(nil, path+".basic_auth_file", e.BasicAuthFile, userPassword)
		}
		if signs(e.Provider) {
			r.Keys = k.managed(path, e, r.Keys)
		}
		if c.noFile {
			if file := filepath.Join(c.keyDir(e.Name), tokenFile); k.generated(file) {
				r.Tokens = k.add(r.Tokens, path, file, urlToken)
			}
			// Behind the real one, which is the first everywhere.
			if file := filepath.Join(c.keyDir(e.Name), sampleTokenFile); !signs(e.Provider) && len(r.Tokens) > 0 && k.generated(file) {
				r.Tokens = k.add(r.Tokens, path, file, urlToken)
				for i := range r.Tokens[1:] {
					r.Tokens[1+i].Sample = true
				}
			}
		}
		if e.URL != "" {
			r.URL, r.URLIsComplete = e.URL, true
		}
		if e.Provider == "mailgun" {
			r.MaxAge = time.Duration(e.MaxAge)
		}
		k.compare(path, r)
		said := slices.ContainsFunc([]string{path + ".key_files", path + ".parent_key_files", path + ".token_files", path + ".basic_auth_file", path + ".name"}, c.source.isFailed)
		if !c.noFile && awaitsKey(r) && len(e.KeyFiles)+len(e.ParentKeyFiles) == 0 && !said {
			mend := "add key_files, or put the key into " + filepath.Join(c.keyDir(e.Name), providerKeyFile)
			if e.Manage != nil && signsURL(e.Provider) {
				mend = "`blessd webhooks apply` registers the URL and stores the key; or " + mend
			}
			k.warn(path, e.Name+" has no key yet: "+e.Provider+" may register the URL, and deliveries are answered 503 until there is one", mend)
		}
		k.manageFiles(path+".manage", e.Manage)
		endpoints = append(endpoints, r)
	}
	var err error
	if c.keyWarnings, err = k.found.split(); err != nil {
		return nil, err
	}
	return endpoints, nil
}

// awaitsKey tells whether an endpoint must have a signature key that is not there.
func awaitsKey(r receiver.Endpoint) bool {
	return signs(r.Provider) && !isReported(r) && !hasRealKey(r)
}

// isReported tells whether the endpoint believes its token or password, and only
// reports what the signature was.
func isReported(r receiver.Endpoint) bool {
	return signsURL(r.Provider) && r.Signature != receiver.SignatureEnforce && len(r.Tokens)+len(r.BasicAuth) > 0
}

// generated tells whether a generated file is there: before the first start,
// during check, it is not.
func (k *keyReader) generated(file string) bool {
	found, err := exists(file)
	return (found || err != nil) && !k.config.dataDirIsNone()
}

// compare finds secrets that serve two purposes. A signature key that is part of
// the URL stands in every log on the way.
func (k *keyReader) compare(path string, r receiver.Endpoint) {
	for _, token := range r.Tokens {
		for _, key := range slices.Concat(r.Keys, r.ParentKeys) {
			if token.Value == key.Value {
				k.found = append(k.found, k.config.source.problem(path, fmt.Sprintf("files %s and %s hold the same secret, once as token and once as signature key", showPath(token.Source), showPath(key.Source)), "make a token of its own: "+keyMend(nil, urlToken)))
			}
		}
	}
}

// manageFiles checks the secrets of a management API; nothing keeps them yet.
func (k *keyReader) manageFiles(path string, m *ManageConfig) {
	if m == nil {
		return
	}
	for _, f := range []struct{ key, file string }{
		{"api_key_file", m.APIKeyFile},
		{"owner_id_file", m.OwnerIDFile},
		{"token_file", m.TokenFile},
	} {
		if f.file != "" {
			k.add(nil, join(path, f.key), f.file, signatureKey)
		}
	}
}

// publicURL is what the providers were given, without /hooks.
func (c *Config) publicURL(hooksAddr string) string {
	if c.PublicURL != "" {
		return strings.TrimRight(c.PublicURL, "/")
	}
	if hooksAddr == "" {
		hooksAddr = c.Listen
	}
	return "http://" + reachable(hooksAddr)
}
