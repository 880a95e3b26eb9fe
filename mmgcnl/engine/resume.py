"""What checkpoints hold besides mmengine's part, so that resuming is exact.

mmengine saves weights, optimizer, schedules and logs. This adds the random states, the seed
of the sampler, the gradients between two updates, and whether the validation that is due at
the checkpoint has taken place.
"""

from __future__ import annotations

import logging
from typing import Any, cast

from mmengine.dist import all_gather_object, gather
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .random_state import get_random_state

Gradients = dict[str, Tensor]


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel or the like."""
    return cast(nn.Module, model.module) if is_model_wrapper(model) else model


def collect_progress(runner: Any, iteration: int, with_gradients: bool) -> dict[str, Any]:
    """Collect what a checkpoint adds. Every process must call this.

    Args:
        runner: The runner.
        iteration: Number of iterations done.
        with_gradients: Whether to collect accumulated gradients, those of all processes,
            in the main process.

    Returns:
        Entries for ``meta`` in a checkpoint.
    """
    loader = runner.train_dataloader
    start = getattr(runner.train_loop, 'epoch_start', None)
    progress = dict(
        # The epoch that is running, and how many of its batches are done.
        running_epoch=None if start is None else (runner.epoch, iteration - start),
        random_states=all_gather_object(runner.state_before_val or get_random_state()),
        epoch_length=len(loader),
        sampler_seed=getattr(_sampler(loader), 'seed', None),
        validated=runner.validated_iter == iteration,
    )
    if with_gradients and _accumulates(runner.optim_wrapper):
        progress['gradients'] = _gather_gradients(unwrapped(runner.model))
    return progress


def restore_progress(runner: Any, filename: str, meta: dict[str, Any]) -> None:
    """Restore what :func:`collect_progress` collected.

    Args:
        runner: A runner that has resumed what mmengine saves.
        filename: The checkpoint, for messages.
        meta: ``meta`` of the checkpoint, without the gradients afterwards.
    """
    loop = runner.train_loop
    runner.model.zero_grad()  # another checkpoint may have been tried before
    sampler = _sampler(loop.dataloader)
    if meta.get('sampler_seed') is not None and hasattr(sampler, 'seed'):
        # Without a seed in the config, mmengine has drawn a new one.
        sampler.seed = meta['sampler_seed']
    if meta.get('validated', True):  # mmengine's own checkpoints do not say
        runner.validated_iter = loop.iter
    states, gradients = meta.get('random_states', []), meta.pop('gradients', [])
    if len(states) == runner.world_size:
        runner.resumed_state = states[runner.rank]
        if gradients:
            _restore_gradients(runner, gradients[runner.rank])
    else:
        lost = ', and the gradients since the last update are lost' if gradients else ''
        runner.logger.warning(
            f'{filename} was written by {len(states)} processes and is resumed by '
            f'{runner.world_size}. The training continues, but not exactly: random '
            'numbers and the order of the samples differ, and so does the total batch '
            f'size unless you change train_dataloader.batch_size{lost}'
        )
    if hasattr(loop, 'batches_done'):  # an epoch-based loop
        length = len(loop.dataloader)
        # Checkpoints of mmengine do not say what was running.
        default = loop.epoch, loop.iter - loop.epoch * length
        epoch, done = meta.get('running_epoch') or default
        done = done if loop.epoch == epoch else 0  # 0: saved at the end of an epoch
        loop.between_epochs = done == 0
        before = meta.get('epoch_length')
        if done and done == before:  # saved in the last iteration of the epoch
            loop.batches_done = length
        elif before == length and 0 <= done <= length:
            loop.batches_done = done


def _accumulates(wrapper: Any) -> bool:
    """Whether gradients have been accumulated since the last update."""
    if not isinstance(wrapper, OptimWrapper) or wrapper._accumulative_counts == 1:
        return False
    return not wrapper.should_update()


def _gather_gradients(model: nn.Module) -> list[Gradients]:
    """Gather every process's gradients in the main process, one parameter at a time."""
    parameters = dict(model.named_parameters())
    names = all_gather_object([n for n, p in parameters.items() if p.grad is not None])
    found: list[Gradients] = [{} for _ in names]
    for name in dict.fromkeys(sum(names, [])):
        weight = parameters[name]
        own = weight.new_zeros(weight.shape) if weight.grad is None else weight.grad
        for gradients, having, value in zip(found, names, gather(own)):
            if name in having:
                gradients[name] = value.detach().cpu().clone()
    return found


def _restore_gradients(runner: Any, gradients: Gradients) -> None:
    for name, weight in unwrapped(runner.model).named_parameters():
        if name in gradients:
            weight.grad = gradients[name].to(weight)
    # mmengine is going to warn that they are lost.
    runner.logger.addFilter(_not_about_lost_gradients)


def _not_about_lost_gradients(record: logging.LogRecord) -> bool:
    return 'gradient of some iterations is lost' not in record.getMessage()


def _sampler(loader: DataLoader) -> Any:
    return getattr(loader.batch_sampler, 'sampler', None)
