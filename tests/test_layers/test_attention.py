"""Every implementation of the attention against the dense one in float64."""

import contextlib
import itertools
import math
from importlib.util import find_spec
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmgcnl.layers import (
    IMPLEMENTATIONS,
    GCNonLocal2d,
    Logits,
    Position,
    attention,
    choose_implementation,
)
from mmgcnl.layers.attention import blockwise, dense, dispatch, fused, tiles
from mmgcnl.layers.attention.dropout import KeepMask

CUDA = torch.cuda.is_available()
needs_triton = pytest.mark.skipif(
    find_spec('triton') is None, reason='Triton is not installed: pip install triton'
)
FAST = ['blockwise', pytest.param('triton', marks=needs_triton)]
#: Largest relative error of output and gradients, where the dense one's own is smaller.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}


class Case(NamedTuple):
    batch: int
    heads: int
    dims: int
    grid: tuple[int, int]
    kv_stride: int
    position: bool
    magnitude: float  # of the logits
    dropout_p: float
    seed: int

    def make(self, dtype: torch.dtype, device: str) -> tuple[list[Tensor], Tensor]:
        """Query, key, value and the position's tensors; and the content's scale."""
        random = torch.Generator().manual_seed(self.seed)
        height, width = self.grid
        keys = tuple(-(-size // self.kv_stride) for size in self.grid)
        lead = (self.batch, self.heads)
        shapes = [(*lead, height, width, self.dims)]
        shapes += [(*lead, *keys, self.dims)] * 2
        if self.position:
            shapes += [shapes[0], (height, keys[0], *lead[1:], self.dims)]
            shapes += [(width, keys[1], *lead[1:], self.dims)]
        tensors = [torch.randn(shape, generator=random).to(dtype) for shape in shapes]
        # The position's codes are float32 whatever the features are.
        tensors[4:] = [
            t.float() * self.magnitude / 2 * self.dims**-0.5 for t in tensors[4:]
        ]
        # A context's factor differs per image and head.
        scale = torch.rand((*lead, 1, 1, 1), generator=random) + 0.5
        scale *= self.magnitude / 2 * self.dims**-0.5
        return [t.to(device) for t in tensors], scale.to(device)

    def run(self, name: str, dtype: torch.dtype, compute: torch.dtype | None = None):
        """Output and gradients, with inputs rounded to ``dtype``."""
        device = 'cuda' if CUDA else 'cpu'
        tensors, scale = self.make(dtype, device)
        if compute is not None:
            tensors, scale = [t.to(compute) for t in tensors], scale.to(compute)
        tensors = [t.requires_grad_() for t in tensors]
        query, key, value, *position = tensors
        logits = Logits(query, key, scale, Position(*position) if position else None)
        seed = torch.tensor(self.seed) if self.dropout_p > 0 else None
        out = IMPLEMENTATIONS[name](logits, value, self.dropout_p, seed)
        assert out.dtype == value.dtype
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        weight = weight.to(dtype).to(out)
        grads = torch.autograd.grad((out * weight).sum(), tensors)
        for tensor, grad in zip(tensors, grads):
            assert grad.dtype == tensor.dtype and grad.shape == tensor.shape
        return [out.detach(), *grads]


def errors(
    results: list[Tensor], expected: list[Tensor], least: float = 1e-2
) -> list[float]:
    """Relative errors; of gradients below ``least`` per element, relative to that."""
    return [
        float(
            (a.double() - b).norm()
            / b.norm().clamp(min=least * b.numel() ** 0.5 if i else 1e-9)
        )
        for i, (a, b) in enumerate(zip(results, expected))
        if b.numel()
    ]


def cases(dropout: bool, largest: int, max_dims: int = 40) -> st.SearchStrategy[Case]:
    sizes = st.sampled_from([n for n in (1, 2, 3, 5, 7, 8, 13, 17) if n <= largest])
    return st.builds(
        Case,
        batch=st.integers(0, 2),
        heads=st.integers(1, 3),
        dims=st.integers(1, max_dims),
        grid=st.tuples(sizes, sizes),
        kv_stride=st.integers(1, 3),
        position=st.booleans(),
        magnitude=st.sampled_from([0.0, 1.0, 30.0, 1e4]),
        dropout_p=st.sampled_from([0.1, 0.7]) if dropout else st.just(0.0),
        seed=st.integers(0, 2**31),
    )


#: Weights of a tile and its keys: down to a few queries and a part of a row of keys.
TILES = st.sampled_from([(20, 4), (200, 9), (3000, 40), (2**20, 2**10)])


@contextlib.contextmanager
def tiles_of(numel: int, keys: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiles._NUMEL, 'cpu', numel)
        patch.setattr(tiles, '_KEYS', keys)
        yield


def check(case: Case, name: str, dtype: torch.dtype) -> None:
    expected = case.run('dense', dtype, compute=torch.float64)
    # A fused backward pass takes sum_j(a_ij * da_ij) from the output. What would
    # cancel, as where a query has one key, then leaves rounding of the size of its terms.
    least = 1e-2 if name == 'blockwise' else 0.3 * max(1.0, case.magnitude)
    error = max(errors(case.run(name, dtype), expected, least), default=0.0)
    if error <= TOLERANCE[dtype]:
        return
    # How the dense one does on such inputs: on one alone its rounding may be lucky.
    own = []
    for seed in range(case.seed, case.seed + 8):
        other = case._replace(seed=seed)
        exact = other.run('dense', dtype, compute=torch.float64)
        own += errors(other.run('dense', dtype), exact, least)
    assert error <= 2 * max(own)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=cases(dropout=False, largest=17), sizes=TILES)
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_blockwise_is_exact(dtype, case, sizes):
    with tiles_of(*sizes):
        check(case, 'blockwise', dtype)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=cases(dropout=True, largest=13), sizes=TILES)
def test_blockwise_drops_the_same_weights_as_dense(case, sizes):
    with tiles_of(*sizes):
        check(case, 'blockwise', torch.float32)


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize('dropout_p', [0.0, 0.3])
def test_heads_on_threads_of_their_own_give_the_same(dropout_p, two_threads):
    case = Case(2, 3, 6, (7, 9), 1, True, 3.0, dropout_p, 0)
    with tiles_of(500, 20):
        on_two = case.run('blockwise', torch.float32)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        on_one = case.run('blockwise', torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(on_two, on_one))


def test_heads_on_threads_of_their_own_in_the_modes_of_the_caller(two_threads):
    block, x = block_and_input()
    with torch.inference_mode(), torch.autocast('cpu', dtype=torch.bfloat16):
        logits, value = block.logits(x), block._split_heads(block.value(x))
        on_two = blockwise.blockwise_attention(logits, value)
        torch.set_num_threads(1)
        on_one = blockwise.blockwise_attention(logits, value)
    assert on_one.dtype == torch.bfloat16 and torch.equal(on_one, on_two)


@needs_triton
@settings(max_examples=8, deadline=None, derandomize=True)
@given(case=cases(dropout=False, largest=13))
@pytest.mark.parametrize('dtype', TOLERANCE)
def test_triton_is_exact(dtype, case):
    if dtype == torch.bfloat16 and not CUDA:
        pytest.skip("needs a GPU: Triton's interpreter has no bfloat16 matrix product")
    check(case, 'triton', dtype)


@needs_triton
@pytest.mark.parametrize('dims', [16, 64, 256, 512])
def test_triton_takes_any_head_size(dims):
    check(Case(1, 1, dims, (2, 19), 1, True, 3.0, 0.0, 0), 'triton', torch.float32)


@needs_triton
@settings(max_examples=6, deadline=None, derandomize=True)
@given(case=cases(dropout=True, largest=13))
def test_triton_drops_the_same_weights_as_dense(case):
    check(case, 'triton', torch.float32)


@pytest.mark.parametrize('name', ['dense', *FAST])
def test_dropout_follows_the_seed(name):
    case = Case(1, 2, 8, (4, 5), 1, True, 1.0, 0.5, 3)
    first, again, other = (
        case._replace(seed=seed).run(name, torch.float32)[0] for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def keep_mask(p: float, seed: int, queries: int, keys: int, heads: int = 1) -> Tensor:
    mask = KeepMask(p, torch.tensor(seed), (1, heads, 1, queries), (1, keys), 'cpu')
    return mask(mask.queries.flatten(2), mask.keys.flatten(2))[0]


@pytest.mark.parametrize('p', [0.1, 0.5, 2**-17, 1 - 2**-17])
def test_dropout_keeps_the_share_that_it_says(p):
    mask = KeepMask(p, torch.tensor(3), (1, 1, 1, 1), (1, 1), 'cpu')
    assert 1 / mask.scale == pytest.approx(1 - p, rel=1e-4)
    kept = keep_mask(p, 3, 1000, 1001)[0].float()
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    assert kept.mean() == pytest.approx(1 - p, abs=2e-3)


@pytest.mark.parametrize('p', [0.1, 0.5])
def test_dropout_is_as_independent_as_coins(p):
    """Counts scatter like a binomial's, and the spectrum ends where a random one does."""
    size = 1500
    masks = *keep_mask(p, 3, size, size, heads=2), *keep_mask(p, 4, size, size)
    first, other_head, other_seed = (
        (mask.double() - (1 - p)) / math.sqrt(p * (1 - p)) for mask in masks
    )
    for other in (torch.ones_like(first), other_head, other_seed):
        assert abs((first * other).mean()) < 4 / size
    for axis in (0, 1):
        counts = first.sum(axis) / math.sqrt(size)
        assert abs(counts.var() - 1) < 4 * math.sqrt(2 / size)
        shifted = first * first.roll(1, axis)
        assert abs(shifted.mean()) < 4 / size
    # Any structure among rows and columns together would stand out (Marchenko, Pastur).
    assert torch.linalg.matrix_norm(first, 2) < 2.05 * math.sqrt(size)


def test_tiles_cover_both_grids_once():
    grids = [(1, 1), (1, 50), (50, 1), (7, 9), (20, 20)]
    key_grids = [(1, 1), (2, 5), (2**9, 2**9), (2**20, 1), (1, 2**21)]
    for size, key_size in itertools.product(grids, key_grids):
        rectangles, blocks = tiles.cut(size, key_size, 'cpu')
        seen = torch.zeros(size)
        longest = 0
        for rectangle in rectangles:
            part = seen[rectangle.rows, rectangle.columns]
            assert part.numel() == 1 or part.numel() * sum(key_size) <= 2**20
            flat = torch.zeros(part.numel())
            for tile in rectangle.tiles:
                flat[tile] += 1
                longest = max(longest, len(flat[tile]))
            part += flat.view(part.shape)
        assert (seen == 1).all()
        numbers = torch.arange(math.prod(key_size)).view(key_size)
        of_blocks = [numbers[block.rows, block.columns].flatten() for block in blocks]
        for block, of_block in zip(blocks, of_blocks):
            assert torch.equal(numbers.flatten()[block.keys], of_block)
            assert len(of_block) <= 2**14 and longest * len(of_block) <= 2**19
            assert block.on_grid(of_block[None])[0].equal(
                numbers[block.rows, block.columns]
            )
        assert torch.equal(torch.cat(of_blocks), numbers.flatten())


def test_blockwise_memory_is_linear(monkeypatch):
    """No step of it allocates anything like the N x M weights."""
    # In one thread, as the profiler sees no others.
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    block = GCNonLocal2d(16, 1, 2, implementation='blockwise')
    x = torch.randn(1, 16, 64, 64, requires_grad=True)
    num_weights = 2 * (64 * 64) ** 2
    with torch.profiler.profile(profile_memory=True) as profile:
        block(x).sum().backward()
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert 2**16 < largest < 4 * num_weights / 8  # bytes; an eighth of the weights


def block_and_input(**kwargs) -> tuple[GCNonLocal2d, Tensor]:
    block = GCNonLocal2d(16, 1, 2, **kwargs)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return block, torch.randn(2, 16, 9, 11, requires_grad=True)


def output_and_gradients(block: GCNonLocal2d, x: Tensor, function=None) -> list[Tensor]:
    torch.manual_seed(3)
    out = (block if function is None else function)(x)
    return [out, *torch.autograd.grad(out.pow(2).sum(), [x, *block.parameters()])]


def test_blockwise_is_deterministic(two_threads):
    block, x = block_and_input(implementation='blockwise')
    with tiles_of(500, 20):
        first, again = output_and_gradients(block, x), output_and_gradients(block, x)
    assert all(torch.equal(a, b) for a, b in zip(first, again))


def test_gradcheck_of_blockwise():
    case = Case(1, 2, 2, (2, 3), 1, True, 2.0, 0.0, 0)
    tensors, scale = case.make(torch.float64, 'cpu')
    tensors = [t.double().requires_grad_() for t in tensors]

    def function(query, key, value, *position):
        logits = Logits(query, key, scale.double(), Position(*position))
        return blockwise.blockwise_attention(logits, value, 0.4, torch.tensor(1))

    with tiles_of(12, 4):
        assert torch.autograd.gradcheck(function, tensors)


@pytest.mark.parametrize('name', FAST)
def test_operator_is_registered_soundly(name):
    """Schema, fake implementation and autograd, by torch's own checks."""
    case = Case(1, 2, 4, (3, 5), 1, True, 1.0, 0.0, 0)
    (query, key, value, *codes), scale = case.make(torch.float32, 'cuda' if CUDA else 'cpu')
    codes = [t.requires_grad_() for t in codes]
    tensors = [t.requires_grad_() for t in (query, key, value)]
    if name == 'triton':
        tables = [t.detach().requires_grad_() for t in Position(*codes).tables()]
        operator = fused._forward
        flat = [t.detach().flatten(2, 3).requires_grad_() for t in (*tensors, *tables)]
        args = (*flat[:3], scale.flatten(), *flat[3:], [3, 5], 0.0, None)
    else:
        operator = blockwise._forward
        args = (*tensors, scale, *codes, 0.2, torch.tensor(3))
    torch.library.opcheck(operator, args, raise_exception=True)


@pytest.mark.parametrize('drop', [0.0, 0.3])
def test_blockwise_compiles_whole_and_equals_eager(drop):
    block, x = block_and_input(implementation='blockwise', attn_drop_rate=drop)
    expected = output_and_gradients(block, x)
    compiled = torch.compile(block, fullgraph=True, backend='aot_eager')
    for a, b in zip(output_and_gradients(block, x, compiled), expected):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('reentrant', [False, True])
def test_checkpointing_drops_the_same_weights_again(reentrant):
    block, x = block_and_input(implementation='blockwise', attn_drop_rate=0.3)
    expected = output_and_gradients(block, x)
    torch.manual_seed(3)
    out = checkpoint(block, x, use_reentrant=reentrant)
    out.pow(2).sum().backward()
    grads = [x.grad, *(p.grad for p in block.parameters())]
    for a, b in zip([out, *grads], expected):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', ['dense', *FAST])
def test_large_features_under_autocast(name, dtype):
    """q * c and the logits pass float16's 65504; nothing may become infinite."""
    if name == 'triton' and dtype == torch.bfloat16 and not CUDA:
        pytest.skip("needs a GPU: Triton's interpreter has no bfloat16 matrix product")
    device = 'cuda' if CUDA else 'cpu'
    block = GCNonLocal2d(32, 1, 2).to(device)
    torch.nn.init.normal_(block.out.weight, std=0.1)
    x = 1e3 * torch.randn(2, 32, 6, 7, device=device) + 500
    with torch.autocast(device, dtype=dtype):
        logits = block.logits(x)
        assert logits.query.dtype == dtype
        value = block._split_heads(block.value(x))
        y = IMPLEMENTATIONS[name](logits, value)
        assert y.dtype == dtype
        (y.float().mean() / 1e3).backward()
    assert y.isfinite().all()
    for parameter in (block.query, block.key, block.position.y, block.context.fc):
        assert parameter.weight.grad.isfinite().all()


@pytest.fixture
def logits() -> Logits:
    query, key = torch.randn(1, 2, 40, 40, 4), torch.randn(1, 2, 40, 40, 4)
    return Logits(query, key, torch.ones(1, 1, 1, 1, 1), None)


def test_choice(logits, monkeypatch):
    monkeypatch.delenv('MMGCNL_ATTENTION', raising=False)
    assert choose_implementation(logits) == 'blockwise'
    assert choose_implementation(logits.of_queries(slice(3))) == 'dense'
    assert choose_implementation(logits, 'dense') == 'dense'
    # Many small heads: to go through them one by one would take longer.
    small = torch.randn(64, 8, 10, 10, 4)
    assert choose_implementation(logits._replace(query=small, key=small)) == 'dense'
    small = torch.randn(128, 8, 10, 10, 4)
    assert choose_implementation(logits._replace(query=small, key=small)) == 'blockwise'
    monkeypatch.setenv('MMGCNL_ATTENTION', 'blockwise')
    assert choose_implementation(logits.of_queries(slice(3)), 'dense') == 'blockwise'
    monkeypatch.setenv('MMGCNL_ATTENTION', 'fast')
    message = "MMGCNL_ATTENTION='fast': give one of 'dense', 'blockwise', 'triton'"
    with pytest.raises(ValueError, match=message):
        attention(logits, logits.key)
    monkeypatch.delenv('MMGCNL_ATTENTION')
    with pytest.raises(ValueError, match="implementation='quick'"):
        attention(logits, logits.key, implementation='quick')


def test_choice_is_what_runs(logits, monkeypatch):
    ran = []
    for name, function in list(IMPLEMENTATIONS.items()):
        spy = lambda *args, _name=name, _f=function: ran.append(_name) or _f(*args)  # noqa: E731
        monkeypatch.setitem(dispatch.IMPLEMENTATIONS, name, spy)
    block = GCNonLocal2d(16, 1, 2)
    for size, name in ((8, 'dense'), (30, 'blockwise')):
        x = torch.randn(1, 16, size, size)
        block(x)
        assert ran == [choose_implementation(block.logits(x))] == [name]
        ran.clear()
    block.implementation = 'dense'
    block(x)
    assert ran == ['dense']


def test_traced_block_is_made_of_standard_operators():
    block, x = block_and_input(implementation=None)
    x = torch.randn(1, 16, 40, 40)
    traced = torch.jit.trace(block.eval(), x)
    assert 'mmgcnl::' not in str(traced.inlined_graph)
    torch.testing.assert_close(traced(x), block(x), rtol=1e-4, atol=1e-4)


def test_without_the_kernel_the_blockwise_one_steps_in_and_says_so_once(
    logits, monkeypatch, recwarn
):
    monkeypatch.setattr(dispatch, '_warned', set())
    half = logits._replace(query=logits.query.double())
    for _ in range(2):
        assert choose_implementation(half, 'triton') == 'blockwise'
    (warning,) = recwarn
    assert 'there is none for torch.float64' in str(warning.message)
    wide = Logits(torch.randn(1, 1, 2, 2, 600), torch.randn(1, 1, 2, 2, 600), *logits[2:])
    assert '600 channels, more than 512' in fused.reason_against(wide)


@pytest.fixture
def untried():
    fused._trial.cache_clear()
    yield
    fused._trial.cache_clear()


def test_a_kernel_that_fails_or_errs_is_not_used(logits, monkeypatch, untried):
    def broken(*args):
        raise RuntimeError('out of resource: shared memory')

    monkeypatch.setattr(fused, 'triton_attention', broken)
    assert 'RuntimeError: out of resource' in fused.reason_against(logits)
    fused._trial.cache_clear()
    wrong = lambda *args: 1.001 * dense.dense_attention(*args)  # noqa: E731
    monkeypatch.setattr(fused, 'triton_attention', wrong)
    assert 'off by 1.0e-03' in fused.reason_against(logits)


@needs_triton
def test_a_kernel_that_works_is_used(logits, untried):
    logits = logits.of_queries(slice(1))
    logits = Logits(*(t.to('cuda' if CUDA else 'cpu') for t in logits[:3]), None)
    assert choose_implementation(logits, 'triton') == 'triton'
    out = attention(logits, logits.key, implementation='triton')
    torch.testing.assert_close(out, dense.dense_attention(logits, logits.key))
