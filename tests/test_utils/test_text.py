import pytest

from mmgcnl.utils.text import first_cause, first_names, format_size


def test_first_names():
    assert first_names([]) == ''
    assert first_names('abc') == 'a, b, c'
    assert first_names(iter('abcd')) == 'a, b, c, ...'
    assert first_names('abcd', limit=1) == 'a, ...'


def test_format_size():
    assert format_size((512, 1024)) == '512 x 1024'


def test_first_cause():
    with pytest.raises(RuntimeError) as caught:
        try:
            raise ValueError('first line\nsecond line')
        except ValueError as error:
            raise RuntimeError('what followed') from error
    assert first_cause(caught.value) == 'ValueError: first line'
    assert first_cause(KeyError()) == 'KeyError: no message'
