"""The kernels access only what they may; see sanitizer.py."""

import functools
import itertools

import pytest
import torch

from mmgcnl.layers.attention.triton.tiles import tile_options
from tests.test_layers.test_attention.cases import CUDA, TRITON, Case

pytestmark = pytest.mark.skipif(
    # As in requirements/tests.txt: the sanitizer replaces parts of the interpreter.
    CUDA or not (TRITON or '').startswith('3.7.'),
    reason="needs Triton 3.7's interpreter, which is used without a GPU",
)
HALF, SINGLE = torch.float16, torch.float32


@pytest.fixture
def sanitizer():
    from tests.test_layers.test_attention.test_triton.sanitizer import Sanitizer

    return Sanitizer()


@pytest.fixture
def kernels_with(tmp_path):
    from tests.test_layers.test_attention.test_triton.sanitizer import kernels_with

    return functools.partial(kernels_with, tmp_path)


def run(
    query_grid, key_grid, dtype=SINGLE, dims=8, images=1, heads=1, position=True, p=0.0,
    position_images=None,
):  # fmt: skip
    """Output and gradients of the kernels."""
    options = dict(key_grid=key_grid, position_batch=position_images)
    case = Case(images, heads, dims, query_grid, 1, position, 2.0, p, 3, **options)
    return case.run('triton', dtype)


def alternate(i: int) -> float:
    """A dropout for every other case."""
    return 0.3 * (i % 2)


# Every remainder of the widest tile, with less than one in a row and with more.
WIDTHS = [dict(key_grid=(2, w), dtype=HALF, p=alternate(w)) for w in range(1, 129)]
WIDTHS += [dict(key_grid=(2, w), p=alternate(w // 2)) for w in range(1, 65)]
WIDTHS = [dict(query_grid=(1, 5), **case) for case in WIDTHS]
CASES = {f'widths {i}': WIDTHS[i::4] for i in range(4)}
# Tails, which rows of few keys do not have: of one tile and of two, full and not.
TAILS = [
    dict(query_grid=(1, 5), key_grid=(h, w), dtype=dtype, p=alternate(i))
    for dtype, grids in (
        (HALF, [(16, 17), (15, 22), (17, 31), (33, 35), (32, 45), (64, 65), (63, 66)]),
        (SINGLE, [(16, 18), (17, 19), (14, 31), (33, 35), (32, 58)]),
    )
    for i, (h, w) in enumerate(grids)
]
CASES |= {f'tails {i}': TAILS[i::2] for i in range(2)}
# Queries: rows shorter and longer than a tile, one program and several.
CASES['queries'] = [
    dict(query_grid=(2, w), key_grid=(2, 19), dtype=dtype, heads=2, p=alternate(w))
    for dtype, w in [(HALF, 1), (HALF, 63), (HALF, 129), (SINGLE, 3), (SINGLE, 47)]
]
CASES['without position'] = [
    dict(query_grid=(1, 70), key_grid=(1, m), dtype=dtype, position=False, p=alternate(m))
    for dtype, first in ((HALF, 64), (SINGLE, 32))
    for m in range(first, 2 * first + 1, 5)
]
CASES['heads'] = [
    dict(query_grid=(2, 9), key_grid=(2, 21), dims=dims, dtype=dtype, images=2, heads=2)
    | dict(position_images=1 + i % 2, p=alternate(i))
    for i, dims in enumerate((1, 7, 25, 64, 100, 256))
    for dtype in (HALF, SINGLE)
]


@pytest.mark.parametrize('group', CASES)
def test_kernels_access_only_what_they_may(group, sanitizer, monkeypatch):
    with sanitizer.watching(monkeypatch):
        for case in CASES[group]:
            results = run(**case)
            assert all(t.isfinite().all() for t in results), case
            assert not sanitizer.found, case
    assert sanitizer.accesses > 10**5


@pytest.mark.parametrize('dtype', [HALF, SINGLE])
def test_every_tile_is_among_the_cases(dtype):
    used = set()
    for case in WIDTHS + TAILS:
        if case.get('dtype', SINGLE) == dtype:
            options = tile_options(8, dtype, case['key_grid'])
            used.add((options['BLOCK_N'], options['TAIL'], case['p'] > 0))
    widest = max(tile for tile, *_ in used)
    sizes = [tile for tile in (16, 32, 64) if tile <= widest]
    assert used == set(itertools.product(sizes, (False, True), (False, True)))


def test_the_sanitizer_changes_no_result(sanitizer, monkeypatch):
    case = dict(query_grid=(2, 9), key_grid=(3, 21), images=2, heads=2, p=0.3)
    with sanitizer.watching(monkeypatch):
        watched = run(**case)
    assert all(torch.equal(a, b) for a, b in zip(watched, run(**case)))


def test_sums_beyond_the_last_query_and_key_are_not_used(
    sanitizer, kernels_with, monkeypatch
):
    """Another thread may be storing what they are read from: here they are NaN instead."""
    masked = kernels_with(
        ('d_line += tl.load(at)', 'd_line += tl.load(at, mask=inside_queries)'),
        ('+ tl.load(at), mask=inside', '+ tl.load(at, mask=inside), mask=inside'),
    )
    # The queries fill no tile, and columns of 17 keys take two, the second with one key.
    case = dict(query_grid=(2, 35), key_grid=(17, 19), p=0.3)
    with sanitizer.watching(monkeypatch, masked):
        found = run(**case)
    assert all(torch.equal(a, b) for a, b in zip(found, run(**case)))


BOUNDS, NEVER, TWICE = 'out of bounds', 'never stored', 'stored by two programs'
FAULTS = [
    ('tl.debug_barrier()', 'pass', ['loaded after it was stored, without a barrier']),
    # Loads beyond the last query and the last key.
    ('safe = tl.minimum(queries, N - 1)', 'safe = queries', [BOUNDS]),
    ('safe = tl.minimum(places, length - 1)', 'safe = places', [BOUNDS]),
    # Stores beyond the last query, and over the next head.
    ('tl.log2(row_sum), mask=inside_queries)', 'tl.log2(row_sum))', [BOUNDS]),
    (
        'mask=inside)\n    tl.store(lse',
        'mask=(channels < d)[None, :])\n    tl.store(lse',
        [TWICE, BOUNDS],
    ),
    # The gradient of the first head only.
    ('d_row_table += head * N * h', 'pass', [TWICE, NEVER]),
    ('if start > 0:', 'if start >= 0:', ['loaded, but never stored']),
    # The keys of a tail are stored by a program of their own.
    ('tl.store(d_value + offsets', 'if not DOWN: tl.store(d_value + offsets', [NEVER]),
]


@pytest.mark.parametrize(('before', 'after', 'expected'), FAULTS)
def test_the_sanitizer_notices(
    before, after, expected, sanitizer, kernels_with, monkeypatch
):
    key_grid = (16, 17) if 'DOWN' in after else (2, 35)
    with sanitizer.watching(monkeypatch, kernels_with((before, after))):
        run((1, 40), key_grid, heads=2, p=0.3)
    found = {what for what, _ in sanitizer.found}
    assert found >= set(expected), found


def test_only_the_hash_of_dropout_overflows(sanitizer, kernels_with, monkeypatch):
    """With TRITON_DEBUG=1, others end the program."""
    case = dict(query_grid=(2, 35), key_grid=(3, 35), heads=2, p=0.3)
    with sanitizer.watching(monkeypatch, overflow=True):
        run(**case)
    fault = kernels_with(('sanitize_overflow=False', 'sanitize_overflow=True'))
    with sanitizer.watching(monkeypatch, fault, overflow=True):
        with pytest.raises(Exception, match='int32 overflow detected for operation mul'):
            run(**case)
