import os
from argparse import ArgumentParser
from pathlib import Path

import pytest

from mmgcnl.engine import add_common_arguments, load_config


def load(*argv: str):
    parser = ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('--work-dir')
    add_common_arguments(parser)
    return load_config(parser, parser.parse_args(argv))


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ('RANK', 'LOCAL_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK'):
        monkeypatch.setenv(name, '')  # so that it is put back in the end
        monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / 'net.py').write_text('model = dict(b=1, c=[1, 2])\n')
    return str(tmp_path / 'net.py')


def test_work_dir_of_option_then_config_then_name(config):
    in_config = ('--cfg-options', 'work_dir=of_config')
    assert load(config).work_dir == 'work_dirs/net'
    assert load(config, *in_config).work_dir == 'of_config'
    assert load(config, '--work-dir', 'option', *in_config).work_dir == 'option'


def test_cfg_options(config):
    cfg = load(config, '--cfg-options', 'model.b=None', 'model.c=[3,4]')
    assert cfg.model == dict(b=None, c=[3, 4])
    assert cfg.launcher == 'none'


def test_option_that_nothing_reads(config, capsys):
    with pytest.raises(SystemExit) as stop:
        load(config, '--cfg-options', 'resume_from=a.pth')
    assert stop.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.endswith(
        'nothing reads resume_from (did you mean tools/train.py --resume FILE?)'
    )


@pytest.mark.parametrize(
    ('options', 'variables', 'expected'),
    [
        (['--local_rank', '3'], {}, '3'),
        (['--local-rank', '3'], {}, '3'),
        ([], dict(LOCAL_RANK='2'), '2'),  # set by torchrun
        ([], dict(OMPI_COMM_WORLD_LOCAL_RANK='1'), '1'),  # by Open MPI
    ],
)
def test_local_rank(config, monkeypatch, options, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    load(config, *options)
    assert os.environ['LOCAL_RANK'] == expected


def test_url_is_not_looked_for(config):
    url = 'https://example.org/weights.pth'
    assert load(config, '--cfg-options', f'load_from={url}').load_from == url
