"""Condition number of the Hessian during training.

A small network learns scikit-learn's digits with plain SGD, with batch normalization and with BNP, each at
its best of five rates. The program computes the condition of the Hessian over its range from all eigenvalues,
and beside it the online estimate of the server: the unevenness of a layer's inputs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # scikit-learn ships no types
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from bnp_online import BNP, RunningMoments
from bnp_online.diagnostics import diagnose_layer, spectrum

from ..common.program import Content, arguments_of, run
from ..common.report import Cell, Table

BATCH = 16
EPS_REL, EPS_ABS = 1e-2, 1e-4
METHODS = {"plain SGD": "#64748b", "BN": "#0e7490", "BNP": "#c2410c"}
RATES = (0.03, 0.1, 0.3, 1.0, 3.0)
#: The layer that the figure shows: the second, whose inputs are learned features.
LAYER = "second"


@dataclass(frozen=True)
class Point:
    """Figures at one step of training.

    Attributes
    ----------
    step : int
        Steps so far.
    loss : float
        Mean training loss over the samples of the Hessian.
    whole, layer : float
        Condition over the range of the Hessian that the method descends by, in all parameters and in those of
        the second layer: for BNP the preconditioned one.
    unevenness : float
        The online estimate for the second layer, from running moments: for BNP that of the preconditioned
        inputs.
    """

    step: int
    loss: float
    whole: float
    layer: float
    unevenness: float


def network(method: str, width: int) -> nn.Sequential:
    """Return two hidden layers with tanh, or with batch normalization before each tanh."""
    layers: dict[str, nn.Module] = {}
    for name, n in (("first", 64), ("second", width)):
        layers[name] = nn.Linear(n, width)
        if method == "BN":
            layers[f"{name} norm"] = nn.BatchNorm1d(width)
        layers[f"{name} tanh"] = nn.Tanh()
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    model.add_module("head", nn.Linear(width, 10))
    return model


@dataclass(frozen=True)
class Problem:
    """The first digits (pixels in [0, 1] and labels), and the width of the network."""

    X: Tensor
    y: Tensor
    width: int

    @classmethod
    def of(cls, samples: int, width: int) -> Problem:
        """Return the problem for a number of digits (at most 1,797) and a width."""
        X, y = load_digits(return_X_y=True)
        return cls(torch.from_numpy(X[:samples] / 16.0).float(), torch.from_numpy(y[:samples]), width)


class Training:
    """Network in training, with the running moments of the inputs of its second layer."""

    def __init__(self, method: str, lr: float, seed: int, problem: Problem) -> None:
        torch.manual_seed(seed)
        self.data = problem.X, problem.y
        self.model = network(method, problem.width)
        self.pre = BNP(self.model, eps_rel=EPS_REL, eps_abs=EPS_ABS) if method == "BNP" else None
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr)
        self.moments = RunningMoments(problem.width)
        self.model.get_submodule(LAYER).register_forward_pre_hook(self._watch)
        self.batches = np.random.default_rng(seed)
        self.watching = False
        self.step = 0

    def _watch(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self.watching:
            self.moments.update(args[0])

    def train(self, steps: int) -> None:
        """Take `steps` training steps."""
        X, y = self.data
        self.watching = True
        for _ in range(steps):
            chosen = torch.from_numpy(self.batches.integers(len(X), size=BATCH))
            self.optimizer.zero_grad()
            loss = F.cross_entropy(self.model(X[chosen]), y[chosen])
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            if self.pre is not None:
                self.pre.step()
            self.optimizer.step()
        self.watching = False
        self.step += steps

    @torch.no_grad()
    def loss(self) -> float:
        """Return the mean loss over all samples; BN uses their statistics."""
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        value = F.cross_entropy(self.model(self.data[0]), self.data[1]).item()
        self.model.load_state_dict(state)  # BN's running averages as they were
        return value

    def measure(self) -> Point:
        """Return the current conditions."""
        after = self.pre is not None
        compute = partial(spectrum, self.model, F.cross_entropy, self.data, preconditioner=self.pre)
        whole, layer = compute(preconditioned=after), compute(LAYER, preconditioned=after)
        diagnosis = diagnose_layer(LAYER, self.moments.mean, self.moments.var, EPS_REL, EPS_ABS)
        estimate = diagnosis.after if after else diagnosis.before
        return Point(
            self.step, self.loss(), float(whole.condition or 1.0), float(layer.condition or 1.0), estimate
        )


def best_rate(
    method: str, seeds: Sequence[int], steps: int, problem: Problem, tick: Callable[[], None]
) -> float:
    """Return the rate with the lowest mean final loss."""

    def end(lr: float) -> float:
        losses = []
        for seed in seeds:
            training = Training(method, lr, seed, problem)
            training.train(steps)
            losses.append(training.loss())
            tick()
        mean = float(np.mean(losses))
        return mean if np.isfinite(mean) else float("inf")

    return min(RATES, key=end)


def train(
    problem: Problem, steps: int, points: int, seeds: Sequence[int], progress: Progress
) -> dict[str, Any]:
    """Return the rate and the points of every method, by seed."""
    found: dict[str, Any] = {}
    # Early steps change most: as many points in each tenfold of steps.
    moments = sorted({0, steps, *np.geomspace(1, steps, max(points - 1, 0)).round().astype(int).tolist()})
    for method in METHODS:
        task = progress.add_task(f"{method}: rates", total=len(RATES) * len(seeds))
        lr = best_rate(method, seeds, steps, problem, partial(progress.advance, task))
        task = progress.add_task(f"{method}: conditions", total=len(moments) * len(seeds))
        curves = []
        for seed in seeds:
            training, curve = Training(method, lr, seed, problem), list[dict[str, Any]]()
            for moment in moments:
                training.train(moment - training.step)
                curve.append(asdict(training.measure()))
                progress.advance(task)
            curves.append(curve)
        found[method] = {"lr": lr, "curves": curves}
    return found


def table(found: dict[str, Any]) -> Table:
    """Return the figures at the end of training, medians over the seeds."""
    rows = []
    for method, result in found.items():
        ends = [curve[-1] for curve in result["curves"]]
        keys = ("loss", "whole", "layer", "unevenness")
        values = [float(np.median([end[key] for end in ends])) for key in keys]
        loss, *conditions = values
        cells = [
            Cell(f"{result['lr']:g}"),
            Cell(f"{loss:.2g}"),
            *(Cell(f"{value:.2g}") for value in conditions),
        ]
        rows.append([Cell(method), *cells])
    header = [
        "",
        "best rate",
        "training loss",
        "condition, all",
        "condition, second layer",
        "unevenness, second layer",
    ]
    return Table("At the end of training", header, rows)


def draw(content: Content, path: Path) -> None:
    """Draw loss, conditions and the online estimate over the steps."""
    mpl.use("Agg")
    found = content["methods"]
    from matplotlib import pyplot as plt

    panels = {
        "loss": "Training loss",
        "whole": "Condition of the Hessian,\nall parameters",
        "layer": "Condition of the Hessian,\nsecond layer",
        "unevenness": "Online estimate, second layer:\nunevenness of its inputs",
    }
    figure, axes = plt.subplots(1, 4, figsize=(12.5, 3.4), layout="constrained")
    for ax, (key, title) in zip(axes, panels.items(), strict=True):
        for method, colour in METHODS.items():
            curves = found[method]["curves"]
            steps = [point["step"] for point in curves[0]]
            values = np.array([[point[key] for point in curve] for curve in curves])
            ax.plot(steps, np.median(values, axis=0), color=colour, label=method)
            ax.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0)
        ax.set_xscale("symlog", linthresh=1)
        ax.set_yscale("linear" if key == "unevenness" else "log")
        ax.set_title(title, loc="left", fontsize=10)
        ax.set_xlabel("steps")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=9)
    figure.savefig(path, dpi=150, facecolor="white")
    plt.close(figure)


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the sizes, and the curves by method."""
    problem = Problem.of(arguments.samples, arguments.width)
    with Progress(console=console) as progress:
        methods = train(problem, arguments.steps, arguments.points, arguments.seeds, progress)
    sizes = {name: getattr(arguments, name) for name in ("samples", "width", "steps", "seeds")}
    return {**sizes, "batch": BATCH, "methods": methods}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("conditioning", __doc__, pages=["docs/method.md"], seeds=range(3))
    parser.add_argument("--samples", type=int, default=600, help="digits that are learned (at most 1,797)")
    parser.add_argument("--width", type=int, default=16, help="units of each of the two hidden layers")
    parser.add_argument("--steps", type=int, default=2000, help="training steps")
    parser.add_argument("--points", type=int, default=12, help="how often the Hessian is computed")
    run(
        "conditioning",
        parser.parse_args(argv),
        measure,
        lambda content: {"conditioning": [table(content["methods"])]},
        draw,
    )
