"""What needs no features, against its definition over the whole list of labels."""

from __future__ import annotations

import json
import math
import random
from typing import Any, Literal

import pytest

from bnp_online.errors import StateError
from bnp_online.evaluation.baselines import Baselines


def labels(kind: str, n: int = 300) -> list[Any]:
    rng = random.Random(3)  # noqa: S311 (no secret)
    if kind == "regression":
        return [rng.gauss(5, 3) for _ in range(n)]
    kinds: dict[str, list[Any]] = {"bool": [True, False], "str": ["a", "b", "c"]}
    return rng.choices(kinds[kind], k=n)


def mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)


@pytest.mark.parametrize("kind", ["bool", "str"])
@pytest.mark.parametrize("window", [50, 1000])
def test_a_classification_by_definition(kind: str, window: int) -> None:
    y, baselines = labels(kind), Baselines("classification", window)
    right, same, loss = [], [], []
    for i, label in enumerate(y):
        baselines.update(label)
        if i:
            counts = {each: y[:i].count(each) for each in dict.fromkeys(y[:i])}
            best = max(counts.values())
            # Of equals the one that got there first.
            first = next(y[j] for j in range(i) if y[: j + 1].count(y[j]) == best)
            right.append(float(label == first))
            same.append(float(label == y[i - 1]))
            loss.append(-math.log((counts.get(label, 0) + 1) / (i + len(counts) + 1)))
    found = baselines.report()
    assert found["n"] == len(y) - 1
    for part, last in (("cumulative", len(y)), ("window", window)):
        assert found[part]["majority"]["Accuracy"] == pytest.approx(mean(right[-last:]))
        assert found[part]["majority"]["LogLoss"] == pytest.approx(mean(loss[-last:]))
        assert found[part]["last"]["Accuracy"] == pytest.approx(mean(same[-last:]))


@pytest.mark.parametrize("window", [50, 1000])
def test_a_regression_by_definition(window: int) -> None:
    y, baselines = labels("regression"), Baselines("regression", window)
    for target in y:
        baselines.update(target)
    errors = [y[i] - mean(y[:i]) for i in range(1, len(y))][-window:]
    steps = [y[i] - y[i - 1] for i in range(1, len(y))][-window:]
    found = baselines.report()["window"]
    assert found["mean"]["MAE"] == pytest.approx(mean([abs(e) for e in errors]))
    assert found["mean"]["RMSE"] == pytest.approx(math.sqrt(mean([e * e for e in errors])))
    assert found["last"]["MAE"] == pytest.approx(mean([abs(e) for e in steps]))


@pytest.mark.parametrize("kind", ["bool", "str", "regression"])
def test_it_goes_on_from_its_state_as_if_nothing_had_been(kind: str) -> None:
    task: Any = "regression" if kind == "regression" else "classification"
    y, whole = labels(kind), Baselines(task, 50)
    for label in y[:100]:
        whole.update(label)
    other = Baselines(task, 50)
    other.load_state_dict(json.loads(json.dumps(whole.state_dict())))
    for label in y[100:]:
        whole.update(label)
        other.update(label)
    assert other.report() == whole.report()
    assert other.state_dict() == whole.state_dict()


@pytest.mark.parametrize("kind", ["str", "regression"])
def test_a_copy_stays_as_it_is(kind: str) -> None:
    y, baselines = labels(kind), Baselines("regression" if kind == "regression" else "classification", 50)
    for label in y[:70]:
        baselines.update(label)
    kept, state = baselines.copy(), baselines.state_dict()
    for label in y[70:]:
        baselines.update(label)
    assert kept.state_dict() == state != baselines.state_dict()


def test_a_state_of_another_kind_is_refused() -> None:
    with pytest.raises(StateError):
        Baselines("regression").load_state_dict(Baselines("classification").state_dict())


def test_nothing_is_scored_before_the_second_label() -> None:
    baselines = Baselines("classification")
    baselines.update("a")
    assert baselines.report()["n"] == 0
    assert baselines.report()["cumulative"]["last"] == {"Accuracy": None}


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_scores_over_no_labels_are_none(task: Literal["classification", "regression"]) -> None:
    baselines = Baselines(task)
    baselines.update(1)  # the first label is not scored
    report = baselines.report()
    for over in ("cumulative", "window"):
        assert {value for scores in report[over].values() for value in scores.values()} == {None}
