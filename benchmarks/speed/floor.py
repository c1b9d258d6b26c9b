"""Lower bound of a step: the data to move and the operations to do, at the measured rates of the machine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bnp_online.jit import jit

from ..common.report import Cell, Table
from .timing import NETWORKS, Effort, Steps, Tick, engine, fused, in_turns

#: Assumed share of the hidden units with a gradient: about half of a ReLU layer is inactive.
_LIVE = 0.5
#: Side of the square matrices whose product measures the rate of computation.
_SIDE = 128
_STEP = "step"
#: Operations that measure the rates of the machine.
RATES = _READ, _UPDATE, _COMPUTE = "read", "update", "compute"


@jit
def _read(w: NDArray[np.float32], times: int) -> np.float32:
    """Read weights as a forward pass does. Alternating ranges keep the compiler from reading only once."""
    total = np.float32(0.0)
    for t in range(times):
        part = w[t % 2 : w.shape[0] - 1 + t % 2]
        for i in range(part.shape[0]):
            total += part[i]
    return total


@jit
def _update(w: NDArray[np.float32], factor: np.float32, times: int) -> None:
    """Read and write weights, as the step does."""
    for _ in range(times):
        for i in range(w.shape[0]):
            w[i] *= factor


def weights(sizes: Sequence[int]) -> int:
    """Return the number of weights of a network, without biases."""
    return sum(n * m for n, m in itertools.pairwise(sizes))


def rates(sizes: Sequence[int]) -> dict[str, Steps]:
    """Return the operations to time: one pass over the weights of the network, and one matrix product."""
    w, factor = np.ones(weights(sizes) + 1, np.float32), np.float32(1.0)
    a, b = torch.rand(2, _SIDE, _SIDE)
    out = torch.empty(_SIDE, _SIDE)

    def compute(count: int) -> None:
        for _ in range(count):
            torch.mm(a, b, out=out)

    return {
        _READ: lambda count: _read(w, count),
        _UPDATE: lambda count: _update(w, factor, count),
        _COMPUTE: compute,
    }


def floor(sizes: Sequence[int], times: dict[str, float]) -> dict[str, float]:
    """Return the least microseconds of a step, given those of `rates`.

    A forward pass reads each weight once, with two operations for each. The step reads and writes the rows of
    the units that have a gradient, two operations for each weight; the gradient of the layer's input, two
    more, comes from the same sweep, and the first layer needs none.
    """
    layers = list(itertools.pairwise(sizes))
    total, stepped, operations = weights(sizes), 0.0, 0.0
    for i, (n, m) in enumerate(layers):
        live = n * m * (1.0 if i == len(layers) - 1 else _LIVE)
        stepped += live
        operations += 2 * n * m + 2 * live + (2 * live if i else 0.0)
    moving = times[_READ] + times[_UPDATE] * stepped / total
    computing = operations / (2 * _SIDE**3) * times[_COMPUTE]
    return {
        "bytes": 4 * total + 8 * stepped,
        "operations": operations,
        "moving": moving,
        "computing": computing,
        "floor": max(moving, computing),
    }


def measure(effort: Effort, tick: Tick) -> dict[str, Any]:
    """Return the lower bound and the microseconds of the step of each network, measured in turns."""
    results = {}
    for name in effort.networks:
        tick(name)
        sizes = NETWORKS[name]
        times = in_turns({_STEP: fused(sizes, engine(sizes, 0.1), 200), **rates(sizes)}, effort)
        count = weights(sizes)
        results[name] = {
            **floor(sizes, times),
            "step": times[_STEP],
            "read_gb_per_s": 4e-3 * count / times[_READ],
            "update_gb_per_s": 8e-3 * count / times[_UPDATE],
            "gflop_per_s": 2e-3 * _SIDE**3 / times[_COMPUTE],
        }
    return results


def tables(results: dict[str, Any]) -> list[Table]:
    """Return the needs of a step, the rates of the machine, and the multiple of the lower bound."""
    rows = []
    for name, of in results.items():
        moved = f"{of['read_gb_per_s']:,.0f} and {of['update_gb_per_s']:,.0f} GB/s: {of['moving']:,.1f} µs"
        computed = f"{of['gflop_per_s']:,.0f} GFLOP/s: {of['computing']:,.1f} µs"
        rows.append(
            [
                Cell(f"{name} {'-'.join(map(str, NETWORKS[name]))}"),
                Cell(f"{of['bytes'] / 1e3:,.0f} kB at {moved}"),
                Cell(f"{of['operations'] / 1e3:,.0f} k at {computed}"),
                Cell(f"{of['step']:,.1f} µs"),
                Cell(f"{of['step'] / of['floor']:.1f}×"),
            ]
        )
    header = ["network", "bytes, read and updated", "operations", "a step", "of the floor"]
    return [Table("The floor of a step with one member, in one call", header, rows)]
