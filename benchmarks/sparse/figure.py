"""Figure of the sparse streams: loss against processor time, and time against the number of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from ..quality.summary import Entry
from .tables import by_stream

_INK, _QUIET, _FAINT = "#0f172a", "#64748b", "#e2e8f0"
_ORANGE, _BLUE, _GREY = "#c2410c", "#1d4ed8", "#94a3b8"
#: By model: marker, colour, size.
_STYLES = {
    "BNP": ("o", _ORANGE, 9.0),
    "BNP, replay=0": ("o", "#fdba74", 7.0),
    "VW*": ("s", _BLUE, 6.0),
    "VW -q*": ("^", _BLUE, 6.5),
    "VW --nn*": ("v", _BLUE, 6.5),
    "Linear*": ("s", _GREY, 5.5),
    "FTRL*": ("D", _GREY, 5.0),
    "Bayes*": ("P", _GREY, 6.0),
    "FM*": ("X", _GREY, 6.0),
}
_FLOOR = "Floor"
#: Limits of the processor time of a sample.
_MICROSECONDS = (2.0, 6000.0)
_LINES = {
    "BNP": (_ORANGE, "-"),
    "arrays": (_ORANGE, ":"),
    "BNP, replay=0": ("#fb923c", "-"),
    "arrays, replay=0": ("#fb923c", ":"),
    "VW*": (_BLUE, "-"),
}
_COLUMNS = 3
_CAPTION = (
    "Each panel: loss (down is better) against processor time of a sample (left is faster). Grey line: best "
    "possible loss; top edge: the shares of the classes, or the mean, alone.\n* the best of five or six "
    "settings on each stream, in hindsight."
)


def draw(
    entries: Sequence[Entry], facts: Mapping[str, Any], growth: Mapping[str, Any] | None, path: Path
) -> None:
    """Draw a panel for each stream, and one for the growth of the time.

    Parameters
    ----------
    entries : list of Entry
        Result of `summarize`.
    facts : dict
        `Stream.describe` by name.
    growth : dict or None
        Result of `cost.growth`.
    path : path
        PNG or SVG file.
    """
    mpl.use("Agg")
    streams = by_stream(entries)
    lines = -(-len(streams) // _COLUMNS)
    heights = [1.0] * lines + ([1.15] if growth else [])
    if not heights:
        return
    with plt.rc_context({"font.size": 9}):
        figure = plt.figure(figsize=(10.5, 2.5 * sum(heights) + 0.9), layout="constrained")
        grid = figure.add_gridspec(len(heights), _COLUMNS, height_ratios=heights)
        for number, (name, row) in enumerate(streams.items()):
            ax = figure.add_subplot(grid[number // _COLUMNS, number % _COLUMNS])
            _draw_stream(ax, name, row, facts[name])
        if growth:
            _draw_growth(figure.add_subplot(grid[-1, :]), growth)
        if streams:
            figure.legend(*_legend(figure.axes), loc="outside upper center", ncols=9, frameon=False)
        figure.supxlabel(_CAPTION, fontsize=8.5, color=_QUIET, x=0.01, ha="left")
        figure.savefig(path, dpi=150, facecolor="white")
        plt.close(figure)


def _legend(axes: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    found = {
        label: handle
        for ax in axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        if label in _STYLES
    }
    names = [name for name in _STYLES if name in found]
    return [found[name] for name in names], names


def _draw_stream(ax: Axes, name: str, row: Mapping[str, Entry], facts: Mapping[str, Any]) -> None:
    """Draw the models of a stream; those above the floor are at the upper edge."""
    shown = {model: entry for model, entry in row.items() if model in _STYLES and entry.value is not None}
    losses = [entry.value for entry in shown.values() if entry.value is not None]
    possible = facts.get("best")
    low = min([*losses, *([] if possible is None else [possible])])
    floor = row.get(_FLOOR)
    high = max(losses) if floor is None or floor.value is None else floor.value
    high = max(high, low + 1e-6)
    for model, entry in shown.items():
        marker, colour, size = _STYLES[model]
        loss = high if entry.value is None else min(entry.value, high)
        order = 4 if colour == _ORANGE else 3
        ax.plot(
            min(max(1e6 / entry.samples_per_second, _MICROSECONDS[0]), _MICROSECONDS[1]),
            loss,
            marker,
            color=colour,
            markersize=size,
            label=model,
            zorder=order,
            clip_on=False,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linestyle="none",
        )
    if possible is not None:
        ax.axhline(possible, color=_QUIET, linewidth=0.9, linestyle="--", zorder=1)
    ours = row.get("BNP")
    if ours is not None and ours.value is not None:
        ax.axhline(ours.value, color=_ORANGE, linewidth=0.7, alpha=0.5, zorder=1)
    ax.set_xscale("log")
    ax.set_xlim(*_MICROSECONDS)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} µs"))
    ax.set_ylim(low - 0.06 * (high - low), high + 0.02 * (high - low))
    unit = "RMSE" if facts["metric"] == "RMSE" else "log loss"
    title = f"{name}: {facts['samples']:,} samples, {facts['values']:,} values"
    ax.set_title(title, loc="left", fontsize=9.5, color=_INK)
    ax.set_ylabel(unit, color=_QUIET, fontsize=8)
    _strip(ax)


def _draw_growth(ax: Axes, growth: Mapping[str, Any]) -> None:
    """Draw the time of each model by the number of values seen."""
    points = growth["points"]
    values = [point["values"] for point in points]
    for name, (colour, style) in _LINES.items():
        if name in points[0]["microseconds"]:
            times = [point["microseconds"][name] for point in points]
            ax.plot(values, times, style, color=colour, linewidth=1.8, label=f"{name} (growth)")
            ax.annotate(
                f" {name}",
                (values[-1], times[-1]),
                color=colour,
                va="center",
                fontsize=8.5,
                annotation_clip=False,
            )
    ax.set_ylim(0)
    ax.set_xlim(0, values[-1])
    title = f"{growth['stream']}: processor time of a sample in µs by the number of values seen"
    ax.set_title(title, loc="left", fontsize=9.5, color=_INK)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _strip(ax)


def _strip(ax: Axes) -> None:
    """Remove spines and ticks."""
    ax.minorticks_off()
    ax.grid(color=_FAINT, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    ax.tick_params(length=0, labelcolor=_QUIET, labelsize=8)
