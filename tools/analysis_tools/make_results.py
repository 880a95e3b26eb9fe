"""Write docs/results.md from configs/paper_tables.yml.

python tools/analysis_tools/make_results.py [--count]

--count first counts parameters and FLOPs of every row's config anew, and writes what it
finds into configs/paper_tables.yml.
"""

import argparse
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from mmengine.config import Config
from mmengine.utils import track_iter_progress

from mmgcnl.analysis.complexity import measure_complexity

ROOT = Path(__file__).resolve().parents[2]
TABLES = ROOT / 'configs/paper_tables.yml'
RESULTS = ROOT / 'docs/results.md'
INTRO = """\
# The paper's tables

<!-- Written by tools/analysis_tools/make_results.py from configs/paper_tables.yml. -->

Each row of each table of the paper's supplement, the figures that it prints, and the
config that is the same experiment. **The accuracies, distances, memory and speed are the
paper's: no weights were trained for this page.** What is counted here is what needs no
training: parameters and FLOPs, by

```shell
python tools/analysis_tools/get_flops.py CONFIG --shape H W --convention paper
```

The paper counted with the tools of its time (2020): only trainable parameters, 81 classes
for box regression and masks, transposed convolutions at the size of their output, 1000
regions for the box head and 100 for the masks, and nothing of what happens between the
layers of an attention. `--convention modern` counts today's way. FLOPs are multiply-adds
for one image of the given size, height x width.

A printed figure with an asterisk cannot be right or is not what the model has; the reason
stands below the table.
"""
NAMES = dict(
    params='params (M)',
    flops='FLOPs (G)',
    bbox='box AP',
    segm='mask AP',
    bbox_50='box AP50',
    segm_50='mask AP50',
    bbox_75='box AP75',
    segm_75='mask AP75',
    PQ_th='PQ things',
    PQ_st='PQ stuff',
    cos_input='dist. input',
    cos_output='dist. output',
    cos_att='dist. attention',
    memory_gb='memory (GB)',
)
NOT_PRINTED = ('row', 'config', 'dataset', 'shape', 'reproduced', 'misprint', 'note')


def count(row: dict) -> dict[str, str]:
    """Parameters (M) and FLOPs (G) of a row's config, with the paper's two decimals."""
    cfg = Config.fromfile(ROOT / row['config'])
    cost = measure_complexity(cfg, tuple(row['shape']), 'paper')
    return dict(params=f'{cost.params / 1e6:.2f}', flops=f'{cost.flops / 1e9:.2f}')


def count_all() -> None:
    """Bring the reproduced figures in the table file up to date, line by line."""
    rows = [row for table in read_tables() for row in table['rows']]
    counted = map(count, track_iter_progress(rows))
    text = re.sub(
        r'(?<=reproduced: ){.*}',
        lambda _: '{{params: {params}, flops: {flops}}}'.format(**next(counted)),
        TABLES.read_text(),
    )
    TABLES.write_text(text)
    print()


def read_tables() -> list[dict]:
    return yaml.safe_load(TABLES.read_text())


def render(tables: list[dict]) -> str:
    return INTRO + ''.join('\n' + '\n'.join(_render_table(t)) + '\n' for t in tables)


def _render_table(table: dict) -> Iterator[str]:
    name = table['table']
    title = name.capitalize() if name.startswith('text') else f'Table {name}'
    yield f'## {title}: {table["title"]}'
    yield ''
    if 'dataset' in table:
        yield f'Data: {table["dataset"]}.'
        yield ''
    printed = [key for key in table['rows'][0] if key not in NOT_PRINTED]
    for row in table['rows']:
        printed += [key for key in row if key not in (*NOT_PRINTED, *printed)]
    heads = ['row', 'config', *(NAMES.get(key, key) for key in printed), 'size']
    heads += ['params (M), here', 'FLOPs (G), here']
    yield f'| {" | ".join(heads)} |'
    yield '|---|---|' + '---:|' * (len(heads) - 2)
    remarks = [table['note']] if 'note' in table else []
    for row in table['rows']:
        config = Path(row['config'])
        link = f'[{config.stem}]({os.path.relpath(ROOT / config, RESULTS.parent)})'
        misprints = row.get('misprint', {})
        cells = [_format(key, row.get(key)) for key in printed]
        cells = [c + r' \*' * (key in misprints) for key, c in zip(printed, cells)]
        cells += ['x'.join(map(str, row['shape']))]
        cells += [_format(key, row['reproduced'][key]) for key in ('params', 'flops')]
        yield f'| {row["row"]} | {link} | {" | ".join(cells)} |'
        remarks += [
            f'\\* {row["row"]}, {NAMES[key]} {_format(key, row[key])}: {why}; here '
            f'{_format(key, row["reproduced"][key])}.'
            for key, why in misprints.items()
        ]
        if 'note' in row:
            remarks.append(f'{row["row"]}: {row["note"]}')
    for remark in remarks:
        yield ''
        yield remark


def _format(key: str, value: float | None) -> str:
    if value is None:
        return ''
    return f'{value:.2f}' if key in ('params', 'flops') else str(value)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--count', action='store_true', help='count every row anew')
    args = parser.parse_args(argv)
    if args.count:
        warnings.filterwarnings('ignore', module='mmseg')
        count_all()
    RESULTS.write_text(render(read_tables()))
    print(f'written: {RESULTS}')


if __name__ == '__main__':
    main()
