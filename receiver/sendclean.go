package receiver

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/goccy/go-json/jsontext"
	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
)

// SendClean and Sarv are one platform under two names, and a name in the one's
// documentation is no proof of the name on the wire: both headers are taken for
// both. Both want to hear their blessing "always", also when they try the URL.
//
// The section of their pages that defines the signature could not be read. The rule
// here is Mandrill's, whose interface theirs copies word by word, and the variants
// are the other rules it could be.
var (
	sendclean = provider{
		name:            "sendclean",
		acknowledgement: "God bless you, SendClean",
		headers:         tesHeaders,
		reports:         true,
		variants:        true,
		signsURL:        true,
		isEmpty:         isEmptyTES,
		verify:          verifyTES,
		sign:            signTES("X-SendCleanTES-Signature"),
	}
	sarv = provider{
		name:            "sarv",
		acknowledgement: "God bless you, Sarv",
		headers:         tesHeaders,
		reports:         true,
		variants:        true,
		signsURL:        true,
		isEmpty:         isEmptyTES,
		verify:          verifyTES,
		sign:            signTES("X-SarvTES-Signature"),
	}
)

var tesHeaders = []string{"X-SarvTES-Signature", "X-SendCleanTES-Signature"}

// tesField is how the name of the field that holds the events ends, in lower case:
// sarvtes_events, SendCleantes_events.
const tesField = "tes_events"

// cover is what a variant signs.
type cover int

const (
	coverFields cover = iota // the URL and the form's fields, sorted by name
	coverFieldsNoQuery
	coverURLBody // the URL and the body as it is
	coverBody    // the body alone
)

type variant struct {
	name   string
	cover  cover
	encode func([]byte) string
}

// variants is every way of signing that is known, sorted by name.
var variants = []variant{
	{"body-base64", coverBody, base64.StdEncoding.EncodeToString},
	{"body-hex", coverBody, hex.EncodeToString},
	{"fields-base64", coverFields, base64.StdEncoding.EncodeToString},
	{"fields-base64-noquery", coverFieldsNoQuery, base64.StdEncoding.EncodeToString},
	{"fields-hex", coverFields, hex.EncodeToString},
	{"fields-hex-noquery", coverFieldsNoQuery, hex.EncodeToString},
	{"urlbody-base64", coverURLBody, base64.StdEncoding.EncodeToString},
	{"urlbody-hex", coverURLBody, hex.EncodeToString},
}

// Variants returns the names of the ways in which SendClean and Sarv may sign,
// sorted.
func Variants() []string {
	names := make([]string, len(variants))
	for i := range variants {
		names[i] = variants[i].name
	}
	return names
}

// accepts says whether the variant proves a delivery. A body that is no form is
// signed by the variants that cover it.
func (e *endpoint) accepts(name string, isForm bool) bool {
	switch {
	case len(e.Variants) > 0:
		return slices.Contains(e.Variants, name)
	case isForm:
		return name == "fields-base64"
	default:
		return name == "urlbody-base64" || name == "body-base64"
	}
}

func verifyTES(e *endpoint, p *post, gate delivery.Verification) verdict {
	signature, why := tesSignature(p.header)
	if why != "" {
		if e.report {
			return verdict{verified: gate, report: why}
		}
		if why == reportMissing {
			return verdict{reason: missingSignature}
		}
		return verdict{reason: badSignature, hint: "the request has more than one signature header, so which one counts is anybody's guess"}
	}
	key, v := matchTES(e, p, signature)
	switch {
	case e.report && key == nil:
		return verdict{verified: gate, report: reportNone}
	case key == nil:
		return verdict{reason: badSignature}
	case !e.report && !e.accepts(v.name, p.form().isForm):
		return verdict{reason: badSignature, hint: "a key made this signature by the variant " + v.name + ", which is not among the accepted ones"}
	}
	proven := verdict{verified: delivery.Verification{Method: delivery.BySignature, Key: key.Fingerprint(), Sample: key.Sample}}
	if e.report {
		proven.report = v.name
	}
	return proven
}

// reportSignature counts and logs what a signature that is not enforced would have
// come to: a variant that matched, or why none did. One real delivery settles the
// rule, and then it can be enforced.
func (e *endpoint) reportSignature(result string) {
	e.metrics.reports[result].Inc()
	ok, suppressed := e.reports[result].allow()
	if !ok {
		return
	}
	fields := []zap.Field{zap.String("provider", e.Provider), zap.String("endpoint", e.Name), zap.String("result", result)}
	if suppressed > 0 {
		fields = append(fields, zap.Int64("suppressed", suppressed))
	}
	e.log.Info("signature reported, not enforced", fields...)
}

// tesSignature returns the request's only signature, or why there is none.
func tesSignature(h http.Header) (signature, why string) {
	var found []string
	for _, name := range tesHeaders {
		found = append(found, h[http.CanonicalHeaderKey(name)]...)
	}
	switch len(found) {
	case 0:
		return "", reportMissing
	case 1:
		if s := strings.TrimSpace(found[0]); s != "" {
			return s, ""
		}
		return "", reportMissing
	default:
		return "", reportAmbiguous
	}
}

// matchTES finds the key and the variant that make the signature. It tries accepted
// variants before those that are not, and real keys before samples: what is as
// expected costs one digest.
func matchTES(e *endpoint, p *post, signature string) (*Key, *variant) {
	f := p.form()
	if f.isForm && f.err == nil {
		sortFields(f)
	}
	url := e.registeredURL(p.token)
	sums := make([][coverBody + 1][]byte, len(e.Keys))
	for _, accepted := range []bool{true, false} {
		for _, sample := range []bool{false, true} {
			for i := range e.Keys {
				k := &e.Keys[i]
				if k.Sample != sample {
					continue
				}
				for j := range variants {
					v := &variants[j]
					if e.accepts(v.name, f.isForm) != accepted || !covers(v.cover, f) {
						continue
					}
					if sums[i][v.cover] == nil {
						sums[i][v.cover] = sumTES(string(k.Value), v.cover, url, f, p.body)
					}
					if hmac.Equal([]byte(v.encode(sums[i][v.cover])), []byte(signature)) {
						return k, v
					}
				}
			}
		}
	}
	return nil, nil
}

// covers says whether what c signs includes all of a body with this form. Of a body
// that is no form, the rule of the fields would sign the URL alone, and anybody who
// had seen one signature could send whatever he likes under it. Of a form that
// cannot be decoded nobody knows what the fields are.
func covers(c cover, f *form) bool {
	if c == coverURLBody || c == coverBody {
		return true
	}
	return f.isForm && f.err == nil && len(f.fields) > 0
}

// sumTES is the HMAC-SHA1 of what c covers. The form's fields are sorted.
func sumTES(key string, c cover, url string, f *form, body []byte) []byte {
	h := hmac.New(sha1.New, []byte(key))
	if c == coverFieldsNoQuery {
		url, _, _ = strings.Cut(url, "?")
	}
	if c != coverBody {
		_, _ = io.WriteString(h, url)
	}
	if c == coverFields || c == coverFieldsNoQuery {
		for i := range f.fields {
			_, _ = io.WriteString(h, f.fields[i].name)
			_, _ = io.WriteString(h, f.fields[i].value)
		}
	} else {
		h.Write(body)
	}
	return h.Sum(nil)
}

func sortFields(f *form) {
	slices.SortStableFunc(f.fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
}

// maxEmptyJSON is the longest JSON object that is looked into for being empty.
const maxEmptyJSON = 1 << 10

// isEmptyTES recognises a body without events: nothing, an empty array, or the
// field that would hold the events with nothing or an empty array in it.
func isEmptyTES(p *post) bool {
	b := trimJSON(p.body)
	switch {
	case isEmptyArray(b):
		return true
	case b[0] == '{':
		return len(b) <= maxEmptyJSON && isEmptyObject(b)
	}
	f := p.form()
	if !f.isForm || f.err != nil {
		return false
	}
	found := false
	for i := range f.fields {
		if isTESField(f.fields[i].name) {
			if !isEmptyArray(trimJSON([]byte(f.fields[i].value))) {
				return false
			}
			found = true
		}
	}
	return found
}

func isTESField(name string) bool { return strings.HasSuffix(strings.ToLower(name), tesField) }

// isEmptyArray says whether b is blank or an array of nothing. It is trimmed.
func isEmptyArray(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	return b[0] == '[' && b[len(b)-1] == ']' && len(b) > 1 && len(trimJSON(b[1:len(b)-1])) == 0
}

// isEmptyObject says whether b is an object whose only members are fields for events
// without any.
func isEmptyObject(b []byte) bool {
	d := jsontext.NewDecoder(bytes.NewReader(b), jsontext.AllowInvalidUTF8(true))
	if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
		return false
	}
	found := false
	for d.PeekKind() == '"' {
		name, err := d.ReadToken()
		if err != nil || !isTESField(name.String()) {
			return false
		}
		if d.PeekKind() == '"' {
			s, err := d.ReadToken()
			if err != nil || !isEmptyArray(trimJSON([]byte(s.String()))) {
				return false
			}
		} else {
			v, err := d.ReadValue()
			if err != nil || !isEmptyArray(trimJSON(v)) {
				return false
			}
		}
		found = true
	}
	if t, err := d.ReadToken(); err != nil || t.Kind() != '}' {
		return false
	}
	_, err := d.ReadToken()
	return found && errors.Is(err, io.EOF)
}

// signTES signs as the default variants do.
func signTES(header string) func(Plain) (Signed, error) {
	return func(p Plain) (Signed, error) {
		if p.ContentType == "" {
			p.ContentType = mediaURLEncoded
		}
		f := parseForm(p.ContentType, p.Body)
		if f.err != nil {
			return Signed{}, f.err
		}
		c := coverURLBody
		if covers(coverFields, f) {
			sortFields(f)
			c = coverFields
		}
		sum := sumTES(string(p.Key), c, p.URL, f, p.Body)
		s := Signed{ContentType: p.ContentType, Header: http.Header{}, Body: p.Body}
		s.Header.Set(header, base64.StdEncoding.EncodeToString(sum))
		return s, nil
	}
}
