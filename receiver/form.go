package receiver

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strings"
)

// field is one field of a form, decoded. One with a file name is an attachment,
// and means nothing to a normalizer.
type field struct{ name, value, file string }

// form is a body as a form. A body that is none has isForm false; one that is
// broken has an err, and then its fields mean nothing.
type form struct {
	isForm bool
	fields []field
	err    error
}

// maxFields bounds what a stranger's form can cost before it is verified. The
// largest legacy form of Mailgun has some dozens of fields.
const maxFields = 1000

var errTooManyFields = errors.New("too many fields")

const (
	mediaURLEncoded = "application/x-www-form-urlencoded"
	mediaMultipart  = "multipart/form-data"
)

// parseForm takes a body apart, by its content type and by how it begins: what
// begins like JSON is JSON, because a form's fields are what signatures cover, and
// a body must not be verified as the one and read as the other. A body of another
// or no type that looks urlencoded is a form.
func parseForm(contentType string, body []byte) *form {
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		media, _, _ = strings.Cut(strings.ToLower(contentType), ";")
		media = strings.TrimSpace(media)
	}
	if media == mediaMultipart {
		fields, err := multipartFields(params["boundary"], body)
		return &form{isForm: true, fields: fields, err: err}
	}
	if looksLikeJSON(body) {
		return &form{}
	}
	if media == mediaURLEncoded || !strings.HasPrefix(media, "multipart/") && bytes.IndexByte(body, '=') > 0 {
		fields, err := urlencodedFields(body)
		return &form{isForm: true, fields: fields, err: err}
	}
	return &form{}
}

// trimJSON takes one byte order mark and the white space around off.
func trimJSON(body []byte) []byte {
	return bytes.Trim(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), " \t\r\n")
}

func looksLikeJSON(body []byte) bool {
	b := trimJSON(body)
	return len(b) > 0 && (b[0] == '[' || b[0] == '{' || b[0] == '"')
}

func urlencodedFields(body []byte) ([]field, error) {
	var fields []field
	for pair := range strings.SplitSeq(string(body), "&") {
		if pair == "" {
			continue
		}
		if len(fields) == maxFields {
			return nil, errTooManyFields
		}
		name, value, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(name)
		if err != nil {
			return nil, err
		}
		if value, err = url.QueryUnescape(value); err != nil {
			return nil, err
		}
		fields = append(fields, field{name: name, value: value})
	}
	return fields, nil
}

func multipartFields(boundary string, body []byte) ([]field, error) {
	// What stands before the first part is in no field, so nothing may.
	if boundary == "" || !bytes.HasPrefix(bytes.TrimLeft(body, "\r\n"), []byte("--"+boundary)) {
		return nil, errors.New("no boundary at the start")
	}
	var fields []field
	r := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		part, err := r.NextPart()
		if errors.Is(err, io.EOF) {
			return fields, nil
		}
		if err != nil {
			return nil, err
		}
		if len(fields) == maxFields {
			return nil, errTooManyFields
		}
		value, err := io.ReadAll(part)
		if err != nil {
			return nil, err
		}
		fields = append(fields, field{name: part.FormName(), value: string(value), file: part.FileName()})
	}
}
