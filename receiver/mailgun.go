package receiver

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-json/jsontext"

	"github.com/blessd/blessd/delivery"
)

// Mailgun signs a timestamp and a token, not the body
// (documentation.mailgun.com, "Securing webhooks"): whoever has seen one request can
// send other events under its signature. Against that, a token is bound to the
// content that it first came with, and signatures age. Mailgun may retry for 8 hours
// with the first signature, so the age cannot be short. A 406 would make it give up.
var mailgun = provider{
	name:            "mailgun",
	acknowledgement: "God bless you",
	parents:         true,
	verify:          verifyMailgun,
	sign:            signMailgun,
}

// mailgunProof is the signature of a post, and the digest of everything else in it.
type mailgunProof struct {
	timestamp, token  string
	signature, parent string
	content           [sha256.Size]byte
}

// maxMailgunToken is far above the 50 characters that tokens have.
const maxMailgunToken = 256

func verifyMailgun(e *endpoint, p *post, _ delivery.Verification) verdict {
	proof, v := parseMailgun(p)
	if v.reason != "" {
		return v
	}
	key := proof.match(e)
	if key == nil {
		return verdict{reason: badSignature}
	}
	seconds, err := strconv.ParseInt(proof.timestamp, 10, 64)
	if err != nil {
		return verdict{reason: badSignature}
	}
	// Compared as numbers: a duration would overflow within the range of seconds.
	now := p.now.Unix()
	if seconds < now-int64(e.MaxAge/time.Second) || seconds > now+int64(e.MaxAhead/time.Second) {
		return verdict{reason: stale}
	}
	settle, ok := e.seen.claim(sha256.Sum256([]byte(proof.token)), proof.content)
	if !ok {
		return verdict{reason: forgerySuspected}
	}
	return verdict{
		verified: delivery.Verification{Method: delivery.BySignature, Key: key.Fingerprint(), Sample: key.Sample},
		settle:   settle,
	}
}

// match returns the key that made one of the signatures, a real one before a sample.
func (m *mailgunProof) match(e *endpoint) *Key {
	var best *Key
	try := func(keys []Key, signature string) {
		for i := range keys {
			h := hmac.New(sha256.New, []byte(keys[i].Value))
			_, _ = io.WriteString(h, m.timestamp)
			_, _ = io.WriteString(h, m.token)
			want := hex.EncodeToString(h.Sum(nil))
			if hmac.Equal([]byte(want), []byte(strings.ToLower(signature))) && (best == nil || best.Sample && !keys[i].Sample) {
				best = &keys[i]
			}
		}
	}
	if m.signature != "" {
		try(e.Keys, m.signature)
	}
	if m.parent != "" {
		try(e.ParentKeys, m.parent)
	}
	return best
}

// parseMailgun finds the signature, in the JSON of today's webhooks or the form of
// the legacy ones. Whatever is unclear is refused: nothing may be read in two ways.
func parseMailgun(p *post) (*mailgunProof, verdict) {
	var m *mailgunProof
	var ok bool
	if f := p.form(); f.isForm {
		if f.err != nil {
			return nil, verdict{reason: badSignature, hint: "the form cannot be decoded"}
		}
		m = mailgunForm(f.fields)
	} else if m, ok = mailgunJSON(trimJSON(p.body)); !ok {
		return nil, verdict{reason: badSignature, hint: "the body is not JSON with exactly one well-formed signature"}
	}
	switch {
	case m.signature == "" && m.parent == "":
		return nil, verdict{reason: missingSignature}
	case !consistsOf(m.timestamp, "0123456789") || m.token == "" || len(m.token) > maxMailgunToken:
		return nil, verdict{reason: badSignature, hint: "the timestamp or the token of the signature is not one"}
	}
	return m, verdict{}
}

// mailgunForm reads a legacy form. User variables are merged into it, and where a
// name is taken twice Mailgun's own value is the last.
func mailgunForm(fields []field) *mailgunProof {
	last := map[string]int{"timestamp": -1, "token": -1, "signature": -1}
	for i := range fields {
		if _, ok := last[fields[i].name]; ok && fields[i].file == "" {
			last[fields[i].name] = i
		}
	}
	m := &mailgunProof{}
	h := sha256.New()
	for i := range fields {
		f := &fields[i]
		if at, ok := last[f.name]; !ok || at != i {
			// Whether it is an attachment decides whether it is read at all.
			hashMember(h, []byte(f.name), []byte(f.file))
			hashMember(h, nil, []byte(f.value))
			continue
		}
		switch f.name {
		case "timestamp":
			m.timestamp = f.value
		case "token":
			m.token = f.value
		case "signature":
			m.signature = f.value
		}
	}
	h.Sum(m.content[:0])
	return m
}

// mailgunJSON reads {"signature":{...},"event-data":{...}}. It returns false if the
// body as a whole is no JSON object or its signature could be read in two ways. The
// digest is over every member but the signature, so that nothing can be slipped in
// beside an event-data that was seen before.
func mailgunJSON(body []byte) (*mailgunProof, bool) {
	d := newMailgunDecoder(body)
	if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
		return nil, false
	}
	m := &mailgunProof{}
	h := sha256.New()
	signed := false
	for d.PeekKind() == '"' {
		t, err := d.ReadToken()
		if err != nil {
			return nil, false
		}
		name := t.String()
		value, err := d.ReadValue()
		if err != nil {
			return nil, false
		}
		if name != "signature" {
			hashMember(h, []byte(name), value)
			continue
		}
		if signed || !m.readSignature(value) {
			return nil, false
		}
		signed = true
	}
	if t, err := d.ReadToken(); err != nil || t.Kind() != '}' {
		return nil, false
	}
	if _, err := d.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, false
	}
	h.Sum(m.content[:0])
	return m, true
}

// readSignature reads the signature object. Its members are strings, one of each;
// the timestamp may be an integer, as the documentation's table says.
func (m *mailgunProof) readSignature(value []byte) bool {
	d := newMailgunDecoder(value)
	if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
		return false
	}
	members := map[string]*string{"timestamp": &m.timestamp, "token": &m.token, "signature": &m.signature, "parent-signature": &m.parent}
	seen := map[string]bool{}
	for d.PeekKind() == '"' {
		t, err := d.ReadToken()
		if err != nil {
			return false
		}
		name := t.String()
		into := members[name]
		if into == nil {
			if d.SkipValue() != nil {
				return false
			}
			continue
		}
		v, err := d.ReadToken()
		if err != nil || seen[name] || v.Kind() != '"' && (v.Kind() != '0' || name != "timestamp") {
			return false
		}
		*into, seen[name] = v.String(), true
	}
	t, err := d.ReadToken()
	return err == nil && t.Kind() == '}'
}

func newMailgunDecoder(b []byte) *jsontext.Decoder {
	// Names twice or bad UTF-8 somewhere in the event are no reason to lose it; the
	// names that matter here are looked at one by one.
	return jsontext.NewDecoder(bytes.NewReader(b), jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// hashMember adds a member so that no two sequences of members sum up alike.
func hashMember(h hash.Hash, name, value []byte) {
	var n [16]byte
	binary.BigEndian.PutUint64(n[:8], uint64(len(name)))
	binary.BigEndian.PutUint64(n[8:], uint64(len(value)))
	h.Write(n[:])
	h.Write(name)
	h.Write(value)
}

// signMailgun makes today's body of an event-data object, or a legacy form of a form
// without its signature.
func signMailgun(p Plain) (Signed, error) {
	timestamp := strconv.FormatInt(p.Now.Unix(), 10)
	token := p.Token
	if token == "" {
		var b [25]byte
		_, _ = rand.Read(b[:]) // never fails
		token = hex.EncodeToString(b[:])
	}
	h := hmac.New(sha256.New, []byte(p.Key))
	_, _ = io.WriteString(h, timestamp)
	_, _ = io.WriteString(h, token)
	signature := hex.EncodeToString(h.Sum(nil))

	s := Signed{ContentType: p.ContentType, Header: http.Header{}}
	f := parseForm(p.ContentType, p.Body)
	switch {
	case f.err != nil:
		return Signed{}, f.err
	case !f.isForm:
		if !jsontext.Value(p.Body).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true)) {
			return Signed{}, errors.New("the event-data is not JSON")
		}
		if s.ContentType == "" {
			s.ContentType = "application/json"
		}
		quoted, err := jsontext.AppendQuote(nil, token)
		if err != nil {
			return Signed{}, fmt.Errorf("token: %w", err)
		}
		s.Body = fmt.Appendf(nil, `{"signature":{"timestamp":"%s","token":%s,"signature":"%s"},"event-data":%s}`, timestamp, quoted, signature, p.Body)
	case strings.HasPrefix(strings.ToLower(p.ContentType), mediaMultipart):
		return signMultipart(s, p, [][2]string{{"timestamp", timestamp}, {"token", token}, {"signature", signature}})
	default:
		s.Body = slices.Clone(p.Body)
		if len(s.Body) > 0 {
			s.Body = append(s.Body, '&')
		}
		s.Body = append(s.Body, "timestamp="+timestamp+"&token="+url.QueryEscape(token)+"&signature="+signature...)
	}
	return s, nil
}

// signMultipart puts the fields in front of the closing boundary.
func signMultipart(s Signed, p Plain, fields [][2]string) (Signed, error) {
	_, params, err := mime.ParseMediaType(p.ContentType)
	if err != nil {
		return Signed{}, fmt.Errorf("content type: %w", err)
	}
	end := bytes.LastIndex(p.Body, []byte("--"+params["boundary"]+"--"))
	if end < 0 {
		return Signed{}, errors.New("the multipart body has no end")
	}
	var b bytes.Buffer
	b.Write(p.Body[:end])
	w := multipart.NewWriter(&b)
	if err := w.SetBoundary(params["boundary"]); err != nil {
		return Signed{}, err
	}
	// The writer begins with a boundary and ends with the closing one.
	for _, f := range fields {
		if err := w.WriteField(f[0], f[1]); err != nil {
			return Signed{}, err
		}
	}
	if err := w.Close(); err != nil {
		return Signed{}, err
	}
	s.Body = b.Bytes()
	return s, nil
}
