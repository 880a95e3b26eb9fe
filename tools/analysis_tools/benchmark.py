"""Measure time and memory of the block and the neck beside those that they replace.

python tools/analysis_tools/benchmark.py attention --mode train --json work_dirs/block.json
python tools/analysis_tools/benchmark.py neck --mode train --json work_dirs/neck.json
python tools/analysis_tools/benchmark.py neck --detector
python tools/analysis_tools/benchmark.py export --sizes 97x97 --json work_dirs/export.json

Each contender runs in its own process, in turns with the others; compare the ratios of
medians.

attention: the block and other non-local blocks, at fractions of the given size (--scales),
for a plot over the number of positions N next to the JSON. floor: multi-head attention of
the same size without position or context, by PyTorch's scaled_dot_product_attention on
contiguous tensors, between the same 1x1 convolutions.

neck: EBFPN and mmdet's BFP, and their refine blocks; with --detector, Mask R-CNN with FPN,
with FPN and BFP, and with FPN and EBFPN. The weights are random. The regions that they
propose are replaced by regions that are the same for all contenders, since time and memory
of the heads depend on them.

export: the block in PyTorch, and in onnxruntime its file with the attention as a Scan over
the rows of the map, and its file with the dense attention. The files take any size.
"""

import argparse
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from mmgcnl.analysis.benchmark import (
    Build,
    Measurement,
    as_table,
    measure,
    module_step,
    record,
)
from mmgcnl.analysis.figures import draw_scaling
from mmgcnl.layers import IMPLEMENTATIONS, GCNonLocal2d
from mmgcnl.utils.cli import (
    add_benchmark_arguments,
    add_size_argument,
    check_benchmark_arguments,
    check_file,
    positive_int,
)
from mmgcnl.utils.provenance import provenance

CHANNELS = 256
STRIDES = (4, 8, 16, 32, 64)
#: What is exported to ONNX: contenders, and the implementations of their attention.
FILES = {'ONNX, Scan': 'row_wise', 'ONNX, dense': 'dense'}


def measure_groups(
    args: argparse.Namespace, groups: Mapping[str, Mapping[str, Build]]
) -> dict[str, dict[str, Measurement]]:
    """Measure groups of contenders, and print and write the results.

    The first contender of a group is the one that the others are compared with.
    """
    about = {k: v for k, v in vars(args).items() if k != 'json'}
    about['threads'] = args.threads or torch.get_num_threads()
    about |= provenance(args.device)
    found: dict[str, dict[str, Measurement]] = {}
    for group, steps in groups.items():
        print(f'{args.mode}, {group}')
        found[group] = measure(steps, args.repeats, args.threads, args.device)
        print(*as_table(found[group], next(iter(steps))), sep='\n')
        if args.json:  # after each group: nothing measured is lost
            record(args.json, about, found)
    if args.json:
        print(f'written: {args.json}')
    return found


def check_skipped(
    parser: argparse.ArgumentParser, args: argparse.Namespace, names: Sequence[str]
) -> None:
    """Stop with exit code 2 when --skip has others than these names."""
    if unknown := set(args.skip) - set(names):
        parser.error(
            f'--skip: cannot leave out {", ".join(sorted(unknown))}; choose from '
            f'{", ".join(names)}'
        )


# --- attention -------------------------------------------------------------------------


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


def block_contenders(args: argparse.Namespace) -> dict[str, Callable[[], nn.Module]]:
    """Make the functions that build the blocks, by name."""
    from mmcv.cnn import NonLocal2d
    from mmcv.cnn.bricks import GeneralizedAttention

    options = dict(kv_stride=args.kv_stride, attn_drop_rate=0.0)
    ours = partial(GCNonLocal2d, args.channels, 1, args.heads, **options)
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


def run_attention(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    if args.channels % (4 * args.heads):
        parser.error(
            f'--channels {args.channels} is not divisible by 4 x --heads {args.heads}'
        )
    check_benchmark_arguments(parser, args)
    blocks = block_contenders(args)
    check_skipped(parser, args, list(blocks)[1:])
    groups = {}
    for scale in sorted(args.scales):
        height, width = (max(1, round(n * scale)) for n in (args.height, args.width))
        shape = (args.batch, args.channels, height, width)
        groups[f'{height}x{width}'] = {
            name: partial(module_step, build, [shape], args.mode, args.device, args.dtype)
            for name, build in blocks.items()
            if name not in args.skip
        }
    found = measure_groups(args, groups)
    if args.json:
        draw_scaling(found, args.json.with_suffix('.png'), args.mode)
        print(f'written: {args.json.with_suffix(".png")}')


# --- neck ------------------------------------------------------------------------------


def neck_contenders(args: argparse.Namespace) -> dict[str, dict[str, Build]]:
    """Make the functions that build the refine blocks and the necks, in two groups."""
    from mmcv.cnn import NonLocal2d
    from mmdet.models.necks import BFP

    from mmgcnl import EBFPN

    height, width = args.shape
    pyramid = [(args.batch, CHANNELS, -(-height // s), -(-width // s)) for s in STRIDES]
    # Dropout is on in training, as a user would have it.
    ours = partial(GCNonLocal2d, CHANNELS, 1, 8, kv_stride=2)
    neck = dict(in_channels=CHANNELS, num_levels=len(STRIDES))
    bfp = partial(BFP, **neck, refine_level=2)
    groups: dict[str, dict[str, tuple[Callable[[], nn.Module], list]]] = {
        'refine block': {
            'non-local of BFP': (
                partial(NonLocal2d, CHANNELS, reduction=1, use_scale=False),
                [pyramid[2]],
            ),
            'GCNonLocal2d': (ours, [pyramid[2]]),
        },
        'neck': {
            'BFP': (partial(bfp, refine_type='non_local'), pyramid),
            'BFP, no refinement': (partial(bfp, refine_type=None), pyramid),
            'EBFPN': (partial(EBFPN, **neck), pyramid),
        },
    }
    return {
        group: {
            name: partial(module_step, build, shapes, args.mode, args.device, args.dtype)
            for name, (build, shapes) in contenders.items()
        }
        for group, contenders in groups.items()
    }


def fix_regions(detector: nn.Module, shape: Sequence[int]) -> None:
    """Let the RPN compute its regions, and the other heads take 1000 random ones."""
    from mmdet.testing import demo_mm_proposals

    compute = detector.rpn_head.predict_by_feat
    height, width = shape

    def predict_by_feat(*args: Any, **kwargs: Any) -> list:
        found = compute(*args, **kwargs)
        # It takes the width first, and draws the same regions in every call.
        return demo_mm_proposals(
            [(3, width, height)] * len(found), 1000, found[0].bboxes.device
        )

    detector.rpn_head.predict_by_feat = predict_by_feat


def detector_step(
    neck: list, config: str, args: argparse.Namespace
) -> Callable[[], object]:
    """Make a step of a whole detector: prediction, or loss and backward pass."""
    from mmdet.testing import demo_mm_inputs

    torch.manual_seed(0)
    init_default_scope('mmdet')
    model_cfg = Config.fromfile(config).model
    model_cfg.backbone.init_cfg = None
    fpn = model_cfg.neck[0] if isinstance(model_cfg.neck, list) else model_cfg.neck
    model_cfg.neck = [fpn, *neck]
    model = MODELS.build(model_cfg).to(args.device).train(args.mode == 'train')
    if getattr(model, 'with_rpn', False):  # single-stage detectors have none
        fix_regions(model, args.shape)
    images = [[3, *args.shape]] * args.batch
    packed = demo_mm_inputs(args.batch, images, num_items=[8] * args.batch, with_mask=True)
    data = model.data_preprocessor(packed, args.mode == 'train')
    autocast = torch.autocast(
        args.device, getattr(torch, args.dtype), enabled=args.dtype != 'float32'
    )

    def step() -> None:
        with torch.set_grad_enabled(args.mode == 'train'), autocast:
            if args.mode == 'infer':
                model(**data, mode='predict')
                return
            loss, _ = model.parse_losses(model(**data, mode='loss'))
        loss.backward()
        model.zero_grad(set_to_none=True)

    return step


def detector_contenders(args: argparse.Namespace) -> dict[str, Build]:
    """Make the functions that build the detectors, by name."""
    neck = dict(in_channels=CHANNELS, num_levels=len(STRIDES))
    bfp = dict(type='BFP', **neck, refine_level=2, refine_type='non_local')
    necks = {'FPN': [], 'FPN + BFP': [bfp], 'FPN + EBFPN': [dict(type='EBFPN', **neck)]}
    return {
        name: partial(detector_step, added, args.config, args)
        for name, added in necks.items()
    }


def run_neck(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    check_benchmark_arguments(parser, args)
    if not args.detector:
        measure_groups(args, neck_contenders(args))
        return
    check_file(parser, '--config', args.config)
    found = measure_groups(args, {'Mask R-CNN': detector_contenders(args)})
    for name, m in found['Mask R-CNN'].items():
        print(f'{name:34s} {args.batch / m.median_seconds:7.2f} images/s')


# --- export ----------------------------------------------------------------------------


def export_block(block: GCNonLocal2d, path: str) -> None:
    """Write a block to an ONNX file that takes any height and width."""
    x = torch.zeros(1, block.in_channels, 24, 40)
    sizes = dict.fromkeys((2, 3), torch.export.Dim.DYNAMIC)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    with torch.no_grad():  # a scan with gradients is not exported
        program = torch.onnx.export(
            block.eval(), (x,), dynamo=True, verbose=False, dynamic_shapes=[sizes]
        )
    program.save(path, external_data=False)


def onnx_step(path: str, shape: Sequence[int], threads: int) -> Callable[[], object]:
    """Make a step that runs a file in onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False  # it would keep the memory of the first run
    session = onnxruntime.InferenceSession(
        path, options, providers=['CPUExecutionProvider']
    )
    (name,) = (node.name for node in session.get_inputs())
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(0)).numpy()
    return lambda: session.run(None, {name: x})


def map_size(text: str) -> tuple[int, int]:
    """Read a size such as '97x97'."""
    if not re.fullmatch('0*[1-9][0-9]*x0*[1-9][0-9]*', text):
        raise argparse.ArgumentTypeError(f'{text!r} is not a size such as 97x97')
    height, width = map(int, text.split('x'))
    return height, width


def run_export(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    check_skipped(parser, args, list(FILES))
    for package in ('onnx', 'onnxscript', 'onnxruntime'):
        try:
            __import__(package)
        except ImportError:
            parser.error(f'{package} is missing: pip install {package}')
    build = partial(GCNonLocal2d, args.channels, 1, args.heads, attn_drop_rate=0.0)
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, implementation in FILES.items():
            if name not in args.skip:
                paths[name] = str(Path(folder, f'{implementation}.onnx'))
                export_block(build(implementation=implementation), paths[name])
        groups = {}
        for height, width in args.sizes:
            shape = (1, args.channels, height, width)
            groups[f'{height}x{width}'] = {
                'PyTorch': partial(module_step, build, [shape], 'infer', 'cpu'),
                **{
                    name: partial(onnx_step, path, shape, args.threads)
                    for name, path in paths.items()
                },
            }
        measure_groups(args, groups)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    benchmarks = parser.add_subparsers(dest='benchmark', required=True)
    attention = benchmarks.add_parser('attention', help='the block')
    neck = benchmarks.add_parser('neck', help='the neck, or a detector with it')
    export = benchmarks.add_parser('export', help='the block in ONNX')
    for command in (attention, export):
        command.add_argument(
            '--channels', type=positive_int, default=256, help='channels of the map (256)'
        )
        command.add_argument(
            '--heads', type=positive_int, default=8, help='heads of the attention (8)'
        )
        command.add_argument(
            '--skip', nargs='+', default=[], metavar='NAME', help='contenders to leave out'
        )
    for name, default, text in (
        ('--height', 97, 'height of the feature map'),
        ('--width', 97, 'width of the feature map'),
        ('--kv-stride', 1, 'stride of the keys and values'),
    ):
        attention.add_argument(
            name, type=positive_int, default=default, help=f'{text} (%(default)s)'
        )
    attention.add_argument(
        '--scales',
        nargs='+',
        type=float,
        default=[0.25, 0.5, 1],
        help='fractions of height and width that are measured (0.25 0.5 1)',
    )
    add_benchmark_arguments(attention)

    add_size_argument(
        neck,
        default=[800, 1280],
        help='size of the image that the pyramid is made from (800 1280)',
    )
    neck.add_argument('--detector', action='store_true', help='measure whole detectors')
    neck.add_argument(
        '--config',
        default='configs/ebfpn/mask-rcnn_r50_fpn_ebfpn_1x_coco.py',
        help='config of the detector, whose neck is replaced (%(default)s)',
    )
    add_benchmark_arguments(neck)

    export.add_argument(
        '--sizes',
        nargs='+',
        type=map_size,
        default=[(97, 97)],
        help='HxW of the map (97x97)',
    )
    export.add_argument(
        '--repeats', type=positive_int, default=3, help='medians are taken over these (3)'
    )
    export.add_argument(
        '--threads', type=positive_int, default=2, help='threads of each process (2)'
    )
    export.add_argument(
        '--json', type=Path, metavar='FILE', help='file for the measurements'
    )
    export.set_defaults(mode='infer', device='cpu')

    args = parser.parse_args(argv)
    if args.benchmark == 'attention':
        run_attention(attention, args)
    elif args.benchmark == 'neck':
        run_neck(neck, args)
    else:
        run_export(export, args)


if __name__ == '__main__':
    main()
