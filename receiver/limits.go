package receiver

import (
	"errors"
	"time"
)

// Limits bound what one request, and all requests together, can cost. A zero field
// has its default.
type Limits struct {
	// MaxBody is the largest body in bytes, 8 MiB by default.
	MaxBody int64
	// MaxInFlight is how many bytes of bodies may be held at a time over all
	// requests, 64 MiB by default. It cannot be below MaxBody.
	MaxInFlight int64
	// MaxParked is how many deliveries may wait for the key of an announced rotation
	// at a time, 1024 by default, and MaxParkedBytes how many bytes of bodies, a
	// quarter of MaxInFlight by default: they are among those that MaxInFlight counts,
	// and leave room for the others.
	MaxParked      int
	MaxParkedBytes int64
	// ParkTimeout is for how long each of them may, 4 s by default.
	ParkTimeout time.Duration
	// MaxHeaderBytes bounds the request line and the headers, 16 KiB by default.
	MaxHeaderBytes int
	// PutTimeout is how long the store may take, 4 s by default.
	PutTimeout time.Duration
	// ReadHeaderTimeout is for the headers, 5 s by default.
	ReadHeaderTimeout time.Duration
	// ReadTimeout is for the whole request, 10 s by default.
	ReadTimeout time.Duration
	// IdleTimeout is how long a connection may wait for its next request, 60 s by
	// default.
	IdleTimeout time.Duration
}

func (l Limits) withDefaults() (Limits, error) {
	if l.MaxBody < 0 || l.MaxInFlight < 0 || l.MaxParked < 0 || l.MaxParkedBytes < 0 || l.ParkTimeout < 0 || l.MaxHeaderBytes < 0 || l.PutTimeout < 0 ||
		l.ReadHeaderTimeout < 0 || l.ReadTimeout < 0 || l.IdleTimeout < 0 {
		return l, errors.New("limits: a limit is negative")
	}
	setDefault(&l.MaxBody, 8<<20)
	setDefault(&l.MaxInFlight, max(64<<20, l.MaxBody))
	setDefault(&l.MaxParked, 1024)
	setDefault(&l.MaxParkedBytes, l.MaxInFlight/4)
	setDefault(&l.ParkTimeout, 4*time.Second)
	setDefault(&l.MaxHeaderBytes, 16<<10)
	setDefault(&l.PutTimeout, 4*time.Second)
	setDefault(&l.ReadHeaderTimeout, 5*time.Second)
	setDefault(&l.ReadTimeout, 10*time.Second)
	setDefault(&l.IdleTimeout, 60*time.Second)
	if l.MaxInFlight < l.MaxBody {
		return l, errors.New("limits: max_in_flight_bytes is below max_body, so the largest body could never be taken")
	}
	return l, nil
}

func setDefault[T ~int | ~int64](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}
