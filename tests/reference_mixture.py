"""The mixture from its definition (algorithm.md §6) around `ReferenceLearner`: float64, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tests.reference_learner import Array, ReferenceLearner

#: Chooses a remembered sample: (number of samples learned, turn, how many are remembered) → its place.
Draw = Callable[[int, int, int], int]


@dataclass
class ReferenceMixture:
    """Learners side by side; those that replay also learn remembered samples again."""

    learners: Sequence[ReferenceLearner]
    replays: Sequence[bool]
    replay: int
    capacity: int
    draw: Draw
    weights: Array = field(init=False)
    error_scale: float = 1.0
    step: int = 0
    memory: list[tuple[Array, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weights = np.full(len(self.learners), 1.0 / len(self.learners))

    def predict(self, x: Array) -> Array:
        return np.asarray(
            sum(w * each.predict(x) for w, each in zip(self.weights, self.learners, strict=True))
        )

    def learn(self, x: Array, target: float, weight: float) -> None:
        if self.step > 0:
            self._weigh(x, target)
        for each in self.learners:
            each.learn(x, target, weight)
        self.step += 1
        first = self.learners[0]
        goal = target
        if first.task == "regression":
            goal = float(first.targets.standardized(np.array([target]), 10.0)[0])
        if len(self.memory) < self.capacity:
            self.memory.append((first.entry(x), goal, weight))
        else:
            self.memory[(self.step - 1) % self.capacity] = (first.entry(x), goal, weight)
        for turn in range(self.replay):
            z, goal, weight = self.memory[self.draw(self.step, turn, len(self.memory))]
            for each, replays in zip(self.learners, self.replays, strict=True):
                if replays:
                    each.relearn(z, goal, weight)

    def _weigh(self, x: Array, target: float) -> None:
        """From the predictions made before learning."""
        values = [each.predict(x) for each in self.learners]
        most = -math.log(1e-4)
        if self.learners[0].task == "classification":
            losses = np.array([min(-math.log(p[int(target)]), most) for p in values])
        else:
            spread = float(self.learners[0].targets.var[0])
            if spread == 0.0:
                return
            mixed = float(sum(w * v for w, v in zip(self.weights, values, strict=True))[0])
            scale = 2.0 * max(self.error_scale, 1e-4)
            losses = np.array([min((target - float(v[0])) ** 2 / spread / scale, most) for v in values])
            self.error_scale = 0.99 * self.error_scale + 0.01 * (target - mixed) ** 2 / spread
        raised = self.weights * np.exp(-0.2 * losses)
        self.weights = 0.99 * raised / raised.sum() + 0.01 / len(raised)
