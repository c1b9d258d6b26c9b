"""Coverage and width of predictive intervals.

All intervals are around the same predictions, those of the default learner. *Quantile* takes the quantile of
the latest 300 absolute errors. *Adaptive conformal* adjusts its level by the observed coverage. Both have one
width for all x. Widths are in units of the quantile's.

References
----------
I. Gibbs, E. Candès, *Adaptive conformal inference under distribution shift*, NeurIPS 2021.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from rich.console import Console
from rich.progress import Progress

from bnp_online import BNPRegressor

from ..common import streams
from ..common.generated import AUTOCORRELATED, STREAMS
from ..common.report import Cell, Table
from .program import Results, arguments_of, run

LEVELS = (0.8, 0.9, 0.95)
REAL = ("TrumpApproval", "ChickWeights")
GENERATED = tuple(
    name for name, stream in STREAMS.items() if stream.task == "regression" and stream.group != AUTOCORRELATED
)
LENGTH = 1500
OURS, QUANTILE, ADAPTIVE = "BNP-SGLD", "quantile", "adaptive conformal"
_WINDOW, _FIRST, _GAMMA = 300, 20, 0.01


class Conformal:
    """Quantiles of the latest absolute errors, at a level that follows the observed coverage if γ > 0."""

    def __init__(self, level: float, gamma: float) -> None:
        self._miss = self._aim = 1.0 - level
        self._gamma = gamma
        self._errors: deque[float] = deque(maxlen=_WINDOW)

    def radius(self) -> float | None:
        """Return half the width; the largest error if the level is above 1."""
        if len(self._errors) < _FIRST:
            return None
        return float(np.quantile(self._errors, min(max(1.0 - self._aim, 0.0), 1.0)))

    def learn(self, error: float, radius: float | None) -> None:
        """Add an absolute error, and adjust the level."""
        if radius is not None:
            self._aim += self._gamma * (self._miss - float(error > radius))
        self._errors.append(error)


def _samples(name: str, seed: int, length: int) -> Iterable[tuple[Any, Any]]:
    if name in REAL:
        return itertools.islice(streams.load(name).samples, length)
    return itertools.islice(STREAMS[name].samples(seed), min(length, LENGTH))


def one(name: str, seed: int, length: int) -> dict[str, dict[str, list[float]]]:
    """Return by kind and level the coverage in %, and the mean width, of one pass."""
    model = BNPRegressor(intervals=32, seed=seed)
    rivals = {(kind, level): Conformal(level, g) for kind, g in _RIVALS.items() for level in LEVELS}
    seen: dict[tuple[str, float], list[tuple[bool, float]]] = {
        (kind, level): [] for kind in (OURS, *_RIVALS) for level in LEVELS
    }
    for x, y in _samples(name, seed, length):
        prediction = model.predict_one(x)
        if prediction is not None:
            error = abs(y - prediction)
            for level in LEVELS:
                interval = model.predict_interval_one(x, level)
                if interval is not None:
                    low, high = interval
                    seen[OURS, level].append((low <= y <= high, high - low))
            for key, rival in rivals.items():
                radius = rival.radius()
                if radius is not None:
                    seen[key].append((error <= radius, 2.0 * radius))
                rival.learn(error, radius)
        model.learn_one(x, y)
    found: dict[str, dict[str, list[float]]] = {kind: {} for kind in (OURS, *_RIVALS)}
    for (kind, level), of in seen.items():
        held, widths = zip(*of, strict=True)
        found[kind][f"{level:g}"] = [100.0 * statistics.fmean(held), statistics.fmean(widths)]
    return found


_RIVALS = {QUANTILE: 0.0, ADAPTIVE: _GAMMA}


def measure(arguments: argparse.Namespace, console: Console) -> Results:
    """Return the figures of `one` by stream, means over seeds."""
    names = [*REAL, *GENERATED][: 3 if arguments.quick else None]
    results: Results = {}
    with Progress(console=console) as progress:
        bar = progress.add_task("predicting", total=len(names) * len(arguments.seeds))
        for name in names:
            by_seed = []
            for seed in arguments.seeds:
                by_seed.append(one(name, seed, 100 if arguments.quick else 10_000))
                progress.advance(bar)
            results[name] = {
                kind: {
                    level: [statistics.fmean(each[kind][level][i] for each in by_seed) for i in (0, 1)]
                    for level in by_seed[0][kind]
                }
                for kind in by_seed[0]
            }
    return results


def _cell(of: dict[str, dict[str, list[float]]], kind: str, level: str) -> tuple[float, float]:
    """Return the error of the coverage in points, and the width in units of the quantile's."""
    coverage, width = of[kind][level]
    return coverage - 100.0 * float(level), width / of[QUANTILE][level][1]


def tables(results: Results) -> list[Table]:
    """Return coverage and width by stream and level, and the means."""
    kinds = (OURS, ADAPTIVE, QUANTILE)
    rows = []
    for name, of in results.items():
        for level in of[OURS]:
            cells = [_cell(of, kind, level) for kind in kinds]
            rows.append([Cell(name), Cell(level), *(_shown(*each) for each in cells)])
    for what, names in (("mean, real", REAL), ("mean, generated", GENERATED)):
        those = [results[name] for name in names if name in results]
        if those:
            means = []
            for kind in kinds:
                cells = [_cell(of, kind, level) for of in those for level in of[kind]]
                off = statistics.fmean(abs(each) for each, _ in cells)
                means.append(Cell(f"{off:.1f}, {statistics.geometric_mean(w for _, w in cells):.2f}"))
            rows.append([Cell(what), Cell("all"), *means])
    title = (
        "Coverage minus level in points (within 2 in bold), and mean width over that of the quantile, around "
        "the same predictions. Means: of the absolute differences, and geometric of the widths."
    )
    return [Table(title, ["stream", "level", *kinds], rows)]


def _shown(off: float, width: float) -> Cell:
    return Cell(f"{off:+.1f}, {width:.2f}", abs(off) <= 2.0)


def draw(results: Results, path: Path) -> None:
    """Draw a dot for each stream and level: coverage against width."""
    mpl.use("Agg")
    colours = {OURS: "#c2410c", ADAPTIVE: "#1d4ed8", QUANTILE: "#94a3b8"}
    with plt.rc_context({"font.size": 9}):
        figure, ax = plt.subplots(figsize=(7.5, 4.0), layout="constrained")
        ax.axhspan(-2.0, 2.0, color="#e2e8f0", zorder=0)
        for kind, colour in colours.items():
            for real, marker in ((True, "D"), (False, "o")):
                cells = [
                    _cell(of, kind, level)
                    for name, of in results.items()
                    if (name in REAL) == real
                    for level in of[kind]
                ]
                off, widths = ([each[i] for each in cells] for i in (0, 1))
                label = f"{kind}{', real streams' if real else ', generated'}"
                ax.plot(widths, off, marker, color=colour, markersize=6 if real else 4, label=label)
        ax.set_xscale("log", base=2)
        ax.set_xticks([0.75, 1.0, 1.5, 2.0], ["0.75", "1", "1.5", "2"], minor=False)
        ax.set_yscale("symlog", linthresh=4.0)
        ax.set_yticks([-30, -10, -2, 0, 2, 5], ["−30", "−10", "−2", "0", "2", "5"])
        ax.set_ylim(-45.0, 9.0)
        ax.set_xlabel("mean width, in units of the quantile's")
        ax.set_ylabel("coverage minus level, points")
        ax.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        figure.savefig(path, dpi=150, facecolor="white")
        plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    run("intervals", arguments_of("intervals", __doc__, (0, 1)).parse_args(argv), measure, tables, draw)
