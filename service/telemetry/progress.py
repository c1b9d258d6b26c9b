"""Progress of long operations: a bar on a terminal, otherwise lines in the log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Seconds between two lines in the log.
_EVERY = 5.0

_logger = logging.getLogger(__name__)


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the progress of an operation, and its remaining time.

    Parameters
    ----------
    what : str
        Name of the operation.
    total : int
        Number of steps.

    Yields
    ------
    callable
        To be called with the number of steps done.
    """
    if not sys.stderr.isatty():
        yield _LogProgress(what, total)
        return
    from rich.console import Console  # imported late: a server seldom uses it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)


class _LogProgress:
    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._start = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now - self._last >= _EVERY:
            self._last = now
            left = (now - self._start) / done * (self._total - done) if done else 0.0
            _logger.info("%s: %d of %d, about %.0f s remaining", self._what, done, self._total, left)
