"""Cost of shadows: rate of learning and latency of predictions, with no, one and two shadows.

Three servers with the default model run at the same time and get requests in turns, over loopback. Shadows
have the specification of their champion. Before each turn, all shadows have all samples. Needs wrk.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import track

from bnp_online.client import Client

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import Cell, Table
from . import wrk
from .server import Served, serve
from .throughput import LINES_A_REQUEST, STREAMS, write_bodies
from .wrk import Load

#: Numbers of shadows.
COUNTS = (0, 1, 2)
#: Figures of a side.
FIGURES = {
    "lines": f"lines learned a second, {STREAMS} connections",
    "json": "`/learn` a second, 16 connections",
    "p50": "`/predict` alone, p50, ms",
    "p99": "`/predict` alone, p99, ms",
    "flooded": "`/predict` beside 2 streams of lines, p99, ms",
    "behind": "events that a shadow was behind after lines",
}


@contextmanager
def sides() -> Iterator[dict[int, Served]]:
    """Run a server for each number of shadows."""
    with ExitStack() as stack:
        served = {}
        for count in COUNTS:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            served[count] = stack.enter_context(serve(folder))
            with Client(served[count].url) as client:
                for i in range(count):
                    client.add_shadow(f"shadow{i}", seed=i + 1)
        yield served


def behind(served: Served) -> int:
    """Return how many events the shadow that is the farthest behind lacks."""
    with Client(served.url) as client:
        return max((each.behind for each in client.shadows().shadows), default=0)


def wait(served: Served) -> None:
    """Wait until the shadows have all events."""
    while behind(served):
        time.sleep(0.05)


def turn(served: Served, learn: Path, predict: Path, seconds: int) -> dict[str, float]:
    """Return the figures of one side."""
    streams = Load("/learn", learn, STREAMS, seconds, LINES_A_REQUEST)
    single, asked = Load("/learn", learn, 16, seconds), Load("/predict", predict, 1, seconds)
    found = {"lines": wrk.run(served.url, streams).rate, "behind": float(behind(served))}
    wait(served)
    found["json"] = wrk.run(served.url, single).rate
    wait(served)
    alone = wrk.run(served.url, asked)
    flood = Load("/learn", learn, 2, seconds + 1, LINES_A_REQUEST)
    flooding = wrk.start(served.url, flood)
    time.sleep(0.5)
    beside = wrk.run(served.url, asked)
    wrk.finish(flooding, flood)
    wait(served)
    return {**found, "p50": alone.p50, "p99": alone.p99, "flooded": beside.p99}


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the medians of the figures, by number of shadows."""
    wrk.require()
    found: defaultdict[int, list[dict[str, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, sides() as served:
        learn, predict = write_bodies(Path(folder))
        for each in served.values():  # a warm-up, and something to know
            wrk.run(each.url, Load("/learn", learn, 16, 2))
            wait(each)
        for _ in track(range(arguments.repeats), "measuring", console=console):
            for count, each in served.items():
                found[count].append(turn(each, learn, predict, arguments.seconds))
    medians = {
        str(count): {name: round(statistics.median(each[name] for each in turns), 3) for name in FIGURES}
        for count, turns in found.items()
    }
    return {"repeats": arguments.repeats, "seconds": arguments.seconds, "shadows": medians}


def blocks(content: Content) -> Blocks:
    """Return a row for each figure."""
    by_count = content["shadows"]
    alone = by_count["0"]
    rows = []
    for name, text in FIGURES.items():
        cells = [Cell(_text(name, by_count[str(count)][name], alone[name])) for count in COUNTS]
        rows.append([Cell(text), *cells])
    columns = ["", "no shadow", "one shadow", "two shadows"]
    return {"shadows": [Table("Default model with shadows of the same specification", columns, rows)]}


def _text(name: str, value: float, alone: float) -> str:
    if name in ("lines", "json"):
        return f"{value:,.0f} ({value / alone:.2f}×)"
    return f"{value:,.0f}" if name == "behind" else f"{value:.2f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("shadows", __doc__, pages=["docs/how-to/shadows.md"])
    parser.add_argument("--repeats", type=int, default=5, help="of which the median is taken")
    parser.add_argument("--seconds", type=int, default=2, help="duration of each")
    run("shadows", parser.parse_args(argv), measure, blocks)
