package receiver

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/blessd/blessd/delivery"
)

// nowhere is a store that keeps nothing.
type nowhere struct{}

func (nowhere) Put(context.Context, *delivery.Delivery) error { return nil }

func benchReceiver(b *testing.B, e Endpoint) *Receiver {
	b.Helper()
	r, err := New(nowhere{}, Limits{}, prometheus.NewRegistry(), zap.NewNop())
	if err != nil {
		b.Fatal(err)
	}
	r.now = func() time.Time { return now }
	if err := r.SetEndpoints([]Endpoint{e}); err != nil {
		b.Fatal(err)
	}
	return r
}

// benchBody is what a provider sends on an ordinary day: a batch of seven from
// SendClean and Sarv, one event from the others.
func benchBody(b *testing.B, s sample) []byte {
	if s.endpoint.URL != "" {
		return readFile(b, "testdata/batch-sarvtes_events.form")
	}
	return []byte(s.body)
}

func eachBench(b *testing.B, f func(b *testing.B, r *Receiver, s sample, signed Signed)) {
	for _, s := range samples() {
		b.Run(s.endpoint.Provider, func(b *testing.B) {
			signed, err := Sign(Plain{Provider: s.endpoint.Provider, URL: s.url(), Key: testKey, Now: now, Body: benchBody(b, s), Token: "tok"})
			if err != nil {
				b.Fatal(err)
			}
			signed.Header.Set("Content-Type", signed.ContentType)
			b.SetBytes(int64(len(signed.Body)))
			b.ReportAllocs()
			f(b, benchReceiver(b, s.endpoint), s, signed)
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	eachBench(b, func(b *testing.B, r *Receiver, s sample, signed Signed) {
		e := r.routes.Load().byName[s.endpoint.Name]
		var token *Key
		if s.token != "" {
			token = &s.endpoint.Tokens[0]
		}
		for b.Loop() {
			p := post{header: signed.Header, body: signed.Body, token: token, now: now}
			if e.isEmpty(&p) {
				b.Fatal("a probe")
			}
			v := e.prove(&p)
			if v.reason != "" {
				b.Fatal(v.reason)
			}
			if v.settle != nil {
				v.settle(true)
			}
		}
	})
}

func BenchmarkServeHTTP(b *testing.B) {
	eachBench(b, func(b *testing.B, r *Receiver, s sample, signed Signed) {
		u, err := url.Parse(s.path())
		if err != nil {
			b.Fatal(err)
		}
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				w := httptest.NewRecorder()
				r.ServeHTTP(w, &http.Request{
					Method: "POST", URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: signed.Header,
					Body: readCloser{bytes.NewReader(signed.Body)}, ContentLength: int64(len(signed.Body)),
				})
				if w.Code != 200 {
					b.Errorf("status %d", w.Code)
					return
				}
			}
		})
	})
}
