"""Comparison of the data sets of a training with each other, its heads and its metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmgcnl.datasets.label_maps import find_only_class
from mmgcnl.datasets.loading import leaf_datasets
from mmgcnl.datasets.splits import compare_splits, describe_loaded, find_missing_truth

from .options import ConfigError

# That of mmseg's data sets, heads and metrics if a config does not set it.
DEFAULT_IGNORE_INDEX = 255


def compare_ignore_index(
    model: nn.Module,
    settings: Mapping[str, Any],
    metrics: Sequence[tuple[type, Mapping[str, Any]]],
) -> Iterator[str]:
    """Find ignored values that are not the same for data, heads and metrics.

    Args:
        model: A segmentor. Other models have no such heads.
        settings: Of the training data, see :class:`mmgcnl.datasets.report.Report`.
        metrics: The class of each metric, with its options or attributes.
    """
    heads = {
        f'model.{name.removeprefix("module.")}.ignore_index': module.ignore_index
        for name, module in model.named_modules()
        if any(base.__name__ == 'BaseDecodeHead' for base in type(module).__mro__)
    }
    if not heads:
        return
    option, expected = next(iter(heads.items()))
    found = dict(heads)
    for kind, options in metrics:
        if any(base.__name__ == 'IoUMetric' for base in kind.__mro__):
            name = f'ignore_index of {kind.__name__}'
            found[name] = options.get('ignore_index', DEFAULT_IGNORE_INDEX)
    # Compared only if it is set: the default of a data set fits the default of a head.
    own = settings.get('ignore_index', DEFAULT_IGNORE_INDEX)
    if own != DEFAULT_IGNORE_INDEX:
        found['ignore_index of the data set'] = own
    for name, value in found.items():
        if value != expected:
            yield f'{name} is {value}, but {option} is {expected}: set them to the same'


class SplitsHook(Hook):
    """Stops before a training whose data, heads and metrics do not fit each other.

    ``check_splits = False`` in a config turns it off.
    """

    def before_train(self, runner: Runner) -> None:
        """Compare the data sets, and look at a sample of the validation data.

        Raises:
            ConfigError: Classes or settings are not the same, the label maps have one class
                only, or the validation data lacks what a metric needs.
        """
        if not runner.cfg.get('check_splits', True):
            return
        dataset = runner.train_dataloader.dataset
        reports = describe_loaded('train', dataset)
        if not reports:
            return
        metrics: list[tuple[type, Mapping[str, Any]]] = []
        dataloader = getattr(runner.val_loop, 'dataloader', None)
        if dataloader is not None:
            evaluator = getattr(runner.val_loop, 'evaluator', None)
            metrics = [(type(one), vars(one)) for one in getattr(evaluator, 'metrics', ())]
            validated = describe_loaded('val', dataloader.dataset)
            if validated:
                sample = dataloader.dataset[0]
                validated[0].faults += find_missing_truth(metrics, sample)
            reports += validated
        compare_splits(reports)
        parts = [part for part in leaf_datasets(dataset) if isinstance(part, BaseDataset)]
        only = find_only_class(parts)
        reports[0].faults += [only] if only else []
        reports[0].faults += compare_ignore_index(
            runner.model, reports[0].settings, metrics
        )
        for report in reports:
            for note in report.notes:
                runner.logger.warning(f'{report.name}: {note}')
        faults = '\n'.join(f'{r.name}: {fault}' for r in reports for fault in r.faults)
        if faults:
            raise ConfigError(
                f'{faults}; if it is meant so, turn this check off with check_splits=False'
            )
