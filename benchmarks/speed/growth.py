"""Growth of the cost of a step with width, depth, number of features and number of members."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..common.report import Cell, Table
from .floor import RATES, floor, rates, weights
from .timing import Effort, Steps, Tick, engine, fused, in_turns

#: Sizes of the network by growing quantity and its value.
_POINTS: dict[str, dict[int, tuple[int, ...]]] = {
    "width": {w: (64, w, w, 10) for w in (16, 32, 64, 128, 256, 512, 1024)},
    "depth": {d: (64, *[100] * d, 10) for d in (1, 2, 3, 4, 6, 8)},
    "features": {n: (n, 100, 100, 10) for n in (4, 16, 64, 256, 1024, 4096)},
    "members": dict.fromkeys((1, 2, 4, 8, 16), (64, 100, 100, 10)),
}
_ONE, _AUTO, _MANY = "one member", "auto, replay=0", "members at one rate"


def measure(effort: Effort, tick: Tick) -> dict[str, Any]:
    """Return the weights, the microseconds of a step, and the lower bound of one member, for each size."""
    results: dict[str, Any] = {}
    for axis, of in _POINTS.items():
        results[axis] = []
        for value, sizes in list(of.items())[: 2 if effort.quick else None]:
            tick(f"{axis} {value}")
            times = in_turns(_sides(axis, value, sizes), effort)
            members = value if axis == "members" else 1
            point = {"value": value, "weights": members * weights(sizes), "microseconds": times}
            if axis != "members":
                point["floor"] = floor(sizes, times)["floor"]
            results[axis].append(point)
    return results


def _sides(axis: str, value: int, sizes: Sequence[int]) -> dict[str, Steps]:
    if axis == "members":
        return {_MANY: fused(sizes, engine(sizes, 0.1, copies=value, learner=1), 200)}
    learners = {_ONE: engine(sizes, 0.1), _AUTO: engine(sizes, "auto")}
    return {name: fused(sizes, learner, 200) for name, learner in learners.items()} | rates(sizes)


def tables(results: dict[str, Any]) -> list[Table]:
    """Return a table for each quantity that grows."""
    return [_table(axis, of) for axis, of in results.items()]


def _table(axis: str, of: list[dict[str, Any]]) -> Table:
    sides = [side for side in of[0]["microseconds"] if side not in RATES]
    floors = ["floor of one member"] if "floor" in of[0] else []
    rows = []
    for point in of:
        row = [Cell(f"{point['value']:,}"), Cell(f"{point['weights']:,}")]
        row += [Cell(f"{point['microseconds'][side]:,.1f} µs") for side in sides]
        row.append(Cell(f"{1000 * point['microseconds'][sides[0]] / point['weights']:.2f} ns"))
        row += [Cell(f"{point['floor']:,.1f} µs") for _ in floors]
        rows.append(row)
    header = [axis, "weights", *sides, f"{sides[0]}, a weight", *floors]
    return Table(f"Growth: {axis}", header, rows)
