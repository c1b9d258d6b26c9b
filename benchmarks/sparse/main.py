"""Quality and cost on streams of strings, words and ids, against Vowpal Wabbit and River.

Predict, then learn: one pass, one sample at a time, from the first sample on. Rivals with an asterisk count
with the best of five or six settings on each stream, in hindsight.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from ..common import report
from ..common.program import Blocks, arguments_of, one_thread, publish
from ..common.report import Table
from ..quality.contestant import Tick
from ..quality.program import QUICK, Suite, add_options, limit_of, run
from ..quality.results import Results, read
from ..quality.runs import Job, load_once, record_of
from ..quality.summary import Entry
from . import cost
from .figure import draw
from .rivals import BY_NAME, CONTESTANTS, OURS
from .streams import FILES, NAMES, find, load, place
from .tables import (
    accuracy_table,
    cost_table,
    gain_table,
    growth_table,
    loss_table,
    rivals_table,
    time_table,
    verdict,
    versus,
)

#: Parts of the program, in the order in which they run.
PARTS = ("quality", "cost", "growth")
#: Stream whose values are the most.
_GROWING = "big"
_NO_REPLAY = "BNP, replay=0"


def perform(job: Job, tick: Tick) -> dict[str, Any]:
    """Run a contestant over a stream, and return the run as JSON."""
    one_thread()
    return record_of(job, load_once(load, job.stream, job.limit, job.data_dir), BY_NAME[job.model], tick)


_SUITE = Suite(CONTESTANTS, load, place, perform)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = arguments_of("sparse", __doc__, seeds=(0, 1), quick=f"{QUICK} samples a stream, the first seed")
    parser.epilog = "To continue an interrupted run, repeat the command with --keep."
    parser.add_argument(
        "--streams",
        nargs="+",
        metavar="NAME",
        choices=NAMES,
        help=f"{', '.join(NAMES)} (default: all that need no file, and those of --data-dir)",
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    models = [contestant.name for contestant in CONTESTANTS]
    files = ", ".join(file.name for file in FILES.values())
    add_options(parser, models, models, f"folder with {files}, or with a folder sparse that contains them")
    arguments = parser.parse_args(argv)
    missing = [name for name in FILES if find(name, arguments.data_dir) is None]
    arguments.left_out = missing if arguments.streams is None else []
    if arguments.streams is None:
        arguments.streams = [name for name in NAMES if name not in missing]
    for name in arguments.streams:
        if name in missing:
            parser.error(f"{name}: --data-dir DIR with {FILES[name].name} is needed")
    return arguments


def blocks(entries: Sequence[Entry], facts: Mapping[str, Any], parts: Mapping[str, Any]) -> Blocks:
    """Return the marked blocks of the page."""
    found: dict[str, list[Table | str]] = {}
    if entries:
        rivals = [entry for entry in entries if entry.model != _NO_REPLAY]
        words = [verdict(rivals, OURS), versus(rivals, OURS, "VW", "Vowpal Wabbit")]
        tables = [loss_table(entries, facts), accuracy_table(entries)]
        tables += [gain_table(rivals, OURS)] if words[0] else []
        found["sparse"] = [*filter(None, words), *tables, time_table(entries, facts)]
    if "cost" in parts:
        of_streams = parts["cost"]["streams"]
        found["sparse-cost"] = [cost_table(of_streams), rivals_table(of_streams)]
    if "growth" in parts:
        found["sparse-growth"] = [growth_table(parts["growth"])]
    return found


def _measure(arguments: argparse.Namespace, console: Console) -> Results:
    """Perform the requested parts; each is saved at its end."""
    if "quality" in arguments.parts:
        results = run("sparse", arguments, _SUITE, console)
    else:
        results = Results("sparse", arguments.out, {}, CONTESTANTS, quick=arguments.quick, place=place)
        if arguments.keep:
            results.keep()
    one_thread()
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("", total=None)

        def tick(detail: str) -> None:
            progress.update(task, description=detail)

        if "cost" in arguments.parts:
            streams = (load(name, limit_of(arguments), arguments.data_dir) for name in arguments.streams)
            of_streams = {stream.name: cost.compare(stream, tick) for stream in streams}
            results.parts["cost"] = {"environment": report.environment(), "streams": of_streams}
            results.save()
        if "growth" in arguments.parts:
            of_growth = cost.growth(load(_GROWING, limit_of(arguments)), tick)
            results.parts["growth"] = {"environment": report.environment(), **of_growth}
            results.save()
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    arguments = _arguments(argv)
    console = Console()
    if arguments.read is not None:
        entries, facts = read(arguments.read)
        parts = json.loads(arguments.read.read_text(encoding="utf-8")).get("parts", {})
    else:
        if arguments.left_out:
            files = ", ".join(FILES[name].name for name in arguments.left_out)
            console.print(
                f"Left out: {', '.join(arguments.left_out)}. They need --data-dir DIR with {files}."
            )
        results = _measure(arguments, console)
        entries, facts, parts = results.entries(), results.facts, results.parts
        if results.unfinished:
            console.print(f"Incomplete streams: {', '.join(results.unfinished)}")
    shown = blocks(entries, facts, parts)
    if not shown:
        console.print(f"No stream has results of enough models yet. Written: {arguments.out}")
        return

    def draw_parts(_: Mapping[str, Any], path: Path) -> None:
        draw(entries, facts, parts.get("growth"), path)

    publish(arguments, console, shown, {}, draw_parts)
