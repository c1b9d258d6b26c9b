"""Figures of docs/algorithm.md: a drawing of the learner, and curves from generated streams.

The curves illustrate the method. The quality benchmark compares on real streams.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from bnp_online import BNPClassifier

from . import learner_figure, stage_figure

Array = NDArray[np.float64]

_OURS, _RIVAL, _INK, _QUIET = "#c2410c", "#1d4ed8", "#0f172a", "#64748b"
_RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 0.6)
_FEATURES, _CLASSES, _WINDOW = 20, 4, 500


@dataclass(frozen=True)
class Stream:
    """Rows and the class of each."""

    X: Array
    y: NDArray[np.int64]


def uneven(samples: int, seed: int = 0, changes: int = 0) -> Stream:
    """Return a stream whose features differ in scale and are far from centred.

    Parameters
    ----------
    samples : int
        Length of the stream.
    seed : int
        Seed of the rows, and of a network of 20 hidden units whose largest output is the class.
    changes : int
        Number of permutations of the classes, at even distances.
    """
    rng = np.random.default_rng(seed)
    Z = rng.standard_normal((samples, _FEATURES))
    inner, outer = rng.standard_normal((_FEATURES, 20)), rng.standard_normal((20, _CLASSES))
    y = (np.tanh(Z @ inner) @ outer).argmax(axis=1)
    y = (y + np.arange(samples) * (changes + 1) // samples) % _CLASSES
    scale = 10.0 ** rng.uniform(-1.0, 1.0, _FEATURES)
    return Stream(scale * (Z + rng.uniform(-3.0, 3.0, _FEATURES)), y)


def standardized(X: Array) -> Array:
    """Return each row standardized by the moments of the rows up to and including it."""
    count = np.arange(1, len(X) + 1)[:, None]
    mean = X.cumsum(axis=0) / count
    spread = np.sqrt((np.square(X).cumsum(axis=0) / count - np.square(mean)).clip(min=1e-12))
    even: Array = ((X - mean) / spread).clip(-5.0, 5.0)
    return even


def plain(X: Array, y: NDArray[np.int64], rate: float) -> Array:
    """Return 1 for each correct prediction of plain SGD; 0 after it diverges."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(_FEATURES, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, _CLASSES)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=rate)
    rows, labels = torch.from_numpy(X).float(), torch.from_numpy(y)
    right = np.zeros(len(y))
    for i in range(len(y)):
        out = network(rows[i : i + 1])
        loss = F.cross_entropy(out, labels[i : i + 1])
        if not loss.isfinite():
            break
        right[i] = int(out.argmax()) == y[i]
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
    return right


def ours(stream: Stream, model: BNPClassifier) -> Array:
    """Return 1 for each correct prediction of a learner."""
    right = np.zeros(len(stream.y))
    for i, (x, y) in enumerate(zip(stream.X, stream.y.tolist(), strict=True)):
        right[i] = model.predict_one(x) == y
        model.learn_one(x, y)
    return right


def windowed(right: Array) -> Array:
    """Return the accuracy in % over the latest samples, at each sample."""
    total = np.concatenate([[0.0], right.cumsum()])
    end = np.arange(1, len(right) + 1)
    begin = (end - _WINDOW).clip(min=0)
    shares: Array = 100.0 * (total[end] - total[begin]) / (end - begin)
    return shares


def one_member(rate: float = 0.3, *, standardize: bool = True) -> BNPClassifier:
    """Return a learner with one member."""
    shape = (_FEATURES,)
    return BNPClassifier(lr=rate, replay=0, input_shape=shape, device="cpu", standardize=standardize)


def sides(stream: Stream) -> dict[str, dict[float, Array]]:
    """Return the correct predictions by side and rate."""
    even = standardized(stream.X)
    return {
        "BNP, standardized inputs": {rate: ours(stream, one_member(rate)) for rate in _RATES},
        "BNP, raw inputs": {rate: ours(stream, one_member(rate, standardize=False)) for rate in _RATES},
        "SGD, standardized inputs": {rate: plain(even, stream.y, rate) for rate in _RATES},
        "SGD, raw inputs": {rate: plain(stream.X, stream.y, rate) for rate in _RATES},
    }


def draw_curves(path: Path, samples: int) -> None:
    """Draw the accuracy of plain SGD and of one BNP member: over time at the best rate, and by rate."""
    lines = [(_OURS, "-"), (_OURS, "--"), (_RIVAL, "-"), (_RIVAL, "--")]
    with _style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 3.5), sharey=True, layout="constrained")
        for (label, runs), (colour, line) in zip(sides(uneven(samples)).items(), lines, strict=True):
            best = max(runs, key=lambda rate: runs[rate].mean())
            shown = windowed(runs[best])[_WINDOW // 5 :: 20]
            left.plot(np.arange(len(shown)) * 20 + _WINDOW // 5, shown, line, color=colour, lw=1.5)
            means = [100.0 * runs[rate].mean() for rate in _RATES]
            right.plot(_RATES, means, f"o{line}", color=colour, ms=4, lw=1.5, label=label)
            print(
                f"{label}:", *(f"{mean:.1f}% at {rate:g}" for mean, rate in zip(means, _RATES, strict=True))
            )
        left.set_xlabel("samples; each at its best rate", color=_QUIET)
        left.set_ylabel(f"accuracy, %, last {_WINDOW}", color=_QUIET)
        right.set_xscale("log")
        right.set_xticks(_RATES, [f"{rate:g}" for rate in _RATES])
        right.minorticks_off()
        right.set_xlabel("learning rate; accuracy over the whole stream", color=_QUIET)
        figure.legend(loc="outside upper center", ncols=4, frameon=False)
        _finish(figure, [left, right], path)


def draw_mixture(path: Path, samples: int) -> None:
    """Draw the weights of the experts over a stream whose classes are permuted twice."""
    stream = uneven(samples, changes=2)
    model = BNPClassifier(input_shape=(_FEATURES,), device="cpu")
    weights = []
    for i, (x, y) in enumerate(zip(stream.X, stream.y.tolist(), strict=True)):
        model.learn_one(x, y)
        if i % 20 == 0:
            weights.append([expert["weight"] for expert in model.mixture])
    colours = _expert_colours([_kind(expert) for expert in model.mixture])
    labels = [expert["expert"] for expert in model.mixture]
    with _style():
        figure, ax = plt.subplots(figsize=(8.6, 3.9), layout="constrained")
        ax.stackplot(np.arange(len(weights)) * 20, np.transpose(weights), labels=labels, colors=colours)
        for change in (1, 2):
            ax.axvline(change * samples / 3, color=_INK, lw=1.0, ls=":")
        ax.set_xlabel("samples", color=_QUIET)
        ax.set_ylabel("weight", color=_QUIET)
        ax.set_xlim(0, samples)
        ax.set_ylim(0, 1)
        handles, names = ax.get_legend_handles_labels()
        figure.legend(handles[::-1], names[::-1], loc="outside right center", frameon=False)
        _finish(figure, [ax], path)


def _kind(expert: Mapping[str, Any]) -> str:
    """Return the kind of an expert, with networks that replay as a kind of their own."""
    return "replay" if expert["replay"] else str(expert["kind"])


def _expert_colours(kinds: Sequence[str]) -> list[Any]:
    """Return a colour for each expert: a hue by kind, a shade by place."""
    hues = {"network": "Oranges", "replay": "Blues", "linear": "Greens", "neighbours": "Purples"}
    hues["bins"] = "Greys"
    colours: list[Any] = []
    for place, kind in enumerate(kinds):
        number, of_kind = kinds[:place].count(kind), kinds.count(kind)
        shade = 0.35 + 0.5 * number / max(of_kind - 1, 1)
        colours.append(plt.get_cmap(hues[kind])(shade) if kind in hues else _QUIET)
    return colours


def draw_columns(path: Path, samples: int) -> None:
    """Draw the mean squares of the columns of each layer's inputs, before and after preconditioning."""
    model = one_member(standardize=False)
    ours(uneven(samples), model)
    layers = [each for each in model.diagnose() if each.name != "inputs"]
    with _style():
        figure, axes = plt.subplots(1, len(layers), figsize=(8.0, 3.1), sharey=True, layout="constrained")
        for number, (ax, layer) in enumerate(zip(axes, layers, strict=True), start=1):
            place = np.linspace(0, 1, len(layer.sizes_before))
            ax.plot(place, layer.sizes_before, "o-", color=_QUIET, ms=3, lw=1.2, label="before: as they are")
            ax.plot(
                place,
                layer.sizes_after,
                "o-",
                color=_OURS,
                ms=3,
                lw=1.2,
                label="after: as the step sees them",
            )
            ax.set_yscale("log")
            ax.set_title(f"layer {number}: {layer.before:,.0f} → {layer.after:,.1f}", loc="left", color=_INK)
            ax.set_xticks([])
            ax.set_xlabel("columns, sorted", color=_QUIET)
        axes[0].set_ylabel("mean square of a column", color=_QUIET)
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper right", ncols=2, frameon=False)
        _finish(figure, list(axes), path)


def _style() -> AbstractContextManager[None]:
    """Return a style with which equal figures give equal files."""
    return plt.rc_context({"font.size": 9, "svg.fonttype": "path", "svg.hashsalt": "bnp"})


def _finish(figure: Figure, axes: list[Axes], path: Path) -> None:
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelcolor=_QUIET, length=0)
        ax.grid(axis="y", color="#e2e8f0", linewidth=0.8)
        ax.set_axisbelow(True)
    figure.savefig(path, facecolor="white", metadata={"Date": None})
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Draw all figures, and print the accuracy of each side at each rate."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks explain", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of the figures")
    parser.add_argument("--samples", type=int, default=6000, help="length of each stream")
    arguments = parser.parse_args(argv)
    mpl.use("Agg")
    torch.set_num_threads(1)
    with _style():
        learner_figure.draw(arguments.out / "learner.svg")
        stage_figure.draw(arguments.out / "stage.svg")
        stage_figure.draw_curves(arguments.out / "values.svg", 10 * arguments.samples)
    draw_curves(arguments.out / "curves.svg", arguments.samples)
    draw_mixture(arguments.out / "mixture.svg", arguments.samples)
    draw_columns(arguments.out / "columns.svg", arguments.samples)
