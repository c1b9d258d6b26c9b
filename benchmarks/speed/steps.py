"""One learning step against a plain eager step of ``torch.optim.SGD``."""

from __future__ import annotations

from typing import Any

from ..common.report import Cell, Table
from .timing import NETWORKS, Effort, Tick, eager, engine, estimator, fused, in_turns

_SPEED, _DEFAULT = "auto, replay=0, in one call", "auto (the default), in one call"
#: Learning rate, replayed steps, samples a call.
_FUSED: dict[str, tuple[float | str, int, int]] = {
    "one member, one call a sample": (0.1, 0, 1),
    "one member, in one call": (0.1, 0, 200),
    _SPEED: ("auto", 0, 200),
    _DEFAULT: ("auto", 3, 50),
}
#: The first generation of the learner.
_FIRST = {side: f"{side}, first generation" for side in (_SPEED, _DEFAULT)}
_REFERENCE, _HOOKS = "plain SGD step", "BNP through hooks"
_ONE, _MANY = "learn_one", "learn_many, 200 rows"


def measure(effort: Effort, tick: Tick) -> dict[str, Any]:
    """Return the microseconds of a step by network and side."""
    results = {}
    for name in effort.networks:
        tick(name)
        sizes = NETWORKS[name]
        sides = {_REFERENCE: eager(sizes, hooks=False), _HOOKS: eager(sizes, hooks=True)}
        for side, (lr, replay, rows) in _FUSED.items():
            sides[side] = fused(sizes, engine(sizes, lr, replay), rows)
            if side in _FIRST:
                sides[_FIRST[side]] = fused(sizes, engine(sizes, lr, replay, learner=1), rows)
        sides |= {_ONE: estimator(sizes, many=False), _MANY: estimator(sizes, many=True)}
        results[name] = in_turns(sides, effort)
    return results


def tables(results: dict[str, Any]) -> list[Table]:
    """Return how many times faster than the reference each side is."""
    return [
        _table("One step, as a multiple of the speed of a plain eager SGD step", results, [_HOOKS, *_FUSED]),
        _generations(results),
        _table("The same for one member through BNPClassifier, on arrays", results, [_ONE, _MANY]),
    ]


def _table(title: str, results: dict[str, Any], sides: list[str]) -> Table:
    rows = []
    for network, of in results.items():
        sizes = "-".join(map(str, NETWORKS[network]))
        ratios = [Cell(f"{of[_REFERENCE] / of[side]:.1f}× ({of[side]:,.1f} µs)") for side in sides]
        rows.append([Cell(f"{network} {sizes}"), Cell(f"{of[_REFERENCE]:,.0f} µs"), *ratios])
    return Table(title, ["network", _REFERENCE, *sides], rows)


def _generations(results: dict[str, Any]) -> Table:
    """Return the cost of the second generation of the learner against the first."""
    rows = []
    for network, of in results.items():
        ratios = [
            Cell(f"{of[side] / of[first]:.2f} ({of[side]:,.1f} µs of {of[first]:,.1f})")
            for side, first in _FIRST.items()
        ]
        rows.append([Cell(f"{network} {'-'.join(map(str, NETWORKS[network]))}"), *ratios])
    return Table("A step of the learner, as a multiple of the first generation's", ["network", *_FIRST], rows)
