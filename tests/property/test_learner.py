"""Whatever arrives, in whatever order: a model is what its valid samples made it, and nothing else."""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass
from typing import Any, TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from bnp_online import BNPClassifier, BNPRegressor, NonFiniteStateError, SampleError

Model: TypeAlias = BNPClassifier | BNPRegressor

MAX_CLASSES = 3


@dataclass(frozen=True)
class Valid:
    """A sample that can be learned, but for one class too many."""

    x: dict[Any, Any]
    y: Any
    w: float


@dataclass(frozen=True)
class Invalid:
    """A sample that cannot."""

    x: Any
    y: Any
    w: Any


@dataclass(frozen=True)
class Diverging:
    """A valid sample whose weight makes its step infinite."""

    x: dict[Any, Any]
    y: Any


class Reload:
    """Put the model away and take it up again."""

    def __repr__(self) -> str:
        return "Reload()"


numbers = st.one_of(st.integers(-5, 5), st.floats(-1e6, 1e6), st.sampled_from([1e100, -1e100, 5e-324, -0.0]))
names = st.one_of(
    st.sampled_from("abc"), st.text(st.characters(exclude_characters="=", exclude_categories=[]))
)
words = st.lists(st.sampled_from("xyz"), max_size=3)
values = st.one_of(numbers, st.booleans(), st.none(), st.text(max_size=3), words)
features = st.dictionaries(names, values, max_size=4)
weights = st.sampled_from([1.0, 1.0, 0.5, 0.0, 3.0])
bad_values = st.sampled_from([math.inf, -math.inf, 10**400, 1e101, [1.0], ["a", None], {}, b"", 1j, object()])
bad_features = st.one_of(
    st.builds(lambda x, name, bad: {**x, name: bad}, features, names, bad_values),
    st.builds(lambda x, name: {**x, name: 1.0}, features, st.sampled_from([None, 1.5, b"a", True])),
    st.sampled_from([None, 3, "a", [1.0], {"1": "b", 1: 1.0}]),
)
bad_weights = st.sampled_from([-1.0, math.nan, math.inf, None, "1", True])


def operations(labels: st.SearchStrategy[Any], bad_labels: st.SearchStrategy[Any]) -> Any:
    valid = st.builds(Valid, features, labels, weights)
    invalid = st.one_of(
        st.builds(Invalid, bad_features, labels, weights),
        st.builds(Invalid, features, bad_labels, weights),
        st.builds(Invalid, features, labels, bad_weights),
    )
    diverging = st.builds(Diverging, features, labels)
    return st.lists(st.one_of(valid, valid, valid, invalid, diverging, st.builds(Reload)), max_size=25)


def refused(model: Model, x: Any, y: Any, w: Any, error: type[Exception]) -> None:
    before = model.fingerprint()
    try:
        model.learn_one(x, y, w)
    except error:
        assert model.fingerprint() == before
    else:
        raise AssertionError(f"{x!r}, {y!r}, {w!r} was learned")


def run(model: Model, plain: Model, stream: list[Any]) -> None:
    """Give `model` everything, and `plain` the valid samples alone, their keys the other way round."""
    steps = 0
    classes: list[Any] = []
    for each in stream:
        if isinstance(each, Reload):
            model = pickle.loads(pickle.dumps(model))  # noqa: S301
        elif isinstance(each, Invalid):
            refused(model, each.x, each.y, each.w, SampleError)
        elif isinstance(each, Diverging):
            refused(
                model,
                each.x,
                each.y,
                1e300,
                (NonFiniteStateError, SampleError)[_too_many(model, classes, each.y)],
            )
        elif _too_many(model, classes, each.y):
            refused(model, each.x, each.y, each.w, SampleError)
        else:
            assert model.predict_one(each.x) == plain.predict_one(each.x)
            model.learn_one(each.x, each.y, each.w)
            plain.learn_one(dict(reversed(each.x.items())), each.y, each.w)
            classes += [each.y] if each.y not in classes else []
            steps += 1
    assert model.step == plain.step == steps
    assert model.fingerprint() == plain.fingerprint()
    assert model.feature_names == plain.feature_names
    assert model.ignored_features == plain.ignored_features
    assert len(set(model.feature_names)) == len(model.feature_names) <= model.max_features
    tensors = model.state_dict()["tensors"]
    ranges = {"target.range", "sparse.scalars", "memory.x"}  # infinite before a target; NaN where missing
    assert all(tensor.isfinite().all() for key, tensor in tensors.items() if key not in ranges)
    if isinstance(model, BNPClassifier):
        assert list(model.labels) == classes
        assert abs(sum(model.predict_proba_one({}).values()) - 1.0) < 1e-9 or not classes


def _too_many(model: Model, classes: list[Any], y: Any) -> bool:
    return isinstance(model, BNPClassifier) and y not in classes and len(classes) == MAX_CLASSES


@settings(max_examples=40)
@given(operations(st.integers(0, 3), st.sampled_from([None, 0.5, "0", True, [], 2**63, b"1"])))
def test_a_classifier_is_what_its_valid_samples_made_it(stream: list[Any]) -> None:
    # The first label fixes the type; without it "0" and True would be valid.
    stream = [Valid({}, 0, 1.0), *stream]
    model, plain = (BNPClassifier((3,), max_features=6, max_classes=MAX_CLASSES) for _ in range(2))
    run(model, plain, stream)


@settings(max_examples=40)
@given(
    operations(
        st.one_of(st.integers(-9, 9), st.floats(-1e3, 1e3), st.booleans(), st.just(1e100)),
        st.sampled_from([None, "0", [], math.nan, math.inf, 10**400, -1e200]),
    )
)
def test_a_regressor_is_what_its_valid_samples_made_it(stream: list[Any]) -> None:
    run(BNPRegressor((3,), max_features=6), BNPRegressor((3,), max_features=6), stream)
