package scenario

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// image is a file system of its own in an image file, which can be copied as it is
// at one moment, as if the power went away.
type image struct {
	env      *Env
	file, at string
	cuts     int
}

// disk makes a file system and mounts it, or skips the scenario where that is not
// possible.
func (e *Env) disk(size int64, at string) *image {
	if os.Getuid() != 0 {
		e.Skipf("only root may mount a file system")
	}
	d := &image{env: e, file: at + ".img", at: at}
	f, err := os.Create(d.file)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		e.Fatalf("%v", err)
	}
	if out, err := exec.Command("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1", d.file).CombinedOutput(); err != nil {
		e.Skipf("no file system can be made here: mkfs.ext4: %v %s", err, out)
	}
	if err := d.mount(); err != nil {
		e.Skipf("images cannot be mounted here: %v", err)
	}
	e.Cleanup(func() { e.Unmount(at) })
	return d
}

// mount mounts the image. Unlike the default of 5 s the file system does not write
// out by itself what nobody has synced: luck is not to be tested.
func (d *image) mount() error {
	if err := os.MkdirAll(d.at, 0o700); err != nil {
		return fmt.Errorf("make the mount point: %w", err)
	}
	if out, err := exec.Command("mount", "-o", "loop,commit=300", d.file, d.at).CombinedOutput(); err != nil {
		return fmt.Errorf("mount %s: %w: %s", d.file, err, out)
	}
	return nil
}

// flush writes out what nobody has synced, as the kernel does with what is some half
// a minute old.
func (d *image) flush() {
	f, err := os.Open(d.at)
	if err == nil {
		err = errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
	}
	if err != nil {
		d.env.Fatalf("flush the file system: %v", err)
	}
}

// cut returns a copy of the image as it is at this moment, without anything being
// flushed. Who writes to it must stand still; the kernel may not, hence the second
// look.
func (d *image) cut() string {
	d.cuts++
	to := fmt.Sprintf("%s.%d.img", d.at, d.cuts)
	for range 20 {
		if err := copySparse(to, d.file); err != nil {
			d.env.Fatalf("copy the image: %v", err)
		}
		same, err := equalFiles(to, d.file)
		if err != nil {
			d.env.Fatalf("compare the images: %v", err)
		}
		if same {
			return to
		}
	}
	d.env.Fatalf("the image does not stand still")
	return ""
}

// replace puts the copy in place of the image. Nobody may use it any more.
func (d *image) replace(by string) {
	d.env.Unmount(d.at)
	if err := os.Remove(d.file); err != nil {
		d.env.Errorf("%v", err)
	}
	d.file = by
	if err := d.mount(); err != nil {
		d.env.Fatalf("%v", err)
	}
}

// copySparse copies what a file holds, leaving holes for zeros.
func copySparse(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	i, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer out.Close()
	zero := make([]byte, blockSize)
	if err := blocks(in, i.Size(), func(at int64, b []byte) error {
		if bytes.Equal(b, zero[:len(b)]) {
			return nil
		}
		_, err := out.WriteAt(b, at)
		return err
	}); err != nil {
		return err
	}
	return out.Truncate(i.Size())
}

var errDiffers = errors.New("the files differ")

func equalFiles(a, b string) (bool, error) {
	x, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer y.Close()
	i, err := x.Stat()
	if err != nil {
		return false, err
	}
	other := make([]byte, blockSize)
	err = blocks(x, i.Size(), func(at int64, b []byte) error {
		if _, err := y.ReadAt(other[:len(b)], at); err != nil {
			return err
		}
		if !bytes.Equal(b, other[:len(b)]) {
			return errDiffers
		}
		return nil
	})
	if errors.Is(err, errDiffers) {
		return false, nil
	}
	return err == nil, err
}

const blockSize = 1 << 20

// blocks yields a file in pieces, without its holes.
func blocks(f *os.File, size int64, yield func(at int64, b []byte) error) error {
	buf := make([]byte, blockSize)
	for at := int64(0); at < size; at += blockSize {
		data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // a hole until the end
		}
		if err != nil {
			return fmt.Errorf("look for data: %w", err)
		}
		at = max(at, data/blockSize*blockSize)
		n, err := f.ReadAt(buf, at)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := yield(at, buf[:n]); err != nil {
			return err
		}
	}
	return nil
}
