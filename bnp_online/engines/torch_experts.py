"""Hedge of the experts, and with a stack the hedge of both, as tensor operations."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..mixture import ERROR_FLOOR, ERROR_RETENTION, ETA, ETAS, MAX_LOSS, SHARE, SHARES_ETA, SHARES_SHARE
from .base import LearnerSpec
from .static_moments import write
from .torch_stack import Stack, Stacked


class Combined(NamedTuple):
    """Predictions before a step.

    Attributes
    ----------
    mixed : float64 (C,)
        Prediction of the learner.
    exists : bool ()
        Whether there is one.
    values, sound : float64 (K, C), bool (K,)
        Predictions of the experts, and whether they are usable.
    hedged : float64 (C,)
        Prediction of the hedge.
    stacked : Stacked or None
        Prediction of the stack.
    """

    mixed: Tensor
    exists: Tensor
    values: Tensor
    sound: Tensor
    hedged: Tensor
    stacked: Stacked | None


class Experts:
    """Weights of the experts: hedge, stack, and the hedge of both.

    Parameters
    ----------
    spec : LearnerSpec
        Settings of the learner; it combines several networks.
    outputs : int
        Number of outputs, including spare ones.
    device : str
        Device.

    Attributes
    ----------
    rates : float64 (R, K)
        Weights of the hedge for each of its rates.
    shares : float64 (2,)
        Shares of hedge and stack in the prediction.
    error_scale : float64 ()
        Running mean error of the hedge of a regression.
    tensors : dict of str to Tensor
        Everything that changes, at fixed addresses: by their names in the state.
    """

    def __init__(self, spec: LearnerSpec, outputs: int, device: str) -> None:
        exact = torch.zeros((), device=device, dtype=torch.float64)
        count = len(spec.experts)
        self._regression = spec.task == "regression"
        self._networks = len(spec.members)
        self._zero, self._unfit, self._lost = (exact.new_full((), v) for v in (0.0, -1.0, math.inf))
        owners = torch.tensor(spec.owners + [-1] * (count - len(spec.owners)), device=device)
        models = torch.arange(len(spec.members) + len(spec.linear), device=device)
        self._owns = owners == models[:, None]
        self._even, self._half = exact.new_full((), 1.0 / count), exact.new_full((), 0.5)
        self._etas = exact.new_tensor(ETAS if spec.stacks else (ETA,))[:, None]
        self.rates, self.shares = self._even.repeat(len(self._etas), count), self._half.repeat(2)
        self.error_scale = exact.new_ones(())
        weights = self.rates if spec.stacks else self.rates[0]
        self.tensors = {"mixture.weights": weights, "mixture.error_scale": self.error_scale}
        self._stack = None
        if spec.stacks:
            self._stack = Stack(count, outputs, regression=self._regression, device=device)
            self.tensors |= {"mixture.shares": self.shares} | self._stack.tensors

    @property
    def weights(self) -> Tensor:
        """Weights of the hedge, float64 (K,): the mean of those of each rate."""
        return self.rates.mean(dim=0)

    def combine(self, values: Tensor, sound: Tensor, floor: Tensor, target: Tensor | None) -> Combined:
        """Return the predictions of hedge and stack.

        Parameters
        ----------
        values, sound : float64 (K, C), bool (K,)
            Predictions of the experts, and whether they are usable.
        floor, target
            As for `predictions`.
        """
        weights = self.weights * sound
        total = weights.sum()
        hedged = weights @ torch.where(sound[:, None], values, self._zero) / total
        if self._stack is None:
            return Combined(hedged, total > 0.0, values, sound, hedged, None)
        filled = torch.where(sound[:, None], values, hedged)  # an unsound expert counts as the hedge
        if target is not None:
            stacked = self._stack.combine_numbers(filled, hedged, target[1], self.error_scale)
            stacked = stacked._replace(values=within_range(stacked.values, target))
        else:
            stacked = self._stack.combine_classes(filled, hedged, floor)
        mixed = self.shares @ torch.stack([hedged, stacked.values])
        return Combined(mixed, total > 0.0, values, sound, hedged, stacked)

    def recombine(
        self, found: Combined, given: Tensor, label: Tensor, floor: Tensor, target: Tensor | None
    ) -> tuple[Combined, Tensor]:
        """Return the predictions from those that the experts made earlier, as `numba_experts.take_given`.

        Parameters
        ----------
        found : Combined
            Predictions of now, used if all of the earlier ones are NaN.
        given : float64 (K, C)
            Earlier predictions of the experts; NaN where one had none.
        label : int64 (1,)
            Class index of a classification.
        floor, target
            As for `combine`.

        Returns
        -------
        Combined, bool ()
            The predictions, and whether hedge and stack can learn from them.
        """
        known = ~given[:, 0].isnan()
        some = known.any()
        values, sound = torch.where(some, given, found.values), torch.where(some, known, found.sound)
        found = self.combine(values, sound, floor, target)
        return found, ~some | (found.hedged.index_select(0, label)[0] > 0.0 if target is None else some)

    def learn(
        self,
        found: Combined,
        y: Tensor,
        label: Tensor,
        target: Tensor | None,
        fit: Tensor,
        judged: Tensor,
    ) -> None:
        """Update the weights by the losses.

        Parameters
        ----------
        found : Combined
            Predictions.
        y, label : float64 (), int64 (1,)
            Class index or target; class index of a classification.
        target : float64 (4,) or None
            Mean, variance and range of the targets of a regression, before the sample.
        fit : bool (K,)
            Experts that have not diverged.
        judged : bool ()
            Whether the sample changes the weights.
        """
        losses = self._losses(found, y, label, target, judged)
        if self._stack is not None:
            shares = _mixed(self.shares[None], losses[-2:], SHARES_ETA, SHARES_SHARE, self._half)
            write(self.shares, shares[0], judged)
            losses = losses[:-2]
        losses = torch.where(fit, losses, self._lost)
        write(self.rates, _mixed(self.rates, losses, self._etas, SHARE, self._even), judged)

    def _losses(
        self, found: Combined, y: Tensor, label: Tensor, target: Tensor | None, judged: Tensor
    ) -> Tensor:
        """Return the losses of the experts and, with a stack, of hedge and stack; count the hedge's error."""
        predicted = [found.values]
        if found.stacked is not None:
            predicted += [found.hedged[None], found.stacked.values[None]]
        values = torch.cat(predicted)
        if target is None:
            return (-values.index_select(1, label)[:, 0].log()).clamp(max=MAX_LOSS)
        errors = (y - torch.cat([values[:, 0], found.hedged])).abs() / target[1].sqrt()
        losses = (errors[:-1] / self.error_scale.clamp(min=ERROR_FLOOR)).clamp(max=MAX_LOSS)
        moved = self.error_scale + (1.0 - ERROR_RETENTION) * (errors[-1] - self.error_scale)
        write(self.error_scale, moved, judged)
        return losses

    def learn_stack(
        self, found: Combined, y: Tensor, label: Tensor, classes: Tensor, step: Tensor, judged: Tensor
    ) -> None:
        """Take a step of the stack, if there is one.

        Parameters
        ----------
        found, y, label, judged
            As for `learn`.
        classes : float64 ()
            Number of classes seen before the sample.
        step : int64 ()
            Number of samples learned, this one included.
        """
        if self._stack is None or found.stacked is None:
            return
        if self._regression:
            self._stack.learn_number(found.stacked, y, found.hedged, step, judged)
        else:
            self._stack.learn_class(found.stacked, label, classes, judged)

    def lost(self, sound: Tensor, able: Tensor) -> Tensor:
        """Return which trajectories have diverged, (T,).

        Parameters
        ----------
        sound : bool (K,)
            Experts with a usable prediction.
        able : bool (T,)
            Trajectories that can take the step.
        """
        return ~able | (self._owns & ~sound).any(dim=1)

    def fit(self, sound: Tensor, lost: Tensor) -> Tensor:
        """Return which experts have a usable prediction, (K,), and a trajectory that is not `lost`, (T,)."""
        return sound & ~(self._owns & lost[:, None]).any(dim=0)

    def best(self, lost: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the best network that has not diverged, and the best linear member; int64 ()."""
        weights = torch.where(self._owns, self.weights, self._unfit).amax(dim=1)
        weights = torch.where(lost, self._unfit, weights)
        linear = weights[self._networks :]
        best = weights[: self._networks].argmax()
        return best, linear.argmax() if len(linear) else None


def _mixed(weights: Tensor, losses: Tensor, eta: Tensor | float, share: float, even: Tensor) -> Tensor:
    """Return the weights, (R, M), after losses, (M,), as `mixture.mix`."""
    raised = weights * torch.exp(-eta * (losses - losses.min()))
    total = raised.sum(dim=1, keepdim=True)
    return (1.0 - share) * torch.where(total > 0.0, raised / total, even) + share / len(losses)


def predictions(outputs: Tensor, floor: Tensor, target: Tensor | None) -> Tensor:
    """Return predictions from outputs: probabilities, or numbers within the range of targets, float64 (R, C).

    Parameters
    ----------
    outputs : (R, C)
        Outputs of networks.
    floor : (C,)
        −∞ for a spare output, else 0.
    target : float64 (4,) or None
        Mean, variance and range of the targets of a regression.
    """
    outputs = outputs.double()
    if target is None:
        return torch.softmax(outputs + floor, dim=1)
    return within_range(target[0] + target[1].sqrt() * outputs, target)


def within_range(values: Tensor, target: Tensor) -> Tensor:
    """Return numbers, clipped to the range of targets seen, widened by half.

    Parameters
    ----------
    values : float64 (…)
        Numbers.
    target : float64 (4,)
        Mean, variance and range of the targets.
    """
    low, high = target[2], target[3]
    margin = (high - low) / 4.0
    return values.clamp(low - margin, high + margin)
