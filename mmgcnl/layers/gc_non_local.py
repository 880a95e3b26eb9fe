"""The non-local block with global context and geometric priors.

"Global Context and Geometric Priors for Effective Non-Local Self-Attention", Woo, Kim,
Lee, Kweon. For query position i, key position j and one head of d channels

    logit_ij = scale * (q_i^T diag(c) k_j + q_i^T r_ij)      a_ij = softmax_j(logit_ij)
    y_i      = sum_j dropout(a_ij) v_j                        out  = x + W_o y

where c is computed from the globally pooled input and r_ij from the positions of i and j.

Shape shorthand: B images, C input channels, E = C // reduction inner channels, n heads,
d = E / n, (H, W) the map, (h, w) the key grid of stride kv_stride.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from .arguments import check_number_above, check_rate, check_whole_number
from .attention import IMPLEMENTATIONS, AttentionInputs, attention, attention_weights
from .context import GlobalContext
from .position import PositionTerm

#: Initialisation of the query, key, value and position layers. 'torch' is that of PyTorch's
#: own layers: uniform, with a variance of 1 / (3 fan_in).
INITS: dict[str, Callable[[Tensor], Tensor]] = {
    'xavier': nn.init.xavier_uniform_,
    'torch': partial(nn.init.kaiming_uniform_, a=math.sqrt(5)),
    'normal': partial(nn.init.normal_, std=0.01),
}


class GCNonLocal2d(nn.Module):
    """Non-local block with global context and geometric priors.

    With ``context=None, position=None, num_heads=1, attn_drop_rate=0, init='normal'`` it is
    mmcv's NonLocal2d (mode 'embedded_gaussian'). A fresh block is the identity, and its
    attention already depends on the query.

    >>> import torch
    >>> from mmgcnl.layers import GCNonLocal2d
    >>> block = GCNonLocal2d(256, reduction=1, num_heads=8, kv_stride=2)
    >>> x = torch.rand(2, 256, 50, 80)
    >>> block(x).shape
    torch.Size([2, 256, 50, 80])

    Args:
        in_channels: C.
        reduction: Query, key and value have ``in_channels // reduction`` channels, all
            heads together.
        num_heads: Heads; 8 is where the paper's gain saturates (Table 2c).
        context: Pooling of the input that the context is computed from: 'avg' (as in the
            paper) or 'max'; None for no context.
        position: The form of the position term, a key of
            :data:`mmgcnl.layers.POSITION_FORMS`, or None for no position.
        attn_drop_rate: Dropout on the attention weights, in training only. The paper
            gives no rate; 0.1 is assumed.
        kv_stride: Keys and values are taken from every ``kv_stride``-th position in both
            directions. Distances are still measured in positions of the whole map.
        scale: Factor on the logits; None for ``d ** -0.5`` (assumed).
        wavelength: Base of the sinusoid code. 10000 is the Transformer's (assumed), 1000
            that of mmcv's GeneralizedAttention.
        init: Distribution that the query, key, value and position layers are initialised
            with: 'xavier', Xavier's uniform distribution; 'torch', as PyTorch initialises
            a new layer; or 'normal', N(0, 0.01), as in mmcv's NonLocal2d. From 'normal'
            the attention starts uniform and may stay so.
        zeros_init: Whether the last layer, ``out`` or its norm, starts at zero, so that a
            fresh block is the identity. If not, it starts as ``init`` says; a norm starts
            as PyTorch's does, with 'normal' as mmcv's NonLocal2d does.
        implementation: A key of :data:`mmgcnl.layers.IMPLEMENTATIONS`; None to choose by
            device and size.
        norm_layer: Called with C to create the norm behind the output layer, for example
            ``nn.BatchNorm2d``; None for no norm.
        device: Device of the parameters, as of torch's layers.
        dtype: Dtype of the parameters, as of torch's layers.

    Raises:
        ValueError: An argument has a value that is not allowed.
    """

    #: Version of the state_dict layout. Increment it when a key or its meaning changes, and
    #: convert older versions in :meth:`_load_from_state_dict`.
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
        zeros_init: bool = True,
        implementation: str | None = None,
        norm_layer: Callable[[int], nn.Module] | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        for name, number in (
            ('in_channels', in_channels),
            ('reduction', reduction),
            ('num_heads', num_heads),
            ('kv_stride', kv_stride),
        ):
            check_whole_number(name, number)
        if reduction > in_channels:
            raise ValueError(
                f'reduction={reduction} leaves no channel of in_channels={in_channels}: '
                'give at most in_channels'
            )
        embed_dims = in_channels // reduction
        if embed_dims % num_heads:
            raise ValueError(
                f'num_heads={num_heads} does not divide the {embed_dims} inner channels '
                f'(in_channels={in_channels} // reduction={reduction})'
            )
        check_rate('attn_drop_rate', attn_drop_rate)
        check_number_above('scale', scale, 0, or_none=True)
        if not isinstance(init, str) or init not in INITS:
            raise ValueError(f'init={init!r}: give one of {", ".join(map(repr, INITS))}')
        if not isinstance(zeros_init, bool):
            raise ValueError(f'zeros_init={zeros_init!r}: give True or False')
        if implementation not in (None, *IMPLEMENTATIONS):
            raise ValueError(
                f'implementation={implementation!r}: give None or one of '
                f'{", ".join(map(repr, IMPLEMENTATIONS))}'
            )

        self.in_channels = in_channels
        self.init = init
        self.zeros_init = zeros_init
        self.implementation = implementation
        self.num_heads = num_heads
        self.attn_drop_rate = attn_drop_rate
        self.kv_stride = kv_stride
        self.scale = (embed_dims // num_heads) ** -0.5 if scale is None else scale

        conv = partial(nn.Conv2d, kernel_size=1, device=device, dtype=dtype)
        self.query = conv(in_channels, embed_dims)
        self.key = conv(in_channels, embed_dims)
        self.value = conv(in_channels, embed_dims)
        self.out = conv(embed_dims, in_channels, bias=norm_layer is None)
        self.norm = norm_layer(in_channels) if norm_layer else nn.Identity()
        self.norm.to(device=device, dtype=dtype)
        # Subsample before the 1x1 convolutions, so that they run on the small grid. It is a
        # module because the paper's cost columns count it.
        self.kv_pool = nn.AvgPool2d(1, kv_stride) if kv_stride > 1 else nn.Identity()
        self.context = (
            None
            if context is None
            else GlobalContext(in_channels, embed_dims, num_heads, context, device, dtype)
        )
        self.position = (
            None
            if position is None
            else PositionTerm(embed_dims, num_heads, position, wavelength, device, dtype)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise the block as ``init`` and ``zeros_init`` say.

        With ``init='normal'`` all layers of a plain block have the distributions of mmcv's
        NonLocal2d, including the output layer in front of a norm.
        """
        draw = INITS[self.init]
        norm = list(self.norm.parameters())
        for conv in (self.query, self.key, self.value, self.out):
            if self.init == 'torch':
                conv.reset_parameters()
                continue
            if self.init == 'normal' and norm and conv is self.out:  # as mmcv's ConvModule
                nn.init.kaiming_normal_(conv.weight, mode='fan_out', nonlinearity='relu')
            else:
                draw(conv.weight)
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
        if self.context is not None:
            self.context.reset_parameters()
        if self.position is not None:
            self.position.reset_parameters(draw)
        if self.zeros_init:
            for last in norm or self.out.parameters():
                nn.init.zeros_(last)
        elif norm:
            reset = getattr(self.norm, 'reset_parameters', None)
            if callable(reset):
                reset()
            if self.init == 'normal':
                draw(norm[0])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W).

        Raises:
            ValueError: ``x`` is not 4-D or has another number of channels.
        """
        self._check_input(x)
        keys = self.kv_pool(x)
        y = attention(
            self._attention_inputs(x, keys),
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
        return attention_weights(self.attention_inputs(x))

    def attention_inputs(self, x: Tensor) -> AttentionInputs:
        """Query, key and position of the attention of ``x``.

        :func:`mmgcnl.layers.attention_weights` computes the weights from them, also of
        some queries only. :func:`mmgcnl.layers.choose_implementation`, given them and
        ``self.implementation``, tells which implementation the forward pass of ``x`` uses.

        Args:
            x: (B, C, H, W), the block's input.

        Raises:
            ValueError: As :meth:`forward`.
        """
        self._check_input(x)
        return self._attention_inputs(x, self.kv_pool(x))

    def _attention_inputs(self, x: Tensor, keys: Tensor) -> AttentionInputs:
        dtype = torch.promote_types(x.dtype, torch.float32)
        query = self._split_heads(self.query(x))
        position = None
        if self.position is not None:
            y, x_ = (torch.arange(n, device=x.device, dtype=dtype) for n in x.shape[2:])
            position = self.position(
                query, grid=(y, x_), kv_stride=self.kv_stride, scale=self.scale
            )
        content_scale = x.new_full((1, 1, 1, 1, 1), self.scale, dtype=dtype)
        if self.context is not None:
            context, factor = self.context(x)
            query = query * context.to(query.dtype)
            content_scale = factor * content_scale
        key = self._split_heads(self.key(keys))
        return AttentionInputs(query, key, content_scale, position)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, E, H, W) to (B, n, H, W, d), contiguous, as fast kernels require."""
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

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f'num_heads={self.num_heads}, attn_drop_rate={self.attn_drop_rate}, '
            f'kv_stride={self.kv_stride}, scale={self.scale:.4g}, init={self.init!r}, '
            f'zeros_init={self.zeros_init}'
        )
