"""Whether the fused kernels may be used: they are compared with the reference first."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from ..inputs import AttentionInputs, Position
from ..reference import dense_attention
from . import operator, tiles
from .child import ChildError, compare_in_child
from .guarding import guarded_outputs
from .verdicts import machine_key, shared_verdict, verdict_folder

_logger = logging.getLogger('mmgcnl')
#: Seconds until the comparison is tried again on a GPU that was full.
RETRY_AFTER = 600.0
#: Triton 3.0 ends the process with a segmentation fault in the compiler.
_MIN_TRITON = '3.1'
# The widest heads that the kernels were compiled for.
_MAX_HEAD_DIMS = {torch.float32: 256, torch.float16: 512, torch.bfloat16: 512}
_MAX_ERRORS = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
# Offsets within a head are int32, also those of a tile's queries and keys beyond the last,
# and CUDA's second grid dimension is 16 bits.
_MAX_OFFSET, _MAX_HEADS = 2**31 - 1, 2**16 - 1


def why_unsupported(inputs: AttentionInputs, dropout_p: float = 0.0) -> str | None:
    """Why :func:`.operator.triton_attention` cannot compute this, or None.

    The first time that a kind of input is met, the kernels are compiled and their output
    and gradients compared with the reference on a small input of that kind.

    Args:
        inputs: Query, key and position.
        dropout_p: As for the attention.
    """
    query, key = inputs.query, inputs.key
    if query.dtype not in _MAX_HEAD_DIMS:
        return f'it does not support {query.dtype}'
    if key.dtype != query.dtype:
        return f'query has dtype {query.dtype}, but key has {key.dtype}'
    dims, most = query.shape[-1], _MAX_HEAD_DIMS[query.dtype]
    if dims > most:
        return f'a head has {dims} channels, more than {most} in {query.dtype}'
    unsuitable = _unsuitable_device(query.device, dims, query.dtype)
    if unsuitable is not None:
        return unsuitable
    position = inputs.position is not None
    key_grid = key.shape[2:4] if position else (1, key.shape[2:4].numel())
    queries, keys = query.shape[2:4].numel(), key.shape[2:4].numel()
    entries = max(key_grid[0], tiles.padded_width(key_grid[1])) if position else 0
    beyond = tiles.MAX_QUERIES
    if max((queries + beyond) * max(dims, entries), (keys + beyond) * dims) > _MAX_OFFSET:
        return (
            f'{queries} queries and {keys} keys need offsets beyond 2^31; take a larger '
            'kv_stride or a smaller image'
        )
    if query.shape[:2].numel() > _MAX_HEADS:
        return f'{query.shape[:2].numel()} heads of all images, more than {_MAX_HEADS}'
    options = tiles.tile_options(dims, query.dtype, key_grid)
    tile, tail = options['BLOCK_N'], options['TAIL']
    dropout = True if dropout_p > 0 else False
    if torch.compiler.is_compiling():
        # Sizes may be symbolic while compiling, and so may dropout_p, above. Branching on a
        # comparison makes them constants.
        dims = next(n for n in range(1, most + 1) if n == dims)
        tile = next(n for n in (16, 32, 64) if n == tile)
    return validate_kernels(
        str(query.device), query.dtype, dims, tile, tail, position, dropout
    )


def _unsuitable_device(device: torch.device, dims: int, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot run on a device, or None."""
    if device.type != 'cuda':
        # On a CPU, Triton's interpreter runs them. Meta tensors have no device yet.
        known = device.type in ('cpu', 'meta')
        return None if known else f"it is for NVIDIA GPUs, not for '{device.type}'"
    if torch.version.hip:
        # Triton's barrier does not wait there for what other threads have stored, and the
        # gradient of the queries reads that.
        return 'it is for NVIDIA GPUs, and on AMD GPUs its gradients could be wrong'
    gpu = torch.cuda.get_device_properties(device)
    if gpu.major < 8:
        # Without the tensor core instructions of 8.0, nearly all kernels spill registers.
        return (
            f'it is for GPUs of compute capability 8.0 and later, and {gpu.name} has '
            f'{gpu.major}.{gpu.minor}'
        )
    # The opt-in limit of a block; torch before 2.6 does not report it.
    limit = getattr(gpu, 'shared_memory_per_block_optin', None)
    needed = tiles.shared_bytes(dims, dtype, (gpu.major, gpu.minor))
    if limit is None or needed <= limit:
        return None
    return (
        f'heads of {dims} channels in {dtype} need {needed} bytes of shared memory, and '
        f'{gpu.name} has {limit}; take more heads'
    )


def validate_kernels(
    device: str,
    dtype: torch.dtype,
    dims: int,
    tile: int,
    tail: bool,
    position: bool,
    dropout: bool,
) -> str | None:
    """Why the kernels cannot be used for a kind of input, or None; computed once for each.

    Args:
        device: Such as 'cuda:0'.
        dtype: Of query, key and value.
        dims: Channels of a head.
        tile: Keys of a tile.
        tail: Whether some tiles are stretches of columns.
        position: Whether there is a position part.
        dropout: Whether there is dropout.
    """
    kind = (device, dtype, dims, tile, tail, position, dropout)
    if time.monotonic() >= _try_after.get(kind, 0.0):
        try:
            return _validate(*kind)
        except torch.cuda.OutOfMemoryError:
            _try_after[kind] = time.monotonic() + RETRY_AFTER
    return 'there is no memory left to compare its kernels with the reference'


# When to repeat a check that ran out of memory, by time.monotonic().
_try_after: dict[tuple[Any, ...], float] = {}
# As torch.compiler.assume_constant_result, which would import the compiler.
validate_kernels._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _validate(
    device: str,
    dtype: torch.dtype,
    dims: int,
    tile: int,
    tail: bool,
    position: bool,
    dropout: bool,
) -> str | None:
    try:
        triton = operator.load_kernels().triton
    except ImportError as error:
        return f'Triton cannot be imported ({error})'
    if TorchVersion(triton.__version__) < _MIN_TRITON:
        return (
            f'Triton {triton.__version__} crashes while it compiles the kernels. Install '
            f'torch 2.5 or later, which comes with Triton {_MIN_TRITON} or later'
        )
    sizes: dict[str, Any] = dict(
        dims=dims, tile=tile, tail=tail, position=position, dropout=dropout
    )
    if torch.device(device).type != 'cuda':
        return compare_with_reference(device, dtype, **sizes)
    kind = dict(dtype=str(dtype).removeprefix('torch.'), **sizes)
    key = machine_key(torch.device(device), triton.__version__)
    what = (
        f'the attention kernels for {dtype}, {dims} channels a head, tiles of {tile} keys'
        f'{" with a tail" if tail else ""}, with{"" if position else "out"} position, '
        f'with{"" if dropout else "out"} dropout'
    )
    find = functools.partial(_compare_on_gpu, device, kind)
    reason = shared_verdict(verdict_folder(), key | kind, what, find)
    if reason is not None:
        return reason
    # The kept result is of another process. In this one, a C compiler may be missing.
    return try_launch(device, dtype, **sizes)


def _compare_on_gpu(device: str, kind: dict[str, Any]) -> str | None:
    """Compare in a child process or, where there can be none, in this one."""
    if not torch.cuda.is_current_stream_capturing():
        torch.cuda.empty_cache()  # the child gets what this process does not use
    try:
        return compare_in_child(device, kind)
    except ChildError as error:
        _logger.warning('The kernels are checked in this process: %s', error)
    sizes = dict(kind)
    dtype = getattr(torch, sizes.pop('dtype'))
    return compare_with_reference(device, dtype, **sizes)


def compare_with_reference(device: str, dtype: torch.dtype, **sizes: Any) -> str | None:
    """Why the kernels cannot be used for a kind of input, or None, found in this process.

    Args:
        device: Such as 'cuda:0'.
        dtype: Of query, key and value.
        **sizes: The other arguments of :func:`validate_kernels`.

    Raises:
        torch.cuda.OutOfMemoryError: The GPU is full.
    """
    return _why_not(_largest_error, device, dtype, sizes)


def try_launch(device: str, dtype: torch.dtype, **sizes: Any) -> str | None:
    """As :func:`compare_with_reference`, but whether they run at all, once."""
    return _why_not(_launch, device, dtype, sizes)


def _why_not(
    find_error: Callable[..., float], device: str, dtype: torch.dtype, sizes: dict[str, Any]
) -> str | None:
    kind = f'{dtype} with heads of {sizes["dims"]} channels'
    try:
        # The caller's modes (autocast, inference mode, tracing) are those of its thread.
        with ThreadPoolExecutor(1) as pool:
            largest = pool.submit(find_error, torch.device(device), dtype, **sizes).result()
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as exception:  # the compiler's and the driver's, which are many
        return f'its kernels fail for {kind} ({type(exception).__name__}: {exception})'
    if not largest <= _MAX_ERRORS[dtype]:
        return f'its kernels are off by {largest:.1e} for {kind}'
    return None


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Compute the position tables without TF32, as exactly as the kernels do."""
    matmul = torch.backends.cuda.matmul
    # Reading the old setting fails where the new one, of torch 2.9, is in use.
    new = hasattr(matmul, 'fp32_precision')
    name = 'fp32_precision' if new else 'allow_tf32'
    before = getattr(matmul, name)
    setattr(matmul, name, 'ieee' if new else False)
    try:
        yield
    finally:
        setattr(matmul, name, before)


class _Example(NamedTuple):
    """A small input of a kind, and what its output and gradients are computed with."""

    inputs: AttentionInputs
    value: Tensor
    weight: Tensor  # of the output, for a scalar that has gradients
    dropout: tuple[float, Tensor | None]

    def run(self, function: Callable[..., Tensor]) -> list[Tensor]:
        """Output and gradients; in float64 those of :func:`dense_attention`, exact."""
        query, key, scale, position = self.inputs
        leaves = [query, key, self.value, *(position[1:] if position else ())]
        inputs, value = self.inputs, self.value
        if function is dense_attention:
            inputs = AttentionInputs(query.double(), key.double(), scale.double(), None)
            if position:
                inputs = inputs._replace(position=Position(*(t.double() for t in position)))
            value = value.double()
        out = function(inputs, value, *self.dropout)
        grads = torch.autograd.grad((out.float() * self.weight).sum(), leaves)
        return [t.detach().double() for t in (out, *grads)]


def _make_example(
    device: torch.device,
    dtype: torch.dtype,
    dims: int,
    tile: int,
    tail: bool,
    position: bool,
    dropout: bool,
) -> _Example:
    """Draw an input.

    The queries fill two tiles and a part of a third at least. The keys are few, and their
    grid is one that the kernels cut in these tiles.
    """
    generator = torch.Generator().manual_seed(0)
    query_grid = 3, 2 * tiles.MAX_QUERIES // 3 + 7
    key_grid = _grid_of_tile(dims, dtype, tile, tail)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    def features(grid: tuple[int, int]) -> Tensor:
        return random(1, 1, *grid, dims).to(dtype).requires_grad_()

    query, key, value = (features(grid) for grid in (query_grid, key_grid, key_grid))
    scale = torch.full((1, 1, 1, 1, 1), dims**-0.5, device=device)
    part = None
    if position:
        codes = (
            (random(*sizes, 1, dims) / dims).requires_grad_()
            for sizes in zip(query_grid, key_grid)
        )
        part = Position(query, *codes)
    return _Example(
        AttentionInputs(query, key, scale, part),
        value,
        random(*query.shape),
        (0.3, torch.tensor(1, device=device)) if dropout else (0.0, None),
    )


@_without_tf32()
def _largest_error(device: torch.device, *kind: Any, **sizes: Any) -> float:
    """The largest error of output and gradients, relative to the reference.

    The arguments are those of :func:`_make_example`.
    """
    example = _make_example(device, *kind, **sizes)
    expected = example.run(dense_attention)
    errors = []
    # A race between threads may not show in the first run.
    for _ in range(3 if device.type == 'cuda' else 1):
        with guarded_outputs() as memory:
            found = example.run(operator.triton_attention)
        memory.check()
        errors += [(b - a).norm() / a.norm() for a, b in zip(expected, found)]
    return float(torch.stack(errors).max())


def _launch(device: torch.device, *kind: Any, **sizes: Any) -> float:
    """Run the kernels once, without comparing the results; return 0."""
    _make_example(device, *kind, **sizes).run(operator.triton_attention)
    return 0.0


def _grid_of_tile(dims: int, dtype: torch.dtype, tile: int, tail: bool) -> tuple[int, int]:
    """A grid of keys that is cut in such tiles, none of which fits a row or a column."""
    for height in (3, tile + 1):
        for width in (2 * tile + 1, 2 * tile + 3, tile + 1, 2 * tile - 3, tile - 3):
            options = tiles.tile_options(dims, dtype, (height, width))
            if (options['BLOCK_N'], options['TAIL']) == (tile, tail):
                return height, width
    raise ValueError(
        f'tile={tile} with tail={tail} is not used for heads of {dims} in {dtype}'
    )
