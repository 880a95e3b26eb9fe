"""The tiles of the fused kernels, by the kind of input and the size of the map.

Shape shorthand: d channels of a head, (h, w) the key grid, M = h * w keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch


class Measured(NamedTuple):
    """The fastest sizes of a kernel's tiles on a GPU, as measured.

    Attributes:
        BLOCK_M: Queries of a tile; :data:`MAX_QUERIES` at most.
        num_warps: Warps that compute a tile.
        num_stages: Loads that are under way at a time.
        shared_bytes: Shared memory that the kernel takes with them, in bytes.
        device: The name of the GPU.
        date: When they were measured, as 2027-01-31.
    """

    BLOCK_M: int
    num_warps: int
    num_stages: int
    shared_bytes: int
    device: str
    date: str


#: What was measured, by compute capability, dtype, BLOCK_D, BLOCK_N and kernel, see
#: :func:`tile_options`. It replaces the sizes that were chosen by counting instructions.
#: Nothing has been measured yet. `bash .dev_scripts/gpu_day.sh` measures on the GPU of the
#: machine, and writes the entries to add here.
MEASURED: dict[tuple[tuple[int, int], torch.dtype, int, int, str], Measured] = {}
#: Keys of the widest tile.
MAX_TILE = 64
#: Queries of the largest tile.
MAX_QUERIES = 128
# Instructions for a key relative to the widest tile, by the keys of a tile.
_WORK_OF_A_KEY = {64: 1.0, 32: 1.2, 16: 1.7}
# Shared memory in bytes, by the bytes of a number and BLOCK_D. Upper bounds with a margin,
# since not every kind was compiled: too high only refuses, too low fails the self-check.
# Kernels that were compiled for capability 8.x need less; 8.6 and 8.9 have 99 KiB.
_SHARED_BYTES = {
    (2, 16): 42000,
    (2, 32): 56000,
    (2, 64): 65000,
    (2, 128): 69000,
    (2, 256): 77000,
    (2, 512): 81000,
    (4, 16): 33000,
    (4, 32): 33000,
    (4, 64): 51000,
    (4, 128): 90000,
    (4, 256): 90000,
}
# Keys that are computed for each key, at most, where a tile allows it.
_MAX_PADDING = 1.25


def padded_width(width: int) -> int:
    """Entries of a query in the column table that the kernels read.

    It is a multiple of the widest tile: rows start at aligned addresses, and no load needs
    a mask.
    """
    return -(-width // MAX_TILE) * MAX_TILE


def tile_of_keys(widest: int, key_grid: Sequence[int]) -> tuple[int, bool]:
    """The keys of a tile, and whether the columns that fill no tile become a tail.

    Chosen is what takes the least work of what pads the keys by at most a quarter.

    Args:
        widest: Keys of the widest tile that fits.
        key_grid: h and w.

    Returns:
        BLOCK_N and TAIL, see :mod:`.kernels`.
    """
    height, width = key_grid
    best = (0, 0.0), 0, False
    for n, work in _WORK_OF_A_KEY.items():
        whole = width // n * n
        padded = -(-width // n) * n * height
        with_tail = whole * height + (width - whole) * -(-height // n) * n
        for tail, keys in ((False, padded), (True, with_tail)):
            cost = int(keys > _MAX_PADDING * height * width), keys * work
            # Without a whole tile in a row, a tail would swap the axes and nothing else.
            possible = n <= widest and (whole > 0 or not tail)
            if possible and (best[1] == 0 or cost < best[0]):
                best = cost, n, tail
    return best[1:]


def block_dims(dims: int) -> int:
    """BLOCK_D, the channels that are computed for heads of d = ``dims``."""
    return max(16, 1 << (dims - 1).bit_length())


def tile_options(
    dims: int,
    dtype: torch.dtype,
    key_grid: Sequence[int],
    kernel: str = 'forward',
    capability: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """The sizes of the tiles, and how a kernel is compiled.

    A tile must fit the shared memory of a core (99 KiB on compute capability 8.6, 8.9 and
    12.0) and its registers. The keys of a tile depend on none of what is measured.

    Args:
        dims: d.
        dtype: Of query, key and value.
        key_grid: h and w; 1 and M without position.
        kernel: 'forward', 'query_gradient', 'key_gradient', or 'key_gradient_tail', which
            is launched on its own.
        capability: Compute capability of the GPU, as (8, 0): some spill what others do
            not, and :data:`MEASURED` has entries for each.
    """
    block_d = block_dims(dims)
    row_bytes = block_d * dtype.itemsize
    num_warps = 4
    if dtype == torch.float32:
        # Its products run on the scalar units; larger tiles spill registers.
        widest = block_m = 32 if row_bytes <= 512 else 16
        if row_bytes == 256 and kernel.startswith('key_gradient'):
            num_warps = 8
    else:
        widest = block_m = 64 if row_bytes <= 256 else 32 if row_bytes <= 512 else 16
        # More queries spill registers.
        if row_bytes == 256 and kernel != 'forward':
            block_m = 32
        if row_bytes == 128 and kernel == 'key_gradient_tail':
            block_m = 32
    block_n, tail = tile_of_keys(widest, key_grid)
    if dtype.itemsize == 2 and row_bytes <= 64 and block_n < 64:
        # The work for each query is spread over fewer keys. In the tail of the gradient of
        # the keys, so many spill.
        block_m = 64 if kernel == 'key_gradient_tail' and block_n == 32 else 128
    options = dict(
        BLOCK_D=block_d,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        TAIL=tail,
        num_warps=num_warps,
        num_stages=2 if row_bytes <= 256 else 1,
    )
    if capability in ((8, 6), (8, 9)) and dtype.itemsize == 2 and block_n == MAX_TILE:
        # For these, two loads under way at a time spill registers.
        if (row_bytes, kernel) in ((64, 'key_gradient_tail'), (128, 'key_gradient')):
            options['num_stages'] = 1
    if capability is not None:
        measured = MEASURED.get((capability, dtype, block_d, block_n, kernel))
        if measured is not None:
            sizes = ('BLOCK_M', 'num_warps', 'num_stages')
            options.update((name, getattr(measured, name)) for name in sizes)
    return options


def shared_bytes(
    dims: int, dtype: torch.dtype, capability: tuple[int, int] | None = None
) -> int:
    """Shared memory, in bytes, that the kernels need for heads of d = ``dims``.

    Args:
        dims: d.
        dtype: Of query, key and value.
        capability: Compute capability of the GPU, to look for in :data:`MEASURED`.
    """
    kind = capability, dtype, block_dims(dims)
    measured = [entry.shared_bytes for key, entry in MEASURED.items() if key[:3] == kind]
    return max([_SHARED_BYTES[dtype.itemsize, block_dims(dims)], *measured])
