"""Samples in files: CSV, Parquet, lines of JSON, or standard input; read as they are needed."""

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
    """A row of a file: a sample, or what is wrong with it.

    Attributes
    ----------
    number : int
        From 1; of a CSV file without its header.
    x : dict or list
        Features.
    y : label, number or None
        Target; None where there is none.
    id : str or None
        Of a line that has one.
    error : str or None
        Why it is none.
    """

    number: int
    x: Any = None
    y: Any = None
    id: str | None = None
    w: float = 1.0
    error: str | None = None


def format_of(file: str, given: Format | None) -> Format:
    """Return the format of a file, as it was given or by its name; of standard input it is NDJSON."""
    if given is not None:
        return given
    if file == "-":
        return "ndjson"
    suffix = Path(file).suffix.lower()
    if suffix not in _SUFFIXES:
        raise CommandError(f"what format has {file}? Give --format csv, ndjson or parquet", 2)
    return _SUFFIXES[suffix]


@contextlib.contextmanager
def opened(file: str, form: Format, target: str | None, *, labelled: bool) -> Iterator[Iterator[Line]]:
    """Yield the samples of a file.

    Parameters
    ----------
    file : str
        Path, or "-" for standard input.
    form : {"csv", "ndjson", "parquet"}
        Its format.
    target : str or None
        Column with the target. NDJSON may do without: then its lines are those of ``POST /learn``.
    labelled : bool
        Whether every sample must have a target.
    """
    if labelled and target is None and form != "ndjson":
        raise CommandError("which column has the target? Give --target NAME", 2)
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
                f"there is no column {target!r}: the columns are {', '.join(map(repr, row))}", 2
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
                yield f"has another number of columns than the header's {len(reader.fieldnames or ())}"
            else:
                yield {name: parse(value) for name, value in row.items()}
    except (csv.Error, UnicodeDecodeError) as error:
        raise CommandError(f"this is no CSV file: {error}") from None


def parse(text: str) -> bool | int | float | str | None:
    """Return what a cell of a CSV file stands for.

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
        yield row if isinstance(row, dict) else "is no JSON object"


def _parquet(source: IO[bytes]) -> Iterator[Row]:
    try:
        import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
        import pyarrow.parquet as pq  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise CommandError("to read Parquet takes pyarrow: pip install 'bnp-online[files]'") from None
    if source is sys.stdin.buffer:
        source = io.BytesIO(source.read())  # the format begins at its end
    try:
        for batch in pq.ParquetFile(source).iter_batches(1000):
            for row in batch.to_pylist():
                yield {name: plain(value) for name, value in row.items()}
    except pa.ArrowException as error:
        raise CommandError(f"this is no Parquet file: {error}") from None


def plain(value: Any) -> Any:
    """Return a value of a file or data set as one that a model takes: a time is its seconds since 1970."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp()
    return float(value) if isinstance(value, Decimal) else value
