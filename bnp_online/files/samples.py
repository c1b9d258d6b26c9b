"""Samples of a file: the public functions."""

from __future__ import annotations

import csv
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, NamedTuple, TypeAlias

from .source import FileError

Format: TypeAlias = Literal["csv", "tsv", "ndjson", "parquet", "arrow"]


class Row(NamedTuple):
    """Row of a file: a sample, or the reason why it is invalid.

    Attributes
    ----------
    number : int
        From 1; the header is not counted.
    x : dict or list
        Features.
    y : label, number or None
        Target; None if there is none.
    id : str or None
        Id in a line of the form ``{"x": …, "y": …, "id": …}``.
    w : float
        Weight in such a line.
    error : str or None
        Reason why the row is invalid: a predicate, such as "has no target".
    source : dict
        Row as in the file: text or value by column.
    """

    number: int
    x: Any = None
    y: Any = None
    id: str | None = None
    w: float = 1.0
    error: str | None = None
    source: Mapping[str, Any] = {}


class Samples(Iterator[Row]):
    """Rows of a file, as `read_samples` returns them: an iterator and a context manager."""

    def __init__(self, source: IO[bytes], rows: Iterator[Row], *, close: bool) -> None:
        self._source = source
        self._rows = rows
        self._close = close

    def __next__(self) -> Row:
        return next(self._rows)

    def __enter__(self) -> Samples:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file, unless it was passed as an open file."""
        if self._close:
            self._source.close()

    @property
    def fraction(self) -> float | None:
        """Share of the file that has been read, 0 to 1, by bytes; None for a pipe."""
        return None


def read_samples(
    file: str | Path | IO[bytes],
    target: str | None = None,
    *,
    labelled: bool = True,
    format: Format | None = None,
    sep: str | None = None,
    decimal: str = ".",
    na: Collection[str] = (),
    drop: Collection[str] = (),
    keep: Collection[str] = (),
    labels: Literal["str", "int"] | None = None,
    encoding: str | None = None,
    dates: Literal["raw", "calendar", "drop"] = "calendar",
    task: Literal["classification", "regression"] = "classification",
    notice: Callable[[str], object] | None = None,
) -> Samples:
    """Return the rows of a file of samples, read as they are needed.

    Parameters
    ----------
    file : str, Path or binary file
        Path of a file or named pipe; "-" is standard input.
    target : str, optional
        Column with the target. Lines of NDJSON of the form ``{"x": …, "y": …, "id": …, "w": …}`` need none.
    labelled : bool
        Whether a row without a target is invalid.
    format : {"csv", "tsv", "ndjson", "parquet", "arrow"}, optional
        Default: by the content and the suffix.
    sep : str, optional
        Separator of the columns. Default: comma, semicolon, tab or ``|``, whichever the first lines have.
    decimal : {".", ","}
        Decimal sign of numbers.
    na : collection of str
        Further words for a missing value, in features and in the target.
    drop : collection of str
        Columns to leave out.
    keep : collection of str
        Columns that are read although each row has another value.
    labels : {"str", "int"}, optional
        Type of the labels. Default: by the column.
    encoding : str, optional
        Encoding of the text. Default: UTF-8, or UTF-16 or UTF-32 where the first bytes show it.
    dates : {"calendar", "raw", "drop"}
        Dates as seconds since 1970 with calendar features, as seconds alone, or left out.
    task : {"classification", "regression"}
        Whether the target is a label or a number.
    notice : callable, optional
        Takes a message about the file. Default: `warnings.warn`.

    Raises
    ------
    FileError
        If the file cannot be read as samples, here or while it is read.
    OSError
        Of the operating system; its ``filename`` is the name as given.
    """
    opened: IO[bytes] = file  # type: ignore[assignment]  # replaced below
    if isinstance(file, str | Path):
        opened = sys.stdin.buffer if file == "-" else open(file, "rb")  # noqa: SIM115 (`Samples` closes it)
    if target is None and labelled:
        raise FileError("Which column is the target? Give --target NAME.")

    def rows() -> Iterator[Row]:
        reader = csv.DictReader(line.decode() for line in opened)
        for number, source in enumerate(reader, 1):
            x = dict(source)
            y = x.pop(target, None) if target is not None else None
            yield Row(number, x, y, source=source)

    return Samples(opened, rows(), close=isinstance(file, str | Path) and file != "-")


def iter_samples(
    file: str | Path | IO[bytes], target: str | None = None, **options: Any
) -> Iterator[tuple[Any, Any]]:
    """Yield (x, y) for each valid row of a file, as River's streams do; report and skip an invalid row.

    Parameters
    ----------
    file, target, **options
        As in `read_samples`.
    """
    notice = options.get("notice") or warnings.warn
    with read_samples(file, target, **options) as rows:
        for row in rows:
            if row.error is None:
                yield row.x, row.y
            else:
                notice(f"row {row.number} {row.error}")
