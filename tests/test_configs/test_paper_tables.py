"""configs/paper_tables.yml and paper_assumptions.yml against the configs at full size."""

from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from tests.builders import ROOT, load_tool

make_pages = load_tool('../.dev_scripts/make_pages')
TABLES = {table['table']: table for table in make_pages.read_tables()}
ROWS = [(name, row) for name, table in TABLES.items() for row in table['rows']]
ASSUMPTIONS = yaml.safe_load(make_pages.ASSUMPTIONS.read_text())
counted = cache(lambda config, shape: make_pages.count_costs(ROOT / config, shape))
read_config = cache(lambda config: Config.fromfile(ROOT / config))


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


@pytest.mark.parametrize('entry', ASSUMPTIONS, ids=lambda entry: entry['what'])
def test_assumptions_hold(entry):
    """The configs of the named tables have the settings that an entry promises."""
    configs = {row['config'] for name in entry['tables'] for row in TABLES[name]['rows']}
    patterns = entry.get('only', ['*'])
    configs = {c for c in configs if any(fnmatch(Path(c).name, p) for p in patterns)}
    assert configs
    for config in configs:
        for key, value in entry.get('options', {}).items():
            found = read_config(config)
            for part in key.split('.'):
                found = found[int(part) if isinstance(found, list) else part]
            found = list(found) if isinstance(found, tuple) else found
            assert found == value, f'{config}: {key}'
