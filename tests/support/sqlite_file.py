"""Second reader of SQLite's file format: it parses every cell, and finds bytes that belong to none."""

from __future__ import annotations

from pathlib import Path


def varint(page: bytes, at: int) -> tuple[int, int]:
    """Return a variable-length integer and the offset behind it."""
    value = 0
    for i in range(8):
        value = value << 7 | page[at + i] & 127
        if page[at + i] < 128:
            return value, at + i + 1
    return value << 8 | page[at + 8], at + 9


class Pages:
    """All b-tree, overflow and free pages of a file, reached from the roots as SQLite reaches them.

    Attributes
    ----------
    remnants : dict of int to bytes
        For each page with bytes other than zero that SQLite does not use: those bytes.
    """

    def __init__(self, path: Path, roots: list[int]) -> None:
        self._data = path.read_bytes()
        size = int.from_bytes(self._data[16:18], "big")
        self._size = 65536 if size == 1 else size
        self.remnants: dict[int, bytes] = {}
        for root in roots:
            self._tree(root)
        self._free()

    def _page(self, number: int) -> bytes:
        return self._data[(number - 1) * self._size : number * self._size]

    def _note(self, number: int, used: list[tuple[int, int]]) -> None:
        rest = bytearray(self._page(number))
        for begin, end in used:
            rest[begin:end] = bytes(end - begin)
        if any(rest):
            self.remnants[number] = bytes(rest).strip(b"\0")

    def _tree(self, number: int) -> None:
        page, start = self._page(number), 100 if number == 1 else 0
        kind, cells = page[start], int.from_bytes(page[start + 3 : start + 5], "big")
        assert kind in (2, 5, 10, 13), (number, kind)
        array = start + (12 if kind < 10 else 8)
        used = [(0, array + 2 * cells)]
        for i in range(cells):
            at = int.from_bytes(page[array + 2 * i : array + 2 * i + 2], "big")
            used.append((at, self._cell(page, kind, at)))
        block = int.from_bytes(page[start + 1 : start + 3], "big")
        while block:
            used.append((block, block + 4))
            block = int.from_bytes(page[block : block + 2], "big")
        self._note(number, used)
        if kind < 10:
            self._tree(int.from_bytes(page[start + 8 : start + 12], "big"))

    def _cell(self, page: bytes, kind: int, begin: int) -> int:
        """Follow a cell; return its end."""
        at = begin
        if kind < 10:
            self._tree(int.from_bytes(page[at : at + 4], "big"))
            at += 4
        if kind == 5:
            return varint(page, at)[1]
        payload, at = varint(page, at)
        if kind == 13:
            at = varint(page, at)[1]
        most = self._size - 35 if kind == 13 else (self._size - 12) * 64 // 255 - 23
        if payload <= most:
            return max(at + payload, begin + 4)
        least = (self._size - 12) * 32 // 255 - 23
        local = least + (payload - least) % (self._size - 4)
        local = local if local <= most else least
        at += local
        following, left = int.from_bytes(page[at : at + 4], "big"), payload - local
        while following:
            number = following
            here = min(left, self._size - 4)
            self._note(number, [(0, 4 + here)])
            following, left = int.from_bytes(self._page(number)[:4], "big"), left - here
        return at + 4

    def _free(self) -> None:
        trunk = int.from_bytes(self._data[32:36], "big")
        while trunk:
            page, number = self._page(trunk), trunk
            leaves = int.from_bytes(page[4:8], "big")
            self._note(number, [(0, 8 + 4 * leaves)])
            for i in range(leaves):
                self._note(int.from_bytes(page[8 + 4 * i : 12 + 4 * i], "big"), [])
            trunk = int.from_bytes(page[:4], "big")


def remnants(path: Path, roots: list[int]) -> dict[int, bytes]:
    """Return the bytes other than zero that SQLite does not use, by page."""
    return Pages(path, roots).remnants
