"""Export to ONNX, and comparison of the file with the model.

Shape shorthand: H, W: pixels of the input.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from mmengine.config import Config
from torch import Tensor, nn

from mmgcnl.layers.attention.dispatch import IMPLEMENTATION_VARIABLE
from mmgcnl.utils.text import first_cause, format_size

from .tensor_model import TensorModel, relative_difference

#: The largest difference between outputs (:func:`onnx_differences`) that rounding can
#: explain. Labels differ where rounding decides between two equal logits.
TOLERANCE = 1e-4
LABEL_TOLERANCE = 1e-3


def export_onnx(
    model: TensorModel,
    path: str | Path,
    shape: tuple[int, int],
    dynamic: bool = False,
    metadata: dict[str, Any] | None = None,
    dense: bool = False,
) -> None:
    """Write a model to an ONNX file: 'input' to the names of :class:`.TensorModel`.

    The attention of every GCNonLocal2d becomes a Scan over the rows of its map, which needs
    no memory for all pairs of positions.

    Args:
        model: The model, in eval mode.
        path: The file.
        shape: H and W of the input.
        dynamic: Whether the file takes any batch size, H and W. Otherwise it takes one
            image of ``shape``.
        metadata: Stored in the file's metadata_props; values other than strings as JSON.
        dense: Whether the attention becomes matrix products of all pairs instead, for
            runtimes without Scan.

    Raises:
        ImportError: onnx or onnxscript is not installed.
        ValueError: The model cannot be exported, or not with dynamic sizes; or it cannot
            take ``shape``.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f'{error.name} is missing: pip install onnx onnxscript') from None
    x = torch.zeros(1, model.in_channels, *shape, device=_device(model))
    names = list(model.outputs(x))
    if dynamic and model.head:
        raise ValueError('a detector is exported with its head at one size only')
    if dynamic:
        # A dimension of size 1 would become a constant. At this size even the coarsest
        # level of a pyramid is larger. The exporter computes shapes only, so that the
        # size costs nothing.
        x = x.new_zeros(2, model.in_channels, *(max(size, 512) for size in shape))
    # It overrides the option of every block.
    form = patch.dict(
        os.environ, {IMPLEMENTATION_VARIABLE: 'dense' if dense else 'row_wise'}
    )
    with torch.no_grad(), _quiet(), form:
        try:
            program: Any = torch.onnx.export(
                model,
                (x,),
                dynamo=True,
                verbose=False,
                input_names=['input'],
                output_names=names,
                dynamic_shapes=(
                    [{axis: torch.export.Dim.DYNAMIC for axis in (0, 2, 3)}]
                    if dynamic
                    else None
                ),
            )
        except Exception as error:  # symbolic sizes make model code raise anything
            raise ValueError(
                f'the model cannot be exported{" with dynamic sizes" * dynamic}: '
                f'{first_cause(error)}'
            ) from error
    for key, value in (metadata or {}).items():
        text = value if isinstance(value, str) else json.dumps(value)
        program.model.metadata_props[key] = text
    program.save(str(path), external_data=False)


def onnx_differences(
    model: TensorModel, path: str | Path, shapes: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], float]]:
    """Compare an ONNX file, run by onnxruntime, with its model on random input.

    Args:
        model: The exported model.
        path: The file.
        shapes: (H, W) of the inputs.

    Yields:
        Each shape with the largest difference of any output. For logits and features it
        is divided by the larger of 1 and the output's largest value; for labels it is
        the share of pixels that differ.

    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: onnxruntime cannot load or run the file, or an output has another
            shape.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ImportError('onnxruntime is missing: pip install onnxruntime') from None
    try:
        session = onnxruntime.InferenceSession(
            str(path), providers=['CPUExecutionProvider']
        )
    except Exception as error:  # onnxruntime has one class per error code
        raise ValueError(
            f'onnxruntime cannot load {path}: {first_cause(error)}; without Scan '
            '(--dense) it may'
        ) from error
    generator = torch.Generator().manual_seed(0)
    for shape in shapes:
        x = torch.randn(1, model.in_channels, *shape, generator=generator)
        expected = model.outputs(x.to(_device(model)))
        try:
            outputs = session.run(list(expected), {'input': x.numpy()})
        except Exception as error:  # onnxruntime has one class per error code
            raise ValueError(
                f'onnxruntime fails at {format_size(shape)}: {first_cause(error)}'
            ) from error
        found = []
        for (name, truth), output in zip(expected.items(), outputs):
            if truth.shape != output.shape:
                raise ValueError(
                    f'onnxruntime gives {name} the shape {output.shape} for an image of '
                    f'{format_size(shape)}, the model {tuple(truth.shape)}'
                )
            found.append(_difference(truth.cpu(), torch.from_numpy(output)))
        yield shape, float(torch.stack(found).max())  # Python's max() may lose a NaN


def shapes_to_verify(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Choose sizes at which a file with dynamic sizes is compared with its model.

    Args:
        shape: H and W of the export.

    Returns:
        ``shape`` transposed (or made wider, if square), a square, and a smaller size; none
        rounded to a multiple of anything.
    """
    height, width = shape
    turned = (width, height) if width != height else (height, height * 3 // 2)
    side = (height + width) // 2 + 13
    return [turned, (side, side), (height - height // 5, width - width // 3)]


def describe_preprocessing(cfg: Config) -> dict[str, Any]:
    """Read from a config what its data_preprocessor does to the values of an image."""
    settings = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    keys = ('bgr_to_rgb', 'rgb_to_bgr', 'mean', 'std', 'pad_size_divisor')
    return {key: settings[key] for key in keys if settings.get(key)}


def _difference(truth: Tensor, output: Tensor) -> Tensor:
    if truth.dtype == torch.int64:
        return (truth != output).float().mean()
    return relative_difference(truth, output)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's remarks on optional libraries that are not installed."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
