"""Values of a sample as JSON: what an estimator accepts, the client sends as what the estimator reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from ..errors import SampleError
from ..values import (
    LARGEST,
    TIMES,
    check_array,
    check_label,
    check_number,
    check_strings,
    check_weight,
    feature_name,
    given_twice,
    read_value,
    scalar,
)

#: Types that JSON has.
_EXACT = frozenset({bool, int, float})
_PLAIN = _EXACT | {str}
_NAMES = frozenset({str})

JsonValue: TypeAlias = bool | int | float | str | list[str] | None


def features(x: object) -> dict[str, JsonValue] | list[Any]:
    """Return features as JSON.

    A missing value (NaN, NaT, NA, None) is null. A date, time or duration is a number of seconds, as in
    `bnp_online.values.check_features`. A name that is an integer or a tuple is its string. A list of strings
    remains one.

    Raises
    ------
    SampleError
        If a value cannot be sent; with the name of the feature.

    Examples
    --------
    >>> from datetime import timedelta
    >>> features({"age": timedelta(minutes=1), "size": float("nan"), ("a", "b"): True})
    {'age': 60.0, 'size': None, "('a', 'b')": True}
    >>> features({"title": ("free", "money")})
    {'title': ['free', 'money']}
    """
    if not isinstance(x, Mapping):
        return _nested_lists(x)
    if _is_json(x):
        return dict(x)
    converted: dict[str, JsonValue] = {}
    for key, value in x.items():
        name = key if type(key) is str else feature_name(key, x)
        if name in converted:
            raise given_twice(name)
        if type(value) is str or (type(value) in _EXACT and -LARGEST <= value <= LARGEST):
            converted[name] = value
        elif isinstance(value, list | tuple):
            converted[name] = _strings(value, name)
        else:
            converted[name] = read_value(value, "feature", f"x.{name}")
    return converted


def _strings(value: Sequence[object], name: str) -> list[str]:
    check_strings(value, name)
    return [*map(str, value)]


def _is_json(x: Mapping[Any, Any]) -> bool:
    """Return whether all names and values are those of JSON; in a third of the time of a loop."""
    kinds = {*map(type, x.values())}
    if not (kinds <= _PLAIN and {*map(type, x)} <= _NAMES):
        return False
    numbers = [value for value in x.values() if type(value) is not str] if str in kinds else x.values()
    try:
        return bool(sum(map(abs, numbers)) <= LARGEST)  # NaN is not
    except OverflowError:
        return False


def _nested_lists(x: object) -> list[Any]:
    """Return an array or a nested list as nested lists of numbers, with null for a missing value."""
    try:
        array = np.asarray(x)
    except ValueError:
        raise SampleError(
            "wrong_shape", "x", "is ragged: it must have the input shape of the model"
        ) from None
    if array.ndim == 0:
        message = f"must be a dict of features, an array or a nested list, not {type(x).__name__}"
        raise SampleError("invalid_feature", "x", message)
    if array.dtype.kind not in "biu":
        array = check_array(array, array.shape).values
        if (missing := np.isnan(array)).any():
            array = array.astype(object)
            array[missing] = None
    nested: list[Any] = array.tolist()
    return nested


def target(y: object) -> bool | int | float | str:
    """Return a class or a number as JSON.

    Raises
    ------
    SampleError
        If it cannot be sent.

    Examples
    --------
    >>> target(np.int64(3)), target(np.bool_(True)), target("cat")
    (3, True, 'cat')
    """
    if type(y) in _PLAIN and type(y) is not float:  # most often
        return y  # type: ignore[return-value]  # of one of these types
    if isinstance(y, TIMES):
        return check_label(y)
    plain = scalar(y)
    for kind in (bool, str, int):
        if isinstance(plain, kind):
            return kind(plain)
    if plain is None or isinstance(plain, float):
        return check_number(y)
    kind_of = type(y).__name__
    raise SampleError("invalid_label", "y", f"must be a class (bool, int, str) or a number, not {kind_of}")


def fields(*, id: object = None, w: object = 1.0) -> Iterator[tuple[str, Any]]:
    """Yield the optional fields of a body that differ from their defaults.

    Raises
    ------
    SampleError
        If one of them cannot be sent.
    """
    if id is not None:
        if not isinstance(id, str):
            raise SampleError("invalid_id", "id", f"must be a string, not {type(id).__name__}: send str(id)")
        yield "id", id
    if (weight := check_weight(w)) != 1.0:
        yield "w", weight
