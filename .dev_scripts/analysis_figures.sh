#!/usr/bin/env bash
# Make the pictures of docs/analysis.md from the models of `make demo`.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
probe=work_dirs/probe
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
model() { echo "configs/probe/$1_probe.py" "$(cat "$probe/$1/seed0/last_checkpoint")"; }
read -r nl_config nl_weights <<< "$(model nl)"
read -r config weights <<< "$(model gcnl)"

"$python" tools/analysis_tools/visualize_attention.py \
    "$nl_config" "$nl_weights" $probe/data/seed0/images/val/00000.png \
    --config2 "$config" --checkpoint2 "$weights" --names non-local ours \
    --point 6,18 --point 34,22 \
    --ground-truth $probe/data/seed0/annotations/val/00000.png --out "$out/analysis_attention.png"
"$python" tools/analysis_tools/visualize_predictions.py "$config" "$weights" \
    --baseline "$nl_config" "$nl_weights" --names non-local ours \
    --num-images 2 --out-dir "$out"
mv "$out/predictions_001.png" "$out/analysis_predictions.png"
"$python" tools/analysis_tools/plot_curves.py $probe/nl/seed0 $probe/gcnl/seed0 \
    --keys loss decode.acc_seg --out "$out/analysis_curves.png"
"$python" - "$out" docs/images <<'PYTHON'
import sys
from pathlib import Path
from PIL import Image
for path in Path(sys.argv[1]).glob('*.png'):  # a palette makes the files small
    Image.open(path).convert('RGB').quantize(256, Image.Quantize.MAXCOVERAGE).save(f'{sys.argv[2]}/{path.name}', optimize=True)
PYTHON
