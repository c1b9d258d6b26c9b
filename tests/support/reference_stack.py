"""Hedge and stack from their definitions (algorithm.md §6): they combine predictions p of shape (K, C).

The specification leaves these points open:

- Above 128 classes, the gradient of the stack is that of the log loss of a class that is not left out: the
  probabilities in it sum to 1 over these classes. If every class is left out, the output is q.
- In the coefficients of a regression, the constant is the last; in those of a classification, q is the first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tests.support.reference_learner import Array

#: Bound of the losses: −log 1e-4.
MOST = -math.log(1e-4)
#: Number of classes above which the stack leaves improbable ones to the hedge, and their bound.
MANY, IMPROBABLE = 128, 1e-4
#: λ: the stack forgets its past at this rate.
RETENTION = 0.999


def hedge(weights: Array, losses: Array, eta: float, share: float) -> Array:
    """Return the weights after a label; a loss of infinity is that of a member without a prediction."""
    raised = weights * np.exp(-eta * losses)
    even = 1.0 / len(weights)
    raised = raised / raised.sum() if raised.sum() > 0.0 else np.full(len(weights), even)
    return np.asarray((1.0 - share) * raised + share * even)


def log_loss(p: float) -> float:
    """Return the loss of a probability."""
    return min(-math.log(p), MOST) if p > 0.0 else MOST


@dataclass
class Stack:
    """Coefficients a of shape (D,) and the inverse R of their Hessian; D = K + 1 for K members."""

    members: int
    coefficients: Array = field(init=False)
    inverse: Array = field(init=False)

    def __post_init__(self) -> None:
        self.coefficients = np.zeros(self.members + 1)
        self.inverse = np.eye(self.members + 1) / 30.0

    def classes(self, p: Array, q: Array) -> Array:
        """Return the probabilities s of a classification."""
        shared = self._shared(q)
        s = q.copy()
        if shared.any():
            s[shared] = (1.0 - q[~shared].sum()) * self._softmax(p, q, shared)
        return s

    def learn_class(self, p: Array, q: Array, label: int) -> None:
        """Take a Newton step on the log loss of a class that is not new."""
        shared = self._shared(q)
        if len(q) == 1 or not shared[label]:
            return
        f = _log_features(p, q)
        self._step(f[:, shared] @ self._softmax(p, q, shared) - f[:, label], -1.0)

    def value(self, p: Array, q: float, scale: float) -> float:
        """Return the prediction s of a regression, not yet clipped."""
        return q + scale * float(self.coefficients @ _scaled_features(p, q, scale))

    def learn_value(self, p: Array, q: float, target: float, scale: float) -> None:
        """Take a step of recursive least squares."""
        f = _scaled_features(p, q, scale)
        self._step(f, float(np.clip((target - q) / scale - self.coefficients @ f, -5.0, 5.0)))

    def _step(self, g: Array, error: float) -> None:
        h = self.inverse @ g
        divisor = RETENTION + float(g @ h)
        self.coefficients = self.coefficients + h * error / divisor
        self.inverse = (self.inverse - np.outer(h, h) / divisor) / RETENTION
        most = len(g) / 30.0
        if np.trace(self.inverse) > most:
            self.inverse = self.inverse * (most / np.trace(self.inverse))

    def _shared(self, q: Array) -> NDArray[np.bool_]:
        """Which classes the stack has a say in."""
        return q > IMPROBABLE if len(q) > MANY else np.ones(len(q), bool)

    def _softmax(self, p: Array, q: Array, shared: NDArray[np.bool_]) -> Array:
        f = _log_features(p, q)[:, shared]
        logits = f[-1] + self.coefficients @ f
        raised = np.exp(logits - logits.max())
        return np.asarray(raised / raised.sum())


def _log_features(p: Array, q: Array) -> Array:
    """Return f of shape (D, C): that of each member, then that of the hedge."""
    return np.log(np.vstack([p, q]) + 1e-3)


def _scaled_features(p: Array, q: float, scale: float) -> Array:
    """Return f of shape (D,): that of each member, then the constant."""
    return np.append((p[:, 0] - q) / scale, 1.0)
