"""Prequential quality on real streams.

Test, then train: one pass, one sample at a time. All rivals get numbers in place of strings. Plain torch and
Vowpal Wabbit also know all classes in advance, and count with the best of five learning rates in hindsight.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..common import report
from ..common.program import arguments_of
from ..common.streams import FILES, NAMES
from . import figure
from .program import QUICK, Suite, add_options, check_streams, run
from .results import read
from .rivals import CONTESTANTS
from .summary import Entry
from .tables import gain_table, quality_table, speed_table, verdict

_OURS = next(contestant.name for contestant in CONTESTANTS if contestant.ours)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    models = [contestant.name for contestant in CONTESTANTS]
    parser = arguments_of(
        "quality",
        __doc__,
        seeds=(0, 1),
        quick=f"{QUICK} samples a stream, the first seed",
        pages=("docs/benchmarks.md", "README.md"),
    )
    parser.epilog = (
        "To continue an interrupted run, repeat the command with --keep. Autocorrelated, stationary and "
        "drifting streams in groups: python -m benchmarks groups --help. Strings, words and ids, also of the "
        "files of --data-dir: python -m benchmarks sparse --help."
    )
    parser.add_argument(
        "--streams",
        nargs="+",
        metavar="NAME",
        help=f"{', '.join(NAMES)} (default: these), a stream of --data-dir, or a generated one",
    )
    add_options(parser, models, models)
    arguments = parser.parse_args(argv)
    arguments.left_out = []
    if arguments.streams is None:
        without = FILES if arguments.data_dir is None else {}
        arguments.left_out = [name for name in NAMES if name in without]
        arguments.streams = [name for name in NAMES if name not in without]
    check_streams(parser, arguments)
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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    arguments = _arguments(argv)
    console = Console()
    if arguments.read is not None:
        _show(read(arguments.read)[0], arguments.markdown, console)
        return
    if arguments.left_out:
        files = ", ".join(FILES[name] for name in arguments.left_out)
        console.print(f"Left out: {', '.join(arguments.left_out)}. They need --data-dir DIR with {files}.")
    results = run("quality", arguments, Suite(CONTESTANTS), console)
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
