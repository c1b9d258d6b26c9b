"""From samples to vectors: validation without side effects, and indices that only ever append."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import SampleError

Label: TypeAlias = bool | int | str
Vector: TypeAlias = NDArray[np.float64]

#: Greatest magnitude of a feature or target: the variance of such numbers stays finite in float64.
LARGEST = 1e100


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


@dataclass(frozen=True, slots=True, eq=False)
class Array:
    """A validated ``x`` of a model with a fixed input shape.

    Attributes
    ----------
    values : array of float64 of that shape
        NaN where a value is missing.
    """

    values: Vector


@dataclass(frozen=True, slots=True)
class Sample:
    """A validated sample: features, target, weight."""

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
        if value is None:
            missing.append(name)
            continue
        if isinstance(value, str):
            name, number = f"{name}={value}", 1.0
        else:
            number = _number(value, "feature", f"x.{name}")
        if name in values:
            raise SampleError("invalid_feature", f"x.{name}", "stands twice: rename one of the two features")
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
        raise SampleError("wrong_shape", "x", f"is ragged: send an array of shape {shape}") from None
    if array.shape != shape:
        raise SampleError("wrong_shape", "x", f"has the shape {array.shape}: send an array of shape {shape}")
    if array.dtype == object:
        numbers = [
            math.nan if value is None else _number(value, "feature", f"x{_position(i, shape)}")
            for i, value in enumerate(array.flat)
        ]
        return Array(np.array(numbers).reshape(shape))
    if array.dtype.kind not in "biuf":
        raise SampleError("invalid_feature", "x", f"holds {array.dtype}, not numbers")
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
    if not isinstance(value, bool | int | float | np.bool_ | np.integer | np.floating):
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
        "invalid_feature", f"x.{key!r:.40}", f"a feature's name is a string, not {type(key).__name__}"
    )


def _position(flat: int, shape: tuple[int, ...]) -> str:
    return "".join(f"[{i}]" for i in np.unravel_index(flat, shape))


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
    """

    def __init__(self, max_features: int, names: Iterable[str] = (), ignored: int = 0) -> None:
        self.max_features = max_features
        self.names: list[str] = []
        self.ignored = ignored
        self._columns: dict[str, int] = {}
        self._one_hot: dict[str, list[int]] = {}
        self.add(names)

    def copy(self) -> FeatureIndex:
        """Return an index that can grow by itself."""
        return FeatureIndex(self.max_features, self.names, self.ignored)

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

    def count_ignored(self, features: Features) -> None:
        """Count the values that have no column."""
        if len(self.names) >= self.max_features:
            self.ignored += len(features.values.keys() - self._columns.keys())


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
        self.labels: list[Label] = list(labels)
        self._classes: dict[Label, int] = {label: i for i, label in enumerate(self.labels)}

    def __len__(self) -> int:
        return len(self.labels)

    def __contains__(self, label: Label) -> bool:
        return label in self._classes

    def __getitem__(self, label: Label) -> int:
        return self._classes[label]

    def copy(self) -> LabelIndex:
        """Return an index that can grow by itself."""
        return LabelIndex(self.max_classes, self.labels)

    def check(self, y: object) -> Label:
        """Return `y` as a Python bool, int or str, if it is or may become a class.

        Raises
        ------
        SampleError
            ``"invalid_label"``, ``"label_type"`` (another type than the labels before it) or
            ``"too_many_classes"``.
        """
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
