"""Draw where a model's non-local attention looks from points of an image (Figures 1, 2).

python tools/analysis_tools/visualize_attention.py CONFIG CHECKPOINT IMAGE \\
    --point 120,80 --point 300,200 --out attention.png

Each row is a query, marked by a '+': its attention averaged over heads, then each head's.
With --config2 and --checkpoint2 a second model's rows are below the first's. Above them
are the predictions and, if given, the ground truth.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.structures import BaseDataElement, PixelData

from mmgcnl.analysis import Query, attention_at, draw_attention, find_blocks
from mmgcnl.apis import Inferencer
from mmgcnl.engine import check_file


def point(text: str) -> tuple[float, float]:
    if not re.fullmatch(r'\d+(\.\d+)?,\d+(\.\d+)?', text):
        raise argparse.ArgumentTypeError(f'{text!r}: give X,Y in pixels, e.g. 120,80')
    x, y = text.split(',')
    return float(x), float(y)


def read_truth(path: str, size: tuple[int, int]) -> BaseDataElement:
    labels = mmcv.imread(path, 'unchanged')
    if labels is None or labels.shape != size:
        found = 'no image' if labels is None else f'of shape {labels.shape}'
        raise ValueError(f'--ground-truth {path} is {found}: give a label map, {size}')
    data = torch.from_numpy(labels.astype(np.int64))[None]
    return BaseDataElement(gt_sem_seg=PixelData(data=data))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the checkpoint')
    parser.add_argument('image', help='path of the image')
    parser.add_argument(
        '--point',
        type=point,
        action='append',
        required=True,
        metavar='X,Y',
        help='a query, in pixels of the image; can be repeated',
    )
    parser.add_argument('--config2', help='of a model to compare with')
    parser.add_argument('--checkpoint2')
    parser.add_argument('--names', nargs='+', help='of the models; of their configs')
    parser.add_argument('--block', help='its name, if the model has several')
    parser.add_argument('--block2', help='likewise of the second model')
    parser.add_argument('--ground-truth', metavar='PNG', help='label map of the image')
    parser.add_argument('--out', type=Path, default=Path('attention.png'), help='a PNG')
    parser.add_argument('--device', help='e.g. cpu, cuda:1; the GPU when there is one')
    args = parser.parse_args(argv)
    if (args.config2 is None) != (args.checkpoint2 is None):
        parser.error('--config2 and --checkpoint2 go together')
    if args.out.suffix.lower() != '.png':
        parser.error(f'--out: give a name that ends with .png, not {args.out}')
    models = [(args.config, args.checkpoint, args.block)]
    if args.config2:
        models.append((args.config2, args.checkpoint2, args.block2))
    names = args.names or [Path(config).stem for config, *_ in models]
    if len(names) != len(models):
        parser.error(f'--names: give {len(models)} names')
    for name, path in (('image', args.image), ('--ground-truth', args.ground_truth)):
        if path is not None:
            check_file(parser, name, path)
    for config, *_ in models:
        check_file(parser, 'config', config)
    image = mmcv.imread(args.image)
    if image is None:
        parser.error(f'image: {args.image} does not decode as an image')

    maps, panels, samples = [], {}, []
    try:
        for (config, checkpoint, block), name in zip(models, names):
            inferencer = Inferencer(config, checkpoint, args.device)
            find_blocks(inferencer.model)
            found, pred = attention_at(
                inferencer.model, inferencer.pipeline, image, args.point, block
            )
            maps.append(found)
            if args.ground_truth and not panels:
                truth = read_truth(args.ground_truth, image.shape[:2])
                panels['ground truth'] = inferencer.draw_truth(image, truth)
                samples.append(truth)
            (panels[name],) = inferencer.visualize([image], [pred])
            samples.append(pred)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    queries = [
        Query(
            where,
            {
                'mean of heads': heads.mean(0),
                **{f'head {i}': head for i, head in enumerate(heads, 1) if len(heads) > 1},
            },
            f'{number}: {name}' if len(args.point) > 1 else name,
        )
        for number, (where, *per_model) in enumerate(zip(args.point, *maps), 1)
        for name, heads in zip(names, per_model)
    ]
    draw_attention(image[..., ::-1], queries, args.out, panels, inferencer.legend(*samples))
    print(f'drawn: {args.out}')


if __name__ == '__main__':
    main()
