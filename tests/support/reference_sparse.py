"""Float64 reference of the sparse stage, written from its definition with dicts, without the kernels.

A sample is a list of values: (field, name, amount). Pairs have no table: each has its own row, as in a table
so large that no two share one. Targets of a regression and numbers are not bounded.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.support.reference_stack import MOST, Stack, hedge, log_loss

Array = Any
RATES = (0.05, 0.2, 0.8)
Value = tuple[str, str, float]


def softmax(z: Array) -> Array:
    e = np.exp(z - z.max())
    return e / e.sum()


@dataclass
class Row:
    """A value or a pair: counts by class (regression: sum, weight), weights by rate and class, scale."""

    counts: Array
    weights: Array
    scale: float = 0.0


@dataclass
class Group:
    """Linear members of three rates on rows, and their hedge."""

    outputs: int
    regression: bool
    rows: dict[object, Row] = field(default_factory=dict)
    bias_scale: float = 0.0
    norm: float = 1.0
    error: float = 1.0

    def __post_init__(self) -> None:
        self.bias = np.zeros((3, self.outputs))
        self.shares = np.full(3, 1 / 3)

    def add_class(self) -> None:
        low = self.bias.min(axis=1, keepdims=True) if self.outputs else np.zeros((3, 1))
        self.bias = np.hstack([self.bias, low])
        self.outputs += 1
        for row in self.rows.values():
            row.weights = np.hstack([row.weights, np.zeros((3, 1))])
            row.counts = np.append(row.counts, 0.0)

    def row(self, key: object) -> Row:
        counted = 2 if self.regression else self.outputs
        return self.rows.setdefault(key, Row(np.zeros(counted), np.zeros((3, self.outputs))))

    def predict(self, keys: list[tuple[Any, float]], offset: Array | float = 0.0) -> None:
        z = self.bias + offset
        for key, amount in keys:
            if key in self.rows:
                z = z + self.rows[key].weights * amount
        self.members = z if self.regression else np.array([softmax(each) for each in z])
        self.mixed = self.shares @ self.members

    def _errors(self, p: Array, y: float) -> Array:
        if self.regression:
            return np.clip(p - y, -5, 5)
        return p - np.eye(self.outputs)[int(y)]

    def learn(self, keys: list[tuple[Any, float]], y: float, w: float, samples: int, judged: bool) -> None:
        if judged:
            if self.regression:
                losses = np.minimum(abs(y - self.members[:, 0]) / max(self.error, 1e-9), 9.21)
            else:
                losses = np.minimum(-np.log(np.maximum(self.members[:, int(y)], 1e-12)), 9.21)
            raised = self.shares * np.exp(-0.1 * (losses - losses.min()))
            self.shares = 0.999 * raised / raised.sum() + 0.001 / 3
        if self.regression:
            self.error += 0.01 * (abs(y - self.mixed[0]) - self.error)
        square = sum(amount**2 for _, amount in keys)
        self.norm += (square - self.norm) / min(samples + 1, 1000)
        squared = w * float((self._errors(self.mixed, y) ** 2).sum())
        self.bias_scale += squared
        rate = w / math.sqrt(max(self.norm, 1.0))
        steps = [rate * r * self._errors(p, y) for r, p in zip(RATES, self.members, strict=True)]
        for r in range(3):
            self.bias[r] -= steps[r] / math.sqrt(0.1 + self.bias_scale)
        for key, amount in keys:
            self.row(key).scale += squared * amount**2
        for key, amount in keys:
            row = self.row(key)
            for r in range(3):
                row.weights[r] -= steps[r] * amount / math.sqrt(0.1 + row.scale)

    def count(self, keys: list[tuple[Any, float]], y: float, w: float, reference: float) -> None:
        added = min(w, 1000.0)
        for key, _ in keys:
            row = self.row(key)
            total = row.counts[1] if self.regression else row.counts.sum()
            if total + added > 1000.0:
                row.counts = row.counts * (max(1000.0 - added, 0.0) / total)
            if self.regression:
                row.counts += [added * (y - reference), added]
            else:
                row.counts[int(y)] += added


@dataclass
class Combination:
    """Network, linear group and pair group: their hedge, a stack of them, and the hedge of both.

    A learner that has learned samples before begins with the weight 1 of the network.
    """

    fresh: bool
    samples: int = 0
    error_scale: float = 1.0
    stack: Stack = field(default_factory=lambda: Stack(3))

    def __post_init__(self) -> None:
        self.weights = np.full(3, 1 / 3) if self.fresh else np.array([1.0, 0.0, 0.0])
        self.shares = np.array([0.5, 0.5] if self.fresh else [1.0, 0.0])

    def predict(self, p: Array, targets: list[float] | None = None) -> Array:
        """Combine predictions, of shape (3, C), or (3, 1) of a regression with its targets so far."""
        self.p, self.q = p, self.weights @ p
        if targets is None:
            self.s = self.stack.classes(p, self.q)
            return self.shares @ np.array([self.q, self.s])
        self.spread = float(np.std(targets))
        self.scale = max(self.error_scale, 1e-3) * self.spread
        low, high = min(targets), max(targets)
        margin = (high - low) / 4
        s = self.stack.value(p, float(self.q[0]), self.scale) if self.scale > 0.0 else float(self.q[0])
        self.s = np.clip([s], low - margin, high + margin)
        return self.shares @ np.array([self.q, self.s])

    def learn(self, y: float, *, judged: bool, regression: bool) -> None:
        """Learn from the target of the predictions."""
        if judged and not (regression and self.spread == 0.0):
            if regression:
                unit = self.spread * max(self.error_scale, 1e-2)
                of_p, of_q, of_s = (
                    np.minimum(abs(y - each) / unit, MOST) for each in (self.p, self.q, self.s)
                )
                losses, both = of_p[:, 0], np.concatenate([of_q, of_s])
                if self.samples >= 20:
                    self.stack.learn_value(self.p, float(self.q[0]), y, self.scale)
                self.error_scale += 0.01 * (abs(y - self.q[0]) / self.spread - self.error_scale)
            else:
                losses = np.array([log_loss(each) for each in self.p[:, int(y)]])
                both = np.array([log_loss(self.q[int(y)]), log_loss(self.s[int(y)])])
                self.stack.learn_class(self.p, self.q, int(y))
            self.weights = hedge(self.weights, losses, 0.2, max(0.001, 1 / (self.samples + 2) ** 2))
            self.shares = hedge(self.shares, both, 0.2, 0.01)
        self.samples += 1


class ReferenceStage:
    """The stage for fields by kind: "field" or "text" if their evidence is shown, else "closed"."""

    def __init__(self, kinds: dict[str, str], classes: int, *, regression: bool = False) -> None:
        self.kinds, self.regression, self.samples = kinds, regression, 0
        outputs = 1 if regression else classes
        self.linear, self.pairs = Group(outputs, regression), Group(outputs, regression)
        self.totals = np.zeros(outputs)
        self.targets: list[float] = []
        self.order: dict[tuple[str, str], int] = {}

    def add_class(self) -> None:
        self.linear.add_class()
        self.pairs.add_class()
        self.totals = np.append(self.totals, 0.0)

    def _total(self, row: Row) -> float:
        return float(row.counts[1] if self.regression else row.counts.sum())

    def _evidence(self, row: Row, amount: float, a: float) -> Array:
        """Return the evidence of a row for each class but the first, or the deviation from the mean."""
        if self._total(row) == 0.0 or (not self.regression and len(self.totals) == 1):
            return np.zeros(max(len(self.totals) - 1, 1))
        if self.regression:
            mean, n = np.mean(self.targets) - self.targets[0], row.counts[1]
            return np.array([(row.counts[0] + a * mean) / (n + a) - mean])
        p = (self.totals + 0.5) / (self.totals.sum() + len(self.totals) / 2)
        n, rest = row.counts, row.counts.sum() - row.counts
        return (amount * (np.log((n + a * p) / (rest + a * (1 - p))) - np.log(p / (1 - p))))[1:]

    def predict(self, sample: list[Value]) -> dict[tuple[str, int, int], float]:
        """Return the evidence by (field, class, set); the groups keep their predictions."""
        known = sorted((v for v in sample if v[:2] in self.order), key=lambda v: self.order[v[:2]])
        self.known = [((f, v), amount) for f, v, amount in known]
        found: dict[tuple[str, int, int], float] = defaultdict(float)
        for (name, value), amount in self.known:
            row = self.linear.rows[name, value]
            if self.kinds[name] != "closed":
                self._show(found, name, row, amount, (1.0, 20.0) if self.kinds[name] == "text" else (5.0,))
        self.linear.predict(self.known)
        frequent = [(key, x) for key, x in self.known if self._total(self.linear.rows[key]) >= 3]
        pairs = [((a, b), x * z) for i, (a, x) in enumerate(frequent) for b, z in frequent[i + 1 :]]
        self.paired = pairs[:300]
        offset = self.linear.mixed if self.regression else np.log(np.maximum(self.linear.mixed, 1e-6))
        self.pairs.predict(self.paired, offset)
        for key, amount in self.paired:
            if key in self.pairs.rows:
                self._show(found, "pairs", self.pairs.rows[key], amount, (5.0,))
        return found

    def groups(self) -> Array:
        """Return the predictions of both groups, in the units of the targets."""
        if not self.regression:
            return np.array([self.linear.mixed, self.pairs.mixed])
        low, high = min(self.targets), max(self.targets)
        z = np.array([self.linear.mixed, self.pairs.mixed])
        values = np.mean(self.targets) + np.std(self.targets) * z
        return np.clip(values, low - (high - low) / 4, high + (high - low) / 4)

    def _show(
        self,
        found: dict[tuple[str, int, int], float],
        name: str,
        row: Row,
        amount: float,
        priors: tuple[float, ...],
    ) -> None:
        if self._total(row) > 0.0:
            found[name, 0, 0] += math.log(1.0 + self._total(row))
        for part, a in enumerate(priors):
            for c, each in enumerate(self._evidence(row, amount, a), start=1):
                found[name, c, part] += each

    def learn(self, sample: list[Value], y: float, w: float = 1.0, *, judged: bool = True) -> None:
        """Learn a sample after `predict`."""
        if w > 0.0:
            goal = y
            if self.regression:
                self.targets.append(y)
                spread = np.std(self.targets)
                goal = float(np.clip((y - np.mean(self.targets)) / spread, -10, 10)) if spread > 0 else 0.0
            new = sorted((v for v in sample if v[:2] not in self.order), key=lambda v: (v[0], v[1].encode()))
            for name, value, _ in new:
                self.order[name, value] = len(self.order)
            values = self.known + [((f, v), amount) for f, v, amount in new]
            reference = self.targets[0] if self.regression else 0.0
            for group, keys in ((self.linear, values), (self.pairs, self.paired)):
                group.learn(keys, goal, w, self.samples, judged)
                group.count(keys, y, w, reference)
            if not self.regression:
                self.totals[int(y)] += min(w, 1000.0)
        self.samples += 1
