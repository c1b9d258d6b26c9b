"""Prequential quality on generated streams, for the development of the learner.

Changes of the learner are tried on these streams. The real streams of the quality benchmark serve for a final
check only, so that no choice is fitted to them.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.progress import track

from bnp_online import BNPClassifier, BNPRegressor
from bnp_online.evaluation.prequential import prequential

from ..common.generated import GROUPS, LENGTH, STREAMS, Generated
from ..common.program import Content, arguments_of, run
from ..common.report import Cell, Table


def score(stream: Generated, seed: int, length: int, replay: int) -> float:
    """Return accuracy in %, or the mean absolute error, of the default learner, without the first sample."""
    kind = BNPClassifier if stream.task == "classification" else BNPRegressor
    model = kind(replay=replay, seed=seed)
    samples = itertools.islice(stream.samples(seed), length)
    model.learn_one(*next(samples))
    metrics: dict[str, float] = prequential(samples, model, stream.task).metrics
    return 100.0 * metrics["Accuracy"] if stream.task == "classification" else metrics["MAE"]


def table(results: dict[str, dict[str, float]]) -> Table:
    """Return a row for each stream, and the mean accuracy and the geometric mean of the errors by group."""
    rows = [[Cell(name), *(Cell(f"{value:.4g}") for value in of.values())] for name, of in results.items()]
    for task, what in (("classification", "mean, %"), ("regression", "geometric mean, MAE")):
        mean = statistics.fmean if task == "classification" else statistics.geometric_mean
        for group, of_group in (*((f"{group}: ", {group}) for group in GROUPS), ("", {*GROUPS})):
            those = [
                list(of.values())
                for name, of in results.items()
                if STREAMS[name].task == task and STREAMS[name].group in of_group
            ]
            if those:
                means = [Cell(f"{mean(column):.4g}", True) for column in zip(*those, strict=True)]
                rows.append([Cell(f"{group}{what}"), *means])
    header = ["stream", *next(iter(results.values()))]
    return Table("Test, then train, one pass: accuracy in % or mean absolute error", header, rows)


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the mean over seeds by stream and learner."""
    results = {
        name: {
            label: statistics.fmean(
                score(STREAMS[name], seed, arguments.length, replay) for seed in arguments.seeds
            )
            for label, replay in (("auto", 3), ("auto, replay=0", 0))
        }
        for name in track(arguments.streams, "measuring", console=console)
    }
    return {"seeds": arguments.seeds, "length": arguments.length, "results": results}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("development", __doc__, seeds=(0, 1))
    parser.add_argument("--streams", nargs="+", choices=STREAMS, default=list(STREAMS), metavar="NAME")
    parser.add_argument("--length", type=int, default=LENGTH, help="samples of a stream")
    run(
        "development",
        parser.parse_args(argv),
        measure,
        lambda content: {"development": [table(content["results"])]},
    )
