"""Rows of CSV and TSV."""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .source import FileError, UnreadableRowError

_SEPARATORS = (",", ";", "\t", "|")
_NAMES = {"\t": "a tab", ",": "a comma", ";": "a semicolon", "|": "|"}
#: Lines that show the separator.
_SAMPLE = 64
#: First line with which Excel reads and writes the separator.
_EXCEL = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)


class InvalidRow(NamedTuple):
    """Row that is no sample: the reason, and its cells."""

    reason: str
    source: dict[str, Any]


class Table(NamedTuple):
    """Table of text: the columns, those of them without a name, the separator, and the rows."""

    names: list[str]
    unnamed: list[str]
    sep: str
    rows: Iterator[dict[str, str] | InvalidRow]


def read_delimited(
    lines: Iterator[str], sep: str | None, expected: str, notice: Callable[[str], object]
) -> Table:
    """Return the columns and rows of CSV.

    Parameters
    ----------
    lines : iterator of str
        The text.
    sep : str or None
        Separator; None to find it.
    expected : str
        Separator by the name of the file.
    notice : callable
        Takes a message if the separator is another.

    Raises
    ------
    FileError
        If there is no header, or a name is there twice.
    """
    sample, lines = _sample(lines)
    if sample and (stated := _EXCEL.fullmatch(sample[0])):
        sep, lines = sep or stated[1], itertools.islice(lines, 1, None)
    if sep is None:
        sep = _separator(sample, expected)
        if sep != expected:
            notice(f"the columns are separated by {_NAMES[sep]}: if they are not, give --sep")
    _check_width(sample, sep)
    ended: list[bool] = []
    text = _marked(lines, ended)
    reader = csv.reader(text, delimiter=sep, skipinitialspace=sep != " ")
    records = _records(reader, ended)
    header = next(records, None)
    if not isinstance(header, list):
        raise FileError("is empty" if header is None else f"has no header: {header}")
    names, unnamed = column_names(header)
    return Table(names, unnamed, sep, _rows(records, names))


def _sample(lines: Iterator[str]) -> tuple[list[str], Iterator[str]]:
    """Return the first lines, and all lines; a fault is raised where it is in the lines."""
    sample: list[str] = []
    try:
        sample.extend(itertools.islice(lines, _SAMPLE))
    except UnreadableRowError as error:
        return sample, _interrupted(sample, error)
    return sample, itertools.chain(sample, lines)


def _interrupted(lines: list[str], error: UnreadableRowError) -> Iterator[str]:
    yield from lines
    raise error


def _separator(sample: list[str], expected: str) -> str:
    """Return the separator that splits the lines into the same number of columns, more than one."""
    best, most = expected, (0.0, 0)
    for sep in (expected, *_SEPARATORS):
        try:
            counts = [
                len(cells) for cells in csv.reader(sample, delimiter=sep, skipinitialspace=True) if cells
            ]
        except csv.Error:
            continue
        if not counts or counts[0] < 2:
            continue
        alike = Counter(counts)[counts[0]] / len(counts)
        if (alike, counts[0]) > most and (sep == expected or alike > most[0] or most[1] == 0):
            best, most = sep, (alike, counts[0])
    return best


def _check_width(sample: list[str], sep: str) -> None:
    """Refuse rows that all have more cells than the header, as those of a table with names of rows."""
    try:
        header, *rows = [
            cells for cells in csv.reader(sample, delimiter=sep, skipinitialspace=sep != " ") if cells
        ]
    except (csv.Error, ValueError):
        return
    widths = {len(cells) for cells in rows[:-1]}  # the last one may continue after the sample
    if (
        len(rows) > 2
        and len(widths) == 1
        and min(widths) > len(header)
        and any(any(cells[len(header) :]) for cells in rows)
    ):
        raise FileError(
            f"has {min(widths)} cells in each row, and {len(header)} in the header: if the first cell is the "
            "name of the row, begin the header with a name for it; put a cell with the separator in "
            "quotation marks"
        )


def _marked(lines: Iterator[str], ended: list[bool]) -> Iterator[str]:
    yield from lines
    ended.append(True)


def _records(reader: Any, ended: list[bool]) -> Iterator[list[str] | str]:
    """Yield the cells of each row, or why it has none."""
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "field limit" in str(error):
                raise UnreadableRowError(
                    f"has a cell of more than {csv.field_size_limit()} characters: close its quotation mark"
                ) from None
            yield f"is not CSV: {error}"
            continue
        if ended and cells and any("\n" in cell or "\r" in cell for cell in cells[-1:]):
            raise UnreadableRowError("has a quotation mark that is not closed: close it, or leave it out")
        if cells:
            yield cells


def column_names(header: list[str]) -> tuple[list[str], list[str]]:
    """Return the names of the columns, and of those without a name: "column 3"."""
    names = [name.strip() for name in header]
    for name, count in Counter(names).items():
        if name and count > 1:
            places = " and ".join(str(i) for i, other in enumerate(names, 1) if other == name)
            raise FileError(f"has the column {name!r} twice (columns {places}): rename one of them")
    unnamed = {i: f"column {i + 1}" for i, name in enumerate(names) if not name}
    return [name or unnamed[i] for i, name in enumerate(names)], [*unnamed.values()]


def _rows(records: Iterator[list[str] | str], names: list[str]) -> Iterator[dict[str, str] | InvalidRow]:
    for cells in records:
        yield InvalidRow(cells, {}) if isinstance(cells, str) else row_of(cells, names)


def row_of(cells: list[str], names: list[str]) -> dict[str, str] | InvalidRow:
    """Return a row by column; cells that it lacks are empty."""
    width = len(names)
    if len(cells) != width:
        if any(cells[width:]):
            return InvalidRow(
                f"has {len(cells)} cells, the header has {width}: put a cell with the separator in "
                "quotation marks",
                dict(zip(names, cells, strict=False)),
            )
        cells += [""] * (width - len(cells))
    return dict(zip(names, cells, strict=False))
