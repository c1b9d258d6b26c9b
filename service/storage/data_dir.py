"""A server's data folder: it belongs to one server at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

_LOCK = "lock"


class FolderInUseError(Exception):
    """Another server uses the folder."""


def lock(folder: Path) -> IO[str]:
    """Take a folder, which is made where it is missing, until the file that is returned is closed.

    The system lets go of it when the process ends, however it ends.

    Raises
    ------
    FolderInUseError
        If another process has it.
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
