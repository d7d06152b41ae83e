package manage

import "strings"

// ByHand says how a person registers a webhook at a provider, a sentence each, for
// where there is no API or no access to it. The URL goes with it. An unknown provider
// has none.
func ByHand(provider string) []string { return byHand[provider] }

var byHand = map[string][]string{
	"enkod": {
		"In enKod open Settings, and there the webhooks. enKod has no API for this.",
		"Enter the URL for each event, or once for all of them.",
		"Press the button that tests it: enKod posts a sample of each event to the URL, and saves only what was answered.",
		"Save. `blessd webhooks list` says which test deliveries arrived.",
	},
	"mailgun": {
		"In Mailgun's control panel open Sending, Webhooks, and choose the domain.",
		"Add the URL for each of " + sentence(MailgunEvents()) + ".",
		"Put the HTTP webhook signing key, which is not the API key, into a file of the endpoint's key_files.",
	},
	"sarv": {
		"In Sarv's panel open the settings of the SMTP account, Webhooks, and add the URL. Sarv calls it at once and wants its blessing: blessd has to run.",
		"Choose the events " + sentence(SendCleanEvents()) + ".",
		"Put the key that it shows into a file of the endpoint's key_files.",
	},
	"sendclean": {
		"In SendClean's panel open the settings, Webhooks, and add the URL. SendClean calls it at once and wants its blessing: blessd has to run.",
		"Choose the events " + sentence(SendCleanEvents()) + ".",
		"Put the key that it shows into a file of the endpoint's key_files.",
	},
	"vision6": {
		"Use API 3.3: one call of addWebhook for each object and event, so eleven for each list, or 0 for all lists.",
		"The webhooks of Vision6's own pages have keys and another form, which is not known: they are not supported.",
	},
}

// sentence joins words as a person does.
func sentence(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " and " + words[last]
}
