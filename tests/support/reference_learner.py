"""The online learner from its definition (algorithm.md): float64, numpy, one sample at a time.

What the engines are measured against. Nothing here follows the library: the forward and the backward pass
are written out, and the random start is the only thing that it is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(a: Array) -> Array:
    return np.asarray(a * 0.5 * (1.0 + _erf(a / math.sqrt(2.0))))


def _gelu_slope(a: Array) -> Array:
    density = np.exp(-0.5 * a * a) / math.sqrt(2.0 * math.pi)
    return np.asarray(0.5 * (1.0 + _erf(a / math.sqrt(2.0))) + a * density)


#: Each activation with its derivative, both as functions of the layer's output before it.
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "relu": (lambda a: np.maximum(a, 0.0), lambda a: (a > 0.0).astype(np.float64)),
    "tanh": (np.tanh, lambda a: 1.0 - np.tanh(a) ** 2),
    "gelu": (_gelu, _gelu_slope),
}


@dataclass
class Cumulative:
    """Mean and variance of all samples so far; a column that is new counts as 0 in the past."""

    mean: Array
    var: Array
    n: int = 0

    def update(self, x: Array) -> None:
        d = x - self.mean
        share = 1.0 / (self.n + 1)
        self.var = (1.0 - share) * self.var + share * (1.0 - share) * d**2
        self.mean = self.mean + share * d
        self.n += 1

    def widen(self, columns: int) -> None:
        self.mean = np.append(self.mean, np.zeros(columns))
        self.var = np.append(self.var, np.zeros(columns))

    def standardized(self, x: Array, clip: float) -> Array:
        scale = np.sqrt(self.var)
        z = np.divide(x - self.mean, scale, out=np.zeros_like(x), where=scale > 0.0)
        return np.clip(z, -clip, clip)


@dataclass
class Layer:
    """``a = W h + b`` with the running moments of ``h``; the pseudo-sample is ``μ = 0, σ² = 1``."""

    weight: Array
    bias: Array
    mean: Array = field(init=False)
    var: Array = field(init=False)
    t: int = 0

    def __post_init__(self) -> None:
        self.mean, self.var = np.zeros(self.weight.shape[1]), np.ones(self.weight.shape[1])

    def widen(self, columns: Array) -> None:
        self.weight = np.hstack([self.weight, columns])
        self.mean = np.append(self.mean, np.zeros(columns.shape[1]))
        self.var = np.append(self.var, np.ones(columns.shape[1]))

    def count(self, h: Array, how: ReferenceLearner) -> None:
        rho = min(how.rho, (self.t + 1) / (self.t + 2))
        d = h - self.mean
        self.var = rho * self.var + rho * (1.0 - rho) * d**2
        self.mean = self.mean + (1.0 - rho) * d
        self.t += 1

    def step(self, h: Array, delta: Array, lr: float, how: ReferenceLearner) -> None:
        """The rank-one step, with moments that have counted `h`."""
        damped = self.var + how.eps_rel * np.max(self.var, initial=0.0) + how.eps_abs
        u = (h - self.mean) / damped
        norm = 1.0 + float(np.sum((h - self.mean) ** 2 / damped))
        q2 = {"norm": norm, "paper": float(max(len(h), 1)), "none": 1.0}[how.step_scale]
        self.weight = self.weight - lr / q2 * np.outer(delta, u)
        self.bias = self.bias - lr / q2 * (1.0 - float(self.mean @ u)) * delta


@dataclass
class ReferenceLearner:
    """The learner. `layers` holds the random start; the last layer is the head and has no outputs yet."""

    task: str
    layers: list[Layer]
    activation: str
    lr: float
    rho: float
    eps_rel: float
    eps_abs: float
    step_scale: str
    standardize: bool
    inputs: Cumulative = field(init=False)
    targets: Cumulative = field(init=False)
    low: float = math.inf
    high: float = -math.inf

    def __post_init__(self) -> None:
        start = np.zeros(self.layers[0].weight.shape[1])
        self.inputs = Cumulative(start, start)
        self.targets = Cumulative(np.zeros(1), np.zeros(1))

    def grow(self, columns: Array | int, outputs: int) -> None:
        """Append input columns (given, or so many zeros), and outputs with zero weights and a low bias."""
        if isinstance(columns, int):
            columns = np.zeros((len(self.layers[0].bias), columns))
        self.layers[0].widen(columns)
        self.inputs.widen(columns.shape[1])
        head = self.layers[-1]
        lowest = head.bias.min() if len(head.bias) else 0.0
        head.weight = np.vstack([head.weight, np.zeros((outputs, head.weight.shape[1]))])
        head.bias = np.append(head.bias, np.full(outputs, lowest))

    def entry(self, x: Array) -> Array:
        filled = np.where(np.isnan(x), self.inputs.mean, x)
        return self.inputs.standardized(filled, 5.0) if self.standardize else filled

    def _forward(self, h: Array) -> tuple[list[Array], list[Array]]:
        """The input of each layer, and the output of each."""
        into, out = [h], []
        for layer in self.layers:
            out.append(layer.weight @ into[-1] + layer.bias)
            into.append(ACTIVATIONS[self.activation][0](out[-1]))
        return into[:-1], out

    def predict(self, x: Array) -> Array:
        out = self._forward(self.entry(x))[1][-1]
        if self.task == "classification":
            p = np.exp(out - out.max())
            return np.asarray(p / p.sum())
        margin = (self.high - self.low) / 4.0  # the range, widened by half: a quarter on either side
        y = self.targets.mean + np.sqrt(self.targets.var) * out
        return np.clip(y, self.low - margin, self.high + margin)

    def learn(self, x: Array, target: float, weight: float) -> None:
        self.inputs.update(np.where(np.isnan(x), self.inputs.mean, x))
        goal = target
        if self.task == "regression":
            y = np.array([target])
            self.targets.update(y)
            self.low, self.high = min(self.low, target), max(self.high, target)
            goal = float(self.targets.standardized(y, 10.0)[0])
        self._step(self.entry(x), goal, weight, first=True)

    def outputs(self, z: Array) -> list[Array]:
        """Output of each layer before its activation, for a standardized input; the head's is the last."""
        return self._forward(z)[1]

    def learn_standardized(self, z: Array, goal: float, weight: float) -> None:
        """Learn a new sample that was standardized with moments kept elsewhere."""
        self._step(z, goal, weight, first=True)

    def relearn(self, z: Array, goal: float, weight: float) -> None:
        """Learn a remembered sample, as it was standardized: the moments of the first layer stay."""
        self._step(z, goal, weight, first=False)

    def _step(self, z: Array, goal: float, weight: float, *, first: bool) -> None:
        into, out = self._forward(z)
        if self.task == "classification":
            p = np.exp(out[-1] - out[-1].max())
            delta = p / p.sum() - (np.arange(len(p)) == goal)
        else:
            delta = np.clip(out[-1] - goal, -5.0, 5.0)
        deltas = self._backward(delta, out)
        last = float(delta @ delta)
        for i, (layer, h, d) in enumerate(zip(self.layers, into, deltas, strict=True)):
            gain = max(1.0, float(d @ d) / last) if self.task == "regression" and last > 0.0 else 1.0
            if i > 0 or first:
                layer.count(h, self)
            layer.step(h, d, self.lr * weight / gain, self)

    def _backward(self, delta: Array, out: Sequence[Array]) -> list[Array]:
        """The gradient at the output of each layer, with the weights from before the step."""
        deltas = [delta]
        for i in range(len(self.layers) - 1, 0, -1):
            slope = ACTIVATIONS[self.activation][1](out[i - 1])
            deltas.insert(0, slope * (self.layers[i].weight.T @ deltas[0]))
        return deltas
