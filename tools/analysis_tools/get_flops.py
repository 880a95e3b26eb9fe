"""Count parameters and multiply-adds of a config's model.

python tools/analysis_tools/get_flops.py CONFIG [--shape H W] [--convention modern|paper]

modern: mmcv's counter, unchanged, and all parameters.
paper: what the paper's tables count. Only trainable parameters; an 81st class for box
       regression and masks; transposed convolutions at the size of their output; of a
       panoptic network only the detector.
The box heads of a detector are counted for 1000 regions, the mask heads for 100.
"""

import argparse
import contextlib
import json
import sys
import warnings
from collections.abc import Sequence

with contextlib.redirect_stdout(sys.stderr):  # the libraries print on import
    from mmgcnl.analysis.complexity import CONVENTIONS, measure_complexity
    from mmgcnl.utils.cli import (
        add_cfg_options,
        add_size_argument,
        existing_file,
        read_config,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=existing_file, help='path of the config')
    add_size_argument(parser, default=[800, 1280], help='size of the image (800 1280)')
    parser.add_argument('--convention', choices=CONVENTIONS, default='modern')
    parser.add_argument('--json', action='store_true', help='print JSON, exact numbers')
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    warnings.filterwarnings('ignore', module='mmseg')
    try:
        cfg = read_config(args.config, args.cfg_options)
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
