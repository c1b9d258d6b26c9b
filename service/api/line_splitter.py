"""Splitting of a body into lines, while it arrives."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple, overload

import numpy as np

from bnp_online.lines import Lines

from ..http.content import is_blank

_SPACE = ord(" ")
#: First byte of a byte order mark.
_MARK = 0xEF


class Line(NamedTuple):
    """A line of the body that is not blank.

    Attributes
    ----------
    number : int
        Number from 1; blank lines count.
    raw : bytes or None
        The line without its line break; None if it is too long.
    """

    number: int
    raw: bytes | None


class LineGroup(Sequence[Line]):
    """Lines of a body, in order.

    Parameters
    ----------
    lines : Lines
        The lines; those that are too long are empty.
    numbers : sequence of int
        Their numbers.
    long : collection of int
        Numbers of those that are too long.
    """

    def __init__(self, lines: Lines, numbers: Sequence[int], long: Collection[int] = ()) -> None:
        self.lines = lines
        self.numbers = numbers
        self.long = long

    @property
    def size(self) -> int:
        """Bytes of the lines."""
        return self.lines.size

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, part: int) -> Line: ...
    @overload
    def __getitem__(self, part: slice) -> LineGroup: ...
    def __getitem__(self, part: int | slice) -> Line | LineGroup:
        if isinstance(part, slice):
            return LineGroup(self.lines[part], self.numbers[part], self.long)
        number = self.numbers[part]
        return Line(number, None if number in self.long else self.lines[part])


class LineSplitter:
    r"""Splitter of a stream of chunks into lines; it stores at most the beginning of one line.

    Parameters
    ----------
    limit : int
        Maximum length of a line in bytes; longer lines are not stored.

    Examples
    --------
    >>> splitter = LineSplitter(limit=3)
    >>> list(splitter.feed(b"1\n\n2"))
    [Line(number=1, raw=b'1')]
    >>> list(splitter.feed(b"2\n3333", last=True))
    [Line(number=3, raw=b'22'), Line(number=4, raw=None)]
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._number = 0
        self._begun = bytearray()
        self._size = 0  # of the line that has begun; it is not stored if it is too long

    def feed(self, chunk: bytes, last: bool = False) -> LineGroup:
        """Return the lines that end in a chunk; the last line needs no line break."""
        cut = len(chunk) if last else chunk.rfind(b"\n") + 1
        ended, rest = chunk[:cut], chunk[cut:]
        long = self._size > self._limit and (cut > 0 or last)
        if long:
            ended = ended[ended.find(b"\n") :] if b"\n" in ended else b"\n"
        elif cut or last:
            ended = bytes(self._begun) + ended
        if ended and ended[-1:] != b"\n":
            ended += b"\n"
        if cut or last:
            self._begun.clear()
            self._size = 0
        self._begin(rest)
        return self._split(ended, long)

    def split(self, chunk: bytes, last: bool) -> Iterator[LineGroup]:
        """Yield the lines that end in a chunk, for `LineStream`."""
        yield self.feed(chunk, last)

    def _begin(self, part: bytes) -> None:
        self._size += len(part)
        if self._size <= self._limit:
            self._begun += part
        else:
            self._begun.clear()

    def _split(self, text: bytes, long: bool) -> LineGroup:
        """Return the lines of a text that are not blank; the first one stands for a line that is too long."""
        sizes = np.array([*map(len, text.split(b"\n"))][:-1], np.int64)
        lines = Lines(text, [0, *np.cumsum(sizes + 1).tolist()])
        numbers = range(self._number + 1, self._number + 1 + len(lines))
        self._number += len(lines)
        too_long = sizes > self._limit
        too_long[:1] |= long
        data = np.frombuffer(text, np.uint8)
        begins = data[lines.bounds[:-1]]
        unusual = np.flatnonzero(~too_long & ((begins <= _SPACE) | (begins >= _MARK))).tolist()
        kept = np.full(len(sizes), True)
        kept[[i for i in unusual if is_blank(lines[i])]] = False
        if kept.all() and not too_long.any():
            return LineGroup(lines, numbers)
        of_lines = np.repeat(kept & ~too_long, sizes + 1)
        of_lines[np.cumsum(sizes + 1)[too_long] - 1] = True  # the line feed alone
        sizes[too_long] = 0
        rest = Lines(data[of_lines].tobytes(), [0, *np.cumsum(sizes[kept] + 1).tolist()])
        first = numbers.start
        long_numbers = {first + i for i in np.flatnonzero(too_long).tolist()}
        return LineGroup(rest, (first + np.flatnonzero(kept)).tolist(), long_numbers)
