#!/usr/bin/env bash
# Faults of docs/reliability.md that no test injects. Each prints the largest difference between
# the final weights and those of an undisturbed training.
#   bash .dev_scripts/faults.sh killed    # on CamVid, with two worker processes: 0.0
#   bash .dev_scripts/faults.sh nodes     # three processes on two nodes: 0.0; restarted: 5e-5
#   bash .dev_scripts/faults.sh disk      # full, as root: a training that fails, then 0.0
# The last two need the scenes of `make demo`.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1 PYTHON="${PYTHON:-python}" PORT="${PORT:-29641}"
work=work_dirs/faults/$1
probe=configs/probe/gcnl_probe.py
short=(--cfg-options randomness.seed=0)

train() { "$PYTHON" tools/train.py "$@"; }

difference() {
    "$PYTHON" - "$work" "$@" <<'PYTHON'
import sys, torch
work, *names = sys.argv[1:]
one, other = (torch.load(f'{work}/{n}', weights_only=False)['state_dict'] for n in names)
print(max((one[key].double() - other[key].double()).abs().max().item() for key in one))
PYTHON
}

killed() {
    local config=configs/camvid/gcnl_r18-d8_1xb4-500_camvid-180x240.py
    short+=(train_cfg.max_iters=12 train_cfg.val_interval=100 train_dataloader.num_workers=2
        default_hooks.checkpoint.interval=4)
    train $config --work-dir "$work/whole" "${short[@]}"
    train $config --work-dir "$work/killed" "${short[@]}" & local training=$!
    until [ -e "$work/killed/iter_4.pth" ]; do sleep 0.1; done
    sleep 3
    kill -KILL $training
    wait || true
    train $config --work-dir "$work/killed" --resume "${short[@]}"
    difference whole/iter_12.pth killed/iter_12.pth
}

nodes() {
    short+=(train_cfg.max_iters=12 train_cfg.val_interval=12
        default_hooks.checkpoint.interval=4)
    node() {
        NNODES=2 NODE_RANK=$1 bash tools/dist_train.sh $probe "$2" --work-dir "$work/$3" \
            "${short[@]}"
    }
    bash tools/dist_train.sh $probe 3 --work-dir "$work/one" "${short[@]}"
    node 1 1 nodes &
    node 0 2 nodes
    wait
    difference one/iter_12.pth nodes/iter_12.pth

    export MAX_RESTARTS=2
    node 0 2 restarted &
    node 1 1 restarted & local second=$!
    until [ -e "$work/restarted/iter_4.pth" ]; do sleep 0.1; done
    # The launcher of the second node is a child of its shell; its child is the training.
    pkill -KILL -P "$(pgrep -P "$second" | head -1)"
    wait
    difference one/iter_12.pth restarted/iter_12.pth
}

disk() {
    short+=(train_cfg.max_iters=10 train_cfg.val_interval=10
        default_hooks.checkpoint.interval=1)
    local keep=default_hooks.checkpoint.max_keep_ckpts
    mkdir -p "$work/small"
    mount -t tmpfs -o size=3m tmpfs "$work/small"
    trap 'umount "$work/small"' EXIT
    train $probe --work-dir "$work/small" "${short[@]}" $keep=20 || echo 'failed, as expected'
    rm "$work"/small/iter_[12].pth
    train $probe --work-dir "$work/small" --resume "${short[@]}" $keep=2
    train $probe --work-dir "$work/large" "${short[@]}" $keep=2
    difference small/iter_10.pth large/iter_10.pth
}

rm -rf "$work"
"$1"
