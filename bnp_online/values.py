"""Values of a sample: their types, and their validation.

Features are numbers, booleans, strings and missing values. Other types with such a meaning are converted:
NumPy and torch scalars, decimals, fractions, dates, times and durations.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import SampleError
from .words import counted, words

Label: TypeAlias = bool | int | str
Vector: TypeAlias = NDArray[np.float64]
#: One number. Another thread sets it to another value than 0 to end a compiled call early.
Flag: TypeAlias = NDArray[np.int64]


class Derived(NamedTuple):
    """Key of a column that a model computes from other features (`bnp_online.sparse`).

    Attributes
    ----------
    scope : {"field", "sums", "pairs", "log"}
        What it describes: one field, all fields, pairs of values, or a number.
    name : str
        Name of the field or of the number.
    output : int
        Class, or 1 for a regression; 0 is the column of counts.
    part : int
        Set of columns of a text.
    """

    scope: str
    name: str
    output: int
    part: int


Column: TypeAlias = "str | tuple[str, str] | Derived"
"""Key of a column: the name of a feature with numbers; name and value of a feature with strings."""

#: Greatest magnitude of a feature or target: the variance of such numbers stays finite in float64.
LARGEST = 1e100

_EXACT = frozenset({bool, int, float})
_LISTS = frozenset({list, tuple})
#: Types of dates, times and durations, which are numbers of seconds in features alone.
TIMES = date | time | timedelta | np.datetime64 | np.timedelta64
_CLASS = "a class must be {bool}, {int} or {str}, not {given}"
_CLASS_TYPES: dict[str, Any] = {"bool": bool, "int": int, "str": str}


@dataclass(frozen=True, slots=True)
class Features:
    """Validated ``x`` in dict form.

    Attributes
    ----------
    values : dict of Column to float
        Value by column; a feature with strings has a column for each value, with the value 1.
    missing : tuple of str
        Names whose value is missing.
    texts : tuple of str
        Names of the features with words or counts in place of one value.
    """

    values: dict[Column, float]
    missing: tuple[str, ...]
    texts: tuple[str, ...] = ()


class TextRules(NamedTuple):
    """Features whose values are words or counts.

    Attributes
    ----------
    text : frozenset of str
        Names of the features with text.
    prefixes : tuple of str
        Beginnings of the names of numbers that are counts.
    ngrams : int
        Greatest number of words of a sequence that counts as a value.
    """

    text: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()
    ngrams: int = 1


@dataclass(slots=True, eq=False)
class Array:
    """Validated ``x`` as an array: of the input shape, or of the columns known during the check.

    Attributes
    ----------
    values : array of float64
        NaN where a value is missing.
    """

    values: Vector


class Evidence(NamedTuple):
    """Evidence of one value of a sample, a string or a word, as the model has counted it.

    Attributes
    ----------
    feature, value : str
        The feature, and its value.
    samples : float
        Weight of the samples that had the value; at most 1,000, because older ones count less.
    label : bool, int, str or None
        The class for which the value speaks most; None for a regression.
    strength : float
        How much the value raises the log odds of that class, or the target of a regression, with few samples
        shrunk towards 0.
    """

    feature: str
    value: str
    samples: float
    label: Label | None
    strength: float


class Explanation(NamedTuple):
    """How much each feature moved a prediction: ``output = baseline + Σ contributions``.

    Attributes
    ----------
    prediction : label, number or None
        The prediction; None before the first label.
    label : label or None
        Class that is explained; None for a regression.
    output : float
        What is explained: the log odds ``log(p/(1 − p))`` of the class, with p bounded by 1e-12 and
        1 − 1e-12, or the predicted number.
    baseline : float
        The output with all features missing, so that each is at its running mean.
    contributions : dict of str to float, or array
        What each feature added to the baseline, also an absent one. For a model with an input shape an array
        of this shape, and for one with a backbone an array with an entry for each of its features.
    """

    prediction: Label | float | None
    label: Label | None
    output: float
    baseline: float
    contributions: Any


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


@dataclass(frozen=True, slots=True, eq=False)
class ExpertPredictions:
    """Predictions of the experts of a model for a sample, to be judged once its label arrives.

    Attributes
    ----------
    labels : tuple of label
        Classes of the columns; empty for a regression.
    values : array of shape (experts, classes) or (experts, 1)
        Probabilities, or predicted numbers. NaN where an expert has no prediction.
    """

    labels: tuple[Label, ...]
    values: Vector


class Sample(NamedTuple):
    """Validated sample: features, target, weight, and predictions that the experts made for it earlier."""

    features: Features | Array
    target: Label | float
    weight: float
    given: ExpertPredictions | None = None


class SampleRows(NamedTuple):
    """Validated samples whose features and targets a model knows, as arrays; row i is sample i.

    Attributes
    ----------
    columns : tuple of Column
        Features by column of `values`; the model may have further ones since, which are absent.
    values : array of float64, shape (N, columns)
        NaN where a value is missing, 0 where a feature is absent.
    targets : array of float64, shape (N,)
        Positions in `labels`, or the numbers of a regression.
    labels : tuple
        Labels of a classification.
    weights : array of float64, shape (N,)
        Weights, finite and ≥ 0.
    """

    columns: tuple[Column, ...]
    values: Vector
    targets: Vector
    labels: tuple[Label, ...]
    weights: Vector

    def part(self, start: int, stop: int) -> SampleRows:
        """Return some of the samples."""
        values, targets, weights = (each[start:stop] for each in (self.values, self.targets, self.weights))
        return SampleRows(self.columns, values, targets, self.labels, weights)


def check_features(x: object, rules: TextRules | None = None) -> Features:
    """Validate a dict of features.

    Parameters
    ----------
    x : mapping
        Values by name. A name is a string, an integer or a tuple of those. NaN, NaT, NA and None are missing
        values. A date or time counts as seconds since 1970 (UTC, unless it has a time zone), a duration as
        seconds.

    Raises
    ------
    SampleError
        ``"invalid_feature"`` or ``"non_finite_feature"``, naming the feature.
    """
    if not isinstance(x, Mapping):
        message = "must be of type {dict}, with features by name, not {kind}"
        raise SampleError("invalid_feature", "x", message, dict=dict, kind=type(x))
    values: dict[Column, float] = {}
    missing: list[str] = []
    texts: list[str] = []
    for key, value in x.items():
        name = key if type(key) is str else feature_name(key, x)
        column: Column = name
        if rules is not None and (type(value) in _LISTS or name in rules.text) and value is not None:
            if found := _words(value, name, rules.ngrams):  # without a word it is as an absent feature
                texts.append(name)
                values.update({(name, word): times for word, times in found.items()})
            continue
        if type(value) in _EXACT and -LARGEST <= value <= LARGEST:  # a third of the time of `read_value`
            number = float(value)
        elif type(value) is str:
            column, number = (name, value), 1.0
        else:
            read = read_value(value, "feature", f"x.{name}")
            if read is None:
                missing.append(name)
                continue
            column, number = ((name, read), 1.0) if isinstance(read, str) else (name, read)
        if column in values:
            raise given_twice(name)
        values[column] = number
    if rules is not None and rules.prefixes:
        texts += _gather_counts(values, rules.prefixes)
    return Features(values, tuple(missing), tuple(texts))


def _words(value: object, name: str, ngrams: int) -> dict[str, float]:
    """Return the number of times of each word of a text, or of each string of a list."""
    if isinstance(value, list | tuple):
        check_strings(value, name)
        return counted(map(str, value), ngrams)
    read = read_value(value, "feature", f"x.{name}")
    if read is None:
        return {}
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        value = read  # the nearest float, which a decoder of JSON may return
    text = read if isinstance(read, str) else str(value)
    return counted(words(text), ngrams)


def check_strings(values: Sequence[object], name: str) -> None:
    """Check that a list in a feature has strings alone.

    Raises
    ------
    SampleError
        ``"invalid_feature"``, with the position of the first other value.
    """
    for i, each in enumerate(values):
        if not isinstance(each, str):
            message = "must be a list of strings, but entry {position} is of type {kind}"
            if isinstance(each, int | float | np.number):
                message += ": send each number as a feature of its own, or as a string"
            raise SampleError("invalid_feature", f"x.{name}", message, position=i, kind=type(each))


def _gather_counts(values: dict[Column, float], prefixes: tuple[str, ...]) -> list[str]:
    """Replace the numbers whose names begin with a prefix by values of a field; return the fields."""
    found: dict[str, None] = {}
    for column in [column for column in values if isinstance(column, str) and column.startswith(prefixes)]:
        prefix = next(each for each in prefixes if column.startswith(each))
        values[f"{prefix}*", column[len(prefix) :]] = values.pop(column)
        found[f"{prefix}*"] = None
    return [*found]


def check_array(x: object, shape: tuple[int, ...]) -> Array:
    """Validate an array or nested list of the given shape; None and NaN stand for a missing value.

    Raises
    ------
    SampleError
        ``"wrong_shape"``, ``"invalid_feature"`` or ``"non_finite_feature"``, naming the position.
    """
    try:
        array = np.asarray(x)
    except ValueError:
        message = "is ragged: its shape must be {shape}"
        raise SampleError("wrong_shape", "x", message, shape=shape) from None
    if array.shape == () and not isinstance(x, np.ndarray):
        message = "must be an array of the shape {shape}, not {kind}"
        raise SampleError("wrong_shape", "x", message, shape=shape, kind=type(x))
    if array.shape != shape:
        message = "has the shape {found}: its shape must be {shape}"
        raise SampleError("wrong_shape", "x", message, found=array.shape, shape=shape)
    if array.dtype == object:
        numbers = [_element(value, f"x{_position(i, shape)}") for i, value in enumerate(array.flat)]
        return Array(np.array(numbers).reshape(shape))
    if array.dtype.kind not in "biuf":
        message = "must be an array of numbers, not of {kind}"
        raise SampleError("invalid_feature", "x", message, kind=array.dtype.type)
    with np.errstate(over="ignore"):  # a long double may be infinite in float64
        result = array.astype(np.float64)
    beyond = np.abs(result) > LARGEST
    if beyond.any():
        first = int(np.argmax(beyond))
        _element(result.flat[first], f"x{_position(first, shape)}")  # raises
    return Array(result)


def _element(value: object, field: str) -> float:
    read = read_value(value, "feature", field)
    if isinstance(read, str):
        raise SampleError(
            "invalid_feature", field, "must be a number or {none}, not {kind}", none=None, kind=str
        )
    return math.nan if read is None else read


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
    raise SampleError("invalid_weight", "w", "must be a finite number ≥ 0, not {value}", value=w)


def check_number(y: object) -> float:
    """Validate the target of a regression: a finite number.

    Raises
    ------
    SampleError
        ``"invalid_label"`` or ``"non_finite_label"``.
    """
    if type(y) is float and -LARGEST <= y <= LARGEST:  # most often
        return y
    read = read_value(y, "label", "y")
    if isinstance(y, str | TIMES) and read is not None:
        raise SampleError("invalid_label", "y", "must be a number, not {kind}", kind=type(y))
    if read is None:
        code = "invalid_label" if y is None else "non_finite_label"
        raise SampleError(code, "y", "is missing: leave out samples without a target")
    assert isinstance(read, float)  # noqa: S101 (strings were refused above)
    return read


def check_label(y: object) -> Label:
    """Return the label of a classification as a Python bool, int or str. A whole float is its integer.

    Raises
    ------
    SampleError
        ``"invalid_label"``; also for a date, a time or a duration, which are numbers only in features.
    """
    given, y = y, scalar(y)
    if isinstance(y, bool | np.bool_):
        return bool(y)
    least = -(2**63)
    if isinstance(y, float) and y.is_integer():
        least += 1  # as a float it may be a lower integer: a decoder of JSON may return the nearest float
        y = None if isinstance(given, TIMES) else int(y)
    if isinstance(y, int):
        if least <= y < 2**63:
            return y
        raise SampleError("invalid_label", "y", "an integer label must fit in 64 bits")
    if isinstance(y, str):
        return str(y)
    if isinstance(given, TIMES) and given == given:
        message = f"{_CLASS}: send it as a string, or as a number to a regression model"
        raise SampleError("invalid_label", "y", message, **_CLASS_TYPES, given=type(given))
    if y is None or y != y:
        raise SampleError("invalid_label", "y", "is missing: leave out samples without a label")
    if isinstance(y, float):
        raise SampleError(
            "invalid_label",
            "y",
            f"{_CLASS}: create a regression model for numbers",
            **_CLASS_TYPES,
            given=y,
        )
    raise SampleError("invalid_label", "y", _CLASS, **_CLASS_TYPES, given=type(y))


def read_value(value: object, what: str, field: str) -> float | str | None:
    """Return a value as a number or a string; None if it is missing.

    Raises
    ------
    SampleError
        If the value is infinite or too large, or of another type.
    """
    plain = scalar(value)
    if plain is None or isinstance(plain, str):
        return plain if plain is None else str(plain)
    if isinstance(plain, bool | int | float):
        try:
            number = float(plain)
        except OverflowError:
            number = math.inf
        if abs(number) <= LARGEST:
            return number
        if number != number:
            return None
        if math.isinf(number):
            remedy = "send a number, or {none} if it is missing" if what == "feature" else "send a number"
            raise SampleError(f"non_finite_{what}", field, f"is not finite: {remedy}", none=None)
        raise SampleError(f"invalid_{what}", field, f"is {number:g}: a number must lie within ±{LARGEST:g}")
    allowed = "a number, boolean, string or {none}" if what == "feature" else "a number"
    remedy = ""
    if isinstance(value, Mapping) and what == "feature":
        remedy = ": send each entry as a feature, such as 'w:free' and 'w:money' with sparse=['w:*']"
    raise SampleError(
        f"invalid_{what}", field, f"must be {allowed}, not {{kind}}{remedy}", none=None, kind=type(value)
    )


def scalar(value: object) -> object:
    """Return a scalar as a Python bool, int, float or str, None if it is missing, and others unchanged."""
    if isinstance(value, np.datetime64 | np.timedelta64):
        value = value - np.datetime64(0, "s") if isinstance(value, np.datetime64) else value
        return float(value / np.timedelta64(1, "s"))  # NaN for NaT
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # of NumPy or torch
        value = value.item()
    if isinstance(value, date | time | timedelta):
        return seconds(value)
    if isinstance(value, Decimal) and value.is_snan():
        return None
    if isinstance(value, Decimal | Fraction | np.floating):  # a long double has no `item` in Python's types
        return float(value)
    pandas = sys.modules.get("pandas")
    return None if pandas is not None and value is pandas.NA else value


def seconds(value: date | time | timedelta) -> float:
    """Return a date or time as seconds since 1970, a time of day and a duration as seconds; NaN for NaT.

    A time without a time zone is in UTC.

    Examples
    --------
    >>> seconds(date(1970, 1, 2)), seconds(timedelta(minutes=1)), seconds(time(1, 0))
    (86400.0, 60.0, 3600.0)
    """
    if value != value:
        return math.nan
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, time):
        return timedelta(
            hours=value.hour, minutes=value.minute, seconds=value.second, microseconds=value.microsecond
        ).total_seconds()
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()


def feature_name(key: object, x: Mapping[Any, Any]) -> str:
    """Return a key that is not a plain string as the name of a feature."""
    if isinstance(key, str):
        return str(key)
    if isinstance(key, tuple):
        name = str(tuple(part if isinstance(part, str) else feature_name(part, {}) for part in key))
    elif isinstance(key, int | np.integer) and not isinstance(key, bool):
        name = str(key)
    else:
        raise SampleError(
            "invalid_feature",
            f"x.{key!r:.40}",
            f"a feature name must be a string, an integer or a tuple, not {type(key).__name__}",
        )
    if name in x:
        raise given_twice(name)
    return name


def given_twice(name: str) -> SampleError:
    """Return the error for a feature that a sample has twice."""
    return SampleError("invalid_feature", f"x.{name}", "is given twice: rename one of the two features")


def at_row(function: Callable[..., Any], row: int, *arguments: Any) -> Any:
    """Call a function for one row; a `SampleError` gets the number of the row."""
    try:
        return function(*arguments)
    except SampleError as error:
        raise error.at(row) from None


def _position(flat: int, shape: tuple[int, ...]) -> str:
    return "".join(f"[{i}]" for i in np.unravel_index(flat, shape))
