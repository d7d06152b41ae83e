package journal

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// valueSize is that of a recorded SendClean batch of seven events.
const valueSize = 2400

// BenchmarkAppend has clients that append one value after the other, as requests
// do. The baseline is one fdatasync per value on the same disk.
func BenchmarkAppend(b *testing.B) {
	b.Run("fdatasync", func(b *testing.B) {
		f, err := os.Create(filepath.Join(b.TempDir(), "log"))
		if err != nil {
			b.Fatal(err)
		}
		defer f.Close()
		value := bytes.Repeat([]byte{'v'}, valueSize)
		b.SetBytes(valueSize)
		for b.Loop() {
			if _, err := f.Write(value); err != nil {
				b.Fatal(err)
			}
			if err := unix.Fdatasync(int(f.Fd())); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
	})
	for _, clients := range []int{1, 16, 64, 256} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			j, err := Open(Options{Dir: filepath.Join(b.TempDir(), "journal")})
			if err != nil {
				b.Fatal(err)
			}
			value := bytes.Repeat([]byte{'v'}, valueSize)
			b.SetBytes(valueSize)
			b.ResetTimer()
			var left atomic.Int64
			left.Store(int64(b.N))
			var clock sync.Mutex
			var slowest time.Duration
			var wg sync.WaitGroup
			for range clients {
				wg.Go(func() {
					var mine time.Duration
					for left.Add(-1) >= 0 {
						start := time.Now()
						if err := j.Append(context.Background(), value); err != nil {
							b.Error(err)
							return
						}
						mine = max(mine, time.Since(start))
					}
					clock.Lock()
					slowest = max(slowest, mine)
					clock.Unlock()
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "appends/s")
			b.ReportMetric(slowest.Seconds()*1e3, "slowest-ms")
			if err := j.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// BenchmarkRead reads in order, as the relay does, from tables and memory alike.
func BenchmarkRead(b *testing.B) {
	j, err := Open(Options{Dir: filepath.Join(b.TempDir(), "journal")})
	if err != nil {
		b.Fatal(err)
	}
	defer j.Close()
	fill(b, j, 50_000, valueSize)
	b.SetBytes(valueSize)
	i := uint64(0)
	for b.Loop() {
		if _, err := j.Read(i%50_000 + 1); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// fill appends n values of that size with many clients.
func fill(tb testing.TB, j *Journal, n, size int) {
	tb.Helper()
	value := bytes.Repeat([]byte{'v'}, size)
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := j.Append(context.Background(), value); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if tb.Failed() {
		tb.FailNow()
	}
}
