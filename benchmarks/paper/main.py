"""Experiments of the paper (JMLR 23(72)), each with a verdict on its claims.

``python -m benchmarks paper EXPERIMENT --help`` lists the options of an experiment. `mlp` and `conv` save
each cell when it is done: an interrupted run continues with the JSON at ``--out``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..common.program import arguments_of, publish
from ..common.report import Table
from . import convolutions, cost, perceptrons
from .results import read

#: Shows what is running, and the share of the whole that is done.
Tick = Callable[[str, float], None]


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes
    ----------
    about : str
        For ``--help``.
    add_arguments : callable
        Adds its options to a parser.
    run : callable
        Runs the missing cells and returns the content of the JSON.
    tables : callable
        Returns its tables, the verdicts first.
    draw : callable
        Draws its figure to a file.
    """

    about: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Tick], dict[str, Any]]
    tables: Callable[[dict[str, Any]], list[Table]]
    draw: Callable[[dict[str, Any], Path], None]


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="folder of the images; see docs/paper.md"
    )
    parser.add_argument(
        "--size", choices=("quick", "reduced", "full"), default="reduced", help="quick: does it work?"
    )


def _add_conv(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument(
        "--device", default="cpu", help="torch device, such as cuda; the full size needs a GPU"
    )


def _add_cost(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=31, help="of which the median is taken")
    parser.add_argument("--seconds", type=float, default=0.05, help="duration of each, about")


def _run_mlp(given: argparse.Namespace, tick: Tick) -> dict[str, Any]:
    return perceptrons.run(given.size, given.data_dir, given.out, tick)


def _run_conv(given: argparse.Namespace, tick: Tick) -> dict[str, Any]:
    return convolutions.run(given.size, given.device, given.data_dir, given.out, tick)


def _run_cost(given: argparse.Namespace, tick: Tick) -> dict[str, Any]:
    return cost.run(given.out, given.repeats, given.seconds, tick)


#: To add an experiment, add an entry, and its marks to docs/paper.md.
EXPERIMENTS = {
    "mlp": Experiment(
        "three hidden layers of 100 on MNIST and Fashion-MNIST",
        _add_data,
        _run_mlp,
        perceptrons.tables,
        perceptrons.draw,
    ),
    "conv": Experiment(
        "a small CNN on Fashion-MNIST and ResNet-18 on CIFAR-10",
        _add_conv,
        _run_conv,
        convolutions.tables,
        convolutions.draw,
    ),
    "cost": Experiment("time and memory of a step", _add_cost, _run_cost, cost.tables, cost.draw),
}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    chosen = argparse.ArgumentParser(
        prog="python -m benchmarks paper", description=(__doc__ or "").partition("\n")[0]
    )
    known = "; ".join(f"{name}: {each.about}" for name, each in EXPERIMENTS.items())
    chosen.add_argument("experiment", choices=EXPERIMENTS, help=known)
    chosen.add_argument("options", nargs=argparse.REMAINDER, help="EXPERIMENT --help lists them")
    first = chosen.parse_args(argv)
    name = first.experiment
    parser = arguments_of(
        f"paper {name}",
        EXPERIMENTS[name].about,
        pages=["docs/paper.md"],
        record=f"paper_{name}",
        figure=f"docs/images/paper_{name}.png",
    )
    EXPERIMENTS[name].add_arguments(parser)
    arguments = parser.parse_args(first.options)
    if arguments.read is None and getattr(arguments, "data_dir", ".") is None:
        parser.error("--data-dir is needed")
    arguments.experiment = name
    return arguments


def _measure(experiment: Experiment, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        task = progress.add_task("", total=1.0)

        def tick(detail: str, share: float) -> None:
            progress.update(task, description=detail, completed=share)

        return experiment.run(arguments, tick)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    arguments = _arguments(argv)
    console, experiment = Console(), EXPERIMENTS[arguments.experiment]
    content = read(arguments.read) if arguments.read else _measure(experiment, arguments, console)
    blocks = {f"paper-{arguments.experiment}": experiment.tables(content)}
    publish(arguments, console, blocks, content, experiment.draw)
