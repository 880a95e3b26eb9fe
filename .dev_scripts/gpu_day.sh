#!/usr/bin/env bash
# Everything to be known about the fused kernels on a machine with an NVIDIA GPU, in 25 minutes
# at most: accesses to memory under compute-sanitizer, exactness, the check at the start of a
# training, time and memory, the tests, training with --amp, and the best tiles. The results
# are in work_dirs/gpu_day/gpu_day.json and gpu_day.md. It needs torch and triton; the tests
# also need pytest and hypothesis, and the training needs mmseg.
# `--dry-run` goes as far as a machine without a GPU can; `--help` shows all options.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONPATH=$PWD exec "${PYTHON:-python3}" .dev_scripts/gpu_day.py "$@"
