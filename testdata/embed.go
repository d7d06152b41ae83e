// Package testdata holds provider bodies as they are received, each beside the
// events that blessd makes of it; the tests of several packages walk it, and
// docs/adding-a-provider.md says how a case is written. The program itself uses
// the samples alone: one event of every kind that each provider sends, which
// "blessd send" posts.
package testdata

import "embed"

// Samples holds <provider>/sample-<kind>.json, one JSON event object each, and
// Mailgun's sample-legacy_<kind>.form, one form each without its signature, as it
// stands in the provider's documentation or in its shape.
//
//go:embed */sample-*.json */sample-*.form
var Samples embed.FS
