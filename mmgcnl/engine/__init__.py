"""What tools/train.py and tools/test.py share."""

from .cli import add_common_arguments, check_file, load_config
from .runner import Runner

__all__ = ['Runner', 'add_common_arguments', 'check_file', 'load_config']
