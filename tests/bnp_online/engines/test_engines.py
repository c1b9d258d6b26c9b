"""Every engine computes the same learner: `tests/support/reference_learner.py`, in float64."""

from __future__ import annotations

import itertools
import math
import random
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnp_online import BNPClassifier, BNPRegressor, ConfigurationError, NonFiniteStateError, StateError
from bnp_online.checkpoint import digest
from bnp_online.engines.base import Engine, LearnerSpec
from bnp_online.engines.choice import make_engine
from bnp_online.engines.numba_buffers import Buffers
from bnp_online.engines.numba_engine import NumbaEngine
from tests.support.engines import CASES, CUDA, SIMULATED, TORCH
from tests.support.reference_learner import Layer, ReferenceLearner

#: Norm-wise, between float32 and float64, over a stream of 210 samples.
TOLERANCE = 1e-4

SPEC = LearnerSpec(
    task="classification",
    hidden=(7, 5),
    activation="relu",
    lr=0.3,
    replay=0,
    memory=50,
    rho=0.99,
    eps_rel=1e-2,
    eps_abs=1e-4,
    step_scale="norm",
    standardize=True,
    input_shape=None,
    network="mlp",
    seed=0,
    learner=1,
)
SPECS = {
    "default": SPEC,
    "linear": replace(SPEC, hidden=()),
    "one layer, tanh, paper": replace(SPEC, hidden=(9,), activation="tanh", step_scale="paper", rho=1.0),
    "three layers, gelu": replace(
        SPEC, hidden=(6, 5, 4), activation="gelu", lr=0.1, rho=0.95, eps_rel=0.1, seed=3
    ),
    "raw inputs, no scale": replace(SPEC, standardize=False, step_scale="none", lr=0.01, eps_abs=1e-2),
    "regression": replace(SPEC, task="regression", lr=0.1),
    "regression, linear": replace(SPEC, task="regression", hidden=()),
    "regression, tanh, paper": replace(
        SPEC, task="regression", hidden=(9,), activation="tanh", step_scale="paper", lr=0.1
    ),
    "regression, gelu": replace(
        SPEC, task="regression", hidden=(6, 5), activation="gelu", lr=0.1, rho=0.95, seed=3
    ),
}

Vector = NDArray[np.float64]


@dataclass
class Event:
    """What an engine is told: growth, then a sample."""

    names: list[str]
    outputs: int
    x: Vector
    target: float
    weight: float


def stream(spec: LearnerSpec, seed: int, length: int = 210) -> Iterator[Event]:
    """Samples of three noisy classes (or a curve) with missing values, outliers, weights and growth."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(4, 6))
    offsets = rng.normal(size=6) * 3.0
    columns = outputs = 0
    for t in range(length):
        names = [f"f{i}" for i in range(columns, {0: 3, 80: 4, 130: 6}.get(t, columns))]
        columns += len(names)
        classes = 2 if t < 60 else 3 if t < 150 else 4
        k = int(rng.integers(classes)) if t > 0 else 0
        x = centres[k] + offsets + rng.normal(size=6) * 0.7
        if t % 50 == 20:
            x[int(rng.integers(6))] += 20.0  # clipped to 5 standard deviations
        target = float(k)
        if spec.task == "regression":
            target = float(50.0 + 20.0 * np.sin(x[0]) + 5.0 * x[1] + (300.0 if t % 60 == 30 else 0.0))
        more = max(0, (k if spec.task == "classification" else 0) + 1 - outputs)
        outputs += more
        x[rng.random(6) < 0.1] = math.nan
        weight = (1.0, 1.0, 0.5, 2.0, 0.0)[int(rng.integers(5))]
        yield Event(names, more, x[:columns].copy(), target, weight)


def layers(state: dict[str, Tensor]) -> list[tuple[Vector, Vector]]:
    """Weight and bias of each layer of the first copy, in order."""
    names = [key[: -len(".weight")] for key in state if key.startswith("network.") and key.endswith("weight")]
    names.sort(key=lambda name: math.inf if name == "network.head" else int(name.rsplit(".", 1)[1]))
    return [tuple(state[f"{n}.{kind}"][0].double().numpy() for kind in ("weight", "bias")) for n in names]  # type: ignore[misc]


def reference_for(spec: LearnerSpec, engine: Engine) -> ReferenceLearner:
    return ReferenceLearner(
        task=spec.task,
        layers=[Layer(weight, bias) for weight, bias in layers(engine.state_dict())],
        activation=spec.activation,
        lr=float(spec.lr),
        rho=spec.rho,
        eps_rel=spec.eps_rel,
        eps_abs=spec.eps_abs,
        step_scale=spec.step_scale,
        standardize=spec.standardize,
    )


def grow(spec: LearnerSpec, engine: Engine, reference: ReferenceLearner, event: Event) -> None:
    first = reference.layers[0].weight.shape[1] == 0 and bool(spec.hidden)
    engine.grow(event.names, event.outputs)
    if event.names and first:  # the first layer starts at random: the reference takes it over
        weight, bias = layers(engine.state_dict())[0]
        reference.grow(weight, event.outputs)
        reference.layers[0].bias = bias
    else:
        reference.grow(len(event.names), event.outputs)


def error(got: Vector, expected: Vector) -> float:
    assert got.shape == expected.shape
    return float(np.linalg.norm(got - expected) / max(float(np.linalg.norm(expected)), 1e-3))


@pytest.fixture(params=CASES)
def make(request: pytest.FixtureRequest) -> Callable[[LearnerSpec], Engine]:
    return cast(Callable[[LearnerSpec], Engine], request.param)


def fingerprint(engine: Engine) -> str:
    return digest({}, engine.state_dict())


def test_a_prediction_before_growth_has_no_say_in_one_after(make: Callable[[LearnerSpec], Engine]) -> None:
    engines = [make(replace(SPEC, lr="auto", replay=1)) for _ in range(2)]
    for engine in engines:
        engine.grow(["a", "b"], 2)
        for x, y in (([0.5, 1.0], 0.0), ([1.5, -1.0], 1.0)):
            engine.learn(np.array([x]), np.array([y]), np.ones(1))
    engines[0].predict(np.zeros(2))
    for engine in engines:
        engine.grow(["c"], 1)
        engine.learn(np.zeros((1, 3)), np.array([2.0]), np.ones(1))
    assert fingerprint(engines[0]) == fingerprint(engines[1])
    assert engines[0].predict(np.zeros(3)).sum() == pytest.approx(1.0)


def learn(engine: Engine, x: Vector, target: float, weight: float = 1.0) -> bool:
    """Learn one sample; return whether it was."""
    return engine.learn(x[None], np.array([target]), np.array([weight]))[0] == 1


def feed(engine: Engine, events: Iterator[Event]) -> None:
    for event in events:
        engine.grow(event.names, event.outputs)
        learn(engine, event.x, event.target, event.weight)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_follows_the_float64_reference_through_growth(
    make: Callable[[LearnerSpec], Engine], spec: LearnerSpec
) -> None:
    engine = make(spec)
    reference = reference_for(spec, engine)
    for t, event in enumerate(stream(spec, seed=0)):
        grow(spec, engine, reference, event)
        if t > 0:
            assert error(engine.predict(event.x), reference.predict(event.x)) < TOLERANCE, f"step {t}"
        learn(engine, event.x, event.target, event.weight)
        reference.learn(event.x, event.target, event.weight)
    state = engine.state_dict()
    for (weight, bias), expected in zip(layers(state), reference.layers, strict=True):
        assert error(weight, expected.weight) < TOLERANCE
        assert error(bias, expected.bias) < TOLERANCE
    assert error(state["inputs.mean"].numpy(), reference.inputs.mean) < 1e-12
    assert error(state["inputs.var"].numpy(), reference.inputs.var) < 1e-12
    names = [key for key in state if key.startswith("moments.") and key.endswith((".mean", ".var"))]
    for name in names:
        layer, kind = name.split(".")[1:-1], name.rsplit(".", 1)[1]
        followed = reference.layers[-1 if layer == ["head"] else (int(layer[1]) - 1) // 2]
        moments = followed.mean if kind == "mean" else followed.var
        assert error(state[name][0].double().numpy(), moments) < TOLERANCE
    assert len(names) == 2 * len(reference.layers)


def test_an_outlying_target_is_clipped(make: Callable[[LearnerSpec], Engine]) -> None:
    """To 10 standard deviations: it shows when the prediction is so far out that the error is not clipped."""
    spec = SPECS["regression, linear"]
    engine = make(spec)
    reference = reference_for(spec, engine)
    engine.grow(["a"], 1)
    reference.grow(1, 1)
    for t in range(200):
        learn(engine, np.array([t % 3.0]), t % 2.0)
        reference.learn(np.array([t % 3.0]), t % 2.0, 1.0)
    state = engine.state_dict()
    state["network.head.bias"] = torch.tensor([[8.0]])
    engine.load_state_dict(state)
    reference.layers[-1].bias = np.array([8.0])
    learn(engine, np.array([1.0]), 1e6)
    reference.learn(np.array([1.0]), 1e6, 1.0)
    (_, bias), expected = layers(engine.state_dict())[-1], reference.layers[-1].bias
    assert error(bias - 8.0, expected - 8.0) < 1e-3


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_equal_seeds_and_samples_give_equal_bits(make: Callable[[LearnerSpec], Engine], task: str) -> None:
    spec = SPECS["default" if task == "classification" else "regression"]
    engines = [make(s) for s in (spec, spec, replace(spec, seed=1))]
    for engine in engines:
        feed(engine, stream(spec, seed=1, length=85))
    first, second, other = (fingerprint(engine) for engine in engines)
    assert first == second
    assert first != other


def parameters(engine: Engine) -> Tensor:
    state = engine.state_dict()
    return torch.cat([value.flatten() for key, value in sorted(state.items()) if key.startswith("network.")])


@pytest.mark.parametrize(
    "spec", [SPECS["default"], SPECS["regression"]], ids=["classification", "regression"]
)
def test_the_weight_scales_the_step(make: Callable[[LearnerSpec], Engine], spec: LearnerSpec) -> None:
    moved = {}
    for weight in (0.0, 1.0, 2.0):
        engine = make(spec)
        feed(engine, stream(spec, seed=2, length=30))
        before = parameters(engine)
        learn(engine, np.array([3.0, 1.0, -2.0]), 1.0, weight)
        moved[weight] = parameters(engine) - before
    assert not moved[0.0].any()
    assert moved[1.0].norm() > 1e-4
    torch.testing.assert_close(moved[2.0], 2.0 * moved[1.0], rtol=1e-3, atol=1e-6)


def test_growing_keeps_every_parameter_and_prediction(make: Callable[[LearnerSpec], Engine]) -> None:
    engine = make(SPEC)
    feed(engine, stream(SPEC, seed=3, length=70))
    x = np.array([1.0, -2.0, math.nan])
    before, state = engine.predict(x), engine.state_dict()
    engine.grow(["new", "newer"], 0)
    logits = np.log(engine.predict(np.append(x, [7.0, math.nan])))
    np.testing.assert_allclose(logits - logits[0], np.log(before / before[0]), rtol=1e-5, atol=1e-6)
    engine.grow([], 2)
    grown = engine.state_dict()
    logits = np.log(engine.predict(np.append(x, [7.0, 8.0])))
    old = logits[: len(before)]
    np.testing.assert_allclose(old - old[0], np.log(before / before[0]), rtol=1e-5, atol=1e-6)
    lowest = state["network.head.bias"].min()
    for key, value in state.items():
        window = tuple(slice(size) for size in value.shape)
        assert torch.equal(grown[key][window], value), key
    assert not grown["network.body.1.weight"][0, :, 3:].any()
    assert not grown["network.head.weight"][0, len(before) :].any()
    assert torch.equal(grown["network.head.bias"][0, len(before) :], lowest.expand(2))


@pytest.mark.parametrize("name", ["default", "linear", "regression"])
def test_predicting_changes_nothing(make: Callable[[LearnerSpec], Engine], name: str) -> None:
    spec = SPECS[name]
    engine = make(spec)
    feed(engine, stream(spec, seed=4, length=40))
    before, state = fingerprint(engine), engine.state_dict()
    answers = [engine.predict(np.array([1e3, math.nan, -4.0])) for _ in range(3)]
    assert fingerprint(engine) == before
    assert all(torch.equal(value, state[key]) for key, value in engine.state_dict().items())
    assert all(np.array_equal(answer, answers[0]) for answer in answers)


@pytest.mark.parametrize("name", ["default", "linear", "regression"])
def test_a_state_is_taken_over_to_the_last_bit(make: Callable[[LearnerSpec], Engine], name: str) -> None:
    spec = SPECS[name]
    events = list(stream(spec, seed=5, length=100))
    engine, other = make(spec), make(replace(spec, seed=9))
    feed(engine, iter(events[:60]))
    feed(other, iter(events))  # it has grown further: it must shrink
    kept = {key: value.clone() for key, value in engine.state_dict().items()}
    other.load_state_dict(engine.state_dict())
    assert fingerprint(other) == fingerprint(engine)
    for each in (engine, other):
        feed(each, iter(events[60:]))
    assert fingerprint(other) == fingerprint(engine)
    other.load_state_dict(kept)  # what was handed out does not follow the learner
    assert fingerprint(other) == digest({}, kept) != fingerprint(engine)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("network.head.bias"),
        lambda state: state.pop("inputs.mean"),
        lambda state: state.pop("moments.body.1.var"),
        lambda state: state.update({"network.body.1.weight": torch.zeros(1, 3, 3)}),
        lambda state: state.update({"network.body.3.bias": torch.zeros(1, 4)}),
        lambda state: state.update({"network.head.bias": torch.zeros(2)}),
        lambda state: state.update({"moments.head.mean": torch.zeros(1, 1)}),
        lambda state: state.update({"inputs.var": torch.zeros(17)}),
        lambda state: state.update({"inputs.weight": torch.tensor(-1.0)}),
        lambda state: state.update({"network.extra": torch.zeros(1, 1)}),
        lambda state: state.update({"extra": torch.zeros(1)}),
        lambda state: state.update({"network.head.bias": None}),
        lambda state: state.update({"network.body.3.bias": 3.0}),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(
    make: Callable[[LearnerSpec], Engine], change: Callable[[dict[str, Tensor]], object]
) -> None:
    engine = make(SPEC)
    feed(engine, stream(SPEC, seed=6, length=20))
    before, state = fingerprint(engine), engine.state_dict()
    change(state)
    with pytest.raises(StateError):
        engine.load_state_dict(state)
    assert fingerprint(engine) == before
    feed(engine, itertools.islice(stream(SPEC, seed=6), 20, 25))


POISON = {
    "rate": (replace(SPEC, lr=3e38), np.array([1.0, 2.0, 3.0]), 1.0),
    "weight": (SPEC, np.array([1.0, 2.0, 3.0]), 1e300),
    "input": (replace(SPEC, standardize=False), np.array([1.0, 1e60, 3.0]), 1.0),
    # Finite gradients, but the moments of the first layer would overflow.
    "moments": (replace(SPEC, standardize=False, step_scale="paper"), np.array([1.0, 1e20, 3.0]), 1.0),
    "regression": (replace(SPECS["regression"], lr=3e38), np.array([1.0, 2.0, 3.0]), 1.0),
}


@pytest.mark.parametrize("what", POISON)
def test_a_step_that_would_not_be_finite_is_not_taken(
    make: Callable[[LearnerSpec], Engine], what: str
) -> None:
    spec, x, weight = POISON[what]
    engine = make(replace(spec, lr=0.01))
    feed(engine, stream(spec, seed=7, length=20))
    poisoned = make(spec)
    poisoned.load_state_dict(engine.state_dict())
    for t in range(20):
        before = fingerprint(poisoned)
        if not learn(poisoned, x, float(t % 2), weight):
            break
    else:
        pytest.fail("the state is still finite")
    assert fingerprint(poisoned) == before
    assert all(value.isfinite().all() for value in poisoned.state_dict().values())


@pytest.mark.parametrize(
    ("engine", "device"),
    [
        ("numba", "cpu"),
        ("torch", "cpu"),
        pytest.param("torch", "cuda", id="simulated", marks=SIMULATED),
        pytest.param("torch", "cuda", id="cuda", marks=CUDA),
    ],
)
@pytest.mark.parametrize("kind", [BNPClassifier, BNPRegressor])
def test_a_learner_undoes_growth_with_the_step(
    kind: type[BNPClassifier] | type[BNPRegressor], engine: str, device: str
) -> None:
    model = kind((4,), engine=engine, device=device)
    model.learn_one({"a": 1.0}, 1)
    model.learn_one({"a": 2.0}, 0)
    before = model.fingerprint()
    with pytest.raises(NonFiniteStateError):
        model.learn_one({"a": 5.0, "new": 1.0}, 7, w=1e300)
    assert model.fingerprint() == before
    assert model.feature_names == ("a",)
    model.learn_one({"a": 5.0, "new": 1.0}, 7)


@pytest.mark.parametrize("engine", ["numba", "torch"])
def test_a_sample_that_the_linear_members_alone_could_learn_changes_nothing(engine: str) -> None:
    rng = random.Random(1)  # noqa: S311
    model, refused = BNPClassifier((4,), memory=50, engine=engine, device="cpu"), 0
    for i in range(40):
        x, before = {"a": rng.gauss(0.0, 1.0), "town": f"t{rng.randrange(10)}"}, model.fingerprint()
        try:
            model.learn_one(x, i % 3, w=1e9 if i > 5 else 1.0)
        except NonFiniteStateError:
            refused += 1
            assert model.fingerprint() == before
    assert refused


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, lr="auto", replay=1, memory=8)], ids=["one", "auto"])
def test_a_snapshot_undoes_growth_to_the_last_bit(
    make: Callable[[LearnerSpec], Engine], spec: LearnerSpec
) -> None:
    """Within the spare size and beyond it; what it grew for was refused, and leaves no trace later."""
    engine, clean = make(spec), make(spec)
    for each in (engine, clean):
        feed(each, stream(spec, seed=8, length=30))
    for inputs, outputs in ((1, 0), (0, 1), (2, 3), (40, 0), (0, 20), (60, 30)):
        before, predicted = fingerprint(engine), engine.predict(np.ones(3))
        snapshot = engine.snapshot()
        engine.grow([f"new {i}" for i in range(inputs)], outputs)
        assert not learn(engine, np.full(3 + inputs, 1e3), 1.0, 1e300)
        engine.restore(snapshot)
        assert fingerprint(engine) == before == fingerprint(clean)
        np.testing.assert_array_equal(engine.predict(np.ones(3)), predicted)
        for each in (engine, clean):
            feed(each, (event for event in itertools.islice(stream(spec, seed=8), 30, 34)))
    assert fingerprint(engine) == fingerprint(clean)
    for each in (engine, clean):
        each.grow(["late"], 1)
        assert learn(each, np.arange(4.0), 1.0)
    assert fingerprint(engine) == fingerprint(clean)


def test_an_array_has_a_fixed_number_of_inputs(make: Callable[[LearnerSpec], Engine]) -> None:
    engine = make(replace(SPEC, input_shape=(2, 3)))
    engine.grow([], 2)
    learn(engine, np.arange(6.0).reshape(2, 3), 1.0)
    assert engine.predict(np.ones((2, 3))).shape == (2,)
    with pytest.raises(ConfigurationError):
        engine.grow(["a"], 0)


@pytest.mark.parametrize("make", TORCH)
def test_images_are_standardized_by_channel(make: Callable[..., Engine]) -> None:
    engine = make(replace(SPEC, input_shape=(2, 5, 5), network="cnn"))
    engine.grow([], 2)
    images = np.random.default_rng(0).normal([[[3.0]], [[-50.0]]], [[[1.0]], [[9.0]]], size=(12, 2, 5, 5))
    for i, image in enumerate(images):
        learn(engine, image, i % 2)
    state = engine.state_dict()
    np.testing.assert_allclose(state["inputs.mean"].numpy(), images.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(state["inputs.var"].numpy(), images.var(axis=(0, 2, 3)), rtol=1e-12)
    # What the network sees does not depend on a channel's scale and offset.
    scaled = make(replace(SPEC, input_shape=(2, 5, 5), network="cnn"))
    scaled.grow([], 2)
    for i, image in enumerate(images):
        learn(scaled, image * [[[8.0]], [[0.25]]] + [[[1.0]], [[2.0]]], i % 2)
    np.testing.assert_allclose(
        scaled.predict(images[0] * [[[8.0]], [[0.25]]] + [[[1.0]], [[2.0]]]),
        engine.predict(images[0]),
        rtol=1e-4,
    )


def test_counts_its_parameters(make: Callable[[LearnerSpec], Engine]) -> None:
    engine = make(SPEC)
    engine.grow(["a", "b"], 3)
    assert engine.num_parameters == (2 * 7 + 7) + (7 * 5 + 5) + (5 * 3 + 3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden": ()},
        {"lr": "auto"},
        {"lr": "auto", "replay": 0, "hidden": (3,)},
        {"input_shape": (2, 3)},
        {"input_shape": (6, 9), "network": "cnn"},
        {"input_shape": (2, 6, 9), "network": "cnn", "hidden": ()},
    ],
)
@pytest.mark.parametrize("outputs", [1, 4])
def test_a_spec_tells_the_number_of_parameters_before_there_are_any(
    changes: dict[str, Any], outputs: int
) -> None:
    spec = replace(SPEC, **changes)
    engine = make_engine(replace(spec, device="cpu"))
    engine.grow([] if spec.input_shape else ["a", "b", "c"], outputs)
    assert spec.parameters(3, outputs) == engine.num_parameters


@pytest.mark.parametrize("hidden", [(), (64, 64)])
def test_a_learner_takes_memory_with_its_first_sample(hidden: tuple[int, ...]) -> None:
    spec = replace(SPEC, hidden=hidden, lr="auto", replay=1)
    make_engine(spec).state_dict()
    tracemalloc.start()
    try:
        engines = [make_engine(spec) for _ in range(10)]
        shown = [(engine.num_parameters, engine.mixture.tolist()) for engine in engines]
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size < 10 * 5_000
    for engine, before in zip(engines, shown, strict=True):
        engine.state_dict()
        assert (engine.num_parameters, engine.mixture.tolist()) == before


@pytest.mark.parametrize("learner", [1, 2])
def test_columns_in_spare_room_have_the_bits_of_moved_ones(
    learner: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def grown() -> str:
        rng, model = np.random.default_rng(0), BNPClassifier((5,), seed=0, learner=learner)
        for i in range(150):
            x: dict[str, Any] = {f"f{j}": rng.normal() for j in range(3)}
            x |= {f"g{rng.integers(40)}": None if i % 5 else rng.normal(), "s": f"v{rng.integers(9)}"}
            model.learn_one(x, i % (2 + i // 100))
        return model.fingerprint()

    def moved(engine: NumbaEngine, inputs: int) -> Buffers:
        return engine._moved([""] * (inputs - engine._buffers.inputs.shape[1]), 0)

    in_spare_room = grown()
    monkeypatch.setattr(NumbaEngine, "_with_spare_columns", moved)
    assert grown() == in_spare_room
