"""Dictionary of names, compiled: field and value to row, exact, in flat arrays.

The table uses linear probing, and deletion by backward shift. No result depends on its layout.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..jit import jit, jit_inline
from .state import ROWS, TEXT_END, TEXT_WASTE, State

_Bytes = NDArray[np.uint8]


def encoded(names: Sequence[str]) -> tuple[_Bytes, NDArray[np.int64]]:
    """Return names in UTF-8, one after another, and the end of each."""
    joined = "".join(names)
    if joined.isascii():
        text, lengths = joined.encode(), map(len, names)
    else:
        each = [name.encode("utf-8", "surrogatepass") for name in names]
        text, lengths = b"".join(each), map(len, each)
    ends = np.fromiter(itertools.accumulate(lengths), np.int64, len(names))
    return np.frombuffer(text or b"\0", np.uint8), ends


@jit_inline
def _hash(text: _Bytes, begin: int, end: int, field: int) -> int:
    h = np.uint64(0xCBF29CE484222325) ^ (np.uint64(field) * np.uint64(0x9E3779B97F4A7C15))
    for i in range(begin, end):
        h = (h ^ np.uint64(text[i])) * np.uint64(0x100000001B3)
    h ^= h >> np.uint64(32)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    return int(np.int64((h ^ (h >> np.uint64(29))) >> np.uint64(2)))


@jit_inline
def _is(s: State, row: int, text: _Bytes, begin: int, end: int, field: int) -> bool:
    """Return whether a row has the name."""
    if s.field[row] != field or s.length[row] != end - begin:
        return False
    start = s.start[row]
    same = True
    for i in range(end - begin):
        same &= s.names[start + i] == text[begin + i]
    return same


@jit_inline
def find(s: State, text: _Bytes, begin: int, end: int, field: int) -> int:
    """Return the row of a name, −1 if it is unknown."""
    mask = s.slots.shape[0] - 1
    place = _hash(text, begin, end, field) & mask
    while s.slots[place] >= 0:
        if _is(s, s.slots[place], text, begin, end, field):
            return int(s.slots[place])
        place = (place + 1) & mask
    return -1


@jit_inline
def link(s: State, row: int) -> None:
    """Enter a row with a name into the table."""
    mask = s.slots.shape[0] - 1
    start = s.start[row]
    place = _hash(s.names, start, start + s.length[row], s.field[row]) & mask
    while s.slots[place] >= 0:
        place = (place + 1) & mask
    s.slots[place] = row


@jit
def link_all(s: State) -> None:
    """Enter all rows into an empty table."""
    for row in range(int(s.scalars[ROWS])):
        link(s, row)


@jit
def unlink(s: State, row: int) -> None:
    """Remove a row from the table; the entries behind it move up."""
    mask = s.slots.shape[0] - 1
    start = s.start[row]
    place = _hash(s.names, start, start + s.length[row], s.field[row]) & mask
    while s.slots[place] != row:
        place = (place + 1) & mask
    after = (place + 1) & mask
    while s.slots[after] >= 0:
        other = s.slots[after]
        begin = s.start[other]
        home = _hash(s.names, begin, begin + s.length[other], s.field[other]) & mask
        if ((after - home) & mask) >= ((after - place) & mask):
            s.slots[place] = other
            place = after
        after = (after + 1) & mask
    s.slots[place] = -1
    s.scalars[TEXT_WASTE] += s.length[row]


@jit
def assign_name(s: State, row: int, text: _Bytes, begin: int, end: int, field: int) -> None:
    """Give a row a name, and enter it into the table."""
    position = int(s.scalars[TEXT_END])
    s.start[row], s.length[row], s.field[row] = position, end - begin, field
    for i in range(end - begin):
        s.names[position + i] = text[begin + i]
    s.scalars[TEXT_END] += end - begin
    link(s, row)


@jit
def gather(s: State, text: _Bytes, starts: NDArray[np.int64]) -> None:
    """Copy the names of all rows, in order, to `text`, and their positions to `starts`."""
    position = 0
    for row in range(int(s.scalars[ROWS])):
        for i in range(s.length[row]):
            text[position + i] = s.names[s.start[row] + i]
        starts[row] = position
        position += s.length[row]


@jit
def before(text: _Bytes, ends: NDArray[np.int64], fields: NDArray[np.int64], a: int, b: int) -> bool:
    """Return whether the name of item a precedes that of item b: by field, then by bytes."""
    if fields[a] != fields[b]:
        return bool(fields[a] < fields[b])
    first, second = (ends[a - 1] if a > 0 else 0), (ends[b - 1] if b > 0 else 0)
    size = min(ends[a] - first, ends[b] - second)
    for i in range(size):
        if text[first + i] != text[second + i]:
            return bool(text[first + i] < text[second + i])
    return bool(ends[a] - first < ends[b] - second)
