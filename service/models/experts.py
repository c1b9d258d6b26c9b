"""Kinds of experts, their shares in the prediction of a model, and the history of these shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from bnp_online.errors import StateError
from bnp_online.evaluation.importance import EVERY

Mixture: TypeAlias = "Sequence[Mapping[str, Any]]"
"""Experts with their weights, as `mixture` of an estimator returns them."""

_Point: TypeAlias = "tuple[int, float, dict[str, float]]"
#: Rate from which a network is fast: its weights follow the latest samples.
_FAST = 0.6
#: Kinds of experts, and what it means that one of them has the greatest weight.
KINDS = {
    "fast networks": "the latest samples tell most, because samples depend on each other in time or the "
    "relation changes; labels that arrive late lower the quality",
    "networks": "the relation changes slowly, or the model has learned few samples",
    "slow networks": "the relation is stable, so replayed samples and means of weights reduce noise",
    "linear models": "the relation is close to linear, or the model has learned few samples",
    "neighbours": "samples resemble earlier ones, so the most similar ones in the memory predict best",
    "bins": "each feature tells by itself, by the interval or the code that its value is",
    "stack": "a learned combination of all experts predicts better than their weighted mean",
}

#: Greatest number of points of the history.
MOST = 256
#: Digits of a share in the history.
_DIGITS = 4


def kind_of(expert: Mapping[str, Any]) -> str:
    """Return the kind of an expert, one of `KINDS`."""
    if expert["kind"] != "network":
        return {"linear": "linear models"}.get(expert["kind"], str(expert["kind"]))
    if expert["replay"] or expert["averages"]:
        return "slow networks"
    return "fast networks" if expert["lr"] >= _FAST else "networks"


def shares(mixture: Mixture) -> dict[str, float]:
    """Return the weight of each kind of experts in the prediction, with sum 1."""
    return summed([kind_of(each) for each in mixture], [each["weight"] for each in mixture])


def summed(kinds: Sequence[str], weights: Sequence[float]) -> dict[str, float]:
    """Return the sums of weights by kind, in the order of `KINDS`."""
    found = {kind: 0.0 for kind in KINDS if kind in kinds}
    for kind, weight in zip(kinds, weights, strict=True):
        found[kind] += weight
    return found


class ShareHistory:
    """Shares of the kinds of experts over the steps of a model, in at most 256 points.

    The points are at steps 1, 2, 4, 8, 16 and 32, and then at every 64th. When there are too many points, the
    distance doubles, and the first point in each distance is kept. So the points cover all of the model's
    life, and they depend on the samples and their order alone.

    Examples
    --------
    >>> history = ShareHistory()
    >>> for step in range(1, 201):
    ...     if history.is_due(step):
    ...         history.add(step, 0.5 * step, {"networks": 0.75, "stack": 0.25})
    >>> found = history.report()
    >>> found["step"], found["time"][:3], found["shares"]["stack"][:3]
    ([1, 2, 4, 8, 16, 32, 64, 128, 192], [0.5, 1.0, 2.0], [0.25, 0.25, 0.25])
    """

    def __init__(self) -> None:
        self._every = EVERY
        self._points: list[_Point] = []

    def is_due(self, step: int) -> bool:
        """Return whether a point is to be added at a step: a multiple of 64, or a power of two below."""
        return step % self._every == 0 if step >= EVERY else step & (step - 1) == 0

    def add(self, step: int, time: float, found: Mapping[str, float]) -> None:
        """Add a point: the step, its time in seconds since 1970, and the shares by kind."""
        rounded = {kind: round(share, _DIGITS) for kind, share in found.items()}
        self._points.append((step, time, rounded))
        if len(self._points) > MOST:
            self._every *= 2
            first: dict[int, _Point] = {}
            for point in self._points:
                first.setdefault(point[0] // self._every, point)
            self._points = [*first.values()]

    def report(self) -> dict[str, Any]:
        """Return ``step`` and ``time`` of the points, and ``shares`` by kind, as lists, oldest first."""
        present = {kind for _, _, found in self._points for kind in found}
        columns = {
            kind: [found.get(kind, 0.0) for _, _, found in self._points] for kind in KINDS if kind in present
        }
        steps, times = [step for step, _, _ in self._points], [time for _, time, _ in self._points]
        return {"step": steps, "time": times, "shares": columns}

    def copy(self) -> ShareHistory:
        """Return a copy."""
        twin = ShareHistory()
        twin._every, twin._points = self._every, self._points[:]
        return twin

    def state_dict(self) -> dict[str, Any]:
        """Return the state, as JSON."""
        return {"every": self._every, "points": [[*point] for point in self._points]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Load a state from `state_dict`.

        Raises
        ------
        StateError
            If it has another form.
        """
        if state["every"] < 1 or len(state["points"]) > MOST:
            raise StateError("the history of the shares has another form")
        self._every = EVERY
        while self._every < state["every"]:  # earlier versions have 20 times a power of two
            self._every *= 2
        self._points = [(int(step), float(time), dict(found)) for step, time, found in state["points"]]
