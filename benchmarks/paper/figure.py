"""Figures of the paper's experiments: curves of each method, with the range of its seeds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from .claims import Curves

_INK, _QUIET = "#0f172a", "#64748b"
#: Ours warm, the others cool; those on top of a normalization layer dashed.
_STYLES = {
    "SGD": ("#64748b", "-"),
    "BN": ("#1d4ed8", "-"),
    "LayerNorm": ("#0f766e", "-"),
    "GroupNorm": ("#0f766e", "-"),
    "BNP": ("#c2410c", "-"),
    "LayerNorm + BNP": ("#d97706", "--"),
    "GroupNorm + BNP": ("#d97706", "--"),
}


def draw(panels: Mapping[int, Mapping[str, Mapping[str, Curves]]], path: Path) -> None:
    """Draw a column for each mini-batch, and for each setting a row of training losses and one of accuracies.

    Parameters
    ----------
    panels : dict
        Curves by size of the mini-batch, setting and method.
    path : path
        PNG or SVG file.
    """
    mpl.use("Agg")
    settings = list(dict.fromkeys(name for of in panels.values() for name, curves in of.items() if curves))
    with plt.rc_context({"font.size": 8.5, "axes.edgecolor": _QUIET}):
        size = (3.0 * len(panels) + 0.4, 3.3 * len(settings) + 0.7)
        figure, grid = plt.subplots(
            2 * len(settings), len(panels), figsize=size, layout="constrained", squeeze=False
        )
        for i, setting in enumerate(settings):
            losses, accuracies = grid[2 * i], grid[2 * i + 1]
            for loss, accuracy, of in zip(losses, accuracies, panels.values(), strict=True):
                _draw_loss(loss, of.get(setting, {}))
                _draw_accuracy(accuracy, of.get(setting, {}))
            losses[0].set_ylabel(f"{setting}\ntraining loss", color=_INK)
            accuracies[0].set_ylabel(f"{setting}\ntest accuracy, %", color=_INK)
        for top, bottom, batch in zip(grid[0], grid[-1], panels, strict=True):
            top.set_title(f"mini-batch {batch}", fontsize=9.5, color=_INK)
            bottom.set_xlabel("epochs")
        lines = {line.get_label(): line for ax in grid.flat for line in ax.get_lines()}
        figure.legend(
            lines.values(), lines.keys(), loc="outside upper center", ncols=len(lines), frameon=False
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, facecolor="white")
        plt.close(figure)


def _draw_loss(ax: Axes, of: Mapping[str, Curves]) -> None:
    for method, curves in of.items():
        if curves.rate is not None:
            _band(ax, method, curves.epochs[1:], curves.mean_loss[1:], [seed[1:] for seed in curves.loss])
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    _quiet(ax)


def _draw_accuracy(ax: Axes, of: Mapping[str, Curves]) -> None:
    lowest = []
    for method, curves in of.items():
        if curves.rate is not None:
            seeds = [[100.0 * value for value in seed] for seed in curves.accuracy]
            _band(ax, method, curves.epochs, [100.0 * value for value in curves.mean_accuracy], seeds)
            lowest.append(100.0 * curves.mean_accuracy[len(curves.epochs) // 3])
    top = max((100.0 * max(curves.mean_accuracy) for curves in of.values()), default=100.0)
    if lowest:  # the start, at chance, would leave no room for what is to be compared
        ax.set_ylim(max(0.0, min(lowest) - 2.0), top + 1.0)
    _quiet(ax)


def _band(ax: Axes, method: str, epochs: list[float], mean: list[float], seeds: list[list[float]]) -> None:
    colour, style = _STYLES[method]
    ax.plot(epochs, mean, style, color=colour, linewidth=1.4, label=method)
    low, high = ([pick(of) for of in zip(*seeds, strict=True)] for pick in (min, max))
    ax.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)


def _quiet(ax: Axes) -> None:
    ax.set_xlim(left=0.0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=7.5, colors=_INK, which="both")
    ax.grid(color="#e2e8f0", linewidth=0.6)
