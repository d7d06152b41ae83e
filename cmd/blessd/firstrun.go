package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/blessd/blessd/receiver"
)

// firstRunConfig is the configuration of a start without a file: one endpoint for
// each provider, named like it. Each has a generated token in its URL, so that it
// can be registered at the real provider at once, and a sample key, or where the
// provider does not sign a sample token, by which `blessd send` proves itself and
// what it sends is known to be a test. They are generated once, kept
// in <data_dir>/keys/<endpoint>/ and used again at the next start. A real key that
// is put there as provider.key makes the endpoint complete.
func firstRunConfig() *Config {
	c := defaultConfig()
	c.noFile = true
	for _, provider := range receiver.Providers() {
		e := EndpointConfig{Name: provider, Provider: provider}
		if provider == "mailgun" {
			e.MaxAge = defaultMaxAge
		}
		c.Endpoints = append(c.Endpoints, e)
	}
	return c
}

// generateKeys makes the tokens and sample keys that are not there yet. What is
// there is never touched.
func (c *Config) generateKeys() error {
	for _, e := range c.Endpoints {
		dir := c.keyDir(e.Name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make the directory for keys: %w", err)
		}
		names := []string{tokenFile}
		if signs(e.Provider) {
			names = append(names, sampleKeyFile)
		} else {
			names = append(names, sampleTokenFile)
		}
		for _, name := range names {
			file := filepath.Join(dir, name)
			if found, err := exists(file); err != nil {
				return fmt.Errorf("look for a generated key: %w", err)
			} else if found {
				continue
			}
			// 26 characters, 130 bits.
			if err := writeFile(file, []byte(rand.Text()+"\n")); err != nil {
				return fmt.Errorf("keep a generated key: %w", err)
			}
		}
	}
	return nil
}

// writeFile writes a file of mode 0600 so that after a crash at any moment there
// is either none, the old one or the new one, whole.
func writeFile(file string, data []byte) error { return writeFileAs(file, data, nil) }

// writeFileAs is writeFile; prepare, if not nil, is called before the file has its
// name.
func writeFileAs(file string, data []byte, prepare func(file string) error) (err error) {
	dir := filepath.Dir(file)
	f, err := os.CreateTemp(dir, ".new-*") // makes mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(f.Name()))
		}
	}()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if prepare != nil {
		if err := prepare(f.Name()); err != nil {
			return err
		}
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return err
	}
	return errors.Join(f.Close(), syncDir(dir))
}

// syncDir makes what was created or renamed in dir last.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return errors.Join(err, d.Close())
}

// hookInfo is what a person who registers webhooks needs to know of one endpoint.
type hookInfo struct {
	Name     string
	Provider string
	// URL is what to paste at the provider. With a token it is a secret.
	URL string
	// Answer is what the provider hears.
	Answer string
	// KeyFile is where to put the provider's real signature key while none is
	// there, else empty.
	KeyFile string
	// Refused is true when no real delivery is accepted before the key is there;
	// otherwise the token in the URL is what is believed until then.
	Refused bool
}

// hooks tells for each endpoint of receiverEndpoints what to paste at the provider,
// and whether a real key is still missing. The URL has the endpoint's first token.
func (c *Config) hooks(endpoints []receiver.Endpoint) []hookInfo {
	infos := make([]hookInfo, len(endpoints))
	for i, e := range endpoints {
		info := hookInfo{Name: e.Name, Provider: e.Provider, URL: e.URL, Answer: receiver.Acknowledgement(e.Provider)}
		if !e.URLIsComplete && len(e.Tokens) > 0 {
			info.URL += "/" + string(e.Tokens[0].Value)
		}
		if signs(e.Provider) && !hasRealKey(e) {
			info.KeyFile = filepath.Join(c.keyDir(e.Name), providerKeyFile)
			info.Refused = awaitsKey(e)
		}
		infos[i] = info
	}
	return infos
}

// hasRealKey tells whether any signature key is not blessd's own.
func hasRealKey(e receiver.Endpoint) bool {
	for _, keys := range [][]receiver.Key{e.Keys, e.ParentKeys} {
		for _, key := range keys {
			if !key.Sample {
				return true
			}
		}
	}
	return false
}
