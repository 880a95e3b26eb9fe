"""Draw the non-local attention of a model at points of an image (Figures 1 and 2).

python tools/analysis_tools/visualize_attention.py CONFIG CHECKPOINT IMAGE \\
    --point 120,80 --point 300,200 --out attention.png

Each row shows a query, marked by a '+': its attention averaged over the heads, then that of
each head. With --config2 and --checkpoint2, a second row for each query shows the second
model. The first row has the predictions and, if given, the ground truth. With --mean, each
query has one row, with the average over the heads of each model.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from mmgcnl.analysis import (
    attention_at,
    draw_attention,
    head_queries,
    mean_queries,
    read_label_map,
)
from mmgcnl.analysis.explorer import Explorer, draw_view, read_view
from mmgcnl.apis import Inferencer, image_pipeline
from mmgcnl.datasets.pictures import find_reader
from mmgcnl.utils.cli import (
    add_cfg_options,
    add_device_argument,
    existing_file,
    file_name,
    model_names,
    read_config,
)


def point(text: str) -> tuple[float, float]:
    """Parse X,Y."""
    if not re.fullmatch(r'\d+(\.\d+)?,\d+(\.\d+)?', text):
        raise argparse.ArgumentTypeError(f'{text!r}: give X,Y in pixels, e.g. 120,80')
    x, y = text.split(',')
    return float(x), float(y)


def draw_saved_view(path: str, out: Path, device: str | None) -> None:
    """Draw what explore_attention.py has saved."""
    view = read_view(path)
    explorer = Explorer(view.models, [view.image], view.split, view.cfg_options, device)
    draw_view(explorer, view, out)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', nargs='?', type=existing_file, help='path of the config')
    parser.add_argument('checkpoint', nargs='?', help='path or URL of the checkpoint')
    parser.add_argument('image', nargs='?', type=existing_file, help='path of the image')
    parser.add_argument(
        '--view', type=existing_file, metavar='JSON', help='a saved view; no other input'
    )
    parser.add_argument(
        '--point',
        type=point,
        action='append',
        metavar='X,Y',
        help='a query, in pixels of the image; can be repeated',
    )
    parser.add_argument(
        '--config2', type=existing_file, help='config of a model to compare with'
    )
    parser.add_argument('--checkpoint2', help='checkpoint of that model')
    parser.add_argument(
        '--names', nargs='+', help='names of the models (the names of their configs)'
    )
    parser.add_argument(
        '--mean', action='store_true', help='leave out the maps of single heads'
    )
    parser.add_argument('--block', help='name of the block, if the model has several')
    parser.add_argument('--block2', help='name of the block of the second model')
    parser.add_argument(
        '--ground-truth',
        type=existing_file,
        metavar='PNG',
        help='label map of the image',
    )
    parser.add_argument(
        '--out',
        type=file_name('.png'),
        default=Path('attention.png'),
        metavar='PNG',
        help='the figure (attention.png)',
    )
    add_device_argument(parser)
    add_cfg_options(parser, ', of every model')
    args = parser.parse_args(argv)
    if args.view:
        if args.config or args.point:
            parser.error('--view: leave out CONFIG, CHECKPOINT, IMAGE and --point')
        try:
            draw_saved_view(args.view, args.out, args.device)
        except (OSError, RuntimeError, ValueError) as error:
            parser.error(str(error).replace('\n', ' '))
        print(f'drawn: {args.out}')
        return
    if not (args.image and args.point):
        parser.error('give CONFIG, CHECKPOINT, IMAGE and --point, or --view')
    if (args.config2 is None) != (args.checkpoint2 is None):
        parser.error('--config2 and --checkpoint2 go together')
    models = [(args.config, args.checkpoint, args.block)]
    if args.config2:
        models.append((args.config2, args.checkpoint2, args.block2))
    names = model_names(parser, args.names, [config for config, *_ in models])

    maps, panels, samples = [], {}, []
    try:
        for (config, checkpoint, block), name in zip(models, names):
            cfg = read_config(config, args.cfg_options)
            if not panels:
                picture = find_reader(image_pipeline(cfg).transforms).picture(args.image)
            inferencer = Inferencer(cfg, checkpoint, args.device)
            found, pred = attention_at(
                inferencer.model, inferencer.pipeline, args.image, args.point, block
            )
            maps.append(found)
            if args.ground_truth and not panels:
                truth = read_label_map(args.ground_truth, picture.shape[:2])
                panels['ground truth'] = inferencer.draw_truth(args.image, truth)
                samples.append(truth)
            (panels[name],) = inferencer.visualize([args.image], [pred])
            samples.append(pred)
    except (OSError, RuntimeError, ValueError) as error:
        parser.error(str(error).replace('\n', ' '))
    make_rows = mean_queries if args.mean else head_queries
    queries = make_rows(args.point, dict(zip(names, maps)))
    draw_attention(picture, queries, args.out, panels, inferencer.legend(*samples))
    print(f'drawn: {args.out}')


if __name__ == '__main__':
    main()
