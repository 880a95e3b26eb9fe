#!/usr/bin/env bash
# Everything to be known about the fused kernels on a machine with an NVIDIA GPU: exactness,
# and time and memory over scaled_dot_product_attention, in gpu_day.json and gpu_day.md.
# It needs torch and triton only. `--dry-run` goes as far as a machine without a GPU can.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHONPATH=$PWD exec "${PYTHON:-python3}" .dev_scripts/gpu_day.py "$@"
