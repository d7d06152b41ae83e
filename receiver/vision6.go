package receiver

// Vision6 documents no signature for the webhooks of its API 3.3
// (developers.vision6.com.au/3.3/method/webhook): the token in the URL or a password
// is the only proof there is. It deletes a webhook after five answers from 400 to
// 599, so whatever is proven and whole is accepted.
var vision6 = provider{
	name:            "vision6",
	acknowledgement: "God bless you",
	sign:            signNothing,
}
