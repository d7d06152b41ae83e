// Package unverified keeps deliveries that arrived whole and that no key verified,
// on disk and within a limit, until a key comes by which they can be redeemed. It
// does not know what makes a delivery genuine: who redeems says that.
//
// Strangers can fill it, so:
//
//   - Every endpoint has a share of its own, and its oldest deliveries make room for
//     its newest. A flood on one endpoint takes nothing from another.
//   - What is held because the key that verifies it is on its way has room beside
//     these shares, which nothing else takes, and within it the endpoint with most
//     gives way.
//   - Equal deliveries are kept once: what a provider repeats costs nothing.
//   - Keep never waits for the disk. What comes faster than it is dropped, and
//     counted. Hold waits, and says whether it is kept.
//   - Nothing of a delivery is in the name of its file: no token, no address.
//
// A delivery is one file. A restart finds them again; a loss of power may take those
// of the last moments, since files are not synced: their senders were refused, and
// come again.
package unverified

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/blessd/blessd/delivery"
)

// Options is what a Store needs.
type Options struct {
	// Dir is made with mode 0700.
	Dir string
	// MaxBytes is what all files together may take on disk, but for those held.
	MaxBytes int64
	// Final are the reasons with which a delivery is kept to be looked at and never
	// redeemed. Who is refused for one of them when redeemed keeps it for ever.
	Final []string
	// Held are the reasons of deliveries that are kept for a key that is on its way.
	// They have room of their own, MaxBytes for those of all endpoints together, in
	// which others do not count; once they were tried, and are refused for another
	// reason, they are like all.
	Held       []string
	Log        *zap.Logger
	Registerer prometheus.Registerer
}

// Endpoint is whom deliveries were for.
type Endpoint struct{ Provider, Name string }

// dir is the name of the endpoint's directory. Neither part has a dot.
func (e Endpoint) dir() string { return e.Provider + "." + e.Name }

// Store is made by Open and ended by Close. Its methods may be called concurrently.
type Store struct {
	o       Options
	metrics *metrics
	queue   queue
	done    chan struct{} // closed when the writer has ended
	warn    *rate.Limiter
	turn    chan struct{} // held by who redeems

	mu      sync.Mutex // for what follows, and for the files
	shelves map[Endpoint]*shelf
	current []Endpoint // as SetEndpoints said
	share   int64      // of each shelf
}

// shelf is what is kept of one endpoint.
type shelf struct {
	records  []*record // in the order of their receipt
	byDigest map[string]*record
	bytes    int64 // of those in the share
	held     int64 // of those held, and their number
	heldN    int
}

// record is one delivery: what its file's name says, and its size on disk.
type record struct {
	received int64 // in ns since 1970
	reason   string
	digest   string
	size     int64
}

// file is the record's name. It sorts by the time of receipt.
func (r *record) file() string {
	return fmt.Sprintf("%016x-%s-%s", uint64(r.received), r.reason, r.digest)
}

func parseFile(name string) (*record, bool) {
	parts := strings.Split(name, "-")
	if len(parts) != 3 || len(parts[0]) != 16 || parts[1] == "" || len(parts[2]) != 32 {
		return nil, false
	}
	received, err := strconv.ParseUint(parts[0], 16, 64)
	return &record{received: int64(received), reason: parts[1], digest: parts[2]}, err == nil
}

// blockSize is what a file system gives a file at least.
const blockSize = 4096

// onDisk is what a file of n bytes takes, roughly. The many small bodies that a
// stranger could send count as what they cost.
func onDisk(n int64) int64 { return max(1, (n+blockSize-1)/blockSize) * blockSize }

// Open finds what is kept in the directory and starts to write what Keep is given.
func Open(o Options) (*Store, error) {
	if o.Dir == "" || o.MaxBytes <= 0 || o.Log == nil || o.Registerer == nil {
		return nil, errors.New("unverified deliveries need a directory, a limit, a logger and a registerer")
	}
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Store{
		o: o, metrics: m, done: make(chan struct{}), turn: make(chan struct{}, 1),
		warn: rate.NewLimiter(rate.Every(warnEvery), 3), shelves: map[Endpoint]*shelf{},
	}
	s.queue.init()
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("unverified deliveries: %w", err)
	}
	s.mu.Lock()
	s.divide()
	s.mu.Unlock()
	go s.write()
	return s, nil
}

// Close writes what Keep has taken and ends the writer. Whoever redeems must have
// ended before. When ctx ends first, what is not written is lost.
func (s *Store) Close(ctx context.Context) error {
	s.queue.close()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("write the unverified deliveries: %w", ctx.Err())
	}
}

// SetEndpoints divides the room between these endpoints and those that have left and
// still have deliveries here. It must be called before Keep is called for a new one.
func (s *Store) SetEndpoints(es []Endpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current = slices.Clone(es)
	for _, e := range es {
		if s.shelves[e] == nil {
			s.shelves[e] = &shelf{byDigest: map[string]*record{}}
			s.metrics.create(e)
		}
	}
	s.divide()
}

// divide gives every shelf the same share, and lets go what is over it.
func (s *Store) divide() {
	for e, sh := range s.shelves {
		if len(sh.records) == 0 && !slices.Contains(s.current, e) {
			s.removeShelf(e)
		}
	}
	s.share = s.o.MaxBytes / int64(max(1, len(s.shelves)))
	for e, sh := range s.shelves {
		s.makeRoom(e, sh, 0)
		s.metrics.show(e, sh, s.share)
	}
}

func (s *Store) removeShelf(e Endpoint) {
	delete(s.shelves, e)
	s.metrics.forget(e)
	_ = os.Remove(filepath.Join(s.o.Dir, e.dir())) // it is empty, or holds what is not ours
}

// load reads the names of the files.
func (s *Store) load() error {
	if err := os.MkdirAll(s.o.Dir, 0o700); err != nil {
		return fmt.Errorf("make the directory: %w", err)
	}
	dirs, err := os.ReadDir(s.o.Dir)
	if err != nil {
		return fmt.Errorf("read the directory: %w", err)
	}
	for _, dir := range dirs {
		provider, name, ok := strings.Cut(dir.Name(), ".")
		if !ok || !dir.IsDir() {
			continue
		}
		e := Endpoint{provider, name}
		sh, err := loadShelf(filepath.Join(s.o.Dir, dir.Name()), s.holds)
		if err != nil {
			return err
		}
		s.shelves[e] = sh
		s.metrics.create(e)
	}
	return nil
}

func loadShelf(dir string, holds func(reason string) bool) (*shelf, error) {
	files, err := os.ReadDir(dir) // sorted by name, which is by receipt
	if err != nil {
		return nil, fmt.Errorf("read the directory of an endpoint: %w", err)
	}
	sh := &shelf{byDigest: make(map[string]*record, len(files))}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), newFile) { // from a write that did not end
			_ = os.Remove(filepath.Join(dir, f.Name())) // what cannot be removed is in nobody's way
			continue
		}
		r, ok := parseFile(f.Name())
		if !ok {
			continue
		}
		info, err := f.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look at a file: %w", err)
		}
		if sh.byDigest[r.digest] == nil {
			r.size = onDisk(info.Size())
			sh.add(r, holds(r.reason))
		}
	}
	return sh, nil
}

func (sh *shelf) add(r *record, held bool) {
	sh.records = append(sh.records, r)
	sh.byDigest[r.digest] = r
	sh.count(r, held, 1)
}

// drop takes r off the shelf, unless that has happened.
func (sh *shelf) drop(r *record, held bool) bool {
	if sh.byDigest[r.digest] != r {
		return false
	}
	delete(sh.byDigest, r.digest)
	sh.records = slices.DeleteFunc(sh.records, func(other *record) bool { return other == r })
	sh.count(r, held, -1)
	return true
}

// count enters r, or with n = -1 takes it out again.
func (sh *shelf) count(r *record, held bool, n int) {
	if held {
		sh.held += int64(n) * r.size
		sh.heldN += n
	} else {
		sh.bytes += int64(n) * r.size
	}
}

// digest is the same for two deliveries of an endpoint that no key tells apart:
// equal but for when they came and who carried them.
func digest(d *delivery.Delivery) string {
	h := sha256.New()
	add := func(s string) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	for _, s := range []string{d.Query, d.ContentType, string(d.Verified.Method), d.Verified.Key, string(d.Body)} {
		add(s)
	}
	for _, f := range d.Header {
		if f.Name != "Traceparent" && f.Name != "User-Agent" {
			add(f.Name)
			add(f.Value)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// sorted returns the endpoints of the shelves in an order that does not change.
func (s *Store) sorted() []Endpoint {
	es := make([]Endpoint, 0, len(s.shelves))
	for e := range s.shelves {
		es = append(es, e)
	}
	slices.SortFunc(es, func(a, b Endpoint) int {
		return cmp.Or(cmp.Compare(a.Provider, b.Provider), cmp.Compare(a.Name, b.Name))
	})
	return es
}
