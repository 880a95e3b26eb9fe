import os

import pytest
import torch

if not torch.cuda.is_available():
    # Triton chooses its interpreter, which runs the fused kernels without a GPU, when it is
    # imported: here, before any library does so.
    os.environ['TRITON_INTERPRET'] = '1'


@pytest.fixture(autouse=True)
def _fresh():
    """The same random numbers, and no library's scope, whatever ran before."""
    torch.manual_seed(0)
    try:
        from mmengine.registry import DefaultScope
    except ImportError:
        return
    DefaultScope._instance_dict.clear()
