"""Random inputs of the attention, and the comparison with the dense reference."""

import contextlib
import multiprocessing
import warnings
from importlib.metadata import version
from importlib.util import find_spec
from typing import NamedTuple

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.torch_version import TorchVersion

from mmgcnl.layers import IMPLEMENTATIONS, AttentionInputs, GCNonLocal2d, Position
from mmgcnl.layers.attention.blockwise import tiles

CUDA = torch.cuda.is_available()
TRITON = version('triton') if find_spec('triton') else None

needs_triton = pytest.mark.skipif(
    # The interpreter of Triton 3.1 cannot run the kernels, which it compiles.
    TRITON is None or TorchVersion(TRITON) < '3.2',
    reason='needs Triton 3.2 or later: pip install triton',
)

#: Runs a script that needs the layers only: importing the libraries takes seconds.
WITH_TORCH_ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys(('mmengine', 'mmcv', 'mmdet', 'mmseg')))
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name='__main__')
"""
#: The implementations, for tests that run over all of them.
NAMES = [
    pytest.param(name, marks=needs_triton if name == 'triton' else ())
    for name in IMPLEMENTATIONS
]
#: Largest relative error of output and gradients, where the problem is well conditioned.
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
    key_grid: tuple[int, int] | None = None  # instead of kv_stride
    position_batch: int | None = None  # 1 where position does not depend on the content

    def make(self, dtype: torch.dtype, device: str) -> tuple[list[Tensor], Tensor]:
        """Query, key, value and the position's tensors; and the content's scale."""
        random = torch.Generator().manual_seed(self.seed)
        keys = self.key_grid or [-(-size // self.kv_stride) for size in self.grid]
        lead = (self.batch, self.heads)
        shapes = [(*lead, *grid, self.dims) for grid in (self.grid, keys, keys)]
        if self.position:
            shapes.append((self.position_batch or self.batch, *shapes[0][1:]))
            shapes += [(*pair, self.heads, self.dims) for pair in zip(self.grid, keys)]
        tensors = [torch.randn(shape, generator=random).to(dtype) for shape in shapes]
        # The position's codes are float32 whatever the features are.
        tensors[4:] = [
            t.float() * self.magnitude / 2 * self.dims**-0.5 for t in tensors[4:]
        ]
        # A context's factor differs per image and head.
        scale = torch.rand((*lead, 1, 1, 1), generator=random) + 0.5
        scale *= self.magnitude / 2 * self.dims**-0.5
        return [t.to(device) for t in tensors], scale.to(device)

    def run(
        self,
        name: str,
        dtype: torch.dtype,
        compute: torch.dtype | None = None,
        noise: int = 0,
    ):
        """Output and gradients, with inputs rounded to ``dtype``.

        With a seed in ``noise``, every input is multiplied by ``1 + eps * n``, with ``n``
        from the normal distribution and the ``eps`` of ``dtype``.
        """
        device = 'cuda' if CUDA else 'cpu'
        tensors, scale = self.make(dtype, device)
        if compute is not None:
            tensors, scale = [t.to(compute) for t in tensors], scale.to(compute)
        if noise:
            random = torch.Generator().manual_seed(noise)
            for tensor in tensors:
                change = torch.randn(tensor.shape, generator=random).to(tensor)
                tensor.mul_(1 + torch.finfo(dtype).eps * change)
        tensors = [t.requires_grad_() for t in tensors]
        query, key, value, *position = tensors
        inputs = AttentionInputs(
            query, key, scale, Position(*position) if position else None
        )
        seed = torch.tensor(self.seed) if self.dropout_p > 0 else None
        out = IMPLEMENTATIONS[name](inputs, value, self.dropout_p, seed)
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


def largest_error(*args) -> float:
    """The largest of :func:`errors`; Python's max() may lose a NaN."""
    return float(torch.tensor([0.0, *errors(*args)]).max())


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
        key_grid=st.none(),
        position_batch=st.none(),
    )


#: Weights of a tile and its keys: down to a few queries and a part of a row of keys.
TILES = st.sampled_from([(20, 4), (200, 9), (3000, 40), (2**20, 2**10)])


@contextlib.contextmanager
def tiles_of(numel: int, keys: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiles.TILE_WEIGHTS, 'cpu', numel)
        patch.setattr(tiles, 'BLOCK_KEYS', keys)
        yield


def check(case: Case, name: str, dtype: torch.dtype) -> None:
    expected = case.run('dense', dtype, compute=torch.float64)
    # A gradient of a logit is a_ij * (da_ij - sum_k(a_ik * da_ik)), and flash attention
    # takes the sum from the output. Where the difference would cancel, as where a query has
    # one key, rounding remains that is relative to the terms. Their size is that of the
    # features, and for the keys and the codes that of the factor on the logits. Dropout
    # multiplies the weights that it keeps.
    least = 0.3 * max(1.0, case.magnitude) / (1.0 - case.dropout_p)
    error = largest_error(case.run(name, dtype), expected, least)
    if error <= TOLERANCE[dtype]:
        return
    # Near ties of large logits amplify rounding. As a measure of that: how much the exact
    # results change when each input changes by about its rounding error.
    changes = [
        largest_error(case.run('dense', dtype, torch.float64, noise), expected, least)
        for noise in range(1, 9)
    ]
    assert error <= 4 * max(changes)


def compare_with_dense(
    query_grid,
    key_grid,
    batch=1,
    heads=1,
    dims=8,
    dtype=torch.float32,
    dropout_p=0.0,
    position_batch=None,
    magnitude=1.0,
    tolerance=None,
):
    """Output and all gradients of the kernels, for grids of any sizes."""
    options = dict(key_grid=key_grid, position_batch=position_batch)
    magnitude *= 2  # that of each part of the logits
    case = Case(batch, heads, dims, query_grid, 1, True, magnitude, dropout_p, 3, **options)
    expected = case.run('dense', dtype, compute=torch.float64)
    error = largest_error(case.run('triton', dtype), expected, 1e-9)
    assert error <= (tolerance or TOLERANCE[dtype]), (case, error)


def start(function, *args) -> multiprocessing.Process:
    """Call a function in a fork of this process, which is quicker than a new one."""
    with warnings.catch_warnings():
        # Python warns of a fork beside threads, which these functions do not use.
        warnings.simplefilter('ignore', DeprecationWarning)
        process = multiprocessing.get_context('fork').Process(target=function, args=args)
        process.start()
    return process


def block_and_input(**kwargs) -> tuple[GCNonLocal2d, Tensor]:
    block = GCNonLocal2d(16, 1, 2, **kwargs)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return block, torch.randn(2, 16, 9, 11, requires_grad=True)


def output_and_gradients(block: GCNonLocal2d, x: Tensor, function=None) -> list[Tensor]:
    torch.manual_seed(3)
    out = (block if function is None else function)(x)
    return [out, *torch.autograd.grad(out.pow(2).sum(), [x, *block.parameters()])]
