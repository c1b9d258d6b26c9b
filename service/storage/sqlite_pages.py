"""Free space in the pages of an SQLite file: search for remnants of deleted rows, and zeros over them.

SQLite moves rows between pages when it balances a b-tree. Copies of them remain in the free space of a page.
``secure_delete`` writes zeros over a deleted row, and over a page that is freed, but not over these copies.
This module reads and writes the file directly, in the documented format (https://sqlite.org/fileformat2.html).
It writes only zeros, and only where SQLite stores nothing: a write that is interrupted at any point leaves a
valid file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

#: Bytes that one read of the search takes.
_READ = 2**20
#: Flags of a b-tree page, and the size of its header: interior and leaf pages of indices and tables.
_HEADERS = {2: 12, 5: 12, 10: 8, 13: 8}
#: Types of a page in a pointer map: root of a b-tree, and any other page of one.
_TREES = frozenset({1, 5})
#: Offset of the byte that SQLite locks. Its page stores nothing.
_LOCK_BYTE = 2**30
_FILE_HEADER = 100
#: Smallest size of a page.
_SMALLEST = 512
_PAGE_HEADER = struct.Struct(">BHHH")  # flags, first freeblock, number of cells, start of the cells
_FREEBLOCK = struct.Struct(">HH")  # next freeblock, size


class DamagedPageError(Exception):
    """The content of a page contradicts its header."""


class SqlitePages:
    """Pages of an SQLite file with a pointer map (``auto_vacuum``).

    Construct and close it while no connection of this process has the file open, or keep it open for longer
    than all of them: the operating system drops the locks of a process on a file with its first ``close``.

    Parameters
    ----------
    path : path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._opened = path.open("r+b", buffering=0)
        self._file = self._opened.fileno()
        header = os.pread(self._file, _FILE_HEADER, 0)
        size = int.from_bytes(header[16:18], "big")
        self._size = 65536 if size == 1 else size
        if self._size < _SMALLEST:
            raise DamagedPageError(f"{path} has no header")
        self._reserved = header[20]
        #: Number of pages from one page of the pointer map to the next.
        self._group = self._size // 5 + 1
        self._lock_page = _LOCK_BYTE // self._size + 1
        self._zeros = bytes(self._size)

    @property
    def supported(self) -> bool:
        """Whether the file has a pointer map, and no reserved bytes, which extensions of SQLite use."""
        has_map = os.pread(self._file, 4, 52) != bytes(4)
        return has_map and self._reserved == 0

    def close(self) -> None:
        """Close the file."""
        self._opened.close()

    def unclean(self) -> list[int]:
        """Return the numbers of the pages with remnants of deleted rows.

        SQLite may change the file meanwhile. A page that was unclean before the call is found unless SQLite
        has overwritten its remnants.
        """
        types = self._types()
        found: list[int] = []
        some = _READ // self._size
        for first in range(1, len(types), some):
            block = memoryview(os.pread(self._file, some * self._size, (first - 1) * self._size))
            numbers = range(first, first + len(block) // self._size)
            for number, start in zip(numbers, range(0, len(block), self._size), strict=True):
                if types[number] in _TREES and not self._is_clean(number, block[start : start + self._size]):
                    found.append(number)
        return found

    def clean(self, numbers: Sequence[int]) -> None:
        """Write zeros over the free space of pages, and flush the file. Nothing else may change it meanwhile.

        Raises
        ------
        DamagedPageError
            If the content of a page contradicts its header. This page is unchanged.
        """
        if not numbers:
            return
        types = self._types()
        for number in numbers:
            if number >= len(types) or types[number] not in _TREES:
                continue  # SQLite has freed the page since, and overwritten it
            start = (number - 1) * self._size
            page = memoryview(os.pread(self._file, self._size, start))
            for begin, end in self._checked(number, page):
                if page[begin:end] != self._zeros[: end - begin]:
                    os.pwrite(self._file, self._zeros[: end - begin], start + begin)
        os.fdatasync(self._file)

    def _types(self) -> bytearray:
        """Return the type of each page in the pointer map, by number; 0 for pages that it omits."""
        count = os.fstat(self._file).st_size // self._size
        types = bytearray(count + 1)
        types[1] = 1
        for begin in range(2, count + 1, self._group):
            number = begin + (begin == self._lock_page)  # a page of the map lists the pages behind it
            entries = os.pread(self._file, self._size, (number - 1) * self._size)[: self._size // 5 * 5 : 5]
            end = min(begin + self._group, count + 1)
            types[number + 1 : end] = entries[: max(0, end - number - 1)]
        if count >= self._lock_page:
            types[self._lock_page] = 0
        return types

    def _is_clean(self, number: int, page: memoryview) -> bool:
        try:
            return all(page[begin:end] == self._zeros[: end - begin] for begin, end in _free(number, page))
        except DamagedPageError:  # SQLite may be writing this page
            return False

    def _checked(self, number: int, page: memoryview) -> list[tuple[int, int]]:
        """Return the free ranges of a page, after a check that no cell starts in one."""
        ranges = [*_free(number, page)]
        array = ranges[0][0]
        (cells,) = struct.unpack_from(">H", page, _start(number) + 3)
        for cell in struct.unpack_from(f">{cells}H", page, array - 2 * cells):
            if cell < ranges[0][1] or any(begin <= cell < end for begin, end in ranges):
                raise DamagedPageError(f"page {number} of {self._path} is damaged")
        return ranges


def _start(number: int) -> int:
    """Return the offset of the header in a page: the first page begins with the header of the file."""
    return _FILE_HEADER if number == 1 else 0


def _free(number: int, page: memoryview) -> Iterator[tuple[int, int]]:
    """Yield begin and end of the free ranges: behind the cell pointers, and inside each freeblock."""
    start, size = _start(number), len(page)
    flags, block, cells, content = _PAGE_HEADER.unpack_from(page, start)
    array = start + _HEADERS.get(flags, size) + 2 * cells
    content = content or 65536
    if not array <= content <= size:
        raise DamagedPageError(f"page {number} is damaged")
    yield array, content
    end = content
    while block:
        if not end <= block <= size - _FREEBLOCK.size:
            raise DamagedPageError(f"page {number} is damaged")
        following, length = _FREEBLOCK.unpack_from(page, block)
        end = block + length
        if length < _FREEBLOCK.size or end > size:
            raise DamagedPageError(f"page {number} is damaged")
        yield block + _FREEBLOCK.size, end
        block = following
