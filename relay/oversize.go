package relay

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/goccy/go-json"

	"github.com/blessd/blessd/sink"
)

// oversizeMeta is written beside the bytes: the quarantine headers, in a file
// <sha256 of the bytes>.<id>.json.
type oversizeMeta struct {
	Provider    string `json:"provider"`
	Endpoint    string `json:"endpoint"`
	ID          string `json:"id"`
	Reason      string `json:"reason"`
	ContentType string `json:"content_type"`
	Received    string `json:"received"`
	Record      string `json:"record"`
	Element     int    `json:"element"`
	Occurrence  int    `json:"occurrence"`
}

// writeOversize keeps what the quarantine stream cannot take as
// <dir>/<sha256 of the bytes>, synced before it returns. Equal bytes share a file;
// each delivery or element that had them has its own metadata.
func writeOversize(dir string, q *sink.Quarantined) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make the oversize directory: %w", err)
	}
	if err := syncDir(filepath.Dir(dir)); err != nil { // where its name is, which may be new
		return "", err
	}
	sum := sha256.Sum256(q.Raw)
	file := filepath.Join(dir, hex.EncodeToString(sum[:]))
	meta, err := json.MarshalIndent(oversizeMeta{
		Provider: q.Provider, Endpoint: q.Endpoint, ID: q.ID, Reason: q.Reason, ContentType: q.ContentType,
		Received: q.Received.UTC().Format(time.RFC3339Nano), Record: strconv.FormatUint(q.Record, 10),
		Element: q.Element, Occurrence: q.Occurrence,
	}, "", "  ")
	if err != nil {
		return "", fmt.Errorf("describe the oversize file: %w", err)
	}
	if err := writeOnce(file, q.Raw); err != nil {
		return "", err
	}
	if err := writeOnce(file+"."+q.ID+".json", append(meta, '\n')); err != nil {
		return "", err
	}
	return file, syncDir(dir)
}

// writeOnce writes a file whole or not at all, and leaves one that exists.
func writeOnce(file string, b []byte) error {
	if _, err := os.Lstat(file); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look for the oversize file: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".tmp-*")
	if err != nil {
		return fmt.Errorf("create an oversize file: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone already when all went well
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write an oversize file: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open the oversize directory: %w", err)
	}
	err = d.Sync()
	if closeErr := d.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("sync the oversize directory: %w", err)
	}
	return nil
}
