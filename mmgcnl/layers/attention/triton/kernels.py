"""The fused attention as Triton kernels. :mod:`.operator` imports it when first needed.

Shape shorthand: G heads of all images, (H, W) the query grid, N = H * W queries, (h, w)
the key grid, M = h * w keys, d channels of a head. All tensors are contiguous. Without
position the key grid is (1, M).

A tile of keys is a stretch of one row of the key grid. All its keys share an entry of the
row table; the tiles of a stretch of columns, one below the other, share their entries of
the column table, which therefore stays in registers on the way down. Columns that do not
fill a tile would leave a part of it idle in every row. With TAIL, their tiles are
stretches of one column instead, and the two tables change places.

Tables hold logits times log2(e), because the kernels use powers of two. They are those of
``table_heads`` heads: of one image where position does not depend on the content. The
order of the loops, the running softmax and the recomputation are those of
FlashAttention-2 (Dao, 2023) and of Triton's tutorial on fused attention. Tiles within one
key row, with one load of the row table and the column entries kept in registers, are those
of segment-anything-fast's ``flash_4.py`` (Puhrsch and Haziza, 2023), whose key rows are
exactly one tile of 64 keys; it has no backward pass.

Loads beyond the last query or key read the last one again, which is cheaper than a mask.
What is computed from them is either multiplied by a weight of zero or not stored. So it
does no harm that another thread may be storing the last one's sums of the gradients.

Sizes of the maps are not specialised: the code that was validated on a small map is the
code that runs on every map, and no map needs a compilation of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)
_SIZES = ['threshold', 'H', 'W', 'h', 'w', 'table_heads']

if hasattr(tl, 'mul'):

    @triton.jit
    def _wrapping_product(a, b):
        """a * b modulo 2^32, for which TRITON_DEBUG=1 would end the program."""
        return tl.mul(a, b, sanitize_overflow=False)
else:  # Triton 3.5 and earlier, where TRITON_DEBUG=1 does end it

    @triton.jit
    def _wrapping_product(a, b):
        return a * b


@triton.jit
def _load(start, rows, channels, d: tl.constexpr, BLOCK_D: tl.constexpr):
    """(rows, BLOCK_D) of a matrix with d columns, zero beyond its columns."""
    at = start + rows[:, None] * d + channels[None, :]
    if d == BLOCK_D:
        return tl.load(at)
    return tl.load(at, mask=(channels < d)[None, :], other=0.0)


@triton.jit
def _kept(a, b, threshold):
    """Which weights dropout keeps, by the numbers of the queries and of the keys."""
    return _wrapping_product(a[:, None], b[None, :]) >= threshold


@triton.jit
def _row_entries(queries, W, h):
    """Where the entries of queries for key row 0 are in a row table (H, h, W)."""
    return queries // W * (h * W) + queries % W


@triton.jit
def _column_entries(queries, H, W, stride):
    """Where the entries of queries for key column 0 are in a table (W, H, stride)."""
    return (queries % W * H + queries // W) * stride


@triton.jit
def _whole_columns(w, BLOCK_N: tl.constexpr, TAIL: tl.constexpr):
    """The number of key columns whose tiles are stretches of rows."""
    if TAIL:
        return w // BLOCK_N * BLOCK_N
    return w


@triton.jit
def _bias(
    row_table, column_table, row_entries, column_entries, start, length, W,
    BLOCK_N: tl.constexpr, POSITION: tl.constexpr, DOWN: tl.constexpr,
):  # fmt: skip
    """What a stretch adds to the logits of its tiles, -inf beyond the last key."""
    places = start + tl.arange(0, BLOCK_N)
    bias = tl.where(places < length, 0.0, float('-inf'))[None, :]
    if DOWN:
        rows = tl.minimum(places, length - 1)
        # Neighbouring queries are neighbours in the row table.
        bias += tl.trans(tl.load(row_table + (row_entries[None, :] + (rows * W)[:, None])))
    elif POSITION:
        bias += tl.load(column_table + (column_entries[:, None] + places[None, :]))
    return bias


@triton.jit
def _of_line(
    row_table, column_table, row_entries, column_entries, line, W, DOWN: tl.constexpr
):
    """What a line adds to the logits of its keys."""
    if DOWN:
        return tl.load(column_table + (column_entries + line))
    return tl.load(row_table + (row_entries + line * W))


@triton.jit
def _forward_tiles(
    y, row_max, row_sum, q, a, scale, key, value, key_numbers, threshold,
    row_table, column_table, row_entries, column_entries, first, lines, length, W, w,
    d: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    POSITION: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
    DOWN: tl.constexpr,
):  # fmt: skip
    """The running softmax over the keys of some lines, a tile of each line at a time.

    The lines are the first ``length`` keys of rows or, with DOWN, ``lines - first`` columns
    from column ``first`` on.
    """
    channels = tl.arange(0, BLOCK_D)
    for start in range(0, length, BLOCK_N):
        safe = tl.minimum(start + tl.arange(0, BLOCK_N), length - 1)
        bias = _bias(
            row_table, column_table, row_entries, column_entries, start, length, W,
            BLOCK_N, POSITION, DOWN,
        )  # fmt: skip
        for line in range(first, lines):
            keys = safe * w + line if DOWN else line * w + safe
            k = _load(key, keys, channels, d, BLOCK_D)
            logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale + bias
            new_max = tl.max(logits, 1)
            if POSITION:
                of_line = _of_line(
                    row_table, column_table, row_entries, column_entries, line, W, DOWN
                )
                new_max = tl.maximum(row_max, new_max + of_line)
                weights = tl.exp2(logits + (of_line - new_max)[:, None])
            else:
                new_max = tl.maximum(row_max, new_max)
                weights = tl.exp2(logits - new_max[:, None])
            correction = tl.exp2(row_max - new_max)
            row_sum = row_sum * correction + tl.sum(weights, 1)
            if DROPOUT:
                b = tl.load(key_numbers + keys)
                weights = tl.where(_kept(a, b, threshold), weights, 0.0)
            v = _load(value, keys, channels, d, BLOCK_D)
            y = tl.dot(
                weights.to(v.dtype), v, acc=y * correction[:, None],
                input_precision=PRECISION,
            )  # fmt: skip
            row_max = new_max
    return y, row_max, row_sum


@triton.jit(do_not_specialize=_SIZES)
def forward_kernel(
    query, key, value, row_table, column_table, content_scale, out, lse, query_numbers,
    key_numbers, threshold, keep_scale, H, W, h, w, stride, table_heads,
    d: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    TAIL: tl.constexpr, POSITION: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
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
    row_entries = safe
    column_entries = safe
    a = safe
    if POSITION:
        row_table += head % table_heads * N * h
        column_table += head % table_heads * N * stride
        row_entries = _row_entries(safe, W, h)
        column_entries = _column_entries(safe, H, W, stride)
    if DROPOUT:
        key_numbers += head * M
        a = tl.load(query_numbers + head * N + safe)
    whole = _whole_columns(w, BLOCK_N, TAIL)
    y, row_max, row_sum = _forward_tiles(
        y, row_max, row_sum, q, a, scale, key, value, key_numbers, threshold,
        row_table, column_table, row_entries, column_entries, 0, h, whole, W, w,
        d, BLOCK_D, BLOCK_N, POSITION, DROPOUT, PRECISION, False,
    )  # fmt: skip
    if TAIL:
        y, row_max, row_sum = _forward_tiles(
            y, row_max, row_sum, q, a, scale, key, value, key_numbers, threshold,
            row_table, column_table, row_entries, column_entries, whole, w, h, W, w,
            d, BLOCK_D, BLOCK_N, POSITION, DROPOUT, PRECISION, True,
        )  # fmt: skip
    y = y * (keep_scale / row_sum)[:, None]
    inside = inside_queries[:, None] & (channels < d)[None, :]
    at = out + head * N * d + queries[:, None] * d + channels[None, :]
    tl.store(at, y.to(out.dtype.element_ty), mask=inside)
    tl.store(lse + head * N + queries, row_max + tl.log2(row_sum), mask=inside_queries)


@triton.jit
def _query_gradient_tiles(
    dq, q, dy, a, scale_2, minus_lse, minus_D, key, value, key_numbers, threshold,
    row_table, column_table, d_row_table, d_column_table, row_entries, column_entries,
    table_scale, inside_queries, first, lines, length, W, w,
    d: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    POSITION: tl.constexpr, DROPOUT: tl.constexpr, PRECISION: tl.constexpr,
    DOWN: tl.constexpr,
):  # fmt: skip
    """The gradients from the keys of some lines; see :func:`_forward_tiles`."""
    channels = tl.arange(0, BLOCK_D)
    for start in range(0, length, BLOCK_N):
        places = start + tl.arange(0, BLOCK_N)
        safe = tl.minimum(places, length - 1)
        bias = _bias(
            row_table, column_table, row_entries, column_entries, start, length, W,
            BLOCK_N, POSITION, DOWN,
        )  # fmt: skip
        d_bias = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        if POSITION:
            # The sums over the stretch before, which other threads may have stored.
            tl.debug_barrier()
        for line in range(first, lines):
            keys = safe * w + line if DOWN else line * w + safe
            k = _load(key, keys, channels, d, BLOCK_D)
            v = _load(value, keys, channels, d, BLOCK_D)
            by_query = minus_lse
            if POSITION:
                by_query += _of_line(
                    row_table, column_table, row_entries, column_entries, line, W, DOWN
                )
            logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_2 + bias
            weights = tl.exp2(logits + by_query[:, None])
            # The matrix product starts from -D: that takes no subtraction per weight.
            start_at = tl.broadcast_to(minus_D[:, None], (BLOCK_M, BLOCK_N))
            d_weights = tl.dot(dy, tl.trans(v), acc=start_at, input_precision=PRECISION)
            if DROPOUT:
                b = tl.load(key_numbers + keys)
                kept = _kept(a, b, threshold)
                # keep_scale follows where the sums are stored.
                d_weights = tl.where(kept, d_weights, minus_D[:, None])
            d_logits = weights * d_weights
            dq = tl.dot(d_logits.to(k.dtype), k, acc=dq, input_precision=PRECISION)
            if POSITION:
                d_bias += d_logits
                d_line = tl.sum(d_logits, 1) * table_scale
                if DOWN:
                    at = d_column_table + (column_entries + line)
                else:
                    at = d_row_table + (row_entries + line * W)
                if start > 0:
                    d_line += tl.load(at)
                tl.store(at, d_line, mask=inside_queries)
        if POSITION:
            d_bias *= table_scale
            if DOWN:
                at = d_row_table + (row_entries[None, :] + (safe * W)[:, None])
                inside = inside_queries[None, :] & (places < length)[:, None]
                tl.store(at, tl.trans(d_bias) + tl.load(at), mask=inside)
            else:
                at = d_column_table + (column_entries[:, None] + places[None, :])
                tl.store(at, d_bias, mask=inside_queries[:, None])
    return dq


@triton.jit(do_not_specialize=_SIZES)
def query_gradient_kernel(
    query, key, value, row_table, column_table, content_scale, d_out, lse, minus_D,
    query_numbers, key_numbers, threshold, keep_scale,
    d_query, d_row_table, d_column_table, H, W, h, w, stride, table_heads,
    d: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    TAIL: tl.constexpr, POSITION: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
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
    minus_lse = -tl.load(lse + head * N + safe)
    minus_D = tl.load(minus_D + head * N + safe)
    dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    row_entries = safe
    column_entries = safe
    a = safe
    if POSITION:
        row_table += head % table_heads * N * h
        column_table += head % table_heads * N * stride
        d_row_table += head * N * h
        d_column_table += head * N * stride
        row_entries = _row_entries(safe, W, h)
        column_entries = _column_entries(safe, H, W, stride)
    if DROPOUT:
        key_numbers += head * M
        a = tl.load(query_numbers + head * N + safe)
    whole = _whole_columns(w, BLOCK_N, TAIL)
    dq = _query_gradient_tiles(
        dq, q, dy, a, scale * LOG2_E, minus_lse, minus_D, key, value, key_numbers,
        threshold, row_table, column_table, d_row_table, d_column_table, row_entries,
        column_entries, LN_2 * keep_scale, inside_queries, 0, h, whole, W, w,
        d, BLOCK_D, BLOCK_M, BLOCK_N, POSITION, DROPOUT, PRECISION, False,
    )  # fmt: skip
    if TAIL:
        dq = _query_gradient_tiles(
            dq, q, dy, a, scale * LOG2_E, minus_lse, minus_D, key, value, key_numbers,
            threshold, row_table, column_table, d_row_table, d_column_table, row_entries,
            column_entries, LN_2 * keep_scale, inside_queries, whole, w, h, W, w,
            d, BLOCK_D, BLOCK_M, BLOCK_N, POSITION, DROPOUT, PRECISION, True,
        )  # fmt: skip
    at = d_query + head * N * d + queries[:, None] * d + channels[None, :]
    inside = inside_queries[:, None] & (channels < d)[None, :]
    tl.store(at, (dq * (scale * keep_scale)).to(d_query.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=_SIZES)
def key_gradient_kernel(
    query, key, value, row_table, column_table, content_scale, d_out, lse, minus_D,
    query_numbers, key_numbers, threshold, keep_scale, d_key, d_value, H, W, h, w, stride,
    table_heads,
    d: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    TAIL: tl.constexpr, DOWN: tl.constexpr, POSITION: tl.constexpr, DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """For a tile of keys, with DOWN one of the tail: the gradients of keys and values."""
    head = tl.program_id(1).to(tl.int64)
    N = H * W
    M = h * w
    # The tile is a stretch of the first keys of a row or, with DOWN, of a column.
    whole = _whole_columns(w, BLOCK_N, TAIL)
    length = h if DOWN else whole
    stretches = tl.cdiv(length, BLOCK_N)
    line = tl.program_id(0) // stretches
    places = tl.program_id(0) % stretches * BLOCK_N + tl.arange(0, BLOCK_N)
    safe_places = tl.minimum(places, length - 1)
    if DOWN:
        line += whole
    keys = safe_places * w + line if DOWN else line * w + safe_places
    channels = tl.arange(0, BLOCK_D)
    k = _load(key + head * M * d, keys, channels, d, BLOCK_D)
    v = _load(value + head * M * d, keys, channels, d, BLOCK_D)
    query += head * N * d
    d_out += head * N * d
    lse += head * N
    minus_D += head * N
    scale = tl.load(content_scale + head)
    scale_2 = scale * LOG2_E
    dk = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    dv = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    if DROPOUT:
        query_numbers += head * N
        b = tl.load(key_numbers + head * M + keys)
    if POSITION:
        row_table += head % table_heads * N * h
        column_table += head % table_heads * N * stride
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
        log_sum = tl.load(lse + queries, mask=queries < N, other=float('inf'))
        negative_D = tl.load(minus_D + safe)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale_2
        if POSITION:
            in_row_table = row_table + tl.minimum(row_entries, last_row_entry)
            in_column_table = column_table + tl.minimum(column_entries, last_column_entry)
            if DOWN:
                by_query = tl.load(in_column_table + line) - log_sum
                # Neighbouring queries are neighbours in the row table.
                at = in_row_table[None, :] + (safe_places * W)[:, None]
                logits += tl.trans(tl.load(at))
            else:
                by_query = tl.load(in_row_table + line * W) - log_sum
                logits += tl.load(in_column_table[:, None] + places[None, :])
            x += BLOCK_M % W
            wrap = x >= W
            x = tl.where(wrap, x - W, x)
            row_entries += tl.where(wrap, row_step + (h - 1) * W, row_step)
            column_entries += tl.where(wrap, column_step - (N - 1) * stride, column_step)
        else:
            by_query = -log_sum
        # Keys beyond the last get the weights of the last. Their gradients are not stored.
        weights = tl.exp2(logits + by_query[:, None])
        # Where the matrix product starts from -D, that takes no subtraction per weight.
        start_at = tl.broadcast_to(negative_D[:, None], (BLOCK_M, BLOCK_N))
        if DROPOUT:
            a = tl.load(query_numbers + safe)
            kept = _kept(a, b, threshold)
            dropped = tl.where(kept, weights, 0.0)
            # keep_scale follows at the end, as for dv.
            if BLOCK_D <= 32 or q.dtype == tl.float32:
                d_weights = tl.dot(dy, tl.trans(v), input_precision=PRECISION)
                d_logits = dropped * d_weights + weights * negative_D[:, None]
            else:
                # The form with the fewest instructions, above, spills registers here.
                d_weights = tl.dot(dy, tl.trans(v), acc=start_at, input_precision=PRECISION)
                d_logits = weights * tl.where(kept, d_weights, negative_D[:, None])
        else:
            dropped = weights
            d_weights = tl.dot(dy, tl.trans(v), acc=start_at, input_precision=PRECISION)
            d_logits = weights * d_weights
        dv = tl.dot(tl.trans(dropped.to(dy.dtype)), dy, acc=dv, input_precision=PRECISION)
        dk = tl.dot(tl.trans(d_logits.to(q.dtype)), q, acc=dk, input_precision=PRECISION)
    offsets = head * M * d + keys[:, None] * d + channels[None, :]
    inside = (places < length)[:, None] & (channels < d)[None, :]
    dk = dk * (scale * keep_scale)
    tl.store(d_key + offsets, dk.to(d_key.dtype.element_ty), mask=inside)
    dv = dv * keep_scale
    tl.store(d_value + offsets, dv.to(d_value.dtype.element_ty), mask=inside)
