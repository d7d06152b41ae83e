# What the commands of the pages find: blessd installed and running with a
# configuration and keys, and systemctl and an editor, which are played here. It
# runs in a sandbox, see commands_test.go; $BLESSD is the binary.
GOCACHE=$(go env GOCACHE) GOMODCACHE=$(go env GOMODCACHE)
export GOCACHE GOMODCACHE HOME=/mnt/home PATH="/mnt/bin:$PATH" NEW_KEY=EXAMPLENEWKEY0123456789 MOVER_PASSWORD=x PASSWORD=x
mkdir -p /mnt/home /mnt/bin /mnt/other-disk /etc/blessd/keys /var/lib/blessd
chmod 700 /var/lib/blessd
cp "$BLESSD" /mnt/bin/blessd
umask 077
for name in acme eu; do echo "EXAMPLEKEY0123456789$name" > /etc/blessd/keys/$name; done
echo EXAMPLETOKEN0123456789ab > /etc/blessd/keys/ru.token
cat > /etc/blessd/blessd.yaml <<'YAML'
public_url: https://hooks.example.com
data_dir: /var/lib/blessd
endpoints:
  - {name: acme, provider: sendclean, key_files: [/etc/blessd/keys/acme], signature: enforce}
  - {name: eu, provider: mailgun, key_files: [/etc/blessd/keys/eu]}
  - {name: ru, provider: enkod, token_files: [/etc/blessd/keys/ru.token]}
journal: {max_bytes: 64MiB}
nats:
  stream: {max_bytes: 64MiB}
  quarantine: {max_bytes: 16MiB}
YAML
umask 022

# until waits for a command to succeed, for two minutes at most.
until_ok() {
	n=0
	until "$@" > /dev/null 2>&1; do
		n=$((n + 1))
		[ $n -lt 1200 ] || { echo "waited for: $*"; return 1; }
		sleep 0.1
	done
}

cat > /mnt/bin/systemctl <<'SH'
#!/bin/sh -eu
# Only blessd, and only what the pages do with it.
pid=/mnt/blessd.pid
case $1 in
start | enable)
	[ -e $pid ] && exit 0
	blessd serve -c /etc/blessd/blessd.yaml > /mnt/blessd.log 2>&1 &
	echo $! > $pid
	;;
stop)
	[ -e $pid ] || exit 0
	kill -TERM "$(cat $pid)"
	while kill -0 "$(cat $pid)" 2> /dev/null && ! grep -q 'State:.Z' "/proc/$(cat $pid)/status"; do sleep 0.1; done
	rm $pid
	;;
restart) systemctl stop && systemctl start ;;
reload) kill -HUP "$(cat $pid)" ;;
daemon-reload) ;;
*) echo "systemctl $*: not played" >&2 && exit 1 ;;
esac
SH
# The one edit that a page asks for.
cat > /mnt/bin/vi <<'SH'
#!/bin/sh -eu
sed -i 's|key_files: \[/etc/blessd/keys/eu\]|key_files: [/etc/blessd/keys/eu, /etc/blessd/keys/eu-2]|' "$1"
SH
chmod 755 /mnt/bin/systemctl /mnt/bin/vi

ready() { curl -fs http://127.0.0.1:8081/-/ready; }

# step announces a command, and sets the scene that it expects.
step() {
	text=${1#*: }
	echo "\$ $text"
	case $text in
	make\ run* | blessd\ serve*) systemctl stop ;;
	systemctl\ * | blessd\ salvage* | cp\ *) ;;
	*)
		ready > /dev/null 2>&1 || systemctl start
		until_ok ready
		;;
	esac
}
mkdir -p bin
cp "$BLESSD" bin/blessd
echo user@example.com > address

# beside runs a command that does not end by itself.
beside() {
	n=$(find /mnt/beside -name '*.command' 2> /dev/null | wc -l)
	mkdir -p /mnt/beside
	echo "$1" > "/mnt/beside/$n.command"
	sh -c "exec $1" > "/mnt/beside/$n" 2>&1 &
	case $1 in
	make\ run* | blessd\ serve*) until_ok ready ;;
	*) sleep 1 ;;
	esac
	kill -0 $! || { cat "/mnt/beside/$n"; return 1; }
}

# finish wants something of everything that shows events: one has come. The example
# passes over what is marked as a test, as this one is.
finish() {
	[ -d /mnt/beside ] || return 0
	blessd send sendclean hard_bounce > /dev/null 2>&1 || blessd send sendclean hard_bounce -c /etc/blessd/blessd.yaml
	for f in /mnt/beside/*.command; do
		f=${f%.command}
		case $(cat "$f.command") in
		*tail*) until_ok grep -q bounced "$f" || { echo "no event came in $f"; return 1; } ;;
		esac
		head -n 5 "$f"
	done
}
