"""Perceptron of the paper: three hidden layers of 100, mini-batches of 60, 6 and 1, five training methods."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..common.program import one_thread
from ..common.report import Table
from . import figure
from .claims import Claim, Curves, at_most, best_rate, claims_table, faster, final_table, much_faster
from .images import Images, load_images
from .results import Results, rounded
from .stack import Stack

DATA = ("MNIST", "Fashion-MNIST")
ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "ReLU": nn.ReLU}
BATCHES = (60, 6, 1)
_HIDDEN, _CLASSES = (100, 100, 100), 10


class Method(NamedTuple):
    """Training method: normalization layer before each activation, or none, with or without BNP."""

    norm: type[nn.BatchNorm1d] | type[nn.LayerNorm] | None
    bnp: bool


METHODS = {
    "SGD": Method(None, bnp=False),
    "BN": Method(nn.BatchNorm1d, bnp=False),
    "LayerNorm": Method(nn.LayerNorm, bnp=False),
    "BNP": Method(None, bnp=True),
    "LayerNorm + BNP": Method(nn.LayerNorm, bnp=True),
}


@dataclass(frozen=True)
class Effort:
    """Size of the experiment.

    Attributes
    ----------
    samples, scored : int
        Images to train on; images of them, and of the test set, by which a network is scored.
    epochs : dict of int to int
        By size of the mini-batch.
    seeds : int
        Starts and orders of the samples.
    points : int
        Number of evaluations during training.
    """

    samples: int
    scored: int
    epochs: dict[int, int]
    seeds: int
    points: int


EFFORTS = {
    "quick": Effort(60, 20, {60: 2, 6: 1, 1: 1}, seeds=2, points=2),
    "reduced": Effort(6_000, 2_000, {60: 8, 6: 3, 1: 1}, seeds=3, points=6),
    "full": Effort(60_000, 10_000, {60: 20, 6: 10, 1: 3}, seeds=3, points=20),
}


def rates(batch: int, method: Method) -> tuple[float, ...]:
    """Return the five rates of a method; a pilot on 5,000 images placed them around the best."""
    if batch == 60:
        return (0.01, 0.03, 0.1, 0.3, 1.0)
    if method.bnp:
        return (0.03, 0.1, 0.3, 1.0, 3.0)
    return (0.003, 0.01, 0.03, 0.1, 0.3) if batch == 6 else (0.001, 0.003, 0.01, 0.03, 0.1)


def network(inputs: int, activation: type[nn.Module], norm: Method, seed: int) -> nn.Sequential:
    """Return a network with torch's initialization."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise((inputs, *_HIDDEN)):
        layers.append(nn.Linear(fan_in, fan_out))
        if norm.norm is not None:
            layers.append(norm.norm(fan_out))
        layers.append(activation())
    return nn.Sequential(*layers, nn.Linear(_HIDDEN[-1], _CLASSES))


def orders(samples: int, batch: int, epochs: int, seeds: int) -> Tensor:
    """Return the indices of the samples of each step and seed: int64 (steps, seeds, batch)."""
    steps = samples // batch
    by_seed = []
    for seed in range(seeds):
        draw = torch.Generator().manual_seed(seed)
        epoch = [torch.randperm(samples, generator=draw)[: steps * batch] for _ in range(epochs)]
        by_seed.append(torch.cat(epoch).view(steps * epochs, batch))
    return torch.stack(by_seed, dim=1)


def train(
    images: Images,
    activation: str,
    batch: int,
    name: str,
    effort: Effort,
    tick: Callable[[float], None] = lambda share: None,
) -> dict[str, Any]:
    """Train a method at all its rates and with all seeds, and return its curves at the best rate.

    Parameters
    ----------
    tick : callable
        Progress callback; takes the finished share.
    """
    method, started = METHODS[name], time.perf_counter()
    x, test_x = images.x.flatten(1), images.test_x.flatten(1)
    grid, seeds = rates(batch, method), effort.seeds
    copies = [network(x.shape[1], ACTIVATIONS[activation], method, seed) for seed in range(seeds)]
    # Copies are ordered by rate, then by seed; those of one seed see the same samples.
    stack = Stack(copies * len(grid), [rate for rate in grid for _ in range(seeds)], bnp=method.bnp)
    order = orders(len(x), batch, effort.epochs[batch], seeds).repeat(1, len(grid), 1)
    marks = [round(len(order) * i / effort.points) for i in range(effort.points + 1)]
    losses, accuracies = [], []
    for step in range(len(order) + 1):
        if step in marks:
            losses.append(stack.score(x[: effort.scored], images.y[: effort.scored])[0])
            accuracies.append(stack.score(test_x, images.test_y)[1])
            tick(step / len(order))
        if step < len(order):
            stack.step(x[order[step]], images.y[order[step]])
    loss = torch.stack(losses, dim=1).view(len(grid), seeds, -1)
    accuracy = torch.stack(accuracies, dim=1).view(len(grid), seeds, -1)
    final = [[v if math.isfinite(v) else None for v in rounded(of)] for of in loss[:, :, -1].tolist()]
    best = best_rate(final)
    return {
        "rates": grid,
        "final_loss": final,
        "best": best,
        "epochs": [mark / len(order) * effort.epochs[batch] for mark in marks],
        "loss": [] if best is None else [rounded(of) for of in loss[best].tolist()],
        "accuracy": [] if best is None else [rounded(of) for of in accuracy[best].tolist()],
        "seconds": round(time.perf_counter() - started, 1),
    }


def cell_name(data: str, activation: str, batch: int, method: str) -> str:
    """Return the name of a cell in the JSON."""
    return f"{data}, {activation}, mini-batch {batch}, {method}"


def run(size: str, data_dir: Path, out: Path, tick: Callable[[str, float], None]) -> dict[str, Any]:
    """Run the cells that the file lacks, and return its content.

    Parameters
    ----------
    tick : callable
        Progress callback; takes a description and the finished share.
    """
    one_thread()
    torch.set_flush_denormal(True)  # denormal numbers of diverged copies would be slow
    effort = EFFORTS[size]
    images = {name: load_images(name, data_dir, effort.samples, effort.scored) for name in DATA}
    sources = {name: of.source for name, of in images.items()}
    results = Results(out, "paper, perceptron", {"size": size, "effort": asdict(effort), "data": sources})
    settings = itertools.product(DATA, BATCHES, ACTIVATIONS, METHODS)
    cells = [s for s in settings if s[1] > 1 or s[3] != "BN"]  # a mini-batch of one has no variance
    for i, (data, batch, activation, method) in enumerate(cells):
        name = cell_name(data, activation, batch, method)

        def tell(share: float, name: str = name, before: int = i) -> None:
            tick(name, (before + share) / len(cells))

        if not results.has(name):
            results.add(name, train(images[data], activation, batch, method, effort, tell))
        tell(1.0)
    return results.content


def curves(content: dict[str, Any], batch: int) -> dict[str, dict[str, Curves]]:
    """Return the curves of each method by setting (data and activation)."""
    found: dict[str, dict[str, Curves]] = {}
    for data, activation in itertools.product(DATA, ACTIVATIONS):
        found[f"{data}, {activation}"] = {
            method: Curves.of(content["cells"][name])
            for method in METHODS
            if (name := cell_name(data, activation, batch, method)) in content["cells"]
        }
    return found


def claims(content: dict[str, Any]) -> list[Claim]:
    """Return each claim of the paper with its result."""
    by_batch = {batch: curves(content, batch) for batch in BATCHES}
    found = [
        Claim.judge(f"mini-batch {batch}: BNP is faster than plain SGD", of, "BNP", "SGD", faster)
        for batch, of in by_batch.items()
    ]
    return [
        *found,
        Claim.judge("mini-batch 60: BNP is close to BN, or better", by_batch[60], "BNP", "BN", at_most(1.1)),
        Claim.judge("mini-batch 6: BNP is better than BN", by_batch[6], "BNP", "BN", faster),
        Claim.judge("mini-batch 1: BNP is well ahead of plain SGD", by_batch[1], "BNP", "SGD", much_faster),
        *(
            Claim.judge(
                f"mini-batch {batch}: LayerNorm + BNP is faster than LayerNorm",
                of,
                "LayerNorm + BNP",
                "LayerNorm",
                faster,
            )
            for batch, of in by_batch.items()
        ),
    ]


def tables(content: dict[str, Any]) -> list[Table]:
    """Return the verdicts, and the final figures of each method."""
    title = "Mini-batch {}: training loss, test accuracy, and in parentheses the rate"
    finals = [final_table(title.format(batch), curves(content, batch)) for batch in BATCHES]
    return [claims_table(claims(content)), *finals]


def draw(content: dict[str, Any], path: Path) -> None:
    """Draw all curves to a file."""
    figure.draw({batch: curves(content, batch) for batch in BATCHES}, path)
