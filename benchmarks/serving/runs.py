"""CPU time of a sample in the log: stored alone, and in a run of 256.

The samples have 64 features, as NDJSON lines. The logs take turns. With the URL of a database of PostgreSQL
without tables of bnp-online, also its log. The time of its server is that of the process behind the
connection, on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np
import psycopg
from rich.console import Console
from rich.progress import track

from service.storage.event_codec import digest
from service.storage.interfaces import LAST, Event, EventLog, Group, Segment
from service.storage.postgres import PostgresLog
from service.storage.runs import gather
from service.storage.sqlite import SqliteLog

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import Cell, Table

#: Samples of one commit, and features of each.
SAMPLES, FEATURES = 256, 64
_BACKEND = "SELECT pid FROM pg_stat_activity WHERE application_name = 'bnp-online log'"
_FORMS = ("alone", "in a run", "alone, with ids", "in a run, with ids")


def samples(repeat: int, *, named: bool) -> list[Event]:
    """Return new samples, with ids if `named`."""
    rng = np.random.default_rng(repeat)
    found = []
    for i, values in enumerate(rng.normal(size=(SAMPLES, FEATURES)).tolist()):
        x = {f"feature{k}": value for k, value in enumerate(values)}
        identifier = f"sample-{repeat}-{i}" if named else None
        body = {"x": x, "y": "yes", **({"id": identifier} if named else {})}
        found.append(
            Event("learn", json.dumps(body).encode(), identifier, digest(x, "yes") if named else None, i + 1)
        )
    return found


def time_of(process: int) -> float:
    """Return the CPU time of a process in seconds."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Timed:
    """Log with one model, and the microseconds of CPU time of each sample.

    Parameters
    ----------
    log : EventLog
        The log.
    form : str
        One of `_FORMS`.
    server : callable
        Returns the CPU time of the server of the log.
    """

    def __init__(self, log: EventLog, form: str, server: Callable[[], float]) -> None:
        self._log, self._server = log, server
        self._together, self._named = "run" in form, "ids" in form
        self._model = log.create(Event("create", b"{}"))
        self.times: list[float] = []
        self.server_seconds = 0.0

    def append(self, repeat: int) -> None:
        """Commit new samples."""
        events = samples(repeat, named=self._named)
        before, start = self._server(), time.thread_time()
        self._log.append([Group(self._model, 0, gather(events) if self._together else events)])
        self.times.append((time.thread_time() - start) / SAMPLES * 1e6)
        self.server_seconds += self._server() - before

    def result(self) -> dict[str, float]:
        """Return the times of a sample that is committed, and of one that is read."""
        start = time.thread_time()
        count = sum(1 for _ in self._log.read(self._model, [Segment(0, self._model, LAST)]))
        read = (time.thread_time() - start) / count * 1e6
        server = self.server_seconds / count * 1e6
        return {"commit": statistics.median(self.times), "server": server, "read": read}


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the times of each log and form."""
    with ExitStack() as stack:
        timed: dict[str, dict[str, Timed]] = {"sqlite": {}}
        for form in _FORMS:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            log = stack.enter_context(closing(SqliteLog(folder)))
            timed["sqlite"][form] = Timed(log, form, lambda: 0.0)
        if arguments.url is not None:
            store = stack.enter_context(closing(PostgresLog(arguments.url)))
            store.probe()  # opens the connection of the commits
            with closing(psycopg.connect(arguments.url)) as connection:
                [(process,)] = connection.execute(_BACKEND).fetchall()
            timed["postgres"] = {form: Timed(store, form, partial(time_of, process)) for form in _FORMS}
        for repeat in track(range(arguments.repeats), "measuring", console=console):
            for forms in timed.values():
                for each in forms.values():
                    each.append(repeat)
        times = {name: {form: each.result() for form, each in of.items()} for name, of in timed.items()}
    return {"repeats": arguments.repeats, "samples": SAMPLES, "features": FEATURES, "times": times}


def blocks(content: Content) -> Blocks:
    """Return a row for each log and form."""
    rows = [
        [
            Cell(name),
            Cell(form),
            *(Cell(f"{times[each]:.1f}" if times[each] else "") for each in ("commit", "server", "read")),
        ]
        for name, forms in content["times"].items()
        for form, times in forms.items()
    ]
    columns = ["log", "sample", "commit", "commit, server", "read"]
    return {"runs": [Table("Microseconds of CPU time of a sample in the log", columns, rows)]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("runs", __doc__, pages=[])
    parser.add_argument(
        "--url", default=os.environ.get("BNP_STORE"), help="database (postgresql://…; default: BNP_STORE)"
    )
    parser.add_argument("--repeats", type=int, default=100, help="commits of each log and form")
    run("runs", parser.parse_args(argv), measure, blocks)
