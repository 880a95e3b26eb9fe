"""Training and testing: what tools/train.py and tools/test.py share."""

from .build import build_runner
from .checkpoints import CheckpointError, install_safe_loading
from .cli import add_common_arguments, load_config
from .optim import Bfloat16OptimWrapper
from .options import ConfigError
from .processes import close_process_group
from .runner import Runner

__all__ = [
    'Bfloat16OptimWrapper',
    'CheckpointError',
    'ConfigError',
    'Runner',
    'add_common_arguments',
    'build_runner',
    'close_process_group',
    'install_safe_loading',
    'load_config',
]
