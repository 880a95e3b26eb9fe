"""The position term of the attention logits: eight forms, one shape.

Shape shorthand: B images, n heads, d channels of a head, C = n * d, (H, W) the query grid,
(h, w) the key grid, Q and K coordinates along one axis.

Whatever the form, the vector r_ij that stands for where key j lies is a sum of a part made
from the two y coordinates and a part made from the two x coordinates. Its product with the
query is therefore a row table plus a column table, and r_ij is never made for all pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor

from .attention import Position

#: form -> (distance, encoding, whether the query meets r_ij). Section 2.1.3, Tables 2a, 2b.
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
    """One axis' part of r_ij: the coordinates' code times a learned C x code matrix.

    Args:
        embed_dims: C, the channels of r_ij.
        distance: 'relative' codes query minus key coordinate, 'absolute' the key's own.
        encoding: 'sinusoid' codes it with C / 4 sines and C / 4 cosines; 'raw' takes the
            coordinate divided by the size of the query grid, and of a relative one the
            magnitude: the sign would add only a term common to all keys, which the
            softmax drops, and leave the absolute form.
        wavelength: The longest of the sinusoid's wavelengths over 2 pi, in positions of
            the query grid.
    """

    def __init__(
        self, embed_dims: int, distance: str, encoding: str, wavelength: float
    ) -> None:
        super().__init__()
        self.distance = distance
        self.encoding = encoding
        self.wavelength = wavelength
        code_dims = embed_dims // 2 if encoding == 'sinusoid' else 1
        # A parameter and not a Linear: the code is per size, not per image, and counters
        # of multiply-adds that watch modules would book it as work on the features.
        self.weight = nn.Parameter(torch.empty(embed_dims, code_dims))

    def code(self, query: Tensor, key: Tensor, size: int) -> Tensor:
        """Code (Q or 1, K, code_dims) of the coordinates ``query`` (Q,), ``key`` (K,)."""
        if self.distance == 'relative':
            distance = query[:, None] - key[None, :]
        else:
            distance = key[None, :]
        if self.encoding == 'raw':
            if self.distance == 'relative':
                distance = distance.abs()
            return (distance / size)[..., None]
        frequencies = self.weight.shape[1] // 2
        exponent = torch.arange(frequencies, device=key.device, dtype=key.dtype)
        angle = distance[..., None] * self.wavelength ** (-exponent / frequencies)
        return torch.cat((angle.sin(), angle.cos()), dim=-1)

    def forward(self, query: Tensor, key: Tensor, size: int, scale: float = 1.0) -> Tensor:
        """This axis' part of r_ij, (Q or 1, K, C), times ``scale``."""
        return self.code(query, key, size) @ (scale * self.weight.to(key.dtype)).t()


class PositionTerm(nn.Module):
    """What position adds to the logits: q_i . r_ij, or u . r_ij with u learned per head.

    Args:
        embed_dims: C, the channels of the query of all heads together.
        num_heads: n.
        form: A key of :data:`POSITION_FORMS`.
        wavelength: See :class:`AxisPosition`.

    Raises:
        ValueError: ``form`` is unknown, or a sinusoid is asked for and ``embed_dims`` is
            not divisible by 4 (sine and cosine for each axis).
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        form: str = 'relative_sinusoid',
        wavelength: float = 10000.0,
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
        if not isinstance(wavelength, (int, float)) or not wavelength > 1:
            raise ValueError(f'wavelength={wavelength!r}: give a number above 1')
        self.num_heads = num_heads
        self.form = form
        self.y = AxisPosition(embed_dims, distance, encoding, wavelength)
        self.x = AxisPosition(embed_dims, distance, encoding, wavelength)
        if not self.content_dependent:
            self.u = nn.Parameter(torch.empty(num_heads, embed_dims // num_heads))
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
        query_grid: tuple[Tensor, Tensor],
        key_grid: tuple[Tensor, Tensor],
        size: tuple[int, int],
        scale: float = 1.0,
    ) -> Position:
        """What the row and the column part of the logits are made of.

        Args:
            query: (B, n, H, W, d).
            query_grid: y coordinates (H,) and x coordinates (W,) of the queries.
            key_grid: y coordinates (h,) and x coordinates (w,) of the keys, in the same
                unit. The coordinates' dtype is the precision of the codes.
            size: Height and width by which raw coordinates are divided.
            scale: Factor on the logits.
        """
        if not self.content_dependent:
            query = self.u[None, :, None, None].expand_as(query[:1])
        with torch.autocast(query.device.type, enabled=False):
            codes = [
                axis(query_grid[i], key_grid[i], size[i], scale)
                .unflatten(-1, (self.num_heads, -1))
                .expand(query_grid[i].shape[0], -1, -1, -1)
                for i, axis in enumerate((self.y, self.x))
            ]
        return Position(query, *codes)

    def extra_repr(self) -> str:
        return f'form={self.form!r}, wavelength={self.y.wavelength}'
