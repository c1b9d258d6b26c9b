"""From chunks of bytes, cut anywhere, to lines of bounded length."""

from __future__ import annotations

from collections.abc import Iterator
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
        Bytes of the longest line; of a longer one nothing is kept.

    Examples
    --------
    >>> lines = Lines(limit=3)
    >>> list(lines.feed(b"1\n\n2"))
    [Line(number=1, raw=b'1')]
    >>> list(lines.feed(b"2\n3333", last=True))
    [Line(number=3, raw=b'22'), Line(number=4, raw=None)]
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._number = 0
        self._begun = bytearray()
        self._size = 0

    def feed(self, chunk: bytes, last: bool = False) -> Iterator[Line]:
        """Yield the lines that end in this chunk; after the last chunk a line needs no end."""
        start = 0
        while (stop := chunk.find(b"\n", start)) >= 0:
            yield from self._end(chunk[start:stop])
            start = stop + 1
        rest = chunk[start:]
        if last:
            yield from self._end(rest)
        else:
            self._begin(rest)

    def _begin(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._limit:
            self._begun += part
        else:
            self._begun.clear()

    def _end(self, part: bytes) -> list[Line]:
        """Return the line that ends with `part`, unless it is blank."""
        raw: bytes | None = part
        if self._size:
            self._begin(part)
            raw = bytes(self._begun) if self._size <= self._limit else None
            self._begun.clear()
            self._size = 0
        elif len(part) > self._limit:
            raw = None
        self._number += 1
        return [Line(self._number, raw)] if raw is None or raw.strip() else []
