"""Models on demand: memory, start and disk with 500 models and with 5,000, of which 500 are in memory.

One server gets the first models, is stopped and started, and gets the others. Then samples are sent to random
models, one at a time: to models in memory, and to others, which are loaded first.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from ..common.program import Blocks, Content, arguments_of, run
from ..common.report import ROOT, Cell, Table
from .client import Connection
from .models import SPECS, Side, body_of
from .staleness import marks

_KINDS = {"memory": "in memory", "stored": "not in memory"}


def size_of(folder: Path) -> dict[str, int]:
    """Return the bytes of the log and of the checkpoints in a data folder."""
    sizes = {"log": 0, "checkpoints": 0}
    for path in folder.rglob("*"):
        if path.is_file():
            inside = path.relative_to(folder).parts[0]
            sizes["checkpoints" if inside == "checkpoints" else "log"] += path.stat().st_size
    return sizes


def _at_rest(side: Side, seconds: float) -> dict[str, float]:
    """Stop and start a server; return its memory before and after, its times, and its bytes on the disk.

    Then it gets no request for some seconds, and the share of a core that it takes is measured.
    """
    used, stop = side.memory(), side.stop()
    disk, start = size_of(side.folder), side.start()
    memory, before = side.memory(), side.processor_time()
    time.sleep(seconds)
    idle = (side.processor_time() - before) / seconds
    return {"used": used, "stop": stop, "start": start, "started": memory, "idle": idle, **disk}


async def _latencies(side: Side, limit: int, requests: int, progress: Progress) -> dict[str, list[float]]:
    """Return the milliseconds of learning a sample of a model in memory, and of one that is not.

    The last models are used first, so that they are in memory; a model that is used becomes the last.
    """
    rng, connection = random.Random(0), Connection("127.0.0.1", side.port)  # noqa: S311
    used = [*range(side.count)]
    found: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    for model in used[-limit:]:
        await _learn(connection, model)
    task = progress.add_task("learning", total=requests)
    for number in range(requests):
        for kind, times in found.items():
            stored = kind == "stored"
            # Models near the limit may be on their way from memory.
            at = rng.randrange(0, side.count - 2 * limit) if stored else -rng.randrange(1, limit // 2 + 1)
            model = used.pop(at)
            used.append(model)
            begun = time.perf_counter()
            await _learn(connection, model, number)
            times.append(1000 * (time.perf_counter() - begun))
        progress.advance(task)
    await connection.close()
    return found


async def _learn(connection: Connection, model: int, number: int = 0) -> None:
    status, answer = await connection.post("/learn", body_of(number, model))
    if status != 200:
        raise RuntimeError(f"a sample was not learned: {answer!r}")


def measure(arguments: argparse.Namespace, console: Console) -> Content:
    """Return the figures with as many models as fit into memory and with all, and the latencies."""
    limit, spec = arguments.in_memory, SPECS[arguments.spec]
    settings = {"BNP_MODELS_IN_MEMORY": str(limit), "BNP_MAX_MODELS": str(arguments.models + 1)}
    sizes: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder, Progress(console=console) as progress:
        side = Side(ROOT, Path(folder), 0, spec, settings)
        task = progress.add_task("models", total=arguments.models)
        try:
            side.start()
            for count in (limit, arguments.models):
                first, side.count = side.count, count
                for start in range(first, count, 100):
                    side.count = min(start + 100, count)
                    asyncio.run(side.create(start))
                    asyncio.run(side.fill(arguments.filled, start))
                    progress.update(task, completed=side.count)
                sizes[str(count)] = _at_rest(side, arguments.idle)
            times = asyncio.run(_latencies(side, limit, arguments.requests, progress))
        finally:
            side.stop(kill=True)
    return {
        "models": arguments.models,
        "in_memory": limit,
        "filled": arguments.filled,
        "spec": spec,
        "sizes": sizes,
        "idle": _of_one(sizes),
        "latency": {kind: marks(each) for kind, each in times.items()},
        "mean": {kind: round(statistics.fmean(each), 2) for kind, each in times.items()},
    }


def _of_one(sizes: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the bytes that a model beyond those in memory takes."""
    (few, less), (many, more) = sizes.items()
    return {
        name: round((more[name] - less[name]) / (int(many) - int(few)), 1)
        for name in ("used", "started", "log", "checkpoints")
    }


def blocks(content: Content) -> Blocks:
    """Return the sizes, the latencies, and a paragraph on one model."""
    sizes, mega = content["sizes"], 1e6
    figures = [
        ("memory after all models learned, MB", "used", mega, 0),
        ("memory after a start, MB", "started", mega, 0),
        ("start, s", "start", 1.0, 2),
        ("stop, s", "stop", 1.0, 2),
        ("processor without requests, % of a core", "idle", 0.01, 2),
        ("log, MB", "log", mega, 1),
        ("checkpoints, MB", "checkpoints", mega, 1),
    ]
    rows = [
        [Cell(text), *(Cell(f"{of[name] / unit:,.{digits}f}") for of in sizes.values())]
        for text, name, unit, digits in figures
    ]
    header = ["", *(f"{int(count):,} models" for count in sizes)]
    times = [
        [Cell(text), *(Cell(f"{content['latency'][kind][mark]:,.1f}") for mark in ("p50", "p99", "max"))]
        for kind, text in _KINDS.items()
    ]
    idle = content["idle"]
    text = (
        f"A model that is not in memory takes {idle['log']:,.0f} bytes of the log with its "
        f"{content['filled']} samples, {idle['checkpoints']:,.0f} bytes of checkpoints, and "
        f"{idle['started']:,.0f} bytes of memory."
    )
    title = f"At most {content['in_memory']} models in memory ({content['filled']} samples of each model)"
    return {
        "on_demand": [
            Table(title, header, rows),
            text,
            Table("Time of learning a sample, ms", ["model", "p50", "p99", "max"], times),
        ]
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = arguments_of("on_demand", __doc__, pages=["docs/cluster.md"])
    parser.add_argument("--models", type=int, default=5000, help="number of models (default: 5,000)")
    parser.add_argument("--in-memory", type=int, default=500, help="models in memory (default: 500)")
    parser.add_argument("--filled", type=int, default=20, help="samples of each model (default: 20)")
    parser.add_argument("--requests", type=int, default=1000, help="samples of each kind (default: 1,000)")
    parser.add_argument("--idle", type=float, default=10.0, help="seconds without requests (default: 10)")
    parser.add_argument("--spec", choices=SPECS, default="small", help="specification (default: small)")
    arguments = parser.parse_args(argv)
    if arguments.models <= 2 * arguments.in_memory:
        parser.error("--models must be more than twice --in-memory")
    run("on_demand", arguments, measure, blocks)
