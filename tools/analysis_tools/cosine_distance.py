"""Measure how much a model's non-local attention depends on the query (Tables 3 and 4).

For each non-local block, ours or mmcv's: the mean cosine distance between the positions
of its input, of its output (before the residual) and of its attention. 0 means that all
positions are alike, 0.5 that they have nothing in common. With ground truth also how much
of the attention falls on the query's own class.

python tools/analysis_tools/cosine_distance.py CONFIG CHECKPOINT --num-images 50
bash tools/analysis_tools/dist_cosine_distance.sh CONFIG CHECKPOINT GPUS

Without CHECKPOINT it measures the model as initialised, with batch norm's statistics set on
some training images. How a block is initialised sets these distances as much as training
does: compare a trained model with its own start.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.fileio import dump

from mmgcnl.analysis import Split, find_blocks, measure_distances, set_norm_statistics
from mmgcnl.apis import image_pipeline, init_model
from mmgcnl.engine import close_process_group
from mmgcnl.engine.processes import connect_processes
from mmgcnl.utils.cli import (
    add_cfg_options,
    add_device_argument,
    existing_file,
    non_negative_int,
    positive_int,
    read_config,
)
from mmgcnl.utils.libraries import needed_by

with needed_by('cosine_distance.py', 'prettytable'):
    from prettytable import PrettyTable


def show(report: dict[str, Any]) -> None:
    for name, block in report['blocks'].items():
        maps = f'{report["num_images"]} images'
        if block['num_maps'] != report['num_images']:
            maps += f' in {block["num_maps"]} windows'
        print(f'\n{name} ({block["type"]}), {maps}')
        table = PrettyTable(['cosine distance', 'mean', 'std over images'])
        table.align = 'r'
        table.align['cosine distance'] = 'l'
        for kind in ('input', 'output', 'attention'):
            mean, std = block[kind]['mean'], block[kind]['std']
            # A block that starts as the identity adds nothing.
            cells = ['-', ''] if mean is None else [f'{mean:.3f}', f'{std:.3f}']
            table.add_row([kind, *cells])
        heads = block['attention']['heads']
        for i, head in enumerate(heads if len(heads) > 1 else (), 1):
            table.add_row([f'  head {i}', f'{head:.3f}', ''])
        print(table)
        if 'classes' in block:
            _show_classes(block['classes'])


def _show_classes(classes: dict[str, dict]) -> None:
    table = PrettyTable(
        ['class of the query', 'on its own class', 'if uniform', 'most on another']
    )
    table.align = 'r'
    table.align['class of the query'] = 'l'
    for name, entry in classes.items():
        attention = entry['attention']
        others = {k: v for k, v in attention.items() if k not in (name, 'no class')}
        most = max(others, key=others.get, default=None)
        table.add_row(
            [
                name,
                f'{attention[name]:.1%}',
                f'{entry["uniform"][name]:.1%}',
                f'{most} {others[most]:.1%}' if most else '-',
            ]
        )
    print('share of the attention, mean over heads and queries')
    print(table)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=existing_file, help='path of the config')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='path or URL of the checkpoint; without one, the model as initialised with '
        'randomness.seed of the config (0 if it has none)',
    )
    parser.add_argument(
        '--num-images', type=positive_int, metavar='N', help='only the first N images'
    )
    parser.add_argument(
        '--split', choices=['val', 'test'], default='val', help='default: %(default)s'
    )
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='also write everything to this file'
    )
    parser.add_argument(
        '--no-classes',
        action='store_true',
        help='leave out how the attention is distributed over the classes',
    )
    parser.add_argument(
        '--num-workers',
        type=non_negative_int,
        metavar='N',
        help='processes that load images; default: as many as the config has for the split',
    )
    add_device_argument(parser)
    add_cfg_options(parser, ', e.g. randomness.seed=1')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch'],
        default='none',
        help='what started the processes (see dist_cosine_distance.sh)',
    )
    args = parser.parse_args(argv)
    try:
        cfg = read_config(args.config, args.cfg_options)
        connect_processes(args.launcher)
        model = init_model(cfg, args.checkpoint, args.device)
        find_blocks(model)  # before the data is read
        if args.checkpoint is None:
            set_norm_statistics(model, model.cfg)
        split = Split(model.cfg, args.split, args.num_images, not args.no_classes)
        workers = split.num_workers if args.num_workers is None else args.num_workers
        pipeline = image_pipeline(model.cfg, split=args.split)
        report = measure_distances(model, pipeline, split, workers)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        parser.error(str(error).replace('\n', ' '))
    if is_main_process():
        show(report)
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            dump(report, args.json, file_format='json', indent=2)
            print(f'written: {args.json}')
    close_process_group()


if __name__ == '__main__':
    main()
