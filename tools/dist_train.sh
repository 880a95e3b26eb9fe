#!/usr/bin/env bash
# Train in GPUS processes: one per GPU, or on the CPU if there is no GPU.
# With MAX_RESTARTS=N, all processes are started again when one fails, N times at most, and
# continue from the latest checkpoint of the work dir, as with --resume.
if [ $# -lt 2 ]; then
    echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500 MAX_RESTARTS=0]" \
         "[PYTHON=python] $0 CONFIG GPUS [options of train.py]" >&2
    exit 2
fi
TOOLS=$(cd "$(dirname "$0")" && pwd)

MASTER=${MASTER_ADDR:-127.0.0.1} PORT=${PORT:-29500}
RENDEZVOUS=(--node-rank="${NODE_RANK:-0}" --master-addr="$MASTER" --master-port="$PORT")
if [ "${MAX_RESTARTS:-0}" != 0 ]; then
    RENDEZVOUS=(--rdzv-backend=c10d --rdzv-endpoint="$MASTER:$PORT" --rdzv-id="$PORT")
    if [ "${NNODES:-1}" = 1 ]; then
        RENDEZVOUS=(--standalone) # takes a free port
    fi
    # Else restarted processes find the addresses of their predecessors in torchrun's store.
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
fi

PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}" \
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} \
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    "${RENDEZVOUS[@]}" \
    --nproc-per-node="$2" \
    --max-restarts="${MAX_RESTARTS:-0}" \
    "$TOOLS/train.py" "$1" --launcher pytorch "${@:3}"
