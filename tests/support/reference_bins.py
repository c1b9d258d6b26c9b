"""Linear model of bins from its definition (docs/algorithm.md): weights of intervals and small integers.

The specification leaves these points open:

- A value at a bound between intervals is in the lower one.
- Integers are those of the values as bounded against glitches.
- A sample of weight 0 changes nothing; a prediction and a step each find the intervals by the standardization
  of that moment.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from tests.support.reference_learner import Array

EDGES = (-1.2816, -0.8416, -0.5244, -0.2533, 0.001, 0.2533, 0.5244, 0.8416, 1.2816)
RATE, DAMPING, INTEGERS, FEATURES = 0.8, 0.1, 32, 256
#: Name of a bin: of the bias, of an interval or of an integer of a feature.
Bin = tuple[str, int, int]
BIAS: Bin = ("bias", 0, 0)


@dataclass
class Bins:
    """Weights of each bin, (C,), and sums of squared gradients."""

    outputs: int
    weights: dict[Bin, Array] = field(default_factory=dict)
    squares: dict[Bin, float] = field(default_factory=lambda: defaultdict(float))

    def grow(self, outputs: int) -> None:
        """Append classes: weights of 0, and the least bias of those before."""
        for name, row in self.weights.items():
            fill = row.min() if name == BIAS and len(row) else 0.0
            self.weights[name] = np.append(row, np.full(outputs, fill))
        self.outputs += outputs

    def bins(self, z: Array, values: Array) -> list[Bin]:
        found: list[Bin] = [BIAS]
        for j, value in enumerate(values[:FEATURES]):
            if math.isnan(value):
                continue
            found.append(("interval", j, sum(z[j] > edge for edge in EDGES)))
            if value in range(INTEGERS):
                found.append(("integer", j, int(value)))
        return found

    def output(self, z: Array, values: Array) -> Array:
        total = np.zeros(self.outputs)
        for each in self.bins(z, values):
            total = total + self.weights.get(each, 0.0)
        return total

    def learn(self, z: Array, values: Array, gradient: Array) -> None:
        """Step along the gradient at the outputs, which contains the sample's weight."""
        active = self.bins(z, values)
        for each in active:
            self.squares[each] += float(gradient @ gradient)
            step = RATE * gradient / math.sqrt(len(active) * (DAMPING + self.squares[each]))
            self.weights[each] = self.weights.get(each, np.zeros(self.outputs)) - step
