import pytest


@pytest.fixture(autouse=True)
def _fresh():
    """The same random numbers, and no library's scope, whatever ran before."""
    import torch

    torch.manual_seed(0)
    try:
        from mmengine.registry import DefaultScope
    except ImportError:
        return
    DefaultScope._instance_dict.clear()
