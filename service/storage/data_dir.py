"""Lock on the data folder, and modes of its files: one server uses it, and no other user reads it.

A process-wide umask would also apply to the cache of numba, which other users may share.
"""

from __future__ import annotations

import fcntl
import logging
import os
import stat
from pathlib import Path
from typing import IO

_LOCK = "lock"
#: Files and folders of the server in the data folder. The file of keys keeps the mode that its owner gave it.
_OWN = (_LOCK, "events.sqlite3*", "events.head", "checkpoints", "checkpoints/*", "checkpoints/*/*")

_logger = logging.getLogger(__name__)


class FolderInUseError(Exception):
    """Another server uses the data folder."""


def lock(folder: Path) -> IO[str]:
    """Lock a folder, and create it if it is missing. Files in it lose the permissions of group and others.

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
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    file = os.fdopen(descriptor, "a+", encoding="ascii")
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
    _narrow(folder)
    return file


def _narrow(folder: Path) -> None:
    """Take permissions from group and others: earlier versions created files with the mode 0644."""
    for path in (path for pattern in _OWN for path in folder.glob(pattern)):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                path.chmod(mode & 0o700)
        except OSError as error:
            _logger.warning("other users may read %s: its mode cannot be changed: %s", path, error.strerror)
