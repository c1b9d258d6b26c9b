"""Samples in files (CSV, Parquet, NDJSON) or standard input, read lazily."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from .output import CommandError

Format: TypeAlias = Literal["csv", "ndjson", "parquet"]
Row: TypeAlias = dict[str, Any]

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".parquet": "parquet",
}
_MISSING = frozenset({"", "na", "nan", "null", "none"})
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True)
class Line:
    """Row of a file: a sample, or the reason why it is invalid.

    Attributes
    ----------
    number : int
        From 1; the header of a CSV file is not counted.
    x : dict or list
        Features.
    y : label, number or None
        Target; None if there is none.
    id : str or None
        Id in the line.
    w : float
        Weight.
    error : str or None
        Reason why the row is invalid.
    """

    number: int
    x: Any = None
    y: Any = None
    id: str | None = None
    w: float = 1.0
    error: str | None = None


def format_of(file: str, given: Format | None) -> Format:
    """Return the given format, or the format by the name of the file; standard input is NDJSON."""
    if given is not None:
        return given
    if file == "-":
        return "ndjson"
    suffix = Path(file).suffix.lower()
    if suffix not in _SUFFIXES:
        raise CommandError(f"The format of {file} is unknown: give --format csv, ndjson or parquet.", 2)
    return _SUFFIXES[suffix]


@contextlib.contextmanager
def opened(file: str, form: Format, target: str | None, *, labelled: bool) -> Iterator[Iterator[Line]]:
    """Yield the samples of a file.

    Parameters
    ----------
    file : str
        Path, or "-" for standard input.
    form : {"csv", "ndjson", "parquet"}
        Format of the file.
    target : str or None
        Column with the target. NDJSON needs none: its lines are then those of ``POST /learn``.
    labelled : bool
        Whether every sample must have a target.
    """
    if labelled and target is None and form != "ndjson":
        raise CommandError("Which column is the target? Give --target NAME.", 2)
    with contextlib.ExitStack() as stack:
        source: IO[bytes] = sys.stdin.buffer if file == "-" else stack.enter_context(Path(file).open("rb"))
        rows = {"csv": _csv, "ndjson": _ndjson, "parquet": _parquet}[form](source)
        yield (_line(number, row, target, labelled) for number, row in enumerate(rows, 1))


def _line(number: int, row: Row | str, target: str | None, labelled: bool) -> Line:
    if isinstance(row, str):
        return Line(number, error=row)
    if target is None and "x" in row:
        weight = row.get("w")
        line = Line(number, row["x"], row.get("y"), row.get("id"), 1.0 if weight is None else weight)
    elif target is None and labelled:
        return Line(number, error='has no "x": give --target NAME if its columns are features')
    else:
        if target is not None and target not in row and labelled:
            raise CommandError(
                f"There is no column {target!r}. The columns are {', '.join(map(repr, row))}.", 2
            )
        y = row.pop(target, None) if target is not None else None
        line = Line(number, row, y)
    return Line(number, error="has no target") if labelled and line.y is None else line


def _csv(source: IO[bytes]) -> Iterator[Row | str]:
    text = codecs.iterdecode(source, "utf-8-sig")  # line by line
    try:
        reader = csv.DictReader(text)
        for row in reader:
            if None in row or None in row.values():
                yield f"does not have the {len(reader.fieldnames or ())} columns of the header"
            else:
                yield {name: parse(value) for name, value in row.items()}
    except (csv.Error, UnicodeDecodeError) as error:
        raise CommandError(f"The file is not CSV: {error}") from None


def parse(text: str) -> bool | int | float | str | None:
    """Return the value of a cell of a CSV file.

    Examples
    --------
    >>> [parse(cell) for cell in ("1", "1.5", "true", "red", "", "NA")]
    [1, 1.5, True, 'red', None, None]
    """
    word = text.strip()
    if word.lower() in _MISSING:
        return None
    if word.lower() in _TRUTH:
        return _TRUTH[word.lower()]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(word)
    return word


def _ndjson(source: IO[bytes]) -> Iterator[Row | str]:
    for raw in source:
        if not raw.strip():
            continue
        try:
            row = json.loads(raw)
        except ValueError as error:
            yield f"is not JSON: {error}"
            continue
        yield row if isinstance(row, dict) else "is not a JSON object"


def _parquet(source: IO[bytes]) -> Iterator[Row]:
    try:
        import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
        import pyarrow.parquet as pq  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise CommandError("Reading Parquet needs pyarrow: pip install 'bnp-online[files]'") from None
    if source is sys.stdin.buffer:
        source = io.BytesIO(source.read())  # the format is read from its end
    try:
        for batch in pq.ParquetFile(source).iter_batches(1000):
            for row in batch.to_pylist():
                yield {name: plain(value) for name, value in row.items()}
    except pa.ArrowException as error:
        raise CommandError(f"The file is not Parquet: {error}") from None


def plain(value: Any) -> Any:
    """Return a value in a type that a model accepts: a time as seconds since 1970."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
    return float(value) if isinstance(value, Decimal) else value
