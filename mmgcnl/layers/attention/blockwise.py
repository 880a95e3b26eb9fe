"""Attention in memory that grows with N, on any device: some queries and keys at a time.

The N x M weights exist for one tile of queries and one block of keys of one head at a
time: in the forward pass with the softmax kept up on the way (Milakov and Gimelshein,
2018), and, made anew, in the backward pass (Dao et al., 2022). Both are operators of their
own, so that torch.compile takes them as they are instead of unrolling the loops.

Shape shorthand: B images, n heads, d channels of a head, (H, W) the query grid, (h, w)
the key grid, M = h * w, (Y, X) a rectangle of the query grid, T queries of a tile, K keys
of a block.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from .dropout import KeepMask
from .logits import Logits
from .tiles import KeyBlock, cut

_T = TypeVar('_T')
# PyTorch has one number of threads for all: who changes it keeps others from it.
_number_of_threads = threading.Lock()


def blockwise_attention(
    logits: Logits, value: Tensor, dropout_p: float = 0.0, seed: Tensor | None = None
) -> Tensor:
    """As :func:`.dense.dense_attention`, in memory that does not grow with N x M.

    It computes in float32 at least, whatever the precision of the input. There are no
    second derivatives.
    """
    query, key, content_scale, position = logits
    content_scale = content_scale.expand(*query.shape[:2], 1, 1, 1)
    met, rows, columns = position or (None, None, None)
    met = None if met is None else met.expand(query.shape)
    inputs = query, key, value, content_scale, met, rows, columns
    out, _, _ = _forward(*inputs, dropout_p, seed)
    return out.to(value.dtype)


def _each_head(compute: Callable[[tuple[int, ...]], _T], query: Tensor) -> list[_T]:
    """What ``compute`` returns for each image and head, on a CPU for some at a time.

    A thread of its own for each head keeps a tile in the cache of one core. Threads that
    share every operation pass its lines around between them.
    """
    indices = list(itertools.product(*map(range, query.shape[:2])))
    with _number_of_threads:
        threads = torch.get_num_threads()
    workers = min(threads, len(indices)) if query.device.type == 'cpu' else 1
    inference = torch.is_inference_mode_enabled()

    def alone(index: tuple[int, ...]) -> _T:
        # A new thread knows nothing of its parent's modes.
        with torch.inference_mode(inference), torch.no_grad():
            with torch.autocast(query.device.type, enabled=False):
                return compute(index)

    if workers == 1:
        return [alone(index) for index in indices]
    with _number_of_threads, ThreadPoolExecutor(workers) as pool:
        torch.set_num_threads(threads // workers)
        try:
            return list(pool.map(alone, indices))
        finally:
            torch.set_num_threads(threads)


class _Keys(NamedTuple):
    """A block of keys of a head."""

    block: KeyBlock
    key: Tensor  # (d, K)
    value: Tensor  # (K, d)
    numbers: Tensor | None  # (K,), for dropout


class _Queries(NamedTuple):
    """Queries of a head: a rectangle of the grid, or a tile of one."""

    scale: float
    query: Tensor  # (T, d)
    tables: tuple[Tensor, Tensor] | None  # row table (T, h) and column table (T, w)
    numbers: Tensor | None  # (T,), for dropout

    def tile(self, of: slice) -> _Queries:
        tables = self.tables
        return _Queries(
            self.scale,
            self.query[of],
            None if tables is None else (tables[0][of], tables[1][of]),
            None if self.numbers is None else self.numbers[of],
        )

    def zeros(self) -> _Queries:
        """For gradients."""
        tables = self.tables
        if tables is not None:
            tables = torch.zeros_like(tables[0]), torch.zeros_like(tables[1])
        return self._replace(query=torch.zeros_like(self.query), tables=tables)

    def room(self, keys: _Keys, memory: Tensor) -> Tensor:
        """The start of ``memory`` as (T, K)."""
        shape = len(self.query), len(keys.value)
        return memory[: math.prod(shape)].view(shape)

    def logits(self, keys: _Keys, memory: Tensor) -> Tensor:
        """(T, K), at the start of ``memory``."""
        logits = self.room(keys, memory)
        # With beta=0 what is there, if only memory that was never set, is not looked at.
        beta = 0
        if self.tables is not None:
            by_row = self.tables[0][:, keys.block.rows].unsqueeze(2)
            by_column = self.tables[1][:, keys.block.columns].unsqueeze(1)
            torch.add(by_row, by_column, out=keys.block.on_grid(logits))
            beta = 1
        return logits.addmm_(self.query, keys.key, beta=beta, alpha=self.scale)


class _Head:
    """One head of one image, in the precision of the computation."""

    def __init__(
        self,
        index: tuple[int, ...],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        content_scale: Tensor,
        met: Tensor | None,
        rows: Tensor | None,
        columns: Tensor | None,
    ) -> None:
        dtype = _compute_dtype(query)
        self.index = index
        self.scale = content_scale[index].item()
        self.query = query[index].to(dtype)  # (H, W, d)
        self.key = key[index].flatten(0, 1).to(dtype)  # (M, d)
        self.value = value[index].flatten(0, 1).to(dtype)  # (M, d)
        self.met = None
        if met is not None and rows is not None and columns is not None:
            self.met = met[index].to(dtype)  # (H, W, d)
            self.rows = rows[:, :, index[1]].to(dtype)  # (H, h, d)
            self.columns = columns[:, :, index[1]].to(dtype)  # (W, w, d)

    def queries(self, at: tuple[slice, slice], mask: KeepMask | None) -> _Queries:
        """Those of a rectangle."""
        query = self.query[at].flatten(0, 1)
        tables = numbers = None
        if self.met is not None:
            met = self.met[at]
            # The queries of a row share its codes, those of a column its codes.
            by_row = met @ self.rows[at[0]].mT
            by_column = met.transpose(0, 1) @ self.columns[at[1]].mT
            tables = by_row.flatten(0, 1), by_column.transpose(0, 1).flatten(0, 1)
        if mask is not None:
            numbers = mask.queries[self.index][at].flatten()
        return _Queries(self.scale, query, tables, numbers)

    def keys(self, blocks: list[KeyBlock], mask: KeepMask | None) -> list[_Keys]:
        numbers = None if mask is None else mask.keys[self.index].flatten()
        return [
            _Keys(
                block,
                self.key[block.keys].t(),
                self.value[block.keys],
                None if numbers is None else numbers[block.keys],
            )
            for block in blocks
        ]


def _compute_dtype(query: Tensor) -> torch.dtype:
    return torch.promote_types(query.dtype, torch.float32)


def _exp(x: Tensor, less: Tensor) -> Tensor:
    """exp(x - less), in the memory of x."""
    # PyTorch's exp takes three times as long as its exp2 on some CPUs. Only what is left
    # of large logits is rescaled, where that costs no precision.
    return x.sub_(less).mul_(math.log2(math.e)).exp2_()


class _Work:
    """How a call is cut up, and its dropout."""

    def __init__(
        self, query: Tensor, key: Tensor, dropout_p: float, seed: Tensor | None
    ) -> None:
        size, key_size = query.shape[:4], key.shape[2:4]
        self.rectangles, self.blocks = cut(size[2:], key_size, query.device.type)
        self.mask = None
        if seed is not None:
            self.mask = KeepMask(dropout_p, seed, size, key_size, query.device)

    def memory(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """For the weights of any tile, and for what dropout keeps of them.

        To allocate it anew for each costs as much as its use.
        """
        queries = max(t.stop - t.start for r in self.rectangles for t in r.tiles)
        numel = queries * max(b.keys.stop - b.keys.start for b in self.blocks)
        kept = 0 if self.mask is None else numel
        return like.new_empty(numel), like.new_empty(kept, dtype=torch.int32)

    def keep(self, queries: _Queries, keys: _Keys, memory: Tensor) -> Tensor | None:
        """Which weights dropout keeps, (T, K), at the start of ``memory``; None for all."""
        if self.mask is None or queries.numbers is None or keys.numbers is None:
            return None
        out = queries.room(keys, memory)
        return self.mask(queries.numbers, keys.numbers, out=out)


_INPUTS = (
    'Tensor query, Tensor key, Tensor value, Tensor content_scale, '
    'Tensor? met, Tensor? rows, Tensor? columns, float dropout_p, Tensor? seed'
)


@torch.library.custom_op(
    'mmgcnl::blockwise_attention',
    mutates_args=(),
    schema=f'({_INPUTS}) -> (Tensor out, Tensor largest, Tensor total)',
)
def _forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    content_scale: Tensor,
    met: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Besides the output a query's largest logit and its sum of exp(logit - largest)."""
    results = _results(query)
    if query.numel() == 0:
        return results
    work = _Work(query, key, dropout_p, seed)

    def compute(index: tuple[int, ...]) -> None:
        head = _Head(index, query, key, value, content_scale, met, rows, columns)
        _forward_head(head, work, tuple(result[index] for result in results))

    _each_head(compute, query)
    return results


def _results(query: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out = query.new_empty(query.shape, dtype=_compute_dtype(query))
    return out, torch.empty_like(out[..., :1]), torch.empty_like(out[..., :1])


def _forward_head(head: _Head, work: _Work, results: tuple[Tensor, ...]) -> None:
    memory, keep_memory = work.memory(head.key)
    all_keys = head.keys(work.blocks, work.mask)
    for rectangle in work.rectangles:
        at = rectangle.rows, rectangle.columns
        queries = head.queries(at, work.mask)
        out = torch.zeros_like(queries.query)
        largest = torch.full_like(out[:, :1], -torch.inf)
        total = torch.zeros_like(largest)
        for span in rectangle.tiles:
            tile, y, top, sum_ = queries.tile(span), out[span], largest[span], total[span]
            for keys in all_keys:
                weights = tile.logits(keys, memory)
                new_top = torch.maximum(top, weights.amax(1, keepdim=True))
                _exp(weights, new_top)
                shrink = _exp(top, new_top)
                torch.addcmul(weights.sum(1, keepdim=True), sum_, shrink, out=sum_)
                keep = work.keep(tile, keys, keep_memory)
                if keep is not None:
                    weights *= keep
                y.mul_(shrink).addmm_(weights, keys.value)
                top = new_top
            largest[span] = top
        out /= total if work.mask is None else total / work.mask.scale
        for result, of_rectangle in zip(results, (out, largest, total)):
            result[at] = of_rectangle.view(result[at].shape)


@_forward.register_fake
def _(query: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _results(query)


@torch.library.custom_op(
    'mmgcnl::blockwise_attention_backward',
    mutates_args=(),
    schema=f'(Tensor grad, Tensor largest, Tensor total, {_INPUTS}) -> Tensor[]',
)
def _backward(
    grad: Tensor,
    largest: Tensor,
    total: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    content_scale: Tensor,
    met: Tensor | None,
    rows: Tensor | None,
    columns: Tensor | None,
    dropout_p: float,
    seed: Tensor | None,
) -> list[Tensor]:
    """The gradients of query, key, value and, where given, of met, rows and columns."""
    of_images = [t for t in (query, key, value, met) if t is not None]
    grads = [t.new_zeros(t.shape) for t in of_images]
    # These collect from all images.
    codes = [t for t in (rows, columns) if t is not None]
    d_codes = [t.new_zeros(t.shape, dtype=largest.dtype) for t in codes]
    if grad.numel() > 0:
        work = _Work(query, key, dropout_p, seed)

        def compute(index: tuple[int, ...]) -> list[Tensor]:
            head = _Head(index, query, key, value, content_scale, met, rows, columns)
            of_head = [t[index] for t in (grad, largest, total)]
            return _backward_head(head, work, of_head, [t[index] for t in grads])

        indices = itertools.product(*map(range, query.shape[:2]))
        for (_, n), of_head in zip(indices, _each_head(compute, query)):
            for d_code, part in zip(d_codes, of_head):
                d_code[:, :, n] += part
    return [*grads, *(d.to(t.dtype) for d, t in zip(d_codes, codes))]


def _backward_head(
    head: _Head, work: _Work, saved: list[Tensor], grads: list[Tensor]
) -> list[Tensor]:
    """Fill ``grads`` of query, key, value and met; return those of rows and columns."""
    memory, keep_memory = work.memory(head.key)
    d_memory = torch.empty_like(memory)
    d_key, d_value = torch.zeros_like(head.key), torch.zeros_like(head.value)
    all_keys = [
        (keys, d_key[keys.block.keys], d_value[keys.block.keys])
        for keys in head.keys(work.blocks, work.mask)
    ]
    d_codes = []
    if head.met is not None:
        d_codes = [torch.zeros_like(head.rows), torch.zeros_like(head.columns)]

    def products(
        tile: _Queries, keys: _Keys, top: Tensor, d_y: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Weights, their gradients, and which of them dropout keeps."""
        weights = _exp(tile.logits(keys, memory), top)
        d_weights = tile.room(keys, d_memory)
        torch.mm(d_y, keys.value.t(), out=d_weights)
        keep = work.keep(tile, keys, keep_memory)
        if keep is not None:
            d_weights *= keep
        return weights, d_weights, keep

    for rectangle in work.rectangles:
        at = rectangle.rows, rectangle.columns
        queries = head.queries(at, work.mask)
        dy, largest, total = (t[at].flatten(0, 1) for t in saved)
        # The weights are left undivided by their sum: what they meet is divided.
        dy = dy / (total if work.mask is None else total / work.mask.scale)
        d_queries = queries.zeros()
        for span in rectangle.tiles:
            tile, d_tile = queries.tile(span), d_queries.tile(span)
            top, sum_, d_y = largest[span], total[span], dy[span]
            # From the same products as the rest, as what it is taken from may be all but
            # equal to it. The output, which has it too, is rounded otherwise.
            mean = torch.zeros_like(top)
            for keys, _, _ in all_keys:
                weights, d_weights, keep = products(tile, keys, top, d_y)
                mean += (weights * d_weights).sum(1, keepdim=True)
            mean /= sum_
            for keys, d_k, d_v in all_keys:
                if len(all_keys) > 1:
                    weights, d_weights, keep = products(tile, keys, top, d_y)
                d_logits = d_weights.sub_(mean).mul_(weights)
                if keep is not None:
                    weights *= keep
                d_v.addmm_(weights.t(), d_y)
                d_tile.query.addmm_(d_logits, keys.key.t())
                d_k.addmm_(d_logits.t(), tile.query, alpha=head.scale)
                if d_tile.tables is not None:
                    on_grid = keys.block.on_grid(d_logits)
                    d_tile.tables[0][:, keys.block.rows] += on_grid.sum(2)
                    d_tile.tables[1][:, keys.block.columns] += on_grid.sum(1)
        d_query = d_queries.query * head.scale
        grads[0][at] = d_query.view(grads[0][at].shape)
        if head.met is not None and d_queries.tables is not None:
            met = head.met[at]
            shape = *met.shape[:2], -1
            d_by_row, d_by_column = (table.view(shape) for table in d_queries.tables)
            d_by_column = d_by_column.transpose(0, 1)
            d_met = d_by_row @ head.rows[at[0]]
            d_met += (d_by_column @ head.columns[at[1]]).transpose(0, 1)
            grads[3][at] = d_met
            d_codes[0][at[0]] += d_by_row.mT @ met
            d_codes[1][at[1]] += d_by_column.mT @ met.transpose(0, 1)
    for result, of_keys in zip(grads[1:3], (d_key, d_value)):
        result.copy_(of_keys.view(result.shape))
    return d_codes


@_backward.register_fake
def _(grad: Tensor, largest: Tensor, total: Tensor, *inputs: Any) -> list[Tensor]:
    query, key, value, _, *position = inputs[:7]
    return [t.new_empty(t.shape) for t in (query, key, value, *position) if t is not None]


def _setup_context(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]
) -> None:
    *tensors, ctx.dropout_p, seed = inputs
    ctx.save_for_backward(*output[1:], *tensors, seed)
    ctx.mark_non_differentiable(*output[1:])


def _gradients(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, seed = ctx.saved_tensors
    grads = _backward(grad, *tensors, ctx.dropout_p, seed)
    position = grads[3:] or (None, None, None)
    return (*grads[:3], None, *position, None, None)


_forward.register_autograd(_gradients, setup_context=_setup_context)
