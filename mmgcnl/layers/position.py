"""The position term of the attention logits, in eight forms.

Shape shorthand: B images, n heads, d channels of a head, C = n * d, (H, W) the query grid,
(h, w) the key grid, Q and K coordinates along one axis.

In every form the vector r_ij, which encodes where key j lies, is the sum of a part that
depends on the two y coordinates and a part that depends on the two x coordinates. Its
product with the query is therefore a row table plus a column table (attention/inputs.py),
and r_ij is never computed for all pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .arguments import check_number_above
from .attention import Position
from .precision import no_autocast

#: form -> (distance, encoding, whether r_ij is multiplied with the query).
#: Section 2.1.3, Tables 2a and 2b.
POSITION_FORMS: dict[str, tuple[str, str, bool]] = {
    f'{distance}_{encoding}' + ('' if content else '_content_independent'): (
        distance,
        encoding,
        content,
    )
    for distance, encoding, content in itertools.product(
        ('relative', 'absolute'), ('sinusoid', 'raw'), (True, False)
    )
}


class AxisPosition(nn.Module):
    """One axis' part of r_ij: the code of the coordinates times a learned matrix.

    Args:
        embed_dims: C, the channels of r_ij.
        distance: 'relative' encodes the query's coordinate minus the key's, 'absolute' the
            key's coordinate.
        encoding: 'sinusoid' encodes it as C / 4 sines and C / 4 cosines. 'raw' is the
            coordinate divided by the size of the query grid; of a relative one it is the
            magnitude, because with the sign the query's coordinate would only add a
            constant to all keys, which the softmax ignores.
        wavelength: The base of the sinusoids: their longest wavelength divided by 2 pi, in
            positions of the query grid.
        device: Device of the parameter.
        dtype: Dtype of the parameter.
    """

    def __init__(
        self,
        embed_dims: int,
        distance: str,
        encoding: str,
        wavelength: float,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.distance = distance
        self.encoding = encoding
        self.wavelength = wavelength
        code_dims = embed_dims // 2 if encoding == 'sinusoid' else 1
        # A parameter instead of a Linear: the codes depend on the size of the map and not
        # on the images, and counters of multiply-adds that hook modules would count a
        # Linear as work on the features.
        self.weight = nn.Parameter(
            torch.empty(embed_dims, code_dims, device=device, dtype=dtype)
        )

    def code(self, coordinate: Tensor, size: int) -> Tensor:
        """The code (X, code_dims) of coordinates, or of differences of them, (X,)."""
        if self.encoding == 'raw':
            if self.distance == 'relative':
                coordinate = coordinate.abs()
            return (coordinate / size)[..., None]
        frequencies = self.weight.shape[1] // 2
        exponent = torch.arange(
            frequencies, device=coordinate.device, dtype=coordinate.dtype
        )
        angle = coordinate[..., None] * self.wavelength ** (-exponent / frequencies)
        return torch.cat((angle.sin(), angle.cos()), dim=-1)

    def forward(self, grid: Tensor, kv_stride: int = 1, scale: float = 1.0) -> Tensor:
        """``scale`` times this axis' part of r_ij, (Q or 1, K, C).

        Args:
            grid: Coordinates of the queries (Q,), one apart.
            kv_stride: Keys are at every ``kv_stride``-th of them.
            scale: The factor.
        """
        size = grid.shape[0]
        weight = (scale * self.weight.to(grid.dtype)).t()
        if self.distance == 'absolute':
            return (self.code(grid[::kv_stride], size) @ weight)[None]
        # Many pairs have the same difference: the products are computed once for each.
        index = torch.arange(size, device=grid.device)
        keys = index[::kv_stride]
        differences = torch.arange(1 - size, size, device=grid.device, dtype=grid.dtype)
        of_pairs = index[:, None] - keys[None, :] + (size - 1)
        return F.embedding(of_pairs, self.code(differences, size) @ weight)


class PositionTerm(nn.Module):
    """What position adds to a logit: q_i . r_ij, or u . r_ij with u learned per head.

    Args:
        embed_dims: C, the channels of the query, all heads together.
        num_heads: n.
        form: A key of :data:`POSITION_FORMS`.
        wavelength: See :class:`AxisPosition`.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Raises:
        ValueError: ``form`` is unknown, ``wavelength`` is not above 1, or ``embed_dims``
            is not divisible by 4, which a sinusoid needs (sine and cosine for each axis).
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        form: str = 'relative_sinusoid',
        wavelength: float = 10000.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(form, str) or form not in POSITION_FORMS:
            raise ValueError(
                f'position={form!r} is unknown: give None or one of '
                f'{", ".join(map(repr, POSITION_FORMS))}'
            )
        distance, encoding, self.content_dependent = POSITION_FORMS[form]
        if encoding == 'sinusoid' and embed_dims % 4:
            raise ValueError(
                f'position={form!r} needs inner channels (in_channels // reduction) '
                f'divisible by 4, got {embed_dims}'
            )
        check_number_above('wavelength', wavelength, 1)
        self.num_heads = num_heads
        self.form = form
        self.y, self.x = (
            AxisPosition(embed_dims, distance, encoding, wavelength, device, dtype)
            for _ in range(2)
        )
        if not self.content_dependent:
            u = torch.empty(num_heads, embed_dims // num_heads, device=device, dtype=dtype)
            self.u = nn.Parameter(u)
        self.reset_parameters()

    def reset_parameters(
        self, draw: Callable[[Tensor], Tensor] = nn.init.xavier_uniform_
    ) -> None:
        """Fill the codes' layers with ``draw``, an initialiser that works in place."""
        draw(self.y.weight)
        draw(self.x.weight)
        if not self.content_dependent:
            nn.init.normal_(self.u, std=self.u.shape[1] ** -0.5)

    def forward(
        self,
        query: Tensor,
        grid: tuple[Tensor, Tensor],
        kv_stride: int = 1,
        scale: float = 1.0,
    ) -> Position:
        """The position query and codes, of which the attention makes the tables.

        Args:
            query: (B, n, H, W, d).
            grid: y coordinates (H,) and x coordinates (W,) of the queries, one apart.
                Their dtype is the precision of the codes.
            kv_stride: Keys are at every ``kv_stride``-th position in both directions.
            scale: Factor on this part of the logits.
        """
        if not self.content_dependent:
            query = self.u[None, :, None, None].expand_as(query[:1])
        with no_autocast(query.device.type):
            codes = [
                axis(coordinates, kv_stride, scale)
                .unflatten(-1, (self.num_heads, -1))
                .expand(coordinates.shape[0], -1, -1, -1)
                for axis, coordinates in zip((self.y, self.x), grid)
            ]
        return Position(query, *codes)

    def extra_repr(self) -> str:  # noqa: D102
        return f'form={self.form!r}, wavelength={self.y.wavelength}'
