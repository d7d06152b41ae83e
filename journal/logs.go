package journal

import (
	"bytes"
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
	// chunkLength is where a chunk says how much follows its header: after its
	// checksum.
	chunkLength = 4
	// chunkLogNumber is where it says to which log it belongs: after its length and
	// its kind. A log file is used again, so what follows the end of a log can be
	// the rest of an older one.
	chunkLogNumber = chunkLength + 2 + 1
	// chunkHeader has a sync offset after the log's number.
	chunkHeader = chunkLogNumber + 4 + 8
)

// checkLogs looks at the logs before pebble does. It logs where the newest one ends
// in a write that is not whole: pebble cuts it off without a word. After a power cut
// that is what was never synced, and so never acknowledged. Without a power cut the
// disk has lost something. And it returns ErrCorrupt for a log that seems to end well
// and goes on behind that: one bit of a chunk makes it look like the end, and pebble
// would take it for that. All other damage is pebble's to find.
func checkLogs(fs vfs.FS, dir string, log *zap.Logger) error {
	logs, err := logFiles(fs, dir)
	if err != nil {
		return nil // pebble is about to meet the same error, and says what it means
	}
	for i, l := range logs {
		whole, ended, err := checkLog(fs, fs.PathJoin(dir, l.name), l.number)
		switch {
		case err != nil: // as above
		case errors.Is(ended, errFalseEnd):
			return fmt.Errorf("%w: %s, at byte %d: %w", ErrCorrupt, l.name, whole, ended)
		case errors.Is(ended, errTorn) && i == len(logs)-1:
			log.Warn("the journal's log ends in a write that is not whole; it is cut off. "+
				"After a power cut or a kill that is what was never acknowledged, otherwise the disk has lost data",
				zap.String("file", l.name), zap.Int64("whole_bytes", whole))
		}
	}
	return nil
}

// Why a log ended, beside the errors of package record.
var (
	errFalseEnd = errors.New("the log goes on behind its end")
	errTorn     = errors.New("the last write is not whole")
)

// logFile is a log of pebble's, by its number.
type logFile struct {
	name   string
	number uint64
}

// logFiles returns the logs, the oldest first.
func logFiles(fs vfs.FS, dir string) ([]logFile, error) {
	names, err := fs.List(dir)
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", dir, err)
	}
	var logs []logFile
	for _, name := range names {
		if base, ok := strings.CutSuffix(name, ".log"); ok {
			if n, err := strconv.ParseUint(base, 10, 64); err == nil {
				logs = append(logs, logFile{name, n})
			}
		}
	}
	slices.SortFunc(logs, func(a, b logFile) int { return cmp.Compare(a.number, b.number) })
	return logs, nil
}

// readLog hands each whole record on, until the log ends or one is not whole. It
// returns how many bytes come before that, and why it ended: nil, errFalseEnd, one
// of the errors of package record, or the disk's.
func readLog(f io.ReaderAt, size int64, number uint64, each func([]byte) error) (whole int64, ended, err error) {
	r := newRecordReader(record.NewReader, io.NewSectionReader(f, 0, size), number)
	var b bytes.Buffer
	for {
		whole = r.Offset()
		b.Reset()
		next, ended := r.Next()
		if ended == nil {
			_, ended = b.ReadFrom(next)
		}
		if errors.Is(ended, io.EOF) {
			ended = nil
			if goesOn(f, whole, size, number) {
				ended = errFalseEnd
			}
		}
		if ended != nil || next == nil {
			return whole, ended, nil
		}
		if each != nil {
			if err := each(b.Bytes()); err != nil {
				return whole, nil, err
			}
		}
	}
}

// goesOn reports whether a block behind the one with the end begins with a record of
// the same log.
func goesOn(f io.ReaderAt, end, size int64, number uint64) bool {
	for block := (end/logBlock + 1) * logBlock; block < size; block += logBlock {
		r := newRecordReader(record.NewReader, io.NewSectionReader(f, block, size-block), number)
		if _, err := r.Next(); err == nil {
			return true
		}
	}
	return false
}

// checkLog reads a log to its end and returns how many of its bytes are whole
// records, and why there are no more: as readLog does, or errTorn.
func checkLog(fs vfs.FS, name string, number uint64) (whole int64, ended, err error) {
	f, err := fs.Open(name)
	if err != nil {
		return 0, nil, fmt.Errorf("opening the log: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return 0, nil, fmt.Errorf("looking at the log's size: %w", err)
	}
	whole, ended, err = readLog(f, info.Size(), number, nil)
	if !errors.Is(ended, record.ErrUnexpectedEOF) || err != nil {
		return whole, ended, err
	}
	if left := logBlock - whole%logBlock; left < chunkHeader {
		whole += left // no chunk fits in there, the rest of the block is zeros
	}
	var header [chunkLogNumber + 4]byte
	n, err := f.ReadAt(header[:], whole)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, nil, fmt.Errorf("reading the log's end: %w", err)
	}
	torn := binary.LittleEndian.Uint32(header[chunkLogNumber:]) == uint32(number)
	if n < len(header) { // nothing was begun, or the file was cut
		torn = slices.ContainsFunc(header[:n], func(b byte) bool { return b != 0 })
	}
	if torn {
		return whole, errTorn, nil
	}
	return whole, ended, nil
}

// newRecordReader is record.NewReader for a number whose type pebble keeps to
// itself.
func newRecordReader[N ~uint64](open func(io.Reader, N) *record.Reader, r io.Reader, number uint64) *record.Reader {
	return open(r, N(number))
}
