"""Late labels: the engines judge the experts by their earlier predictions, as the float64 reference does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from bnp_online.engines import base, torch_runner
from bnp_online.engines.base import Engine
from bnp_online.engines.numba_engine import NumbaEngine
from bnp_online.engines.torch_engine import TorchEngine
from tests.bnp_online.engines.test_experts import (
    TASKS,
    Vector,
    assert_equal,
    reference_for,
    spec_of,
    stream,
    widened,
)
from tests.bnp_online.engines.test_torch_experts import assert_agree, made, samples_of
from tests.support.engines import CASES, GPUS
from tests.support.engines import ENGINES as BY_NAME

ENGINES = list(BY_NAME.values())
DELAY = 6


@pytest.fixture(autouse=True)
def _slow_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates that do not amplify rounding."""
    monkeypatch.setattr(base, "PLAIN_RATES", (0.03, 0.1, 0.2))
    monkeypatch.setattr(base, "REPLAY_RATES", (0.05, 0.1))
    monkeypatch.setattr(base, "SINGLE_RATE", 0.1)
    monkeypatch.setattr(base, "LINEAR_RATES", (0.05, 0.2))


def placed(given: Vector, outputs: int) -> Vector:
    """Predictions with a column for each class: 0 for one that was unknown, NaN for an expert without one."""
    row = np.zeros((len(given), outputs))
    row[:, : given.shape[1]] = given
    row[np.isnan(given[:, 0])] = math.nan
    return row


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("make", CASES)
def test_follows_the_float64_reference(make: Callable[..., Engine], task: base.Task) -> None:
    """Inputs and classes join, weights are 0, experts have no prediction, between prediction and label."""
    spec = spec_of(task)
    engine = make(spec, dtype=torch.float64)
    engine.grow(["a", "b", "c", "d"], 1)
    reference = reference_for(engine, spec)
    rng = np.random.default_rng(0)
    waiting: list[tuple[Vector, float, float, Vector | None]] = []
    outputs = 1
    for t, (x, y, weight) in enumerate(widened(stream(task, 110))):
        if new := len(x) - len(reference.metric):
            engine.grow([f"new {i}" for i in range(len(x) - new, len(x))], 0)
            reference.grow(new, 0)
        given = None
        if reference.step:
            given = reference.members(x)
            np.testing.assert_allclose(engine.experts(x), given, rtol=1e-6, atol=1e-9)
            given[rng.random(len(given)) < (1.0 if t % 17 == 0 else 0.1)] = math.nan
        if task == "classification" and t >= 50:
            y = min(y + (t >= 80), 3.0)  # a further class, and the first one no more
        waiting.append((x, y, weight, given))
        if t < DELAY:
            continue
        x, y, weight, given = waiting.pop(0)
        x = np.append(x, np.zeros(len(reference.metric) - len(x)))
        if task == "classification" and y >= outputs:
            y, outputs = float(outputs), outputs + 1
            engine.grow([], 1)
            reference.grow(0, 1)
        known = None if given is None else placed(given, outputs)
        late = np.full((1, len(spec.experts), outputs), math.nan) if known is None else known[None]
        done, _ = engine.learn(x[None], np.array([y]), np.array([weight]), predict=t % 2 == 0, given=late)
        assert done == 1
        reference.learn(x, y, weight, known)
        assert_equal(engine, spec, reference, t)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("make", CASES)
def test_predictions_of_now_change_nothing(make: Callable[..., Engine], task: base.Task) -> None:
    """Nor do rows without earlier predictions, in a block with them."""
    spec = spec_of(task)
    plain, late = made(make, spec), made(make, spec)
    x, y, weights = samples_of(task, 70)
    plain.learn(x, y, weights)
    late.learn(x[:1], y[:1], weights[:1])
    for t in range(1, 60):
        row = slice(t, t + 1)
        late.learn(x[row], y[row], weights[row], given=late.experts(x[t])[None])
    unknown = np.full((10, len(spec.experts), 3 if task == "classification" else 1), math.nan)
    late.learn(x[60:], y[60:], weights[60:], given=unknown)
    assert_agree(late, plain, 1e-12)


@pytest.mark.parametrize("make", CASES)
def test_a_first_generation_ignores_them(make: Callable[..., Engine]) -> None:
    spec = spec_of("classification")
    spec.learner = 1
    plain, late = made(make, spec), made(make, spec)
    x, y, weights = samples_of("classification", 30)
    plain.learn(x, y, weights)
    late.learn(x, y, weights, given=np.full((30, len(spec.experts), 3), 1.0 / 3.0))
    assert_agree(late, plain, 0.0)


@pytest.mark.parametrize("task", TASKS)
def test_the_prediction_is_that_of_the_earlier_ones(task: base.Task) -> None:
    engines = [made(make, spec_of(task)) for make in ENGINES]
    x, y, weights = samples_of(task, 60)
    results = []
    for engine in engines:
        engine.learn(x[:50], y[:50], weights[:50])
        given = np.stack([engine.experts(row) for row in x[50:]])
        _, predictions = engine.learn(x[50:], y[50:], weights[50:], predict=True, given=given)
        results.append(predictions)
    for engine, result in zip(engines[1:], results[1:], strict=True):
        np.testing.assert_allclose(result, results[0], rtol=1e-8)
        assert_agree(engines[0], engine)


@pytest.mark.parametrize("task", TASKS)
def test_what_diverged_since_restarts(task: base.Task) -> None:
    """Its earlier prediction does not count."""
    spec = spec_of(task)
    donor = made(NumbaEngine, spec)
    donor.learn(*samples_of(task, 60))
    x, y, _ = samples_of(task, 20, seed=1)
    given = np.stack([donor.experts(row) for row in x])
    state = donor.state_dict()
    state["network.body.1.weight"][1] = math.inf
    engines = [make(spec, dtype=torch.float64) for make in ENGINES]
    for engine in engines:
        engine.load_state_dict(state)
        assert engine.learn(x[10:11], y[10:11], np.ones(1), given=given[10:11])[0] == 1
        rates = [k for k, owner in enumerate(spec.owners) if owner == 1]
        assert engine.mixture[rates] == pytest.approx(0.01 / len(spec.experts))
        assert engine.learn(x[11:], y[11:], np.ones(9), given=given[11:])[0] == 9
    for engine in engines[1:]:
        assert_agree(engines[0], engine, 1e-7)


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize("task", TASKS)
def test_a_captured_step_equals_the_plain_one(
    task: base.Task, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With blocks of several uploads, and spare outputs that had a column of a refused growth."""
    monkeypatch.setattr(torch_runner, "MOST_BYTES", 8 * len(spec_of(task).experts) * 8 * 4)
    spec = spec_of(task, replay=1)
    plain, captured = (TorchEngine(spec, device, torch.float64, capture=capture) for capture in (False, True))
    for engine in (plain, captured):
        engine.grow(["a", "b", "c", "d"], 3 if task == "classification" else 1)
    x, y, weights = samples_of(task, 40)
    results: list[Any] = []
    for engine in (plain, captured):
        engine.learn(x[:20], y[:20], weights[:20])
        given = np.stack([engine.experts(row) for row in x[20:]])
        if task == "classification":
            before = engine.snapshot()
            engine.grow([], 1)
            wider = np.stack([placed(row, 4) for row in given]) + 0.01
            assert engine.learn(x[20:21], y[:1], np.full(1, 1e300), given=wider[:1])[0] == 0
            engine.restore(before)
        results.append(engine.learn(x[20:], y[20:], weights[20:], predict=True, given=given))
    assert results[0][0] == results[1][0] == 20
    assert engine._runner.late_rows <= 11  # several uploads
    np.testing.assert_array_equal(results[0][1], results[1][1])
    assert_agree(captured, plain, 0.0)
