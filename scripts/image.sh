#!/usr/bin/env bash
# scripts/image.sh ROOT TAG: makes of an unpacked ROOT (scripts/root.sh) a local Docker image TAG that behaves like the
# official rabbitmq:4-management, for machines that reach no image registry.
set -euo pipefail

root=$1 tag=$2
# `docker import` refuses an archive with the same path twice, so everything is put together in a copy.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -a "$root/." "$copy"
rm -rf "$copy/tmp"
mkdir -m 1777 "$copy/tmp"
mkdir -p "$copy/etc/rabbitmq/conf.d" "$copy/var/lib/rabbitmq" "$copy/var/log/rabbitmq"
printf 'loopback_users.guest = false\nlog.console = true\n' > "$copy/etc/rabbitmq/conf.d/10-defaults.conf"
echo '[rabbitmq_management,rabbitmq_prometheus].' > "$copy/etc/rabbitmq/enabled_plugins"
cat > "$copy/usr/bin/docker-entrypoint.sh" <<'ENTRYPOINT'
#!/bin/sh
set -e
cookie=$HOME/.erlang.cookie
if [ ! -e "$cookie" ]; then
    (umask 077 && echo "${RABBITMQ_ERLANG_COOKIE:-secret}" > "$cookie")
    chmod 400 "$cookie"
fi
unset RABBITMQ_ERLANG_COOKIE
exec "$@"
ENTRYPOINT
chmod 755 "$copy/usr/bin/docker-entrypoint.sh"
tar -c -C "$copy" . | docker import \
    --change 'ENV PATH=/usr/lib/rabbitmq/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/var/lib/rabbitmq LANG=C.UTF-8' \
    --change 'ENTRYPOINT ["docker-entrypoint.sh"]' --change 'CMD ["rabbitmq-server"]' \
    --change 'EXPOSE 4369 5671 5672 15671 15672 15691 15692 25672' - "$tag"
