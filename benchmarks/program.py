"""What the small benchmark programs have in common: arguments, JSON, tables, a figure, a block of a page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from rich.console import Console

from . import report
from .report import Table

Results: TypeAlias = dict[str, Any]


def arguments_of(name: str, about: str | None, seeds: Sequence[int]) -> argparse.ArgumentParser:
    """Return a parser with what every one of these programs takes."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    parser.add_argument("--quick", action="store_true", help="the smallest of all: does it run?")
    parser.add_argument("--out", type=Path, default=Path(f"build/benchmarks/{name}.json"))
    parser.add_argument("--figure", type=Path, help="a PNG or SVG file")
    parser.add_argument("--markdown", type=Path, help="a page whose marked block takes the tables")
    parser.add_argument("--read", type=Path, help="show an earlier result instead of measuring")
    return parser


def run(
    name: str,
    arguments: argparse.Namespace,
    measure: Callable[[argparse.Namespace, Console], Results],
    tables: Callable[[Results], list[Table]],
    draw: Callable[[Results, Path], None],
) -> None:
    """Measure, or read what was measured; then show it and write what was asked for."""
    torch.set_num_threads(1)
    console = Console()
    if arguments.read is not None:
        results: Results = json.loads(arguments.read.read_text(encoding="utf-8"))["results"]
    else:
        results = measure(arguments, console)
        content = {
            "benchmark": name,
            "environment": report.environment(),
            "seeds": arguments.seeds,
            "results": results,
        }
        report.write_json(arguments.out, content)
    shown = tables(results)
    for table in shown:
        table.show(console)
    if arguments.figure is not None:
        arguments.figure.parent.mkdir(parents=True, exist_ok=True)
        draw(results, arguments.figure)
    if arguments.markdown is not None:
        text = "\n\n".join(f"{table.title}\n\n{table.markdown()}" for table in shown)
        report.put_between_marks(arguments.markdown, name, text)
