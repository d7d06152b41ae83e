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
	"strings"
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
	Test        bool   `json:"test,omitempty"`
	Traceparent string `json:"traceparent,omitempty"`
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
		Element: q.Element, Occurrence: q.Occurrence, Test: q.Test, Traceparent: q.Traceparent,
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

// oversizeFiles returns the metadata that writeOversize has written, sorted by name:
// each is a delivery or an element of one.
func oversizeFiles(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.*.json"))
	if err != nil {
		return nil, fmt.Errorf("list the oversize files: %w", err)
	}
	return files, nil
}

// oversizeRaw is the file with the bytes that the metadata is about.
func oversizeRaw(meta string) string {
	sum, _, _ := strings.Cut(filepath.Base(meta), ".")
	return filepath.Join(filepath.Dir(meta), sum)
}

// readOversize reads back what writeOversize wrote. The error wraps fs.ErrNotExist
// when it is gone.
func readOversize(meta string) (sink.Quarantined, error) {
	fail := func(err error) (sink.Quarantined, error) {
		return sink.Quarantined{}, fmt.Errorf("read an oversize file: %w", err)
	}
	b, err := os.ReadFile(meta)
	if err != nil {
		return fail(err)
	}
	var m oversizeMeta
	if err := json.Unmarshal(b, &m); err != nil {
		return fail(fmt.Errorf("%s is not what blessd wrote", meta))
	}
	received, err := time.Parse(time.RFC3339Nano, m.Received)
	if err != nil {
		return fail(err)
	}
	record, err := strconv.ParseUint(m.Record, 10, 64)
	if err != nil {
		return fail(err)
	}
	raw, err := os.ReadFile(oversizeRaw(meta))
	if err != nil {
		return fail(err)
	}
	return sink.Quarantined{
		Provider: m.Provider, Endpoint: m.Endpoint, ID: m.ID, Reason: m.Reason, ContentType: m.ContentType, Received: received, Record: record,
		Element: m.Element, Occurrence: m.Occurrence, Test: m.Test, Traceparent: m.Traceparent, Raw: raw,
	}, nil
}

// removeOversize removes what has been dealt with, and the bytes with the last
// metadata that is about them. Nothing may be written meanwhile.
func removeOversize(meta string) error {
	remove := func(file string) error {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove an oversize file: %w", err)
		}
		return nil
	}
	if err := remove(meta); err != nil {
		return err
	}
	raw := oversizeRaw(meta)
	others, err := filepath.Glob(raw + ".*.json")
	if err != nil {
		return fmt.Errorf("list the oversize files: %w", err)
	}
	if len(others) == 0 {
		if err := remove(raw); err != nil {
			return err
		}
	}
	return syncDir(filepath.Dir(meta))
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

// EraseOversize removes the bodies in the oversize directory for which match
// returns true, with all that is about them, or with dryRun only counts them.
func EraseOversize(dir string, match func(body []byte) bool, dryRun bool) (seen, matched int, err error) {
	files, err := oversizeFiles(dir)
	if err != nil {
		return 0, 0, err
	}
	for _, meta := range files {
		b, err := os.ReadFile(oversizeRaw(meta))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return seen, matched, fmt.Errorf("read an oversize file: %w", err)
		}
		seen++
		if !match(b) {
			continue
		}
		matched++
		if !dryRun {
			if err := removeOversize(meta); err != nil {
				return seen, matched, err
			}
		}
	}
	return seen, matched, nil
}
