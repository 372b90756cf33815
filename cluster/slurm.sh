#!/usr/bin/env bash
# One study on the nodes of a Slurm allocation: a Ray head and one worker per node, which end with the job.
# See slurm.md.
#
# FILL IN, at each FILL-IN: the partition and account; the virtual environment with evclip-ray; the
#   folder that all nodes share; and the study, as arguments:
#     sbatch cluster/slurm.sh ev_clip --data /shared/videos/manifest.csv --out /shared/studies/mine
#   `evclip-ray cluster check cluster/slurm.sh` lists what is missing.
# COST: the whole allocation from start to end, also while GPUs are idle. A study that reaches the time
#   limit resumes when the same command is submitted again.
#SBATCH --job-name=evclip-ray
#SBATCH --partition=FILL-IN
#SBATCH --account=FILL-IN
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --signal=B:INT@120
set -euo pipefail

VENV=${VENV:-FILL-IN}
SHARED=${SHARED:-FILL-IN}
# Ports derived from the job id, because other jobs may share the node.
PORT=${PORT:-$((20000 + SLURM_JOB_ID % 4000))}
CLIENT_PORT=${CLIENT_PORT:-$((24000 + SLURM_JOB_ID % 4000))}
DASHBOARD_PORT=${DASHBOARD_PORT:-$((28000 + SLURM_JOB_ID % 4000))}
# One folder per job on the node's local disk. The path must be short, because it contains sockets.
FOLDER=${FOLDER:-/tmp/ray-$SLURM_JOB_ID}
PATH=$VENV/bin:$PATH

# Token of this job. The nodes read it from the shared folder.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$SHARED/.evclip-ray/token-$SLURM_JOB_ID
export RAY_USAGE_STATS_ENABLED=0 EVCLIP_RAY_CACHE=${EVCLIP_RAY_CACHE:-$SHARED/cache}
# At its default level Ray's agent logs the environment variables of jobs.
export RAY_LOGGER_LEVEL=warning
unset RAY_AUTH_TOKEN RAY_ADDRESS
(umask 077 && mkdir -p "$SHARED/.evclip-ray" \
    && python3 -c 'import secrets; print(secrets.token_hex(32), end="")' >"$RAY_AUTH_TOKEN_PATH")

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
steps=()

# The trap below calls this function.
# shellcheck disable=SC2329
finish() {
    trap - EXIT
    kill "${steps[@]}" 2>/dev/null || true
    wait "${steps[@]}" 2>/dev/null || true
    rm -f "$RAY_AUTH_TOKEN_PATH"
}
trap finish EXIT

start() {
    local node=$1
    shift
    srun --overlap --nodes=1 --ntasks=1 --nodelist="$node" ray start --block \
        --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
        --object-store-memory=2000000000 --min-worker-port=0 --max-worker-port=0 \
        --temp-dir="$FOLDER-$node" "$@" &
    steps+=($!)
}

start "$head" --head --port="$PORT" --node-ip-address="$address" --dashboard-host=127.0.0.1 \
    --dashboard-port="$DASHBOARD_PORT" --ray-client-server-port="$CLIENT_PORT"
for node in "${nodes[@]:1}"; do
    start "$node" --address="$address:$PORT"
done

# Wait until every node has joined. The study checks each of them.
evclip-ray cluster status --address "$address:$PORT" --wait-for-nodes "${#nodes[@]}" --wait-seconds 300
echo "dashboard: ssh -L 8265:localhost:$DASHBOARD_PORT $head, then http://localhost:8265"

# Run in the background, so that the trap can pass on the signal (INT) before the time limit.
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" evclip-ray tune "$@" --address "$address:$PORT" &
study=$!
trap 'kill -INT "$study" 2>/dev/null || true' INT TERM
while kill -0 "$study" 2>/dev/null; do
    wait "$study" && status=0 || status=$?
done
exit "$status"
