"""Figure of the drift benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_COLOURS = {"none": "#64748b", "forget_moments": "#c2410c", "reset_slowest": "#1d4ed8"}
_INK, _QUIET = "#0f172a", "#64748b"
_COLUMNS = 4


def draw(content: dict[str, Any], path: Path) -> None:
    """Draw a panel for each stream: the error around the change, by action.

    Parameters
    ----------
    content : dict
        The JSON of the benchmark.
    path : path
        PNG or SVG file.
    """
    mpl.use("Agg")
    results, settings = content["results"], content["settings"]
    rows = -(-len(results) // _COLUMNS)
    with plt.rc_context({"font.size": 9}):
        size = (11.5, 0.6 + 2.3 * rows)
        figure, axes = plt.subplots(rows, _COLUMNS, figsize=size, squeeze=False, layout="constrained")
        for ax in axes.flat[len(results) :]:
            ax.set_axis_off()
        for ax, (name, of) in zip(axes.flat, results.items(), strict=False):
            _panel(ax, name, of, settings)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=3, frameon=False)
        caption = (
            f"Share of errors, or mean absolute error, in each {settings['window']} samples around the "
            f"change at 0; mean of {settings['seeds']} seeds."
        )
        figure.supxlabel(caption, fontsize=8, color=_QUIET, x=0.01, ha="left")
        figure.savefig(path, dpi=130, facecolor="white")
        plt.close(figure)


def _panel(ax: Axes, name: str, of: dict[str, Any], settings: dict[str, int]) -> None:
    window, start = settings["window"], -min(settings["part"], settings["before"])
    for action, colour in _COLOURS.items():
        curve = of[action]["curve"]
        at = [start + window * (i + 0.5) for i in range(len(curve))]
        ax.plot(at, curve, color=colour, linewidth=1.3, label=action)
    ax.axvline(0.0, color=_QUIET, linewidth=0.8, linestyle=":")
    ax.set_ylim(bottom=0.0)
    ax.set_title(name, loc="left", color=_INK)
    ax.grid(axis="y", color="#e2e8f0", linewidth=0.8)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelcolor=_QUIET, length=0)
