"""Tables of samples: data frames, dicts of columns, lists of dicts; predictions in the form of the input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import narwhals as nw
import numpy as np

from .errors import SampleError
from .values import Label

_FORMS = "a list of dicts, a data frame (pandas, polars, Arrow), a dict of columns, or an array"


class Rows(NamedTuple):
    """Samples of a table.

    Attributes
    ----------
    samples : sequence
        One ``x`` per row; an array stays an array.
    frame : narwhals.DataFrame or None
        The data frame from which they come.
    """

    samples: Any
    frame: nw.DataFrame[Any] | None = None


def rows_of(X: object) -> Rows:
    """Return the rows of a table.

    Parameters
    ----------
    X : data frame, mapping of str to sequence, array, or iterable of x
        The table.

    Raises
    ------
    SampleError
        ``"wrong_shape"`` or ``"invalid_feature"``, if `X` is no table, or has a column twice.
    """
    if isinstance(X, np.ndarray):
        return Rows(X)
    if isinstance(X, Mapping):
        return Rows(_rows_of_columns(X))
    frame = _frame(X)
    if frame is not None:
        return Rows(frame.rows(named=True), frame)
    if isinstance(X, str | bytes) or not isinstance(X, Iterable):
        raise SampleError("wrong_shape", "X", f"must be {_FORMS}, not {type(X).__name__}")
    return Rows(list(X))


def _frame(X: object) -> nw.DataFrame[Any] | None:
    try:
        frame = nw.from_native(X, pass_through=True)
    except nw.exceptions.DuplicateError:
        columns = [*getattr(X, "column_names", getattr(X, "columns", ()))]
        twice = next(name for name in columns if columns.count(name) > 1)
        message = "is the name of two columns: rename one of them"
        raise SampleError("invalid_feature", f"x.{twice}", message) from None
    if isinstance(frame, nw.LazyFrame):
        raise SampleError("wrong_shape", "X", "is a lazy frame: call .collect() first")
    return frame if isinstance(frame, nw.DataFrame) else None


def _rows_of_columns(columns: Mapping[Any, Any]) -> list[dict[Any, Any]]:
    values = {name: values_of(column, f"x.{name}") for name, column in columns.items()}
    lengths = {name: len(column) for name, column in values.items()}
    if len({*lengths.values()}) > 1:
        name = min(lengths, key=lengths.__getitem__)
        longest = max(lengths.values())
        raise SampleError("wrong_shape", f"x.{name}", f"has {lengths[name]} values, another column {longest}")
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def values_of(column: object, field: str = "X") -> list[Any]:
    """Return the values of a series, an array or an iterable, as Python objects where they have a type.

    Raises
    ------
    SampleError
        ``"wrong_shape"``, if it is not one-dimensional.
    """
    if isinstance(column, np.ndarray):
        if column.ndim != 1:
            raise SampleError(
                "wrong_shape", field, f"has the shape {column.shape}: it must be one-dimensional"
            )
        # Python objects are faster to read than elements of an array.
        return column.tolist() if column.dtype.kind in "biufU" else [*column]
    series = nw.from_native(column, pass_through=True, allow_series=True)
    if isinstance(series, nw.Series):
        return series.to_list()
    if isinstance(series, nw.DataFrame):
        if len(series.columns) != 1:
            raise SampleError(
                "wrong_shape", field, f"has {len(series.columns)} columns: it must be one series"
            )
        return series[series.columns[0]].to_list()
    if hasattr(column, "to_pylist"):  # an array of Arrow, not chunked
        return [*column.to_pylist()]
    if isinstance(column, str | bytes | Mapping) or not isinstance(column, Iterable):
        raise SampleError("wrong_shape", field, f"must be a sequence of values, not {type(column).__name__}")
    return [*column]


def predictions(values: Sequence[Any], frame: nw.DataFrame[Any] | None) -> Any:
    """Return predictions as a series of the library of `frame`, with its index; without a frame as a list."""
    if frame is None:
        return [*values]
    return _indexed(nw.new_series("prediction", [*values], backend=frame.implementation), frame)


def probabilities(
    rows: Sequence[Mapping[Label, float]], labels: Sequence[Label], frame: nw.DataFrame[Any] | None
) -> Any:
    """Return probabilities as a frame with a column per label; without a frame as a list of dicts.

    The columns of pandas are the labels. Other libraries have only strings as names of columns.
    """
    if frame is None:
        return [*rows]
    columns = {name_of_label(label): [row[label] for row in rows] for label in labels}
    table = _indexed(nw.from_dict(columns, backend=frame.implementation), frame)
    if frame.implementation.is_pandas():
        table.columns = [*labels]
    return table


def name_of_label(label: Label) -> str:
    """Return a label as the name of a column, booleans as in JSON.

    Examples
    --------
    >>> [name_of_label(label) for label in ("cat", 1, True)]
    ['cat', '1', 'true']
    """
    return label if isinstance(label, str) else str(label).lower()


def _indexed(table: nw.DataFrame[Any] | nw.Series[Any], frame: nw.DataFrame[Any]) -> Any:
    native, index = table.to_native(), nw.maybe_get_index(frame)
    if index is not None:
        native.index = index
    return native
