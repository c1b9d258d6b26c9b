"""Output of the commands: results on standard output, as text or JSON; messages on standard error."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table


class CommandError(Exception):
    """Failure of a command.

    Parameters
    ----------
    message : str
        Reason and remedy.
    code : {1, 2}
        Exit code: 1 for a failure, 2 for wrong usage.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def note(message: str) -> None:
    """Print a message for people, to standard error."""
    print(message, file=sys.stderr)


def show(result: Mapping[str, Any], *, as_json: bool) -> None:
    """Print a result: one JSON object, or one line per entry."""
    if as_json:
        print(json.dumps(result))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in result.items():
        table.add_row(name.replace("_", " "), _text(value))
    _console().print(table)


def show_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print rows: a JSON array, or a table."""
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
    # No line breaks in a pipe: other programs read it.
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
    """Yield a file that replaces `path` when the block succeeds, and is deleted when it fails."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with aside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
