"""Training in bfloat16, with or without a GPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import autocast
from torch import nn


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """mmengine's OptimWrapper with autocast to bfloat16.

    mmengine's AmpOptimWrapper requires a GPU, because it scales the loss. float16 needs
    that; bfloat16, which has the exponent range of float32, does not.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass inside in bfloat16, besides what OptimWrapper does."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
