"""Draw input, ground truth, and predictions of models side by side (Figures 3 to 6).

For a data set with its ground truth, or for any images:

python tools/analysis_tools/visualize_predictions.py CONFIG CHECKPOINT --split val \\
    --baseline CONFIG CHECKPOINT --out-dir figures
python tools/analysis_tools/visualize_predictions.py CONFIG CHECKPOINT --images FOLDER ...
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.utils import ProgressBar

from mmgcnl.analysis import Sample, Split, draw_panels, prediction_panels
from mmgcnl.apis import Inferencer, find_images
from mmgcnl.utils.cli import (
    add_cfg_options,
    add_device_argument,
    check_file,
    existing_file,
    model_names,
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
        '--baseline',
        nargs=2,
        action='append',
        default=[],
        metavar=('CONFIG', 'CHECKPOINT'),
        help='a model to compare with; can be repeated',
    )
    parser.add_argument(
        '--names',
        nargs='+',
        help='names of the baselines, then of the model (the names of their configs)',
    )
    parser.add_argument(
        '--split', choices=['val', 'test'], default='val', help='data set (val)'
    )
    parser.add_argument(
        '--images', nargs='+', metavar='INPUT', help='images, folders or globs instead'
    )
    parser.add_argument(
        '--num-images', type=positive_int, metavar='N', help='only the first N images (all)'
    )
    parser.add_argument(
        '--rows', type=positive_int, default=4, help='images per figure (4)'
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='instances with a lower score are not drawn (0.3)',
    )
    parser.add_argument(
        '--out-dir', type=Path, required=True, metavar='DIR', help='folder of the figures'
    )
    add_device_argument(parser)
    add_cfg_options(parser, ', of every model')
    args = parser.parse_args(argv)
    pairs = [*args.baseline, (args.config, args.checkpoint)]
    names = model_names(parser, args.names, [config for config, _ in pairs])
    for config, _ in args.baseline:
        check_file(parser, '--baseline', config)

    try:
        models = {
            name: Inferencer(
                read_config(config, args.cfg_options),
                checkpoint,
                args.device,
                show_progress=False,
            )
            for name, (config, checkpoint) in zip(names, pairs)
        }
        ours = models[names[-1]]
        if args.images:
            images: Sequence = [
                Sample(str(path), {}, None)
                for path in find_images(args.images)[: args.num_images]
            ]
        else:
            images = Split(ours.model.cfg, args.split, args.num_images)
        bar = ProgressBar(len(images))
        written, rows, drawn, failed = [], [], [], []
        for index in range(len(images)):
            try:
                image = images[index]
                row, samples = prediction_panels(
                    image.path, image.truth, models, args.score_thr
                )
            except (RuntimeError, ValueError) as error:  # the others are drawn
                failed.append(str(error).replace('\n', ' '))
            else:
                rows.append(row)
                drawn += samples
            bar.update()
            if len(rows) == args.rows or (rows and bar.completed == len(images)):
                file = args.out_dir / f'predictions_{len(written) + 1:03d}.png'
                draw_panels(rows, file, ours.legend(*drawn))
                written.append(file)
                rows, drawn = [], []
    except (OSError, RuntimeError, ValueError) as error:
        parser.error(str(error).replace('\n', ' '))
    if written:
        print(f'\ndrawn: {", ".join(map(str, written))}')
    if failed:
        parser.error(f'{len(failed)} images are not drawn: {"; ".join(failed)}')


if __name__ == '__main__':
    main()
