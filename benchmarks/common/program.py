"""Parts that every benchmark program shares: arguments, progress, JSON, tables, figure, blocks of a page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from rich.console import Console
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it ships no types

from . import report
from .report import ROOT, Table

#: JSON of a program.
Content: TypeAlias = dict[str, Any]
#: By name of a marked block: tables and paragraphs.
Blocks: TypeAlias = Mapping[str, Sequence[Table | str]]


class _SetAll(argparse.Action):
    """Option without a value that sets several others."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> None:
        vars(namespace).update(self.const)


def arguments_of(
    name: str,
    about: str | None,
    *,
    pages: Sequence[str] = ("docs/benchmarks.md",),
    record: str = "",
    figure: str | None = None,
    seeds: Sequence[int] = (),
    quick: str = "",
) -> argparse.ArgumentParser:
    """Return a parser with the options that all programs share.

    Parameters
    ----------
    name : str
        The program.
    about : str
        Its docstring; the first line is shown.
    pages : sequence of str
        The pages with its results of record, relative to the repository.
    record : str
        Name of the results of record in ``docs/benchmarks``, if not that of the program.
    figure : str, optional
        The figure of record, if not beside its JSON.
    seeds : sequence of int
        Default of ``--seeds``; without it there is no such option.
    quick : str
        Help of ``--quick``; without it there is no such option.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks {name}", description=(about or "").partition("\n")[0]
    )
    json_of_record = ROOT / "docs" / "benchmarks" / f"{record or name}.json"
    of_record = {
        "out": json_of_record,
        "figure": ROOT / figure if figure else json_of_record.with_suffix(".png"),
        "markdown": [ROOT / page for page in pages],
    }
    if seeds:
        parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds), metavar="N")
    if quick:
        parser.add_argument("--quick", action="store_true", help=quick)
    out = ROOT / "build" / "benchmarks" / f"{record or name}.json"
    parser.add_argument("--out", type=Path, default=out, help="JSON to write (default: in build/benchmarks)")
    parser.add_argument("--figure", type=Path, help="PNG or SVG to draw (default: beside the JSON)")
    parser.add_argument(
        "--markdown",
        type=Path,
        nargs="+",
        default=[],
        metavar="PAGE",
        help="pages whose marked blocks to renew",
    )
    parser.add_argument("--read", type=Path, metavar="JSON", help="show an earlier result; measure nothing")
    parser.add_argument(
        "--record",
        action=_SetAll,
        nargs=0,
        const=of_record,
        help=f"renew the results of record: {json_of_record.name}, its figure, {', '.join(pages)}",
    )
    return parser


def one_thread() -> None:
    """Limit torch and NumPy to one thread: more would compete for the cores of a shared machine."""
    torch.set_num_threads(1)
    threadpool_limits(1)


def run(
    name: str,
    arguments: argparse.Namespace,
    measure: Callable[[argparse.Namespace, Console], Content],
    blocks: Callable[[Content], Blocks],
    draw: Callable[[Content, Path], None] | None = None,
) -> Content:
    """Measure and write the JSON, or read an earlier one; then show it, draw it and renew the pages.

    Returns
    -------
    dict
        The content of the JSON.
    """
    torch.set_num_threads(1)
    console = Console()
    if arguments.read is not None:
        content: Content = json.loads(arguments.read.read_text(encoding="utf-8"))
    else:
        about = {"benchmark": name, "environment": report.environment()}
        content = about | measure(arguments, console)
        report.write_json(arguments.out, content)
    publish(arguments, console, blocks(content), content, draw)
    return content


def publish(
    arguments: argparse.Namespace,
    console: Console,
    blocks: Blocks,
    content: Content,
    draw: Callable[[Content, Path], None] | None = None,
) -> None:
    """Print tables, draw the figure and renew the marked blocks of pages."""
    for parts in blocks.values():
        for part in parts:
            if isinstance(part, Table):
                part.show(console)
            else:
                console.print(part, markup=False, highlight=False)
    figure = arguments.figure or (arguments.out.with_suffix(".png") if arguments.read is None else None)
    if draw is not None and figure is not None:
        figure.parent.mkdir(parents=True, exist_ok=True)
        draw(content, figure)
        if figure.exists():  # a result without growth has no figure of speed
            console.print(f"Figure: {figure}", soft_wrap=True)
    for page in arguments.markdown:
        report.renew(page, {name: markdown(parts) for name, parts in blocks.items()})


def markdown(parts: Sequence[Table | str]) -> str:
    """Return tables with their titles, and paragraphs, as Markdown."""
    texts = [
        f"{part.title}\n\n{part.markdown()}" if isinstance(part, Table) else report.escaped(part)
        for part in parts
    ]
    return "\n\n".join(texts)
