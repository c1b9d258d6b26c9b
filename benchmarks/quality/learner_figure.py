"""Drawing of the default learner: sample, experts, hedge, stack, prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from bnp_online.engines.base import LearnerSpec

_INK, _QUIET = "#0f172a", "#64748b"
_NETWORKS, _LINEAR, _NEIGHBOURS, _MEMORY, _MIX = "#fed7aa", "#bbf7d0", "#ddd6fe", "#e2e8f0", "#bfdbfe"
_AFTER = (
    "Then the label arrives: hedges and stack judge each expert by its prediction,\n"
    "the networks and linear models take a step, and the memory keeps the sample."
)


def box(ax: Axes, x: float, y: float, size: tuple[float, float], colour: str, texts: Sequence[str]) -> None:
    """Draw a box around a centre: a title, and lines below it."""
    width, height = size
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.08", fc=colour, ec="none")
    )
    title, *lines = texts
    top = y + 0.13 * len(lines)
    ax.text(x, top, title, ha="center", va="center", color=_INK, fontweight="bold")
    for number, line in enumerate(lines, start=1):
        ax.text(x, top - 0.26 * number, line, ha="center", va="center", color=_INK, fontsize=8)


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow."""
    ax.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=10, shrinkA=0, shrinkB=0, color=_INK, linewidth=1.1
        )
    )


def _rates(rates: Sequence[float | None]) -> str:
    return ", ".join(f"{rate:g}" for rate in dict.fromkeys(rates) if rate is not None)


def draw(path: Path) -> None:
    """Draw the default classifier, with its rates and windows.

    Parameters
    ----------
    path : path
        SVG or PNG file.
    """
    spec = LearnerSpec(task="classification")
    networks, neighbours = spec.members, [each for each in spec.experts if each.kind == "neighbours"]
    votes = list(dict.fromkeys(f"{each.neighbours} of {each.window:,}" for each in neighbours))
    figure, ax = plt.subplots(figsize=(9.6, 3.9), layout="constrained")
    box(ax, 0.85, 3.15, (1.5, 0.75), _MEMORY, ["sample", "numbers, words"])
    box(ax, 0.85, 1.85, (1.5, 1.0), _MEMORY, ["inputs", "absurd values clipped,", "standardized"])
    of_networks = [
        f"{len(networks)} networks",
        f"plain: rates {_rates([each.rate for each in networks if not each.replays])}",
        f"replaying: rates {_rates([each.rate for each in networks if each.replays])}",
        "by the last weights, and by their mean",
    ]
    box(ax, 3.6, 3.2, (2.9, 1.25), _NETWORKS, of_networks)
    linear = [f"{len(spec.linear)} linear models, and one of bins", f"rates {_rates(spec.linear)}"]
    box(ax, 3.6, 2.0, (2.9, 0.7), _LINEAR, linear)
    of_neighbours = ["nearest neighbours", "; ".join(votes), "by all inputs, and by what the network uses"]
    box(ax, 3.6, 0.9, (2.9, 0.95), _NEIGHBOURS, of_neighbours)
    box(ax, 0.85, 0.5, (1.5, 0.75), _MEMORY, ["memory", f"last {spec.memory:,} samples"])
    box(ax, 6.5, 2.75, (1.75, 0.95), _MIX, ["hedge", "mean, weighted", "by past losses"])
    box(ax, 6.5, 1.25, (1.75, 0.95), _MIX, ["stack", "combination learned", "by Newton steps"])
    box(ax, 8.75, 2.0, (1.5, 0.95), _MIX, ["hedge of both", "= prediction"])
    arrow(ax, (0.85, 2.75), (0.85, 2.37))
    for end in (3.2, 2.0, 1.15):
        arrow(ax, (1.6, 1.85), (2.13, end))
    arrow(ax, (0.85, 1.33), (0.85, 0.9))
    arrow(ax, (1.6, 0.5), (2.13, 0.75))
    for start in (3.2, 2.0, 0.9):
        for end in (2.75, 1.25):
            arrow(ax, (5.05, start), (5.6, end))
    arrow(ax, (6.5, 2.27), (6.5, 1.75))
    arrow(ax, (7.38, 2.75), (7.98, 2.2))
    arrow(ax, (7.38, 1.25), (7.98, 1.8))
    ax.text(4.8, -0.15, _AFTER, ha="center", va="center", color=_QUIET, fontsize=8.5)
    ax.set_xlim(0.0, 9.6)
    ax.set_ylim(-0.4, 3.9)
    ax.axis("off")
    figure.savefig(path, facecolor="white", metadata={"Date": None})
    plt.close(figure)
