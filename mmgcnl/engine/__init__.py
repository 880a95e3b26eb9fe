"""What tools/train.py and tools/test.py share."""

from .checkpoint import CheckpointError
from .cli import add_common_arguments, check_file, load_config
from .optim import Bfloat16OptimWrapper
from .runner import Runner

__all__ = [
    'Bfloat16OptimWrapper',
    'CheckpointError',
    'Runner',
    'add_common_arguments',
    'check_file',
    'load_config',
]
