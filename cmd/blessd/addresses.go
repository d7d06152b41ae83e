package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/goccy/go-json"
)

// addresses is <data_dir>/addresses.json: where a running blessd listens. The
// other commands find it there, and so do scripts.
type addresses struct {
	Hooks string `json:"hooks"` // host:port of the public listener
	Admin string `json:"admin"` // host:port of the admin listener
	NATS  string `json:"nats"`  // URL for NATS clients
	// PublicURL is what the URLs at the providers begin with, which signatures are
	// computed over. It may come from a flag, so that only this file knows it.
	PublicURL string `json:"public_url"`
}

const addressesFile = "addresses.json"

func (a addresses) write(dataDir string) error {
	b, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("encode the addresses: %w", err)
	}
	// By rename, so that no reader sees half of it.
	file := filepath.Join(dataDir, addressesFile)
	if err := os.WriteFile(file+".tmp", append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write the addresses: %w", err)
	}
	if err := os.Rename(file+".tmp", file); err != nil {
		return fmt.Errorf("write the addresses: %w", err)
	}
	return nil
}

// readAddresses finds a blessd that runs, or ran, on dataDir.
func readAddresses(dataDir string) (addresses, error) {
	var a addresses
	file := filepath.Join(dataDir, addressesFile)
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return a, fmt.Errorf("no blessd has run on %s: start one with `blessd serve`, or name its data directory with --data-dir", dataDir)
	}
	if err != nil {
		return a, fmt.Errorf("find the running blessd: %w", err)
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return addresses{}, fmt.Errorf("find the running blessd: %s is not what blessd wrote: %.256s", file, err.Error())
	}
	return a, nil
}
