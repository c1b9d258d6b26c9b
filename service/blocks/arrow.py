"""Rows of Arrow: columns of a record batch, read as blocks where their values are known."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from bnp_online.files import Roles
from bnp_online.learner import Layout, OnlineLearner
from bnp_online.values import LARGEST, SampleRows, Vector

from ..errors import InvalidTableError, UnsupportedMediaTypeError
from ..schemas import MAX_ID_LENGTH
from .block import Block
from .lines import FEWEST, WIDEST
from .writing import written

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types

Kind: TypeAlias = Literal["number", "boolean", "string", "missing", "array"]

#: Column in which pandas stores the index of a frame.
_INDEX = re.compile(r"__index_level_\d+__")
#: Types of the labels in a column, by its kind; those of other kinds are integers.
_LABELS: dict[str, type] = {"boolean": bool, "string": str}
_REMEDIES = (
    ("is_decimal", "cast it to float64"),
    ("is_temporal", "send times as numbers of seconds, such as seconds since 1970"),
    ("is_nested", "send one column per feature"),
)


def pyarrow() -> Any:
    """Return the module pyarrow.

    Raises
    ------
    UnsupportedMediaTypeError
        If it is not installed.
    """
    try:
        import pyarrow as pa  # late: an extra, and it takes a tenth of a second
    except ModuleNotFoundError:
        raise UnsupportedMediaTypeError(
            "Arrow needs pyarrow on the server: pip install 'bnp-online[arrow]', or send CSV or NDJSON"
        ) from None
    return pa


class Columns:
    """Columns of a table: those of the features, of the target, the ids and the weights.

    Parameters
    ----------
    schema : pyarrow.Schema
        The schema.
    roles : Roles
        Names of the columns that are no features.
    given : Roles
        Those that the request names: they must be there. Others may be missing, except a target.
    labelled : bool
        Whether a target is required.
    shape : tuple of int or None
        Shape of the samples of the model, if it takes arrays.
    most : int
        Greatest number of features.

    Raises
    ------
    InvalidTableError
        If a column is missing, is there twice, or has another type.
    """

    def __init__(
        self,
        schema: pa.Schema,
        roles: Roles,
        given: Roles,
        *,
        labelled: bool,
        shape: tuple[int, ...] | None,
        most: int,
    ) -> None:
        names = list(schema.names)
        if len(names) > most + len(roles):
            raise _error(
                names[most], f"the table has {len(names)} columns; at most {most} (BNP_MAX_FEATURES)"
            )
        if len({*names}) < len(names):
            twice = next(name for i, name in enumerate(names) if name in names[:i])
            raise _error(twice, f"there are two columns {twice!r:.80}: rename one of them")
        for role, name in roles._asdict().items():
            needed = labelled if role == "target" else getattr(given, role) is not None
            if name not in names and needed:
                shown = ", ".join(map(repr, names[:20])) + (", …" if len(names) > 20 else "")
                raise _error(
                    str(name), f"there is no column {name!r:.80} for the {role}. The columns are {shown}"
                )
        found = [name if name in names else None for name in roles]
        self.target, self.id, self.weight = found
        self.labelled = labelled
        self.shape = shape
        self.positions = {name: i for i, name in enumerate(names)}
        self.kinds = {name: _kind(name, schema.field(i).type) for i, name in enumerate(names)}
        self.features = [name for name in names if name not in found and not _INDEX.fullmatch(name)]
        self._words: dict[str, tuple[Any, list[Any]]] = {}
        self._check(schema)

    def _check(self, schema: pa.Schema) -> None:
        kinds = self.kinds
        for role, cast in (("id", "string"), ("weight", "float64")):
            name = getattr(self, role)
            if name is None or kinds[name] in ("missing", "number" if role == "weight" else "string"):
                continue
            kind = schema.field(self.positions[name]).type
            if role == "id" and _is_integer(kind):
                continue
            raise _error(name, f"the column {name!r:.80} with the {role}s is {kind}: cast it to {cast}")
        if self.target is not None and kinds[self.target] == "array":
            raise _error(self.target, f"the target {self.target!r:.80} has lists: send one value per row")
        arrays = [name for name in self.features if kinds[name] == "array"]
        if not self.features:
            raise _error("x", "there is no column with a feature")
        if self.shape is None and arrays:
            message = f"the column {arrays[0]!r:.80} has lists, and the model takes features by name"
            raise _error(arrays[0], f"{message}: send one column per feature")
        if self.shape is not None:
            size, column = math.prod(self.shape), schema.field(self.positions[self.features[0]]).type
            if self.features != ["x"] or kinds["x"] != "array" or column.list_size != size:
                message = f"the model takes arrays of the shape {[*self.shape]}"
                raise _error("x", f"{message}: send one column x, with fixed-size lists of {size} numbers")

    def words(self, name: str, dictionary: Any) -> list[Any]:
        """Return the words of the dictionary of a column, which are read once."""
        known = self._words.get(name)
        if known is None or not _is_same(known[0], dictionary):
            known = self._words[name] = dictionary, dictionary.to_pylist()
        return known[1]


def _is_same(dictionary: Any, other: Any) -> bool:
    """Return whether two dictionaries are one in memory."""
    buffers = [
        (len(each), each.offset, *(part and part.address for part in each.buffers()))
        for each in (dictionary, other)
    ]
    return buffers[0] == buffers[1]


def _error(column: str, message: str) -> InvalidTableError:
    return InvalidTableError(message, column[:80])


def _kind(name: str, kind: pa.DataType) -> Kind:
    types = pyarrow().types
    value = kind.value_type if types.is_dictionary(kind) else kind
    if types.is_integer(value) or types.is_floating(value):
        return "number"
    if types.is_boolean(value):
        return "boolean"
    if types.is_string(value) or types.is_large_string(value) or types.is_string_view(value):
        return "string"
    if types.is_null(value):
        return "missing"
    if types.is_fixed_size_list(kind) and _kind(name, value.value_type) in ("number", "boolean"):
        return "array"
    remedy = next(
        (words for check, words in _REMEDIES if getattr(types, check)(value)), "send numbers or strings"
    )
    raise _error(name, f"the column {name!r:.80} is {str(kind)!s:.80}: {remedy}")


def _is_integer(kind: pa.DataType) -> bool:
    types = pyarrow().types
    return bool(types.is_integer(kind.value_type if types.is_dictionary(kind) else kind))


class ArrowRow(NamedTuple):
    """A row: the rows among which it is, and its position."""

    rows: ArrowRows
    position: int


class ArrowRows(Sequence[ArrowRow]):
    """Rows of a record batch.

    Parameters
    ----------
    columns : Columns
        The columns.
    batch : pyarrow.RecordBatch
        The rows.
    first : int
        Number of the first row, from 1.
    bytes : float
        Bytes of a row.
    """

    def __init__(self, columns: Columns, batch: pa.RecordBatch, first: int, bytes: float) -> None:
        self.columns = columns
        self._batch = batch
        self._begin, self._end = 0, int(batch.num_rows)
        self._first = first
        self._bytes = bytes
        self._lists: dict[str, list[Any]] = {}
        self._numbers: dict[str, Vector] = {}  # of the whole batch, which its parts share

    @property
    def numbers(self) -> range:
        """Numbers of the rows."""
        first = self._first + self._begin
        return range(first, first + len(self))

    @property
    def size(self) -> int:
        """Bytes of the rows."""
        return max(1, int(self._bytes * len(self)))

    def __len__(self) -> int:
        return self._end - self._begin

    @overload
    def __getitem__(self, part: int) -> ArrowRow: ...
    @overload
    def __getitem__(self, part: slice) -> ArrowRows: ...
    def __getitem__(self, part: int | slice) -> ArrowRow | ArrowRows:
        if isinstance(part, slice):
            start, stop, _ = part.indices(len(self))
            found = copy(self)
            found._begin, found._end = self._begin + start, self._begin + max(start, stop)
            found._lists = {}
            return found
        if not 0 <= part < len(self):
            raise IndexError(part)
        return ArrowRow(self, part)

    def fields(self, position: int) -> dict[str, Any]:
        """Return a row as the fields of a sample; absent are those without a column or a value, except ``x``.

        Numbers and booleans of features are floats, as in a block.
        """
        columns = self.columns
        if columns.shape is not None:
            found: dict[str, Any] = {"x": _nested(self._values("x")[position], columns.shape)}
        else:
            found = {"x": {name: self._values(name)[position] for name in columns.features}}
        if columns.target is not None:
            found["y"] = self._values(columns.target)[position]
        for field, name in (("w", columns.weight), ("id", columns.id)):
            value = None if name is None else self._values(name)[position]
            if value is not None:
                found[field] = value
        return found

    def blocks(self, learner: OnlineLearner) -> Iterator[tuple[range, Block | None]]:
        """Yield the rows in order: those of a block together, each other one alone."""
        read = self._read(learner)
        start = 0
        while start < len(self):
            stop = start
            if read is not None:
                stop = start + _length(read.plain[start:])
            if read is None or stop - start < FEWEST:
                yield range(start, start + 1), None
                start += 1
                continue
            rows = read.rows.part(start, stop)
            ids = {i - start: read.ids[i] for i in range(start, stop) if i in read.ids}
            columns = self.columns
            texts = [name for name in columns.features if columns.kinds[name] == "string"]
            names = [name for name in columns.features if columns.kinds[name] != "string"]
            weighted = columns.labelled and columns.weight is not None
            lines = written(learner, names, texts, rows, ids, weighted=weighted, labelled=columns.labelled)
            yield range(start, stop), Block(rows, lines, ids)
            start = stop

    def _read(self, learner: OnlineLearner) -> _Read | None:
        """Return the rows for a model; None if it does not know a column."""
        layout, columns, count = learner.layout(), self.columns, len(self)
        if layout is None or count < FEWEST:
            return None
        width = len(layout.columns)
        if width > max(self._bytes, WIDEST):
            return None
        values, plain = np.zeros((count, width)), np.ones(count, np.bool_)
        for name in columns.features:
            if columns.kinds[name] == "string":
                if name not in layout.values:
                    return None
                places = self._coded(name, layout.values[name])
                plain &= places >= 0
                values[np.flatnonzero(places >= 0), places[places >= 0]] = 1.0
            elif name in layout.numbers:
                values[:, layout.numbers[name]] = numbers = self._floats(name)
                missing = np.isnan(numbers)
                if name in layout.values and missing.any():  # it has all columns of its feature
                    others = np.array([*layout.values[name].values()])
                    values[np.ix_(np.flatnonzero(missing), others)] = math.nan
            else:
                return None
        plain &= ~(np.abs(values) > LARGEST).any(axis=1)
        targets, weights = np.zeros(count), np.ones(count)
        if columns.labelled:
            known = self._targets(layout)
            if known is None:
                return None
            targets, found = known
            plain &= found
            if columns.weight is not None:
                given = self._floats(columns.weight)
                weights = np.where(np.isnan(given), 1.0, given)
                plain &= (weights >= 0.0) & (weights < math.inf)
        ids: dict[int, str] = {}
        if columns.id is not None:
            ids = {i: each for i, each in enumerate(self._values(columns.id)) if each is not None}
            for i, each in ids.items():  # a prediction with an id may be kept
                plain[i] &= columns.labelled and 0 < len(each) <= MAX_ID_LENGTH
        return _Read(SampleRows(layout.columns, values, targets, layout.labels, weights), plain, ids)

    def _targets(self, layout: Layout) -> tuple[Vector, NDArray[np.bool_]] | None:
        """Return the targets for a model, and which of them it knows; None if it knows none."""
        target = self.columns.target
        assert target is not None  # noqa: S101 (samples to learn have one)
        kind = self.columns.kinds[target]
        if layout.regression:
            if kind not in ("number", "boolean"):
                return None
            targets = self._floats(target)
            return targets, np.abs(targets) <= LARGEST
        type_ = _LABELS.get(kind, int)  # True and 1 are different labels
        codes = {label: code for code, label in enumerate(layout.labels) if type(label) is type_}
        found = self._coded(target, codes)
        return found.astype(np.float64), found >= 0

    def _column(self, name: str) -> Any:
        return self._batch.column(self.columns.positions[name]).slice(self._begin, len(self))

    def _coded(self, name: str, codes: Mapping[Any, int]) -> NDArray[np.int64]:
        """Return the code of each value of a column, −1 where it has none."""
        types, column = pyarrow().types, self._column(name)
        if types.is_dictionary(column.type) or types.is_floating(column.type) or types.is_null(column.type):
            return np.array([codes.get(value, -1) for value in self._values(name)], np.int64)
        column = column.dictionary_encode()
        found = [codes.get(value, -1) for value in column.dictionary.to_pylist()]
        coded: NDArray[np.int64] = np.array([*found, -1])[column.indices.fill_null(len(found)).to_numpy()]
        return coded

    def _floats(self, name: str) -> Vector:
        """Return a column of numbers, NaN where it has none."""
        if (found := self._numbers.get(name)) is None:
            found = self._numbers[name] = _floats(self._batch.column(self.columns.positions[name]))
        return found[self._begin : self._end]

    def _values(self, name: str) -> list[Any]:
        """Return the values of a column as Python objects; None where it has none.

        Numbers of a target are integers where they are whole; others are floats. Ids are strings.
        """
        if (found := self._lists.get(name)) is not None:
            return found
        kind, column = self.columns.kinds[name], self._column(name)
        is_target = name == self.columns.target
        if kind == "array":
            found = [None if row is None else _missing([*map(_float, row)]) for row in column.to_pylist()]
        elif kind == "string":
            found = self._strings(name, column)
        elif name == self.columns.id:
            found = [None if value is None else str(value) for value in column.to_pylist()]
        elif is_target and kind == "boolean":
            found = column.to_pylist()
        elif is_target:
            found = [_whole(value) for value in column.to_pylist()]
        else:
            found = _missing(self._floats(name).tolist())
        self._lists[name] = found
        return found

    def _strings(self, name: str, column: Any) -> list[Any]:
        """Return strings; those of a dictionary share its objects, however often they occur."""
        if not pyarrow().types.is_dictionary(column.type):
            return list(column.to_pylist())
        words = self.columns.words(name, column.dictionary)
        return [None if i is None else words[i] for i in column.indices.to_pylist()]


class _Read(NamedTuple):
    """Rows for a model, which of them may be in a block, and ids by position."""

    rows: SampleRows
    plain: NDArray[np.bool_]
    ids: dict[int, str]


def _length(plain: NDArray[np.bool_]) -> int:
    """Return the number of rows before the first one that may not be in a block."""
    return len(plain) if plain.all() else int(plain.argmin())


def _floats(column: Any) -> Vector:
    """Return a column as numbers, NaN where it has none."""
    pa = pyarrow()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_null(column.type):
        return np.full(len(column), math.nan)
    if not pa.types.is_floating(column.type):
        column = column.cast(pa.float64(), safe=False)  # rounds to the nearest, as Python does
    return np.asarray(column.to_numpy(zero_copy_only=False), np.float64)


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)


def _missing(values: list[float]) -> list[float | None]:
    return [None if value != value else value for value in values]


def _whole(value: Any) -> Any:
    """Return a number as a target: an integer where it is whole, None where it is missing."""
    if value is None or isinstance(value, int):
        return value
    number = float(value)
    if math.isnan(number):
        return None
    return int(number) if number.is_integer() and abs(number) < 2**63 else number


def _nested(values: Any, shape: tuple[int, ...]) -> Any:
    """Return numbers as lists of a shape."""
    if values is None or len(shape) < 2:
        return values
    size = len(values) // shape[0]
    return [_nested(values[i * size : (i + 1) * size], shape[1:]) for i in range(shape[0])]
