package sink

import (
	"fmt"
	"slices"
	"strings"

	"github.com/blessd/blessd/event"
)

// maxToken is the greatest length of one token of a subject.
const maxToken = 32

// checkToken returns an error unless s may stand in a subject: one to 32 lower
// case letters, digits, dashes and underscores. Nothing else ever gets there:
// the server closes the connection for a subject that is too long, and stores a
// wildcard literally.
func checkToken(what, s string) error {
	if s == "" || len(s) > maxToken {
		return fmt.Errorf("%s %.40q cannot stand in a subject: it must have 1 to %d characters", what, s, maxToken)
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return fmt.Errorf("%s %q cannot stand in a subject: only a-z, 0-9, - and _ can", what, s)
		}
	}
	return nil
}

// eventSubject returns <prefix>.events.<provider>.<endpoint>.<family>.<verb>.
func eventSubject(prefix, provider, endpoint string, t event.Type) (string, error) {
	if err := checkToken("provider", provider); err != nil {
		return "", err
	}
	if err := checkToken("endpoint", endpoint); err != nil {
		return "", err
	}
	if _, known := slices.BinarySearch(event.Types(), t); !known {
		return "", fmt.Errorf("event type %.40q is not in the list", string(t))
	}
	return strings.Join([]string{prefix, "events", provider, endpoint, string(t)}, "."), nil
}

// quarantineSubject returns <prefix>.quarantine.<provider>.<endpoint>.
func quarantineSubject(prefix, provider, endpoint string) (string, error) {
	if err := checkToken("provider", provider); err != nil {
		return "", err
	}
	if err := checkToken("endpoint", endpoint); err != nil {
		return "", err
	}
	return strings.Join([]string{prefix, "quarantine", provider, endpoint}, "."), nil
}

// eventSubjects is what the stream of events binds, quarantineSubjects what the
// other one does.
func eventSubjects(prefix string) string      { return prefix + ".events.>" }
func quarantineSubjects(prefix string) string { return prefix + ".quarantine.>" }
