"""Rows of Parquet and Arrow, with the values of Python."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from .source import FileError, Source, pyarrow

#: Rows that are converted at a time.
_ROWS = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_parquet(source: Source) -> Iterator[dict[str, Any]]:
    """Yield the rows of a Parquet file."""
    pa = pyarrow("a Parquet file")
    import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it ships no types

    with source.random_access() as file, _faults(pa, "Parquet"):
        table = pq.ParquetFile(file)
        _check(table.schema_arrow.names)
        done, total = 0, table.metadata.num_rows
        for batch in table.iter_batches(_ROWS):
            done += batch.num_rows
            source.progress = done / total
            yield from _rows(pa, batch)


def read_arrow(source: Source) -> Iterator[dict[str, Any]]:
    """Yield the rows of an Arrow file (Feather) or stream."""
    pa = pyarrow("an Arrow file")
    if source.head.startswith(b"ARROW1"):
        with source.random_access() as file, _faults(pa, "Arrow"):
            reader = pa.ipc.open_file(file)
            _check(reader.schema.names)
            for i in range(reader.num_record_batches):
                source.progress = (i + 1) / reader.num_record_batches
                yield from _rows(pa, reader.get_batch(i))
        return
    with _faults(pa, "Arrow"):
        stream = pa.ipc.open_stream(source.stream())
        _check(stream.schema.names)
        for batch in stream:
            yield from _rows(pa, batch)


@contextlib.contextmanager
def _faults(pa: Any, form: str) -> Iterator[None]:
    """Report errors of Arrow as errors of the file."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = str(error).partition("\n")[0]
        raise FileError(f"is damaged, or is not {form}: {reason}") from None


def _check(names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise FileError(f"has the column {name!r} twice: rename one of them")


def _rows(pa: Any, batch: Any) -> Iterator[dict[str, Any]]:
    names = batch.schema.names
    for start in range(0, batch.num_rows, _ROWS):
        part = batch.slice(start, _ROWS)
        columns = [values_of(pa, column) for column in part.columns]
        for values in zip(*columns, strict=True):
            yield dict(zip(names, values, strict=True))


def values_of(pa: Any, column: Any) -> list[Any]:
    """Return the values of a column; times have microseconds, as those of Python."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    make: Callable[[timedelta], Any]
    if pa.types.is_timestamp(kind):
        make = _EPOCH.__add__ if kind.tz else _EPOCH.replace(tzinfo=None).__add__
    elif pa.types.is_duration(kind):
        make = _same
    elif pa.types.is_time(kind):
        make = _time
    else:
        values: list[Any] = column.to_pylist()
        if pa.types.is_floating(kind):
            return [value if value == value else None for value in values]
        return values
    width = pa.int32() if kind.bit_width == 32 else pa.int64()
    units = {"s": (1_000_000, 1), "ms": (1000, 1), "us": (1, 1), "ns": (1, 1000)}
    times, by = units[kind.unit]
    return [
        None if value is None else make(timedelta(microseconds=value * times // by))
        for value in column.cast(width).to_pylist()
    ]


def _same(value: timedelta) -> timedelta:
    return value


def _time(value: timedelta) -> Any:
    return (_EPOCH + value).time()
