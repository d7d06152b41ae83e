package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// Size is a number of bytes, written as a whole number with a unit: B, KiB, MiB,
// GiB, TiB, or the decimal kB, MB, GB, TB. A number alone is bytes.
type Size int64

// The binary units.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

// sizeUnits is ordered so that no suffix hides a longer one.
var sizeUnits = []struct {
	suffix string
	bytes  Size
}{
	{"TiB", TiB},
	{"GiB", GiB},
	{"MiB", MiB},
	{"KiB", KiB},
	{"TB", 1e12},
	{"GB", 1e9},
	{"MB", 1e6},
	{"kB", 1e3},
	{"B", 1},
}

var (
	errSize     = errors.New("no size: write a whole number and a unit, like 512KiB, 64MiB or 10GiB")
	errDuration = errors.New("no duration: write whole numbers and units, like 500ms, 90s, 12h, 30d or 1d12h")
)

// UnmarshalText parses what String writes.
func (s *Size) UnmarshalText(text []byte) error {
	number, unit := strings.TrimSpace(string(text)), Size(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(number, u.suffix); ok {
			number, unit = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	for _, r := range number {
		if r < '0' || r > '9' {
			return errSize
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if errors.Is(err, strconv.ErrRange) || err == nil && n > math.MaxInt64/int64(unit) {
		return errors.New("size too large: more than 8388607TiB")
	}
	if err != nil {
		return errSize
	}
	*s = Size(n) * unit
	return nil
}

// MarshalText writes the size as String does.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String writes the size exactly, in the largest binary unit that divides it.
func (s Size) String() string {
	if s == 0 {
		return "0"
	}
	for _, u := range sizeUnits[:4] {
		if s%u.bytes == 0 {
			return strconv.FormatInt(int64(s/u.bytes), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// approximate writes the size for people, with one digit after the point.
func (s Size) approximate() string {
	for _, u := range sizeUnits[:4] {
		if s >= u.bytes {
			return fmt.Sprintf("%.1f %s", float64(s)/float64(u.bytes), u.suffix)
		}
	}
	return fmt.Sprintf("%d B", int64(s))
}

// Duration is a span of time, written as whole numbers with the units ms, s, m,
// h, d (24 h) and w (7 d), the largest first.
type Duration time.Duration

// The units that defaults are written in.
const (
	minute = Duration(time.Minute)
	hour   = Duration(time.Hour)
	day    = 24 * hour
)

// UnmarshalText parses what String writes.
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := model.ParseDuration(strings.TrimSpace(string(text)))
	if err != nil {
		return errDuration
	}
	*d = Duration(parsed)
	return nil
}

// MarshalText writes the duration as String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// String writes the duration with its units.
func (d Duration) String() string { return model.Duration(d).String() }
