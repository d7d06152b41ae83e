package main

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"net/http"
)

// statusPage is the whole page: it loads nothing, and asks this listener alone.
//
//go:embed page.html
var statusPage []byte

// pagePolicy is the page's Content-Security-Policy. Its one style and one script run
// because their hashes are here; nothing else runs, whatever gets into the page, and
// no text can become HTML.
func pagePolicy(page []byte) string {
	hash := func(element string) string {
		_, rest, _ := bytes.Cut(page, []byte("<"+element+">"))
		text, _, _ := bytes.Cut(rest, []byte("</"+element+">"))
		sum := sha256.Sum256(text)
		return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
	}
	return "default-src 'none'; script-src " + hash("script") + "; style-src " + hash("style") +
		"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
}

// servePage adds the status page and what it asks for to the admin listener.
func (d *daemon) servePage(a *admin) {
	policy := pagePolicy(statusPage)
	a.operate("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/html; charset=utf-8")
		h.Set("Content-Security-Policy", policy)
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store") // the next version may be another
		_, _ = w.Write(statusPage)         // a client that has gone needs no answer
	})
	a.operate("GET /-/events", d.feed.serve)
	a.operate("POST /-/events/{id}", d.feed.reveal)
	a.operate("POST /-/endpoints/{name}/url", d.serveURL)
}
