"""The comparison of the fused kernels with the reference, in a process of its own.

An illegal access on a GPU ends all use of it by the process, a compiler may crash, and a
kernel may hang. None of this must happen to a training that the kernels were to speed up.
What the child compiles, Triton keeps on disk, where the parent finds it.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

#: Seconds for the start of the process, the compilation and the comparison.
LIMIT = 180.0
_PREFIX = 'mmgcnl child: '
# The package's own __init__ would import the OpenMMLab libraries, which takes seconds.
_CODE = """
import json, sys, types
request = json.loads(sys.argv[1])
sys.path[:] = request['path']
package = types.ModuleType('mmgcnl')
package.__path__ = [request['package']]
sys.modules['mmgcnl'] = package
from mmgcnl.layers.attention.triton.child import main
from mmgcnl.layers.attention.triton.validation import compare_with_reference
main(request, compare_with_reference)
"""


class ChildError(RuntimeError):
    """There is no child process that can use the GPU."""


def compare_in_child(device: str, kind: dict[str, Any], limit: float = LIMIT) -> str | None:
    """As :func:`.validation.compare_with_reference`, in a child process.

    Args:
        device: A GPU, such as 'cuda:0'.
        kind: The other arguments, as JSON has them: dtype by its name.
        limit: Seconds, after which the child is ended.

    Raises:
        ChildError: No child can be started, or it cannot use the GPU, as where that is
            given to one process exclusively.
        torch.cuda.OutOfMemoryError: The GPU is full.
    """
    if getattr(sys, 'frozen', False) or not sys.executable:
        raise ChildError('this program is not run by a Python interpreter')
    request = dict(
        path=list(map(str, sys.path)),
        package=str(Path(__file__).parents[3]),
        device=device,
        kind=kind,
        limit=limit,
    )
    command = [sys.executable, '-c', _CODE, json.dumps(request)]
    # A file: a pipe would stay open for as long as a compiler that the child has started.
    try:
        output = tempfile.TemporaryFile('w+', errors='replace')
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise ChildError(f'no process can be started ({error})') from error
    try:
        with suppress(subprocess.TimeoutExpired):
            child.wait(limit)
    finally:
        status = child.poll()
        if status is None:
            _end(child)
    with output:
        output.seek(0)
        text = output.read()
    return _verdict(text, status, device, limit)


def _end(child: subprocess.Popen) -> None:
    """End a child and the compilers that it has started."""
    if hasattr(os, 'killpg'):
        os.killpg(child.pid, signal.SIGKILL)
    else:
        child.kill()
    with suppress(subprocess.TimeoutExpired):  # one that the driver holds ends later
        child.wait(10)


def _verdict(text: str, status: int | None, device: str, limit: float) -> str | None:
    """What the output of a child says; see :func:`compare_in_child`.

    Args:
        text: All that it wrote.
        status: Its exit status, negative for a signal; None if it was ended.
        device: As given to it.
        limit: Seconds that it had.
    """
    facts: dict[str, Any] = {}
    for line in text.splitlines():
        if line.startswith(_PREFIX):
            with suppress(ValueError):  # another process has written into the line
                facts.update(json.loads(line[len(_PREFIX) :]))
    last = ' '.join(text.split())[-300:]
    if facts.get('full'):
        raise torch.cuda.OutOfMemoryError('there is no memory left for a child process')
    if 'gpu' not in facts:
        raise ChildError(f'a child process cannot use the GPU ({last})')
    if facts['gpu'] != _name(device):
        raise ChildError(f'a child process sees another GPU, {facts["gpu"]}')
    if 'reason' in facts:
        return facts['reason']
    if status is None:
        how = f'did not end within {limit:.0f} seconds'
    elif status < 0:
        how = f'was ended by signal {-status} ({signal.strsignal(-status)})'
    else:
        how = f'ended with status {status}'
    return f'the process that compares its kernels with the reference {how} ({last})'


def _name(device: str) -> str:
    if torch.device(device).type != 'cuda':
        return device
    return torch.cuda.get_device_properties(device).name


def main(request: dict[str, Any], compare: Callable[..., str | None]) -> None:
    """What the child does, with the function that compares."""
    # Also where the parent is gone.
    faulthandler.dump_traceback_later(request['limit'], exit=True)
    device, kind = request['device'], dict(request['kind'])
    dtype = getattr(torch, kind.pop('dtype'))

    def say(**facts: Any) -> None:
        print(f'\n{_PREFIX}{json.dumps(facts)}', flush=True)

    try:
        torch.zeros(1, device=device)
        say(gpu=_name(device))
        say(reason=compare(device, dtype, **kind))
    except RuntimeError as error:  # that of a GPU without memory for another process, too
        if 'out of memory' not in str(error):
            raise
        say(full=True)
