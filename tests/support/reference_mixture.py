"""The mixture from its definition (algorithm.md §6) around `ReferenceLearner`: float64, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from tests.support.reference_learner import Array, Layer, ReferenceLearner

#: Chooses a remembered sample: (number of samples learned, turn, how many are remembered) → its place.
Draw = Callable[[int, int, int], int]


@dataclass
class ReferenceMixture:
    """Learners side by side; some also learn remembered samples again, some predict with mean weights."""

    learners: Sequence[ReferenceLearner]
    replays: Sequence[bool]
    averages: Sequence[bool]
    replay: int
    capacity: int
    draw: Draw
    weights: Array = field(init=False)
    means: list[list[tuple[Array, Array]]] = field(init=False)
    error_scale: float = 1.0
    step: int = 0
    memory: list[tuple[Array, float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weights = np.full(len(self.learners), 1.0 / len(self.learners))
        self.means = [[(layer.weight, layer.bias) for layer in each.layers] for each in self.learners]

    def predict(self, x: Array) -> Array:
        return np.asarray(sum(w * p for w, p in zip(self.weights, self._predictions(x), strict=True)))

    def _predictions(self, x: Array) -> list[Array]:
        predictions = []
        for each, averages, mean in zip(self.learners, self.averages, self.means, strict=True):
            predictor = each
            if averages:
                layers = [Layer(weight, bias) for weight, bias in mean]
                predictor = replace(each, layers=layers)
                predictor.inputs, predictor.targets = each.inputs, each.targets
            predictions.append(predictor.predict(x))
        return predictions

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
        if self.step % 8 == 0:
            share = 9.0 / (self.step / 8 + 9.0)  # γ = 8
            for each, mean in zip(self.learners, self.means, strict=True):
                for i, layer in enumerate(each.layers):
                    weight_mean, bias_mean = mean[i]
                    mean[i] = (
                        weight_mean + share * (layer.weight - weight_mean),
                        bias_mean + share * (layer.bias - bias_mean),
                    )

    def _weigh(self, x: Array, target: float) -> None:
        """From the predictions made before learning."""
        values = self._predictions(x)
        most = -math.log(1e-4)
        if self.learners[0].task == "classification":
            losses = np.array([min(-math.log(p[int(target)]), most) for p in values])
        else:
            spread = float(self.learners[0].targets.var[0])
            if spread == 0.0:
                return
            mixed = float(sum(w * v for w, v in zip(self.weights, values, strict=True))[0])
            deviation = math.sqrt(spread)
            scale = max(self.error_scale, 1e-2)
            losses = np.array([min(abs(target - float(v[0])) / deviation / scale, most) for v in values])
            self.error_scale = 0.99 * self.error_scale + 0.01 * abs(target - mixed) / deviation
        raised = self.weights * np.exp(-0.2 * losses)
        self.weights = 0.99 * raised / raised.sum() + 0.01 / len(raised)
