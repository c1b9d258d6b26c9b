"""Validation of what a sample is made of, without side effects."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from .encoding import LARGEST, Array, Features
from .errors import SampleError

_EXACT = frozenset({bool, int, float})
_NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)


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
        "invalid_feature", f"x.{key!r:.40}", f"a feature's name is a string, not {type(key).__name__}"
    )


def _position(flat: int, shape: tuple[int, ...]) -> str:
    return "".join(f"[{i}]" for i in np.unravel_index(flat, shape))
