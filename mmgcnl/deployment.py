"""Models as functions of one tensor, and their export to ONNX."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

#: The largest of :func:`onnx_differences` that rounding can explain: of numbers, and of
#: labels, where it decides between two equal logits.
TOLERANCE = 1e-4
LABEL_TOLERANCE = 1e-3


class TensorModel(nn.Module):
    """What of a model depends on nothing but the pixels, from tensor to tensors.

    A segmentor gives the logits resized to the input, whatever its test_cfg's mode: of
    ``mode='slide'`` it is the model for one window. A detector gives the levels of its
    neck, to which EBFPN belongs; what follows makes boxes, whose number depends on the
    image.

    Args:
        model: A segmentor of mmseg, or a detector of mmdet.
        labels: Of a segmentor the labels in place of the logits.

    Raises:
        ValueError: The model is neither, or ``labels`` is asked of a detector.
    """

    def __init__(self, model: nn.Module, labels: bool = False) -> None:
        super().__init__()
        self.is_segmentor = hasattr(model, 'encode_decode')
        if not self.is_segmentor and not hasattr(model, 'extract_feat'):
            raise ValueError(
                f'{type(model).__name__} is neither a segmentor of mmseg (encode_decode) '
                'nor a detector of mmdet (extract_feat)'
            )
        if labels and not self.is_segmentor:
            raise ValueError(f'{type(model).__name__} is no segmentor: it has no labels')
        self.model = model
        self.labels = labels
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(B, 3, H, W), as the data_preprocessor gives it, to one of

        - logits (B, classes, H, W),
        - labels (B, 1, H, W) in int64,
        - as many levels (B, C_i, H_i, W_i) as the neck has.
        """
        if not self.is_segmentor:
            return tuple(self.model.extract_feat(x))
        logits = self.model.encode_decode(x, [dict(img_shape=x.shape[2:])])
        if not self.labels:
            return logits
        if logits.shape[1] == 1:  # binary, by a threshold
            return (logits.sigmoid() > self.model.decode_head.threshold).long()
        return logits.argmax(1, keepdim=True)

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """The outputs by the names that they have in ONNX.

        Raises:
            ValueError: The model cannot take an image of that size.
        """
        try:
            with torch.no_grad():
                outputs = self(x)
        except (RuntimeError, ValueError) as error:
            size = ' x '.join(map(str, x.shape[2:]))
            raise ValueError(
                f'the model cannot take an image of {size}: {_reason(error)}'
            ) from error
        if self.is_segmentor:
            return dict(output=outputs)
        return {f'level{i}': level for i, level in enumerate(outputs)}


def export_onnx(
    model: TensorModel,
    path: str | Path,
    shape: tuple[int, int],
    dynamic: bool = False,
    metadata: dict[str, Any] | None = None,
) -> None:
    """Write a model in eval mode to an ONNX file: 'input' to 'output' or 'level0', ...

    Args:
        model: The model.
        path: The file.
        shape: H and W of the input.
        dynamic: Whether the file takes any batch size, H and W; else one image of
            ``shape``.
        metadata: Goes into the file's metadata_props, values other than strings as JSON.

    Raises:
        ImportError: onnx or onnxscript is not installed.
        ValueError: Something in the model cannot be exported, or not with dynamic sizes;
            or the model cannot take ``shape``.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f'{error.name} is missing: pip install onnx onnxscript') from None
    x = torch.zeros(1, 3, *shape, device=_device(model))
    names = list(model.outputs(x))
    if dynamic:
        # Whatever has size 1 becomes a constant: trace where even a coarse pyramid level
        # has more. It costs nothing, the exporter computes shapes alone.
        x = x.new_zeros(2, 3, *(max(size, 512) for size in shape))
    with _quiet():
        try:
            program = torch.onnx.export(
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
        except Exception as error:  # whatever a model's code makes of symbols for numbers
            raise ValueError(
                f'the model cannot be exported{" with dynamic sizes" * dynamic}: '
                f'{_reason(error)}'
            ) from error
    for key, value in (metadata or {}).items():
        text = value if isinstance(value, str) else json.dumps(value)
        program.model.metadata_props[key] = text
    program.save(str(path), external_data=False)


def onnx_differences(
    model: TensorModel, path: str | Path, shapes: Sequence[tuple[int, int]]
) -> Iterator[tuple[tuple[int, int], float]]:
    """Compare an ONNX file in onnxruntime with its model, on random input.

    Args:
        model: What was exported.
        path: The file.
        shapes: (H, W) of the inputs.

    Yields:
        Each shape, and the largest difference of any output: for numbers divided by the
        larger of 1 and the output's largest value, for labels the share that differs.

    Raises:
        ImportError: onnxruntime is not installed.
        ValueError: onnxruntime cannot run the file, or outputs of another shape come out.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ImportError('onnxruntime is missing: pip install onnxruntime') from None
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    generator = torch.Generator().manual_seed(0)
    for shape in shapes:
        x = torch.randn(1, 3, *shape, generator=generator)
        expected = model.outputs(x.to(_device(model)))
        try:
            outputs = session.run(list(expected), {'input': x.numpy()})
        except Exception as error:  # onnxruntime has one class per error code
            size = ' x '.join(map(str, shape))
            raise ValueError(f'onnxruntime fails at {size}: {_reason(error)}') from error
        difference = 0.0
        for (name, truth), output in zip(expected.items(), outputs):
            if truth.shape != output.shape:
                raise ValueError(
                    f'{name} is {output.shape} at {shape}, not {tuple(truth.shape)}'
                )
            difference = max(difference, _difference(truth.cpu().numpy(), output))
        yield shape, difference


def _difference(truth: np.ndarray, output: np.ndarray) -> float:
    if truth.dtype.kind == 'i':
        return float((truth != output).mean())
    # A NaN must not get lost in a maximum.
    return float(np.abs(truth - output).max() / max(1.0, np.abs(truth).max()))


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _reason(error: BaseException) -> str:
    """First line of what was first raised."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f'{type(error).__name__}: {lines[0] if lines else "no message"}'


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on libraries that are not there."""
    logger = logging.getLogger('torch.onnx')
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
