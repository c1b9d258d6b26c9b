"""Lock on the data folder: one server uses it at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

_LOCK = "lock"


class FolderInUseError(Exception):
    """Another server uses the data folder."""


def lock(folder: Path) -> IO[str]:
    """Lock a folder, and create it if it is missing.

    Returns
    -------
    file
        The lock is released when it is closed, or when the process ends in any way.

    Raises
    ------
    FolderInUseError
        If another process holds the lock.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = (folder / _LOCK).open("a+", encoding="ascii")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise FolderInUseError(
            f"another server (process {owner}) uses {folder}: stop it, or set BNP_DATA_DIR to another folder"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
