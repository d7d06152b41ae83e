package receiver

import (
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
)

// admit looks at the headers of a POST alone.
func admit(q *http.Request, maxBody int64) reason {
	// A POST without a length whose body is not chunked has an empty body in
	// net/http's eyes, whatever bytes follow. The same goes for HTTP/1.0 with
	// Transfer-Encoding. Blessing that would lose events.
	chunked := len(q.TransferEncoding) > 0
	if _, has := q.Header["Content-Length"]; !has && !chunked && q.ContentLength <= 0 {
		return lengthRequired
	}
	for _, v := range q.Header["Content-Encoding"] {
		if v = strings.TrimSpace(v); v != "" && !strings.EqualFold(v, "identity") {
			return unsupportedEncoding
		}
	}
	if q.ContentLength > maxBody {
		return tooLarge
	}
	return ""
}

// firstRead is how much room a body gets before its bytes have arrived.
const firstRead = 64 << 10

// readBody reads the whole body into x, counting the bytes as they arrive. What it
// has counted is len(x.body), also when it fails.
func (r *Receiver) readBody(x *exchange) (reason, error) {
	room := int64(4 << 10)
	if x.q.ContentLength >= 0 {
		room = min(x.q.ContentLength+1, firstRead)
	}
	x.body = make([]byte, 0, room)
	src := http.MaxBytesReader(x.w, x.q.Body, r.limits.MaxBody)
	for {
		if len(x.body) == cap(x.body) {
			x.body = append(x.body, 0)[:len(x.body)]
		}
		n, err := src.Read(x.body[len(x.body):cap(x.body)])
		if !r.budget.take(int64(n)) {
			return inFlight, nil
		}
		x.body = x.body[:len(x.body)+n]
		if err == nil {
			continue
		}
		var limit *http.MaxBytesError
		var network net.Error
		switch {
		case errors.Is(err, io.EOF):
			x.read = true
			return "", nil
		case errors.As(err, &limit):
			return tooLarge, nil
		case errors.As(err, &network) && network.Timeout():
			return timeout, nil
		default:
			return malformed, err
		}
	}
}

// budget counts the bytes of all bodies that are being held.
type budget struct {
	held atomic.Int64
	max  int64
}

func (b *budget) take(n int64) bool {
	if b.held.Add(n) > b.max {
		b.held.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.held.Add(-n) }
