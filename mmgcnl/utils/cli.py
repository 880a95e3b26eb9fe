"""Argument types and checks for the command lines of the tools.

Wrong input is reported the way argparse does it: one line, exit code 2. Argument types
raise an ArgumentTypeError.
"""

import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1."""
    return _int_from(text, 1)


def non_negative_int(text: str) -> int:
    """Parse a whole number of at least 0."""
    return _int_from(text, 0)


def seed(text: str) -> int:
    """Parse a seed, a whole number from 0 to 2^31 - 1."""
    number = _int_from(text, 0)
    if number >= 2**31:
        raise ArgumentTypeError(f'{text}: give a whole number of at most {2**31 - 1}')
    return number


def _int_from(text: str, minimum: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = minimum - 1
    if number < minimum:
        raise ArgumentTypeError(f'{text}: give a whole number of at least {minimum}')
    return number


def existing_file(text: str) -> str:
    """Accept the path of an existing file, or a URL."""
    if not _exists(text):
        raise ArgumentTypeError(f'no such file: {text}')
    return text


def file_name(suffix: str) -> Callable[[str], Path]:
    """Make the type of an output file whose name must end with '.png', for example."""

    def parse(text: str) -> Path:
        if not text.lower().endswith(suffix):
            raise ArgumentTypeError(f'{text}: give a name that ends with {suffix}')
        return Path(text)

    return parse


def check_file(parser: ArgumentParser, name: str, path: str) -> None:
    """Stop with exit code 2 when ``path`` is neither an existing file nor a URL.

    ``name`` is the argument or setting that it was given as.
    """
    if not _exists(path):
        parser.error(f'{name}: no such file: {path}')


def model_names(
    parser: ArgumentParser, names: list[str] | None, configs: Iterable[str]
) -> list[str]:
    """Name models as --names says, or else by their configs.

    Stops with exit code 2 when the number is another, or two names are equal.
    """
    stems = [Path(config).stem for config in configs]
    names = names or stems
    if len(names) != len(stems) or len(set(names)) != len(names):
        parser.error(f'--names: give {len(stems)} different names')
    return names


@contextmanager
def reporting_errors(parser: ArgumentParser, name: str) -> Iterator[None]:
    """Report a ValueError inside as an error of the argument ``name``, with exit code 2."""
    try:
        yield
    except ValueError as error:
        parser.error(f'{name}: {error}')


def _exists(path: str) -> bool:
    return '://' in path or os.path.isfile(os.path.expanduser(path))


def add_size_argument(
    parser: ArgumentParser, name: str = '--shape', **options: Any
) -> None:
    """Add an option that takes the height and the width of an image, in pixels."""
    parser.add_argument(name, nargs=2, type=positive_int, metavar=('H', 'W'), **options)


def device(text: str) -> str:
    """Accept the name of a device that this machine has."""
    try:
        torch.empty(0, device=text)
    except (AssertionError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentTypeError(f'{text}: no such device ({reason})') from None
    return text


def add_device_argument(parser: ArgumentParser) -> None:
    """Add the option for the device that a model runs on."""
    parser.add_argument(
        '--device',
        type=device,
        help='such as cpu or cuda:1 (default: a GPU if there is one)',
    )


class _CfgOptions(DictAction):
    """mmengine's action, which ends with a traceback where '=' is missing."""

    def __call__(
        self,
        parser: ArgumentParser,
        namespace: Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for text in values:
            if '=' not in text:
                parser.error(
                    f"{option_string}: '{text}' is not KEY=VALUE: write it without spaces, "
                    'and values with spaces in quotes'
                )
        super().__call__(parser, namespace, values, option_string)


def add_cfg_options(parser: ArgumentParser, help: str = '') -> None:
    """Add the option that overrides settings of the config.

    Args:
        parser: Gets the option. ``cfg_options`` is {} when it is not given.
        help: Goes on after 'override settings of the config'.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_CfgOptions,
        default={},
        metavar='KEY=VALUE',
        help=f'override settings of the config{help}',
    )


def read_config(path: str, cfg_options: Mapping[str, Any]) -> Config:
    """Read a config and merge the options of :func:`add_cfg_options` into it.

    Raises:
        ValueError: Nothing reads one of the options, or it has no place in the config.
    """
    cfg = Config.fromfile(path)
    if not cfg_options:
        return cfg
    from .cfg_options import check_cfg_options  # it imports mmengine's runner

    check_cfg_options(cfg, cfg_options)
    cfg.merge_from_dict(cfg_options)
    return cfg


def add_benchmark_arguments(parser: ArgumentParser) -> None:
    """Add the options that the benchmarks have in common."""
    parser.add_argument('--batch', type=positive_int, default=1, help='images (1)')
    parser.add_argument(
        '--mode',
        choices=['infer', 'train'],
        default='infer',
        help='train: with the backward pass',
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'], default='cpu', help='(cpu)')
    parser.add_argument(
        '--dtype',
        choices=['float32', 'bfloat16', 'float16'],
        default='float32',
        help='dtype of autocast; float32: no autocast (float32)',
    )
    parser.add_argument(
        '--repeats', type=positive_int, default=5, help='medians are taken over these (5)'
    )
    parser.add_argument(
        '--threads', type=positive_int, help="threads of each process (PyTorch's choice)"
    )
    parser.add_argument(
        '--json', type=Path, metavar='FILE', help='file for the measurements'
    )


def check_benchmark_arguments(parser: ArgumentParser, args: Namespace) -> None:
    """Stop with exit code 2 when the device is not available."""
    if args.device == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: no GPU is available')
