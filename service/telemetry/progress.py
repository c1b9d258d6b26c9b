"""Progress of a long operation: a bar on a terminal, lines in the log elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

#: Seconds before a bar appears, and between its updates.
_DELAY, _REFRESH = 1.0, 0.1
#: Seconds between two lines in the log.
_LOG_EVERY = 5.0

_logger = logging.getLogger(__name__)


@contextmanager
def progress(what: str, total: int | None, file: IO[str] | None = None) -> Iterator[Callable[[int], None]]:
    """Show the progress of an operation.

    Parameters
    ----------
    what : str
        Name of the operation.
    total : int or None
        Number of its steps, if it is known.
    file : text file, optional
        Where a bar is drawn, if it is a terminal; standard error by default.

    Yields
    ------
    callable
        Takes the number of steps done so far.
    """
    shown = _Progress(what, total, file or sys.stderr)
    try:
        yield shown
    finally:
        shown.close()


class _Progress:
    def __init__(self, what: str, total: int | None, file: IO[str]) -> None:
        self._what = what
        self._total = total
        self._file = file
        self._terminal = file.isatty()
        self._start = time.monotonic()
        self._next = self._start + (_DELAY if self._terminal else _LOG_EVERY)
        self._bar: Progress | None = None

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (_REFRESH if self._terminal else _LOG_EVERY)
        if self._terminal:
            self._draw(done)
        elif self._total is None:
            _logger.info("%s: %d done", self._what, done)
        else:
            left = (now - self._start) / max(done, 1) * (self._total - done)
            _logger.info("%s: %d of %d, about %.0f s remaining", self._what, done, self._total, left)

    def _draw(self, done: int) -> None:
        if self._bar is None:
            from rich.console import Console  # late: a server seldom needs it
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=Console(file=self._file), transient=True)
            self._task = self._bar.add_task(self._what, total=self._total)
            self._bar.start()
        self._bar.update(self._task, completed=done)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
