"""mmengine's Runner, for machines without a GPU and for interrupted trainings."""

import os
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import all_gather_object, is_distributed, is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.runner import Runner as _Runner
from mmengine.runner.base_loop import BaseLoop
from torch import distributed, nn
from torch.utils.data import DataLoader

from mmgcnl.datasets import build_dataloader

from .checkpoint import CheckpointError, find_checkpoints, install_safe_loading
from .hooks import CheckpointHook, GuardHook
from .initialization import explain_missing_weights
from .num_classes import NumClassesHook
from .resume import (
    EpochBasedTrainLoop,
    IterBasedTrainLoop,
    get_random_state,
    set_random_state,
)


class Runner(_Runner):
    """mmengine's Runner with additions.

    - Resuming an interrupted training yields the same weights as an uninterrupted one:
      checkpoints hold the random state of every process, and the data goes on where it
      stopped, also within an epoch (docs/reliability.md has the conditions).
    - A checkpoint gets its name when it is complete. Older ones are removed after that,
      and resuming takes the latest intact one.
    - Training stops at a loss that is not finite, and does not save such weights.
    - ``launcher='pytorch'`` works without a GPU: the processes communicate over gloo,
      and SyncBN becomes BN, since PyTorch's SyncBN has no CPU implementation.
    - When pretrained weights cannot be loaded, the error names the options that turn them
      off or read them from a file.
    - Data sets, and the number of classes of the heads, are checked before the first
      iteration.
    - Checkpoints are loaded without running code in them.

    Args:
        *args: See mmengine's Runner.
        **kwargs: See mmengine's Runner.
    """

    build_dataloader = staticmethod(build_dataloader)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        install_safe_loading()
        super().__init__(*args, **kwargs)

    # Random states: that of the checkpoint, until the training loop has restored it; and
    # that of the training, during a validation.
    _resumed_state: dict[str, Any] | None = None
    state_before_val: dict[str, Any] | None = None
    _loaded_meta: dict[str, Any] = {}

    def setup_env(self, env_cfg: dict) -> None:
        """Set up the environment; without a GPU, connect the processes over gloo."""
        if self.launcher == 'pytorch' and get_device() == 'cpu' and not is_distributed():
            # mmengine would ask for a CUDA device, whatever the backend, unless the
            # process group is already initialised.
            timeout = env_cfg.get('dist_cfg', {}).get('timeout')
            distributed.init_process_group(
                'gloo', timeout=timeout and timedelta(seconds=timeout)
            )
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model for distributed training, also on CPUs."""
        if self.distributed and get_device() == 'cpu':
            self.cfg.pop('sync_bn', None)  # would turn BN into SyncBN again
            num_sync_bn = sum(type(m).__name__ == 'SyncBatchNorm' for m in model.modules())
            if num_sync_bn:
                self.logger.warning(
                    f'SyncBN needs a GPU: {num_sync_bn} SyncBN layers become BN, '
                    'each process normalises with its own batch only.'
                )
                model = revert_sync_batchnorm(model)
            # mmengine's defaults, but on CPUs DDP takes no device_ids.
            model_wrapper_cfg = model_wrapper_cfg or dict(
                broadcast_buffers=False,
                find_unused_parameters=self.cfg.get('find_unused_parameters', False),
            )
            model_wrapper_cfg = dict(model_wrapper_cfg, device_ids=None)
        return super().wrap_model(model_wrapper_cfg, model)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop, taking the loops that resume exactly for mmengine's."""
        if isinstance(loop, dict):
            loop = dict(loop)
            if 'by_epoch' in loop and 'type' not in loop:
                by_epoch = loop.pop('by_epoch')
                loop['type'] = f'{"Epoch" if by_epoch else "Iter"}BasedTrainLoop'
            loop['type'] = {
                'EpochBasedTrainLoop': EpochBasedTrainLoop,
                'IterBasedTrainLoop': IterBasedTrainLoop,
            }.get(loop['type'], loop['type'])
        return super().build_train_loop(loop)

    def scale_lr(self, optim_wrapper: Any, auto_scale_lr: dict | None = None) -> None:
        """Scale the learning rate if asked to; otherwise warn of another batch size."""
        super().scale_lr(optim_wrapper, auto_scale_lr)
        options = auto_scale_lr or {}
        base = options.get('base_batch_size')
        if base is None or options.get('enable'):
            return
        loader = self._train_dataloader
        batch = loader['batch_size'] if isinstance(loader, dict) else loader.batch_size
        steps = getattr(optim_wrapper, '_accumulative_counts', 1)
        total = self.world_size * batch * steps
        if total == base:
            return
        processes = 'process' if self.world_size == 1 else 'processes'
        factors = f'{self.world_size} {processes} x {batch}'
        factors += f' x {steps} accumulated' if steps > 1 else ''
        same, rest = divmod(base, self.world_size * steps)
        remedy = (
            'change the number of processes'
            if rest or not same
            else f'keep it by --cfg-options train_dataloader.batch_size={same}'
        )
        self.logger.warning(
            f'Batch size {total} ({factors}) instead of the {base} that the learning rate '
            f'is for: scale the rate by --auto-scale-lr, or {remedy}'
        )

    def register_hook(self, hook: Hook | dict, priority: Any = None) -> None:
        """Register a hook, taking the safer CheckpointHook for mmengine's."""
        if isinstance(hook, dict) and hook.get('type') == 'CheckpointHook':
            hook = dict(hook, type=CheckpointHook)
        super().register_hook(hook, priority)

    def register_hooks(
        self, default_hooks: dict | None = None, custom_hooks: list | None = None
    ) -> None:
        """Register the config's hooks, GuardHook and NumClassesHook."""
        super().register_hooks(default_hooks, custom_hooks)
        self.register_hook(GuardHook())
        self.register_hook(NumClassesHook())

    def save_checkpoint(
        self,
        out_dir: str,
        filename: str,
        *args: Any,
        meta: dict | None = None,
        **kwargs: Any,
    ) -> None:
        """Save a checkpoint. Every process must call this: each adds its random state.

        The file is written under another name and renamed once it is on the disk.

        Raises:
            FloatingPointError: The weights are not finite.
            OSError: The file cannot be written. Earlier checkpoints are unchanged.
        """
        model = self.model.module if is_model_wrapper(self.model) else self.model
        for name, weight in model.named_parameters():
            if not torch.isfinite(weight).all():
                raise FloatingPointError(
                    f'iteration {self.iter + 1}: {name} is not finite, so {filename} is '
                    'not saved and the checkpoint before it is kept; lower '
                    'optim_wrapper.optimizer.lr or set optim_wrapper.clip_grad'
                )
        meta = dict(
            meta or {},
            random_states=all_gather_object(self.state_before_val or get_random_state()),
            epoch_length=len(self.train_dataloader),
            sampler_seed=getattr(_sampler(self.train_dataloader), 'seed', None),
        )
        if not is_main_process():
            return
        if '://' in out_dir:
            super().save_checkpoint(out_dir, filename, *args, meta=meta, **kwargs)
            return
        path = os.path.join(out_dir, filename)
        part = f'{path}.part'
        try:
            super().save_checkpoint(out_dir, f'{filename}.part', *args, meta=meta, **kwargs)
            _flush(part)
            os.replace(part, path)
            _flush(out_dir)
        except OSError as error:
            with suppress(OSError):
                os.remove(part)
            raise OSError(
                error.errno,
                f'{path} could not be saved: {error.strerror}. Earlier checkpoints are '
                'unchanged: free some space and continue with --resume',
            ) from error

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict:
        """Load a checkpoint.

        Raises:
            CheckpointError: The file is no intact, safe checkpoint; or it is to be
                resumed and holds weights only.
        """
        checkpoint = super().load_checkpoint(filename, *args, **kwargs)
        if self._resume and not {'meta', 'message_hub'} <= checkpoint.keys():
            raise CheckpointError(
                f'{filename} holds weights, but no training to resume; to start from '
                f'these weights: --cfg-options load_from={filename}'
            )
        # mmengine's resume runs this entry as Python, and no mmengine writes it.
        checkpoint.get('meta', {}).pop('config', None)
        self._loaded_meta = checkpoint.get('meta', {})
        return checkpoint

    def load_or_resume(self) -> None:
        """Load or resume as the config asks, from the latest intact checkpoint.

        Raises:
            CheckpointError: There are checkpoints, but none can be resumed.
        """
        if self._has_loaded or not self._resume or self._load_from is not None:
            super().load_or_resume()
            return
        found = find_checkpoints(self.work_dir)
        for path in found:
            try:
                self.resume(path)
            except CheckpointError as error:
                self.logger.warning(f'Not resumed: {error}')
            else:
                self.logger.info(f'Resumed from {path}')
                return
        if found:
            raise CheckpointError(
                f'none of the checkpoints in {self.work_dir} can be resumed '
                f'({", ".join(found)}); to start again, give another --work-dir'
            )
        self.logger.info(f'No checkpoint in {self.work_dir}: starting from the beginning')

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume a training, including its random state and its place in the data."""
        super().resume(filename, *args, **kwargs)
        loop, meta = self.train_loop, self._loaded_meta
        sampler = _sampler(loop.dataloader)
        if meta.get('sampler_seed') is not None and hasattr(sampler, 'seed'):
            # Without a seed in the config, mmengine has drawn a new one.
            sampler.seed = meta['sampler_seed']
        states = meta.get('random_states', [])
        if len(states) == self.world_size:
            self._resumed_state = states[self.rank]
        else:
            self.logger.warning(
                f'{filename} holds the random states of {len(states)} processes, but '
                f'there are {self.world_size}: the training continues with other random '
                'numbers'
            )
        if isinstance(loop, EpochBasedTrainLoop):
            length = len(loop.dataloader)
            done = loop.iter - loop.epoch * length
            if meta.get('epoch_length') == length and 0 <= done <= length:
                loop.batches_done = done

    def restore_random_state(self) -> None:
        """Restore the random state of the checkpoint, if one was resumed."""
        state, self._resumed_state = self._resumed_state, None
        if state is not None:
            set_random_state(state)

    def _init_model_weights(self) -> None:
        with explain_missing_weights(self.cfg.model):
            super()._init_model_weights()


def close_process_group() -> None:
    """Leave the other processes at the end of a distributed run.

    Threads of a process group that is still open may be aborted while Python exits, and
    then a training that has ended well looks like one that failed.
    """
    if is_distributed():
        distributed.destroy_process_group()


def _sampler(loader: DataLoader) -> Any:
    return getattr(loader.batch_sampler, 'sampler', None)


def _flush(path: str) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
