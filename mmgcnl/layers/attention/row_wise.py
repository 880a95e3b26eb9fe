"""Attention one row of queries at a time, as a loop that exporters keep.

Shape shorthand: B images, n heads, d channels of a head, (H, W) the query grid, (h, w) the
key grid, M = h * w.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    dtype = torch.promote_types(query.dtype, torch.float32)
    # What every row needs, and what differs from row to row, (H, ...).
    of_all = [key.to(dtype), value.flatten(2, 3)]
    of_rows = [(query.to(dtype) * content_scale).movedim(2, 0)]  # (H, B, n, W, d)
    if position is not None:
        of_all.append(position.columns)
        of_rows += [position.query.expand_as(query).movedim(2, 0), position.rows]
    mask = None
    if seed is not None:
        size = query.shape[:4]
        mask = KeepMask(dropout_p, seed, size, key.shape[2:4], query.device)
        of_all.append(mask.keys.flatten(2))
        of_rows.append(mask.queries.movedim(2, 0))

    def attend(of_all: Sequence[Tensor], of_row: Sequence[Tensor]) -> Tensor:
        """The output (B, n, W, d) of a row of queries."""
        key, values = of_all[:2]
        row_position = None
        if position is not None:
            row_position = Position(
                of_row[1].unsqueeze(2), of_row[2].unsqueeze(0), of_all[2]
            )
        weights = weights_of_scaled(of_row[0].unsqueeze(2), key, row_position)
        if mask is not None:
            weights = weights * mask(of_row[-1], of_all[-1]) * mask.scale
        return weights.to(value.dtype) @ values

    if is_exporting():
        from torch._higher_order_ops.scan import scan_op

        def step(*tensors: Tensor) -> tuple[Tensor, ...]:
            of_all, of_row = tensors[: -len(of_rows)], tensors[-len(of_rows) :]
            return *(x.clone() for x in of_all), attend(of_all, of_row)

        of_rows = [x.contiguous() for x in of_rows]
        if torch.onnx.is_in_onnx_export():
            # The exporter fails on a scan with gradients, which ONNX does not have.
            of_all, of_rows = [x.detach() for x in of_all], [x.detach() for x in of_rows]
        *_, out = scan_op(step, of_all, of_rows, ())
    else:
        out = torch.stack([attend(of_all, of_row) for of_row in zip(*of_rows)])
    return out.movedim(0, 2)


def is_exporting() -> bool:
    """Whether torch.export is at work, by itself or for torch.onnx, and knows scan."""
    # From torch 2.7 on. Not torch.compiler.is_exporting(), which reads this flag:
    # torch.compile of torch 2.11 takes that for True.
    return getattr(torch.compiler, '_is_exporting_flag', False) and _HAS_SCAN
