"""mmengine's Runner, able to train in several processes without a GPU."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from mmengine.device import get_device
from mmengine.dist import is_distributed
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner as _Runner
from torch import distributed, nn

from mmgcnl.datasets import build_dataloader


class Runner(_Runner):
    """mmengine's Runner with three additions.

    - Without a GPU, ``launcher='pytorch'`` works: the processes talk over gloo
      and SyncBN becomes BN, since PyTorch's SyncBN has no CPU implementation.
    - Pretrained weights that cannot be had stop the training with the options
      that turn them off or read them from a file.
    - Data sets are checked before the first iteration.
    """

    build_dataloader = staticmethod(build_dataloader)

    def setup_env(self, env_cfg: dict) -> None:
        if (
            self.launcher == 'pytorch'
            and get_device() == 'cpu'
            and not is_distributed()
        ):
            # mmengine would ask for a CUDA device here, whatever the backend,
            # but it leaves a process group alone that is already initialised.
            timeout = env_cfg.get('dist_cfg', {}).get('timeout')
            distributed.init_process_group(
                'gloo', timeout=timeout and timedelta(seconds=timeout)
            )
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        if self.distributed and get_device() == 'cpu':
            self.cfg.pop('sync_bn', None)  # would turn BN into SyncBN again
            num_sync_bn = sum(
                type(m).__name__ == 'SyncBatchNorm' for m in model.modules()
            )
            if num_sync_bn:
                self.logger.warning(
                    f'SyncBN needs a GPU: {num_sync_bn} SyncBN layers become BN, '
                    'each process normalises with its own batch only.'
                )
                model = revert_sync_batchnorm(model)
            # mmengine's defaults, except that DDP refuses device_ids on CPU.
            model_wrapper_cfg = model_wrapper_cfg or dict(
                broadcast_buffers=False,
                find_unused_parameters=self.cfg.get('find_unused_parameters', False),
            )
            model_wrapper_cfg = dict(model_wrapper_cfg, device_ids=None)
        return super().wrap_model(model_wrapper_cfg, model)

    def _init_model_weights(self) -> None:
        try:
            super()._init_model_weights()
        except (ImportError, OSError) as error:
            pretrained = dict(_find_pretrained(self.cfg.model, 'model'))
            if not pretrained:
                raise
            found = ', '.join(f'{k}: {v}' for k, v in pretrained.items())
            off = ' '.join(f'{key}=None' for key in pretrained)
            local = ' '.join(
                f'{key if key.endswith(".pretrained") else f"{key}.checkpoint"}'
                '=/path/to/weights.pth'
                for key in pretrained
            )
            raise RuntimeError(
                f'The pretrained weights ({found}) cannot be loaded: {error}. '
                f'Start without them by --cfg-options {off}, '
                f'or read them from a file by --cfg-options {local}'
            ) from error


def _find_pretrained(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the config key and the checkpoint of each pretrained initialisation."""
    if isinstance(node, dict):
        if node.get('type') == 'Pretrained':
            yield key, node['checkpoint']
        for name, child in node.items():
            if name == 'pretrained' and isinstance(child, str):
                yield f'{key}.pretrained', child
            yield from _find_pretrained(child, f'{key}.{name}')
    elif isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from _find_pretrained(child, f'{key}.{index}')
