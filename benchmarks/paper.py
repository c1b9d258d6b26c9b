"""The experiments of the paper (JMLR 23(72)), each with a verdict on its claims; ``--help`` has the options.

An experiment that was interrupted goes on where it was: its JSON holds every cell that is done.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from . import paper_conv, paper_cost, paper_mlp, report
from .paper_results import read
from .report import Table

#: Says what is being run, and the share of all that is done.
Tick = Callable[[str, float], None]


@dataclass(frozen=True)
class Experiment:
    """A subcommand.

    Attributes
    ----------
    about : str
        For ``--help``.
    add_arguments : callable
        Adds its options.
    run : callable
        Runs what is missing and returns the content of the JSON.
    tables : callable
        Returns what there is to show of it, the verdicts first.
    draw : callable
        Draws it to a file.
    """

    about: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Tick], dict[str, Any]]
    tables: Callable[[dict[str, Any]], list[Table]]
    draw: Callable[[dict[str, Any], Path], None]


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir", type=Path, required=True, metavar="DIR", help="docs/paper.md says of what"
    )
    parser.add_argument(
        "--size", choices=("quick", "reduced", "full"), default="reduced", help="quick: does it run?"
    )


def _add_conv(parser: argparse.ArgumentParser) -> None:
    _add_data(parser)
    parser.add_argument("--device", default="cpu", help="of torch, such as cuda; the full size is for a GPU")


def _add_cost(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=31, help="of which the median is taken")
    parser.add_argument("--seconds", type=float, default=0.05, help="each of them takes, about")


def _run_mlp(given: argparse.Namespace, tick: Tick) -> dict[str, Any]:
    return paper_mlp.run(given.size, given.data_dir, given.out, tick)


def _run_conv(given: argparse.Namespace, tick: Tick) -> dict[str, Any]:
    return paper_conv.run(given.size, given.device, given.data_dir, given.out, tick)


def _run_cost(given: argparse.Namespace, tick: Tick) -> dict[str, Any]:
    return paper_cost.run(given.out, given.repeats, given.seconds, tick)


#: To add an experiment, add an entry, and its marks to docs/paper.md.
EXPERIMENTS = {
    "mlp": Experiment(
        "three hidden layers of 100 on MNIST and Fashion-MNIST",
        _add_data,
        _run_mlp,
        paper_mlp.tables,
        paper_mlp.draw,
    ),
    "conv": Experiment(
        "a small CNN on Fashion-MNIST and ResNet-18 on CIFAR-10",
        _add_conv,
        _run_conv,
        paper_conv.tables,
        paper_conv.draw,
    ),
    "cost": Experiment(
        "time and memory of a step",
        _add_cost,
        _run_cost,
        paper_cost.tables,
        paper_cost.draw,
    ),
}


def markdown(name: str, content: dict[str, Any]) -> str:
    """Return the tables of an experiment for a page."""
    return "\n\n".join(f"{table.title}\n\n{table.markdown()}" for table in EXPERIMENTS[name].tables(content))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="experiment", required=True)
    for name, experiment in EXPERIMENTS.items():
        command = commands.add_parser(name, help=experiment.about, description=experiment.about)
        experiment.add_arguments(command)
        out = report.ROOT / "build" / "benchmarks" / f"paper_{name}.json"
        command.add_argument("--out", type=Path, default=out, help="the JSON; what is in it stands")
    show = commands.add_parser("show", help="show, draw and put on a page what was measured before")
    show.add_argument("shown", choices=EXPERIMENTS)
    show.add_argument("out", type=Path, metavar="JSON")
    for command in commands.choices.values():
        command.add_argument("--figure", type=Path, help="where the figure goes; without it, beside the JSON")
        command.add_argument("--markdown", type=Path, help="a page whose marked block takes the tables")
    return parser


def _measure(experiment: Experiment, arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, refresh_per_second=2) as progress:
        task = progress.add_task("", total=1.0)

        def tick(detail: str, share: float) -> None:
            progress.update(task, description=detail, completed=share)

        return experiment.run(arguments, tick)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    arguments = _parser().parse_args(argv)
    console = Console()
    name = arguments.shown if arguments.experiment == "show" else arguments.experiment
    experiment = EXPERIMENTS[name]
    if arguments.experiment == "show":
        content = read(arguments.out)
    else:
        content = _measure(experiment, arguments, console)
    for table in experiment.tables(content):
        table.show(console)
    figure = arguments.figure or arguments.out.with_suffix(".png")
    experiment.draw(content, figure)
    if arguments.markdown is not None:
        report.put_between_marks(arguments.markdown, f"paper-{name}", markdown(name, content))
    console.print(f"Figure: {figure}")


if __name__ == "__main__":
    main()
