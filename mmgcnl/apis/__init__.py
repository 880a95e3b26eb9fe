"""Trained models in Python: load them, and segment images with them."""

from .inferencer import Inferencer, find_images
from .model import build_model, image_pipeline, init_model
from .overlays import Overlays
from .video import is_video, segment_video
from .writer import ResultWriter

__all__ = [
    'Inferencer',
    'Overlays',
    'ResultWriter',
    'build_model',
    'find_images',
    'image_pipeline',
    'init_model',
    'is_video',
    'segment_video',
]
