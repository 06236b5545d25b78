#!/usr/bin/env bash
# scripts/root.sh VERSION DIR: unpacks RabbitMQ VERSION (3.10, 4.0 or 4.3) with Erlang and libc from Debian into DIR.
# Needs root and mmdebstrap. DIR serves TASKHARE_TEST_ROOT and scripts/image.sh.
# MIRROR is the Debian mirror, by default the one this system uses.
set -euo pipefail

version=$1 dir=$2
case $version in
    3.10) suite=bookworm ;;
    4.0) suite=trixie ;;
    4.3) suite=forky ;;
    *) echo "no Debian suite is known to hold RabbitMQ $version: 3.10, 4.0 or 4.3" >&2; exit 2 ;;
esac

if [ -z "${MIRROR:-}" ]; then
    MIRROR=$(awk '$1 == "URIs:" { print $2; exit } $1 == "deb" && $2 ~ /^http/ { print $2; exit }' \
        /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null || true)
fi
[ -n "$MIRROR" ] || { echo "set MIRROR to the URL of a Debian mirror" >&2; exit 2; }

rm -rf "$dir.part" # of an attempt that failed
packages=base-files,rabbitmq-server,bash,dash,coreutils,sed,mawk,grep,findutils,hostname,procps,libc-bin,ncurses-base
# The index of a moving suite may have expired by the clock of this machine.
mmdebstrap --quiet --mode=root --variant=extract \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' \
    --include="$packages,ca-certificates" "$suite" "$dir.part" "deb $MIRROR $suite main"

# What the maintainer scripts, which `extract` skips, would have made. `dns` is for containers that look each other up.
ln -sf mawk "$dir.part/usr/bin/awk"
[ -e "$dir.part/bin/sh" ] || ln -s dash "$dir.part/bin/sh"
echo 'root:x:0:0:root:/root:/bin/sh' > "$dir.part/etc/passwd"
echo 'root:x:0:' > "$dir.part/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files dns\n' > "$dir.part/etc/nsswitch.conf"
echo '127.0.0.1 localhost' > "$dir.part/etc/hosts"
mkdir -p "$dir.part/proc" "$dir.part/dev" "$dir.part/tmp" "$dir.part/root"

# Suites move on: what was asked for may not be what they hold now.
got=$(basename "$dir.part"/usr/lib/rabbitmq/lib/rabbitmq_server-*)
got=${got#rabbitmq_server-}
case $got in
    "$version".*) ;;
    *) echo "$suite holds RabbitMQ $got now, not $version" >&2 ;;
esac
mv "$dir.part" "$dir"
echo "RabbitMQ $got is in $dir"
