"""Measure time and memory of the block and of the blocks that it replaces.

python tools/analysis_tools/benchmark_attention.py --height 97 --width 97 --mode train \
    --json work_dirs/attention.json

Each contender runs in its own process, in turns with the others; compare the ratios of
medians. Besides the given size, a quarter and half of it are measured (--scales), for a
plot over the number of positions N next to the JSON.

floor: multi-head attention of the same size without position or context, by PyTorch's
scaled_dot_product_attention on contiguous tensors, between the same 1x1 convolutions.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

with contextlib.redirect_stdout(sys.stderr):  # the libraries print on import
    from mmcv.cnn import NonLocal2d
    from mmcv.cnn.bricks import GeneralizedAttention

    from mmgcnl.analysis.benchmark import (
        as_table,
        measure,
        module_contender,
        record,
    )
    from mmgcnl.analysis.figures import draw_scaling
    from mmgcnl.layers import IMPLEMENTATIONS, GCNonLocal2d
    from mmgcnl.utils.cli import (
        add_benchmark_arguments,
        check_benchmark_arguments,
        positive_int,
    )
    from mmgcnl.utils.provenance import provenance


class Floor(nn.Module):
    """The least that a multi-head attention block of this size has to compute."""

    def __init__(self, channels: int, num_heads: int, kv_stride: int) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (
            nn.Conv2d(channels, channels, 1) for _ in range(4)
        )
        self.num_heads = num_heads
        self.kv_pool = nn.AvgPool2d(1, kv_stride)

    def forward(self, x: Tensor) -> Tensor:
        keys = self.kv_pool(x)
        query, key, value = (
            conv(y).flatten(2).unflatten(1, (self.num_heads, -1)).mT.contiguous()
            for conv, y in ((self.query, x), (self.key, keys), (self.value, keys))
        )
        y = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(y.mT.flatten(1, 2).view_as(x))


def contenders(args: argparse.Namespace) -> dict[str, Callable[[], nn.Module]]:
    """Make the functions that build the contenders, by name."""
    ours = partial(
        GCNonLocal2d,
        args.channels,
        1,
        args.heads,
        kv_stride=args.kv_stride,
        attn_drop_rate=0.0,
    )
    blocks: dict[str, Callable[[], nn.Module]] = {
        'floor': partial(Floor, args.channels, args.heads, args.kv_stride),
        'NonLocal2d': partial(NonLocal2d, args.channels, reduction=1),
        'GeneralizedAttention': partial(
            GeneralizedAttention,
            args.channels,
            num_heads=args.heads,
            kv_stride=args.kv_stride,
            attention_type='1111',
        ),
    }
    for name in IMPLEMENTATIONS:
        if name != 'triton' or args.device == 'cuda':
            blocks[f'ours, {name}'] = partial(ours, implementation=name)
    if args.mode == 'train':
        blocks['ours, dropout 0.1'] = partial(ours, attn_drop_rate=0.1)
    return blocks


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default, text in (
        ('--height', 97, 'height of the feature map'),
        ('--width', 97, 'width of the feature map'),
        ('--channels', 256, 'channels of the feature map'),
        ('--heads', 8, 'heads of the attention'),
        ('--kv-stride', 1, 'stride of the keys and values'),
    ):
        parser.add_argument(
            name, type=positive_int, default=default, help=f'{text} (%(default)s)'
        )
    add_benchmark_arguments(parser)
    parser.add_argument(
        '--scales',
        nargs='+',
        type=float,
        default=[0.25, 0.5, 1],
        help='fractions of height and width that are measured (0.25 0.5 1)',
    )
    parser.add_argument(
        '--skip', nargs='+', default=[], metavar='NAME', help='contenders to leave out'
    )
    args = parser.parse_args(argv)
    if args.channels % (4 * args.heads):
        parser.error(
            f'--channels {args.channels} is not divisible by 4 x --heads {args.heads}'
        )
    check_benchmark_arguments(parser, args)
    blocks = contenders(args)
    if unknown := set(args.skip) - set(blocks) | set(args.skip) & {'floor'}:
        parser.error(
            f'--skip: cannot leave out {", ".join(sorted(unknown))}; choose from '
            f'{", ".join(list(blocks)[1:])}'
        )

    about = {k: v for k, v in vars(args).items() if k != 'json'}
    about['threads'] = args.threads or torch.get_num_threads()
    about |= provenance(args.device)
    found = {}
    for scale in sorted(args.scales):
        size = (max(1, round(args.height * scale)), max(1, round(args.width * scale)))
        print(f'{args.mode}, {size[0]}x{size[1]}')
        steps = {
            name: module_contender(
                build,
                [(args.batch, args.channels, *size)],
                args.mode,
                args.device,
                args.dtype,
            )
            for name, build in blocks.items()
            if name not in args.skip
        }
        found[f'{size[0]}x{size[1]}'] = measure(
            steps, args.repeats, args.threads, args.device
        )
        print(*as_table(found[f'{size[0]}x{size[1]}'], 'floor'), sep='\n')
        if args.json:  # after each size: nothing measured is lost
            record(args.json, about, found)
            draw_scaling(found, args.json.with_suffix('.png'), args.mode)
    if args.json:
        print(f'written: {args.json}, {args.json.with_suffix(".png")}')


if __name__ == '__main__':
    main()
