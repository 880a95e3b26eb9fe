"""The README of each config folder as Markdown: what, table, commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import yaml
from mmengine.config import Config

from .paper_tables import FIGURES, table_title

# Of the figures that the paper's tables print, those that go into the table of a folder.
_FIGURES = ('pixAcc', 'mIoU', 'bbox', 'segm', 'PQ', 'PQ_th', 'PQ_st')
_NOTICE = """\
<!-- Written by tools/analysis_tools/make_config_readmes.py from configs/readmes.yml,
configs/paper_tables.yml and the configs. -->
"""
_NOTE = """\
The accuracies are the paper's; no weights were trained for this table. Parameters and FLOPs
(multiply-adds for one image of the given size) are counted here.
[docs/results.md](../../docs/results.md) has all figures, remarks and assumptions.
"""
_NAMING = """\
## Names

A name says, in this order, the model and what it has in the place of the paper's block,
the backbone, the neck, the schedule, the data set and the image size:

- `gcnl` is the block of this project, `nl` a plain non-local block, `nl-context` and the
  like the ablations between them, `fcn` a network without a block. `ebfpn` and `bfpn` are
  the necks.
- `r50-d8` is a ResNet-50 with output stride 8, `r50_fpn` one with an FPN.
- `4xb2-50k` is 50,000 iterations on 4 GPUs with 2 images each. `1x` and `3x` are 12 and 36
  epochs on 8 GPUs with 2 images each.

The learning rate of a config is for that total batch size. With another one, training
warns and names the remedies, among them `--auto-scale-lr`.

Other projects inherit a config by `_base_ = 'mmgcnl::FOLDER/NAME.py'` after
`import mmgcnl`.
"""


def render_readmes(root: Path) -> dict[Path, str]:
    """Write the README of configs/ and of each of its folders.

    Args:
        root: The repository's root.

    Returns:
        The content of each file, by its path.
    """
    configs = root / 'configs'
    folders = yaml.safe_load((configs / 'readmes.yml').read_text())
    tables = yaml.safe_load((configs / 'paper_tables.yml').read_text())
    pages = {configs / 'README.md': _render_index(configs, folders)}
    for entry in folders:
        page = '\n'.join(_render_folder(configs, entry, tables))
        pages[configs / entry['folder'] / 'README.md'] = page
    return pages


def _render_index(configs: Path, folders: list[dict]) -> str:
    lines = ['# Configs', '', _NOTICE]
    lines += ['| folder | what | configs |', '|---|---|---:|']
    for entry in folders:
        count = len(list((configs / entry['folder']).glob('*.py')))
        link = f'[{entry["folder"]}]({entry["folder"]}/README.md)'
        lines.append(f'| {link} | {entry["title"]} | {count} |')
    return '\n'.join([*lines, '', _NAMING])


def _render_folder(configs: Path, entry: dict, tables: list[dict]) -> Iterator[str]:
    folder = configs / entry['folder']
    rows = [
        (table, row)
        for table in tables
        for row in table['rows']
        if Path(row['config']).parent.name == folder.name
    ]
    yield f'# {entry["title"]}'
    yield ''
    yield _NOTICE
    yield _link_pages(entry['text'])
    links = [f'[{name}](../../docs/data.md#{at})' for name, at in entry['data'].items()]
    yield f'Data: {", ".join(links)}.'
    yield ''
    yield from _render_table(folder, rows)
    yield ''
    if rows:
        yield _NOTE
    yield from _render_commands(folder, entry['example'])


def _render_table(folder: Path, rows: list[tuple[dict, dict]]) -> Iterator[str]:
    heads = ['config', 'GPUs x images', 'schedule']
    if rows:
        heads += ['paper', 'size', 'params (M)', 'FLOPs (G)']
    yield f'| {" | ".join(heads)} |'
    yield '|---' * 3 + ('|---|---:|---:|---:' if rows else '') + '|'
    for path in sorted(folder.glob('*.py')):
        gpus, batch, schedule = describe_training(Config.fromfile(path))
        cells = [f'[{path.stem}]({path.name})', f'{gpus} x {batch}', schedule]
        found = [(table, row) for table, row in rows if Path(row['config']) == _short(path)]
        if found:
            row = found[0][1]
            printed = [_figures(table, row) for table, row in found]
            cells += ['<br>'.join(dict.fromkeys(filter(None, printed)))]
            cells += ['x'.join(map(str, row['shape']))]
            cells += [
                FIGURES[k].format_printed(row['reproduced'][k]) for k in ('params', 'flops')
            ]
        elif rows:
            cells += [''] * 4
        yield f'| {" | ".join(cells)} |'


def describe_training(cfg: Config) -> tuple[int, int, str]:
    """Read the number of GPUs, the images on each and the length of a config's training."""
    batch = cfg.train_dataloader.batch_size
    gpus = cfg.auto_scale_lr.base_batch_size // batch
    if 'max_epochs' in cfg.train_cfg:
        return gpus, batch, f'{cfg.train_cfg.max_epochs} epochs'
    return gpus, batch, f'{cfg.train_cfg.max_iters:,} iterations'


def _figures(table: dict, row: dict) -> str:
    figures = [
        f'{FIGURES[key].label} {FIGURES[key].format_printed(row[key])}'
        for key in _FIGURES
        if key in row
    ]
    dataset = row.get('dataset', table.get('dataset'))
    return f'{table_title(table)}, {dataset}: {", ".join(figures)}' if figures else ''


def _render_commands(folder: Path, example: str) -> Iterator[str]:
    config = _short(folder / f'{example}.py')
    gpus, batch, length = describe_training(Config.fromfile(folder / f'{example}.py'))
    checkpoint = f'work_dirs/{example}/CHECKPOINT.pth'
    yield '## Train and test'
    yield ''
    yield '```shell'
    yield f'python tools/check_data.py {config}'
    if gpus > 1:
        yield f'bash tools/dist_train.sh {config} {gpus}'
        yield f'bash tools/dist_test.sh {config} {checkpoint} {gpus}'
    else:
        yield f'python tools/train.py {config}'
        yield f'python tools/test.py {config} {checkpoint}'
    yield '```'
    yield ''
    if gpus > 1:
        yield f'On one GPU, with {batch} images and the learning rate scaled to that:'
        yield ''
        yield '```shell'
        yield f'python tools/train.py {config} --auto-scale-lr'
        yield '```'
        yield ''
        if length.endswith('iterations'):
            yield f'These {length} read 1/{gpus} of the images that {gpus} GPUs read.'
            yield ''
    yield '[docs/train.md](../../docs/train.md) has the other options.'
    yield ''


def _link_pages(text: str) -> str:
    return re.sub(r'docs/(\w+)\.md', r'[\g<0>](../../\g<0>)', text)


def _short(path: Path) -> Path:
    """configs/FOLDER/NAME.py"""
    return Path('configs', path.parent.name, path.name)
