"""Encoding of samples: validation, and growing columns of features and classes.

Two functions convert a dict to a vector, with the same bits. `RowReader` reads dicts with known keys, whose
values are numbers and known strings. It has no loop in Python. `check_features` validates any other dict, and
finds new features and errors. For 64 numbers, `RowReader` takes a fifth of the time of `check_features`.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import SampleError
from .jit import jit

Label: TypeAlias = bool | int | str
Vector: TypeAlias = NDArray[np.float64]

#: Greatest magnitude of a feature or target: the variance of such numbers stays finite in float64.
LARGEST = 1e100

_EXACT = frozenset({bool, int, float})
_NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)
#: Types that `RowReader` reads: strings, and types of which any value is a number, infinity or NaN.
_READABLE = frozenset({bool, int, float, np.float64, np.float32, np.int64, np.int32, str})
#: Kinds of arrays of which every number is one in float64 (a long double may be infinite there).
_DTYPES = "?bhilqBHILQefd"
#: Types of which a value that equals a known label is that label.
_LABEL_TYPES: dict[type, frozenset[type]] = {
    bool: frozenset({bool, np.bool_}),
    int: frozenset({int, np.int64, np.int32, np.uint8}),
    str: frozenset({str, np.str_}),
}


@dataclass(frozen=True, slots=True)
class Features:
    """Validated ``x`` in dict form.

    Attributes
    ----------
    values : dict of str to float
        Value by column; a string feature is the column ``name=value`` with the value 1.
    missing : tuple of str
        Names whose value was None.
    """

    values: dict[str, float]
    missing: tuple[str, ...]


@dataclass(slots=True, eq=False)
class Array:
    """Validated ``x`` as an array: of the input shape, or of the columns known during the check.

    Attributes
    ----------
    values : array of float64
        NaN where a value is missing.
    """

    values: Vector


class Prediction(NamedTuple):
    """Prediction of a model.

    Attributes
    ----------
    value : label, number or None
        The prediction; None before the first label.
    probabilities : dict
        Probability by label, in order of arrival; empty for a regression.
    """

    value: Label | float | None
    probabilities: dict[Label, float]


class Sample(NamedTuple):
    """Validated sample: features, target, weight."""

    features: Features | Array
    target: Label | float
    weight: float


def check_features(x: object) -> Features:
    """Validate a dict of numbers, booleans, strings and None.

    Raises
    ------
    SampleError
        ``"invalid_feature"`` or ``"non_finite_feature"``, naming the feature.
    """
    if not isinstance(x, Mapping):
        raise SampleError("invalid_feature", "x", f"must be a dict of features, not {type(x).__name__}")
    values: dict[str, float] = {}
    missing: list[str] = []
    for key, value in x.items():
        name = key if isinstance(key, str) else _name(key)
        if type(value) in _EXACT and -LARGEST <= value <= LARGEST:  # a third of the time of `_number`
            number = float(value)
        elif value is None:
            missing.append(name)
            continue
        elif isinstance(value, str):
            name, number = f"{name}={value}", 1.0
        else:
            number = _number(value, "feature", f"x.{name}")
        if name in values:
            raise SampleError(
                "invalid_feature", f"x.{name}", "is given twice: rename one of the two features"
            )
        values[name] = number
    return Features(values, tuple(missing))


def check_array(x: object, shape: tuple[int, ...]) -> Array:
    """Validate an array or nested list of the given shape; None stands for a missing value.

    Raises
    ------
    SampleError
        ``"wrong_shape"``, ``"invalid_feature"`` or ``"non_finite_feature"``, naming the position.
    """
    try:
        array = np.asarray(x)
    except ValueError:
        raise SampleError("wrong_shape", "x", f"is ragged: its shape must be {shape}") from None
    if array.shape != shape:
        raise SampleError("wrong_shape", "x", f"has the shape {array.shape}: its shape must be {shape}")
    if array.dtype == object:
        numbers = [
            math.nan if value is None else _number(value, "feature", f"x{_position(i, shape)}")
            for i, value in enumerate(array.flat)
        ]
        return Array(np.array(numbers).reshape(shape))
    if array.dtype.kind not in "biuf":
        raise SampleError("invalid_feature", "x", f"must be an array of numbers, not of {array.dtype}")
    with np.errstate(over="ignore"):  # a long double may be infinite in float64
        result = array.astype(np.float64)
    usable = np.abs(result) <= LARGEST
    if not usable.all():
        first = int(np.argmin(usable))
        _number(result.flat[first], "feature", f"x{_position(first, shape)}")  # raises
    return Array(result)


def check_weight(w: object) -> float:
    """Validate a sample weight: a finite number ≥ 0.

    Raises
    ------
    SampleError
        ``"invalid_weight"``.
    """
    if type(w) is float and 0.0 <= w < math.inf:  # most often
        return w
    if isinstance(w, int | float | np.integer | np.floating) and not isinstance(w, bool):
        try:
            weight = float(w)
        except OverflowError:
            weight = math.inf
        if 0.0 <= weight < math.inf:
            return weight
    raise SampleError("invalid_weight", "w", f"must be a finite number ≥ 0, not {w!r:.40}")


def check_number(y: object) -> float:
    """Validate the target of a regression: a finite number.

    Raises
    ------
    SampleError
        ``"invalid_label"`` or ``"non_finite_label"``.
    """
    return _number(y, "label", "y")


def _number(value: object, what: str, field: str) -> float:
    if not isinstance(value, _NUMBERS):
        allowed = "a number, boolean, string or None" if what == "feature" else "a number"
        raise SampleError(f"invalid_{what}", field, f"must be {allowed}, not {type(value).__name__}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        remedy = "send a number, or None if it is missing" if what == "feature" else "send a number"
        raise SampleError(f"non_finite_{what}", field, f"is not finite: {remedy}")
    if abs(number) > LARGEST:
        raise SampleError(f"invalid_{what}", field, f"is {number:g}: a number must lie within ±{LARGEST:g}")
    return number


def _name(key: object) -> str:
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return str(key)
    raise SampleError(
        "invalid_feature",
        f"x.{key!r:.40}",
        f"a feature name must be a string, not {type(key).__name__}",
    )


def _position(flat: int, shape: tuple[int, ...]) -> str:
    return "".join(f"[{i}]" for i in np.unravel_index(flat, shape))


class RowReader:
    """Reads dicts with given keys, whose values are numbers and known strings.

    Parameters
    ----------
    keys : sequence of str
        All keys of the dicts, at least two.
    columns : dict of str to int
        Column by name.
    one_hot : dict of str to dict of str to int
        Column by feature and value, of string features.
    """

    def __init__(
        self, keys: Sequence[str], columns: Mapping[str, int], one_hot: Mapping[str, Mapping[str, int]]
    ) -> None:
        self._keys = keys
        self._columns = columns
        self._one_hot = one_hot
        self._values = operator.itemgetter(*keys)
        self._layout = struct.Struct(f"{len(keys)}d")
        self._types: list[type] = []
        self._strings: list[int] | None = None  # the positions that `_targets` and `_values_of` are for
        self._targets = np.empty(0, np.int64)
        self._values_of: list[tuple[int, Mapping[str, int]]] = []
        self._latest: tuple[Any, ...] = (object(),)
        self._latest_row = np.empty(0)

    def read(self, x: object) -> Vector | None:
        """Return the values by column, in a read-only array; None if the sample needs `check_features`."""
        if type(x) is not dict or len(x) != len(self._keys):
            return None
        try:
            values = self._values(x)
            # A sample that is predicted is often learned next: the same immutable objects give the same row.
            if all(map(operator.is_, values, self._latest)):
                return self._latest_row
            types = [*map(type, values)]
            if types != self._types and not self._prepare(types):
                return None
            numbers: Sequence[Any] = values
            if self._values_of:
                numbers = [*values]
                for i, column_of in self._values_of:
                    numbers[i] = column_of[values[i]]
            packed = np.empty(len(values))
            self._layout.pack_into(packed.data, 0, *numbers)  # half the time of np.array(numbers)
        except (KeyError, struct.error):  # another key or string; an integer beyond the range of float64
            return None
        row = np.zeros(len(self._columns))
        if not _place(packed, self._targets, LARGEST, row):
            return None
        self._latest, self._latest_row = values, row
        return row

    def _prepare(self, types: list[type]) -> bool:
        """Prepare to read values of these types; return whether they can be read."""
        if not _READABLE.issuperset(types):
            return False
        strings = [i for i, kind in enumerate(types) if kind is str] if str in types else []
        if strings != self._strings:
            targets = [self._columns.get(key, -1) for key in self._keys]
            values_of = [(i, self._one_hot.get(self._keys[i], {})) for i in strings]
            for i in strings:
                targets[i] = _ONE_HOT
            # Two features may share the column "a=b" where a name has the sign: the check tells.
            if -1 in targets or (strings and any("=" in key for key in self._keys)):
                return False
            self._strings, self._targets, self._values_of = strings, np.array(targets, np.int64), values_of
        self._types = types
        return True


#: In the place of a column: the number is a column itself, whose value is 1.
_ONE_HOT = -2


@jit
def _place(numbers: Vector, targets: NDArray[np.int64], largest: float, row: Vector) -> bool:
    """Write numbers to their columns; return whether all magnitudes are at most `largest`."""
    usable = True
    for i in range(numbers.shape[0]):
        usable &= abs(numbers[i]) <= largest
        if targets[i] >= 0:
            row[targets[i]] = numbers[i]
        else:
            row[int(numbers[i])] = 1.0
    return usable


@jit
def _within(row: Vector, largest: float) -> bool:
    """Return whether all magnitudes are at most `largest`; takes a tenth of the time of NumPy."""
    beyond = 0
    for i in range(row.shape[0]):
        beyond += not abs(row[i]) <= largest
    return beyond == 0


def read_array(x: object, shape: tuple[int, ...]) -> Vector | None:
    """Return a copy of an array of numbers of the given shape; None if `x` needs `check_array`."""
    if type(x) is not np.ndarray or x.shape != shape or x.dtype.char not in _DTYPES:
        return None
    values = x.astype(np.float64, order="C")  # another order would compile the step anew
    return values if _within(values.reshape(-1), LARGEST) else None


def compile_encoding() -> None:
    """Compile the functions of this module, or load them from the cache, before the first sample."""
    _within(np.zeros(0), 0.0)
    _place(np.zeros(0), np.zeros(0, np.int64), 0.0, np.zeros(0))


class FeatureIndex:
    """Columns of the features, in order of arrival; the new names of one sample are sorted.

    Parameters
    ----------
    max_features : int
        Maximum number of columns. Further ones are ignored, and counted.
    names : iterable of str
        Initial columns.
    ignored : int
        Initial count.

    Attributes
    ----------
    names : list of str
        Name by column.
    ignored : int
        Number of values that had no column because of `max_features`.
    row : callable
        Returns the vector of an ``x`` with the usual keys and nothing new (`RowReader`); None for any other.
    """

    def __init__(self, max_features: int, names: Iterable[str] = (), ignored: int = 0) -> None:
        self.max_features = max_features
        self.names: list[str] = []
        self.ignored = ignored
        self._columns: dict[str, int] = {}
        self._one_hot: dict[str, dict[str, int]] = {}
        self._keys: tuple[Any, ...] = ()
        self._previous: tuple[Any, ...] = ()
        self.row: Callable[[object], Vector | None]
        self.add(names)

    def copy(self) -> FeatureIndex:
        """Return an independent copy."""
        copy = FeatureIndex(self.max_features, self.names, self.ignored)
        copy._expect(self._keys)
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        # The reader of rows can be neither pickled nor copied.
        return FeatureIndex, (self.max_features, self.names[:], self.ignored)

    def check(self, x: object) -> Features:
        """Validate a dict, as `check_features`. After two dicts with equal keys, `row` reads such dicts."""
        features = check_features(x)
        if type(x) is dict:
            keys = tuple(x)
            if keys == self._previous and keys != self._keys:
                self._expect(keys)
            self._previous = keys
        return features

    def _expect(self, keys: tuple[Any, ...]) -> None:
        """Prepare `row` for dicts with these keys, or with the names of all columns; the order is free."""
        self._keys = keys
        keys = keys or tuple(self.names)
        readable = len(keys) > 1 and {*map(type, keys)} == {str}
        self.row = RowReader(keys, self._columns, self._one_hot).read if readable else _no_row

    def new(self, features: Features) -> list[str]:
        """Return the names that `add` would append; nothing changes."""
        if features.values.keys() <= self._columns.keys():
            return []
        free = self.max_features - len(self.names)
        return sorted(features.values.keys() - self._columns.keys())[:free]

    def add(self, names: Iterable[str]) -> None:
        """Append columns."""
        for name in names:
            column = self._columns[name] = len(self.names)
            self.names.append(name)
            feature, sign, value = name.partition("=")
            if sign:
                self._one_hot.setdefault(feature, {})[value] = column
        self._expect(self._keys)

    def vector(self, features: Features) -> Vector:
        """Return the values by column: 0 where absent, NaN where missing."""
        vector = np.zeros(len(self.names))
        columns = self._columns
        for name, value in features.values.items():
            column = columns.get(name)
            if column is not None:
                vector[column] = value
        for name in features.missing:
            if name in columns:
                vector[columns[name]] = math.nan
            vector[[*self._one_hot.get(name, {}).values()]] = math.nan
        return vector

    def widen(self, row: Vector) -> Vector:
        """Return a `row` of an earlier number of columns, with 0 in the columns added since."""
        missing = len(self.names) - len(row)
        return np.concatenate([row, np.zeros(missing)]) if missing > 0 else row

    def count_ignored(self, features: Features) -> None:
        """Count the values that have no column."""
        if len(self.names) >= self.max_features:
            self.ignored += len(features.values.keys() - self._columns.keys())


def _no_row(x: object) -> None:
    """Return None, so that `check` reads every sample: as fast with fewer than two features."""


class LabelIndex:
    """Targets of a classification: classes in order of arrival, of one type: bool, int or str.

    Parameters
    ----------
    max_classes : int
        Maximum number of classes. A further class is an error.

    Attributes
    ----------
    labels : list of bool, int or str
        Label by class.
    """

    def __init__(self, max_classes: int, labels: Iterable[Label] = ()) -> None:
        self.max_classes = max_classes
        self.labels: list[Label] = []
        self._classes: dict[Label, int] = {}
        self._types: frozenset[type] = frozenset()
        for label in labels:
            self.add(label)

    def __len__(self) -> int:
        return len(self.labels)

    def copy(self) -> LabelIndex:
        """Return an independent copy."""
        return LabelIndex(self.max_classes, self.labels)

    def find(self, y: Any) -> int | None:
        """Return the class of a known label; None for any other `y`."""
        return self._classes.get(y) if type(y) in self._types else None

    def code(self, label: Label) -> int | None:
        """Return the class of a label that `check` returned; None if it is a new class."""
        return self._classes.get(label)

    def codes(self, Y: Sequence[object]) -> tuple[Vector, dict[int, Label]]:
        """Return the classes of labels that are learned in order, and the new labels by position.

        Raises
        ------
        SampleError
            The error of `check` for the first invalid label.
        """
        labels, new = self.copy(), dict[int, Label]()
        classes = [labels.find(y) for y in Y]
        for i in (i for i, known in enumerate(classes) if known is None):
            label = labels.check(Y[i])
            if label not in labels._classes:
                new[i] = label
                labels.add(label)
            classes[i] = labels._classes[label]
        return np.array(classes, np.float64), new

    def read(self, outputs: Vector) -> list[Prediction]:
        """Return the predictions in the outputs of an engine, of shape (N, classes)."""
        labels = self.labels
        return [
            Prediction(labels[best], dict(zip(labels, row, strict=True)))
            for best, row in zip(outputs.argmax(axis=1).tolist(), outputs.tolist(), strict=True)
        ]

    def check(self, y: object) -> Label:
        """Return `y` as a Python bool, int or str.

        Raises
        ------
        SampleError
            ``"invalid_label"``, ``"label_type"`` (another type than the labels before it) or
            ``"too_many_classes"``.
        """
        if (known := self.find(y)) is not None:  # most often
            return self.labels[known]  # one object for all samples with the label
        label = _label(y)
        if self.labels and type(label) is not type(self.labels[0]):
            kind, first = type(label).__name__, self.labels[0]
            raise SampleError(
                "label_type",
                "y",
                f"is of type {kind}, but this model's labels are {type(first).__name__}, such as {first!r}",
            )
        if label not in self._classes and len(self.labels) >= self.max_classes:
            raise SampleError(
                "too_many_classes", "y", f"{label!r:.80} would be more than {self.max_classes} classes"
            )
        return label

    def add(self, label: Label) -> None:
        """Append a class, unless it exists."""
        if label not in self._classes:
            self._classes[label] = len(self.labels)
            self.labels.append(label)
            self._types = _LABEL_TYPES[type(self.labels[0])]


class NumberTargets:
    """Targets of a regression: one output, which exists after the first number.

    Attributes
    ----------
    started : bool
        Whether a number was learned.
    """

    def __init__(self, started: bool = False) -> None:
        self.started = started

    def copy(self) -> NumberTargets:
        """Return an independent copy."""
        return NumberTargets(self.started)

    def find(self, y: Any) -> float | None:
        """Return a number that is valid and adds no output; None for any other `y`."""
        if self.started and type(y) in (float, int, np.float64) and abs(y) <= LARGEST:
            return float(y)
        return None

    def check(self, y: object) -> float:
        """Return `y` as a float; raises as `check_number`."""
        return check_number(y)

    def code(self, target: float) -> float | None:
        """Return a target that `check` returned; None if it is the first."""
        return target if self.started else None

    def codes(self, Y: Sequence[object]) -> tuple[Vector, dict[int, float]]:
        """Return the targets as an array, and the first by its position; raises as `check`."""
        numbers = [check_number(y) for y in Y]
        return np.array(numbers, np.float64), dict(enumerate(numbers[: 0 if self.started else 1]))

    def add(self, target: object) -> None:
        """Record that a number was learned."""
        self.started = True

    def read(self, outputs: Vector) -> list[Prediction]:
        """Return the predictions in the outputs of an engine, of shape (N, 1)."""
        return [Prediction(value, {}) for value in outputs[:, 0].tolist()]


def _label(y: object) -> Label:
    if isinstance(y, bool | np.bool_):
        return bool(y)
    if isinstance(y, int | np.integer):
        if -(2**63) <= y < 2**63:
            return int(y)
        raise SampleError("invalid_label", "y", "an integer label must fit in 64 bits")
    if isinstance(y, str):
        return str(y)
    if isinstance(y, float | np.floating):
        raise SampleError(
            "invalid_label",
            "y",
            "a class must be bool, int or str, not float: create a regression model for numbers",
        )
    raise SampleError("invalid_label", "y", f"a class must be bool, int or str, not {type(y).__name__}")
