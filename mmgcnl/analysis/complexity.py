"""Parameters and multiply-adds of a config's model, counted as today or as in the paper.

Models run on PyTorch's fake tensors, which have shapes but no data.

Shape shorthand: N queries on an (H, W) grid, M keys on an (h, w) grid, E inner channels.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmcv.cnn import NonLocal2d, get_model_complexity_info
from mmcv.cnn.bricks import GeneralizedAttention
from mmengine.config import Config
from mmengine.model import BaseModel, revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from mmgcnl.apis import input_channels
from mmgcnl.layers import GCNonLocal2d
from mmgcnl.utils.config_types import scope_of

from .blocks import BLOCKS, grids

CONVENTIONS = ('modern', 'paper')
# Number of regions that the heads of a detector process, as in mmdet's counter.
NUM_BOXES = 1000
NUM_MASKS = 100

_NEEDS_DATA = (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)


class Complexity(NamedTuple):
    """Cost of one image.

    Attributes:
        params: Parameters; in the paper's convention only the trainable ones.
        flops: Multiply-adds of the modules, including pooling layers and norms.
        attention_flops: Multiply-adds of the attention between its layers. They are not
            part of ``flops``, because counters of modules do not see them.
    """

    params: int
    flops: int
    attention_flops: int


def measure_complexity(
    cfg: Config, shape: tuple[int, int] = (800, 1280), convention: str = 'modern'
) -> Complexity:
    """Count the cost of the model of a detector's or segmentor's config.

    'modern' is mmcv's counter, unchanged, and all parameters. 'paper' gives the paper's
    figures: the same counter with the conventions of mmdet in 2020. Only trainable
    parameters count; box regression and masks have an 81st class, background; a transposed
    convolution is counted at the size of its output; and of a panoptic network only the
    detector runs.

    Args:
        cfg: The whole config.
        shape: Height and width of the image.
        convention: 'modern' or 'paper'.

    Raises:
        ValueError: ``convention`` is neither; or the model has RoI heads other than
            mmdet's StandardRoIHead and CascadeRoIHead, or an operation that needs data.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f'convention={convention!r}: give one of {CONVENTIONS}')
    init_default_scope(scope_of(cfg))
    model = revert_sync_batchnorm(MODELS.build(cfg.model))
    roi_head = type(getattr(model, 'roi_head', None)).__name__
    if roi_head not in ('NoneType', 'StandardRoIHead', 'CascadeRoIHead'):
        raise ValueError(
            f'roi_head={roi_head!r} cannot be counted, only StandardRoIHead and '
            'CascadeRoIHead'
        )
    size = (input_channels(model), *shape)
    if convention == 'paper':
        _add_background_class(model)
    attention: list[int] = []
    upsampled: list[int] = []
    for module in model.modules():
        if hasattr(module, 'conv_offset'):
            module.forward = partial(_plain_convolution, module)
        elif isinstance(module, BLOCKS):
            module.register_forward_hook(
                lambda block, args, _: attention.append(
                    attention_flops(block, args[0].shape)
                )
            )
        elif isinstance(module, nn.ConvTranspose2d) and convention == 'paper':
            module.register_forward_hook(
                lambda conv, args, output: upsampled.append(
                    math.prod(conv.weight.shape)
                    * (output[0, 0].numel() - args[0][0, 0].numel())
                    * len(output)
                )
            )
    model.forward = partial(_forward, model, convention)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            flops, trainable = get_model_complexity_info(
                model, size, print_per_layer_stat=False, as_strings=False
            )
    except _NEEDS_DATA as error:
        raise ValueError(f'the model has an operation that needs data: {error}') from error
    except (AssertionError, RuntimeError) as error:
        reason = f'{type(error).__name__}: {error}'.splitlines()[0]
        raise ValueError(
            f'the model fails on an image of {shape[0]}x{shape[1]} without annotations and '
            f'with {size[0]} channels: '
            f'{reason}'
        ) from error
    if convention == 'paper':
        return Complexity(trainable, int(flops) + sum(upsampled), sum(attention))
    params = sum(parameter.numel() for parameter in model.parameters())
    return Complexity(params, int(flops), sum(attention))


def attention_flops(
    block: GCNonLocal2d | NonLocal2d | GeneralizedAttention, shape: torch.Size
) -> int:
    """Count the multiply-adds of a block's attention.

    q . k and a . v take N * M * E each. A position term adds the vectors r of each axis,
    which are made from the code of the coordinates, and their products with the queries,
    N * h * E and N * w * E.

    Args:
        block: The block.
        shape: (B, C, H, W), of its input.
    """
    batch, _, rows, columns = shape
    queries, keys = (grid.size for grid in grids(block, (rows, columns)))
    pairs = math.prod(queries) * math.prod(keys)
    if isinstance(block, NonLocal2d):
        return batch * 2 * pairs * block.inter_channels
    if isinstance(block, GeneralizedAttention):
        return batch * _generalized_attention_flops(block, queries, keys)
    dims = block.query.out_channels
    flops = batch * 2 * pairs * dims
    if block.position is None:
        return flops
    rows_of_r = math.prod(queries) * (batch if block.position.content_dependent else 1)
    axes = (block.position.y, block.position.x)
    for axis, queries_on_axis, keys_on_axis in zip(axes, queries, keys):
        # A code is multiplied once for each difference, or for each key.
        relative = axis.distance == 'relative'
        codes = 2 * queries_on_axis - 1 if relative else keys_on_axis
        flops += codes * axis.weight.numel()
        flops += rows_of_r * keys_on_axis * dims
    return flops


def _generalized_attention_flops(
    block: GeneralizedAttention, queries: tuple[int, int], keys: tuple[int, int]
) -> int:
    content, position, key_bias, position_bias = block.attention_type
    dims = block.qk_embed_dim * block.num_heads
    # With nothing but a bias of the keys, all queries share one row of weights.
    rows = math.prod(queries) if content or position or position_bias else 1
    flops = rows * math.prod(keys) * block.v_dim * block.num_heads
    if content:
        flops += rows * math.prod(keys) * dims
    elif key_bias:  # otherwise it is added to the queries
        flops += math.prod(keys) * dims
    if position:
        flops += rows * sum(keys) * dims
    elif position_bias:
        flops += sum(n * m for n, m in zip(queries, keys)) * dims
    return flops


def _forward(model: BaseModel, convention: str, images: Tensor) -> None:
    """Run every layer once, without what a detector computes between its stages."""
    if not hasattr(model, 'roi_head'):
        type(model).forward(model, images, mode='tensor')
        return
    features = model.extract_feat(images)
    model.rpn_head(features)
    roi_head = model.roi_head
    _run_heads(roi_head.bbox_head, roi_head.bbox_roi_extractor, features[0], NUM_BOXES)
    if roi_head.with_mask:
        extractor = roi_head.mask_roi_extractor
        _run_heads(roi_head.mask_head, extractor, features[0], NUM_MASKS)
    if convention == 'modern' and getattr(model, 'with_semantic_head', False):
        model.semantic_head(features)


def _run_heads(heads: Any, extractors: Any, like: Tensor, regions: int) -> None:
    """Run a head, or the heads of all stages of a cascade, on ``regions`` regions."""
    if not isinstance(heads, nn.ModuleList):
        heads, extractors = [heads], [extractors]
    for head, extractor in zip(heads, extractors):
        size = extractor.roi_layers[0].output_size
        head(like.new_empty(regions, extractor.out_channels, *size))


def _plain_convolution(conv: Any, x: Tensor) -> Tensor:
    """Replace a deformable convolution by its offsets and a plain one of its shape."""
    conv.conv_offset(x)
    return F.conv2d(
        x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups
    )


def _add_background_class(model: nn.Module) -> None:
    """Add a class to box regression and mask heads, as mmdet 1.x counted them."""
    head: Any
    for head in model.modules():
        if not getattr(head, 'reg_class_agnostic', True):
            outputs = 4 * (head.num_classes + 1)
            head.fc_reg = nn.Linear(head.fc_reg.in_features, outputs)
        if not getattr(head, 'class_agnostic', True):
            channels = head.conv_logits.in_channels
            head.conv_logits = nn.Conv2d(channels, head.num_classes + 1, 1)
