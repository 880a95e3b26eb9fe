"""Comparison of the number of classes of a model's heads with those of a data set.

mmdet's NumClassCheckHook does this for detectors. It does not know panoptic heads, runs
only at the first epoch, and does not name the option to change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

from mmgcnl.datasets.report import find_unusable_classes

from .options import ConfigError

# Modules whose number of classes differs from the data set's by design, and what inherits
# from them: those that mmdet's hook skips, mmseg's boundary and depth heads, ...
OTHER_CLASSES = {'VGG', 'FusedSemanticHead', 'STDCHead', 'VPDDepthHead'}
# ... heads that propose regions (RPNHead, GARPNHead, ...), also as the head of a model, ...
PROPOSALS = 'RPNHead'
# ... trackers, which detect pedestrians only, and models that read the classes as text.
TRACKER = 'BaseMOTModel'
TEXT_MODELS = ('language_model', 'text_encoder')
WRAPPERS = ('module.', '_fsdp_wrapped_module.')


def compare_num_classes(model: nn.Module, metainfo: Mapping[str, Any]) -> list[str]:
    """Find the heads of a model whose number of classes is not that of a data set.

    Args:
        model: A detector or segmentor.
        metainfo: ``metainfo`` of the data set. Without 'classes' nothing is compared.

    Returns:
        For each such head, the two numbers and the option to change.
    """
    classes = metainfo.get('classes')
    if classes is None:
        return []
    if isinstance(classes, str):
        return [*find_unusable_classes(metainfo)]
    for name, module in model.named_modules():
        if name.split('.')[-1] in TEXT_MODELS or TRACKER in _classes_of(module):
            return []
    things = metainfo.get('thing_classes', classes)
    faults = []
    for option, number, expected, kind in _numbers(
        model, len(classes), len(things), len(metainfo.get('stuff_classes', ()))
    ):
        if number not in expected:
            faults.append(
                f'{option} is {number}, but the data set has {max(expected)} {kind}: set '
                f'--cfg-options {option}={max(expected)}, or metainfo.classes of the '
                'data sets'
            )
    return faults


def _numbers(
    model: nn.Module, classes: int, things: int, stuff: int
) -> Iterator[tuple[str, int, set[int], str]]:
    """Yield option, number, expected numbers, and their kind, of every head."""
    for name, module in model.named_modules():
        for wrapper in WRAPPERS:
            name = f'{name}.'.replace(wrapper, '').removesuffix('.')
        parts = name.split('.')
        # The library's heads are direct children of the model or of a head.
        if not name or 'rpn_head' in parts or 'backbone' in parts:
            continue
        kinds = _classes_of(module)
        if OTHER_CLASSES & kinds or 'loss' in parts[-1]:
            continue
        if any(kind.endswith(PROPOSALS) for kind in kinds):
            continue
        option = f'model.{name}'
        # mmseg's MaskFormer and Mask2Former inherit both numbers from mmdet, without use.
        panoptic = hasattr(module, 'num_things_classes') and not _is_mmsegs(module)
        if panoptic and hasattr(module, 'num_stuff_classes'):
            things_found, stuff_found = module.num_things_classes, module.num_stuff_classes
            yield f'{option}.num_things_classes', things_found, {things}, 'thing classes'
            yield f'{option}.num_stuff_classes', stuff_found, {stuff}, 'stuff classes'
        elif isinstance(getattr(module, 'num_classes', None), int):
            expected = {things} if 'roi_head' in parts else {classes}
            if getattr(module, 'out_channels', None) == 1 and classes == 2:
                expected = {1, 2}  # mmseg: two classes from one channel
            yield f'{option}.num_classes', module.num_classes, expected, 'classes'


def _classes_of(module: nn.Module) -> set[str]:
    """The names of the module's class and of those that it inherits from."""
    return {kind.__name__ for kind in type(module).__mro__}


def _is_mmsegs(module: nn.Module) -> bool:
    return any(kind.__module__.startswith('mmseg.') for kind in type(module).__mro__)


class NumClassesHook(Hook):
    """Stops before training, validation or testing if a number of classes is wrong.

    ``check_num_classes = False`` in a config turns it off.
    """

    def before_train(self, runner: Runner) -> None:
        """Compare with the training data.

        Raises:
            ConfigError: A head has another number of classes.
        """
        self._check(runner, runner.train_dataloader.dataset, 'train_dataloader')

    def before_val(self, runner: Runner) -> None:
        """Compare with the validation data."""
        self._check(runner, runner.val_dataloader.dataset, 'val_dataloader')

    def before_test(self, runner: Runner) -> None:
        """Compare with the test data."""
        self._check(runner, runner.test_dataloader.dataset, 'test_dataloader')

    def _check(self, runner: Runner, dataset: Dataset, name: str) -> None:
        if not runner.cfg.get('check_num_classes', True):
            return
        faults = compare_num_classes(runner.model, getattr(dataset, 'metainfo', {}))
        if faults:
            raise ConfigError(
                f'{name}: {"; ".join(faults)}. If the model is right, turn this check off '
                'with check_num_classes=False'
            )
