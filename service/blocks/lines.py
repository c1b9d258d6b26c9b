"""Blocks among the lines of a stream."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from bnp_online.blocks import Fields, padded
from bnp_online.learner import BlockReader, OnlineLearner
from bnp_online.lines import Lines

from ..schemas import MAX_ID_LENGTH
from .block import Block
from .cells import Cells

#: Fewest samples of a block, most samples, and about how many bytes.
FEWEST, MOST, LARGEST = 2, 256, 2**20
#: Most columns of a row that has more columns than its line has bytes. On the exact path such a sample, which
#: has few of the model's features, takes far less memory while it waits.
WIDEST = 512
#: Most forms of lines of one model: JSON, and headers of CSV.
_FORMS = 8
#: Fields of a line that is predicted and nothing else: another line has no template.
_UNLABELLED = Fields(target=None, weight=None, id=None)
#: The name of the model in a line. A text like it leads to another reader, which declines the line.
_KEY = b'"model"'
_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]*)"')


class LineReader:
    """Finds blocks among lines, by templates of the lines that were read on the exact path.

    The server has one for samples and one for predictions, with the templates of each model in memory.

    Parameters
    ----------
    max_line : int
        Greatest length of a line in bytes.
    labelled : bool
        Whether the lines are samples to learn; others have features alone, and perhaps a model.
    """

    def __init__(self, max_line: int, *, labelled: bool = True) -> None:
        self._max_line = max_line
        self._labelled = labelled
        self._readers: WeakKeyDictionary[object, dict[Cells | None, BlockReader]] = WeakKeyDictionary()

    @staticmethod
    def model_of(line: bytes) -> str | None:
        """Return the name of the model that a line seems to have, None without one."""
        return model_of(line)

    def note(
        self,
        owner: object,
        learner: OnlineLearner,
        line: bytes,
        fields: Mapping[str, Any],
        cells: Cells | None = None,
    ) -> None:
        """Take a template from a line that was read on the exact path.

        Parameters
        ----------
        owner : object
            The worker of the model; its templates end with it.
        learner : OnlineLearner
            The model.
        line : bytes
            The line.
        fields : dict
            What it means: ``x``, ``y``, ``w``, ``id`` and ``model``.
        cells : Cells, optional
            The columns, if the line is a row of CSV.
        """
        readers = self._readers.setdefault(owner, {})
        reader = readers.get(cells)
        if reader is None:
            if len(readers) >= _FORMS:
                del readers[next(iter(readers))]
            options = cells.options() if cells else {} if self._labelled else {"fields": _UNLABELLED}
            reader = BlockReader(
                max_line=self._max_line, max_id=MAX_ID_LENGTH, labelled=self._labelled, **options
            )
            readers[cells] = reader
        reader.note(learner, line, fields)

    def knows(self, owner: object) -> bool:
        """Return whether a template of JSON was taken for a model."""
        return None in self._readers.get(owner, {})

    def open(self, owner: object, lines: Sequence[bytes], cells: Cells | None = None) -> BlockLines | None:
        """Return the lines of a model, to read blocks from them; None if there is no template."""
        reader = self._readers.get(owner, {}).get(cells)
        return None if reader is None else BlockLines(reader, lines, cells)


class BlockLines:
    """Lines of one model, from which blocks are read.

    Parameters
    ----------
    reader : BlockReader
        Reader of the model.
    lines : sequence of bytes
        The lines, without line feeds.
    cells : Cells, optional
        The columns, if the lines are rows of CSV.
    """

    def __init__(self, reader: BlockReader, lines: Sequence[bytes], cells: Cells | None = None) -> None:
        self._cells = cells
        self._reader = reader
        self._lines = Lines.of(lines)
        self._bounds = self._lines.bounds
        self._buffer = padded(self._lines.text)
        self._most = MOST

    def read(self, learner: OnlineLearner, first: int, *, named: bool = False) -> Block | None:
        """Return the block that begins with a line; None if this line must take the exact path.

        Parameters
        ----------
        learner : OnlineLearner
            The model.
        first : int
            Position of the line.
        named : bool
            Whether a line must name the model: it would be of another one without a name.
        """
        start = self._bounds[first]
        largest = max(self._bounds[first + 1] - start - 1, 1)
        most = min(self._most, len(self._lines) - first, LARGEST // largest)
        if most < FEWEST or self._reader.width(learner) > max(largest, WIDEST):
            return None
        found = self._reader.read(learner, self._buffer, start - self._bounds[0], most, named=named)
        count = 0 if found is None else len(found.lines)
        # What ends a block early may do so at every line: then only few lines are parsed in vain.
        self._most = min(MOST, 4 * self._most) if count == most else max(FEWEST, 2 * count)
        if found is None or count < FEWEST:
            return None
        ids = {}
        if (found.ids[:, 0] >= 0).any():
            spans = enumerate(found.ids.tolist())
            ids = {i: bytes(self._buffer[a:b]).decode("ascii") for i, (a, b) in spans if a >= 0}
        lines = self._lines[first : first + count]
        if self._cells is not None:
            lines = self._cells.written(learner, found.rows, ids)
        return Block(found.rows, lines, ids)


def model_of(line: bytes) -> str | None:
    """Return the name of the model that a line seems to have beside its sample, None without one.

    Examples
    --------
    >>> model_of(b'{"model": "cars", "x": {"model": "golf"}, "y": 1}')
    'cars'
    >>> model_of(b'{"x": {"model": "golf"}, "y": 1}') is None
    True
    """
    if _KEY not in line:
        return None
    found = _MODEL.search(line, 0, line.find(b"{", 1) % len(line)) or _MODEL.search(
        line, line.rfind(b"}", 0, -1)
    )
    return None if found is None else found[1].decode(errors="replace")
