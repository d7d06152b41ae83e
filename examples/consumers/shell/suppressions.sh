#!/bin/sh
# Keeps a suppression list: prints one line for every address that must not be
# written to again, because it bounced for good, complained or unsubscribed. It
# needs blessd and jq, and is written to be copied:
#
#   ./suppressions.sh                            from now on, until it is interrupted
#   ./suppressions.sh --since 2h --no-follow     once, from cron every hour
#   ./suppressions.sh --server nats://n1:4222 --creds consumer.creds
#
# Arguments are those of `blessd tail`. It is not a durable consumer: nobody
# remembers how far it came. From cron, with windows that overlap, it misses nothing
# as long as the machine is on, and says some things twice; what must not be handled
# twice is kept apart by the id at the end of each line.
set -eu

# Addresses and texts come from strangers: quoted (tojson), they cannot end the line.
blessd tail -o json --type email.bounced --type email.complained --type unsubscribed "$@" |
	jq -nr --unbuffered '
		def who:
			if .recipient then "address \(.recipient | tojson)"
			elif .contact.email then "address \(.contact.email | tojson)"
			elif .contact then "contact \(.contact.id // "" | tojson)"
			elif .message.correlation_id then "recipient of the message with correlation id \(.message.correlation_id | tojson)"
			elif .message then "recipient of message \(.message.id // "" | tojson)"
			else "nobody known" end;
		def why:
			if .type == "email.bounced" then
				# A soft bounce may pass, and an unknown one may be soft.
				if .bounce.class == "hard" then "hard bounce \(.bounce.description // "" | tojson)" else empty end
			elif .type == "email.complained" then "complaint"
			else "unsubscribed" end;
		foreach inputs.data as $e ({};
			{new: (.seen[$e.id] | not), seen: (.seen + {($e.id): true})};
			select(.new) | $e | select((.test | not) or env.TESTS == "1")
			| why as $why
			| "suppress \(who): \($why) (\(.provider) at \(.time), event \(.id))")'
