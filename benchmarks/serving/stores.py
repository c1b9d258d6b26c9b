"""Rates over HTTP with PostgreSQL and with SQLite, here and in another checkout.

The servers run side by side, and 32 connections send them single samples in turns, over loopback. A ratio is
that of two servers in one round; the median of all rounds is shown, with the quartiles. Needs wrk, and a
database of PostgreSQL without tables of bnp-online.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from rich.console import Console
from rich.progress import track

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import Cell, Table
from . import wrk
from .server import processor_time, serve
from .throughput import write_bodies
from .wrk import Load

SQLITE, POSTGRES, OTHER = "SQLite", "PostgreSQL", "SQLite, other checkout"
PATHS = ("/learn", "/predict")
#: Ratios by name: the server above, and the one below.
RATIOS = {"PostgreSQL / SQLite": (POSTGRES, SQLITE), "SQLite, here / other": (SQLITE, OTHER)}
_CONNECTIONS = 32
#: Columns of /proc/PID/stat after the name: the parent, and the time of children that have ended.
_PARENT, _ENDED = 1, slice(13, 15)


class Side(NamedTuple):
    """A server that is measured.

    Attributes
    ----------
    url : str
        Its address.
    times : dict of str to callable
        Seconds of processor time so far, of the server and of its database.
    """

    url: str
    times: Mapping[str, Callable[[], float]]


def postmaster(url: str) -> int | None:
    """Return the number of the main process of PostgreSQL; None if it runs on another machine."""
    with closing(psycopg.connect(url)) as connection:
        backend = Path(f"/proc/{connection.info.backend_pid}/stat")
        if not backend.exists() or "(postgres)" not in backend.read_text():
            return None
        return int(_status(connection.info.backend_pid)[_PARENT])


def _status(process: int) -> list[str]:
    return Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()


def time_of_children(parent: int) -> float:
    """Return the seconds of processor time that the children of a process have taken (Linux)."""
    running = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    ended = sum(map(int, _status(parent)[_ENDED])) / os.sysconf("SC_CLK_TCK")
    return ended + sum(processor_time(int(child)) for child in running)


@contextmanager
def sides(arguments: argparse.Namespace) -> Iterator[dict[str, Side]]:
    """Run the servers."""
    with ExitStack() as stack:
        settings: dict[str, dict[str, Any]] = {SQLITE: {}, POSTGRES: {"BNP_STORE": arguments.url}}
        if arguments.against is not None:
            settings[OTHER] = {"checkout": arguments.against.resolve()}
        found = {}
        for name, own in settings.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            served = stack.enter_context(serve(folder, **own))
            process = served.server.process.pid
            times = {"server": _time_of(processor_time, process)}
            if name == POSTGRES and (parent := postmaster(arguments.url)) is not None:
                times["database"] = _time_of(time_of_children, parent)
            found[name] = Side(served.url, times)
        yield found


def _time_of(function: Callable[[int], float], process: int) -> Callable[[], float]:
    return lambda: function(process)


def one(side: Side, load: Load) -> dict[str, float]:
    """Return rate, latencies in ms and processor times of a sample in µs of one run."""
    before = {name: time() for name, time in side.times.items()}
    result = wrk.run(side.url, load)
    samples = max(result.rate * load.seconds, 1.0)
    spent = {name: (time() - before[name]) * 1e6 / samples for name, time in side.times.items()}
    return {"rate": result.rate, "p50": result.p50, "p99": result.p99, **spent}


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return medians of the figures of each server, and the ratios of the rates, by path."""
    wrk.require()
    with tempfile.TemporaryDirectory() as folder, sides(arguments) as servers:
        learn, predict = write_bodies(Path(folder))
        loads = {
            path: Load(path, bodies, _CONNECTIONS, arguments.seconds)
            for path, bodies in zip(PATHS, (learn, predict), strict=True)
        }
        for side in servers.values():  # a warm-up, and something to know
            wrk.run(side.url, Load("/learn", learn, _CONNECTIONS, 2))
        runs: dict[str, dict[str, list[dict[str, float]]]] = {
            path: {name: [] for name in servers} for path in PATHS
        }
        order = [*servers]
        for _ in track(range(arguments.rounds), "measuring", console=console):
            for path, load in loads.items():
                for name in order:
                    runs[path][name].append(one(servers[name], load))
            order.append(order.pop(0))
    return {
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
        "connections": _CONNECTIONS,
        "results": {path: {"sides": _medians(of), "ratios": _ratios(of)} for path, of in runs.items()},
    }


def _medians(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        name: {figure: round(statistics.median(each[figure] for each in of), 3) for figure in of[0]}
        for name, of in runs.items()
    }


def _ratios(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Return the quartiles of the ratios of rates and of processor times in one round, by name."""
    found = {}
    for name, (above, below) in RATIOS.items():
        if above in runs and below in runs:
            pairs = [*zip(runs[above], runs[below], strict=True)]
            found[name] = {
                figure: [round(each, 4) for each in quartiles([a[figure] / b[figure] for a, b in pairs])]
                for figure in ("rate", "server")
            }
    return found


def quartiles(values: Sequence[float]) -> list[float]:
    """Return the quartiles of values; of a single value that value."""
    return statistics.quantiles(values, n=4) if len(values) > 1 else [*values] * 3


def blocks(content: Content) -> Blocks:
    """Return the figures of each server, and the ratios."""
    rows, ratios = [], []
    for path, found in content["results"].items():
        for name, of in found["sides"].items():
            figures = [f"{of['rate']:,.0f}", f"{of['p50']:.1f}", f"{of['p99']:.1f}", f"{of['server']:,.0f}"]
            database = f"{of['database']:,.0f}" if "database" in of else ""
            rows.append([Cell(f"{path}, {name}"), *map(Cell, figures), Cell(database)])
        for name, of in found["ratios"].items():
            shown = [f"{middle:.2f} ({low:.2f} to {high:.2f})" for low, middle, high in of.values()]
            ratios.append([Cell(f"{path}, {name}"), *map(Cell, shown)])
    title = f"Requests of {content['connections']} connections, {content['rounds']} rounds, medians"
    columns = ["", "a second", "p50, ms", "p99, ms", "processor time, µs", "of PostgreSQL, µs"]
    return {
        "stores": [
            Table(title, columns, rows),
            Table(
                "Ratios of two servers in one round, medians (and quartiles)",
                ["", "requests a second", "processor time of the server"],
                ratios,
            ),
        ]
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("stores", __doc__, pages=["docs/cluster.md"])
    parser.add_argument(
        "--url", default=os.environ.get("BNP_STORE"), help="database (postgresql://…; default: BNP_STORE)"
    )
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="a checkout to compare SQLite with")
    parser.add_argument("--rounds", type=int, default=25, help="rounds, of which the median is taken")
    parser.add_argument("--seconds", type=int, default=1, help="duration of each run")
    arguments = parser.parse_args(argv)
    if arguments.url is None and arguments.read is None:
        parser.error("give the URL of a database: --url postgresql://…")
    run("stores", arguments, measure, blocks)
