"""mmengine's Runner, for machines without a GPU and for interrupted trainings."""

import logging
import os
from collections.abc import Callable
from typing import Any

from mmengine.device import get_device
from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook as _CheckpointHook
from mmengine.hooks import EarlyStoppingHook as _EarlyStoppingHook
from mmengine.hooks import Hook
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import HOOKS, LOOPS, Registry
from mmengine.runner import EpochBasedTrainLoop as _EpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as _IterBasedTrainLoop
from mmengine.runner import Runner as _Runner
from mmengine.runner.base_loop import BaseLoop
from torch import nn
from torch.utils.data import DataLoader

from mmgcnl.datasets import build_dataloader
from mmgcnl.utils.config_types import class_of

from .checkpoints import (
    CheckpointError,
    check_finite,
    default_statistics,
    explain_missing_weights,
    find_checkpoints,
    install_safe_loading,
    survive_failing_logs,
    write_whole,
)
from .hooks import (
    CheckpointHook,
    EarlyStoppingHook,
    FiniteLossHook,
    LoadableCheckpointHook,
    RandomStateHook,
)
from .loops import EpochBasedTrainLoop, IterBasedTrainLoop
from .num_classes import NumClassesHook
from .output_files import DistinctNamesHook
from .preemption import PreemptionHook, protect_workers
from .processes import connect_without_gpu
from .random_state import set_random_state
from .resume import collect_progress, restore_progress, unwrapped
from .splits import SplitsHook
from .timm_errors import explain_timm
from .visualization import VISUALIZATION_HOOKS

# Classes of mmengine, and those that resume exactly; and the hooks that draw.
_OURS: dict[type, type] = {
    _EpochBasedTrainLoop: EpochBasedTrainLoop,
    _IterBasedTrainLoop: IterBasedTrainLoop,
    _CheckpointHook: CheckpointHook,
    _EarlyStoppingHook: EarlyStoppingHook,
    **VISUALIZATION_HOOKS,
}


def _with_ours(config: dict, registry: Registry) -> dict:
    """Replace a class of the libraries by ours, but no other class of the same name."""
    return dict(config, type=_OURS.get(class_of(config, registry), config['type']))


class Runner(_Runner):
    """mmengine's Runner with additions.

    - Resuming an interrupted training yields the weights of an uninterrupted one
      (docs/reliability.md has the conditions).
    - A checkpoint gets its name when it is complete, and older ones are removed after that.
      Resuming takes the one in mmengine's file last_checkpoint, else the latest intact one.
      A training goes on when a checkpoint cannot be written, see :class:`CheckpointHook`.
    - SIGTERM makes a training save a checkpoint and exit with status 143.
    - Training stops at a loss that is not finite, and does not save such weights.
    - ``launcher='pytorch'`` works without a GPU: the processes communicate over gloo,
      and SyncBN becomes BN, since PyTorch's SyncBN has no CPU implementation.
    - Data sets, and the number of classes of the heads, are checked before the first
      iteration, and errors name the options that help.
    - Checkpoints are loaded without running code in them.

    Its arguments are those of mmengine's Runner.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        install_safe_loading()
        super().__init__(*args, **kwargs)
        # What the layers log, such as that kernels are compiled, belongs into its log, too.
        logging.getLogger('mmgcnl').handlers = self.logger.handlers

    # The random state of the checkpoint, until the training loop has restored it, and the
    # random state of the training, during a validation.
    resumed_state: dict[str, Any] | None = None
    state_before_val: dict[str, Any] | None = None
    validated_iter = 0  # iterations done at the last validation
    saved_iter = 0  # and at the last checkpoint that can be resumed
    _loaded_meta: dict[str, Any] = {}

    def setup_env(self, env_cfg: dict) -> None:
        """Set up the environment; without a GPU, connect the processes over gloo."""
        connect_without_gpu(self.launcher, env_cfg.get('dist_cfg', {}).get('timeout'))
        super().setup_env(env_cfg)

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build the model; an error of a timm backbone names the remedy."""
        with explain_timm(self.cfg.get('model') or {}):
            return super().build_model(model)

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
        """Build the training loop; loops that resume exactly replace mmengine's."""
        if isinstance(loop, dict):
            loop = dict(loop)
            if 'by_epoch' in loop and 'type' not in loop:
                by_epoch = loop.pop('by_epoch')
                loop['type'] = f'{"Epoch" if by_epoch else "Iter"}BasedTrainLoop'
            loop = _with_ours(loop, LOOPS)
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
        """Register a hook; those of :data:`_OURS` replace the libraries'."""
        if isinstance(hook, dict):
            hook = _with_ours(hook, HOOKS)
        super().register_hook(hook, priority)

    def register_hooks(
        self, default_hooks: dict | None = None, custom_hooks: list | None = None
    ) -> None:
        """Register the config's hooks and those that every training has."""
        super().register_hooks(default_hooks, custom_hooks)
        self._preemption = PreemptionHook()
        self.register_hook(FiniteLossHook())
        self.register_hook(RandomStateHook())
        self.register_hook(NumClassesHook())
        self.register_hook(SplitsHook())
        self.register_hook(self._preemption)
        self.register_hook(LoadableCheckpointHook())
        self.register_hook(DistinctNamesHook())

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> DataLoader:
        """Build a data loader; see :func:`mmgcnl.datasets.build_dataloader`."""
        return protect_workers(build_dataloader(*args, **kwargs))

    def train(self) -> nn.Module:
        """Train; after SIGTERM, exit with status 143 and a checkpoint to resume."""
        survive_failing_logs(self.logger, self.visualizer)
        with self._preemption.noticing_sigterm():
            return super().train()

    def save_interrupted(self, done: int) -> None:
        """Save a checkpoint after ``done`` iterations, unless that was tried before."""
        if self.saved_iter == done:
            return
        for hook in self.hooks:
            if isinstance(hook, CheckpointHook):
                hook.save_interrupted(self, done)
                return
        meta = dict(epoch=self.epoch, iter=done)
        self.save_checkpoint(self.work_dir, f'iter_{done}.pth', meta=meta, by_epoch=False)

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
            CheckpointError: A hook or a data set has added what cannot be loaded again.
            OSError: The file cannot be written. Earlier checkpoints are unchanged.
        """
        check_finite(unwrapped(self.model), self.iter + 1, filename)
        meta = dict(meta or {})
        done = meta.get('iter', self.iter + 1)
        resumable = kwargs.get('save_optimizer', True)
        meta.update(collect_progress(self, done, resumable))
        if resumable:
            self.saved_iter = done
        if not is_main_process():
            return
        saving = super().save_checkpoint

        def save(name: str) -> None:
            with default_statistics():
                saving(out_dir, name, *args, meta=meta, **kwargs)

        if '://' in out_dir:
            save(filename)
            return

        write_whole(
            os.path.join(out_dir, filename), lambda part: save(os.path.basename(part))
        )

    def load_checkpoint(self, filename: str, *args: Any, **kwargs: Any) -> dict:
        """Load a checkpoint.

        Raises:
            CheckpointError: It is not intact or not safe, or has no training to resume.
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
        name = os.path.basename(self.work_dir.rstrip(os.sep))  # as CheckpointHook
        hooks = (h for h in self.hooks if isinstance(h, CheckpointHook) and h.out_dir)
        folders = [os.path.join(hook.out_dir, name) for hook in hooks]
        listed = [find_checkpoints(self.work_dir, *folders)]
        broadcast_object_list(listed)  # all processes must take the same
        for path in listed[0]:
            failed = ''
            try:
                self.resume(path)
            except (CheckpointError, FileNotFoundError) as error:
                failed = str(error)
            errors = all_gather_object(failed)
            if not any(errors):
                self.logger.info(f'Resumed from {path}')
                return
            self.logger.warning(f'Not resumed: {next(filter(None, errors))}')
        if listed[0]:
            raise CheckpointError(
                f'none of the checkpoints in {self.work_dir} can be resumed '
                f'({", ".join(listed[0])}); to start again, give another --work-dir'
            )
        self.logger.info(f'No checkpoint in {self.work_dir}: starting from the beginning')

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume a training, including its random state and its place in the data."""
        super().resume(filename, *args, **kwargs)
        restore_progress(self, filename, self._loaded_meta)

    def restore_random_state(self) -> None:
        """Restore the random state of the checkpoint, if one was resumed."""
        state, self.resumed_state = self.resumed_state, None
        if state is not None:
            set_random_state(state)

    def catch_up_on_validation(self, validate: Callable[[], None]) -> None:
        """Call ``validate`` if the training was interrupted before or within it."""
        if self.validated_iter == self.iter:
            return
        if self.resumed_state is not None:
            set_random_state(self.resumed_state)
        validate()

    def _init_model_weights(self) -> None:
        with explain_missing_weights(self.cfg.get('model') or {}):
            super()._init_model_weights()
