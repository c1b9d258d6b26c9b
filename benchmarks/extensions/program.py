"""Arguments and flow that the programs on extensions share."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console

from ..common import program
from ..common.report import Table

Results: TypeAlias = dict[str, Any]


def arguments_of(name: str, about: str | None, seeds: Sequence[int]) -> argparse.ArgumentParser:
    """Return a parser for a program whose results of record are on the page of extensions."""
    quick = "the smallest run: does it work?"
    return program.arguments_of(name, about, pages=["docs/extensions.md"], seeds=seeds, quick=quick)


def run(
    name: str,
    arguments: argparse.Namespace,
    measure: Callable[[argparse.Namespace, Console], Results],
    tables: Callable[[Results], list[Table]],
    draw: Callable[[Results, Path], None],
) -> None:
    """Run a program whose JSON is the seeds and the results."""
    program.run(
        name,
        arguments,
        lambda given, console: {"seeds": given.seeds, "results": measure(given, console)},
        lambda content: {name: tables(content["results"])},
        lambda content, path: draw(content["results"], path),
    )
