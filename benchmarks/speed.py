"""Speed and size of the compiled engine, part by part; ``--help`` has the options.

Every claim is a ratio: all sides run in turns in one process, on one thread, and medians are compared.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress

from . import (
    report,
    speed_dicts,
    speed_figure,
    speed_floor,
    speed_growth,
    speed_memory,
    speed_start,
    speed_steps,
)
from .report import Table
from .speed_sides import NETWORKS, Effort, Tick


@dataclass(frozen=True)
class Part:
    """A part of the benchmark.

    Attributes
    ----------
    measure : callable
        Returns its results, as JSON.
    tables : callable
        Returns what is to be shown of them.
    """

    measure: Callable[[Effort, Tick], dict[str, Any]]
    tables: Callable[[dict[str, Any]], list[Table]]


#: In the order in which they run. To add a part, add an entry, and its marks to docs/benchmarks.md.
PARTS = {
    "steps": Part(speed_steps.measure, speed_steps.tables),
    "dicts": Part(speed_dicts.measure, speed_dicts.tables),
    "floor": Part(speed_floor.measure, speed_floor.tables),
    "growth": Part(speed_growth.measure, speed_growth.tables),
    "memory": Part(speed_memory.measure, speed_memory.tables),
    "start": Part(speed_start.measure, speed_start.tables),
}


def run(parts: Sequence[str], effort: Effort, console: Console) -> dict[str, Any]:
    """Return the results of the parts by name."""
    results = {}
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=len(parts))
        for name in parts:

            def tick(detail: str, name: str = name) -> None:
                progress.update(task, description=f"{name}: {detail}")

            results[name] = PARTS[name].measure(effort, tick)
            progress.advance(task)
    return results


def markdown(name: str, results: dict[str, Any]) -> str:
    """Return the tables of a part for a page."""
    return "\n\n".join(f"{table.title}\n\n{table.markdown()}" for table in PARTS[name].tables(results))


def show(content: dict[str, Any], console: Console, page: Path | None) -> None:
    """Print the tables of a result, and put them between the marks of a page."""
    for name, results in content["parts"].items():
        for table in PARTS[name].tables(results):
            table.show(console)
        if page is not None:
            report.put_between_marks(page, f"speed-{name}", markdown(name, results))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=7, help="of which the median is taken")
    parser.add_argument("--seconds", type=float, default=0.3, help="each of them takes, about")
    parser.add_argument("--quick", action="store_true", help="the smallest of all: does it run?")
    parser.add_argument("--out", type=Path, default=Path("build/benchmarks/speed.json"))
    parser.add_argument("--markdown", type=Path, help="a page whose marked blocks take the tables")
    parser.add_argument("--read", type=Path, help="show an earlier result instead of measuring")
    arguments = parser.parse_args(argv)
    console = Console()
    if arguments.read is not None:
        show(json.loads(arguments.read.read_text(encoding="utf-8")), console, arguments.markdown)
        return
    torch.set_num_threads(1)
    effort = Effort(arguments.networks, arguments.repeats, arguments.seconds, quick=False)
    if arguments.quick:
        effort = Effort(["S"], repeats=1, seconds=0.0, quick=True)
    content: dict[str, Any] = {
        "benchmark": "speed",
        "quick": arguments.quick,
        "environment": report.environment(),
        "repeats": effort.repeats,
        "parts": run(arguments.parts, effort, console),
    }
    report.write_json(arguments.out, content)
    if "growth" in content["parts"]:
        speed_figure.draw(content["parts"]["growth"], arguments.out.with_suffix(".png"))
    show(content, console, arguments.markdown)


if __name__ == "__main__":
    main()
