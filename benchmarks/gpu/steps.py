"""Step of the torch engine on a GPU, against a plain SGD step there, its lower bound, and the CPU.

Each figure is a ratio of medians: all sides take turns in one process. The lower bound of a CUDA graph is the
number of its kernels times the time of an empty kernel.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from bnp_online.engines.base import Engine, LearnerSpec
from bnp_online.engines.choice import GPU_WORK, work
from bnp_online.engines.numba_engine import NumbaEngine
from bnp_online.engines.torch_engine import TorchEngine

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import Cell, Table, write_json
from ..speed.timing import NETWORKS as SMALL
from ..speed.timing import Steps

#: Numbers of inputs, hidden units and outputs; the last ones are where a GPU is to be worth it.
NETWORKS = SMALL | {"XXL": (784, 1024, 1024, 10), "3XL": (1024, 2048, 2048, 2048, 10)}
#: Learners to measure: learning rate, replayed steps.
LEARNERS: dict[str, tuple[float | str, int]] = {
    "one member": (0.1, 0),
    "auto, replay=0": ("auto", 0),
    "auto (the default)": ("auto", 3),
}
#: Rows in one call, and of a call on the CPU: large networks take a tenth of a second for a row there.
ROWS, ROWS_ON_CPU = 256, 8
REFERENCE = "plain SGD step"
NO_GPU = "python -m benchmarks gpu needs a CUDA device; torch finds none."


class Point(NamedTuple):
    """Microseconds of a sample on both devices, with the parameters stepped for it."""

    work: int
    cpu: float
    gpu: float


def threshold(points: Sequence[Point]) -> int | None:
    """Return the least work from which the GPU is faster at every point; None if there is none."""
    found = None
    for point in sorted(points, reverse=True):
        if point.gpu >= point.cpu:
            break
        found = point.work
    return found


def _data(sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, sizes[0]))
    return x, rng.integers(sizes[-1], size=ROWS).astype(np.float64)


def _spec(sizes: Sequence[int], lr: float | str, replay: int) -> LearnerSpec:
    return LearnerSpec(
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
        input_shape=(sizes[0],),
        network="mlp",
        seed=0,
    )


def eager(sizes: Sequence[int]) -> Steps:
    """Return a plain loop of ``torch.optim.SGD`` on the GPU, with its samples in GPU memory."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for n, m in itertools.pairwise(sizes[:-1]):
        layers += [nn.Linear(n, m), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1])).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    loss_of = nn.CrossEntropyLoss()
    rows, labels = _data(sizes)
    x = torch.tensor(rows, dtype=torch.float32, device="cuda")
    y = torch.tensor(labels, dtype=torch.int64, device="cuda")

    def steps(count: int) -> None:
        for i in range(count):
            k = i % ROWS
            optimizer.zero_grad()
            loss = loss_of(model(x[k][None]), y[k][None])
            loss.backward()
            optimizer.step()
        torch.cuda.synchronize()

    return steps


def learner(
    sizes: Sequence[int], make: Callable[[LearnerSpec], Engine], how: tuple[float | str, int]
) -> Steps:
    """Return an engine on the same samples, `ROWS` in each call."""
    engine = make(_spec(sizes, *how))
    engine.grow([], sizes[-1])
    x, y = _data(sizes)
    weights = np.ones(ROWS)

    def steps(count: int) -> None:
        for start in range(0, count, ROWS):
            rows = min(ROWS, count - start)
            engine.learn(x[:rows], y[:rows], weights[:rows])

    return steps


def count_kernels(steps: Steps) -> int:
    """Return the kernels of a row: a tenth of those that ten more rows in a call add."""
    counts = []
    for rows in (1, 11):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            steps(rows)
        names = [event.name for event in profile.events() or []]
        counts.append(len([name for name in names if not name.startswith(("Mem", "cuda"))]))
    return round((counts[1] - counts[0]) / 10)


def empty_kernel(repeats: int) -> float:
    """Return the microseconds of a nearly empty kernel, among a thousand in one graph."""
    one = torch.zeros(1, device="cuda")
    graph = torch.cuda.CUDAGraph()
    one.add_(1.0)
    with torch.cuda.graph(graph):
        for _ in range(1000):
            one.add_(1.0)
    times = []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        start = time.perf_counter()
        graph.replay()
        torch.cuda.synchronize()
        times.append((time.perf_counter() - start) * 1e6 / 1000)
    return statistics.median(times[1:])


def time_sides(sizes: Sequence[int], repeats: int, seconds: float) -> tuple[dict[str, float], dict[str, int]]:
    """Return the median microseconds of a step on each side, and the kernels of each graph."""
    on_gpu = partial(TorchEngine, device="cuda")
    graphs = {name: learner(sizes, on_gpu, how) for name, how in LEARNERS.items()}
    sides = {REFERENCE: eager(sizes)}
    sides |= {f"GPU, {name}": steps for name, steps in graphs.items()}
    sides |= {f"CPU, {name}": learner(sizes, NumbaEngine, how) for name, how in LEARNERS.items()}
    counts = {}
    for name, steps in sides.items():
        least = ROWS_ON_CPU if name.startswith("CPU") else ROWS
        steps(least)
        start = time.perf_counter()
        steps(least)
        counts[name] = max(least, int(least * seconds / (time.perf_counter() - start)) // least * least)
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, steps in sides.items():
            start = time.perf_counter()
            steps(counts[name])
            times[name].append((time.perf_counter() - start) / counts[name] * 1e6)
    kernels = {name: count_kernels(steps) for name, steps in graphs.items()}
    return {name: statistics.median(of) for name, of in times.items()}, kernels


def table(times: dict[str, dict[str, float]], kernels: dict[str, dict[str, int]], empty: float) -> Table:
    """Return the step on the GPU for each network and learner, with its comparisons."""
    rows = []
    for network, of in times.items():
        sizes = "-".join(map(str, NETWORKS[network]))
        for name in LEARNERS:
            gpu, cpu = of[f"GPU, {name}"], of[f"CPU, {name}"]
            floor = kernels[network][name] * empty
            cells = (
                f"{network} {sizes}",
                name,
                f"{gpu:,.0f} µs",
                f"{of[REFERENCE] / gpu:.1f}× ({of[REFERENCE]:,.0f} µs)",
                f"{gpu / floor:.2f} ({kernels[network][name]} kernels)",
                f"{cpu / gpu:.2f}× ({cpu:,.0f} µs)",
            )
            rows.append([Cell(text) for text in cells])
    header = ["network", "learner", "GPU", "faster than a plain SGD step there", "times its floor"]
    return Table("One step on the GPU", [*header, "faster than the CPU"], rows)


def advice(points: Sequence[Point]) -> str:
    """Return the advice on the rule of ``device="auto"``."""
    found = threshold(points)
    if found is None:
        return f"The GPU was never faster: leave GPU_WORK in bnp_online/engines/choice.py at {GPU_WORK:,}."
    return (
        f"The GPU was faster from {found:,} parameter steps a sample on: write that to GPU_WORK in "
        f"bnp_online/engines/choice.py (now {GPU_WORK:,}), and commit it with this file."
    )


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return times, kernels and the threshold of ``device="auto"``; end the program without a GPU."""
    if not torch.cuda.is_available():
        sys.exit(NO_GPU)
    empty = empty_kernel(arguments.repeats)
    times: dict[str, dict[str, float]] = {}
    kernels: dict[str, dict[str, int]] = {}
    points: list[Point] = []

    def content() -> Content:
        return {
            "gpu": torch.cuda.get_device_name(),
            "cuda": torch.version.cuda,
            "networks": NETWORKS,
            "microseconds": times,
            "kernels": kernels,
            "microseconds_of_an_empty_kernel": empty,
            "gpu_work": threshold(points),
        }

    for network in track(arguments.networks, "measuring", console=console):
        sizes = NETWORKS[network]
        times[network], kernels[network] = time_sides(sizes, arguments.repeats, arguments.seconds)
        of = times[network]
        points += [
            Point(work(_spec(sizes, *how)), of[f"CPU, {name}"], of[f"GPU, {name}"])
            for name, how in LEARNERS.items()
        ]
        write_json(arguments.out, {"benchmark": "gpu", **content()})  # the device may be gone any time
    console.print(advice(points))
    return content()


def blocks(content: Content) -> Blocks:
    """Return the table, with the name of the GPU."""
    empty = content["microseconds_of_an_empty_kernel"]
    shown = table(content["microseconds"], content["kernels"], empty)
    return {"gpu": [replace(shown, title=f"{shown.title}: {content['gpu']}")]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("gpu", __doc__)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=7, help="of which the median is taken")
    parser.add_argument("--seconds", type=float, default=0.3, help="duration of each, about")
    run("gpu", parser.parse_args(argv), measure, blocks)
