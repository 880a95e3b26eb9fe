"""Segment images with a trained model: semantic, instance or panoptic.

python tools/infer.py CONFIG CHECKPOINT IMAGE_OR_FOLDER_OR_GLOB... --out-dir DIR

DIR/overlays/NAME.png   the prediction drawn over the image
DIR/labels/NAME.png     semantic: the class of each pixel, from 0
DIR/instances.json      instances, in COCO's format, with the scores
DIR/panoptic/NAME.png   panoptic: the segment of each pixel, in COCO's format, with
DIR/panoptic.json

Exit code 2: wrong input, or images that cannot be read; the others are segmented.
"""

import argparse
import sys
from collections.abc import Sequence

from mmgcnl.utils.cli import add_device_argument, existing_file, positive_int


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=existing_file, help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument(
        'inputs', nargs='+', metavar='INPUT', help='image, folder of images, or glob'
    )
    parser.add_argument(
        '--out-dir', required=True, metavar='DIR', help='folder that gets the results'
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='instances with a lower score are not drawn (0.3)',
    )
    parser.add_argument('--batch-size', type=positive_int, default=1, help='(1)')
    add_device_argument(parser)
    args = parser.parse_args(argv)

    from mmgcnl.apis import Inferencer

    try:
        inferencer = Inferencer(args.config, args.checkpoint, args.device)
        results = inferencer(
            args.inputs,
            batch_size=args.batch_size,
            out_dir=args.out_dir,
            pred_score_thr=args.score_thr,
        )
    except (OSError, ValueError) as error:
        parser.error(str(error))
    print(f'segmented {len(results["predictions"])} images into {args.out_dir}')
    if results['failed']:
        print(f'{len(results["failed"])} could not be read:', file=sys.stderr)
        for name, reason in results['failed'].items():
            print(f'  {name}: {reason}', file=sys.stderr)
        sys.exit(2)


if __name__ == '__main__':
    main()
