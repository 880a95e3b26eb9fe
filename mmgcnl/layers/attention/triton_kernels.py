"""The fused attention as Triton kernels. Imported by :mod:`.fused` alone, when needed.

Shape shorthand: G heads of all images, N queries, (h, w) the key grid, M = h * w keys,
d channels of a head. All tensors are contiguous. Without position the key grid is (1, M).

A tile of keys is a stretch of one row of the key grid. All keys of a tile then share an
entry of the row table, and the tiles of a stretch of columns, one below the other, share
their entries of the column table, which so stays in registers on the way down.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _keep(query_numbers, key_numbers, head, queries, keys, N, M, threshold):
    """Bool (queries, keys), as :class:`.dropout.KeepMask` says."""
    a = tl.load(query_numbers + head * N + queries, mask=queries < N, other=0)
    b = tl.load(key_numbers + head * M + keys, mask=keys < M, other=0)
    return a[:, None] * b[None, :] >= threshold


@triton.jit
def _load(start, rows, columns, num_rows, num_columns, stride):
    """(rows, columns) of a matrix, zero outside of it."""
    inside = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
    return tl.load(
        start + rows[:, None] * stride + columns[None, :], mask=inside, other=0.0
    )


@triton.jit
def forward_kernel(
    query, key, value, row_table, column_table, content_scale, out, lse, query_numbers,
    key_numbers, threshold, keep_scale, N, h, w,
    d: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    POSITION: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of queries against all keys, with the softmax kept up on the way."""
    head = tl.program_id(1).to(tl.int64)
    M = h * w
    queries = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channels = tl.arange(0, BLOCK_D)
    q = _load(query + head * N * d, queries, channels, N, d, d)
    scale = tl.load(content_scale + head) * LOG2_E
    largest = tl.full([BLOCK_M], float('-inf'), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    y = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, w, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        if POSITION:
            by_column = _load(column_table + head * N * w, queries, columns, N, w, w)
        for row in range(0, h):
            keys = tl.where(columns < w, row * w + columns, M)
            k = _load(key + head * M * d, keys, channels, M, d, d)
            logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
            if POSITION:
                by_row = tl.load(
                    row_table + (head * N + queries) * h + row, mask=queries < N, other=0.0
                )
                logits += (by_column + by_row[:, None]) * LOG2_E
            logits = tl.where((columns < w)[None, :], logits, float('-inf'))
            new_largest = tl.maximum(largest, tl.max(logits, 1))
            weights = tl.exp2(logits - new_largest[:, None])
            shrink = tl.exp2(largest - new_largest)
            total = total * shrink + tl.sum(weights, 1)
            if DROPOUT:
                kept = _keep(
                    query_numbers, key_numbers, head, queries, keys, N, M, threshold
                )
                weights = tl.where(kept, weights * keep_scale, 0.0)
            v = _load(value + head * M * d, keys, channels, M, d, d)
            y = y * shrink[:, None]
            y += tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
            largest = new_largest
    y = y / total[:, None]
    inside = (queries < N)[:, None] & (channels < d)[None, :]
    index = (head * N + queries[:, None]) * d + channels[None, :]
    tl.store(out + index, y.to(out.dtype.element_ty), mask=inside)
    tl.store(lse + head * N + queries, largest + tl.log2(total), mask=queries < N)


@triton.jit
def _d_logits(
    q, k, v, dy, scale, by_row, by_column, lse, delta, inside,
    query_numbers, key_numbers, head, queries, keys, N, M, threshold, keep_scale,
    POSITION: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The weights after dropout, and the gradient of the logits, of a tile."""
    logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    if POSITION:
        logits += (by_column + by_row[:, None]) * LOG2_E
    weights = tl.where(inside, tl.exp2(logits - lse[:, None]), 0.0)
    d_weights = tl.dot(dy, tl.trans(v), input_precision=PRECISION)
    dropped = weights
    if DROPOUT:
        kept = _keep(query_numbers, key_numbers, head, queries, keys, N, M, threshold)
        dropped = tl.where(kept, weights * keep_scale, 0.0)
        d_weights = tl.where(kept, d_weights * keep_scale, 0.0)
    return dropped, weights * (d_weights - delta[:, None])


@triton.jit
def query_gradient_kernel(
    query, key, value, row_table, column_table, content_scale, d_out, lse, delta,
    query_numbers, key_numbers, threshold, keep_scale,
    d_query, d_row_table, d_column_table, N, h, w,
    d: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    POSITION: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What belongs to a tile of queries: the gradients of the queries and both tables."""
    head = tl.program_id(1).to(tl.int64)
    M = h * w
    queries = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    channels = tl.arange(0, BLOCK_D)
    q = _load(query + head * N * d, queries, channels, N, d, d)
    dy = _load(d_out + head * N * d, queries, channels, N, d, d)
    scale = tl.load(content_scale + head)
    of_query = head * N + queries
    L = tl.load(lse + of_query, mask=queries < N, other=0.0)
    D = tl.load(delta + of_query, mask=queries < N, other=0.0)
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    by_row = L
    by_column = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, w, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        inside = (queries < N)[:, None] & (columns < w)[None, :]
        d_column = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        if POSITION:
            by_column = _load(column_table + head * N * w, queries, columns, N, w, w)
        for row in range(0, h):
            keys = tl.where(columns < w, row * w + columns, M)
            k = _load(key + head * M * d, keys, channels, M, d, d)
            v = _load(value + head * M * d, keys, channels, M, d, d)
            if POSITION:
                by_row = tl.load(
                    row_table + of_query * h + row, mask=queries < N, other=0.0
                )
            _, d_logits = _d_logits(
                q, k, v, dy, scale * LOG2_E, by_row, by_column, L, D, inside,
                query_numbers, key_numbers, head, queries, keys, N, M,
                threshold, keep_scale, POSITION, DROPOUT, PRECISION,
            )  # fmt: skip
            dq += tl.dot(d_logits.to(k.dtype), k, input_precision=PRECISION)
            if POSITION:
                d_column += d_logits
                tl.atomic_add(
                    d_row_table + of_query * h + row,
                    tl.sum(d_logits, 1),
                    mask=queries < N,
                    sem='relaxed',
                )
        if POSITION:
            index = of_query[:, None] * w + columns[None, :]
            tl.store(d_column_table + index, d_column, mask=inside)
    index = of_query[:, None] * d + channels[None, :]
    inside = (queries < N)[:, None] & (channels < d)[None, :]
    tl.store(d_query + index, (dq * scale).to(d_query.dtype.element_ty), mask=inside)


@triton.jit
def key_gradient_kernel(
    query, key, value, row_table, column_table, content_scale, d_out, lse, delta,
    query_numbers, key_numbers, threshold, keep_scale, d_key, d_value, N, h, w,
    d: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    POSITION: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What belongs to a tile of keys: the gradients of keys and values."""
    head = tl.program_id(1).to(tl.int64)
    M = h * w
    stretches = tl.cdiv(w, BLOCK_N)
    row = tl.program_id(0) // stretches
    columns = tl.program_id(0) % stretches * BLOCK_N + tl.arange(0, BLOCK_N)
    keys = tl.where(columns < w, row * w + columns, M)
    channels = tl.arange(0, BLOCK_D)
    k = _load(key + head * M * d, keys, channels, M, d, d)
    v = _load(value + head * M * d, keys, channels, M, d, d)
    scale = tl.load(content_scale + head)
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    by_column = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, N, BLOCK_M):
        queries = start + tl.arange(0, BLOCK_M)
        inside = (queries < N)[:, None] & (columns < w)[None, :]
        q = _load(query + head * N * d, queries, channels, N, d, d)
        dy = _load(d_out + head * N * d, queries, channels, N, d, d)
        L = tl.load(lse + head * N + queries, mask=queries < N, other=0.0)
        D = tl.load(delta + head * N + queries, mask=queries < N, other=0.0)
        by_row = L
        if POSITION:
            by_column = _load(column_table + head * N * w, queries, columns, N, w, w)
            by_row = tl.load(
                row_table + (head * N + queries) * h + row, mask=queries < N, other=0.0
            )
        weights, d_logits = _d_logits(
            q, k, v, dy, scale * LOG2_E, by_row, by_column, L, D, inside,
            query_numbers, key_numbers, head, queries, keys, N, M, threshold, keep_scale,
            POSITION, DROPOUT, PRECISION,
        )  # fmt: skip
        dv += tl.dot(tl.trans(weights.to(dy.dtype)), dy, input_precision=PRECISION)
        dk += tl.dot(tl.trans(d_logits.to(q.dtype)), q, input_precision=PRECISION)
    index = (head * M + keys[:, None]) * d + channels[None, :]
    inside = (columns < w)[:, None] & (channels < d)[None, :]
    tl.store(d_key + index, (dk * scale).to(d_key.dtype.element_ty), mask=inside)
    tl.store(d_value + index, dv.to(d_value.dtype.element_ty), mask=inside)
