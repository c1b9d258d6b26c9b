"""High-water mark: number of the events that are on the disk, in a small file beside the log.

A start compares it with the log. A log that ends before it has lost events: its file, its write-ahead log or
a part of them is missing, or an older copy was restored.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NAME = "events.head"


class HighWaterMark:
    """High-water mark of a log.

    Parameters
    ----------
    folder : path
        Folder of the log.

    Attributes
    ----------
    number : int
        Number of the events that the log had, pruned ones included.

    Notes
    -----
    The number has a fixed width and replaces the former one in place. It is not flushed: after a failure of
    the power it is this number or an earlier one, and each is a lower bound. The same holds if it cannot be
    written.
    """

    def __init__(self, folder: Path) -> None:
        self.number = read(folder)
        self._file = os.open(folder / NAME, os.O_WRONLY | os.O_CREAT, 0o600)

    def write(self, number: int) -> None:
        """Replace a lower number; takes 2 µs."""
        if number > self.number:
            with contextlib.suppress(OSError):
                os.pwrite(self._file, b"%019d\n" % number, 0)
                self.number = number

    def close(self) -> None:
        """Close the file; a further call has no effect."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def read(folder: Path) -> int:
    """Return the number in a folder; 0 if there is none, as in a folder of an earlier version."""
    try:
        return int((folder / NAME).read_bytes())
    except (FileNotFoundError, ValueError):
        return 0
