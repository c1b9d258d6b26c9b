"""Stack of the experts as tensor operations; see `numba_stack` for the definition."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..mixture import (
    STACK_ERROR_CLIP,
    STACK_FROM,
    STACK_LEAST,
    STACK_MOST_CLASSES,
    STACK_RETENTION,
    STACK_SCALE_FLOOR,
    STACK_SMOOTHING,
    STACK_TRACE,
)
from .static_moments import write


class Stacked(NamedTuple):
    """Prediction of the stack before a step.

    Attributes
    ----------
    values : float64 (C,)
        Prediction; of a regression, not yet clipped.
    features : float64 (D, C)
        Features of the experts and of the hedge.
    shares : float64 (C,)
        Classification: probabilities among the classes that the stack decides about; 0 for the others.
    scale : float64 ()
        Regression: scale of errors.
    """

    values: Tensor
    features: Tensor
    shares: Tensor
    scale: Tensor


class Stack:
    """Coefficients of a log-linear combination (of a linear one, for a regression).

    Parameters
    ----------
    experts, outputs : int
        Number of experts, and of outputs, including spare ones.
    regression : bool
        Whether the learner is a regression.
    device : str
        Device.

    Attributes
    ----------
    tensors : dict of str to Tensor
        Everything that changes, at fixed addresses: by their names in the state.
    """

    def __init__(self, experts: int, outputs: int, *, regression: bool, device: str) -> None:
        size = experts + 1
        exact = torch.zeros((), device=device, dtype=torch.float64)
        self._regression = regression
        self._most_trace = STACK_TRACE * size
        self._coefficients = exact.new_zeros(size)
        self._inverse = torch.eye(size, device=device, dtype=torch.float64) * STACK_TRACE
        self._zero, self._one = exact.clone(), exact.new_ones(1, 1)
        self._excluded = exact.new_tensor(-math.inf)
        self._many = outputs > STACK_MOST_CLASSES
        self.tensors = {"stack.coefficients": self._coefficients, "stack.inverse": self._inverse}

    def combine_classes(self, values: Tensor, hedged: Tensor, floor: Tensor) -> Stacked:
        """Return the prediction from probabilities of the experts, (K, C), and of the hedge, (C,).

        Parameters
        ----------
        values, hedged : float64 (K, C), (C,)
            Probabilities of the experts and of the hedge.
        floor : (C,)
            −∞ for a spare output, else 0.
        """
        features = (torch.cat([values, hedged[None]]) + STACK_SMOOTHING).log()
        logits = features[-1] + self._coefficients @ features + floor
        if not self._many:
            shares = torch.softmax(logits, dim=0)
            return Stacked(shares * hedged.sum(), features, shares, self._zero)
        left_out = (hedged <= STACK_LEAST) & ((floor == 0.0).sum() > STACK_MOST_CLASSES)
        shares = torch.softmax(torch.where(left_out, self._excluded, logits), dim=0)
        mass = torch.where(left_out, self._zero, hedged).sum()
        return Stacked(torch.where(left_out, hedged, shares * mass), features, shares, self._zero)

    def combine_numbers(self, values: Tensor, hedged: Tensor, var: Tensor, error_scale: Tensor) -> Stacked:
        """Return the prediction from numbers of the experts, (K, 1), and of the hedge, (1,).

        Parameters
        ----------
        values, hedged : float64 (K, 1), (1,)
            Predictions of the experts and of the hedge.
        var, error_scale : float64 ()
            Variance of the targets; running mean error of the hedge.
        """
        scale = error_scale.clamp(min=STACK_SCALE_FLOOR) * var.sqrt()
        differences = torch.where(scale > 0.0, (values - hedged) / scale, self._zero)
        features = torch.cat([differences, self._one])
        return Stacked(hedged + scale * (self._coefficients @ features), features, self._zero, scale)

    def learn_class(self, found: Stacked, label: Tensor, classes: Tensor, judged: Tensor) -> None:
        """Take a Newton step on a label, int64 (1,), with a number of classes seen, float64 ()."""
        gradient = found.features @ found.shares - found.features.index_select(1, label)[:, 0]
        solved = judged & (classes >= 2.0)
        if self._many:
            solved = solved & (found.shares.index_select(0, label)[0] > 0.0)
        self._solve(gradient, -self._one[0, 0], solved)

    def learn_number(self, found: Stacked, y: Tensor, hedged: Tensor, step: Tensor, judged: Tensor) -> None:
        """Take a step of least squares on a target, (), with `step` samples learned, this one included."""
        gradient = found.features[:, 0]
        error = (y - hedged[0]) / found.scale - self._coefficients @ gradient
        error = error.clamp(-STACK_ERROR_CLIP, STACK_ERROR_CLIP)
        self._solve(gradient, error, judged & (step > STACK_FROM))

    def _solve(self, gradient: Tensor, error: Tensor, where: Tensor) -> None:
        """Take the step along a gradient, (D,), and update the inverse of the curvature."""
        direction = self._inverse @ gradient
        divisor = gradient @ direction + STACK_RETENTION
        write(self._coefficients, self._coefficients + direction * error / divisor, where)
        inverse = (self._inverse - direction[:, None] * direction / divisor) / STACK_RETENTION
        excess = (self._most_trace / inverse.diagonal().sum()).clamp(max=1.0)
        write(self._inverse, inverse * excess, where)
