"""Drawing for the choice of a deployment: what one process lacks, and what provides it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt

from ..quality.learner_figure import arrow, box

_INK, _QUIET = "#0f172a", "#64748b"
_PROCESS, _NEED, _NODE, _STARTER = "#e2e8f0", "#fef08a", "#bbf7d0", "#bfdbfe"
#: What one process lacks, and the nodes that provide it.
_CHOICES = (
    (["more models, or more", "samples of many models"], ["owners", "share the models"]),
    (["more predictions"], ["replicas", "predict, lag by a fraction of a second"]),
    (["the service continues", "when a machine fails"], ["standbys", "predict, and take over from an owner"]),
    (
        ["no sample is lost", "with a disk"],
        ["synchronous replica of PostgreSQL", "has each acknowledged sample"],
    ),
)
_FEW = "One model has one owner: a second machine does not make one model learn faster."


def draw(path: Path) -> None:
    """Draw the choices.

    Parameters
    ----------
    path : path
        SVG or PNG file.
    """
    figure, ax = plt.subplots(figsize=(9.6, 4.3), layout="constrained")
    box(ax, 0.95, 2.2, (1.7, 1.3), _PROCESS, ["one process", "SQLite,", "all models,", "one machine"])
    starters = ["started by", "Compose", "systemd", "Kubernetes", "Ray"]
    box(ax, 8.75, 2.2, (1.6, 1.9), _STARTER, starters)
    for number, (need, nodes) in enumerate(_CHOICES):
        y = 3.75 - 1.03 * number
        title, *lines = need
        box(ax, 3.2, y, (2.0, 0.78), _NEED, [title, *lines])
        box(ax, 6.05, y, (2.9, 0.78), _NODE, nodes)
        arrow(ax, (1.8, 2.2), (2.18, y))
        arrow(ax, (4.2, y), (4.58, y))
        arrow(ax, (7.5, y), (7.93, 2.2 + 0.55 * (y - 2.2)))
    ax.text(0.95, 3.75, "What is missing?", ha="center", va="center", color=_INK, fontweight="bold")
    ax.text(4.8, -0.15, _FEW, ha="center", va="center", color=_QUIET, fontsize=8.5)
    ax.set_xlim(0.0, 9.6)
    ax.set_ylim(-0.4, 4.25)
    ax.axis("off")
    figure.savefig(path, facecolor="white", metadata={"Date": None})
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the figure of the page."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks choices", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of the figure")
    arguments = parser.parse_args(argv)
    mpl.use("Agg")
    with plt.rc_context({"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "bnp"}):
        draw(arguments.out / "choices.svg")
