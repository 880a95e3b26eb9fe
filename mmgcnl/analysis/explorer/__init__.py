"""The attention explorer: a page to click on.

:mod:`.model` computes, :mod:`.differences` compares predictions, :mod:`.view` holds what is
looked at, :mod:`.pictures` draws it, and :mod:`.page` shows it in the browser.
"""

from .model import Change, ExploredModel
from .view import Explorer, Look, ModelSource, View, draw_view, read_view, write_view

__all__ = [
    'Change',
    'ExploredModel',
    'Explorer',
    'Look',
    'ModelSource',
    'View',
    'draw_view',
    'read_view',
    'write_view',
]
