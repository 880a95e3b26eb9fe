"""Argument types of the tools: what they take, and what they say otherwise."""

from argparse import ArgumentParser
from pathlib import Path

import pytest

from mmgcnl.utils import cli


@pytest.fixture
def fails(capsys):
    """Parse arguments that are wrong, and return the last line of the message."""

    def fails(parser, *arguments):
        with pytest.raises(SystemExit) as stop:
            parser.parse_args(arguments)
        assert stop.value.code == 2
        return capsys.readouterr().err.splitlines()[-1]

    return fails


def parser_of(**options):
    parser = ArgumentParser(prog='tool')
    parser.add_argument('--option', **options)
    return parser


def test_device(fails):
    parser = parser_of(type=cli.device)
    assert parser.parse_args(['--option', 'cpu']).option == 'cpu'
    for name in ('gpu', 'cuda:99'):
        assert f'{name}: no such device (' in fails(parser, '--option', name)


def test_seeds(fails):
    parser = parser_of(type=cli.seed)
    assert parser.parse_args(['--option', '2147483647']).option == 2147483647
    assert 'at least 0' in fails(parser, '--option', '-1')
    assert 'at most 2147483647' in fails(parser, '--option', '2147483648')


def test_whole_numbers(fails):
    positive = parser_of(type=cli.positive_int)
    assert positive.parse_args(['--option', '3']).option == 3
    for text in ('0', '-1', '1.5', 'many', ''):
        message = fails(positive, '--option', text)
        remedy = 'give a whole number of at least 1'
        assert message == f'tool: error: argument --option: {text}: {remedy}'
    other = parser_of(type=cli.non_negative_int)
    assert other.parse_args(['--option', '0']).option == 0
    assert 'at least 0' in fails(other, '--option', '-1')


def test_existing_file(fails, tmp_path, monkeypatch):
    parser = parser_of(type=cli.existing_file)
    path = tmp_path / 'a.py'
    path.touch()
    monkeypatch.setenv('HOME', str(tmp_path))
    for text in (str(path), '~/a.py', 'https://host/a.pth'):
        assert parser.parse_args(['--option', text]).option == text
    for text in (str(tmp_path), str(tmp_path / 'b.py')):  # a folder; nothing
        assert fails(parser, '--option', text).endswith(f'--option: no such file: {text}')


def test_check_file(capsys, tmp_path):
    parser = ArgumentParser(prog='tool')
    cli.check_file(parser, 'load_from', __file__)
    with pytest.raises(SystemExit, match='2'):
        cli.check_file(parser, 'load_from', 'no.pth')
    assert 'tool: error: load_from: no such file: no.pth' in capsys.readouterr().err


def test_file_name(fails):
    parser = parser_of(type=cli.file_name('.png'))
    assert parser.parse_args(['--option', 'x/A.PNG']).option == Path('x/A.PNG')
    assert 'a.jpg: give a name that ends with .png' in fails(parser, '--option', 'a.jpg')


def test_size(fails):
    parser = ArgumentParser(prog='tool')
    cli.add_size_argument(parser, default=[1, 2])
    assert parser.parse_args([]).shape == [1, 2]
    assert parser.parse_args(['--shape', '3', '4']).shape == [3, 4]
    assert '--shape: 0: give a whole number' in fails(parser, '--shape', '0', '4')
    assert 'expected 2 arguments' in fails(parser, '--shape', '4')


def test_cfg_options():
    parser = ArgumentParser(prog='tool')
    cli.add_cfg_options(parser)
    assert parser.parse_args([]).cfg_options == {}
    arguments = ['--cfg-options', 'a.b=1', 'c=[2,3]', 'd=x']
    expected = {'a.b': 1, 'c': [2, 3], 'd': 'x'}
    assert parser.parse_args(arguments).cfg_options == expected
    assert parser.parse_args([]).cfg_options == {}  # not those of the first call


def test_reporting_errors(capsys):
    parser = ArgumentParser(prog='tool')
    with cli.reporting_errors(parser, '--tta'):
        pass
    with pytest.raises(SystemExit, match='2'), cli.reporting_errors(parser, '--tta'):
        raise ValueError('there is none')
    assert 'tool: error: --tta: there is none' in capsys.readouterr().err
    with pytest.raises(KeyError), cli.reporting_errors(parser, '--tta'):
        raise KeyError  # a fault of the program, not of the input


@pytest.mark.parametrize('values', [['a.b'], ['a=1', 'b'], ['a', '=', '1']])
def test_cfg_options_without_equals_sign(values, capsys):
    parser = ArgumentParser()
    cli.add_cfg_options(parser)
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(['--cfg-options', *values])
    assert stopped.value.code == 2
    assert 'is not KEY=VALUE' in capsys.readouterr().err
