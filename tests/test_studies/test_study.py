from pathlib import Path

import pytest
import yaml
from mmengine.config import Config, DictAction

from mmgcnl.studies import StudyError, read_study
from mmgcnl.studies.study import digest, format_option

ROOT = Path(__file__).parents[2]


def test_study(study_file):
    study = read_study(study_file, ROOT)
    assert list(study.rows) == ['plain', 'wide']
    assert study.rows['wide'].load(3).model.head.channels == 16
    assert study.rows['wide'].arguments(3) == [
        'model.head.channels=16',
        'randomness.seed=3',
    ]
    (table,) = study.tables
    assert [row.label for row in table.rows] == ['Plain', 'wide']
    assert [row.name for row in study.select(rows=['wide'])] == ['wide']


def test_values_that_yaml_does_not_read_as_text(study_file):
    text = study_file.read_text()
    study_file.write_text(f'{text}environment: {{X: 1}}\ntext:\nsecondary:\n')
    study = read_study(study_file, ROOT)
    assert (study.environment, study.text, study.secondary) == ({'X': '1'}, '', ())


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('plain.py, label', 'plane.py, label', r"row 'plain': no such config: plane.py"),
        (
            'than: plain',
            'than: plane',
            r"row 'plane' does not exist; there are 'plain', 'w",
        ),
        ('metric: mIoU', 'metric: aAcc', r"metric 'aAcc' does not exist; there are 'mIoU'"),
        ('seeds: [0, 1, 2]', 'seeds: [0, -1]', r'seeds=\[0, -1\]: give different whole'),
        ('seeds: [0, 1, 2]', 'seeds: [0, 0]', r'seeds=\[0, 0\]: give different whole'),
        ('seeds:', 'seed:', r"'seeds' missing"),
        (
            'options:',
            'option:',
            r"row 'wide': key 'option' does not exist; there are 'conf",
        ),
        ('channels: 16', "channels: 'a,b'", r"option model.head.channels: 'a,b' would"),
        ('channels: 16', 'channels: 1e-3', r"'1e-3' would become 0.001 .* write 1.0e-3"),
        (
            'title: A',
            'environment: [A]\ntitle: A',
            r"environment: expected a mapping, got \['A",
        ),
        ('title: A', 'prepare: [a, b]\ntitle: A', r"prepare=\['a', 'b'\]: give a command"),
        ('higher', 'better', r"expect='better': give 'higher' or 'lower'"),
        ('study: small', 'study: [', r'is not YAML'),
        ('title: A', 'ablated: [aAcc]\ntitle: A', r"ablated: metric 'aAcc' does not exist"),
        (
            'title: A',
            "tables: [{table: '1', paper: {file: configs/paper_tables.yml, table: '1'}, "
            'rows: {plain: nll}}]\ntitle: A',
            r"the paper 'nll' does not exist; there are 'fcn'",
        ),
    ],
)
def test_fault_is_named_before_anything_runs(study_file, old, new, message):
    text = study_file.read_text()
    assert old in text
    study_file.write_text(text.replace(old, new))
    with pytest.raises(StudyError, match=message):
        read_study(study_file, ROOT)


def test_config_that_cannot_be_read(study_file):
    (study_file.parent / 'plain.py').write_text('model = nothing')
    with pytest.raises(StudyError, match=r'plain.py cannot be read: NameError'):
        read_study(study_file, ROOT).rows['plain'].load()


def test_study_that_repeats_another_one(study_file, repeating_file):
    more = 'prepare: make {seed}\nenvironment: {A: b}\n'
    study_file.write_text(study_file.read_text() + more)
    first, again = read_study(study_file, ROOT), read_study(repeating_file, ROOT)
    assert again.rows == {'wide': first.rows['wide']}
    assert again.repeats == first
    assert again.prepare == ('make', '{seed}') and again.environment == {'A': 'b'}


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        (
            '[wide]',
            '[wider]',
            r"small.yml: row 'wider' does not exist; there are 'plain', ",
        ),
        ('[wide]', '{wide: {config: plain.py}}', 'list their names in rows'),
        ('seeds', 'prepare: make\nseeds', 'give no options, prepare'),
        ('small.yml', 'smaller.yml', r'no such study: smaller.yml'),
        ('small.yml', 'again.yml', r"repeats='again.yml': that study repeats this one"),
    ],
)
def test_faulty_repeats_are_named(repeating_file, old, new, message):
    repeating_file.write_text(repeating_file.read_text().replace(old, new))
    with pytest.raises(StudyError, match=message):
        read_study(repeating_file, ROOT)


def test_tables_of_the_paper_are_a_study():
    path = ROOT / 'configs/paper_tables.yml'
    study = read_study(path, ROOT)
    content = yaml.safe_load(path.read_text())
    rows = [row for table in content for row in table['rows']]
    assert {row.config for row in study.rows.values()} == {ROOT / r['config'] for r in rows}
    assert len(study.rows) < len(rows)  # each distinct config once
    assert study.folder == Path('work_dirs/studies/paper_tables')
    four = study.select('4')
    assert [row.name for row in four] == [
        'mask-rcnn_r50_fpn_1x_coco',
        'mask-rcnn_r50_fpn_bfpn_1x_coco',
        'mask-rcnn_r50_fpn_ebfpn_1x_coco',
    ]
    assert study.select('4', ['mask-rcnn+ebfpn']) == four[2:]
    (table,) = (table for table in study.tables if table.name == '4')
    assert table.rows[2].paper['coco/bbox_mAP'] == '39.1'
    assert table.rows[2].paper['cos_att'] == '0.297'


@pytest.mark.parametrize('path', sorted((ROOT / 'configs/studies').glob('*.yml')), ids=str)
def test_studies_here(path):
    study = read_study(path, ROOT)
    assert {row.row for table in study.tables for row in table.rows} == set(study.rows)
    # A row that equals another one would be trained twice.
    settings = [digest(row.load()) for row in study.rows.values()]
    assert len(set(settings)) == len(settings)


@pytest.mark.parametrize(
    'value', [1, 0.5, 1e-9, True, None, 'relative_raw', [1, 2], [1.5, None], ['a', 'b']]
)
def test_options_survive_the_command_line(value):
    assert DictAction._parse_iterable(format_option(value)) == value


def test_digest_is_of_what_decides_a_result(study_file):
    """Not where the data is; but which part of it, and weights to start from."""
    row = read_study(study_file, ROOT).rows['plain']
    changed = row.load(1)
    changed.log_level = 'ERROR'
    assert digest(row.load(0)) == digest(changed)
    changed.train_cfg.max_iters = 5
    assert digest(row.load(0)) != digest(changed)

    def of(root, ann_file='train.json', **settings):
        cfg = Config(dict(settings))
        cfg.train_dataloader = dict(dataset=dict(data_root=root, ann_file=ann_file))
        cfg.test_evaluator = dict(type='A', seg_prefix=f'{root}panoptic')
        return digest(cfg)

    assert of('/a/') == of('/b/c/')
    assert of('/a/') != of('/a/', 'train_10_percent.json')
    assert of('/a/') != of('/a/', load_from='weights.pth')
