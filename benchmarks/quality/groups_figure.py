"""Figure of the streams in groups: the error of each model over that of the first generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from ..common.generated import GROUPS
from .summary import Entry

_OURS, _INK, _QUIET, _FAINT = "#c2410c", "#0f172a", "#64748b", "#e2e8f0"
_RIVALS = (("s", "#1d4ed8"), ("^", "#94a3b8"))
_LIMITS = (0.25, 4.0)
_CAPTION = (
    "Wrong predictions, or MAE (marked ~), relative to the first generation (line at 1); left is better. "
    "Markers at an edge are at or beyond it. KNN* is the best of four settings on each stream, in hindsight."
)


def draw(entries: Sequence[Entry], facts: Mapping[str, Any], baseline: str, path: Path) -> None:
    """Draw a panel for each group, with a row for each stream and a marker for each model.

    Parameters
    ----------
    entries : list of Entry
        Result of `summarize`.
    facts : dict
        `Stream.describe` by name.
    baseline : str
        The model at 1.
    path : path
        PNG or SVG file.
    """
    mpl.use("Agg")
    by_stream: dict[str, dict[str, Entry]] = {}
    for entry in entries:
        by_stream.setdefault(entry.stream, {})[entry.model] = entry
    panels = {
        group: {name: found for name, found in by_stream.items() if facts[name].get("group") == group}
        for group in GROUPS
    }
    panels = {group: found for group, found in panels.items() if found}
    if not panels:
        return
    longest = max(map(len, panels.values()))
    with plt.rc_context({"font.size": 9}):
        figure, axes = plt.subplots(
            1,
            len(panels),
            figsize=(4.2 * len(panels), 0.19 * longest + 1.2),
            squeeze=False,
            layout="constrained",
        )
        for ax, (group, found) in zip(axes[0], panels.items(), strict=True):
            _draw_group(ax, group, found, baseline)
            ax.set_ylim(longest - 0.4, -0.6)
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False)
        figure.supxlabel(_CAPTION, fontsize=8.5, color=_QUIET, x=0.01, ha="left")
        figure.savefig(path, dpi=150, facecolor="white")
        plt.close(figure)


def _draw_group(ax: Axes, group: str, streams: Mapping[str, Mapping[str, Entry]], baseline: str) -> None:
    models = list(dict.fromkeys(model for found in streams.values() for model in found if model != baseline))
    low, high = _LIMITS
    ax.axvline(1, color=_QUIET, linewidth=0.9)
    for number, model in enumerate(models):
        marker, colour = ("o", _OURS) if number == 0 else _RIVALS[(number - 1) % len(_RIVALS)]
        ratios = [_ratio(found.get(model), found.get(baseline)) for found in streams.values()]
        shown = [(min(max(ratio, low), high), i) for i, ratio in enumerate(ratios) if ratio is not None]
        ax.plot(
            [ratio for ratio, _ in shown],
            [place for _, place in shown],
            marker,
            color=colour,
            markersize=6 if number == 0 else 4.5,
            label=model,
            zorder=3 - number,
            clip_on=False,
        )
    names = [f"{name} ~" if _metric(found) == "MAE" else name for name, found in streams.items()]
    ax.set_yticks(range(len(names)), names, color=_INK)
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    ax.set_xticks([0.25, 0.5, 1, 2, 4], ["¼", "½", "1", "2", "4"])
    ax.minorticks_off()
    ax.tick_params(axis="x", labeltop=True, labelbottom=False, labelcolor=_QUIET)
    ax.grid(axis="y", color=_FAINT, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.set_title(f"{group}: {len(streams)} streams", loc="left", fontsize=10.5, color=_INK)
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    ax.tick_params(length=0)


def _metric(found: Mapping[str, Entry]) -> str:
    return next(iter(found.values())).metric


def _ratio(entry: Entry | None, baseline: Entry | None) -> float | None:
    """Return the error relative to that of the baseline; None if either is unknown."""
    if entry is None or baseline is None or entry.value is None or baseline.value is None:
        return None
    if entry.metric == "MAE":
        return entry.value / baseline.value
    return (1.0 - entry.value) / max(1.0 - baseline.value, 1e-9)
