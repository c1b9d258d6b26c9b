"""Time and memory of the numba engine, and start of the server.

Each figure is a ratio of medians: all sides take turns in one process, on one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import Table
from . import dicts, figure, floor, growth, memory, startup, steps
from .timing import NETWORKS, Effort, Tick


@dataclass(frozen=True)
class Part:
    """Part of the benchmark.

    Attributes
    ----------
    measure : callable
        Returns the results as JSON.
    tables : callable
        Returns tables of the results.
    """

    measure: Callable[[Effort, Tick], dict[str, Any]]
    tables: Callable[[dict[str, Any]], list[Table]]


#: In the order in which they run. To add a part, add an entry, and its marks to docs/benchmarks.md.
PARTS = {
    "steps": Part(steps.measure, steps.tables),
    "dicts": Part(dicts.measure, dicts.tables),
    "floor": Part(floor.measure, floor.tables),
    "growth": Part(growth.measure, growth.tables),
    "memory": Part(memory.measure, memory.tables),
    "start": Part(startup.measure, startup.tables),
}


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the results of the parts by name."""
    effort = Effort(arguments.networks, arguments.repeats, arguments.seconds, quick=False)
    if arguments.quick:
        effort = Effort(["S"], repeats=1, seconds=0.0, quick=True)
    results = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(arguments.parts))
        for name in arguments.parts:

            def tick(detail: str, name: str = name) -> None:
                progress.update(task, description=f"{name}: {detail}")

            results[name] = PARTS[name].measure(effort, tick)
            progress.advance(task)
    return {"quick": arguments.quick, "repeats": effort.repeats, "parts": results}


def blocks(content: Content) -> Blocks:
    """Return the tables of each part."""
    return {f"speed-{name}": PARTS[name].tables(results) for name, results in content["parts"].items()}


def draw(content: Content, path: Path) -> None:
    """Draw the growth of the cost of a step, if it was measured."""
    if "growth" in content["parts"]:
        figure.draw(content["parts"]["growth"], path)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("speed", __doc__, quick="the smallest run: does it work?")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=7, help="of which the median is taken")
    parser.add_argument("--seconds", type=float, default=0.3, help="duration of each, about")
    run("speed", parser.parse_args(argv), measure, blocks, draw)
