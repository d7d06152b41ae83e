#!/bin/sh
# Installs a package as it would be installed, over a copy of this machine's file
# system and in a network of its own, runs what is in it, upgrades, removes and
# purges it: deploy/debian/check.sh FILE.deb. It needs root.
set -eu

deb=$(realpath "$1")
if [ -z "${IN_COPY-}" ]; then
	if command -v lintian > /dev/null; then
		lintian --allow-root --fail-on error,warning --tag-display-limit 0 "$deb"
		echo "lintian: nothing to say"
	else
		echo "SKIPPED: there is no lintian here (apt-get install lintian)"
	fi
	if [ "$(id -u)" != 0 ] || ! unshare --mount --net true 2> /dev/null; then
		echo "SKIPPED: to install the package in a copy of the system needs root"
		exit 0
	fi
	IN_COPY=$(mktemp -d)
	trap 'rmdir "$IN_COPY"' EXIT
	export IN_COPY
	unshare --mount --net --pid --fork --kill-child "$0" "$deb"
	exit
fi

mount -t tmpfs none "$IN_COPY"
mkdir "$IN_COPY/upper" "$IN_COPY/work" "$IN_COPY/root"
cp "$deb" "$IN_COPY/upper/blessd.deb"
mount -t overlay -o "lowerdir=/,upperdir=$IN_COPY/upper,workdir=$IN_COPY/work" none "$IN_COPY/root"
mount -t proc none "$IN_COPY/root/proc"
mount --bind /dev "$IN_COPY/root/dev"
ip link set lo up 2> /dev/null || ifconfig lo up
chroot "$IN_COPY/root" /bin/sh -eu <<'IN'
cd /
fail() { echo "$*" >&2; exit 1; }
expect() { # of what, it is, it should be
	[ "$2" = "$3" ] || fail "$1: it is $2 and should be $3"
}
as_blessd() { setpriv --reuid blessd --regid blessd --clear-groups --no-new-privs "$@"; }
rm -rf /etc/blessd /var/lib/blessd # of the machine, if there are any

dpkg --install /blessd.deb > /tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; exit 1; }
grep -q 'systemctl enable --now' /tmp/dpkg.log || fail "nothing says what comes next"
expect /etc/blessd "$(stat -c '%U:%G %a' /etc/blessd)" "root:blessd 750"
expect /etc/blessd/keys "$(stat -c '%U:%G %a' /etc/blessd/keys)" "root:blessd 750"
expect /etc/blessd/blessd.yaml "$(stat -c '%U:%G %a' /etc/blessd/blessd.yaml)" "root:blessd 640"
as_blessd blessd check -c /etc/blessd/blessd.yaml > /tmp/check.log 2>&1 || { cat /tmp/check.log; exit 1; }
systemd-analyze verify --man=no /usr/lib/systemd/system/blessd.service 2>&1 | grep blessd && fail "systemd complains"
bash -n /usr/share/bash-completion/completions/blessd
man -l --warnings /usr/share/man/man1/blessd.1.gz > /dev/null 2> /tmp/man.log || true
[ ! -s /tmp/man.log ] || ! command -v man > /dev/null || { cat /tmp/man.log; exit 1; }

# What the unit does: systemd itself does not run in here.
expect /var/lib/blessd "$(stat -c '%U:%G %a' /var/lib/blessd)" "blessd:blessd 700"
printf 'EXAMPLEKEY0123456789ab\n' > /etc/blessd/keys/mailgun
chown root:blessd /etc/blessd/keys/mailgun && chmod 0640 /etc/blessd/keys/mailgun
sed -i 's/# key_files: \[\/etc\/blessd\/keys\/mailgun\]/key_files: [\/etc\/blessd\/keys\/mailgun]/' /etc/blessd/blessd.yaml
as_blessd blessd serve -c /etc/blessd/blessd.yaml > /tmp/serve.log 2>&1 &
n=0
until as_blessd blessd health -c /etc/blessd/blessd.yaml > /dev/null 2>&1; do
	n=$((n + 1))
	[ $n -lt 600 ] || { cat /tmp/serve.log; fail "blessd is not ready"; }
	sleep 0.1
done
as_blessd blessd send mailgun -c /etc/blessd/blessd.yaml > /tmp/send.log 2>&1 || { cat /tmp/send.log /tmp/serve.log; exit 1; }

# An upgrade keeps what was changed.
dpkg --install /blessd.deb > /dev/null 2>&1
grep -q '^    key_files:' /etc/blessd/blessd.yaml || fail "the upgrade changed blessd.yaml"
dpkg --remove blessd > /dev/null 2>&1
[ -e /etc/blessd/blessd.yaml ] || fail "the removal took the configuration"
[ ! -e /usr/bin/blessd ] || fail "the removal left the program"
dpkg --purge blessd > /tmp/purge.log 2>&1
[ ! -e /etc/blessd/blessd.yaml ] || fail "the purge left the configuration"
[ -d /var/lib/blessd/journal ] || fail "the purge took what was accepted"
grep -q '/var/lib/blessd' /tmp/purge.log || fail "the purge does not say what it left"
echo "installed, run, upgraded, removed and purged"
IN
