"""Quality while learning, on real streams: ``python -m benchmarks.quality``.

Prequential (test, then train), one pass, one sample at a time. Every rival gets what favours it: numbers in
place of strings; plain torch also all classes in advance and its best of five learning rates in hindsight.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from . import figure, report
from .rivals import CONTESTANTS, Contestant
from .streams import NAMES, Stream, load
from .summary import Entry, quality_table, speed_table, summarize

_QUICK = 100


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    models = [contestant.name for contestant in CONTESTANTS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--streams", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME")
    parser.add_argument("--models", nargs="+", choices=models, default=models, metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument(
        "--out",
        type=Path,
        default=report.ROOT / "build" / "benchmarks" / "quality.json",
        help="where the JSON goes, and beside it the figure (.png)",
    )
    parser.add_argument("--markdown", type=Path, help="a document to put the table into, between its marks")
    parser.add_argument("--quick", action="store_true", help=f"{_QUICK} samples a stream, the first seed")
    parser.add_argument(
        "--read", type=Path, help="show a JSON of before; nothing is run or written but --markdown"
    )
    return parser.parse_args(argv)


def _plan(
    streams: Sequence[Stream], contestants: Sequence[Contestant], seeds: Sequence[int]
) -> Iterator[tuple[Stream, Contestant, float | None, int]]:
    for stream in streams:
        for contestant in contestants:
            for rate in contestant.rates:
                for seed in seeds if contestant.seeded else seeds[:1]:
                    yield stream, contestant, rate, seed


def _advance(bar: Progress, task: TaskID, before: int, n: int) -> None:
    bar.update(task, completed=before + n)


def measure(
    streams: Sequence[Stream], contestants: Sequence[Contestant], seeds: Sequence[int], console: Console
) -> list[dict[str, Any]]:
    """Run every contestant over every stream, with a progress bar; return one record a run, as JSON."""
    plan = list(_plan(streams, contestants, seeds))
    bar = Progress(
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=2,
    )
    records: list[dict[str, Any]] = []
    with bar:
        task = bar.add_task("", total=sum(len(stream.samples) for stream, *_ in plan))
        done = 0
        for stream, contestant, rate, seed in plan:
            bar.update(task, description=f"{stream.name}: {contestant.name}")
            tick = functools.partial(_advance, bar, task, done)
            run = contestant.run(stream, seed, rate, tick)
            done += len(stream.samples)
            bar.update(task, completed=done)
            records.append(
                {
                    "stream": stream.name,
                    "model": contestant.name,
                    "seed": seed if contestant.seeded else None,
                    "rate": rate,
                    "metrics": run.metrics,
                    "seconds": round(run.seconds, 3),
                    "samples_per_second": round(len(stream.samples) / run.seconds, 1),
                }
            )
    return records


def markdown(entries: Sequence[Entry]) -> str:
    """Return the tables as Markdown."""
    tables = quality_table(entries), speed_table(entries)
    return "\n\n".join(f"{table.title}\n\n{table.markdown()}" for table in tables)


def read(path: Path) -> list[Entry]:
    """Return the summary in a JSON that this program wrote."""
    entries = json.loads(path.read_text(encoding="utf-8"))["summary"]
    return [Entry(**{**entry, "by_seed": tuple(entry["by_seed"])}) for entry in entries]


def _show(entries: Sequence[Entry], page: Path | None, console: Console) -> None:
    quality_table(entries).show(console)
    speed_table(entries).show(console)
    if page is not None:
        report.put_between_marks(page, "quality", markdown(entries))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    arguments = _arguments(argv)
    console = Console()
    if arguments.read is not None:
        _show(read(arguments.read), arguments.markdown, console)
        return
    torch.set_num_threads(1)
    seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
    streams = [load(name, _QUICK if arguments.quick else None) for name in arguments.streams]
    contestants = [contestant for contestant in CONTESTANTS if contestant.name in arguments.models]
    runs = measure(streams, contestants, seeds, console)
    entries = summarize(runs, streams, contestants)
    content = {
        "benchmark": "quality",
        "environment": report.environment(),
        "quick": arguments.quick,
        "seeds": seeds,
        "streams": {stream.name: stream.describe() for stream in streams},
        "models": {c.name: {"about": c.about, "rates": c.rates if c.tuned else None} for c in contestants},
        "summary": [asdict(entry) for entry in entries],
        "runs": runs,
    }
    report.write_json(arguments.out, content)
    ours = next((contestant.name for contestant in contestants if contestant.ours), "")
    figure.draw(entries, ours, arguments.out.with_suffix(".png"))
    _show(entries, arguments.markdown, console)
    console.print(f"Written: {arguments.out} and the figure beside it")


if __name__ == "__main__":
    main()
