"""The figure of the speed benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from .speed_floor import RATES

_COLOURS = ("#c2410c", "#1d4ed8")
_INK, _QUIET = "#0f172a", "#64748b"
_CAPTION = (
    "64 features, two hidden layers of 100, 10 classes, but for what grows. One thread; 200 samples a call. "
    "Both scales are\nlogarithmic. Floor: what one copy must read, write and compute, at the machine's rates."
)


def draw(growth: dict[str, Any], path: Path) -> None:
    """Draw a panel for each thing that grows: microseconds of a step, and its floor.

    Parameters
    ----------
    growth : dict
        From `speed_growth.measure`.
    path : path
        Of a PNG or SVG file.
    """
    mpl.use("Agg")
    with plt.rc_context({"font.size": 9}):
        figure, axes = plt.subplots(1, len(growth), figsize=(11.5, 3.2), sharey=True, layout="constrained")
        for ax, (axis, of) in zip(axes, growth.items(), strict=True):
            _panel(ax, axis, of)
        axes[0].set_ylabel("µs a step")
        figure.supxlabel(_CAPTION, fontsize=8, color=_QUIET, x=0.01, ha="left")
        figure.savefig(path, dpi=150, facecolor="white")
        plt.close(figure)


def _panel(ax: Axes, axis: str, of: list[dict[str, Any]]) -> None:
    values = [point["value"] for point in of]
    sides = [side for side in of[0]["microseconds"] if side not in RATES]
    for side, colour in zip(sides, _COLOURS, strict=False):
        times = [point["microseconds"][side] for point in of]
        ax.plot(values, times, "o-", color=colour, markersize=4, linewidth=1.4)
        _name(ax, side, values[-1], times[-1], 7, colour)
    if "floor" in of[0]:
        ax.plot(values, [point["floor"] for point in of], "--", color=_QUIET, linewidth=1.2)
        _name(ax, "floor", values[-1], of[-1]["floor"], -12, _QUIET)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(values, [f"{value:,}" for value in values])
    ax.minorticks_off()
    ax.margins(y=0.15)
    ax.set_title(axis, loc="left", color=_INK)
    ax.grid(axis="y", color="#e2e8f0", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelcolor=_QUIET, length=0)


def _name(ax: Axes, text: str, x: float, y: float, above: int, colour: str) -> None:
    ax.annotate(text, (x, y), (0, above), textcoords="offset points", ha="right", color=colour)
