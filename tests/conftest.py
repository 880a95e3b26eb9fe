import gc
import os
import random

import pytest
import torch

# Until pytest_collection_finish: all that is imported stays.
gc.disable()

if not torch.cuda.is_available():
    # Triton chooses its interpreter, which runs the fused kernels without a GPU, when it is
    # imported: here, before any library does so.
    os.environ['TRITON_INTERPRET'] = '1'

import tests.shortcuts  # noqa: E402, F401  mmengine is imported there


def pytest_collection_finish() -> None:
    """Leave all that has been imported out of the collections of garbage.

    mmengine collects for every data set, and among the objects of the libraries that takes
    longer than most tests.
    """
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def _fresh():
    """The same random numbers, and no scope or log of a library, whatever ran before."""
    random.seed(0)
    torch.manual_seed(0)
    try:
        import numpy as np
        from mmengine.logging import MMLogger
        from mmengine.registry import DefaultScope
    except ImportError:
        return
    np.random.seed(0)
    for manager in (DefaultScope, MMLogger):
        manager._instance_dict.clear()
