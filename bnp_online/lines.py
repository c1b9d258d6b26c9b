"""Lines of a text, without an object for each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import overload


class Lines(Sequence[bytes]):
    r"""Consecutive lines of a text. A part shares the text.

    Parameters
    ----------
    text : bytes
        The text.
    bounds : sequence of int
        Where each line begins in the text, and where the next one would begin. Each line ends with a line
        feed, which is not part of its content.

    Examples
    --------
    >>> lines = Lines.of([b"a", b"bc", b"d"])
    >>> lines[1], lines[1:].text
    (b'bc', b'bc\nd\n')
    """

    __slots__ = ("_text", "bounds")

    def __init__(self, text: bytes, bounds: Sequence[int]) -> None:
        self._text = text
        self.bounds = bounds

    @classmethod
    def of(cls, lines: Iterable[bytes]) -> Lines:
        """Return lines that have no line feed, in one text."""
        if isinstance(lines, Lines):
            return lines
        each = [*lines]
        return cls(b"\n".join((*each, b"")), [0, *accumulate(len(line) + 1 for line in each)])

    @property
    def size(self) -> int:
        """Bytes of the lines, with their line feeds."""
        return self.bounds[-1] - self.bounds[0]

    @property
    def text(self) -> bytes:
        """The lines, each with its line feed."""
        return self._text[self.bounds[0] : self.bounds[-1]]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lines) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __iter__(self) -> Iterator[bytes]:
        text = self._text
        return (text[start : stop - 1] for start, stop in pairwise(self.bounds))

    @overload
    def __getitem__(self, part: int) -> bytes: ...
    @overload
    def __getitem__(self, part: slice) -> Lines: ...
    def __getitem__(self, part: int | slice) -> bytes | Lines:
        if isinstance(part, int):
            if not 0 <= part < len(self):
                raise IndexError(part)
            return self._text[self.bounds[part] : self.bounds[part + 1] - 1]
        start, stop, step = part.indices(len(self))
        if step != 1:
            raise ValueError("a part of lines has the step 1")
        return Lines(self._text, self.bounds[start : max(start, stop) + 1])
