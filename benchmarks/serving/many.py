"""Many small models in one server: samples a second and processor time of a sample, against a checkout.

All servers run at the same time and get requests in turns, over loopback. Each sample is for another model
than the one before, and so is each line of a request. A stream is one long request. Needs wrk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import ROOT, Cell, Table
from . import wrk
from .client import Connection
from .server import Served, processor_time, serve
from .wrk import Load, Result

HERE, OTHER = "this version", "other checkout"
HIDDEN = [16]
SPECS: dict[str, dict[str, Any]] = {
    "one member": {"hidden": HIDDEN, "lr": 0.1},
    "replay=0": {"hidden": HIDDEN, "replay": 0},
    "default": {"hidden": HIDDEN},
}
FEATURES = 8
#: Samples of each model in the file, and how often it is sent before the measurement.
SAMPLES, WARM_UP = 40, 1
#: By name: connections, and lines of a request (1: one sample, as JSON; 0: the whole file).
KINDS = {"stream": (1, 0), "lines": (4, 250), "JSON": (16, 1)}


def write_lines(path: Path, models: int) -> None:
    """Write learnable samples, one for each model in random order, then the next ones."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for _ in range(SAMPLES):
            for model in rng.permutation(models).tolist():
                row = rng.normal(size=FEATURES).round(4)
                x = {f"f{i}": value for i, value in enumerate(row.tolist())}
                sample = {"model": f"m{model}", "x": x, "y": "yes" if row[0] > row[1] else "no"}
                file.write(json.dumps(sample, separators=(",", ":")) + "\n")


async def create(served: Served, spec: dict[str, Any], models: int) -> None:
    """Create models."""
    connection = Connection("127.0.0.1", served.port)
    for i in range(models):
        status, answer = await connection.post("/models", json.dumps({**spec, "name": f"m{i}"}).encode())
        if status != 201:
            raise RuntimeError(f"a model was not created: {answer!r}")
    await connection.close()


@contextmanager
def all_sides(checkouts: dict[str, Path], spec: dict[str, Any], models: int) -> Iterator[dict[str, Served]]:
    """Run a server of each checkout, with the models."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        sides = {}
        for i, (side, checkout) in enumerate(checkouts.items()):
            (data := Path(name) / f"data{i}").mkdir()
            sides[side] = stack.enter_context(serve(data, checkout=checkout, BNP_MAX_MODELS=str(models + 1)))
            asyncio.run(create(sides[side], spec, models))
        yield sides


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the medians by model, kind of request and version."""
    wrk.require()
    checkouts = {HERE: ROOT}
    checkouts |= {str(each): each.resolve() for each in arguments.against}
    if len(arguments.against) == 1:
        checkouts = {HERE: ROOT, OTHER: arguments.against[0].resolve()}
    results = {}
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as bar:
        write_lines(lines := Path(folder) / "lines.ndjson", arguments.models)
        loads = {
            kind: Load("/learn", lines, connections, arguments.seconds, min(count, arguments.models))
            for kind, (connections, count) in KINDS.items()
            if kind in arguments.kinds
        }
        for name in arguments.specs:
            task = bar.add_task(name, total=arguments.repeats)
            found: defaultdict[str, defaultdict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
            with all_sides(checkouts, SPECS[name], arguments.models) as sides:
                for served in sides.values():
                    warm(served, lines)
                for _ in range(arguments.repeats):
                    for kind, load in loads.items():
                        for side, served in sides.items():
                            result = wrk.measure(served, load) if load.lines else send(served, lines)
                            found[kind][side].append(result)
                    bar.advance(task)
            results[name] = medians(found)
    return {"models": arguments.models, "repeats": arguments.repeats, "results": results}


def warm(served: Served, lines: Path) -> None:
    """Let all models learn some samples."""
    for _ in range(WARM_UP):
        send(served, lines)


def send(served: Served, lines: Path) -> Result:
    """Send a file as one stream; return the rate, and the processor time of the server."""
    body, process = lines.read_bytes(), served.server.process.pid
    before, begun, start = processor_time(process), processor_time(process, process), time.perf_counter()

    async def post() -> bytes:
        connection = Connection("127.0.0.1", served.port)
        _, answer = await connection.post("/learn", body, "application/x-ndjson")
        await connection.close()
        return answer

    answer = asyncio.run(post())
    if b'"error"' in answer:
        raise RuntimeError(f"a line was not learned: {answer[:200]!r}")
    count, seconds = answer.count(b"\n"), time.perf_counter() - start
    loop = (processor_time(process, process) - begun) / count * 1e6
    return Result(count / seconds, 0.0, 0.0, 0.0, (processor_time(process) - before) / count * 1e6, loop)


def medians(results: dict[str, Any]) -> dict[str, Any]:
    """Return the median of each figure over the repeats."""
    return {
        kind: {
            side: {
                figure: round(statistics.median(asdict(each)[figure] for each in some), 1)
                for figure in ("rate", "processor", "loop", "p50")
            }
            for side, some in by_side.items()
        }
        for kind, by_side in results.items()
    }


def blocks(content: Content) -> Blocks:
    """Return a row for each model, kind of request and version."""
    rows = []
    for name, by_kind in content["results"].items():
        for kind, by_side in by_kind.items():
            for side, of in by_side.items():
                figures = [f"{of['rate']:,.0f}", f"{of['processor']:.0f}", f"{of['loop']:.0f}"]
                rows.append([Cell(f"{name}, {kind}, {side}"), *map(Cell, figures)])
    columns = ["", "samples a second", "processor time of a sample, µs", "of it the event loop"]
    return {"many": [Table(f"{content['models']:,} models in one server", columns, rows)]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("many", __doc__)
    parser.add_argument("--specs", nargs="+", choices=SPECS, default=list(SPECS))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--models", type=int, default=1000, help="number of models")
    parser.add_argument("--repeats", type=int, default=5, help="of which the median is taken")
    parser.add_argument("--seconds", type=int, default=2, help="duration of each")
    parser.add_argument(
        "--against", type=Path, nargs="*", default=[], metavar="CHECKOUT", help="checkouts to compare with"
    )
    run("many", parser.parse_args(argv), measure, blocks)
