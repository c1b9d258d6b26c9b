"""Speed of one learning step against a plain eager step of ``torch.optim.SGD``; ``--help`` has the options.

Every figure is a ratio: both sides run in turns in one process, on one thread, and medians are compared.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from bnp_online import BNP
from bnp_online.engines.base import LearnerSpec
from bnp_online.engines.compiled import CompiledEngine

from . import report
from .report import Cell, Table

#: Numbers of inputs, hidden units and outputs.
NETWORKS = {
    "S": (64, 100, 10),
    "M": (64, 100, 100, 10),
    "L": (784, 100, 100, 100, 10),
    "XL": (784, 512, 512, 10),
}
#: What is compared with the reference: learning rate, replayed steps, samples a call.
FUSED: dict[str, tuple[float | str, int, int]] = {
    "one copy, one call a sample": (0.1, 0, 1),
    "one copy, in one call": (0.1, 0, 200),
    "auto, replay=0, in one call": ("auto", 0, 200),
    "auto (the default), in one call": ("auto", 3, 50),
}
REFERENCE, HOOKS = "plain SGD step", "BNP through hooks"

#: Takes a number of steps.
Steps = Callable[[int], None]


def _data(sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, sizes[0]))
    return x, (x @ rng.normal(size=(sizes[0], sizes[-1]))).argmax(axis=1).astype(np.float64)


def eager(sizes: Sequence[int], *, hooks: bool) -> Steps:
    """Return the reference loop, with BNP through hooks if asked."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for n, m in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(n, m), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))
    pre = BNP(model, step_scale="norm") if hooks else None
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss_of = nn.CrossEntropyLoss()
    rows, labels = _data(sizes)
    x: Tensor = torch.tensor(rows, dtype=torch.float32)
    y = torch.tensor(labels, dtype=torch.int64)

    def steps(count: int) -> None:
        for i in range(count):
            k = i % len(x)
            optimizer.zero_grad()
            loss = loss_of(model(x[k][None]), y[k][None])
            loss.backward()
            if pre is not None:
                pre.step()
            optimizer.step()

    return steps


def fused(sizes: Sequence[int], lr: float | str, replay: int, rows: int) -> Steps:
    """Return the fused engine on the same samples, so many in each call."""
    spec = LearnerSpec(
        task="classification",
        hidden=tuple(sizes[1:-1]),
        activation="relu",
        lr=lr,
        replay=replay,
        memory=5000,
        rho=0.99,
        eps_rel=1e-2,
        eps_abs=1e-4,
        step_scale="norm",
        standardize=True,
        input_shape=None,
        network="mlp",
        seed=0,
    )
    engine = CompiledEngine(spec)
    engine.grow([f"f{i}" for i in range(sizes[0])], sizes[-1])
    x, y = _data(sizes)
    weights = np.ones(len(y))

    def steps(count: int) -> None:
        for i in range(0, count, rows):
            k = i % (len(y) - rows + 1)
            engine.learn(x[k : k + rows], y[k : k + rows], weights[:rows])

    return steps


def measure(sizes: Sequence[int], repeats: int, seconds: float) -> dict[str, float]:
    """Return the median microseconds of a step on each side, measured in turns after a warm-up."""
    sides = {REFERENCE: eager(sizes, hooks=False), HOOKS: eager(sizes, hooks=True)}
    sides |= {name: fused(sizes, *how) for name, how in FUSED.items()}
    counts = {}
    for name, steps in sides.items():
        steps(200)
        start = time.perf_counter()
        steps(200)
        counts[name] = max(200, int(200 * seconds / (time.perf_counter() - start)) // 200 * 200)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, steps in sides.items():
            start = time.perf_counter()
            steps(counts[name])
            times[name].append((time.perf_counter() - start) / counts[name] * 1e6)
    return {name: statistics.median(of) for name, of in times.items()}


def table(results: dict[str, dict[str, float]]) -> Table:
    """Return how many times faster than the reference each side is."""
    rows = []
    for network, of in results.items():
        sizes = "-".join(map(str, NETWORKS[network]))
        ratios = [Cell(f"{of[REFERENCE] / of[name]:.1f}× ({of[name]:,.1f} µs)") for name in (HOOKS, *FUSED)]
        rows.append([Cell(f"{network} {sizes}"), Cell(f"{of[REFERENCE]:,.0f} µs"), *ratios])
    header = ["network", REFERENCE, HOOKS, *FUSED]
    return Table("One step, as a multiple of the speed of a plain eager SGD step", header, rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.split("\n")[0])
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=7, help="of which the median is taken")
    parser.add_argument("--seconds", type=float, default=0.3, help="each of them takes, about")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/speed.json"))
    parser.add_argument("--markdown", type=Path, help="a page whose marked block takes the table")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    console = Console()
    results = {
        name: measure(NETWORKS[name], arguments.repeats, arguments.seconds)
        for name in track(arguments.networks, "measuring", console=console)
    }
    shown = table(results)
    shown.show(console)
    content: dict[str, Any] = {
        "benchmark": "speed",
        "environment": report.environment(),
        "networks": NETWORKS,
        "microseconds": results,
    }
    report.write_json(arguments.out, content)
    if arguments.markdown is not None:
        report.put_between_marks(arguments.markdown, "speed", f"{shown.title}\n\n{shown.markdown()}")


if __name__ == "__main__":
    main()
