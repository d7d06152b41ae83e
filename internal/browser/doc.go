// Package browser holds no code. Its tests drive the status page in a real Chromium,
// and are apart from the daemon's go.mod for the sake of what they need:
//
//	go -C internal/browser test ./...
//
// They are skipped where there is no Chromium (on Debian: apt-get install chromium).
// With BLESSD_SCREENSHOTS set to a directory they leave pictures of the page there.
package browser
