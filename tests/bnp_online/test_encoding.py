from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from bnp_online.encoding import FeatureIndex, LabelIndex
from bnp_online.errors import SampleError
from bnp_online.values import check_features


def refusal(function: Any, *arguments: Any) -> tuple[str, str]:
    """Code and field of the SampleError; its message names the field and what to do."""
    with pytest.raises(SampleError) as caught:
        function(*arguments)
    error = caught.value
    assert str(error) == f"{error.field}: {error.message}"
    assert len(error.message) > 10
    return error.code, error.field


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
    index = learned(FeatureIndex(10), {"hue": "red", "a": 1}, {"hue": "blue"}, {"hue=s": "x", "hue=": 1})
    assert index.names == ["a", "hue=red", "hue=blue", "hue=", "hue=s=x"]
    vectors = [index.vector(check_features({"hue": value})) for value in (None, "blue", "green", "")]
    np.testing.assert_array_equal(vectors[0], [0.0, np.nan, np.nan, 0.0, 0.0])
    np.testing.assert_array_equal(vectors[1], [0.0, 0.0, 1.0, 0.0, 0.0])
    np.testing.assert_array_equal(vectors[2:], np.zeros((2, 5)))


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
    other = FeatureIndex(4, index.columns, index.ignored)
    assert (other.names, other.ignored) == (["a", "c=x", "b", "d"], 1)
    x = check_features({"c": None, "d": 2, "something": 3})
    np.testing.assert_array_equal(other.vector(x), index.vector(x))
    assert other.new(x) == []


def test_a_value_and_a_name_with_a_sign_have_their_own_columns() -> None:
    index = learned(FeatureIndex(10), {"a": "b", "a=b": 2.0}, {"a=b": "c", "a": "b=c"})
    assert index.names == ["a=b", "a=b", "a=b=c", "a=b=c"]
    x = check_features({"a": "b=c", "a=b": 3.0})
    row = dict(zip(index.columns, index.vector(x), strict=True))
    assert row == {("a", "b"): 0.0, "a=b": 3.0, ("a", "b=c"): 1.0, ("a=b", "c"): 0.0}
    restored = FeatureIndex.restored(10, json.loads(json.dumps(index.state_dict())))
    assert restored.columns == index.columns
    np.testing.assert_array_equal(restored.vector(x), index.vector(x))


JOINED = {"features": ["a=b", "c", "a=b=c"], "ignored": 0}  # a state of version 0.2


def test_joined_columns_of_an_earlier_version_are_kept() -> None:
    index = FeatureIndex.restored(10, JOINED)
    assert index.digested() == JOINED
    for x, row in [
        ({"a": "b"}, [1, 0, 0]),
        ({"a=b": 5.0, "c": 2}, [5, 2, 0]),
        ({"a": "b=c"}, [0, 0, 1]),
        ({"a=b": "c"}, [0, 0, 1]),
        ({"a": None}, [np.nan, 0, np.nan]),
    ]:
        features = index.check(x)
        assert index.new(features) == []
        np.testing.assert_array_equal(index.vector(features), row)
    with pytest.raises(SampleError, match="given twice"):
        index.check({"a": "b", "a=b": 1.0})


def test_joined_columns_stay_joined_beside_new_ones() -> None:
    index = FeatureIndex.restored(10, JOINED)
    index.add(index.new(index.check({"d=e": 1.0, "d": "e", "a": "z"})))
    again = FeatureIndex.restored(10, json.loads(json.dumps(index.state_dict())))
    assert again.columns == index.columns == ["a=b", "c", "a=b=c", ("a", "z"), ("d", "e"), "d=e"]
    for either in (index, again):
        features = either.check({"a": "b", "d=e": 7.0})
        np.testing.assert_array_equal(either.vector(features), [1, 0, 0, 0, 0, 7])
    assert again.digested() == index.digested() != FeatureIndex(10, index.columns).digested()


# --- LabelIndex


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


def test_features_without_a_column_are_unknown() -> None:
    index = FeatureIndex(max_features=3, columns=["a", ("town", "Oslo")])
    assert index.unknown(index.check({"a": 1, "town": "Oslo"})) == []
    assert index.unknown(index.check({"a": None, "town": None})) == []
    assert index.unknown(index.check({"a": "b", "town": "Rome", 7: 1, "c": None})) == ["a", "town", "7", "c"]
