#!/usr/bin/env bash
# Train under Slurm, one task per GPU.
# With REQUEUE=1, as a batch job: GRACE seconds before its time limit, and when it is
# preempted, it saves a checkpoint, is queued again, and continues from there.
if [ $# -lt 4 ]; then
    echo "usage: [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS=... REQUEUE= GRACE=120]" \
         "[PYTHON=python] $0 PARTITION JOB_NAME CONFIG WORK_DIR" \
         "[options of train.py]" >&2
    exit 2
fi
TOOLS=$(cd "$(dirname "$0")" && pwd)

RESOURCES=(
    --partition="$1"
    --job-name="$2"
    --gres=gpu:"${GPUS_PER_NODE:-8}"
    --ntasks="${GPUS:-8}"
    --ntasks-per-node="${GPUS_PER_NODE:-8}"
    --cpus-per-task="${CPUS_PER_TASK:-5}"
)
# SRUN_ARGS is unquoted so that it is split into words.
if [ -n "${REQUEUE:-}" ] && [ -z "${SLURM_JOB_ID:-}" ]; then
    exec sbatch "${RESOURCES[@]}" --requeue --open-mode=append \
        --signal=TERM@"${GRACE:-120}" ${SRUN_ARGS:-} \
        --wrap "$(printf '%q ' bash "$TOOLS/slurm_train.sh" "$@")"
fi

trap : TERM  # outlive srun, to queue the job again
PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}" \
srun "${RESOURCES[@]}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$TOOLS/train.py" "$3" --work-dir "$4" \
    --launcher slurm "${@:5}" ${REQUEUE:+--resume}
STATUS=$?
# 143 is that of a training that has saved a checkpoint at SIGTERM.
if [ $STATUS = 143 ] && [ -n "${REQUEUE:-}" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $STATUS
