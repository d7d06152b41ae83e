#!/bin/sh
# The same with the nats command line tool, as a durable consumer. It is not run by
# the tests of blessd: the tool is not a Go module that they could build.
#
#   nats consumer add MAIL_EVENTS suppressions --config deploy/nats/consumer.json
#   nats context select blessd
#   ./nats.sh
#
# It acknowledges what it has printed: what the program behind the pipe does not
# handle is not printed again. The examples in Go and Node acknowledge after handling.
set -eu

while true; do
	# Ends with an error when nothing came within the time; that is no failure.
	nats consumer next MAIL_EVENTS suppressions --count 100 --timeout 30s --raw --ack || true
done |
	jq -r --unbuffered 'select(.test | not) | select(.type != "email.bounced" or .bounce.class == "hard")
		| "\(.type) \(.recipient // .contact.email // .contact.id // .message.correlation_id // .message.id | tojson) event \(.id)"'
