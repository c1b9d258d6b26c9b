"""Claims of the paper: training curves, rules to compare them, and verdicts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..common.report import Cell, Table

#: "Well ahead": the final loss of the other is reached in this share of the run.
_MUCH = 2 / 3


def best_rate(final: Sequence[Sequence[float | None]]) -> int | None:
    """Return the index of the rate with the lowest mean final training loss; None if all diverged.

    Parameters
    ----------
    final : list of list of float or None
        Losses by rate and seed; None, if it diverged, counts as infinite.
    """
    means = [math.inf if None in of else statistics.fmean(v for v in of if v is not None) for of in final]
    best = min(range(len(means)), key=means.__getitem__)
    return best if math.isfinite(means[best]) else None


@dataclass(frozen=True)
class Curves:
    """Training curves of a method at its best rate.

    Attributes
    ----------
    epochs : list of float
        Epochs of the evaluations.
    loss, accuracy : list of list of float
        On the training set and on the test set, by seed; empty if every rate diverged.
    rate : float or None
        The best one.
    at_edge : bool
        Whether it is the lowest or the highest that was tried.
    """

    epochs: list[float]
    loss: list[list[float]]
    accuracy: list[list[float]]
    rate: float | None
    at_edge: bool

    @staticmethod
    def of(cell: Mapping[str, Any]) -> Curves:
        """Return the curves of a cell of the JSON."""
        rates, best = cell["rates"], cell["best"]
        rate = None if best is None else rates[best]
        edge = best in (0, len(rates) - 1)
        return Curves(cell["epochs"], cell["loss"], cell["accuracy"], rate, edge)

    @property
    def mean_loss(self) -> list[float]:
        """The mean over seeds, infinite if the method diverged."""
        return [statistics.fmean(of) for of in zip(*self.loss, strict=True)] or [math.inf] * len(self.epochs)

    @property
    def mean_accuracy(self) -> list[float]:
        """The mean over seeds, 0 if the method diverged."""
        return [statistics.fmean(of) for of in zip(*self.accuracy, strict=True)] or [0.0] * len(self.epochs)

    def reaches(self, level: float) -> float:
        """Return the share of the run after which the mean loss first reaches `level`; infinite if never."""
        loss, epochs = self.mean_loss, self.epochs
        for i, value in enumerate(loss):
            if value <= level:
                if i == 0:
                    return 0.0
                part = (loss[i - 1] - level) / (loss[i - 1] - value)
                return (epochs[i - 1] + part * (epochs[i] - epochs[i - 1])) / epochs[-1]
        return math.inf


#: Takes our curves and those of the other; returns whether the claim holds.
Rule = Callable[[Curves, Curves], bool]


def faster(ours: Curves, other: Curves) -> bool:
    """Return whether ours reaches the final loss of the other before its own end."""
    return ours.reaches(other.mean_loss[-1]) < 1.0


def much_faster(ours: Curves, other: Curves) -> bool:
    """Return whether ours reaches the final loss of the other in two thirds of the run."""
    return ours.reaches(other.mean_loss[-1]) <= _MUCH


def at_most(times: float) -> Rule:
    """Return the rule that our final loss is at most `times` that of the other."""
    return lambda ours, other: ours.mean_loss[-1] <= times * other.mean_loss[-1]


@dataclass(frozen=True)
class Claim:
    """Claim and its result.

    Attributes
    ----------
    text : str
        The claim.
    held : dict of str to bool
        Whether it held, by setting.
    found : dict of str to str
        The numbers, by setting.
    """

    text: str
    held: dict[str, bool]
    found: dict[str, str]

    @staticmethod
    def judge(
        text: str, settings: Mapping[str, Mapping[str, Curves]], ours: str, other: str, rule: Rule
    ) -> Claim:
        """Apply a rule in every setting that has both methods."""
        pairs = {name: (of[ours], of[other]) for name, of in settings.items() if ours in of and other in of}
        held = {name: rule(*pair) for name, pair in pairs.items()}
        return Claim(text, held, {name: _numbers(*pair) for name, pair in pairs.items()})

    @property
    def verdict(self) -> str:
        """Verdict in words."""
        if not self.held:
            return "not measured"
        if all(self.held.values()):
            return "held"
        return f"not held ({sum(self.held.values())} of {len(self.held)} settings)"


def _numbers(ours: Curves, other: Curves) -> str:
    """Return both final losses, and the share after which ours reached that of the other."""
    share = ours.reaches(other.mean_loss[-1])
    when = f"reached at {share:.0%}" if math.isfinite(share) else "not reached"
    return f"{ours.mean_loss[-1]:.3g} against {other.mean_loss[-1]:.3g}, {when}"


def claims_table(claims: Sequence[Claim]) -> Table:
    """Return a row for each claim; bold entries support it."""
    settings = list(dict.fromkeys(name for claim in claims for name in claim.held))
    rows = [
        [
            Cell(claim.text),
            Cell(claim.verdict, best=claim.verdict == "held"),
            *(Cell(claim.found.get(name, "–"), best=claim.held.get(name, False)) for name in settings),
        ]
        for claim in claims
    ]
    title = (
        "Final training losses, and the share of the run after which ours reached the final loss of the other"
    )
    return Table(title, ["claim", "verdict", *settings], rows)


def final_table(title: str, settings: Mapping[str, Mapping[str, Curves]]) -> Table:
    """Return final training loss, test accuracy and rate of each method; the lowest loss in bold."""
    methods = list(dict.fromkeys(method for of in settings.values() for method in of))
    rows = []
    for name, of in settings.items():
        lowest = min((curves.mean_loss[-1] for curves in of.values()), default=math.inf)
        cells = [_final(of[method], lowest) if method in of else Cell("–") for method in methods]
        rows.append([Cell(name), *cells])
    return Table(title, ["setting", *methods], rows)


def _final(curves: Curves, lowest: float) -> Cell:
    if curves.rate is None:
        return Cell("diverged")
    loss, accuracy = curves.mean_loss[-1], 100.0 * curves.mean_accuracy[-1]
    text = f"{loss:.3g}, {accuracy:.1f}% ({curves.rate:g}{'!' if curves.at_edge else ''})"
    return Cell(text, best=loss == lowest)
