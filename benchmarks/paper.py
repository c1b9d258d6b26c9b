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

from . import paper_figure, paper_mlp, report
from .paper_claims import Claim, claims_table, final_table
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
    run : callable
        Runs what is missing and returns the content of the JSON.
    tables : callable
        Returns what there is to show of it.
    draw : callable
        Draws it to a file.
    arguments : callable
        Adds the options of its own.
    """

    about: str
    run: Callable[[argparse.Namespace, Tick], dict[str, Any]]
    tables: Callable[[dict[str, Any]], list[Table]]
    draw: Callable[[dict[str, Any], Path], None]
    arguments: Callable[[argparse.ArgumentParser], None]


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-dir", type=Path, metavar="DIR", help="with the files that docs/paper.md names"
    )
    parser.add_argument("--size", choices=paper_mlp.EFFORTS, default="reduced", help="quick: does it run?")


def _data_dir(arguments: argparse.Namespace) -> Path:
    if arguments.data_dir is None:
        raise SystemExit("--data-dir is needed: docs/paper.md says what is in it")
    folder: Path = arguments.data_dir
    return folder


def _run_mlp(arguments: argparse.Namespace, tick: Tick) -> dict[str, Any]:
    return paper_mlp.run(arguments.size, _data_dir(arguments), arguments.out, tick)


def _mlp_tables(content: dict[str, Any]) -> list[Table]:
    finals = [
        final_table(
            f"Mini-batch {batch}: training loss, test accuracy and (rate)", paper_mlp.curves(content, batch)
        )
        for batch in paper_mlp.BATCHES
    ]
    return [_verdicts(paper_mlp.claims(content)), *finals]


def _verdicts(claims: list[Claim]) -> Table:
    return claims_table(claims)


EXPERIMENTS = {
    "mlp": Experiment(
        "three hidden layers of 100 on MNIST and Fashion-MNIST",
        _run_mlp,
        _mlp_tables,
        lambda content, path: paper_figure.draw(
            {batch: paper_mlp.curves(content, batch) for batch in paper_mlp.BATCHES}, path
        ),
        _add_data,
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
        experiment.arguments(command)
        out = report.ROOT / "build" / "benchmarks" / f"paper_{name}.json"
        command.add_argument("--out", type=Path, default=out, help="the JSON; what is in it stands")
        command.add_argument("--figure", type=Path, help="where the figure goes; without it, beside the JSON")
        command.add_argument("--markdown", type=Path, help="a page whose marked block takes the tables")
        command.add_argument("--read", type=Path, help="show an earlier result; nothing is run")
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
    experiment = EXPERIMENTS[arguments.experiment]
    content = _measure(experiment, arguments, console) if arguments.read is None else read(arguments.read)
    for table in experiment.tables(content):
        table.show(console)
    figure = arguments.figure or (arguments.read or arguments.out).with_suffix(".png")
    experiment.draw(content, figure)
    if arguments.markdown is not None:
        block = markdown(arguments.experiment, content)
        report.put_between_marks(arguments.markdown, f"paper-{arguments.experiment}", block)
    console.print(f"Figure: {figure}")


if __name__ == "__main__":
    main()
