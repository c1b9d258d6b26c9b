"""Kill of a process at a chosen write to its data folder. The process itself imports this module."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

#: Statements between which a server may be killed. The samples' own are too many.
_STATEMENTS = (
    "BEGIN",
    "COMMIT",
    "DELETE",
    "UPDATE",
    "REPLACE",
    "CREATE",
    "PRAGMA",
    "VACUUM",
    "INSERT OR",
    "INSERT INTO p",
)
_FILES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link")


def install(count: int) -> None:
    """Kill this process before its write number `count` to the log or to a folder of checkpoints."""
    left, opened = count, False

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def trace(statement: str) -> None:
        if statement.lstrip().upper().startswith(_STATEMENTS):
            step()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal opened
        if event == "sqlite3.connect/handle":
            opened = True
            arguments[0].set_trace_callback(trace)
        elif opened and event in _FILES:
            step()

    sys.addaudithook(hook)
