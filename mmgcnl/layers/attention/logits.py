"""What the attention is made of: logits are content plus a row part plus a column part.

Shape shorthand: B images, n heads, d channels of a head, (H, W) the query grid, N = H * W,
(h, w) the key grid, M = h * w.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Position(NamedTuple):
    """The position part of the logits, before anything is made for all pairs.

    Query (y, x) adds ``query[y, x] . rows[y, y']`` to the keys of row y', its entry of
    the row table, and ``query[y, x] . columns[x, x']`` to those of column x'.

    Attributes:
        query: (B or 1, n, H, W, d), what meets the position codes.
        rows: (H, h, n, d), the codes of the key rows as the query rows see them.
        columns: (W, w, n, d), likewise for columns.
    """

    query: Tensor
    rows: Tensor
    columns: Tensor

    def tables(self) -> tuple[Tensor, Tensor]:
        """The row table (B or 1, n, H, W, h) and the column table (B or 1, n, H, W, w)."""
        dtype = torch.promote_types(self.rows.dtype, torch.float32)
        with torch.autocast(self.query.device.type, enabled=False):
            query, rows, columns = (term.to(dtype) for term in self)
            return (
                torch.einsum('bnyxd,yknd->bnyxk', query, rows),
                torch.einsum('bnyxd,xknd->bnyxk', query, columns),
            )


class Logits(NamedTuple):
    """What makes the logits ``content_scale * query . key`` plus position.

    Attributes:
        query: (B, n, H, W, d).
        key: (B, n, h, w, d).
        content_scale: (B or 1, n or 1, 1, 1, 1), float32 or float64, without gradient.
            Half precision can hold ``query``, but not always the product of the two.
        position: None for no position.
    """

    query: Tensor
    key: Tensor
    content_scale: Tensor
    position: Position | None

    def of_queries(self, rows: slice, columns: slice = slice(None)) -> Logits:
        """The logits of some of the queries alone."""
        position = self.position
        if position is not None:
            position = Position(
                position.query[:, :, rows, columns],
                position.rows[rows],
                position.columns[columns],
            )
        return self._replace(query=self.query[:, :, rows, columns], position=position)
