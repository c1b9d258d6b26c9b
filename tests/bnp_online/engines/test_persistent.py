"""The kernel of the persistent engine, compiled for the CPU.

The contract suites test it as well (`tests.support.engines`). Here it follows the float64 reference in
float32, and its threads do not race.
"""

from __future__ import annotations

import math
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bnp_online.engines import base
from bnp_online.engines.base import LearnerSpec
from bnp_online.engines.persistent.engine import PersistentEngine, takes
from bnp_online.engines.persistent.runner import PersistentRunner
from bnp_online.engines.persistent.source import source
from bnp_online.engines.persistent.together import learn_each, shape_of
from bnp_online.engines.torch_engine import TorchEngine
from tests.bnp_online.engines.test_experts import TASKS, Vector, reference_for, spec_of, stream
from tests.bnp_online.engines.test_torch_experts import samples_of
from tests.support.kernel_on_cpu import (
    COMPILER,
    FailedLaunchError,
    KernelOnCPU,
    built,
    engine_on_cpu,
    run_program,
    write_image,
)
from tests.support.reference_experts import ReferenceExperts
from tests.support.reference_neighbours import distance

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs g++")

#: Blocks, threads of a block, and lanes under the thread sanitizer.
SANITIZED = 2, 4, 2
#: Exit code of the thread sanitizer after a data race.
RACE = 66


@pytest.fixture(autouse=True)
def _slow_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates that do not amplify rounding."""
    monkeypatch.setattr(base, "PLAIN_RATES", (0.03, 0.1, 0.2))
    monkeypatch.setattr(base, "REPLAY_RATES", (0.05, 0.1))
    monkeypatch.setattr(base, "SINGLE_RATE", 0.1)
    monkeypatch.setattr(base, "LINEAR_RATES", (0.05, 0.2))


def error(got: Vector, expected: Vector) -> float:
    """Norm-wise relative error."""
    return float(np.linalg.norm(got - expected) / max(float(np.linalg.norm(expected)), 1e-3))


def clear_neighbours(reference: ReferenceExperts, x: Vector) -> list[bool]:
    """Return for each voter whether its k-th and the next distance differ by more than 1e-4, relatively."""
    z, missing = reference._standardized(reference.inputs, x), np.isnan(x)
    found = []
    for window, k, metric in reference.neighbours:
        scale = reference.metric if metric == "network" else np.ones(len(z))
        newest = reference._newest()[: reference._window(window)]
        distances = sorted(distance(z, missing, each, scale) for each in newest)
        finite = [d for d in distances if d < math.inf]
        found.append(len(finite) <= k or finite[k] - finite[k - 1] > 1e-4 * max(finite[k], 1.0))
    return found


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"replay": 0},
        {"hidden": ()},
        {"hidden": (7,), "activation": "relu"},
        {"hidden": (7, 6), "activation": "gelu", "step_scale": "paper", "lr": 0.03},
        {"lr": 0.1, "standardize": False},
    ],
    ids=str,
)
def test_float32_follows_the_float64_reference_over_1000_steps(
    task: base.Task, changes: dict[str, object]
) -> None:
    """Hedge and stack learn from the predictions of the reference, so a tie of neighbours does not matter."""
    spec = spec_of(task, **changes)
    engine = engine_on_cpu(spec)
    engine.grow(["a", "b", "c", "d"], 3 if task == "classification" else 1)
    reference = reference_for(engine, spec)
    reference.seen, reference.memory = 0, max(spec.remembered, 1)
    compared = 0
    near = slice(len(spec.owners), len(spec.owners) + len(reference.neighbours))
    for t, (x, y, weight) in enumerate(stream(task, 1000)):
        given = None
        if spec.stacks and t > 0:
            expected = reference.members(x)
            given = expected.copy()[None]
            if t % 10 == 9:
                clear = clear_neighbours(reference, x)
                got = engine.experts(x)
                for voter in np.flatnonzero(clear):
                    np.testing.assert_allclose(got[near][voter], expected[near][voter], rtol=1e-4, atol=1e-4)
                    compared += 1
        assert engine.learn(x[None], np.array([y]), np.array([weight]), given=given)[0] == 1
        reference.learn(x, y, weight)
    assert compared > 200 or not spec.neighbours
    state = {name: value.double().numpy() for name, value in engine.state_dict().items()}
    for k, network in enumerate(reference.networks[: len(spec.members)]):
        for name, layer in zip(spec.layers, network.learner.layers, strict=True):
            assert error(state[f"network.{name}.weight"][k], layer.weight) < 1e-4, (k, name)
            assert error(state[f"network.{name}.bias"][k], layer.bias) < 1e-4, (k, name)
            assert error(state[f"moments.{name}.mean"][k], layer.mean) < 1e-4, (k, name)
            assert error(state[f"moments.{name}.var"][k], layer.var) < 1e-4, (k, name)
    if spec.stacks:
        assert error(state["mixture.weights"], np.array(reference.rates)) < 1e-4
        assert error(state["mixture.shares"], reference.shares) < 1e-4
        assert error(state["stack.coefficients"], reference.coefficients) < 1e-4
        assert error(state["stack.inverse"], reference.inverse) < 1e-4


def learned(engine: TorchEngine, task: base.Task) -> dict[str, torch.Tensor]:
    """Learn rows in blocks, with one trajectory that diverged; return the state."""
    x, y, weights = samples_of(task, 70)
    engine.grow(["a", "b", "c", "d"], 3 if task == "classification" else 1)
    engine.learn(x[:30], y[:30], weights[:30])
    engine._runner.step.named()["network.head.weight"][1] = math.inf
    assert engine.learn(x[30:], y[30:], weights[30:])[0] == 40
    return engine.state_dict()


@pytest.mark.parametrize("task", TASKS)
def test_order_of_the_threads_and_place_of_the_weights_change_no_bit(task: base.Task) -> None:
    spec = spec_of(task)
    expected = learned(engine_on_cpu(spec), task)
    cases: list[dict[str, Any]] = [{"order": 1}, {"order": 7}, {"shared": 2000}, {"shared": 4000}]
    for options in cases:
        state = learned(engine_on_cpu(spec, **options), task)
        assert all(state[name].equal(value) or value.isnan().any() for name, value in expected.items())


@pytest.mark.parametrize("task", TASKS)
def test_number_of_blocks_and_threads_changes_little(task: base.Task) -> None:
    spec = spec_of(task)
    expected = learned(TorchEngine(spec, dtype=torch.float64), task)
    cases: list[dict[str, Any]] = [{"most_blocks": 1}, {"most_blocks": 8, "threads": 4}]
    for options in cases:
        state = learned(engine_on_cpu(spec, torch.float64, **options), task)
        for name, value in expected.items():
            assert torch.allclose(state[name], value, rtol=1e-8, atol=1e-9, equal_nan=True), (name, options)


@pytest.mark.parametrize("order", [0, 7])
@pytest.mark.parametrize("task", TASKS)
def test_learners_in_one_launch_have_the_bits_of_separate_ones(task: base.Task, order: int) -> None:
    """Learners of one shape with other seeds, rates and histories; a refused row leaves the others alone."""
    kernel = KernelOnCPU(torch.float32, 8, order=order)
    both: list[list[PersistentEngine]] = [[], []]
    for k in range(4):
        spec = replace(spec_of(task, memory=20), seed=k)
        x, y, weights = samples_of(task, 30, seed=k)
        for engines in both:
            engine = PersistentEngine(spec, "cpu", capture=False, compiled=lambda *_: kernel)
            engine.grow(["a", "b", "c", "d"], 3 if task == "classification" else 1)
            engine.learn(x[: 7 * k + 1], y[: 7 * k + 1], weights[: 7 * k + 1])
            engines.append(engine)
    for engines in both:
        engines[2]._runner.step.named()["network.head.weight"][1] = math.inf  # it restarts
    together, alone = both
    assert len({shape_of(engine) for engine in together}) == 1
    x, y, weights = samples_of(task, 120, seed=9)
    weights[40] = 1e300  # of no rate
    for start in range(0, 120, 4):
        part = slice(start, start + 4)
        learned, found = learn_each(together, x[part], y[part], weights[part])
        expected = [
            each.learn(x[i : i + 1], y[i : i + 1], weights[i : i + 1], predict=True)
            for i, each in enumerate(alone, start)
        ]
        assert learned.tolist() == [bool(count) for count, _ in expected]
        for k, (count, values) in enumerate(expected):
            if count:
                np.testing.assert_array_equal(found[k], values[0])
    assert sum(each._step for each in together) == 46 + 119
    for a, b in zip(together, alone, strict=True):
        for name, value in b.state_dict().items():
            np.testing.assert_array_equal(a.state_dict()[name].numpy(), value.numpy(), name)


def test_learners_of_other_shapes_have_other_launches() -> None:
    kernel = KernelOnCPU(torch.float32, 8)

    def shape(**settings: Any) -> Any:
        spec = replace(spec_of("classification"), **settings)
        engine = PersistentEngine(spec, "cpu", capture=False, compiled=lambda *_: kernel)
        engine.grow([] if spec.input_shape else ["a", "b", "c", "d"], 3)
        return shape_of(engine)

    assert shape() == shape(seed=5)
    assert len({shape(), shape(hidden=(3,)), shape(memory=77), shape(replay=0)}) == 4
    assert shape(network="cnn", input_shape=(1, 12, 12)) is None


def test_learner_that_outgrows_the_kernel_keeps_its_state() -> None:
    spec = LearnerSpec(task="regression", learner=2, hidden=(5,), lr=0.1)
    engine = engine_on_cpu(spec)
    engine.grow(["a", "b"], 1)
    x = np.random.default_rng(0).normal(size=(20, 2))
    engine.learn(x, x[:, 0], np.ones(20))
    before = engine.predict(x[0])
    assert isinstance(engine._runner, PersistentRunner)
    engine.grow([f"more {i}" for i in range(3000)], 0)
    assert not isinstance(engine._runner, PersistentRunner)
    assert not takes(spec, 3002, 1)
    wide = np.zeros(3002)
    wide[:2] = x[0]
    np.testing.assert_allclose(engine.predict(wide), before, rtol=1e-5)
    assert engine.learn(wide[None], np.zeros(1), np.ones(1))[0] == 1


def test_other_networks_are_not_taken() -> None:
    spec = LearnerSpec(task="classification", learner=2, network="cnn", input_shape=(1, 12, 12))
    assert not takes(spec, 1, 8)
    engine = engine_on_cpu(spec)
    engine.grow([], 2)
    assert engine.learn(np.zeros((1, 1, 12, 12)), np.zeros(1), np.ones(1))[0] == 1


# Races


def image_of(task: base.Task, path: Path, given: bool = False) -> PersistentEngine:
    """Write an image with rows to learn, through the 20th and the 50th, and a trajectory that diverged."""
    spec = spec_of(task, memory=30)
    blocks, threads, lanes = SANITIZED
    engine = engine_on_cpu(spec, most_blocks=blocks, threads=threads, lanes=lanes)
    x, y, weights = samples_of(task, 56, seed=3)
    engine.grow(["a", "b", "c", "d"], 3 if task == "classification" else 1)
    engine.learn(x[:15], y[:15], weights[:15])
    engine._runner.step.named()["network.head.weight"][1] = math.inf
    runner = engine._runner
    assert isinstance(runner, PersistentRunner)
    if given:
        runner._take(np.full((41, len(spec.experts), 8 if task == "classification" else 1), 0.125))
    runner._upload(x[15:], engine._columns(y[15:], weights[15:]))
    write_image(runner.arguments | {"rows": runner._rows, "results": runner._results}, path)
    return engine


@pytest.fixture(scope="module")
def program() -> Path:
    blocks, threads, lanes = SANITIZED
    text = source(torch.float32, blocks, threads)
    return built(text, "-O1", "-g", "-fsanitize=thread", "-pthread", "-DPROGRAM", lanes=lanes)


def run(
    program: Path, image: Path, left_out: int = 0, late: int = 0, learns: int = 1
) -> subprocess.CompletedProcess[str]:
    return run_program(program, [image, 41, learns, late, 1 << 16, left_out])


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize("task", TASKS)
def test_threads_do_not_race(task: base.Task, late: int, program: Path, tmp_path: Path) -> None:
    image_of(task, tmp_path / "image", given=bool(late))
    for learns in (0, 1):
        done = run(program, tmp_path / "image", late=late, learns=learns)
        assert done.returncode == 0, done.stderr[:4000]


@pytest.mark.parametrize(
    "barrier",
    [
        "CLUSTER_BARRIER();  // the step is complete",
        "BARRIER();  // an earlier result was read",
        "LANE_BARRIER();",
    ],
    ids=["cluster", "block", "lanes"],
)
def test_sanitizer_finds_a_barrier_that_is_left_out(barrier: str, program: Path, tmp_path: Path) -> None:
    """Each is passed with every sample, but the sanitizer sees only races of threads that run together."""
    image_of("classification", tmp_path / "image")
    lines = source(torch.float32, *SANITIZED[:2]).split("\n")
    line = next(i for i, text in enumerate(lines, 1) if text.strip().startswith(barrier))
    runs = (run(program, tmp_path / "image", left_out=line) for _ in range(10))
    assert any(done.returncode == RACE and "data race" in done.stderr for done in runs)


def test_threads_at_different_barriers_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that leaves a barrier out, or comes to another one."""
    spec = LearnerSpec(task="regression", learner=2, hidden=(5,), lr=0.1)
    engine = engine_on_cpu(spec)
    engine.grow(["a", "b"], 1)
    runner = engine._runner
    assert isinstance(runner, PersistentRunner)
    text = source(torch.float32, 1, 8)
    place = "    BARRIER();  // the inputs are complete\n"
    assert place in text
    for other in ("    if (THREAD != 1) BARRIER();\n", f"{place}    if (THREAD == 1) {{ BARRIER(); }}\n"):
        monkeypatch.setattr("tests.support.kernel_on_cpu.source", lambda *_, o=other: text.replace(place, o))
        wrong = engine_on_cpu(spec)
        wrong.grow(["a", "b"], 1)
        with pytest.raises(FailedLaunchError):
            wrong.learn(np.zeros((2, 2)), np.zeros(2), np.ones(2))
