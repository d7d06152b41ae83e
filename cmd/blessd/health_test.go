package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestHealth(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var out bytes.Buffer
	if status, talk := blessd(ctx, &out, "health", "--data-dir", t.TempDir()); status != 1 || !strings.Contains(talk, "no blessd has run") {
		t.Errorf("where none has run: status %d, %s", status, talk)
	}
	_, dir := startClientTest(t)
	for flag, want := range map[string]string{"--live=false": "ready\n", "--live": "blessd is healthy\n"} {
		out.Reset()
		if status, talk := blessd(ctx, &out, "health", flag, "--data-dir", dir); status != 0 || out.String() != want {
			t.Errorf("%s: status %d, %q %s; want 0, %q", flag, status, out.String(), talk, want)
		}
	}
}

func TestHealthOfWhatIsNotWell(t *testing.T) {
	var code int
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.WriteHeader(code)
		fmt.Fprintln(w, "not ready: the journal is full\x00")
	}))
	defer s.Close()
	for _, c := range []struct {
		flag string
		code int
		want int
		says string
	}{
		{"--live", http.StatusOK, 0, ""},
		{"--live=false", http.StatusServiceUnavailable, 1, "the journal is full"},
		{"--live", http.StatusUnauthorized, 0, ""},
		{"--live=false", http.StatusUnauthorized, 1, "wants a password"},
		{"--live", http.StatusFound, 1, "says"},
		{"--timeout=0s", http.StatusOK, 2, "--timeout"},
	} {
		code = c.code
		if status, talk := blessd(t.Context(), &bytes.Buffer{}, "health", "--admin-url", s.URL, c.flag); status != c.want || !strings.Contains(talk, c.says) {
			t.Errorf("%d %s: status %d, %s; want %d, %q", c.code, c.flag, status, talk, c.want, c.says)
		}
	}
	s.Close()
	if status, talk := blessd(t.Context(), &bytes.Buffer{}, "health", "--admin-url", s.URL); status != 1 || !strings.Contains(talk, "does not answer") {
		t.Errorf("nobody there: status %d, %s", status, talk)
	}
	for _, url := range []string{"127.0.0.1:8081", "http://admin:passw0rd@127.0.0.1:8081", "x"} {
		if status, talk := blessd(t.Context(), &bytes.Buffer{}, "health", "--admin-url", url); status != 2 || strings.Contains(talk, "passw0rd") {
			t.Errorf("%s: status %d, %s", url, status, talk)
		}
	}
}
