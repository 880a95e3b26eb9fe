"""Names in the source code of libraries."""

from mmgcnl.utils.sources import mentions, source_of


def test_mentions():
    text = "cfg.get('one'); cfg.two; def f(three): ..."
    for word in ('one', 'two', 'three'):
        assert mentions(word, ['', text])
        assert not mentions(word[:-1], [text])
    assert [mentions(w, [text], '[.\'"]') for w in ('one', 'two', 'three')] == [1, 1, 0]


def test_source_of(tmp_path, monkeypatch):
    assert 'def source_of(' in source_of('mmgcnl')
    assert source_of('no_such_package_at_all') == ''
    (tmp_path / 'module_that_is_not_run.py').write_text('raise RuntimeError')
    monkeypatch.syspath_prepend(tmp_path)
    assert source_of('module_that_is_not_run') == 'raise RuntimeError'
