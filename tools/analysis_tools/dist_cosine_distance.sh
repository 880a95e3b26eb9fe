#!/usr/bin/env bash
# Measure cosine distances in GPUS processes: one per GPU, or on the CPU if there is no GPU.
if [ $# -lt 3 ]; then
    echo "usage: [NNODES=1 NODE_RANK=0 MASTER_ADDR=127.0.0.1 PORT=29500]" \
         "[PYTHON=python] $0 CONFIG CHECKPOINT GPUS [options of cosine_distance.py]" >&2
    exit 2
fi
TOOLS=$(cd "$(dirname "$0")/.." && pwd)

PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}" \
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} \
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" \
    --nproc-per-node="$3" \
    "$TOOLS/analysis_tools/cosine_distance.py" "$1" "$2" --launcher pytorch "${@:4}"
