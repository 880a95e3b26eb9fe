"""Convert a trained model with plain non-local blocks into one with GCNonLocal2d.

python tools/model_converters/nonlocal_to_gcnl.py SOURCE_CONFIG SOURCE_CHECKPOINT CONFIG OUT

The source has mmcv's NonLocal2d: in mmdet's BFP (Libra R-CNN), in mmseg's NLHead (NLNet),
or as a plugin of a ResNet. CONFIG is the same model with GCNonLocal2d in their places and
its priors switched on. The priors start without effect, so that both models have the same
outputs; the largest difference is measured and printed. Then train with load_from=OUT.

For equal outputs the block needs num_heads=1, kv_stride=1, and the reduction, norm and
scale of the source:

  BFP     dict(type='EBFPN', in_channels=256, num_levels=5, refine_level=2,
               refine=dict(type='GCNonLocal2d', reduction=1, num_heads=1, scale=1.0))
  NLHead  dict(type='GCNLHead', ..., block=dict(num_heads=1))

Exit code 2: wrong input, or a config whose outputs would differ.
"""

import argparse
import warnings
from collections.abc import Sequence

import torch
from mmengine.config import Config

from mmgcnl import __version__
from mmgcnl.utils.cli import existing_file, file_name

SHAPES = [(128, 128), (96, 160)]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'source_config', type=existing_file, help='config of the trained model'
    )
    parser.add_argument('source_checkpoint', help='path or URL of its checkpoint')
    parser.add_argument(
        'config', type=existing_file, help='config of the model to fine-tune'
    )
    parser.add_argument('out', type=file_name('.pth'), help='the new checkpoint')
    parser.add_argument(
        '--allow-difference',
        action='store_true',
        help='also convert into a model whose outputs differ: with several heads, a '
        'kv_stride, or another scale',
    )
    args = parser.parse_args(argv)
    warnings.filterwarnings('ignore', module='mmseg')  # advice on training

    from mmgcnl.apis import build_model, init_model
    from mmgcnl.deployment import TOLERANCE, convert_state_dict, largest_difference

    try:
        source = init_model(args.source_config, args.source_checkpoint, 'cpu')
        target = build_model(Config.fromfile(args.config)).eval()
        state, pairs, reasons = convert_state_dict(source, target)
        target.load_state_dict(state)
        difference = largest_difference(source, target, SHAPES)
    except (OSError, ValueError) as error:
        parser.error(f'{args.source_checkpoint} to {args.config}: {error}')
    for theirs, ours in pairs.items():
        print(f'{theirs} -> {ours}')
    for reason in reasons:
        print(f'cannot be the same: {reason}')
    print(f'largest difference of the outputs: {difference:.1e} of the largest value')
    if not difference <= TOLERANCE and not reasons:
        reasons = ['something other than the blocks is not the same in the two configs']
    if reasons and not args.allow_difference:
        parser.error(
            f'{args.config} would not start with the same outputs: {"; ".join(reasons)}; '
            'to convert it nevertheless, add --allow-difference'
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    meta = dict(
        dataset_meta=source.dataset_meta,
        mmgcnl_version=__version__,
        converted_from=str(args.source_checkpoint),
    )
    torch.save(dict(meta=meta, state_dict=target.state_dict()), args.out)
    print(f'wrote {args.out}; train with --cfg-options load_from={args.out}')


if __name__ == '__main__':
    main()
