"""What commands write: results to standard output, for people or as JSON; progress to standard error."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

#: Seconds after which a bar is worth showing.
_WORTH = 1.0
_REFRESH = 0.1


class CommandError(Exception):
    """A command cannot do what it was asked; the message says what to do.

    Parameters
    ----------
    message : str
        What is wrong and what to do.
    code : {1, 2}
        Exit code: it failed, or it was used wrongly.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Bar:
    """A progress bar on a terminal, once something has taken a second.

    Parameters
    ----------
    what : str
        What is done.
    total : int or None
        How many there are to do, if it is known.
    console : Console, optional
        Where to show it; standard error by default.
    """

    def __init__(self, what: str, total: int | None, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._what = what
        self._total = total
        self._done = 0
        self._start = self._shown = time.monotonic()
        self._progress: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done)
            self._progress.stop()

    def advance(self, n: int = 1) -> None:
        """Note that so many more are done."""
        self.done(self._done + n)

    def done(self, n: int) -> None:
        """Note how many are done."""
        self._done = n
        now = time.monotonic()
        if now - self._start < _WORTH or now - self._shown < _REFRESH or not self._console.is_terminal:
            return
        self._shown = now
        if self._progress is None:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            self._progress = Progress(*columns, console=self._console)
            self._task = self._progress.add_task(self._what, total=self._total)
            self._progress.start()
        self._progress.update(self._task, completed=n)


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a result: as one JSON object, or a line for each of its entries."""
    if as_json:
        print(json.dumps(result))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in result.items():
        table.add_row(name.replace("_", " "), _text(value))
    _console().print(table)


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows: as a JSON array, or a table."""
    if as_json:
        print(json.dumps(list(rows)))
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        numeric = bool(rows) and isinstance(rows[0][column], int | float)
        table.add_column(column.replace("_", " "), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*(_text(row[column]) for column in columns))
    _console().print(table)


def _console() -> Console:
    # In a pipe nothing is broken into lines of 80: other programs read it.
    return Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 1000)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value)) or "–"
    return "–" if value is None else str(value)


@contextlib.contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file that takes the place of `path` if the block ends well, and is gone if not."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
