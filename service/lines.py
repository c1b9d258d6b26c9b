"""From chunks of bytes, cut anywhere, to lines of bounded length."""

from __future__ import annotations

from typing import NamedTuple


class Line(NamedTuple):
    """A line that is not blank.

    Attributes
    ----------
    number : int
        From 1; blank lines count.
    raw : bytes or None
        Without its end; None if it was too long.
    """

    number: int
    raw: bytes | None


class Lines:
    r"""Splits a stream into lines, and keeps no more of it than the beginning of one.

    Parameters
    ----------
    limit : int
        Bytes of the longest line; what a longer one has beyond them is not kept.

    Examples
    --------
    >>> lines = Lines(limit=3)
    >>> lines.feed(b"1\n\n2")
    [Line(number=1, raw=b'1')]
    >>> lines.feed(b"2\n3333"), lines.end()
    ([Line(number=3, raw=b'22')], [Line(number=4, raw=None)])
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._number = 0
        self._begun = bytearray()
        self._size = 0

    def feed(self, chunk: bytes) -> list[Line]:
        """Return the lines that end in this chunk."""
        *ended, begun = chunk.split(b"\n")
        lines: list[Line] = []
        for part in ended:
            self._append(part)
            lines += self.end()
        self._append(begun)
        return lines

    def end(self) -> list[Line]:
        """End the line that has begun; return it, unless it is blank."""
        raw = bytes(self._begun) if self._size <= self._limit else None
        self._begun.clear()
        self._size = 0
        self._number += 1
        return [] if raw is not None and not raw.strip() else [Line(self._number, raw)]

    def _append(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._limit:
            self._begun += part
        else:
            self._begun.clear()
