"""Figure of the quality benchmark: mean rank of each model, and gain over the best rival."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from .summary import LEVEL, Entry, Gain, gains, mean_ranks
from .tables import format_gain, format_value

_OURS, _RIVAL, _INK, _FAINT = "#c2410c", "#64748b", "#0f172a", "#e2e8f0"
_UNITS = {"Accuracy": "points of accuracy", "MAE": "% of the error"}
_CAPTION = (
    "Test, then train, one pass. * the best of several settings on each stream, in hindsight.\n"
    "On the right, orange: the best, or within the shaded band of it; black ticks: single seeds."
)


def draw(entries: Sequence[Entry], ours: str, path: Path) -> None:
    """Draw the mean rank of every model, and the gain over the best rival of each stream.

    Parameters
    ----------
    entries : list of Entry
        Result of `summarize`.
    ours : str
        Name of the model to highlight.
    path : path
        PNG or SVG file.
    """
    mpl.use("Agg")
    ranks = mean_ranks(entries)
    by_metric = {metric: [g for g in gains(entries, ours) if g.ours.metric == metric] for metric in _UNITS}
    panels = {metric: found for metric, found in by_metric.items() if found}
    rows = max(len(ranks), sum(len(found) + 2.2 for found in panels.values()))
    with plt.rc_context({"font.size": 10}):
        figure = plt.figure(figsize=(10.5, 0.33 * rows + 1.0), layout="constrained")
        left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=(4, 6.5))[0]
        _draw_ranks(left.subplots(), ranks, ours, len({entry.stream for entry in entries}))
        if panels:
            heights = [len(found) + 0.6 for found in panels.values()]
            grid = right.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
            for ax, (metric, found) in zip(grid[:, 0], panels.items(), strict=True):
                _draw_gains(ax, metric, found)
        figure.supxlabel(_CAPTION, fontsize=8.5, color=_RIVAL, x=0.01, ha="left")
        figure.savefig(path, dpi=150, facecolor="white")
        plt.close(figure)


def _draw_ranks(ax: Axes, ranks: dict[str, float], ours: str, streams: int) -> None:
    """Draw a bar for each model, the best on top."""
    colours = [_OURS if model == ours else "#94a3b8" for model in ranks]
    places = list(range(len(ranks)))[::-1]
    ax.barh(places, list(ranks.values()), height=0.62, color=colours)
    for place, (model, rank) in zip(places, ranks.items(), strict=True):
        colour = _OURS if model == ours else _INK
        weight = "bold" if model == ours else "normal"
        ax.text(rank + 0.08, place, f"{rank:.1f}", va="center", color=colour, fontweight=weight)
    ax.set_yticks(places, list(ranks))
    for label, model in zip(ax.get_yticklabels(), ranks, strict=True):
        label.set_color(_OURS if model == ours else _INK)
        label.set_fontweight("bold" if model == ours else "normal")
    ax.set_xlim(0, 1.12 * max(ranks.values()))
    ax.set_xticks([])
    ax.set_title(f"Mean rank on {streams} streams (1 is best)", loc="left", fontsize=10.5, color=_INK)
    _strip(ax)


def _draw_gains(ax: Axes, metric: str, found: Sequence[Gain]) -> None:
    """Draw a bar for each stream, to the right where ours is better, with each of its seeds as a tick."""
    level = LEVEL[metric]
    shown = [-level, level, *(value for gain in found for value in (gain.gain, *gain.by_seed))]
    shown = [value for value in shown if isfinite(value)]
    span = max(shown) - min(shown)
    ax.axvspan(-level, level, color=_FAINT, zorder=0)
    ax.axvline(0, color=_RIVAL, linewidth=0.9)
    places = list(range(len(found)))[::-1]
    for place, gain in zip(places, found, strict=True):
        colour = _OURS if gain.level else _RIVAL
        if isfinite(gain.gain):
            ax.barh(place, gain.gain, height=0.5, color=colour)
            ax.plot(gain.by_seed, [place] * len(gain.by_seed), "|", color=_INK, markersize=9)
        rival = f"{gain.rival.model} {format_value(metric, gain.rival.value)}"
        note = f"{format_value(metric, gain.ours.value)}, {rival}"
        for text, x, side in ((format_gain(gain).removesuffix(" points"), 44, "right"), (note, 54, "left")):
            _beside(ax, text, place, x, side, _OURS if gain.level else _INK)
    ax.set_yticks(places, [gain.ours.stream for gain in found], color=_INK)
    ax.set_ylim(-0.6, len(found) - 0.4)
    ax.set_xlim(min(shown) - 0.05 * span, max(shown) + 0.05 * span)
    ax.tick_params(axis="x", labelcolor=_RIVAL, labelsize=9)
    title = f"Gain of {found[0].ours.model} over the best rival: {_UNITS[metric]} (shaded: within {level:g})"
    ax.set_title(title, loc="left", fontsize=10.5, color=_INK)
    _strip(ax)


def _beside(ax: Axes, text: str, place: float, x: float, side: str, colour: str) -> None:
    """Write to the right of the panel, so many points from its edge."""
    ax.annotate(
        text,
        (1.0, place),
        xycoords=("axes fraction", "data"),
        xytext=(x, 0),
        textcoords="offset points",
        ha=side,
        va="center",
        color=colour,
        fontweight="bold" if colour == _OURS else "normal",
    )


def _strip(ax: Axes) -> None:
    """Remove spines and ticks."""
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    ax.tick_params(length=0)
