"""configs/paper_tables.yml and paper_assumptions.yml against the configs at full size."""

import importlib.util
import re
import subprocess
import zipfile
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from mmgcnl.analysis.paper_tables import count_costs, render_results
from mmgcnl.studies import Record, append_records

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location(
    'make_results', ROOT / 'tools/analysis_tools/make_results.py'
)
make_results = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_results)

TABLES = {
    table['table']: table for table in yaml.safe_load(make_results.TABLES.read_text())
}
ROWS = [(name, row) for name, table in TABLES.items() for row in table['rows']]
ASSUMPTIONS = yaml.safe_load(make_results.ASSUMPTIONS.read_text())
counted = cache(lambda config, shape: count_costs(ROOT / config, shape))
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


def test_results_are_current():
    assert make_results.RESULTS.read_text() == make_results.render(), (
        'run tools/analysis_tools/make_results.py'
    )


def test_shared_configs_and_server_commands_are_said():
    lines = make_results.render().splitlines()
    table_8 = next(i for i, line in enumerate(lines) if line.startswith('## Table 8'))
    (row,) = (line for line in lines[table_8:] if line.startswith('| ebfpn |'))
    assert 'same training as Table 4, mask-rcnn+ebfpn' in row
    config = 'configs/ebfpn/mask-rcnn_r50_fpn_ebfpn_1x_coco.py'
    assert f'`python tools/test.py {config} CHECKPOINT --submission DIR`' in row


def test_figures_keep_the_digits_of_the_paper():
    page = make_results.render()
    assert '| 78.30 | 50.22 |' in page and '| 0.287 | 0.150 | 0.101 |' in page


def test_trained_rows_stand_beside_the_papers(tmp_path):
    assert make_results.trained_tables(tmp_path / 'none.csv') == {}
    common = dict(study='paper_tables', row='mask-rcnn_r50_fpn_1x_coco', seed=0)
    common |= dict(revision='a', versions='b', threads=1, attention='auto')
    records = [
        Record(metric=metric, value=value, settings='0' * 8, **common)
        for metric, value in (('coco/bbox_mAP', 0.375), ('train_seconds', 1.0))
    ]
    append_records(tmp_path / 'trained.csv', records)
    here = make_results.trained_tables(tmp_path / 'trained.csv')
    assert list(here) == ['4', '8']  # a config of two tables, trained once
    squeezed = re.sub(' +', ' ', here['4'])
    assert '| mask-rcnn | 1 | 37.1 | 37.5 | 34.1 | |' in squeezed
    assert 'measured on the validation images' in here['8']
    page = render_results(list(TABLES.values()), ASSUMPTIONS, here=here)
    assert page.count('Trained here:') == 2
    assert 'no weights were trained' not in page
    assert page.index(here['4'].strip()) < page.index('## Table 5')


def test_packing_for_the_servers(tmp_path):
    """The commands on the page make the archives that it describes."""
    stem = 'detections_test-dev2017_x_results'
    for kind in ('bbox', 'segm'):
        (tmp_path / f'{stem}.{kind}.json').write_text(kind)
    (tmp_path / 'a_leftImg8bit.png').touch()
    page = make_results.render().split('## Evaluation servers')[1]
    for block in re.findall(r'```shell\n(.*?)```', page, re.DOTALL):
        subprocess.run(['bash', '-euc', block], cwd=tmp_path, check=True)
    for kind in ('bbox', 'segm'):
        with zipfile.ZipFile(tmp_path / f'{kind}/{stem}.zip') as archive:
            assert archive.namelist() == [f'{stem}.json']
            assert archive.read(f'{stem}.json').decode() == kind
    with zipfile.ZipFile(tmp_path / 'cityscapes.zip') as archive:
        assert archive.namelist() == ['a_leftImg8bit.png']
