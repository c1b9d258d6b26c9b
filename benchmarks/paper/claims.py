"""What the paper claims, and whether it held here: curves, their comparison, and a verdict in words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..common.report import Cell, Table

#: "Well ahead": where the other one ended is reached in this share of the run.
_MUCH = 2 / 3


def best_rate(final: Sequence[Sequence[float | None]]) -> int | None:
    """Return the number of the rate with the lowest mean of final training losses, None if all diverged.

    Parameters
    ----------
    final : list of list of float or None
        By rate and seed; None where it diverged, which is infinitely bad.
    """
    means = [math.inf if None in of else statistics.fmean(v for v in of if v is not None) for of in final]
    best = min(range(len(means)), key=means.__getitem__)
    return best if math.isfinite(means[best]) else None


@dataclass(frozen=True)
class Curves:
    """A method on its way, at its best rate.

    Attributes
    ----------
    epochs : list of float
        When it was scored.
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
        """Return after which share of the run the mean loss is first at `level`; infinite if never."""
        loss, epochs = self.mean_loss, self.epochs
        for i, value in enumerate(loss):
            if value <= level:
                if i == 0:
                    return 0.0
                part = (loss[i - 1] - level) / (loss[i - 1] - value)
                return (epochs[i - 1] + part * (epochs[i] - epochs[i - 1])) / epochs[-1]
        return math.inf


#: Takes ours and the other; returns whether the claim holds.
Rule = Callable[[Curves, Curves], bool]


def faster(ours: Curves, other: Curves) -> bool:
    """Return whether ours is where the other one ended before the run is over."""
    return ours.reaches(other.mean_loss[-1]) < 1.0


def much_faster(ours: Curves, other: Curves) -> bool:
    """Return whether ours is where the other one ended in two thirds of the run."""
    return ours.reaches(other.mean_loss[-1]) <= _MUCH


def at_most(times: float) -> Rule:
    """Return the rule that our final loss is at most so many times the other's."""
    return lambda ours, other: ours.mean_loss[-1] <= times * other.mean_loss[-1]


@dataclass(frozen=True)
class Claim:
    """A claim, and what was found.

    Attributes
    ----------
    text : str
        What is claimed.
    held : dict of str to bool
        By setting.
    found : dict of str to str
        In numbers.
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
        """In words."""
        if not self.held:
            return "not measured"
        if all(self.held.values()):
            return "held"
        return f"not held ({sum(self.held.values())} of {len(self.held)} settings)"


def _numbers(ours: Curves, other: Curves) -> str:
    """Say where both ended, and when ours was where the other one ended."""
    share = ours.reaches(other.mean_loss[-1])
    when = f"there at {share:.0%}" if math.isfinite(share) else "not there"
    return f"{ours.mean_loss[-1]:.3g} against {other.mean_loss[-1]:.3g}, {when}"


def claims_table(claims: Sequence[Claim]) -> Table:
    """Return a row for each claim; entries in bold hold."""
    settings = list(dict.fromkeys(name for claim in claims for name in claim.held))
    rows = [
        [
            Cell(claim.text),
            Cell(claim.verdict, best=claim.verdict == "held"),
            *(Cell(claim.found.get(name, "–"), best=claim.held.get(name, False)) for name in settings),
        ]
        for claim in claims
    ]
    title = "Final training losses, and after which share of the run ours was where the other one ended"
    return Table(title, ["claim", "verdict", *settings], rows)


def final_table(title: str, settings: Mapping[str, Mapping[str, Curves]]) -> Table:
    """Return where each method ended: training loss, test accuracy and rate; the lowest loss in bold."""
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
