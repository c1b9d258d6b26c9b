"""What the torch engine promises beyond the contract of every engine; on the CPU without a graph."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from bnp_online import BNPClassifier, BNPRegressor, ConfigurationError
from bnp_online.checkpoint import digest
from bnp_online.engines import choice, torch_engine, torch_runner
from bnp_online.engines.base import Engine, LearnerSpec
from bnp_online.engines.cuda_graph import GraphPool
from bnp_online.engines.devices import Activity
from bnp_online.engines.module_member import build_network
from bnp_online.engines.numba_engine import NumbaEngine
from bnp_online.engines.torch_engine import TorchEngine, capacity, input_layout
from bnp_online.engines.torch_runner import Size, StepRunner
from tests.support.engines import DEVICES, GPUS, TORCH, needs_cuda
from tests.support.reference_module import ReferenceModule
from tests.support.simulated_cuda import host_waits

Vector = NDArray[np.float64]
Rows = tuple[Vector, Vector, Vector]


class Blurred(nn.Module):
    """A module of one's own: buffers that learning moves, a layer used twice, one without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.mixed = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.conv(x)).relu().flatten(2).mT
        out: Tensor = self.mixed(self.mixed(h).tanh()).flatten(1)
        return out


def module() -> nn.Module:
    torch.manual_seed(0)
    return Blurred()


MLP = LearnerSpec(
    task="classification",
    hidden=(6, 5),
    activation="relu",
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
SECOND = replace(MLP, learner=2, memory=40)
CNN = replace(MLP, network="cnn", input_shape=(2, 5, 5), lr=0.1, activation="tanh")
#: A list of layers with every kind of them.
LAYERS = replace(
    CNN,
    network=[
        {"conv": 4, "kernel": [3, 1], "padding": 0, "bias": False},
        {"norm": "group", "groups": 2},
        "tanh",
        {"residual": [{"conv": 4}, "gelu"]},
        {"residual": [{"conv": 6, "stride": 2}], "shortcut": [{"conv": 6, "kernel": 1, "stride": 2}]},
        {"pool": "global"},
        "flatten",
        {"dense": 5},
        "tanh",
    ],
)
SPECS = {
    "mlp": MLP,
    "mlp regression": replace(MLP, task="regression", activation="gelu"),
    "one copy, raw inputs": replace(MLP, lr=0.03, standardize=False, step_scale="paper", activation="tanh"),
    "linear": replace(MLP, hidden=(), replay=0, step_scale="none", lr=0.03),
    "cnn": CNN,
    "cnn regression": replace(CNN, task="regression", lr=0.03),
    "layers": LAYERS,
    "layers regression": replace(LAYERS, task="regression", lr=0.03),
    "module": replace(CNN, network=module()),
    "module regression": replace(CNN, network=module(), task="regression", lr=0.03),
    "second generation": SECOND,
    "second generation, regression": replace(SECOND, task="regression", activation="tanh"),
    "second generation, linear": replace(SECOND, hidden=(), replay=0),
    "second generation, one network": replace(SECOND, task="regression", lr=0.03),
}
MODULAR = [name for name, spec in SPECS.items() if spec.network != "mlp"]


def made(spec: LearnerSpec, make: Callable[..., Engine], **options: Any) -> Engine:
    """An engine for three classes (or one number), with inputs."""
    engine = make(spec, **options)
    engine.grow([] if spec.input_shape else ["a", "b", "c", "d"], 3 if spec.task == "classification" else 1)
    return engine


def stream(spec: LearnerSpec, count: int, seed: int = 0) -> Rows:
    """Noisy samples that can be learned, with missing values and weights."""
    rng = np.random.default_rng(seed)
    x = rng.normal(2.0, 3.0, size=(count, *(spec.input_shape or (4,))))
    flat = x.reshape(count, -1)
    score = flat[:, 0] - flat[:, 1] + rng.normal(size=count) * 0.5
    y = np.digitize(score, [-1.0, 1.0]).astype(np.float64) if spec.task == "classification" else 7.0 + score
    flat[rng.random(flat.shape) < 0.05] = np.nan
    return x, y, rng.choice([0.5, 1.0], size=count)


def each(rows: Rows) -> Iterator[Rows]:
    x, y, w = rows
    return ((x[i : i + 1], y[i : i + 1], w[i : i + 1]) for i in range(len(y)))


def fingerprint(engine: Engine) -> str:
    return digest({}, engine.state_dict())


def assert_close(one: Engine, other: Engine, tolerance: float) -> None:
    """Norm-wise, every tensor of the state."""
    state, expected = one.state_dict(), other.state_dict()
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert state[name].shape == value.shape, name
        assert state[name].dtype == value.dtype, name
        difference = (state[name].double() - value.double()).norm() / value.double().norm().clamp(min=1e-3)
        assert difference <= tolerance, name


# --- what a graph can capture


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # it has no types
    """Notes every kernel that touches a tensor elsewhere than on the device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.kernels = 0
        self.elsewhere: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = [t for t in _pytree.tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        self.kernels += 1
        if any(t.device.type != "meta" for t in tensors):
            self.elsewhere.append(str(func))
        return out


@pytest.mark.parametrize("name", SPECS)
def test_a_row_never_needs_the_host(name: str) -> None:
    """On "meta", tensors have no values: what reads one fails, and what mixes in one of the CPU is seen.

    A CUDA graph allows neither.
    """
    spec = SPECS[name]
    channels, positions = input_layout(spec)
    size = Size(channels or 4, positions, 8 if spec.task == "classification" else 1)
    rows = StepRunner(spec, size, "meta", torch.float32, capture=False, activity=Activity())
    works = [rows.learn_row, rows.learn_unpredicted_row, rows.predict_row]
    if any(member.averages for member in spec.members):
        works.append(rows.average_row)
    if spec.neighbours and spec.hidden:
        works.append(rows.renew_row)
    for work in works:
        work()  # what is made once, such as the coverage of a convolution
        with _Watch() as watch:
            work()
        assert watch.kernels > (2 if work in (rows.average_row, rows.renew_row) else 20)
        assert watch.elsewhere == []


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize("name", SPECS)
def test_a_replayed_graph_computes_the_same_bits(name: str, device: str) -> None:
    """As the same operations without a graph: with growth, refusals, and a state of another size."""
    spec = SPECS[name]
    plain, replayed = (made(spec, TorchEngine, device=device, capture=capture) for capture in (False, True))
    rows, more = stream(spec, 55), stream(spec, 25, seed=1)
    outlier = np.full((1, *rows[0].shape[1:]), 1e9)
    refused = (rows[0][:1], rows[1][:1], np.array([1e300]))
    for engine in (plain, replayed):
        assert engine.learn(*rows)[0] == 55
        assert engine.learn(*refused)[0] == 0
        state = engine.state_dict()
        engine.learn(outlier, rows[1][:1], np.ones(1), predict=True)
        if not spec.input_shape:
            engine.grow(["e"] * 40, 1 if spec.task == "classification" else 0)
            engine.learn(np.full((2, 44), 0.5), np.zeros(2), np.ones(2))
        engine.load_state_dict(state)
    results = [engine.learn(*more, predict=True) for engine in (plain, replayed)]
    assert [engine.activity.captures > 1 for engine in (plain, replayed) if engine.activity] == [False, True]
    np.testing.assert_array_equal(results[0][1], results[1][1])
    np.testing.assert_array_equal(plain.predict(more[0][0]), replayed.predict(more[0][0]))
    assert fingerprint(plain) == fingerprint(replayed)


# --- equal to the reference


def reference_for(spec: LearnerSpec, engine: Engine) -> ReferenceModule:
    network = build_network(spec)
    state = engine.state_dict()
    if outputs := state["network.head.bias"].shape[1]:
        network.grow_outputs(outputs)
    network.load_state_dict({k.removeprefix("network."): v[0] for k, v in state.items() if "network." in k})
    return ReferenceModule(
        network,
        [name.removeprefix("moments.").removesuffix(".mean") for name in state if is_mean(name)],
        len(state["inputs.mean"]),
        spec.task,
        float(spec.lr),
        standardize=spec.standardize,
        rho=spec.rho,
        eps_rel=spec.eps_rel,
        eps_abs=spec.eps_abs,
        step_scale=spec.step_scale,
    )


def is_mean(name: str) -> bool:
    return name.startswith("moments.") and name.endswith(".mean")


def assert_follows(engine: Engine, reference: ReferenceModule, tolerance: float) -> None:
    """Norm-wise, every parameter, buffer and moment."""
    state = engine.state_dict()
    expected = {f"network.{k}": v.double().numpy() for k, v in reference.network.state_dict().items()}
    for name, layer in reference.model.layers.items():
        expected[f"moments.{name}.mean"], expected[f"moments.{name}.var"] = layer.moments
    found = {k: v[0] for k, v in state.items() if k.startswith(("network.", "moments."))}
    assert {k for k in found if not k.endswith("weight") or k.startswith("network.")} == expected.keys()
    expected["inputs.mean"], expected["inputs.var"] = reference.inputs.mean[:, 0], reference.inputs.var[:, 0]
    found |= {name: state[name] for name in ("inputs.mean", "inputs.var")}
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        difference = np.linalg.norm(found[name].double().numpy() - value)
        assert difference <= tolerance * max(float(np.linalg.norm(value)), 1e-3), name


@pytest.mark.parametrize("make", TORCH)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("name", MODULAR)
def test_a_module_follows_the_float64_reference(
    name: str, dtype: torch.dtype, tolerance: float, make: Callable[..., Engine]
) -> None:
    spec = replace(SPECS[name], lr=0.03)
    engine = made(spec, make, dtype=dtype)
    reference = reference_for(spec, engine)
    x, y, w = stream(spec, 60)
    for t in range(60):
        expected = reference.predict(x[t]) if t > 0 else None
        done, predicted = engine.learn(x[t : t + 1], y[t : t + 1], w[t : t + 1], predict=t % 3 != 1)
        reference.learn(x[t], y[t], w[t])
        assert done == 1
        if expected is not None and len(predicted):
            np.testing.assert_allclose(predicted[0], expected, rtol=100 * tolerance, atol=tolerance)
    np.testing.assert_allclose(
        engine.predict(x[0]), reference.predict(x[0]), rtol=100 * tolerance, atol=tolerance
    )
    assert_follows(engine, reference, tolerance)


@pytest.mark.parametrize("make", TORCH)
@pytest.mark.parametrize("name", MODULAR)
def test_the_state_does_not_depend_on_what_was_asked(name: str, make: Callable[..., Engine]) -> None:
    one, other = (made(SPECS[name], make) for _ in range(2))
    rows = stream(SPECS[name], 30)
    one.learn(*rows)
    other.learn(*rows, predict=True)
    assert fingerprint(one) == fingerprint(other)


class Forked(nn.Module):
    """Its work depends on the values: no graph can repeat it."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.high = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = x.flatten(1)
        out: Tensor = self.high(h) if bool(h.sum() > 0) else self.low(h)
        return out.tanh()


def test_a_module_may_do_other_work_for_other_values() -> None:
    torch.manual_seed(0)
    spec = replace(MLP, network=Forked(), input_shape=(2, 3), lr=0.1)
    engine = made(spec, TorchEngine, capture=False, dtype=torch.float64)
    reference = reference_for(spec, engine)
    ran = []
    for x, y, w in each(stream(spec, 40)):
        before = engine.state_dict()
        assert engine.learn(x, y, w)[0] == 1
        reference.learn(x[0], y[0], w[0])
        after = engine.state_dict()
        names = [name for name in before if name.endswith(("low.mean", "high.mean"))]
        ran.append([not torch.equal(before[name], after[name]) for name in names])
    assert_follows(engine, reference, 1e-10)
    assert sorted(map(sum, ran)) == [1] * 40
    assert 5 < sum(low for low, _ in ran) < 35


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", MODULAR)
def test_many_rows_are_the_loop_to_the_last_bit(name: str, device: str) -> None:
    spec = SPECS[name]
    one, many = (made(spec, TorchEngine, device=device) for _ in range(2))
    rows = stream(spec, 40)
    assert [one.learn(*row)[0] for row in each(rows)] == [1] * 40
    assert many.learn(*rows)[0] == 40
    assert fingerprint(one) == fingerprint(many)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["mlp", "mlp regression", "cnn"])
def test_more_rows_than_are_staged_at_a_time(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = SPECS[name]
    whole = made(spec, TorchEngine, device=device)
    rows = stream(spec, 40)
    _, expected = whole.learn(*rows, predict=True)
    monkeypatch.setattr(torch_runner, "MOST_ROWS", 7)
    parts = made(spec, TorchEngine, device=device)
    done, predicted = parts.learn(*rows, predict=True)
    assert done == 40
    np.testing.assert_array_equal(predicted, expected)
    assert fingerprint(parts) == fingerprint(whole)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SPECS)
def test_engines_read_each_others_state(name: str, device: str) -> None:
    spec = SPECS[name]
    other: Callable[..., Engine] = NumbaEngine if spec.network == "mlp" else TorchEngine
    rows, more = stream(spec, 30), stream(spec, 20, seed=1)
    donor = made(spec, other)
    donor.learn(*rows)
    engine = TorchEngine(spec, device=device)
    engine.load_state_dict(donor.state_dict())
    assert fingerprint(engine) == fingerprint(donor)
    engine.learn(*more)
    back = other(spec)
    back.load_state_dict(engine.state_dict())
    assert fingerprint(back) == fingerprint(engine)
    assert back.num_parameters == engine.num_parameters
    assert back.learn(*more)[0] == 20


# --- refusal


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SPECS)
def test_a_refused_row_stops_the_block_and_changes_nothing(name: str, device: str) -> None:
    spec = SPECS[name]
    engine, clean = (made(spec, TorchEngine, device=device) for _ in range(2))
    for each_engine in (engine, clean):
        each_engine.learn(*stream(spec, 35))  # the memory is full: a place in it would be overwritten
    x, y, w = stream(spec, 16, seed=1)  # the 48th sample would be counted into running means
    clean.learn(x[:5], y[:5], w[:5])
    w[5] = 1e300
    done, predicted = engine.learn(x, y, w, predict=True)
    assert done == 5
    assert np.isfinite(predicted[:5]).all()
    assert fingerprint(engine) == fingerprint(clean)
    assert engine.learn(x[5:6], y[5:6], w[5:6])[0] == 0  # as the first of a block, too
    for each_engine in (engine, clean):
        assert each_engine.learn(x[6:], y[6:], w[6:])[0] == 10
    assert fingerprint(engine) == fingerprint(clean)


# --- growth


def test_the_capacity_depends_on_the_size_alone_and_is_rarely_exceeded() -> None:
    for least in (8, 32):
        capacities = [capacity(size, least) for size in range(1, 5000)]
        for size, found in enumerate(capacities, start=1):
            assert size <= found < size + max(least, (size + 2) // 3 + 1)
        assert capacities == sorted(capacities)
        assert len(set(capacities)) < 40
        assert capacity(0, least) == 0


def learn_growing(engine: Engine, spec: LearnerSpec) -> Engine:
    """A stream that grows to 90 inputs and 20 outputs, after a snapshot each as a learner does it."""
    rng = np.random.default_rng(3)
    columns = outputs = 0
    for t in range(100):
        names = [f"f{i}" for i in range(columns, min(90, 2 + t))]
        new = int(outputs < 20 and t % 5 == 0)
        columns, outputs = columns + len(names), outputs + new
        if names or new:
            snapshot = engine.snapshot()
            engine.grow(["refused"], 1 if spec.task == "classification" else 0)
            engine.restore(snapshot)
            engine.grow(names, new if spec.task == "classification" else int(t == 0))
        y = float(rng.integers(outputs)) if spec.task == "classification" else float(rng.normal())
        assert engine.learn(rng.normal(size=(1, columns)), np.array([y]), np.ones(1))[0] == 1
    return engine


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["mlp", "mlp regression", "one copy, raw inputs", "linear"])
def test_spare_inputs_and_outputs_cannot_be_seen(
    name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SPECS[name]
    if spec.lr == "auto":  # at rate 1 a rounding error grows to 1 in 120 steps
        spec = replace(spec, lr=0.1)
    roomy = learn_growing(TorchEngine(spec, device=device, dtype=torch.float64), spec)
    monkeypatch.setattr(torch_engine, "capacity", lambda size, least: size)
    exact = learn_growing(TorchEngine(spec, device=device, dtype=torch.float64), spec)
    assert_close(roomy, exact, 1e-10)
    reference = learn_growing(NumbaEngine(spec, dtype=torch.float64), spec)
    assert_close(roomy, reference, 1e-10)


@pytest.mark.parametrize("device", GPUS)
def test_growth_rarely_captures(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    captures: list[str] = []
    capture = GraphPool.capture

    def counted(pool: GraphPool, function: Callable[[], None]) -> Callable[[], None]:
        captures.append(function.__name__)
        return capture(pool, function)

    monkeypatch.setattr(GraphPool, "capture", counted)
    engine = TorchEngine(MLP, device=device)
    learn_growing(engine, MLP)
    for work in ("learn_unpredicted_row", "average_row", "predict_row"):
        assert 1 < captures.count(work) <= 6  # three sizes for inputs, three for outputs
    assert engine.activity.captures == len(captures)
    before = len(captures)
    engine.load_state_dict(engine.state_dict())
    engine.learn(np.ones((8, 90)), np.zeros(8), np.ones(8))
    engine.predict(np.ones(90))
    assert len(captures) == before


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("hidden", [(6, 5), ()])
def test_inputs_may_be_late(hidden: tuple[int, ...], device: str) -> None:
    """A sample without features is one, and teaches the biases."""
    spec = replace(MLP, hidden=hidden, lr=0.1)
    exact = torch.float64
    one: Engine = TorchEngine(spec, device=device, dtype=exact)
    other: Engine = NumbaEngine(spec, dtype=exact)
    for engine in (one, other):
        engine.grow([], 2)
        for t in range(6):
            assert engine.learn(np.zeros((1, 0)), np.array([float(t % 2)]), np.ones(1))[0] == 1
        engine.grow(["a"], 0)
        assert engine.learn(np.array([[2.0]]), np.zeros(1), np.ones(1))[0] == 1
    assert_close(one, other, 1e-10)


@pytest.mark.parametrize("make", TORCH)
@pytest.mark.parametrize("name", ["cnn", "layers", "module"])
def test_classes_come_to_a_module(name: str, make: Callable[..., Engine]) -> None:
    spec = SPECS[name]
    engine = make(spec, dtype=torch.float64)
    reference = reference_for(spec, engine)
    for t, (x, y, w) in enumerate(each(stream(spec, 60))):
        if t % 4 == 0 and t < 40:
            snapshot = engine.snapshot()
            engine.grow([], 1)
            assert engine.learn(x, y * 0.0, w * math.inf)[0] == 0
            engine.restore(snapshot)
            engine.grow([], 1)
            reference.grow(1)
        label = np.minimum(y, t // 4)
        assert engine.learn(x, label, w)[0] == 1
        reference.learn(x[0], label[0], w[0])
    assert_follows(engine, reference, 1e-9)


@pytest.mark.parametrize("make", TORCH)
@pytest.mark.parametrize("name", ["mlp", "module"])
def test_an_engine_with_the_state_of_another_goes_its_own_way(name: str, make: Callable[..., Engine]) -> None:
    spec = SPECS[name]
    engine, other = made(spec, make), make(spec)
    engine.learn(*stream(spec, 20))
    before, x = fingerprint(engine), stream(spec, 1)[0][0]
    predicted = engine.predict(x)
    other.load_state_dict(engine.state_dict())
    assert fingerprint(other) == before
    other.learn(*stream(spec, 20, seed=1))
    changed = fingerprint(other)
    assert changed != before == fingerprint(engine)
    np.testing.assert_array_equal(engine.predict(x), predicted)
    engine.learn(*stream(spec, 20, seed=1))
    assert fingerprint(engine) == changed == fingerprint(other)


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_stays_of_growth_that_was_refused(device: str) -> None:
    """It grew within the spare size: the values in its columns must not be seen later."""
    spec = replace(MLP, standardize=False, lr=0.03)
    engine, clean = (made(spec, TorchEngine, device=device) for _ in range(2))
    x, y, w = stream(spec, 20)
    for t, row in enumerate(each((x, y, w))):
        if t == 10:
            snapshot = engine.snapshot()
            engine.grow(["new", "newer"], 1)
            poison = np.append(row[0], [[1e3, -1e3]], axis=1)
            assert engine.learn(poison, np.array([3.0]), np.array([1e300]))[0] == 0
            engine.restore(snapshot)
        assert engine.learn(*row)[0] == clean.learn(*row)[0] == 1
    assert fingerprint(engine) == fingerprint(clean)
    np.testing.assert_array_equal(engine.predict(x[0]), clean.predict(x[0]))


# --- choice


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Says which engine is chosen, and where, on a machine with a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(choice, "NumbaEngine", lambda spec: "numba on cpu")

    def torch_on(spec: LearnerSpec, device: str, *, capture: bool) -> str:
        return f"torch on {device}" + (", captured" if capture and device == "cuda" else "")

    monkeypatch.setattr(choice, "TorchEngine", torch_on)
    return lambda spec, engine="auto", device="auto": str(
        choice.make_engine(replace(spec, engine=engine, device=device))
    )


LARGE = replace(MLP, hidden=(1024, 1024), replay=3)


def test_the_device_is_chosen_by_the_size_of_the_network(chosen: Callable[..., str]) -> None:
    assert chosen(MLP) == "numba on cpu"
    assert chosen(replace(MLP, hidden=(100, 100), replay=3)) == "numba on cpu"
    assert chosen(LARGE) == "torch on cuda, captured"
    assert chosen(replace(LARGE, lr=0.1)) == "numba on cpu"  # one member
    assert chosen(replace(MLP, hidden=(100,), input_shape=(300, 300), replay=3)) == "torch on cuda, captured"
    assert chosen(CNN) == "torch on cuda, captured"
    # A module may do what no graph can repeat.
    assert chosen(SPECS["module"]) == "torch on cuda"


def test_what_is_asked_for_comes_first(chosen: Callable[..., str]) -> None:
    assert chosen(MLP, "torch") == "torch on cuda, captured"
    assert chosen(MLP, device="cuda") == "torch on cuda, captured"
    assert chosen(SPECS["module"], "torch") == "torch on cuda, captured"
    assert chosen(LARGE, "numba") == "numba on cpu"
    assert chosen(LARGE, device="cpu") == "numba on cpu"
    assert chosen(MLP, "torch", "cpu") == "torch on cpu"
    with pytest.raises(ConfigurationError):
        chosen(MLP, "numba", "cuda")


def test_the_names_of_version_0_1_0_are_accepted(chosen: Callable[..., str]) -> None:
    assert chosen(MLP, "compiled") == "numba on cpu"
    assert chosen(MLP, "graphed") == chosen(SPECS["module"], "graphed") == "torch on cuda, captured"
    assert chosen(MLP, "autograd", "cpu") == "torch on cpu"
    assert chosen(SPECS["module"], "autograd") == "torch on cuda"  # it was never captured


def test_a_model_has_the_present_name_of_its_engine() -> None:
    models = [BNPClassifier((3,), engine=name, device="cpu") for name in ("compiled", "numba", "autograd")]
    assert [model.engine for model in models] == ["numba", "numba", "torch"]
    assert [model.state_dict()["engine"] for model in models] == ["numba", "numba", "torch"]
    with pytest.raises(ConfigurationError, match="engine"):
        BNPClassifier(engine="other")


@pytest.mark.parametrize("kind", [BNPClassifier, BNPRegressor])
def test_without_a_gpu_it_is_refused(
    kind: type[BNPClassifier] | type[BNPRegressor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigurationError, match="CUDA") as caught:
        kind(engine="torch", device="cuda")
    assert caught.value.field == "device"
    assert kind((1024, 1024)).engine_name == "numba"
    assert kind((3,), engine="torch").device_name == "cpu"


# --- on a GPU


@contextmanager
def waits(*, simulated: bool) -> Iterator[list[str]]:
    """Yield what the host waits for in the block."""
    if simulated:
        with host_waits() as found:
            yield found
        return
    found = []
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            torch.cuda.set_sync_debug_mode("warn")  # it warns itself, after it has set the mode
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found += [str(each.message) for each in caught if "called a synchronizing" in str(each.message)]


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize("name", SPECS)
def test_the_host_waits_once_a_call(name: str, device: str, request: pytest.FixtureRequest) -> None:
    spec, simulated = SPECS[name], "simulated" in request.keywords
    engine = made(spec, TorchEngine, device=device)
    rows = stream(spec, 50)
    engine.learn(*rows, predict=True)  # captures
    with waits(simulated=simulated) as found:
        assert engine.learn(*rows, predict=True)[0] == 50
    assert len(found) == 1
    with waits(simulated=simulated) as found:
        engine.predict_rows(rows[0])
    assert len(found) == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", SPECS)
def test_many_predictions_are_the_loop_to_the_last_bit(
    name: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_runner, "MOST_ROWS", 7)
    spec = SPECS[name]
    engine = made(spec, TorchEngine, device=device)
    engine.learn(*stream(spec, 30))
    before, x = fingerprint(engine), stream(spec, 20, seed=1)[0]
    expected = np.array([engine.predict(row) for row in x])
    np.testing.assert_array_equal(engine.predict_rows(x), expected)
    assert engine.predict_rows(x[:0]).shape == (0, expected.shape[1])
    assert fingerprint(engine) == before


@pytest.mark.parametrize("device", GPUS)
def test_a_prediction_after_growth_captures_nothing(device: str) -> None:
    """The learning thread has captured it: a server answers short predictions on its event loop."""
    engine = TorchEngine(replace(MLP, lr=0.1), device=device)
    for columns in (2, 33, 65):
        engine.grow([f"{columns} {i}" for i in range(columns - len(engine.moments()["inputs.mean"]))], 2)
        engine.learn(np.ones((1, columns)), np.zeros(1), np.ones(1))
        captures = engine.activity.captures
        engine.predict(np.ones(columns))
        assert engine.activity.captures == captures
    assert engine.activity.captures == 6
    assert engine.activity.rows == 6
    assert engine.activity.seconds > 0.0 < engine.activity.capture_seconds


@pytest.mark.parametrize("device", GPUS)
def test_a_call_that_may_be_paused_is_short(device: str) -> None:
    """The host cannot end a replay: it starts as many rows as take `call_seconds`, then reads the flag."""
    engine, clean = TorchEngine(MLP, device), made(MLP, TorchEngine, device=device)
    engine.grow(["a", "b", "c", "d"], 3)
    rows, pause = stream(MLP, 40), np.zeros(1, np.int64)
    clean.learn(*rows)
    engine.activity.rows, engine.activity.seconds = 10, 0.01  # a row takes a millisecond
    assert engine.call_seconds == 0.005
    pause[0] = 1
    done, _ = engine.learn(*rows, pause=pause)
    assert done == 5
    pause[0] = 0
    assert engine.learn(*(column[5:] for column in rows), pause=pause)[0] == 35
    assert fingerprint(engine) == fingerprint(clean)


@pytest.mark.parametrize("device", DEVICES)
def test_dropout_depends_on_the_seed_and_the_step_alone(device: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(50, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
    spec = replace(SPECS["module"], network=network, seed=7)
    engines = [made(spec, TorchEngine, device=device) for _ in range(2)]
    x, y, w = stream(spec, 24)
    torch.manual_seed(1)
    engines[0].learn(x, y, w)
    torch.manual_seed(2)
    engines[1].learn(x[:10], y[:10], w[:10])
    engines[1].predict(x[0])
    torch.manual_seed(3)
    engines[1].learn(x[10:], y[10:], w[10:])
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(torch.rand(3), drawn)  # of the program, which the model does not change
    assert fingerprint(engines[0]) == fingerprint(engines[1])
    other = made(replace(spec, seed=8), TorchEngine, device=device)
    other.learn(x, y, w)
    assert fingerprint(other) != fingerprint(engines[0])


UNDECIDED = """
import numpy as np, torch
from torch import nn
from bnp_online import BNPClassifier, ConfigurationError

class Undecided(nn.Module):
    def forward(self, x):
        return x if bool(x.sum() > 0) else -x

body = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), Undecided())
model = BNPClassifier(input_shape=(2, 3), network=body, engine="torch")
try:
    model.learn_one(np.ones((2, 3)), 1)
except ConfigurationError as error:
    print(model.step, error)
"""


@needs_cuda
def test_a_module_that_cannot_be_captured_says_what_to_do() -> None:
    """In a process of its own: a capture that fails may leave torch's allocator in disorder."""
    command = [sys.executable, "-c", UNDECIDED]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert printed.startswith("0 engine:")
    assert "engine='auto'" in printed


@pytest.mark.simulated
def test_a_module_that_needs_the_host_is_not_captured() -> None:
    spec = replace(MLP, network=Forked(), input_shape=(2, 3), lr=0.1)
    engine = made(spec, TorchEngine, device="cuda")
    before = fingerprint(engine)
    with pytest.raises(ConfigurationError, match="use engine='auto'"):
        engine.learn(*stream(spec, 1))
    assert fingerprint(engine) == before
    free = made(spec, TorchEngine, device="cuda", capture=False)
    assert free.learn(*stream(spec, 30))[0] == 30


@pytest.mark.parametrize("device", GPUS)
def test_learners_capture_in_threads_of_their_own(device: str) -> None:
    specs = [replace(MLP, seed=seed) for seed in range(4)]
    expected = []
    for spec in specs:
        engine = made(spec, TorchEngine, device=device)
        engine.learn(*stream(spec, 60, seed=spec.seed))
        expected.append(fingerprint(engine))
    found: dict[int, str] = {}

    def run(spec: LearnerSpec) -> None:
        engine = made(spec, TorchEngine, device=device)
        for row in each(stream(spec, 60, seed=spec.seed)):
            engine.learn(*row)
        found[spec.seed] = fingerprint(engine)

    threads = [threading.Thread(target=run, args=(spec,)) for spec in specs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[spec.seed] for spec in specs] == expected


@pytest.mark.parametrize("device", GPUS)
@pytest.mark.parametrize("kind", [BNPClassifier, BNPRegressor])
def test_an_estimator_learns_a_growing_stream_on_a_gpu(
    kind: type[BNPClassifier] | type[BNPRegressor], device: str
) -> None:
    rng = np.random.default_rng(0)
    model, reference = kind((8,), lr=0.1, device=device), kind((8,), lr=0.1, engine="numba")
    for t in range(150):
        x = {f"f{i}": rng.normal() for i in range(3 + t // 3)}
        y = int(x["f0"] > x["f1"]) + int(t > 100)
        for each_model in (model, reference):
            each_model.learn_one(x, y)
    assert (model.engine_name, model.device_name) == ("torch", "cuda:0")
    probe = {"f0": 1.0, "f1": -1.0}
    if isinstance(model, BNPClassifier) and isinstance(reference, BNPClassifier):
        assert model.predict_proba_one(probe) == pytest.approx(reference.predict_proba_one(probe), abs=1e-3)
    else:
        assert model.predict_one(probe) == pytest.approx(reference.predict_one(probe), abs=1e-2)
    before = model.fingerprint()
    with pytest.raises(ArithmeticError):
        model.learn_sample(model.preview().check({"f0": 5.0, "new": 1.0}, 1, 1e300))
    assert model.fingerprint() == before
