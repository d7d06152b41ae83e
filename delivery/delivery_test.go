package delivery_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/blessd/blessd/delivery"
)

var full = delivery.Delivery{
	Provider:    "sendclean",
	Endpoint:    "acme",
	Received:    time.Date(2026, 11, 21, 17, 22, 17, 123456789, time.UTC),
	Method:      "POST",
	Query:       "a=1&b=%20",
	ContentType: "application/x-www-form-urlencoded",
	Header:      []delivery.Field{{Name: "X-Sendcleantes-Signature", Value: "c2ln"}, {Name: "User-Agent", Value: ""}},
	Body:        []byte("sarvtes_events=%5B%5D\x00\xff"),
	Verified:    delivery.Verification{Method: delivery.BySignature, Key: "0badcafe", Sample: true},
}

func TestRoundTrip(t *testing.T) {
	large := full
	large.Body = bytes.Repeat([]byte{0, 255}, 1<<20)
	large.Query = strings.Repeat("q", 300)
	for name, d := range map[string]delivery.Delivery{
		"full":        full,
		"large":       large,
		"empty":       {Received: time.Unix(0, 0).UTC()},
		"before 1970": {Received: time.Date(1901, 2, 3, 4, 5, 6, 7, time.UTC), Body: []byte("x")},
	} {
		t.Run(name, func(t *testing.T) {
			b := delivery.Encode(&d)
			got, err := delivery.Decode(b)
			if err != nil {
				t.Fatal(err)
			}
			want := d
			if want.Body == nil {
				want.Body = []byte{}
			}
			if !reflect.DeepEqual(got, &want) {
				t.Errorf("got %+v, want %+v", got, &want)
			}
			if again := delivery.Encode(got); !bytes.Equal(again, b) {
				t.Errorf("encoded again %x, want %x", again, b)
			}
		})
	}
}

// The zone of the receive time is not kept; the instant is.
func TestReceivedIsUTC(t *testing.T) {
	d := full
	d.Received = full.Received.In(time.FixedZone("elsewhere", -3600))
	got, err := delivery.Decode(delivery.Encode(&d))
	if err != nil {
		t.Fatal(err)
	}
	if got.Received != full.Received {
		t.Errorf("received %v, want %v", got.Received, full.Received)
	}
}

// A journal holds records for weeks: this one must be readable for ever.
func TestEncodingIsStable(t *testing.T) {
	const want = "012d193bcd04736172760461636d65aa9cebcfccce8fea3104504f53540171016301014e017604626f647905746f6b656e016b01"
	d := delivery.Delivery{
		Provider: "sarv", Endpoint: "acme", Received: full.Received, Method: "POST", Query: "q", ContentType: "c",
		Header: []delivery.Field{{Name: "N", Value: "v"}}, Body: []byte("body"),
		Verified: delivery.Verification{Method: delivery.ByToken, Key: "k", Sample: true},
	}
	if got := hex.EncodeToString(delivery.Encode(&d)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestGet(t *testing.T) {
	for name, want := range map[string]string{"X-Sendcleantes-Signature": "c2ln", "User-Agent": "", "x-sendcleantes-signature": "", "Host": ""} {
		if got := full.Get(name); got != want {
			t.Errorf("Get(%q) = %q, want %q", name, got, want)
		}
	}
}

// refused checks that b is refused for a reason that callers can tell.
func refused(t *testing.T, what string, b []byte) {
	t.Helper()
	d, err := delivery.Decode(b)
	if err == nil {
		t.Fatalf("%s: decoded to %+v", what, d)
	}
	if !errors.Is(err, delivery.ErrDamaged) && !errors.Is(err, delivery.ErrVersion) {
		t.Fatalf("%s: error %v wraps neither ErrDamaged nor ErrVersion", what, err)
	}
	if d != nil {
		t.Fatalf("%s: an error and a delivery", what)
	}
}

func TestEveryTruncation(t *testing.T) {
	b := delivery.Encode(&full)
	for n := range b {
		refused(t, "truncated", b[:n])
	}
	refused(t, "one byte more", append(bytes.Clone(b), 0))
}

func TestEveryBitFlip(t *testing.T) {
	b := delivery.Encode(&full)
	for i := range b {
		for bit := range 8 {
			flipped := bytes.Clone(b)
			flipped[i] ^= 1 << bit
			refused(t, "flipped", flipped)
			if _, err := delivery.Decode(flipped); (i == 0) != errors.Is(err, delivery.ErrVersion) {
				t.Fatalf("byte %d, bit %d: %v", i, bit, err)
			}
		}
	}
}

// sealed returns fields with the version and the checksum that belongs to them.
func sealed(fields []byte) []byte {
	b := append([]byte{1, 0, 0, 0, 0}, fields...)
	binary.LittleEndian.PutUint32(b[1:5], crc32.Checksum(fields, crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// A checksum says nothing about who made it: fields that do not fit are refused too.
func TestFieldsThatDoNotFit(t *testing.T) {
	fields := delivery.Encode(&full)[5:]
	if _, err := delivery.Decode(sealed(fields)); err != nil {
		t.Fatalf("whole: %v", err)
	}
	for n := range fields {
		refused(t, "fields end early", sealed(fields[:n]))
	}
	refused(t, "length beyond the end", sealed([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}))
	refused(t, "endless length", sealed(bytes.Repeat([]byte{0xff}, 20)))
	// A count of headers that no record could hold must not be believed.
	many := []byte{0, 0, 0, 0, 0, 0}
	refused(t, "headers", sealed(binary.AppendUvarint(many, 1<<62)))
}

// A newer program may append fields: this one reads what it knows.
func TestAppendedFieldsAreIgnored(t *testing.T) {
	got, err := delivery.Decode(sealed(append(delivery.Encode(&full)[5:], "more"...)))
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, &full) {
		t.Errorf("got %+v, want %+v", got, &full)
	}
}

// Appending to the body must not reach into the record.
func TestBodyAliasesNoMoreThanItself(t *testing.T) {
	b := delivery.Encode(&full)
	d, err := delivery.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	before := bytes.Clone(b)
	_ = append(d.Body, "overwritten"...)
	if !bytes.Equal(b, before) {
		t.Error("appending to Body changed the record")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(delivery.Encode(&full), false)
	f.Add(delivery.Encode(&delivery.Delivery{}), false)
	f.Add(delivery.Encode(&full)[5:], true)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal { // else hardly anything gets past the checksum
			b = sealed(b)
		}
		d, err := delivery.Decode(b)
		if err != nil {
			if d != nil || !errors.Is(err, delivery.ErrDamaged) && !errors.Is(err, delivery.ErrVersion) {
				t.Fatalf("%v, %+v", err, d)
			}
			return
		}
		again, err := delivery.Decode(delivery.Encode(d))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(again, d) {
			t.Errorf("got %+v, want %+v", again, d)
		}
	})
}
