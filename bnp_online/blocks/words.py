"""Known words: scalars of a line by their bytes, compiled.

A word is the text of a string, a label or the like, with its quotation marks. It is known in a *place*, such
as one feature. Equal bytes in the same place have the same meaning, so a word needs no decoding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..jit import jit_exact, jit_exact_inline
from .bits import load

#: Columns of `WordTable.entries`: bytes of a word, its place, and what it means.
_START, _LENGTH, _PLACE, MEANING = range(4)
#: Slots that a search looks at; a word that has none of them stays unknown.
_PROBES = 32
_SLOTS, _TEXT = 64, 1024
#: Bytes behind a text, so that whole words of 8 bytes can be read at each of its positions.
SPARE = 8


class WordTable(NamedTuple):
    """Hash table of words, with linear probing.

    Attributes
    ----------
    slots : array of int32
        Rows of `entries`; −1 for a free slot. The length is a power of two.
    entries : array of int64
        Start and length in `text`, place and meaning of each word.
    text : array of uint8
        All words, one after another.
    """

    slots: NDArray[np.int32]
    entries: NDArray[np.int64]
    text: NDArray[np.uint8]


@jit_exact_inline
def same(buffer: NDArray[np.uint8], i: int, text: NDArray[np.uint8], j: int, length: int) -> bool:
    """Return whether two texts are equal, 8 bytes at a time; up to 7 bytes behind them are read."""
    k = 0
    while k + 8 <= length:
        if load(buffer, i + k) != load(text, j + k):
            return False
        k += 8
    if k == length:
        return True
    differ = load(buffer, i + k) ^ load(text, j + k)
    return bool(differ << np.uint64(8 * (8 - length + k)) == np.uint64(0))


@jit_exact_inline
def _hash(text: NDArray[np.uint8], start: int, length: int, place: int) -> np.uint64:
    h = np.uint64(0xCBF29CE484222325) + np.uint64(place)
    k = 0
    while k < length:
        part = load(text, start + k)
        if k + 8 > length:
            part <<= np.uint64(8 * (8 - length + k))
        h = (h ^ part) * np.uint64(0x9E3779B97F4A7C15)
        h ^= h >> np.uint64(32)
        k += 8
    h *= np.uint64(0xBF58476D1CE4E5B9)
    return h ^ (h >> np.uint64(29))


@jit_exact_inline
def find(buffer: NDArray[np.uint8], start: int, length: int, place: int, table: WordTable) -> int:
    """Return the row of a word in `entries`, −1 if it is unknown."""
    mask = table.slots.shape[0] - 1
    home = np.int64(_hash(buffer, start, length, place) & np.uint64(mask))
    for probe in range(_PROBES):
        row = table.slots[(home + probe) & mask]
        if row < 0:
            return -1
        entry = table.entries[row]
        if (
            entry[_LENGTH] == length
            and entry[_PLACE] == place
            and same(buffer, start, table.text, entry[_START], length)
        ):
            return int(row)
    return -1


@jit_exact
def _enter(table: WordTable, first: int, end: int) -> None:
    """Enter rows of `entries` into the slots."""
    mask = table.slots.shape[0] - 1
    for row in range(first, end):
        entry = table.entries[row]
        home = np.int64(_hash(table.text, entry[_START], entry[_LENGTH], entry[_PLACE]) & np.uint64(mask))
        for probe in range(_PROBES):
            slot = (home + probe) & mask
            if table.slots[slot] < 0:
                table.slots[slot] = row
                break


class Words:
    """Words that are known so far.

    Parameters
    ----------
    most : int
        Words that are stored; further ones stay unknown.

    Attributes
    ----------
    table : WordTable
        What the parser reads.
    longest : int
        Length of the longest word in bytes.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: dict[tuple[int, bytes], int] = {}
        self._size = 0  # bytes of `text`
        self.longest = 0
        self.table = WordTable(
            np.full(_SLOTS, -1, np.int32),
            np.zeros((_SLOTS // 2, 4), np.int64),
            np.zeros(_TEXT, np.uint8),
        )

    def add(self, place: int, word: bytes, meaning: int) -> bool:
        """Store a word with its meaning, unless it is known; return whether it is stored."""
        if (place, word) in self._rows:
            return True
        row = len(self._rows)
        if row >= self._most:
            return False
        self._reserve(len(word))
        _, entries, text = self.table
        entries[row] = self._size, len(word), place, meaning
        text[self._size : self._size + len(word)] = np.frombuffer(word, np.uint8)
        self._rows[place, word] = row
        self._size += len(word)
        self.longest = max(self.longest, len(word))
        _enter(self.table, row, row + 1)
        return True

    def _reserve(self, length: int) -> None:
        """Make room for one more word."""
        slots, entries, text = self.table
        if self._size + length + SPARE > len(text):
            text = _enlarged(text, 2 * (self._size + length + SPARE))
        if full := len(self._rows) == len(entries):
            entries = _enlarged(entries, 2 * len(entries))
            slots = np.full(2 * len(slots), -1, np.int32)
        self.table = WordTable(slots, entries, text)
        if full:
            _enter(self.table, 0, len(self._rows))


def _enlarged(array: NDArray[Any], rows: int) -> NDArray[Any]:
    """Return a copy of an array with further rows of zeros."""
    larger = np.zeros((rows, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger
