"""Data frames as streams of Arrow: pandas, polars, and all that have ``__arrow_c_stream__``."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import InvalidSampleError

MEDIA_TYPE = "application/vnd.apache.arrow.stream"
#: About the greatest size in bytes of a record batch, and its greatest number of rows.
_BYTES, _ROWS = 2**18, 256


@dataclass(frozen=True, slots=True)
class Roles:
    """Columns that are no features. They may be missing, except the target of samples to learn."""

    target: str
    id: str
    weight: str


def is_frame(samples: object) -> bool:
    """Return whether samples are a data frame."""
    return hasattr(samples, "__arrow_c_stream__")


@dataclass(frozen=True, slots=True)
class TableBatch:
    """Rows of one request.

    Attributes
    ----------
    first : int
        Number of the first row, from 0, among all rows.
    table : pyarrow.Table
        The rows.
    """

    first: int
    table: Any
    refused: dict[int, InvalidSampleError] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def content(self, positions: Sequence[int]) -> bytes:
        """Return the body of a request with some of the rows."""
        import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types

        table = self.table if len(positions) == len(self) else self.table.take([*positions])
        rows = max(1, min(_ROWS, _BYTES * len(positions) // max(table.nbytes, 1)))
        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.combine_chunks(), max_chunksize=rows)
        return sink.getvalue()


def batches(frame: Any, roles: Roles, size: int, *, labelled: bool) -> Iterator[TableBatch]:
    """Yield the rows of a frame in requests.

    Parameters
    ----------
    frame : object
        The frame.
    roles : Roles
        Columns that are no features.
    size : int
        Largest number of rows in one request.
    labelled : bool
        Whether they are sent too. Rows without an id get a random one.

    Raises
    ------
    InvalidSampleError
        If there is no target, or a column cannot be sent.
    """
    pa, first, run = _pyarrow(), 0, uuid.uuid4().hex
    for table in _tables(pa, frame):
        if labelled and roles.target not in table.column_names:
            raise _error(
                roles.target, f"there is no column {roles.target!r}: name that of the target, target='label'"
            )
        for start in range(0, table.num_rows, size):
            part = _sendable(pa, table.slice(start, size), roles, labelled)
            if labelled:
                part = _with_ids(pa, part, roles.id, run, first)
            yield TableBatch(first, part)
            first += part.num_rows


def rows(frame: Any, roles: Roles) -> Iterator[dict[str, Any]]:
    """Yield the features of each row of a frame."""
    for batch in batches(frame, roles, _ROWS, labelled=False):
        yield from batch.table.to_pylist()


def _error(column: str, message: str) -> InvalidSampleError:
    return InvalidSampleError(0, "invalid_feature", message, column)


def _pyarrow() -> Any:
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        raise _error(
            "X", "data frames need pyarrow: pip install 'bnp-online[arrow]', or send dicts"
        ) from None
    return pa


def _tables(pa: Any, frame: Any) -> Iterator[Any]:
    try:
        if type(frame).__module__.partition(".")[0] == "pandas":
            yield pa.Table.from_pandas(frame, preserve_index=False)
        elif isinstance(frame, pa.Table):
            yield frame
        else:
            for batch in pa.RecordBatchReader.from_stream(frame):
                yield pa.Table.from_batches([batch])
    except pa.ArrowException as error:
        raise _error("X", f"the frame cannot be sent: {error}") from None


def _sendable(pa: Any, table: Any, roles: Roles, labelled: bool) -> Any:
    """Return the columns that are sent, with the types that the server takes."""
    others = {roles.target, roles.id, roles.weight}
    names = [name for name in table.column_names if labelled or name not in others]
    columns = [_column(pa, table.column(name), is_feature=name not in others) for name in names]
    return pa.table(columns, names=names)


def _column(pa: Any, column: Any, *, is_feature: bool) -> Any:
    types, kind = pa.types, column.type
    if types.is_dictionary(kind):
        value = pa.string() if types.is_string_view(kind.value_type) else kind.value_type
        parts = [
            pa.DictionaryArray.from_arrays(part.indices, part.dictionary.cast(value)).dictionary_decode()
            for part in column.chunks
        ]
        column = pa.chunked_array(parts, value)
        kind = column.type
    if types.is_string_view(kind):
        return column.cast(pa.string())
    if types.is_decimal(kind):
        return column.cast(pa.float64())
    if is_feature and types.is_temporal(kind):
        from ..files.arrow import values_of  # late: NumPy
        from ..values import seconds

        times = [value for chunk in column.chunks for value in values_of(pa, chunk)]
        return pa.array([None if value is None else seconds(value) for value in times], pa.float64())
    return column


def _with_ids(pa: Any, table: Any, name: str, run: str, first: int) -> Any:
    """Return rows of which each has an id, so that a request is safe to repeat."""
    fresh = pa.array([f"{run}-{first + i}" for i in range(table.num_rows)], pa.string())
    if name not in table.column_names:
        return table.append_column(name, fresh)
    given = table.column(name).cast(pa.string()).to_pylist()
    ids = [own if each is None else each for each, own in zip(given, fresh.to_pylist(), strict=True)]
    return table.set_column(table.column_names.index(name), name, pa.array(ids, pa.string()))
