"""Attention one row of queries at a time, as a loop that exporters keep.

Shape shorthand: B images, n heads, d channels of a head, (H, W) the query grid, (h, w) the
key grid, M = h * w.
"""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor

from .dropout import KeepMask
from .inputs import AttentionInputs, Position
from .reference import weights_of_scaled

_HAS_SCAN = find_spec('torch._higher_order_ops.scan') is not None


def row_wise_attention(
    inputs: AttentionInputs,
    value: Tensor,
    dropout_p: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """As :func:`.reference.dense_attention`, with W x M weights in memory instead of N x M.

    It consists of standard operators. While exporting, the loop over the rows is one
    operator, too, which torch.export calls scan and ONNX calls Scan: the number of rows
    need not be known.
    """
    query, key, content_scale, position = inputs
    values = value.flatten(2, 3)
    dtype = torch.promote_types(query.dtype, torch.float32)
    key = key.to(dtype)
    of_rows = [(query.to(dtype) * content_scale).movedim(2, 0)]  # (H, B, n, W, d)
    if position is not None:
        position_query = position.query.expand_as(query).movedim(2, 0)
        of_rows += [position_query, position.rows]
        columns = position.columns
    mask = None
    if seed is not None:
        size = query.shape[:4]
        mask = KeepMask(dropout_p, seed, size, key.shape[2:4], query.device)
        of_rows.append(mask.queries.movedim(2, 0))

    def attend(*of_row: Tensor) -> Tensor:
        """The output (B, n, W, d) of a row of queries."""
        queries, *rest = of_row
        row_position = None
        if position is not None:
            row_position = Position(rest[0].unsqueeze(2), rest[1].unsqueeze(0), columns)
        weights = weights_of_scaled(queries.unsqueeze(2), key, row_position)
        if mask is not None:
            weights = weights * mask(rest[-1], mask.keys.flatten(2)) * mask.scale
        return weights.to(value.dtype) @ values

    if is_exporting():
        from torch._higher_order_ops.scan import scan

        def step(carry: Tensor, of_row: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
            return carry.clone(), attend(*of_row)

        nothing = values.new_zeros(1)  # a scan must carry something from row to row
        _, out = scan(step, nothing, tuple(t.contiguous() for t in of_rows), dim=0)
    else:
        out = torch.stack([attend(*of_row) for of_row in zip(*of_rows)])
    return out.movedim(0, 2)


def is_exporting() -> bool:
    """Whether torch.export is at work, by itself or for torch.onnx, and knows scan."""
    # From torch 2.7 on. Not torch.compiler.is_exporting(), which reads this flag:
    # torch.compile of torch 2.11 takes that for True.
    return getattr(torch.compiler, '_is_exporting_flag', False) and _HAS_SCAN
