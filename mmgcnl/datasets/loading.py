"""Checks of data sets, whose errors name the file and the remedy.

mmengine, mmdet and mmseg stop at most of these faults too, but late or without saying
where: a broken annotation file gives a JSONDecodeError without a path, a missing folder is
noticed at its first image (for the validation set, after an epoch of training), and a
label without a class fails an assertion inside a CUDA kernel.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from json import JSONDecodeError
from typing import Any

from mmengine.dataset import BaseDataset, Compose
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset

from mmgcnl.utils.config_types import class_of, type_name
from mmgcnl.utils.text import first_names

from .coco import check_boxes, check_content, check_each_annotation, find_endless_mask
from .label_maps import check_number_of_classes, find_label_fault, find_other_suffixes
from .left_out import find_filtered, find_repeated
from .orientation import find_other_size, no_size_limit
from .report import Report

SET_ROOT = (
    'set the data root: in the environment for the configs here, for example COCO_ROOT '
    '(docs/data.md), else data_root of the data set'
)
BOM = '\ufeff'
NO_BOM = 'starts with a byte order mark (BOM): save it as UTF-8 without'
NO_SAMPLE = 'no sample: no image is found, or none is left after filtering'


class DataError(RuntimeError):
    """A fault of the data, or of the settings that it is read with.

    The message has the remedy, so that no traceback is needed. Where code may be at fault,
    a RuntimeError with the error as its cause is raised instead.
    """

    def __str__(self) -> str:
        # PyTorch puts the traceback of a worker before the message.
        return super().__str__().rpartition(f'.{type(self).__name__}: ')[2].rstrip()


#: What a data set raises that cannot be loaded; and of these, errors of files, not of code.
LOAD_ERRORS = AssertionError, KeyError, OSError, RuntimeError, TypeError, ValueError
_OF_FILES = OSError, JSONDecodeError, UnicodeDecodeError


def build_dataloader(
    dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
) -> DataLoader:
    """Build a data loader as mmengine's Runner does, and check its data set.

    Args:
        dataloader: The config. A loader or data set that is already built is not checked.
        seed: See mmengine's Runner.build_dataloader.
        diff_rank_seed: See mmengine's Runner.build_dataloader.

    Raises:
        RuntimeError: The data set cannot be loaded, or there is a fault in it or its
            annotation file.
    """
    if isinstance(dataloader, DataLoader) or isinstance(dataloader['dataset'], Dataset):
        return Runner.build_dataloader(dataloader, seed, diff_rank_seed)
    try:
        config = dict(dataloader, dataset=_checked(dataloader['dataset']))
        loader = Runner.build_dataloader(config, seed, diff_rank_seed)
    except (AssertionError, KeyError, OSError, ValueError) as error:
        places = '; '.join(map(describe, leaf_datasets(dataloader['dataset'])))
        text = explain(error)
        of_data = isinstance(error, _OF_FILES) or text == NO_SAMPLE or 'ann_file' in text
        kind = DataError if of_data else RuntimeError
        raise kind(f'{places}: {text}') from error
    check_dataset(loader.dataset)
    return loader


def _checked(config: dict) -> dict:
    """Replace the data sets inside a config by functions that check them, too."""
    if config.get('datasets') is not None:
        return dict(config, datasets=[_checked(part) for part in config['datasets']])
    if config.get('dataset') is not None:
        return dict(config, dataset=_checked(config['dataset']))
    # Others read no annotation file of COCO's format; check_dataset is enough for them.
    if not hasattr(class_of(config, DATASETS), 'COCOAPI'):
        return config

    def build() -> BaseDataset:
        dataset = DATASETS.build(dict(config, lazy_init=True))
        report = Report(type(dataset).__name__, describe(config))
        load_checked(dataset, report, evaluated=dataset.test_mode)
        if report.faults:
            raise DataError(f'{report.dataset}: ' + '\n'.join(report.faults))
        for note in report.notes:
            print_log(f'{report.name}: {note}', 'current', logging.WARNING)
        return dataset

    # mmengine copies configs, but not the functions in them.
    return dict(type=build)


def load_checked(
    dataset: BaseDataset,
    report: Report,
    evaluated: bool,
    full_init: Callable[[], None] | None = None,
    thorough: bool = False,
) -> bool:
    """Initialise a data set, and check its annotation file while that is read.

    The file of a CocoDataset is read once, and its content is not kept.

    Args:
        dataset: A data set that is not initialised.
        report: Gets the faults, among them why the data set cannot be loaded, and notes.
        evaluated: Whether the data is evaluated on.
        full_init: Initialises the data set. Default: its own ``full_init``.
        thorough: Whether to check each annotation on its own, too.

    Returns:
        Whether it is initialised.
    """
    classes = dataset.metainfo.get('classes')

    def read(path: str) -> Any:
        try:
            api = type(dataset).COCOAPI(path)
        except (AssertionError, AttributeError, TypeError) as error:
            raise ValueError(
                f"{path} is not in COCO's format ({error}): give an object with the lists "
                'images, annotations and categories'
            ) from error
        if classes and not isinstance(classes, str):
            check_content(dataset, api.dataset, evaluated, report)
            if thorough:
                report.faults += check_each_annotation(dataset.ann_file, api.dataset)
                check_boxes(dataset.ann_file, api.dataset, report)
            report.faults = list(dict.fromkeys(report.faults))
        return api

    def filter_data() -> list[dict]:
        samples = dataset.data_list
        if not hasattr(dataset, 'COCOAPI'):  # check_content finds those of COCO's format
            report.notes.extend(find_repeated(samples))
        kept = type(dataset).filter_data(dataset)
        report.notes.extend(find_filtered(dataset, samples, kept))
        return kept

    # Attributes of the instance come before those of its class.
    own: dict[str, Any] = dict(filter_data=filter_data)
    if hasattr(dataset, 'COCOAPI'):
        own['COCOAPI'] = read
    vars(dataset).update(own)
    try:
        (full_init or dataset.full_init)()
    except LOAD_ERRORS as error:
        # mmdet stops at some of what was found, in fewer words.
        if not (report.faults and isinstance(error, (AssertionError, KeyError))):
            report.faults.append(explain(error))
        return False
    finally:
        for name in own:
            del vars(dataset)[name]
    return True


def check_dataset(dataset: Dataset) -> None:
    """Check that the folders of a data set exist, and that its first sample loads.

    :class:`CheckedCompose`, which replaces the pipeline, checks each sample when it loads.

    Args:
        dataset: mmengine's BaseDataset, or a wrapper around such (repeated,
            concatenated). Data sets of other classes are not checked.

    Raises:
        RuntimeError: A folder is missing, there is no sample, or the first one is faulty.
    """
    for leaf in leaf_datasets(dataset):
        # Some of ours check themselves.
        if not isinstance(leaf, BaseDataset) or isinstance(leaf.pipeline, CheckedCompose):
            continue
        check_folders(leaf)
        for fault in check_number_of_classes(leaf):
            raise DataError(f'{type(leaf).__name__}: {fault}')
        for note in find_other_suffixes(leaf):
            print_log(f'{type(leaf).__name__}: {note}', 'current', logging.WARNING)
        if not len(leaf):
            raise DataError(f'{type(leaf).__name__}: {NO_SAMPLE}')
        if type(leaf.pipeline) is Compose:
            leaf.pipeline = CheckedCompose(leaf)
        # Data sets of videos are left out: they would load a whole video.
        if type(leaf).prepare_data is BaseDataset.prepare_data:
            leaf[0]


def check_folders(dataset: BaseDataset) -> None:
    """Raise a DataError when a local folder of ``dataset`` is missing."""
    if getattr(dataset, 'backend_args', None):
        return
    for folder in dataset.data_prefix.values():
        if folder and '://' not in folder and not os.path.isdir(folder):
            name = type(dataset).__name__
            raise DataError(f'{name}: no such folder: {folder}; {SET_ROOT}')


class CheckedCompose(Compose):
    """The pipeline of a data set, with errors that name the faulty file.

    Args:
        dataset: The data set whose pipeline it is.

    Raises:
        RuntimeError: When called: a transform fails, for example because an image does
            not decode; a mask has NaN; an image has another size than the annotation file
            says; or a label map has another size than its image, several channels, or
            values that are neither classes nor ignored.
    """

    def __init__(self, dataset: BaseDataset) -> None:
        super().__init__(dataset.pipeline.transforms)
        self.num_classes = len(dataset.metainfo.get('classes', ()))
        # Only mmseg's data sets have it; mmdet maps category ids to classes by itself.
        self.ignore_index = getattr(dataset, 'ignore_index', None)
        self.backend_args = getattr(dataset, 'backend_args', None)
        # COCO's evaluator draws all masks.
        self.masks = dataset.test_mode or any(
            getattr(step, 'with_mask', False) for step in self.transforms
        )
        self._read: set[str | None] = set()  # label files that were looked at as stored

    @no_size_limit()
    def __call__(self, data: dict) -> dict | None:
        """Run the transforms on the information on a sample."""
        image = data.get('img_path')
        labels = data.get('seg_map_path')
        fault = find_endless_mask(data) if self.masks else None
        if fault:
            raise DataError(fault)
        unchecked = unmeasured = True
        for transform in self.transforms:
            try:
                data = transform(data)
            except Exception as error:
                name = type(transform).__name__
                files = f'image {image}' + (f', labels {labels}' if labels else '')
                reason = f'{type(error).__name__}: {error}'.strip()
                kind: type[RuntimeError] = RuntimeError
                if name.startswith('Load'):
                    reason += _remedy(error, str(image))
                    kind = DataError if isinstance(error, _OF_FILES) else kind
                raise kind(f'{name} failed on {files}: {reason}') from error
            if data is None:
                return None
            if unmeasured and 'ori_shape' in data:
                fault = find_other_size(data, self.backend_args)
                if fault:
                    raise DataError(fault)
                unmeasured = False
            # Check the map as loaded: a later transform may crop away what is wrong.
            if unchecked and 'gt_seg_map' in data:
                fault = find_label_fault(
                    transform,
                    data,
                    self.num_classes,
                    self.ignore_index,
                    self.backend_args,
                    stored=labels not in self._read,
                )
                if fault:
                    raise DataError(fault)
                self._read.add(labels)
                unchecked = False
        return data


def _remedy(error: Exception, image: str) -> str:
    """Say what helps against an error of a loading step."""
    if '://' in image and isinstance(error, (KeyError, OSError)):
        return '; the file name is a URL: download the images, and give their names'
    if isinstance(error, KeyError):
        return (
            f'; the sample has no {error}: add it to the annotations, or do not load it in '
            'the pipeline'
        )
    # mmcv asserts that an image could be read, and mmseg that settings agree.
    if isinstance(error, AssertionError) and 'failed to load' not in str(error):
        return ''
    if not isinstance(error, FileNotFoundError) or error.filename is None:
        return '; replace the file, or remove the sample'
    if BOM in error.filename:
        return f'; the list of images, ann_file, {NO_BOM}'
    if '\\' in error.filename:
        return '; the annotation file has names with \\ for folders: write / instead'
    folder, name = os.path.split(error.filename)
    stem, suffix = os.path.splitext(name)
    if suffix and stem.endswith(suffix):
        return f'; the list of images, ann_file, must give names without {suffix}'
    if not os.path.isdir(folder):
        return f'; there is no folder {folder}: set data_prefix, or {SET_ROOT}'
    with os.scandir(folder) as entries:
        folders = sorted(entry.path for entry in entries if entry.is_dir())
    there = [path for path in folders if os.path.exists(os.path.join(path, name))]
    if there:
        return f'; it is in {there[0]}: set data_prefix to that, or name the folder with it'
    if folders:
        return f'; {folder} has folders, {first_names(folders)}: set data_prefix to one'
    return '; check data_prefix and the suffix, or remove the sample'


def leaf_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the data sets inside a wrapper, or their configs inside its config."""
    get = dataset.get if isinstance(dataset, dict) else vars(dataset).get
    if (parts := get('datasets')) is not None:
        for part in parts:
            yield from leaf_datasets(part)
    elif (part := get('dataset')) is not None:
        yield from leaf_datasets(part)
    else:
        yield dataset


def describe(config: dict) -> str:
    """Format the class and the paths of a data set, given its config."""
    root = config.get('data_root') or ''
    places = [config.get('ann_file'), *(config.get('data_prefix') or {}).values()]
    paths = ', '.join(os.path.join(root, place) for place in places if place)
    return f'{type_name(config.get("type"))} of {paths}'


def explain(error: Exception) -> str:
    """Say why a data set cannot be built, and what to do about it."""
    text = f'{type(error).__name__}: {error}'
    if isinstance(error, JSONDecodeError) and error.doc.startswith(BOM):
        return f'the annotation file {NO_BOM}'
    if isinstance(error, (JSONDecodeError, UnicodeDecodeError)):
        return (
            f'the annotation file is not JSON ({text}); check that it is complete, '
            'unpacked, and not the error page of a download'
        )
    if isinstance(error, FileNotFoundError):
        return f'{text}; {SET_ROOT}'
    if 'need at least one array' in str(error):  # numpy: the list of samples is empty
        return NO_SAMPLE
    if isinstance(error, KeyError) and ' ' not in str(error):  # unlike the registry's
        return f'an entry of the annotation file, or the config, lacks {error}'
    return text
