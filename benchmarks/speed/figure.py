"""Figure of the speed benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_COLOURS = {"one member": "#c2410c", "auto, replay=0": "#1d4ed8", "members at one rate": "#0f766e"}
_INK, _QUIET = "#0f172a", "#64748b"
_CAPTION = (
    "64 features, two hidden layers of 100, 10 classes, but for what grows. One thread; 200 samples a call. "
    "Both scales are\nlogarithmic. Floor: lower bound of one member, at the measured rates of the machine."
)


def draw(growth: dict[str, Any], path: Path) -> None:
    """Draw microseconds of a step and their lower bound, a panel for each growing quantity.

    Parameters
    ----------
    growth : dict
        Result of `growth.measure`.
    path : path
        PNG or SVG file.
    """
    mpl.use("Agg")
    with plt.rc_context({"font.size": 9}):
        figure, axes = plt.subplots(1, len(growth), figsize=(11.5, 3.5), sharey=True, layout="constrained")
        for ax, (axis, of) in zip(axes, growth.items(), strict=True):
            _panel(ax, axis, of)
        axes[0].set_ylabel("µs a step")
        lines = {line.get_label(): line for ax in axes for line in ax.get_lines()}
        figure.legend(lines.values(), lines.keys(), loc="outside upper right", ncols=4, frameon=False)
        figure.supxlabel(_CAPTION, fontsize=8, color=_QUIET, x=0.01, ha="left")
        figure.savefig(path, dpi=150, facecolor="white")
        plt.close(figure)


def _panel(ax: Axes, axis: str, of: list[dict[str, Any]]) -> None:
    values = [point["value"] for point in of]
    for side, colour in _COLOURS.items():
        if side in of[0]["microseconds"]:
            times = [point["microseconds"][side] for point in of]
            ax.plot(values, times, "o-", color=colour, markersize=4, linewidth=1.4, label=side)
    if "floor" in of[0]:
        floor = [point["floor"] for point in of]
        ax.plot(values, floor, "--", color=_QUIET, linewidth=1.2, label="floor of one member")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(values, [f"{value:,}" for value in values])
    ax.minorticks_off()
    ax.set_title(axis, loc="left", color=_INK)
    ax.grid(axis="y", color="#e2e8f0", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelcolor=_QUIET, length=0)
