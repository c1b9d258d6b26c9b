"""Reader of the lines of one learner: rows of known features and labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..blocks import Parsed, Templates
from ..values import SampleRows
from .learning import OnlineLearner
from .model import Layout


class Block(NamedTuple):
    """Samples that were parsed from lines.

    Attributes
    ----------
    rows : SampleRows
        The samples.
    lines, ids : array of int64, shape (N, 2)
        Start and end in the buffer, of each line without its line feed and of its id; −1 without an id.
    end : int
        Start of the next line in the buffer.
    """

    rows: SampleRows
    lines: NDArray[np.int64]
    ids: NDArray[np.int64]
    end: int


class BlockReader:
    """Reads lines by the templates of earlier lines, for a learner that may have changed since.

    A line that it does not read may be valid: its caller reads it otherwise, and then shows it to `note`.

    Parameters
    ----------
    max_line, max_id : int
        Greatest lengths in bytes; longer lines are not read.
    numbers : collection of str, optional
        Features that may have numbers; by default all. In a column of CSV with strings, digits are a string.
    labelled : bool
        Whether lines have a target. Without one, the targets of the rows are 0.
    options
        Further options of `Templates`: the names of the fields, and the cells of CSV.
    """

    def __init__(
        self,
        *,
        max_line: int,
        max_id: int,
        numbers: Collection[str] | None = None,
        labelled: bool = True,
        **options: Any,
    ) -> None:
        self._options = {"max_line": max_line, "max_id": max_id, **options}
        self._numbers = numbers
        self._labelled = labelled
        self._layout: Layout | None = None
        self._templates: Templates | None = None
        self._classes = np.empty(0, np.float64)
        self._positions: list[NDArray[np.int64]] = []
        self._mixed: list[tuple[int, list[int]]] = []  # column of the number, and columns of the strings

    def note(self, learner: OnlineLearner, line: bytes, decoded: Mapping[str, Any]) -> None:
        """Take a template from a line, and from what it means; see `Templates.learn`.

        A line with a string or a label that the learner does not know is ignored. So the known words are no
        more than the learner has columns and labels, whatever the lines are.
        """
        templates = self._prepared(learner)
        if templates is not None and self._has_words(decoded["x"], decoded.get("y")):
            templates.learn(line, decoded)

    def _has_words(self, x: Any, y: Any) -> bool:
        """Return whether the learner has the strings and the label of a sample with features."""
        layout = self._layout
        assert layout is not None  # noqa: S101 (prepared)
        if type(x) is not dict or not x:
            return False
        if self._labelled and not (layout.regression or y in layout.labels):
            return False
        values = layout.values
        return all(value in values.get(name, ()) for name, value in x.items() if type(value) is str)

    def width(self, learner: OnlineLearner) -> int:
        """Return the number of columns of the rows that `read` returns; 0 if it reads none."""
        return 0 if self._prepared(learner) is None or self._layout is None else len(self._layout.columns)

    def read(
        self, learner: OnlineLearner, buffer: NDArray[np.uint8], start: int, most: int, *, named: bool = False
    ) -> Block | None:
        """Read lines up to the first that has another form, or a value that the learner does not know.

        Parameters
        ----------
        learner : OnlineLearner
            The learner, for which the rows are.
        buffer : array of uint8
            Lines, in an array from `padded`.
        start : int
            Where the first line begins.
        most : int
            Greatest number of lines.
        named : bool
            Whether a line must name the model.

        Returns
        -------
        Block or None
            None if the first line is not read.
        """
        templates = self._prepared(learner)
        if templates is None:
            return None
        parsed = templates.parse(buffer, start, most=most)
        if not parsed.count:
            return None
        assert self._layout is not None  # noqa: S101 (prepared)
        targets, count = np.zeros(parsed.count), parsed.count
        if self._labelled:
            targets, count = self._targets(parsed, templates, self._layout)
        count = min(count, self._place_strings(parsed, templates, self._layout))
        for column, columns in self._mixed:  # a missing value has all columns of its feature
            missing = np.isnan(parsed.rows[:, column])
            if missing.any():
                parsed.rows[np.flatnonzero(missing)[:, None], columns] = np.nan
        if named:
            count = min(count, _first(parsed.models < 0))
        if not count:
            return None
        rows = SampleRows(
            self._layout.columns,
            parsed.rows[:count],
            targets[:count],
            self._layout.labels,
            np.ascontiguousarray(parsed.weights[:count]),
        )
        end = int(parsed.lines[count, 0]) if count < parsed.count else parsed.end
        return Block(rows, parsed.lines[:count], parsed.ids[:count], end)

    def _prepared(self, learner: OnlineLearner) -> Templates | None:
        """Return the templates for the columns that the learner has now; None if it reads no rows."""
        layout = learner.layout()
        if layout is None:
            self._layout = self._templates = None
        elif layout is not self._layout:
            numbers = layout.numbers
            if self._numbers is not None:
                numbers = {name: i for name, i in numbers.items() if name in self._numbers}
            if (
                self._templates is None
                or self._layout is None
                or layout.regression != self._layout.regression
            ):
                self._templates = Templates(
                    numbers,
                    len(layout.columns),
                    regression=layout.regression,
                    **self._options,
                )
            else:
                self._templates.grow(numbers, len(layout.columns))
            self._layout, self._classes, self._positions = layout, self._classes[:0], []
            both = layout.numbers.keys() & layout.values.keys()
            self._mixed = [(layout.numbers[name], [*layout.values[name].values()]) for name in both]
        return self._templates

    def _targets(
        self, parsed: Parsed, templates: Templates, layout: Layout
    ) -> tuple[NDArray[np.float64], int]:
        """Return the targets, and the number of lines before the first whose label is unknown."""
        if layout.regression:
            return np.ascontiguousarray(parsed.targets), _first(np.isnan(parsed.targets))
        if len(self._classes) != len(templates.labels):
            codes = {(type(label), label): code for code, label in enumerate(layout.labels)}
            found = [codes.get((type(label), label), -1) for label in templates.labels]
            self._classes = np.array(found, np.float64)
        targets = self._classes[parsed.labels]
        return targets, _first((parsed.labels < 0) | (targets < 0))

    def _place_strings(self, parsed: Parsed, templates: Templates, layout: Layout) -> int:
        """Write 1 to the columns of strings; return the number of lines before the first unknown string."""
        count = parsed.count
        for i, (name, texts) in enumerate(templates.strings.items()):
            codes, columns = parsed.strings[:, i], layout.values.get(name, {})
            if i == len(self._positions):
                self._positions.append(np.empty(0, np.int64))
            if len(self._positions[i]) != len(texts):
                self._positions[i] = np.array([columns.get(text, -1) for text in texts], np.int64)
            present = np.flatnonzero(codes >= 0)
            places = self._positions[i][codes[present]]
            if (places < 0).any():
                count = min(count, int(present[places < 0][0]))
            parsed.rows[present, places] = 1.0
        return count


def _first(marks: NDArray[np.bool_]) -> int:
    """Return the position of the first mark, or their number if there is none."""
    return int(marks.argmax()) if marks.any() else len(marks)
