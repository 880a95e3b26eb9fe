"""Training and testing: what tools/train.py and tools/test.py share."""

from mmgcnl.utils.deprecation import moved_names

from .checkpoint import CheckpointError, install_safe_loading
from .cli import add_common_arguments, load_config
from .num_classes import NumClassesError
from .optim import Bfloat16OptimWrapper
from .runner import Runner, close_process_group

__all__ = [
    'Bfloat16OptimWrapper',
    'CheckpointError',
    'NumClassesError',
    'Runner',
    'add_common_arguments',
    'close_process_group',
    'install_safe_loading',
    'load_config',
]

__getattr__ = moved_names(__name__, {'check_file': 'mmgcnl.utils.cli.check_file'})
