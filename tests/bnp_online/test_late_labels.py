"""Late labels: predictions of the experts are kept, and judged once the label of their sample arrives."""

from __future__ import annotations

import math
import pickle
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from bnp_online import BNPClassifier, BNPRegressor, SampleError
from bnp_online.evaluation.prequential import prequential
from bnp_online.values import ExpertPredictions

KINDS: tuple[Any, ...] = (BNPClassifier, BNPRegressor)


def samples(kind: Any, length: int, seed: int = 0) -> Iterator[tuple[dict[str, float], Any]]:
    """Samples to which features are added and, for a classifier, classes."""
    rng = np.random.default_rng(seed)
    for t in range(length):
        x = {f"f{i}": float(v) for i, v in enumerate(rng.normal(size=3 + t // 25))}
        y = float(x["f0"] - x["f1"])
        yield x, ("abc"[min(t // 20, int(y > 0.0) + int(y > 1.0))] if kind is BNPClassifier else y)


def learned(kind: Any, length: int = 40, **parameters: Any) -> Any:
    model = kind(hidden=(8,), **parameters)
    for x, y in samples(kind, length):
        model.learn_one(x, y)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_of_now_give_the_same_bits(kind: Any) -> None:
    """Up to rounding where a feature joins."""
    plain, late = kind(hidden=(8,)), kind(hidden=(8,))
    for full, y in samples(kind, 70):
        x = {name: full[name] for name in ("f0", "f1", "f2")}
        given = late.predict_experts_one(x)
        plain.learn_one(x, y)
        late.learn_one(x, y, given=given)
        assert late.fingerprint() == plain.fingerprint()


@pytest.mark.parametrize("kind", KINDS)
def test_earlier_predictions_change_the_mixture_alone(kind: Any) -> None:
    """Of what learns: the networks learn the same."""
    plain, late = learned(kind), learned(kind)
    stream = list(samples(kind, 70))
    given = [late.predict_experts_one(x) for x, _ in stream]
    for (x, y), known in zip(stream[40:], given[40:], strict=True):
        plain.learn_one(x, y)
        late.learn_one(x, y, given=known)
    before, after = (model.state_dict()["tensors"] for model in (plain, late))
    differ = {name.split(".")[0] for name in after if not after[name].equal(before[name])}
    assert differ == {"mixture", "stack"}


@pytest.mark.parametrize("kind", KINDS)
def test_learn_many_equals_a_loop(kind: Any) -> None:
    """A row without earlier predictions is among them; features and classes join."""
    one, many = learned(kind, 15), learned(kind, 15)
    stream = list(samples(kind, 60))
    given = [one.predict_experts_one(x) for x, _ in stream]
    given[30] = None
    for (x, y), known in zip(stream[15:], given[15:], strict=True):
        one.learn_one(x, y, given=known)
    many.learn_many([x for x, _ in stream[15:]], [y for _, y in stream[15:]], given=given[15:])
    assert many.fingerprint() == one.fingerprint()


def test_learn_many_takes_arrays() -> None:
    one, many = (BNPClassifier(hidden=(8,), input_shape=(3,)) for _ in range(2))
    x = np.random.default_rng(0).normal(size=(40, 3))
    y = [int(row[0] > 0.0) for row in x]
    for model in (one, many):
        model.learn_many(x[:20], y[:20])
    given = [one.predict_experts_one(row) for row in x]
    for row in range(20, 40):
        one.learn_one(x[row], y[row], given=given[row])
    many.learn_many(x[20:], y[20:], given=given[20:])
    assert many.fingerprint() == one.fingerprint()
    with pytest.raises(SampleError, match="3 values for 2 samples"):
        many.learn_many(x[:2], y[:2], given=given[:3])


def test_a_class_that_was_unknown_changes_the_mixture_not() -> None:
    model = learned(BNPClassifier, 40)
    given = model.predict_experts_one({"f0": 1.0})
    assert given.labels == ("a", "b")
    model.learn_one({"f0": 3.0}, "c")
    before = model.mixture
    model.learn_one({"f0": 3.0, "new": 1.0}, "c", given=given)
    assert model.mixture == before
    model.learn_one({"f0": 3.0, "new": 1.0}, "b", given=given)
    assert model.mixture != before


def test_classes_are_found_by_label() -> None:
    """Without an unlearned sample, classes may arrive in another order, or not at all."""
    model, other = learned(BNPClassifier, 60), learned(BNPClassifier, 60)
    given = model.predict_experts_one({"f0": 1.0})
    turned = ExpertPredictions(
        (*given.labels[::-1], "gone"), np.hstack([given.values[:, ::-1], np.zeros((len(given.values), 1))])
    )
    model.learn_one({"f0": 1.0}, "b", given=given)
    other.learn_one({"f0": 1.0}, "b", given=turned)
    assert model.fingerprint() == other.fingerprint()


@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_without_a_prediction_loses_its_weight(kind: Any) -> None:
    model = learned(kind, 60)
    given = model.predict_experts_one({"f0": 1.0})
    given.values[[0, 3], 0] = math.nan, math.inf
    model.learn_one({"f0": 1.0}, "b" if kind is BNPClassifier else 1.0, given=given)
    weights = model._engine.mixture
    assert weights[[0, 3]] == pytest.approx(0.01 / len(weights))


@pytest.mark.parametrize("kind", KINDS)
def test_without_any_prediction_the_experts_predict_again(kind: Any) -> None:
    plain, late = learned(kind, 60), learned(kind, 60)
    given = late.predict_experts_one({"f0": 1.0})
    given.values[:] = math.nan
    y = "b" if kind is BNPClassifier else 1.0
    plain.learn_one({"f0": 1.0}, y)
    late.learn_one({"f0": 1.0}, y, given=given)
    assert late.fingerprint() == plain.fingerprint()


def test_what_has_no_experts_returns_none() -> None:
    assert BNPClassifier().predict_experts_one({"a": 1.0}) is None
    given = learned(BNPClassifier, 40).predict_experts_one({"f0": 1.0})
    for parameters in ({"lr": 0.3}, {"learner": 1}):
        model, plain = (learned(BNPClassifier, 40, **parameters) for _ in range(2))
        assert model.predict_experts_one({"f0": 1.0}) is None
        model.learn_one({"f0": 1.0}, "b", given=given)
        plain.learn_one({"f0": 1.0}, "b")
        assert model.fingerprint() == plain.fingerprint()


def predictions(experts: int, classes: int, value: float) -> ExpertPredictions:
    return ExpertPredictions(("a", "b"), np.full((experts, classes), value))


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda experts: [[0.5, 0.5]] * experts, "wrong_shape"),
        (lambda experts: predictions(experts - 1, 2, 0.5), "wrong_shape"),
        (lambda experts: predictions(experts, 1, 0.5), "wrong_shape"),
        (lambda experts: predictions(experts, 2, 1.5), "invalid_prediction"),
        (lambda experts: predictions(experts, 2, -0.5), "invalid_prediction"),
    ],
    ids=["no result", "experts", "classes", "above 1", "below 0"],
)
def test_other_predictions_are_refused(make: Callable[[int], Any], code: str) -> None:
    model = learned(BNPClassifier, 40)
    before = model.fingerprint()
    with pytest.raises(SampleError) as caught:
        model.learn_one({"f0": 1.0}, "a", given=make(len(model.mixture) - 1))
    assert (caught.value.code, caught.value.field) == (code, "given")
    assert model.fingerprint() == before


def test_predictions_can_be_stored() -> None:
    given = learned(BNPRegressor, 40).predict_experts_one({"f0": 1.0})
    stored = pickle.loads(pickle.dumps(given))  # noqa: S301 (made here)
    assert stored.labels == given.labels == ()
    np.testing.assert_array_equal(stored.values, given.values)


class _Classifier(BNPClassifier):
    """It judges the experts by their predictions when the label arrives."""

    def predict_experts_one(self, x: Any) -> None:
        return None


class _Regressor(BNPRegressor):
    """As `_Classifier`."""

    def predict_experts_one(self, x: Any) -> None:
        return None


def persistent(length: int) -> Iterator[tuple[dict[str, float], int]]:
    """Labels that persist for 20 samples, a slow feature that tells the time, and a hint of the label."""
    rng = np.random.default_rng(0)
    y, slow = 0, 0.0
    for _ in range(length):
        y = int(rng.integers(2)) if rng.random() < 0.1 else y
        slow += 0.3 * rng.normal()
        yield {"slow": slow, "hint": y + 0.7 * rng.normal()}, y


def walk(length: int) -> Iterator[tuple[dict[str, float], float]]:
    """The same for a regression."""
    rng = np.random.default_rng(0)
    y = slow = 0.0
    for _ in range(length):
        y = 0.95 * y + rng.normal()
        slow += 0.1 * rng.normal()
        yield {"slow": slow, "hint": y + rng.normal()}, y


def test_evaluation_with_late_labels_judges_the_predictions_of_the_time() -> None:
    """When a label arrives, the nearest neighbours of its sample have theirs: then, they had not."""
    then, now = (
        prequential(persistent(1000), kind(hidden=(16,)), "classification", delay=40).metrics
        for kind in (BNPClassifier, _Classifier)
    )
    assert then["Accuracy"] > now["Accuracy"] + 0.05
    assert then["LogLoss"] < now["LogLoss"] - 0.1
    then, now = (
        prequential(walk(1000), kind(hidden=(16,)), "regression", delay=40).metrics
        for kind in (BNPRegressor, _Regressor)
    )
    assert then["MAE"] < 0.8 * now["MAE"]


def test_intervals_cover_with_late_labels() -> None:
    covered = []
    for kind in (BNPRegressor, _Regressor):
        model: Any = kind(hidden=(16,), intervals=1)
        waiting, hits = deque[Any](), list[bool]()
        for t, (x, y) in enumerate(walk(1000)):
            if t >= 500:
                low, high = model.predict_interval_one(x, 0.9)
                hits.append(low <= y <= high)
            waiting.append((x, y, model.predict_experts_one(x)))
            if t >= 30:
                x, y, given = waiting.popleft()
                model.learn_one(x, y, given=given)
        covered.append(sum(hits) / len(hits))
    assert 0.8 < covered[0] < 0.97
    assert covered[1] < 0.7
