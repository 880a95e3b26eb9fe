"""Models as functions of one tensor."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from mmgcnl.apis import input_channels
from mmgcnl.utils.text import first_cause, format_size


class TensorModel(nn.Module):
    """The part of a model that depends on the pixels alone: one tensor in, tensors out.

    Of a segmentor it is the whole model: the logits, resized to the input. With
    ``test_cfg.mode='slide'`` it is the model for one window. Of a detector it is the
    backbone and the neck, to which EBFPN belongs, and with ``head=True`` also the head of a
    single-stage detector, up to its raw outputs for each level. Boxes are not made: their
    number depends on the image.

    Args:
        model: A segmentor of mmseg, or a detector of mmdet.
        labels: Whether a segmentor returns labels instead of logits.
        head: Whether a detector returns the raw outputs of its head instead of the levels
            of its neck.

    Raises:
        ValueError: The model is neither; ``labels`` is asked of a detector, or ``head`` of
            a model other than a single-stage detector.
    """

    def __init__(self, model: nn.Module, labels: bool = False, head: bool = False) -> None:
        super().__init__()
        self.is_segmentor = hasattr(model, 'encode_decode')
        if not self.is_segmentor and not hasattr(model, 'extract_feat'):
            raise ValueError(
                f'{type(model).__name__} is neither a segmentor of mmseg (encode_decode) '
                'nor a detector of mmdet (extract_feat)'
            )
        if labels and not self.is_segmentor:
            raise ValueError(
                f'{type(model).__name__} is not a segmentor: labels=True needs one'
            )
        if head and not _is_single_stage(model):
            raise ValueError(
                f'{type(model).__name__} is no single-stage detector: head=True needs one, '
                'such as RetinaNet or FCOS'
            )
        self.model: Any = model  # of OpenMMLab, whose methods torch does not know
        self.labels = labels
        self.head = head
        self.in_channels = input_channels(model)
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Run the model.

        Args:
            x: (B, C, H, W) with C = ``in_channels``, as the model's data_preprocessor
                gives it.

        Returns:
            Of a segmentor the logits (B, classes, H, W), or the labels (B, 1, H, W),
            int64. Of a detector the levels (B, C_i, H_i, W_i) of its neck, or the raw
            outputs of its head, each for all levels.
        """
        outputs = tuple(self._named_outputs(x).values())
        return outputs[0] if self.is_segmentor else outputs

    def _named_outputs(self, x: Tensor) -> dict[str, Tensor]:
        if self.is_segmentor:
            return dict(output=self._segment(x))
        levels = self.model.extract_feat(x)
        if not self.head:
            return {f'level{i}': level for i, level in enumerate(levels)}
        # The names that mmdet gives the head's outputs, such as 'cls_scores'.
        names = inspect.signature(self.model.bbox_head.loss_by_feat).parameters
        return {
            f'{name}{i}': output
            for name, of_levels in zip(names, self.model.bbox_head(levels))
            for i, output in enumerate(of_levels)
        }

    def _segment(self, x: Tensor) -> Tensor:
        logits = self.model.encode_decode(x, [dict(img_shape=x.shape[2:])])
        if not self.labels:
            return logits
        if logits.shape[1] == 1:  # binary segmentation has a threshold
            heads = self.model.decode_head  # of a cascade, the last decides
            head = heads[-1] if isinstance(heads, nn.ModuleList) else heads
            return (logits.sigmoid() > head.threshold).long()
        return logits.argmax(1, keepdim=True)

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """Run the model without gradients; name the outputs as in the ONNX file.

        Raises:
            ValueError: The model cannot take an image of that size.
        """
        try:
            with torch.no_grad():
                return self._named_outputs(x)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f'the model cannot take an image of {format_size(x.shape[2:])}: '
                f'{first_cause(error)}'
            ) from error


def relative_difference(expected: Tensor, found: Tensor) -> Tensor:
    """The largest difference, over the larger of 1 and the largest value; keeps a NaN."""
    return (expected - found).abs().max() / expected.abs().max().clamp(min=1)


def _is_single_stage(model: nn.Module) -> bool:
    try:
        from mmdet.models import SingleStageDetector
    except ImportError:
        return False
    return isinstance(model, SingleStageDetector)
