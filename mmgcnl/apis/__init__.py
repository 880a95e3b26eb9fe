"""Trained models in Python: load them, and segment images with them."""

from .inference import Inferencer
from .model import image_pipeline, init_model

__all__ = ['Inferencer', 'image_pipeline', 'init_model']
