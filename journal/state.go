package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"go.uber.org/zap"
)

// What is in pebble:
//
//	'r' index            a record: count, append time in ns, value
//	"~cursor"            version, index, count, mark
//	"~end"               version, index, count
//
// Numbers are 8 bytes, big endian. A count is the number of value bytes that were
// ever appended up to there, so the size of any stretch is a difference.
//
// The two state keys sort after the records, and the deleted ranges begin where
// the last one ended, for the sake of the compactions: a table then covers its
// own records and what comes after them, not everything before.
const (
	recordPrefix = 'r'
	stateVersion = 1
	headerSize   = 16
)

var (
	cursorKey = []byte("~cursor")
	endKey    = []byte("~end")
)

func recordKey(index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{recordPrefix}, index)
}

func indexOf(recordKey []byte) uint64 { return binary.BigEndian.Uint64(recordKey[1:]) }

func putRecord(b *pebble.Batch, p position, now time.Time, value []byte) {
	op := b.SetDeferred(1+8, headerSize+len(value))
	op.Key[0] = recordPrefix
	binary.BigEndian.PutUint64(op.Key[1:], p.index)
	binary.BigEndian.PutUint64(op.Value, p.count)
	binary.BigEndian.PutUint64(op.Value[8:], uint64(now.UnixNano()))
	copy(op.Value[headerSize:], value)
	_ = op.Finish() // it fails for indexed batches only
}

func putEnd(b *pebble.Batch, p position) error {
	return b.Set(endKey, encodePosition(p, nil), nil)
}

func putCursor(b *pebble.Batch, p position, mark []byte) error {
	return b.Set(cursorKey, encodePosition(p, mark), nil)
}

func encodePosition(p position, rest []byte) []byte {
	b := make([]byte, 0, 1+16+len(rest))
	b = append(b, stateVersion)
	b = binary.BigEndian.AppendUint64(b, p.index)
	b = binary.BigEndian.AppendUint64(b, p.count)
	return append(b, rest...)
}

func decodePosition(b []byte) (p position, rest []byte, err error) {
	if len(b) < 1+16 {
		return position{}, nil, fmt.Errorf("%d bytes are too few", len(b))
	}
	if b[0] != stateVersion {
		return position{}, nil, fmt.Errorf("version %d is not known, was it written by a newer program?", b[0])
	}
	p = position{binary.BigEndian.Uint64(b[1:]), binary.BigEndian.Uint64(b[9:])}
	return p, append([]byte(nil), b[17:]...), nil
}

// readRecord reads by a point lookup, never by iterating: an iterator stops for
// good at the first block that is damaged.
func readRecord(db *pebble.DB, index uint64, withValue bool) (r Record, count uint64, err error) {
	b, closer, err := db.Get(recordKey(index))
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return Record{}, 0, fmt.Errorf("%w: it is missing", ErrDamaged)
	case pebble.IsCorruptionError(err):
		return Record{}, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	case err != nil:
		return Record{}, 0, err
	}
	if len(b) < headerSize {
		return Record{}, 0, errors.Join(fmt.Errorf("%w: %d bytes are too few", ErrDamaged, len(b)), closer.Close())
	}
	count = binary.BigEndian.Uint64(b)
	r = Record{Index: index, Appended: time.Unix(0, int64(binary.BigEndian.Uint64(b[8:]))).UTC()}
	if withValue {
		r.Value = append(make([]byte, 0, len(b)-headerSize), b[headerSize:]...)
	}
	if err := closer.Close(); err != nil {
		return Record{}, 0, err
	}
	return r, count, nil
}

// load reads the state, or writes that of a new journal, and checks that it
// agrees with the records. It does not read the records.
func (j *Journal) load() error {
	end, _, haveEnd, err := loadPosition(j.db, endKey)
	if err != nil {
		return fmt.Errorf("reading where it ends: %w", err)
	}
	cursor, mark, haveCursor, err := loadPosition(j.db, cursorKey)
	if err != nil {
		return fmt.Errorf("reading the cursor: %w", err)
	}
	last, haveRecords, err := lastRecord(j.db)
	if pebble.IsCorruptionError(err) {
		// The place is damaged where the last records are. The state is what
		// counts, the check is only a second opinion; reading will tell which.
		j.log.Error("last journal record is not readable", zap.Error(err))
		haveRecords, err = false, nil
	}
	if err != nil {
		return fmt.Errorf("looking for the last record: %w", err)
	}

	switch {
	case !haveEnd && !haveCursor && !haveRecords:
		return j.create()
	case !haveEnd:
		return errors.New("the key that says where it ends is missing, though it is not new: this is no complete journal")
	case !haveCursor:
		return errors.New("the key of the cursor is missing, though it is not new: this is no complete journal")
	case haveRecords && last > end.index:
		return fmt.Errorf("record %d exists, but it should end with %d: parts of different journals were mixed", last, end.index)
	case cursor.index > end.index || cursor.count > end.count:
		return fmt.Errorf("the cursor is at record %d and byte %d, beyond the end at %d and %d: parts of different journals were mixed",
			cursor.index, cursor.count, end.index, end.count)
	}
	j.end, j.synced, j.cursor, j.mark = end, end, cursor, mark
	return nil
}

// create writes the state of a new journal, so that a state that is missing later
// is known to be lost.
func (j *Journal) create() error {
	b := j.db.NewBatch()
	if err := errors.Join(putEnd(b, position{}), putCursor(b, position{}, nil)); err != nil {
		return fmt.Errorf("writing the first state: %w", err)
	}
	committed := make(chan error, 1)
	go func() {
		err := b.Commit(pebble.Sync)
		if err == nil {
			// The first log of a new store is begun before it has its format
			// version, in a format without the sync offsets by which damage in the
			// middle of a log is told from its torn end. This begins the second.
			err = j.db.Flush()
		}
		committed <- err
	}()
	select {
	case err := <-committed:
		if err != nil {
			return fmt.Errorf("writing the first state: %w", err)
		}
		return b.Close()
	case <-j.failed:
		return j.Err()
	}
}

func loadPosition(db *pebble.DB, key []byte) (p position, rest []byte, found bool, err error) {
	b, closer, err := db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return position{}, nil, false, nil
	}
	if err != nil {
		return position{}, nil, false, err
	}
	p, rest, err = decodePosition(b)
	return p, rest, true, errors.Join(err, closer.Close())
}

// lastRecord seeks to the last record's key.
func lastRecord(db *pebble.DB) (index uint64, found bool, err error) {
	it, err := db.NewIter(&pebble.IterOptions{
		LowerBound: []byte{recordPrefix},
		UpperBound: []byte{recordPrefix + 1},
	})
	if err != nil {
		return 0, false, err
	}
	if it.Last() {
		key := it.Key()
		if len(key) != 1+8 {
			return 0, false, errors.Join(fmt.Errorf("the key %x is not one of a journal", key), it.Close())
		}
		index, found = indexOf(key), true
	}
	return index, found, errors.Join(it.Error(), it.Close())
}
