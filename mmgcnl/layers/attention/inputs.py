"""What the attention is computed from. A logit is content plus a row and a column part.

Shape shorthand: B images, n heads, d channels of a head, (H, W) the query grid, N = H * W,
(h, w) the key grid, M = h * w.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..precision import no_autocast


class Position(NamedTuple):
    """The position part of the logits, before anything is computed per pair.

    Query (y, x) adds ``query[y, x] . rows[y, y']``, an entry of the row table, to the
    logits of the keys in row y', and ``query[y, x] . columns[x, x']``, an entry of the
    column table, to those of the keys in column x'.

    Attributes:
        query: The position query, (B or 1, n, H, W, d): what is multiplied with the codes.
        rows: (H, h, n, d), the codes of the key rows as seen from the query rows.
        columns: (W, w, n, d), the codes of the key columns as seen from the query columns.
    """

    query: Tensor
    rows: Tensor
    columns: Tensor

    def tables(self) -> tuple[Tensor, Tensor]:
        """The row table (B or 1, n, H, W, h) and the column table (B or 1, n, H, W, w)."""
        dtype = torch.promote_types(self.rows.dtype, torch.float32)
        with no_autocast(self.query.device.type):
            query, rows, columns = (term.to(dtype) for term in self)
            return (
                torch.einsum('bnyxd,yknd->bnyxk', query, rows),
                torch.einsum('bnyxd,xknd->bnyxk', query, columns),
            )


class AttentionInputs(NamedTuple):
    """Query, key and position: the logits are ``content_scale * query . key`` + position.

    Attributes:
        query: (B, n, H, W, d).
        key: (B, n, h, w, d).
        content_scale: (B or 1, n or 1, 1, 1, 1), float32 or float64, without gradient.
            It is kept apart from ``query`` because half precision can hold ``query``, but
            not always their product.
        position: None for no position.
    """

    query: Tensor
    key: Tensor
    content_scale: Tensor
    position: Position | None

    def of_queries(self, rows: slice, columns: slice = slice(None)) -> AttentionInputs:
        """The same for the queries in some rows and columns of the query grid only."""
        position = self.position
        if position is not None:
            position = Position(
                position.query[:, :, rows, columns],
                position.rows[rows],
                position.columns[columns],
            )
        return self._replace(query=self.query[:, :, rows, columns], position=position)
