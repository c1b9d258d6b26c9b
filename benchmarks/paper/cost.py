"""Time and memory of a step of plain SGD, BN, and BNP through hooks, at mini-batches of 1 to 512."""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib import pyplot as plt
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from torch.profiler import ProfilerActivity, profile

from bnp_online import BNP

from ..common import report
from ..common.program import one_thread
from ..common.report import Cell, Table

SIZES = (784, 100, 100, 100, 10)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
#: Largest intended multiple of plain SGD for BNP through hooks, by mini-batch.
TARGETS = {64: 2.0, 512: 1.3}
PLAIN, BN, HOOKS = "plain SGD", "BN", "BNP through hooks"

_COLOURS = {PLAIN: "#64748b", BN: "#1d4ed8", HOOKS: "#c2410c"}


def side(name: str, batch: int, sizes: Sequence[int] = SIZES) -> Callable[[], None]:
    """Return the training step of a method on random samples."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes[:-1]):
        norm = [nn.BatchNorm1d(fan_out)] if name == BN else []
        layers += [nn.Linear(fan_in, fan_out), *norm, nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    pre = BNP(model) if name == HOOKS else None
    x, y = torch.rand(batch, sizes[0]), torch.randint(sizes[-1], (batch,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if pre is not None:
            pre.step()
        optimizer.step()

    return step


def allocations(run: Callable[[], object]) -> list[int]:
    """Return the bytes of each allocation on the CPU in order; deallocations are negative."""
    gc.collect()  # so that no earlier object is freed meanwhile
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        run()
    results = recorded.profiler.kineto_results if recorded.profiler is not None else None
    events = [] if results is None else results.events()
    of_memory = [event for event in events if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(of_memory, key=lambda event: int(event.start_ns()))]


def peak(sizes: Sequence[int]) -> int:
    """Return the largest sum of allocations."""
    return max(itertools.accumulate(sizes), default=0)


def measure(batch: int, repeats: int, seconds: float) -> dict[str, dict[str, float]]:
    """Measure the sides in turns.

    Returns
    -------
    dict
        By side: ``microseconds``, the median processor time of a step; ``times``, the median of its ratios to
        plain SGD, each measured in succession; and ``bytes``, the peak allocation of a first step.
    """
    # A mini-batch of one has no variance: torch refuses it.
    sides = {name: side(name, batch) for name in (PLAIN, BN, HOOKS) if batch > 1 or name != BN}
    start = time.process_time()
    for step in sides.values():
        step()
        step()
    count = max(1, int(seconds * 2 * len(sides) / (time.process_time() - start)))
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):  # the first warms up
        for name, step in sides.items():
            start = time.process_time()
            for _ in range(count):
                step()
            found[name].append((time.process_time() - start) / count * 1e6)
    return {
        name: {
            "microseconds": round(statistics.median(taken[1:]), 1),
            "times": round(
                statistics.median(a / b for a, b in zip(taken[1:], found[PLAIN][1:], strict=True)), 3
            ),
            "bytes": peak(allocations(side(name, batch))),  # a first one: its gradients are new
        }
        for name, taken in found.items()
    }


def run(out: Path, repeats: int, seconds: float, tick: Callable[[str, float], None]) -> dict[str, Any]:
    """Measure all mini-batches in one run, so that they can be compared."""
    one_thread()
    cells = {}
    for i, batch in enumerate(BATCHES):
        tick(f"mini-batch {batch}", i / len(BATCHES))
        cells[str(batch)] = measure(batch, repeats, seconds)
    tick("", 1.0)
    content = {
        "benchmark": "paper, cost",
        "setup": {"sizes": SIZES, "repeats": repeats, "seconds": seconds},
        "environments": [report.environment()],
        "cells": cells,
    }
    report.write_json(out, content)
    return content


def tables(content: dict[str, Any]) -> list[Table]:
    """Return the targets with their verdicts, and the cost at each mini-batch."""
    cells = content["cells"]
    verdicts = []
    for batch, most in TARGETS.items():
        times = cells[str(batch)][HOOKS]["times"]
        verdict = "held" if times <= most else "not held"
        text = f"mini-batch {batch}: BNP through hooks takes at most {most:g} times plain SGD"
        verdicts.append([Cell(text), Cell(verdict, best=times <= most), Cell(f"{times:.2f}×")])
    rows = []
    for batch, sides in cells.items():
        row = [Cell(batch), Cell(f"{sides[PLAIN]['microseconds']:,.0f} µs")]
        for name in (BN, HOOKS):
            row.append(Cell(f"{sides[name]['times']:.2f}×" if name in sides else "–"))
        for name in (PLAIN, BN, HOOKS):
            row.append(Cell(f"{sides[name]['bytes'] / 1000:,.0f} kB" if name in sides else "–"))
        rows.append(row)
    sizes = "-".join(map(str, content["setup"]["sizes"]))
    header = ["mini-batch", PLAIN, BN, HOOKS, *(f"memory, {name}" for name in (PLAIN, BN, HOOKS))]
    title = f"A step of {sizes}: time, as a multiple of plain SGD, and memory allocated at its peak"
    return [Table("Cost", ["target", "verdict", "measured"], verdicts), Table(title, header, rows)]


def draw(content: dict[str, Any], path: Path) -> None:
    """Draw the time of a step as a multiple of plain SGD, and the memory, against the mini-batch."""
    mpl.use("Agg")
    cells = content["cells"]
    with plt.rc_context({"font.size": 9}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(8.6, 3.2), layout="constrained")
        for name, colour in _COLOURS.items():
            batches = [int(batch) for batch, sides in cells.items() if name in sides]
            of = [cells[str(batch)][name] for batch in batches]
            left.plot(batches, [side["times"] for side in of], "o-", color=colour, markersize=3.5, label=name)
            right.plot(batches, [side["bytes"] / 1e6 for side in of], "o-", color=colour, markersize=3.5)
        for batch, most in TARGETS.items():
            label = "target of BNP" if batch == min(TARGETS) else None
            left.plot([batch], [most], "v", color="#0f172a", markersize=6, label=label)
        left.set_title("time of a step, plain SGD = 1", fontsize=9.5, loc="left")
        right.set_title("memory allocated at its peak, MB", fontsize=9.5, loc="left")
        for ax in (left, right):
            ax.set_xscale("log", base=2)
            ax.set_xticks(BATCHES, [str(batch) for batch in BATCHES])
            ax.set_ylim(bottom=0)
            ax.set_xlabel("mini-batch")
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(color="#e2e8f0", linewidth=0.6)
        left.legend(frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=140, facecolor="white")
        plt.close(figure)
