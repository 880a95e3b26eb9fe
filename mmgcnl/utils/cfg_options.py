"""Which options of ``--cfg-options`` nothing reads, and what was probably meant by them.

mmengine merges whatever it is given. A setting in a place that nothing reads, such as
``optimizer.lr`` for ``optim_wrapper.optimizer.lr``, is saved with the training and has no
effect on it.
"""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from os.path import commonprefix
from pathlib import Path
from typing import Any

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from .config_types import class_of, parameters_of, scope_of, walk
from .text import did_you_mean, first_names

#: Settings that are read from the whole config: those of the runner, which FlexibleRunner
#: and the tools here add to, ...
_TOP_LEVEL = (
    inspect.signature(Runner).parameters.keys() - {'cfg', 'launcher'}
    | {'activation_checkpointing', 'compile', 'efficient_conv_bn_eval', 'model_wrapper_cfg'}
    | {'find_unused_parameters', 'runner_type', 'strategy', 'sync_bn'}
    | {
        'check_num_classes',
        'check_splits',
        'submission',
        'trainval',
        'tta_model',
        'tta_pipeline',
    }
)
#: ... and the names inside settings that have no type, where they are all known.
_INSIDE = {
    'auto_scale_lr': ('enable', 'base_batch_size'),
    'default_hooks': (
        *('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler'),
        *('checkpoint', 'visualization'),
    ),
    'env_cfg': ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'),
    'env_cfg.mp_cfg': ('mp_start_method', 'opencv_num_threads'),
    'randomness': ('seed', 'diff_rank_seed', 'deterministic'),
}
#: Read by mmengine while it reads the file, which is over when options are merged.
_OF_THE_FILE = ('_base_', 'custom_imports', 'env_variables')
#: Settings of mmcv 1.x, and what has taken their place.
_OLD = {
    'checkpoint_config': 'default_hooks.checkpoint',
    'cudnn_benchmark': 'env_cfg.cudnn_benchmark',
    'data.samples_per_gpu': 'train_dataloader.batch_size',
    'data.workers_per_gpu': 'train_dataloader.num_workers',
    'data.train': 'train_dataloader.dataset',
    'data.val': 'val_dataloader.dataset',
    'data.test': 'test_dataloader.dataset',
    'deterministic': 'randomness.deterministic',
    'dist_params': 'env_cfg.dist_cfg',
    'evaluation.interval': 'train_cfg.val_interval',
    'evaluation': 'val_evaluator',
    'fp16': 'tools/train.py --amp',
    'launcher': '--launcher',
    'log_config': 'default_hooks.logger',
    'lr_config': 'param_scheduler',
    'optimizer_config.grad_clip': 'optim_wrapper.clip_grad',
    'optimizer_config': 'optim_wrapper',
    'optimizer': 'optim_wrapper.optimizer',
    'resume_from': 'tools/train.py --resume FILE',
    'runner': 'train_cfg',
    'seed': 'randomness.seed',
    'total_epochs': 'train_cfg.max_epochs',
    'total_iters': 'train_cfg.max_iters',
}
#: Settings without a type that one class takes: the block of a head.
_TYPES = {'block': 'GCNonLocal2d'}
#: Registries of what no setting builds, and mmdet and mmseg have none of.
_NO_SETTINGS = ('FUNCTIONS', 'INFERENCERS', 'STRATEGIES')
_LIBRARIES = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmgcnl')
_MOST = 3  # names that are proposed for one option


def check_cfg_options(cfg: Config, options: Mapping[str, Any]) -> None:
    """Check that something reads each of the options.

    A setting of the whole config must be one that mmengine or a tool here reads, or that
    the modules of ``custom_imports`` mention. A setting inside that the config does not
    have yet must be an argument of the class it is for. Where there is no such class, as
    for ``model.test_cfg``, the source of the libraries or of these modules must mention its
    name. Variables of the file, such as ``crop_size``, are not read after the file is.

    Args:
        cfg: The config without the options.
        options: Values by their places, as in mmengine's ``Config.merge_from_dict``.

    Raises:
        ValueError: Nothing reads some of them, or one has a mistyped number. The message
            names each, and the options that were probably meant.
    """
    faults = []
    flat = dict(_flatten(options))
    for key in flat:
        words = key.split('.')
        depth = _unread(cfg, words, flat)
        if depth is None:
            continue
        fault = '.'.join(words[: depth + 1]) if depth else key
        hint = _hint(cfg, words, depth, flat)
        if f'{fault}{hint}' not in faults:
            faults.append(f'{fault}{hint}')
    for key, value in flat.items():
        old = _at(cfg, key.split('.'))
        number = isinstance(old, (int, float)) and not isinstance(old, bool)
        if number and isinstance(value, str) and re.match(r'[-+.]*\d', value):
            raise ValueError(f'--cfg-options: {key}={value} is no number, and was {old}')
    if faults:
        raise ValueError(f'--cfg-options: nothing reads {"; nor ".join(faults)}')


def _flatten(options: Mapping[str, Any], start: str = '') -> Iterator[tuple[str, Any]]:
    for key, value in options.items():
        if isinstance(value, Mapping) and value and '_delete_' not in value:
            yield from _flatten(value, f'{start}{key}.')
        else:
            yield f'{start}{key}', value


def _unread(cfg: Config, words: list[str], options: Mapping[str, Any]) -> int | None:
    """Find which word of an option is not read, by its number; None if all are."""
    if words[0] in _OF_THE_FILE:
        return 0
    if words[0] not in _TOP_LEVEL:
        texts = [_source_of(package) for package in _custom_packages(cfg)]
        return None if _mentions(words[0], texts) else 0
    node: Any = dict(cfg.items())
    for depth, word in enumerate(words):
        if isinstance(node, (list, tuple)):
            if not word.isdigit() or int(word) >= len(node):
                return depth
            node = node[int(word)]
        elif not isinstance(node, Mapping):
            return depth
        elif word in node:
            node = node[word]
        elif depth == 0 or word in ('type', '_delete_', '_scope_'):
            return None
        else:
            return None if _takes(cfg, node, words[: depth + 1], options) else depth
    return None


def _takes(
    cfg: Config, node: Mapping, words: list[str], options: Mapping[str, Any]
) -> bool:
    """Whether something reads a setting that ``node`` does not have yet, its last word."""
    *place, word = words
    inside = _INSIDE.get('.'.join(place))
    if inside is not None:
        # A further hook comes with its type.
        return word in inside or f'{".".join(words)}.type' in options
    texts = [_source_of(package) for package in (*_LIBRARIES, *_custom_packages(cfg))]
    known = _known(cfg, node, place, options)
    if known is not None:
        # Some settings are taken out before the class is built, as `priority` of a hook.
        popped = _mentions(word, texts, '[\'"]') and not did_you_mean(word, known)
        return word in known or popped
    if place[0] == 'model':
        texts = [Path(file).read_text(errors='ignore') for file in _files_of(cfg)]
        texts += map(_source_of, _custom_packages(cfg))
    # As cfg.NAME or cfg['NAME']; or as the argument of a function that gets **cfg.
    return _mentions(word, texts, '[.\'"]') or (
        not did_you_mean(word, node) and _mentions(word, texts)
    )


def _known(
    cfg: Config, node: Mapping, place: list[str], options: Mapping[str, Any]
) -> set[str] | None:
    """Names that the class of a setting takes; None if it has no class, or takes any."""
    kind = node.get('type', _TYPES.get(place[-1]))
    kind = options.get('.'.join([*place, 'type']), kind)
    if kind is None:
        loader = len(place) == 1 and place[0].endswith('_dataloader')
        return parameters_of(DataLoader) if loader else None
    kinds = _classes(cfg, {**node, 'type': kind})
    names: set[str] = set()
    for kind in kinds:
        found = parameters_of(kind)
        if found is None:
            return None
        names |= found
    return names if kinds else None


def _classes(cfg: Config, node: Mapping) -> set[Any]:
    """Find what has the type of a setting, in any registry."""
    scoped = {'_scope_': scope_of(cfg), **node}
    return {
        class_of(scoped, registry)
        for name, registry in vars(mmengine.registry).items()
        if isinstance(registry, Registry) and name not in _NO_SETTINGS
    } - {None}


def _files_of(cfg: Config) -> set[str]:
    """Files with the classes of the model, their bases, and what these modules use."""
    nodes = [node for _, node in walk(dict(model=cfg.model)) if isinstance(node, Mapping)]
    kinds = {kind for node in nodes if 'type' in node for kind in _classes(cfg, node)}
    modules = {
        base.__module__ for kind in kinds for base in getattr(kind, '__mro__', [kind])
    }
    for _ in range(2):
        used = {
            getattr(value, '__module__', None)
            for module in modules & sys.modules.keys()
            for value in vars(sys.modules[module]).values()
            if inspect.isclass(value) or inspect.isfunction(value)
        }
        modules |= {name for name in used if str(name).split('.')[0] in _LIBRARIES}
    files = {getattr(sys.modules.get(name), '__file__', None) for name in modules}
    return {file for file in files if file and str(file).endswith('.py')}


def _mentions(word: str, texts: Iterable[str], before: str = r'\b') -> bool:
    """Whether one of the texts has a word, after what the pattern ``before`` matches."""
    pattern = re.compile(rf'{before}{re.escape(word)}\b')
    return any(pattern.search(text) for text in texts)


@cache
def _source_of(package: str) -> str:
    """Read the source of all modules of a package, without importing it.

    Returns:
        Their text; empty if there is no such package.
    """
    module = sys.modules.get(package)
    spec = getattr(module, '__spec__', None) or find_spec(package)
    if spec is None or spec.origin is None:
        return ''
    file = Path(spec.origin)
    files = file.parent.rglob('*.py') if file.name == '__init__.py' else [file]
    return '\n'.join(path.read_text(errors='ignore') for path in sorted(files))


def _hint(cfg: Config, words: list[str], depth: int, options: Mapping[str, Any]) -> str:
    """Say what was probably meant, in parentheses after the option."""
    key = '.'.join(words)
    if depth:
        node = _at(cfg, words[:depth])
        if isinstance(node, (list, tuple)):
            return f' (a list of {len(node)}, numbered from 0)'
        if not isinstance(node, Mapping):
            return f' ({".".join(words[:depth])} is {node!r}: set it in the config)'
        known = _known(cfg, node, words[:depth], options) or set()
        inside = _INSIDE.get('.'.join(words[:depth]), ())
        if meant := did_you_mean(words[depth], {*node, *known, *inside}):
            return meant
    elif words[0] in _OF_THE_FILE:
        return ' (it is read with the file: set it in the config)'
    for length in range(len(words), 0, -1):
        new = _OLD.get('.'.join(words[:length]))
        if new is not None:
            return f' (did you mean {".".join([new, *words[length:]])}?)'
    paths = dict(walk({k: v for k, v in cfg.items() if k in _TOP_LEVEL}))
    if depth == 0 and words[0] in cfg:
        used = [p for p in paths if _is_use(p, paths[p], words[0], cfg[words[0]])]
        used = ['.'.join([p, *words[1:]]) for p in used]
        used = [p for p in used if len(words) == 1 or p in paths]
        text = ' (a variable of the config, which is used only while the file is read'
        return text + (f': set {first_names(used)})' if used else ')')
    ends = [p for p in paths if p.split('.')[-1] == words[-1]]
    if ends:
        shared = {p: len(commonprefix([p.split('.')[::-1], words[::-1]])) for p in ends}
        ends = [p for p in ends if shared[p] == max(shared.values())]
        ends.sort(key=lambda p: -difflib.SequenceMatcher(None, key, p).ratio())
        return f' (did you mean {" or ".join(ends[:_MOST])}?)'
    if depth:
        return ''
    near = difflib.get_close_matches(words[0], _TOP_LEVEL, n=_MOST, cutoff=0.75)
    places = ['.'.join([name, *words[1:]]) for name in near]
    return f' (did you mean {" or ".join(places)}?)' if places else ''


def _at(cfg: Config, words: list[str]) -> Any:
    """The setting at a place of a config; None if there is none."""
    node: Any = dict(cfg.items())
    try:
        for word in words:
            node = node[int(word)] if isinstance(node, (list, tuple)) else node[word]
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    return node


def _is_use(path: str, value: Any, name: str, variable: Any) -> bool:
    """Guess whether a setting was made from a variable of the file."""
    if isinstance(variable, str):
        return len(variable) > 2 and isinstance(value, str) and variable in value
    if isinstance(variable, (Mapping, list, tuple)):
        return len(variable) > 0 and value == variable
    # Other settings may have the same number by chance.
    return value == variable and path.split('.')[-1] == name


def _custom_packages(cfg: Config) -> tuple[str, ...]:
    """Packages of the user's own modules: those imported by the config."""
    names = (cfg.get('custom_imports') or {}).get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    kinds = [v for p, v in walk(dict(cfg.items())) if p.endswith('.type')]
    names += [kind.__module__ for kind in kinds if not isinstance(kind, str)]
    packages = {str(name).split('.')[0] for name in names}
    return tuple(sorted(packages - {*_LIBRARIES, 'torch', 'builtins'}))
