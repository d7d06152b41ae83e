package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/blessd/blessd/receiver"
)

// What is known of a managed key beside its value is in the name of its file, so
// that a rename changes it at once and whole:
//
//	NAME.key               put there by a person; counts as long as it is there
//	ID.SET.PRINT.key       stored by blessd for the webhook with this id
//	....until.TIME.key     any of these, replaced: counts until then
//
// SET and TIME are UTC in keyTime, PRINT is the key's fingerprint.
const (
	keyTime  = "20060102T150405Z"
	untilTag = ".until."
)

// storedName is what storeManagedKey calls a file, without the suffix.
var storedName = regexp.MustCompile(`^([A-Za-z0-9_-]{1,64})\.([0-9]{8}T[0-9]{6}Z)\.([0-9a-f]{8})$`)

// managedKey is a file in the directory of an endpoint's managed keys. Its value is
// not read.
type managedKey struct {
	file string
	// webhook is the provider's id of the webhook that the key is for, and print the
	// key's fingerprint; both empty for a file that a person put there.
	webhook, print string
	// set is when blessd stored it; zero for a file that a person put there.
	set time.Time
	// until is when it ceases to count; zero for never.
	until time.Time
}

// counts tells whether deliveries are verified by the key at that time.
func (k managedKey) counts(now time.Time) bool { return k.until.IsZero() || now.Before(k.until) }

// parseManagedKey understands the name of a file in that directory. The second
// result is false for what is no managed key.
func parseManagedKey(file string) (k managedKey, is bool, err error) {
	name, is := strings.CutSuffix(filepath.Base(file), managedSuffix)
	if !is || strings.HasPrefix(name, ".") {
		return k, false, nil
	}
	k.file = file
	if before, until, found := strings.Cut(name, untilTag); found {
		if k.until, err = time.Parse(keyTime, until); err != nil {
			return k, true, fmt.Errorf("its name has no time like 20261121T235900Z behind %q", untilTag)
		}
		name = before
	}
	if m := storedName.FindStringSubmatch(name); m != nil {
		if set, err := time.Parse(keyTime, m[2]); err == nil {
			k.webhook, k.set, k.print = m[1], set, m[3]
		}
	}
	return k, true, nil
}

// keyDir is where an endpoint's managed keys are.
func (c *Config) keyDir(endpoint string) string {
	return filepath.Join(c.DataDir, keysDir, endpoint)
}

// managedKeys returns an endpoint's managed keys, sorted by the names of their
// files, those that count no more as well. No directory means no keys. A file whose
// name cannot be understood is in the error, and the others are returned.
func (c *Config) managedKeys(endpoint string) (keys []managedKey, err error) {
	dir := c.keyDir(endpoint)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err // it names the directory
	}
	var wrong []error
	for _, entry := range entries {
		k, is, err := parseManagedKey(filepath.Join(dir, entry.Name()))
		switch {
		case err != nil:
			wrong = append(wrong, fmt.Errorf("file %s: %w", showPath(k.file), err))
		case is:
			keys = append(keys, k)
		}
	}
	return keys, errors.Join(wrong...)
}

// storeManagedKey keeps the key that a provider signs with for one of an endpoint's
// webhooks. When it returns nil the file is on disk, whole, and a blessd that runs
// on the data directory notices it by itself. A key that is there and counts is left
// as it is.
func (c *Config) storeManagedKey(endpoint, webhookID string, key receiver.Secret, now time.Time) (file string, err error) {
	if err := checkSecret([]byte(key), signatureKey); err != nil {
		return "", fmt.Errorf("the key that the provider gave for webhook %q is none: %w", webhookID, err)
	}
	k := receiver.Key{Value: key}
	name := fmt.Sprintf("%s.%s.%s", webhookID, now.UTC().Format(keyTime), k.Fingerprint())
	if !storedName.MatchString(name) {
		return "", fmt.Errorf("%q cannot be the id of a webhook in the name of a file", webhookID)
	}
	there, err := c.managedKeys(endpoint)
	if err != nil {
		return "", err
	}
	for _, other := range there {
		if same, err := readKey(other.file, signatureKey); err == nil && same.Value == key && other.until.IsZero() && filepath.Base(other.file) != sampleKeyFile {
			return other.file, nil
		}
	}
	dir := c.keyDir(endpoint)
	if err := c.makeKeyDir(endpoint); err != nil {
		return "", err
	}
	file = filepath.Join(dir, name+managedSuffix)
	if err := writeFileAs(file, []byte(string(key)+"\n"), c.giveAway); err != nil {
		return "", fmt.Errorf("store a key: %w", err)
	}
	return file, nil
}

// retireManagedKey lets a key count until that time and no longer, unless it is
// to go earlier. It returns the file that the key is in then.
func (c *Config) retireManagedKey(k managedKey, until time.Time) (string, error) {
	if !k.until.IsZero() && k.until.Before(until) {
		return k.file, nil
	}
	name := strings.TrimSuffix(filepath.Base(k.file), managedSuffix)
	name, _, _ = strings.Cut(name, untilTag)
	file := filepath.Join(filepath.Dir(k.file), name+untilTag+until.UTC().Format(keyTime)+managedSuffix)
	if err := os.Rename(k.file, file); err != nil {
		return "", fmt.Errorf("let a key end: %w", err)
	}
	return file, syncDir(filepath.Dir(file))
}

// makeKeyDir makes the directory of an endpoint's managed keys.
func (c *Config) makeKeyDir(endpoint string) error {
	for _, dir := range []string{filepath.Dir(c.keyDir(endpoint)), c.keyDir(endpoint)} {
		err := os.Mkdir(dir, 0o700)
		switch {
		case errors.Is(err, fs.ErrExist):
			continue
		case err == nil:
			err = c.giveAway(dir)
		}
		if err != nil {
			return fmt.Errorf("make the directory for keys: %w", err)
		}
	}
	return nil
}

// giveAway gives a new file to the owner of the data directory: a command that
// root runs must not leave a key that the daemon cannot read.
func (c *Config) giveAway(file string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	var s unix.Stat_t
	if err := unix.Stat(c.DataDir, &s); err != nil {
		return fmt.Errorf("find the owner of the data directory: %w", err)
	}
	return os.Lchown(file, int(s.Uid), int(s.Gid))
}
