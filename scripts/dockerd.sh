#!/usr/bin/env bash
# scripts/dockerd.sh COMMAND...: runs COMMAND against a Docker daemon that lives as long as COMMAND does, for machines
# without a Docker service. Needs root, dockerd and iptables. What dockerd changes in the network is put back.
set -euo pipefail

dir=$(mktemp -d)
rules=$(iptables-save)
forward=$(cat /proc/sys/net/ipv4/ip_forward)
export DOCKER_HOST=unix://$dir/docker.sock

dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" --host "$DOCKER_HOST" \
    > "$dir/dockerd.log" 2>&1 &
daemon=$!

undo() {
    kill "$daemon" 2>/dev/null || true
    wait "$daemon" || true
    # dockerd leaves its chains, its bridge and a FORWARD policy of DROP.
    printf '%s\n' '*filter' ':FORWARD ACCEPT [0:0]' COMMIT '*nat' COMMIT "$rules" | iptables-restore || true
    ip link del docker0 2>/dev/null || true
    echo "$forward" > /proc/sys/net/ipv4/ip_forward
    rm -rf "$dir"
}
trap undo EXIT

for _ in $(seq 300); do
    if docker info > /dev/null 2>&1; then
        "$@"
        exit
    fi
    kill -0 "$daemon" 2>/dev/null || break
    sleep 0.1
done
echo "dockerd did not start:" >&2
tail -n 20 "$dir/dockerd.log" >&2
exit 1
