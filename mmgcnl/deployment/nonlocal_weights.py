"""Weights of plain non-local blocks as a start for GCNonLocal2d.

mmdet's BFP and mmseg's NLHead contain mmcv's NonLocal2d. GCNonLocal2d computes the same
while its priors are off: a context with weight 0 and bias 1 multiplies by one, and a
position term with weight 0 adds nothing. Training then moves both away from there.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import NonLocal2d
from torch import Tensor, nn

from mmgcnl.layers import GCNonLocal2d
from mmgcnl.utils.text import first_names

from .tensor_model import TensorModel, relative_difference

#: Layers of NonLocal2d, and the same layers of GCNonLocal2d.
LAYERS = {'theta': 'query', 'phi': 'key', 'g': 'value', 'conv_out': 'out'}
#: Names of the block in NLHead and as a ResNet plugin, and those in GCNLHead and as a
#: plugin.
BLOCKS = {'nl_block': 'block', 'nonlocal_block': 'gcnl_block'}


def convert_state_dict(
    source: nn.Module, target: nn.Module
) -> tuple[OrderedDict[str, Tensor], dict[str, str], list[str]]:
    """Convert the weights of ``source`` into weights of ``target``.

    Args:
        source: A model with mmcv's NonLocal2d blocks.
        target: The same model with GCNonLocal2d in the places of these blocks. It may
            have further GCNonLocal2d blocks, which start as the identity.

    Returns:
        The weights; the names of the target's blocks by those of the source's; and the
        reasons, if any, why the outputs of the two models cannot be the same.

    Raises:
        ValueError: The weights do not fit. The message has every reason.
    """
    pairs, faults = _pair_blocks(source, target)
    state: OrderedDict[str, Tensor] = OrderedDict()
    differences = []
    for name, value in source.state_dict().items():
        if not any(name.startswith(f'{block}.') for block in pairs):
            state[name] = value
    for their_name, our_name in pairs.items():
        theirs: Any = source.get_submodule(their_name)
        ours: Any = target.get_submodule(our_name)
        if theirs.mode in ('gaussian', 'concatenation'):
            faults.append(
                f"{their_name} has mode='{theirs.mode}', which GCNonLocal2d does not "
                'support'
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
            faults.append(f'the source {what} {first_names(sorted(keys))}')
    if faults:
        raise ValueError('; '.join(faults))
    return state, pairs, differences


def largest_difference(
    source: nn.Module, target: nn.Module, shapes: Sequence[tuple[int, int]]
) -> float:
    """Measure how much the outputs of two models differ on random images.

    Args:
        source: A segmentor or detector in eval mode.
        target: The model to compare with it.
        shapes: (H, W) of the images.

    Returns:
        The largest difference of an output, divided by the larger of 1 and the output's
        largest value. NaN if any output has a NaN.

    Raises:
        ValueError: A model cannot take such an image, or the two differ in the number of
            channels that they take, or in the number or shape of their outputs.
    """
    models = [TensorModel(model) for model in (source, target)]
    channels = models[0].in_channels
    if models[1].in_channels != channels:
        raise ValueError(
            f'the source takes images of {channels} channels, the config ones of '
            f'{models[1].in_channels}'
        )
    generator = torch.Generator().manual_seed(0)
    found: list[Tensor] = []
    for shape in shapes:
        x = torch.randn(1, channels, *shape, generator=generator)
        theirs, ours = (list(model.outputs(x).values()) for model in models)
        if [y.shape for y in theirs] != [y.shape for y in ours]:
            raise ValueError('the outputs of the two models differ in number or shape')
        found += map(relative_difference, theirs, ours)
    return float(torch.stack(found).max())  # Python's max() may lose a NaN


def _pair_blocks(source: nn.Module, target: nn.Module) -> tuple[dict[str, str], list[str]]:
    """Find the target's block for each of the source's; list those that have none."""
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
            faults.append(
                f'the config has no GCNonLocal2d {partner} for the weights of {name}'
            )
    if not pairs and not faults:
        faults.append(
            "the source has no NonLocal2d (in mmdet's BFP, mmseg's NLHead or a plugin)"
        )
    return pairs, faults


def _differences(theirs: NonLocal2d, ours: GCNonLocal2d) -> list[str]:
    """List why two blocks cannot compute the same, whatever their weights."""
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
    """Make the weights of GCNonLocal2d with its priors off from those of NonLocal2d."""
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
