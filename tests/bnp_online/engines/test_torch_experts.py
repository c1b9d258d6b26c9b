"""The second generation on torch: it agrees with the numba engine, and spare sizes have no effect."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from bnp_online.engines import base, torch_engine
from bnp_online.engines.base import Engine, LearnerSpec
from bnp_online.engines.numba_engine import NumbaEngine
from bnp_online.engines.torch_neighbours import most_window
from bnp_online.mixture import NEIGHBOURS, neighbour_window
from tests.bnp_online.engines.test_experts import TASKS, Vector, spec_of, stream, widened
from tests.support.engines import CASES, ENGINES, TORCH

Samples = tuple[Vector, Vector, Vector]


@pytest.fixture(autouse=True)
def _slow_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates that do not amplify rounding."""
    monkeypatch.setattr(base, "PLAIN_RATES", (0.03, 0.1, 0.2))
    monkeypatch.setattr(base, "REPLAY_RATES", (0.05, 0.1))
    monkeypatch.setattr(base, "SINGLE_RATE", 0.1)
    monkeypatch.setattr(base, "LINEAR_RATES", (0.05, 0.2))


def samples_of(task: str, length: int, seed: int = 0) -> Samples:
    x, y, weights = (np.array(column) for column in zip(*stream(task, length, seed), strict=True))
    return x, y, weights


def made(make: Callable[..., Engine], spec: LearnerSpec) -> Engine:
    engine = make(spec, dtype=torch.float64)
    engine.grow(["a", "b", "c", "d"], 3 if spec.task == "classification" else 1)
    return engine


def assert_agree(one: Engine, other: Engine, tolerance: float = 1e-8) -> None:
    """Norm-wise, every tensor of the state."""
    state, expected = one.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert state[name].shape == value.shape, name
        assert state[name].dtype == value.dtype, name
        assert torch.equal(state[name].isnan(), value.isnan()), name
        difference = (state[name] - value).nan_to_num(posinf=0.0, neginf=0.0).double().norm()
        size = value.nan_to_num(posinf=0.0, neginf=0.0).double().norm().clamp(min=1e-3)
        assert difference <= tolerance * size, name


@pytest.mark.parametrize("before", [12, 70])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("donor", ENGINES)
def test_a_state_moves_between_engines(donor: str, task: base.Task, before: int) -> None:
    """Before the bounds of values, and with a full memory; inputs join later."""
    spec = spec_of(task, memory=50)
    engines = [made(ENGINES[donor], spec), *(make(spec, dtype=torch.float64) for make in ENGINES.values())]
    samples = list(widened(stream(task, before + 30)))
    columns = 4
    for t, (x, y, weight) in enumerate(samples):
        if t == before:
            for engine in engines[1:]:
                engine.load_state_dict(engines[0].state_dict())
        group = engines[:1] if t < before else engines
        for engine in group:
            if len(x) > columns:
                engine.grow([f"new {i}" for i in range(columns, len(x))], 0)
        columns = len(x)
        results = [engine.learn(x[None], np.array([y]), np.array([weight]), predict=True) for engine in group]
        assert [done for done, _ in results] == [1] * len(group)
        for _, prediction in results[1:]:
            if t > 0:
                np.testing.assert_allclose(prediction, results[0][1], rtol=1e-8, atol=1e-10)
    for engine in engines[1:]:
        assert_agree(engine, engines[0])


@pytest.mark.parametrize("task", TASKS)
def test_the_engines_agree_without_standardization(task: base.Task) -> None:
    spec = spec_of(task, standardize=False, step_scale="paper", activation="gelu")
    engines = [made(make, spec) for make in ENGINES.values()]
    x, y, weights = samples_of(task, 90)
    x[x == 1e6] = 100.0
    results = [engine.learn(x, y, weights, predict=True) for engine in engines]
    np.testing.assert_allclose(results[0][1][1:], results[1][1][1:], rtol=1e-7, atol=1e-10)
    assert_agree(engines[0], engines[1])


def test_the_engines_agree_with_many_classes() -> None:
    """The stack leaves out improbable classes; of a class left out it learns nothing."""
    spec = spec_of("classification")
    rng = np.random.default_rng(0)
    y = np.where(rng.random(150) < 0.1, rng.integers(140, size=150), rng.integers(3, size=150))
    y[0] = 0
    x = rng.normal(size=(150, 4)) + y[:, None] % 3
    engines = [make(spec, dtype=torch.float64) for make in ENGINES.values()]
    results = []
    for engine in engines:
        engine.grow(["a", "b", "c", "d"], 140)
        results.append(engine.learn(x, y.astype(np.float64), np.ones(150), predict=True)[1])
    np.testing.assert_allclose(results[1], results[0], rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(results[1].sum(axis=1), 1.0)
    assert_agree(engines[0], engines[1])


@pytest.mark.parametrize("name", ["network.body.1.weight", "average.head.bias", "linear.head.weight"])
@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("task", TASKS)
def test_what_diverged_restarts_from_the_best_of_its_kind(task: base.Task, row: int, name: str) -> None:
    """Of networks, of running means (a plain network's and a replaying one's), and of linear members."""
    spec = spec_of(task)
    donor = made(NumbaEngine, spec)
    donor.learn(*samples_of(task, 60))
    state = donor.state_dict()
    state[name][row] = math.inf
    x, y, _ = samples_of(task, 20, seed=1)
    engines = [make(spec, dtype=torch.float64) for make in ENGINES.values()]
    for engine in engines:
        engine.load_state_dict(state)
        assert engine.learn(x[10:], y[10:], np.ones(10))[0] == 10
        assert all(value.isfinite().all() for key, value in engine.state_dict().items() if key != "memory.x")
    assert_agree(engines[0], engines[1], 1e-7)


@pytest.mark.parametrize("make", CASES)
def test_linear_members_begin_anew_if_all_diverge(make: Callable[..., Engine]) -> None:
    engine = made(make, spec_of("classification"))
    engine.learn(*samples_of("classification", 31))
    state = engine.state_dict()
    state["linear.head.weight"][:] = math.nan
    engine.load_state_dict(state)
    assert engine.learn(np.ones((1, 4)), np.zeros(1), np.ones(1))[0] == 1
    assert not engine.state_dict()["linear.head.weight"].any()


@pytest.mark.parametrize("make", TORCH)
@pytest.mark.parametrize("task", TASKS)
def test_spare_inputs_and_outputs_cannot_be_seen(
    task: base.Task, make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(make: Callable[..., Engine]) -> Engine:
        engine = make(spec_of(task, replay=1), dtype=torch.float64)
        rng = np.random.default_rng(3)
        columns = outputs = 0
        for t in range(80):
            names = [f"f{i}" for i in range(columns, min(70, 2 + t))]
            new = int(outputs < 12 and t % 5 == 0) if task == "classification" else int(t == 0)
            columns, outputs = columns + len(names), outputs + new
            engine.grow(names, new)
            x = rng.normal(size=(1, columns))
            x[rng.random(x.shape) < 0.02] = math.nan
            y = float(rng.integers(outputs)) if task == "classification" else float(rng.normal())
            assert engine.learn(x, np.array([y]), np.ones(1))[0] == 1
        return engine

    roomy, reference = run(make), run(NumbaEngine)
    monkeypatch.setattr(torch_engine, "capacity", lambda size, least: size)
    assert_agree(run(make), roomy, 1e-9)
    assert_agree(roomy, reference, 1e-9)


def test_the_allocated_window_contains_that_of_the_inputs_in_use() -> None:
    for inputs in range(1, 3000):
        allocated = torch_engine.capacity(inputs, torch_engine.LEAST_INPUTS)
        needed = max(neighbour_window(inputs, window) for _, window, _ in NEIGHBOURS)
        assert most_window(allocated) >= needed


@pytest.mark.parametrize("make", TORCH)
@pytest.mark.parametrize("task", TASKS)
def test_twenty_equal_values_first_have_no_variance(task: base.Task, make: Callable[..., Engine]) -> None:
    """A flag that is 0 for long, then 1 now and then: its first 1 is admitted as it is."""
    engine = made(make, replace(spec_of(task), memory=30))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4))
    x[:, 3] = 0.1
    x[35, 3] = 1.0
    y = np.zeros(40) if task == "classification" else rng.normal(size=40)
    engine.learn(x[:35], y[:35], np.ones(35))
    assert engine.moments()["inputs.var"][3] == 0.0
    engine.learn(x[35:], y[35:], np.ones(5))
    assert engine.state_dict()["bounds.inputs.largest"][3] == pytest.approx(0.9)
