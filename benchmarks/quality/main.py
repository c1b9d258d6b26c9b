"""Prequential quality on real streams.

Test, then train: one pass, one sample at a time. All rivals get numbers in place of strings. Plain torch and
Vowpal Wabbit also know all classes in advance, and count with the best of five learning rates in hindsight.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..common import report
from ..common.program import arguments_of
from ..common.streams import FILES, NAMES, load
from . import figure
from .results import Results, read
from .rivals import CONTESTANTS
from .runs import Job, measure
from .summary import Entry
from .tables import gain_table, quality_table, speed_table, verdict

_QUICK = 100
_OURS = next(contestant.name for contestant in CONTESTANTS if contestant.ours)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    models = [contestant.name for contestant in CONTESTANTS]
    parser = arguments_of(
        "quality",
        __doc__,
        seeds=(0, 1),
        quick=f"{_QUICK} samples a stream, the first seed",
        pages=("docs/benchmarks.md", "README.md"),
    )
    parser.add_argument("--streams", nargs="+", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument(
        "--models", nargs="+", choices=models, default=models, metavar="NAME", help=", ".join(models)
    )
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help=f"with {' and '.join(FILES.values())}")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="keep the runs of the same versions in the JSON, and add the others",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time, each in a process")
    arguments = parser.parse_args(argv)
    missing = [name for name in arguments.streams or NAMES if name in FILES and arguments.data_dir is None]
    if arguments.streams is not None and missing:
        parser.error(f"{', '.join(missing)}: --data-dir is needed")
    arguments.left_out = missing
    wanted = arguments.streams or NAMES
    arguments.streams = [name for name in NAMES if name in wanted and name not in missing]
    return arguments


def blocks(entries: Sequence[Entry]) -> dict[str, str]:
    """Return the blocks of the pages by name."""
    full, short = quality_table(entries), quality_table(entries, settings=False)
    words = report.escaped(verdict(entries, _OURS))
    tables = (full, gain_table(entries, _OURS), speed_table(entries))
    return {
        "quality": "\n\n".join([words, *(f"{table.title}\n\n{table.markdown()}" for table in tables)]),
        "quality-short": f"{short.markdown()}\n\n{words}",
    }


def _show(entries: Sequence[Entry], pages: Sequence[Path], console: Console) -> None:
    for table in (quality_table(entries), speed_table(entries)):
        table.show(console)
    if words := verdict(entries, _OURS):
        gain_table(entries, _OURS).show(console)
        console.print(words)
    for page in pages:
        report.renew(page, blocks(entries))


def _plan(results: Results, facts: Mapping[str, Any], arguments: argparse.Namespace) -> Iterator[Job]:
    """Yield the requested runs that the results lack."""
    limit = _QUICK if arguments.quick else None
    seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
    for stream, fact in facts.items():
        for contestant in CONTESTANTS:
            if contestant.name not in arguments.models:
                continue
            for setting in contestant.settings(fact["features"]):
                for seed in seeds if contestant.seeded else [None]:
                    if not results.has(stream, contestant, setting, seed):
                        data_dir = arguments.data_dir
                        yield Job(stream, fact["samples"], limit, data_dir, contestant.name, setting, seed)


def _run(arguments: argparse.Namespace, console: Console) -> Results:
    if arguments.left_out:
        files = ", ".join(FILES[name] for name in arguments.left_out)
        console.print(f"Left out: {', '.join(arguments.left_out)}. They need --data-dir DIR with {files}.")
    limit = _QUICK if arguments.quick else None
    facts = {name: load(name, limit, arguments.data_dir).describe() for name in arguments.streams}
    results = Results(arguments.out, facts, CONTESTANTS, quick=arguments.quick)
    if arguments.keep:
        results.keep()
    try:
        measure(list(_plan(results, facts, arguments)), arguments.jobs, console, results.add)
    finally:
        results.save()
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    arguments = _arguments(argv)
    console = Console()
    if arguments.read is not None:
        _show(read(arguments.read), arguments.markdown, console)
        return
    results = _run(arguments, console)
    entries = results.entries()
    if not entries:
        console.print(f"No stream has results of enough models yet. Written: {arguments.out}")
        return
    figure.draw(entries, _OURS, arguments.figure or arguments.out.with_suffix(".png"))
    _show(entries, arguments.markdown, console)
    if results.unfinished:
        names = ", ".join(results.unfinished)
        console.print(f"Incomplete streams (– in the tables, or absent): {names}")
    console.print(f"Written: {arguments.out} and the figure beside it")
