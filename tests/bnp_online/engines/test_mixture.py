"""Copies, mixture and memory: the engines against the float64 reference, and against each other."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bnp_online import BNPClassifier, BNPRegressor, ConfigurationError
from bnp_online.drift_response import with_short_memory, with_slowest_reset
from bnp_online.engines import base
from bnp_online.engines.base import Engine, LearnerSpec
from bnp_online.mixture import draw
from tests.support.engines import CASES, ENGINES
from tests.support.reference_learner import Layer, ReferenceLearner
from tests.support.reference_mixture import ReferenceMixture

Vector = NDArray[np.float64]

SPEC = LearnerSpec(
    task="classification",
    hidden=(6, 5),
    activation="tanh",
    lr="auto",
    replay=2,
    memory=30,
    rho=0.99,
    eps_rel=1e-2,
    eps_abs=1e-4,
    step_scale="norm",
    standardize=True,
    input_shape=None,
    network="mlp",
    seed=4,
    learner=1,
)
TASKS = ("classification", "regression")


def stream(task: str, length: int, seed: int = 0) -> Iterator[tuple[Vector, float, float]]:
    """Two classes that can be told apart, or a line, with noise, missing values and weights."""
    rng = np.random.default_rng(seed)
    for t in range(length):
        x = rng.normal(size=4)
        y = float(x[0] - x[1] > 0.3) if task == "classification" else float(3.0 * x[0] - x[1] + 7.0)
        x[rng.random(4) < 0.05] = math.nan
        yield x, 0.0 if t == 0 and task == "classification" else y, float(rng.choice([0.5, 1.0]))


def grown(make: Callable[..., Engine], spec: LearnerSpec) -> Engine:
    engine = make(spec, dtype=torch.float64)
    engine.grow(["a", "b", "c", "d"], 2 if spec.task == "classification" else 1)
    return engine


def reference_for(engine: Engine, spec: LearnerSpec) -> ReferenceMixture:
    state = engine.state_dict()
    names = [f"network.body.{2 * i + 1}" for i in range(len(spec.hidden))] + ["network.head"]
    learners = [
        ReferenceLearner(
            task=spec.task,
            layers=[Layer(state[f"{n}.weight"][k].numpy(), state[f"{n}.bias"][k].numpy()) for n in names],
            activation=spec.activation,
            lr=each.rate,
            rho=spec.rho,
            eps_rel=spec.eps_rel,
            eps_abs=spec.eps_abs,
            step_scale=spec.step_scale,
            standardize=spec.standardize,
        )
        for k, each in enumerate(spec.members)
    ]
    return ReferenceMixture(
        learners,
        [each.replays for each in spec.members],
        [each.averages for each in spec.members],
        spec.replay,
        spec.memory,
        lambda step, turn, n: draw(spec.seed, step, turn, n),
    )


def learn(engine: Engine, x: Vector, y: float, weight: float) -> Vector:
    done, predictions = engine.learn(x[None], np.array([y]), np.array([weight]), predict=True)
    assert done == 1
    row: Vector = predictions[0]
    return row


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("make", CASES)
def test_follows_the_float64_reference(
    make: Callable[..., Engine], task: base.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At rates that do not amplify rounding: at rate 1 a difference of 1e-16 grows to 1 in 120 steps."""
    monkeypatch.setattr(base, "RATES", (0.03, 0.1, 0.2))
    monkeypatch.setattr(base, "SINGLE_RATE", 0.1)
    spec = replace(SPEC, task=task)
    engine = grown(make, spec)
    reference = reference_for(engine, spec)
    for t, (x, y, weight) in enumerate(stream(task, 90)):
        expected = reference.predict(x) if t > 0 else None
        predicted = learn(engine, x, y, weight)
        if expected is not None:
            np.testing.assert_allclose(predicted, expected, rtol=1e-8, err_msg=f"step {t}")
        reference.learn(x, y, weight)
        np.testing.assert_allclose(engine.mixture, reference.weights, rtol=1e-8, err_msg=f"step {t}")
    state = engine.state_dict()
    for k, learner in enumerate(reference.learners):
        np.testing.assert_allclose(
            state["network.head.weight"][k].numpy(), learner.layers[-1].weight, rtol=1e-6
        )
    means = [k for k, each in enumerate(spec.members) if each.averages]
    assert means
    for row, k in enumerate(means):
        for i, name in enumerate(("body.1", "body.3", "head")):
            mean_weight, mean_bias = reference.means[k][i]
            np.testing.assert_allclose(state[f"average.{name}.weight"][row].numpy(), mean_weight, rtol=1e-6)
            np.testing.assert_allclose(state[f"average.{name}.bias"][row].numpy(), mean_bias, rtol=1e-6)
    assert engine.mixture.max() > 1.5 / 7  # it has made up its mind
    assert state["memory.x"].shape == (30, 4)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize(
    "changes",
    [
        {"hidden": ()},
        {"hidden": (8,), "activation": "relu"},
        {"hidden": (7, 6), "activation": "gelu", "step_scale": "paper", "lr": 0.03},
        {"hidden": (5, 6, 4), "activation": "tanh"},
    ],
    ids=str,
)
def test_the_engines_agree_over_1000_steps(
    task: base.Task, dtype: torch.dtype, tolerance: float, changes: dict[str, object]
) -> None:
    spec = replace(SPEC, **{"lr": 0.05, **changes, "task": task})  # type: ignore[arg-type]  # by name
    engines = [make(spec, dtype=dtype) for make in ENGINES.values()]
    for engine in engines:
        engine.grow(["a", "b", "c", "d"], 2 if task == "classification" else 1)
        for x, y, weight in stream(task, 1000, seed=1):
            assert engine.learn(x[None], np.array([y]), np.array([weight]))[0] == 1
    one, *others = (engine.state_dict() for engine in engines)
    for other in others:
        assert one.keys() == other.keys()
        for name, value in one.items():
            exact = value.double()
            difference = (exact - other[name].double()).norm() / exact.norm().clamp(min=1e-3)
            assert difference <= tolerance, name


@pytest.mark.parametrize("lr", ["auto", 0.3])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("make", CASES)
def test_many_rows_are_the_loop_to_the_last_bit(
    make: Callable[..., Engine], task: base.Task, lr: float | str
) -> None:
    spec = replace(SPEC, task=task, lr=lr)
    one, many = (grown(make, spec) for _ in range(2))
    samples = list(stream(task, 100))
    predicted = [learn(one, *sample) for sample in samples]
    x, y, weights = (np.array(column) for column in zip(*samples, strict=True))
    for start in range(0, 100, 33):
        part = slice(start, start + 33)
        done, predictions = many.learn(x[part], y[part], weights[part], predict=True)
        assert done == len(x[part])
        for t in range(max(start, 1), start + done):  # the first is made of nothing
            np.testing.assert_array_equal(predictions[t - start], predicted[t])
    for name, value in one.state_dict().items():
        assert torch.equal(value, many.state_dict()[name]), name


@pytest.mark.parametrize("lost", [0, 3], ids=["predicts with its weights", "predicts with their mean"])
@pytest.mark.parametrize("make", CASES)
def test_a_member_that_diverged_restarts_from_the_best(make: Callable[..., Engine], lost: int) -> None:
    engine = grown(make, replace(SPEC, replay=0))
    for sample in stream("classification", 62):
        learn(engine, *sample)
    state = engine.state_dict()
    state["network.body.1.weight"][lost] = math.inf
    engine.load_state_dict(state)
    probabilities = engine.predict(np.ones(4))
    assert np.isfinite(probabilities).all()
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-9)
    learn(engine, np.ones(4), 1.0, 1.0)
    assert engine.state_dict()["network.body.1.weight"][lost].isinf().all()
    assert engine.mixture[lost] == pytest.approx(0.01 / 4)  # only its share of what is dealt out
    learn(engine, np.ones(4), 1.0, 1.0)  # the 64th: every eighth restarts
    state = engine.state_dict()
    best = int(np.argmax(engine.mixture))
    assert best != lost
    assert engine.mixture[lost] == pytest.approx(0.01 / 4)
    for name, value in state.items():
        if name.startswith(("network.", "moments.body.3", "moments.head")):
            assert torch.equal(value[lost], value[best]), name
        elif name.startswith("average.") and lost == 3:
            assert torch.equal(value[0], state[name.replace("average", "network")][best]), name


@pytest.mark.parametrize("make", CASES)
def test_mean_weights_grow_as_the_weights_do(make: Callable[..., Engine]) -> None:
    engine = grown(make, SPEC)
    for sample in stream("classification", 40):
        learn(engine, *sample)
    before = engine.state_dict()
    probabilities = engine.predict(np.ones(4))
    engine.grow(["e", "f"], 0)
    np.testing.assert_allclose(engine.predict(np.array([1.0, 1.0, 1.0, 1.0, 7.0, -3.0])), probabilities)
    engine.grow([], 2)
    state = engine.state_dict()
    assert not torch.equal(before["average.head.weight"], before["network.head.weight"][3:])
    for prefix in ("network", "average"):
        assert not state[f"{prefix}.body.1.weight"][:, :, 4:].any()
        assert not state[f"{prefix}.head.weight"][:, 2:].any()
        lowest = before[f"{prefix}.head.bias"].min(dim=1, keepdim=True).values
        assert torch.equal(state[f"{prefix}.head.bias"][:, 2:], lowest.expand(-1, 2))


@pytest.mark.parametrize("kind", [BNPClassifier, BNPRegressor])
def test_a_person_sees_which_rate_is_winning(kind: type[BNPClassifier] | type[BNPRegressor]) -> None:
    """Labels without noise want a large rate, labels that are noise a small one."""
    winners = []
    for noisy in (False, True):
        model = kind((), replay=0)
        rng = np.random.default_rng(0)
        for _ in range(800):
            x = rng.normal(size=5)
            signal = rng.normal() if noisy else x @ [1.0, -2.0, 0.5, 3.0, 1.0]
            model.learn_one(dict(enumerate(x)), bool(signal > 0) if kind is BNPClassifier else float(signal))
        networks = [each for each in model.mixture if each["kind"] == "network"]
        winners.append(max(networks, key=lambda each: each["weight"])["lr"])
    assert winners[0] > winners[1]


def shorten(reference: ReferenceMixture, weight: int) -> None:
    for each in reference.learners:
        each.inputs.n, each.targets.n = min(each.inputs.n, weight), min(each.targets.n, weight)
        for layer in each.layers:
            layer.t = min(layer.t, weight - 1)  # the pseudo-sample counts


def reset(reference: ReferenceMixture) -> None:
    slow = [k for k, averages in enumerate(reference.averages) if averages]
    quick = [k for k, averages in enumerate(reference.averages) if not averages]
    best = max(quick, key=lambda k: float(reference.weights[k]))
    reference.weights[[best, *slow]] = reference.weights[[best, *slow]].mean()
    for k in slow:
        reference.learners[k].layers = copy.deepcopy(reference.learners[best].layers)
        reference.means[k] = [(layer.weight, layer.bias) for layer in reference.learners[k].layers]
    reference.memory.clear()


@pytest.mark.parametrize("action", ["shorten", "reset"])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("make", CASES)
def test_what_helps_after_a_change_follows_the_float64_reference(
    make: Callable[..., Engine], task: base.Task, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "RATES", (0.03, 0.1, 0.2))
    monkeypatch.setattr(base, "SINGLE_RATE", 0.1)
    spec = replace(SPEC, task=task)
    engine = grown(make, spec)
    reference = reference_for(engine, spec)
    for t, (x, y, weight) in enumerate(stream(task, 90)):
        if t == 64:
            if action == "shorten":
                shorten(reference, 5)
                engine.load_state_dict(with_short_memory(engine.state_dict(), 5.0))
            else:
                reset(reference)
                engine.load_state_dict(with_slowest_reset(engine.state_dict(), spec))
                assert len(engine.state_dict()["memory.x"]) == 0
        expected = reference.predict(x) if t > 0 else None
        predicted = learn(engine, x, y, weight)
        if expected is not None:
            np.testing.assert_allclose(predicted, expected, rtol=1e-8, err_msg=f"step {t}")
        reference.learn(x, y, weight)
        np.testing.assert_allclose(engine.mixture, reference.weights, rtol=1e-8, err_msg=f"step {t}")
    state = engine.state_dict()
    np.testing.assert_allclose(state["inputs.mean"].numpy(), reference.learners[0].inputs.mean, rtol=1e-8)
    for k, learner in enumerate(reference.learners):
        np.testing.assert_allclose(state["moments.head.var"][k].numpy(), learner.layers[-1].var, rtol=1e-7)


@pytest.mark.parametrize("learner", [1, 2])
@pytest.mark.parametrize("kind", [BNPClassifier, BNPRegressor])
def test_new_samples_weigh_more_once_the_moments_forget(
    kind: type[BNPClassifier] | type[BNPRegressor], learner: int
) -> None:
    model = kind((8,), replay=1, learner=learner)
    for i in range(400):
        model.learn_one({"a": float(i % 5)}, i % 2)
    before, predicted = model.state_dict()["tensors"], model.predict({"a": 2.5})
    for weight in (0.5, math.inf, math.nan):
        with pytest.raises(ConfigurationError):
            model.forget_moments(weight)
    model.forget_moments(20.0)
    after = model.state_dict()["tensors"]
    assert model.predict({"a": 2.5}) == predicted
    for name, value in before.items():
        if name.endswith(".weight") and name.startswith(("inputs", "target", "moments")):
            assert (after[name] == 20.0).all()
            prior = name.replace(".weight", ".prior_weight")
            assert torch.allclose(after[prior] / after[name], before[prior] / value)
        elif name.endswith(".largest"):
            assert value.all()
            assert not after[name].any()
        elif not name.endswith("prior_weight"):
            assert torch.equal(after[name], value), name
    model.learn_one({"a": 1000.0}, 1)
    counted = 998.0 if learner == 1 else 10.0 * before["inputs.var"].sqrt().item()
    assert model.state_dict()["tensors"]["inputs.mean"].item() == pytest.approx(2.0 + counted / 21.0)


def test_slow_members_restart_from_the_best_of_the_others() -> None:
    model = BNPClassifier((8,), replay=1, learner=1)
    fresh = model.fingerprint()
    model.reset_slowest()  # which has learned nothing
    assert model.fingerprint() == fresh
    for i in range(200):
        model.learn_one({"a": float(i % 7), "b": float(i % 3)}, i % 7 > 3)
    before = {copy["lr"]: copy["weight"] for copy in model.mixture if not copy["averages"]}
    best = max(before, key=lambda rate: before[rate])
    model.reset_slowest()
    alike = [each["weight"] for each in model.mixture if each["averages"] or each["lr"] == best]
    assert len(alike) == 5
    assert alike == [pytest.approx(alike[0])] * 5
    assert sum(each["weight"] for each in model.mixture) == pytest.approx(1.0)
    for each in model.mixture:
        if not each["averages"] and each["lr"] != best:
            assert each["weight"] == before[each["lr"]]
    tensors = model.state_dict()["tensors"]
    assert tensors["memory.count"] == 0
    weights = tensors["network.head.weight"]
    k = [copy["lr"] for copy in model.mixture].index(best)
    assert torch.equal(weights[3:], weights[k].expand_as(weights[3:]))
    assert torch.equal(tensors["average.head.weight"], weights[3:])
    alone = BNPClassifier((8,), lr=0.3)
    alone.learn_one({"a": 1.0}, 1)
    before_reset = alone.fingerprint()
    alone.reset_slowest()
    assert alone.fingerprint() == before_reset


def test_slow_networks_restart_and_neighbours_have_no_samples_left() -> None:
    model = BNPClassifier((8,), replay=1)
    for i in range(200):
        model.learn_one({"a": float(i % 7), "b": float(i % 3)}, i % 7 > 3)
    spec = model._engine.spec
    before, tensors = model.mixture[:-1], model.state_dict()["tensors"]
    quick = [each for each in before if each["kind"] == "network" and not each["replay"]]
    best = max((each for each in quick if not each["averages"]), key=lambda each: each["weight"])
    model.reset_slowest()
    assert sum(each["weight"] for each in model.mixture) == pytest.approx(1.0)
    after = {each["expert"]: each["weight"] for each in model.mixture}
    alike = [each["expert"] for each in before if each["replay"] or each["lr"] == best["lr"]]
    alike = [name for name in alike if name.startswith("network")]
    assert [after[name] for name in alike] == [pytest.approx(after[best["expert"]])] * len(alike)
    for each in before:
        if each["kind"] == "linear":
            assert after[each["expert"]] == pytest.approx(each["weight"])
        elif each["kind"] == "neighbours":
            assert after[each["expert"]] < min(0.01, each["weight"])
    reset = model.state_dict()["tensors"]
    assert reset["memory.count"] == len(reset["memory.x"]) == 0
    rates = [member.rate for member in spec.members]
    k = rates.index(best["lr"])
    for i, member in enumerate(spec.members):
        source = k if member.replays else i
        assert torch.equal(reset["network.head.weight"][i], tensors["network.head.weight"][source])
    averaging = [i for i, member in enumerate(spec.members) if member.averages]
    assert torch.equal(reset["average.head.weight"], reset["network.head.weight"][averaging])
    assert torch.equal(reset["stack.inverse"], tensors["stack.inverse"])
    model.learn_one({"a": 1.0, "b": 2.0}, True)
