package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Salvaged is what Salvage did, or would do.
type Salvaged struct {
	// Damage has the places in the logs that are not what was written. Without any
	// nothing was to be done.
	Damage []Damage `json:"damage"`
	// Recovered is how many records were read from behind the damage.
	Recovered int `json:"recovered"`
	// Missing is how many records between the cursor and the end are nowhere. The
	// journal reports each with ErrDamaged when it is read.
	Missing uint64 `json:"missing"`
}

// Damage is a place in a log behind which pebble does not read on.
type Damage struct {
	// File is the log's name in the journal's directory.
	File string `json:"file"`
	// Whole is how many of its bytes come before the damage, Size how many it has.
	Whole int64 `json:"whole"`
	Size  int64 `json:"size"`
}

// damagedSuffix is added to the name of a log that was damaged, as it was.
const damagedSuffix = ".damaged"

// Salvage makes a journal that Open refuses with ErrCorrupt usable again, when it is
// a log that is damaged. Each such log is copied to a file of the same name with
// the suffix ".damaged" and cut off at the damage, and what can be read behind it is
// put back in its place. Records that cannot be read are then reported one by one,
// by Read. With dryRun nothing is changed, and Missing is not known.
//
// Nobody else may have the journal open. It can be repeated after a failure.
func Salvage(o Options, dryRun bool) (Salvaged, error) {
	j, fs, err := newJournal(o)
	if err != nil {
		return Salvaged{}, err
	}
	fail := func(err error) (Salvaged, error) {
		return Salvaged{}, fmt.Errorf("salvaging the journal in %s: %w", o.Dir, err)
	}
	s := salvage{fs: fs, dir: o.Dir, records: map[uint64][]byte{}, dryRun: dryRun}
	logs, err := logFiles(fs, o.Dir)
	if err != nil {
		return fail(err)
	}
	for i, l := range logs {
		if err := s.log(l, i == len(logs)-1); err != nil {
			return fail(fmt.Errorf("%s: %w", l.name, err))
		}
	}
	s.done.Recovered = len(s.records)
	if dryRun || len(s.done.Damage) == 0 && !s.again {
		return s.done, nil
	}
	if err := j.openPebble(fs); err != nil {
		return fail(err)
	}
	put := make(chan error, 1)
	go func() { put <- s.putBack(j.db) }() // the disk may fail and park it
	select {
	case err = <-put:
	case <-j.failed:
		err = j.Err()
	}
	if err := errors.Join(err, j.closePebble()); err != nil {
		return fail(err)
	}
	return s.done, nil
}

// salvage is one Salvage.
type salvage struct {
	fs     vfs.FS
	dir    string
	dryRun bool
	done   Salvaged
	// again says that an earlier one may have ended before it had put back what it
	// had found.
	again bool

	// What was found behind the damage: the records as they are kept, and the
	// furthest state.
	records     map[uint64][]byte
	end, cursor position
	mark        []byte
}

// log looks at one log and cuts it off if it is damaged.
func (s *salvage) log(l logFile, newest bool) error {
	name := s.fs.PathJoin(s.dir, l.name)
	if _, err := s.fs.Stat(name + damagedSuffix); err == nil {
		s.again = true
		if err := s.behind(name+damagedSuffix, l.number); err != nil {
			return err
		}
	}
	whole, ended, err := checkLog(s.fs, name, l.number)
	if err != nil {
		return err
	}
	info, err := s.fs.Stat(name)
	if err != nil {
		return fmt.Errorf("looking at its size: %w", err)
	}
	switch {
	case ended == nil:
		return nil
	case errors.Is(ended, record.ErrUnexpectedEOF) || errors.Is(ended, errTorn):
		if newest {
			return nil // pebble cuts it off itself
		}
	case !errors.Is(ended, errFalseEnd) && !errors.Is(ended, record.ErrInvalidChunk) && !errors.Is(ended, record.ErrZeroedChunk):
		return fmt.Errorf("reading: %w", ended)
	}
	s.done.Damage = append(s.done.Damage, Damage{File: l.name, Whole: whole, Size: info.Size()})
	if s.dryRun {
		return s.behind(name, l.number)
	}
	if err := s.copy(name, name+damagedSuffix, info.Size()); err != nil {
		return err
	}
	if err := s.behind(name+damagedSuffix, l.number); err != nil {
		return err
	}
	return s.copy(name+damagedSuffix, name, whole)
}

// copy writes the first n bytes of one file to another, durably and whole or not at
// all.
func (s *salvage) copy(from, to string, n int64) (err error) {
	in, err := s.fs.Open(from)
	if err != nil {
		return fmt.Errorf("opening: %w", err)
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	temporary := to + ".new"
	out, err := s.fs.Create(temporary, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("making a copy: %w", err)
	}
	_, err = io.CopyN(out, in, n)
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return fmt.Errorf("copying: %w", err)
	}
	if err := s.fs.Rename(temporary, to); err != nil {
		return fmt.Errorf("renaming the copy: %w", err)
	}
	return syncDirectory(s.fs, s.dir)
}

// behind collects what can be read from a damaged log behind its first damage.
// Blocks can be read by themselves, so after each damage it goes on with the rest of
// the block, and then with the next one.
func (s *salvage) behind(name string, number uint64) (err error) {
	f, err := s.fs.Open(name)
	if err != nil {
		return fmt.Errorf("opening: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("looking at its size: %w", err)
	}
	each := func([]byte) error { return nil } // pebble replays what is before the damage
	for block := int64(0); block < info.Size(); block += logBlock {
		whole, ended, err := readLog(io.NewSectionReader(f, block, info.Size()-block), info.Size()-block, number, each)
		if ended == nil || err != nil {
			return err
		}
		each = s.batch
		at := block + whole
		block = at / logBlock * logBlock
		if err := s.restOfBlock(f, number, at, min(block+logBlock, info.Size())); err != nil {
			return err
		}
	}
	return nil
}

// restOfBlock reads on behind the chunk at, which is damaged, to the end of its
// block. It needs that chunk's length, if that is not what is damaged.
func (s *salvage) restOfBlock(f io.ReaderAt, number uint64, at, end int64) error {
	var header [chunkHeader]byte
	for at+chunkHeader <= end {
		if _, err := f.ReadAt(header[:], at); err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		if binary.LittleEndian.Uint32(header[chunkLogNumber:]) != uint32(number) {
			return nil
		}
		at += chunkHeader + int64(binary.LittleEndian.Uint16(header[chunkLength:]))
		whole, ended, err := readLog(io.NewSectionReader(f, at, max(0, end-at)), max(0, end-at), number, s.batch)
		if ended == nil || err != nil {
			return err
		}
		at += whole
	}
	return nil
}

// batch takes what is in one batch. What is no batch of a journal was damaged, too.
func (s *salvage) batch(repr []byte) error {
	var b pebble.Batch
	if b.SetRepr(slices.Clone(repr)) != nil {
		return nil
	}
	for r := b.Reader(); ; {
		kind, key, value, ok, err := r.Next()
		if !ok || err != nil {
			return nil
		}
		if kind == pebble.InternalKeyKindSet {
			s.set(key, value)
		}
	}
}

func (s *salvage) set(key, value []byte) {
	switch {
	case len(key) == 1+8 && key[0] == recordPrefix && len(value) >= headerSize:
		s.records[indexOf(key)] = value
	case string(key) == string(endKey):
		if p, _, err := decodePosition(value); err == nil && p.index > s.end.index {
			s.end = p
		}
	case string(key) == string(cursorKey):
		if p, mark, err := decodePosition(value); err == nil && p.index > s.cursor.index {
			s.cursor, s.mark = p, mark
		}
	}
}

// putBack stores what was found and is not there, and counts what is nowhere.
func (s *salvage) putBack(db *pebble.DB) error {
	end, _, _, err := loadPosition(db, endKey)
	if err != nil {
		return fmt.Errorf("reading where it ends: %w", err)
	}
	cursor, mark, _, err := loadPosition(db, cursorKey)
	if err != nil {
		return fmt.Errorf("reading the cursor: %w", err)
	}
	if s.end.index > end.index {
		end = s.end
	}
	if s.cursor.index > cursor.index {
		cursor, mark = s.cursor, s.mark
	}
	s.done.Recovered = 0
	b := db.NewBatch()
	for index := cursor.index + 1; index <= end.index; index++ {
		_, _, err := readRecord(db, index, false)
		if err == nil {
			continue
		}
		if !errors.Is(err, ErrDamaged) {
			return fmt.Errorf("reading record %d: %w", index, err)
		}
		kept, found := s.records[index]
		if !found {
			s.done.Missing++
			continue
		}
		s.done.Recovered++
		if err := b.Set(recordKey(index), kept, nil); err != nil {
			return fmt.Errorf("putting back record %d: %w", index, err)
		}
		if b.Len() > maxBatch {
			if err := errors.Join(b.Commit(pebble.Sync), b.Close()); err != nil {
				return fmt.Errorf("putting back: %w", err)
			}
			b = db.NewBatch()
		}
	}
	if err := errors.Join(
		putEnd(b, end), putCursor(b, cursor, mark),
		b.DeleteRange(recordKey(0), recordKey(cursor.index+1), nil),
		b.Commit(pebble.Sync), b.Close(),
	); err != nil {
		return fmt.Errorf("putting back: %w", err)
	}
	return nil
}
