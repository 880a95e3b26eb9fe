"""Trained models in Python: load them, and segment images with them."""

from .inferencer import Inferencer
from .inputs import expand_glob, find_images, is_video
from .model import build_model, image_pipeline, init_model, input_channels
from .overlays import Overlays
from .video import segment_video
from .writer import ResultWriter

__all__ = [
    'Inferencer',
    'Overlays',
    'ResultWriter',
    'build_model',
    'expand_glob',
    'find_images',
    'image_pipeline',
    'init_model',
    'input_channels',
    'is_video',
    'segment_video',
]
