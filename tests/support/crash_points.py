"""Kill of a process at a chosen write to its data folder. The process itself imports this module."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

#: Statements before which a process may be killed. Those of samples are too many.
_STATEMENTS = (
    "BEGIN",
    "COMMIT",
    "CREATE",
    "DELETE",
    "INSERT OR",
    "INSERT INTO P",
    "INSERT INTO U",
    "PRAGMA",
    "REPLACE",
    "UPDATE",
    "VACUUM",
)

_FILES = ("os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate")
_CALLS = ("fdatasync", "fsync", "pwrite")


def install(count: int) -> None:
    """Kill this process before its write number `count`, counted from the opening of the log."""
    left, opened = count, False

    def step() -> None:
        nonlocal left
        left -= opened
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def trace(statement: str) -> None:
        if statement.lstrip().upper().startswith(_STATEMENTS):
            step()

    def connect(
        real: Callable[..., sqlite3.Connection], *arguments: Any, **options: Any
    ) -> sqlite3.Connection:
        nonlocal opened
        opened = True
        connection = real(*arguments, **options)
        connection.set_trace_callback(trace)
        return connection

    def call(real: Callable[..., Any], *arguments: Any) -> Any:
        step()
        return real(*arguments)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FILES:
            step()

    setattr(sqlite3, "connect", partial(connect, sqlite3.connect))  # noqa: B010 (mypy: an overloaded function)
    for name in _CALLS:
        setattr(os, name, partial(call, getattr(os, name)))
    sys.addaudithook(hook)
