"""Templates of lines, and what the parser reads by them."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..jit import compilation, config
from ..values import Label, check_label
from . import parser
from .decimals import powers_of_five
from .joining import joined
from .parser import PADDING, Limits, Results, TemplateTable, parse_lines
from .scalars import Fields, NoTemplateError, Scalar, cell_scalars, json_scalars
from .words import SPARE, Words

#: Numbers of JSON, the only ones that the parser reads.
_NUMBER = re.compile(rb"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][-+]?\d+)?")
#: Beginning of a number, in any notation.
_NUMERIC = re.compile(rb'"?[-+.\d]')
#: Bytes of an id that the parser reads.
_ID = re.compile(rb"(?! )[ !#-\[\]-~]+(?<! )")
_POWERS = powers_of_five()
_FIELDS = Fields()
#: Lines without a template in a row after which most of the further ones are not tried.
_PATIENCE = 8


def padded(data: bytes | bytearray | memoryview) -> NDArray[np.uint8]:
    """Return bytes as an array, with the `PADDING` behind them that the parser needs."""
    buffer = np.zeros(len(data) + PADDING, np.uint8)
    buffer[: len(data)] = np.frombuffer(data, np.uint8)
    return buffer


@dataclass(frozen=True, slots=True, eq=False)
class Parsed:
    """Lines that were parsed, in order; each array has a row for each line.

    Attributes
    ----------
    count : int
        Number of lines.
    end : int
        Start of the next line in the buffer.
    rows : array of float64, shape (count, columns)
        Numbers by column: 0 where the line has no such feature, NaN where its value is missing.
    targets : array of float64
        Target of a regression; NaN where there is none.
    weights : array of float64
        Weight; 1 where there is none.
    labels : array of int32
        Position in `Templates.labels`; −1 where there is none.
    models : array of int32
        Position in `Templates.models`; −1 where there is none.
    strings : array of int32, shape (count, features with strings)
        Position in `Templates.strings`, by feature in its order; −1 where absent.
    lines : array of int64, shape (count, 2)
        Start and end of the line in the buffer, without the line feed.
    ids : array of int64, shape (count, 2)
        Start and end of the id in the buffer; −1 where there is none.
    """

    count: int
    end: int
    rows: NDArray[np.float64]
    targets: NDArray[np.float64]
    weights: NDArray[np.float64]
    labels: NDArray[np.int32]
    models: NDArray[np.int32]
    strings: NDArray[np.int32]
    lines: NDArray[np.int64]
    ids: NDArray[np.int64]


class _Slot(NamedTuple):
    """Value in a template: its kind, its column in the results, the place of its words, and its bytes."""

    kind: int
    column: int
    place: int
    start: int
    end: int


#: Slots of a template without positions, with the literal before each.
_Template = tuple[tuple[bytes, int, int, int], ...]


def _refuse(reason: str) -> NoReturn:
    raise NoTemplateError(reason)


def _is_number(word: bytes, value: Any) -> bool:
    """Return whether a word is a number of JSON with the given value."""
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and _NUMBER.fullmatch(word) is not None
        and float(word) == float(value)
    )


def _template(line: bytes, slots: Sequence[_Slot]) -> _Template:
    """Return the literals and slots of a line; the last slot is its end."""
    parts, at = list[tuple[bytes, int, int, int]](), 0
    for kind, column, place, start, end in (*slots, _Slot(parser.END, 0, 0, len(line), len(line))):
        parts.append((line[at:start], kind, column, place))
        at = end
    return tuple(parts)


class Templates:
    r"""Templates of the lines of a stream.

    Parameters
    ----------
    columns : dict of str to int
        Column in `Parsed.rows` of each feature with numbers.
    width : int, optional
        Number of columns of `Parsed.rows`; others than those of `columns` stay 0. By default there are none.
    regression : bool
        Whether a target is a number; otherwise it is a label.
    fields : Fields
        Names of the fields of a line.
    header : sequence of str or None, optional
        Names of the cells, for rows of CSV; None for a cell that is not part of a sample. Without a header,
        lines are JSON objects.
    separator : str
        Separator of the cells: one character of ASCII.
    max_line, max_id : int
        Greatest lengths in bytes; longer lines are declined.
    max_templates : int
        Number of templates. Beyond it a new one takes the place of the one that was not used for longest.
    max_words : int
        Number of known words: strings and labels.

    Attributes
    ----------
    labels : list of bool, int or str
        Labels, in order of arrival.
    models : list of str
        Names of models, in order of arrival.
    strings : dict of str to list of str
        Values of each feature with strings, in order of arrival.

    Examples
    --------
    >>> templates = Templates({"a": 0, "b": 1})
    >>> templates.learn(b'{"x":{"a":1,"b":2},"y":"no"}', {"x": {"a": 1, "b": 2}, "y": "no"})
    True
    >>> lines = b'{"x":{"a":0.5,"b":-3},"y":"no"}\n{"x":{"a":0.5},"y":"no"}\n'
    >>> parsed = templates.parse(padded(lines))
    >>> parsed.count, parsed.rows.tolist(), templates.labels[parsed.labels[0]], parsed.end
    (1, [[0.5, -3.0]], 'no', 32)
    """

    def __init__(
        self,
        columns: Mapping[str, int],
        width: int | None = None,
        *,
        regression: bool = False,
        fields: Fields = _FIELDS,
        header: Sequence[str | None] | None = None,
        separator: str = ",",
        max_line: int = 2**20,
        max_id: int = 128,
        max_templates: int = 8,
        max_words: int = 65_536,
    ) -> None:
        self.labels: list[Label] = []
        self.models: list[str] = []
        self.strings: dict[str, list[str]] = {}
        self._columns = dict(columns)
        self._width = len(columns) if width is None else width
        self._regression = regression
        self._fields = fields
        self._header = header
        self._separator = separator.encode("ascii")
        self._max_line, self._max_id, self._max_templates = max_line, max_id, max_templates
        self._words = Words(max_words)
        self._places: dict[tuple[str, str], int] = {}
        self._codes: dict[tuple[int, type, Any], int] = {}
        self._templates: list[_Template] = []
        self._last = 0  # the template that fitted last
        self._calls = 0
        self._refused = 0  # lines since one fitted
        self._shortest = 1  # a lower bound of the length of a line that fits
        self._table = self._compiled()

    def grow(self, columns: Mapping[str, int], width: int | None = None) -> None:
        """Take other columns. If an earlier one has moved or is gone, the templates are forgotten."""
        if not self._columns.items() <= columns.items():
            self._templates.clear()
        self._columns = dict(columns)
        self._width = len(columns) if width is None else width
        self._table = self._compiled()

    def learn(self, line: bytes, decoded: Mapping[str, Any]) -> bool:
        """Take a template from a line that was read otherwise, so that lines like it can be parsed.

        Parameters
        ----------
        line : bytes
            The line without its line feed. It must be valid.
        decoded : dict
            What it means: ``x``, and ``y``, ``w``, ``id`` and ``model`` if the line has them.

        Returns
        -------
        bool
            Whether there is a template of the line. If no line has fitted one for long, most lines are not
            tried.
        """
        self._refused += 1
        unlikely = self._refused > _PATIENCE and self._refused & (self._refused - 1)
        if unlikely or config.DISABLE_JIT:
            return False
        try:
            scalars = self._scalars(line)
            if decoded["x"].keys() != {each.name for each in scalars if each.part == "x"}:
                return False
            slots = [slot for each in scalars if (slot := self._slot(line, each, decoded)) is not None]
        except (NoTemplateError, OverflowError, ValueError):
            return False
        self._add(_template(line, slots))
        return True

    def _scalars(self, line: bytes) -> list[Scalar]:
        if self._header is None:
            scalars = json_scalars(line, self._fields)
        else:
            scalars = cell_scalars(line, self._fields, self._header, self._separator)
        names = [(each.part, each.name) for each in scalars if each.part]
        if len({*names}) < len(names):
            raise NoTemplateError("a name is there twice")
        return scalars

    def _slot(self, line: bytes, scalar: Scalar, decoded: Mapping[str, Any]) -> _Slot | None:
        """Return the slot of a value, None if it is a literal; store words that it has."""
        part, name, start, end = scalar
        word = line[start:end]
        if part == "x":
            value = decoded["x"][name]
            if isinstance(value, str):
                return self._string(name, value, word, scalar)
            return self._number(name, value, word, scalar)
        quoted = word[:1] == b'"'
        inside = _Slot(parser.OTHER, 0, 0, start + quoted, end - quoted)
        if part == "":
            return inside
        value = decoded.get(part)
        if value is None:
            return None if word == b"null" else _refuse(f"{part} has no value")
        if part == "id":
            if not _ID.fullmatch(line, inside.start, inside.end):
                _refuse("the id has other characters than those of ASCII")
            return inside._replace(kind=parser.ID)
        if part == "model":
            return self._known(parser.MODEL, parser.MODELS, (part, ""), self.models, str(value), word, scalar)
        if part == "y" and not self._regression:
            label = check_label(value)
            return self._known(parser.LABEL, parser.LABELS, (part, ""), self.labels, label, word, scalar)
        if not _is_number(line[inside.start : inside.end], value):
            _refuse(f"{part} is not a plain number")
        if part == "y":
            return inside._replace(kind=parser.TARGET, column=parser.TARGETS)
        return inside._replace(kind=parser.WEIGHT, column=parser.WEIGHTS)

    def _number(self, name: str, value: Any, word: bytes, scalar: Scalar) -> _Slot:
        """Return the slot of a number; store a word that stands for one, or for a missing value."""
        column = self._columns.get(name)
        if column is None:
            _refuse(f"{name!r:.80} has no column")
        place = self._places.setdefault(("x", name), len(self._places))
        start, end = scalar.start, scalar.end
        if _is_number(word, value):
            return _Slot(parser.NUMBER, column, place, start, end)
        if word[:1] == b'"' and _is_number(word[1:-1], value):
            return _Slot(parser.NUMBER, column, place, start + 1, end - 1)
        if value is not None and (not isinstance(value, bool | int | float) or _NUMERIC.match(word)):
            _refuse(f"{name!r:.80} is not a plain number")
        number = math.nan if value is None else float(value)
        (bits,) = struct.unpack("<q", struct.pack("<d", number))
        if not self._words.add(place, word, bits):
            _refuse("there are too many words")
        return _Slot(parser.NUMBER, column, place, start, end)

    def _string(self, name: str, value: str, word: bytes, scalar: Scalar) -> _Slot:
        values = self.strings.setdefault(name, [])
        column = parser.STRINGS + [*self.strings].index(name)
        return self._known(parser.STRING, column, ("string", name), values, value, word, scalar)

    def _known(
        self,
        kind: int,
        column: int,
        key: tuple[str, str],
        values: list[Any],
        value: Label,
        word: bytes,
        scalar: Scalar,
    ) -> _Slot:
        """Return the slot of a word; store the word and its value."""
        place = self._places.setdefault(key, len(self._places))
        code = self._codes.get((place, type(value), value), len(values))
        if not self._words.add(place, word, code):
            _refuse("there are too many words")
        if code == len(values):
            self._codes[place, type(value), value] = code
            values.append(value)
        return _Slot(kind, column, place, scalar.start, scalar.end)

    def _add(self, template: _Template) -> None:
        """Store a template, in place of the one that was not used for longest if there are too many."""
        if template in self._templates:
            return
        if len(self._templates) == self._max_templates:
            del self._templates[int(self._table.ranges[:, parser.CALL].argmin())]
        self._last = len(self._templates)
        self._templates.append(template)
        self._table = self._compiled()

    def _compiled(self) -> TemplateTable:
        """Return the templates as the parser reads them."""
        text, slots, ranges = bytearray(), list[tuple[int, ...]](), list[tuple[int, ...]]()
        for template in self._templates:
            first = len(slots)
            following = [literal[:1] or b"\n" for literal, *_ in template[1:]] + [b"\n"]
            for (literal, kind, column, place), delimiter in zip(template, following, strict=True):
                slots.append((len(text), len(literal), kind, column, place, delimiter[0]))
                text += literal
            numbers = sum(kind == parser.NUMBER for _, kind, _, _ in template)
            ranges.append((first, len(slots), numbers == self._width, self._calls))
        lengths = (sum(len(literal) for literal, *_ in template) for template in self._templates)
        self._shortest = 1 + min(lengths, default=0)
        return TemplateTable(
            np.frombuffer(bytes(text) + bytes(SPARE), np.uint8).copy(),
            np.array(slots, np.int64).reshape(-1, 6),
            np.array(ranges, np.int64).reshape(-1, 4),
        )

    def parse(
        self, buffer: NDArray[np.uint8], start: int = 0, stop: int | None = None, *, most: int = 256
    ) -> Parsed:
        """Parse lines up to the first that fits no template, that is incomplete, or that is too many.

        A line that fits no template may be valid, of a new form, or invalid: only its caller can tell, by
        reading it otherwise.

        Parameters
        ----------
        buffer : array of uint8
            Lines with their line feeds, in an array from `padded`.
        start, stop : int
            The part of the buffer to parse; by default all of it, without the padding.
        most : int
            Greatest number of lines.
        """
        stop = len(buffer) - PADDING if stop is None else stop
        if not 0 <= start <= stop <= len(buffer) - PADDING:
            raise ValueError(f"the lines must end {PADDING} bytes before the end of the buffer: use padded()")
        count, end = 0, start
        results = self._results(min(most, (stop - start) // self._shortest + 1))
        if self._templates:
            self._calls += 1
            count, end, self._last = parse_lines(*self._arguments(buffer, start, stop, results))
            if count:
                self._refused = 0
        return Parsed(
            count,
            end,
            results.rows[:count],
            results.values[:count, parser.TARGETS],
            results.values[:count, parser.WEIGHTS],
            results.codes[:count, parser.LABELS],
            results.codes[:count, parser.MODELS],
            results.codes[:count, parser.STRINGS :],
            results.spans[:count, : parser.ID_START],
            results.spans[:count, parser.ID_START :],
        )

    def _results(self, most: int) -> Results:
        return Results(
            np.empty((most, self._width)),
            np.empty((most, 2)),
            np.empty((most, parser.STRINGS + len(self.strings)), np.int32),
            np.empty((most, 4), np.int64),
        )

    def _arguments(self, buffer: NDArray[np.uint8], start: int, stop: int, results: Results) -> Any:
        """Return the arguments of `parse_lines`."""
        limits = Limits(self._max_line, self._max_id, self._words.longest)
        state = self._table, self._last, self._calls, self._words.table
        return buffer, start, stop, *state, limits, _POWERS, results


def compile_kernels() -> Callable[[], None]:
    """Begin to compile the parser, unless the cache has it; return a function that waits for the end."""
    templates = Templates({})
    arguments = templates._arguments(padded(b""), 0, 0, templates._results(1))
    wait = compilation(parse_lines, arguments, f"import {__name__} as templates; templates.run_kernels()")

    def finish() -> None:
        wait()
        run_kernels()

    return finish


def run_kernels() -> None:
    """Call each compiled function; the parser comes last, so that a cache with it has them all."""
    templates = Templates({})
    templates.learn(b'{"x":{},"y":"a"}', {"x": {}, "y": "a"})
    joined([], b"", [b"a"])
    templates.parse(padded(b'{"x":{},"y":"a"}\n'))
