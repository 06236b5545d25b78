# node.sh watch|ctl DIR ROOT BIN [ARGS]    run by node.rs; the environment is the node's.
#
# watch: starts one broker node and its epmd and obeys the verbs on stdin, one a line, each answered by one line: the
# pid of the node, or nothing where none runs. When stdin ends, because whoever holds the other end closed it or died
# of anything, kill -9 included, both are killed and DIR is removed.
# ctl: runs rabbitmqctl with ARGS.
# ROOT, if not empty, is an unpacked system to run them in; its mounts are private, so nothing has to be undone.
mode=$1 dir=$2 root=$3 bin=$4
shift 4

inside() {
    [ -n "$root" ] || exec "$@"
    exec unshare -m --propagation private sh -euc '
        root=$1 dir=$2; shift 2
        mount --bind /proc "$root/proc"; mount --bind /dev "$root/dev"; mount --bind /etc/hosts "$root/etc/hosts"
        mkdir -p "$root$dir"; mount --bind "$dir" "$root$dir"
        exec chroot "$root" "$@"' sh "$root" "$dir" "$@"
}

if [ "$mode" = ctl ]; then
    inside "$bin/rabbitmqctl" "$@"
fi

node= epmd=

# It is our child: its pid is not given to another before we wait for it.
end() {
    [ -n "$1" ] || return 0
    kill -9 "$1"
    wait "$1"
} 2>/dev/null

# A graceful end, within 30 s.
stop() {
    [ -n "$node" ] || return 0
    (
        trap 'kill "$nap"; exit' TERM
        sleep 30 & nap=$!
        wait "$nap"
        kill -9 "$node"
    ) >/dev/null 2>&1 &
    limit=$!
    kill -TERM "$node"
    kill -CONT "$node"
    wait "$node"
    kill "$limit"
    wait "$limit"
} 2>/dev/null

while read -r verb; do
    jobs >/dev/null # takes note of children that ended
    if [ -n "$node" ] && ! kill -0 "$node" 2>/dev/null; then node=; fi
    case $verb in
    epmd) inside epmd -port "$ERL_EPMD_PORT" -address 127.0.0.1 >"$dir/epmd.log" 2>&1 & epmd=$! ;;
    start)
        # Emptied before the answer: what an earlier run said must not be taken for this one's.
        : >"$dir/out.log"
        inside "$bin/rabbitmq-server" >>"$dir/out.log" 2>&1 &
        node=$!
        ;;
    kill) end "$node"; node= ;;
    stop) stop; node= ;;
    freeze) kill -STOP "$node" ;;
    thaw) kill -CONT "$node" ;;
    pid) ;;
    esac
    echo "$node"
done

end "$node"
end "$epmd"
rm -rf "$dir"
# The mount point, empty here; the node's last helpers may hold it a moment longer.
if [ -n "$root" ]; then rmdir "$root$dir" 2>/dev/null; fi
