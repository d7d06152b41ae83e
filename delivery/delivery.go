// Package delivery defines one accepted webhook request and its encoding: what
// the receiver hands on, what the journal keeps and what the relay reads back,
// perhaps much later and perhaps by a newer program. It does not know who uses it.
//
// A delivery is self-contained: whatever normalizing it needs is in it, so that
// an endpoint that has left the configuration strands nothing.
package delivery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"
)

// Delivery is one request that was verified, as it was received.
type Delivery struct {
	Provider string
	Endpoint string
	// Received is when the request was verified, in UTC. It is recorded once, so
	// that events without a time of their own keep the same one for ever.
	Received time.Time
	Method   string
	// Query is the raw query string of the request, without the question mark.
	Query       string
	ContentType string
	// Header holds the allow-listed headers that were present, in a fixed order.
	Header []Field
	// Body is the body byte for byte.
	Body     []byte
	Verified Verification
}

// Field is one header.
type Field struct{ Name, Value string }

// Get returns the value of the header of that exact name, or "".
func (d *Delivery) Get(name string) string {
	for _, f := range d.Header {
		if f.Name == name {
			return f.Value
		}
	}
	return ""
}

// Verification says how the sender proved itself.
type Verification struct {
	// Method is the strongest proof that held.
	Method Method
	// Key is the fingerprint of the key or token that matched, never the key.
	Key string
	// Sample is true when the key was one that blessd made up for samples: the
	// events are marked as a test.
	Sample bool
}

// Method is a kind of proof.
type Method string

// The methods. BySignature covers the request as far as the provider's rule goes.
const (
	BySignature Method = "signature"
	ByToken     Method = "token"
	ByBasicAuth Method = "basic_auth"
	ByNothing   Method = "none" // auth: none was configured
)

// ErrDamaged is wrapped by Decode's errors when the bytes are not what was encoded.
var ErrDamaged = errors.New("damaged delivery record")

// ErrVersion is wrapped by Decode's errors when a newer program wrote the record.
var ErrVersion = errors.New("delivery record of an unknown version")

// version is the first byte of the encoding. It changes when an older reader
// could misread the rest; fields may be appended without a change.
const version = 1

const prefix = 1 + 4 // version, CRC

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode returns d's encoding: the version, the CRC-32C of the rest, and the
// fields in order, each as its length (unsigned varint) and its bytes.
func Encode(d *Delivery) []byte {
	n := prefix + 64 + len(d.Provider) + len(d.Endpoint) + len(d.Query) + len(d.ContentType) + len(d.Body) + len(d.Verified.Key)
	for _, f := range d.Header {
		n += len(f.Name) + len(f.Value) + 8
	}
	b := make([]byte, prefix, n)
	b[0] = version
	str := func(s string) { b = append(binary.AppendUvarint(b, uint64(len(s))), s...) }
	str(d.Provider)
	str(d.Endpoint)
	b = binary.AppendVarint(b, d.Received.UnixNano())
	str(d.Method)
	str(d.Query)
	str(d.ContentType)
	b = binary.AppendUvarint(b, uint64(len(d.Header)))
	for _, f := range d.Header {
		str(f.Name)
		str(f.Value)
	}
	b = append(binary.AppendUvarint(b, uint64(len(d.Body))), d.Body...)
	str(string(d.Verified.Method))
	str(d.Verified.Key)
	sample := byte(0)
	if d.Verified.Sample {
		sample = 1
	}
	b = append(b, sample)
	binary.LittleEndian.PutUint32(b[1:prefix], crc32.Checksum(b[prefix:], castagnoli))
	return b
}

// Decode reads an encoding. The delivery's Body aliases b. An error wraps
// ErrDamaged or ErrVersion, and then nothing of the delivery may be used.
func Decode(b []byte) (*Delivery, error) {
	if len(b) < prefix {
		return nil, fmt.Errorf("%w: %d bytes are too few", ErrDamaged, len(b))
	}
	if b[0] != version {
		return nil, fmt.Errorf("%w: %d, this program knows %d", ErrVersion, b[0], version)
	}
	if binary.LittleEndian.Uint32(b[1:prefix]) != crc32.Checksum(b[prefix:], castagnoli) {
		return nil, fmt.Errorf("%w: checksum differs", ErrDamaged)
	}
	r := reader{b: b[prefix:]}
	d := &Delivery{}
	d.Provider = r.str()
	d.Endpoint = r.str()
	d.Received = time.Unix(0, r.varint()).UTC()
	d.Method = r.str()
	d.Query = r.str()
	d.ContentType = r.str()
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		d.Header = append(d.Header, Field{Name: r.str(), Value: r.str()})
	}
	d.Body = r.bytes()
	d.Verified.Method = Method(r.str())
	d.Verified.Key = r.str()
	d.Verified.Sample = r.byte() != 0
	if r.bad {
		return nil, fmt.Errorf("%w: a field runs over the end", ErrDamaged)
	}
	return d, nil
}

// reader reads fields and remembers whether one did not fit.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	return advance(r, v, n)
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	return advance(r, v, n)
}

func advance[T any](r *reader, v T, n int) T {
	if n <= 0 {
		r.b, r.bad = nil, true
		var zero T
		return zero
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.b, r.bad = nil, true
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) str() string { return string(r.bytes()) }

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}
