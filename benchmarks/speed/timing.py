"""Timing of alternating sides in one process, and the sides of the speed benchmark."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnp_online import BNP, BNPClassifier
from bnp_online.engines.base import LearnerSpec, Member
from bnp_online.engines.numba_engine import NumbaEngine

#: Function that takes a number of steps.
Steps: TypeAlias = Callable[[int], object]
#: Progress callback; takes a description.
Tick: TypeAlias = Callable[[str], None]

#: Numbers of inputs, hidden units and outputs.
NETWORKS = {
    "S": (64, 100, 10),
    "M": (64, 100, 100, 10),
    "L": (784, 100, 100, 100, 10),
    "XL": (784, 512, 512, 10),
}
#: Unit of steps.
_UNIT = 200


@dataclass(frozen=True)
class Effort:
    """Amount of measurement.

    Attributes
    ----------
    networks : sequence of str
        Names of `NETWORKS`.
    repeats : int
        Repeats, of which the median is taken.
    seconds : float
        Approximate duration of a repeat.
    quick : bool
        Whether only to check that everything runs.
    """

    networks: Sequence[str]
    repeats: int
    seconds: float
    quick: bool


def in_turns(sides: Mapping[str, Steps], effort: Effort) -> dict[str, float]:
    """Return the median microseconds of a step of each side, measured in turns after a warm-up."""
    counts = {}
    for name, steps in sides.items():
        steps(_UNIT)
        start = time.perf_counter()
        steps(_UNIT)
        share = effort.seconds / (time.perf_counter() - start)
        counts[name] = max(1, int(share)) * _UNIT
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(effort.repeats):
        for name, steps in sides.items():
            start = time.perf_counter()
            steps(counts[name])
            times[name].append((time.perf_counter() - start) / counts[name] * 1e6)
    return {name: statistics.median(of) for name, of in times.items()}


def samples(sizes: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return one unit of random inputs for `in_turns`, and classes that depend on them."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(_UNIT, sizes[0]))
    return x, (x @ rng.normal(size=(sizes[0], sizes[-1]))).argmax(axis=1).astype(np.float64)


def eager(sizes: Sequence[int], *, hooks: bool) -> Steps:
    """Return a plain loop around ``torch.optim.SGD``, with BNP through hooks if `hooks`."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for n, m in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(n, m), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))
    pre = BNP(model, step_scale="norm") if hooks else None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss_of = nn.CrossEntropyLoss()
    rows, labels = samples(sizes)
    x: Tensor = torch.tensor(rows, dtype=torch.float32)
    y = torch.tensor(labels, dtype=torch.int64)

    def steps(count: int) -> None:
        for i in range(count):
            k = i % len(x)
            optimizer.zero_grad()
            loss = loss_of(model(x[k][None]), y[k][None])
            loss.backward()
            if pre is not None:
                pre.step()
            optimizer.step()

    return steps


@dataclass(kw_only=True)
class CopiesSpec(LearnerSpec):
    """Specification of `count` members at one rate, without replay."""

    count: int = 1

    @property
    def members(self) -> list[Member]:
        """The members."""
        return [Member(0.1)] * self.count


def engine(
    sizes: Sequence[int], lr: float | str, replay: int = 0, copies: int = 0, learner: int = 2
) -> NumbaEngine:
    """Return a numba engine with inputs and outputs; `copies` replaces the members of `lr`."""
    options: dict[str, Any] = {
        "task": "classification",
        "hidden": tuple(sizes[1:-1]),
        "activation": "relu",
        "lr": lr,
        "replay": replay,
        "memory": 5000,
        "rho": 0.99,
        "eps_rel": 1e-2,
        "eps_abs": 1e-4,
        "step_scale": "norm",
        "standardize": True,
        "input_shape": None,
        "network": "mlp",
        "seed": 0,
        "learner": learner,
    }
    made = NumbaEngine(CopiesSpec(**options, count=copies) if copies else LearnerSpec(**options))
    made.grow([f"f{i}" for i in range(sizes[0])], sizes[-1])
    return made


def fused(sizes: Sequence[int], learner: NumbaEngine, rows: int) -> Steps:
    """Return the steps of a numba engine, `rows` in each call."""
    x, y = samples(sizes)
    weights = np.ones(rows)

    def steps(count: int) -> None:
        for i in range(0, count, rows):
            k = i % _UNIT
            learner.learn(x[k : k + rows], y[k : k + rows], weights)

    return steps


def estimator(sizes: Sequence[int], *, many: bool) -> Steps:
    """Return the steps of ``BNPClassifier`` with one member on arrays, by `learn_many` or `learn_one`."""
    x, y = samples(sizes)
    labels = y.astype(np.int64).tolist()
    model = BNPClassifier(tuple(sizes[1:-1]), lr=0.1, replay=0, input_shape=(sizes[0],))

    def steps(count: int) -> None:
        for _ in range(0, count, _UNIT):
            if many:
                model.learn_many(x, labels)
            else:
                for row, label in zip(x, labels, strict=True):
                    model.learn_one(row, label)

    return steps
