"""Measure time and memory of EBFPN and mmdet's BFP, or of whole detectors with either.

python tools/analysis_tools/benchmark_neck.py --mode train --json work_dirs/neck.json
python tools/analysis_tools/benchmark_neck.py --detector

Each contender runs in its own process, in turns with the others; compare the ratios of
medians. With --detector the contenders are Mask R-CNN with FPN, with FPN and BFP, and with
FPN and EBFPN. The weights are random. The regions that they propose are replaced by regions
that are the same for all contenders, since time and memory of the heads depend on them.
"""

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

with contextlib.redirect_stdout(sys.stderr):  # the libraries print on import
    from mmcv.cnn import NonLocal2d
    from mmdet.models.necks import BFP
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    from mmgcnl import EBFPN
    from mmgcnl.analysis.benchmark import (
        Build,
        Measurement,
        as_table,
        measure,
        module_contender,
        record,
    )
    from mmgcnl.layers import GCNonLocal2d
    from mmgcnl.utils.cli import (
        add_benchmark_arguments,
        add_size_argument,
        check_benchmark_arguments,
        check_file,
    )
    from mmgcnl.utils.provenance import provenance

CHANNELS = 256
STRIDES = (4, 8, 16, 32, 64)


def neck_contenders(args: argparse.Namespace) -> dict[str, dict[str, Build]]:
    """Make the functions that build the refine blocks and the necks, in two groups."""
    height, width = args.shape
    pyramid = [(args.batch, CHANNELS, -(-height // s), -(-width // s)) for s in STRIDES]
    settings = (args.mode, args.device, args.dtype)
    # Dropout is on in training, as a user would have it.
    ours = partial(GCNonLocal2d, CHANNELS, 1, 8, kv_stride=2)
    neck = dict(in_channels=CHANNELS, num_levels=len(STRIDES))
    return {
        'refine block': {
            'non-local of BFP': module_contender(
                partial(NonLocal2d, CHANNELS, reduction=1, use_scale=False),
                [pyramid[2]],
                *settings,
            ),
            'GCNonLocal2d': module_contender(ours, [pyramid[2]], *settings),
        },
        'neck': {
            'BFP': module_contender(
                partial(BFP, **neck, refine_type='non_local', refine_level=2),
                pyramid,
                *settings,
            ),
            'BFP, no refinement': module_contender(
                partial(BFP, **neck, refine_type=None, refine_level=2), pyramid, *settings
            ),
            'EBFPN': module_contender(partial(EBFPN, **neck), pyramid, *settings),
        },
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


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_size_argument(
        parser,
        default=[800, 1280],
        help='size of the image that the pyramid is made from (800 1280)',
    )
    parser.add_argument('--detector', action='store_true', help='measure whole detectors')
    parser.add_argument(
        '--config',
        default='configs/ebfpn/mask-rcnn_r50_fpn_ebfpn_1x_coco.py',
        help='config of the detector, whose neck is replaced (%(default)s)',
    )
    add_benchmark_arguments(parser)
    args = parser.parse_args(argv)
    check_benchmark_arguments(parser, args)
    if args.detector:
        check_file(parser, '--config', args.config)
    groups = (
        {'Mask R-CNN': detector_contenders(args)}
        if args.detector
        else neck_contenders(args)
    )

    about = {k: v for k, v in vars(args).items() if k != 'json'}
    about['threads'] = args.threads or torch.get_num_threads()
    about |= provenance(args.device)
    found: dict[str, dict[str, Measurement]] = {}
    for group, steps in groups.items():
        print(f'{args.mode}, {group}, image of {args.shape[0]}x{args.shape[1]}')
        found[group] = measure(steps, args.repeats, args.threads, args.device)
        print(*as_table(found[group], next(iter(steps))), sep='\n')
        if args.detector:
            for name, m in found[group].items():
                print(f'{name:34s} {args.batch / m.median_seconds:7.2f} images/s')
        if args.json:
            record(args.json, about, found)
    if args.json:
        print(f'written: {args.json}')


if __name__ == '__main__':
    main()
