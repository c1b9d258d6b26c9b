"""Output of the commands: results on standard output, as text or JSON; messages on standard error."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table

#: Remedies of failures of the operating system; others have a message that is enough.
_REMEDIES = {
    errno.ENOENT: "check the name",
    errno.EISDIR: "give the name of a file",
    errno.ENOTDIR: "check the name",
    errno.EACCES: "change its permissions, or choose another file",
    errno.EPERM: "change its permissions, or choose another file",
    errno.EROFS: "choose a file elsewhere",
    errno.ENOSPC: "free some space, or choose a file elsewhere",
    errno.EDQUOT: "free some space, or choose a file elsewhere",
    errno.EFBIG: "raise the limit (`ulimit -f`), or choose a file elsewhere",
    errno.ENAMETOOLONG: "choose a shorter name",
}


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


def failure(name: str | Path, error: OSError) -> CommandError:
    """Return the error of a command for a failure of the operating system with a file.

    Parameters
    ----------
    name : str or path
        Name of the file, as the user gave it: the failure may be with another one, such as a temporary file.
    error : OSError
        The failure.
    """
    reason = error.strerror or str(error) or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0)
    shown = str(name) or "''"
    return CommandError(f"{shown}: {reason}: {remedy}" if remedy else f"{shown}: {reason}")


@contextlib.contextmanager
def file_errors(name: str | Path) -> Iterator[None]:
    """Report failures of the operating system in the block with the name of the file; see `failure`."""
    try:
        yield
    except OSError as error:
        raise failure(name, error) from None


def require_writable(path: Path) -> None:
    """Raise `CommandError` if a file cannot be created, or replaced as a whole, before it has a content."""
    with file_errors(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        folder = path.parent
        if not folder.exists():
            raise CommandError(f"{path}: There is no folder {folder}: create it, or choose a file elsewhere")
        if path.exists() and not path.is_file():
            raise CommandError(f"{path}: It is no regular file: choose another file")
        with tempfile.TemporaryFile(dir=folder):
            pass


class Sink:
    """Output file of a command: failures of writes name it.

    Parameters
    ----------
    file : binary file
        Where to write.
    name : str or path, optional
        Name of the file; without one, failures are raised as they are.
    """

    def __init__(self, file: IO[bytes], name: str | Path | None = None) -> None:
        self._file = file
        self._name = name

    def write(self, data: bytes) -> None:
        """Write bytes."""
        try:
            self._file.write(data)
        except OSError as error:
            raise (error if self._name is None else failure(self._name, error)) from None


@contextlib.contextmanager
def written(path: Path) -> Iterator[Sink]:
    """Yield a file that replaces `path` when the block succeeds, and is deleted when it fails.

    A pipe or a device, such as ``/dev/stdout``, is written as it is.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        with file_errors(path), path.open("wb") as file:
            yield Sink(file, path)
        return
    require_writable(path)
    target = Path(os.path.realpath(path))  # a symbolic link stays one
    aside = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    with file_errors(path):
        file = aside.open("wb")
    try:
        yield Sink(file, path)
        with file_errors(path):
            file.flush()
            os.fsync(file.fileno())
            aside.replace(target)
    finally:
        with contextlib.suppress(OSError):  # of the rest of a buffer, after a failure
            file.close()
        aside.unlink(missing_ok=True)
