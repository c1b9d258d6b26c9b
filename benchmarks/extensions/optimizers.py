"""Optimizers and regularizers on top of BNP, at one sample a step.

Optimizers (momentum, Nesterov, Adam) take the preconditioned gradient; regularizers act on the weights
through P (L2), beside it (decoupled decay), or on the intrinsic parameters ``z = P⁻¹ŵ``. A gradient step on
``λ/2 ‖z‖²`` with rate h/q² takes ``h λ/q² · z`` from z and so, times P, ``h λ/q² · ŵ`` from ŵ = [b, W]: for a
fixed P it is exactly decoupled decay of weights and bias. (Its rate is h here, without q², as λ is chosen.)

References
----------
Q. Ye, *Preconditioning for accelerated gradient descent optimization and regularization*, arXiv 2410.00232.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from torch import nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)
from torch.optim import Optimizer

from bnp_online import BNP

from ..common import streams
from ..common.report import Cell, Table
from .program import Results, arguments_of, run

WIDTHS = (64, 64)
LIMIT = 1500
BASE = "BNP, SGD"
_PLAIN = (0.003, 0.01, 0.03, 0.1)
_SHAPED = (0.03, 0.1, 0.3, 1.0)
_MOVING = (0.003, 0.01, 0.03, 0.1)  # momentum 0.9 makes a rate ten times as much
_ADAM = (1e-4, 3e-4, 1e-3, 3e-3)


@dataclass(frozen=True)
class Variant:
    """Optimizer, with or without BNP, and regularizer.

    Attributes
    ----------
    make : callable
        Returns the optimizer of parameters at a rate.
    rates : tuple of float
        Rates; the best on a stream counts, in hindsight.
    shaped : bool
        Whether BNP transforms the gradient.
    decay : str
        ``"l2"``, ``"decoupled"`` or ``"intrinsic"``; with it a strength λ is chosen as well.
    """

    make: Callable[[Any, float], Optimizer]
    rates: tuple[float, ...]
    shaped: bool = True
    decay: str = ""


def _sgd(parameters: Any, rate: float, momentum: float = 0.0, nesterov: bool = False) -> Optimizer:
    return torch.optim.SGD(parameters, lr=rate, momentum=momentum, nesterov=nesterov)


def _adam(parameters: Any, rate: float) -> Optimizer:
    return torch.optim.Adam(parameters, lr=rate)


VARIANTS = {
    "SGD": Variant(_sgd, _PLAIN, shaped=False),
    "Adam": Variant(_adam, _ADAM, shaped=False),
    BASE: Variant(_sgd, _SHAPED),
    "BNP, momentum": Variant(lambda p, rate: _sgd(p, rate, 0.9), _MOVING),
    "BNP, Nesterov": Variant(lambda p, rate: _sgd(p, rate, 0.9, True), _MOVING),
    "BNP, Adam": Variant(_adam, _ADAM),
    "BNP, L2": Variant(_sgd, _SHAPED[1:3], decay="l2"),
    "BNP, decoupled": Variant(_sgd, _SHAPED[1:3], decay="decoupled"),
    "BNP, intrinsic": Variant(_sgd, _SHAPED[1:3], decay="intrinsic"),
}
STRENGTHS = (1e-4, 1e-3)


def decay_(model: nn.Module, kind: str, amount: float) -> None:
    """Apply a regularizer: before preconditioning to the gradients, or to the parameters themselves.

    Parameters
    ----------
    kind : {"l2", "decoupled", "intrinsic"}
        L2 of the weights, added to their gradients; decay of the weights; or of weights and biases.
    amount : float
        λ for L2; rate times λ for the others.
    """
    with torch.no_grad():
        for name, p in model.named_parameters():
            if kind != "intrinsic" and name.endswith("bias"):
                continue
            if kind != "l2":
                p.mul_(1.0 - amount)
            elif p.grad is not None:
                p.grad.add_(p, alpha=amount)


def standardized(matrix: NDArray[np.float64]) -> torch.Tensor:
    """Return rows standardized by the moments of the rows up to and including them, clipped to ±5."""
    count = np.arange(1, len(matrix) + 1)[:, None]
    mean = matrix.cumsum(0) / count
    var = np.maximum((matrix**2).cumsum(0) / count - mean**2, 0.0)
    scale = np.sqrt(np.where(var > 1e-12 * (1.0 + mean**2), var, np.inf))
    return torch.from_numpy(np.clip((matrix - mean) / scale, -5, 5)).float()


def accuracy(stream: streams.Stream, variant: Variant, rate: float, strength: float, seed: int) -> float:
    """Return the prequential accuracy in % of one pass, a sample a step; 0 if it diverged."""
    rows, labels = standardized(stream.matrix()), stream.labels
    targets = torch.tensor([labels.index(y) for y in stream.targets])
    torch.manual_seed(seed)
    sizes = (rows.shape[1], *WIDTHS)
    layers = [part for n, m in pairwise(sizes) for part in (nn.Linear(n, m), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(sizes[-1], len(labels)))
    pre = BNP(model, step_scale="norm") if variant.shaped else None
    optimizer = variant.make(model.parameters(), rate)
    right = 0
    for x, y in zip(rows, targets, strict=True):
        out = model(x[None])
        right += int(out.argmax() == y)
        optimizer.zero_grad()
        F.cross_entropy(out, y[None]).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if variant.decay == "l2":
            decay_(model, "l2", strength)
        if pre is not None:
            pre.step()
        if variant.decay in ("decoupled", "intrinsic"):
            decay_(model, variant.decay, rate * strength)
        optimizer.step()
    return 100.0 * right / len(rows) if bool(out.isfinite().all()) else 0.0


def measure(arguments: argparse.Namespace, console: Console) -> Results:
    """Return the best mean accuracy by stream and variant, with its rate and strength."""
    names = [name for name in arguments.streams if name not in streams.FILES or arguments.data_dir]
    length = 60 if arguments.quick else LIMIT
    results: Results = {}
    with Progress(console=console) as progress:
        task = progress.add_task("measuring", total=len(names) * len(VARIANTS))
        for name in names:
            stream = streams.load(name, length, arguments.data_dir)
            results[name] = {}
            for label, variant in VARIANTS.items():
                progress.update(task, description=f"{name}: {label}")
                results[name][label] = _best(stream, variant, arguments)
                progress.advance(task)
    return results


def _best(stream: streams.Stream, variant: Variant, arguments: argparse.Namespace) -> dict[str, Any]:
    rates = variant.rates[:1] if arguments.quick else variant.rates
    found = []
    for rate in rates:
        for strength in STRENGTHS if variant.decay else (0.0,):
            by_seed = [accuracy(stream, variant, rate, strength, seed) for seed in arguments.seeds]
            found.append((statistics.fmean(by_seed), rate, strength, by_seed))
    best, rate, strength, by_seed = max(found)
    near = [each for mean, each, *_ in found if mean >= best - 3.0]
    return {
        "accuracy": best,
        "rate": rate,
        "strength": strength,
        "by_seed": by_seed,
        "rates_within_3_points": sorted(set(near)),
        "all": [[rate, strength, mean] for mean, rate, strength, _ in found],
    }


def tables(results: Results) -> list[Table]:
    """Return a row for each variant: accuracy by stream, mean and difference to BNP with SGD."""
    rows = []
    of_stream = {name: max(v["accuracy"] for v in of.values()) for name, of in results.items()}
    means = {v: statistics.fmean(of[v]["accuracy"] for of in results.values()) for v in VARIANTS}
    for variant in VARIANTS:
        cells = [Cell(variant)]
        for name, of in results.items():
            value = of[variant]["accuracy"]
            cells.append(Cell(f"{value:.1f}", value >= of_stream[name] - 1e-9))
        cells.append(Cell(f"{means[variant]:.1f}", means[variant] >= max(means.values()) - 1e-9))
        cells.append(Cell(f"{means[variant] - means[BASE]:+.1f}"))
        rows.append(cells)
    title = (
        f"Prequential accuracy in %, one sample a step, the first {LIMIT:,} samples, two layers of 64, each "
        "variant at its best rate (and strength) in hindsight; mean over seeds."
    )
    return [Table(title, ["variant", *results, "mean", f"to {BASE}"], rows)]


def draw(results: Results, path: Path) -> None:
    """Draw the gain of each variant over BNP with SGD: a dot for each stream, a bar for the mean."""
    mpl.use("Agg")
    shown = [variant for variant in VARIANTS if variant != BASE]
    with plt.rc_context({"font.size": 9}):
        figure, ax = plt.subplots(figsize=(8.5, 3.8), layout="constrained")
        for place, variant in enumerate(reversed(shown)):
            gains = [of[variant]["accuracy"] - of[BASE]["accuracy"] for of in results.values()]
            colour = "#c2410c" if statistics.fmean(gains) > 0 else "#64748b"
            ax.barh(place, statistics.fmean(gains), height=0.5, color=colour, alpha=0.6)
            ax.plot(gains, [place] * len(gains), "o", color="#0f172a", markersize=3.5)
        ax.axvline(0.0, color="#0f172a", linewidth=0.8)
        ax.set_yticks(range(len(shown)), list(reversed(shown)))
        ax.set_xlabel(f"points of accuracy to {BASE}; bars: the mean, dots: {', '.join(results)}")
        ax.spines[["top", "right", "left"]].set_visible(False)
        figure.savefig(path, dpi=150, facecolor="white")
        plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("optimizers", __doc__, (0, 1, 2))
    known = ("digits", "Phishing", "Bananas", "ImageSegments", "MNIST")
    parser.add_argument("--streams", nargs="+", choices=known, default=list(known), metavar="NAME")
    parser.add_argument("--data-dir", type=Path, help="folder with mnist.npz; without it MNIST is left out")
    run("optimizers", parser.parse_args(argv), measure, tables, draw)
