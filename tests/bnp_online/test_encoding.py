from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from bnp_online.encoding import (
    LARGEST,
    FeatureIndex,
    Features,
    LabelIndex,
    check_array,
    check_features,
    check_number,
    check_weight,
)
from bnp_online.errors import SampleError


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


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), 10**400, -(10**400)])
def test_a_feature_must_be_finite(value: object) -> None:
    assert refusal(check_features, {"ok": 1, "a": value}) == ("non_finite_feature", "x.a")


@pytest.mark.parametrize(
    "value", [[1], {"b": 1}, (1,), b"x", 1j, Decimal(1), np.array([1.0]), np.datetime64(0, "s"), object()]
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
    assert features == Features({"colour=red": 1.0, "b": 2.0, "empty=": 1.0, "np=x": 1.0}, ("a",))


def test_names_are_strings_or_integers() -> None:
    assert check_features({3: 1, np.int64(4): 2, "": 3}).values == {"3": 1.0, "4": 2.0, "": 3.0}


@pytest.mark.parametrize("name", [None, 1.5, ("a", "b"), True, b"a"])
def test_another_kind_of_name_is_refused(name: object) -> None:
    assert refusal(check_features, {name: 1}) == ("invalid_feature", f"x.{name!r}")


@pytest.mark.parametrize("x", [{1: 2.0, "1": 3.0}, {"a": "b", "a=b": 1}, {"a=b": 1, "a": "b"}])
def test_two_features_must_not_share_a_column(x: dict[object, object]) -> None:
    code, field = refusal(check_features, x)
    assert code == "invalid_feature"
    assert field in ("x.1", "x.a=b")


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


@pytest.mark.parametrize(
    "x", [[1, 2], [[1, 2], [3]], 1.0, None, {}, [[[1, 2], [3, 4]]], np.zeros((4, 1)), "abcd"]
)
def test_the_shape_must_be_the_models(x: object) -> None:
    assert refusal(check_array, x, (2, 2)) == ("wrong_shape", "x")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (math.nan, "non_finite_feature"),
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


@pytest.mark.parametrize("value", [{}, object(), Decimal(1)])
def test_an_entry_of_an_array_must_be_a_number(value: object) -> None:
    assert refusal(check_array, [[1.0, value], [2.0, 3.0]], (2, 2)) == ("invalid_feature", "x[0][1]")


@pytest.mark.parametrize("x", [["a", "b"], [1, "b"], np.zeros(2, complex), np.zeros(2, "M8[s]")])
def test_an_array_must_hold_numbers(x: object) -> None:
    code, field = refusal(check_array, x, (2,))
    assert (code, field[:1]) == ("invalid_feature", "x")


# --- the target of a regression, and the weight


@pytest.mark.parametrize("y", [3, -2.5, True, np.float32(1.5), np.int64(4), np.bool_(False), LARGEST])
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
        (1e101, "invalid_label"),
        (-(10**150), "invalid_label"),
        (math.nan, "non_finite_label"),
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


# --- FeatureIndex


def learned(index: FeatureIndex, *samples: dict[object, object]) -> FeatureIndex:
    for x in samples:
        features = check_features(x)
        index.add(index.new(features))
        index.count_ignored(features)
    return index


def test_columns_are_in_order_of_arrival_and_sorted_within_a_sample() -> None:
    index = learned(FeatureIndex(10), {"z": 1, "m": 2}, {"m": 1}, {"b": 1, "z": 1, "a": "x"}, {"a": "w"})
    assert index.names == ["m", "z", "a=x", "b", "a=w"]


def test_new_changes_nothing() -> None:
    index = learned(FeatureIndex(10), {"a": 1})
    features = check_features({"c": 1, "b": 1})
    assert index.new(features) == index.new(features) == ["b", "c"]
    assert index.names == ["a"]
    assert index.new(check_features({"a": 3, "d": None})) == []


def test_a_vector_holds_0_where_absent_and_nan_where_missing() -> None:
    index = learned(FeatureIndex(10), {"a": 1, "b": 2, "c": 3})
    vector = index.vector(check_features({"c": 7.0, "a": None, "unknown": 5.0, "never": None}))
    np.testing.assert_array_equal(vector, [np.nan, 0.0, 7.0])


def test_a_missing_string_is_missing_in_each_of_its_columns() -> None:
    index = learned(FeatureIndex(10), {"hue": "red", "a": 1}, {"hue": "blue"}, {"hues": "x"})
    assert index.names == ["a", "hue=red", "hue=blue", "hues=x"]
    np.testing.assert_array_equal(index.vector(check_features({"hue": None})), [0.0, np.nan, np.nan, 0.0])
    np.testing.assert_array_equal(index.vector(check_features({"hue": "blue"})), [0.0, 0.0, 1.0, 0.0])
    np.testing.assert_array_equal(index.vector(check_features({"hue": "green"})), [0.0, 0.0, 0.0, 0.0])


def test_features_beyond_the_limit_are_ignored_and_counted() -> None:
    index = learned(FeatureIndex(3), {"c": 1, "a": 1}, {"e": 1, "d": 1, "b": 1})
    assert index.names == ["a", "c", "b"]
    assert index.ignored == 2
    learned(index, {"a": 1, "f": "x", "g": None}, {"a": 1})
    assert index.names == ["a", "c", "b"]
    assert index.ignored == 3
    np.testing.assert_array_equal(index.vector(check_features({"e": 5, "b": 4})), [0.0, 0.0, 4.0])


def test_an_index_begins_with_the_columns_of_another() -> None:
    index = learned(FeatureIndex(4), {"c": "x", "a": 1}, {"b": 1, "d": 1, "e": 1})
    other = FeatureIndex(4, index.names, index.ignored)
    assert (other.names, other.ignored) == (["a", "c=x", "b", "d"], 1)
    x = check_features({"c": None, "d": 2, "something": 3})
    np.testing.assert_array_equal(other.vector(x), index.vector(x))
    assert other.new(x) == []


# --- LabelIndex


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
    ],
)
def test_a_label_is_a_bool_an_int_or_a_string(y: object, label: object) -> None:
    checked = LabelIndex(3).check(y)
    assert checked == label
    assert type(checked) is type(label)


@pytest.mark.parametrize(
    "y", [1.0, np.float32(1), math.nan, None, [1], b"cat", 2**63, -(2**63) - 1, np.uint64(2**63), 1j]
)
def test_another_label_is_refused(y: object) -> None:
    assert refusal(LabelIndex(3).check, y) == ("invalid_label", "y")


def test_a_number_as_a_label_says_to_make_a_regression() -> None:
    with pytest.raises(SampleError, match="regression"):
        LabelIndex(3).check(1.5)


@pytest.mark.parametrize(
    ("first", "y"),
    [(1, True), (True, 1), (True, np.int64(0)), ("1", 1), (0, "0"), (1, np.bool_(True)), ("", False)],
)
def test_the_labels_of_a_model_are_of_one_type(first: bool | int | str, y: object) -> None:
    index = LabelIndex(3, [first])
    assert refusal(index.check, y) == ("label_type", "y")
    assert index.check(first) == first


def test_classes_keep_the_order_of_arrival() -> None:
    index = LabelIndex(5)
    for label in (3, 1, 3, 2, 1):
        index.add(label)
    assert index.labels == [3, 1, 2]
    assert [index.code(label) for label in (3, 1, 2)] == [0, 1, 2]
    assert len(index) == 3
    assert index.code(4) is None


def test_one_class_too_many_is_refused() -> None:
    index = LabelIndex(2, ["a", "b"])
    assert refusal(index.check, "c") == ("too_many_classes", "y")
    assert index.check("b") == "b"
    assert len(index) == 2


def test_a_copy_grows_by_itself() -> None:
    index = LabelIndex(3, ["a"])
    copy = index.copy()
    copy.add("b")
    assert index.labels == ["a"]
    assert index.code("b") is None
    assert copy.labels == ["a", "b"]
    assert copy.max_classes == 3


def test_equal_labels_share_one_object() -> None:
    index = LabelIndex(3, ["cat", "dog"])
    assert index.check("".join(["do", "g"])) is index.labels[1]
