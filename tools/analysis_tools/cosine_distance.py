"""Measure how much a model's non-local attention depends on the query (Tables 3 and 4).

For each non-local block, ours or mmcv's: the mean cosine distance between the positions
of its input, of its output (before the residual) and of its attention. 0 means that all
positions are alike, 0.5 that they have nothing in common. With ground truth also how much
of the attention falls on the query's own class.

python tools/analysis_tools/cosine_distance.py CONFIG CHECKPOINT --num-images 50
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from mmengine.fileio import dump
from mmengine.utils import ProgressBar
from prettytable import PrettyTable

from mmgcnl.analysis import (
    DistanceRecorder,
    PixelMap,
    Split,
    find_blocks,
    label_map,
)
from mmgcnl.apis import image_pipeline, init_model
from mmgcnl.engine import check_file


def measure(model: torch.nn.Module, split: Split) -> dict[str, Any]:
    """Distances and shares of every block of a model over the images of a split.

    Raises:
        ValueError: The model has no non-local block.
    """
    blocks = find_blocks(model)
    classes = model.dataset_meta['classes']
    pipeline = image_pipeline(model.cfg)
    # Of a window nobody says where in the image it lies.
    whole = model.cfg.model.get('test_cfg', {}).get('mode') != 'slide'
    recorder = DistanceRecorder(blocks, len(classes))
    bar = ProgressBar(len(split))
    with recorder, torch.no_grad():
        for sample in split:
            truth = label_map(sample.truth)
            recorder.labels = None
            batch = pseudo_collate([sample.data])
            if truth is not None and whole:
                shape = model.data_preprocessor(batch, False)['inputs'].shape[2:]
                pixel_map = PixelMap.of_pipeline(pipeline, truth.shape, tuple(shape))
                recorder.labels = lambda grid, size, t=truth, p=pixel_map: p.labels_at(
                    t, grid, size
                )
            model.test_step(pseudo_collate([sample.data]))
            bar.update()
    print()
    return dict(
        num_images=len(split),
        blocks={name: _report(recorder, name, classes) for name in blocks},
    )


def _report(recorder: DistanceRecorder, name: str, classes: Sequence[str]) -> dict:
    report: dict[str, Any] = dict(
        type=type(recorder.blocks[name]).__name__,
        num_maps=len(recorder.images[name]['input']),
    )
    for kind, values in recorder.images[name].items():
        report[kind] = dict(mean=float(np.mean(values)), std=float(np.std(values)))
    heads = torch.stack(recorder.heads[name])
    report['attention']['heads'] = heads.mean(0).tolist()
    if name in recorder.queries:
        queries = recorder.queries[name]
        seen = queries.nonzero()[:, 0].tolist()
        report['classes'] = {
            classes[k]: dict(
                queries=int(queries[k]),
                attention=_by_class(recorder.shares[name][k] / queries[k], classes),
                uniform=_by_class(recorder.uniform[name][k] / queries[k], classes),
            )
            for k in seen
        }
    return report


def _by_class(shares: torch.Tensor, classes: Sequence[str]) -> dict[str, float]:
    return {name: share.item() for name, share in zip([*classes, 'no class'], shares)}


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
            distance = block[kind]
            table.add_row([kind, f'{distance["mean"]:.3f}', f'{distance["std"]:.3f}'])
        heads = block['attention']['heads']
        if len(heads) > 1:
            for i, head in enumerate(heads, 1):
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
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('--num-images', type=int, metavar='N', help='the first N (all)')
    parser.add_argument('--split', choices=['val', 'test'], default='val', help='(val)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write all of it')
    parser.add_argument('--device', help='e.g. cpu, cuda:1; the GPU when there is one')
    args = parser.parse_args(argv)
    check_file(parser, 'config', args.config)
    if args.num_images is not None and args.num_images < 1:
        parser.error(f'--num-images {args.num_images}: give at least 1')
    try:
        model = init_model(args.config, args.checkpoint, args.device)
        find_blocks(model)  # before the data is read
        split = Split(model.cfg, args.split, args.num_images)
        report = measure(model, split)
    except (OSError, RuntimeError, ValueError) as error:
        parser.error(str(error).replace('\n', ' '))
    show(report)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        dump(report, args.json, file_format='json', indent=2)
        print(f'written: {args.json}')


if __name__ == '__main__':
    main()
