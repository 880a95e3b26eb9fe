"""Carry out the runs of a study, several at a time."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .runs import Execution, Run
from .worker import POLL, Locked, RunFailed, Worker, lock_file


class Scheduler:
    """Carries out runs, several at a time, and goes on when one fails.

    Args:
        runs: From :func:`plan`.
        options: The options that they were planned with.
        console: Shows the progress; default: standard output.
    """

    def __init__(
        self, runs: Sequence[Run], options: Execution, console: Console | None = None
    ) -> None:
        self.runs = list(runs)
        self.options = options
        self.console = console or Console()
        self.failed: dict[str, str] = {}
        self._finished: set[tuple[str, int]] = set()
        self._worker = Worker(options)

    def run(self) -> dict[str, str]:
        """Carry out the runs.

        Returns:
            The error of each failed run, by the name of the run.

        Raises:
            KeyboardInterrupt: After the processes have been stopped.
        """
        before = signal.getsignal(signal.SIGTERM)
        in_main = threading.current_thread() is threading.main_thread()
        if in_main:  # stop the trainings on a plain kill, too
            signal.signal(signal.SIGTERM, _interrupt)
        try:
            with ThreadPoolExecutor(self.options.jobs) as pool, self._progress() as show:
                try:
                    self._loop(pool, show)
                except BaseException:
                    self._worker.stop()
                    raise
        finally:
            if in_main:
                signal.signal(signal.SIGTERM, before)
        return self.failed

    def _loop(self, pool: ThreadPoolExecutor, show: Callable[[list[Run]], None]) -> None:
        waiting = deque(self.runs)
        slots = deque(range(self.options.jobs))
        working: dict[Future, tuple[Run, int]] = {}
        while waiting or working:
            # Move a run that another process works on to the end of the queue.
            for _ in range(len(waiting)):
                if not slots:
                    break
                run = waiting.popleft()
                try:
                    lock = lock_file(run.folder / 'lock')
                except Locked:
                    waiting.append(run)
                    continue
                slot = slots.popleft()
                working[pool.submit(self._worker.carry_out, run, lock, slot)] = run, slot
            show([run for run, _ in working.values()])
            time.sleep(POLL)
            for future in [future for future in working if future.done()]:
                run, slot = working.pop(future)
                slots.append(slot)
                self._finished.add(run.key)
                self._report(run, future)
        show([])

    def _report(self, run: Run, future: Future) -> None:
        error = future.exception()
        left = len(self.runs) - len(self._finished)
        rest = f'{left} of {len(self.runs)} runs left'
        if error is None:
            self.console.print(f'done: {run.name}; {rest}', highlight=False)
        else:
            text = str(error) if isinstance(error, RunFailed) else repr(error)
            self.failed[run.name] = text
            self.console.print(f'failed: {run.name}; {rest}', highlight=False)

    @contextmanager
    def _progress(self) -> Iterator[Callable[[list[Run]], None]]:
        columns = (
            TextColumn('{task.description}'),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        # Estimate the remaining time from the speed of the last half hour.
        with Progress(
            *columns, console=self.console, speed_estimate_period=1800
        ) as progress:
            # Do not count earlier progress as speed. Testing and measuring take about a
            # twentieth of the time of a training.
            before = {run.key: run.progress() for run in self.runs}
            total = sum(1.05 - share for share in before.values())
            task = progress.add_task('', total=total)

            def show(working: list[Run]) -> None:
                done = sum(1.05 - before[key] for key in self._finished)
                done += sum(run.progress() - before[run.key] for run in working)
                names = '; '.join(run.name for run in working)
                if not working and done < total:
                    names = 'waiting for other processes'
                progress.update(task, completed=done, description=names)

            yield show


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt
