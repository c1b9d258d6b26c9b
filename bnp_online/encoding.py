"""From samples to vectors: indices that only ever append."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import SampleError
from .rows import RowReader

Label: TypeAlias = bool | int | str
Vector: TypeAlias = NDArray[np.float64]

#: Greatest magnitude of a feature or target: the variance of such numbers stays finite in float64.
LARGEST = 1e100

#: Types of which a value that equals a known label is that label.
_LABEL_TYPES: dict[type, frozenset[type]] = {
    bool: frozenset({bool, np.bool_}),
    int: frozenset({int, np.int64, np.int32, np.uint8}),
    str: frozenset({str, np.str_}),
}


@dataclass(frozen=True, slots=True)
class Features:
    """A validated ``x`` in dict form.

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
    """A validated ``x`` of a model with a fixed input shape, or of exactly the features known at the time.

    Attributes
    ----------
    values : array of float64 of that shape, or of shape (features,)
        NaN where a value is missing.
    """

    values: Vector


class Sample(NamedTuple):
    """A validated sample: features, target, weight."""

    features: Features | Array
    target: Label | float
    weight: float


class FeatureIndex:
    """Columns of the features, in order of arrival; names new in one sample are taken in sorted order.

    Parameters
    ----------
    max_features : int
        Columns beyond this many are ignored, and counted.
    names : iterable of str
        Columns to begin with.
    ignored : int
        Count to begin with.

    Attributes
    ----------
    names : list of str
        Name by column.
    ignored : int
        How many values had no column because of `max_features`.
    row : callable
        Takes an ``x`` and returns its vector if it is a dict of exactly these columns, all plain numbers;
        None for any other.
    """

    def __init__(self, max_features: int, names: Iterable[str] = (), ignored: int = 0) -> None:
        self.max_features = max_features
        self.names: list[str] = []
        self.ignored = ignored
        self._columns: dict[str, int] = {}
        self._one_hot: dict[str, list[int]] = {}
        self.row: Callable[[object], Vector | None]
        self.add(names)

    def copy(self) -> FeatureIndex:
        """Return an index that can grow by itself."""
        return FeatureIndex(self.max_features, self.names, self.ignored)

    def __reduce__(self) -> tuple[Any, ...]:
        # The reader of rows is compiled from the names, and can be neither pickled nor copied.
        return FeatureIndex, (self.max_features, self.names[:], self.ignored)

    def new(self, features: Features) -> list[str]:
        """Return the names that `add` would append: nothing is changed."""
        if features.values.keys() <= self._columns.keys():
            return []
        room = self.max_features - len(self.names)
        return sorted(features.values.keys() - self._columns.keys())[:room]

    def add(self, names: Iterable[str]) -> None:
        """Append columns."""
        for name in names:
            column = self._columns[name] = len(self.names)
            self.names.append(name)
            stem, sign, _ = name.partition("=")
            if sign:
                self._one_hot.setdefault(stem, []).append(column)
        self.row = RowReader(self.names, LARGEST).read if len(self.names) > 1 else _no_row

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
            vector[self._one_hot.get(name, [])] = math.nan
        return vector

    def widen(self, row: Vector) -> Vector:
        """Return a `row` read when there were fewer columns with 0 in those that came since."""
        missing = len(self.names) - len(row)
        return np.concatenate([row, np.zeros(missing)]) if missing > 0 else row

    def count_ignored(self, features: Features) -> None:
        """Count the values that have no column."""
        if len(self.names) >= self.max_features:
            self.ignored += len(features.values.keys() - self._columns.keys())


def _no_row(x: object) -> None:
    """Send every sample the long way, which for one feature or none is as short."""


class LabelIndex:
    """Classes in order of arrival, all of one type: bool, int or str.

    Parameters
    ----------
    max_classes : int
        One more class than this is an error.

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

    def __contains__(self, label: Label) -> bool:
        return label in self._classes

    def __getitem__(self, label: Label) -> int:
        return self._classes[label]

    def copy(self) -> LabelIndex:
        """Return an index that can grow by itself."""
        return LabelIndex(self.max_classes, self.labels)

    def find(self, y: Any) -> int | None:
        """Return the class of a label that is known; None for any other `y`, which `check` judges."""
        return self._classes.get(y) if type(y) in self._types else None

    def check(self, y: object) -> Label:
        """Return `y` as a Python bool, int or str, if it is or may become a class.

        Raises
        ------
        SampleError
            ``"invalid_label"``, ``"label_type"`` (another type than the labels before it) or
            ``"too_many_classes"``.
        """
        if self.labels and type(y) is type(self.labels[0]) and y in self._classes:  # most often
            return y
        label = _label(y)
        if self.labels and type(label) is not type(self.labels[0]):
            kind, first = type(label).__name__, self.labels[0]
            raise SampleError(
                "label_type",
                "y",
                f"is of type {kind}, but this model's labels are {type(first).__name__}: {first!r}",
            )
        if label not in self._classes and len(self.labels) >= self.max_classes:
            raise SampleError(
                "too_many_classes", "y", f"{label!r:.80} would be more than {self.max_classes} classes"
            )
        return label

    def add(self, label: Label) -> None:
        """Append a class, unless it is there."""
        if label not in self._classes:
            self._classes[label] = len(self.labels)
            self.labels.append(label)
            self._types = _LABEL_TYPES[type(self.labels[0])]


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
            "a class is bool, int or str, not float: for numbers make a regression model",
        )
    raise SampleError("invalid_label", "y", f"a class is bool, int or str, not {type(y).__name__}")
