"""Paired comparison of two models on the same samples, valid at any time."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from ..engines.base import Task
from ..errors import ConfigurationError, StateError
from ..mixture import MAX_LOSS

Verdict: TypeAlias = Literal["better", "worse", "undecided"]

#: Greatest absolute error of a regression in the comparison, in standard deviations of the targets.
MAX_DEVIATION = 4.0
#: Rates of the mixture in `_boundary`, from large ones for few samples to small ones for many, and weights.
_RATES = 0.9 / 2.0 ** np.arange(18)
_WEIGHTS = np.log(1.0 / np.sqrt(np.arange(1.0, 19.0)) / (1.0 / np.sqrt(np.arange(1.0, 19.0))).sum())
_PSI = -np.log1p(-_RATES) - _RATES


class Scored(NamedTuple):
    """Scores of a prediction.

    Attributes
    ----------
    score : float
        Of a classification 1.0 if the predicted label is right, else 0.0; of a regression the absolute error.
    loss : float
        As from `PrequentialMetrics.update`: ``−log p(y)`` in nats, or the squared error.
    """

    score: float
    loss: float


class PairedComparison:
    """Compares the losses of a challenger with those of a champion on the same samples.

    The interval is a confidence sequence: with probability ``1 − alpha`` it contains the mean of the expected
    differences *at all times together*. So anyone may look at it after each sample, and act as soon as it
    excludes 0. The samples may depend on each other, and the distribution may drift: the bound is about the
    mean, over the samples so far, of the expected differences given the samples before.

    Parameters
    ----------
    task : {"classification", "regression"}
        Kind of the labels. The loss of a classification is its log loss, at most 9.2 nats. That of a
        regression is its absolute error in standard deviations of the targets before, at most 4.
    alpha : float
        Probability, in (0, 1), that the interval is wrong at any time.

    Notes
    -----
    Let ``X`` be a difference of losses divided by its bound, in [−1, 1], and ``μ`` its expectation given the
    samples before. For each rate ``0 < λ < 1``, the product of ``exp(λ(X − μ) − ψ(λ)X²)`` over the samples is
    a supermartingale, with ``ψ(λ) = −log(1 − λ) − λ``: by Fan's inequality a factor is at most
    ``(1 + λX)exp(−λμ)``, whose expectation is ``(1 + λμ)exp(−λμ) ≤ 1``. So is a mixture of them over fixed
    rates, and by Ville's inequality it ever exceeds ``2/alpha`` with a probability of at most ``alpha/2``.
    The same holds for ``−X``. The bound is where the mixture reaches ``2/alpha``.

    References
    ----------
    S. R. Howard, A. Ramdas, J. McAuliffe, J. Sekhon, *Time-uniform, nonparametric, nonasymptotic confidence
    sequences*, Annals of Statistics 49, 2021: the empirical-Bernstein bound (theorem 4), here with predicted
    differences of 0, and discrete mixtures (section 3.4).
    Y. J. Choe, A. Ramdas, *Comparing sequential forecasters*, Operations Research 72, 2024: the use for
    forecasts.

    Examples
    --------
    >>> comparison = PairedComparison("classification")
    >>> comparison.verdict
    'undecided'
    >>> for _ in range(200):
    ...     comparison.update(Scored(0.0, 1.2), Scored(1.0, 0.1))
    >>> comparison.verdict
    'better'
    """

    def __init__(self, task: Task, alpha: float = 0.05) -> None:
        if not 0.0 < alpha < 1.0:
            raise ConfigurationError("alpha", f"{alpha} is not in (0, 1)")
        self.task = task
        self.alpha = alpha
        self.n = 0
        self._sum = self._squares = 0.0  # of the differences, divided by their bound
        self._scores = [0.0, 0.0]
        self._losses = [0.0, 0.0]
        self._targets = [0.0, 0.0]  # mean, and sum of the squared deviations from it

    def update(self, champion: Scored, challenger: Scored, target: float = 0.0) -> None:
        """Add a sample that both models predicted before they learned it.

        Parameters
        ----------
        champion, challenger : Scored
            Scores of their predictions.
        target : float
            Target of a regression, which gives the scale of later errors.
        """
        if self.task == "classification":
            first, second = (min(each.loss, MAX_LOSS) / MAX_LOSS for each in (champion, challenger))
        else:
            first, second = self._deviation(champion.score), self._deviation(challenger.score)
            mean, squares = self._targets
            step = target - mean
            mean += step / (self.n + 1)
            self._targets = [mean, squares + step * (target - mean)]
        difference = second - first
        self.n += 1
        self._sum += difference
        self._squares += difference * difference
        for i, each in enumerate((champion, challenger)):
            self._scores[i] += each.score
            self._losses[i] += each.loss

    def _deviation(self, error: float) -> float:
        """Return an absolute error in standard deviations of the targets before, divided by its bound."""
        if self.n < 2 or self._targets[1] == 0.0:
            return 0.0
        return min(error / math.sqrt(self._targets[1] / self.n) / MAX_DEVIATION, 1.0)

    @property
    def _bound(self) -> float:
        return MAX_LOSS if self.task == "classification" else MAX_DEVIATION

    @property
    def difference(self) -> float | None:
        """Mean of the challenger's loss minus the champion's: negative if it is better; None before any."""
        return self._sum / self.n * self._bound if self.n else None

    def interval(self) -> tuple[float, float]:
        """Return the lower and the upper bound of the mean difference."""
        if not self.n:
            return -self._bound, self._bound
        reach = _boundary(self._squares, self.alpha)
        low, high = ((self._sum + sign * reach) / self.n for sign in (-1.0, 1.0))
        return max(low, -1.0) * self._bound, min(high, 1.0) * self._bound

    @property
    def verdict(self) -> Verdict:
        """``"better"`` or ``"worse"`` if the interval excludes 0: of the challenger; else ``"undecided"``."""
        low, high = self.interval()
        return "better" if high < 0.0 else "worse" if low > 0.0 else "undecided"

    def report(self) -> dict[str, Any]:
        """Return the scores of both models, the difference of their losses, its interval, and the verdict.

        Returns
        -------
        dict
            ``n``; ``champion`` and ``shadow`` (the challenger), each with Accuracy and LogLoss, or MAE and
            RMSE, None without samples; ``difference``, ``low`` and ``high``; ``confidence``, which is
            ``1 − alpha``; ``verdict``.
        """
        low, high = self.interval()
        return {
            "n": self.n,
            "champion": self._named(0),
            "shadow": self._named(1),
            "difference": self.difference,
            "low": low,
            "high": high,
            "confidence": 1.0 - self.alpha,
            "verdict": self.verdict,
        }

    def _named(self, which: int) -> dict[str, float | None]:
        names = ("Accuracy", "LogLoss") if self.task == "classification" else ("MAE", "RMSE")
        if not self.n:
            return dict.fromkeys(names)
        score, loss = self._scores[which] / self.n, self._losses[which] / self.n
        return dict(
            zip(names, (score, loss if self.task == "classification" else math.sqrt(loss)), strict=True)
        )

    def copy(self) -> PairedComparison:
        """Return a copy."""
        twin = copy.copy(self)
        twin._scores, twin._losses, twin._targets = self._scores[:], self._losses[:], self._targets[:]
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as JSON."""
        return {
            "task": self.task,
            "alpha": self.alpha,
            "n": self.n,
            "sum": self._sum,
            "squares": self._squares,
            "scores": self._scores[:],
            "losses": self._losses[:],
            "targets": self._targets[:],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict`.

        Raises
        ------
        StateError
            If the state is of another task or level.
        """
        if (state.get("task"), state.get("alpha")) != (self.task, self.alpha):
            raise StateError("the comparison is of another task or level")
        self.n, self._sum, self._squares = state["n"], float(state["sum"]), float(state["squares"])
        self._scores, self._losses = [*map(float, state["scores"])], [*map(float, state["losses"])]
        self._targets = [*map(float, state["targets"])]


def _boundary(squares: float, alpha: float) -> float:
    """Return the sum of deviations at which the mixture reaches ``2/alpha``, by bisection.

    Parameters
    ----------
    squares : float
        Sum of the squared differences, each in [−1, 1].
    alpha : float
        See `PairedComparison`.
    """
    fixed, level = _WEIGHTS - _PSI * squares, math.log(2.0 / alpha)
    low, high = 0.0, float(((level - fixed) / _RATES).min())  # there one term alone reaches it
    while high - low > 1e-12 * high:
        middle = 0.5 * (low + high)
        exponents = fixed + _RATES * middle
        most = float(exponents.max())
        if most + math.log(float(np.exp(exponents - most).sum())) < level:
            low = middle
        else:
            high = middle
    return high
