"""The non-local block with global context and geometric priors.

"Global Context and Geometric Priors for Effective Non-Local Self-Attention", Woo, Kim,
Lee, Kweon. For query position i, key position j and one head of d channels

    logit_ij = scale * (q_i^T diag(c) k_j + q_i^T r_ij)      a_ij = softmax_j(logit_ij)
    y_i      = sum_j dropout(a_ij) v_j                        out  = x + W_o y

with c made from the globally pooled input and r_ij from where i and j lie.

Shape shorthand: B images, C input channels, E = C // reduction inner channels, n heads,
d = E / n, (H, W) the map, (h, w) the key grid of stride kv_stride.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from .attention import IMPLEMENTATIONS, Logits, attention, attention_weights
from .context import GlobalContext
from .position import PositionTerm

#: How the layers that make the logits and the values start.
INITS: dict[str, Callable[[Tensor], Tensor]] = {
    'xavier': nn.init.xavier_uniform_,
    'normal': partial(nn.init.normal_, std=0.01),
}


class GCNonLocal2d(nn.Module):
    """Non-local block with global context and geometric priors.

    With ``context=None, position=None, num_heads=1, attn_drop_rate=0`` it is mmcv's
    NonLocal2d (mode 'embedded_gaussian'). A fresh block is the identity.

    Args:
        in_channels: C.
        reduction: Query, key and value have ``in_channels // reduction`` channels, all
            heads together.
        num_heads: Heads; 8 is where the paper's gain saturates (Table 2c).
        context: How the input is pooled to make the context: 'avg' (the paper's), 'max',
            or None for no context.
        position: The form of the position term, a key of
            :data:`mmgcnl.layers.POSITION_FORMS`, or None for no position.
        attn_drop_rate: Dropout on the attention weights, in training only. The paper
            gives no rate; 0.1 is assumed.
        kv_stride: Keys and values are taken from every ``kv_stride``-th position in both
            directions. Distances stay in positions of the whole map.
        scale: Factor on the logits; None for ``d ** -0.5`` (assumed).
        wavelength: Base of the sinusoid code. 10000 is the Transformer's (assumed), 1000
            that of mmcv's GeneralizedAttention.
        init: How the query, key, value and position layers start: 'normal' draws from
            N(0, 0.01) as mmcv's NonLocal2d does, so that the attention starts uniform;
            'xavier' draws from Xavier's uniform distribution, so that it starts selective.
        implementation: How the attention is computed, a key of
            :data:`mmgcnl.layers.IMPLEMENTATIONS`; None chooses by device and size.
        norm_layer: Makes the norm after the output layer from its channels, for example
            ``nn.BatchNorm2d``; None for no norm.

    Raises:
        ValueError: An argument is outside of what it allows.
    """

    #: Of the names in the state_dict and what they mean. Whoever changes one counts this
    #: up and converts in :meth:`_load_from_state_dict` what lower versions saved.
    _version = 1

    def __init__(
        self,
        in_channels: int,
        reduction: int = 2,
        num_heads: int = 8,
        context: str | None = 'avg',
        position: str | None = 'relative_sinusoid',
        attn_drop_rate: float = 0.1,
        kv_stride: int = 1,
        scale: float | None = None,
        wavelength: float = 10000.0,
        init: str = 'xavier',
        implementation: str | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        for name, number in (
            ('in_channels', in_channels),
            ('reduction', reduction),
            ('num_heads', num_heads),
            ('kv_stride', kv_stride),
        ):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ValueError(f'{name}={number!r}: give a whole number of at least 1')
        if reduction > in_channels:
            raise ValueError(
                f'reduction={reduction} leaves no channel of in_channels={in_channels}'
            )
        embed_dims = in_channels // reduction
        if embed_dims % num_heads:
            raise ValueError(
                f'num_heads={num_heads} does not divide the {embed_dims} inner channels '
                f'(in_channels={in_channels} // reduction={reduction})'
            )
        if not isinstance(attn_drop_rate, (int, float)) or not 0 <= attn_drop_rate < 1:
            raise ValueError(
                f'attn_drop_rate={attn_drop_rate!r}: give a number from 0 to below 1'
            )
        if scale is not None and not (
            isinstance(scale, (int, float)) and 0 < scale < float('inf')
        ):
            raise ValueError(f'scale={scale!r}: give a number above 0, or None')
        if init not in INITS:
            raise ValueError(f'init={init!r}: give one of {", ".join(map(repr, INITS))}')
        if implementation not in (None, *IMPLEMENTATIONS):
            raise ValueError(
                f'implementation={implementation!r}: give None or one of '
                f'{", ".join(map(repr, IMPLEMENTATIONS))}'
            )

        self.in_channels = in_channels
        self.init = init
        self.implementation = implementation
        self.num_heads = num_heads
        self.attn_drop_rate = attn_drop_rate
        self.kv_stride = kv_stride
        self.scale = (embed_dims // num_heads) ** -0.5 if scale is None else scale

        self.query = nn.Conv2d(in_channels, embed_dims, 1)
        self.key = nn.Conv2d(in_channels, embed_dims, 1)
        self.value = nn.Conv2d(in_channels, embed_dims, 1)
        self.out = nn.Conv2d(embed_dims, in_channels, 1, bias=norm_layer is None)
        self.norm = norm_layer(in_channels) if norm_layer else nn.Identity()
        # A pool of kernel 1 only subsamples, before the 1x1 convs: they run on the small
        # grid. As a module it is also what the paper's cost columns counted.
        self.kv_pool = nn.AvgPool2d(1, kv_stride) if kv_stride > 1 else nn.Identity()
        self.context = (
            None
            if context is None
            else GlobalContext(in_channels, embed_dims, num_heads, context)
        )
        self.position = (
            None
            if position is None
            else PositionTerm(embed_dims, num_heads, position, wavelength)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as the identity: the last layer, norm or output, is zero.

        ``init='normal'`` gives all layers of a plain block the distributions that mmcv's
        NonLocal2d gives them, also the output layer in front of a norm.
        """
        draw = INITS[self.init]
        for conv in (self.query, self.key, self.value):
            draw(conv.weight)
        if self.init == 'normal':
            nn.init.kaiming_normal_(self.out.weight, mode='fan_out', nonlinearity='relu')
        else:
            draw(self.out.weight)
        for conv in (self.query, self.key, self.value, self.out):
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        if self.context is not None:
            self.context.reset_parameters()
        if self.position is not None:
            self.position.reset_parameters(draw)
        norm = list(self.norm.parameters())
        for last in norm if norm else [self.out.weight]:
            nn.init.zeros_(last)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W).

        Raises:
            ValueError: ``x`` is not 4-D or has another number of channels.
        """
        self._check_input(x)
        keys = self.kv_pool(x)
        y = attention(
            self._logits(x, keys),
            self._split_heads(self.value(keys)),
            self.attn_drop_rate if self.training else 0.0,
            self.implementation,
        )
        y = y.permute(0, 1, 4, 2, 3).flatten(1, 2)
        return x + self.norm(self.out(y))

    def attention_weights(self, x: Tensor) -> Tensor:
        """The attention of ``x``, without dropout, for analysis.

        Args:
            x: (B, C, H, W), the block's input.

        Returns:
            (B, n, H * W, h * w), in float32 (float64 for float64 input).

        Raises:
            ValueError: As :meth:`forward`.
        """
        return attention_weights(self.logits(x))

    def logits(self, x: Tensor) -> Logits:
        """What the attention of ``x`` is made of.

        Of these, :func:`mmgcnl.layers.attention_weights` makes the weights of some
        queries, and :func:`mmgcnl.layers.choose_implementation` says how the forward
        pass of such an input computes its attention.

        Args:
            x: (B, C, H, W), the block's input.

        Raises:
            ValueError: As :meth:`forward`.
        """
        self._check_input(x)
        return self._logits(x, self.kv_pool(x))

    def _logits(self, x: Tensor, keys: Tensor) -> Logits:
        dtype = torch.promote_types(x.dtype, torch.float32)
        query = self._split_heads(self.query(x))
        position = None
        if self.position is not None:
            y, x_ = (torch.arange(n, device=x.device, dtype=dtype) for n in x.shape[2:])
            position = self.position(
                query,
                query_grid=(y, x_),
                key_grid=(y[:: self.kv_stride], x_[:: self.kv_stride]),
                size=x.shape[2:],
                scale=self.scale,
            )
        content_scale = x.new_full((1, 1, 1, 1, 1), self.scale, dtype=dtype)
        if self.context is not None:
            context, factor = self.context(x)
            query = query * context.to(query.dtype)
            content_scale = factor * content_scale
        key = self._split_heads(self.key(keys))
        return Logits(query, key, content_scale, position)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, E, H, W) to (B, n, H, W, d), contiguous: what fast kernels ask for."""
        return x.unflatten(1, (self.num_heads, -1)).permute(0, 1, 3, 4, 2).contiguous()

    def _check_input(self, x: Tensor) -> None:
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'x has shape {tuple(x.shape)}: expected (B, {self.in_channels}, H, W), '
                f'as in_channels={self.in_channels}'
            )

    def _load_from_state_dict(
        self, state_dict: dict, prefix: str, local_metadata: dict, *args: Any
    ) -> None:
        version = local_metadata.get('version') or 1
        if version > self._version:
            error_msgs = args[-1]
            error_msgs.append(
                f'{prefix}*: these weights are of version {version} of GCNonLocal2d, this '
                f'mmgcnl knows them up to version {self._version}: update mmgcnl'
            )
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def extra_repr(self) -> str:
        return (
            f'num_heads={self.num_heads}, attn_drop_rate={self.attn_drop_rate}, '
            f'kv_stride={self.kv_stride}, scale={self.scale:.4g}, init={self.init!r}'
        )
