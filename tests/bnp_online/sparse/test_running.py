"""An estimator with a sparse stage against the float64 reference, given the predictions of its network."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.learner import learning
from bnp_online.sparse import SparseStage, state
from bnp_online.sparse.state import HEDGED, MIXED, STACKED
from tests.support.reference_sparse import Combination, ReferenceStage, Value

_Estimator = BNPClassifier | BNPRegressor
KINDS = ("closed", "field", "text")


class Follower:
    """An estimator and the reference: both learn the same samples, and agree after each.

    The reference begins as the stage opens. It takes the predictions of the network from the estimator.
    """

    def __init__(self, model: _Estimator, monkeypatch: pytest.MonkeyPatch) -> None:
        # Float64 numbers, and a large table: no two pairs of the test share a row.
        monkeypatch.setattr(learning, "SparseStage", functools.partial(SparseStage, real=np.float64))
        monkeypatch.setattr(state, "FIRST_PAIRS", 2**17)
        self.model, self.regression = model, model.task == "regression"
        self.reference: ReferenceStage | None = None
        self.classes: list[Any] = []
        self.dense: Any = None
        self.targets: list[float] = []
        learn: Callable[..., Any] = model._engine.learn

        def recorded(*arguments: Any, **options: Any) -> Any:
            done, values = learn(*arguments, **options)
            self.dense = values[0].copy() if len(values) else None
            return done, values

        monkeypatch.setattr(model._engine, "learn", recorded)

    def learn(self, x: dict[str, Any], y: Any, w: float = 1.0, *, late: bool = False) -> None:
        """Learn a sample with both; a late label judges the groups by what they predicted before."""
        model, new = self.model, not self.regression and y not in self.classes
        given = model.predict_experts_one(x) if late else None
        earlier = None if given is None else given.values[-2:]
        opened, step = model._stage is not None, model.step
        if new:
            self.classes.append(y)
        model.learn_one(x, y, w, given=given)
        if model._stage is None:
            return
        goal = float(y) if self.regression else self.classes.index(y)
        if self.reference is None:
            known = 0 if self.regression else len(self.classes) - new
            self.reference = ReferenceStage({}, known, regression=self.regression)
            self.combination = Combination(fresh=step == 0)
        reference = self.reference
        reference.kinds = {name: KINDS[kind] for name, kind in model._stage.fields.items()}
        if new:
            reference.add_class()
        sample = [*_values(x)]
        reference.predict(sample)
        judged = w > 0.0 and step > 0 and not new
        self._combine(reference, earlier)
        for row, expected in (
            (HEDGED, self.combination.q),
            (STACKED, self.combination.s),
            (MIXED, self.mixed),
        ):
            found = model._stage.state.outputs[row, : len(expected)]
            np.testing.assert_allclose(
                found, expected, rtol=1e-7, atol=1e-9, err_msg=f"{step}, opened {opened}"
            )
        reference.learn(sample, goal, w, judged=judged)
        self.combination.learn(goal, judged=judged, regression=self.regression)
        hedge = model._stage.state.hedge[0]
        np.testing.assert_allclose(hedge, [*self.combination.weights, *self.combination.shares], rtol=1e-7)

    def _combine(self, reference: ReferenceStage, earlier: Any) -> None:
        if self.regression and not reference.targets:  # no prediction yet: that of the network
            p, targets = np.full((3, 1), self.dense[0]), [self.dense[0]]
        else:
            groups = reference.groups() if earlier is None else earlier
            p = np.vstack([self.dense[: groups.shape[1]][None], groups])
            targets = reference.targets
        self.mixed = self.combination.predict(p, targets if self.regression else None)


def _values(x: dict[str, Any]) -> Iterator[Value]:
    for name, value in x.items():
        if isinstance(value, list):
            yield from ((name, each, float(value.count(each))) for each in {*value})
        elif value is not None:
            yield name, value, 1.0


def _stream(count: int, classes: int, task: str, *, late_classes: bool = False) -> Iterator[Any]:
    """Yield samples in which a field outgrows its columns, words come later, and classes come on the fly."""
    rng = random.Random(7)  # noqa: S311
    for i in range(count):
        a, b = rng.randrange(min(10 + i // 2, 50)), rng.randrange(5)
        x: dict[str, Any] = {"a": f"a{a}", "b": f"b{b}"}
        if rng.random() < 0.15:
            x[rng.choice("ab")] = None
        if i > 120 and not late_classes:
            x["t"] = [f"w{rng.randrange(12)}" for _ in range(rng.randrange(4))]
        seen = min(classes, 2 + i // 8) if late_classes else classes
        y: Any = (3 * a + b + rng.randrange(2)) % seen
        yield x, 5.0 * y - 3.0 if task == "regression" else f"y{y}"


def _make(task: str, **options: Any) -> _Estimator:
    kind = BNPRegressor if task == "regression" else BNPClassifier
    return kind(hidden=(4,), memory=50, replay=1, **options)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_stage_opens_in_a_running_model(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    follower = Follower(_make(task), monkeypatch)
    for x, y in _stream(200, 3, task):
        follower.learn(x, y)
    assert follower.combination.samples < 150
    assert follower.model._stage is not None
    assert set(follower.model._stage.fields.values()) == {0, 1, 2}


def test_new_classes_come_on_the_fly_up_to_30(monkeypatch: pytest.MonkeyPatch) -> None:
    follower = Follower(_make("classification"), monkeypatch)
    for x, y in _stream(330, 30, "classification", late_classes=True):
        follower.learn(x, y)
    assert len(follower.model.labels) == 30  # type: ignore[union-attr]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_weights_scale_steps_and_counts(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    follower, rng = Follower(_make(task), monkeypatch), random.Random(1)  # noqa: S311
    for x, y in _stream(200, 3, task):
        follower.learn(x, y, rng.choice([1.0, 0.0, 0.25, 2.0, 30.0]))
    heavy, twice = _make(task), _make(task)
    for i in range(40):
        heavy.learn_one({"t": [f"w{i % 7}"]}, i % 2, 2.0)
        for _ in range(2):
            twice.learn_one({"t": [f"w{i % 7}"]}, i % 2)
    for each in (heavy, twice):
        assert each._stage is not None
    counts = [each.state_dict()["tensors"]["sparse.counts"] for each in (heavy, twice)]
    np.testing.assert_allclose(counts[0], counts[1], rtol=1e-6)
    before = heavy.state_dict()["tensors"]
    heavy.learn_one({"t": ["w1", "new"]}, 1, 0.0)
    after = heavy.state_dict()["tensors"]
    for name in ("counts", "weights", "scales", "names", "bias", "hedge", "totals", "pairs.counts"):
        np.testing.assert_array_equal(before[f"sparse.{name}"], after[f"sparse.{name}"], err_msg=name)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_late_labels_judge_the_combination_by_the_earlier_predictions(
    task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = Follower(_make(task), monkeypatch)
    for i, (x, y) in enumerate(_stream(200, 3, task)):
        follower.learn(x, y, late=i > 100 and i % 3 == 0)
