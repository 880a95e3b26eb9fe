"""configs/paper_tables.yml: the paper's figures, and what the configs cost at full size."""

import importlib.util
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location(
    'make_results', ROOT / 'tools/analysis_tools/make_results.py'
)
make_results = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_results)

TABLES = {table['table']: table for table in make_results.read_tables()}
ROWS = [(name, row) for name, table in TABLES.items() for row in table['rows']]
counted = cache(lambda config, shape: make_results.count(dict(config=config, shape=shape)))


@pytest.mark.parametrize(
    'table, row', ROWS, ids=lambda x: x['row'] if isinstance(x, dict) else x
)
def test_costs(table, row):
    """Builds at full size, and costs what the table file and the paper say."""
    cost = counted(row['config'], tuple(row['shape']))
    for key in ('params', 'flops'):
        assert f'{row["reproduced"][key]:.2f}' == cost[key]
        if key in row:
            printed = f'{row[key]:.2f}'
            assert (printed != cost[key]) == (key in row.get('misprint', {}))


def test_table_7_differences():
    base, *others = TABLES['7']['rows']
    for row in others:
        for key in ('params', 'flops'):
            printed = row[key] - base[key]
            ours = row['reproduced'][key] - base['reproduced'][key]
            assert f'{ours:.2f}' == f'{printed:.2f}'


def test_every_printed_figure_is_there():
    path = ROOT.parent / 'shared/paper/tables.yml'
    if not path.is_file():
        pytest.skip(f"no list of the paper's figures in {path}")
    printed = yaml.safe_load(path.read_text())
    assert [table['table'] for table in printed] == list(TABLES)
    for table in printed:
        ours = TABLES[table['table']]
        assert ours.get('dataset') == table.get('dataset')
        for row, ours_row in zip(table['rows'], ours['rows'], strict=True):
            assert row.items() <= ours_row.items()


def test_results_are_current():
    assert make_results.RESULTS.read_text() == make_results.render(
        make_results.read_tables()
    ), 'run tools/analysis_tools/make_results.py'
