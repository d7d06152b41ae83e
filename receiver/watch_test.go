package receiver

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// Who watches is told of every answer, before the sender has it, and of no secret.
func TestWatch(t *testing.T) {
	eachProvider(t, func(t *testing.T, s sample) {
		s.endpoint.Keys = slices.Clone(s.endpoint.Keys)
		for i := range s.endpoint.Keys {
			s.endpoint.Keys[i].Source = "/etc/blessd/keys/it"
		}
		b := newBench(t, Limits{}, s.endpoint)
		var told []Answered
		b.Watch(func(a Answered) { told = append(told, a) })
		last := func() Answered {
			t.Helper()
			if len(told) == 0 {
				t.Fatal("nothing was told")
			}
			a := told[len(told)-1]
			if text := fmt.Sprintf("%+v", a); strings.Contains(text, testKey) || strings.Contains(text, testToken) {
				t.Errorf("a secret is told: %s", text)
			}
			return a
		}
		b.do(httptest.NewRequest(http.MethodGet, s.path(), nil))
		if a := last(); !a.Probe || a.Status != 200 || a.Reason != "" || a.Endpoint != s.endpoint.Name || a.Provider != s.endpoint.Provider {
			t.Errorf("of a probe was told %+v", a)
		}
		q := s.request(t, testKey)
		q.Header.Set("User-Agent", strings.Repeat("\u00e9", 100))
		b.do(q)
		if a := last(); a.Probe || a.Status != 200 || a.Bytes == 0 || a.Verified.Key == "" || a.UserAgent != strings.Repeat("\u00e9", 60) {
			t.Errorf("of a delivery was told %+v", a)
		}
		b.do(httptest.NewRequest(http.MethodPost, "/hooks/nobody", strings.NewReader("x")))
		if a := last(); a.Status != 404 || a.Reason != "not_found" || a.Endpoint != "unmatched" || a.Hint == "" {
			t.Errorf("of an unknown path was told %+v", a)
		}
		n := len(told)
		if s.signs {
			b.do(s.request(t, "another key"))
			if a := last(); a.Reason != "bad_signature" || a.Status != 401 || !slices.Equal(a.KeySources, []string{"/etc/blessd/keys/it"}) || a.Hint == "" {
				t.Errorf("of a wrong signature was told %+v", a)
			}
		} else {
			b.do(httptest.NewRequest(http.MethodPost, Path(s.endpoint.Name, "wrong-token-0123456789"), strings.NewReader(s.body)))
			if a := last(); a.Reason != "bad_token" || a.Status != 404 || a.KeySources != nil {
				t.Errorf("of a wrong token was told %+v", a)
			}
		}
		if len(told) != n+1 {
			t.Errorf("told %d times of one request", len(told)-n)
		}
	})
}

// A signature that is not enforced is told as what it was.
func TestWatchReport(t *testing.T) {
	e := Endpoint{Name: "acme", Provider: "sendclean", Keys: []Key{{Value: testKey}}, Tokens: []Key{{Value: testToken}}, URL: testURL + "acme"}
	b := newBench(t, Limits{}, e)
	var told Answered
	b.Watch(func(a Answered) { told = a })
	path := Path("acme", testToken)
	for key, want := range map[Secret]string{testKey: "fields-base64", "another key": "none"} {
		b.do(request(t, "sendclean", path, "https://hooks.example.com"+path, key, formBody))
		if told.Status != 200 || told.Signature != want {
			t.Errorf("told %+v, want the signature %q", told, want)
		}
	}
}
