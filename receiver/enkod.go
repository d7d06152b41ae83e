package receiver

// enKod documents no signature and no header of its own (help.enkod.io, "Webhooks"):
// the token in the URL or a password is the only proof there is. Before a webhook
// can be saved it posts a sample of every event, which is an event like any other.
var enkod = provider{
	name:            "enkod",
	acknowledgement: "God bless you",
	sign:            signNothing,
}
