"""Events a second that the log commits: PostgreSQL against SQLite, several shards at once, and bytes.

Both logs take turns on the same machine. An event has 900 bytes, as a sample of 64 features. Needs a database
of PostgreSQL without tables of bnp-online, and removes nothing from it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
from rich.console import Console
from rich.progress import track

from service.storage.interfaces import Event, EventLog, Group
from service.storage.postgres import PostgresLog
from service.storage.sqlite import SqliteLog

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import Cell, Table

#: Events that one commit adds: one request, 32 connections, and a stream.
GROUPS = (1, 32, 256)
#: Numbers of shards whose owners commit at once, and events of their commits.
SHARDS = (1, 4, 16)
SHARD_GROUPS = (1, 256)
_EVENTS = 10_000
_TOTALS = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn, pg_database_size(current_database())"
_EVENT = Event("learn", b"x" * 900, step=1)


def rate(log: EventLog, model: int, group: int, seconds: float) -> float:
    """Return the events a second of commits one after another."""
    events, start = 0, time.perf_counter()
    groups = [Group(model, 0, [_EVENT])] * group
    while time.perf_counter() < start + seconds:
        log.append(groups)
        events += group
    return events / (time.perf_counter() - start)


def together(logs: Sequence[tuple[EventLog, int]], group: int, seconds: float) -> float:
    """Return the events a second of all logs together; a commit has the given number of events."""
    rates: list[float] = []
    threads = [
        threading.Thread(target=lambda log, model: rates.append(rate(log, model, group, seconds)), args=each)
        for each in logs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def written(url: str, log: EventLog, model: int, group: int) -> dict[str, float]:
    """Return the bytes that an event adds to the write-ahead log of PostgreSQL, and to its tables."""
    with closing(psycopg.connect(url, autocommit=True)) as connection:

        def totals() -> tuple[float, float]:
            row = connection.execute(_TOTALS).fetchone()
            assert row is not None  # noqa: S101 (it has no FROM)
            return float(row[0]), float(row[1])

        connection.execute("CHECKPOINT")  # the first change of each page thereafter is written as a whole
        before, commits = totals(), max(_EVENTS // group, 1)
        for _ in range(commits):
            log.append([Group(model, 0, [_EVENT])] * group)
        after = totals()
    names = ("write-ahead log", "tables and indexes")
    return {name: (after[k] - before[k]) / (commits * group) for k, name in enumerate(names)}


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the medians of the rates of each log."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        owners: list[PostgresLog] = []
        for shard in range(max(SHARDS)):
            owners.append(stack.enter_context(closing(PostgresLog(arguments.url, [shard]))))
        sqlite: EventLog = stack.enter_context(closing(SqliteLog(folder)))
        creation = Event("create", b"{}")
        logs: dict[str, tuple[EventLog, int]] = {"sqlite": (sqlite, sqlite.create(creation))}
        shards = [(owner, owner.create(creation)) for owner in owners]
        logs["postgres"] = shards[0]
        times: dict[str, dict[str, list[float]]] = {
            **{str(group): {name: [] for name in logs} for group in GROUPS},
            **{f"shards, {group}": {str(count): [] for count in SHARDS} for group in SHARD_GROUPS},
        }
        for _ in track(range(arguments.repeats), "measuring", console=console):
            for group in GROUPS:
                for name, (log, model) in logs.items():
                    times[str(group)][name].append(rate(log, model, group, arguments.seconds))
            for group, count in itertools.product(SHARD_GROUPS, SHARDS):
                found = together(shards[:count], group, arguments.seconds)
                times[f"shards, {group}"][str(count)].append(found)
        sizes = {str(group): written(arguments.url, *shards[0], group) for group in SHARD_GROUPS}
    medians = {
        kind: {name: statistics.median(rates) for name, rates in of.items()} for kind, of in times.items()
    }
    return {"seconds": arguments.seconds, "repeats": arguments.repeats, "rates": medians, "bytes": sizes}


def _commits(group: int | str) -> str:
    return f"{group} event{'' if int(group) == 1 else 's'} a commit"


def blocks(content: Content) -> Blocks:
    """Return a row for each size of a commit, and for each number of shards."""
    rates = content["rates"]
    rows = [
        [
            Cell(_commits(group)),
            *(Cell(f"{rates[str(group)][name]:,.0f}") for name in ("sqlite", "postgres")),
            Cell(f"{rates[str(group)]['postgres'] / rates[str(group)]['sqlite']:.2f}×"),
        ]
        for group in GROUPS
    ]
    shards = []
    for count in rates[f"shards, {SHARD_GROUPS[0]}"]:
        row = [Cell(count)]
        for group in SHARD_GROUPS:
            found = rates[f"shards, {group}"]
            row += [Cell(f"{found[count]:,.0f}"), Cell(f"{found[count] / found['1']:.2f}×")]
        shards.append(row)
    columns = ["shards"]
    for group in SHARD_GROUPS:
        columns += [_commits(group), "of one shard"]
    sizes = [
        [Cell(_commits(group)), *(Cell(f"{size:,.0f}") for size in of.values())]
        for group, of in content["bytes"].items()
    ]
    return {
        "logs": [
            Table("Events a second that a log commits", ["commits", "SQLite", "PostgreSQL", "ratio"], rows),
            Table("Events a second of several shards in one PostgreSQL", columns, shards),
            Table(
                "Bytes that an event of 900 bytes adds to PostgreSQL",
                ["commits", *next(iter(content["bytes"].values()))],
                sizes,
            ),
        ]
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("logs", __doc__, pages=["docs/cluster.md"])
    parser.add_argument(
        "--url", default=os.environ.get("BNP_STORE"), help="database (postgresql://…; default: BNP_STORE)"
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each repeat")
    parser.add_argument("--repeats", type=int, default=5, help="of which the median is taken")
    arguments = parser.parse_args(argv)
    if arguments.url is None and arguments.read is None:
        parser.error("give the URL of a database: --url postgresql://…")
    run("logs", arguments, measure, blocks)
