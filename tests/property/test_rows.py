"""The short way and the long way through validation: the same bits, the same errors, whatever arrives."""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from decimal import Decimal
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnp_online import BNPClassifier, BNPRegressor, NonFiniteStateError, SampleError
from bnp_online.encoding import FeatureIndex, read_array
from bnp_online.values import LARGEST, Array, check_array, check_features

Model: TypeAlias = BNPClassifier | BNPRegressor

KNOWN = ("a", "b", "c", "3", "colour=red")
plain = st.one_of(
    st.floats(-1e3, 1e3),
    st.integers(-5, 5),
    st.booleans(),
    st.floats(-1e3, 1e3).map(np.float64),
    st.floats(-1e3, 1e3, width=32).map(np.float32),
    st.integers(-5, 5).map(np.int64),
    st.sampled_from([-0.0, 0.0, 5e-324, LARGEST, -LARGEST, 2**70, np.int32(7)]),
)
strange = st.one_of(
    st.sampled_from([None, "red", "", math.nan, math.inf, -math.inf, 1.0001e100, 10**101, 10**400]),
    st.sampled_from([np.bool_(True), np.float16(0.5), np.uint64(2**63), np.float64("nan")]),
    st.sampled_from([np.str_("x"), np.float32("inf"), np.array(1.0), np.array([1.0]), np.datetime64(0, "s")]),
    st.sampled_from([Decimal(1), Fraction(1, 2), 1j, b"1", [1.0]]),
)
features = st.one_of(
    st.fixed_dictionaries(dict.fromkeys(KNOWN, plain)),
    st.fixed_dictionaries(dict.fromkeys(KNOWN, st.one_of(plain, plain, plain, strange))),
    st.dictionaries(st.sampled_from([*KNOWN, 3, "new", "colour", None, 1.5]), st.one_of(plain, strange)),
)
words = st.sampled_from(["red", "blue", "", "a=b", np.str_("red")])
worded = st.fixed_dictionaries(
    {"a": plain, "b": st.one_of(plain, words), "hue": st.one_of(words, words, words, plain, st.none())},
    optional={"hue=red": plain, "new": plain},
)
shuffled = st.tuples(st.one_of(features, worded), st.randoms(use_true_random=False)).map(
    lambda pair: dict(pair[1].sample(list(pair[0].items()), len(pair[0])))
)


def outcome(function: Any, *arguments: Any) -> Any:
    """What a call answers, or the error that it raises, as something that can be compared."""
    try:
        return function(*arguments)
    except SampleError as error:
        return (error.code, error.field, error.message)
    except NonFiniteStateError as error:
        return str(error)


@settings(max_examples=400)
@given(shuffled)
def test_a_row_is_the_vector_of_the_long_way(x: dict[Any, Any]) -> None:
    index = FeatureIndex(10, KNOWN)
    for _ in range(2):  # the second time it is the latest one
        row = index.row(x)
        if row is not None:
            checked = check_features(x)
            assert row.tobytes() == index.vector(checked).tobytes()
            assert index.new(checked) == []
            assert index.unknown(checked) == []  # a missing value may be NaN


@settings(max_examples=200)
@given(st.lists(worded, max_size=12))
def test_a_row_with_strings_is_the_vector_of_the_long_way(samples: list[dict[str, Any]]) -> None:
    index = FeatureIndex(7)
    for x in [*samples, *samples]:
        row = index.row(x)
        checked = outcome(index.check, x)
        if isinstance(checked, tuple):  # refused: two features of one name
            assert row is None
        elif row is not None:
            assert row.tobytes() == index.vector(checked).tobytes()
            assert index.new(checked) == []
            assert index.unknown(checked) == []  # a missing value may be NaN
        else:
            index.add(index.new(checked))


def test_known_strings_take_the_short_way() -> None:
    index = FeatureIndex(10)
    for hue in ("red", "blue", "red"):
        index.add(index.new(index.check({"a": 1.0, "hue": hue, "b": 2})))
    for other in (index, index.copy()):
        for x, expected in (
            ({"a": 3.5, "hue": "red", "b": 4}, [3.5, 4.0, 1.0, 0.0]),
            ({"hue": "blue", "b": 4.5, "a": True}, [1.0, 4.5, 0.0, 1.0]),
        ):
            row = other.row(x)
            assert row is not None
            assert row.tolist() == expected
        for value in ("green", None, 1.0, np.str_("red")):
            assert other.row({"a": 3.5, "hue": value, "b": 4}) is None


def test_a_sample_with_other_keys_does_not_displace_the_usual_ones() -> None:
    index = FeatureIndex(10)
    usual = {"a": 1.0, "hue": "red"}
    for _ in range(2):
        index.add(index.new(index.check(usual)))
    index.check({"a": 1.0})
    assert index.row(usual) is not None


@given(st.fixed_dictionaries(dict.fromkeys(KNOWN, plain)))
def test_exactly_the_known_features_with_plain_numbers_take_the_short_way(x: dict[str, Any]) -> None:
    assert FeatureIndex(10, KNOWN).row(x) is not None


@pytest.mark.parametrize(
    "x",
    [
        {"a": 1.0},
        {"a": 1.0, "c": 2.0},
        {"a": 1.0, "b": 2.0, "c": 3.0},
        {"a": 1.0, "b": Decimal(1)},
        OrderedDict(a=1.0, b=2.0),
        defaultdict(float, a=1.0, z=2.0),
        [("a", 1.0), ("b", 2.0)],
    ],
)
def test_any_other_sample_goes_the_long_way(x: Any) -> None:
    before = len(x)
    assert FeatureIndex(10, "ab").row(x) is None
    assert len(x) == before


def test_a_dict_that_changes_is_read_again() -> None:
    index = FeatureIndex(10, "ab")
    x: dict[str, Any] = {"a": 1.5, "b": 2.5}
    first = index.row(x)
    x["a"] = 3.5
    second = index.row(x)
    x["b"] = Decimal("2.5")  # equal to what stood there, but no number that can be learned
    assert first is not None
    assert second is not None
    assert (first.tolist(), second.tolist(), index.row(x)) == ([1.5, 2.5], [3.5, 2.5], None)


def test_zeros_of_both_signs_are_told_apart() -> None:
    index = FeatureIndex(10, "ab")
    signs = []
    for zero in (0.0, -0.0, False):
        row = index.row({"a": zero, "b": 1.0})
        assert row is not None
        signs.append(math.copysign(1.0, row[0]))
    assert signs == [1.0, -1.0, 1.0]


arrays = st.one_of(
    st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4),
    st.lists(st.one_of(plain, strange), min_size=3, max_size=4),
    st.sampled_from(["?", "b", "B", "i8", "u2", "f2", "f4", "f8", "g", "c8", "U3", "M8[s]"]).map(
        lambda kind: np.zeros(4, kind)
    ),
    st.sampled_from([math.nan, math.inf, 1e101, -1e300, LARGEST]).map(
        lambda value: np.array([1.0, value] * 2)
    ),
    st.just(np.longdouble("1e4000") * np.ones(4, "g")),
    st.just(np.ones((4, 2))[:, 0]),
    st.just(np.ma.masked_array([1.0, 2.0, 3.0, 4.0], [True, False, False, False])),
)


@given(arrays)
def test_an_array_is_the_same_both_ways(x: Any) -> None:
    row = read_array(x, (4,))
    if row is not None:
        assert row.tobytes() == check_array(x, (4,)).values.tobytes()
    elif type(x) is np.ndarray and x.dtype.kind in "fiub" and x.shape == (4,):
        assert x.dtype == np.longdouble or not np.isfinite(x).all() or np.abs(x).max() > LARGEST


def long_way(model: Model, x: Any) -> Any:
    """The sample as `check_features` returns it, which any method takes in its place; or what is wrong."""
    checked = outcome(model.check_features, x)
    return x if isinstance(checked, tuple) else checked


labels = st.sampled_from([0, 1, 2, 0, 1, np.int64(1), np.uint8(2), np.int16(0), True, "1", 1.0, None, 2**63])
targets = st.one_of(
    st.floats(-1e3, 1e3),
    st.integers(-9, 9),
    st.sampled_from([True, np.float64(2), np.float32(3), 1e101, math.nan]),
)
weights = st.sampled_from([1.0, 1.0, 1.0, 0.5, 0, 2, -1.0, math.nan, None, 1e300, np.float64(1.0)])


@settings(max_examples=60)
@given(st.lists(st.tuples(shuffled, labels, targets, weights), max_size=12), st.sampled_from(["auto", 0.1]))
def test_a_learner_is_the_same_both_ways(samples: list[Any], lr: float | str) -> None:
    pairs: list[tuple[Model, Model]] = [
        (BNPClassifier((3,), lr=lr, max_features=6), BNPClassifier((3,), lr=lr, max_features=6)),
        (BNPRegressor((3,), lr=lr, max_features=6), BNPRegressor((3,), lr=lr, max_features=6)),
    ]
    start = dict.fromkeys(KNOWN, 1.0)
    for model, other in pairs:
        for x, label, target, w in [(start, 0, 0.0, 1.0), *samples]:
            y = label if isinstance(model, BNPClassifier) else target
            assert outcome(model.predict_one, x) == outcome(other.predict_one, long_way(other, x))
            assert outcome(model.predict, x) == outcome(other.predict, long_way(other, x))
            assert outcome(model.learn_one, x, y, w) == outcome(other.learn_one, long_way(other, x), y, w)
        assert model.fingerprint() == other.fingerprint()
        assert model.ignored_features == other.ignored_features


def test_a_previewed_row_waits_while_features_arrive() -> None:
    model, other = BNPClassifier((3,)), BNPClassifier((3,))
    rows: list[dict[str, Any]] = [
        {"a": 1.0, "b": 2.0},
        {"a": 0.5, "b": 1.0, "new": 3.0},
        {"a": 2.0, "b": 0.0},
    ]
    for x, y in zip(rows, "xyx", strict=True):
        other.learn_one(x, y)
    model.learn_one(rows[0], "x")
    preview = model.preview()
    samples = [preview.check(x, y) for x, y in zip(rows[1:], "yx", strict=True)]
    assert isinstance(samples[1].features, Array)
    model.learn_samples(samples)
    assert model.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("kind", ["i8", "u1", "?", "U1", "O"])
def test_rows_of_an_array_are_learned_as_one_by_one(kind: str) -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 4))
    Y = (rng.integers(2, size=50) if kind == "?" else rng.integers(5, size=50)).astype(kind)
    model, other = (BNPClassifier((3,), input_shape=(4,), memory=20) for _ in range(2))
    model.learn_many(X[:30], Y[:30])
    model.learn_many(X[30:], Y[30:])
    for x, y in zip(X.tolist(), Y.tolist(), strict=True):
        other.learn_one(x, y)
    assert model.labels == other.labels
    assert model.step == other.step == 50
    assert model.fingerprint() == other.fingerprint()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(shuffled, st.sampled_from("xyz")), max_size=30), st.integers(0, 20))
def test_dicts_are_learned_as_one_by_one(samples: list[tuple[dict[Any, Any], str]], start: int) -> None:
    """Rows that are valid give the same bits, and an invalid one refuses all."""
    model, other = (BNPClassifier((3,), memory=20) for _ in range(2))
    usual = [(dict.fromkeys(KNOWN[:4], i / 7), "xyz"[i % 3]) for i in range(20)]
    known, given_ = [*usual[:start], *samples], len(usual[:start])
    for each in (model, other):
        each.learn_many([x for x, _ in usual], [y for _, y in usual])
    preview = other.preview()
    errors = [outcome(preview.check, x, y) for x, y in known]
    if any(isinstance(error, tuple) and len(error) == 3 and isinstance(error[0], str) for error in errors):
        before = model.fingerprint()
        with pytest.raises(SampleError):
            model.learn_many([x for x, _ in known], [y for _, y in known])
        assert model.fingerprint() == before
        known = known[:given_]
    model.learn_many([x for x, _ in known], [y for _, y in known])
    for x, y in known:
        other.learn_one(x, y)
    assert model.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("bad", [(7, "x"), (7, "y"), (7, "large")])
def test_a_bad_row_of_an_array_is_refused_with_all_of_them(bad: tuple[int, str]) -> None:
    X, Y = np.random.default_rng(0).normal(size=(12, 4)), [0, 1, 2] * 4
    # The second generation bounds the value.
    model, other = (BNPClassifier((3,), input_shape=(4,), standardize=False, learner=1) for _ in range(2))
    for each in (model, other):
        each.learn_many(X, Y)
    row, part = bad
    labels: list[Any] = [0, 3, 1] * 4
    if part == "y":
        labels[row] = "text"
    else:
        X[row, 2] = math.inf if part == "x" else 1e90
    preview = other.preview()
    expected = [outcome(preview.check, list(x), y) for x, y in zip(X, labels, strict=True)]
    before = model.fingerprint()
    refusal = outcome(model.learn_many, X, labels)
    if part == "large":
        assert "non-finite" in refusal
    else:
        assert refusal == expected[row]
    assert model.fingerprint() == before


@given(st.lists(st.tuples(st.sampled_from(["predict", "other", "learn"]), st.integers(0, 3)), max_size=30))
def test_what_was_predicted_does_not_change_what_is_learned(acts: list[tuple[str, int]]) -> None:
    rows: list[dict[str, Any]] = [
        {"a": 1.0, "b": 2.0},
        {"a": -1.0, "b": None},
        {"a": 0.0, "b": 0.0},
        {"a": 1.0},
    ]
    for make in (BNPClassifier, BNPRegressor):
        model, plain_ = make((3,), memory=5), make((3,), memory=5)
        # At the end a new class comes with a sample of zeros, right after another was predicted.
        for act, i in [("learn", 0), ("learn", 1), *acts, ("predict", 0), ("learn", 2)]:
            if act == "learn":
                model.learn_one(rows[i], i)
                plain_.learn_one(rows[i], i)
            else:
                model.predict_one(rows[i] if act == "predict" else {"a": float(i), "b": 3.0})
        assert model.fingerprint() == plain_.fingerprint()


def test_a_prediction_does_not_outlive_a_change_of_state() -> None:
    x = {"a": 1.0, "b": 2.0}
    models = [BNPClassifier((3,), seed=0) for _ in range(3)]
    for i in range(20):
        for k, model in enumerate(models):
            model.learn_one({"a": float(i % 3), "b": float(k == 0)}, i % 2)
    models[0].predict_one(x)  # as many steps as the others, but of other weights
    models[0].load_state_dict(models[1].state_dict())
    models[0].learn_one(x, 1)
    models[1].learn_one(x, 1)
    assert models[0].fingerprint() == models[1].fingerprint()
