"""Run a trained model on images or videos: segmentation or detection.

python tools/infer.py CONFIG CHECKPOINT IMAGE_OR_FOLDER_OR_GLOB... --out-dir DIR
python tools/infer.py CONFIG CHECKPOINT VIDEO_OR_CAMERA... --out-dir DIR

DIR/overlays/NAME.png   the prediction drawn over the image
DIR/labels/NAME.png     semantic: the class of each pixel, from 0
DIR/instances.json      instances, in COCO's format, with the scores
DIR/panoptic/NAME.png   panoptic: the segment of each pixel, in COCO's format, with
DIR/panoptic.json
DIR/overlays/NAME.mp4   of a video: the predictions drawn over its frames, nothing else

mmgcnl/apis/writer.py writes those of images, and video.py those of videos.
A camera is given by its number, 0 for the first one, and runs until Ctrl-C.

Exit code 2: wrong input, or images or videos that cannot be read to the end or that the
model does not take; the results of all others are written.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmgcnl.utils.cli import (
    add_cfg_options,
    add_device_argument,
    existing_file,
    positive_int,
    read_config,
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=existing_file, help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument(
        'inputs',
        nargs='+',
        metavar='INPUT',
        help='image, folder of images, glob, video, or number of a camera',
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
    parser.add_argument(
        '--batch-size', type=positive_int, default=1, help='images at a time (1)'
    )
    parser.add_argument(
        '--num-frames',
        type=positive_int,
        metavar='N',
        help='only the first N frames of each video or camera',
    )
    add_device_argument(parser)
    add_cfg_options(parser)
    args = parser.parse_args(argv)

    from mmgcnl.apis import Inferencer, expand_glob, is_video, segment_video
    from mmgcnl.engine.output_files import check_distinct

    # A glob may match images and videos.
    inputs = [part for item in args.inputs for part in expand_glob(item)]
    videos = [item for item in inputs if is_video(item)]
    images = [item for item in inputs if item not in videos]
    names = {
        video: f'camera{video}' if video.isdecimal() else Path(video).stem
        for video in videos
    }
    failed: dict[str, str] = {}
    try:
        check_distinct(names, 'give them in two runs with different output folders')
        cfg = read_config(args.config, args.cfg_options)
        inferencer = Inferencer(cfg, args.checkpoint, args.device)
        if images:
            results = inferencer(
                images,
                batch_size=args.batch_size,
                out_dir=args.out_dir,
                pred_score_thr=args.score_thr,
            )
            print(f'results of {len(results["predictions"])} images are in {args.out_dir}')
            failed.update(results['failed'])
        for video, name in names.items():
            out = Path(args.out_dir, 'overlays', f'{name}.mp4')
            try:
                reason = segment_video(
                    inferencer, video, out, args.score_thr, args.num_frames
                )
            except OSError as error:
                failed[video] = str(error)
                continue
            print(f'written: {out}')
            if reason is not None:
                failed[video] = reason
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if failed:
        print(f'{len(failed)} of the inputs failed:', file=sys.stderr)
        for item, reason in failed.items():
            print(f'  {item}: {reason}', file=sys.stderr)
        sys.exit(2)


if __name__ == '__main__':
    main()
