"""Lines put together from numbers and the text between them, in compiled code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..jit import jit_exact, jit_exact_inline

_Bytes = NDArray[np.uint8]
_Ends = NDArray[np.int64]


@jit_exact_inline
def _copy(source: _Bytes, start: int, stop: int, target: _Bytes, at: int) -> int:
    for i in range(start, stop):
        target[at] = source[i]
        at += 1
    return at


@jit_exact
def _join(
    heads: _Bytes,
    head_ends: _Ends,
    numbers: _Bytes,
    tails: _Bytes,
    tail_ends: _Ends,
    text: _Bytes,
    bounds: _Ends,
) -> int:
    """Write the lines and their bounds; return the length of the text."""
    at, number, tail = 0, 0, 0
    for line in range(len(tail_ends)):
        head = 0
        for k in range(len(head_ends)):
            at = _copy(heads, head, head_ends[k], text, at)
            head = head_ends[k]
            while number < len(numbers) and numbers[number] != 44:  # a comma
                text[at] = numbers[number]
                at += 1
                number += 1
            number += 1
        at = _copy(tails, tail, tail_ends[line], text, at)
        tail = tail_ends[line]
        text[at] = 10  # a line feed
        at += 1
        bounds[line + 1] = at
    return at


def joined(heads: Sequence[bytes], numbers: bytes, tails: Sequence[bytes]) -> tuple[bytes, list[int]]:
    r"""Return lines with as many numbers each as there are heads: head, number, head, number, …, tail.

    Parameters
    ----------
    heads : sequence of bytes
        Text before each number of a line.
    numbers : bytes
        The numbers of all lines in order, with commas between them.
    tails : sequence of bytes
        Text behind the last number of each line.

    Returns
    -------
    text : bytes
        The lines, each with a line feed.
    bounds : list of int
        Where each line begins in the text, and where the next one would begin.

    Examples
    --------
    >>> joined([b"a=", b" b="], b"1,2,3,4", [b".", b"!"])
    (b'a=1 b=2.\na=3 b=4!\n', [0, 9, 18])
    """
    head_ends = np.cumsum([len(head) for head in heads], dtype=np.int64)
    tail_ends = np.cumsum([len(tail) for tail in tails], dtype=np.int64)
    count = len(tails)
    size = (sum(map(len, heads)) + 1) * count + len(numbers) + sum(map(len, tails))
    text, bounds = np.empty(size, np.uint8), np.zeros(count + 1, np.int64)
    before, behind = _array(b"".join(heads)), _array(b"".join(tails))
    end = _join(before, head_ends, _array(numbers), behind, tail_ends, text, bounds)
    return text[:end].tobytes(), bounds.tolist()


def _array(data: bytes) -> _Bytes:
    return np.frombuffer(data, np.uint8)
