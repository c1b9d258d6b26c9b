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
#: Longest name of an operation on a bar.
_LONGEST = 30
#: Seconds between two lines in the log.
_LOG_EVERY = 5.0

_logger = logging.getLogger(__name__)


@contextmanager
def progress(
    what: str,
    total: int | None,
    file: IO[str] | None = None,
    *,
    fraction: Callable[[], float | None] = lambda: None,
    score: Callable[[], str] = lambda: "",
) -> Iterator[Callable[[int], None]]:
    """Show the progress of an operation: steps, steps per second, share done and time left.

    Parameters
    ----------
    what : str
        Name of the operation.
    total : int or None
        Number of its steps, if it is known.
    file : text file, optional
        Where a bar is drawn, if it is a terminal; standard error by default.
    fraction : callable, optional
        Returns the share done, where the number of steps is unknown; None if the share is unknown too.
    score : callable, optional
        Returns a text that the bar shows, such as the accuracy so far.

    Yields
    ------
    callable
        Takes the number of steps done so far.
    """
    shown = _Progress(what, total, file or sys.stderr, fraction, score)
    try:
        yield shown
    finally:
        shown.close()


class _Progress:
    def __init__(
        self,
        what: str,
        total: int | None,
        file: IO[str],
        fraction: Callable[[], float | None],
        score: Callable[[], str],
    ) -> None:
        self._what = what
        self._total = total
        self._file = file
        self._fraction = fraction
        self._score = score
        self._terminal = file.isatty()
        self._start = time.monotonic()
        self._next = self._start + (_DELAY if self._terminal else _LOG_EVERY)
        self._first: tuple[float, int] | None = None  # time and number of steps of the first call
        self._bar: Progress | None = None

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        if now < self._next:
            return
        self._next = now + (_REFRESH if self._terminal else _LOG_EVERY)
        if self._terminal:
            self._draw(done, now - self._first[0], done - self._first[1])
        elif self._total is None:
            _logger.info("%s: %d done", self._what, done)
        else:
            left = (now - self._start) / max(done, 1) * (self._total - done)
            _logger.info("%s: %d of %d, about %.0f s remaining", self._what, done, self._total, left)

    def _draw(self, done: int, seconds: float, steps: int) -> None:
        """Draw the bar; `steps` were done in the last `seconds`, which leave the preparations out."""
        share = self._fraction() if self._total is None else done / max(self._total, 1)
        bar = self._bar or self._make(known=share is not None)
        words = [f"{done:,}" if self._total is None else f"{done:,}/{self._total:,}"]
        if steps:
            words.append(f"{steps / max(seconds, 1e-9):,.0f}/s")
        words.append(self._score())
        if share and steps:
            words.append(f"{_clock(seconds * (1 - share) / share)} left")
        bar.update(self._task, completed=share or 0.0, text=", ".join(filter(None, words)))
        if self._bar is None:
            bar.start()
            self._bar = bar

    def _make(self, *, known: bool) -> Progress:
        from rich.console import Console  # late: a server seldom needs it
        from rich.markup import escape
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        columns = [TextColumn("{task.description}"), BarColumn(None)]
        columns += [TaskProgressColumn()] if known else []
        columns += [TextColumn("{task.fields[text]}", markup=False)]
        bar = Progress(*columns, console=Console(file=self._file), transient=True, expand=True)
        what = self._what if len(self._what) <= _LONGEST else f"{self._what[: _LONGEST - 1]}…"
        self._task = bar.add_task(escape(what), total=1.0 if known else None, text="")
        return bar

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
