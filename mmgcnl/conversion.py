"""Weights of plain non-local blocks, for GCNonLocal2d to go on from.

mmcv's NonLocal2d is what mmdet's BFP and mmseg's NLHead are made of. GCNonLocal2d computes
the same while its priors are off: a context of weight 0 and bias 1 multiplies by one, a
position of weight 0 adds nothing. Both then learn from there.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Sequence

import torch
from mmcv.cnn import NonLocal2d
from torch import Tensor, nn

from mmgcnl.deployment import TensorModel
from mmgcnl.layers import GCNonLocal2d

#: Layer of NonLocal2d -> layer of GCNonLocal2d.
LAYERS = {'theta': 'query', 'phi': 'key', 'g': 'value', 'conv_out': 'out'}
#: Name of the block in NLHead, as a ResNet plugin -> in GCNLHead, as a plugin.
BLOCKS = {'nl_block': 'block', 'nonlocal_block': 'gcnl_block'}


def convert_state_dict(
    source: nn.Module, target: nn.Module
) -> tuple[OrderedDict[str, Tensor], dict[str, str], list[str]]:
    """Weights for ``target`` from those of ``source``.

    Args:
        source: A model with mmcv's NonLocal2d blocks.
        target: A model that has GCNonLocal2d in their places and is the same otherwise.
            It may have more of them, which stay the identity.

    Returns:
        The weights; the blocks' names, source to target; and the reasons, if any, for
        which the outputs of the two cannot be the same.

    Raises:
        ValueError: The weights do not fit, with every reason.
    """
    pairs, faults = _pair_blocks(source, target)
    state: OrderedDict[str, Tensor] = OrderedDict()
    differences = []
    for name, value in source.state_dict().items():
        if not any(name.startswith(f'{block}.') for block in pairs):
            state[name] = value
    for their_name, our_name in pairs.items():
        theirs, ours = source.get_submodule(their_name), target.get_submodule(our_name)
        if theirs.mode in ('gaussian', 'concatenation'):
            faults.append(
                f"{their_name} has mode='{theirs.mode}', of which there is no like"
            )
            continue
        differences += [f'{our_name}: {reason}' for reason in _differences(theirs, ours)]
        for key, value in _block_weights(theirs, ours).items():
            state[f'{our_name}.{key}'] = value
    for name, block in target.named_modules():
        if isinstance(block, GCNonLocal2d) and name not in pairs.values():
            block.reset_parameters()
            for key, value in block.state_dict().items():
                state[f'{name}.{key}'] = value

    own = target.state_dict()
    for what, keys in (
        ('has no weights for', own.keys() - state.keys()),
        ('has more than the config, namely', state.keys() - own.keys()),
        (
            'has another shape of',
            {k for k in own.keys() & state if own[k].shape != state[k].shape},
        ),
    ):
        if keys:
            some = sorted(keys)
            faults.append(
                f'the source {what} {", ".join(some[:3])}{", ..." * (len(some) > 3)}'
            )
    if faults:
        raise ValueError('; '.join(faults))
    return state, pairs, differences


def largest_difference(
    source: nn.Module, target: nn.Module, shapes: Sequence[tuple[int, int]]
) -> float:
    """Of the two models' outputs for random images, as a share of the largest value.

    Args:
        source: A segmentor or detector in eval mode.
        target: Another.
        shapes: (H, W) of the images.

    Raises:
        ValueError: A model cannot take such an image, or their outputs differ in number or
            shape.
    """
    models = [TensorModel(model) for model in (source, target)]
    generator = torch.Generator().manual_seed(0)
    largest = 0.0
    for shape in shapes:
        x = torch.randn(1, 3, *shape, generator=generator)
        theirs, ours = (list(model.outputs(x).values()) for model in models)
        if [y.shape for y in theirs] != [y.shape for y in ours]:
            raise ValueError('the outputs of the two models differ in number or shape')
        for a, b in zip(theirs, ours):
            difference = float((a - b).abs().max() / a.abs().max().clamp(min=1))
            # max() would lose a NaN.
            largest = difference if math.isnan(difference) else max(largest, difference)
    return largest


def _pair_blocks(source: nn.Module, target: nn.Module) -> tuple[dict[str, str], list[str]]:
    """Names of the source's blocks with those of the target's; and what has no partner."""
    blocks = {name for name, m in target.named_modules() if isinstance(m, GCNonLocal2d)}
    pairs, faults = {}, []
    for name, module in source.named_modules():
        if not isinstance(module, NonLocal2d):
            continue
        parent, _, last = name.rpartition('.')
        last = re.sub(
            f'^({"|".join(BLOCKS)})(?=$|_|\\d)', lambda match: BLOCKS[match[1]], last
        )
        partner = f'{parent}.{last}'.removeprefix('.')
        if partner in blocks:
            pairs[name] = partner
        else:
            faults.append(f'the config has no GCNonLocal2d {partner} to take {name}')
    if not pairs and not faults:
        faults.append(
            "the source has no NonLocal2d (mmdet's BFP, mmseg's NLHead, a plugin)"
        )
    return pairs, faults


def _differences(theirs: NonLocal2d, ours: GCNonLocal2d) -> list[str]:
    """Why the two cannot give the same, whatever the weights."""
    reasons = []
    if theirs.mode != 'embedded_gaussian':
        reasons.append(f"the source has mode='{theirs.mode}', ours is 'embedded_gaussian'")
    if theirs.sub_sample:
        reasons.append('the source has sub_sample=True, a max pooling of keys and values')
    if ours.num_heads != 1:
        reasons.append(f'num_heads={ours.num_heads}, the source has 1')
    if ours.kv_stride != 1:
        reasons.append(f'kv_stride={ours.kv_stride}, the source has 1')
    scale = theirs.inter_channels**-0.5 if theirs.use_scale else 1.0
    if not math.isclose(ours.scale, scale):
        needed = None if theirs.use_scale and ours.num_heads == 1 else scale
        reasons.append(
            f"its scale is {ours.scale:.4g}, the source's {scale:.4g}: set scale={needed}"
        )
    return reasons


def _block_weights(theirs: NonLocal2d, ours: GCNonLocal2d) -> dict[str, Tensor]:
    weights = {}
    for their_layer, layer in LAYERS.items():
        module = getattr(theirs, their_layer)
        if isinstance(module, nn.Sequential):  # sub_sample
            module = module[0]
        for key, value in module.conv.state_dict().items():
            weights[f'{layer}.{key}'] = value
        if module.with_norm:
            for key, value in module.norm.state_dict().items():
                weights[f'norm.{key}'] = value
    if ours.context is not None:
        weights['context.fc.weight'] = torch.zeros_like(ours.context.fc.weight)
        weights['context.fc.bias'] = torch.ones_like(ours.context.fc.bias)
    if ours.position is not None:
        for key, value in ours.position.state_dict().items():
            off = key in ('x.weight', 'y.weight')
            weights[f'position.{key}'] = torch.zeros_like(value) if off else value
    return weights
