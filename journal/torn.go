package journal

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.uber.org/zap"
)

// A log is made of blocks, and these of chunks.
const (
	logBlock = 32 << 10
	// chunkLogNumber is where a chunk says to which log it belongs: after its
	// checksum, length and kind. A log file is used again, so what follows the end
	// of a log can be the rest of an older one.
	chunkLogNumber = 4 + 2 + 1
	// chunkHeader has a sync offset after the log's number.
	chunkHeader = chunkLogNumber + 4 + 8
)

// reportTorn logs where the newest log ends in a write that is not whole. pebble
// cuts it off without a word: after a power cut that is what was never synced,
// and so never acknowledged. Without a power cut the disk has lost something.
func reportTorn(fs vfs.FS, dir string, log *zap.Logger) {
	name, number, err := newestLog(fs, dir)
	if err != nil || name == "" {
		return // pebble is about to meet the same error, and says what it means
	}
	whole, torn, err := tornTail(fs, fs.PathJoin(dir, name), number)
	if err != nil || !torn {
		return
	}
	log.Warn("the journal's log ends in a write that is not whole; it is cut off. "+
		"After a power cut or a kill that is what was never acknowledged, otherwise the disk has lost data",
		zap.String("file", name), zap.Int64("whole_bytes", whole))
}

// newestLog returns the name and number of the log that was written last, and no
// name if there is none.
func newestLog(fs vfs.FS, dir string) (name string, number uint64, err error) {
	names, err := fs.List(dir)
	if err != nil {
		return "", 0, fmt.Errorf("listing %s: %w", dir, err)
	}
	type log struct {
		name   string
		number uint64
	}
	var logs []log
	for _, name := range names {
		if base, ok := strings.CutSuffix(name, ".log"); ok {
			if n, err := strconv.ParseUint(base, 10, 64); err == nil {
				logs = append(logs, log{name, n})
			}
		}
	}
	if len(logs) == 0 {
		return "", 0, nil
	}
	last := slices.MaxFunc(logs, func(a, b log) int { return cmp.Compare(a.number, b.number) })
	return last.name, last.number, nil
}

// tornTail reads a log to its end and returns how many of its bytes are whole
// records, and whether the beginning of one more follows.
func tornTail(fs vfs.FS, name string, number uint64) (whole int64, torn bool, err error) {
	f, err := fs.Open(name)
	if err != nil {
		return 0, false, fmt.Errorf("opening the log: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r := newRecordReader(record.NewReader, f, number)
	for {
		whole = r.Offset()
		next, err := r.Next()
		if err == nil {
			_, err = io.Copy(io.Discard, next)
		}
		if errors.Is(err, io.EOF) {
			return whole, false, nil // the trailer of a clean end, or the end of the file
		}
		if err != nil {
			break
		}
	}
	if left := logBlock - whole%logBlock; left < chunkHeader {
		whole += left // no chunk fits in there, the rest of the block is zeros
	}
	var header [chunkLogNumber + 4]byte
	n, err := f.ReadAt(header[:], whole)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, false, fmt.Errorf("reading the log's end: %w", err)
	}
	if n < len(header) {
		// Too little for a header: nothing was begun, or the file was cut.
		return whole, slices.ContainsFunc(header[:n], func(b byte) bool { return b != 0 }), nil
	}
	return whole, binary.LittleEndian.Uint32(header[chunkLogNumber:]) == uint32(number), nil
}

// newRecordReader is record.NewReader for a number whose type pebble keeps to
// itself.
func newRecordReader[N ~uint64](open func(io.Reader, N) *record.Reader, r io.Reader, number uint64) *record.Reader {
	return open(r, N(number))
}
