"""The second generation of the learner: the engines against the float64 reference."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bnp_online import mixture
from bnp_online.drift_response import with_short_memory, with_slowest_reset
from bnp_online.engines import base
from bnp_online.engines.base import Engine, LearnerSpec
from bnp_online.mixture import draw
from tests.support.engines import CASES
from tests.support.reference_experts import ReferenceExperts
from tests.support.reference_learner import Layer, ReferenceLearner

Vector = NDArray[np.float64]
TASKS = ("classification", "regression")


@pytest.fixture(autouse=True)
def _slow_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates that do not amplify rounding."""
    monkeypatch.setattr(base, "PLAIN_RATES", (0.03, 0.1, 0.2))
    monkeypatch.setattr(base, "REPLAY_RATES", (0.05, 0.1))
    monkeypatch.setattr(base, "SINGLE_RATE", 0.1)
    monkeypatch.setattr(base, "LINEAR_RATES", (0.05, 0.2))


def spec_of(task: base.Task, **changes: object) -> LearnerSpec:
    settings: dict[str, object] = {
        "hidden": (6, 5),
        "activation": "tanh",
        "replay": 2,
        "memory": 60,
        "seed": 4,
    }
    return LearnerSpec(task=task, learner=2, **(settings | changes))  # type: ignore[arg-type]  # checked by it


def stream(
    task: str, length: int, seed: int = 0, missing: float = 0.05
) -> Iterator[tuple[Vector, float, float]]:
    """Three classes or a line, with noise, missing values, weights, and absurd values."""
    rng = np.random.default_rng(seed)
    for t in range(length):
        x = rng.normal(size=4) * [1.0, 5.0, 0.2, 1.0]
        x[3] = float(rng.random() < 0.1)
        line = 3.0 * x[0] - x[1] + 7.0 + 0.3 * rng.normal()
        y = float(min(t, np.digitize(line, [5.0, 9.0]), 2)) if task == "classification" else line
        x[rng.random(4) < missing] = math.nan
        if t in (7, 33):
            x[1] = 1e6
        if t in (9, 41) and task == "regression":
            y = 99999.0
        yield x, y, float(rng.choice([0.0, 0.5, 1.0, 1.0]))


def reference_for(engine: Engine, spec: LearnerSpec) -> ReferenceExperts:
    state = engine.state_dict()
    names = [f"network.{name}" for name in spec.layers]

    def learner(layers: list[Layer], rate: float) -> ReferenceLearner:
        return ReferenceLearner(
            task=spec.task,
            layers=layers,
            activation=spec.activation,
            lr=rate,
            rho=spec.rho,
            eps_rel=spec.eps_rel,
            eps_abs=spec.eps_abs,
            step_scale=spec.step_scale,
            standardize=spec.standardize,
        )

    def layers(k: int) -> list[Layer]:
        return [Layer(state[f"{n}.weight"][k].numpy(), state[f"{n}.bias"][k].numpy()) for n in names]

    kinds = {"inputs": "standardized", "network": "network"}
    return ReferenceExperts(
        task=spec.task,
        trajectories=[
            (
                learner(layers(k), each.rate),
                each.replays,
                (("raw",) if each.latest else ()) + (("mean",) if each.averages else ()),
            )
            for k, each in enumerate(spec.members)
        ],
        linear=[
            learner([Layer(w.numpy(), b.numpy())], rate)
            for w, b, rate in zip(
                state["linear.head.weight"], state["linear.head.bias"], spec.linear, strict=True
            )
        ]
        if spec.linear
        else [],
        neighbours=[
            (each.window, each.neighbours, kinds[each.metric])
            for each in spec.experts
            if each.metric is not None
        ],
        binned=spec.bins,
        replay=spec.replayed,
        memory=spec.remembered,
        measure=0.1,
        draw=lambda step, turn, n: draw(spec.seed, step, turn, n),
    )


def assert_equal(engine: Engine, spec: LearnerSpec, reference: ReferenceExperts, at: int) -> None:
    state = {name: value.numpy() for name, value in engine.state_dict().items()}
    pairs: dict[str, Vector | float] = {
        "mixture.weights": np.array(reference.rates),
        "mixture.shares": reference.shares,
        "mixture.error_scale": reference.error_scale,
        "stack.coefficients": reference.coefficients,
        "stack.inverse": reference.inverse,
        "inputs.mean": reference.inputs.moments.mean,
        "inputs.var": reference.inputs.moments.var,
    }
    if spec.neighbours:
        weights = reference.metric**2
        pairs["neighbours.metric"] = weights
    for name, expected in pairs.items():
        np.testing.assert_allclose(state[name], expected, rtol=1e-6, atol=1e-9, err_msg=f"{name} after {at}")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("make", CASES)
@pytest.mark.parametrize(
    "changes",
    [{}, {"replay": 0}, {"hidden": ()}, {"hidden": (7,), "activation": "relu"}, {"memory": 30}],
    ids=str,
)
def test_follows_the_float64_reference(
    make: Callable[..., Engine],
    task: base.Task,
    changes: dict[str, object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = spec_of(task, **changes)
    engine = make(spec, dtype=torch.float64)
    engine.grow(["a", "b", "c", "d"], 1)
    reference = reference_for(engine, spec)
    follow(engine, spec, reference, stream(task, 130))
    assert len(spec.experts) == len(reference.weights)


def follow(
    engine: Engine,
    spec: LearnerSpec,
    reference: ReferenceExperts,
    samples: Iterable[tuple[Vector, float, float]],
    *,
    unknown: bool = False,
) -> None:
    """Learn samples with both; inputs and classes grow as they come. All values agree after each sample."""
    outputs = max(reference.seen, 1)
    for x, y, weight in samples:
        t = reference.step
        expected = None
        if new := len(x) - len(reference.metric):
            engine.grow([f"new {i}" for i in range(len(x) - new, len(x))], 0, unknown=unknown)
            reference.grow(new, 0, unknown=unknown)
        if spec.task == "classification" and y >= outputs:
            engine.grow([], 1)
            reference.grow(0, 1)
            outputs = outputs + 1
        elif t > 0:
            expected = reference.predict(x)
        done, predictions = engine.learn(x[None], np.array([y]), np.array([weight]), predict=True)
        assert done == 1
        if expected is not None:
            np.testing.assert_allclose(predictions[0], expected, rtol=1e-6, atol=1e-9, err_msg=f"step {t}")
        reference.learn(x, y, weight)
        assert_equal(engine, spec, reference, t)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("make", CASES)
def test_values_of_a_column_before_it_joined_are_missing_in_the_memory(
    make: Callable[..., Engine], task: base.Task
) -> None:
    """Replay takes them at the mean, and distances to the neighbours leave them out."""
    spec = spec_of(task)
    engine = make(spec, dtype=torch.float64)
    engine.grow(["a", "b", "c", "d"], 1)
    reference = reference_for(engine, spec)
    follow(engine, spec, reference, widened(stream(task, 130)), unknown=True)
    copy = make(spec, dtype=torch.float64)
    copy.load_state_dict(engine.state_dict())
    assert torch.isnan(engine.state_dict()["memory.x"]).any()


def widened(samples: Iterable[tuple[Vector, float, float]]) -> Iterator[tuple[Vector, float, float]]:
    """Samples to which inputs are added: before the 20th sample, and later."""
    rng = np.random.default_rng(1)
    for t, (x, y, weight) in enumerate(samples):
        more = rng.normal(50.0, 3.0, size=2 * (t >= 15) + (t >= 60))
        more[rng.random(len(more)) < 0.1] = math.nan
        yield np.append(x, more), y, weight


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("make", CASES)
def test_follows_the_float64_reference_as_inputs_join(make: Callable[..., Engine], task: base.Task) -> None:
    spec = spec_of(task)
    engine = make(spec, dtype=torch.float64)
    engine.grow(["a", "b", "c", "d"], 1)
    follow(engine, spec, reference_for(engine, spec), widened(stream(task, 100)))


def follow_weighted(
    make: Callable[..., Engine],
    task: base.Task,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> None:
    """Let an engine and the reference learn samples of two inputs; the first class seen is 0."""
    spec = spec_of(task)
    engine = make(spec, dtype=torch.float64)
    engine.grow(["a", "b"], 1)
    y[0] = 0.0
    follow(engine, spec, reference_for(engine, spec), zip(x, y, weights, strict=True))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("make", CASES)
def test_the_newest_of_equally_near_samples_vote(make: Callable[..., Engine], task: base.Task) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(3, size=(90, 2)) * [1.0, 0.3]
    y = rng.integers(2, size=90).astype(np.float64)
    follow_weighted(make, task, x, y, rng.choice([0.5, 1.0], size=90))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("make", CASES)
def test_votes_of_tiny_weights_are_none(make: Callable[..., Engine], task: base.Task) -> None:
    """The reciprocal of 5e-324 is infinite."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 2)), rng.integers(2, size=30).astype(np.float64)
    weights = np.append([5e-324, 1e-310, 1e-300, 5e-324], rng.choice([5e-324, 1.0], size=26))
    follow_weighted(make, task, x, y, weights)


def shorten(reference: ReferenceExperts, weight: int) -> None:
    for values in (reference.inputs, reference.targets):
        values.moments.n = min(values.moments.n, weight)
        values.joined = [min(joined, weight) for joined in values.joined]
        values.largest[:] = 0.0
    for network in reference.networks:
        for layer in network.learner.layers:
            layer.t = min(layer.t, weight - 1)  # the pseudo-sample counts


def reset(reference: ReferenceExperts) -> None:
    names, mean = [], reference.weights
    for k, network in enumerate(reference.networks):
        names += [(k, kind) for kind in network.predicts]
    quick = [k for k, (_, replays, _) in enumerate(reference.trajectories) if not replays]
    best = max(quick, key=lambda k: float(mean[names.index((k, "raw"))]))
    near = slice(len(names), len(names) + len(reference.neighbours))
    for weights in reference.rates:
        weights[names.index((best, "raw"))] += (weights[near] - 0.01 / len(weights)).sum()
        weights[near] = 0.01 / len(weights)
    slow = [k for k, (_, replays, _) in enumerate(reference.trajectories) if replays]
    for k in quick:
        alike = [i for i, (of, _) in enumerate(names) if of == k or (k == best and of in slow)]
        for weights in reference.rates:
            weights[alike] = weights[alike].mean()
    source = reference.networks[best].learner
    for k in slow:
        reference.networks[k].restart(source, source)
    for network in reference.networks:
        network.mean.layers = copy.deepcopy(network.learner.layers)
    if reference.bins is not None:
        reference.bins.squares.clear()
    reference.remembered.clear()
    reference.count = 0


@pytest.mark.parametrize("action", ["shorten", "reset"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("make", CASES)
def test_drift_response_follows_the_float64_reference(
    make: Callable[..., Engine], task: base.Task, action: str
) -> None:
    spec = spec_of(task)
    engine = make(spec, dtype=torch.float64)
    engine.grow(["a", "b", "c", "d"], 1)
    reference = reference_for(engine, spec)
    samples = widened(stream(task, 95))
    follow(engine, spec, reference, itertools.islice(samples, 65))
    if action == "shorten":
        shorten(reference, 5)
        engine.load_state_dict(with_short_memory(engine.state_dict(), 5.0))
    else:
        reset(reference)
        engine.load_state_dict(with_slowest_reset(engine.state_dict(), spec))
    follow(engine, spec, reference, samples)


def test_constants_are_those_of_the_definition() -> None:
    """Of the paper's neighbours: a window bounded by the number of values compared."""
    assert mixture.neighbour_window(5, 5000) == 5000
    assert mixture.neighbour_window(100, 5000) == 500
    assert mixture.neighbour_window(4096, 5000) == 50
