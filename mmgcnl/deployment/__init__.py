"""Trained models for other places: as functions of one tensor, and in ONNX.

And the weights of plain non-local blocks as weights of GCNonLocal2d.
"""

from .nonlocal_weights import convert_state_dict, largest_difference
from .onnx import (
    LABEL_TOLERANCE,
    TOLERANCE,
    describe_preprocessing,
    export_onnx,
    onnx_differences,
    shapes_to_verify,
)
from .tensor_model import TensorModel

__all__ = [
    'LABEL_TOLERANCE',
    'TOLERANCE',
    'TensorModel',
    'convert_state_dict',
    'describe_preprocessing',
    'export_onnx',
    'largest_difference',
    'onnx_differences',
    'shapes_to_verify',
]
