"""The fused attention as Triton kernels. :mod:`.fused` imports it when it is first needed.

Shape shorthand: G heads of all images, (H, W) the query grid, N = H * W queries, (h, w)
the key grid, M = h * w keys, d channels of a head. All tensors are contiguous. Without
position the key grid is (1, M).

A tile of keys is a stretch of one row of the key grid. All its keys share an entry of the
row table; the tiles of a stretch of columns, one below the other, share their entries of
the column table, which therefore stays in registers on the way down. Tables hold logits
times log2(e), because the kernels use powers of two. The order of the loops, the running
softmax and the recomputation are those of FlashAttention-2 (Dao, 2023) and of Triton's
tutorial on fused attention.

Loads beyond the last query or key read the last one again, which is cheaper than a mask.
What is computed from them is either multiplied by a weight of zero or not stored.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _load(start, rows, channels, d: tl.constexpr, BLOCK_D: tl.constexpr):
    """(rows, BLOCK_D) of a matrix with d columns, zero beyond its columns."""
    at = start + rows[:, None] * d + channels[None, :]
    if d == BLOCK_D:
        return tl.load(at)
    return tl.load(at, mask=(channels < d)[None, :], other=0.0)


@triton.jit
def _row_entries(queries, W, h):
    """Where the entries of queries for key row 0 are in a row table (H, h, W)."""
    return queries // W * (h * W) + queries % W


@triton.jit
def _column_entries(queries, H, W, stride):
    """Where the entries of queries for key column 0 are in a table (W, H, stride)."""
    return (queries % W * H + queries // W) * stride


@triton.jit
def forward_kernel(
    query, key, value, row_table, column_table, content_scale, out, lse, query_numbers,
    key_numbers, threshold, keep_scale, H, W, h, w, stride,
    d: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    POSITION: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile of queries against all keys, with a running softmax."""
    head = tl.program_id(1).to(tl.int64)
    N = H * W
    M = h * w
    queries = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside_queries = queries < N
    safe = tl.minimum(queries, N - 1)
    channels = tl.arange(0, BLOCK_D)
    key += head * M * d
    value += head * M * d
    q = _load(query + head * N * d, safe, channels, d, BLOCK_D)
    scale = tl.load(content_scale + head) * LOG2_E
    row_max = tl.full([BLOCK_M], float('-inf'), tl.float32)
    row_sum = tl.zeros([BLOCK_M], tl.float32)
    y = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if POSITION:
        row_entries = row_table + head * N * h + _row_entries(safe, W, h)
        column_entries = column_table + head * N * stride
        column_entries += _column_entries(safe, H, W, stride)
    if DROPOUT:
        key_numbers += head * M
        a = tl.load(query_numbers + head * N + safe)
    for start in range(0, w, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        safe_columns = tl.minimum(columns, w - 1)
        bias = tl.where(columns < w, 0.0, float('-inf'))[None, :]
        if POSITION:
            bias += tl.load(column_entries[:, None] + columns[None, :])
        for row in range(0, h):
            keys = row * w + safe_columns
            k = _load(key, keys, channels, d, BLOCK_D)
            logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale + bias
            new_max = tl.max(logits, 1)
            if POSITION:
                by_row = tl.load(row_entries + row * W)
                new_max = tl.maximum(row_max, new_max + by_row)
                weights = tl.exp2(logits + (by_row - new_max)[:, None])
            else:
                new_max = tl.maximum(row_max, new_max)
                weights = tl.exp2(logits - new_max[:, None])
            correction = tl.exp2(row_max - new_max)
            row_sum = row_sum * correction + tl.sum(weights, 1)
            if DROPOUT:
                b = tl.load(key_numbers + keys)
                weights = tl.where(a[:, None] * b[None, :] >= threshold, weights, 0.0)
            v = _load(value, keys, channels, d, BLOCK_D)
            y = tl.dot(
                weights.to(v.dtype), v, acc=y * correction[:, None],
                input_precision=PRECISION,
            )  # fmt: skip
            row_max = new_max
    y = y * (keep_scale / row_sum)[:, None]
    inside = inside_queries[:, None] & (channels < d)[None, :]
    at = out + head * N * d + queries[:, None] * d + channels[None, :]
    tl.store(at, y.to(out.dtype.element_ty), mask=inside)
    tl.store(lse + head * N + queries, row_max + tl.log2(row_sum), mask=inside_queries)


@triton.jit
def query_gradient_kernel(
    query, key, value, row_table, column_table, content_scale, d_out, lse, delta,
    query_numbers, key_numbers, threshold, keep_scale,
    d_query, d_row_table, d_column_table, H, W, h, w, stride,
    d: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    POSITION: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """For a tile of queries: the gradients of the queries and of both tables."""
    head = tl.program_id(1).to(tl.int64)
    N = H * W
    M = h * w
    queries = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside_queries = queries < N
    safe = tl.minimum(queries, N - 1)
    channels = tl.arange(0, BLOCK_D)
    key += head * M * d
    value += head * M * d
    q = _load(query + head * N * d, safe, channels, d, BLOCK_D)
    dy = _load(d_out + head * N * d, safe, channels, d, BLOCK_D)
    scale = tl.load(content_scale + head)
    scale_2 = scale * LOG2_E
    minus_lse = -tl.load(lse + head * N + safe)
    D = tl.load(delta + head * N + safe) / keep_scale
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if POSITION:
        row_offsets = head * N * h + _row_entries(safe, W, h)
        column_offsets = head * N * stride + _column_entries(safe, H, W, stride)
    if DROPOUT:
        key_numbers += head * M
        a = tl.load(query_numbers + head * N + safe)
    for start in range(0, w, BLOCK_N):
        columns = start + tl.arange(0, BLOCK_N)
        safe_columns = tl.minimum(columns, w - 1)
        bias = tl.where(columns < w, 0.0, float('-inf'))[None, :]
        d_column = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        if POSITION:
            bias += tl.load((column_table + column_offsets)[:, None] + columns[None, :])
            # The sums over the stretch before, which other threads may have stored.
            tl.debug_barrier()
        for row in range(0, h):
            keys = row * w + safe_columns
            k = _load(key, keys, channels, d, BLOCK_D)
            v = _load(value, keys, channels, d, BLOCK_D)
            by_query = minus_lse
            if POSITION:
                by_query += tl.load(row_table + row_offsets + row * W)
            logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_2 + bias
            weights = tl.exp2(logits + by_query[:, None])
            d_weights = tl.dot(dy, tl.trans(v), input_precision=PRECISION)
            if DROPOUT:
                b = tl.load(key_numbers + keys)
                kept = a[:, None] * b[None, :] >= threshold
                dropped = tl.where(kept, weights, 0.0)
                # keep_scale follows where the sums are stored.
                d_logits = dropped * d_weights - weights * D[:, None]
            else:
                d_logits = weights * (d_weights - D[:, None])
            dq = tl.dot(d_logits.to(k.dtype), k, acc=dq, input_precision=PRECISION)
            if POSITION:
                d_column += d_logits
                d_row = tl.sum(d_logits, 1) * (LN_2 * keep_scale)
                at = d_row_table + row_offsets + row * W
                if start > 0:
                    d_row += tl.load(at)
                tl.store(at, d_row, mask=inside_queries)
        if POSITION:
            at = (d_column_table + column_offsets)[:, None] + columns[None, :]
            tl.store(at, d_column * (LN_2 * keep_scale), mask=inside_queries[:, None])
    at = d_query + head * N * d + queries[:, None] * d + channels[None, :]
    inside = inside_queries[:, None] & (channels < d)[None, :]
    tl.store(at, (dq * (scale * keep_scale)).to(d_query.dtype.element_ty), mask=inside)


@triton.jit
def key_gradient_kernel(
    query, key, value, row_table, column_table, content_scale, d_out, lse, delta,
    query_numbers, key_numbers, threshold, keep_scale, d_key, d_value, H, W, h, w, stride,
    d: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    POSITION: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """For a tile of keys: the gradients of keys and values."""
    head = tl.program_id(1).to(tl.int64)
    N = H * W
    M = h * w
    stretches = tl.cdiv(w, BLOCK_N)
    row = tl.program_id(0) // stretches
    columns = tl.program_id(0) % stretches * BLOCK_N + tl.arange(0, BLOCK_N)
    keys = row * w + tl.minimum(columns, w - 1)
    channels = tl.arange(0, BLOCK_D)
    k = _load(key + head * M * d, keys, channels, d, BLOCK_D)
    v = _load(value + head * M * d, keys, channels, d, BLOCK_D)
    query += head * N * d
    d_out += head * N * d
    lse += head * N
    delta += head * N
    scale = tl.load(content_scale + head)
    scale_2 = scale * LOG2_E
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    if POSITION:
        row_table += head * N * h + row * W
        column_table += head * N * stride
    if DROPOUT:
        query_numbers += head * N
        b = tl.load(key_numbers + head * M + keys)
    if POSITION:
        # Where the entries of the queries are, updated by additions: divisions are slow.
        queries = tl.arange(0, BLOCK_M)
        x = queries % W
        row_entries = _row_entries(queries, W, h)
        column_entries = _column_entries(queries, H, W, stride)
        last_row_entry = (H - 1) * h * W + W - 1
        last_column_entry = (N - 1) * stride
        row_step = BLOCK_M // W * h * W + BLOCK_M % W
        column_step = (BLOCK_M % W * H + BLOCK_M // W) * stride
    for start in range(0, N, BLOCK_M):
        queries = start + tl.arange(0, BLOCK_M)
        safe = tl.minimum(queries, N - 1)
        q = _load(query, safe, channels, d, BLOCK_D)
        dy = _load(d_out, safe, channels, d, BLOCK_D)
        # Queries beyond the last get weights of zero.
        by_query = -tl.load(lse + queries, mask=queries < N, other=float('inf'))
        D = tl.load(delta + safe)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_2
        if POSITION:
            by_query += tl.load(row_table + tl.minimum(row_entries, last_row_entry))
            at = column_table + tl.minimum(column_entries, last_column_entry)
            logits += tl.load(at[:, None] + columns[None, :])
            x += BLOCK_M % W
            wrap = x >= W
            x = tl.where(wrap, x - W, x)
            row_entries += tl.where(wrap, row_step + (h - 1) * W, row_step)
            column_entries += tl.where(wrap, column_step - (N - 1) * stride, column_step)
        # Keys beyond the last get some weights, too, but their gradients are not stored.
        weights = tl.exp2(logits + by_query[:, None])
        d_weights = tl.dot(dy, tl.trans(v), input_precision=PRECISION)
        if DROPOUT:
            a = tl.load(query_numbers + safe)
            kept = a[:, None] * b[None, :] >= threshold
            dropped = tl.where(kept, weights, 0.0)
            # keep_scale follows at the end, as for dv.
            d_logits = dropped * d_weights - weights * (D / keep_scale)[:, None]
        else:
            dropped = weights
            d_logits = weights * (d_weights - D[:, None])
        dv = tl.dot(tl.trans(dropped.to(dy.dtype)), dy, acc=dv, input_precision=PRECISION)
        dk = tl.dot(tl.trans(d_logits.to(q.dtype)), q, acc=dk, input_precision=PRECISION)
    offsets = head * M * d + keys[:, None] * d + channels[None, :]
    inside = (columns < w)[:, None] & (channels < d)[None, :]
    dk = dk * (scale * keep_scale)
    tl.store(d_key + offsets, dk.to(d_key.dtype.element_ty), mask=inside)
    dv = dv * keep_scale
    tl.store(d_value + offsets, dv.to(d_value.dtype.element_ty), mask=inside)
