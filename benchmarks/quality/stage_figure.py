"""Figures of the sparse stage: a drawing of its parts, and curves from generated streams."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from bnp_online import BNPClassifier
from bnp_online.sparse.constants import MOST_ONE_HOT, PRIOR, RATES

from ..sparse import generated
from .learner_figure import arrow, box

_INK, _QUIET = "#0f172a", "#64748b"
_TABLE, _LEARNER, _LINEAR, _COLUMNS, _MIX = "#e2e8f0", "#fed7aa", "#bbf7d0", "#fef08a", "#bfdbfe"
_ORANGE, _GREEN, _BLUE = "#c2410c", "#15803d", "#1d4ed8"
_AFTER = (
    "Then the label arrives: the values and the pairs of the sample count it, and both groups take a step.\n"
    "A value that was never seen has no row yet, and adds exactly 0."
)
#: Values of the left panel: share of the samples that have it, and its log odds.
_VALUES = ((0.2, 1.2), (0.02, -1.0), (0.003, 0.5))
#: Parts of the right panel.
_PARTS = ("network with evidence", "linear members", "pair members", "prediction")
#: Samples over which the right panel averages a loss, and between two points.
_WINDOW, _EVERY = 4000, 200


def draw(path: Path) -> None:
    """Draw the parts of the stage, with the rates of the code.

    Parameters
    ----------
    path : path
        SVG or PNG file.
    """
    figure, ax = plt.subplots(figsize=(9.6, 4.1), layout="constrained")
    box(ax, 0.85, 2.1, (1.5, 1.2), _TABLE, ["sample", "strings", "words, counts", "numbers"])
    box(ax, 2.95, 2.65, (1.7, 1.05), _TABLE, ["row of each value", "counts by class,", "weights"])
    box(ax, 2.95, 0.85, (1.7, 1.05), _TABLE, ["row of each pair", "counts by class,", "weights"])
    box(ax, 5.15, 3.35, (1.75, 0.85), _COLUMNS, ["evidence columns", "log odds, counts"])
    rates = ", ".join(f"{rate:g}" for rate in RATES)
    box(ax, 5.15, 2.1, (1.75, 0.85), _LINEAR, ["linear members", f"rates {rates}"])
    box(ax, 5.15, 0.85, (1.75, 0.85), _LINEAR, ["pair members", f"rates {rates}"])
    box(ax, 7.05, 3.35, (1.35, 0.85), _LEARNER, ["mixture", "of networks, …"])
    box(ax, 8.7, 2.1, (1.7, 1.05), _MIX, ["hedge and stack", "= prediction"])
    arrow(ax, (1.6, 2.3), (2.1, 2.55))
    arrow(ax, (2.95, 2.12), (2.95, 1.38))
    arrow(ax, (3.8, 2.9), (4.27, 3.2))
    arrow(ax, (3.8, 2.45), (4.27, 2.2))
    arrow(ax, (3.8, 0.85), (4.27, 0.85))
    arrow(ax, (3.5, 1.38), (4.5, 2.92))
    arrow(ax, (5.15, 1.67), (5.15, 1.28))
    arrow(ax, (6.03, 3.35), (6.37, 3.35))
    arrow(ax, (7.73, 3.2), (8.3, 2.63))
    arrow(ax, (6.03, 2.1), (7.85, 2.1))
    arrow(ax, (6.03, 0.85), (8.3, 1.57))
    ax.plot([0.85, 0.85], [2.7, 4.0], color=_INK, linewidth=1.1)
    ax.plot([0.85, 7.05], [4.0, 4.0], color=_INK, linewidth=1.1)
    arrow(ax, (7.05, 4.0), (7.05, 3.78))
    over = f"numbers, their logarithms, and a column for each of the first {MOST_ONE_HOT} values of a field"
    ax.text(3.95, 4.1, over, ha="center", va="bottom", color=_INK, fontsize=8)
    ax.text(4.8, 0.0, _AFTER, ha="center", va="center", color=_QUIET, fontsize=8.5)
    ax.set_xlim(0.0, 9.6)
    ax.set_ylim(-0.3, 4.35)
    ax.axis("off")
    figure.savefig(path, facecolor="white", metadata={"Date": None})
    plt.close(figure)


def evidence(share: float, odds: float, samples: int, seed: int) -> NDArray[np.float64]:
    """Return the evidence of a value for a class that a third of the samples have, at each sample.

    Parameters
    ----------
    share : float
        Share of the samples that have the value.
    odds : float
        Log odds of the class with the value, less those without it.
    samples, seed : int
        Length of the stream; seed.
    """
    rng = np.random.default_rng(seed)
    p = 1.0 / 3.0
    of_value = 1.0 / (1.0 + math.exp(-odds - math.log(p / (1.0 - p))))
    seen = rng.random(samples) < share
    of_class = seen & (rng.random(samples) < of_value)
    n, n_c = seen.cumsum(), of_class.cumsum()
    found: NDArray[np.float64] = np.log((n_c + PRIOR * p) / (n - n_c + PRIOR * (1.0 - p)))
    return found - math.log(p / (1.0 - p))


def losses(samples: int) -> Mapping[str, NDArray[np.float64]]:
    """Return the losses of the parts of a learner, and of its prediction, on generated pairs of values."""
    draw_of = generated.pairs(samples)
    model = BNPClassifier(seed=0, replay=0)
    found = []
    for i, y in enumerate(draw_of.targets):
        x = draw_of.features(i)
        experts, p = model.predict_experts_one(x), model.predict_proba_one(x)
        if experts is not None and len(p) == 2:
            column = experts.labels.index(y)
            parts = [experts.values[k, column] for k in (*_network(model), -2, -1)]
            found.append([-math.log(max(float(each), 1e-9)) for each in (*parts, p[y])])
        model.learn_one(x, y)
    return dict(zip(_PARTS, np.array(found).reshape(-1, len(_PARTS)).T, strict=True))


def _network(model: BNPClassifier) -> Sequence[int]:
    """Return the place of the averaged network among the experts."""
    return [k for k, each in enumerate(model.mixture) if each["kind"] == "network" and each["averages"]][:1]


def draw_curves(path: Path, samples: int) -> None:
    """Draw the evidence of three values, and the losses of the parts of the stage.

    Parameters
    ----------
    path : path
        SVG or PNG file.
    samples : int
        Length of the streams.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.4, 3.5), layout="constrained")
    for seed, ((share, odds), colour) in enumerate(zip(_VALUES, (_ORANGE, _BLUE, _GREEN), strict=True)):
        curve = evidence(share, odds, samples, seed)
        left.plot(
            np.arange(1, samples + 1), curve, color=colour, lw=1.5, label=f"in {100 * share:g}% of samples"
        )
        left.axhline(odds, color=colour, lw=0.9, ls=":")
    left.set_xscale("log")
    left.set_xlabel("samples (dotted: true log odds)", color=_QUIET)
    left.set_ylabel("evidence of a value", color=_QUIET)
    left.set_ylim(-1.6, 2.1)
    left.legend(frameon=False, loc="upper left")
    colours = (_QUIET, _GREEN, _BLUE, _ORANGE)
    for (name, of), colour in zip(losses(samples).items(), colours, strict=True):
        means = [of[max(end - _WINDOW, 0) : end].mean() for end in range(_EVERY, len(of) + 1, _EVERY)]
        right.plot(np.arange(1, len(means) + 1) * _EVERY, means, color=colour, lw=1.5, label=name)
        print(f"{name}: log loss {of.mean():.4f}")
    right.set_xlabel(f"samples; mean over the last {_WINDOW:,}", color=_QUIET)
    right.set_ylabel("log loss", color=_QUIET)
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    right.legend(frameon=False, loc="upper right")
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelcolor=_QUIET, length=0)
        ax.grid(axis="y", color="#e2e8f0", linewidth=0.8)
        ax.set_axisbelow(True)
    figure.savefig(path, facecolor="white", metadata={"Date": None})
    plt.close(figure)
