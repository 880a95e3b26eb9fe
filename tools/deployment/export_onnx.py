"""Export a trained model to ONNX, and compare it with PyTorch in onnxruntime.

python tools/deployment/export_onnx.py CONFIG CHECKPOINT --out model.onnx --shape 512 1024

The names of inputs and outputs are mmdeploy's. 'input' is the image as the model's
data_preprocessor gives it: (batch, channels, H, W), float32, in its channel order,
normalised with its mean and std. The tool prints these settings and stores them in the
file's metadata.

segmentor  'output': the logits (batch, classes, H, W) resized to the input, or with
           --labels the labels (batch, 1, H, W), int64. With test_cfg.mode='slide' the
           file has the model for one window.
detector   'level0', 'level1', ...: the outputs of backbone and neck. With --head those of
           the head of a single-stage detector, as mmdet names them: 'cls_scores0',
           'cls_scores1', ..., 'bbox_preds0', ... Boxes are not made from them.

The attention of GCNonLocal2d is exported as a Scan over the rows of its map, in memory that
does not grow with the square of the map; with --dense as matrix products of all pairs.

Exit code 1: onnxruntime's result differs from PyTorch's. Exit code 2: wrong input.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence

from mmgcnl.utils.cli import (
    add_cfg_options,
    add_size_argument,
    existing_file,
    file_name,
    read_config,
)
from mmgcnl.utils.text import format_size


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=existing_file, help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('--out', type=file_name('.onnx'), required=True)
    add_size_argument(parser, required=True, help='size of the input')
    parser.add_argument(
        '--dynamic', action='store_true', help='take any height, width and batch size'
    )
    parser.add_argument(
        '--labels', action='store_true', help='of a segmentor, labels instead of logits'
    )
    parser.add_argument(
        '--head',
        action='store_true',
        help="of a single-stage detector, the head's outputs instead of the neck's; not "
        'with --dynamic',
    )
    parser.add_argument(
        '--dense',
        action='store_true',
        help="attention in memory of all pairs, for runtimes without ONNX's Scan",
    )
    add_size_argument(
        parser,
        '--verify-shape',
        action='append',
        help='with --dynamic: compare at this size instead of three automatic ones; can '
        'be repeated',
    )
    parser.add_argument('--no-verify', action='store_true', help='do not compare')
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    shape = tuple(args.shape)
    if args.verify_shape and not args.dynamic:
        parser.error('--verify-shape: without --dynamic the file takes only --shape')
    if args.head and args.dynamic:
        parser.error('--head: the file takes one size only; leave out --dynamic')
    # mmseg advises on training, torch warns about its own exporter.
    warnings.filterwarnings('ignore', module='mmseg|torch|copyreg')

    from mmgcnl.apis import init_model
    from mmgcnl.deployment import (
        LABEL_TOLERANCE,
        TOLERANCE,
        TensorModel,
        describe_preprocessing,
        export_onnx,
        onnx_differences,
        shapes_to_verify,
    )

    try:
        cfg = read_config(args.config, args.cfg_options)
        model = TensorModel(init_model(cfg, args.checkpoint, 'cpu'), args.labels, args.head)
        preprocessing = describe_preprocessing(cfg)
        meta = dict(classes=model.model.dataset_meta['classes'], **preprocessing)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        export_onnx(model, args.out, shape, args.dynamic, meta, args.dense)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    takes = (
        'any batch size, height and width'
        if args.dynamic
        else f'1 x {model.in_channels} x {format_size(shape)}'
    )
    print(f'{args.out} takes {takes}; the input as data_preprocessor gives it:')
    for key, value in preprocessing.items():
        print(f'  {key} = {value}')
    if model.is_segmentor and cfg.model.get('test_cfg', {}).get('mode') == 'slide':
        crop, stride = (cfg.model.test_cfg.get(key) for key in ('crop_size', 'stride'))
        print(f'  of one window: test_cfg slides one of {crop} by {stride}')
    if args.no_verify:
        return

    shapes = [shape]
    if args.dynamic:
        shapes += [tuple(size) for size in args.verify_shape or shapes_to_verify(shape)]
    tolerance = LABEL_TOLERANCE if args.labels else TOLERANCE
    what = 'share of labels' if args.labels else 'share of the largest value'
    print(
        f'largest difference from PyTorch in onnxruntime ({what}, at most {tolerance:g}):'
    )
    try:
        failed = False
        for size, difference in onnx_differences(model, args.out, shapes):
            equal = difference <= tolerance  # not so for NaN
            failed |= not equal
            print(
                f'  {format_size(size):11} {difference:.1e}{"" if equal else "  DIFFERS"}'
            )
    except (ImportError, ValueError) as error:
        parser.error(f'{error} ({args.out} was written; --no-verify skips the comparison)')
    if failed:
        sys.exit(f'{args.out} does not compute what the model does')


if __name__ == '__main__':
    main()
