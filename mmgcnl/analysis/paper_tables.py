"""The paper's tables as Markdown: printed figures, configs, and costs counted here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmengine.config import Config

from mmgcnl.evaluation.labels import COSTS, PAPER_METRICS, SCORED_ON_A_SERVER

from .complexity import measure_complexity

INTRO = """\
# The paper's tables

<!-- Written by tools/analysis_tools/make_results.py from configs/paper_tables.yml and
configs/paper_assumptions.yml. -->

Each row of each table of the paper's supplement, the figures that it prints, and the
config of the same experiment. **Accuracies, distances, memory and speed are the paper's:
no weights were trained for this page.** Parameters and FLOPs need no training; they are
counted here by

```shell
python tools/analysis_tools/get_flops.py CONFIG --shape H W --convention paper
```

The paper counted with the tools of its time (2020): only trainable parameters, 81 classes
for box regression and masks, transposed convolutions at the size of their output, 1000
regions for the box head and 100 for the masks, and nothing of what happens between the
layers of an attention. `--convention modern` counts as today's tools do. FLOPs are
multiply-adds for one image of the given size, height x width.

An asterisk marks a printed figure that cannot be right or that the model does not have; the
reason stands below the table.

Rows that share a config are one experiment: train it once. The segmentation configs are for
4 GPUs with 2 images each, the detection and panoptic configs for 8 GPUs with 2 images each.
With other numbers, training warns that the batch size has changed and names the remedies.

Figures 4 and 5 of the paper compare predictions with those of an FCN without a block, for
which no table has a row:
[fcn_r50-d8_4xb2-303k_ade20k-480x480](../configs/ade20k/fcn_r50-d8_4xb2-303k_ade20k-480x480.py)
and
[fcn_r50-d8_4xb2-89k_cityscapes-769x769](../configs/cityscapes/fcn_r50-d8_4xb2-89k_cityscapes-769x769.py).
"""
SERVERS = """\
## Evaluation servers

COCO test-dev and the Cityscapes test images have no public annotations. The commands in the
column *server files* predict them and write the files into the folder DIR.

- **COCO test-dev:** `detections_test-dev2017_NAME_results.bbox.json` and `.segm.json`.
  Boxes and masks are two submissions. Each is a zip archive of one file, whose name has
  neither `.bbox` nor `.segm`. In DIR:

  ```shell
  for kind in bbox segm; do
      for file in detections_*_results.$kind.json; do
          name=${file%.$kind.json}
          mkdir -p $kind
          cp $file $kind/$name.json
          (cd $kind && python3 -m zipfile -c $name.zip $name.json)
      done
  done
  ```

- **Cityscapes:** one PNG of label IDs (not train IDs) for each of the 1,525 test images,
  with the image's name. The server takes one zip archive of them. In DIR:

  ```shell
  python3 -m zipfile -c cityscapes.zip *.png
  ```

  It is not known to report the pixel accuracy; `tools/test.py` without `--submission` gives
  that of the validation images. The files need `pip install cityscapesscripts`.
"""
#: Labels and digits of all figures, by their keys.
FIGURES = {**COSTS, **PAPER_METRICS}
_NOT_PRINTED = ('row', 'config', 'dataset', 'shape', 'reproduced', 'misprint', 'note')
# A sentence of the introduction, and its replacement once a table was trained.
_NOT_TRAINED = """\
**Accuracies, distances, memory and speed are the paper's:
no weights were trained for this page.**"""
_TRAINED_IN_PART = """\
**Accuracies, distances, memory and speed are the paper's,
except below "Trained here".**"""


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


def render_results(
    tables: list[dict],
    assumptions: list[dict],
    base: str = '..',
    here: Mapping[str, str] = {},
) -> str:
    """Write all tables as one Markdown page.

    Args:
        tables: The content of configs/paper_tables.yml.
        assumptions: The content of configs/paper_assumptions.yml.
        base: The repository's root as seen from the page, for its links.
        here: For each table that was trained here, by its name: the paper's figures beside
            those that came out, in Markdown.
    """
    trained: dict[str, str] = {}
    sections = []
    for table in tables:
        lines = [*_render_table(table, trained, base)]
        if table['table'] in here:
            lines += ['', 'Trained here:', '', here[table['table']].strip()]
        sections.append('\n'.join(lines))
    sections.append('\n'.join(_render_assumptions(assumptions)))
    intro = INTRO.replace(_NOT_TRAINED, _TRAINED_IN_PART) if here else INTRO
    return '\n'.join([intro, *(f'{section}\n' for section in sections), SERVERS])


def table_title(table: dict) -> str:
    """Name a table of configs/paper_tables.yml as the paper does, such as 'Table 2a'."""
    name = table['table']
    return name.capitalize() if name.startswith('text') else f'Table {name}'


def _render_table(table: dict, trained: dict[str, str], base: str) -> Iterator[str]:
    title = table_title(table)
    yield f'## {title}: {table["title"]}'
    yield ''
    if 'dataset' in table:
        yield f'Data: {table["dataset"]}.'
        yield ''
    printed = [key for key in table['rows'][0] if key not in _NOT_PRINTED]
    for row in table['rows']:
        printed += [key for key in row if key not in (*_NOT_PRINTED, *printed)]
    on_a_server = [
        row.get('dataset', table.get('dataset')) in SCORED_ON_A_SERVER
        for row in table['rows']
    ]
    heads = ['row', 'config', *(FIGURES[key].label for key in printed), 'size']
    heads += ['params (M), here', 'FLOPs (G), here']
    yield f'| {" | ".join(heads + ["server files"] * any(on_a_server))} |'
    yield '|---|---|' + '---:|' * (len(heads) - 2) + '---|' * any(on_a_server)
    remarks = [table['note']] if 'note' in table else []
    for row, submitted in zip(table['rows'], on_a_server):
        config = Path(row['config'])
        link = f'[{config.stem}]({os.path.join(base, config)})'
        same = trained.setdefault(row['config'], f'{title}, {row["row"]}')
        if same != f'{title}, {row["row"]}':
            link += f'; same training as {same}'
        misprints = row.get('misprint', {})
        cells = [FIGURES[key].format_printed(row.get(key)) for key in printed]
        cells = [c + r' \*' * (key in misprints) for key, c in zip(printed, cells)]
        cells += ['x'.join(map(str, row['shape']))]
        cells += [
            COSTS[k].format_printed(row['reproduced'][k]) for k in ('params', 'flops')
        ]
        if submitted:
            cells += [f'`python tools/test.py {config} CHECKPOINT --submission DIR`']
        elif any(on_a_server):
            cells += ['']
        yield f'| {row["row"]} | {link} | {" | ".join(cells)} |'
        remarks += [
            f'\\* {row["row"]}, {FIGURES[key].label} '
            f'{FIGURES[key].format_printed(row[key])}: {why}; here '
            f'{FIGURES[key].format_printed(row["reproduced"][key])}.'
            for key, why in misprints.items()
        ]
        if 'note' in row:
            remarks.append(f'{row["row"]}: {row["note"]}')
    for remark in remarks:
        yield ''
        yield remark


def _render_assumptions(assumptions: list[dict]) -> Iterator[str]:
    yield '## Assumptions'
    yield ''
    yield 'What the paper does not say, and how the configs of these rows decide it.'
    yield ''
    yield '| what | here | why | tables |'
    yield '|---|---|---|---|'
    for entry in assumptions:
        cells = [entry['what'], entry['here'], entry['why'], ', '.join(entry['tables'])]
        yield f'| {" | ".join(cells)} |'
