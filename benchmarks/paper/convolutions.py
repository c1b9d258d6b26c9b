"""Convolutional networks of the paper: a small one on Fashion-MNIST, ResNet-18 on CIFAR-10."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (torch's own name for it)

from bnp_online import BNP

from ..common.program import one_thread
from ..common.report import Table
from . import figure
from .claims import Claim, Curves, at_most, best_rate, claims_table, faster, final_table
from .images import CIFAR, Images, load_images
from .networks import NORMS, Norm, resnet18, small_cnn
from .perceptrons import orders
from .results import Results, rounded

BATCHES = (128, 8, 2)
_CHUNK = 250


class Method(NamedTuple):
    """Training method: normalization layer after each convolution, or none, with or without BNP."""

    norm: str
    bnp: bool


METHODS = {
    "SGD": Method("none", bnp=False),
    "BN": Method("batch", bnp=False),
    "GroupNorm": Method("group", bnp=False),
    "BNP": Method("none", bnp=True),
    "GroupNorm + BNP": Method("group", bnp=True),
}


@dataclass(frozen=True)
class Task:
    """Network and data set, with their sizes.

    Attributes
    ----------
    data : str
        Name of the data set.
    width : int
        Channels of the first stage.
    samples, scored : int or None
        Images to train on (None: all); images of them, and of the test set, by which it is scored.
    epochs : dict of int to int
        By size of the mini-batch.
    seeds : int
        Starts and orders of the samples.
    """

    data: str
    width: int
    samples: int | None
    scored: int
    epochs: dict[int, int]
    seeds: int


@dataclass(frozen=True)
class Effort:
    """Size of the experiment: a task for each network, number of rates and number of evaluations."""

    tasks: dict[str, Task]
    rates: int
    points: int


_BUILD: dict[str, Callable[[Norm, int], nn.Module]] = {"CNN": small_cnn, "ResNet-18": resnet18}
_FASHION = "Fashion-MNIST"
EFFORTS = {
    "quick": Effort(
        {
            "CNN": Task(_FASHION, 2, 128, 8, {128: 1, 8: 1, 2: 1}, seeds=1),
            "ResNet-18": Task(CIFAR, 2, 128, 8, {128: 1, 8: 1, 2: 1}, seeds=1),
        },
        rates=1,
        points=2,
    ),
    "reduced": Effort(
        {
            "CNN": Task(_FASHION, 8, 3_000, 500, {128: 6, 8: 2, 2: 1}, seeds=2),
            "ResNet-18": Task(CIFAR, 8, 2_000, 300, {128: 4, 8: 2, 2: 1}, seeds=1),
        },
        rates=3,
        points=4,
    ),
    "full": Effort(
        {
            "CNN": Task(_FASHION, 32, None, 10_000, {128: 20, 8: 10, 2: 3}, seeds=3),
            "ResNet-18": Task(CIFAR, 64, None, 10_000, {128: 60, 8: 30, 2: 10}, seeds=3),
        },
        rates=5,
        points=20,
    ),
}
#: Five rates, the likeliest first, by a pilot of the small network on 1,500 images; without BNP, and with.
_RATES: dict[tuple[int, bool], tuple[float, ...]] = {
    (128, False): (0.1, 0.03, 0.3, 0.01, 1.0),
    (8, False): (0.03, 0.1, 0.01, 0.3, 0.003),
    (2, False): (0.03, 0.01, 0.1, 0.003, 0.3),
    (128, True): (0.1, 0.3, 0.03, 1.0, 0.01),
    (8, True): (0.3, 1.0, 0.1, 3.0, 0.03),
    (2, True): (0.3, 1.0, 0.1, 3.0, 0.03),
}


def rates(batch: int, *, bnp: bool, count: int) -> list[float]:
    """Return `count` rates around the middle of the five."""
    return sorted(_RATES[batch, bnp][:count])


@torch.no_grad()
def _score(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy."""
    model.eval()
    loss = right = 0.0
    for rows, labels in zip(torch.split(x, _CHUNK), torch.split(y, _CHUNK), strict=True):
        out = model(rows)
        loss += float(F.cross_entropy(out, labels, reduction="sum"))
        right += float((out.argmax(1) == labels).sum())
    model.train()
    return loss / len(y), right / len(y)


def train(
    model: nn.Module, images: Images, order: Tensor, rate: float, points: int, *, bnp: bool
) -> Iterator[tuple[float, float]]:
    """Train a model, and yield its training loss and test accuracy `points` + 1 times.

    A run ends at the first loss that is not finite.

    Parameters
    ----------
    order : int64 (steps, batch)
        Indices of the samples of each step.
    """
    pre = BNP(model) if bnp else None
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    scored = len(images.test_y)
    marks = [round(len(order) * i / points) for i in range(points + 1)]
    for step in range(len(order) + 1):
        for _ in range(marks.count(step)):
            loss, _ = _score(model, images.x[:scored], images.y[:scored])
            yield loss, _score(model, images.test_x, images.test_y)[1]
            if not math.isfinite(loss):
                return
        if step < len(order):
            optimizer.zero_grad()
            rows = order[step]
            F.cross_entropy(model(images.x[rows]), images.y[rows]).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            if pre is not None:
                pre.step()
            optimizer.step()


def cell(
    network: str,
    task: Task,
    images: Images,
    batch: int,
    name: str,
    effort: Effort,
    tick: Callable[[float], None],
) -> dict[str, Any]:
    """Train a method at all its rates and with all seeds, and return its curves at the best rate."""
    method, started = METHODS[name], time.perf_counter()
    grid = rates(batch, bnp=method.bnp, count=effort.rates)
    runs: list[list[list[tuple[float, float]]]] = []
    order = orders(len(images.y), batch, task.epochs[batch], task.seeds).to(images.y.device)
    for rate in grid:
        runs.append([])
        for seed in range(task.seeds):
            torch.manual_seed(seed)
            model = _BUILD[network](NORMS[method.norm], task.width).to(images.y.device)
            points = train(model, images, order[:, seed], rate, effort.points, bnp=method.bnp)
            runs[-1].append(list(points))
            tick((len(runs) - 1 + len(runs[-1]) / task.seeds) / len(grid))
    final = [[_finite(run[-1][0]) for run in of] for of in runs]
    best = best_rate(final)
    chosen = [] if best is None else runs[best]
    return {
        "rates": grid,
        "final_loss": final,
        "best": best,
        "epochs": [task.epochs[batch] * i / effort.points for i in range(effort.points + 1)],
        "loss": [rounded([loss for loss, _ in run]) for run in chosen],
        "accuracy": [rounded([accuracy for _, accuracy in run]) for run in chosen],
        "seconds": round(time.perf_counter() - started, 1),
    }


def _finite(loss: float) -> float | None:
    return rounded([loss])[0] if math.isfinite(loss) else None


def cell_name(network: str, batch: int, method: str) -> str:
    """Return the name of a cell in the JSON."""
    return f"{network}, mini-batch {batch}, {method}"


def run(
    size: str, device: str, data_dir: Path, out: Path, tick: Callable[[str, float], None]
) -> dict[str, Any]:
    """Run the cells that the file lacks, and return its content.

    Parameters
    ----------
    device : str
        A device of torch.
    tick : callable
        Progress callback; takes a description and the finished share.
    """
    one_thread()
    torch.set_flush_denormal(True)
    effort = EFFORTS[size]
    images = {
        network: _on(device, load_images(task.data, data_dir, task.samples, task.scored))
        for network, task in effort.tasks.items()
    }
    setup = {
        "size": size,
        "effort": asdict(effort),
        "data": {network: of.source for network, of in images.items()},
        "device": torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else device,
    }
    results = Results(out, "paper, convolutions", setup)
    cells = list(itertools.product(effort.tasks, BATCHES, METHODS))
    for i, (network, batch, method) in enumerate(cells):
        name = cell_name(network, batch, method)

        def tell(share: float, name: str = name, before: int = i) -> None:
            tick(name, (before + share) / len(cells))

        if not results.has(name):
            task = effort.tasks[network]
            results.add(name, cell(network, task, images[network], batch, method, effort, tell))
        tell(1.0)
    return results.content


def _on(device: str, images: Images) -> Images:
    x, y, test_x, test_y = (t.to(device) for t in (images.x, images.y, images.test_x, images.test_y))
    return Images(x, y, test_x, test_y, images.source)


def curves(content: dict[str, Any], batch: int) -> dict[str, dict[str, Curves]]:
    """Return the curves of each method by network."""
    return {
        network: {
            method: Curves.of(content["cells"][name])
            for method in METHODS
            if (name := cell_name(network, batch, method)) in content["cells"]
        }
        for network in _BUILD
    }


def claims(content: dict[str, Any]) -> list[Claim]:
    """Return each claim with its result."""
    found = []
    for batch in BATCHES:
        of = curves(content, batch)
        versus = f"mini-batch {batch}: "
        found.append(Claim.judge(f"{versus}BNP is faster than plain SGD", of, "BNP", "SGD", faster))
        pair = "GroupNorm + BNP", "GroupNorm"
        found.append(Claim.judge(f"{versus}{pair[0]} is faster than {pair[1]}", of, *pair, faster))
    close, small = curves(content, BATCHES[0]), curves(content, BATCHES[-1])
    return [
        *found,
        Claim.judge("mini-batch 128: BNP is close to BN, or better", close, "BNP", "BN", at_most(1.1)),
        Claim.judge("mini-batch 2: BNP is better than BN", small, "BNP", "BN", faster),
    ]


def tables(content: dict[str, Any]) -> list[Table]:
    """Return the verdicts, and the final figures of each method."""
    title = "Mini-batch {}: training loss, test accuracy, and in parentheses the rate"
    finals = [final_table(title.format(batch), curves(content, batch)) for batch in BATCHES]
    return [claims_table(claims(content)), *finals]


def draw(content: dict[str, Any], path: Path) -> None:
    """Draw all curves to a file."""
    figure.draw({batch: curves(content, batch) for batch in BATCHES}, path)
