package event

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
)

// NewID returns the id of the event that a provider identifies by the given
// strings: the first 32 hexadecimal digits of SHA-256 over provider, endpoint,
// the identity and the occurrence, each written as its length in bytes, a colon
// and itself, so that no two lists of strings collide.
//
// The endpoint belongs to it because two accounts of one provider may use equal
// ids. The occurrence counts events of equal identity within one request, from 0:
// two real opens in the same second stay two, and a redelivery of the same
// request yields the same ids.
func NewID(provider, endpoint string, identity []string, occurrence int) string {
	h := sha256.New()
	var buf [20]byte
	write := func(s string) {
		h.Write(strconv.AppendInt(buf[:0], int64(len(s)), 10))
		h.Write([]byte{':'})
		h.Write([]byte(s))
	}
	write(provider)
	write(endpoint)
	for _, s := range identity {
		write(s)
	}
	write(strconv.Itoa(occurrence))
	return hex.EncodeToString(h.Sum(nil)[:16])
}
