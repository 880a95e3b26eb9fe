"""Export a trained model to ONNX, and compare it with PyTorch in onnxruntime.

python tools/deployment/export_onnx.py CONFIG CHECKPOINT --out model.onnx --shape 512 1024

Names and meanings are mmdeploy's. The file's 'input' is the image as the model's
data_preprocessor gives it: (batch, 3, H, W), float32, with its channel order, its mean
subtracted, divided by its std; these are printed, and stand in the file's metadata.

segmentor  'output', the logits (batch, classes, H, W) resized to the input, or with
           --labels the labels (batch, 1, H, W) in int64. Of test_cfg mode='slide' it is
           the model for one window.
detector   'level0', 'level1', ...: backbone and neck. What follows them makes boxes, whose
           number depends on the image; that is mmdeploy's business.

Exit code 1: onnxruntime's result differs from PyTorch's. Exit code 2: wrong input.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, DictAction

from mmgcnl.engine import check_file


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('--out', required=True, metavar='FILE.onnx')
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        required=True,
        metavar=('H', 'W'),
        help='height and width of the input',
    )
    parser.add_argument(
        '--dynamic', action='store_true', help='take any height, width and batch size'
    )
    parser.add_argument(
        '--labels', action='store_true', help='of a segmentor, labels instead of logits'
    )
    parser.add_argument(
        '--verify-shape',
        nargs=2,
        type=int,
        action='append',
        metavar=('H', 'W'),
        help='with --dynamic: compare at this size instead of at three chosen ones; '
        'can be repeated',
    )
    parser.add_argument('--no-verify', action='store_true', help='do not compare')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, metavar='KEY=VALUE'
    )
    args = parser.parse_args(argv)
    shape = tuple(args.shape)
    for name, sizes in (('--shape', [shape]), ('--verify-shape', args.verify_shape or [])):
        for size in sizes:
            if min(size) < 1:
                parser.error(f'{name}: height and width are 1 or more, not {size}')
    if args.verify_shape and not args.dynamic:
        parser.error('--verify-shape: without --dynamic the file takes --shape alone')
    if not args.out.endswith('.onnx'):
        parser.error(f'--out: give a name that ends with .onnx, not {args.out}')
    check_file(parser, 'config', args.config)
    # Advice on training; and torch's on itself.
    warnings.filterwarnings('ignore', module='mmseg|torch|copyreg')

    from mmgcnl.apis import init_model
    from mmgcnl.deployment import (
        LABEL_TOLERANCE,
        TOLERANCE,
        TensorModel,
        export_onnx,
        onnx_differences,
    )

    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    try:
        model = TensorModel(init_model(cfg, args.checkpoint, 'cpu'), args.labels)
        preprocessing = preprocessing_of(cfg)
        meta = dict(classes=model.model.dataset_meta['classes'], **preprocessing)
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        export_onnx(model, args.out, shape, args.dynamic, meta)
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
    takes = (
        'any batch size, height and width' if args.dynamic else f'1 x 3 x {size_of(shape)}'
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
        shapes += [tuple(size) for size in args.verify_shape or other_shapes(shape)]
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
            print(f'  {size_of(size):11} {difference:.1e}{"" if equal else "  DIFFERS"}')
    except (ImportError, ValueError) as error:
        parser.error(f'{error} ({args.out} was written; --no-verify skips the comparison)')
    if failed:
        sys.exit(f'{args.out} does not compute what the model does')


def preprocessing_of(cfg: Config) -> dict:
    """What the data_preprocessor of a config does to the values of an image."""
    settings = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    keys = ('bgr_to_rgb', 'rgb_to_bgr', 'mean', 'std', 'pad_size_divisor')
    return {key: settings[key] for key in keys if settings.get(key)}


def other_shapes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Three more, not rounded to anything: wider or taller, square, and smaller."""
    height, width = shape
    turned = (width, height) if width != height else (height, height * 3 // 2)
    side = (height + width) // 2 + 13
    return [turned, (side, side), (height - height // 5, width - width // 3)]


def size_of(shape: tuple[int, int]) -> str:
    return ' x '.join(map(str, shape))


if __name__ == '__main__':
    main()
