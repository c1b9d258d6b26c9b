from __future__ import annotations

import math
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # it ships no types
import pytest
import torch

from bnp_online.client.values import target
from bnp_online.errors import SampleError
from bnp_online.values import (
    LARGEST,
    Column,
    Features,
    check_array,
    check_features,
    check_label,
    check_number,
    check_weight,
)


def refusal(function: Any, *arguments: Any) -> tuple[str, str]:
    """Code and field of the SampleError; its message names the field and what to do."""
    with pytest.raises(SampleError) as caught:
        function(*arguments)
    error = caught.value
    assert str(error) == f"{error.field}: {error.message}"
    assert len(error.message) > 10
    return error.code, error.field


# --- x as a dict


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3.0),
        (2**70, 2.0**70),
        (-1.5, -1.5),
        (True, 1.0),
        (False, 0.0),
        (np.float32(0.5), 0.5),
        (np.float16(0.25), 0.25),
        (np.int8(-3), -3.0),
        (np.uint64(2**63), 2.0**63),
        (np.bool_(True), 1.0),
        (LARGEST, LARGEST),
        (-LARGEST, -LARGEST),
        (-0.0, 0.0),
        (5e-324, 5e-324),
    ],
)
def test_a_number_or_boolean_is_a_float(value: object, number: float) -> None:
    features = check_features({"a": value})
    assert features == Features({"a": number}, ())
    assert type(features.values["a"]) is float


@pytest.mark.parametrize("value", [math.inf, -math.inf, np.float32("inf"), 10**400, -(10**400)])
def test_a_feature_must_be_finite(value: object) -> None:
    assert refusal(check_features, {"ok": 1, "a": value}) == ("non_finite_feature", "x.a")


@pytest.mark.parametrize(
    "value", [[1], {"b": 1}, (1,), b"x", 1j, np.array([1.0]), torch.ones(1), object(), np.void(b"1")]
)
def test_a_feature_must_be_a_scalar(value: object) -> None:
    assert refusal(check_features, {"ok": 1, "a": value}) == ("invalid_feature", "x.a")


@pytest.mark.parametrize("value", [1.0001 * LARGEST, -1e300, 10**101, np.float64(1e308)])
def test_a_feature_whose_variance_would_overflow_is_refused(value: object) -> None:
    assert refusal(check_features, {"a": value}) == ("invalid_feature", "x.a")


@pytest.mark.parametrize("x", [None, 1.0, "a", [("a", 1)], [1.0, 2.0], {"a"}, np.zeros(2)])
def test_x_must_be_a_dict(x: object) -> None:
    assert refusal(check_features, x) == ("invalid_feature", "x")


def test_an_empty_dict_is_a_sample() -> None:
    assert check_features({}) == Features({}, ())


def test_none_is_missing_and_a_string_is_one_hot() -> None:
    features = check_features({"a": None, "colour": "red", "b": 2, "empty": "", "np": np.str_("x")})
    values: dict[Column, float] = {("colour", "red"): 1.0, "b": 2.0, ("empty", ""): 1.0, ("np", "x"): 1.0}
    assert features == Features(values, ("a",))
    assert {type(part) for column in features.values if isinstance(column, tuple) for part in column} == {str}


@pytest.mark.parametrize(
    "value",
    [
        *(None, math.nan, np.float32("nan"), Decimal("nan"), torch.tensor(math.nan), pd.NA, pd.NaT),
        *(np.datetime64("NaT"), np.timedelta64("NaT"), Decimal("snan")),
    ],
)
def test_a_missing_value_is_none_nan_nat_or_na(value: object) -> None:
    assert check_features({"a": value, "b": 1}) == Features({"b": 1.0}, ("a",))


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (Decimal("1.5"), 1.5),
        (Fraction(1, 4), 0.25),
        (np.array(2.0), 2.0),
        (torch.tensor(3), 3.0),
        (torch.tensor(0.5, dtype=torch.bfloat16), 0.5),
        (date(1970, 1, 2), 86400.0),
        (datetime(1970, 1, 1, 1), 3600.0),
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0.0),
        (time(0, 1, 0, 500_000), 60.5),
        (timedelta(minutes=1), 60.0),
        (np.datetime64("1970-01-01T00:00:00.000000001"), 1e-9),
        (np.datetime64("1970-01-02"), 86400.0),
        (np.timedelta64(1500, "ms"), 1.5),
        (pd.Timestamp("1970-01-02", tz="UTC"), 86400.0),
        (pd.Timedelta(hours=1), 3600.0),
    ],
)
def test_another_scalar_is_converted(value: object, number: float) -> None:
    features = check_features({"a": value})
    assert features == Features({"a": number}, ())
    assert type(features.values["a"]) is float


def test_names_are_strings_integers_or_tuples() -> None:
    x = {3: 1, np.int64(4): 2, "": 3, ("new", "york"): 4, np.str_("n"): 5, (1, "b"): "red"}
    values = {"3": 1.0, "4": 2.0, "": 3.0, "('new', 'york')": 4.0, "n": 5.0, ("('1', 'b')", "red"): 1.0}
    assert check_features(x).values == values


@pytest.mark.parametrize("name", [None, 1.5, True, b"a"])
def test_another_kind_of_name_is_refused(name: object) -> None:
    assert refusal(check_features, {name: 1}) == ("invalid_feature", f"x.{name!r}")


@pytest.mark.parametrize(
    ("x", "field"),
    [
        ({1: 2.0, "1": 3.0}, "x.1"),
        ({1: "a", "1": "b"}, "x.1"),
        ({"1": "a", 1: None}, "x.1"),
        ({("a",): 1, "('a',)": 2}, "x.('a',)"),
    ],
)
def test_two_features_must_not_have_one_name(x: dict[object, object], field: str) -> None:
    assert refusal(check_features, x) == ("invalid_feature", field)


def test_a_sign_in_a_name_or_a_value_has_no_meaning() -> None:
    x = {"a": "b", "a=b": 1, "a=b=c": None, "d": "=", "d=": ""}
    assert check_features(x) == Features(
        {("a", "b"): 1.0, "a=b": 1.0, ("d", "="): 1.0, ("d=", ""): 1.0}, ("a=b=c",)
    )


# --- x as an array


@pytest.mark.parametrize(
    "x",
    [
        [[1, 2, 3], [4, 5, 6]],
        ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
        np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8),
        np.array([[1, 2, 3], [4, 5, 6]], dtype=np.float16),
        np.array([[1, 2, 3], [4, 5, 6]], dtype=np.longdouble),
        np.array([[1, 2, 3], [4, 5, 6]], order="F"),
        [[1, 2.0, np.int8(3)], [4, np.float32(5), 6]],
    ],
)
def test_an_array_becomes_float64(x: object) -> None:
    values = check_array(x, (2, 3)).values
    assert values.dtype == np.float64
    np.testing.assert_array_equal(values, [[1, 2, 3], [4, 5, 6]])


def test_an_array_is_copied() -> None:
    x = np.zeros((2, 2))
    values = check_array(x, (2, 2)).values
    x[:] = 7.0
    assert not values.any()


def test_booleans_in_an_array_are_numbers() -> None:
    np.testing.assert_array_equal(check_array([True, False], (2,)).values, [1.0, 0.0])


def test_none_in_an_array_is_missing() -> None:
    np.testing.assert_array_equal(
        check_array([[1, None], [True, 2**70]], (2, 2)).values, [[1, np.nan], [1, 2.0**70]]
    )


@pytest.mark.parametrize("one", [1.0, None])  # None makes the array one of objects
def test_nan_in_an_array_is_missing(one: float | None) -> None:
    row = check_array([one, math.nan], (2,)).values
    np.testing.assert_array_equal(row, [np.nan if one is None else one, np.nan])


@pytest.mark.parametrize(
    "x", [[1, 2], [[1, 2], [3]], 1.0, None, {}, [[[1, 2], [3, 4]]], np.zeros((4, 1)), "abcd"]
)
def test_the_shape_must_be_the_models(x: object) -> None:
    assert refusal(check_array, x, (2, 2)) == ("wrong_shape", "x")


def test_an_object_is_no_array_of_the_shape() -> None:
    with pytest.raises(SampleError, match=r"x: must be an array of the shape \(2, 2\), not dict"):
        check_array({"a": 1.0}, (2, 2))


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (-math.inf, "non_finite_feature"),
        (10**400, "non_finite_feature"),
        (np.longdouble("1e4000"), "non_finite_feature"),
        (1e101, "invalid_feature"),
        (-1e300, "invalid_feature"),
        (10**101, "invalid_feature"),
    ],
)
@pytest.mark.parametrize("missing", [0.0, None])  # None makes the array one of objects
def test_a_number_in_an_array_must_be_usable(value: object, code: str, missing: float | None) -> None:
    assert refusal(check_array, [[missing, 1.0], [2.0, value]], (2, 2)) == (code, "x[1][1]")


@pytest.mark.parametrize("value", [{}, object()])
def test_an_entry_of_an_array_must_be_a_number(value: object) -> None:
    assert refusal(check_array, [[1.0, value], [2.0, 3.0]], (2, 2)) == ("invalid_feature", "x[0][1]")


@pytest.mark.parametrize("x", [["a", "b"], [1, "b"], np.zeros(2, complex), np.zeros(2, "V1")])
def test_an_array_must_hold_numbers(x: object) -> None:
    code, field = refusal(check_array, x, (2,))
    assert (code, field[:1]) == ("invalid_feature", "x")


# --- the target of a regression, and the weight


@pytest.mark.parametrize(
    "y", [3, -2.5, True, np.float32(1.5), np.int64(4), np.bool_(False), LARGEST, Decimal(2)]
)
def test_the_target_of_a_regression_is_a_float(y: Any) -> None:
    number = check_number(y)
    assert type(number) is float
    assert number == float(y)


@pytest.mark.parametrize(
    ("y", "code"),
    [
        ("3", "invalid_label"),
        (None, "invalid_label"),
        ([1.0], "invalid_label"),
        (date(2026, 1, 1), "invalid_label"),
        (np.timedelta64(1, "s"), "invalid_label"),
        (1e101, "invalid_label"),
        (-(10**150), "invalid_label"),
        (math.nan, "non_finite_label"),
        (pd.NaT, "non_finite_label"),
        (Decimal("snan"), "non_finite_label"),
        (math.inf, "non_finite_label"),
        (10**400, "non_finite_label"),
    ],
)
def test_another_target_is_refused(y: object, code: str) -> None:
    assert refusal(check_number, y) == (code, "y")


@pytest.mark.parametrize("w", [0, 1, 0.5, 10**30, 1e300, np.float32(2), np.int8(3), -0.0])
def test_a_weight_is_a_float(w: Any) -> None:
    assert check_weight(w) == float(w)
    assert type(check_weight(w)) is float


@pytest.mark.parametrize("w", [-1, -1e-9, math.nan, math.inf, 10**400, None, "1", True, [1.0], 1j])
def test_another_weight_is_refused(w: object) -> None:
    assert refusal(check_weight, w) == ("invalid_weight", "w")


# --- the label of a classification


@pytest.mark.parametrize(
    ("y", "label"),
    [
        (True, True),
        (np.bool_(False), False),
        (3, 3),
        (np.int8(-3), -3),
        (np.uint64(7), 7),
        (2**63 - 1, 2**63 - 1),
        (-(2**63), -(2**63)),
        ("cat", "cat"),
        ("", ""),
        (np.str_("dog"), "dog"),
        (1.0, 1),
        (np.float32(-2.0), -2),
        (torch.tensor(3), 3),
        (torch.tensor(True), True),
        (Decimal(4), 4),
    ],
)
def test_a_label_is_a_bool_an_int_or_a_string(y: object, label: object) -> None:
    checked = check_label(y)
    assert checked == label
    assert type(checked) is type(label)


@pytest.mark.parametrize(
    "y",
    [
        1.5,
        np.float32(0.1),
        math.nan,
        math.inf,
        None,
        pd.NA,
        pd.NaT,
        1e300,
        [1],
        b"cat",
        2**63,
        -(2**63) - 1,
        np.uint64(2**63),
        1j,
    ],
)
def test_another_label_is_refused(y: object) -> None:
    assert refusal(check_label, y) == ("invalid_label", "y")


def test_a_number_as_a_label_says_to_make_a_regression() -> None:
    with pytest.raises(SampleError, match="regression"):
        check_label(1.5)


@pytest.mark.parametrize(
    "y",
    [date(2026, 1, 1), time(1), timedelta(1), np.datetime64("2026-01-01"), pd.Timestamp(0), pd.Timedelta(1)],
)
def test_a_date_as_a_label_says_to_make_a_string(y: object) -> None:
    for check in (check_label, target):
        with pytest.raises(SampleError, match="send it as a string") as caught:
            check(y)
        assert (caught.value.code, caught.value.field) == ("invalid_label", "y")
