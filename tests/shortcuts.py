"""Importing this saves mmengine most of its time with configs, and changes no result.

mmengine formats the configs that it logs and writes, several times in a training, which
takes longer than the few iterations of a test. For every config that inherits one of mmdet,
it reads mmdet's index again. It collects garbage for every data set, among all that the
libraries hold. The configs in other processes name a module that imports this one.
"""

import gc
from functools import cache

try:
    from mmengine.config import utils
    from yapf.yapflib import yapf_api
except ImportError:  # torch alone is installed
    pass
else:
    yapf_api.FormatCode = lambda text, **options: (text, True)
    utils.load = cache(utils.load)
    gc.freeze()
