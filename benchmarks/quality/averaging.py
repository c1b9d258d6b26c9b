"""What one model loses if several workers learn parts of its stream.

The workers are copies of one model after its first 200 samples. The next samples go to them in turn, so each
learns 1/W of the stream. A prediction is made before its sample is learned. The number of inputs is fixed,
since states with different columns have no mean. *Average* replaces the states of all workers by their mean
at a fixed interval: weights, running moments, mixture and stack. Each keeps its replay
buffer. *Ensemble* exchanges nothing, and predicts by the mean of the probabilities of all workers. *Apart*
exchanges nothing, and predicts by the worker that learns the sample.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import NullLocator
from rich.console import Console
from rich.progress import Progress
from river.datasets import synth
from torch import Tensor

from bnp_online import BNPClassifier

from ..common import streams
from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import Cell, Table
from ..common.streams import Array, Sample

WORKERS = (2, 4, 8)
ONE, ENSEMBLE, APART = "one model", "ensemble", "apart"
#: Samples of each worker between two averages, by the name of the way.
AVERAGES = {"average, every 10": 10, "average, every 100": 100}
WAYS = (*AVERAGES, ENSEMBLE, APART)
DIGITS, DRIFTING = "digits", "RandomRBF, drifting"
STREAMS = (DIGITS, DRIFTING)
_WARM, _LENGTH = 200, 8000
#: Row of numbers, and its class.
_Row: TypeAlias = tuple[Array, Any]
#: Parts of a state that a worker keeps: samples, and counts of its own.
_OWN = ("memory.", "bounds.", "step")


def samples_of(name: str, seed: int, limit: int | None = None) -> list[_Row]:
    """Return the samples of a stream: the digits in their order, or clusters that move, drawn with a seed."""
    drawn: Iterable[Sample] = streams.load(DIGITS).samples
    if name == DRIFTING:
        drawn = synth.RandomRBFDrift(
            seed,
            seed + 9,
            n_classes=5,
            n_features=10,
            n_centroids=40,
            change_speed=0.001,
            n_drift_centroids=20,
        )
    return [(np.array(list(x.values())), y) for x, y in itertools.islice(drawn, limit or _LENGTH)]


def averaged(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of the tensors of all states, without what a worker keeps.

    A variance gets the variance of the means, so that it is that of the pooled samples.
    """
    mean = {}
    for name, tensor in states[0].items():
        if not name.startswith(_OWN):
            mean[name] = sum((state[name].double() for state in states), tensor.double() * 0) / len(states)
    for name in mean:
        if name.endswith(".var"):
            centre = name.removesuffix("var") + "mean"
            for state in states:
                mean[name] = mean[name] + (state[centre].double() - mean[centre]) ** 2 / len(states)
    return {name: tensor.to(states[0][name].dtype) for name, tensor in mean.items()}


def exchange(workers: Sequence[BNPClassifier]) -> None:
    """Give all workers the mean of their states."""
    states = [worker.state_dict() for worker in workers]
    mean = averaged([state["tensors"] for state in states])
    for worker, state in zip(workers, states, strict=True):
        worker.load_state_dict({**state, "tensors": {**state["tensors"], **mean}})


def _vote(workers: Sequence[BNPClassifier], x: Any) -> Any:
    total: Counter[Any] = Counter()
    for worker in workers:
        total.update(worker.predict_proba_one(x))
    return max(total, key=lambda label: total[label])


def accuracy(samples: Sequence[_Row], seed: int, count: int, way: str) -> list[float]:
    """Return the accuracy in % of all predictions, and of those of the second half."""
    first = BNPClassifier(input_shape=(len(samples[0][0]),), seed=seed, device="cpu")
    right = []
    for x, y in samples[:_WARM]:
        right.append(first.predict_one(x) == y)
        first.learn_one(x, y)
    workers = [copy.deepcopy(first) for _ in range(count)]
    for i, (x, y) in enumerate(samples[_WARM:]):
        worker = workers[i % count]
        right.append((_vote(workers, x) if way == ENSEMBLE else worker.predict_one(x)) == y)
        worker.learn_one(x, y)
        if way in AVERAGES and (i + 1) % (count * AVERAGES[way]) == 0:
            exchange(workers)
    return [100.0 * statistics.fmean(part) for part in (right, right[len(right) // 2 :])]


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the accuracies by stream, way and number of workers, for each seed."""
    limit, counts = (400, WORKERS[:1]) if arguments.quick else (None, WORKERS)
    runs = [(ONE, 1), *itertools.product(WAYS, counts)]
    results: dict[str, Any] = {name: {way: {} for way, _ in runs} for name in STREAMS}
    with Progress(console=console) as progress:
        bar = progress.add_task("learning", total=len(STREAMS) * len(runs) * len(arguments.seeds))
        for name, seed in itertools.product(STREAMS, arguments.seeds):
            samples = samples_of(name, seed, limit)
            for way, count in runs:
                found = accuracy(samples, seed, count, way)
                results[name][way].setdefault(str(count), []).append(found)
                progress.advance(bar)
    return {"seeds": arguments.seeds, "results": results}


def _mean(found: Sequence[Sequence[float]], part: int) -> float:
    return statistics.fmean(each[part] for each in found)


def blocks(content: Content) -> Blocks:
    """Return a row for each stream and way."""
    rows = []
    for name, of in content["results"].items():
        counts = list(of[ENSEMBLE])
        rows.append([Cell(name), Cell(ONE), Cell(f"{_mean(of[ONE]['1'], 0):.1f}", True)])
        rows[-1] += [Cell("")] * len(counts)
        for way in WAYS:
            cells = [Cell(f"{_mean(of[way][count], 0):.1f}") for count in counts]
            rows.append([Cell(name), Cell(way), Cell(""), *cells])
    columns = ["stream", "way", "1 worker", *(f"{count} workers" for count in counts)]
    title = f"Accuracy in %, means over the seeds {', '.join(map(str, content['seeds']))}."
    return {"averaging": [Table(title, columns, rows)]}


def draw(content: Content, path: Path) -> None:
    """Draw the accuracy by the number of workers, a panel for each stream."""
    mpl.use("Agg")
    colours = dict(zip(WAYS, ("#c2410c", "#f59e0b", "#1d4ed8", "#64748b"), strict=True))
    with plt.rc_context({"font.size": 9}):
        figure, axes = plt.subplots(1, len(STREAMS), figsize=(8.6, 3.4), layout="constrained")
        for ax, (name, of) in zip(axes, content["results"].items(), strict=True):
            one = _mean(of[ONE]["1"], 0)
            ax.axhline(one, color="#0f172a", lw=1.0, ls=":", label=ONE)
            for way, colour in colours.items():
                counts = [1, *map(int, of[way])]
                shown = [one, *(_mean(found, 0) for found in of[way].values())]
                ax.plot(counts, shown, "o-", color=colour, ms=4, lw=1.5, label=way)
            ax.set_xscale("log", base=2)
            ax.set_xticks(counts, [str(count) for count in counts])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xlabel("workers")
            ax.set_title(name, loc="left")
            ax.spines[["top", "right"]].set_visible(False)
            ax.grid(axis="y", color="#e2e8f0", linewidth=0.8)
            ax.set_axisbelow(True)
        axes[0].set_ylabel("accuracy, %")
        handles, names = axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=5, frameon=False)
        figure.savefig(path, dpi=150, facecolor="white")
        plt.close(figure)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of(
        "averaging",
        __doc__,
        pages=["docs/cluster.md"],
        seeds=(0, 1, 2),
        quick="the smallest run: does it work?",
    )
    run("averaging", parser.parse_args(argv), measure, blocks, draw)
