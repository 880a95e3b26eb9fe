import pytest


@pytest.fixture(autouse=True)
def _seeded():
    """The same random numbers in every run, whatever ran before."""
    import torch

    torch.manual_seed(0)
