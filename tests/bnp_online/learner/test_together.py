"""Samples of many models in one call: each model has the bits of learning alone."""

from __future__ import annotations

import copy
import math
import pickle
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from bnp_online import BNPClassifier, BNPRegressor, learn_together
from bnp_online.engines import numba_many
from bnp_online.engines.persistent.engine import PersistentEngine
from bnp_online.errors import ConfigurationError, NonFiniteStateError, SampleError
from bnp_online.learner import OnlineLearner
from bnp_online.threads import set_threads
from tests.support.kernel_on_cpu import COMPILER, KernelOnCPU

#: Specifications whose networks have one shape or another.
SPECS: list[dict[str, Any]] = [
    {"hidden": (6,), "lr": 0.1, "replay": 0},
    {"hidden": (6,), "lr": 0.05, "replay": 2, "memory": 20},
    {"hidden": (4, 3), "activation": "tanh", "seed": 3},
    {"hidden": (), "lr": 0.2},
    {"hidden": (5,), "step_scale": "paper", "standardize": False},
    {"hidden": (4,), "learner": 1},
]


def made(task: str) -> list[Any]:
    make: Any = BNPClassifier if task == "classification" else BNPRegressor
    more = {} if task == "classification" else {"intervals": 50}
    specs = [*SPECS, {**SPECS[0], **more}]
    return [make(**{"seed": i, **specs[i % len(specs)]}) for i in range(10)]


def sample(rng: random.Random, task: str, turn: int) -> tuple[dict[str, Any], Any, float]:
    """Return a sample; seldom with a new feature or label, a string, or a missing value."""
    x: dict[str, Any] = {name: rng.gauss(0.0, 1.0) for name in "abc"}
    if rng.random() < 0.05:
        x[rng.choice("abc")] = None
    if rng.random() < 0.05:
        x[f"new {turn // 20}"] = rng.choice([1.0, "red"])
    labels = "uvw" if turn > 20 else "uv"
    y = rng.choice(labels) if task == "classification" else rng.gauss(3.0, 2.0)
    return x, y, rng.choice([1.0, 1.0, 0.5, 0.0])


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    set_threads(request.param)
    yield request.param
    set_threads(None)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_each_model_has_the_bits_of_learning_alone(
    task: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba_many, "_LEAST", 1)
    shared, learn_each = list[int](), numba_many.learn_each

    def counted(engines: Any, *given: Any) -> Any:
        shared.append(len(engines))
        return learn_each(engines, *given)

    monkeypatch.setattr(numba_many, "learn_each", counted)
    rng = random.Random(threads)  # noqa: S311
    together, alone = made(task), made(task)
    for turn in range(60):
        chosen = rng.sample(range(len(together)), rng.randint(2, len(together)))
        samples = [sample(rng, task, turn) for _ in chosen]
        found = learn_together([together[i] for i in chosen], *map(list, zip(*samples, strict=True)))
        for i, (x, y, w), prediction in zip(chosen, samples, found, strict=True):
            [expected] = alone[i].learn_samples([alone[i].preview().check(x, y, w)])
            assert prediction == expected
        if turn == 30:  # a copy has arrays of its own
            together[:2] = copy.deepcopy(together[:2])
            together[2:4] = pickle.loads(pickle.dumps(together[2:4]))  # noqa: S301 (its own)
    assert sum(shared) > 150
    assert max(shared) > 2
    for one, other in zip(together, alone, strict=True):
        assert one.fingerprint() == other.fingerprint()


def test_models_with_an_input_shape() -> None:
    rng = random.Random(2)  # noqa: S311
    together, alone = (
        [BNPClassifier(hidden=(4,), seed=i, input_shape=(2, 3)) for i in range(3)] for _ in "ab"
    )
    for _ in range(5):
        samples = [[[rng.random() for _ in range(3)] for _ in range(2)] for _ in together]
        labels = [rng.choice([0, 1]) for _ in together]
        learn_together(together, samples, labels)
        for model, x, y in zip(alone, samples, labels, strict=True):
            model.learn_one(x, y)
    assert [a.fingerprint() for a in together] == [b.fingerprint() for b in alone]


def test_a_model_refuses_its_sample_alone() -> None:
    specs: dict[str, Any] = {"hidden": (4,), "lr": 0.1, "replay": 0, "learner": 1, "standardize": False}
    models: list[OnlineLearner] = [BNPClassifier(seed=i, **specs) for i in range(4)]
    for _ in range(3):
        for y in "uv":
            learn_together(models, [{"a": 1.0}] * 4, [y] * 4)
    before = [model.fingerprint() for model in models]
    found = learn_together(
        models, [{"a": a} for a in (1.0, 1e60, 2.0, 3.0)], [*"uvuv"], [1.0, 1.0, 1e30, 0.5]
    )
    assert [isinstance(each, NonFiniteStateError) for each in found] == [False, True, True, False]
    same = [model.fingerprint() == old for model, old in zip(models, before, strict=True)]
    assert same == [False, True, True, False]


def test_an_invalid_sample_changes_no_model() -> None:
    models = [BNPClassifier(hidden=(4,), seed=i) for i in range(3)]
    learn_together(models, [{"a": 1.0}] * 3, [*"uvu"])
    before = [model.fingerprint() for model in models]
    for x, y, w in (
        ({"a": math.inf}, "u", 1.0),
        ({"a": [1]}, "u", 1.0),
        ({"a": 1.0}, 2.5, 1.0),
        ({"a": 1.0}, "u", -1.0),
        ({"a": 1.0}, "new", -1.0),
    ):
        with pytest.raises(SampleError, match="row 1") as raised:
            learn_together(models, [{"a": 1.0}, x, {"a": 2.0}], ["u", y, "v"], [1.0, w, 1.0])
        assert raised.value.row == 1
    with pytest.raises(ConfigurationError, match="twice"):
        learn_together([models[0], models[0]], [{}, {}], ["u", "u"])
    with pytest.raises(ConfigurationError, match=r"models\[1\] is a dict"):
        learn_together([models[0], {}], [{}, {}], ["u", "u"])  # type: ignore[list-item]  # on purpose
    with pytest.raises(ConfigurationError, match="3 models, and 2 in y"):
        learn_together(models, [{"a": 1.0}] * 3, ["u", "u"])
    wrongs: list[dict[str, Any]] = [
        {"y": "uvu"},
        {"X": {"a": 1}},
        {"X": iter([{}] * 3)},
        {"w": np.ones(3)},
        {"models": None},
    ]
    for wrong in wrongs:
        given: Any = {"models": models, "X": [{"a": 1.0}] * 3, "y": [*"uvu"], **wrong}
        with pytest.raises(ConfigurationError, match=f"{next(iter(wrong))}.*list with one entry"):
            learn_together(**given)
    assert [model.fingerprint() for model in models] == before
    assert learn_together([], [], []) == []


@pytest.mark.skipif(COMPILER is None, reason="needs g++")
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_models_on_a_gpu_share_a_launch(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel of the GPU compiled for the CPU."""
    kernel, launches = KernelOnCPU(torch.float32, 8), list[int]()
    run = kernel.run

    def counted(learners: Any, *given: Any, **options: Any) -> None:
        launches.append(len(learners))
        run(learners, *given, **options)

    monkeypatch.setattr(kernel, "run", counted)
    make: Any = BNPClassifier if task == "classification" else BNPRegressor

    def models() -> list[Any]:
        found = [make(hidden=(5,), seed=i, memory=20, device="cpu") for i in range(4)]
        for each in found:
            each._engine = PersistentEngine(
                each._engine.spec, "cpu", capture=False, compiled=lambda *_: kernel
            )
        return found

    rng, together, alone, shared = random.Random(5), models(), models(), list[int]()  # noqa: S311
    for turn in range(15):
        samples = [sample(rng, task, turn) for _ in together]
        launches.clear()
        found = learn_together(together, *map(list, zip(*samples, strict=True)))
        shared += [count for count in launches if count > 1]
        for model, (x, y, w), prediction in zip(alone, samples, found, strict=True):
            [expected] = model.learn_samples([model.preview().check(x, y, w)])
            assert prediction == expected
    assert len(shared) > 8
    assert max(shared) >= 3
    for one, other in zip(together, alone, strict=True):
        for name, value in other._engine.state_dict().items():
            assert one._engine.state_dict()[name].equal(value) or value.isnan().any(), name
