"""Check and measure the fused kernels on a GPU; see gpu_day.sh."""

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from pathlib import Path

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument('--out', type=Path, default=Path('work_dirs/gpu_day'))
parser.add_argument(
    '--dry-run', action='store_true', help='tiny sizes, in the interpreter without a GPU'
)
args = parser.parse_args()
if args.dry_run:
    os.environ['TRITON_INTERPRET'] = '1'  # before triton is imported

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
import triton  # noqa: E402

from mmgcnl.layers import GCNonLocal2d  # noqa: E402
from mmgcnl.layers.attention import kernel_tiles, validation  # noqa: E402

if not args.dry_run and not torch.cuda.is_available():
    sys.exit('gpu_day: no GPU is visible to torch; --dry-run goes as far as it can without')
device = 'cpu' if args.dry_run else 'cuda'
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# The interpreter has no bfloat16 matrix product.
CHECKED = DTYPES[:2] if args.dry_run else DTYPES
SIZES = [(5, 7)] if args.dry_run else [(60, 60), (97, 97), (128, 256)]
TURNS = 1 if args.dry_run else 20


def show(done: int, total: int, what: str) -> None:
    print(f'[{time.strftime("%H:%M:%S")}] {done}/{total} {what}', flush=True)


def check_exactness() -> list[dict]:
    """Compare the kernels with the dense reference for every kind of input."""
    dims = (8,) if args.dry_run else (32, 64, 128, 256)
    flags, kinds = (True, False), []
    for dtype, d in itertools.product(CHECKED, dims):
        grids = itertools.product((1, 3, 33, 97), range(1, 130))
        options = [kernel_tiles.tile_options(d, dtype, grid) for grid in grids]
        tiles = {(option['BLOCK_N'], option['TAIL']) for option in options}
        kinds += [
            (dtype, d, *tile, position, dropout)
            for tile, position, dropout in itertools.product(sorted(tiles), flags, flags)
            if position or not tile[1]  # without position, there are no columns
        ]
    rows = []
    for i, kind in enumerate(kinds):
        if not i % 20:
            show(i, len(kinds), 'exactness')
        reason = validation.validate_kernels(device, *kind)
        names = ('dtype', 'dims', 'tile', 'tail', 'position', 'dropout')
        rows.append({**dict(zip(names, (str(kind[0]), *kind[1:]))), 'refused': reason})
    return rows


def measure(function, *inputs) -> dict:
    """Median milliseconds and the growth of the peak of memory in MiB."""
    function(*inputs)
    if device == 'cpu':
        return dict(ms=None, MiB=None)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(TURNS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function(*inputs)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    peak = torch.cuda.max_memory_allocated() - before
    return dict(ms=statistics.median(times), MiB=peak / 2**20)


class Floor(GCNonLocal2d):
    """The block with scaled_dot_product_attention: neither context nor position."""

    def forward(self, x):
        q, k, v = (
            self._split_heads(conv(x)).flatten(2, 3)
            for conv in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(2, 3).reshape(x.shape[0], -1, *x.shape[2:]))


def contenders() -> dict:
    channels = 16 if args.dry_run else 256
    plain = dict(num_heads=8 if channels > 16 else 2, reduction=1)
    ours = dict(plain, implementation='triton')
    blocks = {
        'floor: SDPA': Floor(channels, context=None, position=None, **plain),
        'ours': GCNonLocal2d(channels, attn_drop_rate=0.0, **ours),
        'ours, dropout 0.1': GCNonLocal2d(channels, attn_drop_rate=0.1, **ours),
        'ours, blockwise': GCNonLocal2d(channels, **plain, implementation='blockwise'),
    }
    try:
        from mmcv.cnn.bricks import GeneralizedAttention
    except ImportError:
        print('mmcv is missing: GeneralizedAttention is left out')
    else:
        blocks['GeneralizedAttention'] = GeneralizedAttention(
            channels, num_heads=plain['num_heads'], kv_stride=1, attention_type='1111'
        )
    return blocks


def measure_blocks() -> list[dict]:
    rows = []
    kinds = list(itertools.product(SIZES, CHECKED[1:], contenders(), (False, True)))
    for i, (size, dtype, name, training) in enumerate(kinds):
        show(i, len(kinds), f'{size} {dtype} {name}')
        torch.manual_seed(0)
        block = contenders()[name].to(device, dtype).train(training)
        x = torch.randn(
            2, block.in_channels, *size, device=device, dtype=dtype, requires_grad=training
        )

        def step(block=block, x=x, training=training):
            with torch.set_grad_enabled(training):
                out = block(x)
            if training:
                out.sum().backward()

        kind = dict(size=size, dtype=str(dtype), block=name, training=training)
        try:
            rows.append({**kind, **measure(step)})
        except torch.cuda.OutOfMemoryError:
            rows.append({**kind, 'error': 'out of memory'})
            torch.cuda.empty_cache()
    return rows


def tune() -> list[dict]:
    """Time other tiles than those of the code, for its table per architecture."""
    rows = []
    if args.dry_run:
        return rows
    chosen = kernel_tiles.tile_options
    block = GCNonLocal2d(256, 1, 8, attn_drop_rate=0.0, implementation='triton')
    block = block.to(device, torch.bfloat16)
    x = torch.randn(2, 256, 97, 97, device=device, dtype=torch.bfloat16, requires_grad=True)
    kinds = list(itertools.product((32, 64, 128), (32, 64), (4, 8), (1, 2, 3)))
    for i, (m, n, warps, stages) in enumerate(kinds):
        show(i, len(kinds), 'tuning')
        options = dict(BLOCK_M=m, BLOCK_N=n, num_warps=warps, num_stages=stages)
        kernel_tiles.tile_options = lambda *kind, o=options: {**chosen(*kind), **o}
        try:
            forward = measure(lambda: block(x.detach()))['ms']
            both = measure(lambda: block(x).sum().backward())['ms']
            rows.append({**options, 'forward_ms': forward, 'both_ms': both})
        except Exception as error:  # what does not fit is of interest, too
            rows.append({**options, 'error': f'{type(error).__name__}: {error}'[:200]})
    kernel_tiles.tile_options = chosen
    return rows


def table(rows: list[dict]) -> str:
    if not rows:
        return 'nothing was measured\n'
    keys = list(dict.fromkeys(key for row in rows for key in row))
    lines = [keys, ['---'] * len(keys)]
    lines += [[row.get(key, '') for key in keys] for row in rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines) + '\n'


name = torch.cuda.get_device_name() if device == 'cuda' else 'no GPU (dry run)'
result = dict(
    device=name,
    capability=torch.cuda.get_device_capability() if device == 'cuda' else None,
    date=time.strftime('%Y-%m-%d'),
    torch=torch.__version__,
    triton=triton.__version__,
)
args.out.mkdir(parents=True, exist_ok=True)
page = f'# {name}, torch {torch.__version__}, triton {triton.__version__}\n'
for part in (check_exactness, measure_blocks, tune):
    result[part.__name__] = part()
    page += f'\n## {part.__name__}\n\n{table(result[part.__name__])}'
    # After every part, so that nothing is lost if a later one fails.
    (args.out / 'gpu_day.json').write_text(json.dumps(result, indent=1))
    (args.out / 'gpu_day.md').write_text(page)
refused = [row for row in result['check_exactness'] if row['refused']]
print(f'{len(refused)} kinds of input refused; see {args.out}/gpu_day.md')
sys.exit(1 if refused else 0)
