"""Runs of samples in a log, read without code of the server."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_ENTRIES = struct.Struct(">BH")


def lines_of(body: bytes) -> Iterator[tuple[bytes, str | None]]:
    """Return the body and the id of each event of a run."""
    _, count = _ENTRIES.unpack_from(body)
    numbers = struct.unpack_from(f">{3 * count}I", body, _ENTRIES.size)
    start = _ENTRIES.size + 12 * count
    names_start = start + numbers[count - 1] + 1
    line, name = 0, 0
    for i in range(count):
        end, name_end = numbers[i], numbers[count + i]
        named = body[names_start + name : names_start + name_end]
        yield body[start + line : start + end], named[1 + named[0] :].decode() if named else None
        line, name = end + 1, name_end
