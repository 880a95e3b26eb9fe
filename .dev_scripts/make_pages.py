"""Write the pages and the model index that are made from configs and tables.

python .dev_scripts/make_pages.py [--count]

- docs/results.md: configs/paper_tables.yml and configs/paper_assumptions.yml. Rows of which
  docs/evidence/paper_tables.csv has results (see configs/studies/README.md) are shown
  beside the paper's.
- configs/README.md and the README of each folder: configs/readmes.yml, the configs, and the
  figures of configs/paper_tables.yml.
- model-index.yml and the metafile.yml of each folder, for mim: the same.

The text is in .dev_scripts/templates.
"""

import argparse
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from mmengine.config import Config
from mmengine.utils import track_iter_progress

from mmgcnl.analysis.complexity import measure_complexity
from mmgcnl.evaluation.metric_labels import COSTS, PAPER_METRICS
from mmgcnl.studies import Results, read_records, read_study, render_table

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / 'configs'
TABLES = CONFIGS / 'paper_tables.yml'
ASSUMPTIONS = CONFIGS / 'paper_assumptions.yml'
RESULTS = ROOT / 'docs/results.md'
#: Where the results of `tools/study.py run configs/paper_tables.yml --csv ...` belong.
TRAINED = ROOT / 'docs/evidence/paper_tables.csv'

#: What the rows of the tables have besides figures.
NO_FIGURES = ('row', 'config', 'dataset', 'shape', 'reproduced', 'misprint', 'note')
SEGMENTATION = {'1', 'text 2.1.2', '2a', '2b', '2c', '3'}
#: Of the figures, those in the README of a folder.
ACCURACIES = ('pixAcc', 'mIoU', 'bbox', 'segm', 'PQ', 'PQ_th', 'PQ_st')
METRICS = {**COSTS, **PAPER_METRICS}
#: Figures of a model that are counted here; the paper prints them, too.
COUNTED = ('params', 'flops')
INDEX_NOTICE = (
    '# Written by .dev_scripts/make_pages.py from configs/readmes.yml and the configs.\n'
)
METAFILE_NOTICE = INDEX_NOTICE + '# No Weights: none are published.\n'


def render_pages() -> dict[Path, str]:
    """Render all files, by their paths."""
    folders = yaml.safe_load((CONFIGS / 'readmes.yml').read_text())
    pages = {RESULTS: render_results(trained_tables())}
    counts = {entry['folder']: len(_configs(entry['folder'])) for entry in folders}
    pages[CONFIGS / 'README.md'] = _render('configs.md', folders=folders, counts=counts)
    for entry in folders:
        folder = CONFIGS / entry['folder']
        pages[folder / 'README.md'] = _render_readme(entry)
        pages[folder / 'metafile.yml'] = METAFILE_NOTICE + _dump(_metafile(entry))
    metafiles = sorted(f'configs/{entry["folder"]}/metafile.yml' for entry in folders)
    pages[ROOT / 'model-index.yml'] = INDEX_NOTICE + _dump(dict(Import=metafiles))
    return pages


def render_results(here: Mapping[str, str]) -> str:
    """Render docs/results.md.

    Args:
        here: For each table that was trained here, by its name: the paper's figures beside
            those that came out, in Markdown.
    """
    for table in (tables := read_tables()):
        for row in table['rows']:
            row['size'] = 'x'.join(map(str, row['shape']))
        keys = (key for row in table['rows'] for key in row if key in METRICS)
        table['figures'] = [key for key in dict.fromkeys(keys) if key not in COUNTED]
        # What all rows cost alike is said once.
        counts = [row['reproduced'] for row in table['rows']]
        table['counted'] = [k for k in COUNTED if len({count[k] for count in counts}) > 1]
        table['misprints'] = misprints = {}
        for row in table['rows']:
            for why in row.get('misprint', {}).items():
                misprints.setdefault(why, []).append(row)
    assumptions: dict[str, list[dict]] = {}
    for entry in yaml.safe_load(ASSUMPTIONS.read_text()):
        if SEGMENTATION.issuperset(entry['tables']):
            where = 'Segmentation: Tables 1 to 3'
        elif SEGMENTATION.isdisjoint(entry['tables']):
            where = 'Detection and panoptic segmentation: Tables 4 to 8'
        else:
            where = 'All tables'
        assumptions.setdefault(where, []).append(entry)
    return _render('results.md', tables=tables, assumptions=assumptions, here=here)


def trained_tables(csv: Path = TRAINED) -> dict[str, str]:
    """The tables that tools/study.py has trained rows of, with the paper's figures."""
    if not csv.exists():
        return {}
    study = read_study(TABLES, ROOT)
    records, broken = read_records(csv)
    if broken:
        raise ValueError('; '.join(broken))
    results = Results(study, records)
    rows = {row for row, _ in results.runs}
    return {
        table.name: render_table(results, table.name, heading=False)
        for table in study.tables
        if table.metrics and rows & {row.row for row in table.rows}
    }


def _render_readme(entry: dict) -> str:
    tables = read_tables()
    configs = []
    for path in _configs(entry['folder']):
        rows = [(t, r) for t in tables for r in t['rows'] if ROOT / r['config'] == path]
        printed = [_accuracies(table, row) for table, row in rows]
        configs.append(
            dict(
                **describe_training(path),
                row=rows[0][1] if rows else None,
                printed='<br>'.join(dict.fromkeys(filter(None, printed))),
            )
        )
    (example,) = (config for config in configs if config['name'] == entry['example'])
    content = {
        **entry,
        'text': re.sub(r'docs/\w+\.md', r'[\g<0>](../../\g<0>)', entry['text']),
        'configs': configs,
        'example': example,
        'has_rows': any(config['row'] for config in configs),
    }
    return _render('config_folder.md', **content)


def _metafile(entry: dict) -> dict:
    folder, datasets = entry['folder'], list(entry['training_data'].values())
    return dict(
        Collections=[
            {
                'Name': entry['collection'],
                'License': 'Apache License 2.0',
                'Metadata': {
                    'Training Data': datasets if len(datasets) > 1 else datasets[0]
                },
                'Paper': {
                    'Title': 'Global Context and Geometric Priors for Effective Non-Local '
                    'Self-Attention'
                },
                'README': f'configs/{folder}/README.md',
                'Code': entry['code'],
            }
        ],
        Models=[_model(entry, path) for path in _configs(folder)],
    )


def _model(entry: dict, path: Path) -> dict:
    training = describe_training(path)
    (dataset,) = (
        name for part, name in entry['training_data'].items() if part in path.stem
    )
    return {
        'Name': path.stem,
        'In Collection': entry['collection'],
        'Config': training['path'],
        'Metadata': {
            'Training Data': dataset,
            'Batch Size': training['gpus'] * training['batch'],
            training['unit'].capitalize(): training['length'],
        },
    }


@cache
def describe_training(path: Path) -> dict:
    """Read the GPUs, the images on each, and the length of a config's training."""
    cfg = Config.fromfile(path)
    batch = cfg.train_dataloader.batch_size
    unit = 'epochs' if 'max_epochs' in cfg.train_cfg else 'iterations'
    return dict(
        path=str(path.relative_to(ROOT)),
        name=path.stem,
        gpus=cfg.auto_scale_lr.base_batch_size // batch,
        batch=batch,
        length=cfg.train_cfg['max_epochs' if unit == 'epochs' else 'max_iters'],
        unit=unit,
    )


def read_tables() -> list[dict]:
    return yaml.safe_load(TABLES.read_text())


def table_title(table: dict) -> str:
    """Name a table as the paper does, such as 'Table 2a'."""
    name = table['table']
    return name.capitalize() if name.startswith('text') else f'Table {name}'


def format_figure(row: dict, key: str) -> str:
    return METRICS[key].format_printed(row.get(key))


def _accuracies(table: dict, row: dict) -> str:
    figures = [
        f'{METRICS[key].label} {format_figure(row, key)}'
        for key in ACCURACIES
        if key in row
    ]
    if not figures:
        return ''
    return f'{table_title(table)}, {_dataset(table, row)}: {", ".join(figures)}'


def _dataset(table: dict, row: dict) -> str | None:
    return row.get('dataset', table.get('dataset'))


def _configs(folder: str) -> list[Path]:
    return sorted((CONFIGS / folder).glob('*.py'))


def _render(template: str, **content: Any) -> str:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name('templates')),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.globals |= dict(
        figure=format_figure,
        label=lambda key: METRICS[key].label,
        title=table_title,
        counted=COUNTED,
    )
    return templates.get_template(template).render(content)


def _dump(content: dict) -> str:
    return yaml.safe_dump(content, sort_keys=False, width=100)


def count_costs(config: Path, shape: tuple[int, int]) -> dict[str, str]:
    """Count a config as the paper counted.

    Args:
        config: Path of the config.
        shape: Height and width of the image.

    Returns:
        ``params`` in millions and ``flops`` in 10^9 multiply-adds, with two decimals.
    """
    cost = measure_complexity(Config.fromfile(config), shape, 'paper')
    return dict(params=f'{cost.params / 1e6:.2f}', flops=f'{cost.flops / 1e9:.2f}')


def count_all() -> None:
    """Update the counted figures in the table file, line by line."""
    rows = [row for table in read_tables() for row in table['rows']]
    counted = (
        count_costs(ROOT / row['config'], tuple(row['shape']))
        for row in track_iter_progress(rows)
    )
    text = re.sub(
        r'(?<=reproduced: ){.*}',
        lambda _: '{{params: {params}, flops: {flops}}}'.format(**next(counted)),
        TABLES.read_text(),
    )
    TABLES.write_text(text)
    print()


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--count',
        action='store_true',
        help="first count parameters and FLOPs of every row's config again, and write "
        'them into configs/paper_tables.yml',
    )
    args = parser.parse_args(argv)
    if args.count:
        warnings.filterwarnings('ignore', module='mmseg')
        count_all()
    for path, content in render_pages().items():
        if not path.exists() or path.read_text() != content:
            path.write_text(content)
            print(f'written: {path}')


if __name__ == '__main__':
    main()
