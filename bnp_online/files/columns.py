"""Types of the columns, and the conversion of their cells to features."""

from __future__ import annotations

import re
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from typing import Any, Literal, TypeAlias

from ..values import seconds
from .amounts import check_decimal
from .amounts import recognise as recognise_amounts
from .cells import MISSING, MISSING_NUMBER, NESTED, CellError, Options, plain, quoted
from .dates import Calendar, Parser, recognise, recognise_times
from .source import FileError

#: Returns the feature of a cell; None if it is missing.
Converter: TypeAlias = Callable[[Any], Any]

_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_INFINITE = re.compile(r"[+-]?inf(?:inity)?", re.IGNORECASE)
_JSON = frozenset({int, float, bool, str})
_TRUTH = {"true": True, "false": False}

#: Least number of values of an id column, and least share of distinct ones: users and addresses of a log
#: recur more often.
IDS, SHARE = 200, 0.99
#: Median number of words, separated by spaces, that shows a column of texts.
WORDS = 3
#: Number of new values within a number of rows that shows an id column later in the file.
_NEW, _WITHIN = 198, 200
#: Distinct values that are remembered for a column of strings.
_REMEMBERED = 100_000


class Columns:
    """Converters of the columns of a file, determined once by column.

    Parameters
    ----------
    options : Options
        How cells are read.
    left_out : iterable of str
        Columns that are no features.

    Attributes
    ----------
    row : int
        Number of the row that is read, for messages.
    kinds : dict of str to str
        Of columns of text, once their types are determined: ``"number"``, ``"string"``, or ``"other"``.
    """

    def __init__(self, options: Options, left_out: Iterable[str]) -> None:
        self.row = 0
        self.kinds: dict[str, Literal["number", "string", "other"]] = {}
        self._options = options
        self._converters = _Converters(self, dict.fromkeys(left_out))
        self._calendars: list[Calendar] = []
        self._names: frozenset[str] = frozenset()

    def decide(self, rows: Iterable[tuple[int, Mapping[str, Any]]], *, nested: bool = False) -> None:
        """Determine the type of each column from the first rows.

        Parameters
        ----------
        rows : iterable of (int, mapping)
            Number and cells of each row.
        nested : bool
            Whether rows may have lists and objects, for the learner to refuse.

        Raises
        ------
        FileError
            If a column does not fit the options, or has lists or objects.
        """
        cells: dict[str, list[tuple[int, Any]]] = {}
        for number, row in rows:
            for name, value in row.items():
                if not (nested and isinstance(value, NESTED)):
                    cells.setdefault(name, []).append((number, value))
        self._names = frozenset(cells)
        _refuse_nested({name: values for name, values in cells.items() if name not in self._converters})
        for name, values in cells.items():
            if name not in self._converters:
                self._converters[name] = self._converter(name, values)

    @property
    def has_calendar(self) -> bool:
        """Whether there are calendar features, or will be."""
        return bool(self._calendars)

    def left_out(self) -> frozenset[str]:
        """Return the columns that are left out."""
        return frozenset(name for name, convert in self._converters.items() if convert is None)

    def begin(self, names: Iterable[str]) -> None:
        """Begin without rows: the first value of each column determines its type."""
        self._names = frozenset(names)

    def features(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Return the features of a row.

        Raises
        ------
        CellError
            If a cell is not of the type of its column.
        """
        converters = self._converters
        x = {
            name: value if convert is _as_is else convert(value)  # a third of the time for NDJSON
            for name, value in row.items()
            if (convert := converters[name]) is not None
        }
        for calendar in self._calendars:
            calendar.add(x)
        return x

    def leave_out(self, name: str) -> None:
        """Leave a column out from the next row on."""
        self._converters[name] = None

    def undecided(self, name: str) -> Converter:
        """Return the converter of a column without a value so far: its first value determines the type."""

        def convert(cell: Any) -> Any:
            if self._is_absent(cell):
                return None
            if isinstance(cell, NESTED):
                return cell  # refused by the learner
            converter = self._converter(name, [(self.row, cell)])
            options = self._options
            if self.kinds.get(name) == "string" and name in options.numbers - options.strings:
                del self.kinds[name]  # the model has numbers in it
                raise CellError(name, cell.strip(), "a number")
            self._converters[name] = converter
            return None if converter is None else converter(cell)

        return convert

    def _is_absent(self, cell: Any) -> bool:
        options = self._options
        if options.text:
            return options.is_missing(cell.strip(), MISSING_NUMBER)
        return plain(cell) is None or str(cell) in options.na

    def _converter(self, name: str, cells: list[tuple[int, Any]]) -> Converter | None:
        """Return the converter of a column by its first cells; None to leave it out."""
        if self._options.text:
            return self._text_converter(name, [(row, cell.strip()) for row, cell in cells])
        return self._value_converter(name, cells)

    # Cells of text

    def _text_converter(self, name: str, cells: list[tuple[int, str]]) -> Converter | None:
        options = self._options
        cells = [(row, word) for row, word in cells if not options.is_missing(word)]
        words = [word for _, word in cells if not options.is_missing(word, MISSING_NUMBER)]
        if not words:
            return self.undecided(name)
        if name in options.strings:
            return self._string(name, cells)
        finite = [word for word in words if not _INFINITE.fullmatch(word)]
        if finite and all(options.number(word) is not None for word in finite):
            self._report_integer_id(name, finite)
            return self._number(name)
        if all(word.lower() in _TRUTH for word in words):
            return self._parsed(name, lambda word: _TRUTH.get(word.lower()), "a boolean")
        if (clock := recognise_times(words)) is not None:
            return self._parsed(name, clock, "a time")
        if (found := recognise(words)) is not None:
            return self._date(name, *found)
        if (amount := recognise_amounts(words, options)) is not None:
            return self._parsed(name, amount, "a number")
        check_decimal(name, words, options)
        if name in options.numbers and any(options.number(word) is not None for word in words):
            return self._number(name)
        return self._string(name, cells)

    def _number(self, name: str) -> Converter:
        excluded, other = self._options.na_numbers, self._parsed(name, self._options.number, "a number")
        self.kinds[name] = "number"
        if self._options.decimal == ",":
            return other

        def convert(cell: str) -> float | None:
            try:
                value = float(cell)
            except ValueError:
                return other(cell)  # type: ignore[no-any-return]  # a number or None
            # Underscores and digits that are not ASCII are no numbers here, nor are the words for infinity.
            if value - value == 0.0 and "_" not in cell and cell.isascii() and value not in excluded:
                return value
            return other(cell)  # type: ignore[no-any-return]

        return convert

    def _parsed(self, name: str, parse: Callable[[str], Any], kind: str) -> Converter:
        """Return the converter of a column whose cells a function parses; it refuses other words."""
        options = self._options
        self.kinds[name] = "other"

        def convert(cell: str) -> Any:
            word = cell.strip()
            if word in options.na:
                return None
            value = parse(word)
            if value is None:
                if not options.is_missing(word, MISSING_NUMBER):
                    raise CellError(name, word, kind)
                return None
            return None if _is_number(value) and value in options.na_numbers else value

        return convert

    # Cells with types

    def _value_converter(self, name: str, cells: list[tuple[int, Any]]) -> Converter | None:
        cells = [(row, cell) for row, cell in cells if not self._is_absent(cell)]
        if not cells:
            return self.undecided(name)
        options, values = self._options, [value for _, value in cells]
        if all(isinstance(value, date) for value in values):
            return self._date(name, seconds, None)
        if all(isinstance(value, str) for value in values):
            if (found := recognise(values)) is not None:
                return self._date(name, *found)
            return self._string(name, cells)
        if all(type(value) is int for value in values):
            self._report_integer_id(name, values)
        if options.na:
            return self._value
        return _as_is if all(type(value) in _JSON for value in values) else plain

    def _value(self, value: Any) -> Any:
        value = plain(value)
        options = self._options
        if options.na and (str(value) in options.na or (_is_number(value) and value in options.na_numbers)):
            return None
        return value

    # Both

    def _date(
        self, name: str, parse: Parser | Callable[[Any], float], remark: str | None
    ) -> Converter | None:
        options = self._options
        if options.dates == "drop":
            return None
        if remark is not None:
            options.notice(f"column {name!r}: {remark}")
        if options.dates == "calendar":
            self._add_calendar(name)
        if options.text:
            return self._parsed(name, parse, "a date")
        parsed = self._parsed(name, parse, "a date")

        def convert(value: Any) -> Any:
            return parsed(value) if isinstance(value, str) else self._value(value)

        return convert

    def _add_calendar(self, name: str) -> None:
        options, calendar = self._options, Calendar(name, self._names)
        known = options.calendar
        calendar.active = not options.labelled if known is None else not known.isdisjoint(calendar.names)
        if calendar.active or options.labelled:
            self._calendars.append(calendar)

    def _string(self, name: str, cells: list[tuple[int, Any]]) -> Converter | None:
        options = self._options
        words = {word for _, word in cells}
        odd, remedy = self._number_with_word(cells), ""
        if odd is not None:
            remedy = f"; if {odd[1]!r:.80} (row {odd[0]}) is a missing value, give --na {quoted(odd[1])}"
        if len(cells) >= IDS and len(words) >= SHARE * len(cells) and options.may_leave_out(name):
            each = "each" if len(words) == len(cells) else "almost each"
            split = ""
            if statistics.median(len(word.split()) for word in words) >= WORDS:
                split = f"--text {quoted(name)} splits it into words, "
            options.notice(
                f"column {name!r} is left out, because {each} row has another value{remedy}; "
                f"{split}--keep {quoted(name)} keeps it, --drop {quoted(name)} ends this message"
            )
            return None
        if odd is not None:
            options.notice(f"column {name!r} is read as strings, although most rows have a number{remedy}")
        return self._remembering(name)

    def _number_with_word(self, cells: list[tuple[int, Any]]) -> tuple[int, str] | None:
        """Return the first cell that makes strings of a column of numbers."""
        options = self._options
        if not options.text:
            return None
        numbers = {word for _, word in cells if options.number(word) is not None}
        others = [cell for cell in cells if cell[1] not in numbers]
        return others[0] if len(numbers) >= 20 and len(others) <= len(cells) / 2 else None

    def _remembering(self, name: str) -> Converter:
        """Return the converter of a column of strings: it remembers values, and finds an id by new ones."""
        options = self._options
        self.kinds[name] = "string"
        known: dict[str, str | None] = {}
        unseen = object()
        new: deque[int] = deque(maxlen=_NEW)  # rows with a new value
        first = self.row + IDS
        words = MISSING if options.text else frozenset[str]()

        def convert(cell: Any) -> Any:
            if not isinstance(cell, str):
                return self._value(cell)
            value = known.get(cell, unseen)
            if value is not unseen:
                return value
            word = cell.strip() if options.text else cell
            value = None if options.is_missing(word, words) else word
            if len(known) < _REMEMBERED:
                known[cell] = value
            new.append(self.row)
            if self.row >= first and self.row - new[0] < _WITHIN and len(new) == _NEW:
                self._leave_out_id(name)
                new.clear()
            return value

        return convert

    def _leave_out_id(self, name: str) -> None:
        if not self._options.may_leave_out(name):
            return
        self._options.notice(
            f"row {self.row}: column {name!r} is left out from here on: almost each row has a new value; "
            f"--keep {quoted(name)} keeps it, --drop {quoted(name)} leaves it out of all rows"
        )
        self.leave_out(name)

    def _report_integer_id(self, name: str, values: list[Any]) -> None:
        options = self._options
        if len(values) < IDS or not options.may_leave_out(name) or len({*values}) < len(values):
            return
        if not options.text or all(_INTEGER.fullmatch(value) for value in values):
            options.notice(
                f"column {name!r} has another integer in each row: --drop {quoted(name)} if it is an id; "
                f"if not, --keep {quoted(name)} ends this message"
            )


class _Converters(dict[str, "Converter | None"]):
    """Converter by column; a column that the first rows do not have is undecided."""

    def __init__(self, columns: Columns, converters: Mapping[str, Converter | None]) -> None:
        super().__init__(converters)
        self._columns = columns

    def __missing__(self, name: str) -> Converter:
        converter = self[name] = self._columns.undecided(name)
        return converter


def _as_is(value: Any) -> Any:
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _refuse_nested(columns: Mapping[str, list[tuple[int, Any]]]) -> None:
    """Refuse columns with lists, objects or bytes."""
    nested: dict[str, tuple[int, Any]] = {}
    for name, cells in columns.items():
        for row, value in cells:
            if isinstance(value, NESTED):
                nested.setdefault(name, (row, value))
    if not nested:
        return
    name, (row, value) = next(iter(nested.items()))
    kind = "an object" if isinstance(value, dict) else "bytes" if isinstance(value, bytes) else "a list"
    if name == "x":
        raise FileError(f'has {kind} in "x" (row {row}): give no --target; "y" is then the target')
    drops = " ".join(f"--drop {quoted(name)}" for name in nested)
    others = f", and more in {', '.join(map(repr, [*nested][1:]))}" if len(nested) > 1 else ""
    raise FileError(
        f"has {kind} in the column {name!r} (row {row}){others}: such values are no features; give {drops}"
    )
