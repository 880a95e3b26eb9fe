"""The cosine distances of a run's model, at iteration 0 and trained.

Run as ``python -m mmgcnl.studies.distances CONFIG CHECKPOINT --json FILE``, in a process
of its own like training and testing. A model without non-local blocks has none.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mmengine.config import Config
from mmengine.fileio import dump

from mmgcnl.analysis import Split, find_blocks, measure_distances, set_norm_statistics
from mmgcnl.apis import image_pipeline, init_model
from mmgcnl.utils.cli import add_cfg_options, read_config

_KINDS = dict(cos_input='input', cos_output='output', cos_att='attention')


def measure_run(cfg: Config, checkpoint: str, number: int | None = None) -> dict[str, Any]:
    """Measure the first ``number`` test images (default: all).

    Returns:
        ``cos_input``, ``cos_output`` and ``cos_att`` (the paper's Tables 3 and 4), and the
        same of the model as it was initialised, with ``_initial`` appended to the names;
        its batch norm has the statistics of some training images. With several blocks,
        ``@`` and the name of the block follow; without any, the result is empty.

    Raises:
        ValueError: The checkpoint does not fit the config.
    """
    values: dict[str, float] = {}
    for when, weights in (('', checkpoint), ('_initial', None)):
        model = init_model(cfg, weights)
        try:
            find_blocks(model)
        except ValueError:
            return {}
        if weights is None:
            set_norm_statistics(model, cfg)
        split = Split(cfg, 'test', number)
        blocks = measure_distances(model, image_pipeline(cfg), split)['blocks']
        for name, block in blocks.items():
            place = f'@{name}' if len(blocks) > 1 else ''
            for short, kind in _KINDS.items():
                values[f'{short}{when}{place}'] = block[kind]['mean']
    return values


def main(argv: Sequence[str] | None = None) -> None:
    """Measure a run as the command line asks, and write the distances as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='path of the config')
    parser.add_argument('checkpoint', help='path of the trained weights')
    parser.add_argument('--json', required=True, metavar='FILE', help='is written')
    parser.add_argument('--num-images', type=int, metavar='N', help='default: all')
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    cfg = read_config(args.config, args.cfg_options)
    values = measure_run(cfg, args.checkpoint, args.num_images)
    dump(values, args.json, file_format='json')


if __name__ == '__main__':
    main()
