"""Count parameters and multiply-adds of a config's model.

python tools/analysis_tools/get_flops.py CONFIG [--shape H W] [--convention modern|paper]

modern: mmcv's counter as it stands, and all parameters.
paper: what the paper's tables count. Only trainable parameters; an 81st class for box
       regression and masks; transposed convolutions at the size of their output; of a
       panoptic network the detector alone.
Of the detectors' heads, boxes are counted on 1000 regions and masks on 100.
"""

import argparse
import contextlib
import json
import sys
import warnings
from collections.abc import Sequence

from mmengine.config import Config, DictAction

with contextlib.redirect_stdout(sys.stderr):  # the libraries print on import
    from mmgcnl.analysis.complexity import CONVENTIONS, measure_complexity
    from mmgcnl.engine import check_file


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='path of the config')
    parser.add_argument(
        '--shape',
        nargs=2,
        type=int,
        default=[800, 1280],
        metavar=('H', 'W'),
        help='height and width of the image (800 1280)',
    )
    parser.add_argument('--convention', choices=CONVENTIONS, default='modern')
    parser.add_argument('--json', action='store_true', help='print JSON, exact numbers')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, metavar='KEY=VALUE'
    )
    args = parser.parse_args(argv)
    if min(args.shape) < 1:
        parser.error(f'--shape: height and width are 1 or more, not {args.shape}')
    check_file(parser, 'config', args.config)
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options)
    warnings.filterwarnings('ignore', module='mmseg')
    try:
        cost = measure_complexity(cfg, tuple(args.shape), args.convention)
    except ValueError as error:
        parser.error(f'{args.config}: {error}')
    if args.json:
        about = dict(config=args.config, shape=args.shape, convention=args.convention)
        print(json.dumps({**about, **cost._asdict()}))
        return
    height, width = args.shape
    print(f'{args.config}, {height}x{width}, convention: {args.convention}')
    print(f'params     {cost.params / 1e6:8.2f} M')
    print(f'flops      {cost.flops / 1e9:8.2f} G  multiply-adds of the layers')
    print(
        f'attention  {cost.attention_flops / 1e9:8.2f} G  multiply-adds between the '
        "attention's layers, which counters of modules do not see: not in flops"
    )


if __name__ == '__main__':
    main()
