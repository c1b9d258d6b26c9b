"""Owners, servers of PostgreSQL, disks and networks for a rate of samples, from the results of record.

The figures of one owner and of one PostgreSQL are those of ``python -m benchmarks http`` and ``logs``, on a
machine with two cores that the clients use too. All are planned to be 60% busy.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..common.program import Blocks, publish
from ..common.report import ROOT, Cell, Table

RESULTS = ROOT / "docs" / "benchmarks"
RATES = (1_000, 10_000, 100_000, 1_000_000)
#: Share of a measured rate that is planned for.
BUSY = 0.6
#: Events of a commit: what a busy owner reaches.
GROUP = 256
#: Bytes of the JSON of a sample with 64 features, and of its event.
_JSON, _EVENT = 870, 900
_GIGA, _MEGA = 1e9, 1e6


def figures(results: Path = RESULTS) -> dict[str, float]:
    """Return the measured rates and sizes."""
    http = json.loads((results / "http.json").read_text(encoding="utf-8"))["results"]["full"]
    logs = json.loads((results / "logs.json").read_text(encoding="utf-8"))
    commits, shards = logs["rates"][str(GROUP)], logs["rates"][f"shards, {GROUP}"]
    sizes = logs["bytes"][str(GROUP)]
    return {
        "lines": http["lines"]["default"]["rate"],
        "ratio": commits["postgres"] / commits["sqlite"],
        "predict": http["/predict 64"]["default"]["rate"],
        "events": max(shards.values()),
        "log": sizes["write-ahead log"],
        "tables": sizes["tables and indexes"],
    }


def plan(rate: float, of: dict[str, float]) -> dict[str, str]:
    """Return what a rate of samples per second needs, by resource."""
    learned = of["lines"] * min(of["ratio"], 1.0)
    return {
        "owners": f"{math.ceil(rate / (BUSY * learned)):,}",
        "servers of PostgreSQL": f"{math.ceil(rate / (BUSY * of['events'])):,}",
        "commits a second": f"{rate / GROUP:,.0f}",
        "write-ahead log, MB/s": f"{rate * of['log'] / _MEGA:,.1f}",
        "new rows, GB a day": f"{rate * of['tables'] * 86_400 / _GIGA:,.0f}",
        "clients to owners, MB/s": f"{rate * _JSON / _MEGA:,.1f}",
        "owners to PostgreSQL, and PostgreSQL to each standby, MB/s": f"{rate * _EVENT / _MEGA:,.1f}",
        "nodes for as many predictions": f"{math.ceil(rate / (BUSY * of['predict'])):,}",
    }


def blocks(of: dict[str, float]) -> Blocks:
    """Return the measured figures in a paragraph, and a row for each resource."""
    plans = [plan(rate, of) for rate in RATES]
    rows = [[Cell(name), *(Cell(each[name]) for each in plans)] for name in plans[0]]
    text = (
        f"One owner learns {of['lines']:,.0f} lines a second with SQLite, and a log in PostgreSQL "
        f"commits {of['ratio']:.2f} times as many events a second as SQLite. One PostgreSQL commits "
        f"{of['events']:,.0f} events a second of all shards. An event adds {of['log']:,.0f} bytes to its "
        f"write-ahead log and {of['tables']:,.0f} to its tables. One node answers {of['predict']:,.0f} "
        f"predictions a second. The plan uses {100 * BUSY:.0f}% of each rate."
    )
    columns = ["needed for samples a second", *(f"{rate:,}" for rate in RATES)]
    return {"capacity": [text, Table("Machines as the measured one, on paper.", columns, rows)]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks capacity", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results of record")
    parser.add_argument("--markdown", type=Path, nargs="+", default=[], metavar="PAGE", help="pages to renew")
    arguments: Any = parser.parse_args(argv)
    arguments.figure, arguments.read = None, arguments.results
    publish(arguments, Console(), blocks(figures(arguments.results)), {})
