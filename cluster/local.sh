#!/usr/bin/env bash
# A cluster of several nodes on this machine, to try everything out before it costs money.
# The GPUs are logical: Ray schedules by them, but the work runs on the CPU.
#
# FILL IN: nothing. By environment: NODES (workers, 2), CPUS and GPUS (of each worker, 1 and 1),
#   HEAD_CPUS (0: trials and decoding run on the workers), PORT (6379), DASHBOARD_PORT (8265),
#   CLIENT_PORT (10001), FOLDER (new, under /tmp, removed at the end; a short path).
# COST: about 0.5 GB of memory per node, until Ctrl-C, which ends all processes of the cluster.
#
#   bash cluster/local.sh
set -euo pipefail

NODES=${NODES:-2}
PORT=${PORT:-6379}
FOLDER=${FOLDER:-$(mktemp -d /tmp/evclip.XXXXXX)}
STORE=$((100 * 1024 * 1024))
started=()

finish() {
    trap - EXIT INT TERM
    # Each process is a `ray start --block`, which ends only its own node.
    for ((i = ${#started[@]} - 1; i >= 0; i--)); do
        kill "${started[i]}" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    rm -rf "$FOLDER"
}
trap finish EXIT
trap 'exit 130' INT TERM

# Token of this cluster. Other users of the machine cannot read it.
chmod 700 "$FOLDER"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$FOLDER/token RAY_USAGE_STATS_ENABLED=0
# At its default level Ray's agent logs the environment variables of jobs.
export RAY_LOGGER_LEVEL=warning
unset RAY_AUTH_TOKEN RAY_ADDRESS
(umask 077 && python3 -c 'import secrets; print(secrets.token_hex(32), end="")' >"$FOLDER/token")

node() {
    local name=$1
    shift
    # With a common folder, nodes would delete each other's working directories.
    ray start --block --temp-dir="$FOLDER/$name" --object-store-memory="$STORE" \
        --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 "$@" \
        >"$FOLDER/$name.log" 2>&1 &
    started+=($!)
}

is_up() {
    for _ in $(seq 600); do
        grep -q "Ray runtime started" "$FOLDER/$1.log" && return
        # This waits for the node that was started last. Stop waiting if its process has ended.
        kill -0 "${started[-1]}" 2>/dev/null || break
        sleep 0.5
    done
    cat "$FOLDER/$1.log" >&2
    return 1
}

node head --head --port="$PORT" --node-ip-address=127.0.0.1 --num-cpus="${HEAD_CPUS:-0}" --num-gpus=0 \
    --dashboard-host=127.0.0.1 --dashboard-port="${DASHBOARD_PORT:-8265}" \
    --ray-client-server-port="${CLIENT_PORT:-10001}"
is_up head
for ((i = 1; i <= NODES; i++)); do
    node "worker$i" --address="127.0.0.1:$PORT" --num-cpus="${CPUS:-1}" --num-gpus="${GPUS:-1}"
    is_up "worker$i"
done

cat <<END
$((NODES + 1)) nodes are up. In another shell:
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$RAY_AUTH_TOKEN_PATH
  evclip-ray cluster status --address 127.0.0.1:$PORT
  evclip-ray tune quickstart --out $FOLDER/study --cache $FOLDER/cache --address 127.0.0.1:$PORT
Ctrl-C here ends them.
END
wait
