"""Evaluate a trained model without its priors, one after the other.

For each non-local block, ours or mmcv's: the metrics of the config's test data with the
context set to its mean, contexts swapped between images, position zeroed, offsets shuffled
and attention made uniform, and the drop from the model as it is. Nothing is trained.

python tools/analysis_tools/ablate_priors.py CONFIG CHECKPOINT
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.fileio import dump
from mmengine.logging import MMLogger

from mmgcnl.analysis import ABLATIONS, ablate_priors, find_blocks
from mmgcnl.apis import init_model
from mmgcnl.utils.cli import (
    add_cfg_options,
    add_device_argument,
    existing_file,
    read_config,
)
from mmgcnl.utils.libraries import needed_by

with needed_by('ablate_priors.py', 'prettytable'):
    from prettytable import PrettyTable


def show(report: dict) -> None:
    before = report['metrics']
    print('as it is: ' + ', '.join(f'{k} {v:.4g}' for k, v in before.items()))
    table = PrettyTable(['block', 'ablation', 'metric', 'value', 'drop'])
    table.align = 'r'
    for column in ('block', 'ablation', 'metric'):
        table.align[column] = 'l'
    for entry in report['ablations']:
        for name, value in entry['metrics'].items():
            drop = before.get(name, float('nan')) - value
            cells = [entry['block'], entry['ablation'], name, f'{value:.4g}', f'{drop:.4g}']
            table.add_row(cells)
    print(table)
    for name in dict.fromkeys(entry['ablation'] for entry in report['ablations']):
        print(f'{name}: {ABLATIONS[name]}')


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', type=existing_file, help='path of the config')
    parser.add_argument('checkpoint', help='path or URL of the trained weights')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write it there')
    add_device_argument(parser)
    add_cfg_options(parser, ', such as test_dataloader.dataset.indices=50')
    args = parser.parse_args(argv)
    MMLogger.get_current_instance().setLevel('WARNING')  # no table for each evaluation
    try:
        cfg = read_config(args.config, args.cfg_options)
        model = init_model(cfg, args.checkpoint, args.device)
        find_blocks(model)  # before the data is read
        report = ablate_priors(model, cfg)
    except (OSError, RuntimeError, ValueError) as error:
        parser.error(str(error).replace('\n', ' '))
    show(report)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        dump(report, args.json, file_format='json', indent=2)
        print(f'written: {args.json}')


if __name__ == '__main__':
    main()
