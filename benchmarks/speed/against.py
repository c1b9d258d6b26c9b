"""One learning step, in one call, here and in another checkout.

A process of each checkout learns the same rows. Rounds alternate between them; each figure is the median of
the ratios of the rounds, in processor time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import Progress

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import ROOT, Cell, Table
from .timing import NETWORKS

#: Options of the estimator, and whether each row's prediction is returned.
SIDES: dict[str, tuple[dict[str, Any], bool]] = {
    "one copy": ({"lr": 0.1, "replay": 0}, False),
    "one copy, with predictions": ({"lr": 0.1, "replay": 0}, True),
    "replay=0": ({"replay": 0}, True),
    "default": ({}, True),
}
_WORKER = Path(__file__).with_name("against_worker.py")
#: Rows in a call.
_ROWS = 32


class _Worker:
    """Process that measures a checkout."""

    def __init__(self, requests: IO[str], answers: IO[str]) -> None:
        self._requests, self._answers = requests, answers

    def seconds(self, request: str) -> float:
        """Return the seconds of a sample."""
        self._requests.write(request + "\n")
        self._requests.flush()
        return float(json.loads(self._answers.readline()))


@contextmanager
def _worker(checkout: Path) -> Iterator[_Worker]:
    """Run a worker of a checkout."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-P", str(_WORKER)]
    with subprocess.Popen(
        command,
        cwd=checkout,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        if process.stdin is not None and process.stdout is not None:
            yield _Worker(process.stdin, process.stdout)


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the microseconds of a sample of both checkouts, by network and side."""
    rounds, seconds = (1, 0.0) if arguments.quick else (arguments.repeats, arguments.seconds)
    results = {}
    with ExitStack() as stack, Progress(console=console, transient=True) as progress:
        pair = [stack.enter_context(_worker(checkout.resolve())) for checkout in (arguments.against, ROOT)]
        task = progress.add_task("", total=len(arguments.networks) * len(SIDES))
        for network in arguments.networks:
            for side, (options, predict) in SIDES.items():
                progress.update(task, description=f"{network}: {side}", advance=1)
                request = json.dumps([NETWORKS[network], options, _ROWS, seconds, predict])
                turns = [[each.seconds(request) for each in pair] for _ in range(rounds + 1)][1:]
                there, here = (statistics.median(of) * 1e6 for of in zip(*turns, strict=True))
                ratio = statistics.median(other / ours for other, ours in turns)
                results[f"{network}, {side}"] = {"there": there, "here": here, "ratio": ratio}
    return {"quick": arguments.quick, "repeats": rounds, "results": results}


def blocks(content: Content) -> Blocks:
    """Return the table of the ratios."""
    rows = [
        [
            Cell(name),
            Cell(f"{of['there']:,.1f} µs"),
            Cell(f"{of['here']:,.1f} µs"),
            Cell(f"{of['ratio']:.2f}×"),
        ]
        for name, of in content["results"].items()
    ]
    header = ["network and learner", "there", "here", "speed"]
    return {"steps": [Table("A step in one call, against another checkout", header, rows)]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("steps", __doc__, quick="the smallest run: does it work?")
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", required=True, help="the other checkout")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=9, help="rounds, of which the median is taken")
    parser.add_argument("--seconds", type=float, default=0.1, help="duration of each turn, about")
    run("steps", parser.parse_args(argv), measure, blocks)
