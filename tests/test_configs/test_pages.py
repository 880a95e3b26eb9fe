"""The pages and the model index that are made from configs and tables."""

import re
import subprocess
import zipfile

import pytest
import yaml

from mmgcnl.studies import Record, append_records
from tests.builders import ROOT, load_tool

make_pages = load_tool('../.dev_scripts/make_pages')


@pytest.fixture(scope='module')
def pages():
    return make_pages.render_pages()


@pytest.fixture(scope='module')
def results(pages):
    return pages[make_pages.RESULTS]


def test_are_current(pages):
    for path, content in pages.items():
        assert path.read_text() == content, f'{path}: run .dev_scripts/make_pages.py'


def test_every_config_has_a_row_and_is_in_the_index(pages):
    index = yaml.safe_load(pages[ROOT / 'model-index.yml'])['Import']
    models = [m for path in index for m in yaml.safe_load(pages[ROOT / path])['Models']]
    configs = sorted((ROOT / 'configs').glob('[!_]*/*.py'))
    assert sorted(ROOT / model['Config'] for model in models) == configs
    for path in configs:
        assert f'| [{path.stem}]({path.name}) |' in pages[path.parent / 'README.md']


def test_collections_name_files_that_exist(pages):
    for path in (path for path in pages if path.name == 'metafile.yml'):
        (collection,) = yaml.safe_load(pages[path])['Collections']
        for key in ('README', 'Code'):
            assert (ROOT / collection[key]).is_file()


@pytest.mark.parametrize(
    'config, expected',
    [
        ('pascal_context/nl_r50-d8_4xb2-50k_pascal-context-59-480x480', (4, 2, 50000)),
        ('camvid/gcnl_r50-d8_1xb8-20k_camvid-360x480', (1, 8, 20000)),
        ('ebfpn/mask-rcnn_r50_fpn_ebfpn_3x_coco', (8, 2, 36)),
    ],
)
def test_training_is_read_from_the_config(config, expected):
    training = make_pages.describe_training(ROOT / f'configs/{config}.py')
    assert (training['gpus'], training['batch'], training['length']) == expected
    assert training['unit'] == ('epochs' if expected[2] == 36 else 'iterations')


def test_figures_in_a_folder_are_those_of_the_tables(pages):
    page = pages[ROOT / 'configs/ebfpn/README.md']
    (row,) = (line for line in page.splitlines() if '[mask-rcnn_r50_fpn_1x_coco]' in line)
    assert 'Table 4, coco_val2017: box AP 37.1, mask AP 34.1' in row
    assert 'Table 8, coco_test_dev: box AP 37.2, mask AP 34.1' in row
    assert row.endswith('| 800x1280 | 44.18 | 275.58 |')


def test_printed_costs_that_differ_are_said(results):
    table_8 = results.split('## Table 8')[1]
    (row,) = (line for line in table_8.splitlines() if line.startswith('| bfpn se |'))
    assert row.endswith('| 44.18 \\* | 275.58 \\* |')
    assert 'bfpn se, params (M): the paper prints 44.44; repeats' in table_8


def test_figures_keep_the_digits_of_the_paper(results):
    assert '| 78.30 | 50.22 |' in results
    assert '| 0.287 | 0.150 | 0.101 |' in results


def test_trained_rows_stand_beside_the_papers(tmp_path):
    assert make_pages.trained_tables(tmp_path / 'none.csv') == {}
    common = dict(study='paper_tables', row='mask-rcnn_r50_fpn_1x_coco', seed=0)
    common |= dict(revision='a', versions='b', threads=1, attention='auto')
    records = [
        Record(metric=metric, value=value, settings='0' * 8, **common)
        for metric, value in (('coco/bbox_mAP', 0.375), ('train_seconds', 1.0))
    ]
    append_records(tmp_path / 'trained.csv', records)
    here = make_pages.trained_tables(tmp_path / 'trained.csv')
    assert list(here) == ['4', '8']  # a config of two tables, trained once
    squeezed = re.sub(' +', ' ', here['4'])
    assert '| mask-rcnn | 1 | 37.1 | 37.5 | 34.1 | |' in squeezed
    assert 'measured on the validation images' in here['8']
    page = make_pages.render_results(here)
    assert page.count('Trained here:') == 2
    assert 'no weights were trained' not in page
    assert page.index(here['4'].strip()) < page.index('## Table 5')


def test_packing_for_the_servers(results, tmp_path):
    """The commands on the page make the archives that it describes."""
    stem = 'detections_test-dev2017_x_results'
    for kind in ('bbox', 'segm'):
        (tmp_path / f'{stem}.{kind}.json').write_text(kind)
    (tmp_path / 'a_leftImg8bit.png').touch()
    page = results.split('## Evaluation servers')[1]
    for block in re.findall(r'```shell\n(.*?)```', page, re.DOTALL):
        subprocess.run(['bash', '-euc', block], cwd=tmp_path, check=True)
    for kind in ('bbox', 'segm'):
        with zipfile.ZipFile(tmp_path / f'{kind}/{stem}.zip') as archive:
            assert archive.namelist() == [f'{stem}.json']
            assert archive.read(f'{stem}.json').decode() == kind
    with zipfile.ZipFile(tmp_path / 'cityscapes.zip') as archive:
        assert archive.namelist() == ['a_leftImg8bit.png']
