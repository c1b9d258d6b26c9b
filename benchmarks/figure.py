"""The figure of the quality benchmark."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from math import inf
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from .summary import Entry, format_value

_OURS, _RIVAL, _INK = "#c2410c", "#64748b", "#0f172a"
_CAPTION = (
    "Test, then train, one pass. Dots: mean over seeds; small ticks: single seeds; bold: the best. "
    "Each panel has a scale of its own that does not start at 0;\nopen triangles lie beyond it. "
    "* the best of five learning rates in hindsight."
)


def draw(entries: Sequence[Entry], ours: str, path: Path) -> None:
    """Draw a panel for each stream: every model's value, ours in colour, each seed as a tick.

    Parameters
    ----------
    entries : list of Entry
        From `summarize`.
    ours : str
        Name of the model to highlight.
    path : path
        Of a PNG or SVG file.
    """
    mpl.use("Agg")
    names = list(dict.fromkeys(entry.stream for entry in entries))
    columns = min(len(names), 4)
    lines = -(-len(names) // columns)
    models = sum(entry.stream == names[0] for entry in entries)
    size = (3.0 * columns + 0.6, (0.25 * models + 0.85) * lines + 0.6)
    with plt.rc_context({"font.size": 9}):
        figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
        axes = list(grid.flat)
        for name, ax in zip(names, axes, strict=False):
            _panel(ax, [entry for entry in entries if entry.stream == name], ours)
        for ax in axes[len(names) :]:
            ax.set_axis_off()
        figure.supxlabel(_CAPTION, fontsize=8, color=_RIVAL, x=0.01, ha="left")
        figure.savefig(path, dpi=150, facecolor="white")
        plt.close(figure)


def _panel(ax: Axes, row: Sequence[Entry], ours: str) -> None:
    low, high = _limits(row, ours)
    best = min(row, key=lambda entry: entry.rank)
    for place, entry in enumerate(reversed(row)):
        colour = _OURS if entry.model == ours else _RIVAL
        ax.axhline(place, color="#e2e8f0", linewidth=0.8, zorder=0)
        _dot(ax, entry, place, low, high, colour)
        ax.annotate(
            format_value(entry.metric, entry.value),
            (1.0, place),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="center",
            color=colour,
            fontweight="bold" if entry is best else "normal",
            backgroundcolor="white",
        )
    ax.set_yticks(range(len(row)), [entry.model for entry in reversed(row)])
    for label, entry in zip(ax.get_yticklabels(), reversed(row), strict=True):
        label.set_color(_OURS if entry.model == ours else _INK)
        label.set_fontweight("bold" if entry.model == ours else "normal")
    ax.set_ylim(-0.6, len(row) - 0.4)
    _scale(ax, low, high, percent=row[0].metric == "Accuracy")
    name = "accuracy, % →" if row[0].metric == "Accuracy" else "← mean absolute error"
    ax.set_title(f"{row[0].stream}: {name}", loc="left", fontsize=9.5, color=_INK)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color("#cbd5e1")


def _scale(ax: Axes, low: float, high: float, *, percent: bool) -> None:
    """Leave room on the right for the values, and mark the rest."""
    span = high - low
    ax.set_xlim(low - 0.08 * span, high + 0.42 * span)
    ax.locator_params(axis="x", nbins=7)
    ax.set_xticks([tick for tick in ax.get_xticks() if low - 0.08 * span <= tick <= high + 0.05 * span])
    ax.xaxis.set_major_formatter(lambda x, _: f"{100 * x if percent else x:.4g}")
    ax.tick_params(length=0)
    ax.tick_params(axis="x", labelcolor=_RIVAL)


def _dot(ax: Axes, entry: Entry, place: int, low: float, high: float, colour: str) -> None:
    """Draw a value with its seeds, or an arrow at the edge it lies beyond."""
    worse = low if entry.metric == "Accuracy" else high
    if entry.value is None or not low <= entry.value <= high:
        ax.plot(worse, place, "<" if worse == low else ">", color=colour, markersize=5, fillstyle="none")
        return
    ax.plot(entry.by_seed, [place] * len(entry.by_seed), "|", color=colour, markersize=9, alpha=0.7)
    ax.plot(entry.value, place, "o", color=colour, markersize=6.5)


def _limits(row: Sequence[Entry], ours: str) -> tuple[float, float]:
    """Return the span of all runs, without rivals far worse than most: they would press all others flat."""
    values = {entry.model: entry.value for entry in row if entry.value is not None}
    if not values:
        return 0.0, 1.0
    best = max(values.values()) if row[0].metric == "Accuracy" else min(values.values())
    reach = 6 * statistics.median(abs(value - best) for value in values.values())
    kept = [
        entry for entry in row if entry.model == ours or abs(values.get(entry.model, inf) - best) <= reach
    ]
    shown = [value for entry in kept for value in entry.by_seed]
    return min(shown), max(*shown, min(shown) + 1e-3 * abs(best) + 1e-9)
